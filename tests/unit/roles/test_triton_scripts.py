# SPDX-License-Identifier: GPL-3.0-or-later
"""The scripts that run in a replica's container: run for real, with a curl that answers as Triton would."""

from __future__ import annotations

import importlib.util
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Optional

import pytest

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).resolve().parents[3] / "roles" / "triton" / "files"
# Takes the time limit and the URL from its words, and does what the file for that kind of question says.
CURL = """#!/bin/sh
limit=1
while [ $# -gt 1 ]; do
    [ "$1" = -m ] && limit=$2
    shift
done
home=$(dirname "$0")
case $1 in
    */generate) kind=token ;;
    */live) kind=live ;;
    */metrics) kind=metrics ;;
    */index) kind=index ;;
    */config) kind=config; model=${1%/config}; model=${model##*/} ;;
esac
count=1
until mkdir "$home/asked/$kind.$count" 2>/dev/null; do count=$((count + 1)); done
. "$home/$kind"
"""
TOKEN = """echo '{"text_output":"x"}'"""
DEAD = """echo '{"error":"Stub process is not healthy."}'"""
SILENT = "sleep $limit; exit 28"
REFUSED = "exit 7"
MODELS = {"tensorrt_llm_bls": 3, "preprocessing": 2}


class ReplicaFixture:
    """A container as files: its processes, its Triton, and what the probe says into the journal."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.answers = {"token": TOKEN, "live": "exit 0", "metrics": "exit 7"}
        self.set("index", "echo '" + ",".join(f'{{"name":"{name}","state":"READY"}}' for name in MODELS) + "'")
        counts = "\n".join(f"{name}) n={count} ;;" for name, count in MODELS.items())
        self.set(
            "config",
            f"case $model in\n{counts}\nesac\n"
            """echo '{"backend":"python","instance_group":[{"name":"g","kind":"KIND_CPU","count":'$n',"gpus":[]}]}'""",
        )
        self.forget()
        (root / "curl").write_text(CURL)
        (root / "curl").chmod(0o755)
        self.process(5, "tritonserver", "tritonserver\0--model-repository=/srv/m\0")
        (root / "proc/5/fd").mkdir()
        (root / "proc/5/fd/2").touch()
        pid = 10
        for name, count in MODELS.items():
            for _instance in range(count):
                self.process(pid, "triton_python_b", f"triton_python_backend_stub\0/srv/m/{name}/1/model.py\0x\0")
                pid += 1

    def process(self, pid: int, name: str, words: str) -> None:
        place = self.root / "proc" / str(pid)
        place.mkdir(parents=True)
        (place / "comm").write_text(name + "\n")
        (place / "cmdline").write_text(words)

    def die(self, pid: int) -> None:
        """A killed process stays as a zombie, which has no command line."""
        (self.root / "proc" / str(pid) / "cmdline").write_text("")

    def set(self, kind: str, script: str) -> None:
        self.answers = {**getattr(self, "answers", {}), kind: script}

    def probe(self, mode: str, *models: str, **settings: Any) -> int:
        for kind, script in self.answers.items():
            (self.root / kind).write_text(script + "\n")
        with subprocess.Popen(["sleep", "60"]) as init:
            given = {
                "url": "http://t:1", "metrics_url": "http://t:2", "body": "{}", "token_timeout": 2, "hang_timeout": 3,
                "retries": 2, "quick": 1, "proc": self.root / "proc", "state": self.root, "init": init.pid, **settings,
            }  # fmt: skip
            environment = {"PATH": f"{self.root}:/usr/bin:/bin", **{name: str(value) for name, value in given.items()}}
            begin = time.monotonic()
            done = subprocess.run(
                ["sh", str(SCRIPTS / "probe.sh"), mode, *(models or ("tensorrt_llm_bls",))], env=environment, timeout=60
            )
            self.seconds = time.monotonic() - begin
            init.kill()
        # The first signal that ends a process is the one that is told, even where it had no time to end of it.
        self.begun_anew = init.returncode != -signal.SIGKILL
        return done.returncode

    @property
    def journal(self) -> str:
        return (self.root / "proc/5/fd/2").read_text()

    def forget(self) -> None:
        """Forget what was asked."""
        shutil.rmtree(self.root / "asked", ignore_errors=True)
        (self.root / "asked").mkdir()

    def asked(self, kind: str = "") -> int:
        return len(list((self.root / "asked").glob(f"{kind}*")))


@pytest.fixture
def replica(tmp_path: Path) -> ReplicaFixture:
    return ReplicaFixture(tmp_path)


def test_a_replica_that_gives_a_token_is_asked_for_nothing_else(replica: ReplicaFixture) -> None:
    assert replica.probe("start") == 0
    replica.forget()
    assert replica.probe("steady") == 0
    assert (replica.asked("token"), replica.asked()) == (1, 1)
    assert replica.journal == ""


@pytest.mark.parametrize("answer", [DEAD, REFUSED, "exit 0", """echo '{"error":"exactly 1 response"}'"""])
def test_a_wrong_answer_is_believed_when_it_comes_again(replica: ReplicaFixture, answer: str) -> None:
    replica.set("token", answer)
    assert replica.probe("steady") == 1
    assert replica.asked("token") == 2
    assert replica.journal.startswith("probe: tensorrt_llm_bls ")


def test_one_dead_process_of_several_is_found_although_tokens_come(replica: ReplicaFixture) -> None:
    assert replica.probe("start") == 0
    assert replica.probe("steady") == 0
    replica.die(11)
    assert replica.probe("steady") == 1
    assert replica.journal == "probe: tensorrt_llm_bls has 2 of its 3 Python processes\n"


def test_a_process_that_died_while_models_were_loaded_is_found_at_the_start(replica: ReplicaFixture) -> None:
    replica.die(14)
    assert replica.probe("start") == 1
    assert replica.journal == "probe: preprocessing has 1 of its 2 Python processes\n"
    assert replica.begun_anew  # it would not come back by itself


def test_models_that_were_unloaded_on_purpose_are_not_missed(replica: ReplicaFixture) -> None:
    assert replica.probe("start") == 0
    replica.set("index", """echo '{"name":"tensorrt_llm_bls","state":"READY"}'""")
    replica.die(13)
    replica.die(14)
    assert replica.probe("steady") == 0


def test_processes_under_another_name_are_not_taken_for_dead(replica: ReplicaFixture) -> None:
    for pid in range(10, 15):
        (replica.root / "proc" / str(pid) / "cmdline").write_text("stub_of_a_later_release\0")
    assert replica.probe("start") == 0
    assert replica.probe("steady") == 0


@pytest.mark.parametrize(("every", "healthy"), [(4, False), (1000, True)])
def test_an_instance_that_lives_and_does_not_work_is_found_once_it_was_met(
    replica: ReplicaFixture, every: int, healthy: bool
) -> None:
    """The first answer is wrong; then every so many: all instances are asked before the right ones are believed."""
    assert replica.probe("start") == 0
    replica.forget()
    replica.set("token", f"if [ $count = 1 ] || [ $((count % {every})) = 0 ]; then {DEAD}; else {TOKEN}; fi")
    assert replica.probe("steady") == (0 if healthy else 1)
    assert replica.asked("token") >= 2 + 6


def test_the_start_is_over_only_when_every_instance_answered(replica: ReplicaFixture) -> None:
    replica.set("token", f"if [ $((count % 3)) = 0 ]; then {DEAD}; else {TOKEN}; fi")
    assert replica.probe("start") == 1
    assert "not healthy" in replica.journal


def test_the_start_waits_for_the_first_token_and_is_silent_while_models_load(replica: ReplicaFixture) -> None:
    replica.set("token", f"[ $count -lt 4 ] && exit 7; {TOKEN}")
    assert replica.probe("start") == 0
    assert replica.journal == ""


COUNTERS = 'nv_trt_llm_general_metrics{general_type="iteration_counter",model="tensorrt_llm",version="1"} %s'


def test_a_server_that_hangs_is_noticed_after_its_time_and_no_later(replica: ReplicaFixture) -> None:
    replica.set("token", SILENT)
    replica.set("live", SILENT)
    assert replica.probe("steady", token_timeout=60, hang_timeout=4) == 1
    assert 3 < replica.seconds < 9
    assert replica.journal == "probe: Triton has not answered for 4 s, not even to /v2/health/live\n"


@pytest.mark.parametrize("answer", [SILENT, """echo '{"error":"Exceeds maximum queue size"}'"""])
def test_a_server_with_a_full_queue_is_left_alone_as_long_as_it_works(replica: ReplicaFixture, answer: str) -> None:
    replica.set("token", answer)
    replica.set("metrics", f"echo '{COUNTERS % ''}'$count")
    assert replica.probe("steady") == 0
    assert replica.journal == ""


def test_a_long_prompt_may_take_the_time_of_a_token(replica: ReplicaFixture) -> None:
    """Nothing moves meanwhile; the second request is the one that is waited for."""
    replica.set("token", f"if [ $count = 1 ]; then {SILENT}; else sleep 3; {TOKEN}; fi")
    replica.set("metrics", f"echo '{COUNTERS % 7}'")
    assert replica.probe("steady", token_timeout=8, hang_timeout=2) == 0


def test_a_server_that_answers_and_gets_nothing_done_is_stuck(replica: ReplicaFixture) -> None:
    replica.set("token", SILENT)
    replica.set("metrics", f"echo '{COUNTERS % 7}'")
    assert replica.probe("steady") == 1
    assert replica.journal == "probe: tensorrt_llm_bls gave no token and got nothing done for 2 s\n"


def test_metrics_that_fail_are_no_progress(replica: ReplicaFixture) -> None:
    replica.set("token", SILENT)
    replica.set("metrics", f"[ $count -gt 1 ] || echo '{COUNTERS % 7}'")
    assert replica.probe("steady") == 1


def test_models_that_were_loaded_later_are_counted_from_then_on(replica: ReplicaFixture) -> None:
    replica.die(14)
    replica.set("index", """echo '{"name":"tensorrt_llm_bls","state":"READY"}'""")
    assert replica.probe("start") == 0
    replica.process(20, "triton_python_b", "triton_python_backend_stub\0/srv/m/preprocessing/1/model.py\0x\0")
    replica.set("index", """echo '{"name":"tensorrt_llm_bls"},{"name":"preprocessing"}'""")
    assert replica.probe("steady") == 0
    replica.die(20)
    assert replica.probe("steady") == 1
    assert "preprocessing has 1 of its 2" in replica.journal


def test_another_model_of_the_server_that_works_does_not_hide_one_that_is_stuck(replica: ReplicaFixture) -> None:
    other = COUNTERS.replace('model="tensorrt_llm"', 'model="b_tensorrt_llm"') % ""
    replica.set("token", SILENT)
    replica.set("metrics", f"echo '{COUNTERS % 7}'; echo '{other}'$count")
    assert replica.probe("steady") == 1


def test_without_metrics_a_token_has_its_time_as_often_as_wrong_answers_have(replica: ReplicaFixture) -> None:
    replica.set("token", SILENT)
    assert replica.probe("steady", token_timeout=2) == 1
    assert replica.journal == "probe: tensorrt_llm_bls gave no token within 2 s\n"
    assert replica.seconds > 5


@pytest.mark.parametrize("mode", ["start", "steady"])
def test_a_replica_that_was_told_to_end_is_left_in_peace(replica: ReplicaFixture, mode: str) -> None:
    replica.set("token", REFUSED)
    (replica.root / ".stopping").touch()
    assert replica.probe(mode) == 0


def test_every_model_is_asked(replica: ReplicaFixture) -> None:
    assert replica.probe("steady", "tensorrt_llm_bls", "b_tensorrt_llm_bls") == 0
    assert replica.asked("token") == 2


# -- run.sh and stop.py ---------------------------------------------------------------------------------------


def run(tmp_path: Path, *command: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "state": str(tmp_path)}
    return subprocess.Popen(["sh", str(SCRIPTS / "run.sh"), *command], env=environment, text=True)


@pytest.mark.parametrize("code", [0, 1, 137])
def test_the_container_ends_as_its_command_does_unless_it_was_told_to(tmp_path: Path, code: int) -> None:
    assert run(tmp_path, "sh", "-c", f"exit {code}").wait(10) == code
    (tmp_path / ".stopping").touch()
    assert run(tmp_path, "sh", "-c", f"exit {code}").wait(10) == 0


def test_what_takes_a_word_gets_another_at_each_start_and_nothing_else_changes(tmp_path: Path) -> None:
    said = []
    for name in ("one", "two"):
        script = f'printf "%s\\n" "$@" > {tmp_path}/{name}'
        assert (
            run(tmp_path, "sh", "-c", script, "x", "--api=logging:key=@word@", "a  b", "", "*", "@word@").wait(10) == 0
        )
        first, *others = (tmp_path / name).read_text().splitlines()
        assert others == ["a  b", "", "*", "@word@"]
        said.append(first)
    assert all(re.fullmatch(r"--api=logging:key=[0-9a-f-]{36}", one) for one in said) and len(set(said)) == 2


def test_a_signal_to_the_container_reaches_its_command(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    script = f"trap 'sleep 0.2; exit 5' TERM; touch {ready}; for _ in $(seq 50); do sleep 0.1; done"
    process = run(tmp_path, "sh", "-c", script)
    while not ready.exists():
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 5


def in_a_process_namespace(tmp_path: Path, scene: str) -> list[str]:
    """Run *scene* where the scripts see its processes alone: stop.py asks every tritonserver in sight."""
    unshared = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*unshared, "true"], capture_output=True).returncode:
        pytest.skip("only root may make a process namespace, without which stop.py would ask servers of this machine")
    shutil.copy("/bin/sleep", tmp_path / "tritonserver")
    environment = {**os.environ, "scripts": str(SCRIPTS)}
    done = subprocess.run(
        [*unshared, "sh", "-c", scene], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30
    )
    return done.stdout.split()


def test_the_stop_asks_every_server_and_nobody_else(tmp_path: Path) -> None:
    scene = (
        "./tritonserver 30 & one=$!; ./tritonserver 30 & two=$!; sleep 30 & other=$!; sleep 0.2; "
        "python3 - 5 8000 . < $scripts/stop.py & wait $one; echo $?; wait $two; echo $?; kill -0 $other && echo alive"
    )
    assert in_a_process_namespace(tmp_path, scene) == ["143", "143", "alive"]
    assert (tmp_path / ".stopping").exists()


def test_a_server_that_does_not_end_in_its_time_is_killed(tmp_path: Path) -> None:
    deaf = "(trap '' TERM; exec ./tritonserver 30) & one=$!"
    scene = f"{deaf}; sleep 0.2; python3 - 1 8000 . < $scripts/stop.py >&2 & wait $one; echo $?"
    assert in_a_process_namespace(tmp_path, scene) == ["137"]


# -- idle connections --------------------------------------------------------------------------------------------

# As Triton: a connection whose request is worked on is not read from. The first byte of a client says what it wants.
SERVER = """
import ctypes, selectors, socket, sys, time
ctypes.CDLL(None).prctl(15, b"tritonserver", 0, 0, 0)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
selector = selectors.EpollSelector()
selector.register(listener, selectors.EVENT_READ)
streams = []
while True:
    for key, _ in selector.select(0.05):
        if key.fileobj is listener:
            selector.register(listener.accept()[0], selectors.EVENT_READ)
            continue
        connection = key.fileobj
        word = connection.recv(100)
        if word == b"work" or not word:
            selector.unregister(connection)  # keep it: it is closed with the last reference
            streams.append((connection, word))
            if not word:
                connection.close()
        elif word == b"stream":
            streams.append((connection, word))
        else:
            connection.send(b"answer")
    for connection, word in streams:
        if word == b"stream":
            connection.send(b"token")
