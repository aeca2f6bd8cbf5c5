# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read for its digests while it is sent arrives as what was read before would have, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact import fetch, fingerprint, pieces
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.artifact_store import ArtifactStore
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.fetch import Sources
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.pieces import Pieces
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.serve import Offer, Sender
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.transfer import Transfer
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint import draft as drafts
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.draft import Draft, Reading, draft
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.handed import KIND, Handed, Local, local
from unit.plugins.module_utils._hub.hub_files import files, weights
from unit.transfer_fakes import TOKEN, alter, free_port

NAME, PIECE = "m", 64 << 10


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces, and no waiting that a test has no use for."""
    monkeypatch.setattr(fingerprint, "RACY_NS", -(10**15))
    monkeypatch.setattr(fingerprint, "BLOCK", 16 << 10)
    for module in (drafts.PieceDigests.__init__, Pieces.__init__):
        monkeypatch.setattr(module, "__defaults__", (PIECE,))
    monkeypatch.setattr(drafts, "AHEAD", 4 * PIECE)
    monkeypatch.setattr(Reading.__init__, "__defaults__", (4 * PIECE,))
    monkeypatch.setattr("ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.handed.PIECE", PIECE)
    monkeypatch.setattr(pieces, "PIECE", PIECE)
    monkeypatch.setattr(fetch, "GIVE_UP", 2.0)
    monkeypatch.setattr(Sources.__init__, "__defaults__", (1.0, 2.0))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "weights"
    (root / "sub").mkdir(parents=True)
    body = weights(20 * PIECE + 5)
    for name, content in files(model__safetensors=body[:-9] + os.urandom(9), empty=b"").items():
        (root / name).write_bytes(content)
    (root / "sub" / "more.bin").write_bytes(os.urandom(3 * PIECE))
    return root


def index(tmp_path: Path) -> Path:
    return tmp_path / "index.json"


def first_of(source: Path) -> Draft:
    found = draft(source, index(source.parent))
    assert found is not None
    return found


@contextmanager
def sending(offer: Offer, port: int = 0) -> Iterator[Sender]:
    sender = Sender(offer, "127.0.0.1", port, TOKEN)
    try:
        yield sender
    finally:
        sender.stop()


def transfer(home: Path, wanted: Pieces, *urls: str, **spec: object) -> Transfer:
    """What a host does that receives the checkpoint, or a draft of it."""
    whole = {
        "root": str(home), "kind": KIND, "name": NAME, "fingerprint": wanted.fingerprint, "pieces": wanted.identity,
        "sources": list(urls), "threads": 4, "address": "", "port": 0, "rate": 0, "shared": "", "turn": False,
        "ranks": [], "time_limit": 60, **spec,
    }  # fmt: skip
    return Transfer(whole, TOKEN)


def received(home: Path, wanted: Pieces, *urls: str) -> Transfer:
    done = transfer(home, wanted, *urls)
    done.run()
    return done


def drafted(home: Path, source: Path) -> Local:
    """The draft sent to a host; what it was in the end."""
    first = first_of(source)
    reading = Reading(first)
    with sending(reading.offer()) as sender:
        done = received(home, first.pieces, sender.url)
    assert (done.state, done.message) == ("received", "")
    return reading.found()


def published(home: Path, found: Local) -> Transfer:
    """The same host, once it has asked for what it is."""
    with sending(found.offer()) as sender:
        return received(home, found.pieces, sender.url)


def held(home: Path, digest: str) -> dict[str, bytes]:
    handed = Handed(home, NAME)
    assert handed.adopt(digest, {})
    path = handed.path
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def content(source: Path) -> dict[str, bytes]:
    return {str(file.relative_to(source)): file.read_bytes() for file in source.rglob("*") if file.is_file()}


def big(home: Path) -> Path:
    (found,) = (home / "handed" / NAME).glob("*/files/model.safetensors")
    return found


def test_it_is_what_reading_it_before_would_have_made(tmp_path: Path, source: Path) -> None:
    before = local(source, tmp_path / "other.json")
    found = drafted(tmp_path / "host", source)
    assert (found.tree.digest, found.tree.contents()) == (before.tree.digest, before.tree.contents())
    assert found.pieces.encoded() == before.pieces.encoded()
    assert found.tree.bytes_read == found.pieces.size - len(found.manifest.read_bytes()), "read once"
    done = published(tmp_path / "host", found)
    assert (done.state, done.message) == ("published", "")
    assert done.status()["received"] == len(found.manifest.read_bytes()), "nothing but the manifest is sent again"
    assert held(tmp_path / "host", found.tree.digest) == content(source)
    # The digests are kept, so it is no draft any more, and nothing is read again.
    assert draft(source, index(tmp_path)) is None
    again = local(source, index(tmp_path))
    assert again.tree.bytes_read == 0 and again.pieces.identity == found.pieces.identity


def test_a_list_without_digests_is_one_throughout(source: Path) -> None:
    wanted = first_of(source).pieces
    assert Pieces.decoded(wanted.encoded()) == wanted and wanted.is_draft
    stored = json.loads(wanted.encoded())
    stored["files"]["files/config.json"].update(sha256="a" * 64, pieces=["b" * 64])
    with pytest.raises(FleetError, match="digests of some files alone"):
        Pieces.decoded(json.dumps(stored).encode())


def test_what_is_mostly_known_is_no_draft(tmp_path: Path, source: Path) -> None:
    local(source, index(tmp_path))
    (source / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "another": 1}')
    assert draft(source, index(tmp_path)) is None
    os.utime(source / "model.safetensors")
    assert draft(source, index(tmp_path)) is not None


def read_some(reading: Reading) -> None:
    """Until it is as far as it goes before anybody asks."""
    deadline = time.monotonic() + 10
    while reading._read < 4 * PIECE:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_is_read_no_further_than_it_is_asked_for(source: Path) -> None:
    first = first_of(source)
    reading = Reading(first)
    try:
        read_some(reading)
        time.sleep(0.2)
        assert reading._read <= 4 * PIECE + fingerprint.BLOCK
        assert not reading.wait("files/model.safetensors", 15 * PIECE, 0) or reading._read >= 16 * PIECE
        assert reading.wait("files/model.safetensors", 15 * PIECE, 5)
    finally:
        reading.stop()
    with pytest.raises(FleetError, match="was not read to its end; run again"):
        reading.found()


def test_a_killed_receiver_is_sent_only_what_it_lacks(tmp_path: Path, source: Path) -> None:
    first, host = first_of(source), tmp_path / "host"
    reading = Reading(first)
    whole = reading.offer()
    # The sender goes away in the middle, and with it what it knew.
    broken = Offer(whole.pieces, whole.open, lambda *of: of[1] < 10 * PIECE and reading.wait(*of), whole.sha256)
    with sending(broken) as sender:
        failed = received(host, first.pieces, sender.url)
    reading.stop()
    assert failed.state == "failed" and "no source gives more" in failed.message
    kept = failed.status()["received"]
    again = Reading(first)
    with sending(again.offer()) as sender:
        done = received(host, first.pieces, sender.url)
        sent = sender.sent
    assert done.state == "received" and done.status()["kept"] >= kept > 9 * PIECE
    assert sent == done.status()["received"] == first.pieces.size - done.status()["kept"]
    found = again.found()
    assert published(host, found).state == "published"
    assert held(host, found.tree.digest) == content(source)


def test_what_a_draft_left_is_taken_up_once_its_digests_are_known(tmp_path: Path, source: Path) -> None:
    first, host = first_of(source), tmp_path / "host"
    reading = Reading(first)
    whole = reading.offer()
    broken = Offer(whole.pieces, whole.open, lambda *of: of[1] < 10 * PIECE and reading.wait(*of), whole.sha256)
    with sending(broken) as sender:
        kept = received(host, first.pieces, sender.url).status()["received"]
    reading.stop()
    found = local(source, index(tmp_path))
    done = published(host, found)
    assert (done.state, done.message) == ("published", "") and done.status()["kept"] == kept > 9 * PIECE
    assert held(host, found.tree.digest) == content(source)


def test_killed_between_the_two_nothing_is_read_or_sent_again(tmp_path: Path, source: Path) -> None:
    host = tmp_path / "host"
    found = drafted(host, source)
    # What is published is what was verified; without the record of that, it is read for it.
    big(host).parent.parent.with_name(f"{first_id(host)}.verified.json").unlink()
    done = published(host, found)
    assert done.status()["received"] == len(found.manifest.read_bytes())
    assert held(host, found.tree.digest) == content(source)


def first_id(home: Path) -> str:
    return big(home).parent.parent.name.partition(".")[0]


@pytest.mark.parametrize("altered", [PIECE * 3 + 1, PIECE * 20 + 3])
def test_a_piece_that_is_altered_on_the_way_is_named(tmp_path: Path, source: Path, altered: int) -> None:
    first, host = first_of(source), tmp_path / "host"
    reading = Reading(first)

    def late(name: str, start: int, seconds: float) -> bool:
        read = reading.wait(name, start, seconds)
        if name.endswith("model.safetensors") and start == altered // PIECE * PIECE:
            alter(source / "model.safetensors", altered)
        return read

    whole = reading.offer()
    with sending(Offer(whole.pieces, whole.open, late, whole.sha256, whole.gone)) as sender:
        done = received(host, first.pieces, sender.url)
    reading.stop()
    assert done.state == "failed"
    assert f"piece {altered // PIECE} of files/model.safetensors is not what" in done.message
    assert not Handed(host, NAME).arrived(first.pieces.fingerprint)


def test_pieces_altered_with_their_digests_are_received_again(tmp_path: Path, source: Path) -> None:
    """As who is on the network between two hosts could."""
    host, other = tmp_path / "host", tmp_path / "other"
    other.mkdir()
    for name, body in content(source).items():
        (other / name).parent.mkdir(exist_ok=True)
        (other / name).write_bytes(body)
    alter(other / "model.safetensors", 7 * PIECE)
    real, forged = first_of(source), first_of(other)
    reading, false = Reading(real), Reading(forged)
    whole = false.offer()
    with sending(Offer(real.pieces, whole.open, whole.wait, whole.sha256)) as sender:
        done = received(host, real.pieces, sender.url)
    assert done.state == "received", "each piece is what its digest says"
    false.found()
    with sending(reading.offer()) as sender:
        received(tmp_path / "second", real.pieces, sender.url)
    found = reading.found()
    done = published(host, found)
    assert done.state == "published"
    assert done.status()["received"] == PIECE + len(found.manifest.read_bytes()), "the altered piece, and the manifest"
    assert held(host, found.tree.digest) == content(source)


def test_another_list_in_the_end_is_refused(tmp_path: Path, source: Path) -> None:
    host = tmp_path / "host"
    found = drafted(host, source)
    files_of = found.pieces.files
    of_another = Pieces(found.pieces.fingerprint, {**files_of, "files/evil": files_of["manifest.json"]})
    with sending(Offer(of_another, found.offer().open)) as sender:
        done = received(host, found.pieces, sender.url)
    assert done.state == "failed" and "hands out another list of pieces than was asked for" in done.message
    assert not Handed(host, NAME).arrived(found.tree.digest)


def test_a_piece_without_its_digest_is_refused(tmp_path: Path, source: Path) -> None:
    first = first_of(source)
    reading = Reading(first)
    whole = reading.offer()
    with sending(Offer(whole.pieces, whole.open, whole.wait)) as sender:
        done = received(tmp_path / "host", first.pieces, sender.url)
    reading.stop()
    assert done.state == "failed" and "sends a piece without its digest" in done.message


@pytest.mark.parametrize("harm", [
    lambda source: (source / "sub" / "more.bin").write_bytes(b"short"),
    lambda source: (source / "sub" / "more.bin").unlink(),
    lambda source: (source / "tokens.txt").write_bytes(b"new"),
])  # fmt: skip
def test_a_file_that_changes_meanwhile_ends_it_at_once(
    tmp_path: Path, source: Path, harm: Callable[[Path], Any]
) -> None:
    first = first_of(source)
    harm(source)
    begun = time.monotonic()
    with pytest.raises(FleetError, match=r"was written to while it was sent; wait|cannot be read: No such file"):
        reading = Reading(first)
        with sending(reading.offer()) as sender:
            received(tmp_path / "host", first.pieces, sender.url)
        assert str(reading.failure)
        reading.found()
    assert time.monotonic() - begun < 2, "nobody waits for what does not come"


def test_a_file_that_is_written_to_as_it_is_read(tmp_path: Path, source: Path) -> None:
    first = first_of(source)
    reading = Reading(first)
    read_some(reading)
    with open(source / "model.safetensors", "ab") as stream:
        stream.write(b"more")
    with sending(reading.offer()) as sender:
        assert received(tmp_path / "host", first.pieces, sender.url).state in ("failed", "received")
    with pytest.raises(FleetError, match="changed while it was read; wait"):
        reading.found()


def test_hosts_hand_on_a_draft_while_it_arrives(tmp_path: Path, source: Path) -> None:
    first = first_of(source)
    reading, port = Reading(first), free_port()
    one = transfer(tmp_path / "one", first.pieces, "", address="127.0.0.1", port=port, time_limit=6)
    with sending(reading.offer()) as sender:
        one.spec["sources"] = [sender.url]
        running = threading.Thread(target=one.run)
        running.start()
        two = received(tmp_path / "two", first.pieces, f"http://127.0.0.1:{port}")
        found = reading.found()
        sent = sender.sent
    assert (two.state, two.message) == ("received", "") and sent == first.pieces.size, (
        "the first host alone was sent it"
    )
    # The first one takes up what came under the name that it has now, and the draft is handed on all the same.
    assert published(tmp_path / "one", found).state == "published"
    assert received(tmp_path / "three", first.pieces, f"http://127.0.0.1:{port}").state == "received"
    one.over.set()
    running.join()
    for name in ("two", "three", "one"):
        published(tmp_path / name, found)
        assert held(tmp_path / name, found.tree.digest) == content(source)


def test_what_another_transfer_still_receives_into_is_left_alone(tmp_path: Path, source: Path) -> None:
    host = tmp_path / "host"
    found = drafted(host, source)
    descriptor = os.open(big(host).parent.parent, os.O_RDONLY)
    try:
        fetch.fcntl.flock(descriptor, fetch.fcntl.LOCK_EX)
        done = published(host, found)
    finally:
        os.close(descriptor)
    assert done.state == "published" and done.status()["received"] == found.pieces.size


def test_one_that_has_taken_something_up_keeps_it(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another of the same name begins when the first one has read what is known of it, and has not begun to write."""
    host = tmp_path / "host"
    found = drafted(host, source)
    changed = tmp_path / "changed"
    shutil.copytree(source, changed)
    (changed / "sub" / "more.bin").write_bytes(b"another")
    other = local(changed, tmp_path / "index2.json")
    assert other.tree.digest != found.tree.digest
    run = fetch.Receiver.run
    told = []

    def late(self: fetch.Receiver) -> None:
        monkeypatch.setattr(fetch.Receiver, "run", run)
        told.append(published(host, other))
        run(self)

    monkeypatch.setattr(fetch.Receiver, "run", late)
    first = published(host, found)
    assert (first.state, first.message) == ("published", "")
    assert first.status()["received"] < PIECE, "its manifest alone"
    assert told[0].state == "published" and told[0].status()["received"] == other.pieces.size
    assert held(host, found.tree.digest) == content(source)
    assert published(host, other).state == "published" and held(host, other.tree.digest) == content(changed)


