# SPDX-License-Identifier: GPL-3.0-or-later
"""An artefact arrives whole or is not there, whatever happens on the way."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact import fetch, transfer_unit
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.fetch import Receiver, Source, Sources
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.pieces import Pieces
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.transfer import Transfer
from ansible_collections.trtllm.fleet.plugins.module_utils._base.command import Answer
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from unit.transfer_fakes import (
    FINGERPRINT,
    NAME,
    PIECE,
    SIZES,
    TOKEN,
    Process,
    alter,
    content,
    free_port,
    made,
    pieces,
    serving,
    store_of,
)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of waiting that a test has no use for."""
    monkeypatch.setattr(fetch, "GIVE_UP", 2.0)
    monkeypatch.setattr(Sources.__init__, "__defaults__", (1.0, 2.0))


def transfer(home: Path, wanted: str, *urls: str, token: str = TOKEN, **spec: object) -> Transfer:
    """What a host does that receives the engine."""
    whole = {
        "root": str(home), "kind": "engine", "name": NAME, "fingerprint": FINGERPRINT, "pieces": wanted,
        "sources": list(urls), "threads": 4, "address": "", "port": 0, "rate": 0, "shared": "", "turn": False,
        "ranks": [], "time_limit": 60, **spec,
    }  # fmt: skip
    return Transfer(whole, token)


def received(home: Path, wanted: Pieces, *urls: str, token: str = TOKEN) -> Transfer:
    """The same, run to its end."""
    running = transfer(home, wanted.identity, *urls, token=token)
    running.run()
    return running


def left(home: Path) -> list[str]:
    """What stands in the engine's directory."""
    there = store_of(home).home(NAME)
    return sorted(entry.name for entry in there.iterdir()) if there.is_dir() else []


