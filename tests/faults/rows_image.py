# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of the image."""

from __future__ import annotations

from typing import Any

from .blows import CLOCK, CLOCK_RIGHT, until
from .lab import SMALL, WAY
from .rows import GOES_ON, Row, Strike

OF_IT = f"podman images --quiet {WAY}/faults/small"
NONE = f"podman rmi --force $({OF_IT}) > /dev/null 2>&1; echo pass > /run/faults-way; "
HAS_IT = f"{OF_IT} | grep -q ."
HAS_NONE = f"! {OF_IT} | grep ."


WAY_IS = "echo {} > /run/faults-way"
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
)
ROWS: tuple[Row, ...] = IMAGE
