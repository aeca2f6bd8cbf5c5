# SPDX-License-Identifier: GPL-3.0-or-later
"""What a container runs, where it differs from upstream's launcher by what was asked for."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.launch import Launch, command, environment


def test_eight_ranks_run_under_one_mpirun_and_only_the_first_serves_all_models() -> None:
    words = command(LAST, Launch("/models", world_size=8))
    assert words[:2] == ["mpirun", "--allow-run-as-root"]
    assert words.count("/opt/tritonserver/bin/tritonserver") == 8
    assert words.count("--load-model=tensorrt_llm") == 7
    prefixes = [word.rpartition("=")[2] for word in words if word.startswith("--backend-config=")]
    assert prefixes == [f"prefix{rank}_" for rank in range(8)]


def test_options_of_ours_come_after_upstreams_own() -> None:
    launch = Launch(
        "/models", world_size=2, extra=("--http-address=127.0.0.1",), extra_first=("--model-control-mode=explicit",)
    )
    first, second = " ".join(command(LAST, launch)).split(" : ")
    assert first.endswith("prefix0_ --model-control-mode=explicit --http-address=127.0.0.1")
    assert second.endswith("prefix1_ --http-address=127.0.0.1 :")


@pytest.mark.parametrize(
    ("release", "options", "first"),
    [
        ("0.8.0", {"mode": "orchestrator"}, "0.9.0"),
        ("0.10.0", {"oversubscribe": True}, "0.11.0"),
        ("0.6.1", {"http_port": 9000}, "0.7.0"),
        ("0.21.0", {"llmapi_launch": True}, "1.0.0"),
    ],
)
def test_what_a_release_cannot_do_names_the_first_that_can(release: str, options: dict[str, Any], first: str) -> None:
    with pytest.raises(FleetError, match=f"the first that has is {first}"):
        command(release, Launch("/models", **options))


def test_an_orchestrator_starts_as_one_rank() -> None:
    with pytest.raises(FleetError, match="set its world size to 1"):
        command(LAST, Launch("/models", mode="orchestrator", world_size=2))


def test_the_environment_of_an_orchestrator() -> None:
    launch = Launch("/models", mode="orchestrator", environment={"A": "1"})
    assert environment("0.9.0", launch) == {"TRTLLM_ORCHESTRATOR": "1", "A": "1"}
    assert environment(LAST, launch)["TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES"] == "1"
    assert environment(LAST, Launch("/models")) == {}
