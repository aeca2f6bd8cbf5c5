# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what each host would change to the rollout of the fleet: who is switched, when, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Union

from .._base.tables import columns
from .._service.types import DONE, NONE, REMOVE, RESTART
from .._triton.replica import service_name
from .batches import Change, Count, batches, interrupted, kept
from .options import size_of

# What happens to a host: nothing, a start of what does not serve yet or a build for others, or a change of what serves.
UNCHANGED, STARTED, SWITCHED = "unchanged", "started", "switched"
ACTIVE = ("active", "activating", "reloading")
TAKEN_OUT = (DONE[RESTART], DONE[REMOVE])
# What is about to be done, by what the module says was done.
WORDS = {done: action for action, done in DONE.items()}

Found = Mapping[str, Any]


@dataclass(frozen=True)
class Replica:
    """One replica of a host and what would be done with its service."""

    name: str
    service: str
    model: str
    url: str
    serves: bool
    action: str = ""
    reason: str = ""
    # The hosts that its ranks are on, where they are several; only the first of them has a url.
    nodes: Sequence[str] = ()


@dataclass(frozen=True)
class Host:
    """One host of the fleet before the rollout."""

    name: str
    replicas: Sequence[Replica] = ()
    # Services that an earlier rollout switched, and whose gate nobody has seen pass.
    unsettled: Sequence[str] = ()
    reasons: Sequence[str] = ()
    # Whether engines are built here, as far as no other host has them.
    builds: bool = False
    # Services of replicas that are not described any more, which are removed.
    stale: Sequence[str] = ()

    def taken_out(self) -> list[Replica]:
        """The replicas that get no requests for a while: those that serve and are changed, or whose gate is due."""
        return [r for r in self.replicas if (r.serves and r.action in TAKEN_OUT) or r.service in self.unsettled]

    def kind(self) -> str:
        """See UNCHANGED, STARTED and SWITCHED."""
        if self.taken_out():
            return SWITCHED
        starts = any(replica.action for replica in self.replicas) or (self.builds and not self.replicas)
        return STARTED if starts else UNCHANGED


@dataclass(frozen=True)
class Rollout:
    """*kinds*: by host; *batches*: the hosts that are switched; *interrupted*: models that meanwhile nothing serves."""

    kinds: Mapping[str, str]
    batches: Sequence[Sequence[str]]
    interrupted: Sequence[str]
    table: Sequence[str] = field(default_factory=list)
    # By host the replicas of each model that are taken out of service, and that serve; by model those that stay.
    switched: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    serving: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    at_least: Mapping[str, int] = field(default_factory=dict)
    # Hosts with services that are not described any more, and removed.
    removing: Sequence[str] = ()

    def sizes(self) -> list[int]:
        """The sizes of the batches, as a play's ``serial`` takes them."""
        return [len(batch) for batch in self.batches] or [1]

    def stale(self) -> list[str]:
        """The hosts on which nothing changes but that services are removed."""
        return [host for host in self.removing if self.kinds[host] == UNCHANGED]

    def of_kind(self, kind: str) -> list[str]:
        """The hosts of a kind; those to be switched in the order of their batches."""
        if kind == SWITCHED:
            return [host for batch in self.batches for host in batch]
        return [host for host, found in self.kinds.items() if found == kind]


def host_from(
    name: str,
    results: Mapping[str, Found],
    unsettled: Sequence[str],
    reasons: Sequence[str],
    builds: bool = False,
    services: Optional[Mapping[str, Found]] = None,
) -> Host:
    """A host from what its role ``triton`` returned in check mode: by replica the service, model, url and action.

    *services*: by name what would be done with all services of the host.
    """
    replicas = [
        Replica(
            name=replica,
            service=str(found["service"]),
            model=str(found["model"]),
            url=str(found["http_url"]),
            serves=found.get("active") in ACTIVE,
            action=str(found.get("action") or "").replace(DONE[NONE], ""),
            reason=str(found.get("reason") or ""),
            nodes=list(found.get("nodes") or []),
        )
        for replica, found in results.items()
    ]
    gone = [service for service, found in (services or {}).items() if found.get("action") == DONE[REMOVE]]
    return Host(name, replicas, list(unsettled), list(reasons), builds, gone)


