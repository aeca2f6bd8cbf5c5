# SPDX-License-Identifier: GPL-3.0-or-later
"""The image triton_cpu in service: the documents' requests, ranks, stopping. Needs root and podman."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tensorrt_llm import __version__
from triton_cpu_fakes import SOURCE, free_port, tiny_checkpoint

IMAGE = f"localhost/triton_cpu:{__version__}"
PODMAN = os.environ.get("PODMAN") or str(SOURCE.parents[2] / "tests/testbed/podman")
ENTRIES = ("ensemble", "tensorrt_llm_bls")
QUESTION = "What is machine learning?"
ANSWER = f" {dict(tiny_checkpoint.CORPUS)[QUESTION]}"
DOCUMENTED = {
    "text_input": QUESTION, "max_tokens": 20, "bad_words": "", "stop_words": "", "pad_id": 2, "end_id": 2
}  # fmt: skip
FILLED = {
    "triton_backend": "tensorrtllm",
    "triton_max_batch_size": "8",
    "max_queue_delay_microseconds": "0",
    "max_queue_size": "0",
    "batching_strategy": "inflight_fused_batching",
    "encoder_input_features_data_type": "TYPE_FP16",
    "logits_datatype": "TYPE_FP32",
    "prompt_embedding_table_data_type": "TYPE_FP16",
    "exclude_input_in_output": "true",
    "preprocessing_instance_count": "1",
    "postprocessing_instance_count": "1",
    "bls_instance_count": "2",
    "kv_cache_free_gpu_mem_fraction": "0.1",
}
ITERATIONS = 'nv_trt_llm_general_metrics{general_type="iteration_counter",model="tensorrt_llm",version="1"}'

pytestmark = pytest.mark.slow


def podman(*words: str, timeout: float = 120) -> str:
    done = subprocess.run([PODMAN, *words], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"podman {' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the tiny checkpoint and its engines for one and for two ranks, built in the image."""
    if os.geteuid() or not shutil.which("podman"):
        pytest.skip("serving the image needs root and podman")
    present = subprocess.run([PODMAN, "image", "exists", IMAGE], capture_output=True)
    if present.returncode:
        pytest.skip(f"there is no image {IMAGE}; images/triton_cpu/build makes it")
    directory = tmp_path_factory.mktemp("triton")
    tiny_checkpoint.write_checkpoint(directory / "tiny")
    steps = ["set -e"]
    for ranks in (1, 2):
        steps += [
            f"python3 /app/examples/models/core/llama/convert_checkpoint.py --model_dir {directory}/tiny"
            f" --output_dir {directory}/c{ranks} --tp_size {ranks} --dtype float16",
            f"trtllm-build --checkpoint_dir {directory}/c{ranks} --output_dir {directory}/e{ranks} --max_batch_size 8"
            " --max_input_len 256 --max_seq_len 512 --gather_all_token_logits --workers 2",
        ]
    volume = f"--volume={directory}:{directory}"
    podman("run", "--rm", "--privileged", "--network=host", volume, IMAGE, "sh", "-c", "; ".join(steps))
    return directory


def fill(repository: Path, values: dict[str, str]) -> None:
    """Make the image's own repository with *values* for its placeholders."""
    shutil.copytree(SOURCE / "all_models/inflight_batcher_llm", repository)
    for config in repository.glob("*/config.pbtxt"):
        filled = re.sub(r"\$\{(\w+)\}", lambda name: values.get(name[1], name[0]), config.read_text())
        config.write_text(filled)


