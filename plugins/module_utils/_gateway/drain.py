# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes replicas out of a gateway's service and gives them back: lines of a file that the gateway looks at each second.

A line is ``URL UNTIL``, UNTIL a lease in seconds since the epoch, or ``URL`` alone, which somebody wrote to stay. What
a rollout drained has a comment before it, which gateways skip: ``# URL is drained by ROLLOUT``.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from .._base.errors import FleetError
from .._base.files import write_atomically
from .._base.names import check_name, show
from .status import CANNOT_DRAIN, GatewayStatus, ReplicaStatus, check_url

FILE, LOCK = "draining", ".draining.lock"
DEFAULT_DIRECTORY = "/etc/trtllm/openai_gateway"
PAUSE = 0.5  # seconds between two looks at the gateway
# A lease of which less than this part is left is renewed; so that a second run changes nothing.
RENEW_BELOW = 0.5

OWNED = "# {} is drained by {}"
OWNER = re.compile(OWNED.format(r"(\S+)", r"(\S+)"))


@dataclass(frozen=True)
class Lease:
    """Until when a replica drains, and for whom; nobody is an operator, by hand."""

    until: float
    owner: str = ""


Leases = dict[str, Lease]


@dataclass(frozen=True)
class Wanted:
    """What the file shall say. *lease*: seconds, 0 for none; *owner*: the rollout that wants it."""

    urls: Sequence[str]
    drained: bool
    lease: int = 900
    owner: str = ""

    def leaves(self, held: Lease, now: float) -> bool:
        """Whether what a replica has already stays as it is.

        One rollout at a time works on a host, so what another one has drained there is left over from a dead one. What
        an operator has drained is no rollout's to give back.
        """
        if not self.drained:
            return bool(self.owner) and not held.owner
        if self.owner and held.owner not in ("", self.owner):
            return False
        return held.until >= (now + self.lease * RENEW_BELOW if self.lease else math.inf)


@dataclass(frozen=True)
class Waited:
    """How far the replicas are: requests that each works on, as far as the gateway knows them."""

    outstanding: Mapping[str, int]
    drained: bool
    seconds: float


class DrainFile:
    """The file of one gateway."""

    def __init__(self, directory: Path, wall: Callable[[], float] = time.time) -> None:
        self.path = directory / FILE
        self._wall = wall

    def plan(self, wanted: Wanted) -> tuple[str, str]:
        """Its text and the one that it shall have. Raises `FleetError` for lines that nobody can read."""
        text = self._text()
        before, now = _parse(self.path, text), self._wall()
        after: Leases = dict(before)
        for url in wanted.urls:
            if url in before and wanted.leaves(before[url], now):
                continue
            if wanted.drained:
                after[url] = Lease(float(int(now) + wanted.lease) if wanted.lease else math.inf, wanted.owner)
            else:
                after.pop(url, None)
        if after == before:
            return text, text
        lines = [line for url, lease in after.items() if lease.until > now for line in _lines(url, lease)]
        return text, "".join(f"{line}\n" for line in lines)

    def write(self, wanted: Wanted) -> None:
        """Make it so; others that drain at the same time wait."""
        with self._lock():
            before, after = self.plan(wanted)
            if after != before:
                write_atomically(self.path, after.encode())

    def check(self) -> None:
        """Refuse a directory that is not there: no gateway would read the file."""
        if not self.path.parent.is_dir():
            raise FleetError(
                f"{self.path.parent} does not exist on this host, so no gateway reads it; run the role openai_gateway "
                "first, or correct directory.",
                CANNOT_DRAIN,
            )

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        with open(self.path.parent / LOCK, "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _text(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""


def check_wanted(urls: Sequence[str], drained: bool, lease: int, owner: str = "") -> Wanted:
    """What was asked for, where it can be done."""
    if not urls:
        raise FleetError("urls is empty; name at least one replica, such as http://10.0.0.7:8000.")
    if lease < 0:
        raise FleetError(f"lease is {lease}; it takes seconds, or 0 for one that does not end.")
    if owner:
        check_name(owner, "owner")
    return Wanted([check_url(url, "urls") for url in urls], drained, lease, owner)


def check_known(wanted: Wanted, found: Mapping[str, ReplicaStatus]) -> None:
    """Refuse an address under which the gateway sends nothing: one in another spelling would seem drained at once."""
    unknown = [url for url in wanted.urls if url not in found]
    if unknown:
        raise FleetError(
            f"The gateway has no replica {', '.join(unknown)}; it has {', '.join(sorted(found)) or 'none'}: give the "
            "address as its configuration does.",
            CANNOT_DRAIN,
        )


def look(wanted: Wanted, found: Mapping[str, ReplicaStatus], seconds: float = 0.0) -> Waited:
    """How far the replicas of *wanted* are."""
    outstanding = {url: found[url].outstanding for url in wanted.urls if url in found}
    idle = all(url in found and found[url].draining and not found[url].outstanding for url in wanted.urls)
    return Waited(outstanding, wanted.drained and idle, round(seconds, 1))


def wait(
    wanted: Wanted,
    status: GatewayStatus,
    timeout: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Waited:
    """Wait until nothing is outstanding at any of them, at most *timeout* seconds.

    A gateway that does not answer for a while, as it restarts, is asked again. Raises `FleetError` where it is silent
    at the end.
    """
    begin = clock()
    while True:
        silent: Optional[FleetError] = None
        seconds = clock() - begin
        try:
            state = look(wanted, status.replicas(), seconds)
            if state.drained:
                return state
        except FleetError as error:
            silent = error
        if seconds >= timeout:
            if silent is not None:
                raise silent
            return state
        sleep(min(PAUSE, timeout - seconds))


def _parse(path: Path, text: str) -> Leases:
    found: Leases = {}
    owners: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            owned = OWNER.fullmatch(line)
            owners.update({owned[1]: owned[2]} if owned else {})
            continue
        url, *until = line.split()
        if len(until) > 1 or not all(word.isdigit() for word in until):
            raise FleetError(
                f"{path} has the line {show(line)}, which the gateway does not read either; a line is URL or URL "
                "UNTIL, the time in whole seconds since the epoch: correct or remove it."
            )
        url = url.rstrip("/")
        found[url] = Lease(float(until[0]) if until else math.inf, owners.get(url, ""))
    return found


def _lines(url: str, lease: Lease) -> list[str]:
    owner = [OWNED.format(url, lease.owner)] if lease.owner else []
    return [*owner, url if lease.until == math.inf else f"{url} {int(lease.until)}"]
