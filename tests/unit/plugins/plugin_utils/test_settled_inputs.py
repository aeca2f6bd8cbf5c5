# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run is given for a host: everything that a change of unsettles it."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleError
from ansible_collections.trtllm.fleet.plugins.action import fleet_settled, triton_held_info
from ansible_collections.trtllm.fleet.plugins.module_utils._host.facts import gather
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.plugin_utils import _settled
from ansible_collections.trtllm.fleet.plugins.plugin_utils._settled import asks_more, given, names, places, sources
from fake_host import FakeHost

PLAN: dict[str, Any] = {"root": "/var/lib/trtllm", "replicas": [{"name": "m-0"}], "checkpoints": [], "images": []}
MAP = {"hosts": {"h1": {"replicas": ["m-0"]}}, "gateways": {"h1": {"models": [{"urls": ["http://h2:8000"]}]}}}
VALUES = {"trtllm_release": LAST, "triton_image_name": "r/triton:1"}


def found(text: str) -> str:
    return text if os.path.exists(text) else ""


def told(**changed: Any) -> dict[str, str]:
    asked: dict[str, Any] = {"host": "h1", "plan": PLAN, "fleet_map": MAP, "values": VALUES, "find": found, **changed}
    return given(**asked)


def differs(**changed: Any) -> set[str]:
    before, now = told(), told(**changed)
    return {name for name in {*before, *now} if before.get(name) != now.get(name)}


def test_the_same_is_the_same() -> None:
    assert not differs()
    assert not differs(plan=dict(reversed(PLAN.items())))
    assert not differs(fleet_map={**MAP, "hosts": {**MAP["hosts"], "h2": {}}})


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"plan": {**PLAN, "replicas": []}}, "the plan"),
        # A replica of another host that the gateway of this one fronts.
        ({"fleet_map": {**MAP, "gateways": {"h1": {"models": [{"urls": []}]}}}}, "the plan of the fleet"),
        ({"values": {**VALUES, "trtllm_release": "1.2.0"}}, "the variable trtllm_release"),
        ({"values": {"trtllm_release": LAST}}, "the variable triton_image_name"),
        ({"values": {**VALUES, "openai_gateway_clients": [{"key": "k"}]}}, "the variable openai_gateway_clients"),
    ],
)  # fmt: skip
def test_what_differs_is_named(changed: dict[str, Any], what: str) -> None:
    assert differs(**changed) == {what}


def test_the_collection_and_ansible_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = told()
    monkeypatch.setattr(_settled, "collection_digest", lambda: "other")
    monkeypatch.setattr(_settled, "ansible_version", "2.99")
    now = told()
    assert {name for name in now if now[name] != before[name]} == {"the collection", "the version of Ansible"}


def test_the_digest_of_the_collection_is_of_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_settled, "HERE", tmp_path)
    file = tmp_path / "roles" / "a" / "tasks" / "main.yml"
    file.parent.mkdir(parents=True)
    digest = _settled.collection_digest.__wrapped__

    def of(text: str) -> str:
        file.write_text(text)
        return str(digest())

    first = of("a")
    os.utime(file, (1, 1))
    assert digest() == first
    (file.parent / "__pycache__").mkdir()
    (file.parent / "__pycache__" / "x.pyc").write_text("")
    assert digest() == first
    assert of("b") != first


@pytest.mark.parametrize(
    "variable", ["triton_image_archive", "openai_gateway_tls_certificate", "triton_image_ca_certificate"]
)
def test_a_file_of_the_controller_counts(tmp_path: Path, variable: str) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    values = {**VALUES, variable: str(file)}
    before = told(values=values)
    assert f"{file} of the controller" in before
    at = file.stat().st_mtime_ns
    file.write_text("two")
    os.utime(file, ns=(at, at))
    assert told(values=values) != before


def test_a_checkpoint_of_the_controller_counts_with_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("x")
    plan = {**PLAN, "checkpoints": [{"path": str(tmp_path), "location": "controller"}]}
    before = told(plan=plan)
    (tmp_path / "more.safetensors").write_text("x")
    assert {name for name, digest in told(plan=plan).items() if digest != before[name]} == {
        f"{tmp_path} of the controller"
    }


def test_a_tree_without_end_has_no_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_settled, "MOST_FILES", 2)
    for name in "abc":
        (tmp_path / name).write_text("")
    assert _settled.file_digest(str(tmp_path)) == ""


def test_paths_are_found_wherever_they_stand() -> None:
    plan = {
        **PLAN,
        "checkpoints": [{"path": "/srv/m"}],
        "engines": [{"dir": "/var/lib/trtllm/engines/x"}],
        "a": "/dev/nvidia0",
    }
    assert sorted(places(plan, {"x": ["/srv/two", "r/i:1", "/", "http://a/b", "/a\nb"]})) == ["/srv/m", "/srv/two"]
    assert "certs/ca.pem" in set(sources(PLAN, {"triton_image_ca_certificate": "certs/ca.pem"}))


def test_what_a_plan_names_beside_the_playbook_is_of_the_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    plan = {
        **PLAN,
        "checkpoints": [{"name": "m", "location": "controller", "path": "srv/models/m"}],
        "images": [{"name": "r/i:1", "context": "images/own"}, {"name": "r/i:2", "archive": "own.tar"}],
    }
    assert {"/srv/models/m", "images/own", "own.tar"} <= set(sources(plan, {}))
    assert set(sources({**plan, "checkpoints": [{"location": "host", "path": "x"}]}, {})) == {"images/own", "own.tar"}
    assert not list(sources(None, {}))