"""


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    found = importlib.util.spec_from_file_location("stop", SCRIPTS / "stop.py")
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    monkeypatch.setattr(module, "SILENT_MS", 300)
    return module


@pytest.fixture
def server() -> Iterator[tuple[int, int]]:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process.pid, int(process.stdout.readline())
        process.kill()


def client(port: int, word: Optional[bytes] = None) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
    if word:
        connection.sendall(word)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Whether the server ended it, after all that it had sent."""
    while select.select([connection], [], [], 0.2)[0]:
        if not connection.recv(1 << 20):
            return True
        time.sleep(0.001)
        if not select.select([connection], [], [], 0)[0]:
            return False
    return False


def test_only_idle_connections_to_the_port_are_closed(stop: ModuleType, server: tuple[int, int]) -> None:
    pid, port = server
    fresh, answered = client(port), client(port, b"hello")
    working, streaming = client(port, b"work"), client(port, b"stream")
    time.sleep(0.6)
    assert pid in stop.servers()
    stop.close_idle(pid, port + 1)
    assert not is_closed(fresh)
    stop.close_idle(pid, port)
    assert [is_closed(connection) for connection in (fresh, answered)] == [True, True]
    assert [is_closed(connection) for connection in (working, streaming)] == [False, False]
    client(port, b"hello").recv(10)  # the server still listens


def test_a_connection_that_was_just_used_is_left_open(stop: ModuleType, server: tuple[int, int]) -> None:
    pid, port = server
    used = client(port, b"hello")
    assert used.recv(10) == b"answer"
    stop.close_idle(pid, port)
    assert not is_closed(used)
