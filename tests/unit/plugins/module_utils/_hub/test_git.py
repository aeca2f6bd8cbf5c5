# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository of a real git server, with weights in git-lfs: real git and git-lfs bring them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._hub.job import Fetch
from ansible_collections.trtllm.fleet.plugins.module_utils._hub.request import request_of
from git_server import GitServer, pointer, run
from unit.plugins.module_utils._hub.hub_files import SECRET, files, weights
from unit.plugins.module_utils._hub.running import NO_CONSENT, download, kill_once_arrived, received, run_here

pytestmark = pytest.mark.skipif(
    shutil.which("git-lfs") is None, reason="git-lfs is not installed; tests/testbed/testbed prepare installs it"
)

REPOSITORY, LARGE = "models/tiny", ("model.safetensors",)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    found = GitServer(tmp_path / "git").start()
    yield found
    found.shutdown()


def asked(server: GitServer, **options: Any) -> dict[str, Any]:
    return {"source": "git", "url": f"{server.url}/{REPOSITORY}", **options}


@pytest.mark.parametrize("revision", [None, "main", "v1", "commit"])
def test_a_revision_is_resolved_and_every_file_arrives(server: GitServer, tmp_path: Path, revision: str | None) -> None:
    commit = server.add(REPOSITORY, files(), LARGE)
    run(["git", "-C", str(server.root / REPOSITORY), "tag", "v1", commit])
    wanted = asked(server, revision=commit if revision == "commit" else revision)
    fetch = download(tmp_path / "root", wanted)
    record = fetch.record()
    assert record is not None and record.commit == commit
    assert {path.name: path.read_bytes() for path in fetch.path.iterdir()} == files()
    assert received(fetch) >= server.sent == len(weights())
    assert fetch.current(request_of(wanted, ""), "full", True)[2] == []


def test_a_branch_that_moves_keeps_the_weights(server: GitServer, tmp_path: Path) -> None:
    first = server.add(REPOSITORY, files(), LARGE)
    download(tmp_path / "root", asked(server))
    moved = server.add(REPOSITORY, {"README.md": b"new"})
    kept = download(tmp_path / "kept", asked(server), commit=first).record()
    assert kept is not None and kept.commit == first and "README.md" not in kept.files
    record = download(tmp_path / "root", asked(server)).record()
    assert record is not None and record.commit == moved and "README.md" in record.files


def test_what_is_left_out_is_not_downloaded(server: GitServer, tmp_path: Path) -> None:
    server.add(REPOSITORY, files(pytorch_model__bin=b"x" * 90000), (*LARGE, "pytorch_model.bin"))
    fetch = download(tmp_path / "root", asked(server, exclude=["*.bin"]))
    assert sorted(path.name for path in fetch.path.iterdir()) == sorted(files())
    assert server.sent == len(weights())


def test_pointers_that_lead_nowhere_are_named(server: GitServer, tmp_path: Path) -> None:
    server.add(REPOSITORY, files(), LARGE)
    (server.root / "lfs" / hashlib.sha256(weights()).hexdigest()).unlink()
    with pytest.raises(
        FleetError, match=r"models/tiny at revision HEAD: git says .*Object does not exist on the server"
    ):
        download(tmp_path / "root", asked(server))
    assert not (tmp_path / "root" / "checkpoints" / "m").exists()


def test_a_pointer_that_was_committed_twice_over_is_refused(server: GitServer, tmp_path: Path) -> None:
    """Who moves a repository without git-lfs leaves pointers, also in place of what git-lfs then keeps."""
    server.add(REPOSITORY, files(model__safetensors=pointer(weights())), LARGE)
    with pytest.raises(FleetError, match=r"model.safetensors is a git-lfs pointer"):
        download(tmp_path / "root", asked(server))


def test_content_that_is_not_the_pointers_is_found(server: GitServer, tmp_path: Path) -> None:
    server.add(REPOSITORY, files(), LARGE)
    place = server.root / "lfs" / hashlib.sha256(weights()).hexdigest()
    place.write_bytes(b"X" + place.read_bytes()[1:])
    with pytest.raises(FleetError, match=r"git says '.*(OID|oid|SHA|hash)"):
        download(tmp_path / "root", asked(server))
    place.write_bytes(weights())
    assert (download(tmp_path / "root", asked(server)).path / "model.safetensors").read_bytes() == weights()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"revision": "v9"}, r"at revision v9: git says '.*couldn't find remote ref v9'; check the address"),
        ({"revision": "1" * 40}, r"at revision 1{40}: git says"),
        ({"url": "http://127.0.0.1:1/x"}, r"http://127.0.0.1:1/x at revision HEAD: git says '.*[Ff]ailed to connect"),
    ],
)
def test_gits_own_words_in_one_sentence(server: GitServer, tmp_path: Path, options: dict[str, Any], said: str) -> None:
    server.add(REPOSITORY, files(), LARGE)
    with pytest.raises(FleetError, match=said) as refused:
        download(tmp_path / "root", asked(server, **options))
    assert "\n" not in str(refused.value)


def test_the_token_opens_what_is_closed_and_stands_nowhere(server: GitServer, tmp_path: Path) -> None:
    server.add(REPOSITORY, files(), LARGE)
    server.change(token=SECRET)
    with pytest.raises(FleetError, match=r"git says '.*could not read Username"):
        download(tmp_path / "closed", asked(server))
    root = tmp_path / "root"
    assert download(root, asked(server), token=SECRET).record() is not None
    found = [path for path in root.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert found == []


def test_links_are_refused_and_code_needs_consent(server: GitServer, tmp_path: Path) -> None:
    server.add(REPOSITORY, files(modeling__py=b"import os"), LARGE)
    with pytest.raises(FleetError, match=r"code that runs where the model is loaded \(modeling.py\)"):
        download(tmp_path / "root", asked(server))
    (server.root / f"{REPOSITORY}.work" / "evil").symlink_to("/etc/shadow")
    server.add(REPOSITORY, {})
    with pytest.raises(FleetError, match=r"evil is a link or another repository"):
        download(tmp_path / "root", asked(server, exclude=["*.py"]))
    assert download(tmp_path / "root", asked(server, exclude=["*.py", "evil"])).record() is not None


def test_killed_in_the_middle_it_goes_on_where_it_was(server: GitServer, tmp_path: Path) -> None:
    size = 4 << 20
    server.add(REPOSITORY, files(model__safetensors=weights(size)), LARGE)
    server.change(rate=1 << 21)
    fetch = Fetch(tmp_path / "root", "m")
    process = run_here(fetch, request_of(asked(server), ""), NO_CONSENT, "")
    kill_once_arrived(fetch, process, size // 2)
    server.change()
    before = server.sent
    assert download(tmp_path / "root", asked(server)).record() is not None
    assert server.sent - before < size * 3 // 4, "what had arrived was downloaded again"


@pytest.mark.parametrize("url", ["git@h:a/b", "ssh://git@h/a", "file:///srv/x", f"https://me:{SECRET}@h/a", "ext::sh"])
def test_bad_addresses(url: str) -> None:
    with pytest.raises(FleetError) as refused:
        request_of({"source": "git", "url": url}, "")
    assert SECRET not in str(refused.value)
