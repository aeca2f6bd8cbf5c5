# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user writes, and what each role is told to do because of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trtllm.fleet.plugins.filter.units import triton_results, triton_services
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._plan import (
    image_inputs,
    plan,
    refuse_unknown_keys,
    replica_inputs,
    repository_inputs,
    results_by_name,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._release.options import world_size
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import release as release_of
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.replica import complete
from ansible_collections.trtllm.fleet.plugins.plugin_utils._description import load_spec
from unit.fleet_fakes import description, model


def test_one_model_gives_every_role_its_input() -> None:
    fleet = plan(description(model("codellama", {"dtype": "float16", "tp_size": 2})))
    assert fleet["checkpoints"] == [
        {"name": "codellama", "source": "path", "path": "/srv/codellama", "location": "controller", "in_place": False}
    ]
    directory = "/var/lib/trtllm/checkpoints/codellama"
    assert fleet["engines"] == [
        {"name": "codellama", "checkpoint": directory, "gpus": [0, 1], "options": {"dtype": "float16", "tp_size": 2}}
    ]
    assert fleet["repositories"][0]["checkpoint"] == directory
    assert fleet["replicas"] == [
        {
            "name": "codellama-0",
            "model": "codellama",
            "address": "127.0.0.1",
            "world_size": 2,
            "gpus": [0, 1],
            "http_port": 8000,
            "grpc_port": 8001,
            "metrics_port": 8002,
            "checkpoint_dirs": [directory],
        }
    ]
    assert fleet["gateway_models"][0]["urls"] == ["http://127.0.0.1:8000"]


def test_a_host_that_does_not_serve_only_builds() -> None:
    described = description(model("codellama", {"tp_size": 2}, replicas=[{"gpus": [2, 3]}]))
    serves, builds = plan(described), plan({**described, "trtllm_serves": False})
    assert [builds[part] for part in ("repositories", "replicas", "gateway_models", "gates")] == [[], [], [], {}]
    assert {key: builds[key] for key in ("serves", "checkpoints", "engines")} == {
        key: serves[key] for key in ("serves", "checkpoints", "engines")
    }


def test_replicas_get_the_gpus_and_ports_that_nobody_claims() -> None:
    first = model("a", {"tp_size": 2}, replicas=[{}, {"gpus": [1, 4]}])
    second = model("b", {}, replicas=[{"http_port": 9000}])
    replicas = {replica["name"]: replica for replica in plan(description(first, second))["replicas"]}
    assert replicas["a-0"]["gpus"] == [0, 2]
    assert replicas["a-1"]["gpus"] == [1, 4]
    assert replicas["b-0"]["gpus"] == [3]
    assert [replicas[name]["http_port"] for name in ("a-0", "a-1", "b-0")] == [8000, 8010, 9000]


@pytest.mark.parametrize(
    "given",
    [
        [{"http_port": 9000}],
        [{}, {"http_port": 8000}],
        [{"grpc_port": 8001}, {"metrics_port": 8012}, {}],
        [{"http_port": 7999}, {}],
        [{"http_port": 9000, "metrics_port": 8000}, {}],
    ],
)
def test_ports_are_the_same_in_the_plan_and_in_the_role_alone(given: list[dict[str, int]]) -> None:
    ports = ("http_port", "grpc_port", "metrics_port")
    planned = plan(description(model("a", replicas=given)))["replicas"]
    alone = complete([{"name": f"a-{index}", "model": "a", **replica} for index, replica in enumerate(given)], {})
    assert [[replica[key] for key in ports] for replica in planned] == [
        [replica[key] for key in ports] for replica in alone
    ]


def test_ports_follow_the_http_port_that_is_given() -> None:
    (replica,) = plan(description(model("a", replicas=[{"http_port": 9000}])))["replicas"]
    assert (replica["http_port"], replica["grpc_port"], replica["metrics_port"]) == (9000, 9001, 9002)


def test_a_gpu_of_which_a_slice_is_given_is_not_free() -> None:
    first, second = plan(description(model("a", replicas=[{"gpus": ["0:1"]}, {}])))["replicas"]
    assert (first["gpus"], second["gpus"]) == (["0:1"], [1])


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_what_listens_everywhere_is_reached_on_the_host_itself(address: str) -> None:
    fleet = plan(description(model("a"), trtllm_triton_address=address))
    assert fleet["gateway_models"][0]["urls"] == ["http://127.0.0.1:8000"]


def test_no_device_is_handed_over_where_none_is_asked_for() -> None:
    fleet = plan(description(model("a", {"tp_size": 2}, replicas=[{"gpus": []}])))
    assert fleet["replicas"][0]["gpus"] == []
    assert fleet["replicas"][0]["world_size"] == 2


def test_the_gateway_is_told_of_weights_that_say_something() -> None:
    found = plan(description(model("a", weight=5, replicas=[{}, {"weight": 1}, {"weight": 0}]), model("b")))
    (a, b) = found["gateway_models"]
    assert a["weights"] == {"http://127.0.0.1:8000": 5, "http://127.0.0.1:8020": 0} and "weights" not in b
    assert not any("weight" in replica for replica in found["replicas"]), "nothing of a replica depends on it"


def test_a_gateway_reaches_triton_where_it_listens() -> None:
    urls = plan(description(model("a"), trtllm_triton_address="::1"))["gateway_models"][0]["urls"]
    assert urls == ["http://[::1]:8000"]
    urls = plan(description(model("a"), trtllm_triton_address="0.0.0.0"))["gateway_models"][0]["urls"]
    assert urls == ["http://127.0.0.1:8000"]


def test_a_checkpoint_used_in_place_is_not_looked_for_elsewhere() -> None:
    there = model("a")
    there["checkpoint"].update(location="host", in_place=True)
    assert plan(description(there))["engines"][0]["checkpoint"] == "/srv/a"


@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        ([], "trtllm_models is empty"),
        ([model("Bad Name")], "trtllm_models[0].name is 'Bad Name'"),
        ([model("../x")], "trtllm_models[0].name is '../x'"),
        ([model("a"), model("a")], "'a' is given twice"),
        ([model("a", {"tp_size": 2}, replicas=[{"gpus": [0]}])], "the engine has 2 ranks"),
        ([model("a", {}, replicas=[{"gpus": [0, 1]}])], "gives it 2 GPUs (0, 1)"),
        (
            [model("a", {}, replicas=[{"gpus": [0]}]), model("b", {}, replicas=[{"gpus": [0]}])],
            "GPU 0 of replica b-0 is already given to a-0 (as 0)",
        ),
        (
            [model("a", {}, replicas=[{"http_port": 8001, "grpc_port": 8001}])],
            "Port 8001 is given to a-0.http_port and to a-0.grpc_port",
        ),
        ([model("a", {}, replicas=[{"http_port": 0}])], "a-0.http_port is 0; a port is a number from 1 to 65535"),
        (
            [model("a", {}, replicas=[{"gpus": [0]}, {"gpus": ["0:0"]}])],
            "GPU 0:0 of replica a-1 is already given to a-0 (as 0)",
        ),
        (
            [model("a", {}, replicas=[{"gpus": ["nvidia.com/gpu=0"]}, {"gpus": [0]}])],
            "GPU 0 of replica a-1 is already given to a-0 (as nvidia.com/gpu=0)",
        ),
        ([model("a", {}, replicas=[{"gpus": ["all"]}, {}])], "GPU 0 of replica a-1 is already given to a-0 (as all)"),
        ([model("a", {}, replicas=[{"http_port": 70000}])], "a port is a number from 1 to 65535"),
        ([model("a", weight=-1)], "a: serving.weight is -1; give a whole number from 0 to 1000"),
        ([model("a", replicas=[{}, {"weight": 1001}])], "a: serving.replicas[1].weight is 1001; give a whole number"),
    ],
)
def test_contradictions_are_refused_in_a_sentence(models: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(FleetError) as error:
        plan(description(*models))
    assert sentence in str(error.value)
    assert str(error.value).endswith(".")


def test_in_place_needs_a_directory_of_the_host() -> None:
    wrong = model("a")
    wrong["checkpoint"]["in_place"] = True
    with pytest.raises(FleetError, match="needs a directory of the host"):
        plan(description(wrong))


def test_world_size_is_the_product_of_all_parallel_sizes() -> None:
    assert world_size({}) == 1
    assert world_size({"tp_size": 4, "pp_size": 2, "cp_size": None}) == 8


SPEC = {
    "models": {"options": {"engine": {"options": {"tp_size": {}}}, "name": {}}},
    "root": {},
    "many": {"options": {f"key{number}": {} for number in range(40)}, "listed_in": "its page"},
}


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"rot": 1}, "rot is not an option; did you mean 'root'?"),
        (
            {"models": [{"name": "a"}, {"engine": {"tp_sise": 2}}]},
            "models[1].engine.tp_sise is not an option; did you mean 'tp_size'?",
        ),
        ({"models": [{"zzz": 1}]}, "models[0].zzz is not an option; known there: engine, name."),
        ({"many": {"key_1": 1}}, "many.key_1 is not an option; did you mean 'key1'?"),
        ({"many": {"xyz": 1}}, "many.xyz is not an option; known there: the 40 keys that its page lists."),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(value: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FleetError) as error:
        refuse_unknown_keys(value, SPEC)
    assert str(error.value) == sentence


