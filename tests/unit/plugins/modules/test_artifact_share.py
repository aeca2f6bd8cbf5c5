# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts that share an engine through one directory: one makes it, whoever dies, and no other engine is disturbed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.turn import Turn
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from unit import modules
from unit.systemd_fakes import FakeSystemd
from unit.transfer_fakes import FINGERPRINT, NAME, Process, alter, content, made, store_of

OTHER = "cd" * 32
ENGINE = f"transfers/engine-tiny-{FINGERPRINT[:12]}"


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSystemd]:
    fake = FakeSystemd(tmp_path / "systemd", monkeypatch)
    yield fake
    fake.kill()


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


@pytest.fixture
def hosts(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "h1", tmp_path / "h2"


def share(home: Path, shared: Path, check: bool = False, **changes: Any) -> dict[str, Any]:
    arguments = {"name": NAME, "fingerprint": FINGERPRINT, "root": str(home), "shared_dir": str(shared), **changes}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_HOST", home.name)
        return modules.call("trtllm_artifact_share", arguments, check=check)


def engine(home: Path, fingerprint: str = FINGERPRINT) -> dict[str, bytes]:
    return content(store_of(home).path(NAME, fingerprint))


def test_one_makes_it_and_the_other_has_it(systemd: FakeSystemd, shared: Path, hosts: tuple[Path, Path]) -> None:
    one, two = hosts
    for check in (True, False, True, False):
        result = share(one, shared, check=check, wait=False)
        assert (result["changed"], result["builds"]) == (True, not check or result["builds"])
    assert result["builds"], "asked again, it is still the turn of this host"
    waits = share(two, shared, wait=False)
    assert (waits["builds"], waits["waiting"]) == (False, True)
    assert waits["holder"] == os.uname().nodename
    made(one)
    assert not share(one, shared)["builds"]
    assert engine(shared) == engine(one)
    had = share(two, shared, turn=False)
    assert (had["waiting"], had["free"]) == (False, False)
    assert engine(two) == engine(one)
    assert store_of(two).verify(store_of(two).path(NAME, FINGERPRINT), full=True) == []
    for home in hosts:
        share(home, shared)  # it may say what was done since it was waited for
        for check in (True, False):
            again = share(home, shared, check=check)
            assert (again["changed"], again["received"]) == (False, 0)
        assert list((home / "transfers").iterdir()) == []
    assert systemd.running() == []


def test_a_host_that_has_it_puts_it_there(systemd: FakeSystemd, shared: Path, hosts: tuple[Path, Path]) -> None:
    made(hosts[0])
    would = share(hosts[0], shared, check=True)
    assert (would["changed"], list(shared.iterdir())) == (True, [])
    assert share(hosts[0], shared)["changed"]
    done = share(hosts[1], shared, state="received")
    assert (done["changed"], done["received"]) == (True, done["size"])
    assert engine(hosts[1]) == engine(hosts[0])


def test_a_node_takes_its_ranks_and_puts_no_part_there(
    systemd: FakeSystemd, shared: Path, hosts: tuple[Path, Path]
) -> None:
    made(hosts[0])
    share(hosts[0], shared)
    assert share(hosts[1], shared, ranks=[1], state="received")["changed"]
    assert sorted(engine(hosts[1])) == ["1/empty", "config.json", "manifest.json", "rank1.engine"]
    for check in (True, False):
        assert not share(hosts[1], shared, check=check, ranks=[1])["changed"]
    store_of(shared).remove(NAME, FINGERPRINT)
    again = share(hosts[1], shared, ranks=[1])
    assert (again["builds"], again["waiting"]) == (False, False)
    assert not store_of(shared).has(NAME, FINGERPRINT)


def test_who_only_receives_takes_no_turn(systemd: FakeSystemd, shared: Path, hosts: tuple[Path, Path]) -> None:
    for check in (True, False):
        found = share(hosts[0], shared, check=check, state="received")
        assert (found["changed"], found["free"]) == (False, True)
    assert list(shared.iterdir()) == []


def test_a_holder_that_is_killed_leaves_the_turn(systemd: FakeSystemd, shared: Path, hosts: tuple[Path, Path]) -> None:
    holder = Process(hosts[0], shared=str(shared), turn=True)
    holder.until("holding")
    waits = share(hosts[1], shared, wait=False)
    assert (waits["builds"], waits["waiting"], waits["free"]) == (False, True, False)
    holder.process.send_signal(signal.SIGKILL)
    holder.process.wait()
    found = share(hosts[1], shared, turn=False)
    assert (found["free"], found["builds"]) == (True, False), "who does not want it is told that nobody has it"
    assert share(hosts[1], shared)["builds"]
    made(hosts[1])
    share(hosts[1], shared)
    assert engine(shared) == engine(hosts[1])


def test_who_waits_for_the_turn_has_it_next(systemd: FakeSystemd, shared: Path, hosts: tuple[Path, Path]) -> None:
    holder = Process(hosts[0], shared=str(shared), turn=True)
    holder.until("holding")
    assert share(hosts[1], shared, wait=False)["waiting"]
    threading.Timer(1, holder.process.kill).start()
    assert share(hosts[1], shared)["builds"]
    holder.process.wait()


def test_a_copy_that_is_killed_is_taken_up(systemd: FakeSystemd, shared: Path, hosts: tuple[Path, Path]) -> None:
    """Half of it is in the shared directory, and none of it is to be seen there."""
    made(hosts[0])
    half = store_of(shared).incoming(NAME, FINGERPRINT)
    half.mkdir(parents=True)
    (half / "rank0.engine").write_bytes(engine(hosts[0])["rank0.engine"][:70_000])
    assert not store_of(shared).has(NAME, FINGERPRINT)
    assert not share(hosts[1], shared, state="received")["changed"]
    share(hosts[0], shared)
    assert engine(shared) == engine(hosts[0])
    assert not half.exists()


def test_the_turn_is_given_up(systemd: FakeSystemd, shared: Path, hosts: tuple[Path, Path]) -> None:
    assert share(hosts[0], shared, wait=False)["builds"]
    assert share(hosts[0], shared, check=True, state="absent")["changed"]
    assert share(hosts[0], shared, state="absent")["changed"]
    for check in (True, False):
        assert not share(hosts[0], shared, check=check, state="absent")["changed"]
    assert share(hosts[1], shared, wait=False)["builds"]


def test_two_engines_do_not_disturb_each_other(systemd: FakeSystemd, shared: Path, hosts: tuple[Path, Path]) -> None:
    assert share(hosts[0], shared, wait=False)["builds"]
    assert share(hosts[1], shared, wait=False, fingerprint=OTHER)["builds"]
    made(hosts[0])
    made(hosts[1], OTHER, seed=2)
    share(hosts[1], shared, fingerprint=OTHER)
    share(hosts[0], shared)
    assert engine(shared) == engine(hosts[0])
    assert engine(shared, OTHER) == engine(hosts[1], OTHER)


def test_a_wrong_byte_is_found(systemd: FakeSystemd, shared: Path, hosts: tuple[Path, Path]) -> None:
    made(hosts[0])
    share(hosts[0], shared)
    alter(store_of(shared).path(NAME, FINGERPRINT) / "rank1.engine", 7)
    said = share(hosts[1], shared)["msg"]
    assert said.startswith(f"tiny: piece 0 of rank1.engine is not what the manifest says at {shared}/engines/tiny/")
    assert not store_of(hosts[1]).path(NAME, FINGERPRINT).exists()


def test_the_time_limit(shared: Path, hosts: tuple[Path, Path]) -> None:
    with Turn(store_of(shared).turn_file(NAME, FINGERPRINT)) as turn:
        assert turn.take()
        waiting = Process(hosts[1], shared=str(shared), turn=True, time_limit=2)
        said = str(waiting.until("failed")["message"])
    assert said == (
        f"tiny was not put into {shared}/engines within 2 s, and {os.uname().nodename} still has its lock; see what "
        "becomes of it there, and run again."
    )
    assert waiting.ended() == 1


def test_the_lock_goes_with_its_process(shared: Path) -> None:
    path = shared / "engines" / "tiny" / "x.lock"
    with Turn(path) as first, Turn(path) as second:
        assert (first.free(), first.take(), first.taken, first.free()) == (True, True, True, False)
        assert (second.take(), second.taken) == (False, False)
        first.give_back()
        assert second.take()


def test_a_file_system_without_locks(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    with Turn(shared / "x.lock") as turn, pytest.raises(FleetError, match=r"x\.lock cannot be locked \(Function not"):
        turn.take()


def test_where_nothing_can_be_written_there_is_no_turn(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = shared / "x.lock", os.open
    with Turn(path) as turn:
        assert turn.take()

        def read_only(name: Any, flags: int, *rest: Any) -> int:
            if flags & (os.O_RDWR | os.O_WRONLY):
                raise OSError(30, "Read-only file system")
            return real(name, flags, *rest)

        monkeypatch.setattr("os.open", read_only)
        reader = Turn(path)
        assert (reader.take(), reader.writes, reader.free()) == (False, False, False)
        turn.give_back()
        assert (reader.take(), reader.free()) == (False, True)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"shared_dir": ""}, "shared_dir is "),
        ({"shared_dir": "/nowhere/at/all"}, "which is no directory of this host; mount it, or give its path."),
        ({"threads": 0}, "threads is 0; give at least 1."),
        ({"poll": 0}, "poll is 0; give at least 1."),
        ({"time_limit": 0}, "time_limit is 0; give at least one second."),
        ({"fingerprint": "../.."}, "is not a fingerprint"),
    ],
)
def test_nonsense_is_refused_before_anything_is_done(
    systemd: FakeSystemd, shared: Path, hosts: tuple[Path, Path], changes: dict[str, Any], says: str
) -> None:
    for check in (True, False):
        assert says in share(hosts[0], shared, check=check, **changes)["msg"]
    assert not hosts[0].exists()
    assert list(shared.iterdir()) == []
    assert systemd.arguments() == ""


def test_the_root_is_not_what_hosts_share(systemd: FakeSystemd, hosts: tuple[Path, Path]) -> None:
    hosts[0].mkdir()
    assert "which is the root of this host" in share(hosts[0], hosts[0])["msg"]


def test_a_unit_that_waits_takes_little_time_to_see_it(shared: Path, hosts: tuple[Path, Path]) -> None:
    waiting = Process(hosts[1], shared=str(shared), turn=False)
    waiting.until("free")
    made(hosts[0])
    giving, begun = Process(hosts[0], shared=str(shared), turn=True), time.monotonic()
    waiting.until("published", seconds=20)
    assert time.monotonic() - begun < 15
    assert (giving.ended(), waiting.ended()) == (0, 0)