def test_what_is_known_of_files_that_are_gone_counts_for_nothing(tmp_path: Path, source: Path) -> None:
    """Such as where a host went down when what is known had its new name, and the files had not."""
    host = tmp_path / "host"
    found = drafted(host, source)
    incoming = big(host).parent.parent
    store = ArtifactStore(host / "handed")
    store.verified_file(incoming).rename(store.verified_file(store.incoming(NAME, found.pieces.fingerprint)))
    shutil.rmtree(incoming)
    done = published(host, found)
    assert (done.state, done.status()["received"]) == ("published", found.pieces.size)
    assert held(host, found.tree.digest) == content(source)


@pytest.mark.parametrize("keep", [False, True])
def test_killed_at_any_step_it_is_the_old_or_the_new_and_then_the_new(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    class Killed(Exception):
        pass

    before = content(source)
    ready = tmp_path / "ready"
    old = drafted(ready, source)
    published(ready, old)
    assert Handed(ready, NAME).adopt(old.tree.digest, {})
    (source / "sub" / "more.bin").write_bytes(b"another")
    after = content(source)
    new = local(source, index(tmp_path))
    published(ready, new)
    for steps in range(50):
        host, left = tmp_path / f"host{steps}", [steps]
        shutil.copytree(ready, host, symlinks=True)

        def killed(of: Callable[..., None], left: list[int]) -> Callable[..., None]:
            def step(*given: Any, **more: Any) -> None:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                of(*given, **more)

            return step

        with monkeypatch.context() as patched:
            for name in ("rename", "replace", "link"):
                patched.setattr(os, name, killed(getattr(os, name), left))
            with suppress(Killed):
                Handed(host, NAME).adopt(new.tree.digest, {}, keep)
        handed = Handed(host, NAME)
        assert content(handed.path) in (before, after), steps
        # The next run: as it arrived, or from what was about to be published.
        if not handed.adopt(new.tree.digest, {}):
            assert handed.store.missing(NAME, new.tree.contents()) == []
            handed.store.publish(NAME, new.tree.contents())
        assert content(handed.path) == after and handed.digest() == new.tree.digest
        if left[0] >= 0:
            break
    assert 3 < steps < 49
