# SPDX-License-Identifier: GPL-3.0-or-later
"""From a checkpoint to an executor that answers: converted and built beside it, as upstream's backend needs neither."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ..build import build
from ..build import parse as parse_build
from ..communicator import join_world
from ..convert import convert
from ..engine import read_engine_config
from ..errors import TrtllmError
from ..executor import Executor, Request, Result
from ..loading import load_model
from ..mapping import Mapping as Ranks
from ..options import CONVERT_OPTIONS
from ..options import parser as convert_parser
from ..parameters import Parameters
from ..sampling import SamplingParams
from .llm_args import LlmArgs


@dataclass
class Answer:
    """What a request became so far: its new text, all its tokens, and why it ended, None while it goes on."""

    text: str
    written: int
    finish_reason: str | None = None
    stop_reason: str | None = None
    error: str | None = None
    tokens: tuple[int, ...] = ()


class Model:
    """A checkpoint that is served."""

    def __init__(self, directory: Path, args: LlmArgs, scratch: Path) -> None:
        """Load it; *scratch* is a directory for what is made of it. Raises TrtllmError."""
        self.tokenizer = Tokenizer.from_file(str(_found(directory, "tokenizer.json")))
        self.settings = _json(directory / "tokenizer_config.json")
        end = self.settings.get("eos_token")
        end = end.get("content") if isinstance(end, dict) else end
        known = self.tokenizer.token_to_id(end) if end else None
        self.end_id = -1 if known is None else known
        engine = _engine(directory, args, scratch)
        parameters = Parameters(
            engine_dir=str(engine),
            policy=args.policy,
            kv_cache_free_fraction=args.kv_cache_fraction,
            max_tokens_in_cache=args.kv_cache_tokens,
            chunked_context=args.chunked_prefill,
        )
        comm = join_world(Ranks.from_config(read_engine_config(engine).pretrained["mapping"]))
        for rank in range(1, comm.size):
            comm.send(parameters, rank)
        model, self.limits, allocator = load_model(parameters, comm, _warn)
        self.executor = Executor(model, comm, self.limits, allocator, _warn)
        self._told = 0
        self._iter_stats = args.iter_perf_stats
        self.disaggregated = args.disaggregated

    @property
    def alive(self) -> bool:
        """Whether the executor still works."""
        return bool(self.executor._thread.is_alive())

    def iterations(self) -> list[dict[str, Any]]:
        """What was done since this was last asked: upstream's statistics of the latest iteration, or nothing."""
        stats = self.executor.stats
        if not self._iter_stats or stats.iteration == self._told:
            return []
        self._told = stats.iteration
        blocks = {
            "maxNumBlocks": stats.blocks_max, "freeNumBlocks": stats.blocks_free, "usedNumBlocks": stats.blocks_used,
            "tokensPerBlock": stats.tokens_per_block,
        }  # fmt: skip
        return [
            {
                "iter": stats.iteration, "numActiveRequests": stats.active, "numQueuedRequests": stats.waiting,
                "maxNumActiveRequests": self.limits.max_batch_size, "kvCacheStats": blocks,
            }
        ]  # fmt: skip

    def encode(self, text: str, special: bool) -> list[int]:
        """The tokens of a prompt."""
        return list(self.tokenizer.encode(text, add_special_tokens=special).ids)

    def submit(
        self, tokens: list[int], body: Mapping[str, Any], deliver: Callable[[Answer], None], begun: Sequence[int] = ()
    ) -> threading.Event:
        """Queue a request; its answers come from the executor's thread. Returns what cancels it. Raises TrtllmError.

        *begun*: tokens of the answer that are there already, which count and are shown as if they came now.
        """
        stop = body.get("stop") or []
        text = _Text(self.tokenizer, [stop] if isinstance(stop, str) else list(stop))
        cancelled = threading.Event()
        limit = body.get("max_tokens")
        most = int(limit) if limit is not None else max(1, self.limits.max_seq_len - len(tokens))
        first = text.feed(list(begun), len(begun) >= most)
        if text.stopped or len(begun) >= most:
            deliver(Answer(first, text.written, "stop" if text.stopped else "length", text.hit))
            return cancelled
        if first:
            deliver(Answer(first, text.written))
        request = Request(
            tokens=[*tokens, *begun],
            max_new_tokens=most - len(begun),
            deliver=lambda result: None,
            sampling=_sampling(body),
            end_id=-1 if body.get("ignore_eos") else self.end_id,
            streaming=True,
            cancelled=lambda: cancelled.is_set() or text.stopped,
        )
        # A sequence that ends an answer ends the work on it at the next step.
        request.deliver = lambda result: _deliver(text, result, most, deliver)
        self.executor.submit(request)
        return cancelled

    def close(self) -> None:
        """End what runs, and the other ranks."""
        self.executor.close()


