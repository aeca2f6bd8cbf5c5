# SPDX-License-Identifier: GPL-3.0-or-later
"""Bound answers end to end: a repository of the collection's, the CPU image's Triton, the gateway, official clients.

The repository says guided_decoding_backend and nothing else of it. Needs root, podman and the CPU image.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pydantic
import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.entry import EntryRequest
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.repository import Repository
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.request import RepositoryRequest
from contract.test_openai_gateway_triton import ANSWER, HI, QUESTION, Served, streamed, whole_server
from contract.test_openai_gateway_triton import chat as chat_greedily
from contract.test_triton_cpu_live import IMAGE, podman
from contract.test_triton_cpu_live import room as room
from openai_gateway_fakes import running
from triton_cpu_fakes import SOURCE

pytestmark = pytest.mark.slow

IN_JSON: list[Any] = [{"role": "user", "content": "Describe yourself in JSON."}]
NAME = {"type": "string", "pattern": "^[a-z]{2,12}$"}
SCHEMAS: dict[str, dict[str, Any]] = {
    "flat": {
        "type": "object",
        "properties": {"name": NAME, "age": {"type": "integer"}, "well": {"type": "boolean"}},
        "required": ["name", "age", "well"],
        "additionalProperties": False,
    },
    "nested": {
        "type": "object",
        "properties": {
            "place": {
                "type": "object",
                "properties": {"city": {"enum": ["Bonn", "Trier"]}, "height": {"type": "number"}},
                "required": ["city", "height"],
                "additionalProperties": False,
            },
            "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 1, "maxItems": 3},
        },
        "required": ["place", "tags"],
        "additionalProperties": False,
    },
    "definitions": {
        "type": "object",
        "properties": {"first": {"$ref": "#/$defs/step"}, "last": {"$ref": "#/$defs/step"}},
        "required": ["first", "last"],
        "additionalProperties": False,
        "$defs": {
            "step": {
                "type": "object",
                "properties": {"kind": {"const": "step"}, "count": {"type": "integer"}},
                "required": ["kind", "count"],
                "additionalProperties": False,
            }
        },
    },
    "either": {
        "type": "object",
        "properties": {"value": {"anyOf": [{"type": "null"}, {"enum": [1, 2, 3]}]}},
        "required": ["value"],
        "additionalProperties": False,
    },
    "date": {
        "type": "object",
        "properties": {
            "day": {"type": "string", "format": "date"},
            "code": {"type": "string", "pattern": "^[A-Z]{3}$"},
        },
        "required": ["day", "code"],
        "additionalProperties": False,
    },
}
DATE = r"[0-9]{4}-(0[1-9]|1[0-2])-[0-9]{2}"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Bonn", "Trier"]}, "days": {"type": "integer"}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
# The tiny checkpoint's template knows nothing of tools.
TOOL_TEMPLATE = (
    "{% if tools %}<|system|>{% for tool in tools %}{{ tool | tojson }}{% endfor %}<tool_call><|end|>{% endif %}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def rendered(room: Path) -> Path:
    """The repository as the collection renders it where a model says one parameter."""
    parameters = {
        "tensorrt_llm": {"guided_decoding_backend": "xgrammar", "kv_cache_free_gpu_mem_fraction": 0.1},
        "tensorrt_llm_bls": {"bls_instance_count": 2},
    }
    entry = EntryRequest(
        engine_dir=str(room / "e1"), tokenizer_dir=str(room / "tiny"), streaming=True, parameters=parameters
    )
    templates = str(SOURCE / "all_models")
    request = RepositoryRequest(name="tiny", release=LAST, root=room / "root", templates=templates, entries=[entry])
    return Path(Repository(request).present().facts["repository_dir"])


@pytest.fixture(scope="module", params=["tensorrt_llm_bls", "ensemble"])
def served(request: pytest.FixtureRequest, room: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    triton = whole_server(room, repository=rendered(room))
    place = tmp_path_factory.mktemp("gateway")
    (place / "tools.jinja").write_text(TOOL_TEMPLATE)
    model = {"name": "tiny", "entry_model": request.param, "urls": [f"http://127.0.0.1:{triton.http}"]}
    model |= {"tokenizer_dir": str(room / "tiny"), "release": LAST, "max_seq_len": 512}
    with_tools = {**model, "name": "tools", "chat_template": str(place / "tools.jinja")}
    try:
        with running(place, {"models": [model, with_tools]}) as (_process, url):
            yield Served(triton, url, request.param)
    finally:
        triton.remove()


def chat(served: Served, seed: int | None = None, **more: Any) -> str:
    """An answer's text: the likeliest, or one by chance."""
    if seed is not None:
        more |= {"temperature": 1, "seed": seed}
    choice = chat_greedily(served, **{"max_tokens": 300, **more}).choices[0]
    assert choice.finish_reason == "stop"
    return str(choice.message.content)


