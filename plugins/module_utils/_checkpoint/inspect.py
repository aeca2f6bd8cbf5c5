# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Hugging Face checkpoint directory holds, and whether it is whole. Only headers are read, no weights."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._base.errors import FleetError
from .._base.sizes import gib

LFS_HEADER = b"version https://git-lfs.github.com/spec/v1"
LFS_POINTER_MAX = 1024  # bytes; a pointer file has about 130
SAFETENSORS_HEADER_MAX = 100 << 20  # bytes; the format's own limit
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# Weight files by suffix, the preferred form first: a repository often carries the same weights twice.
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth")
NOT_WEIGHTS = frozenset({"training_args.bin", "optimizer.bin", "scheduler.bin"})
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "qwen.tiktoken", "spiece.model")
MAX_DEPTH = 2
# Every host and gateway reads these as a whole; the largest tokenizers there are have less than 40 MB.
READ_WHOLE = (".json", ".jinja", ".model", ".tiktoken", ".txt")
READ_WHOLE_MAX = 256 << 20  # bytes

# What config.json names as "architectures" -> the family whose tools convert it.
ARCHITECTURES: dict[str, str] = {
    "LlamaForCausalLM": "llama",
    "LLaMAForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "MixtralForCausalLM": "mixtral",
    "QWenLMHeadModel": "qwen",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen2MoeForCausalLM": "qwen2",
    "BaichuanForCausalLM": "baichuan",
    "BaiChuanForCausalLM": "baichuan",
    "GPT2LMHeadModel": "gpt2",
    "GPTBigCodeForCausalLM": "gpt2",
    "PhiForCausalLM": "phi",
    "Phi3ForCausalLM": "phi3",
    "GemmaForCausalLM": "gemma",
    "Gemma2ForCausalLM": "gemma",
    "FalconForCausalLM": "falcon",
    "RWForCausalLM": "falcon",
}
# The same by "model_type", for a config.json without architectures.
MODEL_TYPES: dict[str, str] = {
    "llama": "llama",
    "mistral": "mistral",
    "mixtral": "mixtral",
    "qwen": "qwen",
    "qwen2": "qwen2",
    "qwen2_moe": "qwen2",
    "baichuan": "baichuan",
    "gpt2": "gpt2",
    "gpt_bigcode": "gpt2",
    "phi": "phi",
    "phi3": "phi3",
    "gemma": "gemma",
    "gemma2": "gemma",
    "falcon": "falcon",
    "RefinedWeb": "falcon",
    "RefinedWebModel": "falcon",
}


