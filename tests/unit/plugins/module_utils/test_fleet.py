# SPDX-License-Identifier: GPL-3.0-or-later
"""What serves where, and which gateway fronts it, from the plans of all hosts."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._base.versions import version_key
from ansible_collections.trtllm.fleet.plugins.module_utils._fleet import (
    NEW_REQUESTS,
    fleet_map,
    fleet_table,
    node_address,
    triton_address,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._plan import plan
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from unit.fleet_fakes import description, model

ADDRESSES = {"g1": "10.0.0.1", "g2": "10.0.0.2", "g3": "10.0.0.3", "w1": "10.0.1.1", "w2": "10.0.1.2"}


def host(name: str, *models: dict[str, Any], planned: bool = True, **extra: Any) -> dict[str, Any]:
    """A serving host; *extra* is of its description, or known of it where the plan has no such option."""
    known = {key: extra.pop(key) for key in ("max_seq_len", "checkpoints", "tokenizers", "lost") if key in extra}
    address = {"trtllm_triton_address": ADDRESSES[name], **extra}
    return {"plan": plan(description(*models, **address)), "planned": planned, "reached_at": ADDRESSES[name], **known}


def gateway(config: Any = None, fronts: str = "fleet") -> dict[str, Any]:
    return {"fronts": fronts, "asked": True, "root": "/var/lib/trtllm", "config": config}


def config(*models: tuple[str, list[str]], **extra: Any) -> dict[str, Any]:
    return {"models": [{"name": name, "urls": urls, **extra} for name, urls in models]}


def urls(found: dict[str, Any], name: str = "w1") -> dict[str, list[str]]:
    return {item["name"]: item["urls"] for item in found["gateways"][name]["models"]}


def test_every_gateway_fronts_the_replicas_of_all_hosts_by_model() -> None:
    hosts = {"g1": host("g1", model("a"), model("b")), "g2": host("g2", model("a", replicas=[{}, {}]))}
    found = fleet_map(hosts, {"w1": gateway(), "w2": gateway()})
    expected = {
        "a": ["http://10.0.0.1:8000", "http://10.0.0.2:8000", "http://10.0.0.2:8010"],
        "b": ["http://10.0.0.1:8010"],
    }
    assert urls(found, "w1") == urls(found, "w2") == expected
    assert found["hosts"]["g1"]["gateways"] == ["w1", "w2"]
    assert [replica["url"] for replica in found["hosts"]["g2"]["replicas"]] == expected["a"][1:]
    assert found["hosts"]["g2"]["replicas"][1]["metrics_url"] == "http://10.0.0.2:8012"


def test_without_a_group_each_gateway_fronts_its_own_host_as_its_plan_has_it() -> None:
    hosts = {
        "g1": host("g1", model("a"), trtllm_triton_address="127.0.0.1"),
        "g2": host("g2", model("a", streaming=False), trtllm_triton_address="127.0.0.1"),
    }
    found = fleet_map(hosts, {name: gateway(fronts="host") for name in hosts})
    assert [found["gateways"][name]["models"] for name in hosts] == [
        values["plan"]["gateway_models"] for values in hosts.values()
    ]
    assert found["tokenizers"] == {} and found["hosts"]["g2"]["gateways"] == ["g2"]


def test_the_longest_sequence_is_what_all_engines_take() -> None:
    hosts = {
        "g1": host("g1", model("a"), max_seq_len={"a": 512}),
        "g2": host("g2", model("a"), max_seq_len={"a": 256}),
    }
    assert fleet_map(hosts, {"w1": gateway()})["gateways"]["w1"]["models"][0]["max_seq_len"] == 256
    own = fleet_map({"g1": hosts["g1"]}, {"g1": gateway(fronts="host")})["gateways"]["g1"]["models"][0]
    assert own["max_seq_len"] == 512


def test_what_gateways_were_told_of_a_lost_host_still_holds() -> None:
    hosts = {"g1": host("g1", model("a"), max_seq_len={"a": 512}), "g2": host("g2", model("a"), planned=False)}
    now = config(("a", ["http://10.0.0.2:8000"]), max_seq_len=256)
    assert fleet_map(hosts, {"w1": gateway(now)})["gateways"]["w1"]["models"][0]["max_seq_len"] == 256


def test_a_gateway_on_a_host_that_serves_reaches_itself_as_others_do() -> None:
    hosts = {"g1": host("g1", model("a"), trtllm_triton_address="0.0.0.0"), "g2": host("g2", model("a"))}
    found = fleet_map(hosts, {"g1": gateway(), "w1": gateway()})
    assert urls(found, "g1") == urls(found, "w1") == {"a": ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]}
    # It has the checkpoint; the other needs the tokenizer.
    assert found["gateways"]["g1"]["models"][0]["tokenizer_dir"] == "/var/lib/trtllm/checkpoints/a"
    assert found["gateways"]["w1"]["models"][0]["tokenizer_dir"] is None


def test_the_only_gateway_may_ask_triton_on_its_own_loopback_address() -> None:
    hosts = {"g1": host("g1", model("a"), trtllm_triton_address="127.0.0.1")}
    assert urls(fleet_map(hosts, {"g1": gateway()}), "g1") == {"a": ["http://127.0.0.1:8000"]}


def test_a_loopback_address_that_a_gateway_elsewhere_would_need_is_refused() -> None:
    hosts = {"g1": host("g1", model("a"), trtllm_triton_address="127.0.0.1")}
    with pytest.raises(FleetError) as refused:
        fleet_map(hosts, {"g1": gateway(), "w1": gateway()})
    assert str(refused.value) == (
        "a-0 on g1 listens on 127.0.0.1, where the gateway on w1 does not reach it; set trtllm_triton_address of g1 to "
        "an address that gateways reach, or leave it out."
    )


@pytest.mark.parametrize(
    ("one", "other", "sentence"),
    [
        (
            {"entry_model": "ensemble"},
            {"entry_model": "tensorrt_llm_bls"},
            "a: serving.entry_model is ensemble on g1 and tensorrt_llm_bls on g2, but gateways show both as one model; "
            "make them the same, or give one of the two another name.",
        ),
        ({"streaming": True}, {"streaming": False}, "a: serving.streaming is true on g1 and false on g2"),
    ],
)
def test_what_clients_would_see_twice_is_refused(one: dict[str, Any], other: dict[str, Any], sentence: str) -> None:
    hosts = {"g1": host("g1", model("a", **one)), "g2": host("g2", model("a", **other), planned=False)}
    with pytest.raises(FleetError) as refused:
        fleet_map(hosts, {"w1": gateway()})
    assert str(refused.value).startswith(sentence)


def test_releases_may_differ_as_far_as_their_requests_are_alike() -> None:
    hosts = {
        "g1": host("g1", model("a")),
        "g2": host("g2", model("a"), trtllm_release="0.17.0"),
    }
    assert fleet_map(hosts, {"w1": gateway()})["gateways"]["w1"]["models"][0]["release"] == "0.17.0"
    hosts["g2"] = host("g2", model("a"), trtllm_release="0.7.2")
    with pytest.raises(FleetError, match=f"a: g1 serves it with TensorRT-LLM {LAST} and g2 with 0.7.2, which take"):
        fleet_map(hosts, {"w1": gateway()})


def test_a_release_of_a_models_own_counts_for_that_model_alone() -> None:
    own = {"release": "0.7.2", "image": {"name": "r/triton:24.01"}}
    hosts = {"g1": host("g1", {**model("a"), **own}, model("b")), "g2": host("g2", {**model("a"), **own}, model("b"))}
    found = fleet_map(hosts, {"w1": gateway()})
    models = found["gateways"]["w1"]["models"]
    assert [(one["name"], one["release"]) for one in models] == [("a", "0.7.2"), ("b", LAST)]
    assert [one.get("release") for one in found["hosts"]["g1"]["replicas"]] == ["0.7.2", None]
    hosts["g2"] = host("g2", model("a"), model("b"))
    with pytest.raises(FleetError, match=f"a: g1 serves it with TensorRT-LLM 0.7.2 and g2 with {LAST}, which"):
        fleet_map(hosts, {"w1": gateway()})


def test_the_gateway_draws_the_line_between_requests_at_the_same_release(
    repo_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of inputs are asked of each replica; what else its table tells apart is not."""
    monkeypatch.syspath_prepend(str(repo_dir / "images" / "openai_gateway"))
    path = repo_dir / "images" / "openai_gateway" / "openai_gateway" / "interface.py"
    spec = importlib.util.spec_from_file_location("gateway_interface", path)
    assert spec and spec.loader
    interface = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gateway_interface", interface)  # its dataclasses look themselves up
    spec.loader.exec_module(interface)
    newest_first = [(row.first, row.words_required, row.adds_special_tokens) for row in interface.RELEASES]
    lines = [row[0] for row, older in zip(newest_first, newest_first[1:]) if row[1:] != older[1:]]
    assert [version_key(first)[:2] for first in NEW_REQUESTS] == lines


