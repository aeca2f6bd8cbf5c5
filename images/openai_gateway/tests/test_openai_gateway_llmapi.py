# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica that is Triton with the repository `llmapi`: found out by asking it, and spoken to by its own names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai_gateway_fakes import OPEN, FakeTriton, Gateway, Network, gateway, make_checkpoint, model_entry
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

REPLY = "Hello, world!"
SAMPLING = (
    "best_of", "temperature", "top_k", "top_p", "frequency_penalty", "presence_penalty", "max_tokens", "stop", "seed",
    "exclude_input_from_output", "return_perf_metrics",
)  # fmt: skip
INPUTS = ["text_input", "streaming", *(f"sampling_param_{name}" for name in SAMPLING), "return_finish_reason", "stop"]
BODY = {"model": "tiny", "prompt": "What is", "max_tokens": 50, "temperature": 0}


class FakeLlmApi(FakeTriton):
    """The one model of that repository; a request with a name that is no input of it is remembered in `strange`."""

    def __init__(self, checkpoint: Path, **options: Any) -> None:
        super().__init__(checkpoint, REPLY, **options)
        self.strange: set[str] = set()

    async def _config(self, request: Request) -> Response:
        name = request.path_params["model"]
        if name != "tensorrt_llm":
            return JSONResponse({"error": f"Request for unknown model: '{name}' is not found"}, 400)
        return JSONResponse(
            {
                "name": name, "input": [{"name": one} for one in INPUTS], "output": [{"name": "text_output"}],
                "model_transaction_policy": {"decoupled": self.decoupled},
            }
        )  # fmt: skip

    async def _translated(self, request: Request) -> None:
        body = await request.json()
        self.strange |= set(body) - {*INPUTS, "id"}
        assert body["sampling_param_exclude_input_from_output"] is True and body["return_finish_reason"] is True
        body |= {"max_tokens": body["sampling_param_max_tokens"], "stream": body["streaming"]}
        request._json = body

    async def _generate(self, request: Request) -> Response:
        await self._translated(request)
        return await super()._generate(request)

    async def _stream(self, request: Request) -> Response:
        await self._translated(request)
        return await super()._stream(request)

    def _response(self, body: dict[str, Any], text: str, new: int) -> dict[str, Any]:
        whole = text == self.tokenizer.decode(self._write(body))
        reason = "length" if len(self._write(body)) == body["max_tokens"] else "stop"
        return {"text_output": text, "finish_reason": reason if whole else "None"}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "checkpoint")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def before(checkpoint: Path, **hosts: FakeTriton) -> Gateway:
    return gateway(Network(**hosts), model_entry(checkpoint, *(f"http://{name}:8000" for name in hosts)))


@pytest.mark.parametrize("decoupled", [True, False])
def test_it_is_asked_by_the_names_that_it_has(checkpoint: Path, decoupled: bool) -> None:
    triton = FakeLlmApi(checkpoint, decoupled=decoupled)
    send = before(checkpoint, one=triton)
    answer = send("/v1/completions", {**BODY, "temperature": 0.5, "top_p": 0.5, "seed": 7}).json()
    assert (answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]) == (REPLY, "stop")
    seen = triton.seen[-1]
    assert (seen["sampling_param_top_p"], seen["sampling_param_seed"]) == (0.5, 7)
    assert not triton.strange
    stream = send("/v1/completions", {**BODY, "stream": True})
    events = [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: {")]
    assert "".join(event["choices"][0]["text"] for event in events if event["choices"]) == REPLY


def test_why_an_answer_ended_is_what_the_engine_says(checkpoint: Path) -> None:
    send = before(checkpoint, one=FakeLlmApi(checkpoint))
    assert send("/v1/completions", {**BODY, "max_tokens": 3}).json()["choices"][0]["finish_reason"] == "length"
    stopped = send("/v1/completions", {**BODY, "stop": "world"}).json()["choices"][0]
    assert (stopped["text"], stopped["finish_reason"]) == ("Hello, ", "stop")


@pytest.mark.parametrize("more", [{"logprobs": 1}, {"min_tokens": 3}, {"repetition_penalty": 1.5}])
def test_what_it_has_no_word_for_is_refused_by_name(checkpoint: Path, more: dict[str, Any]) -> None:
    refused = before(checkpoint, one=FakeLlmApi(checkpoint))("/v1/completions", {**BODY, **more})
    assert refused.status_code == 400 and next(iter(more)) in refused.json()["error"]["message"]


def test_it_is_fronted_beside_an_engine_and_is_one_today_and_the_other_tomorrow(checkpoint: Path) -> None:
    new, old = FakeLlmApi(checkpoint), FakeTriton(checkpoint, REPLY)
    send = before(checkpoint, new=new, old=old)
    assert [send("/v1/completions", BODY).json()["choices"][0]["text"] for _request in range(4)] == [REPLY] * 4
    assert len(new.seen) == len(old.seen) == 2
    assert set(send("/health/ready").json()["models"]["tiny"].values()) == {"ready"}


def test_an_entry_model_of_that_name_is_seen_for_what_it_is(checkpoint: Path) -> None:
    triton = FakeLlmApi(checkpoint)
    entry = model_entry(checkpoint, "http://one:8000", entry_model="tensorrt_llm")
    send = gateway(Network(one=triton), entry)
    assert send("/v1/completions", BODY).json()["choices"][0]["text"] == REPLY and not triton.strange
