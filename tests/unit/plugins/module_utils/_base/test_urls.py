# SPDX-License-Identifier: GPL-3.0-or-later
"""What is no address is refused in a sentence by all that take one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.action.fleet_verify import answer
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._base.urls import check_url, parts_of
from ansible_collections.trtllm.fleet.plugins.module_utils._gateway.drain import check_wanted
from ansible_collections.trtllm.fleet.plugins.module_utils._gateway.status import GatewayStatus
from ansible_collections.trtllm.fleet.plugins.module_utils._hub.request import request_of
from ansible_collections.trtllm.fleet.plugins.plugin_utils._controller import as_asked, reachable
from ansible_collections.trtllm.fleet.plugins.plugin_utils._verification import Question

WRONG = [
    "http://[::1",
    "http://a:b",
    "http://a:99999",
    "http://a:0",
    "http://",
    "ftp://a",
    "a",
    "http://a b",
    "http://a\u202eb",
]


def tunnelled(url: str) -> None:
    given = {"url": url}
    with reachable(dict(given), ["url"], lambda name: None) as here:
        as_asked({"url": url}, given, here, ["url"])


CALLERS: dict[str, Callable[[str], Any]] = {
    "check_url": lambda url: check_url(url, "url"),
    "what the controller asks": tunnelled,
    "a gateway that is asked": GatewayStatus,
    "a replica that is drained": lambda url: check_wanted([url], True, 900),
    "a checkpoint": lambda url: request_of({"source": "git", "url": url}, "checkpoint."),
    "a hub": lambda url: request_of({"source": "huggingface", "repo": "a/b", "endpoint": url}, "checkpoint."),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("caller", CALLERS.values(), ids=CALLERS)
def test_what_is_no_address_is_refused_with_what_one_is(caller: Callable[[str], Any], wrong: str) -> None:
    assert parts_of(wrong) is None
    with pytest.raises(FleetError, match=r"(begins with https:// or http://|such as http://127\.0\.0\.1:8000)\.$"):
        caller(wrong)


def test_an_address_is_in_its_parts() -> None:
    parts = check_url("https://[::1]:8443/v1", "url")
    assert (parts.hostname, parts.port, parts.path) == ("::1", 8443, "/v1")


def test_what_a_record_of_a_host_has_in_its_place_stands_in_the_table() -> None:
    one = Question("h1", {"replica": "m-0"}, {"url": "http://[::1:8000", "metrics_url": "http://a:b"})
    assert not one.behind_ssh
    assert answer(one, lambda name: None)["msg"] == (
        "url is 'http://[::1:8000'; give an address that begins with https:// or http://."
    )
