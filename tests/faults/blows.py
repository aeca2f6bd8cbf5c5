# SPDX-License-Identifier: GPL-3.0-or-later
"""What several rows do to a host, as commands of its shell."""

from __future__ import annotations

import shlex


def until(condition: str, seconds: int = 45) -> str:
    """Wait for something on the host, and fail where it does not come."""
    return f"timeout {seconds} bash -c {shlex.quote(f'until {condition}; do sleep 0.05; done')}"


# As the kernel or an operator would end what runs of Ansible there.
MODULE = until("pkill -KILL -xf /usr/bin/python3")
# The one after the one that runs now, which may have said already what it found.
NEXT_MODULE = until("! pgrep -xf /usr/bin/python3 > /dev/null") + " && " + MODULE
# A moment later, when nobody is in the host any more, which would keep podman from starting it again.
REBOOT = "systemd-run --collect --quiet --on-active=1 --timer-property=AccuracySec=100ms systemctl reboot"
UP = until("systemctl is-system-running 2> /dev/null | grep -qE 'running|degraded'", 90)
# The clock of the kernel is this machine's; that of every program which begins from now on is another.
CLOCK = (
    "library=$(ls /usr/lib/*/faketime/libfaketime.so.1) && "
    "echo {} > /etc/faketimerc && echo $library > /etc/ld.so.preload"
)
CLOCK_RIGHT = "rm -f /etc/ld.so.preload /etc/faketimerc"
READ_ONLY = "cd {0} && mount --bind . . && mount -o remount,ro,bind ."
# A directory whose file system has no byte, or no inode, to give; what stood there is seen again once it is unmounted.
FULL = "mount -t tmpfs -o size=4k faults {0} && head -c 4096 /dev/zero > {0}/full"
NO_INODES = "mount -t tmpfs -o nr_inodes=1 faults {0}"