def both(served: Served, **more: Any) -> str:
    """The text of a whole answer, which a stream repeats."""
    text = chat(served, **more)
    assert streamed(served, **{"max_tokens": 300, **more})[:2] == (text, "stop")
    return text


def test_the_repositorys_file_is_what_the_images_script_writes(room: Path) -> None:
    published = json.loads((rendered(room) / "tensorrt_llm/xgrammar_tokenizer_info.json").read_text())
    script = (
        f"python3 /app/examples/generate_xgrammar_tokenizer_info.py --model_dir {room}/tiny --output_dir {room}/info"
    )
    podman("run", "--rm", "--privileged", f"--volume={room}:{room}", IMAGE, "sh", "-c", script)
    written = json.loads((room / "info/xgrammar_tokenizer_info.json").read_text())
    assert {**published, "tokenizer_str": json.loads(published["tokenizer_str"])} == {
        **written, "tokenizer_str": json.loads(written["tokenizer_str"])
    }  # fmt: skip


@pytest.mark.parametrize("seed", [None, 1, 2, 3, 4])
def test_json_parses(served: Served, seed: int | None) -> None:
    more: Any = {"response_format": {"type": "json_object"}}
    if seed is None:
        for question in ("Describe yourself in JSON.", "Why?"):
            assert json.loads(both(served, messages=[{"role": "user", "content": question}], **more))
    else:
        json.loads(chat(served, seed, messages=IN_JSON, **more))


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_kept(served: Served, name: str) -> None:
    schema = SCHEMAS[name]
    wanted: Any = {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}
    jsonschema.validate(json.loads(both(served, response_format=wanted)), schema)
    for seed in range(6):
        jsonschema.validate(json.loads(chat(served, seed, response_format=wanted)), schema)
    for body in ({"guided_json": schema}, {"structured_outputs": {"json": schema}}):
        jsonschema.validate(json.loads(chat(served, 7, extra_body=body)), schema)


def test_expressions_choices_and_grammars_are_kept(served: Served) -> None:
    assert re.fullmatch(DATE, both(served, extra_body={"guided_regex": DATE}))
    choices = ["no thanks", "a+b", "x | y", "(c)"]
    if served.entry == "tensorrt_llm_bls":  # the ensemble decodes each token alone, and so loses such characters
        choices.append("été 2024, Köln")
    found = set()
    for seed in range(8):
        assert re.fullmatch(DATE, chat(served, seed, extra_body={"structured_outputs": {"regex": DATE}}))
        found.add(chat(served, seed, temperature=2, extra_body={"guided_choice": choices}))
        grammar = 'root ::= greeting ", " name\ngreeting ::= "Hello" | "Good day"\nname ::= [A-Z] [a-z]{2,5}'
        text = chat(served, seed, extra_body={"guided_grammar": grammar})
        assert re.fullmatch("(Hello|Good day), [A-Z][a-z]{2,5}", text)
    assert found <= set(choices) and len(found) > 1
    for choice in choices:
        assert both(served, extra_body={"guided_choice": [choice]}) == choice