class _Text:
    """The text of an answer as its tokens come: whole characters only, and nothing from a stop sequence on."""

    def __init__(self, tokenizer: Tokenizer, stop: list[str]) -> None:
        self._tokenizer, self._stop = tokenizer, stop
        self._tokens: list[int] = []
        self._shown = 0
        self.hit: str | None = None

    @property
    def stopped(self) -> bool:
        return self.hit is not None

    @property
    def written(self) -> int:
        return len(self._tokens)

    def feed(self, tokens: list[int], final: bool) -> str:
        """What is new to see."""
        if self.stopped:
            return ""
        self._tokens += tokens
        whole = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
        ends = [(whole.find(word), word) for word in self._stop if word and word in whole]
        if ends:
            at, self.hit = min(ends)
        else:
            at = len(whole) if final else self._settled(whole)
        new, self._shown = whole[self._shown : at], max(at, self._shown)
        return new

    def _settled(self, whole: str) -> int:
        """How much of the text no further token changes or cuts off."""
        end = len(whole.rstrip("\ufffd"))
        for word in self._stop:
            for size in range(min(len(word) - 1, end), 0, -1):
                if whole[:end].endswith(word[:size]):
                    end -= size
                    break
        return max(end, self._shown)


def _deliver(text: _Text, result: Result, most: int, deliver: Callable[[Answer], None]) -> None:
    if text.stopped:
        return
    if result.error or result.cancelled:
        deliver(Answer("", text.written, "cancelled", error=result.error or "the request was cancelled"))
        return
    new = text.feed(result.tokens, result.final)
    reason = None
    if text.stopped:
        reason = "stop"
    elif result.final:
        reason = "length" if text.written >= most else "stop"
    if new or reason:
        deliver(Answer(new, text.written, reason, text.hit, tokens=tuple(result.tokens)))


def _sampling(body: Mapping[str, Any]) -> SamplingParams:
    """As upstream's server samples: by temperature, unless the likeliest token is asked for."""
    names = ("top_k", "repetition_penalty", "presence_penalty", "frequency_penalty", "min_tokens")
    given = {name: body[name] for name in names if body.get(name) is not None}
    seed = body.get("seed")
    return SamplingParams(
        temperature=1.0 if body.get("temperature") is None else float(body["temperature"]),
        top_p=1.0 if body.get("top_p") is None else float(body["top_p"]),
        seed=random.getrandbits(63) if seed is None else int(seed),
        **given,
    )


def _engine(directory: Path, args: LlmArgs, scratch: Path) -> Path:
    converted, built = scratch / "converted", scratch / "engine"
    words = {"model_dir": directory, "output_dir": converted, "tp_size": args.tp_size, "pp_size": args.pp_size}
    words |= {"dtype": args.dtype}
    convert(convert_parser("trtllm-serve", CONVERT_OPTIONS["llama"]).parse_args(_words(words)))
    words = {"checkpoint_dir": converted, "output_dir": built, "max_batch_size": args.max_batch_size}
    words |= {"max_num_tokens": args.max_num_tokens, "tokens_per_block": args.tokens_per_block}
    positions = int(_json(directory / "config.json").get("max_position_embeddings") or 2048)
    longest = args.max_seq_len or positions
    # Upstream knows no limit of its own for a prompt here.
    words |= {"max_seq_len": longest, "max_input_len": args.max_input_len or longest}
    words |= {"gemm_plugin": "auto", "use_paged_context_fmha": "enable"}
    build(parse_build(_words(words)))
    return built


def _words(options: Mapping[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]


def _found(directory: Path, name: str) -> Path:
    if not (directory / name).is_file():
        raise TrtllmError(f"{directory} holds no {name}; give the directory of a Hugging Face checkpoint")
    return directory / name


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _warn(text: str) -> None:
    print(f"[TRT-LLM] [W] {text}", flush=True)
