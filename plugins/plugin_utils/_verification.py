# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What verify.yml asks each replica and gateway of a host, from what `triton_replica_info` found there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from ansible_collections.trtllm.fleet.plugins.filter.serving import gateway_checks
from ansible_collections.trtllm.fleet.plugins.module_utils._base.urls import parts_of
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.replica import is_loopback

URLS = ("url", "metrics_url", "gateway_url")
NO_KEY = "none"  # what a gateway that wants none is asked with
NOTHING = ({"item": {"replica": "-"}, "msg": "the host has no replica and no gateway"},)


class Question(NamedTuple):
    """One of a host's, with the arguments of `triton_verify`. *item*: the replica, or what stands in its place."""

    host: str
    item: Mapping[str, Any]
    arguments: Mapping[str, Any]

    @property
    def behind_ssh(self) -> bool:
        """Whether something is asked at a loopback address of the host."""
        given = [parts_of(self.arguments.get(name)) for name in URLS]
        return any(parts is not None and is_loopback(parts.hostname) for parts in given)


def key_of(keys: Any, clients: Any) -> str:
    """A key with which every model can be asked: a bare one, or that of a client without limits of models."""
    whole = [
        client["key"] for client in clients or [] if client.get("key") is not None and client.get("models") is None
    ]
    return str([*(keys or []), *whole, NO_KEY][0])


def keys_by_model(keys: Any, clients: Any) -> dict[str, str]:
    """Where no key is for every model: by the name that clients use the key of the first one that may use it."""
    if key_of(keys, clients) != NO_KEY:
        return {}
    limited = [client for client in clients or [] if client.get("key") is not None]
    return {str(name): str(client["key"]) for client in reversed(limited) for name in client.get("models") or []}


def questions(
    host: str,
    found: Mapping[str, Any],
    through: Mapping[str, Any],
    asks: Mapping[str, Any],
    keys: Mapping[str, str] = MappingProxyType({}),
) -> list[Question]:
    """All of one host. *through*: arguments for its gateways, *asks*: for its replicas, *keys*: those of models."""
    asked = []
    for replica in found.get("replicas") or []:
        mine = [gateway for gateway in found.get("gateways") or [] if replica["model"] in gateway["models"]]
        arguments = {
            **asks, "url": replica["http_url"], "entry_models": replica["entry_models"], "release": replica["release"],
            "metrics_url": replica["metrics_url"] or None, "api": replica.get("api"), "gathers": replica["gathers"],
        }  # fmt: skip
        if mine:
            name = (mine[0].get("names") or {}).get(replica["model"], replica["model"])
            at = {"gateway_url": mine[0]["url"], "gateway_model": name}
            arguments = {**arguments, **through, **_own_key(keys, name), **at}
        asked.append(Question(host, replica, arguments))
    for check in gateway_checks(found):
        at = {"only_gateway": True, "gateway_url": check["gateway_url"], "gateway_model": check["model"]}
        asked.append(Question(host, check, {**through, **_own_key(keys, check["model"]), **at}))
    return [
        one._replace(arguments={name: value for name, value in one.arguments.items() if value is not None})
        for one in asked
    ]


def _own_key(keys: Mapping[str, str], model: Any) -> dict[str, str]:
    return {"gateway_key": keys[str(model)]} if str(model) in keys else {}


def results_of(
    found: Mapping[str, Any] | None, answers: Sequence[Mapping[str, Any]], idle: bool
) -> Sequence[Mapping[str, Any]] | None:
    """What `verify_report` takes of a host: None for one that did not answer. *idle*: nothing is expected of it."""
    if not found or found.get("unreachable"):
        return None
    return answers if answers or idle or found.get("workers") else NOTHING
