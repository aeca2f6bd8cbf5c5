# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of checkpoints."""

from __future__ import annotations

from typing import Any

from .blows import MODULE
from .lab import SCRATCH
from .rows import GOES_ON, KILLED, Row, Strike

CHECKPOINT = f"test -s {SCRATCH}/checkpoints/scratch/config.json"
NO_CHECKPOINT = f"test ! -e {SCRATCH}/checkpoints/scratch"
FRESH = f"rm -rf {SCRATCH}/* {SCRATCH}/.[!.]*; "


def checkpoint(fault: str, when: str, expected: str, **about: Any) -> Row:
    """A row of a checkpoint on a disk of its own, which is not there before."""
    about["before"] = FRESH + about.get("before", "")
    play = about.pop("play", "checkpoint")
    return Row("checkpoint", fault, when, expected, play, after=about.pop("after", CHECKPOINT), **about)


THERE = (
    f"cp -a /var/lib/trtllm/checkpoints {SCRATCH}/ && cd {SCRATCH}/checkpoints && for f in "
    f"tiny-llama*; do mv $f scratch${{f#tiny-llama}}; done; "
)
SENDS = r"TASK \[trtllm.fleet.checkpoint : Install the checkpoints on the host"
FROM_HUB = f"test -s {SCRATCH}/checkpoints/from-hub/config.json"
HUB = (
    'python3 -c \'import json, sys; p = "/srv/hub/acme/tiny-llama/hub.json"; d = {"revisions": '
    '{"main": "1" * 40}, "commits": {"1" * 40: "files"}}; d.update(json.loads(sys.argv[1])); open(p, '
    '"w").write(json.dumps(d))\' '
)
RIGHT_HUB = HUB + "'{}'"


def hub(fault: str, when: str, expected: str, **about: Any) -> Row:
    """A row of a checkpoint that comes from a hub."""
    about.setdefault("mend", RIGHT_HUB)
    return checkpoint(fault, when, expected, play="hub", after=about.pop("after", FROM_HUB), **about)


CHECKPOINTS = (
    checkpoint(
        "controller killed",
        "while it sends",
        "nothing published; the next run sends it",
        ends=KILLED,
        given={"checkpoint_transfer_rate": 1},
        strikes=(Strike(SENDS, kills=True, do="sleep 1.2"),),
        keeps=NO_CHECKPOINT,
    ),
    checkpoint(
        "module killed",
        "while it takes what is sent",
        "told; nothing published",
        given={"checkpoint_transfer_rate": 1},
        strikes=(Strike(SENDS, beside=True, do=MODULE),),
        keeps=NO_CHECKPOINT,
    ),
    checkpoint(
        "host lost",
        "while it is sent",
        "named as lost; the next run sends it",
        given={"checkpoint_transfer_rate": 1},
        strikes=(Strike(SENDS, beside=True, here="sleep 1; $testbed cut $host"),),
        mend_here="$testbed start $host",
    ),
    checkpoint(
        "files unreadable, each replaced by a directory",
        "before the run",
        "told or brought again",
        before=THERE + "rm scratch/config.json; mkdir scratch/config.json",
        ends=GOES_ON,
        keeps=f"test -f {SCRATCH}/checkpoints/scratch/config.json",
    ),
    checkpoint(
        "record of digests damaged",
        "before the run",
        "read anew",
        before=THERE + "echo '{' > scratch.digests.json",
        ends=GOES_ON,
    ),
    checkpoint(
        "all files of another time",
        "before the run, as after a clock that was moved by a day",
        "read anew, and kept",
        before=THERE + "find . -exec touch -d '-1 day' {} +",
        ends=GOES_ON,
        keeps="true",
    ),
    checkpoint(
        "what a killed run left",
        "before the run",
        "taken or cleared",
        before=(
            f"mkdir -p {SCRATCH}/checkpoints/scratch.partial && echo x > "
            f"{SCRATCH}/checkpoints/scratch.partial/config.json"
        ),
        ends=GOES_ON,
    ),
)
ROWS: tuple[Row, ...] = CHECKPOINTS
