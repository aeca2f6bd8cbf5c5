# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a model repository has to agree on with the engine it serves, read from the engine's own config.json."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._fingerprint import fingerprint
from ansible_collections.trtllm.fleet.plugins.module_utils._release import Release
from ansible_collections.trtllm.fleet.plugins.module_utils._tokenizer import read_json
from ansible_collections.trtllm.fleet.plugins.module_utils._versions import version_key

# TensorRT-LLM's word for the element type -> bytes.
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float": 4, "half": 2, "fp8": 1, "int8": 1}


@dataclass(frozen=True)
class Engine:
    """One engine directory. None stands for "config.json does not say"; *sources* says where a value was found.

    *kv_bytes* is the KV cache of one token on one rank, *shard_bytes* the largest rank's engine, both in bytes.
    """

    directory: str
    identity: str
    version: str | None
    world_size: int
    max_batch_size: int | None
    max_input_len: int | None
    max_seq_len: int | None
    max_beam_width: int | None
    tokens_per_block: int | None
    paged_kv_cache: bool | None
    paged_context: bool | None
    vocab_size: int | None
    kv_bytes: int | None
    shard_bytes: int
    decoder_of_pair: bool
    sources: dict[str, str] = field(default_factory=dict)

    def source(self, name: str) -> str:
        """Where the value of *name* stands."""
        return f"{self.directory}/config.json ({self.sources.get(name, name)})"


