#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the matrix of faults on test hosts that are kept, and write docs/faults.md from what was found.

Each row: its fault, a play that is struck by it, what it says; then what an operator would do, and the same play
again, after which the host serves a token, nothing is half made, and nothing that was published is lost. What was found
is kept, so that a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Optional

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from faults import lab, matrix, page
from faults.rows import FAILS, GOES_ON, KILLED, Row

RESULTS = lab.WORK / "results.json"
KILLED_STATUS, MISSED, SSH_FAILED = 137, 99, 255
BROUGHT = ("podman", "image", "checkpoint", "tokenizer", "engine")
"""Stages whose rows leave alone what serves."""
FIRST = 2
"""Rows of each stage that are run before all others."""
SLOWER = (
    ("podman", "driver", "toolkit", "image", "checkpoint", "hub", "tokenizer", "engine"),
    lab.SAVED,
    ("verify", "status"),
    ("model",),
    ("rollout", "serve", "host", "site"),
)
"""Plays, by how long they take."""
STRAY = r"\( -name '*.partial' -o -name '*.incoming' -o -name '*.tmp' -o -name '.*.new' -o -name '*.half' \)"
# A token through the gateway, which every row leaves.
SERVES = (
    'for i in $(seq 90); do curl -fsS -m 20 -H "Content-Type: application/json"'
    ' -d \'{"model": "tiny-llama", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}\''
    " http://127.0.0.1:3000/v1/chat/completions > /run/faults-answer 2> /run/faults-refusal && exit 0; sleep 1; done;"
    " cat /run/faults-refusal; exit 1"
)
# What is half made where others would take it for whole, or in the way of the next run.
WHOLE = (
    f"cd /var/lib/trtllm && find checkpoints engines repositories tokenizers {lab.SCRATCH} {STRAY} 2> /dev/null"
    " | head -n 5;"
    " systemctl list-units --failed --plain --no-legend 'triton-*' 'openai-*' 'trtllm-*' | head -n 5;"
    " podman ps --all --filter status=exited --filter status=created --format '{{.Names}}' | grep trtllm- | head -n 5"
)
PUBLISHED = (
    "echo published:; cd /var/lib/trtllm && find checkpoints engines repositories -type f ! -path '*/.*'"
    " ! -name '*.lock' ! -name '*.digests.json' ! -name '*.source.json' -print0 | sort -z | xargs -0 -r sha256sum"
)
ENDED = f"({SERVES}) && ({WHOLE}); {PUBLISHED}"
GPU_WHOLE = (
    "dpkg --audit | head -n 5; find /etc/cdi /etc/apt -name '*.partial' -o -name '.*.new' | head -n 5;"
    " nvidia-smi -L > /dev/null || echo nvidia-smi does not answer"
)


