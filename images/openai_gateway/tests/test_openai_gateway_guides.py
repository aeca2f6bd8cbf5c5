# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers that are bound to a schema, an expression, choices or a grammar, where the engine guides its decoding."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai_gateway.errors import ApiError
from openai_gateway.guides import given as guides
from openai_gateway.interface import describe, steps_of
from openai_gateway_fakes import (
    OLD_INPUTS,
    OLD_OUTPUTS,
    FakeTriton,
    Gateway,
    Network,
    gateway,
    make_checkpoint,
    model_entry,
)

A = "http://a:8000"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
ASKED: list[tuple[dict[str, Any], str, Any]] = [
    ({"response_format": {"type": "json_object"}}, "json", None),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
        "json_schema",
        SCHEMA,
    ),
    ({"guided_json": SCHEMA}, "json_schema", SCHEMA),
    ({"guided_json": json.dumps(SCHEMA)}, "json_schema", SCHEMA),
    ({"guided_regex": "[ab]+"}, "regex", "[ab]+"),
    ({"guided_choice": ["a+b", "New York"]}, "regex", r"(a\+b|New York)"),
    ({"guided_grammar": 'root ::= "a"'}, "ebnf_grammar", 'root ::= "a"'),
    ({"structured_outputs": {"json": SCHEMA}}, "json_schema", SCHEMA),
    ({"structured_outputs": {"json": json.dumps(SCHEMA), "regex": None}}, "json_schema", SCHEMA),
    ({"structured_outputs": {"json_object": True, "disable_fallback": False}}, "json", None),
    ({"structured_outputs": {"regex": "(?<year>[0-9]{4})"}}, "regex", "(?<year>[0-9]{4})"),
    ({"structured_outputs": {"choice": ["é1", "(x)"]}}, "regex", r"(é{1,1}1|\(x\))"),
    ({"structured_outputs": {"grammar": 'a ::= "a"\nroot ::= a'}}, "ebnf_grammar", 'a ::= "a"\nroot ::= a'),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def before(triton: FakeTriton, checkpoint: Path, **more: Any) -> Gateway:
    return gateway(Network(a=triton), model_entry(checkpoint, A, **more))


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], **more}


@pytest.mark.parametrize(("more", "kind", "guide"), ASKED)
def test_an_answer_is_bound_where_the_engine_can(checkpoint: Path, more: dict[str, Any], kind: str, guide: Any) -> None:
    triton = FakeTriton(checkpoint, guided="xgrammar")
    send = before(triton, checkpoint)
    for path, body in (
        ("/v1/chat/completions", chat(**more)),
        ("/v1/completions", {"model": "tiny", "prompt": "Hi", **more}),
    ):
        assert send(path, body).status_code == 200
        sent = triton.seen.pop()
        assert sent["guided_decoding_guide_type"] == kind
        found = sent.get("guided_decoding_guide")
        assert (json.loads(found) if isinstance(guide, dict) else found) == guide


@pytest.mark.parametrize("more", [more for more, _, _ in ASKED])
def test_what_would_make_it_possible_is_said_where_it_is_off(checkpoint: Path, more: dict[str, Any]) -> None:
    refused = before(FakeTriton(checkpoint), checkpoint)("/v1/chat/completions", chat(**more))
    error = refused.json()["error"]
    assert refused.status_code == 400 and error["param"].split(".")[0] == next(iter(more))
    assert "set guided_decoding_backend of its model repository to xgrammar" in error["message"]


def test_it_is_noticed_when_it_is_switched_on(checkpoint: Path) -> None:
    """A replica may be served anew between two requests."""
    triton = FakeTriton(checkpoint)
    send = before(triton, checkpoint)
    assert send("/v1/chat/completions", chat(guided_regex="a")).status_code == 400
    triton.guided = "xgrammar"
    assert send("/v1/chat/completions", chat(guided_regex="a")).status_code == 200


def test_an_old_release_is_named_where_it_cannot(checkpoint: Path) -> None:
    triton = FakeTriton(checkpoint, inputs=OLD_INPUTS, outputs=OLD_OUTPUTS)
    refused = before(triton, checkpoint, release="0.12.0")("/v1/chat/completions", chat(guided_regex="a"))
    assert refused.status_code == 400 and "serve it with release 0.19 or later" in refused.json()["error"]["message"]


