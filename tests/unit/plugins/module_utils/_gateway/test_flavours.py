# SPDX-License-Identifier: GPL-3.0-or-later
"""What each flavour of the gateway is asked to run, and what is refused because it cannot do it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trtllm.fleet.plugins.filter.flavours import gateway_flavour
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._gateway import front
from ansible_collections.trtllm.fleet.plugins.module_utils._gateway.flavours import (
    ABILITIES,
    FLAVOURS,
    GATEWAY,
    OPENAI_TRTLLM,
    TRITON_FRONTEND,
    flavour_of,
    refusals,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE, release
from ansible_collections.trtllm.fleet.plugins.module_utils._service.quadlet import render
from contract.facts import openai_frontend_options

ROLE = Path(__file__).resolve().parents[5] / "roles" / "openai_gateway"
MODEL = {
    "name": "codellama-13b",
    "entry_model": "tensorrt_llm_bls",
    "urls": ["http://127.0.0.1:8010"],
    "tokenizer_dir": "/var/lib/trtllm/checkpoints/codellama-13b",
}
SETTINGS: dict[str, Any] = {
    "models": [MODEL],
    "release": LAST_ENGINE_RELEASE,
    "image": "sha256:1a2b",
    "image_source": "pull",
    "address": "0.0.0.0",
    "port": 3000,
    "user": 65532,
    "shutdown_timeout": 60,
    "key_file": "/etc/trtllm/openai_gateway/front.env",
    "probe": "the probe",
    "probe_file": "/etc/trtllm/openai_gateway/probe-1.bash",
    "triton": [],
    "triton_ports": {},
}
FRONTEND = {"repository_dir": "/models/codellama", "engine_dirs": ["/engines/codellama"], "gpus": [0, 1]}


def service(flavour: str, **given: Any) -> dict[str, Any]:
    return front.front_service(flavour, {**SETTINGS, **given})


def words(found: dict[str, Any]) -> list[str]:
    return list(found["unit"]["Container"]["Exec"])


def test_openai_trtllm_is_told_all_on_its_command_line_but_the_key() -> None:
    plain = service(OPENAI_TRTLLM)
    assert words(plain) == ["--host", "0.0.0.0", "--port", "3000", "--triton-endpoint", "http://127.0.0.1:8011"]
    assert plain["unit"]["Container"]["StopSignal"] == "SIGINT"
    assert plain["unit"]["Container"]["Environment"] == {"RUST_LOG": "warn"}
    keyed = service(OPENAI_TRTLLM, api_keys=["sk-secret"], history_template="/srv/llama3.liquid")
    assert keyed["unit"]["Container"]["Entrypoint"] == "/bin/sh"
    assert words(keyed)[3] == SETTINGS["key_file"]
    assert words(keyed)[-2:] == ["--history-template-file", "/srv/llama3.liquid"]
    assert "sk-secret" not in str(keyed)
    mounted = [volume.split(":")[0] for volume in keyed["unit"]["Container"]["Volume"]]
    assert mounted == [SETTINGS["probe_file"], "/srv/llama3.liquid", SETTINGS["key_file"]]


def test_it_starts_after_the_replica_that_it_asks_and_knows_its_port() -> None:
    replicas = [
        {"service": "triton-one", "replica": "one", "http_url": "http://127.0.0.1:8010"},
        {"service": "triton-other", "replica": "other", "http_url": "http://127.0.0.1:8020"},
    ]
    ports = {"one": {"grpc_port": 9001}, "other": {"grpc_port": 8021}}
    found = service(OPENAI_TRTLLM, triton=replicas, triton_ports=ports)
    assert found["unit"]["Unit"]["After"] == ["network-online.target", "triton-one.service"]
    assert words(found)[-1] == "http://127.0.0.1:9001"
    given = service(OPENAI_TRTLLM, triton=replicas, triton_ports=ports, grpc_url="http://10.0.0.7:8001")
    assert words(given)[-1] == "http://10.0.0.7:8001"


def test_the_probe_asks_for_a_token_where_the_host_reaches_the_front() -> None:
    container = service(OPENAI_TRTLLM, address="::", api_keys=["sk-secret"])["unit"]["Container"]
    expected = f"bash {SETTINGS['probe_file']} ::1 3000 tensorrt_llm_bls {SETTINGS['key_file']}"
    assert container["HealthCmd"] == container["HealthStartupCmd"] == expected


@pytest.mark.parametrize("flavour", [OPENAI_TRTLLM, TRITON_FRONTEND])
@pytest.mark.parametrize("podman", ["5.4", "4.4", "4.1"])
def test_every_podman_gets_a_unit(flavour: str, podman: str) -> None:
    found = service(flavour, frontend=FRONTEND, api_keys=["k"] if flavour == OPENAI_TRTLLM else [])
    text = render(found["name"], found["unit"], podman).text
    assert FLAVOURS[flavour].stop_signal in text
    assert found["record"]["names"] == {"codellama-13b": "tensorrt_llm_bls"}


def test_the_front_inside_triton_is_the_server_of_its_models() -> None:
    found = service(TRITON_FRONTEND, frontend=FRONTEND)
    container = found["unit"]["Container"]
    assert container["AddDevice"] == ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]
    assert container["Environment"]["TRTLLM_ORCHESTRATOR"] == "1"
    assert [listen["port"] for listen in found["listen"]] == [3000, 8000, 8001]
    assert found["load_paths"] == FRONTEND["engine_dirs"]
    with pytest.raises(FleetError, match="needs openai_gateway_frontend.repository_dir"):
        service(TRITON_FRONTEND, frontend={})


def test_the_front_inside_triton_gets_only_options_that_its_release_has() -> None:
    recorded = openai_frontend_options()
    everything = {**MODEL, "chat_template": "/srv/own.jinja", "tool_call_parser": "llama3", "default_max_tokens": 512}
    for triton, options in recorded.items():
        frontend = {**FRONTEND, "triton_version": triton}
        plain = words(service(TRITON_FRONTEND, frontend=frontend))
        assert {word for word in plain if word.startswith("--")} <= set(options), triton
        required = {flag for flag, fact in options.items() if fact.get("required")}
        assert required <= set(plain), triton
        if set(options) >= {"--chat-template", "--tool-call-parser", "--default-max-tokens"}:
            assert words(service(TRITON_FRONTEND, models=[everything], frontend=frontend))[-1] == "512"
        else:
            with pytest.raises(FleetError, match=f"frontend of Triton {triton} has no --"):
                service(TRITON_FRONTEND, models=[everything], frontend=frontend)


def test_the_table_of_options_is_what_upstream_has() -> None:
    first: dict[str, str] = {}
    for triton, options in openai_frontend_options().items():
        for flag in options:
            first.setdefault(flag.removeprefix("--"), triton)
    assert first == dict(front.FRONTEND_OPTIONS)
    assert next(iter(openai_frontend_options())) == front.FIRST_FRONTEND


def test_an_image_before_the_front_is_refused() -> None:
    with pytest.raises(FleetError, match="Triton 24.10 has no OpenAI frontend"):
        service(TRITON_FRONTEND, frontend={**FRONTEND, "triton_version": "24.10"})
    old = next(name for name in ("0.14.0", "0.9.0") if release(name).image_tag)
    with pytest.raises(FleetError, match="has no OpenAI frontend"):
        service(TRITON_FRONTEND, release=old, frontend=FRONTEND)
    with pytest.raises(FleetError, match="tool_call_parser 'hermes', only llama3 and mistral"):
        service(TRITON_FRONTEND, frontend=FRONTEND, models=[{**MODEL, "tool_call_parser": "hermes"}])


@pytest.mark.parametrize("flavour", list(FLAVOURS))
@pytest.mark.parametrize("ability", [ability for ability in ABILITIES if ability.options or ability.of_model])
def test_what_a_flavour_cannot_do_is_refused_and_who_can_is_named(flavour: str, ability: Any) -> None:
    given = {**SETTINGS, **{option: ["something"] for option in ability.options}}
    given["models"] = [{**MODEL, **dict.fromkeys(ability.of_model, "something")}]
    found = list(refusals(flavour, given))
    if ability.can(flavour):
        assert not found
    else:
        assert len(found) == len(ability.options) + len(ability.of_model)
        assert all(f"openai_gateway_flavour: {' or '.join(ability.able())}." in sentence for sentence in found)


def test_the_roles_defaults_ask_for_nothing_that_a_flavour_lacks() -> None:
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    asked = {option: unasked for ability in ABILITIES for option, unasked in ability.options.items()}
    for option, unasked in asked.items():
        assert defaults[f"openai_gateway_{option}"] == unasked, option
    settings = yaml.safe_load((ROLE / "vars" / "flavours.yml").read_text())["__openai_gateway_settings"]
    assert set(asked) <= set(settings)
    for flavour in FLAVOURS:
        assert not list(refusals(flavour, {**SETTINGS, **asked}))


def test_one_of_each_is_what_the_others_take() -> None:
    two = {**SETTINGS, "models": [{**MODEL, "urls": [*MODEL["urls"], "http://10.0.0.2:8000"]}], "api_keys": ["a", "b"]}
    assert [sentence.split(",")[0] for sentence in refusals(OPENAI_TRTLLM, two)] == [
        "openai_gateway_models[].urls has 2 elements",
        "openai_gateway_api_keys has 2 elements",
    ]
    assert not list(refusals(GATEWAY, {**two, "models": [MODEL, MODEL]}))


@pytest.mark.parametrize("name", list(FLAVOURS))
def test_a_play_gets_lists_that_it_can_add_to(name: str) -> None:
    row = gateway_flavour(name)
    assert json.loads(json.dumps(row)) == row


def test_only_what_has_a_source_is_built() -> None:
    assert not list(refusals(OPENAI_TRTLLM, {**SETTINGS, "image_source": "build"}))
    (sentence,) = refusals(TRITON_FRONTEND, {**SETTINGS, "image_source": "build"})
    assert sentence.endswith("or set openai_gateway_flavour: gateway or openai_trtllm.")
    with pytest.raises(FleetError, match="did you mean 'openai_trtllm'"):
        flavour_of("openai_trtlm")
