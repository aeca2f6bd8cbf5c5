# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of rollouts."""

from __future__ import annotations

from typing import Any

from . import lab
from .blows import CLOCK, CLOCK_RIGHT, READ_ONLY, REBOOT, UP
from .rows import FAILS, GOES_ON, KILLED, Row, Strike
from .serving import ACTIVE, CDI, CDI_RIGHT, STARTING

CHANGED = {"trtllm_models": [{**lab.DESCRIBED, "engine": {**lab.DESCRIBED["engine"], "max_batch_size": 7}}]}
BACK = "true"
LOCKED = "ls /var/lib/trtllm/rollout* 2> /dev/null"


def rollout(fault: str, when: str, expected: str, **about: Any) -> Row:
    """A row of a rollout that only changes what the unit says, so that it is quick."""
    about.setdefault("given", {})
    return Row(
        "rollout",
        fault,
        when,
        expected,
        about.pop("play", "rollout"),
        ends=about.pop("ends", FAILS),
        after=ACTIVE,
        limit=420,
        always={"triton_environment": {"FAULT": fault + when}, **about.pop("always", {})},
        **about,
    )


SWITCH = r"TASK \[trtllm.fleet.triton : Ensure that the replicas run"
DRAINS = r"TASK \[Ensure that every gateway has them drained"
GATE = r"TASK \[Verify the replicas with requests"
ROLLOUT = (
    rollout(
        "controller killed",
        "while it plans",
        "the next run goes on",
        ends=KILLED,
        strikes=(Strike(r"TASK \[Record what would change", kills=True),),
    ),
    rollout(
        "controller killed",
        "while the unit is changed",
        "it starts; the next run asks its gate",
        ends=KILLED,
        strikes=(Strike(r"PLAY \[Switch"), Strike(SWITCH, kills=True, do=STARTING + "true")),
    ),
    rollout(
        "module killed",
        "while the unit is changed",
        "told; goes back, the next run rolls out",
        strikes=(
            Strike(r"PLAY \[Switch"),
            Strike(SWITCH, beside=True, do=STARTING + "pkill -KILL -xf /usr/bin/python3"),
        ),
    ),
    rollout(
        "new container killed again and again",
        "at its start",
        "told; the unit before serves again",
        strikes=(
            Strike(r"PLAY \[Switch"),
            Strike(
                SWITCH,
                beside=True,
                do=STARTING
                # Servers of the new unit alone, which are known by their environment.
                + (
                    "systemd-run --unit=faults-killer --collect --property=RuntimeMaxSec=120 bash -c "
                    "'while sleep 0.3; do for p in $(pgrep -x tritonserver); do "
                    'grep -aq "FAULT=new container killed" /proc/$p/environ && kill -KILL $p; done; done\''
                ),
            ),
        ),
        mend="systemctl stop faults-killer; true",
    ),
    rollout(
        "host rebooted",
        "while the unit is changed",
        "named as lost; the next run goes on",
        keeps=UP,
        strikes=(Strike(r"PLAY \[Switch"), Strike(SWITCH, beside=True, do=STARTING + REBOOT)),
    ),
    rollout(
        "host lost",
        "while the unit is changed",
        "named as lost; the next run goes on",
        mend_here="$testbed start $host",
        strikes=(Strike(r"PLAY \[Switch"), Strike(SWITCH, beside=True, here="sleep 1; $testbed cut $host")),
    ),
    rollout(
        "second operator rolls out",
        "while it is under way",
        "refused with who works there",
        ends=GOES_ON,
        strikes=(
            Strike(
                r"PLAY \[Switch",
                here="second > /tmp/faults-second-$host; true",
            ),
        ),
        mend_here=(
            "tr -s '\\n ' ' ' < /tmp/faults-second-$host | grep -q 'the rollout .* works on this host since'"
            " || { tail /tmp/faults-second-$host >&2; exit 1; }"
        ),
    ),
    rollout(
        "CDI stale: no such device",
        "before the unit is changed",
        "told; the unit before is put back, and needs the device too",
        mend=CDI_RIGHT,
        strikes=(Strike(r"PLAY \[Switch", do=CDI),),
    ),
    rollout(
        "memory short: the new one does not get what it asks for",
        "at its start",
        "told; the unit before serves again",
        given={"triton_extra_args": ["--pinned-memory-pool-byte-size=not-a-number"]},
    ),
    rollout(
        "journal of the host damaged",
        "before the run",
        "told or written anew",
        ends=GOES_ON,
        before="for f in /var/lib/trtllm/rollouts/*; do head -c 64 /dev/urandom > $f; done",
    ),
    rollout(
        "clock a day ahead",
        "in the middle",
        "no difference",
        ends=GOES_ON,
        strikes=(Strike(r"PLAY \[Switch", do=CLOCK.format("+1d")),),
        mend=CLOCK_RIGHT,
    ),
    rollout(
        "engine's disk read-only",
        "before the run",
        "refused on the host; it serves on",
        always=CHANGED,
        before=READ_ONLY.format("/var/lib/trtllm"),
        mend="umount /var/lib/trtllm",
    ),
)
ROWS: tuple[Row, ...] = ROLLOUT