def plan(hosts: Sequence[Host], serial: Union[Sequence[Count], Count, None], min_available: Optional[Count]) -> Rollout:
    """The rollout. Raises `FleetError` for options that cannot be kept."""
    in_service = Counter(r.model for host in hosts for r in host.replicas if r.serves and r.url)
    groups = together(hosts)
    kinds = _kinds(hosts, groups)
    changes = [
        Change(host.name, Counter(r.model for r in host.taken_out() if r.serves and r.url), groups[host.name])
        # Replicas whose gate is due may still be drained, so that their hosts come first: they bear what follows.
        for host in sorted(hosts, key=lambda host: not host.unsettled)
        if kinds[host.name] == SWITCHED
    ]
    found = batches(changes, in_service, serial, min_available)
    without = interrupted(changes, in_service, min_available)
    return Rollout(
        kinds,
        found,
        without,
        _table(hosts, kinds, found, without),
        {change.host: change.switched for change in changes},
        {host.name: Counter(r.model for r in host.replicas if r.serves and r.url) for host in hosts},
        kept(changes, in_service, min_available),
        [host.name for host in hosts if host.stale],
    )


def together(hosts: Sequence[Host]) -> dict[str, tuple[str, ...]]:
    """By host those that are changed with it, itself included: nodes of one replica, and what is linked through them.

    The workers of a replica stand before its leader, which waits for them.
    """
    groups = {host.name: [host.name] for host in hosts}
    for host in hosts:
        for replica in host.replicas:
            for node in replica.nodes:
                one, other = groups[host.name], groups.get(node)
                if other is not None and other is not one:
                    one += other
                    groups.update(dict.fromkeys(other, one))
    leaders = {replica.nodes[0] for host in hosts for replica in host.replicas if replica.nodes}
    return {host: tuple(sorted(found, key=lambda name: (name in leaders, name))) for host, found in groups.items()}


def rolled_back(found: Mapping[str, Found], serial: Count) -> dict[str, Any]:
    """The hosts of a rollback: ``hosts`` in the order in which they go back, ``sizes`` of the batches, ``together``.

    *found*: by host what it has, with ``replicas`` and ``workers``; nodes of one replica are in one batch.
    """
    hosts = [
        Host(name, [Replica(one["replica"], one["service"], "", "", True, nodes=one.get("nodes") or []) for one in has])
        for name, told in found.items()
        for has in [[*told["replicas"], *(told.get("workers") or [])]]
    ]
    groups = together(hosts)
    size = size_of(serial, len(hosts), "rollback_serial")
    found_batches = batches([Change(host.name, {}, groups[host.name]) for host in hosts], {}, [size])
    return {
        "hosts": [host for batch in found_batches for host in batch],
        "sizes": [len(batch) for batch in found_batches] or [1],
        "together": {host: list(others) for host, others in groups.items()},
    }


def _kinds(hosts: Sequence[Host], groups: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The kind of each host: that of the one among those changed with it to which most happens."""
    order = [UNCHANGED, STARTED, SWITCHED]
    own = {host.name: host.kind() for host in hosts}
    return {name: max((own[other] for other in groups[name]), key=order.index) for name in own}


def _table(
    hosts: Sequence[Host], kinds: Mapping[str, str], found: Sequence[Sequence[str]], without: Sequence[str]
) -> list[str]:
    number = {host: str(index) for index, batch in enumerate(found, 1) for host in batch}
    changed = [host for host in hosts if kinds[host.name] != UNCHANGED or host.stale]
    same = len(hosts) - len(changed)
    rows = [("batch", "host", "replica", "what", "why")]
    for host in sorted(changed, key=lambda host: int(number.get(host.name, 0))):
        for replica in host.replicas:
            again = replica.service in host.unsettled and not replica.action
            if replica.action or again:
                why = replica.reason or ("an earlier rollout ended before its gate" if again else "")
                what = "gate" if again else WORDS.get(replica.action, replica.action)
                rows.append((number.get(host.name, "-"), host.name, replica.name, what, why))
        if not host.replicas and kinds[host.name] != UNCHANGED:
            rows.append(("-", host.name, "", "build", "for other hosts"))
        rows += [
            (number.get(host.name, "-"), host.name, name, REMOVE, "it is not described") for name in _names(host.stale)
        ]
        rows += [("", "", "", "", reason) for reason in host.reasons]
    lines = columns(rows) if changed else []
    lines += [f"{same} of {len(hosts)} hosts do not change."] if same else []
    lines += [f"{model}: nothing serves it while its host is switched." for model in without]
    return lines


def _names(services: Sequence[str]) -> list[str]:
    """The replicas of services."""
    return [service[len(service_name("")) :] for service in services]


def drains_left(hosts: Mapping[str, Found], unsettled: Mapping[str, Sequence[str]], gateway: str) -> list[str]:
    """The replicas of *gateway* that no rollout but this one may hold back, and that there is no reason to hold back.

    *hosts*: as `fleet_map` has them. *unsettled*: by each host whose lock this rollout has the services whose gate
    nobody has seen pass; these wait for it.
    """
    return [
        str(replica["url"])
        for host, services in unsettled.items()
        if gateway in hosts.get(host, {}).get("gateways", ())
        for replica in hosts[host]["replicas"]
        if service_name(replica["name"]) not in services
    ]
