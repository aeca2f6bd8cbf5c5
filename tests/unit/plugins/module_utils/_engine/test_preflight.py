# SPDX-License-Identifier: GPL-3.0-or-later
"""Each refusal before a build has its own sentence, with the figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._base.sizes import GIB
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.inspect import Checkpoint, parse_config
from ansible_collections.trtllm.fleet.plugins.module_utils._engine.preflight import (
    Host,
    check_ranks,
    engine_bytes,
    preflight,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._host.gpu import Gpu, identity
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import release
from unit.engine_fakes import FakeHost, make_host

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "torch_dtype": "float16", "num_attention_heads": 40,
    "num_key_value_heads": 8, "num_hidden_layers": 40,
}  # fmt: skip
CHECKPOINT = Checkpoint(Path("/c"), parse_config(CONFIG), ["w"], 26 * GIB, 26 * GIB, True)
H200 = Gpu(0, "NVIDIA H200", "9.0", 140 * GIB, 139 * GIB, "GPU-a")


def judge(**changes: Any) -> None:
    facts: dict[str, Any] = {
        "release": release(LAST), "checkpoint": CHECKPOINT, "options": {}, "dtype": "float16", "gpus": [H200],
        "host": Host(200 * GIB, 200 * GIB), "root": Path("/var/lib/trtllm"), "ranks": 1, "converts": True,
    }  # fmt: skip
    preflight(**{**facts, **changes})


def test_a_fitting_build_passes() -> None:
    judge()
    judge(options={"pp_size": 3})
    judge(gpus=[], host=Host(None, None))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"options": {"tp_size": 3}},
            "40 attention heads cannot be split evenly over tp_size 3; tp_size can be 1, 2, 4",
        ),
        ({"options": {"tp_size": 5}}, "8 key/value heads can be neither split over nor repeated to tp_size 5"),
        ({"options": {"pp_size": 41}}, "has 40 layers, fewer than pp_size 41"),
        (
            {"release": release("0.15.0"), "options": {"pp_size": 3}},
            "40 layers cannot be split evenly over pp_size 3, and TensorRT-LLM 0.15.0 builds an engine without those",
        ),
        (
            {"gpus": [Gpu(0, "Tesla T4", "7.5", 16 * GIB, 15 * GIB, "u")]},
            f"Tesla T4 has compute capability 7.5, but TensorRT-LLM {LAST} is made for 8.0, 8.6",
        ),
        (
            {"release": release("0.16.0"), "gpus": [Gpu(0, "NVIDIA B200", "10.0", 180 * GIB, 180 * GIB, "u")]},
            "NVIDIA B200 has compute capability 10.0, but TensorRT-LLM 0.16.0",
        ),
        (
            {"host": Host(30 * GIB, 200 * GIB)},
            "/var/lib/trtllm has 30.0 GiB free, but making the engine needs about 52.1 GiB (26.0 GiB converted "
            "checkpoint, 26.0 GiB engine)",
        ),
        (
            {"host": Host(200 * GIB, 32 * GIB)},
            "has 32.0 GiB of memory available, but converting 26.0 GiB of weights with 1 worker takes about 65.0 GiB",
        ),
        (
            {"gpus": [Gpu(0, "NVIDIA A10", "8.6", 24 * GIB, 22 * GIB, "u")]},
            "GPU 0 (NVIDIA A10) has 22.0 GiB of 24.0 GiB free, but one of 1 rank needs about 28.3 GiB",
        ),
    ],
)
def test_each_refusal_has_its_figures(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FleetError) as refused:
        judge(**changes)
    assert sentence in str(refused.value)


def test_an_estimate_can_be_overruled_and_the_model_s_shape_cannot() -> None:
    judge(host=Host(GIB, GIB), skip=["disk", "host_memory"])
    judge(gpus=[Gpu(0, "Tesla T4", "7.5", 16 * GIB, 15 * GIB, "u")], skip=["compute_capability", "gpu_memory"])
    with pytest.raises(FleetError):
        judge(options={"tp_size": 3}, skip=["disk", "host_memory", "gpu_memory", "compute_capability"])


def test_needs_shrink_with_ranks_quantisation_and_a_conversion_that_is_there() -> None:
    small = Gpu(0, "NVIDIA A10", "8.6", 24 * GIB, 22 * GIB, "u")
    judge(gpus=[small, small], options={"tp_size": 2}, ranks=2)
    judge(gpus=[small], options={"use_weight_only": True, "weight_only_precision": "int8"})
    judge(host=Host(30 * GIB, 200 * GIB), converts=False)
    assert engine_bytes(CHECKPOINT, {"qformat": "int4_awq"}, "float16") == 26 * GIB // 4
    assert engine_bytes(CHECKPOINT, {}, "float32") == 52 * GIB


@pytest.mark.parametrize(
    ("options", "gpus", "sentence"),
    [
        ({"tp_size": 4}, [0, 1], "needs 4 GPUs (tp_size 4) but gpus names 2 (0, 1)"),
        ({"tp_size": 2, "pp_size": 2}, [0], "needs 4 GPUs (tp_size 2 * pp_size 2) but gpus names 1"),
        ({"tp_size": 2}, [0, 0], "names a GPU twice"),
    ],
)
def test_ranks_must_fit_the_gpus(options: dict[str, Any], gpus: list[int], sentence: str) -> None:
    with pytest.raises(FleetError) as refused:
        check_ranks(options, gpus)
    assert sentence in str(refused.value)
    check_ranks(options, [])


@pytest.mark.parametrize(
    ("options", "gpus", "nodes", "sentence"),
    [
        ({"tp_size": 3}, [0], 2, "nodes is 2, over which 3 ranks (tp_size * pp_size * cp_size) do not split evenly"),
        ({"tp_size": 4}, [0], 2, "has 4 ranks, 2 on each of 2 nodes, but gpus names 1 (0); name 2"),
        ({"tp_size": 4}, [0, 1, 2, 3], 2, "2 on each of 2 nodes, but gpus names 4"),
        ({"tp_size": 4}, [0], 0, "nodes is 0"),
        ({"tp_size": 4, "workers": 4}, [0, 1], 2, "workers is 4, but all ranks are built on one host"),
    ],
)
def test_ranks_on_several_hosts_must_fit_the_gpus_of_each(
    options: dict[str, Any], gpus: list[int], nodes: int, sentence: str
) -> None:
    with pytest.raises(FleetError) as refused:
        check_ranks(options, gpus, nodes)
    assert sentence in str(refused.value)
    check_ranks({"tp_size": 4}, [0, 1], 2)
    check_ranks({"tp_size": 4}, [], 2)


def test_nothing_is_written_before_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host: FakeHost = make_host(tmp_path / "host")
    monkeypatch.setenv("PATH", f"{host.home / 'bin'}:/usr/bin:/bin")
    for changes, sentence in (
        ({"options": {"tp_size": 3}}, "8 attention heads cannot be split evenly over tp_size 3"),
        ({"options": {"tp_size": 2}, "gpus": [0]}, "needs 2 GPUs"),
        ({"options": {"use_custom_all_reduce": True}}, "no option use_custom_all_reduce"),
    ):
        with pytest.raises(FleetError, match=sentence):
            host.build(**changes)  # type: ignore[arg-type]
    (host.checkpoint / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(FleetError, match="is a git-lfs pointer"):
        host.build()
    assert not host.calls("run", "--detach")
    assert not (host.root / "jobs").exists()
    assert not (host.root / "converted").exists()
    assert not (host.root / "engines" / "tiny").exists()


def test_one_engine_is_for_one_kind_of_gpu() -> None:
    assert identity([], 2) is None
    assert identity([H200, H200], 2) == {"name": "NVIDIA H200", "compute_capability": "9.0", "count": 2}
    with pytest.raises(FleetError, match="gpus are not alike"):
        identity([H200, Gpu(1, "NVIDIA A100", "8.0", GIB, GIB, "GPU-b")], 2)