@contextmanager
def results() -> Iterator[dict[str, Any]]:
    """What was found so far, for one at a time."""
    lab.WORK.mkdir(parents=True, exist_ok=True)
    with (lab.WORK / "results.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        yield kept
        RESULTS.with_suffix(".new").write_text(json.dumps(kept, indent=1, sort_keys=True))
        RESULTS.with_suffix(".new").rename(RESULTS)


def digest(row: Row) -> str:
    """Another one where what is done in the row is another; what it says is judged from what is kept."""
    done = dataclasses.replace(row, says="", expected="", loses=False)
    return hashlib.sha256(repr(done).encode()).hexdigest()[:16]


def said_of(row: Row) -> Path:
    """Where it is kept what the struck run of a row said."""
    name = re.sub(r"[^a-z0-9]+", "-", row.name.lower()).strip("-")[:90]
    return lab.WORK / "logs" / f"{name}.said"


def judged(row: Row, kept: dict[str, Any]) -> dict[str, Any]:
    """What was found, with whether the struck run said what the row expects; empty where it was not run."""
    if not kept:
        return {}
    if not kept.get("ok") or kept.get("row") != digest(row):
        return {**kept, "ok": False}
    said = said_of(row).read_text() if said_of(row).exists() else ""
    if row.ends == FAILS and not row.says:
        return {**kept, "ok": False, "found": f"to be written down: {cleaned(told(said))}"}
    match = re.search(row.says, said)
    if match is None:
        return {**kept, "ok": False, "found": f"it did not say {row.says!r}, but: {cleaned(told(said))}"}
    return {**kept, "found": cleaned(sentence(said, row.says)) if row.says else ""}


def all_found(kept: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By row what was found, and is as expected or not."""
    return {row.name: judged(row, kept.get(row.name, {})) for row in matrix.ROWS}


def plain(text: str) -> str:
    """Output with single blanks, as a sentence is looked for."""
    return re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;]*m", "", text))


# What is published on each host, as the row before left it.
KNOWN: dict[str, set[str]] = {}


class Failure(Exception):
    """What was not as expected."""


class Try:
    """One row on one host."""

    def __init__(self, row: Row, host: str) -> None:
        self.row, self.host = row, host
        self.log = said_of(row).with_suffix(".log")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text(f"{row}\n")
        self.begun = time.monotonic()

    def left(self) -> float:
        """Seconds of the row that are left."""
        left = self.row.limit - (time.monotonic() - self.begun)
        if left <= 1:
            raise Failure(f"took more than the {self.row.limit} s of a row")
        return left

    def step(self, strike: Any) -> dict[str, str]:
        """A strike, as the player of faults takes it."""
        here = strike.here and f"{self.words()} {strike.here}"
        command = here or (lab.quoted(self.host, strike.do) if strike.do else "")
        if strike.kills:
            command = f"kill when {command}" if command else "kill"
        elif strike.beside:
            command = f"beside {command}"
        return {"line": strike.line, "do": command}

    def words(self) -> str:
        """What commands of this machine are given: the host, the testbed, and a second operator's run of the same."""
        second = shlex.join(lab.command_of(self.host, self.row.play, dict(self.row.always)))
        return f"host={self.host}; testbed={shlex.quote(str(lab.TESTBED))}; second() {{ {second}; }};"

    def play(self, play: str, given: dict[str, Any], strikes: Sequence[Any] = ()) -> tuple[int, str]:
        """The exit status of a play, and what it says."""
        steps = json.dumps([self.step(strike) for strike in strikes])
        argv = [sys.executable, str(lab.PLAYER), steps, str(self.log), "--"]
        argv += lab.command_of(self.host, play, given)
        with subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=lab.environment(), cwd=lab.REPO,
            errors="replace", stdin=subprocess.DEVNULL,
        ) as player:  # fmt: skip
            PLAYERS.add(player.pid)
            try:
                said = player.communicate(timeout=self.left())[0]
            except subprocess.TimeoutExpired:
                children = Path(f"/proc/{player.pid}/task/{player.pid}/children").read_text().split()
                subprocess.run(["kill", "-9", *(f"-{child}" for child in children)], check=False)
                player.kill()
                said = player.communicate()[0]
                raise Failure(f"{play} did not end in time: {plain(said)[-300:]}") from None
        PLAYERS.discard(player.pid)
        return player.returncode, plain(said)

    def holds(self, what: str, command: str) -> None:
        """Raises Failure where a command on the host fails or, of what must be empty, says something."""
        if command:
            status, said = lab.on(self.host, command, self.left())
            # A host that boots is waited for.
            for _ in range(20):
                if status != SSH_FAILED or not re.search("^ssh: |closed by remote", said, re.M):
                    break
                time.sleep(2)
                status, said = lab.on(self.host, command, self.left())
            if status:
                raise Failure(f"{what}: {said[-400:] or command}")

    def ended(self) -> set[str]:
        """What is published at the end. Raises Failure where the host does not serve, or something is half made."""
        script, marker = (ENDED, "published:") if self.row.host == "serving" else (GPU_WHOLE, "")
        status, said = lab.on(self.host, script, self.left())
        left, _, rest = said.partition("published:") if marker else (said, "", "")
        if left.strip() or status:
            raise Failure(f"at the end: {left.strip() or said[-300:]}")
        return set(rest.strip().splitlines())

    def struck(self) -> None:
        """Run the play that is struck."""
        row = self.row
        status, said = self.play(row.play, {**row.always, **row.given}, row.strikes)
        said_of(row).write_text(said)
        ended = {0: GOES_ON, KILLED_STATUS: KILLED}.get(status, FAILS)
        if status == MISSED:
            raise Failure(f"a strike missed: {said[-500:]}")
        if ended != row.ends:
            raise Failure(f"the struck run {ended}, and was expected to be one that {row.ends}: {told(said)}")
        if "Traceback (most recent call last)" in said:
            raise Failure(f"a traceback: {told(said)}")

    def repaired(self) -> None:
        """Run it again; all holds."""
        row = self.row
        # One that went on, and for which nobody had to do anything, has repaired it.
        if row.ends == GOES_ON and not (row.strikes or row.mend or row.then or row.repair):
            return
        status, said = self.play(row.repair or row.play, dict(row.always))
        if status:
            raise Failure(f"the next run did not repair it: {told(said)}")
        if row.then and not re.search(row.then, said):
            raise Failure(f"the next run did not say {row.then!r}: {said[-600:]}")

    def run(self) -> dict[str, Any]:
        """What was found."""
        row = self.row
        try:
            if row.host == "serving" and self.host not in KNOWN:
                KNOWN[self.host] = self.ended()
            before = KNOWN.get(self.host, set())
            self.holds("before", row.before)
            self.struck()
            self.holds("after the struck run", row.keeps)
            if row.mend_here:
                script = f"{self.words()} {row.mend_here}"
                done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False, timeout=120)
                if done.returncode:
                    raise Failure(f"mending: {done.stderr}")
            self.holds("mending", row.mend)
            self.repaired()
            self.holds("after the next run", row.after)
            now = self.ended()
            lost = set() if row.loses else before - now
            if lost:
                raise Failure(f"lost or altered: {sorted(lost)[:3]}")
            KNOWN[self.host] = now
            found, good = "", True
        except (Failure, RuntimeError, subprocess.TimeoutExpired) as failure:
            found, good = str(failure), False
        seconds = round(time.monotonic() - self.begun)
        return {"ok": good, "found": cleaned(found), "seconds": seconds, "row": digest(row), "log": str(self.log)}


