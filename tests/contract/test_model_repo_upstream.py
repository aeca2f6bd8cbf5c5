# SPDX-License-Identifier: GPL-3.0-or-later
"""Upstream's own Python models, out of a checkout, served by a real Triton from a repository that we rendered.

Needs TENSORRTLLM_BACKEND_DIR, a clone of tensorrtllm_backend with its tags, and package registries for a Triton server
and transformers, which are kept in the cache. The model tensorrt_llm runs on the CPU backend of images/triton_cpu.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import release
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.entry import EntryRequest
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.repository import Repository
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.request import RepositoryRequest
from ansible_collections.trtllm.fleet.plugins.plugin_utils._cache import cache_dir

pytestmark = pytest.mark.slow

# Tags whose BLS runs on Python 3.11, which the server's libpython here is.
TAGS = ("v0.7.2", "v0.8.0", "v0.16.0", "v0.19.0")
PYTHON = "/usr/bin/python3.11"
PACKAGES = ("numpy==1.26.4", "transformers>=4.57,<5", "pillow", "requests")
# From 0.12 on the BLS names torch for tensors on GPUs; no more of it than these names is touched on a CPU.
TORCH = {
    "__init__.py": "class Tensor: pass\n",
    "utils/__init__.py": "",
    "utils/dlpack.py": "def from_dlpack(tensor): raise NotImplementedError\nto_dlpack = from_dlpack\n",
}
QUESTION = {
    "text_input": "What is machine learning?",
    "max_tokens": 12,
    "bad_words": "",
    "stop_words": "",
    "pad_id": 2,
    "end_id": 2,
}


@pytest.fixture(scope="module")
def clone() -> Path:
    path = os.environ.get("TENSORRTLLM_BACKEND_DIR")
    if not path:
        pytest.skip("TENSORRTLLM_BACKEND_DIR is not set; set it to a clone of tensorrtllm_backend to serve its models")
    return Path(path)


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    path = cache_dir() / "demo" / "tiny-llama"
    if not (path / "config.json").is_file():
        pytest.skip(f"{path} is not there; `make demo` makes it")
    return path


@pytest.fixture(scope="module")
def environment(clone: Path, repo_dir: Path) -> Path:
    """A virtual environment with Triton's server and what upstream's models import."""
    place = cache_dir() / "upstream-models"
    ready = place / "ready"
    if not ready.exists():
        subprocess.run([PYTHON, "-m", "venv", "--clear", place], check=True)
        pip = [str(place / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", "nvidia-pytriton==0.7.0"], check=True)
        subprocess.run([*pip, *PACKAGES], check=True)
        ready.touch()
    packages = place / "lib" / "python3.11" / "site-packages"
    (packages / "triton_cpu.pth").write_text(f"{repo_dir}/images/triton_cpu/src\n")
    server = packages / "pytriton" / "tritonserver"
    stub = server / "python_backend_stubs" / "3.11" / "triton_python_backend_stub"
    target = server / "backends" / "python" / "triton_python_backend_stub"
    shutil.copy(stub, target)
    for program in (target, server / "bin" / "tritonserver"):
        program.chmod(0o755)
    shutil.copytree(repo_dir / "images/triton_cpu/src/backends/tensorrtllm", server / "backends" / "tensorrtllm",
                    dirs_exist_ok=True)  # fmt: skip
    return place


@pytest.fixture(scope="module")
def engine(environment: Path, checkpoint: Path, repo_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's engine, built as the image builds it."""
    place = tmp_path_factory.mktemp("engine")
    source = repo_dir / "images" / "triton_cpu" / "src"
    python = str(environment / "bin" / "python")
    variables = {**os.environ, "PYTHONPATH": str(source)}
    convert = source / "examples/models/core/llama/convert_checkpoint.py"
    subprocess.run(
        [python, convert, "--model_dir", checkpoint, "--output_dir", place / "converted", "--dtype", "float32"],
        env=variables, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    subprocess.run(
        [python, source / "bin" / "trtllm-build", "--checkpoint_dir", place / "converted",
         "--output_dir", place / "built", "--gemm_plugin", "float32",
         "--max_batch_size", "4", "--max_input_len", "128", "--max_seq_len", "256"],
        env=variables, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return place / "built"


def checkout(clone: Path, tag: str, place: Path) -> Path:
    """The tag's templates and models. Upstream's own tensorrt_llm model gives way to the CPU backend."""
    archive = subprocess.run(
        ["git", "-C", clone, "archive", tag, "all_models/inflight_batcher_llm"], capture_output=True, check=True
    )
    subprocess.run(["tar", "-x", "-C", place], input=archive.stdout, check=True)
    models = place / "all_models" / "inflight_batcher_llm"
    (models / "tensorrt_llm" / "1" / "model.py").unlink(missing_ok=True)
    for name, text in TORCH.items():
        file = models / "tensorrt_llm_bls" / "1" / "torch" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return place


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(environment: Path, repository: Path, models: list[str]) -> Iterator[str]:
    """A Triton on *repository*, once all *models* are ready; yields its URL."""
    server = environment / "lib/python3.11/site-packages/pytriton/tritonserver"
    port = free_port()
    argv = [
        str(server / "bin" / "tritonserver"), f"--model-repository={repository}",
        f"--backend-directory={server}/backends", f"--cache-directory={server}/caches",
        "--disable-auto-complete-config", "--http-address=127.0.0.1",
        f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false",
        f"--backend-config=python,shm-region-prefix-name=repo{port}_",
    ]  # fmt: skip
    log = repository.parent / "triton.log"
    path = f"{environment}/bin:{os.environ['PATH']}"
    with open(log, "w") as stream:
        process = subprocess.Popen(argv, env={**os.environ, "PATH": path}, stdout=stream, stderr=stream)
    url = f"http://127.0.0.1:{port}"
    try:
        for model in models:
            deadline = time.monotonic() + 60
            while not ready(f"{url}/v2/models/{model}/ready"):
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"{model} was not loaded: {log.read_text()[-3000:]}")
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def ready(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def ask(url: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """One answer of generate, or the events of generate_stream."""
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        text = answer.read().decode()
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")] or [text]
    return [json.loads(line) for line in lines]


def published(
    clone: Path, tag: str, engine: Path, checkpoint: Path, place: Path, *options: dict[str, Any]
) -> dict[str, Any]:
    """A repository of the tag's own templates below *place*, with one set of models for each of *options*."""
    rel = release(tag[1:])
    own = place / "engine"
    shutil.copytree(engine, own)
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps({**config, "version": rel.version}))
    few = {
        "preprocessing": {"preprocessing_instance_count": 1}, "postprocessing": {"postprocessing_instance_count": 1},
        "tensorrt_llm_bls": {"bls_instance_count": 1},
    }  # fmt: skip
    request = RepositoryRequest(
        name="upstream", release=rel.version, root=place / "root", templates=str(checkout(clone, tag, place)),
        entries=[
            EntryRequest(engine_dir=str(own), tokenizer_dir=str(checkpoint), parameters=few, **option)
            for option in options
        ],
    )  # fmt: skip
    facts: dict[str, Any] = Repository(request).present().facts
    return facts


def test_two_of_upstreams_models_answer_from_one_repository(
    clone: Path, environment: Path, checkpoint: Path, engine: Path, tmp_path: Path
) -> None:
    facts = published(clone, "v0.19.0", engine, checkpoint, tmp_path, {}, {"prefix": "other_"})
    assert "other_tensorrt_llm_bls" in facts["entry_models"]
    with serving(environment, Path(facts["repository_dir"]), facts["models"]) as url:
        answers = [ask(f"{url}/v2/models/{model}/generate", QUESTION) for model in facts["entry_models"]]
    assert len({answer[0]["text_output"] for answer in answers}) == 1


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("tag", TAGS)
def test_upstreams_models_answer_from_a_rendered_repository(
    tag: str, streaming: bool, clone: Path, environment: Path, checkpoint: Path, engine: Path, tmp_path: Path
) -> None:
    facts = published(clone, tag, engine, checkpoint, tmp_path, {"streaming": streaming})
    with serving(environment, Path(facts["repository_dir"]), facts["models"]) as url:
        for model in facts["entry_models"]:
            [answer] = ask(f"{url}/v2/models/{model}/generate", QUESTION)
            assert len(str(answer["text_output"]).strip()) > 3, (tag, model, answer)
            if streaming:
                events = ask(f"{url}/v2/models/{model}/generate_stream", {**QUESTION, "stream": True})
                assert len(events) > 5, (tag, model, events)