def test_plain_text_needs_no_guided_decoding(checkpoint: Path) -> None:
    triton = FakeTriton(checkpoint)
    send = before(triton, checkpoint)
    for more in ({"response_format": {"type": "text"}}, {"structured_outputs": {}}, {"structured_outputs": None}):
        assert send("/v1/chat/completions", chat(**more)).status_code == 200
        assert "guided_decoding_guide_type" not in triton.seen.pop()


@pytest.mark.parametrize(
    ("more", "param", "says"),
    [
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "Only one of guided_regex and guided_choice"),
        ({"guided_regex": "("}, "guided_regex", "is no regular expression"),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex", "is empty"),
        ({"guided_json": "{"}, "guided_json", "must be a JSON schema"),
        ({"guided_json": "[]"}, "guided_json", "must be a JSON schema"),
        ({"guided_grammar": "start: x"}, "guided_grammar", "'root ::= ...'"),
        ({"guided_choice": []}, "guided_choice", "at least 1 item"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag", "nothing that Triton"),
        ({"structured_outputs": {"regex": 5}}, "structured_outputs.regex", "string"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs.regex",
            "Only one of response_format and structured_outputs.regex",
        ),
    ],
)
def test_a_guide_that_cannot_be_right_never_reaches_the_engine(
    checkpoint: Path, more: dict[str, Any], param: str, says: str
) -> None:
    triton = FakeTriton(checkpoint, guided="xgrammar")
    refused = before(triton, checkpoint)("/v1/chat/completions", chat(**more))
    error = refused.json()["error"]
    assert refused.status_code == 400 and error["param"] == param and says in error["message"]
    assert not triton.seen


def test_what_the_engine_says_of_a_guide_is_the_clients_matter(checkpoint: Path) -> None:
    """Whatever the guide itself sounds like: a replica must not suffer for it."""
    triton = FakeTriton(checkpoint, guided="xgrammar")
    send = before(triton, checkpoint)
    words = "in ensemble 'ensemble', guided_decoding_guide is no json_schema that can be followed: CUDA out of memory"
    triton.fail = (400, words)
    for _ in range(5):
        refused = send("/v1/chat/completions", chat(guided_json={"title": "CUDA out of memory"}))
        assert refused.status_code == 400 and "can be followed" in refused.json()["error"]["message"]


@given(words=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=5))
def test_choices_become_an_expression_that_matches_them_alone(words: list[str]) -> None:
    """As Python reads it; the two agree in what is used."""
    (guide,) = guides("guided_", choice=words)
    for word in words:
        assert re.fullmatch(guide.text, word)
        assert not re.fullmatch(guide.text, f"{word}\0") or f"{word}\0" in words


@given(pattern=st.text("ab()[]{}|*+?\\.,^$-12<>:=!", max_size=12))
def test_no_expression_breaks_the_check(pattern: str) -> None:
    try:
        assert guides("guided_", regex=pattern)[0].text == pattern
    except ApiError as error:
        assert error.status == 400 and error.param == "guided_regex"


@pytest.mark.parametrize(
    ("backend", "parameters", "guided"),
    [
        ("tensorrtllm", {"guided_decoding_backend": "xgrammar", "xgrammar_tokenizer_info_path": "/x"}, True),
        ("tensorrtllm", {"guided_decoding_backend": "xgrammar"}, False),
        (
            "tensorrtllm",
            {"guided_decoding_backend": "xgrammar", "xgrammar_tokenizer_info_path": "${xgrammar_tokenizer_info_path}"},
            False,
        ),
        ("python", {"guided_decoding_backend": "xgrammar", "tokenizer_dir": "/t"}, True),
        ("python", {"guided_decoding_backend": "${guided_decoding_backend}"}, False),
        ("tensorrtllm", {"xgrammar_tokenizer_info_path": "/x"}, False),
    ],
)
def test_the_engine_guides_where_upstreams_would(backend: str, parameters: dict[str, str], guided: bool) -> None:
    """The C++ backend leaves it off without its file of the tokenizer, and says nothing."""
    config = {"backend": backend, "parameters": {k: {"string_value": v} for k, v in parameters.items()}}
    assert describe("1.2.1", {"input": []}, {"tensorrt_llm": config}).guided is guided


def test_the_engine_of_the_same_set_is_asked() -> None:
    """Of several sets of models in one repository."""
    assert steps_of({"name": "code_tensorrt_llm_bls"}) == [
        "code_preprocessing",
        "code_tensorrt_llm",
        "code_postprocessing",
    ]
    assert steps_of({"name": "own"}) == steps_of({}) == ["preprocessing", "tensorrt_llm", "postprocessing"]
