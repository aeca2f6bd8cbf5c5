# SPDX-License-Identifier: GPL-3.0-or-later
"""Functions that the model may call: offered, called, answered, streamed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conformance_api import Api, refused

pytestmark = pytest.mark.needs("tools")

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather in a city", "parameters": CITY},
}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "get_time", "parameters": CITY}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture
def asked(call: str) -> dict[str, Any]:
    """A question with a function for it."""
    return {"messages": [{"role": "user", "content": call}], "tools": [WEATHER], "max_tokens": 60}


@pytest.fixture
def called(api: Api, asked: dict[str, Any]) -> Any:
    return api.chat(**asked)


def test_the_model_calls(called: Any) -> None:
    (made,) = called.choices[0].message.tool_calls
    assert made.type == "function" and made.function.name == "get_weather"


def test_the_arguments_are_json_of_the_schema(called: Any) -> None:
    arguments = json.loads(called.choices[0].message.tool_calls[0].function.arguments)
    assert isinstance(arguments["city"], str)


def test_the_reason_is_the_call(called: Any) -> None:
    assert called.choices[0].finish_reason == "tool_calls"


def test_a_call_alone_has_no_content(called: Any) -> None:
    assert not called.choices[0].message.content


def test_calls_have_ids_of_their_own(api: Api, asked: dict[str, Any], called: Any) -> None:
    again = api.chat(**asked).choices[0].message.tool_calls[0]
    assert again.id and again.id != called.choices[0].message.tool_calls[0].id


def test_a_call_streams_with_id_and_name_first(api: Api, asked: dict[str, Any]) -> None:
    deltas = [c.delta.tool_calls[0] for c in api.chat_stream(**asked).choices if c.delta.tool_calls]
    assert deltas[0].index == 0 and deltas[0].id and deltas[0].function.name == "get_weather"


def test_streamed_arguments_join_to_those_of_the_whole_answer(api: Api, asked: dict[str, Any], called: Any) -> None:
    stream = api.chat_stream(**asked)
    parts = [c.delta.tool_calls[0].function.arguments or "" for c in stream.choices if c.delta.tool_calls]
    whole = called.choices[0].message.tool_calls[0].function.arguments
    assert json.loads("".join(parts)) == json.loads(whole) and stream.reasons == ["tool_calls"]


def test_nothing_of_a_streamed_call_is_text(api: Api, asked: dict[str, Any]) -> None:
    assert api.chat_stream(**asked).text().strip() == ""


def test_the_client_collects_a_streamed_call(api: Api, asked: dict[str, Any]) -> None:
    strict = {**WEATHER["function"], "strict": True, "parameters": {**CITY, "additionalProperties": False}}
    given = {**asked, "tools": [{"type": "function", "function": strict}]}
    with api.openai.chat.completions.stream(model=api.model, temperature=0, **given) as stream:
        names = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in names
    assert final.choices[0].message.tool_calls[0].function.parsed_arguments["city"]


def test_a_result_is_read(api: Api, asked: dict[str, Any], called: Any) -> None:
    message = called.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny, 21 degrees"}
    history = [*asked["messages"], message.model_dump(exclude_none=True), result]
    made = api.chat(**{**asked, "messages": history})
    assert made.choices[0].finish_reason == "stop" and made.choices[0].message.content
    assert made.usage.prompt_tokens > called.usage.prompt_tokens


def test_a_result_may_be_in_parts(api: Api, asked: dict[str, Any], called: Any) -> None:
    message = called.choices[0].message
    parts = [{"type": "text", "text": "sunny, 21 degrees"}]
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": parts}
    history = [*asked["messages"], message.model_dump(exclude_none=True), result]
    assert api.chat(**{**asked, "messages": history}).choices[0].message.content


def test_a_history_of_calls_needs_no_tools(api: Api, asked: dict[str, Any], called: Any) -> None:
    message = called.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny, 21 degrees"}
    history = [*asked["messages"], message.model_dump(exclude_none=True), result]
    assert api.chat(messages=history, max_tokens=5).choices[0].message.content


def test_what_needs_no_function_is_answered(api: Api, asked: dict[str, Any]) -> None:
    made = api.chat(**{**asked, "messages": api.messages})
    assert made.choices[0].message.content and not made.choices[0].message.tool_calls


def test_tool_choice_none_makes_no_call(api: Api, asked: dict[str, Any]) -> None:
    made = api.chat(**asked, tool_choice="none").choices[0]
    assert not made.message.tool_calls and made.finish_reason in ("stop", "length")


def test_tool_choice_auto_is_the_default(api: Api, asked: dict[str, Any], called: Any) -> None:
    made = api.chat(**asked, tool_choice="auto").choices[0].message.tool_calls[0]
    assert made.function == called.choices[0].message.tool_calls[0].function


def test_a_named_function_is_called(api: Api, asked: dict[str, Any]) -> None:
    made = api.chat(**asked, tool_choice=NAMED).choices[0].message.tool_calls
    assert [one.function.name for one in made] == ["get_weather"] and json.loads(made[0].function.arguments)


def test_a_named_call_ends_with_stop(api: Api, asked: dict[str, Any]) -> None:
    assert api.chat(**asked, tool_choice=NAMED).choices[0].finish_reason == "stop"


def test_a_named_call_streams(api: Api, asked: dict[str, Any]) -> None:
    stream = api.chat_stream(**asked, tool_choice=NAMED)
    calls = [c.delta.tool_calls[0] for c in stream.choices if c.delta.tool_calls]
    assert calls[0].function.name == "get_weather"
    assert json.loads("".join(one.function.arguments or "" for one in calls))


def test_a_demanded_call_is_made(api: Api, asked: dict[str, Any]) -> None:
    made = api.chat(**asked, tool_choice="required").choices[0]
    assert made.message.tool_calls[0].function.name == "get_weather" and made.finish_reason == "tool_calls"


def test_several_functions_can_be_offered(api: Api, asked: dict[str, Any]) -> None:
    made = api.chat(**{**asked, "tools": [TIME, WEATHER]}).choices[0].message.tool_calls[0]
    assert made.function.name == "get_weather"


def test_a_function_that_was_not_offered_is_not_called(api: Api, asked: dict[str, Any]) -> None:
    assert not api.chat(**{**asked, "tools": [TIME]}).choices[0].message.tool_calls


def test_offered_functions_cost_tokens(api: Api, asked: dict[str, Any], called: Any) -> None:
    assert api.chat(messages=asked["messages"], max_tokens=1).usage.prompt_tokens < called.usage.prompt_tokens


def test_a_function_without_parameters_can_be_offered(api: Api, asked: dict[str, Any]) -> None:
    bare = {"type": "function", "function": {"name": "get_weather"}}
    assert api.chat(**{**asked, "tools": [bare]}).choices[0].message.tool_calls


def test_only_one_call_can_be_asked_for(api: Api, asked: dict[str, Any]) -> None:
    assert len(api.chat(**asked, parallel_tool_calls=False).choices[0].message.tool_calls) == 1


def test_each_of_n_answers_calls(api: Api, asked: dict[str, Any]) -> None:
    choices = api.chat(**asked, n=2).choices
    assert [len(choice.message.tool_calls or ()) for choice in choices] == [1, 1]


REFUSED: dict[str, dict[str, Any]] = {
    "a choice without tools": {"tools": None, "tool_choice": "required"},
    "a function that is not offered": {
        "tools": [TIME],
        "tool_choice": {"type": "function", "function": {"name": "none_of_these"}},
    },
    "a word that is no choice": {"tools": [TIME], "tool_choice": "perhaps"},
    "tools that are no list": {"tools": {"type": "function"}},
    "a tool without a function": {"tools": [{"type": "function"}]},
    "a function without a name": {"tools": [{"type": "function", "function": {"description": "x"}}]},
    "a name with blanks": {"tools": [{"type": "function", "function": {"name": "get weather"}}]},
    "parameters that are a text": {"tools": [{"type": "function", "function": {"name": "f", "parameters": "x"}}]},
    "a kind of tool that nobody knows": {"tools": [{"type": "magic", "function": {"name": "f"}}]},
}


@pytest.mark.parametrize("given", REFUSED.values(), ids=REFUSED)
def test_wrong_tools_are_refused(api: Api, given: dict[str, Any]) -> None:
    refused(api.post("/v1/chat/completions", api.chat_body(**given)))


def test_arguments_of_the_history_have_to_be_json(api: Api) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{broken"}}
    history = [*api.messages, {"role": "assistant", "tool_calls": [call]}]
    refused(api.post("/v1/chat/completions", api.chat_body(messages=history)))
