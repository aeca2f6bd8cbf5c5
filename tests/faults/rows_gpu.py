# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of driver and container toolkit, on a host with fabricated GPUs."""

from __future__ import annotations

from typing import Any

from .blows import FULL, READ_ONLY, until
from .rows import FAILS, GOES_ON, KILLED, Row, Strike

AWAY = (
    "apt-get purge -qqy --allow-change-held-packages $(dpkg-query -W -f '${Package} ${db:Status-Status}\\n'"
    " | awk '/ installed$/ && /nvidia|libcuda/ && !/container/ {print $1}') > /dev/null 2>&1; true; "
)
PACKAGES = r"TASK \[trtllm.fleet.gpu_driver : Install all packages of the driver in one transaction"
INSTALLING = until("pgrep -x dpkg > /dev/null") + " && "


def gpu(stage: str, fault: str, when: str, expected: str, **about: Any) -> Row:
    """A row on the host with fabricated GPUs, which has its driver."""
    ends = about.pop("ends", FAILS)
    return Row(
        stage,
        fault,
        when,
        expected,
        about.pop("play", {"gpu_driver": "driver", "container_toolkit": "toolkit"}[stage]),
        ends=ends,
        host="gpu",
        limit=about.pop("limit", 300),
        **about,
    )


DRIVER = (
    gpu(
        "gpu_driver",
        "controller killed",
        "while apt installs",
        "apt ends; the next run finds it",
        before=AWAY,
        ends=KILLED,
        strikes=(Strike(PACKAGES, kills=True, do=INSTALLING + "true"),),
    ),
    gpu(
        "gpu_driver",
        "module and dpkg killed",
        "while apt installs",
        "told; the next run ends what was begun",
        before=AWAY,
        strikes=(
            Strike(
                PACKAGES,
                beside=True,
                do=INSTALLING + "pkill -KILL -x dpkg; pkill -KILL -x apt-get; pkill -KILL -xf /usr/bin/python3",
            ),
        ),
    ),
    gpu(
        "gpu_driver",
        "host rebooted",
        "while apt installs",
        "the host is lost; the next run ends what was begun",
        before=AWAY,
        strikes=(Strike(PACKAGES, beside=True, here=f"$testbed exec $host -- {INSTALLING} $testbed cut $host"),),
        mend_here="$testbed start $host",
    ),
    gpu(
        "gpu_driver",
        "repository away",
        "before the run",
        "told with its address",
        before=AWAY
        + "ip route add blackhole 10.200.0.14/32 2> /dev/null; ip route add unreachable 10.200.0.14/32; true",
        mend="ip route del blackhole 10.200.0.14/32; ip route del unreachable 10.200.0.14/32; true",
    ),
    gpu(
        "gpu_driver",
        "disk full",
        "while apt fetches",
        "told; no package is changed",
        before=AWAY
        + "mount -t tmpfs -o size=4k faults /var/cache/apt/archives; mkdir -p /var/cache/apt/archives/partial",
        mend="umount /var/cache/apt/archives",
    ),
    gpu(
        "gpu_driver",
        "disk read-only",
        "before the run",
        "told",
        before="rm /etc/apt/sources.list.d/trtllm-nvidia-driver.list; " + READ_ONLY.format("/etc/apt"),
        mend="umount /etc/apt",
    ),
    gpu(
        "gpu_driver",
        "driver and library of two versions",
        "before the run",
        "rebooted where that is agreed to",
        ends=GOES_ON,
        before=(
            "echo 570.133.20 > /usr/lib/fabricated/loaded; sed -i 's/570[.0-9]*/570.133.20/' "
            "/usr/lib/fabricated/proc/nvidia/version"
        ),
    ),
    gpu(
        "gpu_driver",
        "driver and library of two versions",
        "before the run, without leave to reboot",
        "told what is due",
        given={"gpu_driver_reboot": "never"},
        before=(
            "echo 570.133.20 > /usr/lib/fabricated/loaded; sed -i 's/570[.0-9]*/570.133.20/' "
            "/usr/lib/fabricated/proc/nvidia/version"
        ),
    ),
    gpu(
        "gpu_driver",
        "GPU gone from the bus",
        "before the run",
        "told",
        before="sed -i 1d /usr/lib/fabricated/addresses; rm /dev/nvidia1",
        mend_here="$testbed stop $host && $testbed start $host",
    ),
    gpu(
        "gpu_driver",
        "nvidia-smi hangs",
        "before the run",
        "told within its time",
        before=(
            "mv /usr/bin/nvidia-smi /usr/bin/nvidia-smi.faults; printf '#!/bin/sh\\nexec sleep "
            "900\\n' > /usr/bin/nvidia-smi; chmod 755 /usr/bin/nvidia-smi"
        ),
        mend="mv /usr/bin/nvidia-smi.faults /usr/bin/nvidia-smi",
    ),
    gpu(
        "gpu_driver",
        "second operator uses apt",
        "before the run",
        "waited for, or told",
        ends=GOES_ON,
        before=AWAY
        + (
            'systemd-run --unit=faults-lock --collect python3 -c "import fcntl, time; f = '
            "open('/var/lib/dpkg/lock-frontend', 'w'); fcntl.lockf(f, fcntl.LOCK_EX); "
            'time.sleep(12)"; sleep 0.5'
        ),
    ),
    gpu(
        "gpu_driver",
        "repository's file removed",
        "before the run",
        "written again",
        ends=GOES_ON,
        before="rm -f /etc/apt/sources.list.d/trtllm-*",
    ),
    gpu(
        "gpu_driver",
        "hold removed by hand",
        "before the run",
        "held again",
        ends=GOES_ON,
        before="apt-mark unhold $(apt-mark showhold) > /dev/null",
    ),
    gpu(
        "gpu_driver",
        "package removed by hand",
        "before the run",
        "installed again",
        ends=GOES_ON,
        before="dpkg --purge --force-all nvidia-persistenced > /dev/null 2>&1; true",
    ),
)

