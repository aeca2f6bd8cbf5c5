# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the plans of all hosts to what each gateway fronts: one map of the fleet.

Everything here runs on the controller and is pure: the same plans and the same gateways give the same map. A host
that is not asked in a run (lost, or beyond ``--limit``) may serve all the same, so gateways keep what they have of it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional
from urllib.parse import urlsplit

from ._base.errors import FleetError
from ._base.names import show
from ._base.tables import columns
from ._base.versions import version_key
from ._checkpoint.tokenizer_files import short, tokenizer_store
from ._gateway.flavours import GATEWAY
from ._triton import serve
from ._triton.gang import check_address, is_gang, is_worker, node_names
from ._triton.replica import ANY_ADDRESS, host_of, http_url, is_loopback

Item = dict[str, Any]
Found = Mapping[str, Mapping[str, Any]]

LOOPBACK = "127.0.0.1"
# What a gateway fronts where no group of gateways is given.
OWN, ALL = "host", "fleet"
# Requests to entry models are alike from one of these releases to the next; a gateway speaks one way for each model.
NEW_REQUESTS = ("0.9.0",)
# What clients see of a model, and so must be the same wherever it is served: in the plan, and as a user writes it.
SEEN = (
    ("gateway_models", "entry_model", "serving.entry_model"),
    ("repositories", "streaming", "serving.streaming"),
)


def triton_address(
    given: Optional[str], reached_at: str, elsewhere: bool, addresses_of: Callable[[str], Sequence[str]]
) -> str:
    """The address that Triton listens on: the *given* one, or the one that those who have to reach it need.

    *reached_at*: by which name or address the inventory reaches the host; *elsewhere*: whether gateways of other hosts
    front its replicas; *addresses_of*: looks a name up.
    """
    if given is not None:
        try:
            return str(ipaddress.ip_address(given))
        except ValueError as error:
            raise FleetError(
                f"trtllm_triton_address is {show(given)}; give an IP address to listen on, e.g. 127.0.0.1."
            ) from error
    if not elsewhere:
        return LOOPBACK
    try:
        found = [str(ipaddress.ip_address(reached_at))]
    except ValueError:
        found = list(addresses_of(reached_at))
    usable = [address for address in found if not is_loopback(address)]
    if len(usable) == 1:
        return usable[0]
    shown = ", ".join(found) or "no address"
    raise FleetError(
        f"Gateways of other hosts front the replicas of this one, and the inventory reaches it at {reached_at}, which "
        f"is {shown} here; set trtllm_triton_address to the address on which they reach Triton."
    )


def node_address(given: Optional[str], reached_at: str, name: str, addresses_of: Callable[[str], Sequence[str]]) -> str:
    """The address at which the other nodes of a replica reach the host *name*: the *given* one (trtllm_node_address),
    or the one at which the inventory reaches it, as `triton_address`.
    """
    if given:
        return check_address(given, f"trtllm_node_address of {name}")
    try:
        found = [str(ipaddress.ip_address(reached_at))]
    except ValueError:
        found = list(addresses_of(reached_at))
    usable = [address for address in found if not is_loopback(address)]
    if len(usable) == 1:
        return check_address(usable[0], f"the address of {name}")
    raise FleetError(
        f"{name} is a node of a replica, and the inventory reaches it at {reached_at}, which is "
        f"{', '.join(found) or 'no address'} here; set trtllm_node_address of {name} to the address at which the other "
        "nodes reach it."
    )


