# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on the controller: see the documentation of the module of the same name."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.utils.display import Display
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError, sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.files import write_atomically
from ansible_collections.trtllm.fleet.plugins.module_utils._base.tables import columns
from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.state import utc
from ansible_collections.trtllm.fleet.plugins.plugin_utils import _bench, _bench_run, _bench_verdict
from ansible_collections.trtllm.fleet.plugins.plugin_utils._cache import cache_dir
from ansible_collections.trtllm.fleet.plugins.plugin_utils._controller import ControllerActionBase

display = Display()
LAST = "last"
SPEC: dict[str, dict[str, Any]] = {
    "url": {"type": "str", "required": True},
    "model": {"type": "str", "required": True},
    "api": {"type": "str", "choices": ["chat", "completions", "triton"], "default": "chat"},
    "entry_model": {"type": "str", "default": "ensemble"},
    "key": {"type": "str", "no_log": True},
    "tokenizer": {"type": "dict", "required": True},
    "about": {"type": "dict", "default": {}},
    "concurrency": {"type": "list", "elements": "int", "default": [1, 4, 16]},
    "lengths": {
        "type": "list",
        "elements": "dict",
        "default": [{"input": 128, "output": 64}],
        "options": {"input": {"type": "int", "required": True}, "output": {"type": "int", "required": True}},
    },
    "requests": {"type": "int", "default": 0},
    "seconds": {"type": "int", "default": 30},
    "repeats": {"type": "int", "default": 3},
    "trace": {"type": "str"},
    "service_level": {"type": "dict", "default": {}},
    "ignore_eos": {"type": "bool", "default": True},
    "label": {"type": "str", "default": ""},
    "directory": {"type": "str"},
    "against": {"type": "str", "default": LAST},
    "tolerance": {"type": "float", "default": 0.05},
    "gate": {"type": "bool", "default": False},
}


class ActionModule(ControllerActionBase):
    """Ask a gateway or a replica, and say what came of it."""

    _supports_check_mode = True
    URL_OPTIONS = ("url",)

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super(ControllerActionBase, self).run(tmp, task_vars)
        try:
            _result, args = self.validate_argument_spec(SPEC)
            load = loaded(args)
            load.check()
            if self._task.check_mode:
                return {
                    "changed": False,
                    "skipped": True,
                    "msg": "A benchmark sends requests, so none is run in check mode.",
                }
            return self._measured(args, load)
        except (FleetError, OSError) as error:
            raise AnsibleActionFail(sentence(error, "The controller")) from None

    def _measured(self, args: dict[str, Any], load: _bench.Load) -> dict[str, Any]:
        directory = _file(args["directory"]) if args["directory"] else cache_dir() / "benchmarks"
        before = earlier(directory, args["against"], args["model"])
        started = utc(time.time())
        with self._reachable(dict(args)) as reached:
            target = _bench.Target(
                str(reached["url"]).rstrip("/"), args["model"], args["api"], args["entry_model"], args["key"] or ""
            )
            points = _bench_run.run(target, load, args["tokenizer"], display.display)
        run: dict[str, Any] = {
            "format": _bench.FORMAT,
            "time": started,
            "label": args["label"],
            "tool": _bench_run.tool(),
            "repeats": load.repeats,
            "target": {
                **args["about"], "url": args["url"], "model": args["model"], "api": args["api"],
                "tunnel": target.url != str(args["url"]).rstrip("/"),
            },
            "load": {"trace": Path(load.trace).name, "seconds": load.seconds, "service_level": dict(load.level)},
            "machine": {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)},
            "points": points,
        }  # fmt: skip
        verdict = _bench_verdict.compare(before, run, args["tolerance"]) if before else None
        run["verdict"] = verdict
        written = write(directory, run)
        table = columns(_bench.screen(points))
        if verdict:
            table += ["", f"Against {verdict['against']}: {verdict['says']}", *columns(_bench_verdict.lines(verdict))]
        display.display("\n" + "\n".join([*table, "", f"Kept as {written}"]) + "\n")
        worse = bool(verdict) and verdict["verdict"] == _bench_verdict.WORSE
        refused = (
            {"failed": True, "msg": f"{args['model']} is {verdict['says']}"}
            if worse and args["gate"] and verdict
            else {}
        )
        return {"changed": False, "run": run, "file": str(written), "verdict": verdict, **refused}


def _file(given: str) -> Path:
    """A file of the controller; one that is not absolute is in the directory in which ansible-playbook was started."""
    return Path(os.path.abspath(os.path.expanduser(given)))


def loaded(args: Mapping[str, Any]) -> _bench.Load:
    """What is sent, from the task's arguments."""
    level: dict[str, float] = {}
    for name, most in args["service_level"].items():
        try:
            level[str(name)] = float(most)
        except (TypeError, ValueError):
            raise FleetError(f"benchmark_service_level.{name} is {most!r}; it takes milliseconds.") from None
    trace = str(_file(args["trace"])) if args["trace"] else ""
    if trace and not Path(trace).is_file():
        raise FleetError(f"benchmark_trace is {trace}, which is no file of the controller; give one of JSON lines.")
    return _bench.Load(
        concurrency=args["concurrency"],
        lengths=[(length["input"], length["output"]) for length in args["lengths"]],
        requests=args["requests"],
        seconds=args["seconds"],
        repeats=args["repeats"],
        trace=trace,
        level=level,
        ignore_eos=args["ignore_eos"],
    )


def earlier(directory: Path, against: str, model: str) -> dict[str, Any] | None:
    """The run to compare with: a file, a label, or the last one of the model. None where the last one is none."""
    if against not in (LAST, "", "none") and Path(os.path.expanduser(against)).is_file():
        return _read(Path(os.path.expanduser(against)))
    if against in ("", "none"):
        return None
    runs = [run for path in sorted(directory.glob("*.json")) if (run := _read(path, quiet=True))]
    mine = [run for run in runs if run["target"]["model"] == model and against in (LAST, run.get("label"))]
    if not mine and against != LAST:
        known = ", ".join(sorted({str(run["label"]) for run in runs if run.get("label")})) or "none"
        raise FleetError(
            f"benchmark_against is {against}, and {directory} has no run of {model} with this label; there are {known}."
        )
    return max(mine, key=lambda run: str(run["time"])) if mine else None


def _read(path: Path, quiet: bool = False) -> dict[str, Any] | None:
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        if run["format"] == _bench.FORMAT and run["points"] and run["target"]["model"]:
            return dict(run)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    if quiet:
        return None
    raise FleetError(f"benchmark_against is {path}, which is no run of benchmark.yml; give a JSON file that it kept.")


def write(directory: Path, run: Mapping[str, Any]) -> Path:
    """Keep the run as JSON, and its points as CSV beside it."""
    stem = f"{re.sub(r'[^0-9TZ]', '', run['time'])}-{re.sub(r'[^A-Za-z0-9._-]', '-', run['target']['model'])}"
    path = directory / f"{stem}.json"
    write_atomically(path, (json.dumps(run, indent=1, sort_keys=True) + "\n").encode())
    write_atomically(path.with_suffix(".csv"), _bench.table(run["points"]).encode())
    return path
