# SPDX-License-Identifier: GPL-3.0-or-later
"""Artefacts appear whole or not at all, and what was done to them afterwards is found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact import fingerprint as fingerprint_module
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact import store as module
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.artifact_store import ArtifactStore
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError

FP = "0" * 63 + "1"
OTHER = "0" * 63 + "2"


def publish(store: ArtifactStore, fingerprint: str = FP, content: bytes = b"engine") -> Path:
    staging = store.staging("m", fingerprint)
    (staging / "1").mkdir()
    (staging / "1" / "rank0.engine").write_bytes(content)
    (staging / "config.json").write_text("{}")
    return store.publish("m", fingerprint, {"made_from": {"image": "sha256:1"}})


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "engines")


def test_what_is_published_says_what_it_holds(store: ArtifactStore) -> None:
    path = publish(store)
    assert path == store.path("m", FP)
    manifest = store.manifest(path)
    assert manifest is not None
    assert manifest["made_from"] == {"image": "sha256:1"}
    assert manifest["fingerprint"] == FP
    assert sorted(manifest["files"]) == ["1/rank0.engine", "config.json"]
    assert manifest["files"]["config.json"]["size"] == 2
    assert store.verify(path, full=True) == []
    assert store.published("m") == [path]


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that are read from now on."""
    told: list[str] = []
    real = fingerprint_module._read_record

    def spied(path: str, *given: object) -> object:
        told.append(Path(path).name)
        return real(path, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(fingerprint_module, "_read_record", spied)
    return told


def alter(path: Path, content: bytes) -> None:
    """Write other bytes of the same length into the file, and put its times back."""
    before = path.stat()
    with open(path, "r+b") as stream:
        stream.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)


@pytest.mark.parametrize("full", [False, True])
def test_what_was_altered_in_place_is_found_though_its_size_and_time_are_the_same(
    store: ArtifactStore, full: bool
) -> None:
    path = publish(store)
    time.sleep(0.02)  # the kernel's clock of files ticks each 10 ms at most
    alter(path / "1" / "rank0.engine", b"Engine")
    for _ in range(2):  # and again, now that it is noted what is there
        assert store.verify(path, full) == ["1/rank0.engine was altered after publication"]
    assert not store.has("m", FP)
    time.sleep(0.02)
    alter(path / "1" / "rank0.engine", b"engine")
    assert store.verify(path, full) == []


