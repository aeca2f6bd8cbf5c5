# SPDX-License-Identifier: GPL-3.0-or-later
"""What starts ranks on other hosts, run for real on addresses of this one; Open MPI alone is played."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[3] / "roles" / "triton" / "files" / "gang.py"
LEADER, WORKER = "127.0.0.1", "127.0.0.2"
# The same script with shorter times.
TIMES = {"BEAT": 0.1, "PATIENCE": 1.5, "PAUSE": 0.05, "END": 1.0, "GRACE": 0.6}
# Tells what it was given, and runs until it is told to end.
ORTED = """#!/bin/sh
printf '%s\\n' "$@" > "$HOME/orted.words"
env > "$HOME/orted.environment"
echo $$ > "$HOME/orted.pid"
[ -e "$HOME/short" ] && exit 7
exec sleep 60
"""
MPIRUN = """#!/bin/sh
trap 'kill $child; exit 143' TERM
python3 -I -S "$HOME/gang.py" call 127.0.0.2 "$@" &
child=$!
wait $child
"""
COMMAND = ["orted", "-mca", "ess", '"env"', "-mca", "orte_node_regex", '"[3:127].0.0.1,[3:127].0.0.2@0(2)"']


class Two:
    """A leader and a worker, each as its container would have it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        text = SCRIPT.read_text(encoding="utf-8")
        for name, seconds in TIMES.items():
            text, count = re.subn(rf"^{name} = [\d.]+", f"{name} = {seconds}", text, flags=re.M)
            assert count == 1
        assert 'STATE, PROC = "/tmp", "/proc"' in text
        (root / "proc").mkdir()
        text = text.replace('"/tmp", "/proc"', f"{str(root)!r}, {str(root / 'proc')!r}")
        (root / "gang.py").write_text(text, encoding="utf-8")
        for name, script in (("orted", ORTED), ("mpirun", MPIRUN)):
            (root / name).write_text(script)
            (root / name).chmod(0o755)
        (root / "secret").write_text("hello\n")
        (root / "engine").mkdir()
        for rank in range(2):
            (root / "engine" / f"rank{rank}.engine").touch()
        with socket.create_server((WORKER, 0)) as free:
            self.port = free.getsockname()[1]
        self.started: list[subprocess.Popen[str]] = []

    def told(self, node: int, **extra: Any) -> dict[str, Any]:
        return {
            "nodes": [LEADER, WORKER],
            "node": node,
            "port": self.port,
            "secret": str(self.root / "secret"),
            "is": {"image": "sha256:aaa", "engine": "/e/1"},
            "ranks": [node],
            "engines": [str(self.root / "engine")],
            **extra,
        }

    def start(self, told: dict[str, Any], *words: str) -> subprocess.Popen[str]:
        environment = {
            "TRTLLM_GANG": json.dumps(told),
            "HOME": str(self.root),
            "PATH": f"{self.root}:{os.environ['PATH']}",
        }
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(self.root / "gang.py"), *words], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.started.append(process)
        return process

    def worker(self, **extra: Any) -> subprocess.Popen[str]:
        process = self.start(self.told(1, **extra), "wait")
        assert process.stdout is not None and "waiting on" in process.stdout.readline()
        return process

    def leader(self, **extra: Any) -> subprocess.Popen[str]:
        return self.start(self.told(0, **extra), "lead", "mpirun", *COMMAND)

    def call(self, *command: str, **extra: Any) -> tuple[int, str]:
        process = self.start(self.told(0, **extra), "call", WORKER, *command)
        out, _none = process.communicate(timeout=10)
        return process.returncode, out

    def orted(self) -> int:
        """The daemon that was started."""
        until(lambda: (self.root / "orted.pid").exists() and (self.root / "orted.pid").read_text().strip())
        return int((self.root / "orted.pid").read_text())

    def end(self) -> None:
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    found = Two(tmp_path)
    yield found
    found.end()


