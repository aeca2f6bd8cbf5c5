# SPDX-License-Identifier: GPL-3.0-or-later
"""Slurm's commands over a file: they take the options that a real one does, and answer in its formats."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

COMMANDS = ("squeue", "sbatch", "scancel", "scontrol", "sinfo")
PROGRAM = """#!{python}
import json, os, re, sys
state_file = {state!r}
state = json.load(open(state_file))
command, args = os.path.basename(sys.argv[0]), sys.argv[1:]
options = dict(arg[2:].split("=", 1) if "=" in arg else (arg[2:], "") for arg in args if arg.startswith("--"))
words = [arg for arg in args if not arg.startswith("-")]
state["calls"].append([command, *args])
save = lambda: json.dump(state, open(state_file, "w"))
if state.get("down"):
    print("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", file=sys.stderr)
    save()
    sys.exit(1)
jobs = state["jobs"]
if command == "squeue":
    for number, job in jobs.items():
        if job["name"] == options.get("name"):
            if job["state"] == "COMPLETING":
                job["state"] = job.pop("then", "CANCELLED")
                print("|".join([number, "COMPLETING", "None", job["nodes"], "n/a", job["comment"]]))
            else:
                print("|".join([number, job["state"], job["reason"], job["nodes"], job["host"], job["comment"]]))
elif command == "sbatch":
    number = str(max([10, *map(int, jobs)]) + 1)
    jobs[number] = dict(name=options["job-name"], comment=options["comment"], output=options["output"],
                        script=words[0], arguments=words[1:], state="PENDING", reason="Priority", nodes="", host="n/a")
    jobs[number].update(state.get("starts", {{}}))
    if "result" in state:
        json.dump(state["result"], open(os.path.join(os.path.dirname(words[0]), "result.json"), "w"))
    print(number)
elif command == "scancel":
    for number in words:
        jobs[number]["state"] = "COMPLETING"
elif command == "scontrol" and words[0] == "getaddrs":
    print(f"{{words[1]}}: 127.0.0.1:6818")
elif command == "scontrol":
    told = dict(word.split("=", 1) for word in words[1:])
    jobs[told["JobId"]]["comment"] = told["Comment"]
elif command == "sinfo":
    for node, (how, why) in state["nodes"].items():
        print(f"{{node}}|{{how}}|{{why}}")
save()
"""


class FakeSlurm:
    """The commands in a directory for PATH, and what they know."""

    def __init__(self, directory: Path) -> None:
        self.bin, self.file = directory / "bin", directory / "slurm.json"
        self.bin.mkdir(parents=True)
        self.file.write_text(json.dumps({"jobs": {}, "nodes": {}, "calls": []}))
        for command in COMMANDS:
            path = self.bin / command
            path.write_text(PROGRAM.format(python=sys.executable, state=str(self.file)))
            path.chmod(0o755)

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.file.read_text())
        return found

    def change(self, **values: Any) -> None:
        self.file.write_text(json.dumps({**self.state, **values}))

    def job(self, number: int, **values: Any) -> None:
        """Change a job, or make one."""
        jobs = self.state["jobs"]
        jobs[str(number)] = {**jobs.get(str(number), {}), **values}
        self.change(jobs=jobs)

    def runs(self, number: int, nodes: str = "n[1-2]", host: str = "n1") -> None:
        self.job(number, state="RUNNING", reason="None", nodes=nodes, host=host)

    @property
    def submitted(self) -> list[int]:
        return [int(number) for number in self.state["jobs"]]

    def called(self, command: str) -> list[list[str]]:
        return [call for call in self.state["calls"] if call[0] == command]