def test_a_context_may_be_where_the_run_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(_directory: str, text: str) -> str:
        raise AnsibleError(f"{text} is not beside the playbook")

    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)
    action = fleet_settled.ActionModule.__new__(fleet_settled.ActionModule)
    monkeypatch.setattr(action, "_find_needle", nowhere, raising=False)
    assert action._find("own") == str(tmp_path / "own")
    assert action._find("other") == ""


def _asked(host: Any = None, **changed: Any) -> dict[str, Any]:
    """The arguments of a look at a host that was seen not to differ."""
    compare = {"inputs": told(), "paths": ["/srv/m"], "host": host or {}}
    seen = {"settled": True, "since": "2026-01-14T09:30:00Z", "found": {"replicas": []}, "compare": compare}
    return {"seen": seen, "inputs": told(), "paths": ["/srv/m"], "unsettled": [], "skip": True, **changed}


def test_a_host_that_was_seen_not_to_differ_is_not_asked_again() -> None:
    found = fleet_settled.settled_as_seen(_asked())
    assert found == {"changed": False, "settled": True, "since": "2026-01-14T09:30:00Z", "found": {"replicas": []}}


@pytest.mark.parametrize(
    "changed",
    [
        {"inputs": told(plan={**PLAN, "replicas": []})},
        {"inputs": {**told(), "the variable triton_image_ca_certificate": "1"}},
        {"paths": ["/srv/m", "/srv/other"]},
        {"paths": []},
        {"unsettled": ["the registry is asked for r/i:1 each time"]},
        {"skip": False},
        {"skip": "no"},
        {"seen": {}},
        {"seen": {"settled": False, "why": ["units: x is new"], "compare": {}}},
    ],
)
def test_a_host_is_asked_where_anything_differs_from_the_record(changed: dict[str, Any]) -> None:
    assert fleet_settled.settled_as_seen(_asked(**changed)) == {}


def test_a_host_that_was_seen_is_judged_as_each_time(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path)
    fake.gpu(driver="nvidia").driver().packages({"podman": "5.4.2"})
    fake.disks.update(dict.fromkeys(("/", "/boot"), (500 * 2**30, 2**30)))
    options = {"serves": False, "minimum_free_gib": {"/boot": 5}}
    host = gather(fake.system)
    assert fleet_settled.settled_as_seen(_asked(host, host_options={**options, "minimum_free_gib": {}}))
    assert fleet_settled.settled_as_seen(_asked(host, host_options=options)) == {}, "there is too little room by now"


@pytest.mark.parametrize(
    ("given", "name", "args"),
    [
        ({"root": "/r"}, "trtllm.fleet.triton_held_info", {"root": "/r"}),
        ({"root": "/r", "settled": False}, "trtllm.fleet.triton_held_info", {"root": "/r", "settled": False}),
        (
            {"root": "/r", "settled": "yes"},
            "trtllm.fleet.fleet_settled",
            {"root": "/r", "state": "seen", "inputs": {"the collection": _settled.collection_digest()}},
        ),
    ],
)
def test_what_replicas_hold_is_told_by_the_look(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], name: str, args: dict[str, Any]
) -> None:
    action = triton_held_info.ActionModule.__new__(triton_held_info.ActionModule)
    action._task = SimpleNamespace(args=given, resolved_action="trtllm.fleet.triton_held_info")  # type: ignore[assignment]
    monkeypatch.setattr(triton_held_info.ActionBase, "run", lambda *_given: {})
    monkeypatch.setattr(action, "_execute_module", lambda **asked: asked)
    assert action.run() == {"module_name": name, "module_args": args, "task_vars": None}


def test_a_lock_of_packages_in_a_context_counts(tmp_path: Path) -> None:
    lock = tmp_path / "uv.lock"
    lock.write_text("transformers 4")
    before = _settled.file_digest(str(tmp_path))
    lock.write_text("transformers 5 and more")
    assert _settled.file_digest(str(tmp_path)) != before


def test_only_variables_of_ours_count() -> None:
    others = ["ansible_host", "verify_report", "trtllm_skip_settled"]
    given = dict.fromkeys(["trtllm_root", "triton_firewall", "rollout_serial", *others], 1)
    assert names(given) == ["rollout_serial", "triton_firewall", "trtllm_root"]


@pytest.mark.parametrize(
    ("plan", "values"),
    [
        ({}, {"triton_image_pull": "always"}),
        ({}, {"checkpoint_refresh": True}),
        ({}, {"checkpoint_refresh": "on"}),
        ({}, {"engine_verify": "full"}),
        ({}, {"container_toolkit_upgrade": "yes"}),
        ({}, {"preflight_report": "/tmp/x"}),
        ({"images": [{"name": "r/i:1", "pull": "always"}]}, {}),
        ({"replicas": [{"name": "m-0", "nodes": ["h1", "h2"]}]}, {}),
    ],
)
def test_what_no_look_can_answer_keeps_a_host_from_being_settled(plan: dict[str, Any], values: dict[str, Any]) -> None:
    assert len(asks_more({**PLAN, **plan}, values)) == 1
    assert asks_more(PLAN, {"triton_image_pull": "missing", "checkpoint_refresh": False}) == []


def test_a_secret_is_not_told_by_its_digest() -> None:
    secret = [{"name": "a", "key": "sk-1234"}]
    assert "openai_gateway_clients" in _settled.secret_variables()
    digests = {
        _settled.value_digest("h1", "openai_gateway_clients", secret),
        _settled.value_digest("h2", "openai_gateway_clients", secret),
        _settled.value_digest("h1", "trtllm_release", secret),
    }  # fmt: skip
    assert len(digests) == 3