def test_known_keys_pass_at_every_depth() -> None:
    refuse_unknown_keys({"models": [{"name": "a", "engine": {"tp_size": 1}}], "root": "/x"}, SPEC)


def test_results_of_one_role_become_inputs_of_the_next() -> None:
    loop = [{"item": {"name": "a"}, "engine_dir": "/e", "changed": True, "noise": 1}]
    found = results_by_name(loop, ["engine_dir"])
    assert found == {"a": {"engine_dir": "/e"}}
    assert repository_inputs([{"name": "a", "streaming": True}], found) == [
        {"name": "a", "streaming": True, "engine_dir": "/e"}
    ]


def test_fleet_wide_defaults_are_linked_into_each_inventory(repo_dir) -> None:  # type: ignore[no-untyped-def]
    """A bare group_vars/ at the top is silently ignored by Ansible; the links make it arrive."""
    fleet = yaml.safe_load((repo_dir / "group_vars" / "all.yml").read_text())
    for inventory in (repo_dir / "inventories").iterdir():
        linked = inventory / "group_vars" / "all" / "00_fleet.yml"
        assert linked.is_symlink()
        assert yaml.safe_load(linked.read_text()) == fleet


def test_a_replica_gets_the_repository_and_the_engine_of_its_model() -> None:
    repositories = {"a": {"repository_dir": "/r", "fingerprint": "f", "entry_models": ["ensemble"], "world_size": 1}}
    (replica,) = replica_inputs([{"name": "a-0", "model": "a"}], repositories, {"a": {"engine_dir": "/e"}})
    assert replica == {
        "name": "a-0",
        "model": "a",
        "repository_dir": "/r",
        "fingerprint": "f",
        "entry_models": ["ensemble"],
        "engine_dirs": ["/e"],
    }


