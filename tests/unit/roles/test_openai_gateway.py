# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role writes is what the gateway reads, and keys stand in neither the configuration nor the unit."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from ansible.plugins.filter.core import FilterModule
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST

REPO = Path(__file__).resolve().parents[3]
ROLE = REPO / "roles" / "openai_gateway"
sys.path.insert(0, str(REPO / "images" / "openai_gateway"))

from openai_gateway.config import GatewayConfig, parse_config
from openai_gateway.reload import LIVE

MODEL = {
    "name": "codellama-13b",
    "entry_model": "tensorrt_llm_bls",
    "urls": ["http://127.0.0.1:8000", "http://10.0.0.2:8010"],
    "tokenizer_dir": "/var/lib/trtllm/checkpoints/codellama-13b",
    "release": None,
    "max_seq_len": None,
    "default_max_tokens": None,
    "chat_template": None,
    "tool_call_parser": None,
    "prefix_affinity": None,
}


def render(**given: Any) -> str:
    """The role's template as Ansible renders it, with the role's defaults."""
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters.update(FilterModule().filters())
    variables = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    variables |= yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
    for name in ("keys_file", "tls_certificate", "tls_key"):
        key = f"__openai_gateway_{name}"
        variables[key] = environment.from_string(variables[key]).render(variables)
    variables["__openai_gateway_digests"] = {}
    text = environment.from_string((ROLE / "templates" / "openai-gateway.yml.j2").read_text())
    return str(text.render({**variables, "openai_gateway_release": LAST, **given}))


def read(text: str) -> GatewayConfig:
    return parse_config(yaml.safe_load(text), "gateway.yml")


def test_the_gateway_reads_what_the_role_writes() -> None:
    config = read(render(openai_gateway_models=[MODEL]))
    (model,) = config.models
    assert (config.address, config.port, config.shutdown_timeout) == ("0.0.0.0", 3000, 60)
    assert model.urls == tuple(MODEL["urls"])  # type: ignore[arg-type]
    assert (model.release, model.max_seq_len, model.default_max_tokens) == (LAST, None, None)
    assert config.api_keys_file is None


def test_an_image_of_the_first_version_still_starts() -> None:
    """It stops at a key that it does not know, so what says nothing new is not written."""
    first = {"models", "address", "port", "api_keys_file", "request_timeout", "shutdown_timeout"}
    assert set(yaml.safe_load(render(openai_gateway_models=[MODEL]))) <= first


def test_what_is_not_written_is_what_the_gateway_takes() -> None:
    plain = read(render(openai_gateway_models=[MODEL]))
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    for key in ("workers", "max_queued", "read_timeout", "connect_timeout", "max_body_bytes"):
        assert getattr(plain, key) == defaults[f"openai_gateway_{key}"], key
        other = 2048 if key == "max_body_bytes" else 7
        assert getattr(read(render(openai_gateway_models=[MODEL], **{f"openai_gateway_{key}": other})), key) == other
    assert list(plain.cors_origins) == defaults["openai_gateway_cors_origins"] == []
    named = read(render(openai_gateway_models=[MODEL], openai_gateway_cors_origins=["https://chat.example"]))
    assert list(named.cors_origins) == ["https://chat.example"]


@pytest.mark.parametrize("release", ["0.9", "0.10", "1.0", "0.7.2"])
def test_a_release_stays_a_text(release: str) -> None:
    given = {**MODEL, "release": release, "max_seq_len": 5120, "chat_template": "/srv/own.jinja"}
    (model,) = read(render(openai_gateway_models=[given])).models
    assert (model.release, model.max_seq_len, model.chat_template) == (release, 5120, Path("/srv/own.jinja"))


def test_what_a_host_sets_reaches_the_gateway() -> None:
    given = {"openai_gateway_read_timeout": 5, "openai_gateway_cors_origins": ["https://chat.example"]}
    given |= {"openai_gateway_workers": 2, "openai_gateway_max_requests": 8, "openai_gateway_max_queued": 3}
    model = {**MODEL, "tool_call_parser": "mistral", "prefix_affinity": 256}
    config = read(render(openai_gateway_models=[model], **given))
    assert (config.read_timeout, config.cors_origins) == (5, ("https://chat.example",))
    assert (config.workers, config.max_requests, config.max_queued) == (2, 8, 3)
    assert (config.models[0].tool_call_parser, config.models[0].prefix_affinity) == ("mistral", 256)
    assert read(render(openai_gateway_models=[MODEL])).max_requests is None


def test_keys_are_pointed_at_and_never_written_down() -> None:
    clients = [{"name": "alice", "key": "sk-secret"}]
    text = render(openai_gateway_models=[MODEL], openai_gateway_api_keys=["sk-secret"], openai_gateway_clients=clients)
    assert "sk-secret" not in text
    assert read(text).api_keys_file == Path("/etc/trtllm/openai_gateway/clients")
    tasks = yaml.safe_load((ROLE / "tasks" / "configure.yml").read_text())
    for name in ("openai_gateway_clients", "openai_gateway_tls_key"):
        written = next(task for task in tasks if name in str(task))
        assert written["no_log"] is True and written["diff"] is False
        assert written["ansible.builtin.copy"]["mode"] == "0400"
    options = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    assert options["openai_gateway_clients"]["no_log"] and options["openai_gateway_clients"]["options"]["key"]["no_log"]


def test_a_certificate_comes_with_its_key() -> None:
    config = read(
        render(openai_gateway_models=[MODEL], openai_gateway_tls_certificate="/a", openai_gateway_tls_key="/b")
    )
    assert (config.tls_certificate, config.tls_key) == tuple(
        Path(f"/etc/trtllm/openai_gateway/tls.{end}") for end in ("crt", "key")
    )


def test_a_model_has_the_affinity_of_all_unless_it_names_its_own() -> None:
    models = [MODEL, {**MODEL, "name": "other", "prefix_affinity": 7}]
    config = read(render(openai_gateway_models=models, openai_gateway_prefix_affinity=256))
    assert [model.prefix_affinity for model in config.models] == [256, 7]


def test_what_the_gateway_takes_over_is_not_what_restarts_it() -> None:
    """The role takes away from the file what the gateway reads again; the rest decides about a restart."""
    unit = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
    left_out = set(re.findall(r"'(openai_gateway_\w+)':", unit["__openai_gateway_fixed"]))
    variables = {"api_keys_file": {"api_keys", "clients"}, "models": {"models", "checkpoints"}}
    live = {name for key in LIVE for name in variables.get(key, {key})}
    assert left_out == {f"openai_gateway_{name}" for name in live}


def test_every_variable_is_described() -> None:
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    options = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    assert set(defaults) == set(options)
    literal = {name: value for name, value in defaults.items() if value is not None and "{{" not in str(value)}
    assert {name: options[name].get("default", []) for name in literal} == literal
