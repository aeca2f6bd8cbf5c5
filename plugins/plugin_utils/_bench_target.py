# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which gateway or replica of a fleet a benchmark asks, and where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import DEFAULT_ROOT
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.replica import host_of
from ansible_collections.trtllm.fleet.plugins.plugin_utils._gateway import gateway_config

ANYWHERE = ("", "0.0.0.0", "::", "[::]")
TRITON, LLMAPI = "triton", "llmapi"
# The least that is made before an answer begins: it streams each token as it comes.
ENTRIES = ("ensemble",)

Found = Mapping[str, Mapping[str, Any]]


def choose(found: Found, addresses: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, Any]:
    """What to ask; *found* is by host what M(triton_replica_info) returned, *wanted* what the user says of it.

    Raises `FleetError` with what there is where that is not there.
    """
    kind = wanted["target"]
    if kind not in ("gateway", "replica"):
        raise FleetError(f"benchmark_target is {kind}; it takes gateway or replica.")
    make = _gateways if kind == "gateway" else _replicas
    offers = [
        offer for host, told in found.items() for offer in make(host, told or {}, addresses.get(host) or "", wanted)
    ]
    mine = [
        offer
        for offer in offers
        if wanted["model"] in ("", offer["name"], offer["model"]) and wanted["host"] in ("", offer["host"])
    ]
    if not mine:
        there = ", ".join(dict.fromkeys(f"{offer['name']} at {offer['host']}" for offer in offers)) or "none"
        asked = f"{wanted['model'] or 'any model'} at {wanted['host'] or 'any host'}"
        raise FleetError(f"There is no {kind} of {asked} to measure; there are {there}.")
    chosen = {**mine[0], "url": wanted["url"] or mine[0]["url"]}
    chosen["tokenizer"] = wanted["tokenizer"] or chosen["tokenizer"]
    served = [
        one for told in found.values() for one in (told or {}).get("replicas") or [] if one["model"] == chosen["model"]
    ]
    told = {key: served[0][key] for key in ("release", "fingerprints", "image")} if served else {}
    return {**chosen, "about": {"kind": kind, "host": chosen["host"], **told}}


def _checkpoint(wanted: Mapping[str, str], model: str) -> str:
    return f"{(wanted['root'] or DEFAULT_ROOT).rstrip('/')}/checkpoints/{model}"


def _gateways(host: str, told: Mapping[str, Any], address: str, wanted: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """What the gateways of a host offer. One that listens everywhere is asked at its host's address, by no tunnel."""
    for gateway in told.get("gateways") or []:
        config = gateway_config(gateway.get("config")) or {}
        url = urlsplit(str(gateway["url"]))
        if str(config.get("address", "127.0.0.1")) in ANYWHERE and address:
            url = url._replace(netloc=f"{host_of(address)}:{url.port}")
        names = {str(name): str(model) for model, name in (gateway.get("names") or {}).items()}
        for name in gateway.get("models") or []:
            model = names.get(str(name), str(name))
            entry: Mapping[str, Any] = next((one for one in config.get("models") or [] if one["name"] == name), {})
            yield {
                "host": host, "url": url.geturl(), "name": str(name), "model": model, "api": wanted["api"],
                "entry_model": "", "tokenizer": str(entry.get("tokenizer_dir") or _checkpoint(wanted, model)),
            }  # fmt: skip


def _replicas(host: str, told: Mapping[str, Any], _address: str, wanted: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for replica in told.get("replicas") or []:
        if not replica.get("http_url"):
            continue
        entries = list(replica.get("entry_models") or [])
        entry = next((one for one in entries if one in ENTRIES), entries[0] if entries else "ensemble")
        api = TRITON if replica.get("api") in (None, "", TRITON) else wanted["api"]
        if replica.get("api") == LLMAPI:
            # The client has no words for its inputs.
            continue
        model = str(replica["model"])
        yield {
            "host": host, "url": str(replica["http_url"]), "name": model, "model": model, "api": api,
            "entry_model": entry, "tokenizer": _checkpoint(wanted, model),
        }  # fmt: skip
