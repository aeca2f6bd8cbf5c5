# SPDX-License-Identifier: GPL-3.0-or-later
"""Files for a cluster: in check mode, for real, in check mode again, again; and a directory that holds nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.trtllm.fleet.plugins.action import kubernetes_manifests
from unit.kubernetes_fakes import LEAST, MODELS, given

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(kubernetes_manifests.ActionBase, "run", lambda self, tmp, task_vars: {})

    def render(check: bool = False, models: Any = None, **more: Any) -> dict[str, Any]:
        plugin: Any = kubernetes_manifests.ActionModule.__new__(kubernetes_manifests.ActionModule)
        arguments = given(models or MODELS[:1], {**LEAST, "gpu_product": "X"}, output=str(tmp_path / "out"))
        variables = more.pop("variables", {})
        plugin._task = SimpleNamespace(args={**arguments, **more}, check_mode=check, diff=True)
        plugin._templar = SimpleNamespace(template=lambda value: value)
        result: dict[str, Any] = plugin.run(None, variables)
        return result

    return render


def test_four_ways(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(check=True)
    assert first["changed"] and first["diff"] and not out.exists()
    assert run()["changed"] and (out / "plain" / "3-serve.yaml").is_file()
    for check in (True, False):
        again = run(check=check)
        assert not again["changed"] and not again["diff"]
    assert first["files"] == again["files"] == sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert [stage["name"] for stage in first["stages"]] == ["fetch", "build", "serve"]
    assert [len(stage["jobs"]) for stage in first["stages"]] == [1, 1, 0]


def test_what_is_described_no_more_goes(run: Run, tmp_path: Path) -> None:
    run(models=MODELS[:2])
    before = set(tmp_path.rglob("*two-0*"))
    assert before
    changed = run()
    assert changed["changed"] and not set(tmp_path.rglob("*two-0*"))
    assert any(not one["after"] for one in changed["diff"])
    assert not run()["changed"]


def test_a_directory_with_other_files_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(AnsibleActionFail, match="holds other files"):
        run()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_what_the_inventory_says_for_all_replicas_holds(run: Run, tmp_path: Path) -> None:
    run(variables={"triton_stop_timeout": "77", "triton_environment": {"A": "b"}})
    (text,) = [path.read_text() for path in (tmp_path / "out" / "base").rglob("statefulset-*.yaml")]
    assert "--exit-timeout-secs=67" in text and "name: A" in text


def test_what_is_no_number_is_refused_in_a_sentence(run: Run) -> None:
    with pytest.raises(AnsibleActionFail, match="triton_stop_timeout"):
        run(variables={"triton_stop_timeout": "soon"})


def test_applying_is_refused_where_what_applies_is_not_here(run: Run, tmp_path: Path) -> None:
    with pytest.raises(AnsibleActionFail, match="ansible-galaxy collection install kubernetes.core"):
        run(apply=True)
    assert not (tmp_path / "out").exists()


def test_objects_are_handed_on_only_to_be_applied(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not run()["stages"][0]["objects"]
    monkeypatch.setattr(kubernetes_manifests, "can_apply", lambda: True)
    stages = run(apply=True)["stages"]
    assert {one["kind"] for one in stages[0]["objects"]} >= {"Namespace", "Job"}
    assert "StatefulSet" in {one["kind"] for one in stages[2]["objects"]}