def test_completions_and_the_newer_apis_are_bound_too(served: Served) -> None:
    more: Any = {"extra_body": {"guided_regex": "[a-f]{8}"}, "max_tokens": 60}
    answer = served.client.completions.create(model="tiny", prompt=["Why?", QUESTION], n=2, **more)
    assert len(answer.choices) == 4 and all(re.fullmatch("[a-f]{8}", choice.text) for choice in answer.choices)
    schema = SCHEMAS["flat"]
    text: Any = {"format": {"type": "json_schema", "name": "flat", "schema": schema}}
    response = served.client.responses.create(model="tiny", input=QUESTION, text=text, max_output_tokens=200)
    jsonschema.validate(json.loads(response.output_text), schema)
    config: Any = {"format": {"type": "json_schema", "schema": schema}}
    message = served.claude.messages.create(model="tiny", messages=HI, output_config=config, max_tokens=200)
    jsonschema.validate(json.loads(message.content[0].text), schema)  # type: ignore[union-attr]


def test_the_official_client_parses_what_it_asked_for(served: Served) -> None:
    class Person(pydantic.BaseModel):
        name: str = pydantic.Field(max_length=12)
        age: int
        well: bool

    answer = served.client.chat.completions.parse(
        model="tiny", messages=HI, response_format=Person, max_tokens=200, temperature=0
    )
    assert isinstance(answer.choices[0].message.parsed, Person)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("tools", "choice"),
    [
        ([WEATHER], "required"),
        ([WEATHER, CLOCK], {"type": "function", "function": {"name": "weather"}}),
    ],
)
def test_a_demanded_call_keeps_to_its_schema(served: Served, tools: Any, choice: Any, stream: bool) -> None:
    given: Any = {"model": "tools", "messages": HI, "tools": tools, "tool_choice": choice, "max_tokens": 200}
    for seed in range(3):
        answer = served.client.chat.completions.create(**given, seed=seed, stream=stream)
        if stream:
            calls = [call for chunk in answer for one in chunk.choices for call in one.delta.tool_calls or ()]
        else:
            calls = answer.choices[0].message.tool_calls
        (call,) = calls
        assert call.function.name == "weather"
        jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])


def test_any_call_names_a_function_that_was_offered(served: Served) -> None:
    for seed in range(6):
        answer = served.client.chat.completions.create(
            model="tools", messages=HI, tools=[WEATHER, CLOCK], tool_choice="required", max_tokens=250, seed=seed
        )  # type: ignore[call-overload]
        choice = answer.choices[0]
        if choice.finish_reason != "length":
            (call,) = choice.message.tool_calls
            assert call.function.name in ("weather", "clock") and isinstance(json.loads(call.function.arguments), dict)


def test_an_answer_that_is_too_long_says_so(served: Served) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMAS["nested"]}}
    choice = chat_greedily(served, max_tokens=4, response_format=wanted).choices[0]
    assert choice.finish_reason == "length" and choice.message.content.startswith("{")


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"guided_regex": "("}, "guided_regex", "no regular expression"),
        ({"guided_regex": r"[0-9]{3}\b"}, None, "can be followed"),
        ({"guided_json": {"type": "nope"}}, None, "Unsupported type"),
        ({"guided_grammar": "root ::= nothing"}, None, "is not defined"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag", "nothing that Triton"),
    ],
)
def test_a_guide_that_cannot_be_followed_is_a_400(served: Served, body: Any, param: str | None, says: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        chat(served, extra_body=body)
    assert says in refused.value.message and refused.value.param == param
    assert chat(served) == ANSWER, "and the next request is served"


def test_bound_and_free_answers_run_beside_each_other(served: Served) -> None:
    """In one batch: each keeps to its own guide."""
    from concurrent.futures import ThreadPoolExecutor

    def ask(number: int) -> tuple[int, str]:
        more = ({}, {"extra_body": {"guided_regex": DATE}}, {"extra_body": {"guided_choice": ["yes", "no"]}})[
            number % 3
        ]
        return number % 3, chat(served, **more)

    with ThreadPoolExecutor(12) as pool:
        for kind, text in pool.map(ask, range(24)):
            assert (text == ANSWER, bool(re.fullmatch(DATE, text)), text in ("yes", "no"))[kind]
