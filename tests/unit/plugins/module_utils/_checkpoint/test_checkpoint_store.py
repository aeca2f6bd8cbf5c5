# SPDX-License-Identifier: GPL-3.0-or-later
"""A checkpoint comes in whole or not at all, and an interrupted transfer goes on where it stopped."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact import store as artifact_store
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.store import CheckpointStore, compare

CONTENT = {"config.json": b"{}", "model-1.safetensors": b"one" * 1000, "sub/vocab.txt": b"a b c"}


def digests(content: dict[str, bytes]) -> dict[str, str]:
    return {path: hashlib.sha256(data).hexdigest() for path, data in content.items()}


def write(root: Path, content: dict[str, bytes]) -> Path:
    for path, data in content.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


def take_in(store: CheckpointStore, source: Path, content: dict[str, bytes]) -> list[str]:
    missing = store.missing("m", digests(content))
    store.copy("m", source, missing)
    store.publish("m", digests(content))
    return missing


def published(store: CheckpointStore) -> dict[str, bytes]:
    root = store.path("m")
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_checkpoint_is_taken_in_whole(store: CheckpointStore, tmp_path: Path) -> None:
    take_in(store, write(tmp_path / "src", CONTENT), CONTENT)
    assert published(store) == CONTENT
    assert not store.staging("m").exists()
    current = store.current("m")
    assert current and not compare(current.contents(), digests(CONTENT))


def test_links_of_a_hubs_cache_are_followed(store: CheckpointStore, tmp_path: Path) -> None:
    blobs = write(tmp_path / "blobs", CONTENT)
    source = tmp_path / "snapshot"
    for path in CONTENT:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).symlink_to(blobs / path)
    take_in(store, source, CONTENT)
    assert published(store) == CONTENT
    assert not any(path.is_symlink() for path in store.path("m").rglob("*"))


def test_only_what_differs_is_transferred_again(store: CheckpointStore, tmp_path: Path) -> None:
    source = write(tmp_path / "src", CONTENT)
    take_in(store, source, CONTENT)
    changed = {**CONTENT, "config.json": b'{"a": 1}'}
    write(source, changed)
    assert take_in(store, source, changed) == ["config.json"]
    assert published(store) == changed


def test_a_file_that_is_gone_from_the_source_goes(store: CheckpointStore, tmp_path: Path) -> None:
    source = write(tmp_path / "src", CONTENT)
    take_in(store, source, CONTENT)
    fewer = {"config.json": CONTENT["config.json"]}
    assert take_in(store, source, fewer) == []
    assert published(store) == fewer


def test_an_interrupted_transfer_goes_on(store: CheckpointStore, tmp_path: Path) -> None:
    source = write(tmp_path / "src", CONTENT)
    assert len(store.missing("m", digests(CONTENT))) == 3
    store.copy("m", source, ["model-1.safetensors"])
    (store.staging("m") / "config.json").write_bytes(b"{")  # cut off
    assert store.missing("m", digests(CONTENT)) == ["config.json", "sub/vocab.txt"]


def test_a_file_that_did_not_arrive_or_arrived_damaged_publishes_nothing(
    store: CheckpointStore, tmp_path: Path
) -> None:
    source = write(tmp_path / "src", CONTENT)
    take_in(store, source, CONTENT)
    changed = {**CONTENT, "config.json": b'{"a": 1}', "model-1.safetensors": b"two" * 1000}
    missing = store.missing("m", digests(changed))
    with pytest.raises(FleetError, match=r"config.json did not arrive"):
        store.publish("m", digests(changed))
    write(source, changed)
    store.copy("m", source, missing)
    (store.staging("m") / "model-1.safetensors").write_bytes(b"twx" * 1000)
    with pytest.raises(FleetError, match=r"model-1.safetensors arrived damaged"):
        store.publish("m", digests(changed))
    assert published(store) == CONTENT
    assert store.missing("m", digests(changed)) == ["model-1.safetensors"]


def test_a_path_that_leads_outside_is_refused(store: CheckpointStore) -> None:
    for path in ("../evil", "/etc/passwd", "a/../../b", "", ".", "a//b"):
        with pytest.raises(FleetError, match="leads out of the checkpoint"):
            store.missing("m", {path: "0" * 64})


def test_what_changed_by_hand_is_found(store: CheckpointStore, tmp_path: Path) -> None:
    take_in(store, write(tmp_path / "src", CONTENT), CONTENT)
    target = store.path("m") / "config.json"
    target.write_bytes(b"[]")
    os.utime(target, (1, 1))
    current = store.current("m")
    assert current
    assert compare(current.contents(), digests(CONTENT)).lines() == ["config.json: content differs"]


def test_removal_takes_all_that_belongs_to_it_and_nothing_else(store: CheckpointStore, tmp_path: Path) -> None:
    take_in(store, write(tmp_path / "src", CONTENT), CONTENT)
    (store.root / "other").mkdir()
    store.missing("m", digests({"config.json": b"half"}))
    assert store.remove("m") is True
    assert store.remove("m") is False
    assert [path.name for path in store.root.iterdir()] == ["other"]


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/x", "other.partial", "other.old", "other.digests.json"])
def test_no_name_reaches_what_belongs_to_another(store: CheckpointStore, tmp_path: Path, name: str) -> None:
    take_in(store, write(tmp_path / "src", CONTENT), CONTENT)
    (tmp_path / "engines").mkdir()
    actions: list[Callable[[], object]] = [
        lambda: store.remove(name),
        lambda: store.current(name),
        lambda: store.missing(name, {}),
        lambda: store.publish(name, {}),
        lambda: store.lock(name).__enter__(),
    ]
    for action in actions:
        with pytest.raises(FleetError, match="^name is "):
            action()
    assert published(store) == CONTENT
    assert (tmp_path / "engines").is_dir()


def test_the_lock_is_waited_for_but_not_for_ever(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_store, "LOCK_POLL", 0.01)
    with (
        store.lock("m"),
        pytest.raises(FleetError, match=r"Another run has held .*/\.m\.lock for 0\.05 s; wait for it or end it"),
        store.lock("m", 0.05),
    ):
        raise AssertionError("two holders")


@pytest.mark.parametrize("can", [True, False])
def test_a_replacement_leaves_no_moment_without_one_where_the_file_system_can(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can: bool
) -> None:
    take_in(store, write(tmp_path / "src", CONTENT), CONTENT)
    if not can:
        monkeypatch.setattr(artifact_store.files, "exchange", lambda one, other: False)
    real, lost = Path.rename, []

    def rename(self: Path, target: Path) -> Path:
        done = real(self, target)
        lost.append(not store.path("m").exists())
        return done

    monkeypatch.setattr(Path, "rename", rename)
    other = {**CONTENT, "config.json": b"[]"}
    take_in(store, write(tmp_path / "other", other), other)
    assert published(store) == other and not store.aside(store.path("m")).exists()
    assert any(lost) is not can


def test_a_link_in_the_place_of_a_checkpoint_is_replaced_and_not_followed(
    store: CheckpointStore, tmp_path: Path
) -> None:
    write(tmp_path / "elsewhere", {"precious": b"data"})
    store.root.mkdir()
    store.path("m").symlink_to(tmp_path / "elsewhere")
    take_in(store, write(tmp_path / "src", CONTENT), CONTENT)
    assert published(store) == CONTENT
    assert (tmp_path / "elsewhere" / "precious").read_bytes() == b"data"
    store.remove("m")
    store.path("m").symlink_to(tmp_path / "elsewhere")
    assert store.remove("m") is True
    assert (tmp_path / "elsewhere" / "precious").read_bytes() == b"data"