@dataclass(frozen=True)
class ModelConfig:
    """The figures of ``config.json`` that matter here; None where the file does not say."""

    family: str | None
    architecture: str
    dtype: str | None
    layers: int | None
    heads: int | None
    kv_heads: int | None
    hidden_size: int | None
    vocab_size: int | None
    max_position_embeddings: int | None
    experts: int | None
    quantization: str | None
    raw: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def baichuan_version(self) -> str | None:
        """``v1_7b`` ... ``v2_13b``, told by the vocabulary (64,000 or 125,696) and the width (4,096 or 5,120)."""
        if self.family != "baichuan" or self.vocab_size is None or self.hidden_size is None:
            return None
        return f"{'v1' if self.vocab_size < 100_000 else 'v2'}_{'7b' if self.hidden_size < 5000 else '13b'}"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is whole: *weight_files* are relative paths, sizes are in bytes."""

    path: Path
    config: ModelConfig
    weight_files: list[str]
    weight_bytes: int
    total_bytes: int
    has_tokenizer: bool

    @property
    def family(self) -> str | None:
        """Family of the model, e.g. ``llama``; None where it is not one that is known here."""
        return self.config.family


def _first_int(config: Mapping[str, Any], *keys: str) -> int | None:
    """The first of *keys* that *config* holds as a whole number; families name the same figure differently."""
    for key in keys:
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _kv_heads(config: Mapping[str, Any], heads: int | None) -> int | None:
    """Key/value heads: given, or one (Falcon's multi-query), or as many as attention heads."""
    given = _first_int(config, "num_key_value_heads", "num_kv_heads", "n_head_kv")
    if given is not None:
        return given
    return 1 if config.get("multi_query") else heads


def _dtype(config: Mapping[str, Any]) -> str | None:
    value = config.get("torch_dtype", config.get("dtype"))
    return value.removeprefix("torch.") if isinstance(value, str) else None


def parse_config(raw: Mapping[str, Any]) -> ModelConfig:
    """The figures of a ``config.json`` that was already read."""
    names = raw.get("architectures") or []
    architecture = str(names[0]) if isinstance(names, list) and names else ""
    quantization = raw.get("quantization_config")
    heads = _first_int(raw, "num_attention_heads", "n_head")
    return ModelConfig(
        family=ARCHITECTURES.get(architecture) or MODEL_TYPES.get(str(raw.get("model_type", ""))),
        architecture=architecture,
        dtype=_dtype(raw),
        layers=_first_int(raw, "num_hidden_layers", "n_layer"),
        heads=heads,
        kv_heads=_kv_heads(raw, heads),
        hidden_size=_first_int(raw, "hidden_size", "n_embd"),
        vocab_size=_first_int(raw, "vocab_size"),
        max_position_embeddings=_first_int(raw, "max_position_embeddings", "n_positions", "model_max_length"),
        experts=_first_int(raw, "num_local_experts", "num_experts"),
        quantization=str(quantization.get("quant_method")) if isinstance(quantization, Mapping) else None,
        raw=dict(raw),
    )


def _refuse_huge(path: Path, size: int) -> None:
    """Raise where a file that is read as a whole is none that a checkpoint has."""
    if size > READ_WHOLE_MAX and path.name.endswith(READ_WHOLE):
        raise FleetError(
            f"{path} has {gib(size)}, and hosts and gateways would read all of it into memory; take a checkpoint whose "
            f"files beside the weights have at most {gib(READ_WHOLE_MAX)} each."
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        _refuse_huge(path, path.stat().st_size)
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise FleetError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise FleetError(f"{path} is not JSON ({error}); download the checkpoint again.") from error
    if not isinstance(value, dict):
        raise FleetError(f"{path} holds no JSON object; download the checkpoint again.")
    return value


def read_config(path: Path) -> ModelConfig:
    """Read ``config.json`` of the checkpoint at *path*; a missing or damaged one raises `FleetError`."""
    if not path.is_dir():
        raise FleetError(f"{path} is not a directory; give the directory of a Hugging Face checkpoint.")
    config = path / "config.json"
    if not config.is_file():
        raise FleetError(f"{path} has no config.json; give the directory of a Hugging Face checkpoint.")
    _refuse_pointer(config)
    return parse_config(_read_json(config))


def _refuse_pointer(path: Path) -> None:
    """Raise where *path* is a git-lfs pointer instead of the file it stands for."""
    if path.stat().st_size > LFS_POINTER_MAX:
        return
    with open(path, "rb") as stream:
        if stream.read(len(LFS_HEADER)) == LFS_HEADER:
            raise FleetError(
                f"{path} is a git-lfs pointer, not the file itself; run 'git lfs pull' in the checkpoint, or "
                "download it again."
            )


def _files(root: Path) -> dict[str, int]:
    """Relative path -> size of the files down to two levels; hidden ones are metadata of download tools."""
    found: dict[str, int] = {}
    for directory, directories, names in os.walk(root, followlinks=True):
        prefix = os.path.relpath(directory, root)
        depth = 0 if prefix == "." else prefix.count(os.sep) + 1
        directories[:] = [] if depth >= MAX_DEPTH else [d for d in directories if not d.startswith(".")]
        for name in names:
            relative = name if prefix == "." else os.path.join(prefix, name)
            try:
                found[relative] = os.stat(os.path.join(directory, name)).st_size
            except OSError as error:
                raise FleetError(
                    f"{os.path.join(directory, name)} cannot be read ({error.strerror}); download it again."
                ) from error
    return found


def _weights(root: Path, files: Mapping[str, int]) -> list[str]:
    """The weight files: those an index names, else those of the preferred suffix. Missing ones raise."""
    for name in INDEXES:
        if name not in files:
            continue
        shards = _read_json(root / name).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise FleetError(f"{root / name} names no shard; download the checkpoint again.")
        wanted = sorted({str(shard) for shard in shards.values()})
        missing = [shard for shard in wanted if shard not in files]
        if missing:
            raise FleetError(
                f"{root} lacks {missing[0]}, one of {len(missing)} missing of the {len(wanted)} shards that "
                f"{name} names; download the checkpoint again."
            )
        return wanted
    for suffix in WEIGHT_SUFFIXES:
        found = sorted(p for p in files if p.endswith(suffix) and os.path.basename(p) not in NOT_WEIGHTS)
        top = [path for path in found if os.sep not in path]
        if top or found:
            return top or found
    raise FleetError(f"{root} holds no weights (*.safetensors, *.bin); download the checkpoint again.")


def _refuse_truncated(path: Path, size: int) -> None:
    """Raise where a safetensors file is shorter or longer than its own header says."""
    with open(path, "rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else SAFETENSORS_HEADER_MAX + 1
        header = stream.read(length) if length <= min(size, SAFETENSORS_HEADER_MAX) else b""
    try:
        tensors = json.loads(header)
        end = max((int(t["data_offsets"][1]) for name, t in tensors.items() if name != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise FleetError(f"{path} has no safetensors header; download it again.") from None
    if size != 8 + length + end:
        raise FleetError(f"{path} has {size:,} bytes but its header describes {8 + length + end:,}; download it again.")


def inspect_checkpoint(path: Path) -> Checkpoint:
    """Look at the checkpoint at *path* and return what it is.

    Raises `FleetError`, naming the file, for: no config.json, a shard that the index names but that is missing,
    a git-lfs pointer in place of a file, a truncated safetensors file, no weights at all.
    """
    config = read_config(path)
    files = _files(path)
    for relative, size in sorted(files.items()):
        if size <= LFS_POINTER_MAX:
            _refuse_pointer(path / relative)
        _refuse_huge(path / relative, size)
    weights = _weights(path, files)
    for relative in weights:
        if relative.endswith(".safetensors"):
            _refuse_truncated(path / relative, files[relative])
    return Checkpoint(
        path=path,
        config=config,
        weight_files=weights,
        weight_bytes=sum(files[relative] for relative in weights),
        total_bytes=sum(files.values()),
        has_tokenizer=any(name in files for name in TOKENIZER_FILES),
    )
