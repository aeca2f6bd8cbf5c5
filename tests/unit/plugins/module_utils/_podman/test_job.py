# SPDX-License-Identifier: GPL-3.0-or-later
"""Long podman commands as units: tried again where that helps, found again, and nothing secret left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.command import Answer
from ansible_collections.trtllm.fleet.plugins.module_utils._podman import cli, job, worker
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.job import Job, Running

# Fails as often as the file `failures` says, with the words of the file `words`.
PODMAN = """#!/bin/sh
echo "$@" >> {home}/calls
[ -n "$TMPDIR" ] && head -c 4096 /dev/zero > "$TMPDIR/blob"
left=$(cat {home}/failures)
if [ "$left" != 0 ]; then echo $((left - 1)) > {home}/failures; cat {home}/words >&2; exit 125; fi
sleep "$(cat {home}/seconds)"
echo ended
"""


class Systemd:
    """systemd as far as a transient unit needs it; the worker runs for real."""

    def __init__(self) -> None:
        self.unit: subprocess.Popen[bytes] | None = None
        self.argv: list[str] = []

    def run(self, argv: Sequence[str]) -> Answer:
        if argv[0] == "systemd-run":
            self.argv = list(argv)
            self.unit = subprocess.Popen(list(argv)[argv.index("--") + 1 :])
            return Answer(0, "")
        assert argv[:2] == ["systemctl", "is-active"]
        return Answer(0, "active\n" if self.unit is not None and self.unit.poll() is None else "inactive\n")


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Systemd:
    made = Systemd()
    for name, text in (("failures", "0"), ("words", "Error: connection refused\n"), ("seconds", "0")):
        (tmp_path / name).write_text(text)
    program = tmp_path / "podman"
    program.write_text(PODMAN.format(home=tmp_path))
    program.chmod(0o755)
    monkeypatch.setattr(cli, "executable", lambda: str(program))
    monkeypatch.setattr(job.transient, "run_command", made.run)
    monkeypatch.setattr(job, "RUN", tmp_path / "run")
    monkeypatch.setattr(job, "SCRATCH", tmp_path)
    monkeypatch.setattr(job, "POLL", 0.02)
    return made


def started(**how: Any) -> Job:
    work = Job("reg/a:1")
    work.prepare()
    work.authfile.write_text("of-this-test")
    work.start(
        ["pull", "reg/a:1"], **{"step": "pull", "attempts": 3, "delay": 0.01, "env": {}, "measured": True, **how}
    )
    return work


def test_it_is_tried_again_and_nothing_is_left(systemd: Systemd, tmp_path: Path) -> None:
    (tmp_path / "failures").write_text("2")
    work = started(about={"x": 1})
    said = work.collect("pull it", wait=True)
    assert (said["state"], said["attempt"], work.about, work.log()) == ("done", 3, {"x": 1}, "ended\n")
    assert not work.authfile.exists() and not work.scratch.exists()
    assert (tmp_path / "calls").read_text().splitlines() == ["pull reg/a:1"] * 3
    work.forget()
    assert work.status() == {} and not work.directory.exists()


def test_another_program_runs_in_its_directory_and_fails_by_its_name(systemd: Systemd, tmp_path: Path) -> None:
    work = Job("reg/a:1")
    work.prepare()
    work.start(["/bin/sh", "-c", "pwd; exit 3"], step="program", attempts=1, delay=0, env={}, cwd=str(tmp_path),
               about={"tool": "build.py"})  # fmt: skip
    with pytest.raises(cli.PodmanError, match=rf"^build.py cannot build it \(exit code 3\): {tmp_path}$"):
        work.collect("build it", wait=True)


def test_when_it_fails_it_says_why_and_how_often(systemd: Systemd, tmp_path: Path) -> None:
    (tmp_path / "failures").write_text("9")
    with pytest.raises(cli.PodmanError, match=r"^podman cannot pull it \(exit code 125, 3 times\): Error: connection"):
        started().collect("pull it", wait=True)
    assert not started().scratch.parent.joinpath("run/x").exists()


@pytest.mark.parametrize(
    "words",
    [
        "Error: unable to retrieve auth token: invalid username/password: unauthorized: authentication required",
        "Error: initializing source docker://r/a:9: reading manifest 9 in r/a: manifest unknown",
        "Error: pinging container registry r: tls: failed to verify certificate: x509: certificate signed by unknown",
        "Error: writing blob: storing blob to file: write /var/tmp/x: no space left on device",
    ],
)
def test_a_refusal_is_final(systemd: Systemd, tmp_path: Path, words: str) -> None:
    (tmp_path / "failures").write_text("9")
    (tmp_path / "words").write_text(f"{words}\n")
    with pytest.raises(cli.PodmanError) as error:
        started().collect("pull it", wait=True)
    assert str(error.value) == f"podman cannot pull it (exit code 125): {words}"
    assert error.value.details == {"log": [words]}


def test_a_later_run_finds_it_and_sees_how_far_it_is(systemd: Systemd, tmp_path: Path) -> None:
    (tmp_path / "seconds").write_text("3")
    started(total=8192)
    later = Job("reg/a:1")
    assert later.running()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with pytest.raises(Running) as running:
            later.collect("pull it", wait=False)
        if running.value.progress["bytes"]:
            break
        time.sleep(0.1)
    assert (running.value.progress["bytes"], running.value.progress["total"]) == (4096, 8192)
    assert later.collect("pull it", wait=True)["state"] == "done"
    assert not Job("reg/b:1").running()


def test_one_that_was_killed_is_no_success(systemd: Systemd, tmp_path: Path) -> None:
    (tmp_path / "seconds").write_text("5")
    work = started()
    assert systemd.unit is not None
    systemd.unit.terminate()  # the worker ends the command too
    systemd.unit.wait(5)
    with pytest.raises(cli.PodmanError, match="podman cannot pull it"):
        work.collect("pull it", wait=True)


def test_the_unit_names_no_secret_and_removes_it_where_the_worker_cannot(systemd: Systemd) -> None:
    work = started()
    work.collect("pull it", wait=True)
    assert "of-this-test" not in " ".join(systemd.argv)
    assert f"--property=ExecStopPost=-/bin/rm -f {work.authfile}" in systemd.argv
    assert oct(os.stat(work.directory).st_mode & 0o777) == "0o700"


def test_the_worker_runs_alone(tmp_path: Path) -> None:
    """It is copied to a host where nothing of the collection is."""
    done = subprocess.run([sys.executable, "-I", "-c", Path(worker.__file__).read_text(), str(tmp_path)],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert "spec.json" in done.stderr and "ModuleNotFoundError" not in done.stderr
