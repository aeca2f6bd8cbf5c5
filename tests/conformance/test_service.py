# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of models, tokens of a text, and what operators ask for."""

from __future__ import annotations

import openai
import pytest
from conformance_api import Api, refused


def test_models_are_listed(api: Api) -> None:
    listed = api.openai.models.list()
    assert listed.object == "list" and api.model in [model.id for model in listed.data]


def test_a_card_has_its_documented_fields(api: Api) -> None:
    card = next(model for model in api.openai.models.list() if model.id == api.model)
    assert card.object == "model" and card.created > 0 and card.owned_by


def test_a_card_can_be_had_alone(api: Api) -> None:
    assert api.openai.models.retrieve(api.model).id == api.model


def test_an_unknown_card_is_not_found(api: Api) -> None:
    with pytest.raises(openai.NotFoundError):
        api.openai.models.retrieve("no-such-model")


def test_the_asynchronous_client_lists_models(api: Api) -> None:
    async def names(client: openai.AsyncOpenAI) -> list[str]:
        return [model.id async for model in client.models.list()]

    assert api.model in api.asynchronous(names)


@pytest.mark.needs("limits")
def test_a_card_tells_the_context(api: Api) -> None:
    card = api.http.get(f"/v1/models/{api.model}").json()
    assert card["max_model_len"] > 0


def test_embeddings_are_made_or_properly_refused(api: Api) -> None:
    answer = api.post("/v1/embeddings", {"model": api.model, "input": "Hi"})
    if answer.status_code != 200:
        assert answer.status_code in (400, 404) and answer.json()["error"]["message"]


@pytest.mark.needs("tokenize")
def test_a_text_has_tokens(api: Api) -> None:
    found = api.post("/tokenize", {"model": api.model, "prompt": api.question}).json()
    assert found["count"] == len(found["tokens"]) > 0


@pytest.mark.needs("tokenize")
def test_tokens_are_as_many_as_the_model_reads(api: Api) -> None:
    found = api.post("/tokenize", {"model": api.model, "prompt": api.question}).json()
    assert found["count"] == api.text(max_tokens=1).usage.prompt_tokens


@pytest.mark.needs("tokenize")
def test_a_conversation_has_tokens(api: Api) -> None:
    found = api.post("/tokenize", {"model": api.model, "messages": api.messages}).json()
    assert found["count"] == api.chat(max_tokens=1).usage.prompt_tokens


@pytest.mark.needs("tokenize")
@pytest.mark.parametrize("text", ["Hello world", "naïve €", "😀", "line\nline", " two  blanks "])
def test_tokens_are_of_their_text(api: Api, text: str) -> None:
    body = {"model": api.model, "prompt": text, "add_special_tokens": False}
    tokens = api.post("/tokenize", body).json()["tokens"]
    assert api.post("/detokenize", {"model": api.model, "tokens": tokens}).json()["prompt"] == text


@pytest.mark.needs("tokenize")
def test_tokens_can_be_had_as_texts(api: Api) -> None:
    body = {"model": api.model, "prompt": "Hello world", "return_token_strs": True}
    found = api.post("/tokenize", body).json()
    assert len(found["token_strs"]) == found["count"]


@pytest.mark.needs("tokenize")
@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
def test_tokens_need_a_text_and_texts_need_tokens(api: Api, path: str) -> None:
    refused(api.post(path, {"model": api.model}))


@pytest.mark.needs("tokenize")
def test_a_token_that_no_model_has_is_refused(api: Api) -> None:
    refused(api.post("/detokenize", {"model": api.model, "tokens": [2**31 - 1]}))


@pytest.mark.needs("tokenize")
def test_tokens_of_an_unknown_model_are_not_found(api: Api) -> None:
    refused(api.post("/tokenize", {"model": "no-such-model", "prompt": "Hi"}), status=404)


@pytest.mark.needs("service")
def test_it_says_that_it_lives(api: Api) -> None:
    assert api.http.get("/health").status_code == 200


@pytest.mark.needs("service")
def test_it_says_that_its_models_answer(api: Api) -> None:
    assert api.http.get("/health/ready").status_code == 200


@pytest.mark.needs("service")
def test_it_says_its_version(api: Api) -> None:
    assert api.http.get("/version").json()["version"]


@pytest.mark.needs("service")
def test_it_measures_itself(api: Api) -> None:
    answer = api.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain") and "# TYPE" in answer.text


@pytest.mark.needs("service")
def test_a_request_is_counted(api: Api) -> None:
    def tokens() -> float:
        lines = api.http.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if "completion_tokens_total{" in line)

    before = tokens()
    api.chat(max_tokens=5)
    assert tokens() == before + 5


@pytest.mark.needs("service")
def test_it_describes_what_it_serves(api: Api) -> None:
    document = api.http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    paths = ["/v1/chat/completions", "/v1/completions", "/v1/models"]
    assert all(path in document["paths"] for path in paths)


@pytest.mark.needs("service")
def test_a_web_page_of_elsewhere_may_not_ask(api: Api) -> None:
    answer = api.http.options("/v1/models", headers={"Origin": "https://x", "Access-Control-Request-Method": "GET"})
    assert "access-control-allow-origin" not in answer.headers
