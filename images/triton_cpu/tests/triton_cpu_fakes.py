# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests of images/triton_cpu share: its package on the path, checkpoints, ranks in threads, Triton's module."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any

import numpy as np

REPO = Path(__file__).resolve().parents[3]
SOURCE = REPO / "images/triton_cpu/src"
sys.path[:0] = [str(SOURCE), str(REPO / "tools")]

import golden_llama
import tiny_checkpoint
from tensorrt_llm import build, convert
from tensorrt_llm.communicator import Communicator
from tensorrt_llm.engine import read_engine, read_engine_config
from tensorrt_llm.llama import Chunk, Llama
from tensorrt_llm.mapping import Mapping
from tensorrt_llm.safetensors_file import Float32, from_float32
from tensorrt_llm.safetensors_file import write as write_safetensors

__all__ = ["golden_llama", "tiny_checkpoint"]

GOLDEN = np.load(REPO / "tests/data/golden_llama.npz")
TOKENS_PER_BLOCK = 4


def checkpoint(case: str, directory: Path) -> Path:
    """A golden case as a Hugging Face directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(golden_llama.config_of(case)))
    tensors = {name: from_float32(value, "float32") for name, value in golden_llama.weights_of(case).items()}
    write_safetensors(directory / "model.safetensors", tensors)
    return directory


def run_tool(main: Callable[[list[str]], int], *argv: object) -> tuple[int, str]:
    """Exit status and output of one of the tools; argparse's own exits included."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            status = main([str(word) for word in argv])
        except SystemExit as e:
            status = int(e.code or 0)
    return status, out.getvalue()


def run_convert(*argv: object, family: str = "llama") -> tuple[int, str]:
    return run_tool(lambda words: convert.main(family, words), *argv)


def run_build(*argv: object) -> tuple[int, str]:
    return run_tool(build.main, *argv)


def make_engine(case: str, directory: Path, *, converting: tuple[object, ...] = (), **limits: object) -> Path:
    """A golden case converted in float32 and built; `limits` are options of trtllm-build without their dashes."""
    model, converted, engine = checkpoint(case, directory / "model"), directory / "converted", directory / "engine"
    status, out = run_convert("--model_dir", model, "--output_dir", converted, "--dtype", "float32", *converting)
    assert status == 0, out
    options = {"max_batch_size": 4, "max_input_len": 128, "max_seq_len": 256, "tokens_per_block": 32, **limits}
    words: list[object] = []
    for name, value in options.items():
        words += [f"--{name}"] if value is True else [f"--{name}", value]
    status, out = run_build("--checkpoint_dir", converted, "--output_dir", engine, *words)
    assert status == 0, out
    return engine


class _Meeting:
    """A place where the ranks of a tensor-parallel group leave arrays for each other."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=60)
        self.arrays: list[Float32] = [np.empty(0, np.float32)] * size


class InThreads:
    """A communicator between threads of one process, with the semantics of the one over MPI."""

    def __init__(self, mapping: Mapping, meeting: _Meeting, mail: dict[tuple[int, int], SimpleQueue[Any]]) -> None:
        self.rank, self.size = mapping.rank, mapping.world_size
        self._place, self._meeting, self._mail = mapping.tp_rank, meeting, mail

    def _exchange(self, values: Float32) -> list[Float32]:
        self._meeting.barrier.wait()
        self._meeting.arrays[self._place] = values
        self._meeting.barrier.wait()
        return list(self._meeting.arrays)

    def all_reduce(self, values: Float32) -> Float32:
        return np.sum(self._exchange(values), axis=0, dtype=np.float32)

    def all_gather(self, values: Float32) -> Float32:
        return np.concatenate(self._exchange(values), axis=-1)

    def send(self, what: Any, to: int) -> None:
        self._mail[self.rank, to].put(what)

    def receive(self, source: int) -> Any:
        return self._mail[source, self.rank].get(timeout=60)

    def close(self) -> None:
        """Nothing is open."""


def communicators(tp: int, pp: int) -> list[Communicator]:
    """One for each rank of such a world."""
    size = tp * pp
    meetings = [_Meeting(tp) for _ in range(pp)]
    mail: dict[tuple[int, int], SimpleQueue[Any]] = {(a, b): SimpleQueue() for a in range(size) for b in range(size)}
    mappings = [Mapping(rank, tp, pp) for rank in range(size)]
    return [InThreads(mapping, meetings[mapping.pp_rank], mail) for mapping in mappings]


class World:
    """All ranks of an engine, each in a thread of its own."""

    def __init__(self, engine: Path, blocks: int = 64) -> None:
        config = read_engine_config(engine)
        mapping = Mapping.from_config(config.pretrained["mapping"])
        self.comms = communicators(mapping.tp_size, mapping.pp_size)
        self.models = [
            Llama(config.model(rank), read_engine(engine / f"rank{rank}.engine")[0], comm, blocks, TOKENS_PER_BLOCK)
            for rank, comm in enumerate(self.comms)
        ]

    def forward(self, chunks: list[Chunk]) -> list[Float32]:
        """One step on all ranks; the leading rank's logits."""
        with ThreadPoolExecutor(len(self.models)) as pool:
            results = [future.result() for future in [pool.submit(model.forward, chunks) for model in self.models]]
        assert results[0] is not None
        return results[0]


