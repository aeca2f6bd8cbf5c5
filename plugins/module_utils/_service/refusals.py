# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is refused before anything of a host is touched: a service that somebody has masked, a device or a port in use,
an image or a directory that it does not have.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, Optional

from .._base import ports
from .._base.errors import FleetError
from .host import ServiceHost
from .quadlet import listens
from .record import ReleaseRecord
from .types import REMOVE, RESTART, START, Listen, Planned, Settings
from .units import devices, own_sockets, unit_files, unit_text

# What listens and is no process's is looked for again so often, after so many seconds.
LOOKS, PAUSE = 4, 0.25


class Held(NamedTuple):
    """A port that *service* shall listen on and that somebody listens on already."""

    service: str
    listen: Listen
    owner: Optional[ports.Owner]

    @property
    def by(self) -> str:
        """The service that holds it, empty where it is none."""
        return ((self.owner.unit if self.owner else None) or "").removesuffix(".service")


def check(host: ServiceHost, settings: Settings, planned: Sequence[Planned], stale: Collection[str]) -> None:
    """Refuse what cannot start. *stale*: services that stay although they are not described, and run."""
    starting = [item for item in planned if item.action in (START, RESTART)]
    if not starting:
        return
    _check_masks(starting)
    _check_devices(host, starting, stale)
    _check_ports(host, settings, planned, starting, stale)
    if not settings.check:
        check_parts(host, starting)


def _check_masks(starting: Sequence[Planned]) -> None:
    """Whoever masked a service wants it to stay away; its file would only be one more to replace."""
    for item in starting:
        if item.state.enabled.startswith("masked"):
            raise FleetError(
                f"{item.name}: somebody has masked {item.name}.service on this host so that nothing starts it; run "
                f"'systemctl unmask {item.name}.service' there, or describe it no more. Nothing was changed."
            )


def _check_devices(host: ServiceHost, starting: Sequence[Planned], stale: Collection[str]) -> None:
    for name in stale:
        text = "".join(unit_files(host, name).values())
        for item in starting:
            shared = sorted(devices(text) & devices(item.new_text))
            if shared:
                raise FleetError(
                    f"{item.name}: {', '.join(shared)} is in use by {name}, which is not described any more; set "
                    "triton_remove_stale: true to have it removed, or give it other devices. Nothing was changed."
                )


def _check_ports(
    host: ServiceHost,
    settings: Settings,
    planned: Sequence[Planned],
    starting: Sequence[Planned],
    stale: Collection[str],
) -> None:
    removed = {item.name for item in planned if item.action == REMOVE}
    by_name = {item.name: item for item in starting}
    for held in held_ports(host, [(item.name, listen) for item in starting for listen in item.listen]):
        if held.by == held.service or held.by in removed:
            continue
        other = by_name.get(held.by)
        if other is not None and not _wants(other, held.listen):
            by_name[held.service].stop_first.add(other.name)  # ports change hands between services of this call
            continue
        raise FleetError(f"{held_sentence(host, held, stale, settings.releases_dir)} Nothing was changed.")


def held_ports(host: ServiceHost, wanted: Iterable[tuple[str, Listen]]) -> list[Held]:
    """The ports among *wanted* (a service and where it shall listen) that somebody holds, be it the service itself."""
    asked = list(wanted)
    for look in range(LOOKS):
        sockets = host.listeners()
        found = [
            (service, listen, socket)
            for service, listen in asked
            for socket in ports.conflicts(listen.address, listen.port, sockets)
        ]
        held = {socket.inode for _service, _listen, socket in found}
        owners = host.owners(held) if held else {}
        # A process that ends meanwhile has been seen to listen, and is not found: so ranks do whose others have ended.
        if held <= owners.keys() or look == LOOKS - 1:
            break
        time.sleep(PAUSE)
    return [Held(service, listen, _owner(host, socket, owners.get(socket.inode))) for service, listen, socket in found]


def _owner(host: ServiceHost, socket: ports.Listener, owner: Optional[ports.Owner]) -> Optional[ports.Owner]:
    """Who holds *socket*; where systemd does so for a service of ours, that service."""
    if owner is None or owner.pid != 1:
        return owner
    where = socket.address, socket.port
    names = [name for name, text in own_sockets(host).items() if where in listens(text)]
    return owner._replace(unit=f"{names[0]}.service") if names else owner


def held_sentence(host: ServiceHost, held: Held, stale: Collection[str], releases_dir: str) -> str:
    """Who holds a port, and what to do. *stale*: services of ours that are not described any more."""
    where = f"{held.service}: port {held.listen.port} of {held.listen.address} ({held.listen.what}) is held by"
    if held.by not in stale:
        holder = held.owner or "a process that cannot be seen"
        return f"{where} {holder}; stop that, or give {held.service} another port."
    known = ReleaseRecord(host.path(releases_dir), held.by).known(unit_text(unit_files(host, held.by)))
    model = f" of the model {known['model']}" if known.get("model") else ""
    return (
        f"{where} {held.by}, a replica of ours{model} that is not described any more; set triton_remove_stale: true to "
        f"have it removed, or give {held.service} another port."
    )


def check_parts(host: ServiceHost, starting: Sequence[Planned]) -> None:
    """Refuse an image or a directory that the host does not have."""
    images = {str(item.record["image"]): item.name for item in starting}
    for image, name in images.items():
        if host.image_id(image) is None:
            raise FleetError(
                f"{name}: the image {image} is not on this host, and units never pull; bring it there first."
            )
    for item in starting:
        for path in item.record["mounts"]:
            to_come = any(f == path or f.startswith(f"{path}/") for f in [*item.files, *item.live_files])
            if not to_come and not host.path(path).exists():
                raise FleetError(f"{item.name}: {path} does not exist on this host; make it first.")


def _wants(item: Planned, listen: Listen) -> bool:
    """Whether the new unit of *item* listens where *listen* does."""
    return any(own.port == listen.port and ports.overlap(own.address, listen.address) for own in item.listen)
