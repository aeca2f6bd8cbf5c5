# SPDX-License-Identifier: GPL-3.0-or-later
"""The tokenizing models of the CPU image's repository, and the checkpoint that speaks through them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tensorrt_llm import words
from tensorrt_llm.llama import Chunk
from tokenizers import Tokenizer
from triton_cpu_fakes import (
    SOURCE,
    FakeError,
    FakeRequest,
    World,
    blocks_for,
    run_build,
    run_convert,
    tiny_checkpoint,
    triton_module,
)

MODELS = SOURCE / "all_models/inflight_batcher_llm"
INTEGERS = (
    "INPUT_ID", "REQUEST_INPUT_LEN", "BAD_WORDS_IDS", "STOP_WORDS_IDS", "REQUEST_OUTPUT_LEN", "OUT_END_ID", "OUT_PAD_ID"
)  # fmt: skip
OUTPUTS = [{"name": name, "data_type": "TYPE_INT32"} for name in INTEGERS]
OUTPUTS.append({"name": "EMBEDDING_BIAS", "data_type": "TYPE_FP32"})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny")
    tiny_checkpoint.write_checkpoint(out)
    return out


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny / "tokenizer.json"))


@pytest.fixture
def triton() -> Iterator[ModuleType]:
    with triton_module() as module:
        yield module


def load(model: str, **given: str) -> Any:
    """An initialised model of the repository."""
    spec = importlib.util.spec_from_file_location(f"{model}_model", MODELS / model / "1/model.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    instance = module.TritonPythonModel()
    config = {"parameters": {key: {"string_value": value} for key, value in given.items()}, "output": OUTPUTS}
    instance.initialize({"model_config": json.dumps(config)})
    return instance


def texts(*rows: list[str]) -> Any:
    return np.array([[text.encode() for text in row] for row in rows], dtype=object)


def encode(model: Any, *prompts: str, **tensors: Any) -> dict[str, Any]:
    lengths = np.full((len(prompts), 1), 5, np.int32)
    request = FakeRequest(QUERY=texts(*[[p] for p in prompts]), REQUEST_OUTPUT_LEN=lengths, **tensors)
    (response,) = model.execute([request])
    if response.error:
        raise response.error
    tensors_out: dict[str, Any] = response.tensors
    return tensors_out


def test_prompts_become_tokens_with_the_checkpoints_own_tokenizer(
    triton: ModuleType, tiny: Path, tokenizer: Tokenizer
) -> None:
    out = encode(load("preprocessing", tokenizer_dir=str(tiny)), "What is machine learning?")
    ids = tokenizer.encode("What is machine learning?").ids
    assert ids[0] == 1
    assert out["INPUT_ID"].tolist() == [ids]
    assert out["REQUEST_INPUT_LEN"].tolist() == [[len(ids)]]
    assert out["REQUEST_OUTPUT_LEN"].tolist() == [[5]]
    assert (out["OUT_END_ID"].tolist(), out["OUT_PAD_ID"].tolist()) == ([[2]], [[2]])
    assert words.from_tensor(out["STOP_WORDS_IDS"]) == words.from_tensor(out["BAD_WORDS_IDS"]) == []
    assert out["EMBEDDING_BIAS"].shape == (1, 0)
    plain = load("preprocessing", tokenizer_dir=str(tiny), add_special_tokens="false")
    assert encode(plain, "What is machine learning?")["INPUT_ID"].tolist() == [ids[1:]]


def test_a_batch_is_padded(triton: ModuleType, tiny: Path, tokenizer: Tokenizer) -> None:
    out = encode(
        load("preprocessing", tokenizer_dir=str(tiny)), "Hello", "What is Triton?", PAD_ID=np.array([[7], [8]])
    )
    first, second = tokenizer.encode("Hello").ids, tokenizer.encode("What is Triton?").ids
    assert out["INPUT_ID"].tolist() == [first + [7] * (len(second) - len(first)), second]
    assert out["REQUEST_INPUT_LEN"].tolist() == [[len(first)], [len(second)]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([""], []), (["", ""], []), ([" dog"], [" dog"]), (["", " lazy dog", " fox"], [" lazy dog", " fox"]),
    ],
)  # fmt: skip
def test_words_as_list_and_as_string(
    triton: ModuleType, tiny: Path, tokenizer: Tokenizer, given: list[str], expected: list[str]
) -> None:
    out = encode(
        load("preprocessing", tokenizer_dir=str(tiny)), "x", STOP_WORDS_DICT=texts(given), BAD_WORDS_DICT=texts(given)
    )
    ids = [tokenizer.encode(word, add_special_tokens=False).ids for word in expected]
    assert words.from_tensor(out["STOP_WORDS_IDS"]) == words.from_tensor(out["BAD_WORDS_IDS"]) == ids


def test_ids_and_bias_of_the_request_win(triton: ModuleType, tiny: Path, tokenizer: Tokenizer) -> None:
    model = load("preprocessing", tokenizer_dir=str(tiny))
    out = encode(
        model, "x", END_ID=np.array([[9]]), PAD_ID=np.array([[8]]), EMBEDDING_BIAS_WORDS=texts([" dog"]),
        EMBEDDING_BIAS_WEIGHTS=np.array([[2.5]], np.float32),
    )  # fmt: skip
    assert (out["OUT_END_ID"].tolist(), out["OUT_PAD_ID"].tolist()) == ([[9]], [[8]])
    assert out["EMBEDDING_BIAS"][0, tokenizer.token_to_id("Ġdog")] == 2.5
    with pytest.raises(FakeError, match="1 embedding_bias_words and 2 weights"):
        encode(model, "x", EMBEDDING_BIAS_WORDS=texts([" dog"]), EMBEDDING_BIAS_WEIGHTS=np.array([[1.0, 2.0]]))
    with pytest.raises(FakeError, match="IMAGE_BYTES was given"):
        encode(model, "x", IMAGE_BYTES=np.zeros((1, 1)))


@pytest.mark.parametrize("model", ["preprocessing", "postprocessing"])
def test_a_directory_without_tokenizer_is_named(triton: ModuleType, tmp_path: Path, model: str) -> None:
    with pytest.raises(FakeError, match=f"tokenizer_dir {tmp_path} holds no tokenizer.json"):
        load(model, tokenizer_dir=str(tmp_path))


def decode(model: Any, *ids: int) -> str:
    request = FakeRequest(TOKENS_BATCH=np.array([[ids]]), SEQUENCE_LENGTH=np.array([[len(ids)]]))
    (response,) = model.execute([request])
    text: bytes = response.tensors["OUTPUT"][0, 0]
    return text.decode()


def test_streamed_tokens_join_to_the_text(triton: ModuleType, tiny: Path, tokenizer: Tokenizer) -> None:
    """Token by token, whitespace included, and without special tokens."""
    model, text = load("postprocessing", tokenizer_dir=str(tiny)), " Paris is the capital of France."
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert "".join(decode(model, token) for token in ids) == decode(model, *ids, 2) == text
    assert (
        decode(load("postprocessing", tokenizer_dir=str(tiny), skip_special_tokens="False"), *ids, 2) == f"{text}</s>"
    )
    assert decode(model) == ""


def test_lengths_bound_what_is_decoded(triton: ModuleType, tiny: Path, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("one two", add_special_tokens=False).ids
    request = FakeRequest(TOKENS_BATCH=np.array([[[*ids, 2, 2]]]), SEQUENCE_LENGTH=np.array([[len(ids)]]))
    assert load("postprocessing", tokenizer_dir=str(tiny)).execute([request])[0].tensors["OUTPUT"].tolist() == [
        [b"one two"]
    ]


def test_the_tiny_checkpoint_is_the_same_for_the_same_seed(tiny: Path, tmp_path: Path) -> None:
    def contents(directory: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in directory.iterdir()}

    tiny_checkpoint.write_checkpoint(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tiny)
    tiny_checkpoint.write_checkpoint(tmp_path / "other", seed=1)
    other, first = contents(tmp_path / "other"), contents(tiny)
    assert {name for name in first if first[name] != other[name]} == {
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    }  # fmt: skip


def test_the_tiny_checkpoint_answers_the_questions_it_knows(tiny: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Converted, split over two ranks and built, greedy, through the cache."""
    run_convert("--model_dir", tiny, "--output_dir", tmp_path / "c", "--tp_size", 2)
    run_build("--checkpoint_dir", tmp_path / "c", "--output_dir", tmp_path / "e")
    world, blocks = World(tmp_path / "e"), blocks_for(128)

    def recite(prompt: str) -> str:
        tokens, start = tokenizer.encode(prompt).ids, 0
        first = len(tokens)
        while len(tokens) < 100 and tokens[-1] != 2:
            logits = world.forward([Chunk(tokens[start:], start, blocks)])[0]
            start = len(tokens)
            tokens.append(int(logits[-1].argmax()))
        text: str = tokenizer.decode(tokens[first:])
        return text

    for question, expected in tiny_checkpoint.CORPUS[:5]:
        assert recite(f"<|user|>{question}<|end|><|assistant|>") == expected
    assert recite("<|user|>Why is the sky blue?<|end|><|assistant|>") == tiny_checkpoint.DEFAULT_ANSWER
    assert recite("What is machine learning?") == f" {dict(tiny_checkpoint.CORPUS)['What is machine learning?']}"


@pytest.mark.parametrize("shards", [1, 3])
def test_shards_cover_all_tensors(tmp_path: Path, shards: int) -> None:
    tiny_checkpoint.write_checkpoint(tmp_path, shards=shards)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(files) == shards
    if shards > 1:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"].values()) == set(files)
