# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers that read prompts, servers that write answers, and the one before them: as themselves, and as one replica."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="images/trtllm_serve_cpu/requirements.txt is not installed")
pytest.importorskip("numpy")

import httpx
import uvicorn
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.gate import parse_gate
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.verify import Target
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.verify_by_api import verification_of
from openai_gateway_fakes import OPEN, Network, free_port, gateway, model_entry, wait_for
from tensorrt_llm.errors import TrtllmError
from tensorrt_llm.llmapi.model import Model
from trtllm_serve.disaggregated import Front
from trtllm_serve.llm_args import read_args
from trtllm_serve.options import parser
from trtllm_serve.server import Server

REPO = Path(__file__).resolve().parents[3]
PARTS = REPO / "roles/triton/files/serve_parts.py"
QUESTION = "What is machine learning?"
TEXT = " Machine learning is a field of computer science"
SAID = "max_batch_size: 4\nmax_seq_len: 128\nenable_iter_perf_stats: true\nkv_cache_config: {max_tokens: 2048}\n"
TRANSFER = "cache_transceiver_config: {backend: UCX, max_tokens_in_buffer: 128}\n"


class Running:
    """An app on a port of its own; a server of a model counts what it was asked."""

    def __init__(self, app: Any, model: Model | None = None, port: int = 0) -> None:
        self.model = model
        self.server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        assert wait_for(lambda: self.server.started, 60)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def end(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "tiny-llama"
    subprocess.run([sys.executable, REPO / "tools" / "tiny_checkpoint.py", place], check=True, capture_output=True)
    return place


def worker(checkpoint: Path, scratch: Path, said: str) -> Running:
    (scratch / "said.yaml").write_text(said)
    args = read_args(parser().parse_args([str(checkpoint), f"--extra_llm_api_options={scratch}/said.yaml"]))
    model = Model(checkpoint, args, scratch)
    return Running(Server(model, checkpoint.name).app(), model)


@pytest.fixture(scope="module")
def parts(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Running]]:
    found = {
        name: worker(checkpoint, tmp_path_factory.mktemp(name), SAID + ("" if name == "alone" else TRANSFER))
        for name in ("context", "generation", "alone")
    }
    file = tmp_path_factory.mktemp("front") / "front.yaml"
    told = {"hostname": "127.0.0.1", "port": free_port()}
    for kind in ("context", "generation"):
        told[f"{kind}_servers"] = {"num_instances": 1, "urls": [f"127.0.0.1:{found[kind].port}"]}
    file.write_text(json.dumps(told))
    front = Front.read(str(file), 60)
    front.wait(60)
    found["front"] = Running(front.app(), port=front.port)
    yield found
    for one in found.values():
        one.end()


@pytest.fixture
def network() -> Iterator[Network]:
    yield Network()
    while OPEN:
        OPEN.pop().close()


def ask(one: Running, path: str = "completions", **body: Any) -> httpx.Response:
    asked = {"model": "tiny-llama", "max_tokens": 8, "temperature": 0, "prompt": QUESTION, **body}
    if path != "completions":
        asked.pop("prompt")
    return httpx.post(f"{one.url}/v1/{path}", json=asked, timeout=60)


def test_each_kind_does_its_part_and_the_answer_is_that_of_one_server(parts: dict[str, Running]) -> None:
    before = {kind: parts[kind].model.executor.stats.iteration for kind in ("context", "generation")}  # type: ignore[union-attr]
    whole, alone = ask(parts["front"]).json(), ask(parts["alone"]).json()
    assert whole["choices"][0]["text"] == alone["choices"][0]["text"] == TEXT
    assert whole["usage"] == alone["usage"] and whole["choices"][0]["finish_reason"] == "length"
    work = {kind: parts[kind].model.executor.stats.iteration - before[kind] for kind in before}  # type: ignore[union-attr]
    assert work["context"] == 1 and work["generation"] == 7
    lines = ask(parts["front"], stream=True, stream_options={"include_usage": True}).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert "".join(event["choices"][0]["text"] for event in events if event["choices"]) == TEXT
    assert lines[-2] == "data: [DONE]" or lines[-1] == "data: [DONE]"
    messages = [{"role": "user", "content": QUESTION}]
    chat = ask(parts["front"], "chat/completions", messages=messages).json()
    assert chat["choices"][0]["message"]["content"].strip().startswith("Machine learning is")
    assert ask(parts["front"], max_tokens=1).json()["choices"][0]["text"] == " Machine"