def test_the_replicas_of_a_lost_host_stay_where_they_were() -> None:
    """Whatever the description says of it by now: what serves there is what was there."""
    hosts = {
        "g1": host("g1", model("a")),
        "g2": host("g2", model("a", replicas=[{}, {}]), model("new"), planned=False, lost=True),
    }
    now = config(("a", ["http://10.0.0.1:8000", "http://10.0.0.2:8000", "http://10.0.0.9:8000"]))
    found = fleet_map(hosts, {"w1": gateway(now)})
    assert urls(found) == {"a": ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]}
    assert [replica["name"] for replica in found["hosts"]["g2"]["replicas"]] == ["a-0"]
    # A second gateway that is new learns of it too.
    assert urls(fleet_map(hosts, {"w1": gateway(now), "w2": gateway()}), "w2") == urls(found)


def test_a_lost_host_that_no_gateway_knows_has_nothing_to_front() -> None:
    hosts = {"g1": host("g1", model("a")), "g2": host("g2", model("a"), planned=False, lost=True)}
    now = config(("a", ["http://10.0.0.1:8000"]))
    assert urls(fleet_map(hosts, {"w1": gateway(now)})) == {"a": ["http://10.0.0.1:8000"]}


def test_hosts_beyond_the_limit_are_fronted_as_described_where_no_gateway_knows_them() -> None:
    hosts = {name: host(name, model("a"), planned=name == "g3") for name in ("g1", "g2", "g3")}
    both = ["http://10.0.0.1:8000", "http://10.0.0.2:8000", "http://10.0.0.3:8000"]
    assert urls(fleet_map(hosts, {"w1": gateway()})) == {"a": both}
    moved = config(("a", ["http://10.0.0.1:9000"]))
    assert urls(fleet_map(hosts, {"w1": gateway(moved)})) == {"a": ["http://10.0.0.1:9000", *both[1:]]}


