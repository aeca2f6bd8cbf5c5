# SPDX-License-Identifier: GPL-3.0-or-later
"""What is rendered for a cluster is valid, says what a unit of a host says, and holds neither secrets nor surprises."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._kubernetes.forms import files
from ansible_collections.trtllm.fleet.plugins.module_utils._kubernetes.names import literal, name_of
from ansible_collections.trtllm.fleet.plugins.module_utils._kubernetes.published import published, steps
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.replica import triton_services
from ansible_collections.trtllm.fleet.plugins.plugin_utils._cache import cache_dir
from ansible_collections.trtllm.fleet.plugins.plugin_utils._kubernetes import cluster
from unit.kubernetes_fakes import CHECKPOINTS, HUB, IMAGES, LEAST, MODELS, SERVED, SETTINGS, found, given, objects

RELEASES = ["1.35", "1.36", "1.37"]
# Of others' definitions, which Kubernetes' own schemas do not have.
OTHERS = {"LeaderWorkerSet", "PodMonitor", "HTTPRoute"}
# kubectl keeps what was applied in an annotation of this size where it is not told to apply on the server.
ANNOTATIONS = 262144
CPU = [{"name": "m", "checkpoint": HUB, "serving": {"replicas": [{"gpus": []}]}}]
ON_HOSTS = {
    "m": {
        "repository_dir": "/var/lib/trtllm/repositories/m/r1", "engine_dir": "/var/lib/trtllm/engines/m/e1",
        "fingerprint": "r1", "hosts": ["n2", "n1"], "entry_models": ["ensemble"], "mode": "leader",
    }
}  # fmt: skip
SERVED_ON_HOSTS = {
    "served": {
        "repository_dir": f"/var/lib/trtllm/repositories/served/{'1' * 64}", "fingerprint": "1" * 64, "hosts": ["n1"],
        "entry_models": ["served"], "mode": "trtllm-serve",
    }
}  # fmt: skip
DESCRIPTIONS = {
    "all that can be": given(),
    "as little as may be": given(CPU, LEAST),
    "deployments": given(settings={**SETTINGS, "workload": "deployment", "network_policy": False}),
    "directories of nodes": given(CPU, LEAST, published=ON_HOSTS),
    "checkpoints": given([*CHECKPOINTS, MODELS[0]], {**SETTINGS, "models": []}),
    "checkpoints of nodes": given([SERVED], LEAST, published=SERVED_ON_HOSTS),
    "a directory of all nodes": given(CPU, {"namespace": "llm", "volume": {"host_path": "/srv/llm"}}),
}


def as_templates(all_of_them: list[Any]) -> list[Any]:
    """What a LeaderWorkerSet has in it, as Kubernetes' own kind of it."""
    parts = [one["spec"]["leaderWorkerTemplate"] for one in all_of_them if one["kind"] == "LeaderWorkerSet"]
    return [
        {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": part[key]}
        for part in parts
        for key in ("leaderTemplate", "workerTemplate")
    ]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_every_object_is_valid_and_has_nothing_else(name: str, release: str) -> None:
    rendered = objects(DESCRIPTIONS[name])
    judged = [one for one in rendered if one["kind"] not in OTHERS] + as_templates(rendered)
    for one in judged:
        assert kubernetes_validate.validate(one, release, strict=True) == release
    assert len(judged) > 3


def test_the_schemas_refuse_what_is_wrong() -> None:
    service = found(objects(), "Service", "openai-gateway")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**service, "spec": {**service["spec"], "port": 1}}, RELEASES[0], strict=True)


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_the_same_description_gives_the_same_bytes(name: str) -> None:
    once = files(cluster(DESCRIPTIONS[name], {}), LAST)
    assert once == files(cluster(json.loads(json.dumps(DESCRIPTIONS[name])), {}), LAST)
    assert all(len(text) < ANNOTATIONS for path, text in once.items() if "configmap" in path)


