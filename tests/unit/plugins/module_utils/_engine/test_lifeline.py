# SPDX-License-Identifier: GPL-3.0-or-later
"""A build that must not outlive what started it ends with its lock, however that is lost."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._engine import runner

HOLDER = """
import fcntl, sys, time
with open(sys.argv[1], "wb") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.json"
    steps = [{"phase": "build", "argv": ["sleep", "60"]}]
    told = {"id": "i", "status": str(tmp_path / "status.json"), "log": str(tmp_path / "log"), "workdir": str(tmp_path),
            "timeout": 0, "steps": steps, "lifeline": str(tmp_path / "lifeline")}  # fmt: skip
    path.write_text(json.dumps(told))
    (tmp_path / "lifeline").touch()
    return path


def test_a_build_ends_when_what_started_it_is_killed(tmp_path: Path, spec: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "lifeline")], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    build = subprocess.Popen([sys.executable, "-I", str(runner.__file__), str(spec)])
    deadline = time.monotonic() + 30
    while "$ sleep" not in ((tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert build.poll() is None
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert build.wait(30) == runner.TERMINATED
    assert "what started this build has ended" in (tmp_path / "log").read_text()