def test_a_new_gateway_needs_a_host_that_has_the_tokenizer() -> None:
    hosts = {"g1": host("g1", model("a"), planned=False), "g2": host("g2", model("a"), planned=False)}
    has = config(("a", ["http://10.0.0.1:8000"]), tokenizer_dir="/old")
    assert urls(fleet_map(hosts, {"w1": gateway(has)})) == {"a": ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]}
    with pytest.raises(FleetError) as refused:
        fleet_map(hosts, {"w1": gateway(has), "w2": gateway()})
    assert str(refused.value) == (
        "w2 has no tokenizer of a yet, and no host that serves it is in this run; add one to --limit, such as g1."
    )
    # Where they are lost, the other models are fronted all the same.
    hosts = {"g1": host("g1", model("a"), planned=False, lost=True), "g2": host("g2", model("b"))}
    assert urls(fleet_map(hosts, {"w1": gateway(has), "w2": gateway()}), "w2") == {"b": ["http://10.0.0.2:8000"]}


def test_a_host_and_a_model_that_are_gone_leave_the_gateways() -> None:
    now = config(("a", ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]), ("b", ["http://10.0.0.1:8010"]))
    assert urls(fleet_map({"g1": host("g1", model("a"))}, {"w1": gateway(now)})) == {"a": ["http://10.0.0.1:8000"]}


def test_tokenizers_are_read_on_one_host_for_each_checkpoint() -> None:
    names = ("g1", "g2", "g3")
    digests = dict(zip(names, ("d1", "d1", "d2")))
    hosts = {name: host(name, model("a"), checkpoints={"a": digests[name]}) for name in names}
    directory = "/var/lib/trtllm/checkpoints/a"
    source = [{"name": "a", "path": directory}]
    assert fleet_map(hosts, {"w1": gateway()})["tokenizers"] == {"g1": source, "g3": source}
    # Who serves a model has all of it.
    assert fleet_map({"g1": hosts["g1"]}, {"g1": gateway()})["tokenizers"] == {}
    # Two checkpoints are compared all the same.
    assert fleet_map(hosts, {name: gateway() for name in names})["tokenizers"] == {"g1": source, "g3": source}


def test_a_tokenizer_has_a_directory_of_its_own_by_content() -> None:
    read = {"digest": "0123456789abcdef" * 4, "files": {"tokenizer.json": "f" * 64}}
    hosts = {"g1": host("g1", model("a"), tokenizers={"a": read})}
    found = fleet_map(hosts, {"w1": gateway(), "g1": gateway()})["gateways"]
    assert found["w1"]["models"][0]["tokenizer_dir"] == "/var/lib/trtllm/tokenizers/a/0123456789abcdef"
    assert found["w1"]["tokenizers"] == [{"name": "a", "files": read["files"]}] and found["g1"]["tokenizers"] == []
    hosts = {"g1": host("g1", model("a"), planned=False, lost=True)}
    now = config(("a", ["http://10.0.0.1:8000"]), tokenizer_dir="/old")
    assert fleet_map(hosts, {"w1": gateway(now)})["gateways"]["w1"]["models"][0]["tokenizer_dir"] == "/old"