def test_a_host_that_is_only_a_gateway_has_nothing_to_do_but_that() -> None:
    given = {**description(), "trtllm_models": None, "serves": False}
    assert plan(given) == {
        "release": given["trtllm_release"],
        "root": "/var/lib/trtllm",
        "serves": False,
        "shared_image": False,
        "gates": {},
        **{key: [] for key in ["images", "checkpoints", "engines", "repositories", "replicas", "gateway_models"]},
    }


# -- a release and an image of a model's own -------------------------------------------------------------------------

OLD = {"release": "0.7.2", "image": {"name": "r/triton:24.01", "source": "pull", "authfile": None}}


def test_one_host_serves_two_releases_side_by_side() -> None:
    """Each by its own image; what a model has not is the fleet's."""
    fleet = plan(description({**model("old"), **OLD}, model("new")))
    own = {"release": "0.7.2", "image": "r/triton:24.01"}
    assert fleet["images"] == [{"name": "r/triton:24.01", "source": "pull", "release": "0.7.2"}]
    assert fleet["shared_image"]
    for part in ("engines", "repositories", "replicas"):
        old, new = fleet[part]
        assert own.items() <= old.items()
        assert own.keys().isdisjoint(new)
    assert [item.get("release") for item in fleet["gateway_models"]] == ["0.7.2", None]
    assert "image" not in fleet["gateway_models"][0]


