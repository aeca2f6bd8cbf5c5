# SPDX-License-Identifier: GPL-3.0-or-later
"""One suite for any server that says it speaks OpenAI's API. Its key is in OPENAI_API_KEY, as clients have it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
from conformance_api import Api

# What a server may be said to offer beyond completions and chat, with streams, usage and errors.
OFFERS = {
    "tools": "the model calls functions",
    "guided": "answers can be bound to a schema, an expression or a choice",
    "unguided": "bound answers are refused by name, as guided decoding is off",
    "top_logprobs": "the probabilities of tokens that were not taken",
    "min_p": "sampling by min_p",
    "responses": "/v1/responses",
    "messages": "/v1/messages of Anthropic's API",
    "tokenize": "/tokenize and /detokenize",
    "extras": "sampling parameters of other servers of open models",
    "service": "health, metrics, version and an OpenAPI document",
    "limits": "a model with a context of a known length",
    "keys": "requests without a key are refused",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    group.addoption("--base-url", help="address of the server, without /v1")
    group.addoption("--model", help="the model to ask for")
    group.addoption(
        "--offers", default="", help=f"comma-separated, of {', '.join(OFFERS)}; 'all' but unguided and keys"
    )
    group.addoption("--question", default="What is a GPU?", help="what the model answers in several words, and ends")
    group.addoption("--patience", type=float, default=120.0, help="seconds that a check may take (default: 120)")
    group.addoption("--call", default="What is the weather in Paris?", help="what the model calls get_weather for")


def pytest_configure(config: pytest.Config) -> None:
    for name in ("--base-url", "--model"):
        if not config.getoption(name):
            raise pytest.UsageError(f"{name} is not given; say which server and which model is asked.")
    wrong = offered(config) - set(OFFERS)
    if wrong:
        raise pytest.UsageError(f"--offers has {', '.join(sorted(wrong))}; give some of {', '.join(OFFERS)}.")


def offered(config: pytest.Config) -> set[str]:
    """The features that the server is said to have."""
    words = set(filter(None, config.getoption("--offers").split(",")))
    return (words - {"all"}) | (set(OFFERS) - {"unguided", "keys"} if "all" in words else set())


def pytest_runtest_setup(item: pytest.Item) -> None:
    needed = {feature for mark in item.iter_markers("needs") for feature in mark.args}
    if missing := needed - offered(item.config):
        words = " and ".join(OFFERS[name] for name in sorted(missing))
        pytest.skip(f"the server is not said to offer this (--offers): {words}")


def bounded(item: pytest.Item) -> Iterator[None]:
    """End a step of a check: a server that sends bits for ever fails one check and does not hold up the rest."""
    patience = item.config.getoption("--patience")

    def enough(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"the check took more than {patience:g} s")

    signal.signal(signal.SIGALRM, enough)
    # Once more each second: what a client does as it ends may wait, too.
    signal.setitimer(signal.ITIMER_REAL, patience, 1.0)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.hookimpl(wrapper=True, specname="pytest_runtest_setup")
def pytest_bounded_setup(item: pytest.Item) -> Iterator[None]:
    return (yield from bounded(item))


@pytest.hookimpl(wrapper=True, specname="pytest_runtest_call")
def pytest_bounded_call(item: pytest.Item) -> Iterator[None]:
    return (yield from bounded(item))


@pytest.fixture(scope="session")
def api(pytestconfig: pytest.Config) -> Iterator[Api]:
    url, model, question = (str(pytestconfig.getoption(name)) for name in ("--base-url", "--model", "--question"))
    found = Api(url, model, os.environ.get("OPENAI_API_KEY", "none"), question, pytestconfig.getoption("--patience"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def call(pytestconfig: pytest.Config) -> str:
    """The question for which the model calls a function."""
    return str(pytestconfig.getoption("--call"))


@pytest.fixture(scope="session")
def whole(api: Api) -> Any:
    """The whole answer to the question, which other answers are compared with."""
    answer = api.chat(max_tokens=100)
    assert len(answer.choices[0].message.content.split()) > 5, "the question needs an answer of several words"
    return answer


@pytest.fixture(scope="session")
def answer(whole: Any) -> str:
    """Its text."""
    return str(whole.choices[0].message.content)