CDI = "/etc/cdi/nvidia.yaml"
CDI_OF = (
    "ls /etc/cdi/nvidia.yaml && podman run --rm --network none --device nvidia.com/gpu=all --rootfs "
    "/ true; test $(grep -c 'name:' /etc/cdi/nvidia.yaml) -ge 3"
)


def toolkit(fault: str, when: str, expected: str, **about: Any) -> Row:
    return gpu(
        "container_toolkit", fault, when, expected, after="test $(grep -c 'name:' /etc/cdi/nvidia.yaml) -ge 3", **about
    )


TOOLKIT = (
    toolkit(
        "CDI stale: another number of a device",
        "before the run",
        "made anew",
        ends=GOES_ON,
        before="rm /dev/nvidia-uvm && mknod -m 666 /dev/nvidia-uvm c 499 0",
    ),
    toolkit("CDI removed", "before the run", "made anew", ends=GOES_ON, before=f"rm {CDI}"),
    toolkit("CDI cut short", "before the run", "made anew", ends=GOES_ON, before=f"truncate -s 60 {CDI}"),
    toolkit(
        "CDI of binary bytes", "before the run", "made anew", ends=GOES_ON, before=f"head -c 200 /dev/urandom > {CDI}"
    ),
    toolkit(
        "CDI with a device that is gone",
        "before the run",
        "made anew",
        ends=GOES_ON,
        before=f'sed -i \'s/name: "1"/name: "5"/; s/nvidia1/nvidia5/\' {CDI}',
    ),
    toolkit(
        "a second specification of other hand",
        "before the run",
        "told or taken away",
        before=(
            f"sed 's/gpu=/gpu=/' {CDI} > /etc/cdi/nvidia-old.yaml; sed -i 's/nvidia1/nvidia6/' /etc/cdi/nvidia-old.yaml"
        ),
        mend="rm -f /etc/cdi/nvidia-old.yaml",
    ),
    toolkit(
        "disk read-only",
        "before the run",
        "told",
        before=f"rm {CDI}; " + READ_ONLY.format("/etc/cdi"),
        mend="umount /etc/cdi",
    ),
    toolkit(
        "disk full",
        "before the run",
        "told",
        before=FULL.format("/etc/cdi"),
        mend="umount /etc/cdi",
    ),
    toolkit(
        "nvidia-ctk ends in the middle",
        "before the run",
        "told",
        before=(
            f"rm {CDI}; mv /usr/bin/nvidia-ctk /usr/bin/nvidia-ctk.faults; printf '#!/bin/sh\\necho "
            "half > /etc/cdi/nvidia.yaml; kill -9 $$\\n' > /usr/bin/nvidia-ctk; chmod 755 "
            "/usr/bin/nvidia-ctk"
        ),
        mend="mv /usr/bin/nvidia-ctk.faults /usr/bin/nvidia-ctk",
    ),
    toolkit(
        "unit of ours removed",
        "before the run",
        "written again",
        ends=GOES_ON,
        before="rm -f /etc/systemd/system/trtllm-*cdi*; systemctl daemon-reload",
    ),
    toolkit(
        "controller killed",
        "while CDI is made",
        "the next run makes it",
        before=f"rm {CDI}",
        ends=KILLED,
        strikes=(
            Strike(
                r"TASK \[trtllm.fleet.container_toolkit : Ensure that the specification is fresh",
                kills=True,
                do="sleep 0.2",
            ),
        ),
    ),
    toolkit(
        "host lost",
        "while CDI is made",
        "named; the next run makes it",
        before=f"rm {CDI}",
        mend_here="$testbed start $host",
        strikes=(
            Strike(
                r"TASK \[trtllm.fleet.container_toolkit : Ensure that the specification is fresh",
                here="$testbed cut $host",
            ),
        ),
    ),
)
ROWS: tuple[Row, ...] = (*DRIVER, *TOOLKIT)
