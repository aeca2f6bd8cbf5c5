# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of the gateway, and of verification."""

from __future__ import annotations

from typing import Any

from . import lab
from .blows import CLOCK, CLOCK_RIGHT, FULL, MODULE, NO_INODES, READ_ONLY, REBOOT, UP
from .rows import FAILS, GOES_ON, KILLED, Row, Strike
from .serving import ACTIVE, BEGINS, LISTENER

CONFIG = "/etc/trtllm/openai_gateway/config.json"
GATEWAY_UNIT = "/etc/containers/systemd/openai-gateway.container"
RUNS = r"TASK \[trtllm.fleet.openai_gateway : Ensure that the gateway runs as a service"


def gateway(fault: str, when: str, expected: str, **about: Any) -> Row:
    """A row of the host's gateway."""
    return Row(
        "gateway",
        fault,
        when,
        expected,
        about.pop("play", "gateway"),
        ends=about.pop("ends", GOES_ON),
        after=ACTIVE,
        **about,
    )


GATEWAY = (
    gateway(
        "container killed",
        "while it serves",
        "systemd starts it again, without a run",
        before="podman kill --signal KILL openai-gateway; sleep 1; "
        + (
            "for i in $(seq 60); do curl -fs -m 5 -o /dev/null http://127.0.0.1:3000/v1/models && "
            "exit 0; sleep 0.5; done; exit 1"
        ),
    ),
    gateway(
        "stopped by hand, with its socket",
        "before the run",
        "started",
        before="systemctl stop openai-gateway.socket openai-gateway",
    ),
    gateway(
        "configuration altered",
        "before the run",
        "put right",
        before="sed -i 's/tiny-llama/other/g' /etc/trtllm/openai_gateway/gateway.yml",
        keeps="! grep other /etc/trtllm/openai_gateway/gateway.yml",
    ),
    gateway(
        "configuration emptied",
        "before the run",
        "put right",
        before=": > /etc/trtllm/openai_gateway/gateway.yml",
    ),
    gateway("configuration removed", "before the run", "written again", before="rm -r /etc/trtllm/openai_gateway"),
    gateway(
        "unit removed",
        "before the run",
        "written again",
        before=f"rm {GATEWAY_UNIT}; systemctl daemon-reload",
    ),
    gateway(
        "socket removed",
        "before the run",
        "written again",
        before=(
            "systemctl stop openai-gateway.socket; rm /etc/systemd/system/openai-gateway.socket; "
            "systemctl daemon-reload"
        ),
    ),
    gateway(
        "unit altered",
        "before the run",
        "put right",
        before=f"echo 'Environment=MINE=1' >> {GATEWAY_UNIT}",
        keeps=f"! grep -q MINE {GATEWAY_UNIT}",
    ),
    gateway(
        "another process has its port",
        "before the run",
        "refused with its name",
        ends=FAILS,
        before="systemctl stop openai-gateway.socket openai-gateway; " + LISTENER.format(3000),
        mend="systemctl stop faults-listener",
    ),
    gateway(
        "image removed",
        "before the run",
        "brought again",
        before=(
            "systemctl stop openai-gateway.socket openai-gateway; podman rmi --force "
            f"{lab.REGISTRY}/openai_gateway:0.1.0"
        ),
    ),
    gateway(
        "controller killed",
        "after the configuration was written, before it runs",
        "the next run finds it",
        ends=KILLED,
        before="systemctl stop openai-gateway.socket openai-gateway; rm -r /etc/trtllm/openai_gateway",
        strikes=(Strike(RUNS, kills=True),),
    ),
    gateway(
        "module killed",
        "while it is started",
        "told; the next run starts it",
        ends=FAILS,
        before="systemctl stop openai-gateway.socket openai-gateway",
        strikes=(Strike(RUNS, beside=True, do=MODULE),),
    ),
    gateway(
        "host rebooted",
        "while it is started",
        "the host is lost; it starts by itself",
        ends=FAILS,
        before="systemctl stop openai-gateway.socket openai-gateway",
        strikes=(Strike(RUNS, beside=True, do="sleep 0.5; " + REBOOT),),
        keeps=UP,
    ),
    gateway(
        "host lost",
        "while it is started",
        "named as lost; it starts by itself",
        ends=FAILS,
        before="systemctl stop openai-gateway.socket openai-gateway",
        strikes=(Strike(RUNS, here="$testbed cut $host"),),
        mend_here="$testbed start $host",
    ),
    gateway(
        "clock a day ahead",
        "before the run",
        "no difference",
        before=CLOCK.format("+1d"),
        mend=CLOCK_RIGHT,
    ),
    gateway(
        "disk full",
        "before the run",
        "told; it serves on",
        ends=FAILS,
        before=FULL.format("/etc/trtllm"),
        mend="umount /etc/trtllm",
    ),
    gateway(
        "inodes gone",
        "before the run",
        "told; it serves on",
        ends=FAILS,
        before=NO_INODES.format("/etc/trtllm"),
        mend="umount /etc/trtllm",
    ),
    gateway(
        "/etc/trtllm read-only",
        "before the run",
        "told; it serves on",
        ends=FAILS,
        before="echo '# mine' >> /etc/trtllm/openai_gateway/gateway.yml; " + READ_ONLY.format("/etc/trtllm"),
        mend="umount /etc/trtllm",
    ),
    gateway(
        "replica behind it away",
        "before the run",
        "told with the model",
        ends=FAILS,
        play="verify",
        before=BEGINS,
        repair="triton",
    ),
)


