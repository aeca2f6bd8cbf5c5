# SPDX-License-Identifier: GPL-3.0-or-later
"""The Triton backend `tensorrtllm`: parameters in, requests in, responses out.

Triton loads this as a Python-based backend, so `backend: "tensorrtllm"` in config.pbtxt means the same here as
in NVIDIA's image. Tensors of all template releases are understood: `seed` and `random_seed`, `min_tokens` and
`min_length`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt

# Triton's stub provides it; tests provide their own.
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found,unused-ignore]

from . import __version__
from .communicator import is_orchestrator, join_world
from .engine import read_engine_config
from .errors import TrtllmError
from .executor import Executor, Request, Result, serve_steps
from .guided import NOT_SET_UP, Guide, GuidedDecoder, load_decoder
from .loading import load_model
from .mapping import Mapping
from .metrics import Metrics
from .parameters import Parameters, read_parameters
from .sampling import SamplingParams
from .words import from_tensor

# Inputs of features that this backend lacks: giving one is an error rather than a silently different answer.
UNSUPPORTED = {
    "draft_input_ids": "speculative decoding",
    "draft_logits": "speculative decoding",
    "prompt_embedding_table": "prompt tuning",
    "lora_task_id": "LoRA",
    "lora_weights": "LoRA",
    "encoder_input_features": "encoder-decoder models",
    "context_phase_params": "disaggregated serving",
}


class TritonPythonModel:
    """What Triton's stub drives. One instance per server; the executor inside takes any number of requests."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine. On ranks other than the leading one this serves the leader and does not return."""
        log = pb_utils.Logger
        config = json.loads(args["model_config"])
        try:
            self._parameters = read_parameters(config, log.log_warn)
            mapping = Mapping.from_config(read_engine_config(self._parameters.engine_dir).pretrained["mapping"])
            comm = join_world(mapping)
            if is_orchestrator():
                for rank in range(1, comm.size):
                    comm.send(self._parameters, rank)
            model, limits, allocator = load_model(self._parameters, comm, log.log_warn)
            guides = None if comm.rank else self._parameters.guided_tokenizer
            self._guided = load_decoder(guides, limits.vocab_size)
        except TrtllmError as e:
            # Upstream's runtime speaks through its own log before Triton reports the failed load.
            for line in str(e).splitlines():
                print(f"[TensorRT-LLM][ERROR] {line}", file=sys.stderr, flush=True)
            raise pb_utils.TritonModelException(str(e)) from None
        log.log_info(
            f"[TensorRT-LLM] {__version__}: engine {self._parameters.engine_dir}, rank {comm.rank} of {comm.size}, "
            f"{allocator.total} cache blocks of {allocator.tokens_per_block} tokens"
        )
        if comm.rank:
            serve_steps(model, comm)
            end_worker()
        self._decoupled = pb_utils.using_decoupled_model_transaction_policy(config)
        self._outputs = {o["name"]: pb_utils.triton_string_to_numpy(o["data_type"]) for o in config["output"]}
        self._executor = Executor(model, comm, limits, allocator, log.log_warn)
        self._metrics = Metrics(args["model_name"], args["model_version"], limits.max_batch_size, self._parameters)
        self._running = threading.Event()
        self._reporter = threading.Thread(target=self._report, name="metrics", daemon=True)
        self._reporter.start()

    def execute(self, requests: list[Any]) -> None:
        """Queue the requests; answers come through their senders, in both transaction policies."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._accept(request, sender)
            except TrtllmError as e:
                error = pb_utils.InferenceResponse(error=pb_utils.TritonError(str(e), pb_utils.TritonError.INVALID_ARG))
                sender.send(error, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self) -> None:
        """End what runs and release the other ranks."""
        if hasattr(self, "_executor"):
            self._running.set()
            self._executor.close()

    def _report(self) -> None:
        """Keep /metrics up to date; nothing is written while nothing happens."""
        while not self._running.wait(self._parameters.stats_check_ms / 1000):
            self._metrics.update(self._executor.stats)

    def _accept(self, triton_request: Any, sender: Any) -> None:
        inputs = Inputs(triton_request)
        if inputs.flag("stop"):
            self._executor.stop(triton_request.request_id())
            self._send(sender, Result([], [], 0.0, True, 0), OutputOptions(0, True, False, False), final=True)
            return
        request, options = read_request(inputs, self._parameters, self._decoupled)
        request.guide = read_guide(inputs, self._guided)
        request.name = triton_request.request_id()
        request.cancelled = triton_request.is_cancelled
        request.deliver = lambda result: self._answer(sender, result, request, options)
        self._executor.submit(request)

    def _answer(self, sender: Any, result: Result, request: Request, options: OutputOptions) -> None:
        if result.error or result.cancelled:
            kind = pb_utils.TritonError.CANCELLED if result.cancelled else pb_utils.TritonError.INTERNAL
            text = "the request was cancelled" if result.cancelled else str(result.error)
            sender.send(
                pb_utils.InferenceResponse(error=pb_utils.TritonError(text, kind)),
                flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
            )
            return
        if not options.exclude_input and not request.streaming:
            result.tokens = [*request.tokens, *result.tokens]
        self._send(sender, result, options, final=result.final)

    def _send(self, sender: Any, result: Result, options: OutputOptions, *, final: bool) -> None:
        """One response. The last one carries the FINAL flag itself: clients count on it holding data."""
        values = output_values(result, options)
        tensors = [
            pb_utils.Tensor(name, np.ascontiguousarray(values.get(name, np.zeros((1, 1))), dtype=dtype))
            for name, dtype in self._outputs.items()
        ]
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        sender.send(pb_utils.InferenceResponse(tensors), flags=flags)


class OutputOptions:
    """What a client wants to see in the answer."""

    def __init__(self, prompt: int, exclude_input: bool, log_probs: bool, perf_metrics: bool) -> None:
        self.prompt, self.exclude_input = prompt, exclude_input
        self.log_probs, self.perf_metrics = log_probs, perf_metrics


class Inputs:
    """A request's tensors by name, shapes flattened to what they mean."""

    def __init__(self, triton_request: Any) -> None:
        self._request = triton_request

    def array(self, *names: str) -> npt.NDArray[Any] | None:
        """The first of `names` that was given."""
        for name in names:
            tensor = pb_utils.get_input_tensor_by_name(self._request, name)
            if tensor is not None:
                value: npt.NDArray[Any] = tensor.as_numpy()
                return value
        return None

    def scalar(self, *names: str) -> Any:
        """The one element of a tensor, or None if it was not given."""
        value = self.array(*names)
        if value is None or value.size == 0:
            return None
        if value.size > 1:
            raise TrtllmError(
                f"{names[0]} has {value.size} elements, expected 1: the batch size of a request must be 1"
            )
        return value.reshape(-1)[0]

    def flag(self, name: str) -> bool:
        return bool(self.scalar(name) or False)


