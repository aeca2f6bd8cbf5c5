# SPDX-License-Identifier: GPL-3.0-or-later
"""``/v1/responses`` with the official client."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from conformance_api import Api, refused

pytestmark = pytest.mark.needs("responses")

PATH = "/v1/responses"
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}


def create(api: Api, **more: Any) -> Any:
    given = {"model": api.model, "input": api.question, "temperature": 0, "max_output_tokens": 100}
    return api.openai.responses.create(**{**given, **more})


@pytest.fixture(scope="module")
def made(api: Api) -> Any:
    return create(api)


@pytest.fixture(scope="module")
def events(api: Api) -> list[Any]:
    return list(create(api, stream=True))


def test_the_text_is_the_chats(made: Any, answer: str) -> None:
    assert made.output_text == answer


def test_the_object_has_its_documented_fields(api: Api, made: Any) -> None:
    assert made.object == "response" and made.id.startswith("resp_") and made.model == api.model
    assert made.status == "completed" and made.error is None and made.incomplete_details is None


def test_the_output_is_a_message_of_parts(made: Any) -> None:
    (item,) = made.output
    assert (item.type, item.role, item.status) == ("message", "assistant", "completed")
    assert [part.type for part in item.content] == ["output_text"]


def test_usage_adds_up(made: Any, whole: Any) -> None:
    assert made.usage.total_tokens == made.usage.input_tokens + made.usage.output_tokens
    assert made.usage.output_tokens == whole.usage.completion_tokens


def test_what_was_asked_is_told_again(api: Api) -> None:
    again = create(api, instructions="Be brief.", max_output_tokens=3)
    assert again.instructions == "Be brief." and again.max_output_tokens == 3 and again.temperature == 0


def test_an_answer_that_is_cut_is_incomplete(api: Api) -> None:
    cut = create(api, max_output_tokens=3)
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens"


def test_instructions_are_part_of_the_prompt(api: Api, made: Any) -> None:
    assert create(api, instructions="Be brief.", max_output_tokens=2).usage.input_tokens > made.usage.input_tokens


def test_a_conversation_is_taken(api: Api) -> None:
    items = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Hello!"}]},
        {"role": "user", "content": [{"type": "input_text", "text": api.question}]},
    ]
    assert create(api, input=items, max_output_tokens=3).output_text


def test_a_text_is_a_users_message(api: Api, made: Any) -> None:
    assert create(api, input=[{"role": "user", "content": api.question}]).output_text == made.output_text


def test_the_answer_can_be_the_next_input(api: Api, made: Any) -> None:
    """Clients that store nothing at the server send the output items back."""
    items = [{"role": "user", "content": api.question}, *[item.model_dump() for item in made.output]]
    again = create(api, input=[*items, {"role": "user", "content": "Thank you"}], max_output_tokens=3)
    assert again.usage.input_tokens > made.usage.input_tokens


def test_the_stream_begins_and_ends_as_documented(events: list[Any]) -> None:
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed"


def test_events_are_numbered(events: list[Any]) -> None:
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_items_and_parts_are_opened_and_closed(events: list[Any]) -> None:
    kinds = [event.type for event in events]
    order = ["output_item.added", "content_part.added", "output_text.done", "content_part.done", "output_item.done"]
    places = [kinds.index(f"response.{kind}") for kind in order]
    assert places == sorted(places) and all(kinds.count(f"response.{kind}") == 1 for kind in order)


def test_deltas_join_to_the_text(events: list[Any], answer: str) -> None:
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == answer and len(deltas) > 3
    assert next(event.text for event in events if event.type == "response.output_text.done") == answer


def test_deltas_name_their_item(events: list[Any]) -> None:
    (item,) = {event.item_id for event in events if event.type == "response.output_text.delta"}
    assert events[-1].response.output[0].id == item


def test_the_last_event_has_the_whole_response(events: list[Any], made: Any) -> None:
    assert events[-1].response.output_text == made.output_text and events[-1].response.usage == made.usage


def test_a_stream_that_is_cut_ends_incomplete(api: Api) -> None:
    assert list(create(api, stream=True, max_output_tokens=3))[-1].type == "response.incomplete"


def test_the_client_collects_a_stream(api: Api, answer: str) -> None:
    given: Any = {"model": api.model, "input": api.question, "temperature": 0}
    with api.openai.responses.stream(**given) as stream:
        for _event in stream:
            pass
        assert stream.get_final_response().output_text == answer


def test_the_asynchronous_client_answers_alike(api: Api, answer: str) -> None:
    given: Any = {"model": api.model, "input": api.question, "temperature": 0}
    assert api.asynchronous(lambda client: client.responses.create(**given)).output_text == answer


@pytest.mark.needs("tools")
def test_functions_are_called(api: Api, call: str) -> None:
    (item,) = create(api, input=call, tools=[WEATHER]).output
    assert (item.type, item.name) == ("function_call", "get_weather") and item.call_id
    assert json.loads(item.arguments)["city"]


@pytest.mark.needs("tools")
def test_calls_stream(api: Api, call: str) -> None:
    found = {event.type: event for event in create(api, input=call, tools=[WEATHER], stream=True)}
    assert json.loads(found["response.function_call_arguments.done"].arguments)["city"]
    assert found["response.completed"].response.output[0].type == "function_call"


@pytest.mark.needs("tools")
def test_results_of_calls_are_read(api: Api, call: str) -> None:
    (item,) = create(api, input=call, tools=[WEATHER]).output
    result = {"type": "function_call_output", "call_id": item.call_id, "output": "sunny, 21 degrees"}
    again = create(api, input=[{"role": "user", "content": call}, item.model_dump(), result], tools=[WEATHER])
    assert again.output_text


@pytest.mark.needs("tools")
def test_a_function_can_be_demanded_by_name(api: Api, call: str) -> None:
    choice = {"type": "function", "name": "get_weather"}
    assert create(api, input=call, tools=[WEATHER], tool_choice=choice).output[0].type == "function_call"


WRONG: dict[str, dict[str, Any]] = {
    "no input": {"input": None},
    "an empty list": {"input": []},
    "a number": {"input": 5},
    "an item that nobody knows": {"input": [{"type": "hologram"}]},
    "a temperature of 3": {"temperature": 3},
    "no tokens": {"max_output_tokens": 0},
    "a stored response": {"previous_response_id": "resp_1"},
    "work in the background": {"background": True},
    "a parameter that nobody knows": {"zzz": 1},
    "a tool that the server would run": {"tools": [{"type": "web_search"}]},
    "a picture": {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}]},
}


@pytest.mark.parametrize("given", WRONG.values(), ids=WRONG)
def test_what_cannot_be_done_is_refused(api: Api, given: dict[str, Any]) -> None:
    body = {"model": api.model, "input": api.question, "max_output_tokens": 2, **given}
    refused(api.post(PATH, {name: value for name, value in body.items() if value is not None}))


def test_an_unknown_model_is_not_found(api: Api) -> None:
    with pytest.raises(openai.NotFoundError):
        create(api, model="no-such-model")
