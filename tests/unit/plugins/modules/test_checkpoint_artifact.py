# SPDX-License-Identifier: GPL-3.0-or-later
"""A checkpoint goes from one host to the next and on to a third, in verified pieces, and is published by one rename."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact import fingerprint
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.fingerprint import file_sha256, tree_digest
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.handed import Handed
from unit import modules
from unit.plugins.module_utils._hub.hub_files import files, weights
from unit.systemd_fakes import FakeSystemd
from unit.transfer_fakes import alter, content, free_port

NAME, TOKEN = "tiny", "no secret at all"
ORIGIN = {"asked": {"repo": "acme/tiny"}, "commit": "1" * 40, "files": {}}


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSystemd]:
    # Files of a test are always young; those of a fleet are not.
    monkeypatch.setattr(fingerprint, "RACY_NS", 0)
    fake = FakeSystemd(tmp_path / "systemd", monkeypatch)
    yield fake
    fake.kill()


def downloaded(home: Path, **more: bytes) -> Handed:
    """A host on which the checkpoint has been downloaded."""
    handed = Handed(home, NAME)
    staging = handed.store.staging(NAME)
    for name, body in {**files(**more), "sub/manifest.json": b"{}"}.items():
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        (staging / name).write_bytes(body)
    wanted = {str(path.relative_to(staging)): file_sha256(path) for path in staging.rglob("*") if path.is_file()}
    handed.store.publish(NAME, wanted)
    handed.store.write_record(NAME, ORIGIN)
    time.sleep(0.01)
    handed.store.current(NAME)
    return handed


def artifact(home: Path, check: bool = False, **options: Any) -> dict[str, Any]:
    return modules.call("trtllm_checkpoint_artifact", {"name": NAME, "root": str(home), **options}, check=check)


def transfer(home: Path, module: str, digest: str, **options: Any) -> dict[str, Any]:
    given = {"kind": "checkpoint", "name": NAME, "fingerprint": digest, "root": str(home), "token": TOKEN, **options}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_HOST", home.name)
        return modules.call(module, given)


def serve(home: Path, digest: str) -> dict[str, Any]:
    return transfer(home, "trtllm_artifact_serve", digest, address="127.0.0.1", port=free_port())


def bytes_read(handed: Handed) -> int:
    """What a look at the checkpoint reads of it."""
    return tree_digest(handed.path, handed.store.index(NAME), write_index=False).bytes_read


def bytes_read_to_hand_on(handed: Handed, digest: str) -> int:
    """What a look at the artefact reads of it."""
    path = handed.artifacts.path(NAME, digest)
    return tree_digest(path, handed.artifacts.digests_file(path), write_index=False, ignore=()).bytes_read


def test_it_goes_from_host_to_host(systemd: FakeSystemd, tmp_path: Path) -> None:
    first, second = downloaded(tmp_path / "h1"), Handed(tmp_path / "h2", NAME)
    offers = [artifact(tmp_path / "h1", check) for check in (True, False, True, False)]
    assert [offer["changed"] for offer in offers] == [True, True, False, False]
    digest = offers[1]["digest"]
    assert offers[1]["origin"] == ORIGIN and bytes_read(first) == 0, "links are no reason to read it again"
    assert bytes_read_to_hand_on(first, digest) == 0
    taken = {"state": "adopted", "digest": digest, "origin": ORIGIN}
    assert not artifact(tmp_path / "h2", **taken)["there"], "nothing has arrived yet"
    out = serve(tmp_path / "h1", digest)
    got = transfer(tmp_path / "h2", "trtllm_artifact_fetch", digest, pieces=out["pieces"], sources=[out["url"]])
    assert got["received"] == out["size"] > len(weights()), got
    adopted = [artifact(tmp_path / "h2", check, **taken) for check in (True, False, True, False)]
    assert [one["changed"] for one in adopted] == [True, True, False, False]
    assert adopted[1]["there"] and adopted[1]["digest"] == digest
    assert content(second.path) == content(first.path) and second.source() == ORIGIN
    assert bytes_read(second) == 0, "what was verified as it arrived is not read again"
    assert tree_digest(second.path, None).digest == digest
    third = Handed(tmp_path / "h3", NAME)
    transfer(tmp_path / "h3", "trtllm_artifact_fetch", digest, pieces=out["pieces"], sources=[out["url"]])
    artifact(tmp_path / "h3", **taken, keep=True)
    assert bytes_read(third) == bytes_read_to_hand_on(third, digest) == 0, "nor where it is handed on"
    stop = {"state": "stopped"}
    assert transfer(tmp_path / "h1", "trtllm_artifact_serve", digest, **stop)["sent"] == 2 * out["size"]
    ended = [artifact(tmp_path / "h1", check, state="absent") for check in (True, False, True, False)]
    assert [one["changed"] for one in ended] == [True, True, False, False]
    assert bytes_read(first) == 0 and not (tmp_path / "h1" / "handed" / NAME).exists()
    assert {path.stat().st_nlink for path in first.path.rglob("*") if path.is_file()} == {1}


def test_the_same_checkpoint_only_takes_the_origin(systemd: FakeSystemd, tmp_path: Path) -> None:
    digest = downloaded(tmp_path / "h1").digest()
    moved = {**ORIGIN, "commit": "2" * 40}
    for check, changed in ((True, True), (False, True), (False, False)):
        found = artifact(tmp_path / "h1", check, state="adopted", digest=digest, origin=moved)
        assert (found["changed"], found["there"]) == (changed, True)
    assert Handed(tmp_path / "h1", NAME).source() == moved
    artifact(tmp_path / "h1", state="adopted", digest=digest)
    assert Handed(tmp_path / "h1", NAME).source() == {}, "what was copied from a controller has no origin"


def test_an_altered_checkpoint_is_not_handed_on(systemd: FakeSystemd, tmp_path: Path) -> None:
    first = downloaded(tmp_path / "h1")
    digest = artifact(tmp_path / "h1")["digest"]
    alter(first.path / "model.safetensors", 5000)
    refused = serve(tmp_path / "h1", digest)
    assert refused["failed"] and "handed on: files/model.safetensors was altered after publication" in refused["msg"]


def test_a_new_checkpoint_makes_a_new_artefact(systemd: FakeSystemd, tmp_path: Path) -> None:
    downloaded(tmp_path / "h1")
    old = artifact(tmp_path / "h1")["digest"]
    downloaded(tmp_path / "h1", README__md=b"new")
    new = artifact(tmp_path / "h1")["digest"]
    assert old != new and sorted(os.listdir(tmp_path / "h1" / "handed" / NAME)) == [new, f"{new}.digests.json"]


def test_what_is_not_there_is_refused(systemd: FakeSystemd, tmp_path: Path) -> None:
    refused = artifact(tmp_path / "h1")
    assert refused["failed"] and "is not there, so it cannot be handed on" in refused["msg"]
    refused = artifact(tmp_path / "h1", state="adopted", digest="x")
    assert "'x' is not a fingerprint; expected 64 hexadecimal digits." in refused["msg"]


def test_an_artefact_that_is_no_checkpoint_is_not_published(systemd: FakeSystemd, tmp_path: Path) -> None:
    handed, digest = Handed(tmp_path / "h1", NAME), "ab" * 32
    staging = handed.artifacts.staging(NAME, digest)
    (staging / "files").mkdir()
    (staging / "files" / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    handed.artifacts.publish(NAME, digest, {})
    refused = artifact(tmp_path / "h1", state="adopted", digest=digest)
    assert refused["failed"] and not handed.path.exists(), refused