def sentence(said: str, says: str) -> str:
    """The first sentence on a host that is lost which says it; else what alone says it."""
    for lost in re.finditer(r"is lost: (.{1,700}?) ?\(at '", said):
        if re.search(says, lost[1]):
            return lost[1].strip()
    match = re.search(says, said)
    return match.group(0).strip() if match else ""


def told(said: str) -> str:
    """What of a run's output says why it failed."""
    marks = re.findall(r"\[ERROR\].{0,700}|fatal: .{0,700}|is lost: .{0,500}|failed: \[.{0,500}", said)
    return " ... ".join(mark[:700] for mark in marks[-3:]) or said[-700:]


def cleaned(text: str) -> str:
    """What was said without what is of this machine or this moment."""
    for pattern, instead in (
        (r"brk[1-5]", "gpu-01"), (r"10\.200\.0\.1[1-5]", "192.0.2.11"), (r"10\.200\.0\.2:5000", "registry"),
        (r"127\.0\.0\.1:5001", "registry"), (r"sha256:[0-9a-f]{64}", "sha256:…"), (r"[0-9a-f]{64}", "…"),
        (r"[0-9a-f]{40}", "…"), (r"\d{8}T\d{6}Z-\d+", "ID"), (r"\d{4}-\d\d-\d\d[T ][\d:.]+Z?", "TIME"),
        (re.escape(str(Path.home())), "~"), (re.escape(str(lab.REPO)), "."),
    ):  # fmt: skip
        text = re.sub(pattern, instead, text)
    return text


def taking_turns(rows: Sequence[Row]) -> list[Row]:
    """Some of each stage first, and then what is quick, so that a run which is cut short has most of all."""
    seen: dict[str, int] = {}
    turns = []
    for row in rows:
        seen[row.stage] = seen.get(row.stage, 0) + 1
        place = 0 if seen[row.stage] <= FIRST else 1 + next(n for n, plays in enumerate(SLOWER) if row.play in plays)
        turns.append(((place, seen[row.stage]), row))
    return [row for _, row in sorted(turns, key=lambda turn: turn[0])]


def lane(host: str, waiting: Queue[Row], deadline: Optional[float]) -> None:
    """Rows on one host, one after the other."""
    while deadline is None or time.monotonic() < deadline:
        try:
            row = waiting.get_nowait()
        except Empty:
            return
        with results() as kept:
            done = kept.get(row.name, {})
        # Another run beside this one may have had it.
        if done.get("row") == digest(row) and done.get("at", 0) > BEGUN:
            continue
        ran = {**Try(row, host).run(), "at": time.time()}
        with results() as kept:
            kept[row.name] = ran
            page.write(all_found(kept))
        found = judged(row, ran) if ran["ok"] else ran
        verdict = "ok" if found["ok"] else "NOT AS EXPECTED"
        print(f"{verdict:<15} {found['seconds']:4} s  {host}  {row.name}\n      {found['found'][:600]}", flush=True)
        if not ran["ok"]:
            restore(row, host)
        elif row.loses:
            # What serves has mounted what the row has taken away; the next row gets one that has mounted what is there.
            lab.on(host, f"systemctl restart triton-tiny-llama-0; {SERVES}")


def restore(row: Row, host: str) -> None:
    """Have the host as a row expects it, where one has left it otherwise."""
    KNOWN.pop(host, None)
    lab.testbed("start", host, check=False)
    if row.mend:
        lab.on(host, row.mend)
    lab.on(host, matrix.CLEAN if row.host == "serving" else matrix.GPU_CLEAN)
    if row.stage in BROUGHT and lab.on(host, SERVES.replace("seq 90", "seq 5"))[0] == 0:
        return
    said = ""
    for play in ("triton", "gateway", "site") if row.host == "serving" else ("host",):
        try:
            done = subprocess.run(
                lab.command_of(host, play, {}), cwd=lab.REPO, env=lab.environment(), capture_output=True, text=True,
                check=False, timeout=200, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            said = f"{play} took more than 200 s"
            continue
        said = told(plain(done.stdout + done.stderr)) if done.returncode else ""
        if play == "gateway" and not said and lab.on(host, SERVES.replace("seq 90", "seq 9"))[0] == 0:
            return
    if said:
        print(f"{host} could not be restored: {said}", flush=True)


BEGUN = time.time()
PLAYERS: set[int] = set()


def end(number: int, frame: object) -> None:
    """End what runs on this machine; a playbook has a group of its own."""
    for player in PLAYERS:
        children = Path(f"/proc/{player}/task/{player}/children")
        for child in children.read_text().split() if children.exists() else []:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(child), signal.SIGKILL)
    os._exit(130)


