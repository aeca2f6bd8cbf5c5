# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway's file of clients: names, limits and salted hashes. Keys themselves never leave the controller."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .._base.errors import FleetError, nearest
from .._base.names import show

LIMITS = ("max_requests", "requests_per_minute", "tokens_per_minute")
KNOWN = ("name", "key", "key_hash", "models", *LIMITS)
NAME = re.compile(r"[\w.@-]{1,64}", re.ASCII)
HASH = re.compile(r"sha256\$[0-9a-f]{8,}\$[0-9a-f]{64}")


def clients_file(keys: Sequence[str], clients: Sequence[Mapping[str, Any]]) -> str:
    """The text of the file: *keys* are clients without limits. Raises `FleetError`, in which no key is told."""
    bare = [{"name": f"key-{number}", "key": key} for number, key in enumerate(keys, 1)]
    entries = [_entry(number, client) for number, client in enumerate([*bare, *clients], 1 - len(bare))]
    names = [entry["name"] for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise FleetError(f"openai_gateway_clients: the name {show(name)} is given {names.count(name)} times.")
    return "".join(f"- {json.dumps(entry)}\n" for entry in entries)  # JSON is YAML


def _entry(number: int, given: Mapping[str, Any]) -> dict[str, Any]:
    where = f"openai_gateway_clients[{number - 1}]"
    client = {key: value for key, value in given.items() if value is not None}
    for problem in _problems(client):
        raise FleetError(f"{where}: {problem}.")
    entry = {key: client[key] for key in KNOWN if key in client and key != "key"}
    entry["key_hash"] = client.get("key_hash") or key_hash(client["name"], client["key"])
    return entry


def key_hash(name: str, key: str) -> str:
    """What stands in the file in place of *key*: the same in each run, and another for each client."""
    salt = hashlib.sha256(f"trtllm.fleet openai_gateway {name}".encode()).digest()[:16]
    return f"sha256${salt.hex()}${hashlib.sha256(salt + key.encode()).hexdigest()}"


def _problems(client: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong, without any value that may be secret."""
    for key in client:
        if key not in KNOWN:
            yield f"unknown key {show(key)}{nearest(key, KNOWN)}"
    if not isinstance(client.get("name"), str) or not NAME.fullmatch(client["name"]):
        yield f"name is {show(client.get('name'))}; it takes at most 64 letters, digits, '.', '_', '@' and '-'"
    if ("key" in client) == ("key_hash" in client):
        yield "it takes either key or key_hash"
    key = client.get("key", "x")
    if not isinstance(key, str) or not key.strip() or key != key.strip() or "\n" in key:
        yield "key takes a text without blanks around it"
    if not HASH.fullmatch(str(client.get("key_hash", f"sha256${'0' * 8}${'0' * 64}"))):
        yield "key_hash is not what the gateway's --hash-key prints"
    models = client.get("models", [])
    if isinstance(models, str) or not all(isinstance(model, str) for model in models):
        yield f"models is {show(models)}; it takes a list of names of models"
    for limit in LIMITS:
        value = client.get(limit, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            yield f"{limit} is {show(value)}; it takes a whole number from 1"
