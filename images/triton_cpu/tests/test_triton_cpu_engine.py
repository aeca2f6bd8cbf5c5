# SPDX-License-Identifier: GPL-3.0-or-later
"""The CPU image's files: what is written is read back, what was made for something else is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tensorrt_llm import device, safetensors_file
from tensorrt_llm.checkpoint import HuggingFaceWeights
from tensorrt_llm.config import from_hugging_face
from tensorrt_llm.device import TENSORRT_VERSION, Device
from tensorrt_llm.engine import check_header, read_engine, read_header, write_engine
from tensorrt_llm.errors import TrtllmError
from tensorrt_llm.safetensors_file import SafetensorsFile, Tensor, from_float32
from triton_cpu_fakes import checkpoint, golden_llama, make_engine

HERE = Device("NVIDIA H200", "9.0")
WEIGHTS = {"a": Tensor("F32", np.arange(6, dtype=np.float32).reshape(2, 3)), "b": Tensor("U8", np.zeros(3, np.uint8))}


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    write_engine(tmp_path / "rank0.engine", WEIGHTS, rank=0, device=HERE)
    return tmp_path / "rank0.engine"


def test_an_engine_is_read_back(engine: Path) -> None:
    weights, warning = read_engine(engine, HERE)
    assert warning is None
    assert {name: tensor.data.tolist() for name, tensor in weights.items()} == {
        "a": [[0, 1, 2], [3, 4, 5]], "b": [0, 0, 0]
    }  # fmt: skip
    header, _ = read_header(engine)
    assert (header.tensorrt_version, header.device_name, header.rank) == (TENSORRT_VERSION, "NVIDIA H200", 0)


def test_an_engine_of_another_tensorrt_is_refused_in_its_words(tmp_path: Path) -> None:
    write_engine(tmp_path / "e", WEIGHTS, rank=0, device=HERE, tensorrt_version="10.11.0.33")
    with pytest.raises(TrtllmError) as e:
        read_engine(tmp_path / "e", HERE)
    assert str(e.value) == (
        "The engine plan file is not compatible with this version of TensorRT, expecting library version 10.14.1.48 got"
        " 10.11.0.33, please rebuild\nAssertion failed: Failed to deserialize cuda engine"
    )


def test_an_engine_of_another_architecture_is_refused_in_its_words(engine: Path) -> None:
    with pytest.raises(TrtllmError) as e:
        read_engine(engine, Device("NVIDIA A10", "8.6"))
    assert str(e.value) == (
        "The engine plan file is generated on an incompatible device, expecting compute 8.6 got compute 9.0, please"
        " rebuild\nAssertion failed: Failed to deserialize cuda engine"
    )


def test_an_engine_of_a_sister_device_is_a_warning(engine: Path) -> None:
    header, _ = read_header(engine)
    warning = check_header(header, Device("NVIDIA H100", "9.0"))
    assert warning and "across different models of devices is not recommended" in warning


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda data: data[:-1], "is cut off: 1 bytes are missing"),
        (lambda data: data[:-1] + b"x", "does? not have the recorded checksum|do not have the recorded checksum"),
        (lambda data: b"ftrt" + data[4:], "magicTagRead == kMAGIC_TAG failed"),
        (lambda data: b"", "magicTagRead == kMAGIC_TAG failed"),
        (lambda data: data[:24] + b"}" + data[25:], "damaged header"),
    ],
)
def test_a_spoilt_engine_is_refused(engine: Path, spoil: Any, text: str) -> None:
    engine.write_bytes(spoil(engine.read_bytes()))
    with pytest.raises(TrtllmError, match=text) as e:
        read_engine(engine, HERE)
    assert "Failed to deserialize cuda engine" in str(e.value)


def test_a_missing_engine_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrtllmError, match="Error opening engine file: .*rank0.engine: No such file"):
        read_engine(tmp_path / "rank0.engine", HERE)


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = make_engine("gqa", tmp_path / "1"), make_engine("gqa", tmp_path / "2")
    assert (first / "rank0.engine").read_bytes() == (second / "rank0.engine").read_bytes()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'NVIDIA H200, 9.0'; echo 'NVIDIA A10, 8.6'", Device("NVIDIA H200", "9.0")),
        ("exit 9", None),
        ("echo", None),
    ],
)
def test_the_device_is_what_nvidia_smi_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: Device | None
) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = device.current_device()
    assert found == (expected or Device(found.name, "0.0"))
    assert expected or found.name.startswith("CPU ")


def test_safetensors_of_the_library_are_read_and_ours_are_read_by_it(tmp_path: Path) -> None:
    """The format is shared; every type that numpy has, in both directions."""
    random = np.random.default_rng(0)
    arrays = {
        str(dtype): (random.standard_normal((3, 5)) * 9).astype(dtype)
        for dtype in (np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_)
    }
    arrays["empty"], arrays["scalar"] = np.empty((0, 4), np.float32), np.array(3.5, np.float32)
    save_file(arrays, tmp_path / "theirs", metadata={"format": "pt"})
    theirs = SafetensorsFile(tmp_path / "theirs")
    assert set(theirs.names()) == set(arrays)
    assert theirs.metadata == {"format": "pt"}
    safetensors_file.write(tmp_path / "ours", {name: theirs[name] for name in arrays}, {"made": "here"})
    again = load_file(tmp_path / "ours")
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)
        assert again[name].dtype == array.dtype
        assert again[name].shape == array.shape


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50))
def test_bfloat16_rounds_to_the_nearest_even(values: list[float]) -> None:
    wide = np.array(values, np.float32)
    narrow = from_float32(wide, "bfloat16").float32()
    bits = wide.view(np.uint32)
    below = (bits & np.uint32(0xFFFF0000)).view(np.float32)
    above = ((bits & np.uint32(0xFFFF0000)).astype(np.uint64) + 0x10000).astype(np.uint32).view(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        exact = wide.astype(np.float64)
        down, up = np.abs(exact - below.astype(np.float64)), np.abs(above.astype(np.float64) - exact)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    expected = np.where((down < up) | ((down == up) & (odd == 0)) | (down == 0), below, above)
    finite = np.isfinite(above)
    np.testing.assert_array_equal(narrow[finite], expected[finite])


def test_bfloat16_keeps_what_is_not_a_number() -> None:
    special = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)
    again = from_float32(special, "bfloat16").float32()
    assert np.isnan(again[0])
    assert again[1:].tolist() == [np.inf, -np.inf, 0.0]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is empty"),
        (b"abc", "too short"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-lfs pointer"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "not a safetensors file"),
        ((2).to_bytes(8, "little") + b"[]", "no valid safetensors header"),
        ((10).to_bytes(8, "little") + b'{"a":{}   ', "no valid safetensors header"),
    ],
)
def test_files_that_are_no_weights_are_named(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(TrtllmError, match=text):
        SafetensorsFile(tmp_path / "model.safetensors")


def test_a_cut_off_weight_file_is_named(tmp_path: Path) -> None:
    path = checkpoint("gqa", tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(TrtllmError, match="is cut off: tensor .* ends 10 bytes after it"):
        SafetensorsFile(path)


def test_shards_are_found_through_the_index_and_a_missing_one_is_named(tmp_path: Path) -> None:
    tensors = golden_llama.weights_of("gqa")
    names = sorted(tensors)
    parts = {"one.safetensors": names[:5], "two.safetensors": names[5:]}
    for file, members in parts.items():
        save_file({name: tensors[name] for name in members}, tmp_path / file)
    index = {"weight_map": {name: file for file, members in parts.items() for name in members}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    weights = HuggingFaceWeights(tmp_path)
    for name in names:
        np.testing.assert_array_equal(weights[name].float32(), tensors[name])
    with pytest.raises(TrtllmError, match="holds no tensor 'x'"):
        weights["x"]
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(TrtllmError, match=r"names two.safetensors, which is missing"):
        HuggingFaceWeights(tmp_path)
    with pytest.raises(TrtllmError, match="holds neither"):
        HuggingFaceWeights(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"architectures": ["MixtralForCausalLM"]}, "MixtralForCausalLM is not implemented here; LlamaForCausalLM"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "rope scaling 'yarn' is not implemented"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"num_attention_heads": 5, "num_key_value_heads": 2}, "5 attention heads cannot share 2"),
        ({"hidden_size": None}, "is not the configuration of a Llama model"),
    ],
)
def test_models_that_are_not_implemented_are_refused(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    config = {**golden_llama.config_of("gqa"), **changes}
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    with pytest.raises(TrtllmError, match=text):
        from_hugging_face(tmp_path)


def test_both_spellings_of_rope_are_understood(tmp_path: Path) -> None:
    scaling = {"rope_type": "linear", "factor": 2.0}
    spellings: list[dict[str, Any]] = [
        {"rope_theta": 5e5, "rope_scaling": scaling},
        {"rope_theta": None, "rope_parameters": {"rope_theta": 5e5, **scaling}},
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
    ]
    for spelling in spellings:
        config = {**golden_llama.config_of("gqa"), **spelling}
        (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        read = from_hugging_face(tmp_path)
        assert read.rotary_base == 5e5
        assert read.rotary_scaling is not None
        assert (read.rotary_scaling["rope_type"], read.rotary_scaling["factor"]) == ("linear", 2.0)
