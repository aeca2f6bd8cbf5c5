# SPDX-License-Identifier: GPL-3.0-or-later
"""An engine that several hosts need is built by one of them: which host is asked for what, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from recorder import Recording, record

pytestmark = pytest.mark.slow

A, B = "a" * 64, "b" * 64
PIECES = "c" * 64
Result = dict[str, Any]


def engine(fingerprint: str = A, *reasons: str, **more: Any) -> Result:
    return {
        "changed": bool(reasons), "fingerprint": fingerprint, "reasons": list(reasons), "provisional": False,
        "engine_dir": f"/srv/llm/engines/m/{fingerprint}", **more,
    }  # fmt: skip


MISSING = engine(A, "no engine of this name is published yet")
THERE = engine(A)
SERVED = {"changed": True, "pieces": PIECES, "url": "x"}
RECEIVED = [{"changed": True, "receiving": True}, {"changed": True, "receiving": False, "received": 5}]


def host(number: int, *engines: Result, serve: Sequence[Result] = (SERVED,), **variables: Any) -> dict[str, Any]:
    """A host whose module says of its engine what is given, one after the other."""
    modules = {"trtllm_engine": engines, "trtllm_artifact_serve": serve, "trtllm_artifact_fetch": RECEIVED}
    return {"modules": modules, "vars": {"ansible_host": f"10.0.0.{number}", **variables}}


def run(
    tmp_path: Path, hosts: dict[str, Any], *arguments: str, check_mode: bool | None = None, **variables: Any
) -> Recording:
    models = [{"name": "m", "checkpoint": "/srv/m", "gpus": []}]
    given = {"engine_models": models, "engine_root": "/srv/llm", **variables}
    role = {"role": "trtllm.fleet.engine", **({} if check_mode is None else {"check_mode": check_mode})}
    found = record(tmp_path, hosts, [role], given, arguments)
    assert found.returncode == 0, found.output
    return found


def names(found: Recording, host: str) -> list[str]:
    return [call.module.removeprefix("trtllm_") for call in found.calls[host]]


def test_one_builds_and_the_others_receive(tmp_path: Path) -> None:
    built = host(1, MISSING, MISSING)
    found = run(tmp_path, {"h1": built, "h2": host(2, MISSING, THERE), "h3": host(3, MISSING, THERE)}, "-vvv")
    assert names(found, "h1") == ["engine", "engine"], "asked, and built; not looked at a third time"
    assert [call.check_mode for call in found.of("h1", "trtllm_engine")] == [True, False]
    # The first receiver tells the builder to begin and to end.
    assert names(found, "h2") == [
        "engine", "artifact_serve", "artifact_fetch", "artifact_fetch", "artifact_serve", "artifact_serve", "engine",
    ]  # fmt: skip
    assert names(found, "h3") == ["engine", "artifact_fetch", "artifact_fetch", "artifact_serve", "engine"]
    served = found.of("h2", "trtllm_artifact_serve")[0].args
    assert (served["address"], served["port"], served["fingerprint"]) == ("10.0.0.1", 18800, A)
    started, waited = (call.args for call in found.of("h3", "trtllm_artifact_fetch"))
    assert (started["wait"], waited["wait"]) == (False, True)
    assert started["sources"] == ["http://10.0.0.2:18800", "http://10.0.0.1:18800"]
    assert (started["pieces"], started["address"], started["root"]) == (PIECES, "10.0.0.3", "/srv/llm")
    assert found.output.count("engine m (aaaaaaaaaaaa): h1 builds it, for h2, h3\n") == 1
    token = started["token"]
    assert len(token) == 43
    assert served["token"] == token
    assert token not in found.output


def test_estimates_of_a_build_do_not_count_for_who_only_receives(tmp_path: Path) -> None:
    found = run(tmp_path, {"h1": host(1, THERE), "h2": host(2, MISSING, THERE)}, engine_skip_preflight=["disk"])
    skipped = [sorted(call.args["skip_preflight"]) for call in found.of("h2", "trtllm_engine")]
    assert skipped == [["disk", "gpu_memory", "host_memory"], ["disk"]]


def test_where_all_have_it_nothing_is_moved(tmp_path: Path) -> None:
    found = run(tmp_path, {"h1": host(1, THERE), "h2": host(2, THERE)})
    assert {name: names(found, name) for name in found.calls} == {"h1": ["engine"] * 2, "h2": ["engine"] * 2}
    assert "changed=0" in found.output


@pytest.mark.parametrize(
    ("serve", "says"),
    [
        (
            {"failed": True, "msg": "10.0.0.1 port 18800 cannot be listened on: in use."},
            "port 18800 cannot be listened",
        ),
        ({"unreachable": True, "msg": "Failed to connect"}, "m does not come from h1: Failed to connect"),
    ],
)
def test_a_builder_that_hands_nothing_out(tmp_path: Path, serve: Result, says: str) -> None:
    own = [serve, {"changed": False}, serve]  # the one in the middle is about itself
    hosts = {"h1": host(1, MISSING, MISSING), "h2": host(2, MISSING, MISSING, serve=own), "h3": host(3, MISSING)}
    found = run(tmp_path, hosts)
    assert says in found.output
    for name in ("h2", "h3"):
        assert found.of(name, "trtllm_artifact_fetch") == []
        assert names(found, name)[-1] == "engine", "it builds its own"


def test_a_builder_that_fails_leaves_the_others_to_build(tmp_path: Path) -> None:
    failed = {"failed": True, "changed": False, "msg": "The build of m failed."}
    hosts = {"h1": host(1, MISSING, failed), "h2": host(2, MISSING, MISSING), "h3": host(3, MISSING, MISSING)}
    models = [{"name": "m", "checkpoint": "/srv/m", "gpus": []}]
    given = {"engine_models": models, "engine_root": "/srv/llm"}
    found = record(tmp_path, hosts, ["trtllm.fleet.engine"], given)
    assert found.returncode == 2
    for name in ("h2", "h3"):
        assert found.of(name, "trtllm_artifact_fetch") == []
        assert len(found.of(name, "trtllm_engine")) == 2


@pytest.mark.parametrize(
    ("variables", "builder"),
    [
        ({"engine_distribution": "build"}, None),
        ({"engine_builders": ["h2"]}, "h2"),
        ({}, "h1"),
    ],
)
def test_what_the_user_says(tmp_path: Path, variables: dict[str, Any], builder: str | None) -> None:
    found = run(tmp_path, {"h1": host(1, MISSING, MISSING), "h2": host(2, MISSING, MISSING)}, **variables)
    received = [name for name in found.calls if found.of(name, "trtllm_artifact_fetch")]
    assert received == ([] if builder is None else sorted({"h1", "h2"} - {builder}))


@pytest.mark.parametrize("how", ["command line", "play"])
def test_check_mode_says_who_would_build_and_asks_nobody_to(tmp_path: Path, how: str) -> None:
    """A rollout looks at what it would do in check mode, in the middle of a run that is real."""
    hosts = {"h1": host(1, MISSING), "h2": host(2, MISSING)}
    found = run(tmp_path, hosts, "--check") if how == "command line" else run(tmp_path, hosts, check_mode=True)
    asked = [call.check_mode for name in found.calls for call in found.of(name, "trtllm_engine")]
    assert asked == [True] * 4
    assert "h1 builds it, for h2" in found.output
    assert {name: names(found, name) for name in found.calls} == {"h1": ["engine"] * 2, "h2": ["engine"] * 2}


def test_one_host_alone_is_asked_once(tmp_path: Path) -> None:
    assert names(run(tmp_path, {"h1": host(1, MISSING)}), "h1") == ["engine"]


HOLDS = {"changed": True, "builds": True, "waiting": False, "free": False}
WAITS = {"changed": True, "builds": False, "waiting": True, "free": False}
FREE = {"changed": True, "builds": False, "waiting": False, "free": True}
SHARED = {"changed": False, "builds": False, "waiting": False, "free": False}
DIRECTORY = {"engine_distribution": "shared", "engine_shared_dir": "/mnt/llm"}


def sharing(number: int, engines: Sequence[Result], *shares: Result) -> dict[str, Any]:
    found = host(number, *engines)
    found["modules"]["trtllm_artifact_share"] = shares
    return found


def asked(found: Recording, name: str) -> list[tuple[bool, bool]]:
    """Whether the turn was asked for, and it was waited, in each call."""
    return [(call.args["turn"], call.args["wait"]) for call in found.of(name, "trtllm_artifact_share")]


def test_through_a_directory_one_builds_and_the_others_copy(tmp_path: Path) -> None:
    hosts = {
        "h1": sharing(1, [MISSING, MISSING], HOLDS, SHARED),
        "h2": sharing(2, [MISSING, THERE], WAITS, SHARED),
    }
    found = run(tmp_path, hosts, **DIRECTORY)
    assert names(found, "h1")[:4] == ["engine", "artifact_share", "engine", "artifact_share"]
    assert names(found, "h2")[:3] == ["engine", "artifact_share", "artifact_share"]
    assert [call.check_mode for call in found.of("h1", "trtllm_engine")] == [True, False]
    for name in hosts:
        assert asked(found, name)[:2] == [(True, False), (False, True)]
        first = found.of(name, "trtllm_artifact_share")[0].args
        assert (first["fingerprint"], first["root"], first["shared_dir"]) == (A, "/srv/llm", "/mnt/llm")
        assert not found.of(name, "trtllm_artifact_serve")


def test_the_first_turn_is_that_of_builders(tmp_path: Path) -> None:
    hosts = {
        "h1": sharing(1, [MISSING, THERE], SHARED),
        "h2": sharing(2, [MISSING, MISSING], HOLDS, SHARED),
    }
    found = run(tmp_path, hosts, **DIRECTORY, engine_builders=["h2", "of another run"])
    assert asked(found, "h1")[0] == (False, True), "it waits, and asks for no turn"
    assert asked(found, "h2")[:2] == [(True, False), (False, True)]
    assert [call.check_mode for call in found.of("h1", "trtllm_engine")] == [True, False]
    assert names(found, "h2")[:4] == ["engine", "artifact_share", "engine", "artifact_share"]


def test_a_builder_that_does_not_build_leaves_the_second_turn_to_all(tmp_path: Path) -> None:
    failed = {"failed": True, "changed": False, "msg": "The build of m failed."}
    hosts = {
        "h1": sharing(1, [MISSING, MISSING], FREE, HOLDS, SHARED),
        "h2": sharing(2, [MISSING, failed], HOLDS, SHARED),
    }
    models = [{"name": "m", "checkpoint": "/srv/m", "gpus": []}]
    given = {"engine_models": models, "engine_root": "/srv/llm", "engine_builders": ["h2"], **DIRECTORY}
    found = record(tmp_path, hosts, ["trtllm.fleet.engine"], given)
    assert asked(found, "h1")[:3] == [(False, True), (True, False), (False, True)]
    assert [call.check_mode for call in found.of("h1", "trtllm_engine")] == [True, False]


def test_builders_of_other_runs_keep_nobody_from_a_turn(tmp_path: Path) -> None:
    hosts = {"h1": sharing(1, [MISSING, MISSING], HOLDS, SHARED)}
    found = run(tmp_path, hosts, **DIRECTORY, engine_builders=["h9"])
    assert asked(found, "h1")[0] == (True, False)


def test_who_has_it_shares_it_first(tmp_path: Path) -> None:
    hosts = {"h1": sharing(1, [THERE], WAITS, SHARED), "h2": sharing(2, [MISSING, THERE], WAITS, SHARED)}
    found = run(tmp_path, hosts, **DIRECTORY)
    assert asked(found, "h1") == [(True, False), (False, True)]
    assert [call.check_mode for call in found.of("h1", "trtllm_engine")] == [True, False]


def test_a_build_that_fails_gives_the_turn_to_another_host(tmp_path: Path) -> None:
    failed = {"failed": True, "changed": False, "msg": "The build of m failed."}
    hosts = {
        "h1": sharing(1, [MISSING, failed], HOLDS, SHARED),
        "h2": sharing(2, [MISSING, MISSING], WAITS, FREE, HOLDS, SHARED),
        "h3": sharing(3, [MISSING, THERE], WAITS, FREE, WAITS, SHARED),
    }
    models = [{"name": "m", "checkpoint": "/srv/m", "gpus": []}]
    given = {"engine_models": models, "engine_root": "/srv/llm", **DIRECTORY}
    found = record(tmp_path, hosts, ["trtllm.fleet.engine"], given)
    assert found.returncode == 2
    assert "The build of m failed." in found.output
    assert [call.args["state"] for call in found.of("h1", "trtllm_artifact_share")] == ["shared", "absent"]
    rounds = [(True, False), (False, True)] * 2
    assert asked(found, "h2")[:4] == asked(found, "h3")[:4] == rounds
    assert [call.check_mode for call in found.of("h2", "trtllm_engine")] == [True, False]
    assert [call.check_mode for call in found.of("h3", "trtllm_engine")] == [True, False]


def test_what_does_not_come_out_of_the_directory_is_built(tmp_path: Path) -> None:
    damaged = {"failed": True, "changed": False, "msg": "m: piece 4 of rank1.engine is not what the manifest says."}
    hosts = {"h1": sharing(1, [MISSING, MISSING], WAITS, damaged, WAITS, damaged)}
    found = run(tmp_path, hosts, **DIRECTORY)
    assert "m does not come from /mnt/llm: m: piece 4" in found.output
    assert names(found, "h1")[-1] == "engine"


def test_a_directory_that_is_not_there_is_no_reason_to_build(tmp_path: Path) -> None:
    refused = {"failed": True, "changed": False, "msg": "shared_dir is '', which is no directory of this host."}
    models = [{"name": "m", "checkpoint": "/srv/m", "gpus": []}]
    given = {"engine_models": models, "engine_root": "/srv/llm", **DIRECTORY}
    found = record(tmp_path, {"h1": sharing(1, [MISSING], refused)}, ["trtllm.fleet.engine"], given)
    assert found.returncode == 2
    assert len(found.of("h1", "trtllm_engine")) == 1


def test_receiving_out_of_the_directory_builds_nothing(tmp_path: Path) -> None:
    """And it says afterwards whether the engine is there."""
    role = tmp_path / "receives" / "tasks"
    role.mkdir(parents=True)
    (role / "main.yml").write_text(
        "- ansible.builtin.include_role: {name: trtllm.fleet.engine, tasks_from: receive}\n"
        "- ansible.builtin.debug: {msg: 'there: {{ engine_offer.engines.m.there }}.'}\n"
    )
    hosts = {"h1": sharing(1, [THERE], SHARED), "h2": sharing(2, [MISSING], SHARED), "h3": sharing(3, [MISSING], FREE)}
    models = [{"name": "m", "checkpoint": "/srv/m", "gpus": []}]
    given = {"engine_models": models, "engine_root": "/srv/llm", **DIRECTORY}
    found = record(tmp_path, hosts, [str(role.parent)], given)
    assert found.returncode == 0, found.output
    assert [found.output.count(f"there: {there}.") for there in (True, False)] == [2, 1]
    assert [call.args["state"] for call in found.of("h1", "trtllm_artifact_share")] == ["shared"]
    for name in ("h2", "h3"):
        assert [call.args["state"] for call in found.of(name, "trtllm_artifact_share")] == ["received"]
        assert [call.check_mode for call in found.of(name, "trtllm_engine")] == [True]