def fleet_map(hosts: Found, gateways: Found) -> Item:
    """What serves where, and which gateway fronts it.

    *hosts*: by the name of each serving host its ``plan``, ``planned`` (whether this run asks it), ``lost``,
    ``reached_at``, ``max_seq_len`` and ``checkpoints`` (digests) by model where they are known, and ``tokenizers`` that
    were read there. *gateways*: by the name of each host with a gateway its ``root``, ``fronts`` (its own host or all),
    ``asked`` (whether it was looked at), and ``config``, what it has now, or None. The order of hosts is that of a
    gateway's replicas. Raises `FleetError` for what no gateway could front.
    """
    wide = [name for name, gateway in gateways.items() if gateway["fronts"] == ALL]
    if wide:
        _refuse_contradictions(hosts)
    _refuse_unlike_nodes(hosts)
    known = [gateway["config"] for gateway in gateways.values() if gateway.get("config")]
    served = {name: _served(name, host, wide, known) for name, host in hosts.items()}
    fronted: Item = {}
    for name, gateway in gateways.items():
        own = hosts[name]["plan"]["gateway_models"] if name in hosts else []
        if gateway["fronts"] == ALL:
            models = [
                model
                for model in _models(gateway, hosts, served, own, known)
                if _has_tokenizer(name, gateway, model, hosts)
            ]
        else:
            models = [_with_length(model, [hosts[name]]) for model in own if model["urls"]]
        for model in models:
            _refuse_no_weight(name, model)
            _refuse_other_front(name, gateway, model, hosts if gateway["fronts"] == ALL else {name: hosts[name]})
        fronted[name] = {"models": models, "tokenizers": _lacking(models, own, hosts)}
    return {
        "hosts": {name: _host(name, host, served[name], gateways) for name, host in hosts.items()},
        "gateways": fronted,
        "tokenizers": _tokenizers(hosts, wide),
    }


def _refuse_no_weight(gateway: str, model: Mapping[str, Any]) -> None:
    weights = model.get("weights") or {}
    if all(weights.get(url) == 0 for url in model["urls"]):
        raise FleetError(
            f"{model['name']}: every replica that the gateway on {gateway} fronts has the weight 0, which is for those "
            "that are asked where no other can be; give one of them more."
        )


def _refuse_other_front(name: str, gateway: Mapping[str, Any], model: Mapping[str, Any], hosts: Found) -> None:
    """Only the collection's own gateway speaks to what loads a checkpoint itself."""
    flavour = gateway.get("flavour") or GATEWAY
    for host, values in hosts.items():
        for replica in values["plan"]["replicas"]:
            if flavour != GATEWAY and replica["model"] == model["name"] and serve.loads_checkpoint(replica):
                raise FleetError(
                    f"{replica['name']} on {host} is served by {replica['mode']}, but openai_gateway_flavour of "
                    f"{name} is {flavour}, which speaks to Triton with an engine alone; set openai_gateway_flavour: "
                    f"{GATEWAY}, or flow: engine and a release that has it."
                )


def _refuse_contradictions(hosts: Found) -> None:
    """A model has one name for clients, and so one face."""
    first: dict[str, tuple[str, Item]] = {}
    for name, host in hosts.items():
        for model in host["plan"]["gateway_models"]:
            called, release = model["name"], _release(host, model["name"])
            face: Item = {written: _item(host["plan"], part, called)[key] for part, key, written in SEEN}
            other, seen = first.setdefault(called, (name, {**face, "release": release}))
            for written, value in face.items():
                if value != seen[written]:
                    raise FleetError(
                        f"{called}: {written} is {_say(seen[written])} on {other} and {_say(value)} on {name}, but "
                        "gateways show both as one model; make them the same, or give one of the two another name."
                    )
            if _requests(release) != _requests(seen["release"]):
                raise FleetError(
                    f"{called}: {other} serves it with TensorRT-LLM {seen['release']} and {name} with {release}, which "
                    "take different requests, but gateways show both as one model; give one of the two another name."
                )
    _refuse_other_tokenizers(hosts)


def _refuse_unlike_nodes(hosts: Found) -> None:
    """A replica on several hosts is the same on all of them: its leader is compared with each other node."""
    plans = {host: found["plan"] for host, found in hosts.items()}
    by_name = {host: {one["name"]: one for one in found["replicas"]} for host, found in plans.items()}
    for host, replicas in by_name.items():
        for name, replica in replicas.items():
            nodes = node_names(replica)
            for node in nodes[1:] if nodes[:1] == [host] else nodes[:1]:
                if node not in hosts:
                    raise FleetError(
                        f"{name}: nodes has {node}, which is no host that serves; name hosts of the inventory that do."
                    )
                other = by_name[node].get(name)
                if other is None or node_names(other) != nodes:
                    there = f"one on {', '.join(node_names(other))}" if other and is_gang(other) else "no such replica"
                    raise FleetError(
                        f"{name}: {host} has it on {', '.join(nodes)}, but what is written for {node} has {there}; put "
                        "the model into the variables of a group that has all of its nodes."
                    )
                _refuse_unlike(name, {host: _as_node(plans[host], replica), node: _as_node(plans[node], other)})