def test_a_server_without_a_way_to_hand_prompts_over_says_so(parts: dict[str, Running]) -> None:
    refused = ask(parts["alone"], disaggregated_params={"request_type": "context_only"})
    assert refused.status_code == 400 and "Disaggregated serving is not enabled" in refused.json()["message"]
    assert ask(parts["front"], words=3).status_code == 400


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"context_servers": {"num_instances": 2, "urls": ["a:1"]}}, "context_servers has 1 urls, expected 2"),
        ({"context_servers": {}}, "context_servers has 0 urls"),
        ({"max_batch_size": 3}, "max_batch_size is handed down"),
        ({"context_servers": {"urls": ["a:1"], "router": {"type": "kv_cache_aware"}}}, "takes turns (round_robin)"),
    ],
)
def test_a_file_that_cannot_be_ends_it(tmp_path: Path, more: dict[str, Any], sentence: str) -> None:
    told = {"context_servers": {"urls": ["a:1"]}, "generation_servers": {"urls": ["b:1"]}, **more}
    (tmp_path / "front.yaml").write_text(json.dumps(told))
    with pytest.raises(TrtllmError) as refused:
        Front.read(str(tmp_path / "front.yaml"), 1)
    assert sentence in str(refused.value)


def test_it_is_verified_as_one_replica(parts: dict[str, Running]) -> None:
    gate = parse_gate({"prompts": [{"prompt": QUESTION, "max_tokens": 8, "equals": TEXT}]})
    url = parts["front"].url
    target = Target(url, entry_models=["tiny-llama"], api="openai", early_stop_tokens=90, early_stop_ms=1, gate=gate)
    outcomes = verification_of(target).run()
    assert not [(found.name, found.answer) for found in outcomes if found.ok is False]
    assert "lists no models" in outcomes[0].answer


def test_the_gateway_fronts_it_as_one_replica(parts: dict[str, Running], checkpoint: Path, network: Network) -> None:
    one = gateway(network, model_entry(checkpoint, parts["front"].url))
    body = {"model": "tiny", "prompt": QUESTION, "max_tokens": 8, "temperature": 0}
    answer = one("/v1/completions", body).json()
    assert answer["choices"][0]["text"] == TEXT and answer["usage"]["completion_tokens"] == 8
    stream = one("/v1/completions", {**body, "stream": True}).text.splitlines()
    events = [json.loads(line[6:]) for line in stream if line.startswith("data: {")]
    assert "".join(event["choices"][0]["text"] for event in events if event["choices"]) == TEXT
    assert one("/health/ready").json()["models"]["tiny"] == {parts["front"].url: "ready"}


# -- what runs them in one container -----------------------------------------------------------------------------------

SLEEP = [sys.executable, "-c", "import time; time.sleep(100)"]
# Both note what they see of the other as they are told to end.
HEAD = """
import os, pathlib, signal, sys, time
here = pathlib.Path(os.environ["MARK"])
"""
FRONT = (
    HEAD
    + """
def end(*_):
    time.sleep(1)
    (here / "answered").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
(here / "front").touch()
time.sleep(100)
"""
)
SERVER = (
    HEAD
    + """
def end(*_):
    if not (here / "answered").exists():
        (here / "first").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
(here / (os.environ["CUDA_VISIBLE_DEVICES"] + "".join(sys.argv[1:]))).touch()
time.sleep(100)
"""
)


def start(tmp_path: Path, front: list[str], *servers: list[str]) -> subprocess.Popen[str]:
    told = {
        "servers": [{"name": f"s-{n}", "gpus": str(n), "argv": argv} for n, argv in enumerate(servers)],
        "front": {"argv": front, "file": {"port": 1}},
    }
    environment = {
        **os.environ, "TRTLLM_PARTS": json.dumps(told), "MARK": f"{tmp_path}/", "TRTLLM_PARTS_GRACE": "5",
        "TMPDIR": str(tmp_path), "TRTLLM_SERVE_MORE": "--more",
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-I", "-S", PARTS, "--port=1"], env=environment, stderr=subprocess.PIPE, text=True
    )


def test_parts_end_together_and_a_stop_lets_the_answers_be_given_first(tmp_path: Path) -> None:
    # The one before the others needs them until it has ended.
    process = start(tmp_path, [sys.executable, "-c", FRONT, "@file@"], *[[sys.executable, "-c", SERVER]] * 2)
    assert wait_for(lambda: all((tmp_path / name).exists() for name in ("front", "0--more", "1--more")))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert (tmp_path / "answered").exists() and not (tmp_path / "first").exists()
    assert not list(tmp_path.glob("disaggregated-*"))


def test_where_one_ends_by_itself_all_do(tmp_path: Path) -> None:
    process = start(tmp_path, SLEEP, SLEEP, [sys.executable, "-c", "import time; time.sleep(1)"])
    begin = time.monotonic()
    _out, said = process.communicate(timeout=60)
    assert process.returncode == 1 and "s-1 ended by itself" in said and time.monotonic() - begin < 50
