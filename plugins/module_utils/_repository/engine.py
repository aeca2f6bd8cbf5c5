# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a model repository has to agree on with the engine it serves, read from the engine's own config.json."""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._artifact.artifact_store import ArtifactStore
from .._artifact.fingerprint import fingerprint
from .._base.errors import FleetError
from .._checkpoint.tokenizer import read_json
from .._release.releases import FLOW_BUILD_PY, Release, same_release

# TensorRT-LLM's word for the element type -> bytes.
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float": 4, "half": 2, "fp8": 1, "int8": 1}
MOST = 2**31 - 1  # upstream's numbers have 32 bits
# The numbers that bound what the repository may say: the least that an engine can have, and where config.json has
# it, with the builder of 0.8 and newer first and build.py last. One that is there and out of bounds is refused.
_BOUNDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "world_size": (1, ("pretrained_config.mapping.world_size",)),
    "tp_size": (1, ("pretrained_config.mapping.tp_size", "builder_config.tensor_parallel")),
    "pp_size": (1, ("pretrained_config.mapping.pp_size", "builder_config.pipeline_parallel")),
    "max_batch_size": (1, ("build_config.max_batch_size", "builder_config.max_batch_size")),
    "max_input_len": (1, ("build_config.max_input_len", "builder_config.max_input_len")),
    "max_output_len": (0, ("build_config.max_output_len", "builder_config.max_output_len")),
    "max_seq_len": (1, ("build_config.max_seq_len", "builder_config.max_seq_len")),
    "max_beam_width": (1, ("build_config.max_beam_width", "builder_config.max_beam_width")),
    "tokens_per_block": (1, ("build_config.plugin_config.tokens_per_block", "plugin_config.tokens_per_block")),
}
# The model's own shape, for estimates: what is not a number there, a list for each layer for one, says nothing.
_SHAPE: dict[str, tuple[str, ...]] = {
    "vocab_size": ("pretrained_config.vocab_size", "builder_config.vocab_size"),
    "layers": ("pretrained_config.num_hidden_layers", "builder_config.num_layers"),
    "heads": ("pretrained_config.num_attention_heads", "builder_config.num_heads"),
    "kv_heads": ("pretrained_config.num_key_value_heads", "builder_config.num_kv_heads"),
    "hidden": ("pretrained_config.hidden_size", "builder_config.hidden_size"),
    "head_size": ("pretrained_config.head_size", "builder_config.head_size"),
}
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+-]*")


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

    def __init__(self, path: str, content: Mapping[str, Any]) -> None:
        self.path, self.content = path, content
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

    def number(self, name: str) -> int | None:
        """A number of `_BOUNDS`; raises where it is none, or out of bounds."""
        least, paths = _BOUNDS[name]
        value: int | None = self.get(name, *paths)
        if value is None or (_is_whole(value) and least <= value <= MOST):
            return value
        raise FleetError(
            f"{self.path} says {self.sources[name]} is {reprlib.repr(value)}, which no engine has: it takes a whole "
            f"number from {least} to {MOST}; build the engine again."
        )

    def shape(self, name: str) -> int | None:
        """A number of `_SHAPE`, None where there is none above 0."""
        value = self.get(name, *_SHAPE[name])
        return value if _is_whole(value) and 0 < value <= MOST else None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def engine_directory(directory: str) -> str:
    """The engine's own directory: *directory*, or the decoder of the pair of encoder and decoder in it."""
    decoder = os.path.join(directory, "decoder")
    if not os.path.exists(os.path.join(directory, "config.json")) and os.path.isdir(decoder):
        return decoder
    return directory


def read_engine(directory: str) -> Engine:
    """Read the engine in *directory*, of the builder of 0.8 and newer or of a 0.7 build.py.

    Raises `FleetError` where it is missing or incomplete. No engine file is opened.
    """
    if not os.path.isdir(directory):
        raise FleetError(f"The engine's directory {directory} does not exist; build the engine first.")
    config = _Config(os.path.join(directory, "config.json"), _read_config(directory))
    world_size = _world_size(config)
    shards = _shards(directory, world_size)
    return Engine(
        directory=directory,
        version=_version(config),
        world_size=world_size,
        max_batch_size=config.number("max_batch_size"),
        max_input_len=config.number("max_input_len"),
        max_seq_len=_max_seq_len(config),
        max_beam_width=config.number("max_beam_width"),
        tokens_per_block=config.number("tokens_per_block"),
        paged_kv_cache=_paged(config),
        paged_context=_flag(
            config.get(
                "paged_context",
                "build_config.plugin_config.use_paged_context_fmha",
                "plugin_config.use_paged_context_fmha",
            )
        ),
        vocab_size=config.shape("vocab_size"),
        kv_bytes=_kv_bytes(config),
        shard_bytes=max(shards),
        decoder_of_pair=config.get("architecture", "pretrained_config.architecture") == "DecoderModel"
        or bool(config.get("cross_attention", "builder_config.cross_attention")),
        sources=config.sources,
        identity=_identity(directory, config),
    )


