# SPDX-License-Identifier: GPL-3.0-or-later
"""Counts what a run asks of its hosts, and can answer in their place with what a real host answered before."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import resource
import time
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible.plugins.connection import ssh
from ansible_collections.trtllm.fleet.plugins.action import fleet_settled
from ansible_collections.trtllm.fleet.plugins.modules import triton_verify
from ansible_collections.trtllm.fleet.plugins.plugin_utils import _controller

DOCUMENTATION = """
name: host_answers
type: aggregate
short_description: Count, record or replay the answers of hosts
description:
  - E(HOST_ANSWERS) is a directory for the counts, E(HOST_ANSWERS_MODE) V(count), V(record) or V(replay).
  - A recorded answer belongs to a module and its arguments, with the host's name and address taken out, so that any
    number of hosts can be replayed from one.
  - With E(HOST_ANSWERS_ASKS) V(no) the requests to Triton and gateways are not sent either.
  - Workers are forks, so what is changed here in the connection holds in all of them.
"""

MODE = os.environ.get("HOST_ANSWERS_MODE", "count")
ASKS = os.environ.get("HOST_ANSWERS_ASKS", "yes")
PLACE = Path(os.environ.get("HOST_ANSWERS", "."))
MODULE = re.compile(rb"^module_fqn='([^']*)'", re.M)
PARAMS = re.compile(rb"^params=('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"),$", re.M)
# What the controller adds to a look at a host: digests of what it gives that host.
OF_A_HOST = ("inputs", "at")


def asked(connection: Any, command: str, data: bytes | None) -> tuple[str, str]:
    """The module (or the command) that is asked, and a name for the question."""
    names = {str(connection.get_option("host")), str(connection._play_context.remote_addr)}
    module = MODULE.search(data or b"")
    if not module:
        return "command", hashlib.sha256(masked(command, names).encode()).hexdigest()
    params = PARAMS.search(data or b"")
    given = json.loads(eval(params.group(1)))["ANSIBLE_MODULE_ARGS"] if params else {}
    own = {key: value for key, value in given.items() if key == "_ansible_check_mode" or not key.startswith("_ansible")}
    own = {key: value for key, value in own.items() if key not in OF_A_HOST}
    text = masked(json.dumps(own, sort_keys=True), names)
    return module.group(1).decode(), hashlib.sha256(text.encode()).hexdigest()


def masked(text: str, names: set[str]) -> str:
    """*text* without what differs from host to host and from run to run."""
    for name in names:
        text = text.replace(name, "HOST")
    return re.sub(r"ansible-tmp-[\d.-]+|\b1\d{9}\.\d+\b", "TIME", text)


def note(**what: Any) -> None:
    with (PLACE / "calls.jsonl").open("a") as log:
        log.write(json.dumps(what) + "\n")


def answered(place: Path, module: str, question: str) -> tuple[list[Any], bool]:
    """The recorded answer, or any of the same module; and whether it is the one for this question."""
    exact = place / f"{module}-{question}.json"
    if exact.is_file():
        return json.loads(exact.read_text()), True
    others = sorted(place.glob(f"{module}-*.json"))
    if not others:
        raise RuntimeError(f"nothing was recorded for {module}")
    return json.loads(others[0].read_text()), False


def replay_requests(answers: Path) -> None:
    """Keep what a replica and its gateway answered, or answer with it in their place."""
    kept, plain = answers / "requests.json", triton_verify.work

    def work(parameters: Any) -> Any:
        if ASKS == "no":
            return json.loads(kept.read_text())
        found = plain(parameters)
        if MODE == "record" and not parameters["only_gateway"]:
            answers.mkdir(exist_ok=True)
            kept.write_text(json.dumps(found))
        return found

    triton_verify.work = work
    if ASKS == "no":  # nor is a way opened to where nothing is asked
        _controller.reachable = lambda parameters, names, option: contextlib.nullcontext(parameters)


def replay_inputs(answers: Path) -> None:
    """What the run is given is worked out for every host that is replayed, as ever, and then taken to be what it was
    for the recorded one: its record is the one that answers."""
    kept, plain = answers / "inputs.json", fleet_settled.given

    def given(*asked: Any) -> Any:
        found = plain(*asked)
        if MODE == "record":
            answers.mkdir(exist_ok=True)
            kept.write_text(json.dumps(found))
        return json.loads(kept.read_text()) if MODE == "replay" else found

    fleet_settled.given = given


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "host_answers"

    def __init__(self) -> None:
        super().__init__()
        self.tasks = 0
        self.started = time.monotonic()
        plain = ssh.Connection.exec_command
        answers = PLACE.parent / "answers"

        def exec_command(connection: Any, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> Any:
            module, question = asked(connection, cmd, in_data)
            begun, exact = time.monotonic(), True
            if MODE == "replay":
                found, exact = answered(answers, module, question)
                result = (found[0], found[1].encode(), found[2].encode())
            else:
                result = plain(connection, cmd, in_data=in_data, sudoable=sudoable)
            if MODE == "record":
                answers.mkdir(exist_ok=True)
                text = json.dumps([result[0], *(part.decode() for part in result[1:])])
                (answers / f"{module}-{question}.json").write_text(text)
            note(
                host=connection.get_option("host"), module=module, exact=exact, sent=len(cmd) + len(in_data or b""),
                received=len(result[1]) + len(result[2]), seconds=round(time.monotonic() - begun, 4),
            )  # fmt: skip
            return result

        ssh.Connection.exec_command = exec_command
        replay_requests(answers)
        replay_inputs(answers)
        if MODE == "replay":
            ssh.Connection.reset = lambda connection: None
            ssh.Connection.put_file = lambda connection, in_path, out_path: None

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self.tasks += 1

    def v2_playbook_on_stats(self, stats: Any) -> None:
        own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        found = {
            "hosts": len(stats.processed), "tasks": self.tasks, "seconds": round(time.monotonic() - self.started, 2),
            "cpu_main": round(own.ru_utime + own.ru_stime, 2),
            "cpu_workers": round(others.ru_utime + others.ru_stime, 2),
            "memory_mib": own.ru_maxrss // 1024, "failed": sorted({*stats.failures, *stats.dark}),
            "changed": sum(stats.changed.values()),
        }  # fmt: skip
        (PLACE / "run.json").write_text(json.dumps(found))