def test_two_tokenizers_under_one_name_are_refused() -> None:
    hosts = {
        "g1": host("g1", model("a"), tokenizers={"a": {"digest": "1" * 64, "files": {}}}),
        "g2": host("g2", model("a"), tokenizers={"a": {"digest": "2" * 64, "files": {}}}),
    }
    with pytest.raises(
        FleetError, match="a: the tokenizer or chat template on g2 is not that on g1, but gateways show"
    ):
        fleet_map(hosts, {"w1": gateway()})


def test_the_fleet_is_a_table() -> None:
    hosts = {"g1": host("g1", model("a", replicas=[{}, {}]), model("b")), "g2": host("g2", model("a"), planned=False)}
    assert fleet_table(fleet_map(hosts, {"w1": gateway(), "w2": gateway()})) == [
        "host  model  replicas                               gateways",
        "g1    a      10.0.0.1:8000, 10.0.0.1:8010           w1, w2",
        "g1    b      10.0.0.1:8020                          w1, w2",
        "g2    a      10.0.0.2:8000 (not asked in this run)  w1, w2",
    ]


def looked_up(name: str) -> list[str]:
    return {"gpu-01": ["10.0.0.1"], "two": ["10.0.0.1", "10.0.0.2"], "self": ["127.0.1.1"]}.get(name, [])


@pytest.mark.parametrize(
    ("given", "reached_at", "elsewhere", "address"),
    [
        (None, "gpu-01", False, "127.0.0.1"),
        (None, "gpu-01", True, "10.0.0.1"),
        (None, "10.0.0.9", True, "10.0.0.9"),
        (None, "fd00::9", True, "fd00::9"),
        ("0.0.0.0", "gpu-01", True, "0.0.0.0"),
        ("10.9.9.9", "two", True, "10.9.9.9"),
    ],
)
def test_triton_listens_where_gateways_reach_it(
    given: str | None, reached_at: str, elsewhere: bool, address: str
) -> None:
    assert triton_address(given, reached_at, elsewhere, looked_up) == address


@pytest.mark.parametrize("given", ["", "localhost", "10.0.0", "a\nb"])
def test_triton_listens_on_an_address(given: str) -> None:
    with pytest.raises(FleetError, match="give an IP address to listen on"):
        triton_address(given, "gpu-01", False, looked_up)


@pytest.mark.parametrize(
    ("reached_at", "shown"),
    [
        ("two", "two, which is 10.0.0.1, 10.0.0.2 here"),
        ("self", "self, which is 127.0.1.1 here"),
        ("nowhere", "nowhere, which is no address here"),
        ("127.0.0.1", "127.0.0.1, which is 127.0.0.1 here"),
    ],
)
def test_an_address_that_the_inventory_does_not_tell_is_asked_for(reached_at: str, shown: str) -> None:
    with pytest.raises(FleetError) as refused:
        triton_address(None, reached_at, True, looked_up)
    assert f"the inventory reaches it at {shown}; set trtllm_triton_address to" in str(refused.value)


NODES = {"serving_hosts": list(ADDRESSES), "node_addresses": ADDRESSES}


def gang(name: str = "big", engine: Any = None, **replica: Any) -> dict[str, Any]:
    return model(name, engine or {"tp_size": 2}, replicas=[{"nodes": ["g1", "g2"], "gpus": [0], **replica}])


def nodes(**models: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: host(name, found, host=name, **NODES) for name, found in models.items()}