def prepare(rows: Sequence[Row], only: Sequence[str]) -> None:
    """Hosts that serve, and one with fabricated GPUs that has its driver."""
    lab.up()
    # A run of rows of the other kind, beside one that works there, leaves them alone.
    used = lab.SERVING if any(row.host == "serving" for row in rows) else {}
    serving = [host for host in used if host in (only or used)]
    for host in serving:
        lab.on(host, matrix.CLEAN)
    wanted: list[list[str]] = []
    for host in serving:
        if lab.on(host, SERVES.replace("seq 90", "seq 2"))[0]:
            site, save = (shlex.join(lab.command_of(host, play, {})) for play in ("site", "save"))
            wanted.append(["sh", "-c", f"{site} && {save}"])
        elif not (lab.WORK / f"{host}-saved.json").exists():
            wanted.append(lab.command_of(host, "save", {}))
    if any(row.host == "gpu" for row in rows):
        for host in lab.GPU:
            if lab.on(host, "nvidia-smi -L")[0]:
                first = lab.command_of(host, "host", {})
                prepared = ["ansible-playbook", "-i", str(lab.inventory(host)), str(lab.GPU_PREPARED)]
                wanted.append(["sh", "-c", f"{shlex.join(prepared)} && {shlex.join(first)}"])
    with ThreadPoolExecutor(max_workers=4) as pool:
        for done in pool.map(
            lambda argv: subprocess.run(
                argv, cwd=lab.REPO, env=lab.environment(), capture_output=True, text=True, check=False, timeout=600,
                stdin=subprocess.DEVNULL,
            ),
            wanted,
        ):  # fmt: skip
            if done.returncode:
                sys.exit(f"faults: the hosts could not be prepared: {done.stdout[-1500:]} {done.stderr[-500:]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", metavar="PATTERN", help="rows whose 'stage: fault, when' the regular expression finds"
    )
    parser.add_argument("--again", action="store_true", help="rows too that were found as expected before")
    parser.add_argument("--list", action="store_true", help="name the rows, and run none")
    parser.add_argument("--minutes", type=float, help="begin no row after so many")
    parser.add_argument("--down", action="store_true", help="remove the hosts at the end")
    parser.add_argument("--host", action="append", metavar="NAME", help="on these hosts alone, beside another run")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    rows = [row for row in matrix.ROWS if re.search(arguments.only or "", row.name)]
    if not rows:
        sys.exit(f"faults: no row has {arguments.only!r} in its name; --list names them.")
    if arguments.list:
        print("\n".join(row.name for row in rows))
        return 0
    with results() as kept:
        known = dict(kept)
    due = [
        row for row in rows
        if arguments.again or not (known.get(row.name, {}).get("ok") and known[row.name]["row"] == digest(row))
    ]  # fmt: skip
    print(f"{len(rows) - len(due)} of {len(rows)} rows are known; {len(due)} are run", flush=True)
    if due:
        prepare(due, arguments.host or [])
        deadline = time.monotonic() + arguments.minutes * 60 if arguments.minutes else None
        lanes: list[tuple[str, Queue[Row], Optional[float]]] = []
        for kind, hosts in (("serving", lab.SERVING), ("gpu", lab.GPU)):
            waiting: Queue[Row] = Queue()
            turns = taking_turns([row for row in due if row.host == kind])
            half = len(turns) // 2 if arguments.host else 0
            for row in turns[half:] + turns[:half]:
                waiting.put(row)
            used = [host for host in hosts if host in (arguments.host or hosts)]
            lanes += [(host, waiting, deadline) for host in used if not waiting.empty()]
        with ThreadPoolExecutor(max_workers=len(lanes)) as pool:
            for _ in pool.map(lambda lane_: lane(*lane_), lanes):
                pass
    if arguments.down:
        lab.down()
    with results() as kept:
        found = all_found(kept)
        page.write(found)
    bad = [row.name for row in rows if not found[row.name].get("ok")]
    print(f"{len(rows) - len(bad)} of {len(rows)} rows are as expected")
    for name in bad:
        print(f"  {name}: {found[name].get('found', 'was not run')[:1200]}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