def _refuse_unlike(replica: str, two: Mapping[str, Item]) -> None:
    (host, one), (node, other) = two.items()
    for key, value in one.items():
        if other.get(key) != value:
            raise FleetError(
                f"{replica}: {key} is {_say(value)} on {host} and {_say(other.get(key))} on {node}, but both are nodes "
                "of one replica; make them the same."
            )


def _as_node(plan: Mapping[str, Any], replica: Mapping[str, Any]) -> Item:
    """What of a replica on several hosts must be the same on each, as a user writes it."""
    engine, repository = (_item(plan, part, replica["model"]) for part in ("engines", "repositories"))
    return {
        "trtllm_root": plan["root"],
        "release": repository.get("release") or plan["release"],
        "image": repository.get("image") or "that of all models",
        "the number of gpus": len(replica["gpus"]),
        "gang_port": replica["gang_port"],
        **{f"engine.{option}": value for option, value in sorted(engine["options"].items())},
        "engine": ", ".join(sorted(engine["options"])),
        "repository.parameters": repository["parameters"],
        "serving.streaming": repository["streaming"],
        "the addresses of nodes": ", ".join(node["address"] for node in replica["nodes"]),
    }


def _refuse_other_tokenizers(hosts: Found) -> None:
    first: dict[str, tuple[str, str]] = {}
    for name, host in hosts.items():
        for called, found in (host.get("tokenizers") or {}).items():
            other, digest = first.setdefault(called, (name, found["digest"]))
            if digest and found["digest"] and digest != found["digest"]:
                raise FleetError(
                    f"{called}: the tokenizer or chat template on {name} is not that on {other}, but gateways show "
                    "both as one model; serve one checkpoint, or give one of the two another name."
                )


def _release(host: Mapping[str, Any], model: str) -> str:
    """The release that serves a model on a host: its own, or that of the host's other models."""
    return str(_item(host["plan"], "gateway_models", model).get("release") or host["plan"]["release"])


def _own_release(host: Mapping[str, Any], model: str) -> Item:
    """The release of a model, where it is not that of its host."""
    release = _release(host, model)
    return {"release": release} if release != str(host["plan"]["release"]) else {}


def _requests(release: str) -> int:
    return sum(version_key(release) >= version_key(first) for first in NEW_REQUESTS)


