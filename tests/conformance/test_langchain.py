# SPDX-License-Identifier: GPL-3.0-or-later
"""LangChain's client of OpenAI's API."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conformance_api import Api
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny, 21 degrees in {city}"


@pytest.fixture(scope="module")
def chat(api: Api) -> ChatOpenAI:
    return ChatOpenAI(
        model=api.model, base_url=f"{api.url}/v1", api_key=api.key, temperature=0, max_retries=0, max_tokens=100,
        stream_usage=True,
    )  # fmt: skip


def test_it_answers(api: Api, chat: ChatOpenAI, answer: str) -> None:
    assert chat.invoke(api.question).content == answer


def test_it_reads_usage_and_reason(api: Api, chat: ChatOpenAI, whole: Any) -> None:
    made = chat.invoke(api.question)
    assert made.usage_metadata["total_tokens"] == whole.usage.total_tokens
    assert made.response_metadata["finish_reason"] == "stop"


def test_it_streams(api: Api, chat: ChatOpenAI, answer: str) -> None:
    chunks = list(chat.stream(api.question))
    assert "".join(str(chunk.content) for chunk in chunks) == answer and len(chunks) > 3


def test_streams_add_up_to_their_usage(api: Api, chat: ChatOpenAI, whole: Any) -> None:
    chunks = list(chat.stream(api.question))
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    assert total.usage_metadata["output_tokens"] == whole.usage.completion_tokens


def test_it_keeps_a_conversation(chat: ChatOpenAI) -> None:
    turns = [SystemMessage("Be brief."), HumanMessage("Hello"), AIMessage("Hello!"), HumanMessage("Thank you")]
    assert chat.invoke(turns).content


def test_it_batches(api: Api, chat: ChatOpenAI, answer: str) -> None:
    assert [made.content for made in chat.batch([api.question] * 3)] == [answer] * 3


def test_it_waits_for_several_at_once(api: Api, chat: ChatOpenAI, answer: str) -> None:
    async def ask() -> list[Any]:
        return await asyncio.gather(*(chat.ainvoke(api.question) for _ in range(3)))

    assert [made.content for made in asyncio.run(ask())] == [answer] * 3


def test_it_stops(api: Api, chat: ChatOpenAI, answer: str) -> None:
    stop = answer.split()[2]
    assert chat.invoke(api.question, stop=[stop]).content == answer[: answer.index(stop)]


def test_it_reads_probabilities(api: Api, chat: ChatOpenAI) -> None:
    made = chat.bind(logprobs=True, max_tokens=4).invoke(api.question)
    assert len(made.response_metadata["logprobs"]["content"]) == 4


def test_it_completes(api: Api) -> None:
    plain = OpenAI(model=api.model, base_url=f"{api.url}/v1", api_key=api.key, temperature=0, max_retries=0)
    assert plain.invoke(api.question) == api.text(max_tokens=256).choices[0].text


@pytest.mark.needs("tools")
def test_it_binds_tools(chat: ChatOpenAI, call: str) -> None:
    (made,) = chat.bind_tools([get_weather]).invoke(call).tool_calls
    assert made["name"] == "get_weather" and made["args"]["city"]


@pytest.mark.needs("tools")
def test_it_streams_calls(chat: ChatOpenAI, call: str) -> None:
    chunks = list(chat.bind_tools([get_weather]).stream(call))
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    assert total.tool_calls[0]["name"] == "get_weather"


@pytest.mark.needs("tools")
def test_it_goes_round(chat: ChatOpenAI, call: str) -> None:
    """Question, call, result, answer."""
    bound = chat.bind_tools([get_weather])
    made = bound.invoke(call)
    result = ToolMessage("sunny, 21 degrees", tool_call_id=made.tool_calls[0]["id"])
    assert bound.invoke([HumanMessage(call), made, result]).content


@pytest.mark.needs("responses")
def test_it_speaks_the_newer_api(api: Api, answer: str) -> None:
    newer = ChatOpenAI(
        model=api.model, base_url=f"{api.url}/v1", api_key=api.key, temperature=0, use_responses_api=True, max_retries=0
    )
    made = newer.invoke(api.question)
    assert "".join(block["text"] for block in made.content if block["type"] == "text") == answer


@pytest.mark.needs("guided")
def test_it_binds_answers_to_a_schema(chat: ChatOpenAI, api: Api) -> None:
    schema = {
        "title": "Person", "description": "Somebody", "type": "object", "required": ["name"],
        "properties": {"name": {"type": "string"}}, "additionalProperties": False,
    }  # fmt: skip
    made = chat.with_structured_output(schema, method="json_schema").invoke(api.question)
    assert isinstance(made["name"], str)
