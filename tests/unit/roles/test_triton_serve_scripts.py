# SPDX-License-Identifier: GPL-3.0-or-later
"""The scripts that run in the container of a replica that is trtllm-serve, with a curl that answers as it would."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).resolve().parents[3] / "roles" / "triton" / "files"
CURL = """#!/bin/sh
limit=1
while [ $# -gt 1 ]; do
    [ "$1" = -m ] && limit=$2
    shift
done
home=$(dirname "$0")
kind=${1##*/}
count=1
until mkdir "$home/asked/$kind.$count" 2>/dev/null; do count=$((count + 1)); done
. "$home/$kind"
"""
TOKEN = """echo '{"choices":[{"text":"x"}]}'"""
ERROR = """echo '{"object":"error","message":"executor failed","code":400}'"""
SILENT = "sleep $limit; exit 28"
REFUSED = "exit 7"


class Served:
    """A container as files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.answers = {"completions": TOKEN, "health": "exit 0", "metrics": "echo '[]'"}
        (root / "asked").mkdir()
        (root / "curl").write_text(CURL)
        (root / "curl").chmod(0o755)

    def probe(self, mode: str, **settings: Any) -> int:
        for kind, script in self.answers.items():
            (self.root / kind).write_text(script + "\n")
        given = {"url": "http://t:1", "body": "{}", "token_timeout": 3, "hang_timeout": 3, "retries": 2, "quick": 1,
                 "state": self.root, "log": self.root / "journal", **settings}  # fmt: skip
        environment = {"PATH": f"{self.root}:/usr/bin:/bin", **{name: str(value) for name, value in given.items()}}
        words = ["sh", str(SCRIPTS / "serve_probe.sh"), mode, "m"]
        return subprocess.run(words, env=environment, timeout=60, check=False).returncode

    @property
    def journal(self) -> str:
        path = self.root / "journal"
        return path.read_text() if path.exists() else ""

    def asked(self, kind: str) -> int:
        return len(list((self.root / "asked").glob(f"{kind}*")))


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path)


@pytest.mark.parametrize("mode", ["start", "steady"])
def test_a_token_is_health_and_nothing_else_is_asked(served: Served, mode: str) -> None:
    assert served.probe(mode) == 0
    assert served.asked("completions") == 1 and not served.asked("metrics") and not served.journal


def test_a_start_goes_on_while_nobody_listens_and_says_nothing(served: Served) -> None:
    served.answers["completions"] = f'[ "$count" -lt 4 ] && {REFUSED}; {TOKEN}'
    assert served.probe("start") == 0
    assert served.asked("completions") == 4 and not served.journal


def test_wrong_answers_are_believed_after_so_many(served: Served) -> None:
    served.answers["completions"] = f'[ "$count" = 1 ] && {{ {ERROR}; exit 0; }}; {TOKEN}'
    assert served.probe("steady") == 0
    served.answers["completions"] = ERROR
    assert served.probe("steady") == 1
    assert "m answers " in served.journal and "executor failed" in served.journal


def test_a_busy_server_is_left_alone(served: Served) -> None:
    served.answers |= {"completions": SILENT, "metrics": """[ "$count" -gt 1 ] && echo '[{"iter": 5}]'"""}
    assert served.probe("steady") == 0
    assert not served.journal


def test_a_server_that_gets_nothing_done_is_stuck(served: Served) -> None:
    served.answers["completions"] = SILENT
    assert served.probe("steady") == 1
    assert "m gave no token and got nothing done for 3 s" in served.journal


def test_a_server_that_does_not_answer_at_all_hangs(served: Served) -> None:
    served.answers |= {"completions": SILENT, "health": SILENT, "metrics": SILENT}
    assert served.probe("steady", token_timeout=30) == 1
    assert "has not answered for 3 s, not even to /health" in served.journal


def test_a_late_token_is_a_token(served: Served) -> None:
    served.answers["completions"] = f'[ "$count" = 1 ] && {{ {SILENT}; }}; sleep 1; {TOKEN}'
    assert served.probe("steady") == 0


@pytest.mark.parametrize("mode", ["start", "steady"])
def test_a_replica_that_was_told_to_end_is_not_judged(served: Served, mode: str) -> None:
    (served.root / ".stopping").touch()
    served.answers["completions"] = ERROR
    assert served.probe(mode) == 0 and not served.asked("completions")


def test_an_end_is_told_to_the_first_process_and_the_probe(tmp_path: Path) -> None:
    """What is not ended after its time is: that part would end this test's session, and runs on real hosts."""
    run = subprocess.Popen(
        ["sh", str(SCRIPTS / "run.sh"), "sh", "-c", "trap 'sleep 0.3; exit 143' TERM; while :; do sleep 0.1; done"],
        env={**os.environ, "state": str(tmp_path)},
    )
    time.sleep(0.5)
    with subprocess.Popen(
        ["sh", "-s", "60"], stdin=(SCRIPTS / "serve_stop.sh").open(), start_new_session=True,
        env={**os.environ, "state": str(tmp_path), "init": str(run.pid)},
    ) as stop:  # fmt: skip
        assert run.wait(20) == 0, "an end that was asked for is none of a failure, whatever the server ends with"
        os.killpg(stop.pid, signal.SIGKILL)
    assert (tmp_path / ".stopping").exists()


@pytest.mark.parametrize("models", [[], ["NVIDIA H100"], ["NVIDIA H100", "NVIDIA H100"], ["NVIDIA H200"]])
def test_what_was_tuned_is_kept_for_each_kind_of_gpu(tmp_path: Path, models: list[str]) -> None:
    def kept(*gpus: str) -> str:
        root = tmp_path / "-".join(gpus).replace(" ", "")
        for number, gpu in enumerate(gpus):
            place = root / "driver/nvidia/gpus" / str(number)
            place.mkdir(parents=True)
            (place / "information").write_text(f"Model: \t\t {gpu}\nIRQ:   \t\t {number}\n")
        environment = {**os.environ, "proc": str(root), "TLLM_AUTOTUNER_CACHE_PATH": "/cache/autotuner-@gpus@.json"}
        words = ["sh", str(SCRIPTS / "serve_run.sh"), "sh", "-c", "echo $TLLM_AUTOTUNER_CACHE_PATH $0", "a b"]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        path, rest = done.stdout.split(maxsplit=1)
        assert rest == "a b\n" and path.startswith("/cache/autotuner-") and path[17:-5].isdigit()
        return path

    reference = kept("NVIDIA H100", *["NVIDIA H100"] * 3)
    assert (kept(*models) == reference) == (set(models) == {"NVIDIA H100"})


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("keeps", [True, False])
def test_the_server_is_asked_once_for_an_image_whether_it_can_be_told_to_send_nothing(
    tmp_path: Path, known: bool, keeps: bool
) -> None:
    server, cache = tmp_path / "bin" / "trtllm-serve", tmp_path / "cache"
    server.parent.mkdir()
    option = "  --telemetry / --no-telemetry  Send figures on use." if known else "  --port INTEGER"
    server.write_text(
        f"#!/bin/sh\ncase $2 in --help) echo asked >> {tmp_path}/asked; echo '{option}';; *) echo \"$@\";; esac\n"
    )
    server.chmod(0o755)
    if keeps:
        cache.mkdir()
    environment = {**os.environ, "PATH": f"{server.parent}:{os.environ['PATH']}", "cache": str(cache)}
    words = ["sh", str(SCRIPTS / "serve_run.sh"), "trtllm-serve", "serve", "/models/m", "--port=1"]
    for _start in range(2):
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == "serve /models/m --port=1" + (" --no-telemetry\n" if known else "\n")
    assert (tmp_path / "asked").read_text().count("asked") == (1 if keeps else 2)
    other = ["sh", str(SCRIPTS / "serve_run.sh"), "sh", "-c", "echo $0 $TRTLLM_SERVE_MORE", "several"]
    done = subprocess.run(other, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["several", *(["--no-telemetry"] if known else [])]