def verify(fault: str, when: str, expected: str, **about: Any) -> Row:
    """A row of the verification."""
    return Row(
        "verify",
        fault,
        when,
        expected,
        "verify",
        ends=about.pop("ends", FAILS),
        after=ACTIVE,
        repair=about.pop("repair", "triton"),
        **about,
    )


ASKS = r"TASK \[Verify the replicas and gateways of all hosts with requests"
VERIFY = (
    verify("replica stopped", "before the run", "named in the table, and lost", before=BEGINS),
    verify(
        "replica hangs",
        "before the run",
        "named within its time",
        before="pkill -STOP -x tritonserver",
        mend="pkill -CONT -x tritonserver; true",
    ),
    verify(
        "gateway stopped",
        "before the run",
        "named",
        before="systemctl stop openai-gateway.socket openai-gateway",
        repair="gateway",
    ),
    verify(
        "host lost",
        "before the run",
        "named as lost",
        mend_here="$testbed start $host",
        strikes=(Strike(r"TASK \[Record the replicas and the gateway", here="$testbed cut $host"),),
    ),
    verify(
        "host lost",
        "while it is asked",
        "named",
        mend_here="$testbed start $host",
        strikes=(Strike(ASKS, here="$testbed cut $host"),),
    ),
    verify(
        "host frozen",
        "before the run",
        "named within its time",
        mend_here="$testbed unpause $host",
        strikes=(Strike(r"TASK \[Record the replicas and the gateway", here="$testbed pause $host"),),
    ),
    verify(
        "controller killed",
        "while it asks",
        "nothing is left",
        ends=KILLED,
        strikes=(Strike(ASKS, kills=True, do="sleep 1"),),
        repair="verify",
    ),
    verify(
        "module killed",
        "while it looks for replicas",
        "told",
        strikes=(Strike(r"TASK \[Record the replicas and the gateway", beside=True, do=MODULE),),
        repair="verify",
    ),
    verify(
        "release record removed",
        "before the run",
        "told with what to do",
        before="rm /var/lib/trtllm/releases/triton-tiny-llama-0.jsonl",
    ),
    verify(
        "replica killed",
        "while it is asked",
        "named, and up again by itself",
        strikes=(Strike(ASKS, do="pkill -KILL -x tritonserver"),),
    ),
    verify(
        "clock a day behind",
        "before the run",
        "no difference",
        ends=GOES_ON,
        before=CLOCK.format("-1d"),
        mend=CLOCK_RIGHT,
        repair="verify",
    ),
    verify(
        "model repository altered under it",
        "before the run",
        "what it has loaded serves on",
        ends=GOES_ON,
        loses=True,
        before=(
            "cd $(ls -d /var/lib/trtllm/repositories/tiny-llama/*/ | head -n 1) && echo '# mine' >> "
            "tensorrt_llm/config.pbtxt"
        ),
        repair="rollout",
    ),
)
ROWS: tuple[Row, ...] = (*GATEWAY, *VERIFY)