def test_other_controllers_pack_the_same_program() -> None:
    """A process of its own reads the sources anew."""
    code = (
        "import hashlib; from ansible_collections.trtllm.fleet.plugins.module_utils._kubernetes import jobs; "
        "print(hashlib.sha256(jobs.code(jobs.BUILDS)).hexdigest())"
    )
    said = {
        subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
                       capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(said) == 1


# -- the three forms ---------------------------------------------------------------------------------------------------


def by_name(documents: Any) -> dict[tuple[str, str], Any]:
    return {(one["kind"], one["metadata"]["name"]): one for one in documents if one}


def of_files(texts: dict[str, str], start: str) -> dict[tuple[str, str], Any]:
    texts = {path: text for path, text in texts.items() if path.startswith(start) and "kustomization" not in path}
    return by_name(one for text in texts.values() for one in yaml.safe_load_all(text))


def tool(name: str, *otherwise: str) -> list[str]:
    """A program that `tools/go-tools` has made, or one of the machine that does the same."""
    path = cache_dir() / "go" / "bin" / name
    if path.is_file():
        return [str(path)]
    if not otherwise or shutil.which(otherwise[0]) is None:
        pytest.skip(
            f"{name} is a program in Go that takes minutes to build, so not each run does; tools/go-tools makes it"
        )
    return list(otherwise)


def written(texts: dict[str, str], place: Path) -> Path:
    for path, text in texts.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text)
    return place


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_the_base_has_each_object_once_and_names_every_file(name: str) -> None:
    texts = files(cluster(DESCRIPTIONS[name], {}), LAST)
    assert of_files(texts, "base/") == of_files(texts, "plain/") == by_name(objects(DESCRIPTIONS[name]))
    for path, text in texts.items():
        if path.endswith("/kustomization.yaml"):
            home = path.removesuffix("kustomization.yaml")
            beside = {one.removeprefix(home).split("/")[0] for one in texts if one.startswith(home) and one != path}
            assert set(yaml.safe_load(text)["resources"]) == beside


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_kustomize_builds_the_base(name: str, tmp_path: Path) -> None:
    texts = files(cluster(DESCRIPTIONS[name], {}), LAST)
    place = written(texts, tmp_path)
    build = tool("kustomize", "kubectl")
    build += ["kustomize"] if build == ["kubectl"] else ["build"]
    done = subprocess.run([*build, place / "base"], capture_output=True, text=True, check=True)
    assert by_name(yaml.safe_load_all(done.stdout)) == of_files(texts, "plain/")


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_the_rendered_chart_is_the_base(name: str, tmp_path: Path) -> None:
    texts = files(cluster(DESCRIPTIONS[name], {}), LAST)
    place = written(texts, tmp_path)
    helm = [*tool("helm"), "template", "x", place / "chart", "--namespace"]
    done = subprocess.run([*helm, "llm"], capture_output=True, text=True, check=True)
    assert by_name(yaml.safe_load_all(done.stdout)) == of_files(texts, "base/")
    # A stage alone, elsewhere, and one more gateway.
    other = subprocess.run([*helm, "other", "--set", "stages.fetch=false", "--set", "gateway.replicas=9"],
                           capture_output=True, text=True, check=True)  # fmt: skip
    served = by_name(yaml.safe_load_all(other.stdout))
    assert served["Deployment", "openai-gateway"]["spec"]["replicas"] == 9
    assert {one["metadata"].get("namespace", "other") for one in served.values()} <= {"other"}
    assert not [name for kind, name in served if name.startswith("fetch-")]


def test_values_of_the_chart_are_those_of_what_it_renders() -> None:
    texts = files(cluster(given(), {}), LAST)
    values = yaml.safe_load(texts["chart/values.yaml"])
    assert values["stages"] == {"fetch": True, "build": True, "serve": True}
    assert values["servers"]["triton-small"]["replicas"] == 1
    assert "replicas" not in values["servers"][name_of("triton", "two.0")]


