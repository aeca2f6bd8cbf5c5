# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is refused before anything of a host is touched: a device or a port in use, an image or a directory that it
does not have.
"""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.trtllm.fleet.plugins.module_utils import _ports
from ansible_collections.trtllm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._service_host import ServiceHost
from ansible_collections.trtllm.fleet.plugins.module_utils._service_types import REMOVE, RESTART, START, Listen, Planned
from ansible_collections.trtllm.fleet.plugins.module_utils._service_units import devices, unit_files


def check(host: ServiceHost, planned: Sequence[Planned], stale: Sequence[str], *, parts: bool) -> None:
    """Refuse what cannot start. *stale*: services that stay although they are not described, and run.

    *parts*: whether images and directories must be there already.
    """
    starting = [item for item in planned if item.action in (START, RESTART)]
    if not starting:
        return
    _check_devices(host, starting, stale)
    _check_ports(host, starting, {item.name for item in planned if item.action == REMOVE})
    if parts:
        check_parts(host, starting)


def _check_devices(host: ServiceHost, starting: Sequence[Planned], stale: Sequence[str]) -> None:
    for name in stale:
        text = "".join(unit_files(host, name).values())
        for item in starting:
            shared = sorted(devices(text) & devices(item.new_text))
            if shared:
                raise FleetError(
                    f"{item.name}: {', '.join(shared)} is in use by {name}, which is not described any more; "
                    "have stale services removed, or give it other devices. Nothing was changed."
                )


def _check_ports(host: ServiceHost, starting: Sequence[Planned], removed: set[str]) -> None:
    sockets = host.listeners()
    held = [
        (item, listen, socket)
        for item in starting
        for listen in item.listen
        for socket in _ports.conflicts(listen.address, listen.port, sockets)
    ]
    owners = host.owners({socket.inode for _item, _listen, socket in held}) if held else {}
    by_unit = {f"{item.name}.service": item for item in starting}
    for item, listen, socket in held:
        owner = owners.get(socket.inode)
        unit = owner.unit if owner else None
        if unit == f"{item.name}.service" or (unit or "").removesuffix(".service") in removed:
            continue
        other = by_unit.get(unit or "")
        if other is not None and not _wants(other, listen):
            item.stop_first.add(other.name)  # ports change hands between services of this call
            continue
        raise FleetError(
            f"{item.name}: port {listen.port} of {listen.address} ({listen.what}) is held by "
            f"{owner or 'a process that cannot be seen'}; stop that, or give {item.name} another port. "
            "Nothing was changed."
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
            to_come = any(file == path or file.startswith(f"{path}/") for file in item.files)
            if not to_come and not host.path(path).exists():
                raise FleetError(f"{item.name}: {path} does not exist on this host; make it first.")


def _wants(item: Planned, listen: Listen) -> bool:
    """Whether the new unit of *item* listens where *listen* does."""
    return any(own.port == listen.port and _ports.overlap(own.address, listen.address) for own in item.listen)
