#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kill a playbook the moment its journal has a line of some step: kill_at.py JOURNAL STEP OTHER-OUTPUT -- ARGV...

Before it dies, the same playbook is started a second time, as by another operator; what that one says goes to
OTHER-OUTPUT. Exits with 0 if the first was killed and the second had failed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SECONDS = 300


def steps(journal: Path) -> list[str]:
    """The steps in the journal."""
    text = journal.read_text() if journal.exists() else ""
    return [str(json.loads(line)["step"]) for line in text.splitlines()]


def main() -> int:
    journal, step, other = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    argv = sys.argv[sys.argv.index("--") + 1 :]
    before = steps(journal).count(step)
    # a group of its own, so that its children die with it
    first = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + SECONDS
    while steps(journal).count(step) == before:
        if first.poll() is not None or time.monotonic() > deadline:
            print(f"the playbook ended with {first.poll()} before the step {step}", file=sys.stderr)
            return 1
        time.sleep(0.1)
    second = subprocess.run(argv, text=True, capture_output=True, check=False)
    other.write_text(second.stdout + second.stderr)
    alive = first.poll() is None
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    print(f"killed at {step}; it was alive: {alive}; the second ended with {second.returncode}")
    return 0 if alive and second.returncode else 1


if __name__ == "__main__":
    sys.exit(main())