def _read_config(directory: str) -> Mapping[str, Any]:
    path = os.path.join(directory, "config.json")
    content = read_json(path)
    if content is None and os.path.exists(path):
        raise FleetError(f"{path} is larger than any engine's configuration; build the engine again.")
    if content is None:
        raise FleetError(f"{directory} holds no config.json, so it is no TensorRT-LLM engine; build the engine first.")
    sections = [name for name in ("build_config", "builder_config") if isinstance(content.get(name), Mapping)]
    if not sections:
        raise FleetError(
            f"{path} has neither build_config nor builder_config, so it does not describe an engine "
            "(a checkpoint's config.json does not); give the directory that the build wrote."
        )
    return content


def _identity(directory: str, config: _Config) -> str:
    """What tells this engine from another: the fingerprint in its manifest, else its configuration's."""
    manifest = read_json(os.path.join(directory, "manifest.json")) or {}
    if manifest.get("fingerprint"):
        return str(manifest["fingerprint"])
    try:
        return fingerprint(config.content)
    except FleetError as error:
        raise FleetError(f"{config.path} does not describe an engine ({error}); build the engine again.") from error


def _version(config: _Config) -> str | None:
    """The version that built the engine; build.py writes none."""
    version = config.get("version", "version")
    if version is None or (isinstance(version, str) and _VERSION.fullmatch(version)):
        return version
    raise FleetError(
        f"{config.path} says version is {reprlib.repr(version)}, which no release of TensorRT-LLM has; build the "
        "engine again."
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
    """The number of ranks; build.py states its factors."""
    stated = config.number("world_size")
    if stated is not None:
        return stated
    ranks = 1
    for name in ("tp_size", "pp_size"):
        ranks *= config.number(name) or 1
    stated_as = [config.sources[name] for name in ("tp_size", "pp_size") if name in config.sources]
    config.sources["world_size"] = " * ".join(stated_as) or "neither world_size nor tp_size"
    return ranks


def _max_seq_len(config: _Config) -> int | None:
    """Prompt and answer together; builds before 0.11 state the two apart."""
    stated = config.number("max_seq_len")
    if stated is not None:
        return stated
    prompt, answer = config.number("max_input_len"), config.number("max_output_len")
    if prompt is None or answer is None:
        return None
    config.sources["max_seq_len"] = f"{config.sources['max_input_len']} + max_output_len"
    return prompt + answer


def _kv_bytes(config: _Config) -> int | None:
    """Bytes of keys and values of one token on one rank: 2 * layers * heads * head size * element size."""
    layers, heads, hidden = config.shape("layers"), config.shape("heads"), config.shape("hidden")
    kv_heads, head_size = config.shape("kv_heads") or heads, config.shape("head_size")
    dtype = str(config.get("dtype", "pretrained_config.dtype", "builder_config.precision"))
    cache = config.get("kv_dtype", "pretrained_config.quantization.kv_cache_quant_algo")
    size = _BYTES.get(str(cache).lower()) if cache else _BYTES.get(dtype)
    if not layers or not heads or not kv_heads or not size or not (head_size or hidden):
        return None
    tensor, pipeline = config.number("tp_size") or 1, config.number("pp_size") or 1
    per_head = head_size or (hidden or 0) // heads
    return 2 * -(-layers // pipeline) * max(1, kv_heads // tensor) * per_head * size


def _shards(directory: str, world_size: int) -> list[int]:
    """Sizes of the ranks' engine files, in bytes; raises where one is missing.

    Those of ranks on other hosts are as the engine's manifest says, so that all of them render the same.
    """
    path = Path(directory)
    store = ArtifactStore(path.parent.parent)
    found = {entry.name: entry.stat().st_size for entry in os.scandir(directory) if entry.is_file()}
    if elsewhere := store.left_out(path):
        held = (store.manifest(path) or {"files": {}})["files"]
        found.update({name: held[name]["size"] for name in elsewhere if name in held})
    sizes: dict[int, int] = {}
    for name, size in found.items():
        match = re.fullmatch(r"(?:.*_)?rank([0-9]+)\.engine", name)
        if match:
            sizes[int(match.group(1))] = size
    missing = next((rank for rank in range(world_size) if rank not in sizes), None)
    if missing is not None:
        raise FleetError(
            f"{directory}/config.json is of an engine with {world_size} rank{'s' * (world_size > 1)}, but "
            f"rank{missing}.engine is missing; build the engine again."
        )
    return [sizes[rank] for rank in range(world_size)]


def check_release(engine: Engine, rel: Release) -> None:
    """Raise where another release than *rel* built the engine: TensorRT refuses such a plan when it loads it."""
    if engine.version is None and rel.flow == FLOW_BUILD_PY:
        return
    if engine.version is not None and same_release(rel, engine.version):
        return
    builder = f"TensorRT-LLM {engine.version} ({engine.source('version')})"
    if engine.version is None:
        builder = "build.py of TensorRT-LLM 0.7 or older, which writes no version into config.json"
    raise FleetError(
        f"The engine {engine.directory} was built by {builder}, but release is {rel.version}; build it again with that "
        "release, or serve it with its own."
    )
