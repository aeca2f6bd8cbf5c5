# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a host differs from what is described of it, from what is cheap to ask: its units, records and manifests.

What `site.yml --check` finds is more: images that moved under their tag, checkpoints that changed, files of gateways.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._triton.replica import host_of

Host = Mapping[str, Any]
BAD, WARN, NOTE = "bad", "warn", "note"  # does not serve as it should; differs; worth knowing


def finding(severity: str, what: str, replica: str = "") -> dict[str, str]:
    """One thing that is not as it should be, as a sentence without its end."""
    return {"severity": severity, "what": what, "replica": replica}


def drift(host: Host) -> list[dict[str, str]]:
    """All differences of one host; *host* is what the modules found on it, with its ``plan`` where it is described."""
    plan, replicas = host.get("plan"), all_replicas(host)
    found: list[dict[str, str]] = []
    for replica in replicas:
        found += _unit(replica)
        found += _artefacts(replica, host.get("engines"))
    found += _unsettled(host.get("unsettled") or {})
    if plan:
        found += _described(plan, replicas, host)
    return found


def all_replicas(host: Host) -> list[Mapping[str, Any]]:
    """The replicas that a host leads, and those of which it has ranks."""
    return [*(host.get("replicas") or []), *(host.get("workers") or [])]


def _unit(replica: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """A unit that nobody recorded was changed by hand, or its record is lost."""
    if not replica.get("http_url") and not replica.get("node"):
        yield finding(WARN, "its unit is not the one that its release record tells of", replica["replica"])


def _artefacts(replica: Mapping[str, Any], engines: Sequence[Mapping[str, Any]] | None) -> Iterator[dict[str, str]]:
    """Engines that are not there any more, or not as their manifest has them. *engines*: None where nobody looked."""
    if engines is None:
        return
    there = {str(engine["engine_dir"]): engine for engine in engines}
    for path in replica.get("engines") or []:
        short = f"{str(path).rpartition('/')[2][:12]}"
        engine = there.get(str(path))
        if engine is None:
            yield finding(BAD, f"its engine {short} is not on the host any more", replica["replica"])
        elif engine.get("problems"):
            yield finding(BAD, f"its engine {short} is damaged: {'; '.join(engine['problems'])}", replica["replica"])


def _unsettled(services: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    for service in services:
        yield finding(BAD, "a rollout changed it and nobody has seen since that it is good", _name(service))


def _name(service: str) -> str:
    return str(service).removeprefix("triton-")


def _described(plan: Mapping[str, Any], replicas: Sequence[Mapping[str, Any]], host: Host) -> Iterator[dict[str, str]]:
    """What the inventory says against what the host has."""
    there = {str(replica["replica"]): replica for replica in replicas}
    wanted = {str(replica["name"]): replica for replica in plan.get("replicas") or []}
    for name in wanted.keys() - there.keys():
        yield finding(BAD, "it is described, but not on the host", name)
    for name in sorted(there.keys() - wanted.keys()):
        yield finding(WARN, "it is on the host, but not described", name)
    built = {str(engine["engine_dir"]): engine for engine in host.get("engines") or []}
    for name in sorted(there.keys() & wanted.keys()):
        for what in _differences(wanted[name], there[name], plan, host.get("image") or "", built):
            yield finding(WARN, what, name)


def _differences(
    wanted: Mapping[str, Any],
    there: Mapping[str, Any],
    plan: Mapping[str, Any],
    image: str,
    built: Mapping[str, Mapping[str, Any]],
) -> Iterator[str]:
    if not there.get("model"):
        return  # the record tells nothing of it
    release = str(wanted.get("release") or plan.get("release") or "")
    if release and str(there.get("release")) != release:
        yield f"it serves release {there.get('release')}, and {release} is described"
    gpus = [str(gpu) for gpu in wanted.get("gpus") or []]
    if [str(gpu) for gpu in there.get("gpus") or []] != gpus and not there.get("nodes"):
        has = ", ".join(map(str, there.get("gpus") or [])) or "none"
        yield f"it has the GPUs {has}, and {', '.join(gpus) or 'none'} are described"
    url = f"http://{host_of(wanted.get('address'))}:{wanted.get('http_port')}"
    if there.get("http_url") and wanted.get("http_port") and not there.get("node") and there["http_url"] != url:
        yield f"it listens at {there['http_url']}, and {url} is described"
    described = str(wanted.get("image") or image)
    if described and not same_image(str(there.get("image") or ""), described):
        yield f"it runs {there.get('image') or 'no known image'}, and {described} is described"
    options = {engine["name"]: engine["options"] for engine in plan.get("engines") or []}.get(wanted["model"])
    for path in there.get("engines") or []:
        made = ((built.get(str(path)) or {}).get("made_from") or {}).get("options")
        if options is not None and made is not None:
            yield from changed_options(made, options)


def changed_options(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """Each option of an engine that is described otherwise than it was built."""
    for name in sorted(wanted.keys() | made.keys()):
        before, after = made.get(name), wanted.get(name)
        if str(before) != str(after):
            yield f"its engine was built with {name} {before}, and {after} is described"


def same_image(runs: str, described: str) -> bool:
    """Whether what runs, a name with a digest, may be what is described; whether a tag has moved is not asked."""
    if "@" in described:
        return runs == described or runs.rpartition("@")[2] == described.rpartition("@")[2]
    return runs.partition("@")[0] in (described, re.sub(r":[^/:]+$", "", described)) or not runs
