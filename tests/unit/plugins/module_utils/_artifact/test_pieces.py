# SPDX-License-Identifier: GPL-3.0-or-later
"""A list of pieces stands for exactly the bytes that were published, and for nothing else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact import pieces as module
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.pieces import PIECE as DEFAULT
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.pieces import Pieces, pieces_of
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from unit.transfer_fakes import FINGERPRINT, NAME, PIECE, SIZES, alter, made, pieces, store_of


def test_every_piece_and_every_file_has_its_digest(tmp_path: Path) -> None:
    path = made(tmp_path)
    found = pieces(tmp_path)
    assert sorted(found.files) == sorted([*SIZES, "manifest.json"])
    data, file = (path / "rank0.engine").read_bytes(), found.files["rank0.engine"]
    assert len(file.pieces) == 21
    assert file.pieces[20] == hashlib.sha256(data[20 * PIECE :]).hexdigest()
    assert file.sha256 == hashlib.sha256(data).hexdigest()
    assert found.files["1/empty"].pieces == ()
    assert found.size == sum(SIZES.values()) + (path / "manifest.json").stat().st_size
    assert sum(span.size for span in found.spans()) == found.size
    assert DEFAULT == 8 << 20


def test_they_are_computed_once_and_kept_beside_the_artefact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path)
    first = pieces(tmp_path)
    assert Pieces.decoded(store_of(tmp_path).pieces_file(NAME, FINGERPRINT).read_bytes()) == first
    assert store_of(tmp_path).verify(path, full=True) == []

    def refuse(*given: object) -> Pieces:
        raise AssertionError("they were computed again")

    monkeypatch.setattr(module, "_make", refuse)
    assert pieces(tmp_path).identity == first.identity
    alter(path / "rank1.engine", 5)
    with pytest.raises(FleetError, match=r"handed on: rank1\.engine was altered after publication; make it again"):
        pieces(tmp_path)


def test_those_of_an_engine_that_was_made_again_are_others(tmp_path: Path) -> None:
    made(tmp_path)
    first = pieces(tmp_path)
    made(tmp_path, seed=2)
    assert pieces(tmp_path).identity != first.identity


def test_what_was_altered_is_not_handed_on(tmp_path: Path) -> None:
    path = made(tmp_path)
    alter(path / "rank0.engine", 70_000)
    with pytest.raises(FleetError, match=r"handed on: rank0\.engine was altered after publication; make it again"):
        pieces(tmp_path)
    assert not store_of(tmp_path).pieces_file(NAME, FINGERPRINT).exists()


def test_a_file_that_is_missing_is_found_though_pieces_are_kept(tmp_path: Path) -> None:
    path = made(tmp_path)
    pieces(tmp_path)
    (path / "config.json").unlink()
    with pytest.raises(FleetError, match=r"cannot be handed on: config\.json is missing; make it again"):
        pieces(tmp_path)


def test_a_link_is_not_followed_out_of_the_artefact(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    secret = tmp_path / "shadow"
    secret.write_text("root:x")
    staging = store.staging(NAME, FINGERPRINT)
    (staging / "rank0.engine").symlink_to(secret)
    store.publish(NAME, FINGERPRINT, {})
    with pytest.raises(FleetError, match="is a link, and what it leads to is not handed on"):
        pieces(tmp_path)


def test_an_artefact_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="is not there, so it cannot be handed on; make it first"):
        pieces_of(store_of(tmp_path), NAME, FINGERPRINT)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/shadow", "a/../../x", "", "a//b"], ids=["up", "absolute", "through", "empty", "double"]
)
def test_a_list_that_names_another_place_is_refused(tmp_path: Path, name: str) -> None:
    made(tmp_path)
    stored = json.loads(pieces(tmp_path).encoded())
    stored["files"][name] = stored["files"].pop("config.json")
    with pytest.raises(FleetError, match="leads out of the artefact"):
        Pieces.decoded(json.dumps(stored).encode())


@pytest.mark.parametrize("content", [b"", b"[]", b'{"version": 2}', b'{"version": 1, "files": {"a": {}}}'])
def test_what_is_no_list_is_refused(content: bytes) -> None:
    with pytest.raises(FleetError, match="is no list of pieces"):
        Pieces.decoded(content)


def test_removing_an_artefact_removes_what_belongs_to_it(tmp_path: Path) -> None:
    store, path = store_of(tmp_path), made(tmp_path)
    pieces(tmp_path)
    store.incoming(NAME, FINGERPRINT).mkdir()
    assert store.remove(NAME, FINGERPRINT)
    assert list(path.parent.iterdir()) == []
    assert not store.remove(NAME, FINGERPRINT)
