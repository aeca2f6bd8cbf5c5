# SPDX-License-Identifier: GPL-3.0-or-later
"""A pod of a group learns who the others are, and gives its program their addresses."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._triton import gang
from unit.kubernetes_fakes import found, given, objects

ADDRESSES = {"wide-0.wide.llm": "10.1.2.3", "wide-0-1.wide.llm": "10.1.3.77"}


class Taken(Exception):
    """What would have taken the program's place."""


@pytest.fixture
def group(repo_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("group", repo_dir / "roles/kubernetes/files/group.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    asked: list[str] = []

    def resolve(name: str, *_: Any) -> list[Any]:
        asked.append(name)
        if asked.count(name) == 1:
            raise OSError("Name or service not known")
        return [(2, 1, 6, "", (ADDRESSES[name], 0))]

    def take(file: str, words: list[str], environment: dict[str, str]) -> None:
        raise Taken(words, environment)

    monkeypatch.setattr(module.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(module.os, "execvpe", take)
    monkeypatch.setattr(module, "PAUSE", 0)
    return module


def template(worker: bool) -> Any:
    wide = found(objects(given()), "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    return wide["workerTemplate" if worker else "leaderTemplate"]["spec"]["containers"][0]


@pytest.mark.parametrize("index", [0, 1])
def test_addresses_stand_where_placeholders_stood(
    group: Any, index: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pod = template(index > 0)
    variables = {one["name"]: one["value"] for one in pod["env"]}
    controller = {"LWS_LEADER_ADDRESS": "wide-0.wide.llm", "LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": str(index)}
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in {**variables, **controller}.items():
        monkeypatch.setenv(name, value)
    start = next(number for number, word in enumerate(pod["command"]) if word.endswith("group.py")) + 1
    with pytest.raises(Taken) as taken:
        group.main(pod["command"][start:])
    words, environment = taken.value.args
    assert "192.0.2." not in json.dumps([words, environment])
    told = json.loads(environment["TRTLLM_GANG"])
    assert told["nodes"] == list(ADDRESSES.values()) and told["node"] == index
    assert told["ranks"] == list(range(index * 8, index * 8 + 8))
    assert words[: len(gang.PYTHON)] == list(gang.PYTHON) and words[len(gang.PYTHON) + 1] == (
        "wait" if index else "lead"
    )
    if not index:
        hosts = [words[number + 1] for number, word in enumerate(words) if word == "--host"]
        assert hosts == ["10.1.2.3:8"] * 8 + ["10.1.3.77:8"] * 8
    assert environment["OMPI_MCA_oob_tcp_if_include"] == gang.network(list(ADDRESSES.values()))
    assert capsys.readouterr().out.count("waiting for") == 2


def test_both_kinds_of_pods_know_each_other_by_the_secret_of_the_cluster() -> None:
    for worker in (False, True):
        pod = template(worker)
        secret = next(mount for mount in pod["volumeMounts"] if mount["name"] == "gang")
        told = json.loads(next(one["value"] for one in pod["env"] if one["name"] == "TRTLLM_GANG"))
        assert told["secret"] == f"{secret['mountPath']}/secret"
        assert any(one.endswith("/gang.py") for one in pod["command"])
