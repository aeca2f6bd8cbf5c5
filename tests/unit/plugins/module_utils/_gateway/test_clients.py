# SPDX-License-Identifier: GPL-3.0-or-later
"""The file of clients is what the gateway's own code reads, holds no key, and is the same in each run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._gateway.clients import clients_file
from ansible_collections.trtllm.fleet.plugins.module_utils._gateway.mounts import mounts

sys.path.insert(0, str(Path(__file__).resolve().parents[5] / "images" / "openai_gateway"))

from openai_gateway.clients import Clients, hash_key


class Tagged(int):
    """A number as Ansible's templates hand it over."""


LIMITED = {"name": "alice", "key": "sk-alice", "models": ["a"], "max_requests": Tagged(2), "requests_per_minute": None}


def test_the_gateway_reads_it_and_no_key_is_in_it(tmp_path: Path) -> None:
    text = clients_file(["sk-one", "sk-two"], [LIMITED, {"name": "bob", "key_hash": hash_key("sk-bob")}])
    assert "sk-" not in text
    path = tmp_path / "keys"
    path.touch(mode=0o600)
    path.write_text(text)
    clients = Clients(path)
    names = {key: clients.identify(f"Bearer {key}").client.name for key in ("sk-one", "sk-two", "sk-alice", "sk-bob")}
    assert names == {"sk-one": "key-1", "sk-two": "key-2", "sk-alice": "alice", "sk-bob": "bob"}
    alice = clients.identify("Bearer sk-alice").client
    assert (alice.models, alice.max_requests, alice.requests_per_minute) == (("a",), 2, None)


def test_it_is_the_same_in_each_run_and_two_clients_with_one_key_differ() -> None:
    text = clients_file([], [LIMITED, {"name": "bob", "key": "sk-alice"}])
    assert text == clients_file([], [LIMITED, {"name": "bob", "key": "sk-alice"}])
    first, second = (line.partition("sha256$")[2] for line in text.splitlines())
    assert first.split("$")[1] != second.split("$")[1]


@pytest.mark.parametrize(
    ("clients", "says"),
    [
        ([{"name": "a b", "key": "sk-1"}], "openai_gateway_clients[0]: name is 'a b'; it takes at most 64 letters"),
        ([{"key": "sk-1"}], "openai_gateway_clients[0]: name is None"),
        ([LIMITED, {"name": "b"}], "openai_gateway_clients[1]: it takes either key or key_hash."),
        ([{"name": "b", "key": "sk-1", "key_hash": "x"}], "it takes either key or key_hash."),
        ([{"name": "b", "key_hash": "sk-1"}], "key_hash is not what the gateway's --hash-key prints."),
        ([{"name": "b", "key": "sk-1\n"}], "key takes a text without blanks around it."),
        ([{"name": "b", "key": "sk-1", "request_per_minute": 3}], "did you mean 'requests_per_minute'?"),
        ([{"name": "b", "key": "sk-1", "max_requests": "3"}], "max_requests is '3'; it takes a whole number from 1."),
        ([{"name": "b", "key": "sk-1", "max_requests": True}], "max_requests is True; it takes a whole number from 1."),
        ([{"name": "b", "key": "sk-1", "models": "a"}], "models is 'a'; it takes a list of names of models."),
        ([LIMITED, LIMITED], "the name 'alice' is given 2 times."),
    ],
)
def test_what_the_gateway_would_refuse_is_refused_without_telling_a_key(
    clients: list[dict[str, Any]], says: str
) -> None:
    with pytest.raises(FleetError) as error:
        clients_file([], clients)
    assert says in str(error.value) and "sk-" not in str(error.value)


def test_what_stands_below_a_whole_directory_needs_no_mount_of_its_own() -> None:
    below, beside = "/srv/checkpoints/a/", "/srv/checkpoints-2/b"
    found = mounts(["/etc/own", "/srv/checkpoints"], [below, beside, beside, "/srv/checkpoints"])
    assert found == [f"{path}:{path}:ro,z" for path in ("/etc/own", "/srv/checkpoints", beside)]
    assert mounts([], [beside]) == [f"{beside}:{beside}:ro,z"]