def read_request(inputs: Inputs, parameters: Parameters, decoupled: bool) -> tuple[Request, OutputOptions]:
    """A request in the executor's terms. Raises TrtllmError for what cannot be served."""
    for name, feature in UNSUPPORTED.items():
        value = inputs.array(name)
        if value is not None and value.size:
            raise TrtllmError(f"{name} was given, but {feature} is not implemented in this image")
    tokens = inputs.array("input_ids")
    if tokens is None:
        raise TrtllmError("input_ids is missing")
    if tokens.ndim > 1 and tokens.shape[0] != 1:
        raise TrtllmError(
            f"Expected batch dimension to be 1 for each request for input tensor input_ids, got {tokens.shape[0]}"
        )
    length = inputs.scalar("input_lengths")
    ids = [int(token) for token in tokens.reshape(-1)][: None if length is None else int(length)]
    beams = int(inputs.scalar("beam_width") or 1)
    if beams > parameters.max_beam_width:
        raise TrtllmError(
            f"Requested beam width {beams} exceeds the model's max_beam_width {parameters.max_beam_width}"
        )
    if beams != 1:
        raise TrtllmError(f"beam_width {beams} was asked for; this image searches with beam_width 1 only")
    if int(inputs.scalar("num_return_sequences") or 1) != 1:
        raise TrtllmError("num_return_sequences above 1 is not implemented in this image")
    streaming = inputs.flag("streaming")
    if streaming and not decoupled:
        raise TrtllmError("Streaming is only supported if model is deployed using decoupled mode.")
    output_len = inputs.scalar("request_output_len")
    if output_len is None:
        raise TrtllmError("request_output_len is missing")
    end_id = inputs.scalar("end_id")
    bias = inputs.array("embedding_bias")
    exclude = inputs.scalar("exclude_input_in_output")
    request = Request(
        tokens=ids,
        max_new_tokens=int(output_len),
        deliver=lambda result: None,
        sampling=read_sampling(inputs),
        end_id=-1 if end_id is None else int(end_id),
        stop_words=from_tensor(inputs.array("stop_words_list")),
        bad_words=from_tensor(inputs.array("bad_words_list")),
        bias=None if bias is None or not bias.size or not bias.any() else bias.reshape(-1).astype(np.float32),
        streaming=streaming,
        return_context_logits=inputs.flag("return_context_logits"),
        return_generation_logits=inputs.flag("return_generation_logits"),
    )
    options = OutputOptions(
        prompt=len(ids),
        exclude_input=parameters.exclude_input if exclude is None else bool(exclude),
        log_probs=inputs.flag("return_log_probs"),
        perf_metrics=inputs.flag("return_perf_metrics"),
    )
    return request, options