@pytest.mark.parametrize("full", [False, True])
def test_what_was_touched_and_is_the_same_is_intact_and_read_once(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    path, told = publish(store), reads(monkeypatch)
    assert store.verify(path, full=False) == [] and told == []
    time.sleep(0.02)
    os.chmod(path / "1" / "rank0.engine", 0o600)
    time.sleep(0.02)
    monkeypatch.setattr(fingerprint_module, "RACY_NS", 0)  # that the file is young is another test's
    assert store.verify(path, full) == []
    assert "rank0.engine" in told
    told.clear()
    assert store.verify(path, full=False) == [] and told == []


def test_who_only_looks_reads_what_differs_and_notes_nothing(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = publish(store)
    index, looking = store.digests_file(path), ArtifactStore(store.root, looks=True)
    noted, told = index.read_bytes(), reads(monkeypatch)
    assert looking.verify(path, full=False) == [] and told == []
    time.sleep(0.02)
    alter(path / "1" / "rank0.engine", b"Engine")
    assert looking.verify(path, full=False) == ["1/rank0.engine was altered after publication"]
    assert told == ["rank0.engine"] and index.read_bytes() == noted
    index.unlink()
    assert len(looking.verify(path, full=False)) == 1
    assert not index.exists()


def test_a_full_verification_writes_nothing_where_all_is_noted_already(store: ArtifactStore) -> None:
    path = publish(store)
    index = store.digests_file(path)
    noted = index.stat()
    assert store.verify(path, full=True) == []
    assert index.stat().st_ino == noted.st_ino


def test_what_arrived_is_not_read_again_and_what_is_altered_then_is_found(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = publish(store)
    other = ArtifactStore(store.root.parent / "other")
    shutil.copytree(made, other.incoming("m", FP))
    told = reads(monkeypatch)
    path = other.adopt("m", FP)
    assert other.has("m", FP) and told == []
    time.sleep(0.02)
    alter(path / "1" / "rank0.engine", b"Engine")
    assert not other.has("m", FP)
    assert other.remove("m", FP) and list(path.parent.iterdir()) == []


def test_a_store_that_hosts_share_has_no_note_and_is_looked_at_by_size(tmp_path: Path) -> None:
    shared = ArtifactStore(tmp_path, shared=True)
    path = publish(shared)
    assert [entry.name for entry in path.parent.iterdir()] == [FP]
    alter(path / "1" / "rank0.engine", b"Engine")
    assert shared.verify(path, full=False) == []
    assert shared.verify(path, full=True) == ["1/rank0.engine was altered after publication"]
    assert [entry.name for entry in path.parent.iterdir()] == [FP]


def test_truncation_is_found_by_size(store: ArtifactStore) -> None:
    path = publish(store)
    engine = path / "1" / "rank0.engine"
    engine.write_bytes(b"eng")
    assert store.verify(path, full=False) == ["1/rank0.engine has 3 bytes instead of 6"]
    engine.unlink()
    (path / "extra").touch()
    assert store.verify(path, full=False) == [
        "1/rank0.engine is missing",
        "extra was added after publication",
    ]
    (path / "manifest.json").write_text('{"files"')
    assert store.verify(path, full=False) == ["manifest.json is missing or damaged"]


def test_staging_is_empty_and_does_not_count_as_published(store: ArtifactStore) -> None:
    staging = store.staging("m", FP)
    (staging / "half").touch()
    assert store.published("m") == []
    assert list(store.staging("m", FP).iterdir()) == []


def test_nothing_is_published_from_nothing(store: ArtifactStore) -> None:
    with pytest.raises(FleetError, match="does not exist"):
        store.publish("m", FP, {})
    store.staging("m", FP)
    with pytest.raises(FleetError, match="holds no file"):
        store.publish("m", FP, {})


def test_a_rebuild_replaces_the_artefact(store: ArtifactStore) -> None:
    publish(store)
    path = publish(store, content=b"another")
    assert (path / "1" / "rank0.engine").read_bytes() == b"another"
    assert sorted(p.name for p in path.parent.iterdir()) == [FP, f"{FP}.digests.json"]


def test_what_began_to_arrive_goes_when_the_artefact_is_made_here(store: ArtifactStore) -> None:
    arriving = store.incoming("m", FP)
    arriving.mkdir(parents=True)
    (arriving / "rank0.engine").write_bytes(b"half")
    publish(store)
    assert not arriving.exists()


def test_a_sealed_partial_is_published_by_the_next_run(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(self: ArtifactStore, name: str, fingerprint: str) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ArtifactStore, "_rename", killed)
        publish(store)
    assert store.published("m") == []
    assert store.recover("m", OTHER) is None
    assert store.recover("m", FP) == store.path("m", FP)
    assert store.verify(store.path("m", FP), full=True) == []
    assert store.recover("m", FP) is None


def test_an_unsealed_or_damaged_partial_is_not_recovered(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    (store.staging("m", FP) / "rank0.engine").write_bytes(b"half")
    assert store.recover("m", FP) is None
    with monkeypatch.context() as patch:
        patch.setattr(ArtifactStore, "_rename", lambda self, name, fingerprint: self.partial(name, fingerprint))
        partial = publish(store)
    (partial / "1" / "rank0.engine").write_bytes(b"Engine")
    assert store.recover("m", FP) is None


def test_a_crash_between_the_two_renames_of_a_replacement_loses_nothing(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store)
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", rename)
        publish(store, content=b"new")
    assert store.recover("m", FP) is not None
    assert (store.path("m", FP) / "1" / "rank0.engine").read_bytes() == b"new"


def test_remove_takes_everything_of_one_fingerprint(store: ArtifactStore) -> None:
    publish(store)
    other = publish(store, OTHER)
    store.staging("m", FP)
    assert store.remove("m", FP) is True
    assert store.remove("m", FP) is False
    assert sorted(p.name for p in other.parent.iterdir()) == [OTHER, f"{OTHER}.digests.json"]


def test_published_lists_the_newest_first(store: ArtifactStore) -> None:
    first, second = publish(store), publish(store, OTHER)
    os.utime(first / "manifest.json", (2e9, 2e9))
    assert store.published("m") == [first, second]
    assert store.published("absent") == []


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a b"])
def test_names_cannot_leave_the_root(store: ArtifactStore, name: str) -> None:
    with pytest.raises(FleetError, match="it names directories and units"):
        store.path(name, FP)
    with pytest.raises(FleetError, match="is not a fingerprint"):
        store.path("m", "../" + FP)


def test_the_lock_excludes_and_times_out(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_POLL", 0.01)
    with store.lock("m"):
        with pytest.raises(FleetError, match="Another run has held"), store.lock("m", 0.05):
            raise AssertionError("two holders")
        with store.lock("other", 0):
            pass
        entered = threading.Event()

        def wait() -> None:
            with store.lock("m", 5):
                entered.set()

        waiter = threading.Thread(target=wait)
        waiter.start()
        assert not entered.wait(0.1)
    waiter.join(5)
    assert entered.is_set()


def test_the_lock_dies_with_its_holder(store: ArtifactStore, repo_dir: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path;"
        "from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.artifact_store import ArtifactStore;"
        "lock = ArtifactStore(Path(sys.argv[1])).lock('m'); lock.__enter__();"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": str(repo_dir / "collections")}
    assert subprocess.run([sys.executable, "-c", code, str(store.root)], env=environment, check=False).returncode == -9
    with store.lock("m", 0):
        pass
