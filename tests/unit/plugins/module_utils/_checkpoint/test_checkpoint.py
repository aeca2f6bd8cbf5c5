# SPDX-License-Identifier: GPL-3.0-or-later
"""A checkpoint that is not whole is refused with the file that is wrong; a whole one is described."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.inspect import inspect_checkpoint, parse_config

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 9976576152\n"
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "float16",
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "hidden_size": 5120,
    "vocab_size": 32016,
    "max_position_embeddings": 16384,
}


def safetensors(path: Path, size: int = 64) -> None:
    header = json.dumps({"__metadata__": {}, "w": {"dtype": "F16", "shape": [size // 2], "data_offsets": [0, size]}})
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(size))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    root = tmp_path / "CodeLlama-13b-hf"
    root.mkdir()
    (root / "config.json").write_text(json.dumps(LLAMA))
    (root / "tokenizer.model").write_bytes(bytes(2000))
    shards = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    for shard in shards:
        safetensors(root / shard)
    index = {"weight_map": {f"w{i}": shard for i, shard in enumerate(shards)}}
    (root / "model.safetensors.index.json").write_text(json.dumps(index))
    (root / "pytorch_model-00001-of-00003.bin").write_bytes(bytes(5000))
    return root


def test_a_whole_checkpoint_is_described(checkpoint: Path) -> None:
    found = inspect_checkpoint(checkpoint)
    assert found.family == "llama"
    assert (found.config.heads, found.config.kv_heads, found.config.layers) == (40, 40, 40)
    assert found.config.dtype == "float16"
    assert len(found.weight_files) == 3
    assert found.weight_bytes == sum((checkpoint / name).stat().st_size for name in found.weight_files)
    assert found.total_bytes > found.weight_bytes + 7000
    assert found.has_tokenizer


def test_no_config_json(checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    with pytest.raises(FleetError, match=r"CodeLlama-13b-hf has no config\.json; give the directory"):
        inspect_checkpoint(checkpoint)
    with pytest.raises(FleetError, match="is not a directory"):
        inspect_checkpoint(checkpoint / "absent")


def test_a_missing_shard_is_named(checkpoint: Path) -> None:
    (checkpoint / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FleetError, match=r"lacks model-00002-of-00003\.safetensors, one of 1 missing of the 3 shards"):
        inspect_checkpoint(checkpoint)


@pytest.mark.parametrize("name", ["model-00003-of-00003.safetensors", "tokenizer.model", "config.json"])
def test_a_git_lfs_pointer_is_named(checkpoint: Path, name: str) -> None:
    (checkpoint / name).write_text(POINTER)
    with pytest.raises(FleetError, match=f"{name} is a git-lfs pointer"):
        inspect_checkpoint(checkpoint)


def test_a_truncated_shard_is_named_with_its_figures(checkpoint: Path) -> None:
    path = checkpoint / "model-00001-of-00003.safetensors"
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(FleetError, match=f"has {whole - 10} bytes but its header describes {whole}"):
        inspect_checkpoint(checkpoint)
    path.write_bytes(b"\x01")
    with pytest.raises(FleetError, match="has no safetensors header"):
        inspect_checkpoint(checkpoint)


def test_damaged_json_and_no_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors.index.json").write_text('{"weight_map": {')
    with pytest.raises(FleetError, match=r"index\.json is not JSON"):
        inspect_checkpoint(checkpoint)
    (checkpoint / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(FleetError, match="names no shard"):
        inspect_checkpoint(checkpoint)
    for path in [*checkpoint.glob("*.safetensors"), *checkpoint.glob("*.bin"), *checkpoint.glob("*.index.json")]:
        path.unlink()
    with pytest.raises(FleetError, match="holds no weights"):
        inspect_checkpoint(checkpoint)


def test_old_weight_formats_are_weights_too(checkpoint: Path) -> None:
    for path in [*checkpoint.glob("*.safetensors"), *checkpoint.glob("*.index.json")]:
        path.unlink()
    (checkpoint / "training_args.bin").write_bytes(bytes(5000))
    assert inspect_checkpoint(checkpoint).weight_files == ["pytorch_model-00001-of-00003.bin"]


def test_a_dangling_link_of_a_download_cache_is_named(checkpoint: Path) -> None:
    (checkpoint / "merges.txt").symlink_to(checkpoint / "blobs" / "gone")
    with pytest.raises(FleetError, match=r"merges\.txt cannot be read"):
        inspect_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "llama"),
        ({"architectures": ["MistralForCausalLM"]}, "mistral"),
        ({"architectures": ["MixtralForCausalLM"]}, "mixtral"),
        ({"architectures": ["Qwen2ForCausalLM"]}, "qwen2"),
        ({"architectures": ["BaichuanForCausalLM"]}, "baichuan"),
        ({"architectures": ["GPT2LMHeadModel"]}, "gpt2"),
        ({"architectures": ["PhiForCausalLM"]}, "phi"),
        ({"architectures": ["GemmaForCausalLM"]}, "gemma"),
        ({"architectures": ["FalconForCausalLM"]}, "falcon"),
        ({"model_type": "mixtral"}, "mixtral"),
        ({"architectures": ["T5ForConditionalGeneration"]}, None),
    ],
)
def test_the_family_is_read_from_config_json(config: dict[str, Any], family: str | None) -> None:
    assert parse_config(config).family == family


@pytest.mark.parametrize(
    ("vocabulary", "width", "version"),
    [(64000, 4096, "v1_7b"), (64000, 5120, "v1_13b"), (125696, 4096, "v2_7b"), (125696, 5120, "v2_13b")],
)
def test_baichuan_generations_are_told_apart(vocabulary: int, width: int, version: str) -> None:
    config = {"architectures": ["BaichuanForCausalLM"], "vocab_size": vocabulary, "hidden_size": width}
    assert parse_config(config).baichuan_version == version


def test_families_name_the_same_figures_differently() -> None:
    gpt2 = parse_config({"architectures": ["GPT2LMHeadModel"], "n_layer": 24, "n_head": 16, "n_embd": 1024})
    assert (gpt2.layers, gpt2.heads, gpt2.kv_heads, gpt2.hidden_size) == (24, 16, 16, 1024)
    falcon = parse_config({"model_type": "falcon", "num_attention_heads": 71, "multi_query": True})
    assert falcon.kv_heads == 1


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "chat_template.jinja", "tokenizer.model"])
def test_a_file_that_would_fill_the_memory_is_refused_unread(checkpoint: Path, name: str) -> None:
    with open(checkpoint / name, "ab") as file:
        file.truncate(1 << 30)
    with pytest.raises(FleetError, match=rf"{name} has 1\.0 GiB, and hosts and gateways .* at most 256\.0 MiB"):
        inspect_checkpoint(checkpoint)
