# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who makes what several hosts need, and who hands it to whom: from what they need and have, on the controller.

Hosts whose engine of a name has the same fingerprint are of one class and share one build; hosts that ask for the same
checkpoint share one download. The others of the class receive it in a chain: each from the one before it, which hands
on what it has so far, or from the builder. Hosts that need the files of some ranks alone form chains with those that
need the same, and hand on to nobody else; only who has all of it can be the builder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .serve import url_of

SHORT = 12
NAMED = 3  # hosts in a line for the terminal


@dataclass(frozen=True)
class Goods:
    """What is elected for: its key in an offer, and its words in a line for the terminal."""

    key: str
    what: str
    makes: str


ENGINES = Goods("engines", "engine", "builds")
CHECKPOINTS = Goods("checkpoints", "checkpoint", "brings")


def offer(
    wanted: Sequence[Mapping[str, Any]],
    address: str,
    port: int,
    root: str,
    serves: bool = False,
    rebuild: str = "when_stale",
) -> dict[str, Any]:
    """What a host needs and has, from the results of `trtllm_engine` in check mode.

    What is not known yet, or shall be built in any case, is shared with nobody.
    """
    engines = {}
    for number, result in enumerate(wanted):
        item = result["item"]
        always = item.get("rebuild", rebuild) == "always"
        shared = bool(result.get("fingerprint")) and not result.get("provisional") and not always
        there = shared and (not result.get("reasons") or bool(result.get("stale")))
        engines[item["name"]] = {
            "fingerprint": result.get("fingerprint"),
            "there": there,
            "whole": there and bool(result.get("whole", True)),
            "ranks": list(item.get("ranks") or []),
            "shared": shared,
            "port": port + number,
        }
    return {"address": address, "root": root, "serves": serves, "engines": engines}


def checkpoint_offer(
    wanted: Sequence[Mapping[str, Any]], address: str, port: int, root: str, refresh: bool = False
) -> dict[str, Any]:
    """What a host needs and has, from what its modules said when they were only asked.

    With *refresh*, what comes from elsewhere counts as not there. A directory of the host is shared with nobody.
    """
    found = {}
    for number, result in enumerate(wanted):
        item = result["item"]
        again = refresh and item.get("source", "path") != "path"
        found[item["name"]] = {
            "fingerprint": result.get("asked", ""),
            "there": not result.get("reasons") and not again,
            "whole": not result.get("reasons") and not again,
            "ranks": [],
            "shared": bool(result.get("asked")),
            "port": port + number,
            "pieces": result.get("pieces", ""),
            "draft": bool(result.get("draft")),
        }
    return {"address": address, "root": root, "serves": False, "checkpoints": found}


def having(
    offered: Mapping[str, Any], names: Collection[str], goods: Goods = ENGINES, whole: bool = False
) -> dict[str, Any]:
    """The same host, once it has what is called *names*; *whole*, where that is more than its own ranks need."""
    found = {}
    for name, about in offered[goods.key].items():
        now = about["shared"] and name in names
        every = about["whole"] or (now and (whole or not about["ranks"]))
        found[name] = {**about, "there": about["there"] or now, "whole": every}
    return {**offered, goods.key: found}


def having_checkpoints(offered: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, Any]:
    """The same host, once it has checkpoints; *digests* is theirs, by name, which was not known of a draft."""
    now = having(offered, digests, CHECKPOINTS)
    for name, about in now[CHECKPOINTS.key].items():
        if about.get("draft") and about["shared"] and digests.get(name):
            about.update(fingerprint=digests[name], pieces="", draft=False)
    return now


def elect(
    offers: Mapping[str, Mapping[str, Any]],
    batch: Collection[str],
    builders: Collection[str] = (),
    goods: Goods = ENGINES,
    failed: Collection[str] = (),
) -> dict[str, Any]:
    """What each host of *batch* builds for others, and receives.

    *offers* are all hosts that told what they need and have, in the order of the inventory; those beyond the batch are
    asked for nothing but what they have. A builder is a host that has the engine, else one of *builders*, else one that
    does not serve, else any; among equals the one that builds least, and the first of these.
    """
    classes: dict[tuple[str, str], list[str]] = {}
    for host, offered in offers.items():
        for name, about in offered[goods.key].items():
            if about["shared"] and (about["there"] or (host in batch and host not in failed)):
                classes.setdefault((name, about["fingerprint"]), []).append(host)
    plan: dict[str, Any] = {host: {"builds": [], "receives": []} for host in batch}
    lines, load = [], Counter[str]()
    for (name, fingerprint), hosts in classes.items():
        about = {host: offers[host][goods.key][name] for host in hosts}
        missing = [host for host in hosts if not about[host]["there"]]
        able = [host for host in hosts if about[host]["whole"] or not about[host]["there"]]
        if not missing or able == missing[:1]:
            continue
        builder = min(able, key=lambda host: _rank(offers[host], goods.key, name, host in builders, load[host]))
        receivers = [host for host in missing if host != builder]
        builds = builder in missing
        if builds:
            load[builder] += 1
            plan[builder]["builds"].append(name)
        last: dict[tuple[int, ...], str] = {}
        for host in receivers:
            ranks = tuple(about[host]["ranks"])
            before, last[ranks] = last.get(ranks, builder), host
            plan[host]["receives"].append(
                {
                    "name": name,
                    "fingerprint": fingerprint,
                    "builder": builder,
                    "first": receivers[0],
                    "ranks": list(ranks),
                    "source": _place(offers[builder], goods.key, name),
                    # What is known of it before the builder has it, so that it is handed on while it arrives there.
                    "sent": _sent(about[builder]) if builds else {},
                    "sources": [_url(offers[at], goods.key, name) for at in dict.fromkeys([before, builder])],
                    **_place(offers[host], goods.key, name),
                }
            )
        known = "not read yet" if about[builder].get("draft") else fingerprint[:SHORT]
        lines.append(
            f"{goods.what} {name} ({known}): {builder} {goods.makes if builds else 'has'} it, for {_some(receivers)}"
        )
    return {"hosts": plan, "receivers": sorted(host for host in plan if plan[host]["receives"]), "table": lines}


def _rank(offered: Mapping[str, Any], key: str, name: str, is_builder: bool, load: int) -> tuple[bool, bool, bool, int]:
    """The smaller, the better a builder; `min` takes the first of equals."""
    return not offered[key][name]["whole"], not is_builder, bool(offered["serves"]), load


def _place(offered: Mapping[str, Any], key: str, name: str) -> dict[str, Any]:
    return {"address": offered["address"], "port": offered[key][name]["port"], "root": offered["root"]}


def _sent(about: Mapping[str, Any]) -> dict[str, Any]:
    """What the controller sends is known by its pieces; of what comes from elsewhere nothing is known."""
    pieces = about.get("pieces")
    return {"digest": about["fingerprint"], "origin": {}, "pieces": pieces} if pieces else {}


def _url(offered: Mapping[str, Any], key: str, name: str) -> str:
    return url_of(offered["address"], offered[key][name]["port"])


def _some(hosts: Sequence[str]) -> str:
    more = len(hosts) - NAMED
    return ", ".join(hosts[:NAMED]) + (f" and {more} more" if more > 0 else "")