class _Config:
    """Look-ups in an engine's config.json by dotted path, remembering which one answered."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self.sources: dict[str, str] = {}

    def get(self, name: str, *paths: str) -> Any:
        """The first of *paths* that has a value."""
        for path in paths:
            value: Any = self.content
            for part in path.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            if value is not None:
                self.sources[name] = path
                return value
        return None

    def number(self, name: str, *paths: str) -> int | None:
        value = self.get(name, *paths)
        return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def read_engine(directory: str) -> Engine:
    """Read the engine in *directory*, of the builder of 0.8 and newer or of a 0.7 build.py.

    Raises `FleetError` where it is missing or incomplete. No engine file is opened.
    """
    path = os.path.join(directory, "config.json")
    if not os.path.isdir(directory):
        raise FleetError(f"The engine's directory {directory} does not exist; build the engine first.")
    content = read_json(path)
    if content is None:
        raise FleetError(f"{directory} holds no config.json, so it is no TensorRT-LLM engine; build the engine first.")
    if "build_config" not in content and "builder_config" not in content:
        raise FleetError(
            f"{path} has neither build_config nor builder_config, so it does not describe an engine "
            "(a checkpoint's config.json does not); give the directory that the build wrote."
        )
    config = _Config(content)
    world_size = _world_size(config)
    shards = _shards(directory, world_size)
    manifest = read_json(os.path.join(directory, "manifest.json")) or {}
    return Engine(
        directory=directory,
        identity=str(manifest.get("fingerprint") or fingerprint(content)),
        version=config.get("version", "version"),
        world_size=world_size,
        max_batch_size=config.number("max_batch_size", "build_config.max_batch_size", "builder_config.max_batch_size"),
        max_input_len=config.number("max_input_len", "build_config.max_input_len", "builder_config.max_input_len"),
        max_seq_len=_max_seq_len(config),
        max_beam_width=config.number("max_beam_width", "build_config.max_beam_width", "builder_config.max_beam_width"),
        tokens_per_block=config.number(
            "tokens_per_block", "build_config.plugin_config.tokens_per_block", "plugin_config.tokens_per_block"
        ),
        paged_kv_cache=_paged(config),
        paged_context=_flag(
            config.get(
                "paged_context",
                "build_config.plugin_config.use_paged_context_fmha",
                "plugin_config.use_paged_context_fmha",
            )
        ),
        vocab_size=config.number("vocab_size", "pretrained_config.vocab_size", "builder_config.vocab_size"),
        kv_bytes=_kv_bytes(config),
        shard_bytes=max(shards),
        decoder_of_pair=config.get("architecture", "pretrained_config.architecture") == "DecoderModel"
        or bool(config.get("cross_attention", "builder_config.cross_attention")),
        sources=config.sources,
    )


def _flag(value: Any) -> bool | None:
    """A switch of the plug-in configuration: a boolean, or the words enable and disable."""
    if isinstance(value, bool):
        return value
    return {"enable": True, "disable": False}.get(str(value).lower()) if value is not None else None


def _paged(config: _Config) -> bool | None:
    """Whether the KV cache is paged, under either of its names."""
    kind = config.get("paged_kv_cache", "build_config.kv_cache_type")
    if isinstance(kind, str):
        return kind.lower().rsplit(".", 1)[-1] == "paged"
    return _flag(
        config.get("paged_kv_cache", "build_config.plugin_config.paged_kv_cache", "plugin_config.paged_kv_cache")
    )


def _world_size(config: _Config) -> int:
    stated = config.number("world_size", "pretrained_config.mapping.world_size")
    if stated is not None:
        return stated
    tensor = config.number("world_size", "pretrained_config.mapping.tp_size", "builder_config.tensor_parallel")
    pipeline = config.number("pp_size", "pretrained_config.mapping.pp_size", "builder_config.pipeline_parallel")
    return (tensor or 1) * (pipeline or 1)


def _max_seq_len(config: _Config) -> int | None:
    """Prompt and answer together; builds before 0.11 state the two apart."""
    stated = config.number("max_seq_len", "build_config.max_seq_len", "builder_config.max_seq_len")
    if stated is not None:
        return stated
    prompt = config.number("max_seq_len", "build_config.max_input_len", "builder_config.max_input_len")
    answer = config.number("max_output_len", "build_config.max_output_len", "builder_config.max_output_len")
    if prompt is None or answer is None:
        return None
    config.sources["max_seq_len"] = f"{config.sources['max_seq_len']} + max_output_len"
    return prompt + answer


def _kv_bytes(config: _Config) -> int | None:
    """Bytes of keys and values of one token on one rank: 2 * layers * heads * head size * element size."""
    layers = config.number("layers", "pretrained_config.num_hidden_layers", "builder_config.num_layers")
    heads = config.number("heads", "pretrained_config.num_attention_heads", "builder_config.num_heads")
    kv_heads = config.number("kv_heads", "pretrained_config.num_key_value_heads", "builder_config.num_kv_heads")
    kv_heads = kv_heads or heads
    hidden = config.number("hidden", "pretrained_config.hidden_size", "builder_config.hidden_size")
    head_size = config.number("head_size", "pretrained_config.head_size", "builder_config.head_size")
    dtype = str(config.get("dtype", "pretrained_config.dtype", "builder_config.precision"))
    cache = config.get("kv_dtype", "pretrained_config.quantization.kv_cache_quant_algo")
    size = _BYTES.get(str(cache).lower()) if cache else _BYTES.get(dtype)
    if not layers or not heads or not kv_heads or not size or not (head_size or hidden):
        return None
    tensor = config.number("tp_size", "pretrained_config.mapping.tp_size", "builder_config.tensor_parallel") or 1
    pipeline = config.number("pp_size", "pretrained_config.mapping.pp_size", "builder_config.pipeline_parallel") or 1
    per_head = head_size or (hidden or 0) // heads
    return 2 * -(-layers // pipeline) * max(1, kv_heads // tensor) * per_head * size


def _shards(directory: str, world_size: int) -> list[int]:
    """Sizes of the ranks' engine files, in bytes; raises where one is missing."""
    sizes: dict[int, int] = {}
    for entry in os.scandir(directory):
        match = re.fullmatch(r"(?:.*_)?rank([0-9]+)\.engine", entry.name)
        if match:
            sizes[int(match.group(1))] = entry.stat().st_size
    missing = [rank for rank in range(world_size) if rank not in sizes]
    if missing:
        raise FleetError(
            f"{directory}/config.json is of an engine with {world_size} rank{'s' * (world_size > 1)}, but "
            f"rank{missing[0]}.engine is missing; build the engine again."
        )
    return [sizes[rank] for rank in range(world_size)]


def check_release(engine: Engine, rel: Release) -> None:
    """Raise where another release than *rel* built the engine: TensorRT refuses such a plan when it loads it."""
    if engine.version is None or not version_key(str(engine.version)):
        return  # build.py of 0.7 and older writes no version
    if version_key(str(engine.version))[:3] != rel.key[:3]:
        raise FleetError(
            f"The engine {engine.directory} was built by TensorRT-LLM {engine.version} ({engine.source('version')}), "
            f"but release is {rel.version}; build it again with that release, or serve it with its own."
        )
