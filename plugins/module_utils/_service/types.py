# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the management of services deals in: a service as described, and what is to be done with it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from .._base.errors import FleetError
from .._base.names import DEFAULT_RELEASES
from . import quadlet
from . import record as service_record
from .host import UnitState
from .running import Difference
from .units import socket_text, unit_text

START, RESTART, NONE, REMOVE = "start", "restart", "none", "remove"
DONE = {START: "started", RESTART: "restarted", NONE: "none", REMOVE: "removed"}


@dataclass(frozen=True)
class Listen:
    """An address that a service listens on; *what* is for messages."""

    address: str
    port: int
    what: str = "its port"

    def __post_init__(self) -> None:
        try:
            ipaddress.ip_address(self.address)
        except ValueError as error:
            raise FleetError(f"{self.address!r} is no IP address to listen on; give one, e.g. 127.0.0.1.") from error


@dataclass(frozen=True)
class Service:
    """One service as described. *load_paths*: what it reads at start, which sets its time limit.

    *record*: what the release record says of it beside the unit. *files*: path and text of what its unit refers to,
    *live_files*: of what the service reads again itself when it changes.
    """

    name: str
    unit: Mapping[str, Mapping[str, Any]]
    listen: tuple[Listen, ...] = ()
    load_paths: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    live_files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """How services are managed. *prune_prefix*: services so named belong to this call; others of the prefix
    are stale, and removed where *prune* is set. *podman_version*: instead of asking the host."""

    releases_dir: str = DEFAULT_RELEASES
    start_timeout: int = 120
    start_seconds_per_gib: int = 10
    podman_version: Optional[str] = None
    prune_prefix: Optional[str] = None
    prune: bool = False
    check: bool = False


@dataclass
class Planned:
    """What is to be done with one service, and the *reason*. *before* holds the unit files that are there, by path.

    *container*: that section of the new unit, *differences*: where what runs is not as it says. *record_again*:
    whether the release record does not tell of what serves. *files*, *live_files*: those that are missing or have
    another text; *live_before*: the texts of the latter, None where there is none.
    """

    name: str
    action: str
    state: UnitState
    rendered: Optional[quadlet.RenderedUnit] = None
    before: dict[str, str] = field(default_factory=dict)
    listen: tuple[Listen, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    outcome: str = service_record.SERVING
    reason: str = ""
    container: Mapping[str, Any] = field(default_factory=dict)
    differences: Sequence[Difference] = ()
    record_again: bool = False
    files: Mapping[str, str] = field(default_factory=dict)
    live_files: Mapping[str, str] = field(default_factory=dict)
    live_before: Mapping[str, Optional[str]] = field(default_factory=dict)
    stop_first: set[str] = field(default_factory=set)
    error: str = ""

    @property
    def old_text(self) -> str:
        """The unit that there was, empty for none."""
        return unit_text(self.before)

    @property
    def new_text(self) -> str:
        """The unit that there shall be, empty for none."""
        return self.rendered.text if self.rendered else ""

    @property
    def new_path(self) -> str:
        """Where the unit shall be, empty for none."""
        return self.rendered.path if self.rendered else ""

    @property
    def file_changes(self) -> bool:
        """Whether unit files are written or removed."""
        return self.before != (self.rendered.files if self.rendered else {})

    @property
    def has_socket(self) -> bool:
        """Whether systemd listens for it, before or afterwards."""
        return bool(socket_text(self.before) or (self.rendered and self.rendered.socket))

    @property
    def socket_changes(self) -> bool:
        """Whether its socket is another one, which is bound only while the service is stopped."""
        return socket_text(self.before) != (self.rendered.socket if self.rendered else "")

    @property
    def changes(self) -> bool:
        """Whether anything on the host is changed."""
        return self.action != NONE or self.file_changes or self.record_again or bool(self.files or self.live_files)


class ServiceFailed(FleetError):
    """At least one service did not come up. *outcomes* say for every service what was done."""

    def __init__(self, message: str, outcomes: dict[str, dict[str, Any]]) -> None:
        super().__init__(message, {"services": outcomes})
        self.outcomes = outcomes
