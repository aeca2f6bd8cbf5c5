# SPDX-License-Identifier: GPL-3.0-or-later
"""Replicas that are no Triton but have OpenAI's completions: how they are found out, asked and believed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="images/openai_gateway/requirements.txt is not installed")

from openai_gateway_fakes import OPEN, FakeTriton, Network, gateway, make_checkpoint, model_entry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

BODY = {"model": "tiny", "prompt": "Hi", "max_tokens": 6, "temperature": 0}


class FakeServe:
    """A server of completions that writes one word after the other, or what it is told to."""

    def __init__(self) -> None:
        self.words = ["Hello", ",", " world"]
        self.status, self.said = 200, ""
        self.ends = "data: [DONE]\n\n"
        self.seen: list[dict[str, Any]] = []
        self.app = Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/completions", self._completions, methods=["POST"]),
            ]
        )

    async def _models(self, _request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "some-llama"}]})

    async def _completions(self, request: Request) -> Response:
        self.seen.append(await request.json())
        if self.status != 200:
            return Response(self.said, self.status)
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def _events(self) -> AsyncIterator[str]:
        for number, word in enumerate(self.words, 1):
            usage = {"prompt_tokens": 2, "completion_tokens": number, "total_tokens": 2 + number}
            choice = {"index": 0, "text": word, "finish_reason": "length" if number == len(self.words) else None}
            yield f"data: {json.dumps({'choices': [choice], 'usage': usage})}\n\n"
        if self.ends:
            yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n{self.ends}"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def served() -> Iterator[FakeServe]:
    yield FakeServe()
    while OPEN:
        OPEN.pop().close()


def front(served: Any, checkpoint: Path, *others: str, **hosts: Any) -> Any:
    network = Network(serve=served, **hosts)
    return gateway(network, model_entry(checkpoint, "http://serve:8000", *others))


def test_it_is_sent_what_completions_know_and_nothing_else(served: FakeServe, checkpoint: Path) -> None:
    one = front(served, checkpoint)
    answer = one("/v1/completions", {**BODY, "stop": ["x"], "presence_penalty": 0.5, "min_tokens": 1}).json()
    assert answer["choices"][0]["text"] == "Hello, world"
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    (asked,) = served.seen
    assert asked | {"stop": []} == {
        "model": "some-llama", "prompt": "Hi", "max_tokens": 6, "top_k": 1, "stop": [], "presence_penalty": 0.5,
        "min_tokens": 1, "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }  # fmt: skip
    assert asked["stop"][-1] == "x"


def test_a_chat_is_sent_as_a_finished_prompt(served: FakeServe, checkpoint: Path) -> None:
    one = front(served, checkpoint)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5, "seed": 7}
    assert one("/v1/chat/completions", body).json()["choices"][0]["message"]["content"] == "Hello, world"
    assert served.seen[0]["prompt"].startswith("<|user|>\nHi"), "the server puts the first token before it itself"
    assert (served.seen[0]["temperature"], served.seen[0]["seed"]) == (0.5, 7)


@pytest.mark.parametrize("param", ["bad_words", "logit_bias", "logprobs", "guided_regex"])
def test_what_it_has_no_word_for_is_refused_by_name(served: FakeServe, checkpoint: Path, param: str) -> None:
    given = {"bad_words": ["x"], "logit_bias": {"5": 1}, "logprobs": 1, "guided_regex": "a"}[param]
    refused = front(served, checkpoint)("/v1/completions", {**BODY, param: given})
    assert refused.status_code == 400 and param in refused.json()["error"]["message"] and not served.seen


@pytest.mark.parametrize(
    ("status", "said", "meant"),
    [
        (400, {"object": "error", "message": "Prompt length (9) exceeds maximum input length (4)"}, 400),
        (400, {"object": "error", "message": "CUDA error: an illegal memory access"}, 502),
        (400, {"object": "error", "message": "something else"}, 502),
        (503, {"message": "the executor is gone"}, 503),
        (500, "Internal Server Error", 502),
        (404, {"detail": "Not Found"}, 503),
    ],
)
def test_what_an_error_means_is_in_its_words(
    served: FakeServe, checkpoint: Path, status: int, said: Any, meant: int
) -> None:
    served.status, served.said = status, said if isinstance(said, str) else json.dumps(said)
    assert front(served, checkpoint)("/v1/completions", BODY).status_code == meant


def test_an_answer_that_breaks_off_is_no_answer(served: FakeServe, checkpoint: Path) -> None:
    served.ends = ""
    one = front(served, checkpoint)
    assert one("/v1/completions", BODY).status_code == 502
    served.words = []
    served.ends = 'data: {"object": "error", "message": "executor failed"}\n\n'
    assert one("/v1/completions", BODY).status_code >= 500


def test_both_kinds_serve_one_name_and_one_that_fails_leaves_it_to_the_other(
    served: FakeServe, checkpoint: Path
) -> None:
    triton = FakeTriton(checkpoint, "Hello, world")
    one = front(served, checkpoint, "http://triton:8000", triton=triton)
    assert {one("/v1/completions", BODY).json()["choices"][0]["text"] for _request in range(4)} == {"Hello, world"}
    assert len(served.seen) == len(triton.seen) == 2
    served.status, served.said = 500, "x"
    assert [one("/v1/completions", BODY).status_code for _request in range(4)] == [200] * 4


def test_a_server_of_neither_kind_is_not_ready(checkpoint: Path, served: FakeServe) -> None:
    served.app.router.routes.clear()
    one = front(served, checkpoint)
    assert one("/v1/completions", BODY).status_code == 503
    assert "no model" in one("/health/ready").json()["models"]["tiny"]["http://serve:8000"]
