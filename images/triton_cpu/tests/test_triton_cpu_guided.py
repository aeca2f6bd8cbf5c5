# SPDX-License-Identifier: GPL-3.0-or-later
"""Guided decoding of the CPU image: answers that keep to a schema, an expression or a grammar, by xgrammar's core."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorrt_llm import tokenizer_info
from tensorrt_llm.errors import TrtllmError
from tensorrt_llm.guided import GuidedDecoder, load_decoder
from tensorrt_llm.parameters import read_parameters
from tokenizers import Tokenizer
from triton_cpu_fakes import FakeError, FakeRequest, run_build, run_convert, run_tool, tiny_checkpoint, triton_module

pytestmark = pytest.mark.skipif(
    find_spec("xgrammar") is None, reason="xgrammar has no wheel for this Python; the image has its own"
)
END = tiny_checkpoint.SPECIAL.index(tiny_checkpoint.END)
# The library of this release mistakes what it writes as \xNN (controls and Latin-1) where a digit of base 16 follows.
VISIBLE = st.characters(categories=["L", "N", "P", "S"], exclude_characters=[chr(code) for code in range(0x7F, 0x100)])
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint, its engine, and the tokenizer's information file as the script of the image writes it."""
    directory = tmp_path_factory.mktemp("guided")
    tiny_checkpoint.write_checkpoint(directory / "tiny")
    for status, out in (
        run_convert("--model_dir", directory / "tiny", "--output_dir", directory / "c"),
        run_build("--checkpoint_dir", directory / "c", "--output_dir", directory / "e", "--max_seq_len", 256),
        run_tool(tokenizer_info.main, "--model_dir", directory / "tiny", "--output_dir", directory / "info"),
    ):
        assert status == 0, out
    return directory


@pytest.fixture(scope="module")
def tokenizer(room: Path) -> Tokenizer:
    return Tokenizer.from_file(str(room / "tiny/tokenizer.json"))


@pytest.fixture(scope="module")
def decoder(room: Path, tokenizer: Tokenizer) -> GuidedDecoder:
    made = load_decoder(str(room / "info" / tokenizer_info.FILE), tokenizer.get_vocab_size())
    assert made is not None
    return made


@pytest.fixture(scope="module")
def backend() -> Iterator[ModuleType]:
    with triton_module():
        yield importlib.import_module("tensorrt_llm.triton_backend")


Ask = Callable[..., str]


@pytest.fixture
def serve(backend: ModuleType, room: Path, tokenizer: Tokenizer) -> Iterator[Callable[..., Ask]]:
    """Start a model with parameters; what comes back asks it and returns the text of all responses."""
    started = []

    def start(**parameters: str) -> Ask:
        given = {"gpt_model_path": str(room / "e"), "exclude_input_in_output": "true", **parameters}
        given.setdefault("kv_cache_free_gpu_mem_fraction", "0.1")
        config = {
            "backend": given.pop("backend", "tensorrtllm"),
            "model_transaction_policy": {"decoupled": True},
            "output": [{"name": "output_ids", "data_type": "TYPE_INT32"}],
            "parameters": {key: {"string_value": value} for key, value in given.items()},
        }
        model = backend.TritonPythonModel()
        model.initialize({"model_config": json.dumps(config), "model_name": "tensorrt_llm", "model_version": "1"})
        started.append(model)

        def ask(kind: str | None = None, guide: str | None = None, prompt: str = "Why?", **more: Any) -> str:
            ids = tokenizer.encode(f"<|user|>{prompt}<|end|><|assistant|>").ids
            tensors: dict[str, Any] = {"input_ids": [ids], "input_lengths": [len(ids)], "request_output_len": [200]}
            for name, text in (("guided_decoding_guide_type", kind), ("guided_decoding_guide", guide)):
                if text is not None:
                    tensors[name] = np.array([[text.encode()]], object)
            tensors |= {"end_id": [END], **more}
            request = FakeRequest(**{name: np.asarray(value) for name, value in tensors.items()})
            model.execute([request])
            assert request.sender.done.wait(60)
            tokens: list[int] = []
            for response, _ in request.sender.responses:
                assert response is not None
                if response.error:
                    raise response.error
                tokens += response.tensors["output_ids"].reshape(-1).tolist()
            text: str = tokenizer.decode(tokens)
            return text

        return ask

    yield start
    for model in started:
        model.finalize()


