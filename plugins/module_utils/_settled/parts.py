# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything of a host that a whole run looks at, part by part, read in one look and without reading what is large.

``docs/settled.md`` says for each file of a role's tasks which parts stand for it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional

from .._base.names import DEFAULT_RELEASES
from .._host import facts
from .._host.system import System
from .._host.verdict import verdict
from .._podman import stock
from .._service.host import ServiceHost
from .._service.quadlet import QUADLET_DIR, SERVICE_DIR
from .._service.units import container_name, own_sockets, own_units
from .._triton.firewall import RULES_FILE, SERVICE, TABLE
from .signature import signature, tree

# Beside what the release record and the journal of rollouts tell, nothing here says what the host is to be.
RECORD = "settled.json"
WORKING = ("jobs", "transfers")
# How much is free differs with every look; whether it is enough is judged each time.
VOLATILE = ("available_bytes", "free_bytes", "memory_free_mib")
CONTAINER = re.compile(r"^ContainerName=(\S+)|--name[= ](\S+)", re.M)
GATEWAY_SOURCES = "/usr/local/src/trtllm"  # openai_gateway_source_dir
GRAPH_ROOT = "/var/lib/containers/storage"
# Of each unit, what differs where it was changed, started again or has failed since.
PROPERTIES = (
    "Id", "LoadState", "ActiveState", "SubState", "Result", "NRestarts", "InvocationID", "MainPID", "UnitFileState",
    "NeedDaemonReload", "FragmentPath", "DropInPaths",
)  # fmt: skip


class Ground:
    """A host, the directory of the fleet on it, and what else of it the description names."""

    def __init__(
        self,
        root: str,
        paths: Sequence[str] = (),
        system: Optional[System] = None,
        host: Optional[ServiceHost] = None,
    ) -> None:
        self.root, self.paths = root, paths
        self.system, self.host = system or System(), host or ServiceHost()

    @functools.cached_property
    def facts(self) -> Mapping[str, Any]:
        """What decides whether the host can serve."""
        return facts.gather(self.system)

    def cannot_serve(self, name: str, options: Mapping[str, Any]) -> list[str]:
        """Why preflight refuses the host, with what it is asked for (see `verdict`)."""
        return [str(reason) for reason in verdict(self.facts, name, options)["reasons"]]

    def at(self, absolute: str) -> Path:
        """A path of the host."""
        return self.host.path(absolute)


# An entry of a part: what it is, and a function that tells how it is, from the time of the first look.
Entries = Iterator[tuple[str, Callable[[int], str]]]


def _files(ground: Ground, tops: Iterable[str], left_out: Callable[[str], bool] = lambda name: False) -> Entries:
    for top in tops:
        start = ground.at(top)
        for path in tree(start, left_out):
            shown = top if path == start else f"{top.rstrip('/')}/{path.relative_to(start)}"
            yield shown, lambda noted, path=path: signature(path, noted)  # type: ignore[misc]


def _trees(*tops: str) -> Callable[[Ground], Entries]:
    return lambda ground: _files(ground, tops)


def _told(values: Mapping[str, str]) -> Entries:
    for name, value in values.items():
        yield name, lambda noted, value=value: value  # type: ignore[misc]


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Each single value in *value*, with the way to it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in VOLATILE:
                yield from leaves(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{name}[{number}]")
    else:
        yield name, str(value)


def _host(ground: Ground) -> Entries:
    return _told(dict(leaves(ground.facts)))


def _artefacts(ground: Ground) -> Entries:
    def left_out(name: str) -> bool:
        return name in WORKING or name == RECORD or name.startswith(f".{RECORD}.")

    yield from _files(ground, [ground.root], left_out)
    # A gateway keeps its releases below the default root, whatever that of the fleet is.
    elsewhere = [] if DEFAULT_RELEASES.startswith(f"{ground.root.rstrip('/')}/") else [DEFAULT_RELEASES]
    # What git keeps for itself differs with every look at the server.
    yield from _files(ground, [GATEWAY_SOURCES, *elsewhere, *ground.paths], lambda name: ".git" in name)


def _images(ground: Ground) -> Entries:
    return _told({one.id: " ".join(sorted([*one.names, *one.digests])) for one in stock.images()})


def _units(ground: Ground) -> list[str]:
    services = [f"{name}.service" for name in own_units(ground.host, "")]
    sockets = [f"{name}.socket" for name in own_sockets(ground.host)]
    return [*services, *sockets, *facts.UNITS, SERVICE]


def _services(ground: Ground) -> Entries:
    shown = ground.host.systemctl(["show", f"--property={','.join(PROPERTIES)}", "--", *_units(ground)])
    for block in shown.stdout.strip().split("\n\n"):
        values = dict(line.partition("=")[::2] for line in block.splitlines())
        yield from _told({f"{values.get('Id', '')} {name}": value for name, value in values.items()})


def _containers(ground: Ground) -> Entries:
    named = {name: CONTAINER.search(text) for name, text in own_units(ground.host, "").items()}
    names = [found[1] or found[2] if found else container_name(name, {}) for name, found in named.items()]
    for name, found in ground.host.containers(names).items():
        yield from _told({name: f"{found.status} {found.id} {found.image_id} {found.pid} {found.started_at}"})


def _firewall(ground: Ground) -> Entries:
    answer = ground.system.run(["nft", "list", "table", "inet", TABLE])
    loaded = answer.out if answer.rc == 0 else ""
    if loaded or ground.at(RULES_FILE).exists():
        yield from _told({"the loaded rules": loaded or "none"})


# By the name that a run shows, what is looked at.
PARTS: Mapping[str, Callable[[Ground], Entries]] = {
    "host": _host,
    "units": _trees(
        QUADLET_DIR, SERVICE_DIR, "/etc/systemd/system.control", "/run/systemd/system", "/run/systemd/system.control"
    ),
    "settings": _trees(
        "/etc/trtllm", "/etc/containers", "/etc/modprobe.d", "/etc/modules-load.d", "/etc/ansible/facts.d",
        "/etc/nvidia-container-runtime", "/etc/nvidia-container-toolkit",
    ),
    "CDI specifications": _trees("/etc/cdi", "/run/cdi"),
    "package sources": _trees(
        "/etc/apt", "/usr/share/keyrings", "/etc/yum.repos.d", "/etc/dnf", "/etc/yum", "/etc/pki/rpm-gpg"
    ),
    "packages": _trees(
        "/var/lib/dpkg/status", "/var/lib/apt/extended_states", "/var/lib/rpm/rpmdb.sqlite", "/var/lib/rpm/Packages",
        "/usr/lib/sysimage/rpm/rpmdb.sqlite",
    ),
    "artefacts": _artefacts,
    "images": _images,
    "podman's secrets": _trees(f"{GRAPH_ROOT}/secrets"),
    "services": _services,
    "containers": _containers,
    "firewall": _firewall,
}  # fmt: skip

Look = Mapping[str, Mapping[str, Callable[[int], str]]]


def look(ground: Ground) -> Look:
    """All parts of the host as they are now, at the same time, as podman and others that are asked take their time."""
    with ThreadPoolExecutor(len(PARTS)) as pool:
        found = pool.map(lambda find: dict(find(ground)), PARTS.values())
        return dict(zip(PARTS, found))


def signed(found: Look, noted_ns: int) -> dict[str, dict[str, str]]:
    """The signatures of what was looked at, as of one whose first look was at *noted_ns*."""
    return {part: {name: sign(noted_ns) for name, sign in entries.items()} for part, entries in found.items()}