# -- what a pod runs ---------------------------------------------------------------------------------------------------


def container(one: Any) -> Any:
    return one["spec"]["template"]["spec"]["containers"][0]


def test_a_pod_runs_what_a_unit_runs() -> None:
    rendered = objects(given(CPU, LEAST))
    pod = container(found(rendered, "StatefulSet"))
    scripts = found(rendered, "ConfigMap", "triton-scripts")["data"]
    repository = next(word.split("=", 1)[1] for word in pod["command"] if word.startswith("--model-repository"))
    replica = {"name": "m", "model": "m", "gpus": [], "repository_dir": repository, "address": "0.0.0.0"}
    scripts = {name: text.removesuffix("\n") for name, text in scripts.items()}
    (service,) = triton_services([replica], {"release": LAST, "image": IMAGES["triton"], "scripts": scripts})
    unit = service["unit"]["Container"]
    assert pod["command"] == unit["Exec"]
    assert {one["name"]: one["value"] for one in pod["env"]} == unit["Environment"]
    assert pod["startupProbe"]["exec"]["command"] == ["sh", "-c", unit["HealthStartupCmd"]]
    assert pod["livenessProbe"]["exec"]["command"] == ["sh", "-c", unit["HealthCmd"]]
    assert pod["readinessProbe"]["exec"] == pod["livenessProbe"]["exec"]
    (script,) = [mount for mount in pod["volumeMounts"] if mount["name"] == "scripts"]
    assert set(service["files"]) == {f"{script['mountPath']}/{name}" for name in scripts}


@pytest.mark.parametrize("model", CHECKPOINTS, ids=lambda model: str(model["name"]))
def test_a_pod_without_an_engine_runs_what_a_unit_runs(model: dict[str, Any]) -> None:
    rendered = objects(given([model], {**SETTINGS, "models": []}))
    pod, name = container(found(rendered, "StatefulSet")), model["name"]
    scripts = found(rendered, "ConfigMap", "triton-scripts")["data"]
    scripts = {name: text.removesuffix("\n") for name, text in scripts.items()}
    (link,) = {re.search(r"/var/lib/trtllm/kubernetes/[^/]+/[0-9a-f]{64}", text)[0] for text in told(pod)}  # type: ignore[index]
    first = model["serving"]["replicas"][0]
    replica = {
        "name": name, "model": name, "repository_dir": link, "address": "0.0.0.0", "gpus": first.get("gpus"),
        "checkpoint_dirs": [f"/var/lib/trtllm/checkpoints/{name}"], "mode": model.get("flow", "trtllm-serve"),
        "release": model.get("release", LAST), "image": pod["image"], "world_size": 1, **first,
    }  # fmt: skip
    (service,) = triton_services([replica], {"scripts": scripts})
    unit = service["unit"]["Container"]
    assert pod["command"] == unit["Exec"]
    variables = {one["name"]: one["value"] for one in pod["env"]}
    # Whether its place is one of a host decides what a unit keeps of a start; a pod keeps it while it is there.
    assert {key: value for key, value in variables.items() if not value.startswith("/cache/")} == unit["Environment"]
    assert variables["TRITON_CACHE_DIR"] == "/cache/triton"
    assert {mount["name"]: mount["mountPath"] for mount in pod["volumeMounts"]}["cache"] == "/cache"
    assert pod["startupProbe"]["exec"]["command"] == ["sh", "-c", unit["HealthStartupCmd"]]
    assert pod["livenessProbe"]["exec"]["command"] == ["sh", "-c", unit["HealthCmd"]]
    (script,) = [mount for mount in pod["volumeMounts"] if mount["name"] == "scripts"]
    assert {path for path in service["files"] if path.startswith("/etc/")} == {
        f"{script['mountPath']}/{name}" for name in scripts
    }