@pytest.fixture
def ask(serve: Callable[..., Ask], room: Path) -> Ask:
    return serve(
        guided_decoding_backend="xgrammar", xgrammar_tokenizer_info_path=str(room / "info" / tokenizer_info.FILE)
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_an_answer_keeps_to_its_guide(ask: Ask, streaming: bool) -> None:
    for seed in range(5):
        more = {"streaming": [streaming], "runtime_top_p": [1.0], "temperature": [1.0], "seed": [seed]}
        assert json.loads(ask("json", prompt="Describe yourself in JSON.", **more))
        jsonschema.validate(json.loads(ask("json_schema", json.dumps(PERSON), **more)), PERSON)
        assert re.fullmatch(r"\d{3}-\d{4}", ask("regex", r"\d{3}-\d{4}", **more))
        assert ask("ebnf_grammar", 'root ::= "yes" | "no"', **more) in ("yes", "no")


def test_without_a_guide_nothing_is_bound(ask: Ask) -> None:
    assert ask() == ask(guide='{"type": "integer"}') == tiny_checkpoint.DEFAULT_ANSWER


def test_a_complete_answer_ends_whatever_ends_others(ask: Ask) -> None:
    """Where the request ignores the model's end token, too: nothing could follow."""
    assert re.fullmatch("[ab]{4}", ask("regex", "[ab]{4}", end_id=[-1]))


def test_what_is_refused_beside_a_guide_is_an_error_and_serving_goes_on(ask: Ask) -> None:
    with pytest.raises(FakeError, match="leave no token that could follow"):
        ask("regex", "a", min_tokens=[9])
    assert ask("regex", "a") == "a"


@pytest.mark.parametrize(
    ("kind", "guide", "text"),
    [
        ("json_schema", "{", "no json_schema that can be followed: .*Failed to parse JSON"),
        ("json_schema", '{"type": "nope"}', 'Unsupported type "nope"'),
        ("regex", "(", "no regex that can be followed: .*The parenthesis is not closed"),
        ("ebnf_grammar", 'start ::= "a"', 'The root rule with name "root" is not found'),
        ("regex", None, "The guide string must be provided unless using GuideType::kJSON"),
        ("structural_tag", "{}", "guided_decoding_guide_type is 'structural_tag', expected one of json, json_schema"),
    ],
)
def test_a_guide_that_cannot_be_followed_is_refused(ask: Ask, kind: str, guide: str | None, text: str) -> None:
    with pytest.raises(FakeError, match=text) as e:
        ask(kind, guide)
    assert e.value.code == FakeError.INVALID_ARG and "/project/" not in str(e.value)


def test_it_is_off_until_it_is_set_up(serve: Callable[..., Ask], room: Path) -> None:
    """As upstream's C++ backend has it, with the backend's name alone too."""
    for parameters in ({}, {"guided_decoding_backend": "xgrammar"}, {"xgrammar_tokenizer_info_path": "/nowhere"}):
        off = serve(**parameters)
        with pytest.raises(FakeError, match="GuidedDecodingParams, but GuidedDecoder is not setup") as e:
            off("json")
        assert e.value.code == FakeError.INVALID_ARG
        assert off() == tiny_checkpoint.DEFAULT_ANSWER


def test_the_python_backend_reads_the_tokenizer_itself(serve: Callable[..., Ask], room: Path) -> None:
    ask = serve(backend="python", guided_decoding_backend="xgrammar", tokenizer_dir=str(room / "tiny"))
    assert ask("regex", "[0-9]{5}").isdigit()


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"xgrammar_tokenizer_info_path": "/nowhere/x.json"}, "info path at /nowhere/x.json does not exist"),
        ({"xgrammar_tokenizer_info_path": __file__}, "cannot be read as JSON"),
        ({"xgrammar_tokenizer_info_path": "{tiny}/config.json"}, "has no encoded_vocab, tokenizer_str"),
        ({"guided_decoding_backend": "other", "xgrammar_tokenizer_info_path": "/x"}, "supported with 'xgrammar'"),
        ({"backend": "python"}, "Please provide 'tokenizer_dir'"),
        ({"backend": "python", "tokenizer_dir": "/"}, "/ holds no tokenizer.json"),
    ],
)
def test_a_wrong_setting_fails_the_load(
    serve: Callable[..., Ask], room: Path, parameters: dict[str, str], text: str
) -> None:
    given = {name: value.replace("{tiny}", str(room / "tiny")) for name, value in parameters.items()}
    with pytest.raises(FakeError, match=text):
        serve(**{"guided_decoding_backend": "xgrammar", **given})


