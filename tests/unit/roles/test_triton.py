# SPDX-License-Identifier: GPL-3.0-or-later
"""The role's variables are described, have the defaults they are described with, and all reach the unit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trtllm.fleet.plugins.filter.units import FilterModule
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._triton import replica as triton_replica

FILTERS = FilterModule().filters()
# What a replica may say for itself, with a value that differs from the default.
NODES = [{"name": "h1", "address": "10.0.0.1"}, {"name": "h2", "address": "10.0.0.2"}]
VALUES: dict[str, Any] = {
    "name": "other",
    "model": "other",
    "release": "0.8.0",
    "image": "sha256:" + "2" * 64,
    "repository_dir": "/srv/other",
    "engine_dirs": ["/srv/engine"],
    "checkpoint_dirs": ["/srv/checkpoint"],
    "world_size": 2,
    "mode": "llmapi",
    "gpus": ["0:1"],
    "address": "10.0.0.1",
    "http_port": 9000,
    "grpc_port": 9001,
    "metrics_port": 9002,
    "entry_models": ["other"],
    "probe_models": ["other"],
    "model_control_mode": "explicit",
    "oversubscribe": True,
    "tritonserver": "/opt/other",
    "exit_timeout": 7,
    "start_timeout": 700,
    "shm_size": "4g",
    "memory": "8g",
    "cpus": 3.5,
    "read_only": True,
    "capabilities": ["SYS_NICE"],
    "environment": {"OTHER": "1"},
    "extra_args": ["--other"],
    "volumes": ["/srv/more:/srv/more:ro"],
    "log_verbose": 2,
    "stop_timeout": 33,
    "probe_interval": 44,
    "probe_timeout": 55,
    "probe_retries": 6,
    "hang_timeout": 9,
}
# These need another option beside them to make a difference, or are only told.
WITH: dict[str, dict[str, Any]] = {
    "load_models": {"model_control_mode": "explicit", "load_models": ["other"]},
    "worker_models": {"world_size": 2, "worker_models": ["other"]},
    "spawn_processes": {"mode": "orchestrator", "spawn_processes": False},
    "llmapi_launch": {"mode": "llmapi", "llmapi_launch": True},
    "nodes": {"world_size": 2, "nodes": NODES},
    "node": {"world_size": 2, "nodes": NODES, "node": 1},
    "gang_port": {"world_size": 2, "nodes": NODES, "gang_port": 19000},
    "rdma": {"world_size": 2, "nodes": NODES, "rdma": ["nvidia.com/mofed=all"]},
}
# One is refused without the other.
BOTH: dict[str, Any] = {"context": [["1"]], "generation": [["2"]]}
TOLD = {"fingerprint"}


@pytest.fixture(scope="module")
def spec(repo_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((repo_dir / "roles/triton/meta/argument_specs.yml").read_text())
    return found["argument_specs"]


@pytest.fixture(scope="module")
def defaults(repo_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((repo_dir / "roles/triton/defaults/main.yml").read_text())
    return found


@pytest.fixture(scope="module")
def settings(repo_dir: Path, defaults: dict[str, Any]) -> dict[str, Any]:
    """What the role hands to the filter, with its templates filled from the defaults."""
    given = {**defaults, "triton_release": LAST, "triton_image": "sha256:" + "1" * 64}
    text = yaml.safe_load((repo_dir / "roles/triton/vars/main.yml").read_text())["__triton_settings"]
    text["host_rdma"] = {}  # of a host
    files = repo_dir / "roles/triton/files"
    text["scripts"] = {name: (files / name).read_text().rstrip() for name in text["scripts"]}
    assert set(text["scripts"]) == {path.name for path in files.iterdir()}
    variable = re.compile(r"{{ (triton_\w+)")
    return {
        key: given[match.group(1)] if isinstance(value, str) and (match := variable.match(value)) else value
        for key, value in text.items()
    }


def unit(settings: dict[str, Any], **replica: Any) -> dict[str, Any]:
    base = {"name": "a", "model": "a", "repository_dir": "/srv/a"}
    (service,) = FILTERS["triton_services"]([{**base, **replica}], settings)
    return dict(service)


def test_every_default_is_described_with_its_value(spec: dict[str, Any], defaults: dict[str, Any]) -> None:
    options = spec["main"]["options"]
    described = {**options, **spec["firewall"]["options"]}
    for name, value in defaults.items():
        assert described[name].get("default") == value, name
    assert {name for name, option in options.items() if option.get("required")} == {"triton_release", "triton_image"}


def test_every_option_of_a_replica_reaches_its_unit(spec: dict[str, Any], settings: dict[str, Any]) -> None:
    options = spec["main"]["options"]["triton_replicas"]["options"]
    assert set(options) == set(VALUES) | set(WITH) | set(BOTH) | TOLD
    plain = unit(settings)
    for name, value in VALUES.items():
        release = {"release": "1.3.0"} if value == "llmapi" else {}
        assert unit({**settings, **release}, **{name: value}) != plain, name
    for name, values in WITH.items():
        without = {key: value for key, value in values.items() if key != name}
        assert unit(settings, **values) != unit(settings, **without), name
    both = {"mode": "trtllm-serve", "release": "1.3.0", "checkpoint_dirs": ["/srv/checkpoint"], **BOTH}
    for name in BOTH:
        assert unit(settings, **both) != unit(settings, **{**both, name: [["3"]]}), name


def test_defaults_make_the_service_that_the_documents_ask_for(settings: dict[str, Any]) -> None:
    container = unit(settings)["unit"]["Container"]
    assert (container["ShmSize"], container["StopTimeout"], container["HealthInterval"]) == ("2g", 60, "30s")
    assert container["Memory"] is None and container["PodmanArgs"] is None and container["ReadOnly"] is None


def test_preflight_needs_no_image_and_tells_every_port(settings: dict[str, Any]) -> None:
    replicas = [{"name": "a", "model": "m"}, {"name": "b", "model": "m", "http_port": 8100}]
    listens = FILTERS["triton_listen"](replicas, {**settings, "image": ""})
    assert [listen["service"] for listen in listens] == ["triton-a"] * 3 + ["triton-b"] * 3
    assert [listen["port"] for listen in listens][:4] == [8000, 8001, 8002, 8100]


def test_results_tell_where_each_replica_is(settings: dict[str, Any]) -> None:
    replicas = [{"name": "a", "model": "m", "repository_dir": "/srv/a", "address": "::"}]
    services = {"triton-a": {"unit": "triton-a.service", "action": "started", "active": "active"}}
    (result,) = FILTERS["triton_results"](replicas, settings, services).values()
    assert result["http_url"] == "http://127.0.0.1:8000"
    assert (result["action"], result["entry_models"]) == ("started", ["ensemble", "tensorrt_llm_bls"])


def test_refusals_are_sentences_for_ansible(settings: dict[str, Any]) -> None:
    from ansible.errors import AnsibleFilterError

    twice = [{"name": "a", "model": "m", "repository_dir": "/srv/a"}] * 2
    with pytest.raises(AnsibleFilterError, match="two replicas called 'a'"):
        FILTERS["triton_services"](twice, settings)
    assert triton_replica.service_name("a") == "triton-a"
