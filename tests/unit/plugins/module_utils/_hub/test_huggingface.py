# SPDX-License-Identifier: GPL-3.0-or-later
"""Downloads by the hub's real client from a server of ours that speaks the hub's interface."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._hub.job import Fetch
from ansible_collections.trtllm.fleet.plugins.module_utils._hub.request import Request, request_of
from hub_server import Hub
from unit.plugins.module_utils._hub import running
from unit.plugins.module_utils._hub.hub_files import BIG, REPO, SECRET, files, weights
from unit.plugins.module_utils._hub.running import NO_CONSENT, kill_once_arrived, received, run_here


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    server = Hub(tmp_path / "hub").start()
    yield server
    server.shutdown()


def request(hub: Hub, **options: Any) -> Request:
    return request_of({"source": "huggingface", "repo": REPO, "endpoint": hub.url, **options}, "")


def download(
    hub: Hub, root: Path, *, token: str = "", consent: dict[str, bool] = NO_CONSENT, commit: str = "", **options: Any
) -> Fetch:
    """One whole download from *hub*."""
    asked = {"source": "huggingface", "repo": REPO, "endpoint": hub.url, **options}
    return running.download(root, asked, token=token, consent=consent, commit=commit)


def test_a_revision_is_resolved_and_every_file_arrives(hub: Hub, tmp_path: Path) -> None:
    commit = hub.add(REPO, files())
    fetch = download(hub, tmp_path / "root")
    record = fetch.record()
    assert record is not None and record.commit == commit
    assert sorted(path.name for path in fetch.path.iterdir()) == sorted(files())
    assert (fetch.path / "model.safetensors").read_bytes() == weights()
    assert received(fetch) >= BIG and not fetch.staging.exists()
    assert fetch.current(request(hub), "full", True)[2] == []


def test_a_branch_that_moves_changes_nothing_until_asked(hub: Hub, tmp_path: Path) -> None:
    hub.add(REPO, files())
    fetch = download(hub, tmp_path / "root")
    moved = hub.add(REPO, files(README__md=b"new"))
    asked = len(hub.requests)
    assert fetch.current(request(hub), "stat", True)[2] == []
    assert len(hub.requests) == asked
    sent = hub.sent
    record = download(hub, tmp_path / "root").record()
    assert record is not None and record.commit == moved and "README.md" in record.files
    assert hub.sent - sent < BIG, "the weights are the same and must not come again"


def test_include_and_exclude_choose_files(hub: Hub, tmp_path: Path) -> None:
    hub.add(REPO, files(pytorch_model__bin=b"x" * 2000, notes__md=b"n"))
    fetch = download(hub, tmp_path / "root", exclude=["*.bin"], include=["*.json", "*.safetensors", "*.bin"])
    assert sorted(path.name for path in fetch.path.iterdir()) == sorted(files())


@pytest.mark.parametrize(
    ("faults", "token", "revision", "said"),
    [
        ({"gated": True}, SECRET, "main", "restricted and you are not in the authorized list.*HTTP 403.*ask its owner"),
        ({"token": SECRET}, "", "main", r"You must be logged in.*HTTP 401.*give the token"),
        ({}, "", "v9", r"acme/tiny at revision v9: the answer is 'Invalid rev id: v9' \(HTTP 404\); check the name"),
        ({"limited": 99, "retry_after": 4000}, "", "main", r"rate limit your IP.*HTTP 429.*4000 s"),
    ],
)
def test_the_hubs_own_words_in_one_sentence(
    hub: Hub, tmp_path: Path, faults: dict[str, Any], token: str, revision: str, said: str
) -> None:
    hub.add(REPO, files(), **faults)
    with pytest.raises(FleetError, match=said) as refused:
        download(hub, tmp_path / "root", token=token, revision=revision)
    assert "\n" not in str(refused.value) and SECRET not in str(refused.value)


def test_a_repository_that_is_not_there_is_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=r"acme/tiny at revision main: the answer is 'Invalid username"):
        download(hub, tmp_path / "root")


def test_a_rate_limit_is_waited_for(hub: Hub, tmp_path: Path) -> None:
    hub.add(REPO, files(), limited=2, retry_after=1)
    begun = time.monotonic()
    assert download(hub, tmp_path / "root").record() is not None
    assert time.monotonic() - begun > 2


def test_the_token_opens_what_is_closed_and_stands_nowhere(hub: Hub, tmp_path: Path) -> None:
    hub.add(REPO, files(), token=SECRET)
    root = tmp_path / "root"
    download(hub, root, token=SECRET)
    found = [path for path in root.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert found == []


@pytest.mark.parametrize("fault", ["altered", "truncated"])
def test_bytes_that_are_not_the_hubs_are_found_and_come_again(hub: Hub, tmp_path: Path, fault: str) -> None:
    hub.add(REPO, files())
    hub.change(REPO, **{fault: ["model.safetensors"]})
    with pytest.raises(FleetError, match=r"acme/tiny.*(arrived damaged|does not send the rest)"):
        download(hub, tmp_path / "root")
    assert not (tmp_path / "root" / "checkpoints" / "m").exists()
    hub.change(REPO, **{fault: []})
    fetch = download(hub, tmp_path / "root")
    assert (fetch.path / "model.safetensors").read_bytes() == weights()


def test_small_files_are_verified_by_the_name_of_their_blob(hub: Hub, tmp_path: Path) -> None:
    hub.add(REPO, files(), altered=["tokenizer.json"])
    with pytest.raises(FleetError, match=r"tokenizer.json arrived damaged"):
        download(hub, tmp_path / "root")


def test_killed_in_the_middle_it_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    size = 4 << 20
    hub.add(REPO, files(model__safetensors=weights(size)), rate=1 << 21)
    fetch = Fetch(tmp_path / "root", "m")
    process = run_here(fetch, request(hub), NO_CONSENT, "")
    kill_once_arrived(fetch, process, size // 2)
    assert not fetch.path.exists()
    hub.change(REPO, rate=0)
    before = hub.sent
    assert download(hub, tmp_path / "root").record() is not None
    assert hub.sent - before < size * 3 // 4, "what had arrived was downloaded again"


def test_a_download_on_a_full_disk_is_told_to_find_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = Fetch(tmp_path / "root", "m")
    said = "exit code 1, OSError: [Errno 28] No space left on device"
    monkeypatch.setattr(fetch.runner, "last_words", lambda: said)
    with pytest.raises(FleetError) as raised:
        fetch.refuse_failure()
    assert str(raised.value) == (
        f"The download of m found no room in {fetch.staging} ({said}); make room there, then run again; what has "
        "arrived is kept."
    )


def test_an_altered_file_comes_again_at_the_commit_that_was_kept(hub: Hub, tmp_path: Path) -> None:
    kept = hub.add(REPO, files())
    fetch = download(hub, tmp_path / "root")
    hub.add(REPO, files(README__md=b"new"))
    (fetch.path / "tokenizer.json").write_bytes(b"other")
    _, commit, reasons = fetch.current(request(hub), "stat", True)
    assert (commit, reasons) == (kept, ["tokenizer.json: content differs"])
    sent = hub.sent
    record = download(hub, tmp_path / "root", commit=commit).record()
    assert record is not None and record.commit == kept and record.asked["revision"] == "main"
    assert (fetch.path / "tokenizer.json").read_bytes() == b"{}" and hub.sent - sent < BIG


@pytest.mark.parametrize(
    ("more", "consent", "said"),
    [
        ({"modeling_x__py": b"print()"}, "trust_remote_code", r"code that runs .*\(modeling_x.py\).*trust_remote_code"),
        ({"config__json": b'{"auto_map": {"AutoModel": "x/y--m.C"}}'}, "trust_remote_code", r"another repo.*x/y--m.C"),
    ],
)
def test_code_needs_consent(hub: Hub, tmp_path: Path, more: dict[str, bytes], consent: str, said: str) -> None:
    hub.add(REPO, files(**more))
    with pytest.raises(FleetError, match=said):
        download(hub, tmp_path / "root")
    assert not (tmp_path / "root" / "checkpoints" / "m").exists()
    assert download(hub, tmp_path / "root", consent={**NO_CONSENT, consent: True}).path.is_dir()


def test_pickles_alone_need_consent_and_are_not_downloaded_before(hub: Hub, tmp_path: Path) -> None:
    found = files(pytorch_model__bin=b"x" * 2000)
    del found["model.safetensors"]
    hub.add(REPO, found)
    with pytest.raises(FleetError, match=r"pickles only \(pytorch_model.bin\).*allow_pickle"):
        download(hub, tmp_path / "root")
    assert hub.sent == 0
    assert download(hub, tmp_path / "root", consent={**NO_CONSENT, "allow_pickle": True}).path.is_dir()


def test_a_cache_of_the_client_is_taken_without_a_connection(hub: Hub, tmp_path: Path) -> None:
    import huggingface_hub

    commit = hub.add(REPO, files())
    cache = tmp_path / "cache"
    huggingface_hub.snapshot_download(REPO, cache_dir=cache, endpoint=hub.url)
    asked = len(hub.requests)
    record = download(hub, tmp_path / "root", cache=str(cache)).record()
    assert record is not None and record.commit == commit and len(hub.requests) == asked
    with pytest.raises(FleetError, match=r"does not have revision v2; fill it"):
        download(hub, tmp_path / "root", cache=str(cache), revision="v2")
    blob = os.path.realpath(next(cache.rglob("model.safetensors")))
    Path(blob).write_bytes(weights(byte=b"v"))
    shutil.rmtree(tmp_path / "root")
    with pytest.raises(FleetError, match=r"model.safetensors arrived damaged"):
        download(hub, tmp_path / "root", cache=str(cache))
