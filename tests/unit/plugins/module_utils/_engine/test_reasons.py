# SPDX-License-Identifier: GPL-3.0-or-later
"""Why an engine is stale is told in the words of the inventory; engines of earlier versions stay what they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.inspect import parse_config
from ansible_collections.trtllm.fleet.plugins.module_utils._engine.plan import Facts, Request, Wanted, describe
from ansible_collections.trtllm.fleet.plugins.module_utils._engine.reasons import diff, explain
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import release
from unit.engine_fakes import FakeHost, make_host

RECORDED = Path(__file__).parents[4] / "data" / "engine_fingerprints.json"
INVENTORY = {
    "dtype": "auto", "max_batch_size": 256, "max_input_len": 1000, "max_seq_len": 1500, "kv_cache_type": "paged",
    "use_fused_mlp": True, "gather_context_logits": False, "gemm_plugin": "float16", "tp_size": 2, "pp_size": 1,
    "remove_input_padding": True, "use_weight_only": True, "weight_only_precision": "int4",
}  # fmt: skip


def wanted(version: str, options: dict[str, Any], family: str = "llama", stored: str | None = "float16") -> Wanted:
    """What an engine would be made from, as the module works it out on a host without GPUs."""
    raw = {"torch_dtype": stored, "vocab_size": 64000, "hidden_size": 4096} if stored else {}
    facts = Facts(image_id="sha256:1", config=replace(parse_config(raw), family=family))
    request = Request("m", Path("/r"), Path("/c"), release(version), "i", [], {"model_family": family, **options})
    return describe(request, release(version), facts, Path("/r"))


def made_from(version: str, options: dict[str, Any], *, recorded_by_0_1_0: bool = False) -> dict[str, Any]:
    """As a manifest keeps it; collection 0.1.0 kept no options, only the tools' arguments."""
    kept: dict[str, Any] = json.loads(json.dumps(wanted(version, options).made_from))
    if recorded_by_0_1_0:
        del kept["options"]
    return kept


def test_engines_that_0_1_0_made_are_not_made_again() -> None:
    """Fingerprints recorded from collection 0.1.0, for releases, families and options as they come."""
    recorded = json.loads(RECORDED.read_text())
    assert len(recorded) > 150
    for version, family, stored, options, fingerprint in recorded:
        found = wanted(version, options, family, stored).fingerprint
        assert found.startswith(fingerprint), (version, family, stored, options)


@pytest.mark.parametrize("recorded_by_0_1_0", [False, True])
@pytest.mark.parametrize(
    ("before", "after"),
    [("0.12.0", "0.13.0"), ("0.13.0", "0.14.0"), ("0.10.0", "0.11.0"), ("0.11.0", "0.10.0"), ("0.16.0", LAST)],
)
def test_another_release_alone_is_told_alone(before: str, after: str, recorded_by_0_1_0: bool) -> None:
    old = made_from(before, INVENTORY, recorded_by_0_1_0=recorded_by_0_1_0)
    new = made_from(after, INVENTORY)
    assert explain(old, new) == [f"release: {before} -> {after}"]


def test_a_rank_that_one_release_calls_world_size_is_told_once() -> None:
    for recorded_by_0_1_0 in (False, True):
        old = made_from("0.7.1", {"tp_size": 2}, recorded_by_0_1_0=recorded_by_0_1_0)
        assert explain(old, made_from("0.8.0", {"tp_size": 2})) == ["release: 0.7.1 -> 0.8.0"]


def test_a_precision_that_another_release_changes_is_told() -> None:
    """Up to 0.14.0 the converter writes float16, later the checkpoint's own."""
    old, new = wanted("0.14.0", {}, stored="bfloat16"), wanted("0.15.0", {}, stored="bfloat16")
    assert explain(old.made_from, new.made_from) == ["dtype: float16 -> bfloat16", "release: 0.14.0 -> 0.15.0"]


@pytest.mark.parametrize("recorded_by_0_1_0", [False, True])
@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"max_batch_size": 64}, "max_batch_size: 256 -> 64"),
        ({"use_fused_mlp": False}, "use_fused_mlp: true -> false"),
        ({"max_seq_len": 2000}, "max_seq_len: 1500 -> 2000"),
        ({"weight_only_precision": "int8"}, "weight_only_precision: int4 -> int8"),
        ({"tp_size": 4}, "tp_size: 2 -> 4"),
        ({"gemm_plugin": "bfloat16"}, "gemm_plugin: float16 -> bfloat16"),
        ({"gather_context_logits": True}, "gather_context_logits: false -> true"),
    ],
)
def test_a_change_of_the_inventory_is_told_by_option(
    change: dict[str, Any], line: str, recorded_by_0_1_0: bool
) -> None:
    old = made_from("0.10.0", INVENTORY, recorded_by_0_1_0=recorded_by_0_1_0)
    if recorded_by_0_1_0:  # it did not record what was the tool's default
        line = line.replace("false -> true", "unset -> true")
    assert explain(old, made_from("0.10.0", {**INVENTORY, **change})) == [line]


def test_the_other_way_to_give_a_length_is_told_in_its_own_terms() -> None:
    given = {name: value for name, value in INVENTORY.items() if name != "max_seq_len"}
    old = made_from("0.10.0", INVENTORY, recorded_by_0_1_0=True)
    assert explain(old, made_from("0.10.0", {**given, "max_output_len": 900})) == ["max_output_len: 500 -> 900"]
    old = made_from("0.11.0", INVENTORY, recorded_by_0_1_0=True)
    assert explain(old, made_from("0.11.0", {**given, "max_output_len": 900})) == ["max_output_len: 500 -> 900"]


def test_the_difference_of_two_engines_names_options_too() -> None:
    before, after = made_from("0.12.0", INVENTORY), made_from("0.13.0", {**INVENTORY, "max_batch_size": 8})
    shown = diff(before, after)
    assert (shown["before"]["max_batch_size"], shown["after"]["max_batch_size"]) == (256, 8)
    assert "paged_kv_cache" not in shown["before"]
    assert diff(None, after)["before"] == {}
    assert diff(before, None)["after"] == {}


def test_a_host_with_an_engine_of_0_1_0_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host: FakeHost = make_host(tmp_path / "host")
    monkeypatch.setenv("PATH", f"{host.home / 'bin'}:/usr/bin:/bin")
    path = Path(host.build()["engine_dir"]) / "manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest["made_from"].pop("options")["max_batch_size"] == 4
    path.write_text(json.dumps(manifest))
    again = host.build()
    assert (again["changed"], again["reasons"]) == (False, [])
    assert host.check(options={"max_batch_size": 8})["reasons"] == ["max_batch_size: 4 -> 8"]
