#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a playbook and let something die on the way: faults.py STEPS LOG -- ARGV...

STEPS is a JSON list of {"line": REGEX, "do": COMMAND}. Lines of the playbook's output are looked for one after the
other; where one is there, COMMAND, if any, is run by sh. The playbook stands still meanwhile, unless the command begins
with "beside ". "kill" kills the playbook at once, "kill when COMMAND" when COMMAND, which waits for something, is done;
what tasks have begun on hosts goes on there, as it would. The output goes on to standard output, and to the end of LOG
with the seconds before each line. Exits as the playbook did, with 137 where it was killed, with 99 where a line did not
come or a command failed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

KILLED, MISSED = 137, 99
KILL, WHEN, BESIDE = "kill", "kill when ", "beside "
PATIENCE = 240.0  # seconds for a command, on a busy machine


def act(group: int, command: str) -> bool:
    """Run the command; whether it is done."""
    alone = command != KILL and not command.startswith((WHEN, BESIDE))
    shell = "true" if command == KILL else command.removeprefix(WHEN).removeprefix(BESIDE)
    if alone:
        os.killpg(group, signal.SIGSTOP)
    try:
        done = subprocess.run(["sh", "-c", shell], check=False, timeout=PATIENCE).returncode == 0
    except subprocess.TimeoutExpired:
        done = False
    if alone:
        os.killpg(group, signal.SIGCONT)
    elif command.startswith(KILL):
        os.killpg(group, signal.SIGKILL)
    return done


def main() -> int:
    steps, log = json.loads(sys.argv[1]), Path(sys.argv[2])
    argv = sys.argv[sys.argv.index("--") + 1 :]
    # a group of its own, which is stopped and killed as a whole
    playbook = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert playbook.stdout is not None
    begin, failed = time.monotonic(), []
    with log.open("a", encoding="utf-8") as kept:
        kept.write(f"{time.strftime('%H:%M:%S')} {argv}\n")
        for line in playbook.stdout:
            print(line, end="", flush=True)
            kept.write(f"{time.monotonic() - begin:6.1f} {line}")
            kept.flush()
            if steps and re.search(steps[0]["line"], line):
                command = steps.pop(0).get("do")
                if command and not act(playbook.pid, command):
                    failed.append(command)
    status = playbook.wait()
    missed = [step["line"] for step in steps]
    if missed or failed:
        print(f"missing: {missed}; failed: {failed}; the playbook ended with {status}", file=sys.stderr)
        return MISSED
    return KILLED if status == -signal.SIGKILL else status


if __name__ == "__main__":
    sys.exit(main())