def told(pod: Any) -> list[str]:
    """The words and values of a container that name what it serves."""
    words = [*pod["command"], *(one["value"] for one in pod["env"])]
    return [word for word in words if "/var/lib/trtllm/kubernetes/" in word]


def test_trtllm_serve_has_one_port_and_the_checkpoint_by_the_name_of_the_model() -> None:
    rendered = objects(given(CHECKPOINTS, {**SETTINGS, "models": []}))
    pod = found(rendered, "StatefulSet", "served")["spec"]["template"]["spec"]
    mount = next(one for one in pod["containers"][0]["volumeMounts"] if one["mountPath"] == "/models/served")
    assert mount == {**mount, "name": "artefacts", "subPath": "checkpoints/served", "readOnly": True}
    # It is not there yet while the pod waits for it.
    assert [one["mountPath"] for one in pod["initContainers"][0]["volumeMounts"]] == ["/var/lib/trtllm"]
    assert [port["name"] for port in pod["containers"][0]["ports"]] == ["http"]
    assert [port["name"] for port in found(rendered, "Service", "served")["spec"]["ports"]] == ["http"]
    assert "serve_stop.sh 60" in pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][2]
    assert found(rendered, "StatefulSet", "served")["spec"]["replicas"] == 2
    config = json.loads(found(rendered, "ConfigMap", "openai-gateway")["data"]["gateway.yml"])
    served = next(one for one in config["models"] if one["name"] == "served")
    assert (served["release"], served["max_seq_len"], len(served["urls"])) == ("1.3.0", 512, 2)


def test_servers_of_two_kinds_are_one_pod_with_the_gpus_of_all() -> None:
    rendered = objects(given(CHECKPOINTS, {**SETTINGS, "models": []}))
    both = found(rendered, "StatefulSet", "kinds")
    assert both["spec"]["replicas"] == 2, "they are alike, whichever GPUs were given"
    assert container(both)["resources"]["limits"]["nvidia.com/gpu"] == "3"
    parts = next(json.loads(one["value"]) for one in container(both)["env"] if one["name"] == "TRTLLM_PARTS")
    assert [(one["name"], one["gpus"]) for one in parts["servers"]] == [
        ("context-0", "0"), ("context-1", "1"), ("generation-0", "2"),
    ]  # fmt: skip


def test_a_checkpoint_takes_no_gpu_until_it_is_served() -> None:
    rendered = objects(given(CHECKPOINTS, {**SETTINGS, "models": []}))
    job = found(rendered, "Job", "build-served")
    assert container(job)["image"] == "reg.example/serve:1" and "nodeSelector" not in job["spec"]["template"]["spec"]
    assert not container(job)["resources"]
    spec = json.loads(found(rendered, "ConfigMap", job["metadata"]["name"])["data"]["spec.json"])
    assert spec["layout"] == "trtllm-serve" and spec["parameters"]["tensorrt_llm"]["tensor_parallel_size"] == 2
    # Nor is a kind of GPU asked for, as nothing is made for one.
    assert found(objects(given([SERVED], LEAST)), "Job", "build-served")


def test_metrics_are_asked_where_the_server_has_some() -> None:
    rendered = objects(given(CHECKPOINTS, {**SETTINGS, "models": []}))
    asked = {
        one["metadata"]["name"]: one["spec"]["podMetricsEndpoints"][0]
        for one in rendered
        if one["kind"] == "PodMonitor"
    }
    assert (asked["triton-served"]["port"], asked["triton-served"]["path"]) == ("http", "/prometheus/metrics")
    assert (asked["triton-api"]["port"], asked["triton-api"]["path"]) == ("metrics", "/metrics")
    assert "triton-older" not in asked
    assert len(found(rendered, "NetworkPolicy", "older")["spec"]["ingress"]) == 1