def test_the_unit_of_each_replica_follows_from_its_release_and_image() -> None:
    fleet = plan(description({**model("old"), **OLD}, model("new")))
    repository = {"repository_dir": "/r", "entry_models": ["ensemble"]}
    replicas = replica_inputs(
        image_inputs(fleet["replicas"], {"r/triton:24.01": "r/triton@sha256:24"}),
        {"old": repository, "new": repository},
        {"old": {"engine_dir": "/e"}, "new": {"engine_dir": "/e"}},
    )
    settings = {
        "release": LAST,
        "image": "r/triton@sha256:26",
        "scripts": {"run.sh": "", "probe.sh": "", "stop.py": ""},
    }
    old, new = triton_services(replicas, settings)
    assert [item["unit"]["Container"]["Image"] for item in (old, new)] == ["r/triton@sha256:24", "r/triton@sha256:26"]
    assert [item["record"]["release"] for item in (old, new)] == [release_of("0.7.2").version, LAST]
    assert triton_results(replicas, settings, {})["old-0"]["release"] == "0.7.2"


def test_models_share_an_image_and_all_may_have_their_own() -> None:
    fleet = plan(description({**model("a"), **OLD}, {**model("b"), **OLD}))
    assert len(fleet["images"]) == 1
    assert not fleet["shared_image"]


