# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of replicas."""

from __future__ import annotations

from typing import Any

from . import lab
from .blows import CLOCK, CLOCK_RIGHT, FULL, NO_INODES, READ_ONLY, REBOOT, UP, until
from .rows import FAILS, GOES_ON, KILLED, Row, Strike
from .serving import ACTIVE, BEGINS, CDI, CDI_RIGHT, HEALS, LISTENER, SERVICE, STARTING, STARTS, UNIT

# The host is there again, and the replica with it.
IS_UP = f"$testbed exec $host -- systemctl is-active --quiet {SERVICE}"
UP_AGAIN = f"for i in $(seq 90); do {IS_UP} && exit 0; sleep 1; done; exit 1"


def triton(fault: str, when: str, expected: str, **about: Any) -> Row:
    """A row of a replica that serves."""
    return Row(
        "triton",
        fault,
        when,
        expected,
        about.pop("play", "triton"),
        ends=about.pop("ends", GOES_ON),
        after=about.pop("after", ACTIVE),
        **about,
    )


TRITON = (
    triton(
        "container killed",
        "while it serves",
        "systemd starts it again, without a run",
        before="podman kill --signal KILL triton-tiny-llama-0; sleep 1; " + HEALS,
    ),
    triton(
        "server killed, as by the kernel when memory is short",
        "while it serves",
        "systemd starts it again, without a run",
        before="pkill -KILL -x tritonserver; sleep 1; " + HEALS,
    ),
    triton(
        "host rebooted",
        "while it serves",
        "it serves again, without a run",
        play="verify",
        strikes=(Strike(r"PLAY \[", here=f"$testbed exec $host -- {REBOOT}; sleep 6; {UP_AGAIN}"),),
    ),
    triton(
        "host lost, and back",
        "while it serves",
        "it serves again, without a run",
        play="status",
        ends=FAILS,
        strikes=(Strike(r"TASK \[Record the replicas of the host", here="$testbed cut $host"),),
        mend_here="$testbed start $host",
        repair="triton",
    ),
    triton("stopped by hand", "before the run", "started", before=BEGINS),
    triton(
        "masked by hand",
        "before the run",
        "told",
        before=f"systemctl stop {SERVICE}; ln -s /dev/null /etc/systemd/system/{SERVICE}; systemctl daemon-reload",
        mend=f"rm /etc/systemd/system/{SERVICE}; systemctl daemon-reload",
        ends=FAILS,
    ),
    triton(
        "unit altered by hand",
        "before the run",
        "put right and restarted",
        before=f"echo 'Environment=MINE=1' >> {UNIT}",
        keeps=f"! grep -q MINE {UNIT}",
    ),
    triton(
        "unit removed",
        "before the run",
        "written again",
        before=f"rm {UNIT}; systemctl daemon-reload",
        keeps=f"test -s {UNIT}",
    ),
    triton(
        "unit emptied",
        "before the run",
        "written again",
        before=f": > {UNIT}; systemctl daemon-reload",
        keeps=f"grep -q Image= {UNIT}",
    ),
    triton(
        "unit replaced by a directory",
        "before the run",
        "told or written again",
        before=f"mv {UNIT} /srv/faults-unit; mkdir {UNIT}",
        mend=f"rmdir {UNIT}; mv /srv/faults-unit {UNIT}",
        ends=FAILS,
    ),
    triton(
        "systemd reloads and is executed anew",
        "while the run starts it",
        "no difference",
        before=BEGINS,
        strikes=(Strike(STARTS, beside=True, do="sleep 1; systemctl daemon-reload; systemctl daemon-reexec"),),
    ),
    triton(
        "controller killed",
        "while the run starts it",
        "it starts; the next run finds it",
        before=BEGINS,
        ends=KILLED,
        strikes=(Strike(STARTS, kills=True, do=until(f"systemctl is-active {SERVICE} | grep -qE '^activ'")),),
    ),
    triton(
        "module killed",
        "while the run starts it",
        "told; it starts, the next run finds it",
        before=BEGINS,
        ends=FAILS,
        strikes=(Strike(STARTS, beside=True, do=STARTING + "pkill -KILL -xf /usr/bin/python3"),),
    ),
    triton(
        "host rebooted",
        "while the run starts it",
        "the host is lost; it starts by itself",
        before=BEGINS,
        ends=FAILS,
        strikes=(Strike(STARTS, beside=True, do=STARTING + REBOOT),),
        keeps=UP,
    ),
    triton(
        "another process has its port",
        "before the run",
        "refused with its name",
        before=BEGINS + LISTENER.format(8000),
        ends=FAILS,
        mend="systemctl stop faults-listener",
    ),
    triton(
        "CDI stale: no such device",
        "before the run",
        "told; the unit before stays",
        before=BEGINS + CDI,
        mend=CDI_RIGHT,
        ends=FAILS,
    ),
    triton(
        "GPU gone from the bus",
        "before the run",
        "refused before anything is changed",
        before="mkdir -p /etc/testbed && echo '[]' > /etc/testbed/gpus.json",
        mend="rm /etc/testbed/gpus.json",
        ends=FAILS,
        play="model",
        repair="triton",
    ),
    triton(
        "its probe altered",
        "before the run",
        "put right",
        before="for f in $(find /etc/trtllm/triton -type f); do echo '# mine' >> $f; done",
        keeps="! grep -r '# mine' /etc/trtllm/triton",
    ),
    triton(
        "its scripts removed",
        "before the run",
        "written again",
        before="rm -r /etc/trtllm/triton",
        keeps="ls /etc/trtllm/triton/*",
    ),
    triton(
        "release record removed",
        "before the run",
        "written again",
        before="rm /var/lib/trtllm/releases/triton-tiny-llama-0.jsonl",
        keeps="test -s /var/lib/trtllm/releases/triton-tiny-llama-0.jsonl",
    ),
    triton(
        "release record cut short",
        "before the run",
        "written again",
        before='echo \'{"time": "20\' > /var/lib/trtllm/releases/triton-tiny-llama-0.jsonl',
    ),
    triton(
        "release record of binary bytes",
        "before the run",
        "told or written again",
        before="head -c 300 /dev/urandom > /var/lib/trtllm/releases/triton-tiny-llama-0.jsonl",
    ),
    triton(
        "its model repository removed under it",
        "while it serves",
        "made again, and restarted",
        before="rm -r /var/lib/trtllm/repositories/tiny-llama",
        loses=True,
        play="rollout",
        limit=420,
    ),
    triton(
        "its checkpoint removed under it",
        "while it serves",
        "brought again, and restarted",
        before="rm -r /var/lib/trtllm/checkpoints/tiny-llama*",
        loses=True,
        play="rollout",
        limit=420,
    ),
    triton(
        "units read-only",
        "before the run",
        "told; it serves on",
        before=f"echo 'Environment=MINE=1' >> {UNIT}; " + READ_ONLY.format("/etc/containers/systemd"),
        mend="umount /etc/containers/systemd",
        ends=FAILS,
    ),
    triton(
        "disk of the units full",
        "before the run",
        "told; it serves on",
        before=FULL.format("/etc/containers/systemd"),
        mend="umount /etc/containers/systemd",
        keeps=ACTIVE,
        ends=FAILS,
    ),
    triton(
        "inodes of the units' disk gone",
        "before the run",
        "told; it serves on",
        before=NO_INODES.format("/etc/containers/systemd"),
        mend="umount /etc/containers/systemd",
        keeps=ACTIVE,
        ends=FAILS,
    ),
    triton(
        "image removed under it",
        "while it serves",
        "told where it is not brought, brought by the rollout",
        play="rollout",
        before=f"systemctl stop {SERVICE}; podman rmi --force {lab.REGISTRY}/triton_cpu:1.2.1",
        limit=420,
    ),
    triton(
        "podman's storage reset",
        "while it serves",
        "all comes again",
        play="rollout",
        limit=500,
        before=(
            "systemctl stop triton-tiny-llama-0 openai-gateway.socket openai-gateway; podman system "
            "reset --force > /dev/null 2>&1; podman info > /dev/null"
        ),
    ),
    triton(
        "podman's storage damaged: its list of images cut short",
        "before the run",
        "told",
        play="rollout",
        ends=FAILS,
        limit=500,
        before=(
            "cp /var/lib/containers/storage/overlay-images/images.json /srv/faults-images.json; "
            "truncate -s 100 /var/lib/containers/storage/overlay-images/images.json"
        ),
        mend="cp /srv/faults-images.json /var/lib/containers/storage/overlay-images/images.json",
    ),
    triton(
        "podman's storage damaged: a layer is gone",
        "before the run",
        "told",
        play="rollout",
        ends=FAILS,
        limit=500,
        before="systemctl stop triton-tiny-llama-0; podman image inspect -f '{{.GraphDriver.Data.UpperDir}}' "
        + f"{lab.REGISTRY}/triton_cpu:1.2.1 > /etc/faults-layer;"
        " mv $(cat /etc/faults-layer) /var/lib/containers/faults-layer",
        mend="mv /var/lib/containers/faults-layer $(cat /etc/faults-layer)",
    ),
    triton(
        "clock a day ahead",
        "before the run",
        "no difference",
        before=CLOCK.format("+1d"),
        mend=CLOCK_RIGHT,
    ),
    triton(
        "clock a day behind",
        "before the run",
        "no difference",
        before=CLOCK.format("-1d"),
        mend=CLOCK_RIGHT,
    ),
)
ROWS: tuple[Row, ...] = TRITON