def test_nodes_give_their_checkpoint_by_the_name_of_the_model() -> None:
    spec = found(objects(DESCRIPTIONS["checkpoints of nodes"]), "StatefulSet")["spec"]["template"]["spec"]
    places = {one["name"]: one["hostPath"]["path"] for one in spec["volumes"] if "hostPath" in one}
    mounts = {one["mountPath"]: places.get(one["name"]) for one in spec["containers"][0]["volumeMounts"]}
    repository = SERVED_ON_HOSTS["served"]["repository_dir"]
    assert mounts["/models/served"] == "/var/lib/trtllm/checkpoints/served" and mounts[repository] == repository


def test_gpus_follow_the_ranks_and_the_engine_its_kind() -> None:
    rendered = objects()
    two = found(rendered, "StatefulSet", "two-0")
    assert container(two)["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert two["spec"]["template"]["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    build = found(rendered, "Job", "build-two")
    assert container(build)["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert build["spec"]["template"]["spec"]["nodeSelector"] == two["spec"]["template"]["spec"]["nodeSelector"]
    assert "nvidia.com/gpu" not in json.dumps(container(found(rendered, "Job", "fetch-two")))
    small = found(rendered, "StatefulSet", "small")["spec"]["template"]["spec"]
    assert small["resourceClaims"][0]["resourceClaimTemplateName"] == "triton-small"
    assert "nvidia.com/gpu" not in small["containers"][0]["resources"]["limits"]
    wide = found(rendered, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    assert wide["size"] == 2 and wide["restartPolicy"] == "RecreateGroupOnPodRestart"
    for key in ("leaderTemplate", "workerTemplate"):
        assert wide[key]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"


def test_replicas_that_are_alike_are_one_workload_and_others_are_not() -> None:
    options = [{}, {"options": {"log_verbose": 1}}, {}]
    models = [{"name": "m", "checkpoint": HUB, "serving": {"replicas": options}}]
    rendered = objects(given(models, {**LEAST, "gpu_product": "X"}))
    sets = {one["metadata"]["name"]: one["spec"]["replicas"] for one in rendered if one["kind"] == "StatefulSet"}
    assert sets == {"triton-m-0": 2, "triton-m-1": 1}
    config = json.loads(found(rendered, "ConfigMap", "openai-gateway")["data"]["gateway.yml"])
    assert config["models"][0]["urls"] == [
        "http://triton-m-0-0.triton-m-0:8000", "http://triton-m-0-1.triton-m-0:8000",
        "http://triton-m-1-0.triton-m-1:8000",
    ]  # fmt: skip


def test_the_gateway_knows_as_many_pods_as_there_may_be() -> None:
    rendered = objects()
    config = json.loads(found(rendered, "ConfigMap", "openai-gateway")["data"]["gateway.yml"])
    by_model = {model["name"]: model for model in config["models"]}
    assert len(by_model["two.0"]["urls"]) == 4 and len(by_model["wide"]["urls"]) == 1
    assert by_model["small"]["max_seq_len"] == 512
    scaler = found(rendered, "HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"]["name"] == found(rendered, "StatefulSet", "two-0")["metadata"]["name"]
    assert "replicas" not in found(rendered, "StatefulSet", "two-0")["spec"]


def test_a_memory_limit_has_room_for_shared_memory() -> None:
    rendered = objects(given(CPU, LEAST), memory="6g", shm_size="2g", cpus=1.5, read_only=True)
    pod = container(found(rendered, "StatefulSet"))
    assert pod["resources"]["limits"] == {"memory": "8Gi", "cpu": "1.5"}
    assert pod["securityContext"]["readOnlyRootFilesystem"] is True
    assert "/tmp" in {mount["mountPath"] for mount in pod["volumeMounts"]}


def test_pods_take_exactly_the_directories_of_the_nodes_that_have_them() -> None:
    rendered = objects(DESCRIPTIONS["directories of nodes"])
    assert not [one for one in rendered if one["kind"] in ("Job", "PersistentVolumeClaim")]
    spec = found(rendered, "StatefulSet")["spec"]
    paths = {volume["hostPath"]["path"] for volume in spec["template"]["spec"]["volumes"] if "hostPath" in volume}
    assert paths == {
        "/var/lib/trtllm/repositories/m/r1",
        "/var/lib/trtllm/engines/m/e1",
        "/var/lib/trtllm/checkpoints/m",
    }
    terms = spec["template"]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert terms["nodeSelectorTerms"][0]["matchExpressions"][0]["values"] == ["n1", "n2"]
    assert spec["replicas"] == 2


def test_the_gateway_begins_with_a_copy_of_the_keys_that_it_alone_may_read(tmp_path: Path) -> None:
    pod = container(found(objects(), "Deployment", "openai-gateway"))
    assert pod["command"][-3:] == ["python3", "-m", "openai_gateway"]
    (program,) = [word for word in pod["command"] if "\n" in word]
    (tmp_path / "secret").write_text("sk-1\n")
    (tmp_path / "secret").chmod(0o444)
    words = [sys.executable, "-I", "-S", "-c", program, tmp_path / "secret", tmp_path / "keys", "stat", "-c", "%a"]
    for _start in range(2):
        done = subprocess.run([*words, tmp_path / "keys"], capture_output=True, text=True, check=True)
        assert done.stdout == "400\n" and (tmp_path / "keys").read_text() == "sk-1\n"
    assert "command" not in container(found(objects(given(CPU, LEAST)), "Deployment", "openai-gateway"))


# -- what changes what -------------------------------------------------------------------------------------------------


def asked(engine: dict[str, Any] | None = None, **more: Any) -> tuple[str, str, str]:
    """(the link that is served, the name of the Job that builds, the name of the Job that downloads)"""
    models = [
        {"name": "m", "checkpoint": {**HUB, **more}, "engine": engine or {}, "serving": {"replicas": [{"gpus": []}]}}
    ]
    rendered = objects(given(models, LEAST))
    words = container(found(rendered, "StatefulSet"))["command"]
    jobs = [found(rendered, "Job", f"{what}-")["metadata"]["name"] for what in ("build", "fetch")]
    return next(word for word in words if word.startswith("--model-repository")), jobs[0], jobs[1]


def test_another_option_is_another_build_and_another_place() -> None:
    before, after = asked(), asked({"max_batch_size": 4})
    assert before[0] != after[0] and before[1] != after[1] and before[2] == after[2]


def test_another_checkpoint_is_another_download_and_a_mirror_of_it_is_not_another_engine() -> None:
    before, other, mirror = asked(), asked(revision="v2"), asked(endpoint="https://mirror.example")
    assert before[0] != other[0] and before[2] != other[2]
    assert before[0] == mirror[0] and before[1] == mirror[1] and before[2] != mirror[2]


# -- what is refused, and what is hostile ------------------------------------------------------------------------------


def test_no_secret_is_written_and_one_in_the_description_is_refused() -> None:
    text = "".join(files(cluster(given(), {}), LAST).values())
    assert "kind: Secret" not in text
    models = [{**MODELS[0], "checkpoint": {**HUB, "token": "hf_secret"}}]
    with pytest.raises(FleetError, match="name that in kubernetes_token_secret") as refused:
        objects(given(models))
    assert "hf_secret" not in str(refused.value)


def with_settings(**more: Any) -> dict[str, Any]:
    return given(settings={**SETTINGS, **more})


def with_model(**more: Any) -> dict[str, Any]:
    return given([{**MODELS[0], **more}], {**SETTINGS, "models": []})


ON_HOST = {"source": "path", "path": "/srv/m", "location": "host"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    (with_settings(namespace="a\nb: c"), "kubernetes_namespace"),
    (with_settings(namespace="A"), "kubernetes_namespace is 'A'"),
    (with_settings(volume={"claim": "x/y"}), "kubernetes_volume.claim"),
    (with_settings(volume={"host_path": "relative"}), "absolute"),
    (with_settings(volume={"host_path": "/x", "size": "1Gi"}), "takes no size"),
    (with_settings(volume={"claim": "x", "size": "much"}), "kubernetes_volume.size is 'much'"),
    (with_settings(volume={"claim": "x", "persistent_volume": {"nfs": {}}}), "without size"),
    (with_settings(volume={"claim": "x", "size": "1", "persistent_volume": {"a": {}, "b": {}}}), "give one source"),
    (with_settings(volum={}), "did you mean"),
    (with_settings(gpu_product="a b"), "gpu_product is 'a b'"),
    (with_settings(node_selector={"a b": "c"}), "A key of"),
    (with_settings(node_selector={"a": "{{ evil }}"}), "node_selector.a"),
    (with_settings(ingress={"host": "a b"}), "kubernetes_ingress.host"),
    (with_settings(token_secret={"name": "x", "key": "../y"}), "token_secret.key"),
    (with_settings(image_pull_secrets=["A B"]), "kubernetes_image_pull_secrets"),
    (with_settings(models=[{"name": "typo"}]), "trtllm_models does not describe"),
    (with_settings(models=[{"name": "small", "autoscaling": {"min": 3, "max": 2}}]), "1 <= min <= max"),
    (given([SERVED], {**SETTINGS, "models": [{"name": "served", "autoscaling": {"max": 4}}]}),
     "is not known to tell; leave autoscaling out, or set flow: engine"),
    (with_settings(gang_secret=None), "kubernetes_gang_secret"),
    (with_settings(gpu_product=None), "neither kubernetes_gpu_product nor"),
    (with_settings(runtime_class="-"), "kubernetes_runtime_class"),
    (given(images={**IMAGES, "triton": "a b"}), "The image of triton"),
    (given(images={**IMAGES, "gateway": ""}), "The image of gateway"),
    (given(images={**IMAGES, "fetch": ""}), "checkpoint_image_name"),
    (with_model(name="A\nB"), "one line without them"),
    (with_model(name="A_B"), "lower-case"),
    (with_model(serving={"replicas": [{"gpus": ["all"]}]}), "gpus has all"),
    (with_model(serving={"replicas": [{"gpus": [0, 1]}]}), "1 ranks"),
    (with_model(serving={"replicas": [{"options": {"volumes": ["named:/x"]}}]}), "absolute path"),
    (with_model(engine={"unknown": 1}), "unknown"),
    (with_model(serving={"replicas": [{"gpus": [0], "weight": 2}]}), "reaches all replicas of a model as one Service"),
    (with_model(checkpoint=ON_HOST), "in_place"),
    (with_model(checkpoint={**ON_HOST, "in_place": True}), "below trtllm_root"),
    (with_model(checkpoint={**HUB, "cache": "/srv/cache"}), "cache is a path of a host"),
    (with_model(checkpoint={**HUB, "location": "controller"}), "location is controller"),
    (given(trtllm_models="text"), "is no list"),
    (given(trtllm_models=[]), "empty"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "said"), REFUSED, ids=[said for _arguments, said in REFUSED])
def test_what_no_cluster_can_do_is_refused_in_a_sentence(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(FleetError) as refused:
        objects(arguments)
    text = str(refused.value)
    assert said in text and "\n" not in text and "Traceback" not in text


@pytest.mark.parametrize("value", ["$(KEY) $$x", "a: {{ b }}", "#", '"', "'", "\\", "- x", "{}", "no", "`id`"])
def test_hostile_values_arrive_as_they_are(value: str) -> None:
    arguments = with_model(
        serving={"replicas": [{"options": {"environment": {"KEY": value}, "extra_args": [f"--x={value}"]}}]}
    )
    pod = container(found(objects(arguments), "StatefulSet"))
    (variable,) = [one for one in pod["env"] if one["name"] == "KEY"]
    assert expanded(variable["value"]) == value
    assert f"--x={value}" in [expanded(word) for word in pod["command"]]
    texts = files(cluster(arguments, {}), LAST)
    assert of_files(texts, "base/") == of_files(texts, "plain/")


def expanded(text: str) -> str:
    """As Kubernetes expands a text whose variables are not there (third_party/forked/golang/expansion)."""
    made, at = "", 0
    while at < len(text):
        if text[at] == "$" and text[at + 1 : at + 2] == "$":
            made, at = made + "$", at + 2
        else:
            assert text[at : at + 2] != "$(", f"{text} would be expanded"
            made, at = made + text[at], at + 1
    return made


def test_only_what_would_be_expanded_is_doubled() -> None:
    assert [literal(word) for word in ("$HOME", "$(A)", "a$$b", "$")] == ["$HOME", "$$(A)", "a$$$$b", "$"]


def test_names_are_kept_or_told_apart() -> None:
    names = [name_of("triton", model) for model in ("a-b", "a.b", "x" * 63, "x" * 62)]
    assert names[0] == "triton-a-b" and len(set(names)) == 4 and all(len(name) <= 40 for name in names)


def test_the_program_of_a_job_is_whole(tmp_path: Path) -> None:
    """It runs by itself, with the Python of an image, and says in a sentence what it lacks."""
    for what in ("fetch", "build"):
        packed = found(objects(), "ConfigMap", f"{what}-code")["binaryData"]["code.pyz"]
        (tmp_path / "code.pyz").write_bytes(base64.b64decode(packed))
        done = subprocess.run([sys.executable, "-I", "-S", tmp_path / "code.pyz", tmp_path / "none"],
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 1 and done.stderr.startswith("ERROR ") and "Traceback" not in done.stderr, done.stderr


# -- nodes of the inventory --------------------------------------------------------------------------------------------

SERVED_BY_NODES = {
    "model_repository_results": {"m": {"repository_dir": "/r", "fingerprint": "f", "mode": "trtllm-serve"}},
}
MADE = {
    "engine_results": {"m": {"engine_dir": "/e"}},
    "model_repository_results": {"m": {"repository_dir": "/r", "fingerprint": "f", "mode": "leader"}},
}


def test_what_nodes_have_is_known_by_their_names_in_the_cluster() -> None:
    hostvars = {"h1": {**MADE, "kubernetes_node_name": "n1"}, "h2": MADE, "lost": {}}
    assert published(hostvars, ["h2", "h1", "lost"]) == {
        "m": {"repository_dir": "/r", "fingerprint": "f", "mode": "leader", "engine_dir": "/e", "hosts": ["n1", "h2"]}
    }


def test_nodes_may_have_a_model_without_an_engine() -> None:
    (found_,) = published({"h1": SERVED_BY_NODES}, ["h1"]).values()
    assert found_ == {"repository_dir": "/r", "fingerprint": "f", "mode": "trtllm-serve", "hosts": ["h1"]}


def test_nodes_that_differ_are_refused() -> None:
    other = {**MADE, "engine_results": {"m": {"engine_dir": "/other"}}}
    with pytest.raises(FleetError, match="h1 and h2 have made different"):
        published({"h1": MADE, "h2": other}, ["h1", "h2"])


def test_an_operator_is_told_what_to_type() -> None:
    stages = [{"name": "build", "file": "plain/2-build.yaml", "jobs": ["build-m-1"]},
              {"name": "serve", "file": "plain/3-serve.yaml", "jobs": []}]  # fmt: skip
    assert steps({"output": "/a b", "stages": stages}, "llm")[1:] == [
        "  kubectl apply --server-side -f '/a b/plain/2-build.yaml'",
        "  kubectl wait --namespace=llm --for=condition=complete --timeout=4h job/build-m-1",
        "  kubectl apply --server-side -f '/a b/plain/3-serve.yaml'",
    ]
