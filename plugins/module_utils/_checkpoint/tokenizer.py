# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a model repository needs to know of a checkpoint's tokenizer, without reading the tokenizer itself.

Only the small files are read (tokenizer_config.json, special_tokens_map.json, generation_config.json, config.json),
never tokenizer.json or a vocabulary.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .._base.errors import FleetError

MAX_JSON = 1 << 20  # bytes; what is larger is not read
_ID = re.compile(r"[0-9]{1,9}")
VOCABULARIES = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt",
)  # fmt: skip
VOCABULARY_SUFFIXES = (".model", ".tiktoken", ".spm")

# Tokenizers whose pieces carry the space before a word: one piece decoded alone loses it.
SENTENCEPIECE_CLASSES = frozenset([
    "Albert", "Baichuan", "Barthez", "BigBird", "Camembert", "ChatGLM", "CodeLlama", "DebertaV2", "Gemma", "InternLM",
    "InternLM2", "Llama", "M2M100", "MBart", "MBart50", "MT5", "Marian", "Nllb", "Orion", "Pegasus", "Reformer",
    "Rembert", "Speech2Text", "T5", "XLMRoberta", "XLNet", "Yi",
])  # fmt: skip
BYTE_LEVEL_CLASSES = frozenset([
    "Bart", "Bloom", "CodeGen", "Cohere", "DeepseekV2", "Falcon", "GPT2", "GPTNeoX", "GPTNeoXJapanese", "Phi", "Qwen",
    "Qwen2", "Roberta", "Whisper",
])  # fmt: skip


@dataclass(frozen=True)
class Tokenizer:
    """*end_id* and *pad_id* with where they came from; *stop_ids* are all ids that end a generation."""

    directory: str
    sentencepiece: bool
    sentencepiece_source: str
    end_id: int | None
    end_source: str
    pad_id: int | None
    pad_source: str
    stop_ids: tuple[int, ...]
    vocab_size: int | None


def read_json(path: str) -> dict[str, Any] | None:
    """The mapping in a small JSON file; None where the file is absent or too large to be read."""
    try:
        if os.stat(path).st_size > MAX_JSON:
            return None
        with open(path, encoding="utf-8") as stream:
            value = json.load(stream)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise FleetError(f"{path} cannot be read as JSON ({error}); repair it or make it again.") from error
    if not isinstance(value, dict):
        raise FleetError(f"{path} holds no JSON object; repair it or make it again.")
    return value


def read_tokenizer(directory: str) -> Tokenizer:
    """Look at the tokenizer in *directory*; raises `FleetError` where there is none."""
    if not os.path.isdir(directory):
        raise FleetError(
            f"The tokenizer's directory {directory} does not exist; bring the checkpoint onto the host first."
        )
    names = sorted(os.listdir(directory))
    if not any(name in VOCABULARIES or name.endswith(VOCABULARY_SUFFIXES) for name in names):
        raise FleetError(
            f"{directory} holds no tokenizer; expected one of {', '.join(VOCABULARIES)} or a *.tiktoken file, as a "
            "Hugging Face checkpoint has them."
        )
    config = read_json(os.path.join(directory, "tokenizer_config.json")) or {}
    special = read_json(os.path.join(directory, "special_tokens_map.json")) or {}
    model = read_json(os.path.join(directory, "config.json")) or {}
    generation = read_json(os.path.join(directory, "generation_config.json")) or {}
    ids = _token_ids(config, read_json(os.path.join(directory, "added_tokens.json")) or {})
    sentencepiece, why = _sentencepiece(config, names)
    end_id, end_source = _token("eos", config, special, ids, model, generation)
    pad_id, pad_source = _token("pad", config, special, ids, model, generation)
    if pad_id is None and end_id is not None:
        pad_id, pad_source = end_id, f"{end_source}, as there is no pad token"
    stops = _numbers(generation.get("eos_token_id")) or _numbers(model.get("eos_token_id"))
    text = model.get("text_config") if isinstance(model.get("text_config"), Mapping) else {}
    vocab = model.get("vocab_size", text.get("vocab_size") if text else None)
    return Tokenizer(
        directory, sentencepiece, why, end_id, end_source, pad_id, pad_source,
        tuple(dict.fromkeys([*([end_id] if end_id is not None else []), *stops])),
        vocab if isinstance(vocab, int) else None,
    )  # fmt: skip


def _sentencepiece(config: Mapping[str, Any], names: Iterable[str]) -> tuple[bool, str]:
    """Whether its pieces carry spaces, and what says so."""
    cls = str(config.get("tokenizer_class") or "")
    base = cls[: -len("Fast")] if cls.endswith("Fast") else cls
    base = base[: -len("Tokenizer")] if base.endswith("Tokenizer") else base
    if base in SENTENCEPIECE_CLASSES:
        return True, f"tokenizer_config.json (tokenizer_class {cls})"
    if base in BYTE_LEVEL_CLASSES:
        return False, f"tokenizer_config.json (tokenizer_class {cls})"
    model = next((name for name in names if name.endswith(".model")), None)
    if model is not None:
        return True, f"the file {model}"
    return False, f"tokenizer_config.json (tokenizer_class {cls})" if cls else "the lack of a SentencePiece model"


def _token_ids(config: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, int]:
    """Text -> id of the added tokens, from either place that keeps them."""
    ids = {str(text): number for text, number in added.items() if isinstance(number, int)}
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, Mapping):
        for number, token in decoder.items():
            if _ID.fullmatch(str(number)):
                ids[str(token.get("content") if isinstance(token, Mapping) else token)] = int(number)
    return ids


def _token(
    kind: str, config: Mapping[str, Any], special: Mapping[str, Any], ids: Mapping[str, int],
    model: Mapping[str, Any], generation: Mapping[str, Any],
) -> tuple[int | None, str]:  # fmt: skip
    """The id of the end or pad token: the tokenizer's own word first, then the model's."""
    for name, source in (("tokenizer_config.json", config), ("special_tokens_map.json", special)):
        token = source.get(f"{kind}_token")
        text = token.get("content") if isinstance(token, Mapping) else token
        if isinstance(text, str) and text in ids:
            return ids[text], f"{name} ({kind}_token {text})"
    for name, source in (("generation_config.json", generation), ("config.json", model)):
        numbers = _numbers(source.get(f"{kind}_token_id"))
        if numbers:
            return numbers[0], f"{name} ({kind}_token_id)"
    return None, "nowhere"


def _numbers(value: Any) -> list[int]:
    """A number or a list of numbers, as eos_token_id is either; negative ones mean none."""
    values = value if isinstance(value, list) else [value]
    return [number for number in values if isinstance(number, int) and not isinstance(number, bool) and number >= 0]