def test_an_image_of_its_own_may_have_the_fleets_release() -> None:
    (engine,) = plan(description({**model("a"), "image": {"name": "r/other:1"}}))["engines"]
    assert "release" not in engine
    assert engine["image"] == "r/other:1"
    (engine,) = plan(description({**model("a"), "release": LAST}))["engines"]
    assert engine["release"] == LAST


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([{"release": "0.7.2"}], f"a0: release is 0.7.2, but its image is that of trtllm_release, {LAST}; give"),
        ([{"release": "0.7.9.1.5"}], "TensorRT-LLM release '0.7.9.1.5' is not known; the nearest is"),
        ([OLD, {**OLD, "image": {**OLD["image"], "source": "present"}}], "a1 and a0 name the image r/triton:24.01,"),
        ([{"image": {"name": "r/i:1", "archive": "i.tar"}}], "a0: image.archive is 'i.tar'; it takes an absolute path"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(given: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(FleetError) as refusal:
        plan(description(*({**model(f"a{index}"), **own} for index, own in enumerate(given))))
    assert str(refusal.value).startswith(sentence)


def test_a_replica_has_no_release_or_image_of_its_own() -> None:
    with pytest.raises(FleetError, match=r"options\.image is of the whole model; give the model its image\."):
        plan(description(model("a", replicas=[{"options": {"image": "i"}}])))


def test_an_image_takes_the_keys_of_the_role_that_brings_it(repo_dir: Path) -> None:
    """And the playbook hands each of them on."""
    image = load_spec()["trtllm_models"]["options"]["image"]["options"]
    role = yaml.safe_load((repo_dir / "roles/triton_image/meta/argument_specs.yml").read_text())
    options = role["argument_specs"]["main"]["options"]
    assert {f"triton_image_{key}" for key in image} <= set(options)
    assert image["source"]["choices"] == options["triton_image_source"]["choices"]
    handed = yaml.safe_load((repo_dir / "playbooks/tasks/own_image.yml").read_text())[1]["vars"]
    of_the_host = {"triton_image_root", "triton_image_release", "triton_image_distribution"}
    assert {name for name in handed if name.startswith("triton_image_")} - of_the_host == {
        f"triton_image_{key}" for key in image
    }


def test_an_engine_may_be_built_by_another_image_than_serves_it() -> None:
    serving, building = {"name": "r/serve:1"}, {"name": "r/build:1", "source": "load", "archive": "/a.tar"}
    fleet = plan(
        description({**model("a"), "release": "0.8.0", "image": serving, "engine_image": building}, model("b"))
    )
    assert [engine.get("image") for engine in fleet["engines"]] == ["r/build:1", None]
    assert [replica.get("image") for replica in fleet["replicas"]] == ["r/serve:1", None]
    assert [repository.get("image") for repository in fleet["repositories"]] == ["r/serve:1", None]
    assert [(image["name"], image["release"]) for image in fleet["images"]] == [
        ("r/serve:1", "0.8.0"), ("r/build:1", "0.8.0"),
    ]  # fmt: skip
    assert fleet["shared_image"] is True
    alone = plan(description({**model("a"), "engine_image": building}))
    assert alone["engines"][0]["image"] == "r/build:1" and "image" not in alone["replicas"][0]
    with pytest.raises(FleetError, match="a: engine_image.archive"):
        plan(description({**model("a"), "engine_image": {**building, "archive": "a.tar"}}))


def test_a_context_may_be_on_the_controller() -> None:
    image = {"name": "r/i:1", "source": "containerfile", "context": "files/triton", "context_location": "controller"}
    (found,) = plan(description({**model("a"), "image": image}))["images"]
    assert found["context"] == "files/triton"
    with pytest.raises(FleetError, match="image.context"):
        plan(description({**model("a"), "image": {**image, "context_location": "host"}}))


@pytest.mark.parametrize(
    "archive", [{"archive": "https://files.example.com/i.tar"}, {"archive": "i.tar", "archive_location": "controller"}]
)
def test_an_archive_may_be_a_url_or_on_the_controller(archive: dict[str, str]) -> None:
    (image,) = plan(description({**model("a"), "image": {"name": "r/i:1", **archive}}))["images"]
    assert image["archive"] == archive["archive"]


NODES = {
    "host": "g1",
    "serving_hosts": ["g1", "g2", "g3"],
    "node_addresses": {"g1": "10.0.0.1", "g2": "10.0.0.2", "g3": "10.0.0.3"},
}


def on(host: str, *models: dict[str, Any], **extra: Any) -> dict[str, Any]:
    """The plan of one host of three."""
    return plan(description(*models, **{**NODES, "host": host, **extra}))


def test_a_replica_on_several_hosts_is_planned_on_each_of_them() -> None:
    big = model("big", {"tp_size": 2, "pp_size": 2}, replicas=[{"nodes": ["g1", "g2"], "gpus": [0, 1]}])
    leader, worker = on("g1", big), on("g2", big)
    for number, found in enumerate((leader, worker)):
        (replica,) = found["replicas"]
        assert replica["nodes"] == [{"name": "g1", "address": "10.0.0.1"}, {"name": "g2", "address": "10.0.0.2"}]
        assert (replica["node"], replica["gang_port"], replica["world_size"]) == (number, 18700, 4)
        assert found["engines"][0]["nodes"] == 2 and found["engines"][0]["gpus"] == [0, 1]
        assert found["engines"][0]["ranks"] == [[0, 1], [2, 3]][number]
        assert found["repositories"][0]["parameters"] == {"tensorrt_llm": {"num_nodes": 2}}
    assert "ranks" not in on("g3", big, trtllm_serves=False)["engines"][0], "a builder makes all of them"
    both = model("big", {"tp_size": 2}, replicas=[{"nodes": ["g1", "g2"], "gpus": [0]}, {"nodes": ["g2", "g1"]}])
    assert on("g1", both)["engines"][0]["ranks"] == [0, 1]
    assert leader["gateway_models"][0]["urls"] == ["http://127.0.0.1:8000"]
    assert worker["gateway_models"][0]["urls"] == [] and "http_port" not in worker["replicas"][0]


def test_a_release_that_has_no_word_for_several_hosts_is_told_none() -> None:
    big = {**model("big", {"tp_size": 2}, replicas=[{"nodes": ["g1", "g2"]}]), "release": None}
    assert on("g1", big, trtllm_release="0.9.0")["repositories"][0]["parameters"] == {}


def test_a_host_has_nothing_of_replicas_that_it_is_no_node_of() -> None:
    replicas = [{"nodes": ["g1", "g2"], "gpus": [0]}, {"nodes": ["g2", "g3"], "gpus": [1]}]
    big, small = model("big", {"tp_size": 2}, replicas=replicas), model("small", {}, replicas=[{"gpus": [3]}])
    assert [replica["name"] for replica in on("g1", big, small)["replicas"]] == ["big-0", "small-0"]
    assert [replica["name"] for replica in on("g2", big, small)["replicas"]] == ["big-0", "big-1", "small-0"]
    assert [replica["gang_port"] for replica in on("g2", big)["replicas"]] == [18700, 18800]
    third = on("g3", big, small)
    assert [replica["name"] for replica in third["replicas"]] == ["big-1", "small-0"]
    alone = on("g3", model("other", {"tp_size": 2}, replicas=replicas[:1]), small)
    assert [item["name"] for item in alone["engines"]] == ["small"] == [item["name"] for item in alone["checkpoints"]]


def test_each_node_gives_the_gpus_that_it_has_free() -> None:
    small = model("small", {}, replicas=[{"gpus": [0]}])
    big = model("big", {"tp_size": 4}, replicas=[{"nodes": ["g1", "g2"]}])
    assert on("g1", small, big)["replicas"][1]["gpus"] == [1, 2]
    assert on("g2", big)["replicas"][0]["gpus"] == [0, 1]
    assert on("g2", big, held_gpus={"big-0": ["4", "5"]})["replicas"][0]["gpus"] == [4, 5]


@pytest.mark.parametrize(
    ("engine", "replicas", "sentence"),
    [
        ({"tp_size": 2}, [{"nodes": ["g1", "g9"]}], "big-0: nodes has g9, which is no host that serves"),
        (
            {"tp_size": 4},
            [{"nodes": ["g1", "g2"], "gpus": [0]}],
            "big-0: the engine has 4 ranks (tp_size * pp_size * cp_size), 2 on each of 2 nodes, but serving.replicas "
            "gives each 1 GPU (0); give each 2, or build the engine for 2.",
        ),
        (
            {"tp_size": 3},
            [{"nodes": ["g1", "g2"]}],
            "the engine has 3 ranks (tp_size * pp_size * cp_size), which do not split evenly over 2 nodes (g1, g2)",
        ),
        ({"tp_size": 2}, [{"nodes": ["g1", "g1"]}], "big-0: nodes has g1 twice"),
        ({"tp_size": 2}, [{"nodes": ["g1"]}], "big-0: nodes has one host, g1"),
        ({"tp_size": 2}, [{"nodes": ["g2", "g3"]}], "g1 is no node of any replica that trtllm_models describes for it"),
        (
            {"tp_size": 2},
            [{"nodes": ["g1", "g2"], "gpus": [0]}, {"nodes": ["g1", "g2"], "gpus": [0]}],
            "GPU 0 of replica",
        ),
        (
            {"tp_size": 2},
            [{"nodes": ["g1", "g2"], "gpus": [0]}, {"gpus": [1, 2]}],
            "big: its replicas on g1 are on different numbers of hosts, but share one engine",
        ),
    ],
)
def test_nodes_that_cannot_be_are_refused(
    engine: dict[str, Any], replicas: list[dict[str, Any]], sentence: str
) -> None:
    with pytest.raises(FleetError) as refused:
        on("g1", model("big", engine, replicas=replicas))
    assert sentence in str(refused.value)
