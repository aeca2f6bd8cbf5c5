# SPDX-License-Identifier: GPL-3.0-or-later
"""Structured output: where it is offered it holds, and where it is off it is refused and never ignored."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from conformance_api import Api, refused
from pydantic import BaseModel

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "layers": {"type": "integer"}},
    "required": ["name", "layers"],
    "additionalProperties": False,
}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}


class Model(BaseModel):
    """What a client wants to have."""

    name: str
    layers: int


BOUND: dict[str, dict[str, Any]] = {
    "response_format json_object": {"response_format": {"type": "json_object"}},
    "response_format json_schema": {"response_format": JSON_SCHEMA},
    "guided_json": {"guided_json": SCHEMA},
    "guided_regex": {"guided_regex": "[0-9]{3}"},
    "guided_choice": {"guided_choice": ["yes", "no"]},
    "guided_grammar": {"guided_grammar": 'root ::= "yes" | "no"'},
}


@pytest.mark.needs("unguided")
@pytest.mark.parametrize("given", BOUND.values(), ids=BOUND)
def test_where_it_is_off_it_is_refused_by_name(api: Api, given: dict[str, Any]) -> None:
    error = refused(api.post("/v1/chat/completions", api.chat_body(**given)), param=next(iter(given)))
    assert "guided" in error["message"]


@pytest.mark.needs("guided")
def test_json_objects_are_json(api: Api) -> None:
    made = api.chat(response_format={"type": "json_object"}, max_tokens=200).choices[0]
    assert isinstance(json.loads(made.message.content), dict)


@pytest.mark.needs("guided")
def test_a_schema_holds(api: Api) -> None:
    found = json.loads(api.chat(response_format=JSON_SCHEMA, max_tokens=200).choices[0].message.content)
    assert isinstance(found["name"], str) and isinstance(found["layers"], int)


@pytest.mark.needs("guided")
def test_a_schema_holds_in_streams(api: Api) -> None:
    found = json.loads(api.chat_stream(response_format=JSON_SCHEMA, max_tokens=200).text())
    assert set(found) == {"name", "layers"}


@pytest.mark.needs("guided")
def test_the_client_parses_into_a_class(api: Api) -> None:
    made = api.openai.chat.completions.parse(
        model=api.model, messages=api.messages, response_format=Model, temperature=0, max_tokens=200
    )
    assert isinstance(made.choices[0].message.parsed, Model)


@pytest.mark.needs("guided", "responses")
def test_responses_parse_into_a_class(api: Api) -> None:
    made = api.openai.responses.parse(
        model=api.model, input=api.question, text_format=Model, temperature=0, max_output_tokens=200
    )
    assert isinstance(made.output_parsed, Model)


@pytest.mark.needs("guided", "extras")
def test_an_expression_holds(api: Api) -> None:
    made = api.chat(extra_body={"guided_regex": "[0-9]{3}"}, max_tokens=20).choices[0].message.content
    assert re.fullmatch("[0-9]{3}", made)


@pytest.mark.needs("guided", "extras")
def test_a_choice_holds(api: Api) -> None:
    made = api.chat(extra_body={"guided_choice": ["yes", "no"]}, max_tokens=20).choices[0].message.content
    assert made in ("yes", "no")


@pytest.mark.needs("guided", "extras")
def test_a_grammar_holds(api: Api) -> None:
    made = api.chat(extra_body={"guided_grammar": 'root ::= "yes" | "no"'}, max_tokens=20)
    assert made.choices[0].message.content in ("yes", "no")


WRONG: dict[str, Any] = {
    "a kind that nobody knows": {"type": "yaml"},
    "no kind": {},
    "a text": "json_object",
    "a schema that is missing": {"type": "json_schema"},
    "a schema without a name": {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
    "a schema that is a text": {"type": "json_schema", "json_schema": {"name": "x", "schema": "{}"}},
}


@pytest.mark.parametrize("given", WRONG.values(), ids=WRONG)
def test_wrong_formats_are_refused(api: Api, given: Any) -> None:
    error = refused(api.post("/v1/chat/completions", api.chat_body(response_format=given)))
    assert error["param"].startswith("response_format")


@pytest.mark.needs("extras")
def test_two_bounds_exclude_each_other(api: Api) -> None:
    refused(api.post("/v1/chat/completions", api.chat_body(guided_regex="a", guided_choice=["b"])))


def test_text_is_no_bound(api: Api, answer: str) -> None:
    assert api.chat(response_format={"type": "text"}, max_tokens=100).choices[0].message.content == answer
