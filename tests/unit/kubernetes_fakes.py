# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster as a user describes it: with all that can be rendered, or as little as there may be."""

from __future__ import annotations

import copy
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._kubernetes.objects import STAGES, Item
from ansible_collections.trtllm.fleet.plugins.module_utils._kubernetes.text import plain
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.plugin_utils._kubernetes import cluster

HUB = {"source": "huggingface", "repo": "org/model", "revision": "main"}
IMAGES = {"triton": "reg.example/triton:1", "gateway": "reg.example/gateway:1", "fetch": "reg.example/fetch:1"}
MODELS: list[dict[str, Any]] = [
    {"name": "small", "checkpoint": HUB, "engine": {"max_seq_len": 512}, "serving": {"replicas": [{"gpus": [0]}]}},
    {
        "name": "two.0", "checkpoint": HUB, "engine": {"tp_size": 2},
        "serving": {"replicas": [{"gpus": [0, 1]}, {"gpus": [0, 1]}]},
    },
    {
        "name": "wide", "checkpoint": HUB, "engine": {"tp_size": 8, "pp_size": 2},
        "serving": {"replicas": [{"nodes": ["a", "b"]}]},
    },
]  # fmt: skip
SETTINGS: dict[str, Any] = {
    "namespace": "llm",
    "volume": {"claim": "models", "size": "1Ti", "persistent_volume": {"nfs": {"server": "10.0.0.5", "path": "/x"}}},
    "gpu_product": "NVIDIA-H100-80GB-HBM3",
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "token_secret": {"name": "hub"},
    "api_keys_secret": {"name": "gateway"},
    "gang_secret": {"name": "gang"},
    "image_pull_secrets": ["registry"],
    "runtime_class": "nvidia",
    "gateway": {"replicas": 3, "memory": "1Gi"},
    "ingress": {"host": "llm.example.com", "class": "nginx", "tls_secret": "llm", "annotations": {"a/b": "c: {{ d }}"}},
    "route": {"gateway": "public", "namespace": "gateways", "host": "llm.example.com"},
    "monitoring": {"labels": {"release": "prometheus"}},
    "models": [
        {"name": "small", "gpu_claim": "gpu.nvidia.com", "memory": "64Gi"},
        {"name": "two.0", "autoscaling": {"max": 4}, "cpu": "8"},
    ],
}
# Served from their checkpoints: by trtllm-serve, one server or some for prompts and some for answers, and in Triton.
SERVED: dict[str, Any] = {
    "name": "served", "release": "1.3.0", "image": {"name": "reg.example/serve:1"}, "checkpoint": HUB,
    "engine": {"tp_size": 2, "max_seq_len": 512}, "serving": {"replicas": [{"gpus": [0, 1]}, {"gpus": [0, 1]}]},
}  # fmt: skip
TWO_KINDS = {"replicas": [{"context": [[0], [1]], "generation": [[2]]}, {"context": [[0], [1]], "generation": [[2]]}]}
CHECKPOINTS: list[dict[str, Any]] = [
    SERVED,
    {**SERVED, "name": "kinds", "engine": {}, "serving": TWO_KINDS},
    {**SERVED, "name": "older", "flow": "trtllm-serve", "release": "1.0.0", "image": {"name": "reg.example/serve:0"},
     "engine": {}, "serving": {"replicas": [{"gpus": [0]}]}},
    {"name": "api", "flow": "llmapi", "checkpoint": HUB, "engine": {"tp_size": 2},
     "serving": {"replicas": [{"gpus": [0, 1]}]}},
]  # fmt: skip
LEAST: dict[str, Any] = {"namespace": "llm", "volume": {"claim": "models"}}


def given(models: Any = None, settings: Any = None, **more: Any) -> dict[str, Any]:
    """The arguments of the module."""
    return copy.deepcopy({
        "trtllm_release": LAST,
        "trtllm_models": MODELS if models is None else models,
        "settings": SETTINGS if settings is None else settings,
        "images": IMAGES,
        **more,
    })  # fmt: skip


def objects(arguments: dict[str, Any] | None = None, **triton: Any) -> list[Item]:
    """All objects, without a chart."""
    stages = cluster(arguments or given(), triton)
    return [plain(one) for stage in STAGES for one in stages[stage]]


def found(all_of_them: list[Item], kind: str, part: str = "") -> Item:
    """The object of that kind with *part* in its name."""
    (one,) = [one for one in all_of_them if one["kind"] == kind and part in one["metadata"]["name"]]
    return one
