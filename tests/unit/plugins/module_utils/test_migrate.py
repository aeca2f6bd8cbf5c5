# SPDX-License-Identifier: GPL-3.0-or-later
"""The way from engines to trtllm-serve and back: what each phase describes of each host."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._fleet import fleet_map
from ansible_collections.trtllm.fleet.plugins.module_utils._migrate import Wanted, migration
from ansible_collections.trtllm.fleet.plugins.module_utils._plan import plan
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from unit.fleet_fakes import description, model

IMAGE = "nvcr.io/nvidia/tensorrt-llm/release:1.3.0"
GATE = {"prompts": [{"prompt": "Hi"}], "same_answers": False}
OPTIONS = {"dtype": "float16", "max_batch_size": 8, "gemm_plugin": "auto"}
PARAMETERS = {"tensorrt_llm": {"kv_cache_free_gpu_mem_fraction": 0.5, "decoding_mode": "top_k"}}


def engine(**more: Any) -> dict[str, Any]:
    return {**model("m", OPTIONS), "repository": {"parameters": PARAMETERS}, "gate": GATE, **more}


def served() -> dict[str, Any]:
    return {**model("m", {"max_batch_size": 8}), "release": "1.3.0", "image": {"name": "r/own:1"}, "gate": GATE}


def phase(fleet: dict[str, dict[str, Any]], fronts: str = "fleet", **wanted: Any) -> dict[str, Any]:
    """What a phase describes of *fleet*, each with one model; all have gateways."""
    before = copy.deepcopy(fleet)
    address = {host: f"10.0.0.{number}" for number, host in enumerate(fleet, 1)}
    plans = {host: plan(description(one, trtllm_triton_address=address[host])) for host, one in fleet.items()}
    known = {host: {"plan": plans[host], "planned": True, "reached_at": address[host]} for host in fleet}
    gateways = {host: {"fronts": fronts, "asked": True, "root": "/r", "config": None} for host in fleet}
    described = {host: [one] for host, one in fleet.items()}
    found = migration(plans, described, fleet_map(known, gateways), Wanted(**{"to": "1.3.0", **wanted}))
    assert fleet == before, "what the inventory says is not touched"
    return found


def now(found: dict[str, Any], host: str) -> dict[str, Any]:
    (only,) = found["models"][host]
    plan(description(only))  # what is described can be planned
    return dict(only)


def test_some_hosts_cross_over_with_the_options_that_survive_and_get_a_share() -> None:
    found = phase({"g1": engine(), "g2": engine(), "g3": engine()}, phase="try", hosts=["g2"], image=IMAGE)
    crossed = now(found, "g2")
    assert (crossed["release"], crossed["image"]) == ("1.3.0", {"name": IMAGE})
    assert crossed["engine"] == {"dtype": "float16", "max_batch_size": 8}
    assert crossed["repository"]["parameters"] == {"tensorrt_llm": {"kv_cache_free_gpu_mem_fraction": 0.5}}
    assert crossed["gate"] == {**GATE, "same_answers": True}
    weights = {host: now(found, host)["serving"]["weight"] for host in ("g1", "g2", "g3")}
    assert weights == {"g1": 9, "g2": 2, "g3": 9}, "one in ten of all requests"
    assert now(found, "g1")["engine"] == OPTIONS and found["write"] == []
    assert found["table"][2].split() == ["m", "g2", "trtllm-serve", "2", "crosses", "over", "to", "1.3.0"]


def test_hosts_that_serve_so_already_are_tried_without_being_named() -> None:
    found = phase({"g1": engine(), "g2": served()}, phase="try", share=25)
    assert [now(found, host)["serving"]["weight"] for host in ("g1", "g2")] == [3, 1]
    assert now(found, "g2")["engine"] == {"max_batch_size": 8}


def test_all_cross_over_and_what_keeps_it_so_is_told() -> None:
    found = phase({"g1": engine(flow="engine"), "g2": served()}, phase="switch")
    crossed = now(found, "g1")
    assert crossed["image"] == {"name": "r/own:1"}, "that of the model which is of the release already"
    assert "flow" not in crossed and "weight" not in crossed["serving"]
    assert found["write"][1:3] == ["m:", '  release: "1.3.0"'] and not any(
        "checkpoint" in line for line in found["write"]
    )


def test_a_release_with_both_flows_is_told_which() -> None:
    assert now(phase({"g1": engine()}, phase="switch", to=LAST, image=IMAGE), "g1")["flow"] == "trtllm-serve"


def test_a_checkpoint_in_triton_crosses_over_too() -> None:
    told = {"flow": "llmapi", "engine": {"max_batch_size": 8}, "repository": {"parameters": {}}}
    both = phase({"g1": engine(**told), "g2": served()}, phase="try")
    assert both["table"][1].split() == ["m", "g1", "llmapi", "9"]
    crossed = now(phase({"g1": engine(**told), "g2": served()}, phase="switch"), "g1")
    assert "flow" not in crossed and (crossed["release"], crossed["engine"]) == ("1.3.0", {"max_batch_size": 8})


def test_it_goes_back_whatever_was_answered_meanwhile() -> None:
    found = phase({"g1": engine(gate={**GATE, "same_answers": True})}, phase="back")
    assert now(found, "g1") == {**engine(), "gate": GATE}


@pytest.mark.parametrize(
    ("hosts", "wanted", "sentence"),
    [
        ({"g1": engine()}, {"phase": "swich"}, "migrate_phase is 'swich'; it is one of try, switch, back."),
        ({"g1": engine()}, {"phase": "switch", "to": "0.9.0"}, "0.9.0"),
        (
            {"g1": engine()},
            {"phase": "switch"},
            "No model has an image of TensorRT-LLM 1.3.0 yet; name it in migrate_image",
        ),
        ({"g1": engine()}, {"phase": "try", "image": IMAGE}, "m: trtllm-serve serves no replica of it in this phase"),
        (
            {"g1": engine()},
            {"phase": "try", "image": IMAGE, "hosts": ["g1"]},
            "m: every host that serves it would cross",
        ),
        ({"g1": engine()}, {"phase": "try", "hosts": ["g11"]}, "migrate_hosts has 'g11', which the inventory does not"),
        (
            {"g1": engine()},
            {"phase": "switch", "models": ["x"]},
            "migrate_models has 'x', which the inventory does not",
        ),
        ({"g1": engine()}, {"phase": "switch", "hosts": ["g1"]}, "migrate_hosts names the hosts that cross over first"),
        (
            {"g1": engine()},
            {"phase": "try", "hosts": "g1"},
            "migrate_hosts is 'g1'; give a list: -e",
        ),
        ({"g1": engine()}, {"phase": "switch", "models": "m"}, "migrate_models is 'm'; give a list"),
        ({"g1": engine()}, {"phase": "try", "share": 100}, "migrate_share is 100; give the percent"),
        ({"g1": engine()}, {"phase": "try", "share": "a tenth"}, "migrate_share is 'a tenth'; give the percent"),
        ({"g1": served()}, {"phase": "switch"}, "No model of the inventory is served by Triton any more"),
        ({"g1": engine(gate={})}, {"phase": "switch", "image": IMAGE}, "m: its gate has no prompts whose answers"),
    ],
)
def test_what_cannot_be_done_is_refused(hosts: dict[str, Any], wanted: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FleetError) as refusal:
        phase(hosts, **wanted)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize("share", [10, "10", "10%", "10 %"])
def test_a_share_may_be_written_as_percent(share: Any) -> None:
    found = phase({"g1": engine(), "g2": engine()}, phase="try", hosts=["g2"], image=IMAGE, share=share)
    assert [now(found, host)["serving"]["weight"] for host in ("g1", "g2")] == [9, 1]


def test_answers_need_not_be_the_same_where_the_operator_says_so() -> None:
    crossed = now(phase({"g1": engine(gate={})}, phase="switch", image=IMAGE, same_answers=False), "g1")
    assert crossed["gate"] == {}


def test_a_share_needs_gateways_that_front_all() -> None:
    with pytest.raises(FleetError, match="the gateway on g1 fronts 1 of its 2 replicas, so that no client of it would"):
        phase({"g1": engine(), "g2": engine()}, fronts="host", phase="try", hosts=["g2"], image=IMAGE)


def test_shares_of_large_fleets_stay_within_what_a_weight_may_be() -> None:
    hosts = {f"g{number}": engine() for number in range(1, 38)}
    found = phase(hosts, phase="try", hosts=["g1"], image=IMAGE, share=97)
    weights = [now(found, host)["serving"]["weight"] for host in ("g1", "g2")]
    assert weights == [1000, 1], "nearly so"
