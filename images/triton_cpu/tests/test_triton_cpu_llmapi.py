# SPDX-License-Identifier: GPL-3.0-or-later
"""The model of the CPU image's repository `llmapi`, driven as Triton's stub drives it."""

from __future__ import annotations

import importlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from tensorrt_llm.llmapi.keys import keys_of
from triton_cpu_fakes import SOURCE, FakeError, FakeRequest, tiny_checkpoint, triton_module

QUESTION = "What is machine learning?"
TEXT = " Machine learning is a field of computer science"
TEMPLATE = SOURCE / "all_models/llmapi/tensorrt_llm"
STRINGS = ("text_output", "finish_reason", "stop_reason")
CONFIG = {"output": [{"name": name, "data_type": "TYPE_STRING"} for name in STRINGS]}
TRITON = {"max_batch_size": 0, "decoupled": True}

Load = Callable[..., Any]


@pytest.fixture(scope="module")
def module() -> Iterator[ModuleType]:
    with triton_module():
        yield importlib.import_module("tensorrt_llm.triton_llmapi")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny")
    tiny_checkpoint.write_checkpoint(out)
    return out


@pytest.fixture
def load(module: ModuleType, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    started = []
    monkeypatch.setenv("TRTLLM_ORCHESTRATOR", "")

    def start(triton: dict[str, Any] | None = None, **said: Any) -> Any:
        told = {"model": str(checkpoint), "backend": "pytorch", "max_seq_len": 128, **said}
        (tmp_path / "1").mkdir(exist_ok=True)
        told["triton_config"] = TRITON if triton is None else triton
        (tmp_path / "1" / "model.yaml").write_text(yaml.safe_dump(told))
        model = module.TritonPythonModel()
        model.initialize({"model_config": json.dumps(CONFIG), "model_repository": str(tmp_path), "model_version": "1"})
        started.append(model)
        return model

    yield start
    for model in started:
        model.finalize()


def ask(model: Any, text: str = QUESTION, **more: Any) -> list[dict[str, Any]]:
    """The responses to one request; an error is raised."""
    given: dict[str, Any] = {"text_input": np.array([text.encode()], dtype=object)}
    for name, value in more.items():
        given[name] = np.array([word.encode() for word in value], dtype=object) if isinstance(value, list) else [value]
    request = FakeRequest(**{name: np.array(value) for name, value in given.items()})
    model.execute([request])
    assert request.sender.done.wait(60)
    found = []
    for response, flags in request.sender.responses:
        assert response is not None
        if response.error:
            raise response.error
        found.append({name: value[0].decode() for name, value in response.tensors.items()} | {"final": bool(flags)})
    return found


def test_a_checkpoint_answers_and_the_prompt_stands_before_the_answer_unless_it_is_left_out(load: Load) -> None:
    model = load()
    (answer,) = ask(model, sampling_param_max_tokens=8)
    assert answer["text_output"].startswith(QUESTION) and answer["final"]
    (answer,) = ask(
        model, sampling_param_max_tokens=8, sampling_param_exclude_input_from_output=True, return_finish_reason=True
    )
    assert answer["text_output"] and TEXT.startswith(answer["text_output"][:8])
    assert answer["finish_reason"] == "length"


def test_each_response_of_a_stream_has_all_the_text_so_far(load: Load) -> None:
    more = {"sampling_param_max_tokens": 8, "sampling_param_exclude_input_from_output": True}
    model = load()
    (whole,) = ask(model, **more)
    pieces = ask(model, streaming=True, return_finish_reason=True, **more)
    texts = [piece["text_output"] for piece in pieces]
    assert len(texts) > 2 and texts[-1] == whole["text_output"]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert [piece["final"] for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert [piece["finish_reason"] for piece in pieces][-2:] == ["None", "length"]


def test_a_word_ends_the_answer(load: Load) -> None:
    more = {"sampling_param_max_tokens": 12, "sampling_param_exclude_input_from_output": True}
    model = load()
    (whole,) = ask(model, **more)
    word = whole["text_output"].split()[2]
    (answer,) = ask(model, sampling_param_stop=[word], return_finish_reason=True, return_stop_reason=True, **more)
    assert answer["text_output"] == whole["text_output"].partition(word)[0]
    assert (answer["finish_reason"], answer["stop_reason"]) == ("stop", word)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"sampling_param_best_of": 2}, "several answers is not implemented in this image"),
        ({"stop": True}, "ending another request is not implemented"),
        ({"text": "learning " * 400}, "exceeds maximum input length (128)"),
    ],
)
def test_a_request_that_cannot_be_is_refused(load: Load, more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FakeError) as refused:
        ask(load(), **more)
    assert "Error generating request: " in str(refused.value) and sentence in str(refused.value)


def test_a_server_that_is_not_decoupled_streams_nothing(load: Load) -> None:
    with pytest.raises(FakeError, match=r"Streaming is only supported in decoupled mode\."):
        ask(load({**TRITON, "decoupled": False}), streaming=True)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"max_batch": 3}, "max_batch\n  Extra inputs are not permitted"),
        ({"kv_cache_config": {"tokens_per_block": 32}}, "kv_cache_config.tokens_per_block\n  Extra inputs"),
        ({"backend": "tensorrt"}, "pytorch alone"),
        ({"model": "/nowhere"}, "/nowhere is no directory"),
        ({"triton": {"decoupled": True}}, "no triton_config with decoupled and max_batch_size"),
    ],
)
def test_a_description_that_cannot_be_ends_the_load(load: Load, said: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FakeError) as refused:
        load(**said)
    assert sentence in str(refused.value)


def test_the_template_is_whole() -> None:
    told = yaml.safe_load((TEMPLATE / "1/model.yaml").read_text())
    assert set(told) - {"triton_config"} <= keys_of("1.2.1")[""]
    assert set(told["triton_config"]) == set(TRITON)
    assert "triton_llmapi" in (TEMPLATE / "1/model.py").read_text()
