# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts are changed together, so that enough replicas of every model stay in service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Union

from .._base.errors import FleetError
from .options import count_of, size_of

DEFAULT_SERIAL = (1, "25%")
# Without a word of the operator's: one replica stays, but a model that has only one is switched all the same.
DEFAULT_MIN_AVAILABLE = 1

Count = Union[int, str]


@dataclass(frozen=True)
class Change:
    """What a rollout does to one host: for each model the replicas that are taken out of service meanwhile."""

    host: str
    switched: Mapping[str, int] = field(default_factory=dict)
    # The hosts that are changed in the same batch, this one included, in their order; () for itself alone.
    together: tuple[str, ...] = ()


def batches(
    changes: Sequence[Change],
    in_service: Mapping[str, int],
    serial: Union[Sequence[Count], Count, None] = None,
    min_available: Optional[Count] = None,
) -> list[list[str]]:
    """The hosts of *changes* in batches, in their order as far as it can be kept.

    *in_service* is the number of replicas of each model that serve in the whole fleet; *serial* the sizes of the
    batches as Ansible has them, the last one for all that follow; *min_available* how many replicas of a model stay
    in service at any time. Raises `FleetError` where a host cannot be switched without going below that.
    """
    # One size alone need not be a list, as in a play.
    serial = [serial] if isinstance(serial, (int, str)) else serial
    sizes = [size_of(count, len(changes), "rollout_serial") for count in (serial or DEFAULT_SERIAL)]
    at_least = kept(changes, in_service, min_available)
    waiting = [(unit, _switched(unit)) for unit in _units(changes)]
    found: list[list[str]] = []
    while waiting:
        size = sizes[min(len(found), len(sizes) - 1)]
        batch: list[list[Change]] = []
        away: Counter[str] = Counter()
        hosts = 0
        for unit, switched in waiting:
            if hosts >= size:
                break
            # Hosts that are changed together may be more than a batch has otherwise.
            room = not batch or hosts + len(unit) <= size
            if room and _bearable(switched, away, in_service, at_least):
                batch.append(unit)
                away.update(switched)
                hosts += len(unit)
        chosen = {unit[0].host for unit in batch}
        waiting = [(unit, switched) for unit, switched in waiting if unit[0].host not in chosen]
        found.append([change.host for unit in batch for change in unit])
    return found


def _units(changes: Sequence[Change]) -> list[list[Change]]:
    """Changes of hosts that are changed together, in the order of the first of each."""
    by_host = {change.host: change for change in changes}
    found: dict[tuple[str, ...], list[Change]] = {}
    for change in changes:
        hosts = change.together or (change.host,)
        found.setdefault(hosts, [by_host[host] for host in hosts if host in by_host])
    return list(found.values())


def _switched(unit: Sequence[Change]) -> Counter[str]:
    return sum((Counter(change.switched) for change in unit), Counter[str]())


def too_few(
    batch: Sequence[str],
    switched: Mapping[str, Mapping[str, int]],
    serving: Mapping[str, Mapping[str, int]],
    at_least: Mapping[str, int],
) -> str:
    """Why the hosts of *batch* are not switched, as hosts were lost since the plan was made; or "".

    By host the replicas of each model: *switched* that are taken out of service, *serving* on hosts that are left.
    *at_least* is what `kept` said when all were there.
    """
    left = sum((Counter(models) for models in serving.values()), Counter[str]())
    away = sum((Counter(switched.get(host, {})) for host in batch), Counter[str]())
    for model in sorted(away):
        if left[model] - away[model] < at_least.get(model, 0):
            return (
                f"{model} would have {max(left[model] - away[model], 0)} replicas in service while {', '.join(batch)} "
                f"{'is' if len(batch) == 1 else 'are'} switched, as hosts are lost, and {at_least[model]} had to stay; "
                "mend those hosts and run the rollout again: it goes on from here."
            )
    return ""


def interrupted(
    changes: Sequence[Change], in_service: Mapping[str, int], min_available: Optional[Count] = None
) -> list[str]:
    """The models that nothing serves while their host is switched, as one host has all of their replicas."""
    at_least = kept(changes, in_service, min_available)
    switched = {model for change in changes for model in change.switched}
    return sorted(model for model in switched if at_least[model] == 0)


def slices(hosts: Sequence[str], serial: Sequence[Count], option: str) -> list[list[str]]:
    """*hosts* in batches as Ansible makes them of a play's ``serial``, the last size for all that follow."""
    sizes = [size_of(count, len(hosts), option) for count in serial]
    found: list[list[str]] = []
    left = list(hosts)
    while left:
        size = sizes[min(len(found), len(sizes) - 1)]
        found.append(left[:size])
        left = left[size:]
    return found


def members(batches: Sequence[Sequence[str]], placeholder: str = "") -> list[dict[str, Any]]:
    """The members of each batch, in the order that a play's ``serial`` follows: ``name``, ``placeholder``, ``batch``.

    Ansible ends a run, without a word, where it has lost all members of a batch. So the last of each is no host, and is
    not lost: *placeholder* with the number of the batch. Without a name for it there is none.
    """
    found: list[dict[str, Any]] = []
    for number, batch in enumerate(batches, 1):
        names = [*batch, f"{placeholder}-{number}"] if placeholder else list(batch)
        found += [{"name": name, "placeholder": name not in batch, "batch": list(batch)} for name in names]
    return found


def kept(changes: Sequence[Change], in_service: Mapping[str, int], min_available: Optional[Count]) -> dict[str, int]:
    """How many replicas of each model stay. What was asked for is refused where it cannot be kept, never lowered."""
    asked = DEFAULT_MIN_AVAILABLE if min_available is None else min_available
    wanted = count_of(asked, "rollout_min_available", "replicas")
    found: dict[str, int] = {}
    for unit in _units(changes):
        hosts = ", ".join(change.host for change in unit)
        for model, count in _switched(unit).items():
            left = in_service.get(model, 0) - count
            if min_available is not None and left < wanted:
                raise FleetError(
                    f"{model} would have {max(left, 0)} of {in_service.get(model, 0)} replicas in service while "
                    f"{hosts} {'is' if len(unit) == 1 else 'are'} switched, and rollout_min_available asks for "
                    f"{wanted}; serve it on more hosts, or allow less."
                )
            found[model] = min(found.get(model, wanted), max(left, 0))
    return found


def _bearable(
    switched: Mapping[str, int], away: Mapping[str, int], in_service: Mapping[str, int], at_least: Mapping[str, int]
) -> bool:
    return all(
        in_service.get(model, 0) - away.get(model, 0) - count >= at_least[model] for model, count in switched.items()
    )
