# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository of the LLM API, rendered here and served by the real Triton on two ranks. Needs root and podman."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import release
from ansible_collections.trtllm.fleet.plugins.module_utils._release.serve import serve_config
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.entry import EntryRequest
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.repository import Repository
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.request import RepositoryRequest
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.gate import parse_gate
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.verify import Target
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.verify_by_api import verification_of
from contract.test_triton_cpu_live import ANSWER, PODMAN, QUESTION, Server
from contract.test_triton_cpu_live import room as room
from openai_gateway_fakes import OPEN, Gateway, Network, gateway, model_entry
from triton_cpu_fakes import SOURCE

pytestmark = pytest.mark.slow
pytest.importorskip("tritonclient.http", reason="verification asks with NVIDIA's client")

SAID: dict[str, Any] = {"tp_size": 2, "dtype": "float16", "max_batch_size": 8, "max_seq_len": 512}


@pytest.fixture(scope="module")
def server(room: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("fleet")
    args = {"kv_cache_config": {"free_gpu_memory_fraction": 0.1}, "cuda_graph_config": None}
    config = serve_config(release(LAST), SAID, {}, args, "llmapi")
    entry = EntryRequest(tokenizer_dir=str(room / "tiny"), streaming=True, parameters={"tensorrt_llm": config})
    request = RepositoryRequest("m", LAST, root, layout="llmapi", templates=str(SOURCE), entries=[entry])
    made = Repository(request).present().facts["repository_dir"]
    repository = room / "llmapi"
    shutil.copytree(made, repository)
    started = Server(room, 1, repository=repository)
    yield started
    started.remove()


@pytest.fixture
def front(server: Server, room: Path) -> Iterator[Gateway]:
    yield gateway(Network(), model_entry(room / "tiny", f"http://127.0.0.1:{server.http}"))
    while OPEN:
        OPEN.pop().close()


def test_it_passes_every_check_and_its_gate(server: Server) -> None:
    gate = parse_gate({"prompts": [{"prompt": QUESTION, "max_tokens": 60, "equals": ANSWER}]})
    url, metrics = f"http://127.0.0.1:{server.http}", f"http://127.0.0.1:{server.metrics}"
    target = Target(url, metrics, ["tensorrt_llm"], LAST, gate=gate, api="llmapi", early_stop_ms=5)
    outcomes = {found.name: found for found in verification_of(target).run()}
    assert not [(name, found.answer) for name, found in outcomes.items() if found.ok is False]
    assert {name for name, found in outcomes.items() if found.ok} >= {
        "readiness", "gate: prompt", "tensorrt_llm generate", "tensorrt_llm every instance", "tensorrt_llm streaming",
        "metrics",
    }  # fmt: skip


def test_it_has_started_its_other_rank_itself(server: Server) -> None:
    told = subprocess.run([PODMAN, "exec", server.name, "sh", "-c", "cat /proc/[0-9]*/comm"], capture_output=True)
    assert told.stdout.decode().count("trtllmExecutorW") == 1


def test_the_gateway_finds_out_what_it_is(front: Gateway) -> None:
    body = {"model": "tiny", "prompt": QUESTION, "max_tokens": 60, "temperature": 0}
    answer = front("/v1/completions", body).json()["choices"][0]
    assert (answer["text"], answer["finish_reason"]) == (ANSWER, "stop")
    assert front("/v1/completions", {**body, "max_tokens": 5}).json()["choices"][0]["finish_reason"] == "length"
    assert set(front("/health/ready").json()["models"]["tiny"].values()) == {"ready"}


def test_it_ends_as_others_do(server: Server) -> None:
    assert server.stop("pkill", "-TERM", "-o", "-x", "tritonserver") == 0
