# SPDX-License-Identifier: GPL-3.0-or-later
"""What the units run is what each release's own launcher would have run."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.launch import Launch, command
from contract.facts import launch_commands

# Tags that are no version number, and the release they belong to.
TAGS = {"r24.08-beta": "0.12.0", "gemma": "0.8.0"}
CASES: dict[str, dict[str, Any]] = {
    "world_size=1": {},
    "world_size=2": {"world_size": 2},
    "world_size=4": {"world_size": 4},
    "ports": {"http_port": 9000, "grpc_port": 9001, "metrics_port": 9002},
    "two model names world_size=2": {"world_size": 2, "worker_models": ("tensorrt_llm", "tensorrt_llm_1")},
    "oversubscribe world_size=2": {"world_size": 2, "oversubscribe": True},
    "multi-model": {"mode": "orchestrator", "gpu_count": 2},
    "multi-model world_size=2 disable-spawn-processes": {
        "mode": "orchestrator",
        "world_size": 2,
        "spawn_processes": False,
        "gpu_count": 2,
    },
    "llmapi launch": {"llmapi_launch": True},
}
# What upstream's launcher can and a unit has no use for.
LEFT_OUT = {
    "log": "a unit writes to the journal",
    "exit_timeout=300": "a unit gives it to every release, as an option of Triton's own",
    "no-mpi": "one rank under mpirun is the same server",
    "multimodal pool": "no multimodal model is served",
    "multi-model triton<=24.06": "no image of a release whose launcher asks (from 0.13) has a Triton that old",
}


def version_of(tag: str) -> str:
    found = re.search(r"v(\d+\.\d+\.\d+)", tag)
    return TAGS.get(tag) or (found.group(1) if found else pytest.fail(f"which release is {tag}?"))


def test_every_recorded_command_is_composed_word_for_word() -> None:
    recorded = launch_commands()
    assert {case for cases in recorded.values() for case in cases} == set(CASES) | set(LEFT_OUT)
    compared = 0
    for tag, cases in recorded.items():
        for case, words in cases.items():
            if case in LEFT_OUT:
                continue
            if words[-1] == "&":  # 0.5.0 ran a shell line in the background
                words = words[:-1]
            assert command(version_of(tag), Launch("/models", **CASES[case])) == words, f"{tag}: {case}"
            compared += 1
    assert compared > 140