def _say(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _item(plan: Mapping[str, Any], part: str, name: str) -> Item:
    return next(dict(item) for item in plan[part] if item["name"] == name)


def _served(name: str, host: Mapping[str, Any], wide: Sequence[str], known: Sequence[Mapping[str, Any]]) -> list[Item]:
    """The replicas of a host that gateways may front."""
    others = [gateway for gateway in wide if gateway != name]
    replicas = [
        {
            "name": replica["name"],
            "model": replica["model"],
            "url": url,
            "metrics_url": "" if serve.is_served(replica) else f"{url.rpartition(':')[0]}:{replica['metrics_port']}",
            "gpus": replica["gpus"],
            **({"nodes": node_names(replica)} if is_gang(replica) else {}),
            **_own_release(host, replica["model"]),
            **_weight(_item(host["plan"], "gateway_models", replica["model"]), http_url(replica)),
        }
        for replica in host["plan"]["replicas"]
        if not is_worker(replica)
        for url in [_url(name, replica, host["reached_at"], others) if wide else http_url(replica)]
    ]
    if not wide or host["planned"]:
        return replicas
    addresses = {urlsplit(replica["url"]).hostname for replica in replicas} | {host["reached_at"]}
    models = {replica["model"] for replica in replicas}
    have = {
        (model["name"], url)
        for config in known
        for model in config["models"]
        for url in model["urls"]
        if model["name"] in models and urlsplit(url).hostname in addresses
    }
    if not have and not host.get("lost"):
        # No gateway was asked that knows the host: its description has to do.
        return replicas
    expected = {(replica["model"], replica["url"]): replica for replica in replicas}
    unnamed = {"name": "", "metrics_url": "", "gpus": []}
    # What they have of it is its weight too.
    weights = {pair: _weight(model, pair[1]) for config in known for model in config["models"] for pair in have
               if pair[0] == model["name"] and pair[1] in model["urls"]}  # fmt: skip
    found = [expected.get(pair) or {**unnamed, "model": pair[0], "url": pair[1]} for pair in sorted(have)]
    return [
        {
            **{key: value for key, value in replica.items() if key != "weight"},
            **weights[replica["model"], replica["url"]],
        }
        for replica in found
    ]


def _weight(model: Mapping[str, Any], url: str) -> Item:
    """What a gateway's model says of the weight of one replica."""
    weight = (model.get("weights") or {}).get(url, 1)
    return {"weight": weight} if weight != 1 else {}


def _url(name: str, replica: Mapping[str, Any], reached_at: str, others: Sequence[str]) -> str:
    """Where gateways reach a replica; one string for all of them, as it names the replica where it is drained."""
    address = str(replica["address"])
    if others and is_loopback(address) and address not in ANY_ADDRESS:
        raise FleetError(
            f"{replica['name']} on {name} listens on {address}, where the gateway on {others[0]} does not reach it; "
            f"set trtllm_triton_address of {name} to an address that gateways reach, or leave it out."
        )
    host = host_of(reached_at) if others and address in ANY_ADDRESS else host_of(address)
    return f"http://{host}:{replica['http_port']}"


def _models(
    gateway: Mapping[str, Any],
    hosts: Found,
    served: Mapping[str, list[Item]],
    own: Sequence[Mapping[str, Any]],
    known: Sequence[Mapping[str, Any]],
) -> list[Item]:
    """What one gateway fronts: every model of the fleet with all its replicas."""
    names = list(dict.fromkeys(model["name"] for host in hosts.values() for model in host["plan"]["gateway_models"]))
    directories = {model["name"]: model["tokenizer_dir"] for model in own}
    found = []
    for name in names:
        serving = [host for host, values in hosts.items() if _has(values, name)]
        replicas = [replica for host in serving for replica in served[host] if replica["model"] == name]
        urls = [replica["url"] for replica in replicas]
        if not urls:
            continue
        weights = {replica["url"]: replica["weight"] for replica in replicas if "weight" in replica}
        asked = [hosts[host] for host in serving if hosts[host]["planned"]]
        now = _present(name, known)
        model: Item = {
            "name": name,
            "entry_model": _item(hosts[serving[0]]["plan"], "gateway_models", name)["entry_model"],
            "tokenizer_dir": directories.get(name) or _tokenizer_dir(name, gateway, asked),
            "urls": urls,
            **({"weights": weights} if weights else {}),
            "release": min((_release(hosts[host], name) for host in serving), key=version_key),
        }
        # What is not known of hosts that are not asked is what gateways were told before.
        told = (
            [{"max_seq_len": {name: now["max_seq_len"]}}] if len(asked) < len(serving) and "max_seq_len" in now else []
        )
        found.append(_with_length(model, [*asked, *told]))
    return found


def _has(host: Mapping[str, Any], model: str) -> bool:
    return any(item["name"] == model for item in host["plan"]["gateway_models"])


def _with_length(model: Mapping[str, Any], hosts: Sequence[Mapping[str, Any]]) -> Item:
    """The model with the longest sequence that all its engines take, where it is known."""
    lengths = [known for host in hosts if (known := (host.get("max_seq_len") or {}).get(model["name"]))]
    return {**model, **({"max_seq_len": min(lengths)} if lengths else {})}


def _present(name: str, known: Sequence[Mapping[str, Any]]) -> Item:
    """What the first gateway that has the model has of it."""
    return next((dict(model) for config in known for model in config["models"] if model["name"] == name), {})


def _has_tokenizer(name: str, gateway: Mapping[str, Any], model: Mapping[str, Any], hosts: Found) -> bool:
    """Whether a gateway has the tokenizer of a model, or can get it. A model lost with all its hosts is left out."""
    serving = [host for host, values in hosts.items() if _has(values, model["name"])]
    if model["tokenizer_dir"] or any(hosts[host]["planned"] for host in serving):
        return True
    beyond = [host for host in serving if not hosts[host].get("lost")]
    if beyond and gateway["asked"]:
        raise FleetError(
            f"{name} has no tokenizer of {model['name']} yet, and no host that serves it is in this run; add one to "
            f"--limit, such as {beyond[0]}."
        )
    return False


def _lacking(models: Sequence[Mapping[str, Any]], own: Sequence[Mapping[str, Any]], hosts: Found) -> list[Item]:
    """The tokenizers that a gateway needs beside the checkpoints of its host, as far as they were read."""
    there = {model["name"] for model in own}
    read: dict[str, Item] = {}
    for host in hosts.values():
        for name, found in (host.get("tokenizers") or {}).items():
            if host["planned"] and found["digest"]:
                read.setdefault(name, {"name": name, "files": found["files"]})
    return [read[model["name"]] for model in models if model["name"] not in there and model["name"] in read]


def _tokenizer_dir(name: str, gateway: Mapping[str, Any], asked: Sequence[Mapping[str, Any]]) -> Optional[str]:
    """Where a gateway without the checkpoint has its tokenizer, or what it has now where nobody could be asked."""
    read = [host["tokenizers"][name] for host in asked if name in (host.get("tokenizers") or {})]
    if read and read[0]["digest"]:
        return tokenizer_dir(str(gateway["root"]), name, read[0]["digest"])
    now = _present(name, [gateway["config"]] if gateway.get("config") else [])
    return now.get("tokenizer_dir")


def tokenizer_dir(root: str, model: str, digest: str) -> str:
    """Where a host keeps the tokenizer of a model that it does not serve."""
    return str(tokenizer_store(root, model).path(short(digest)))


def _host(name: str, host: Mapping[str, Any], replicas: list[Item], gateways: Found) -> Item:
    return {
        "release": host["plan"]["release"],
        "planned": host["planned"],
        "replicas": replicas,
        "gateways": [gateway for gateway, values in gateways.items() if gateway == name or values["fronts"] == ALL],
    }


def _tokenizers(hosts: Found, gateways: Sequence[str]) -> dict[str, list[Item]]:
    """By host the checkpoints whose tokenizers are to be read there: where gateways have none, or hosts may differ.

    One host for each checkpoint that differs: so all hosts of a model can be compared without asking all.
    """
    readers: dict[str, dict[str, tuple[str, str]]] = {}
    for name, host in hosts.items():
        for model in host["plan"]["gateway_models"] if host["planned"] else []:
            digest = str((host.get("checkpoints") or {}).get(model["name"]) or "")
            readers.setdefault(model["name"], {}).setdefault(digest, (name, model["tokenizer_dir"]))
    found: dict[str, list[Item]] = {}
    for called, by_checkpoint in readers.items():
        lacking = any(gateway not in hosts or not _has(hosts[gateway], called) for gateway in gateways)
        for name, path in by_checkpoint.values() if gateways and (lacking or len(by_checkpoint) > 1) else []:
            found.setdefault(name, []).append({"name": called, "path": path})
    return found


def fleet_table(found: Mapping[str, Any]) -> list[str]:
    """Who serves what, and the gateways before it: the lines of a table, from the map of the fleet."""
    rows = [["host", "model", "replicas", "gateways"]]
    for name, host in found["hosts"].items():
        models: dict[str, list[str]] = {}
        for replica in host["replicas"]:
            nodes = f" on {' + '.join(replica['nodes'])}" if replica.get("nodes") else ""
            weight = f" (weight {replica['weight']})" if "weight" in replica else ""
            models.setdefault(replica["model"], []).append(replica["url"].partition("//")[2] + nodes + weight)
        for model, urls in models.items():
            note = "" if host["planned"] else " (not asked in this run)"
            rows.append([name, model, ", ".join(urls) + note, ", ".join(host["gateways"]) or "-"])
    return columns(rows)