def test_gateways_front_the_leader_of_a_replica_on_several_hosts() -> None:
    hosts = nodes(g1=gang(), g2=gang())
    found = fleet_map(hosts, {"w1": gateway()})
    assert urls(found) == {"big": ["http://10.0.0.1:8000"]}
    assert found["hosts"]["g1"]["replicas"][0]["nodes"] == ["g1", "g2"] and found["hosts"]["g2"]["replicas"] == []
    assert "10.0.0.1:8000 on g1 + g2" in "\n".join(fleet_table(found))
    own = fleet_map(hosts, {name: gateway(fronts="host") for name in hosts})["gateways"]
    assert [len(own[name]["models"]) for name in ("g1", "g2")] == [1, 0]


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (
            model("big", {"tp_size": 2}),
            "big-0: g1 has it on g1, g2, but what is written for g2 has no such replica; put the model into the "
            "variables of a group that has all of its nodes.",
        ),
        (gang(nodes=["g2", "g1"]), "what is written for g2 has one on g2, g1"),
        (gang(gang_port=19000), "big-0: gang_port is 18700 on g1 and 19000 on g2, but both are nodes of one replica"),
        (gang(engine={"tp_size": 2, "max_batch_size": 4}), "on g1 and max_batch_size, tp_size on g2"),
        (gang(engine={"pp_size": 2}), "big-0: engine.tp_size is 2 on g1 and None on g2"),
    ],
)
def test_nodes_that_are_described_otherwise_are_refused(other: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FleetError) as refused:
        fleet_map(nodes(g1=gang(), g2=other), {name: gateway(fronts="host") for name in ("g1", "g2")})
    assert sentence in str(refused.value)


def test_a_node_that_no_host_is_is_refused() -> None:
    with pytest.raises(FleetError, match="big-0: nodes has g2, which is no host that serves"):
        fleet_map(nodes(g1=gang()), {"g1": gateway(fronts="host")})


@pytest.mark.parametrize(
    ("given", "reached_at", "expected"),
    [
        ("192.168.0.1", "g1", "192.168.0.1"),
        (None, "10.0.0.1", "10.0.0.1"),
        (None, "named", "10.0.0.7"),
        (None, "nowhere", "set trtllm_node_address of g1"),
        (None, "127.0.0.1", "set trtllm_node_address of g1"),
        ("fd00::1", "g1", "trtllm_node_address of g1 is 'fd00::1'"),
    ],
)
def test_nodes_reach_each_other_where_the_inventory_does(given: Any, reached_at: str, expected: str) -> None:
    known = {"named": ["10.0.0.7"]}
    try:
        found = node_address(given, reached_at, "g1", lambda name: known.get(name, []))
    except FleetError as error:
        found = str(error)
    assert expected in found


def test_a_replica_has_its_weight_at_every_gateway() -> None:
    hosts = {"g1": host("g1", model("a", weight=9)), "g2": host("g2", model("a", replicas=[{}, {"weight": 0}]))}
    found = fleet_map(hosts, {"w1": gateway()})
    (fronted,) = found["gateways"]["w1"]["models"]
    assert fronted["weights"] == {"http://10.0.0.1:8000": 9, "http://10.0.0.2:8010": 0}
    assert "10.0.0.1:8000 (weight 9)" in "\n".join(fleet_table(found))


def test_a_replica_of_a_host_that_is_not_asked_keeps_the_weight_that_gateways_have() -> None:
    hosts = {"g1": host("g1", model("a", weight=9), planned=False), "g2": host("g2", model("a"))}
    now = config(("a", ["http://10.0.0.1:8000"]), weights={"http://10.0.0.1:8000": 3})
    (fronted,) = fleet_map(hosts, {"w1": gateway(now), "g2": gateway()})["gateways"]["w1"]["models"]
    assert fronted["weights"] == {"http://10.0.0.1:8000": 3}
    (fronted,) = fleet_map(hosts, {"w1": gateway(config(("a", ["http://10.0.0.1:8000"])))})["gateways"]["w1"]["models"]
    assert "weights" not in fronted


def test_a_model_of_which_no_replica_has_weight_is_refused() -> None:
    hosts = {"g1": host("g1", model("a", weight=0)), "g2": host("g2", model("a"))}
    assert fleet_map(hosts, {"w1": gateway()})
    with pytest.raises(
        FleetError, match="a: every replica that the gateway on g1 fronts has the weight 0, which is for"
    ):
        fleet_map(hosts, {"g1": gateway(fronts="host")})


@pytest.mark.parametrize("fronts", ["fleet", "host"])
@pytest.mark.parametrize("flow", ["trtllm-serve", "llmapi"])
def test_only_the_collections_own_gateway_fronts_what_has_no_engine(fronts: str, flow: str) -> None:
    served = {**model("a"), "flow": flow}
    hosts = {"g1": host("g1", served)}
    assert fleet_map(hosts, {"g1": gateway(fronts=fronts)})
    with pytest.raises(FleetError) as refusal:
        fleet_map(hosts, {"g1": {**gateway(fronts=fronts), "flavour": "openai_trtllm"}})
    assert str(refusal.value).startswith(f"a-0 on g1 is served by {flow}, but openai_gateway_flavour of g1 is openai")
