# SPDX-License-Identifier: GPL-3.0-or-later
"""The checkpoint's tokenizer: counts, special tokens, chat template, one BOS and never two."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from openai_gateway.chat import ChatTemplate
from openai_gateway.config import ModelConfig
from openai_gateway.errors import ApiError, ConfigError
from openai_gateway.files import Stamp, stamp

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
FILES = (
    ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json")
    + ("chat_template.jinja",)
)  # fmt: skip
PROBE = "Two words, then more: a1 b2."  # to learn whether tokens decoded one by one add up
SMALL = 2048  # characters that are tokenised faster than a thread is asked to
THREADS = ThreadPoolExecutor(2, "tokenizer")


class CheckpointTokenizer:
    """Everything the gateway needs from a checkpoint directory, read once."""

    def __init__(self, model: ModelConfig) -> None:
        directory, where = model.tokenizer_dir, f"model '{model.name}'"
        self._read_from = model.tokenizer_dir, model.chat_template
        self._stamps = self._look()
        path = directory / "tokenizer.json"
        if not _present(path, where):
            raise ConfigError(
                f"{where}: {directory} has no tokenizer.json, which the gateway needs to count tokens; "
                "point tokenizer_dir at the checkpoint, or save the tokenizer with its fast implementation"
            )
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception for whatever is wrong with the file
            raise ConfigError(f"{where}: {path} is not a tokenizer: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        config = _json(directory / "tokenizer_config.json", where)
        extra = _json(directory / "special_tokens_map.json", where)
        self.special_tokens = {
            key: text for key in SPECIAL_TOKENS if (text := _content(config.get(key, extra.get(key))))
        }
        self.bos = self.special_tokens.get("bos_token")
        self._adds_bos = self._begins_with_bos(PROBE, 1)
        # Some tokenizers put no BOS before a text that has one.
        self._doubles_bos = self._adds_bos and self._begins_with_bos(f"{self.bos}{PROBE}", 2)
        generation = _json(directory / "generation_config.json", where)
        checkpoint = _json(directory / "config.json", where)
        self.end_ids = self._end_ids(generation, checkpoint)
        self.max_positions = _positive(checkpoint.get("max_position_embeddings"))
        source = _template_source(directory, config, model.chat_template, where)
        self.chat = ChatTemplate(source, self.special_tokens, where) if source else None
        with_tools = None if model.chat_template else _named_templates(config).get("tool_use")
        self.chat_with_tools = ChatTemplate(with_tools, self.special_tokens, where) if with_tools else None
        self.concatenative = self._is_concatenative()

    def is_of(self, model: ModelConfig) -> bool:
        """Whether reading *model*'s checkpoint now would make the same."""
        return self._read_from == (model.tokenizer_dir, model.chat_template) and self._stamps == self._look()

    def _look(self) -> list[Stamp | None]:
        directory, template = self._read_from
        return [*(stamp(directory / name) for name in FILES), stamp(template) if template else None]

    def count(self, text: str, *, special: bool = False) -> int:
        """The number of tokens of *text*; with *special* also those the tokenizer adds around it."""
        # The batch call lets other threads run meanwhile; the one for a single text does not.
        return len(self._tokenizer.encode_batch_fast([text], add_special_tokens=special)[0])

    async def count_up_to(self, limit: int, text: str, *, special: bool) -> tuple[int, bool]:
        """The number of tokens of *text*, and whether it is exact.

        A text that is much too long is counted only as far as it takes to know that, so that the work is bounded by
        *limit* and not by what somebody sends. Long texts are counted in a thread.
        """
        if len(text) <= SMALL:
            return self.count(text, special=special), True
        loop = asyncio.get_running_loop()
        begin = text[: 8 * limit]  # characters: a token of text has four on average
        if len(begin) < len(text):
            tokens = await loop.run_in_executor(THREADS, self.count, begin)
            if tokens > limit:
                return tokens, False
        return await loop.run_in_executor(THREADS, lambda: self.count(text, special=special)), True

    def encode(self, text: str) -> list[int]:
        """The tokens of *text*, without any that the tokenizer adds around it."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    async def ids(self, text: str, *, special: bool) -> list[int]:
        """The tokens of *text* without keeping others waiting; *special*: with those around it."""
        if len(text) <= SMALL:
            return list(self._tokenizer.encode(text, add_special_tokens=special).ids)
        encoded = await asyncio.get_running_loop().run_in_executor(
            THREADS, lambda: self._tokenizer.encode_batch_fast([text], add_special_tokens=special)
        )
        return list(encoded[0].ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones included."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def known(self, ids: Sequence[int], param: str) -> Sequence[int]:
        """*ids*; raise 400 where one is no token."""
        unknown = next((i for i in ids if self._tokenizer.id_to_token(i) is None), None)
        if unknown is not None:
            raise ApiError(400, f"'{param}' holds {unknown}, which is no token of this model.", param=param)
        return ids

    def text_of(self, ids: Sequence[int], param: str) -> str:
        """The text that Triton's preprocessing turns into these tokens; raise 400 where there is none."""
        text = self.decode(self.known(ids, param))
        if self.encode(text) != list(ids):
            raise ApiError(
                400,
                f"The tokens in '{param}' are not those of their text, and Triton's entry models take text alone; "
                "send the text.",
                param=param,
            )
        return text

    def split(self, text: str, count: int) -> list[str]:
        """The texts of the *count* tokens that make *text*; where that cannot be told, all is in the first."""
        if count > 1:
            offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
            if len(offsets) == count:
                return [text[begin:end] for begin, end in offsets]
        return [text, *[""] * (count - 1)]

    def token(self, token_id: int) -> str | None:
        """The text of a token."""
        text = self._tokenizer.id_to_token(token_id)
        return None if text is None else str(text)

    def prompt(self, text: str, adds_special_tokens: bool, *, chat: bool) -> str:
        """*text* as Triton's preprocessing must get it so that the model reads exactly one BOS.

        A chat template usually writes BOS itself. Where preprocessing adds it as well
        (*adds_special_tokens*), the leading text of BOS is taken away. A plain prompt gets BOS as the tokenizer
        alone would put it, also where preprocessing adds nothing.
        """
        bos = self.bos
        if bos and self._adds_bos:
            if adds_special_tokens and self._doubles_bos:
                return text.removeprefix(bos)
            if not adds_special_tokens and not chat and not text.startswith(bos):
                return bos + text
        return text

    def template(self, *, tools: bool) -> str:
        """The source of the chat template, of the one for *tools* where there is one."""
        used = self.chat_with_tools if tools and self.chat_with_tools else self.chat
        return used.source if used else ""

    @property
    def thinks(self) -> bool:
        """Whether the model's family marks its thoughts."""
        return self._tokenizer.token_to_id("</think>") is not None

    def render(self, messages: Sequence[Mapping[str, Any]], model: str, **more: Any) -> str:
        """Apply the chat template; *more*: what else it gets."""
        if self.chat is None:
            raise ApiError(
                400,
                f"The model '{model}' has no chat template; use /v1/completions, or give it one in the "
                "gateway's configuration.",
                param="messages",
            )
        template = self.chat_with_tools if more.get("tools") and self.chat_with_tools else self.chat
        return template.render(messages, **more)

    def _begins_with_bos(self, text: str, times: int) -> bool:
        """Whether the tokenizer itself makes *text* begin with that many BOS."""
        if not self.bos:
            return False
        ids = self._tokenizer.encode(text, add_special_tokens=True).ids
        return bool(ids[:times] == [self._tokenizer.token_to_id(self.bos)] * times)

    def _end_ids(self, generation: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> tuple[int, ...]:
        """Every token that ends an answer, the tokenizer's own EOS first."""
        eos = self.special_tokens.get("eos_token")
        found = [self._tokenizer.token_to_id(eos)] if eos else []
        for config in (generation, checkpoint):
            value = config.get("eos_token_id")
            found += value if isinstance(value, list) else [value]
        ids = [i for i in found if isinstance(i, int) and self._tokenizer.id_to_token(i) is not None]
        return tuple(dict.fromkeys(ids))

    def _is_concatenative(self) -> bool:
        """Whether tokens decoded one at a time give the text: SentencePiece's do not, they lose spaces."""
        ids = self._tokenizer.encode(PROBE, add_special_tokens=False).ids
        alone = "".join(self._tokenizer.decode([i]) for i in ids)
        return bool(alone == self._tokenizer.decode(ids))


def _json(path: Path, where: str) -> dict[str, Any]:
    """Read an optional JSON file; absent is empty."""
    if not _present(path, where):
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: cannot read {path}: {error}") from None
    return value if isinstance(value, dict) else {}


def _present(path: Path, where: str) -> bool:
    try:
        return path.is_file()
    except PermissionError:
        raise ConfigError(
            f"{where}: {path} may not be read by user {os.getuid()}, as whom the gateway runs; "
            "let others read the checkpoint, or run the gateway as its owner"
        ) from None


def _content(token: Any) -> str | None:
    """A special token is a text, or an object with its text in ``content``."""
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) and value else None


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _named_templates(config: Mapping[str, Any]) -> dict[str, Any]:
    """The templates of a checkpoint that has several."""
    found = config.get("chat_template")
    several = found if isinstance(found, list) else []
    return {str(t.get("name")): t.get("template") for t in several if isinstance(t, dict)}


def _template_source(directory: Path, config: Mapping[str, Any], override: Path | None, where: str) -> str | None:
    """The chat template: the configured file, chat_template.jinja, or tokenizer_config.json's.

    Of a list of named templates "default" is taken, or the only one.
    """
    path = override or directory / "chat_template.jinja"
    if override or _present(path, where):
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{where}: cannot read the chat template {path}: {error.strerror}") from None
    found = config.get("chat_template")
    if isinstance(found, list):
        named = _named_templates(config)
        found = named.get("default", next(iter(named.values())) if len(named) == 1 else None)
        if found is None:
            raise ConfigError(
                f"{where}: the checkpoint has the chat templates {', '.join(named)} and none is called "
                "'default'; name a file with chat_template"
            )
    return found if isinstance(found, str) else None
