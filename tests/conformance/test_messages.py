# SPDX-License-Identifier: GPL-3.0-or-later
"""``/v1/messages``: Anthropic's API with Anthropic's client."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import pytest
from conformance_api import Api

pytestmark = pytest.mark.needs("messages")

PATH = "/v1/messages"
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather in a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def given(api: Api, **more: Any) -> dict[str, Any]:
    return {"model": api.model, "messages": api.messages, "max_tokens": 100, "temperature": 0, **more}


def create(api: Api, **more: Any) -> Any:
    body = given(api, **more)
    temperature = {"temperature": body.pop("temperature")}
    return api.claude.messages.create(**body, extra_body=temperature)


@pytest.fixture(scope="module")
def made(api: Api) -> Any:
    return create(api)


@pytest.fixture(scope="module")
def events(api: Api) -> list[Any]:
    return list(create(api, stream=True))


def test_the_text_is_the_chats(made: Any, answer: str) -> None:
    assert [block.type for block in made.content] == ["text"] and made.content[0].text == answer


def test_the_object_has_its_documented_fields(api: Api, made: Any) -> None:
    assert (made.type, made.role, made.model) == ("message", "assistant", api.model) and made.id.startswith("msg_")


def test_an_answer_that_ends_by_itself_is_the_end_of_the_turn(made: Any) -> None:
    assert made.stop_reason == "end_turn" and made.stop_sequence is None


def test_an_answer_that_is_cut_says_max_tokens(api: Api) -> None:
    assert create(api, max_tokens=3).stop_reason == "max_tokens"


def test_usage_is_the_chats(made: Any, whole: Any) -> None:
    assert made.usage.input_tokens == whole.usage.prompt_tokens
    assert made.usage.output_tokens == whole.usage.completion_tokens


def test_a_stop_sequence_is_named(api: Api, answer: str) -> None:
    stop = answer.split()[2]
    found = create(api, stop_sequences=["zzz", stop])
    assert (found.stop_reason, found.stop_sequence) == ("stop_sequence", stop)
    assert found.content[0].text == answer[: answer.index(stop)]


def test_system_is_part_of_the_prompt(api: Api, made: Any) -> None:
    assert create(api, system="Be brief.", max_tokens=2).usage.input_tokens > made.usage.input_tokens


def test_system_may_be_in_blocks(api: Api) -> None:
    text = create(api, system="Be brief.", max_tokens=2).usage
    blocks = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    assert create(api, system=blocks, max_tokens=2).usage.input_tokens == text.input_tokens


def test_content_may_be_in_blocks(api: Api, made: Any) -> None:
    blocks = [{"role": "user", "content": [{"type": "text", "text": api.question}]}]
    assert create(api, messages=blocks).content[0].text == made.content[0].text


def test_several_turns_are_taken(api: Api) -> None:
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello!"}, *api.messages]
    assert create(api, messages=turns, max_tokens=2).content


def test_the_stream_begins_and_ends_as_documented(events: list[Any]) -> None:
    kinds = [event.type for event in events]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]


def test_a_block_is_opened_and_closed(events: list[Any]) -> None:
    kinds = [event.type for event in events]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 1
    assert kinds.index("content_block_start") < kinds.index("content_block_delta") < kinds.index("content_block_stop")


def test_deltas_join_to_the_text(events: list[Any], answer: str) -> None:
    deltas = [event.delta.text for event in events if event.type == "content_block_delta"]
    assert "".join(deltas) == answer and len(deltas) > 3


def test_the_stream_reports_reason_and_usage(events: list[Any], made: Any) -> None:
    delta = events[-2]
    assert delta.delta.stop_reason == "end_turn" and delta.usage.output_tokens == made.usage.output_tokens


def test_the_client_collects_a_stream(api: Api, answer: str) -> None:
    body = given(api)
    with api.claude.messages.stream(**{k: v for k, v in body.items() if k != "temperature"},
                                    extra_body={"temperature": 0}) as stream:  # fmt: skip
        assert "".join(stream.text_stream) == answer
        assert stream.get_final_message().stop_reason == "end_turn"


def test_the_asynchronous_client_answers_alike(api: Api, answer: str) -> None:
    async def ask() -> Any:
        async with anthropic.AsyncAnthropic(base_url=api.url, api_key=api.key, max_retries=0) as client:
            body = given(api)
            del body["temperature"]
            return await client.messages.create(**body, extra_body={"temperature": 0})

    assert asyncio.run(ask()).content[0].text == answer


def test_tokens_are_counted(api: Api, made: Any) -> None:
    counted = api.claude.messages.count_tokens(model=api.model, messages=api.messages)
    assert counted.input_tokens == made.usage.input_tokens


def test_counting_counts_the_system_too(api: Api, made: Any) -> None:
    counted = api.claude.messages.count_tokens(model=api.model, messages=api.messages, system="Be brief.")
    assert counted.input_tokens > made.usage.input_tokens


@pytest.mark.needs("tools")
def test_tools_are_used(api: Api, call: str) -> None:
    found = create(api, messages=[{"role": "user", "content": call}], tools=[WEATHER])
    (block,) = found.content
    assert found.stop_reason == "tool_use" and (block.type, block.name) == ("tool_use", "get_weather")
    assert isinstance(block.input["city"], str) and block.id


@pytest.mark.needs("tools")
def test_uses_stream_as_pieces_of_json(api: Api, call: str) -> None:
    with api.claude.messages.stream(
        model=api.model, max_tokens=100, tools=[WEATHER], messages=[{"role": "user", "content": call}],
        extra_body={"temperature": 0},
    ) as stream:  # fmt: skip
        final = stream.get_final_message()
    assert final.content[0].input["city"] and final.stop_reason == "tool_use"


@pytest.mark.needs("tools")
def test_results_of_tools_are_read(api: Api, call: str) -> None:
    asked = {"role": "user", "content": call}
    used = create(api, messages=[asked], tools=[WEATHER]).content[0]
    result = {"type": "tool_result", "tool_use_id": used.id, "content": "sunny, 21 degrees"}
    history = [asked, {"role": "assistant", "content": [used.model_dump()]}, {"role": "user", "content": [result]}]
    assert create(api, messages=history, tools=[WEATHER]).content[0].type == "text"


@pytest.mark.needs("tools")
@pytest.mark.parametrize("choice", ["any", "tool"])
def test_a_use_can_be_demanded(api: Api, call: str, choice: str) -> None:
    wanted = {"type": choice, **({"name": "get_weather"} if choice == "tool" else {})}
    found = create(api, messages=[{"role": "user", "content": call}], tools=[WEATHER], tool_choice=wanted)
    assert found.content[0].type == "tool_use"


@pytest.mark.needs("tools")
def test_a_use_can_be_forbidden(api: Api, call: str) -> None:
    asked = [{"role": "user", "content": call}]
    found = create(api, messages=asked, tools=[WEATHER], tool_choice={"type": "none"})
    assert [block.type for block in found.content] == ["text"]


WRONG: dict[str, dict[str, Any]] = {
    "no limit": {"max_tokens": None},
    "a limit of 0": {"max_tokens": 0},
    "no messages": {"messages": []},
    "a role that nobody knows": {"messages": [{"role": "wizard", "content": "Hi"}]},
    "a temperature above 1": {"temperature": 1.5},
    "content that is a number": {"messages": [{"role": "user", "content": 5}]},
    "a block that nobody knows": {"messages": [{"role": "user", "content": [{"type": "hologram"}]}]},
    "a parameter that nobody knows": {"zzz": 1},
    "stop sequences that are no texts": {"stop_sequences": [1]},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_refused_in_anthropics_shape(api: Api, wrong: dict[str, Any]) -> None:
    body = {name: value for name, value in given(api, **wrong).items() if value is not None}
    response = api.post(PATH, body)
    assert response.status_code == 400
    assert response.json()["type"] == "error" and response.json()["error"]["type"] == "invalid_request_error"


def test_an_unknown_model_is_not_found(api: Api) -> None:
    with pytest.raises(anthropic.NotFoundError):
        create(api, model="no-such-model")


def test_every_event_names_its_type_twice(api: Api) -> None:
    """As the field event, and in the data."""
    text = api.post(PATH, given(api, stream=True, max_tokens=3)).text
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    assert all(f'"type":"{block[0].removeprefix("event: ")}"' in block[1].replace('": "', '":"') for block in blocks)
