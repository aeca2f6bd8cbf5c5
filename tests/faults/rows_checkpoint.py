# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of checkpoints."""

from __future__ import annotations

from typing import Any

from . import lab
from .blows import MODULE, REBOOT, UP, until
from .lab import SCRATCH
from .rows import GOES_ON, KILLED, Row, Strike
from .scratch import CHECKPOINT, FEW_INODES, FILL, FRESH, MANY_INODES, NO_CHECKPOINT


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
FETCHES = r"TASK \[trtllm.fleet.checkpoint : Install the checkpoints that are downloaded"
FROM_HUB = f"test -s {SCRATCH}/checkpoints/from-hub/config.json"
NO_HUB = f"test ! -e {SCRATCH}/checkpoints/from-hub"
ARRIVES = until(f"[ 0$(du -sb {SCRATCH}/checkpoints/from-hub.partial 2> /dev/null | cut -f1) -gt 200000 ]") + " && "
HUB = (
    'python3 -c \'import json, sys; p = "/srv/hub/acme/tiny-llama/hub.json"; d = {"revisions": '
    '{"main": "1" * 40}, "commits": {"1" * 40: "files"}}; d.update(json.loads(sys.argv[1])); open(p, '
    '"w").write(json.dumps(d))\' '
)
RIGHT_HUB = HUB + "'{}'"
SLOW_HUB = HUB + "'{\"rate\": 400000}'; "
WEIGHTS = "model-00001-of-00002.safetensors"


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
        "host rebooted",
        "while it is sent",
        "told; the next run sends it",
        given={"checkpoint_transfer_rate": 1},
        strikes=(Strike(SENDS, beside=True, do="sleep 1; " + REBOOT),),
        keeps=UP,
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
        "disk full",
        "before the run",
        "refused before it is sent",
        before=FILL.format(500000),
        mend=f"rm {SCRATCH}/full",
        keeps=NO_CHECKPOINT,
    ),
    checkpoint(
        "inodes gone",
        "before the run",
        "told; nothing published",
        before=FEW_INODES.format(5),
        mend=MANY_INODES,
        keeps=NO_CHECKPOINT,
    ),
    checkpoint(
        "disk read-only",
        "before the run",
        "told",
        before=f"mount -o remount,ro {SCRATCH}",
        mend=f"mount -o remount,rw {SCRATCH}",
        keeps=NO_CHECKPOINT,
    ),
    checkpoint(
        "file altered",
        "before the run",
        "found, brought again",
        before=THERE + f"printf x >> scratch/{WEIGHTS}",
        ends=GOES_ON,
        keeps=f"cmp {SCRATCH}/checkpoints/scratch/{WEIGHTS} /var/lib/trtllm/checkpoints/tiny-llama/{WEIGHTS}",
    ),
    checkpoint(
        "file removed",
        "before the run",
        "found, brought again",
        before=THERE + "rm scratch/config.json",
        ends=GOES_ON,
        keeps=CHECKPOINT,
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
    checkpoint(
        "second operator sends the same",
        "while it is sent",
        "one after the other, or one takes the other's",
        ends=GOES_ON,
        given={"checkpoint_transfer_rate": 2},
        strikes=(Strike(SENDS, beside=True, here="second > /dev/null"),),
    ),
    hub("hub slow", "all the time", "waited for", before=HUB + "'{\"rate\": 800000}'", ends=GOES_ON),
    hub(
        "hub lies about bytes",
        "in the download",
        "found by the hub's digest, told, nothing published",
        before=HUB + f'\'{{"altered": ["{WEIGHTS}"]}}\'',
        keeps=NO_HUB,
    ),
    hub(
        "hub cuts the connection",
        "in the download",
        "told; what has arrived is kept",
        before=HUB + f'\'{{"truncated": ["{WEIGHTS}"]}}\'',
        keeps=NO_HUB,
    ),
    hub(
        "hub away",
        "before the run",
        "told",
        before="systemctl stop faults-hub",
        mend="systemctl start faults-hub; sleep 1",
        keeps=NO_HUB,
    ),
    hub(
        "DNS gone",
        "before the run",
        "told by name",
        keeps=NO_HUB,
        given={"checkpoint_models": [{**lab.FROM_HUB, "endpoint": "http://hub.invalid"}]},
    ),
    hub(
        "container killed",
        "in the middle of the download",
        "told; what has arrived is kept",
        before=SLOW_HUB,
        strikes=(Strike(FETCHES, beside=True, do=ARRIVES + "podman kill --signal KILL trtllm-checkpoint-from-hub"),),
        keeps=NO_HUB,
    ),
    hub(
        "controller killed",
        "in the middle of the download",
        "the download goes on, the next run takes it",
        before=SLOW_HUB,
        ends=KILLED,
        strikes=(Strike(FETCHES, kills=True, do=ARRIVES + "true"),),
        keeps=NO_HUB,
    ),
    hub(
        "host rebooted",
        "in the middle of the download",
        "told; the next run goes on with what arrived",
        before=SLOW_HUB,
        strikes=(Strike(FETCHES, beside=True, do=ARRIVES + REBOOT),),
        keeps=UP,
    ),
    hub(
        "disk full",
        "in the middle of the download",
        "told; nothing published",
        before=FILL.format(400000),
        mend=f"rm {SCRATCH}/full",
        keeps=NO_HUB,
    ),
)
ROWS: tuple[Row, ...] = CHECKPOINTS