INCOMING = f"{FINGERPRINT}.incoming"
MADE = [".lock", FINGERPRINT, f"{FINGERPRINT}.digests.json"]
WHOLE = [*MADE, f"{FINGERPRINT}.pieces.json"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made(tmp_path / "source")
    (tmp_path / "source" / "engines" / NAME / FINGERPRINT / "rank0.engine").chmod(0o640)
    return tmp_path / "source"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    return tmp_path / "host"


def test_what_arrives_is_what_a_build_would_have_left(source: Path, host: Path) -> None:
    with serving(source) as sender:
        done = received(host, pieces(source), sender.url)
        sent = sender.sent
    assert (done.state, done.message) == ("published", "")
    path = store_of(host).path(NAME, FINGERPRINT)
    assert content(path) == content(store_of(source).path(NAME, FINGERPRINT))
    assert (path / "rank0.engine").stat().st_mode & 0o777 == 0o640
    assert store_of(host).verify(path, full=True) == []
    assert left(host) == WHOLE
    assert sent == done.status()["received"] == pieces(source).size, "every byte crossed once"
    # It can be handed on at once.
    assert pieces(host).identity == pieces(source).identity


def test_an_engine_that_is_already_there_is_received_again_only_if_it_is_damaged(source: Path, host: Path) -> None:
    made(host)
    (store_of(host).path(NAME, FINGERPRINT) / "config.json").unlink()
    with serving(source) as sender:
        assert received(host, pieces(source), sender.url).state == "published"
    assert store_of(host).verify(store_of(host).path(NAME, FINGERPRINT), full=True) == []
    assert left(host) == WHOLE


def test_a_node_gets_its_ranks_only_and_hands_them_to_others_of_the_same_ranks(source: Path, host: Path) -> None:
    with serving(source) as sender:
        running = transfer(host, pieces(source).identity, sender.url, ranks=[1])
        running.run()
        sent = sender.sent
    store, path = store_of(host), store_of(host).path(NAME, FINGERPRINT)
    assert (running.state, running.message) == ("published", "")
    assert sent == running.status()["size"] == pieces(source).size - SIZES["rank0.engine"]
    assert sorted(content(path)) == ["1/empty", "config.json", "manifest.json", "rank1.engine"]
    assert left(host) == [*MADE, f"{FINGERPRINT}.left_out.json"]
    assert store.verify(path, full=True) == [] and store.left_out(path) == ["rank0.engine"]
    assert store.has(NAME, FINGERPRINT, [1]) and not store.has(NAME, FINGERPRINT)
    assert store.lacks(path, [0, 1]) == ["rank0.engine"] and not store.has(NAME, FINGERPRINT, [0])
    with pytest.raises(FleetError, match=r"cannot be handed on: rank0.engine is on another host"):
        pieces(host)
    # Once all of it arrives, nothing is left out.
    with serving(source) as sender:
        assert received(host, pieces(source), sender.url).state == "published"
    assert store.has(NAME, FINGERPRINT) and left(host) == WHOLE


def test_a_rank_of_its_own_that_is_lost_is_found(source: Path, host: Path) -> None:
    with serving(source) as sender:
        transfer(host, pieces(source).identity, sender.url, ranks=[1]).run()
    path = store_of(host).path(NAME, FINGERPRINT)
    (path / "rank1.engine").unlink()
    assert store_of(host).verify(path, full=False) == ["rank1.engine is missing"]
    made(host)
    assert store_of(host).has(NAME, FINGERPRINT) and FINGERPRINT + ".left_out.json" not in left(host)


def test_a_chain_of_hosts_with_the_same_ranks(tmp_path: Path, source: Path) -> None:
    """The second node asks the first alone, which has its ranks from the builder."""
    wanted = pieces(source).identity
    with serving(source) as sender:
        port, where = free_port(), "127.0.0.1"
        first = Process(tmp_path / "h1", sources=[sender.url], pieces=wanted, ranks=[0], address=where, port=port)
        second = transfer(tmp_path / "h2", wanted, f"http://{where}:{port}", ranks=[0])
        try:
            first.until("published")
            second.run()
        finally:
            first.kill()
    assert (second.state, second.message) == ("published", "")
    assert store_of(tmp_path / "h2").has(NAME, FINGERPRINT, [0])


def test_a_cut_transfer_keeps_what_is_right(source: Path, host: Path) -> None:
    """The source goes away in the middle; the next run fetches the rest only."""
    wanted = pieces(source)
    sender = Process(source, address="127.0.0.1", port=free_port(), rate=2_000_000)
    cut = transfer(host, wanted.identity, str(sender.until("serving")["url"]))
    running = threading.Thread(target=cut.run)
    running.start()
    while cut.status()["received"] < 6 * PIECE:
        time.sleep(0.01)
    sender.kill()
    running.join(20)
    assert not running.is_alive()
    assert cut.state == "failed"
    assert re.search(r"^tiny: no source gives more: http://\S+ does not answer: .* run again\. ", cut.message)
    assert cut.message.endswith("are verified and kept.")
    assert left(host) == [INCOMING]
    with serving(source) as again:
        done = received(host, wanted, again.url).status()
    assert done["state"] == "published"
    assert done["kept"] >= 6 * PIECE
    assert done["kept"] + done["received"] == wanted.size


def test_an_altered_piece_is_named_and_nothing_is_published(source: Path, host: Path) -> None:
    wanted = pieces(source)
    with serving(source) as sender:
        alter(store_of(source).path(NAME, FINGERPRINT) / "rank1.engine", 4 * PIECE + 7)
        done = received(host, wanted, sender.url)
    assert done.state == "failed"
    assert done.message.startswith("tiny: piece 4 of rank1.engine is not what the manifest says at http://127.0.0.1:")
    assert left(host) == [INCOMING]


def test_a_second_source_gives_the_piece_that_the_first_has_wrong(tmp_path: Path, source: Path, host: Path) -> None:
    wanted = pieces(source)
    made(tmp_path / "bad")
    # The same engine byte for byte, so the same list of pieces, until a byte is turned over.
    store = store_of(tmp_path / "bad")
    there = store_of(source).path(NAME, FINGERPRINT)
    for name in content(there):
        (store.path(NAME, FINGERPRINT) / name).write_bytes((there / name).read_bytes())
        (store.path(NAME, FINGERPRINT) / name).chmod((there / name).stat().st_mode)
    assert pieces(tmp_path / "bad").identity == wanted.identity
    with serving(tmp_path / "bad") as bad, serving(source) as good:
        alter(store.path(NAME, FINGERPRINT) / "rank0.engine", 3)
        done = received(host, wanted, bad.url, good.url)
        assert good.sent == PIECE, "one piece, and no more"
    assert done.state == "published"
    assert store_of(host).verify(store_of(host).path(NAME, FINGERPRINT), full=True) == []


def test_another_source_takes_over_when_one_is_killed(tmp_path: Path, source: Path, host: Path) -> None:
    wanted = pieces(source)
    first = Process(source, address="127.0.0.1", port=free_port(), rate=3_000_000)
    url = str(first.until("serving")["url"])
    with serving(source) as second:
        running = transfer(host, wanted.identity, url, second.url)
        thread = threading.Thread(target=running.run)
        thread.start()
        while running.status()["received"] < 4 * PIECE:
            time.sleep(0.01)
        first.kill()
        thread.join(30)
        assert 0 < second.sent < wanted.size
    assert running.state == "published", running.message
    assert store_of(host).verify(store_of(host).path(NAME, FINGERPRINT), full=True) == []


def test_a_killed_receiver_leaves_what_the_next_one_keeps(source: Path, host: Path) -> None:
    wanted = pieces(source)
    with serving(source, rate=2_000_000) as sender:
        victim = Process(host, sources=[sender.url], pieces=wanted.identity)
        victim.until("receiving")
        while sender.sent < 10 * PIECE:
            time.sleep(0.01)
        victim.kill()
    assert not (victim.directory / "token").exists(), "read once, and gone"
    assert left(host) == [INCOMING]
    with serving(source) as sender:
        again = Process(host, sources=[sender.url], pieces=wanted.identity)
        assert again.ended() == 0
        done = again.status()
        assert sender.sent == done["received"]
    assert done["state"] == "published"
    assert isinstance(done["kept"], int)
    assert done["kept"] >= 4 * PIECE
    assert store_of(host).verify(store_of(host).path(NAME, FINGERPRINT), full=True) == []


def test_killed_around_the_rename_it_is_there_whole_or_not_at_all(
    source: Path, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is complete and was not renamed costs no byte of the network."""
    monkeypatch.setattr(Transfer, "_publish", lambda *_: (_ for _ in ()).throw(FleetError("died here.")))
    with serving(source) as sender:
        assert received(host, pieces(source), sender.url).message == "died here."
    assert left(host) == [INCOMING]
    monkeypatch.undo()
    with serving(source) as sender:
        done = received(host, pieces(source), sender.url).status()
        assert (done["state"], done["received"], sender.sent) == ("published", 0, 0)


def test_a_wrong_token(source: Path, host: Path) -> None:
    with serving(source) as sender:
        done = received(host, pieces(source), sender.url, token="another")
    assert re.fullmatch(
        r"No source hands the artefact out: http://\S+ refuses the token; see that one does, and run again\.",
        done.message,
    )
    assert left(host) == []


def test_a_source_that_has_another_artefact_or_another_list(source: Path, host: Path) -> None:
    with serving(source) as sender:
        assert "hands out another list of pieces" in run_wanting(host, "0" * 64, FINGERPRINT, sender.url)
        assert "has no such artefact" in run_wanting(host, pieces(source).identity, "0" * 64, sender.url)
    assert left(host) == []


def run_wanting(home: Path, wanted: str, fingerprint: str, url: str) -> str:
    running = transfer(home, wanted, url, fingerprint=fingerprint)
    running.run()
    return running.message


def test_a_source_that_is_gone(source: Path, host: Path) -> None:
    begun = time.monotonic()
    done = received(host, pieces(source), f"http://127.0.0.1:{free_port()}")
    assert "does not answer: Connection refused; see that one does, and run again." in done.message
    assert time.monotonic() - begun < 10


def test_a_source_that_begins_late_is_waited_for(source: Path, host: Path) -> None:
    """A host whose predecessor is about to begin leaves the builder alone."""
    port, wanted = free_port(), pieces(source)
    with serving(source) as builder:
        running = transfer(host, wanted.identity, f"http://127.0.0.1:{port}", builder.url)
        thread = threading.Thread(target=running.run)
        thread.start()
        time.sleep(0.4)
        with serving(source, port=port):
            thread.join(20)
        assert running.state == "published", running.message
        assert builder.sent == 0


def test_a_chain_hands_on_what_is_verified_while_the_rest_arrives(tmp_path: Path, source: Path) -> None:
    """Three hosts, one after the other: the builder sends the engine once, and all have it soon after the first."""
    wanted, rate = pieces(source), 3_000_000
    with serving(source, rate=rate) as builder:
        urls, hosts = [builder.url], []
        for number in range(3):
            home = tmp_path / f"host{number}"
            receiver = Process(
                home, sources=[urls[-1], builder.url], pieces=wanted.identity, threads=2, address="127.0.0.1",
                port=free_port(), rate=rate,
            )  # fmt: skip
            hosts.append((home, receiver))
            urls.append(f"http://127.0.0.1:{transfer_port(receiver)}")
        try:
            said = [receiver.until("published", "failed") for _, receiver in hosts]
            assert [status["state"] for status in said] == ["published"] * 3, said
            assert builder.sent <= 1.35 * wanted.size, "one copy, whatever hosts there are"
        finally:
            for _, receiver in hosts:
                receiver.kill()
    for home, _ in hosts:
        assert store_of(home).verify(store_of(home).path(NAME, FINGERPRINT), full=True) == []


def transfer_port(process: Process) -> int:
    return int(re.search(r'"port": (\d+)', (process.directory / "spec.json").read_text()).group(1))  # type: ignore[union-attr]


def test_a_sender_ends_by_itself(source: Path) -> None:
    pieces(source)
    process = Process(source, address="127.0.0.1", port=free_port(), time_limit=1)
    assert process.ended(20) == 0


def test_two_receivers_of_one_artefact(source: Path, host: Path) -> None:
    wanted = pieces(source)
    where = store_of(host).incoming(NAME, FINGERPRINT)
    with serving(source) as sender, fetch.only_receiver(where):
        done = received(host, wanted, sender.url)
    assert done.message == f"Another process receives into {where}; wait for it or end it."


def test_what_is_a_directory_at_the_place_of_a_file_gives_way(source: Path, host: Path) -> None:
    """As where another version had a directory of that name."""
    where = store_of(host).incoming(NAME, FINGERPRINT)
    (where / "rank0.engine" / "sub").mkdir(parents=True)
    (where / "rank0.engine" / "sub" / "file").write_bytes(b"of before")
    wanted = pieces(source)
    with serving(source) as sender:
        assert received(host, wanted, sender.url).message == ""
    assert left(host) == WHOLE and store_of(host).verify(store_of(host).path(NAME, FINGERPRINT), full=True) == []


def test_a_build_that_was_faster_stays(source: Path, host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = pieces(source)
    receive = Receiver.run

    def slow(self: Receiver) -> None:
        receive(self)
        made(host)

    monkeypatch.setattr(Receiver, "run", slow)
    with serving(source) as sender:
        assert received(host, wanted, sender.url).state == "published"
    assert left(host) == MADE


def test_an_artefact_of_another_fingerprint_is_not_published(source: Path, host: Path) -> None:
    """Someone renamed it at the source, so its list is in order and its manifest is not."""
    store, other = store_of(source), "cd" * 32
    store.path(NAME, FINGERPRINT).rename(store.path(NAME, other))
    store.path(NAME, other).rename(store.path(NAME, FINGERPRINT))
    manifest = store.path(NAME, FINGERPRINT) / "manifest.json"
    manifest.write_text(manifest.read_text().replace(FINGERPRINT, other))
    with serving(source) as sender:
        done = received(host, pieces(source), sender.url)
    assert re.search(f"^tiny: what arrived has the fingerprint '{other}' instead of '{FINGERPRINT}'; n", done.message)
    assert FINGERPRINT not in left(host)


@contextlib.contextmanager
def small_disk(where: Path, size: str) -> Iterator[None]:
    where.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(where)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(where)], check=True)


def can_mount() -> bool:
    probe = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False)
    return os.geteuid() == 0 and probe.returncode == 0


@pytest.mark.skipif(not can_mount(), reason="a small disk is a mount, and only root may make one")
def test_a_disk_that_is_too_small_is_known_before_a_byte_is_fetched(source: Path, host: Path) -> None:
    with small_disk(host, "2m"), serving(source) as sender:
        done = received(host, pieces(source), sender.url)
        assert done.message == (
            f"{store_of(host).home(NAME)} has no room for the 2.5 MiB of tiny (No space left on device); nothing was "
            "fetched. Make room there."
        )
        assert sender.sent == 0
        assert left(host) == []


def test_a_limit_on_file_sizes_is_one_too(source: Path, host: Path) -> None:
    wanted = pieces(source)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with serving(source) as sender:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20 * PIECE, before[1]))
        try:
            done = received(host, wanted, sender.url)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert sender.sent == 0
    assert "has no room for the 2.5 MiB of tiny (File too large); nothing was fetched." in done.message


@pytest.mark.parametrize(
    "url", ["", "10.0.0.1:1", "https://a:1", "http://a", "http://a:1/x", "http://a:b", "file:///x"]
)
def test_a_url_that_is_no_source(url: str) -> None:
    with pytest.raises(FleetError, match=r"is not a source; expected http://ADDRESS:PORT\.$"):
        Source(url)


def test_a_transfer_that_ends_as_it_is_stopped_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([Answer(0, "active\n", ""), Answer(5, "", "Unit not loaded."), Answer(3, "inactive\n", "")])
    for module in (transfer_unit, transfer_unit.transient):
        monkeypatch.setattr(module, "run_command", lambda argv: next(answers))
    assert transfer_unit.TransferUnit(str(tmp_path), "engine", NAME, FINGERPRINT).stop() == {}