def until(what: Callable[[], Any], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def ends(process: subprocess.Popen[str], seconds: float = 10) -> tuple[int, str]:
    out, _none = process.communicate(timeout=seconds)
    return process.returncode, out


def test_the_daemon_gets_its_words_and_ends_with_its_leader(two: Two) -> None:
    worker, leader = two.worker(), two.leader()
    two.orted()
    words = (two.root / "orted.words").read_text().splitlines()
    assert words == ["-mca", "ess", "env", "-mca", "orte_node_regex", "[3:127].0.0.1,[3:127].0.0.2@0(2)"]
    assert "NCCL_SOCKET_IFNAME=" in (two.root / "orted.environment").read_text() or not _has_interface(WORKER)
    os.killpg(leader.pid, signal.SIGKILL)
    code, out = ends(worker, 5)
    assert code == 0 and "the leader is gone" in out


def _has_interface(address: str) -> bool:
    return address in subprocess.run(["ip", "address"], capture_output=True, text=True, check=False).stdout


def test_the_end_of_the_daemon_is_that_of_the_call(two: Two) -> None:
    (two.root / "short").touch()
    worker = two.worker()
    assert two.call(*COMMAND) == (7, "")
    assert ends(worker)[0] == 0


def test_a_leader_waits_for_its_worker_and_names_it(two: Two) -> None:
    leader = two.leader()
    assert leader.stdout is not None and f"gang: waiting for {WORKER} (" in leader.stdout.readline()
    two.worker()
    assert "all 2 nodes are there" in leader.stdout.readline()
    two.orted()


def test_a_leader_that_freezes_or_is_cut_off_is_noticed(two: Two) -> None:
    worker, leader = two.worker(), two.leader()
    two.orted()
    os.killpg(leader.pid, signal.SIGSTOP)
    begun = time.monotonic()
    assert "the leader is gone" in ends(worker)[1]
    assert TIMES["PATIENCE"] * 0.5 < time.monotonic() - begun < TIMES["PATIENCE"] + 3


def test_a_worker_that_freezes_or_is_cut_off_is_noticed(two: Two) -> None:
    worker, leader = two.worker(), two.leader()
    two.orted()
    os.killpg(worker.pid, signal.SIGSTOP)
    code, out = ends(leader)
    assert code and f"{WORKER} is gone" in out and "mpirun has ended" in out


@pytest.mark.parametrize(
    ("worker", "sentence"),
    [
        ({"is": {"image": "sha256:bbb", "engine": "/e/1"}}, f"{WORKER} has image sha256:bbb and not sha256:aaa"),
        ({"ranks": [5]}, f"{WORKER} lacks rank 5 of "),
        ({"secret": "other"}, f"{WORKER} refused the call: it does not know the secret of this replica"),
    ],
)
def test_nodes_that_are_not_alike_do_not_start(two: Two, worker: dict[str, Any], sentence: str) -> None:
    (two.root / "other").write_text("another\n")
    two.worker(**({"secret": str(two.root / "other")} if "secret" in worker else worker))
    code, out = ends(two.leader())
    assert code == 1 and f"gang: not started: {sentence}" in out
    assert not (two.root / "orted.pid").exists()
    # Nor where the leader does not ask first.
    assert two.call(*COMMAND)[0] == 1 and not (two.root / "orted.pid").exists()


def test_a_node_may_have_something_else_for_as_long_as_it_is_changed(two: Two) -> None:
    before = two.worker(**{"is": {"image": "sha256:old", "engine": "/e/1"}})
    leader = two.leader()
    assert leader.stdout is not None and "has image sha256:old" in leader.stdout.readline()
    os.killpg(before.pid, signal.SIGTERM)
    before.wait(5)
    two.worker()
    two.orted()


def test_a_leader_that_lacks_its_own_ranks_does_not_start(two: Two) -> None:
    code, out = ends(two.leader(ranks=[3]))
    assert code == 1 and "not started: this node lacks rank 3" in out


@pytest.mark.parametrize(
    "command",
    [
        ["sh", "-c", "id"],
        ["/tmp/orted-not"],
        ["id;", "orted"],
        ["PATH=$(id);", "orted"],
        ["PATH=`id`", ";", "orted"],
        ["'unclosed"],
        [""],
    ],
)
def test_whoever_knows_the_secret_may_start_the_daemon_and_nothing_else(two: Two, command: list[str]) -> None:
    worker = two.worker()
    code, out = two.call(*command)
    assert code == 1 and "it may start orted and nothing else" in out
    assert worker.poll() is None and not (two.root / "orted.pid").exists()


def test_an_open_mpi_with_a_prefix_is_understood_and_no_shell_reads_it(two: Two) -> None:
    (two.root / "short").touch()
    two.worker()
    prefix = (
        "PATH=/opt/ompi/bin:$PATH ; export PATH ; LD_LIBRARY_PATH=/opt/lib:$LD_LIBRARY_PATH ; export LD_LIBRARY_PATH ;"
    )
    assert two.call(prefix, "/opt/ompi/bin/orted", "-mca", "x", "'$(touch", "y)';", "&&", "id")[0] == 7
    assert (two.root / "orted.words").read_text().splitlines() == ["-mca", "x", "$(touch y);", "&&", "id"]


def test_what_is_no_call_leaves_the_worker_waiting(two: Two) -> None:
    worker = two.worker()
    for said in (b"", b"\n", b"[]\n", b'{"said": 1}\n', b"x" * 70000):
        with contextlib.suppress(OSError), socket.create_connection((WORKER, two.port)) as link:
            link.sendall(said)
            link.shutdown(socket.SHUT_WR)
            while link.recv(4096):
                pass
    (two.root / "short").touch()
    assert two.call(*COMMAND)[0] == 7
    assert ends(worker)[0] == 0


def test_an_answer_that_was_heard_is_no_key_to_another_call(two: Two) -> None:
    worker = two.worker()
    said = {"start": " ".join(COMMAND), "is": two.told(0)["is"]}
    with socket.create_connection((WORKER, two.port)) as link:
        json.loads(link.makefile("r").readline())
        link.sendall(json.dumps({"nonce": "1", "said": said, "proof": "0" * 64}).encode() + b"\n")
        assert "does not know the secret" in link.makefile("r").readline()
    assert worker.poll() is None and not (two.root / "orted.pid").exists()


def test_a_worker_with_ranks_starts_no_others(two: Two) -> None:
    two.worker()
    two.leader()
    two.orted()
    assert "it still has ranks of an earlier start" in two.call(*COMMAND)[1]
    second = two.leader()
    assert second.stdout is not None and "it still has ranks of an earlier start" in second.stdout.readline()


def test_a_replica_that_is_told_to_end_ends_on_all_nodes_without_a_failure(two: Two) -> None:
    worker, leader = two.worker(), two.leader()
    two.orted()
    (two.root / ".stopping").touch()  # and no tritonserver is there that finishes requests
    assert ends(leader, 5)[0] == 0
    assert ends(worker, 5)[0] == 0


def server(two: Two, pid: int, *options: str) -> Path:
    """A server, as the leader sees it."""
    place = two.root / "proc" / str(pid)
    place.mkdir()
    (place / "comm").write_text("tritonserver\n")
    (place / "cmdline").write_bytes("".join(f"{word}\0" for word in options).encode())
    return place


def test_a_replica_that_is_told_to_end_waits_for_the_server_that_clients_ask_and_for_no_other(two: Two) -> None:
    worker, leader = two.worker(), two.leader()
    two.orted()
    first = server(two, 12, "tritonserver", "--http-port=8000")
    server(two, 13, "tritonserver", "--allow-http=false")
    server(two, 14)  # it has ended, and nobody has asked for its exit code
    (two.root / ".stopping").touch()
    time.sleep(10 * TIMES["PAUSE"])
    assert leader.poll() is None
    shutil.rmtree(first)
    assert ends(leader, 5)[0] == 0
    assert ends(worker, 5)[0] == 0


def test_a_leader_that_waits_ends_when_it_is_told_to(two: Two) -> None:
    leader = two.leader()
    time.sleep(0.3)
    (two.root / ".stopping").touch()
    assert ends(leader, 5)[0] == 0