def read_guide(inputs: Inputs, decoder: GuidedDecoder | None) -> Guide | None:
    """What the answer is bound to. A guide without its type binds nothing, as in upstream's backend."""
    kind, guide = inputs.scalar("guided_decoding_guide_type"), inputs.scalar("guided_decoding_guide")
    if kind is None:
        return None
    if decoder is None:
        raise TrtllmError(NOT_SET_UP)
    text = None if guide is None else guide.decode("utf-8", "replace")
    return decoder.guide(kind.decode("utf-8", "replace"), text)


def read_sampling(inputs: Inputs) -> SamplingParams:
    """Sampling inputs; what was not given keeps its default."""
    given = {
        field: inputs.scalar(*names)
        for field, names in {
            "temperature": ("temperature",),
            "top_k": ("runtime_top_k",),
            "top_p": ("runtime_top_p",),
            "top_p_min": ("runtime_top_p_min",),
            "top_p_decay": ("runtime_top_p_decay",),
            "top_p_reset_id": ("runtime_top_p_reset_ids",),
            "seed": ("seed", "random_seed"),
            "repetition_penalty": ("repetition_penalty",),
            "presence_penalty": ("presence_penalty",),
            "frequency_penalty": ("frequency_penalty",),
            "min_tokens": ("min_tokens", "min_length"),
        }.items()
    }
    return SamplingParams(**{field: value.item() for field, value in given.items() if value is not None})


def output_values(result: Result, options: OutputOptions) -> dict[str, npt.NDArray[Any]]:
    """Output tensors by name, with batch and beam dimensions of 1. What was not asked for is zero."""
    count = len(result.tokens)
    timing = result.timing if options.perf_metrics else None
    log_probs = result.log_probs if options.log_probs else [0.0] * len(result.log_probs)
    zero = np.zeros((1, 1), np.float32)

    def one(value: float) -> npt.NDArray[Any]:
        return np.array([[value]])

    return {
        "output_ids": np.array(result.tokens, np.int32).reshape(1, 1, count),
        "sequence_length": one(count),
        "cum_log_probs": one(result.cum_log_prob if options.log_probs else 0.0),
        "output_log_probs": np.array(log_probs, np.float32).reshape(1, 1, -1),
        "context_logits": zero[None] if result.context_logits is None else result.context_logits[None],
        "generation_logits": zero[None, None]
        if result.generation_logits is None
        else result.generation_logits[None, None],
        "num_input_tokens": one(options.prompt),
        # As upstream's backend has it: what is new in this response, so that the responses of a stream add up.
        "num_output_tokens": one(len(result.log_probs)),
        "kv_cache_alloc_new_blocks": one(result.cache_blocks if timing else 0),
        "kv_cache_alloc_total_blocks": one(result.cache_blocks if timing else 0),
        "arrival_time_ns": one(timing.arrival if timing else 0),
        "first_scheduled_time_ns": one(timing.scheduled if timing else 0),
        "first_token_time_ns": one(timing.first_token if timing else 0),
        "last_token_time_ns": one(timing.last_token if timing else 0),
    }


def end_worker() -> None:
    """End the server of a rank whose work is done, as a success.

    That server is still inside model load, where nothing but a signal ends it; the launcher script of this image
    (bin/tritonserver) waits for that signal from us, kills the server and exits 0.
    """
    launcher = os.environ.get("TRITON_WORKER_LAUNCHER", "")
    if launcher.isdigit():
        os.kill(int(launcher), signal.SIGUSR1)
    else:
        os.kill(os.getppid(), signal.SIGTERM)
    while True:
        time.sleep(1)
