# SPDX-License-Identifier: GPL-3.0-or-later
"""What verify.yml asks of which host, and what it makes of the answers."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.action.fleet_verify import answer
from ansible_collections.trtllm.fleet.plugins.filter.serving import verify_report
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.modules import triton_verify
from ansible_collections.trtllm.fleet.plugins.plugin_utils._verification import (
    NOTHING,
    Question,
    key_of,
    keys_by_model,
    questions,
    results_of,
)

REPLICA = {
    "replica": "m-0", "model": "m", "http_url": "http://10.0.0.1:8000", "metrics_url": "", "entry_models": ["ensemble"],
    "release": LAST, "gathers": [], "api": "triton", "problem": "",
}  # fmt: skip
GATEWAY = {"url": "http://127.0.0.1:3000", "models": ["m", "far"], "names": {"m": "chat"}}


def asked(found: dict[str, Any], **asks: Any) -> list[Question]:
    return questions("h1", found, {"gateway_key": "k", "gateway_tls_verify": None}, asks)


def test_a_replica_is_asked_itself_and_through_its_gateway_and_the_gateway_for_what_others_serve() -> None:
    own, far = asked({"replicas": [REPLICA], "gateways": [GATEWAY]}, early_stop_tokens=8)
    assert own.item is REPLICA
    assert own.arguments == {
        "url": "http://10.0.0.1:8000", "entry_models": ["ensemble"], "release": LAST, "api": "triton", "gathers": [],
        "early_stop_tokens": 8, "gateway_url": "http://127.0.0.1:3000", "gateway_model": "chat", "gateway_key": "k",
    }  # fmt: skip
    assert far.arguments == {
        "only_gateway": True, "gateway_url": "http://127.0.0.1:3000", "gateway_model": "far", "gateway_key": "k",
    }  # fmt: skip
    assert own.behind_ssh and far.behind_ssh


def test_without_a_gateway_nothing_is_asked_through_one() -> None:
    (own,) = asked({"replicas": [{**REPLICA, "gathers": None}], "gateways": []})
    assert not {name for name in own.arguments if name.startswith("gateway")} | ({"gathers"} & set(own.arguments))
    assert not own.behind_ssh


@pytest.mark.parametrize(
    ("keys", "clients", "key"),
    [
        (["bare"], [{"key": "c"}], "bare"),
        ([], [{"key": "few", "models": ["m"]}, {"name": "x"}, {"key": "c", "models": None}], "c"),
        (None, None, "none"),
    ],
)
def test_the_key_is_one_that_every_model_can_be_asked_with(keys: Any, clients: Any, key: str) -> None:
    assert key_of(keys, clients) == key


def test_where_no_key_is_for_every_model_each_is_asked_with_that_of_a_client_that_may_use_it() -> None:
    clients = [{"key": "few", "models": ["chat"]}, {"name": "x", "models": ["far"]}, {"key": "last", "models": ["far"]}]
    assert keys_by_model([], clients) == {"chat": "few", "far": "last"}
    assert keys_by_model([], [*clients, {"key": "whole"}]) == {} == keys_by_model(["bare"], clients)
    found = {"replicas": [REPLICA], "gateways": [GATEWAY]}
    own, far = questions("h1", found, {"gateway_key": "none"}, {}, keys_by_model([], clients))
    assert (own.arguments["gateway_key"], far.arguments["gateway_key"]) == ("few", "last")
    other, _far = questions("h1", found, {"gateway_key": "none"}, {}, {"far": "last"})
    assert other.arguments["gateway_key"] == "none"


def test_what_is_expected_of_a_host_without_replicas() -> None:
    assert results_of({}, [], False) is None
    assert results_of({"unreachable": True}, [], True) is None
    assert results_of({"replicas": []}, [], False) == NOTHING
    assert results_of({"replicas": []}, [], True) == []
    assert results_of({"workers": [{}]}, [], False) == []


def test_what_goes_wrong_stands_in_the_table_and_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(parameters: dict[str, Any]) -> dict[str, Any]:
        raise OSError(5, f"no answer with {parameters['gateway_key']}")

    monkeypatch.setattr(triton_verify, "work", work)
    (one,) = questions(
        "h1", {"replicas": [REPLICA], "gateways": [GATEWAY | {"models": ["m"]}]}, {"gateway_key": "sk-1"}, {}
    )
    found = answer(one, None)
    assert "no answer" in found["msg"] and "sk-1" not in str(found)
    report = verify_report({"h1": [found], "h2": None})
    assert not report["ok"] and "the host did not answer" in report["table"]


def test_a_replica_without_an_address_is_told_as_it_was_found() -> None:
    (one,) = asked({"replicas": [{**REPLICA, "http_url": "", "problem": "its unit names no port"}]})
    found = answer(one, None)
    assert found["failed"]
    assert "its unit names no port" in verify_report({"h1": [found]})["table"]
