# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the field's client for benchmarks, AIPerf, on the controller: once for each point and repeat.

It has an environment of its own, asks no hub (the tokenizer's files come from a host), and each run of it ends by
itself, or is ended.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.plugin_utils import _bench, _venv
from ansible_collections.trtllm.fleet.plugins.plugin_utils._kept import Kept

REQUIREMENTS = Path(__file__).resolve().parent / "benchmark" / "requirements.txt"
NAME = "aiperf"
STARTS = 180  # seconds that the client may take beside those of the load: it starts ten processes
REPOSITORY = "local/tokenizer"
PHASE = "profiling"  # of a record that counts


def tool() -> str:
    """Which client it is: ``aiperf 0.13.0``."""
    found = re.search(r"^aiperf==(\S+)", REQUIREMENTS.read_text(encoding="utf-8"), re.M)
    return f"{NAME} {found[1] if found else ''}".strip()


def program() -> Path:
    """The client; its environment is made where it is not there yet."""
    return _venv.environment(NAME, REQUIREMENTS) / "aiperf"


def tokenizer(home: Path, files: Mapping[str, str]) -> str:
    """Lay *files*, kept on the controller by sha256, where the hub's library looks for what it has fetched already."""
    kept = Kept()
    directory = home / "hub" / f"models--{REPOSITORY.replace('/', '--')}"
    (directory / "refs").mkdir(parents=True)
    (directory / "refs" / "main").write_text("local")
    (directory / "snapshots" / "local").mkdir(parents=True)
    for name, sha256 in files.items():
        if not kept.has(sha256):
            raise FleetError(f"{kept.path(sha256)} is not on the controller; run trtllm_tokenizer_fetch first.")
        (directory / "snapshots" / "local" / Path(name).name).symlink_to(kept.path(sha256))
    return REPOSITORY


def run(
    target: _bench.Target, load: _bench.Load, files: Mapping[str, str], show: Callable[[str], None]
) -> list[dict[str, Any]]:
    """All points; *show* tells how far it is."""
    client = program()
    outcomes: dict[_bench.Case, list[_bench.Outcome]] = {}
    total = load.repeats * len(load.cases())
    with tempfile.TemporaryDirectory(prefix="trtllm-benchmark-") as scratch:
        name = tokenizer(Path(scratch) / "home", files)
        for number, (repeat, case) in enumerate(load.rounds(), 1):
            directory = Path(scratch) / str(number)
            directory.mkdir()
            # Other prompts each time, or a cache of prefixes would answer; the same in another run.
            wanted = _bench.config(target, load, case, name, str(directory), seed=1000 * (repeat + 1) + number)
            outcome = _once(client, wanted, directory, Path(scratch) / "home", target, load.seconds)
            outcomes.setdefault(case, []).append(outcome)
            rate = outcome.rate(_bench.RATES["output_tokens_per_second"])
            shown = "no answer" if rate is None else f"{rate:.1f} tokens/s"
            show(f"benchmark {number} of {total}: {case.words()}: {shown}")
    return [_bench.point(case, found) for case, found in outcomes.items()]


def _once(
    client: Path, wanted: Mapping[str, Any], directory: Path, home: Path, target: _bench.Target, seconds: int
) -> _bench.Outcome:
    written = directory / "config.yaml"
    written.write_text(json.dumps(wanted), encoding="utf-8")
    environ = {
        **os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "NO_COLOR": "1",
        _bench.KEY_VARIABLE: target.key,
    }  # fmt: skip
    limit = seconds + _bench.GRACE + STARTS
    try:
        done = subprocess.run(
            [str(client), "profile", "-f", str(written)],
            cwd=directory, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise FleetError(f"{NAME} had not ended after {limit} s and was ended; give fewer requests.") from None
    outcome = read(directory)
    if outcome is None:
        why = said(done.stdout + done.stderr, target.key)
        raise FleetError(f"{NAME} measured nothing at {target.url} ({why}); see with verify.yml whether it serves.")
    if not outcome.latencies("request_latency_ms"):
        why = outcome.first_error() if outcome.errors() else "no request was answered in time"
        raise FleetError(
            f"{target.url} answered none of the requests for {target.model}: {why}; see what verify.yml says of it."
        )
    return outcome


def read(directory: Path) -> _bench.Outcome | None:
    """What the client left in its directory; None where that is nothing."""
    try:
        summary = json.loads((directory / "profile_export_aiperf.json").read_text(encoding="utf-8"))
        lines = (directory / "profile_export.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError):
        return None
    # What warms up is recorded too.
    counted = [one for one in records if (one.get("metadata") or {}).get("benchmark_phase", PHASE) == PHASE]
    return _bench.Outcome(summary, counted)


def said(output: str, secret: str) -> str:
    """The line of the client's output that says what is wrong, without the key."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", output)
    plain = plain.replace(secret, "...") if secret else plain
    lines = [" ".join(line.strip("│╭╮╰╯─ ").split()) for line in plain.splitlines()]
    wrong = [line for line in lines if re.search(r"error|failed|refused|invalid", line, re.I)]
    return ((wrong or [line for line in lines if line] or ["it said nothing"])[0])[:300]