def blocks_for(length: int, first: int = 0) -> list[int]:
    """Consecutive cache blocks for that many positions."""
    return list(range(first, first + -(-length // TOKENS_PER_BLOCK)))


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class FakeTensor:
    """pb_utils.Tensor."""

    def __init__(self, name: str, value: Any) -> None:
        self._name, self._value = name, value

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Any:
        return self._value


class FakeError(Exception):
    """pb_utils.TritonError and TritonModelException."""

    CANCELLED, INVALID_ARG, INTERNAL = "CANCELLED", "INVALID_ARG", "INTERNAL"

    def __init__(self, text: str, code: str = INTERNAL) -> None:
        super().__init__(text)
        self.code = code

    def message(self) -> str:
        return str(self)


class FakeResponse:
    """pb_utils.InferenceResponse."""

    def __init__(self, output_tensors: list[FakeTensor] | None = None, error: FakeError | None = None) -> None:
        self.tensors, self.error = {t.name(): t.as_numpy() for t in output_tensors or []}, error


class FakeSender:
    """Collects responses; `done` is set with the FINAL flag."""

    def __init__(self) -> None:
        self.responses: list[tuple[FakeResponse | None, int]] = []
        self.done = threading.Event()

    def send(self, response: FakeResponse | None = None, flags: int = 0) -> None:
        self.responses.append((response, flags))
        if flags:
            self.done.set()


class FakeRequest:
    """A request with tensors by name."""

    def __init__(self, name: str = "", **tensors: Any) -> None:
        self.tensors, self.sender, self.gone = tensors, FakeSender(), False
        self._name = name

    def request_id(self) -> str:
        return self._name

    def get_response_sender(self) -> FakeSender:
        return self.sender

    def is_cancelled(self) -> bool:
        return self.gone

    def requested_output_names(self) -> list[str]:
        return [
            "INPUT_ID", "REQUEST_INPUT_LEN", "REQUEST_OUTPUT_LEN", "BAD_WORDS_IDS", "STOP_WORDS_IDS", "EMBEDDING_BIAS",
            "OUT_END_ID", "OUT_PAD_ID",
        ]  # fmt: skip


class FakeGauge:
    def __init__(self, labels: dict[str, str]) -> None:
        self.labels, self.value = labels, 0.0

    def set(self, value: float) -> None:
        self.value = value


class FakeFamily:
    """pb_utils.MetricFamily; all of them stay in `every`."""

    GAUGE = "gauge"
    every: list[FakeFamily] = []

    def __init__(self, name: str, description: str, kind: str) -> None:
        self.name, self.gauges = name, [FakeGauge({})][:0]
        FakeFamily.every.append(self)

    def Metric(self, labels: dict[str, str]) -> FakeGauge:
        self.gauges.append(FakeGauge(labels))
        return self.gauges[-1]


class FakeLogger:
    warnings: list[str] = []

    @staticmethod
    def log_info(text: str) -> None:
        """Not looked at."""

    @staticmethod
    def log_warn(text: str) -> None:
        FakeLogger.warnings.append(text)


def fake_triton() -> ModuleType:
    """A stand-in for triton_python_backend_utils, which only Triton's stub provides."""
    types = {"TYPE_INT32": np.int32, "TYPE_INT64": np.int64, "TYPE_FP32": np.float32, "TYPE_FP16": np.float16}
    types.update(TYPE_UINT8=np.uint8, TYPE_UINT64=np.uint64, TYPE_BOOL=np.bool_, TYPE_STRING=np.object_)

    def get_input(request: FakeRequest, name: str) -> FakeTensor | None:
        return FakeTensor(name, request.tensors[name]) if name in request.tensors else None

    module = ModuleType("triton_python_backend_utils")
    vars(module).update(
        Tensor=FakeTensor, InferenceResponse=FakeResponse, TritonError=FakeError, TritonModelException=FakeError,
        MetricFamily=FakeFamily, Logger=FakeLogger, TRITONSERVER_RESPONSE_COMPLETE_FINAL=1,
        get_input_tensor_by_name=get_input, triton_string_to_numpy=types.__getitem__,
        using_decoupled_model_transaction_policy=lambda config: config["model_transaction_policy"]["decoupled"],
    )  # fmt: skip
    return module


@contextlib.contextmanager
def triton_module() -> Iterator[ModuleType]:
    """Have `import triton_python_backend_utils` find the stand-in."""
    name = "triton_python_backend_utils"
    before = sys.modules.get(name)
    sys.modules[name] = fake_triton()
    try:
        yield sys.modules[name]
    finally:
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