def test_the_script_writes_what_upstreams_does(room: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    info = json.loads((room / "info" / tokenizer_info.FILE).read_text())
    assert list(info) == ["encoded_vocab", "tokenizer_str", "stop_token_ids"]
    assert [tokenizer.token_to_id(token) for token in info["encoded_vocab"]] == list(range(len(info["encoded_vocab"])))
    assert json.loads(info["tokenizer_str"]) == json.loads((room / "tiny/tokenizer.json").read_text())
    assert info["stop_token_ids"] == [END]
    settings_file = tmp_path / "tokenizer_config.json"
    (tmp_path / "tokenizer.json").write_bytes((room / "tiny/tokenizer.json").read_bytes())
    settings_file.write_text('{"eos_token": {"content": "</s>"}}')
    assert tokenizer_info.tokenizer_info(tmp_path)["stop_token_ids"] == [END]
    settings_file.write_text("{}")
    with pytest.raises(TrtllmError, match="names no eos_token"):
        tokenizer_info.tokenizer_info(tmp_path)


def test_torch_is_not_needed(decoder: GuidedDecoder) -> None:
    assert "torch" not in sys.modules and "xgrammar" not in sys.modules


@settings(max_examples=40, deadline=None)
@given(data=st.data(), words=st.lists(st.text(VISIBLE, min_size=1), min_size=1))
def test_whatever_is_drawn_ends_as_one_of_the_choices(
    decoder: GuidedDecoder, tokenizer: Tokenizer, data: st.DataObject, words: list[str]
) -> None:
    """Any allowed token at each step."""
    guide = decoder.guide(
        "ebnf_grammar", "root ::= " + " | ".join(json.dumps(word, ensure_ascii=False) for word in words)
    )
    tokens: list[int] = []
    while True:
        token = data.draw(st.sampled_from(np.flatnonzero(guide.allowed()).tolist()))
        if not guide.advance(token):
            break
        tokens.append(token)
    assert tokenizer.decode(tokens, skip_special_tokens=False) in words


def test_parameters_say_where_the_tokenizer_is() -> None:
    def read(backend: str, **given: str) -> str | None:
        parameters = {key: {"string_value": value} for key, value in {"gpt_model_path": "/e", **given}.items()}
        config = {"backend": backend, "parameters": parameters}
        return read_parameters(config, lambda text: None).guided_tokenizer

    both = {"tokenizer_dir": "/t", "xgrammar_tokenizer_info_path": "/i"}
    assert read("tensorrtllm", guided_decoding_backend="xgrammar", **both) == "/i"
    assert read("python", guided_decoding_backend="xgrammar", **both) == "/t"
    assert read("tensorrtllm", **both) is None
    assert read("tensorrtllm", guided_decoding_backend="${guided_decoding_backend}", **both) is None
