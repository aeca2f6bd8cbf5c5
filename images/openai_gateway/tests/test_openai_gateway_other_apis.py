# SPDX-License-Identifier: GPL-3.0-or-later
"""/v1/responses and /v1/messages with their official clients, and what is beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="images/openai_gateway/requirements.txt is not installed")

import anthropic
import httpx
import openai
from openai_gateway_fakes import FakeTriton, Network, gateway, make_checkpoint, model_entry, running, serving
from pydantic import BaseModel
from test_openai_gateway_features import CALL, TOOL_TEMPLATE

KEY = "sk-test-0123456789"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    added = ["<think>", "</think>"]
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", template=TOOL_TEMPLATE, added=added)


@pytest.fixture(scope="module")
def served(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeTriton, str]]:
    directory = tmp_path_factory.mktemp("gateway")
    triton = FakeTriton(checkpoint, guided="xgrammar")
    keys = directory / "keys"
    keys.touch(mode=0o600)
    keys.write_text(f"{KEY}\n")
    with serving(triton.app) as backend:
        config = {"models": [model_entry(checkpoint, backend, max_seq_len=4096)], "api_keys_file": str(keys)}
        with running(directory, {**config, "cors_origins": ["https://app.example"]}) as (_process, url):
            yield triton, url


@pytest.fixture
def triton(served: tuple[FakeTriton, str]) -> FakeTriton:
    served[0].reply, served[0].fail, served[0].fail_after = "Hello, world!", None, None
    served[0].seen.clear()
    return served[0]


@pytest.fixture
def url(served: tuple[FakeTriton, str]) -> str:
    return served[1]


@pytest.fixture
def client(url: str, triton: FakeTriton) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)


@pytest.fixture
def claude(url: str, triton: FakeTriton) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0)


HI: list[Any] = [{"role": "user", "content": "Hi"}]
THOUGHTFUL = "<think>Hm.</think>\n\nHello!"


class TestResponses:
    def test_a_text_is_answered(self, client: openai.OpenAI, triton: FakeTriton) -> None:
        answer = client.responses.create(model="tiny", input="Hi", instructions="Be brief.", max_output_tokens=50)
        assert (answer.output_text, answer.status) == ("Hello, world!", "completed")
        assert answer.usage is not None and answer.usage.input_tokens > 1 and answer.usage.output_tokens > 1
        assert triton.seen[0]["text_input"].startswith("<|system|>Be brief.<|user|>Hi")
        assert triton.seen[0]["max_tokens"] == 50

    def test_an_answer_that_was_cut_off_is_incomplete(self, client: openai.OpenAI) -> None:
        answer = client.responses.create(model="tiny", input="Hi", max_output_tokens=2)
        assert answer.status == "incomplete"
        assert answer.incomplete_details is not None and answer.incomplete_details.reason == "max_output_tokens"

    def test_the_history_is_given_back_as_it_came(self, client: openai.OpenAI, triton: FakeTriton) -> None:
        triton.reply = f"See: {CALL}"
        tools: Any = [{"type": "function", "name": "weather", "parameters": PARAMETERS}]
        first = client.responses.create(model="tiny", input="Rain?", tools=tools, max_output_tokens=300)
        call = next(item for item in first.output if item.type == "function_call")
        assert (call.name, call.arguments) == ("weather", '{"city": "Köln"}')
        triton.reply = "No."
        items: Any = [
            {"role": "user", "content": [{"type": "input_text", "text": "Rain?"}]},
            *(item.model_dump() for item in first.output),
            {"type": "function_call_output", "call_id": call.call_id, "output": "dry"},
        ]
        assert client.responses.create(model="tiny", input=items, tools=tools).output_text == "No."
        text = triton.seen[1]["text_input"]
        assert '<|user|>Rain?<|assistant|>See:<tool_call>{"name": "weather", "arguments"' in text
        assert text.endswith("<|tool|>dry<|assistant|>")

    @pytest.mark.parametrize("reply", ["Hello, world!", THOUGHTFUL, f"See: {CALL}"])
    def test_the_events_make_the_same_answer(self, client: openai.OpenAI, triton: FakeTriton, reply: str) -> None:
        triton.reply = reply
        tools: Any = [{"type": "function", "name": "weather", "parameters": PARAMETERS}]
        given: Any = {"model": "tiny", "input": "Hi", "tools": tools, "max_output_tokens": 300}
        whole = client.responses.create(**given)
        events = list(client.responses.create(**given, stream=True))
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
        streamed = events[-1].response  # type: ignore[union-attr]

        def plain(items: Any) -> list[Any]:
            return [{k: v for k, v in item.model_dump().items() if k not in ("id", "call_id")} for item in items]

        assert plain(streamed.output) == plain(whole.output)
        assert streamed.usage == whole.usage
        deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert deltas == whole.output_text

    def test_structured_output_is_parsed(self, client: openai.OpenAI, triton: FakeTriton) -> None:
        class Answer(BaseModel):
            city: str

        triton.reply = '{"city": "Bonn"}'
        parsed = client.responses.parse(model="tiny", input="Where?", text_format=Answer, max_output_tokens=100)
        assert parsed.output_parsed == Answer(city="Bonn")
        assert triton.seen[0]["guided_decoding_guide_type"] == "json_schema"
        chat = client.chat.completions.parse(model="tiny", messages=HI, response_format=Answer, max_tokens=100)
        assert chat.choices[0].message.parsed == Answer(city="Bonn")

    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"previous_response_id": "resp_1"}, "previous_response_id"),
            ({"background": True}, "background"),
            ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
            ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ],
    )
    def test_what_needs_a_memory_or_a_tool_of_the_server_is_refused(
        self, client: openai.OpenAI, more: Any, param: str
    ) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(**{"model": "tiny", "input": "Hi", **more})
        assert refused.value.param == param

    def test_an_error_in_the_middle_is_a_failed_response(self, client: openai.OpenAI, triton: FakeTriton) -> None:
        triton.fail_after = 2
        events = list(client.responses.create(model="tiny", input="Hi", stream=True))
        assert events[-1].type == "response.failed"
        assert "Executor failed" in events[-1].response.error.message  # type: ignore[union-attr]


class TestMessages:
    def test_a_message_is_answered(self, claude: anthropic.Anthropic, triton: FakeTriton) -> None:
        more = {"temperature": 0.5, "top_k": 5}
        answer = claude.messages.create(model="tiny", max_tokens=50, messages=HI, system="Be brief.", extra_body=more)
        assert (triton.seen[0]["temperature"], triton.seen[0]["top_k"]) == (0.5, 5)
        assert (answer.content[0].text, answer.stop_reason) == ("Hello, world!", "end_turn")  # type: ignore[union-attr]
        assert answer.usage.input_tokens > 1 and answer.usage.output_tokens > 1
        assert triton.seen[0]["text_input"].startswith("<|system|>Be brief.<|user|>Hi")

    def test_it_says_why_an_answer_ended(self, claude: anthropic.Anthropic) -> None:
        stopped = claude.messages.create(model="tiny", max_tokens=50, messages=HI, stop_sequences=["zz", ", w"])
        assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", ", w")
        assert stopped.content[0].text == "Hello"  # type: ignore[union-attr]
        assert claude.messages.create(model="tiny", max_tokens=2, messages=HI).stop_reason == "max_tokens"

    def test_tools_are_used_and_their_results_read(self, claude: anthropic.Anthropic, triton: FakeTriton) -> None:
        triton.reply = f"See: {CALL}"
        tools: Any = [{"name": "weather", "input_schema": PARAMETERS}]
        first = claude.messages.create(model="tiny", max_tokens=300, messages=HI, tools=tools)
        use = first.content[1]
        assert first.stop_reason == "tool_use" and use.type == "tool_use"
        assert (use.name, use.input) == ("weather", {"city": "Köln"})
        triton.reply = "No."
        result = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "dry"}]}
        content = [block.model_dump(exclude_none=True) for block in first.content]
        history: Any = [*HI, {"role": "assistant", "content": content}, {"role": "user", "content": [result]}]
        claude.messages.create(model="tiny", max_tokens=50, messages=history, tools=tools)
        text = triton.seen[1]["text_input"]
        assert '<tool_call>{"name": "weather", "arguments": {"city": "Köln"}}</tool_call><|tool|>dry' in text

    def test_an_output_format_binds_the_answer(self, claude: anthropic.Anthropic, triton: FakeTriton) -> None:
        config: Any = {"effort": "low", "format": {"type": "json_schema", "schema": PARAMETERS}}
        claude.messages.create(model="tiny", max_tokens=300, messages=HI, output_config=config)
        assert triton.seen[0]["guided_decoding_guide_type"] == "json_schema"
        assert json.loads(triton.seen[0]["guided_decoding_guide"]) == PARAMETERS
        triton.guided = ""
        claude.messages.create(model="tiny", max_tokens=300, messages=HI, output_config={"effort": "low"})
        assert "guided_decoding_guide" not in triton.seen[1]

    @pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}, {"type": "none"}])
    def test_a_tool_can_be_demanded(self, claude: anthropic.Anthropic, triton: FakeTriton, choice: Any) -> None:
        triton.reply = '{"city": "Bonn"}}\n</tool_call>'
        tools: Any = [{"name": "weather", "input_schema": PARAMETERS}]
        answer = claude.messages.create(model="tiny", max_tokens=300, messages=HI, tools=tools, tool_choice=choice)
        kinds = [block.type for block in answer.content]
        assert kinds == (["text"] if choice["type"] == "none" else ["tool_use"])

    @pytest.mark.parametrize("reply", ["Hello, world!", THOUGHTFUL, f"See: {CALL}"])
    def test_the_events_make_the_same_answer(self, claude: anthropic.Anthropic, triton: FakeTriton, reply: str) -> None:
        triton.reply = reply
        tools: Any = [{"name": "weather", "input_schema": PARAMETERS}]
        given: Any = {"model": "tiny", "max_tokens": 300, "messages": HI, "tools": tools}
        whole = claude.messages.create(**given)
        with claude.messages.stream(**given) as stream:
            events = [event.type for event in stream]
            final = stream.get_final_message()

        def plain(content: Any) -> list[Any]:
            return [{k: v for k, v in block.model_dump().items() if k != "id"} for block in content]

        assert plain(final.content) == plain(whole.content)
        assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
        assert final.usage.input_tokens == whole.usage.input_tokens
        assert events[0] == "message_start" and events[-1] == "message_stop"

    def test_tokens_are_counted_as_the_engine_will(self, claude: anthropic.Anthropic) -> None:
        counted = claude.messages.count_tokens(model="tiny", messages=HI, system="Be brief.")
        used = claude.messages.create(model="tiny", max_tokens=5, messages=HI, system="Be brief.").usage
        assert counted.input_tokens == used.input_tokens

    def test_errors_have_anthropics_shape(self, claude: anthropic.Anthropic, url: str, triton: FakeTriton) -> None:
        with pytest.raises(anthropic.AuthenticationError):
            anthropic.Anthropic(base_url=url, api_key="wrong", max_retries=0).messages.count_tokens(
                model="tiny", messages=HI
            )
        with pytest.raises(anthropic.NotFoundError) as missing:
            claude.messages.create(model="claude", max_tokens=5, messages=HI)
        body: Any = missing.value.body
        assert (body["type"], body["error"]["type"]) == ("error", "not_found_error")
        image: Any = [{"role": "user", "content": [{"type": "image", "source": {}}]}]
        with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\].content\[0\]"):
            claude.messages.create(model="tiny", max_tokens=5, messages=image)
        triton.fail = (400, "Exceeds maximum queue size")
        with pytest.raises(anthropic.APIStatusError) as busy:
            claude.messages.create(model="tiny", max_tokens=5, messages=HI)
        assert busy.value.status_code == 503 and busy.value.response.headers["retry-after"]


def test_tokens_of_a_text_and_back(checkpoint: Path) -> None:
    triton = FakeTriton(checkpoint)
    send = gateway(Network(a=triton), model_entry(checkpoint, "http://a:8000"))
    answer = send("/tokenize", {"model": "tiny", "prompt": "Hello €", "return_token_strs": True}).json()
    assert answer["tokens"] == triton.tokenizer.encode("Hello €").ids and answer["count"] == len(answer["tokens"])
    assert answer["max_model_len"] == 256 and answer["token_strs"][0] == "<s>"
    plain = send("/tokenize", {"model": "tiny", "prompt": "Hello €", "add_special_tokens": False}).json()
    assert plain["tokens"] == answer["tokens"][1:]
    assert send("/detokenize", {"model": "tiny", "tokens": plain["tokens"]}).json() == {"prompt": "Hello €"}
    unknown = send("/detokenize", {"model": "tiny", "tokens": [plain["tokens"][0], 2_000_000_000]})
    assert unknown.status_code == 400 and unknown.json()["error"]["param"] == "tokens"
    talk = send("/tokenize", {"model": "tiny", "messages": HI}).json()
    whole = send("/v1/chat/completions", {"model": "tiny", "messages": HI}).json()
    assert talk["count"] == whole["usage"]["prompt_tokens"]
    assert send("/tokenize", {"model": "tiny"}).status_code == 400


def test_version_embeddings_and_keys(url: str) -> None:
    assert httpx.get(f"{url}/version").json()["version"]
    assert httpx.post(f"{url}/tokenize", json={"model": "tiny", "prompt": "x"}).status_code == 401
    key = {"Authorization": f"Bearer {KEY}"}
    refused = httpx.post(f"{url}/v1/embeddings", json={"model": "tiny", "input": "x"}, headers=key)
    assert refused.status_code == 400 and "embeddings" in refused.json()["error"]["message"]


def test_pages_of_other_origins_may_ask_only_where_that_is_configured(url: str, checkpoint: Path) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    allowed = httpx.options(f"{url}/v1/chat/completions", headers={"Origin": "https://app.example", **asked})
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    other = httpx.options(f"{url}/v1/chat/completions", headers={"Origin": "https://evil.example", **asked})
    assert "access-control-allow-origin" not in other.headers
    send = gateway(Network(a=FakeTriton(checkpoint)), model_entry(checkpoint, "http://a:8000"))
    answer = send("/v1/models", headers={"Origin": "https://app.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_the_served_document_describes_every_endpoint(url: str) -> None:
    found = httpx.get(f"{url}/openapi.json").json()
    for path in ("completions", "chat/completions", "responses", "messages", "messages/count_tokens"):
        schema = found["paths"][f"/v1/{path}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        name = schema["$ref"].rsplit("/", 1)[1]
        assert found["components"]["schemas"][name]["properties"]["model"]["enum"] == ["tiny"]
    assert {"/v1/models", "/health", "/metrics", "/tokenize"} <= found["paths"].keys()
    refs = [word for word in str(found).replace("'", " ").split() if word.startswith("#/components/")]
    assert all(ref.rsplit("/", 1)[1] in found["components"]["schemas"] for ref in refs)
