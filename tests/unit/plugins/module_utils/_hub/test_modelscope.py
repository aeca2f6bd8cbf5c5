# SPDX-License-Identifier: GPL-3.0-or-later
"""Downloads by ModelScope's real client from a server of ours that speaks its hub's interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._hub.job import Fetch
from ansible_collections.trtllm.fleet.plugins.module_utils._hub.request import request_of
from hub_server import Hub
from unit.plugins.module_utils._hub.hub_files import BIG, REPO, SECRET, files, weights
from unit.plugins.module_utils._hub.running import NO_CONSENT, download, kill_once_arrived, received, run_here


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    server = Hub(tmp_path / "hub").start()
    yield server
    server.shutdown()


def asked(hub: Hub, **options: Any) -> dict[str, Any]:
    return {"source": "modelscope", "repo": REPO, "endpoint": hub.url, **options}


def test_every_file_arrives_and_a_branch_that_moves_changes_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.add(REPO, files(), "master")
    fetch = download(tmp_path / "root", asked(hub))
    assert {path.name: path.read_bytes() for path in fetch.path.iterdir()} == files()
    assert received(fetch) >= BIG
    hub.add(REPO, files(README__md=b"new"), "master")
    requests, sent = len(hub.requests), hub.sent
    assert fetch.current(request_of(asked(hub), ""), "full", True)[2] == []
    assert len(hub.requests) == requests
    record = download(tmp_path / "root", asked(hub)).record()
    assert record is not None and "README.md" in record.files and hub.sent - sent < BIG


def test_the_servers_answers_are_those_that_the_real_client_downloads_with(hub: Hub, tmp_path: Path) -> None:
    """What the server of these tests says is what the client of the hub reads, down to the files."""
    from modelscope_hub import HubApi

    hub.add(REPO, files(), "master")
    place = Path(HubApi(endpoint=hub.url).download_repo(REPO, "model", local_dir=str(tmp_path / "client")))
    assert (place / "model.safetensors").read_bytes() == weights()


@pytest.mark.parametrize(
    ("faults", "options", "said"),
    [
        ({"token": "other"}, {}, r"acme/tiny at revision master: the answer is 'no permission.*HTTP 403"),
        (
            {},
            {"revision": "v9"},
            r"at revision v9: the answer is 'revision not found: v9' \(HTTP 404\); check the name",
        ),
        ({}, {"repo": "acme/none"}, r"'record not found: acme/none' \(HTTP 404\)"),
        ({"altered": ["model.safetensors"]}, {}, r"model.safetensors arrived damaged"),
        ({"truncated": ["model.safetensors"]}, {}, r"does not send the rest"),
        ({}, {"endpoint": "http://127.0.0.1:1"}, r"cannot be resolved: .*run again once the hub can be reached"),
    ],
)
def test_the_hubs_own_words_in_one_sentence(
    hub: Hub, tmp_path: Path, faults: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    hub.add(REPO, files(), "master", **faults)
    with pytest.raises(FleetError, match=said) as refused:
        download(tmp_path / "root", asked(hub, **options), token=SECRET)
    assert "\n" not in str(refused.value) and SECRET not in str(refused.value)
    assert not (tmp_path / "root" / "checkpoints" / "m").exists()


def test_the_token_opens_what_is_closed_and_stands_nowhere(hub: Hub, tmp_path: Path) -> None:
    hub.add(REPO, files(), "master", token=SECRET, limited=1)
    root = tmp_path / "root"
    assert download(root, asked(hub, exclude=["*.md"]), token=SECRET).record() is not None
    assert [path for path in root.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()] == []


def test_killed_in_the_middle_it_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    size = 4 << 20
    hub.add(REPO, files(model__safetensors=weights(size)), "master", rate=1 << 21)
    fetch = Fetch(tmp_path / "root", "m")
    kill_once_arrived(fetch, run_here(fetch, request_of(asked(hub), ""), NO_CONSENT, ""), size // 2)
    assert not fetch.path.exists()
    hub.change(REPO, rate=0)
    before = hub.sent
    assert download(tmp_path / "root", asked(hub)).record() is not None
    assert hub.sent - before < size * 3 // 4, "what had arrived was downloaded again"
