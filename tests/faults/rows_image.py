# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of the image."""

from __future__ import annotations

import shlex
from typing import Any

from .blows import CLOCK, CLOCK_RIGHT, REBOOT, UP, until
from .lab import SMALL, WAY
from .rows import GOES_ON, KILLED, Row, Strike

OF_IT = f"podman images --quiet {WAY}/faults/small"
NONE = f"podman rmi --force $({OF_IT}) > /dev/null 2>&1; echo pass > /run/faults-way; "
PULLING = r"TASK \[trtllm.fleet.triton_image : Install the image"
HAS_IT = f"{OF_IT} | grep -q ."
HAS_NONE = f"! {OF_IT} | grep ."


WAY_IS = "echo {} > /run/faults-way"
# The images of these rows on a file system of their own, so that no other row's are touched.
OWN_STORAGE = "mount -t tmpfs -o {},mode=0700 faults /var/lib/containers/storage; "
NO_STORAGE = "umount -R /var/lib/containers/storage; "
PULLED = until("pgrep -f 'podman.* [p]ull .*small' > /dev/null") + " && sleep 1; "
TAKES = r"TASK \[trtllm.fleet.triton_image : .nstall the image|TASK \[trtllm.fleet.triton_image : Ensure that the image"


def image(fault: str, when: str, expected: str, **about: Any) -> Row:
    """A row of the image, which is not there before."""
    about["before"] = NONE + about.get("before", "")
    about["mend"] = (
        about.get("mend", "") + "; echo pass > /run/faults-way" if about.get("mend") else "echo pass > /run/faults-way"
    )
    return Row("image", fault, when, expected, "image", after=about.pop("after", HAS_IT), **about)


IMAGE = (
    image(
        "registry cuts each connection after 5 MB",
        "in the pull",
        "podman goes on where it stopped",
        before=WAY_IS.format("cut 5000000"),
        ends=GOES_ON,
    ),
    image(
        "registry cuts each connection at its begin",
        "in the pull",
        "tried again, told, nothing kept",
        before=WAY_IS.format("cut 1"),
        keeps=HAS_NONE,
    ),
    image("registry slow", "all the time", "waited for", before=WAY_IS.format("slow 6000000"), ends=GOES_ON),
    image(
        "registry lies about bytes",
        "in each pull",
        "found by the digest, told, nothing kept",
        before=WAY_IS.format("lie 3000000"),
        keeps=HAS_NONE,
    ),
    image(
        "registry refuses connections",
        "before the run",
        "told",
        before=WAY_IS.format("refuse"),
        keeps=HAS_NONE,
    ),
    image(
        "registry away",
        "before the run",
        "told",
        before="systemctl stop faults-way",
        mend="systemctl start faults-way; sleep 1",
        keeps=HAS_NONE,
    ),
    image(
        "DNS gone",
        "before the run",
        "told by name",
        before="cp /etc/resolv.conf /etc/faults-resolv; echo nameserver 192.0.2.53 > /etc/resolv.conf; "
        "grep -v registry.invalid /etc/hosts > /etc/faults-hosts; true",
        given={"triton_image_name": f"registry.invalid:5000/{SMALL}"},
        mend="cat /etc/faults-resolv > /etc/resolv.conf",
    ),
    image(
        "disk full",
        "in the pull",
        "told; nothing kept",
        before=OWN_STORAGE.format("size=20m"),
        mend="mount -o remount,size=200m /var/lib/containers/storage",
        after=HAS_IT + " && " + NO_STORAGE,
    ),
    image(
        "inodes gone",
        "in the pull",
        "told; nothing kept",
        before=OWN_STORAGE.format("size=200m,nr_inodes=25"),
        mend="mount -o remount,nr_inodes=0 /var/lib/containers/storage",
        after=HAS_IT + " && " + NO_STORAGE,
    ),
    image(
        "disk read-only",
        "before the run",
        "told",
        before="mount -t tmpfs -o size=200m,mode=0700 faults /var/lib/containers/storage; podman images -q; "
        "mount -o remount,ro /var/lib/containers/storage",
        mend="mount -o remount,rw /var/lib/containers/storage",
        after=HAS_IT + " && " + NO_STORAGE,
    ),
    image(
        "controller killed",
        "in the middle of the pull",
        "the pull goes on; the next run takes it",
        before=WAY_IS.format("slow 3000000"),
        ends=KILLED,
        strikes=(Strike(TAKES, kills=True, do=PULLED),),
    ),
    image(
        "module killed",
        "in the middle of the pull",
        "told; the pull goes on, the next run takes it",
        before=WAY_IS.format("slow 3000000"),
        strikes=(Strike(TAKES, beside=True, do=PULLED + "pkill -KILL -xf /usr/bin/python3"),),
    ),
    image(
        "podman killed",
        "in the middle of the pull",
        "told or tried again",
        before=WAY_IS.format("slow 3000000"),
        ends=GOES_ON,
        strikes=(Strike(TAKES, beside=True, do=PULLED + "pkill -KILL -f 'podman.* [p]ull .*small'"),),
    ),
    image(
        "host rebooted",
        "in the middle of the pull",
        "the run waits for the host, and pulls",
        before=WAY_IS.format("slow 3000000"),
        ends=GOES_ON,
        strikes=(Strike(TAKES, beside=True, do=PULLED + REBOOT),),
        keeps=UP,
    ),
    image(
        "host lost",
        "in the middle of the pull",
        "named as lost; the next run pulls",
        before=WAY_IS.format("slow 3000000"),
        mend_here="$testbed start $host",
        # So long a lost connection is tried again.
        limit=560,
        strikes=(
            Strike(
                TAKES, beside=True, here=f"$testbed exec $host -- bash -c {shlex.quote(PULLED)} && $testbed cut $host"
            ),
        ),
    ),
    image(
        "second operator pulls the same",
        "in the middle of the pull",
        "one pull; both have it",
        before=WAY_IS.format("slow 3000000"),
        ends=GOES_ON,
        strikes=(
            Strike(TAKES, beside=True, do=PULLED + f"timeout 60 podman pull -q --tls-verify=false {WAY}/{SMALL}"),
        ),
    ),
    image(
        "clock a day ahead",
        "before the run",
        "no difference",
        before=CLOCK.format("+1d"),
        mend=CLOCK_RIGHT,
        ends=GOES_ON,
    ),
    image(
        "clock a day behind",
        "before the run",
        "no difference",
        before=CLOCK.format("-1d"),
        mend=CLOCK_RIGHT,
        ends=GOES_ON,
    ),
    image(
        "what is known of images damaged",
        "before the run",
        "asked for again",
        before="echo '{\"im' > /var/lib/trtllm/engines/.images.json",
        ends=GOES_ON,
    ),
    image(
        "what is known of images is a directory",
        "before the run",
        "told",
        before="cd /var/lib/trtllm/engines && mv .images.json /srv/faults-images && mkdir .images.json",
        mend="cd /var/lib/trtllm/engines && rmdir .images.json && mv /srv/faults-images .images.json",
    ),
)
ROWS: tuple[Row, ...] = IMAGE