class Server:
    """A container that serves one engine."""

    def __init__(
        self,
        room: Path,
        ranks: int,
        *,
        decoupled: bool = True,
        accumulate: bool = False,
        repository: Path | None = None,
    ) -> None:
        """*repository*: a rendered one below *room*; by default the image's, filled here."""
        self.name, self.http = f"triton-cpu-test-{uuid.uuid4().hex[:8]}", free_port()
        self.metrics = free_port()
        if repository is None:
            repository = room / self.name
            values = {
                **FILLED, "engine_dir": str(room / f"e{ranks}"), "tokenizer_dir": str(room / "tiny"),
                "decoupled_mode": str(decoupled).lower(), "accumulate_tokens": str(accumulate).lower(),
            }  # fmt: skip
            fill(repository, values)
        common = [
            "--disable-auto-complete-config", f"--http-port={self.http}", f"--metrics-port={self.metrics}",
            f"--grpc-port={free_port()}",
        ]  # fmt: skip
        command = ["mpirun", "--allow-run-as-root"]
        for rank in range(ranks):
            worker = ["--model-control-mode=explicit", "--load-model=tensorrt_llm"] if rank else []
            prefix = f"--backend-config=python,shm-region-prefix-name=prefix{rank}_"
            command += [":"] if rank else []
            command += ["-n", "1", "/opt/tritonserver/bin/tritonserver", f"--model-repository={repository}"]
            command += [*worker, *common, prefix]
        podman(
            "run", "--detach", f"--name={self.name}", "--privileged", "--network=host", "--shm-size=256m",
            f"--volume={room}:{room}:ro", IMAGE, *command,
        )  # fmt: skip
        until = time.monotonic() + 60
        while not self._ready():
            assert time.monotonic() < until, podman("logs", self.name)[-4000:]
            time.sleep(0.1)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/v2/health/ready", timeout=5):
                return True
        except OSError:
            return False

    def post(self, model: str, body: dict[str, Any], verb: str = "generate") -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.http}/v2/models/{model}/{verb}"
        request = urllib.request.Request(url, json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()

    def ask(self, model: str, **body: Any) -> dict[str, Any]:
        status, text = self.post(model, {**DOCUMENTED, **body})
        assert status == 200, text
        answer: dict[str, Any] = json.loads(text)
        return answer

    def stream(self, model: str, **body: Any) -> list[str]:
        status, text = self.post(model, {**DOCUMENTED, **body, "stream": True}, "generate_stream")
        assert status == 200, text
        return [json.loads(line[6:])["text_output"] for line in text.splitlines() if line.startswith("data: ")]

    def gauge(self, pattern: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=5) as answer:
            found = re.search(rf"^{pattern} (\S+)$", answer.read().decode(), re.MULTILINE)
        assert found, pattern
        return float(found[1])

    def stop(self, *command: str) -> int:
        """Exit status of the container after a command inside it."""
        podman("exec", self.name, *command)
        return int(podman("wait", self.name))

    def remove(self) -> None:
        podman("rm", "--force", "--time=0", self.name)


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def server(request: pytest.FixtureRequest, room: Path) -> Iterator[Server]:
    """Two ranks stream token by token, one streams the whole text so far."""
    made = Server(room, request.param, accumulate=request.param == 1)
    yield made
    made.remove()


@pytest.mark.parametrize("entry", ENTRIES)
class TestEntryModels:
    def test_the_documents_request(self, server: Server, entry: str) -> None:
        answer = server.ask(entry)
        assert ANSWER.startswith(answer["text_output"])
        assert (answer["num_input_tokens"], answer["num_output_tokens"]) == (6, 20)
        assert answer["output_log_probs"] == [0.0] * 20
        assert server.ask(entry, max_tokens=60)["text_output"] == ANSWER

    def test_streaming_keeps_every_blank(self, server: Server, entry: str) -> None:
        parts = server.stream(entry, max_tokens=60)
        assert len(parts) > 20
        whole_so_far = entry == "tensorrt_llm_bls" and parts[-1]
        assert (parts[-1] if whole_so_far else "".join(parts)) == ANSWER

    def test_stop_and_bad_words_as_list_and_as_string(self, server: Server, entry: str) -> None:
        assert server.ask(entry, stop_words=[" science", "zzz"])["text_output"].endswith(" computer science")
        assert server.ask(entry, stop_words=" computer")["text_output"].endswith("a field of computer")
        assert " field" not in server.ask(entry, bad_words=" field")["text_output"]
        assert " field" not in server.ask(entry, bad_words=["zzz", " field"])["text_output"]

    def test_end_id_and_seed(self, server: Server, entry: str) -> None:
        assert server.ask(entry, end_id=7, max_tokens=60)["num_output_tokens"] == 60
        wild = {"temperature": 5.0, "top_k": 100, "top_p": 0.99}
        assert server.ask(entry, seed=1, **wild) == server.ask(entry, seed=1, **wild)
        assert server.ask(entry, seed=1, **wild)["text_output"] != server.ask(entry, seed=2, **wild)["text_output"]

    def test_logits_and_probabilities(self, server: Server, entry: str) -> None:
        answer = server.ask(
            entry, max_tokens=3, return_context_logits=True, return_generation_logits=True, return_log_probs=True
        )
        vocabulary = len(answer["generation_logits"]) // 3
        assert len(answer["context_logits"]) == 6 * vocabulary
        assert answer["cum_log_probs"] == pytest.approx(sum(answer["output_log_probs"]), abs=1e-5)
        assert answer["cum_log_probs"] < 0

    def test_refusals_are_errors_with_a_sentence(self, server: Server, entry: str) -> None:
        for body, text in (
            ({"max_tokens": 0}, "request_output_len is 0"),
            ({"beam_width": 2}, "beam width 2"),
            ({"temperature": -1.0}, "temperature is -1"),
            ({"text_input": "zz " * 400}, "exceeds maximum input length"),
        ):
            status, said = server.post(entry, {**DOCUMENTED, **body})
            assert status == 400
            assert text in said


def test_many_at_once_are_answered_as_one(server: Server) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: server.ask(ENTRIES[n % 2])["text_output"], range(40)))
    assert len(set(answers)) == 1


