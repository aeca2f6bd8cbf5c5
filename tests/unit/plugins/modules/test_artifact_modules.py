# SPDX-License-Identifier: GPL-3.0-or-later
"""Handing an engine out and receiving it as the modules do: checked, done, checked again, done again."""

from __future__ import annotations

import ast
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.transfer_unit import CODE
from unit import modules
from unit.systemd_fakes import FakeSystemd
from unit.transfer_fakes import FINGERPRINT, NAME, PIECE, TOKEN, alter, content, free_port, made, pieces, store_of

WHICH = {"name": NAME, "fingerprint": FINGERPRINT}


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSystemd]:
    fake = FakeSystemd(tmp_path / "systemd", monkeypatch)
    yield fake
    fake.kill()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made(tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    return tmp_path / "host"


def serve(home: Path, check: bool = False, **changes: Any) -> dict[str, Any]:
    arguments = {"address": "127.0.0.1", "token": TOKEN, **changes}
    return called_on(home, "trtllm_artifact_serve", arguments, check)


def called_on(home: Path, module: str, arguments: dict[str, Any], check: bool) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_HOST", home.name)
        return modules.call(module, {**WHICH, "root": str(home), **arguments}, check=check)


def stop(home: Path, check: bool = False) -> dict[str, Any]:
    return called_on(home, "trtllm_artifact_serve", {"state": "stopped"}, check)


def fetch(home: Path, served: dict[str, Any], check: bool = False, **changes: Any) -> dict[str, Any]:
    arguments = {"pieces": served["pieces"], "sources": [served["url"]], "token": TOKEN, **changes}
    return called_on(home, "trtllm_artifact_fetch", arguments, check)


def test_handing_out_four_ways_and_its_end(systemd: FakeSystemd, source: Path) -> None:
    port = free_port()
    would = serve(source, check=True, port=port)
    assert (would["changed"], would["pieces"]) == (True, "")
    assert systemd.running() == []
    done = serve(source, port=port)
    assert done["changed"]
    assert done["pieces"] == pieces(source).identity
    assert done["url"] == f"http://127.0.0.1:{port}"
    unit = f"trtllm-transfer-engine-tiny-{FINGERPRINT[:12]}.service"
    assert done["unit"] == unit
    assert systemd.running() == [f"source-{unit}"]
    assert not serve(source, check=True, port=port)["changed"]
    again = serve(source, port=port)
    assert (again["changed"], again["pieces"], again["size"]) == (False, done["pieces"], done["size"])
    # Another token is another offer.
    assert serve(source, port=port, token="another")["changed"]

    assert stop(source, check=True)["changed"]
    assert systemd.running() == [f"source-{unit}"]
    assert stop(source)["changed"]
    assert systemd.running() == []
    assert not stop(source, check=True)["changed"]
    assert not stop(source)["changed"]
    assert not (source / "transfers" / "tiny").exists()


def test_the_token_is_nowhere_to_be_read(systemd: FakeSystemd, source: Path, host: Path) -> None:
    served = serve(source, port=free_port())
    fetched = fetch(host, served, address="127.0.0.1", port=free_port())
    assert TOKEN not in systemd.arguments()
    assert TOKEN not in str(served) + str(fetched)
    for home in (source, host):
        kept = [file for file in (home / "transfers").rglob("*") if file.is_file()]
        assert kept
        assert all(TOKEN.encode() not in file.read_bytes() for file in kept)
        assert all(directory.stat().st_mode & 0o077 == 0 for directory in (home / "transfers").iterdir())


def test_a_unit_ends_by_itself_and_gives_way(systemd: FakeSystemd, source: Path) -> None:
    serve(source, port=free_port(), time_limit=123)
    for word in ("RuntimeMaxSec=123", "Nice=10", "IOSchedulingClass=best-effort", "CPUWeight=20", "--collect"):
        assert word in systemd.arguments()


def test_receiving_four_ways(systemd: FakeSystemd, source: Path, host: Path) -> None:
    served = serve(source, port=free_port())
    would = fetch(host, served, check=True)
    assert would["changed"]
    assert not host.exists()
    done = fetch(host, served)
    assert done["changed"]
    assert (done["received"], done["kept"], done["receiving"]) == (served["size"], 0, False)
    assert content(Path(done["artifact_dir"])) == content(store_of(source).path(NAME, FINGERPRINT))
    for check in (True, False):
        again = fetch(host, served, check=check)
        assert (again["changed"], again["received"]) == (False, 0)
    assert stop(source)["sent"] == served["size"]
    # It is there, so nobody is asked.
    assert not fetch(host, served)["changed"]


def test_started_first_and_waited_for_later(systemd: FakeSystemd, source: Path, host: Path) -> None:
    pieces(source)  # small ones
    served = serve(source, port=free_port(), rate=1)
    relay = {"address": "127.0.0.1", "port": free_port()}
    started = fetch(host, served, wait=False, **relay)
    assert (started["changed"], started["receiving"]) == (True, True)
    done = fetch(host, served, **relay)
    assert (done["changed"], done["receiving"], done["received"]) == (True, False, served["size"])
    assert len(systemd.running()) == 2, "it hands on what it has"
    assert stop(host)["changed"]


def test_followed_instead_of_waited_for(systemd: FakeSystemd, source: Path, host: Path) -> None:
    pieces(source)
    served = serve(source, port=free_port(), rate=1)
    assert "ended too early" in fetch(host, served, follow="look")["msg"], "nothing was started"
    would = fetch(host, served, check=True, follow="start")
    assert (would["changed"], would["receiving"]) == (True, False)
    looks = [fetch(host, served, follow="start")]
    deadline = time.monotonic() + 60
    while looks[-1]["receiving"]:
        assert looks[-1]["changed"] and time.monotonic() < deadline
        time.sleep(0.1)
        looks.append(fetch(host, served, follow="look"))
    assert looks[-1]["changed"] and looks[-1]["received"] == served["size"], "what waiting for it would have told"
    assert any(0 < look["received"] < served["size"] == look["size"] for look in looks)
    assert len(systemd.running()) == 1, "it has nothing left to do"
    again = fetch(host, served, follow="start")
    assert (again["changed"], again["receiving"]) == (False, False)


def test_one_that_ends_while_it_is_followed_is_not_started_again(
    systemd: FakeSystemd, source: Path, host: Path
) -> None:
    pieces(source)
    served = serve(source, port=free_port(), rate=1)
    assert fetch(host, served, follow="start")["receiving"]
    systemd.kill()
    assert "ended too early" in fetch(host, served, follow="look")["msg"]
    assert systemd.running() == []


def test_a_receiver_that_was_killed_is_taken_up(systemd: FakeSystemd, source: Path, host: Path) -> None:
    pieces(source)
    served = serve(source, port=free_port(), rate=1)
    fetch(host, served, wait=False)
    incoming = store_of(host).incoming(NAME, FINGERPRINT)
    status = host / "transfers" / f"engine-tiny-{FINGERPRINT[:12]}" / "status.json"
    deadline = time.monotonic() + 20
    while not re.search(r'"received": \d{6}', status.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    systemd.kill()
    assert incoming.is_dir()
    served = serve(source, port=free_port())
    done = fetch(host, served)
    assert done["kept"] >= PIECE
    assert done["kept"] + done["received"] == served["size"]


def test_a_unit_that_is_killed_or_cannot_be_started(systemd: FakeSystemd, source: Path, host: Path) -> None:
    pieces(source)
    served = serve(source, port=free_port(), rate=1)
    waiting = threading.Timer(2, systemd.kill)
    waiting.start()
    failed = fetch(host, served)
    assert failed["msg"].startswith("The transfer of tiny ended too early: its time_limit was over, or it was stopped ")
    waiting.join()
    (systemd.units.parent / "commands" / "systemd-run").write_text("#!/bin/sh\necho no bus >&2\nexit 1\n")
    assert fetch(host, served)["msg"] == "The transfer of tiny cannot be started: no bus."
    assert list((host / "transfers").iterdir()) == [], "no secret is left behind"


def test_what_goes_wrong_is_one_sentence(systemd: FakeSystemd, source: Path, host: Path) -> None:
    served = serve(source, port=free_port())
    assert "refuses the token" in fetch(host, served, token="wrong")["msg"]
    assert "is no source" not in fetch(host, served, sources=["http://127.0.0.1:x"])["msg"]
    alter(store_of(source).path(NAME, FINGERPRINT) / "rank0.engine", 1)
    failed = fetch(host, served)
    assert failed["msg"].startswith("tiny: piece 0 of rank0.engine is not what the manifest says at http://")
    assert "\n" not in failed["msg"]
    assert not store_of(host).path(NAME, FINGERPRINT).exists()
    missing = serve(host, port=free_port())
    assert missing["msg"].endswith("is not there, so it cannot be handed on; make it first.")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sources": []}, "sources is empty; "),
        ({"sources": ["10.0.0.1"]}, "'10.0.0.1' is not a source; expected http://ADDRESS:PORT."),
        ({"pieces": "x"}, "pieces is 'x'; give what trtllm_artifact_serve returned"),
        ({"threads": 0}, "threads is 0; give at least 1."),
        ({"poll": 0}, "poll is 0; give at least 1."),
        ({"time_limit": 0}, "time_limit is 0; give at least one second."),
        ({"rate": -1}, "give 0 for no limit, or megabytes a second."),
        ({"token": ""}, "token is empty; "),
        ({"fingerprint": "../.."}, "is not a fingerprint"),
    ],
)
def test_nonsense_is_refused_before_anything_is_done(
    systemd: FakeSystemd, host: Path, changes: dict[str, Any], says: str
) -> None:
    for check in (True, False):
        result = fetch(host, {"pieces": "0" * 64, "url": "http://127.0.0.1:1"}, check=check, **changes)
        assert says in result["msg"]
    assert not host.exists()
    assert systemd.arguments() == ""


def test_the_packed_code_is_all_that_the_process_imports(repo_dir: Path) -> None:
    """An import more and the process on the host would not start."""
    utils, found, pending = repo_dir / "plugins" / "module_utils", set(), ["_artifact.transfer"]
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found.add(name)
        package = name.split(".")[0]
        for node in ast.walk(ast.parse((utils / f"{name.replace('.', '/')}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = ".".join(filter(None, [package if node.level == 1 else "", node.module or ""]))
                direct = (utils / f"{base.replace('.', '/')}.py").is_file()
                pending += [base] if direct else [f"{base}.{alias.name}" for alias in node.names]
    assert sorted(found) == sorted(CODE)