def test_metrics_have_the_names_and_real_numbers(server: Server) -> None:
    time.sleep(0.3)  # gauges follow within a tenth of a second
    before = server.gauge(ITERATIONS)
    server.ask("ensemble")
    time.sleep(0.3)
    assert server.gauge(ITERATIONS) == before + 20
    blocks = 'nv_trt_llm_kv_cache_block_metrics{{kv_cache_block_type="{}",model="tensorrt_llm",version="1"}}'
    assert server.gauge(blocks.format("max")) == server.gauge(blocks.format("free")) > 0
    for family in ("request", "runtime_memory", "inflight_batcher"):
        assert server.gauge(f"nv_trt_llm_{family}_metrics{{.*") >= 0


def test_an_abandoned_stream_is_not_computed_for(server: Server) -> None:
    before = server.gauge(ITERATIONS)
    body = {**DOCUMENTED, "max_tokens": 450, "end_id": 7, "stream": True}
    url = f"http://127.0.0.1:{server.http}/v2/models/tensorrt_llm_bls/generate_stream"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=20) as answer:
        answer.readline()
    time.sleep(1.5)
    assert 0 < server.gauge(ITERATIONS) - before < 450
    assert server.gauge('nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="active",version="1"}') == 0


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_leader_stopped_ends_all_as_a_success(room: Path, ranks: int) -> None:
    """A request that runs is finished first."""
    server = Server(room, ranks, decoupled=False)
    try:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(server.ask, "tensorrt_llm_bls", max_tokens=400, end_id=7)
            time.sleep(0.1)
            assert server.stop("pkill", "-TERM", "-o", "-x", "tritonserver") == 0
            assert running.result()["num_output_tokens"] == 400
    finally:
        server.remove()


@pytest.mark.parametrize("which", ["-o", "-n"], ids=["leader", "worker"])
def test_a_killed_rank_ends_the_job(room: Path, which: str) -> None:
    server = Server(room, 2)
    try:
        assert server.stop("pkill", "-KILL", which, "-x", "tritonserver") == 137
    finally:
        server.remove()
