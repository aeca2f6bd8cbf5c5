# SPDX-License-Identifier: GPL-3.0-or-later
"""The one model of Triton's repository `llmapi`: a checkpoint that the LLM API loads, described by a model.yaml.

Tensors, words and the file are upstream's. A streamed response holds all the text so far. `decoupled` and
`max_batch_size` of the file are what this model goes by; Triton goes by config.pbtxt, so both have to say the same.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

# Triton's stub provides it; tests provide their own.
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found,unused-ignore]
import yaml

from . import __version__
from .errors import TrtllmError
from .llmapi.keys import keys_of
from .llmapi.llm_args import check_keys, read
from .llmapi.model import Answer, Model
from .triton_backend import Inputs

# What a request may say of the answer. Who gives none of the last three gets the likeliest tokens.
SAMPLING = ("max_tokens", "seed", "frequency_penalty", "presence_penalty", "temperature", "top_k", "top_p")
CHOOSING = SAMPLING[-3:]
DEFAULT_MAX_TOKENS = 32
UNSUPPORTED = {"sampling_param_best_of": "several answers", "lora_id": "LoRA", "lora_path": "LoRA"}


def read_file(place: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What model.yaml says of the model, and of Triton. Raises TrtllmError."""
    path = place / os.environ.get("LLM_CONFIG_PATH", "model.yaml")
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as e:
        raise TrtllmError(f"Failed to parse YAML engine config: {e}") from None
    if not isinstance(said, dict):
        raise TrtllmError(f"{path} is no mapping of keys to values")
    triton = said.pop("triton_config", None)
    if not isinstance(triton, dict) or not {"decoupled", "max_batch_size"} <= set(triton):
        raise TrtllmError(f"{path} has no triton_config with decoupled and max_batch_size")
    check_keys(said, keys_of(__version__))
    if said.get("cache_transceiver_config"):
        raise TrtllmError("cache_transceiver_config was given, but Triton serves no prompts that others have read")
    if said.get("backend", "pytorch") != "pytorch":
        raise TrtllmError(f"backend is {said['backend']}; this image has the contract of pytorch alone")
    return said, triton


class TritonPythonModel:
    """What Triton's stub drives."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the checkpoint, and start the other ranks."""
        config = json.loads(args["model_config"])
        self._scratch = Path(tempfile.mkdtemp(prefix="llmapi-"))
        try:
            said, triton = read_file(Path(args["model_repository"]) / args["model_version"])
            directory = Path(str(said.get("model") or ""))
            if not directory.is_dir():
                raise TrtllmError(f"{directory} is no directory; this image downloads nothing")
            # The model starts its other ranks itself, whatever mpirun started Triton with.
            os.environ["TRTLLM_ORCHESTRATOR"] = "1"
            self._model = Model(directory, read(said), self._scratch)
        except TrtllmError as e:
            shutil.rmtree(self._scratch, ignore_errors=True)
            for line in str(e).splitlines():
                print(f"[TensorRT-LLM][ERROR] {line}", file=sys.stderr, flush=True)
            raise pb_utils.TritonModelException(str(e)) from None
        self._decoupled = bool(triton["decoupled"])
        self._outputs = {o["name"]: pb_utils.triton_string_to_numpy(o["data_type"]) for o in config["output"]}
        pb_utils.Logger.log_info(f"[trtllm] {__version__}: serves {directory}")

    def execute(self, requests: list[Any]) -> None:
        """Queue the requests; answers come through their senders, in both transaction policies."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._accept(request, sender)
            except TrtllmError as e:
                _refuse(sender, f"Error generating request: {e}")

    def finalize(self) -> None:
        """End what runs and release the other ranks."""
        if hasattr(self, "_model"):
            self._model.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _accept(self, request: Any, sender: Any) -> None:
        inputs = Inputs(request)
        for name, feature in UNSUPPORTED.items():
            value = inputs.scalar(name)
            if value is not None and (name != "sampling_param_best_of" or int(value) != 1):
                raise TrtllmError(f"{name} was given, but {feature} is not implemented in this image")
        if inputs.flag("stop"):
            raise TrtllmError("stop was given, but ending another request is not implemented in this image")
        text = _text(inputs, "text_input")
        if text is None:
            raise TrtllmError("text_input is missing from the request")
        streaming = inputs.flag("streaming")
        if streaming and not self._decoupled:
            raise TrtllmError("Streaming is only supported in decoupled mode.")
        answering = _Answering(self, request, sender, streaming, inputs)
        answering.text = "" if inputs.flag("sampling_param_exclude_input_from_output") else text
        answering.cancelled = self._model.submit(self._model.encode(text, True), _sampling(inputs), answering.take)

    def respond(self, sender: Any, values: dict[str, Any], final: bool) -> None:
        """One response."""
        tensors = [
            pb_utils.Tensor(name, np.array([value], dtype=self._outputs[name])) for name, value in values.items()
        ]
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        sender.send(pb_utils.InferenceResponse(tensors), flags=flags)


class _Answering:
    """A request while it is answered."""

    def __init__(self, model: TritonPythonModel, request: Any, sender: Any, streaming: bool, inputs: Inputs) -> None:
        self._model, self._request, self._sender, self._streaming = model, request, sender, streaming
        self._reason, self._stop = inputs.flag("return_finish_reason"), inputs.flag("return_stop_reason")
        self.text = ""
        self.cancelled: Any = None

    def take(self, answer: Answer) -> None:
        """What is new of the answer, from the executor's thread."""
        if answer.error:
            _refuse(self._sender, f"Error generating request: {answer.error}")
            return
        self.text += answer.text
        final = answer.finish_reason is not None
        if not final and self.cancelled is not None and self._request.is_cancelled():
            self.cancelled.set()
        if not final and not self._streaming:
            return
        values: dict[str, Any] = {"text_output": self.text.encode()}
        if self._reason:
            values["finish_reason"] = str(answer.finish_reason).encode()
        if self._stop:
            values["stop_reason"] = str(answer.stop_reason).encode()
        self._model.respond(self._sender, values, final)


def _refuse(sender: Any, text: str) -> None:
    sender.send(
        pb_utils.InferenceResponse(error=pb_utils.TritonError(text)),
        flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
    )


def _text(inputs: Inputs, name: str) -> str | None:
    value = inputs.scalar(name)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _sampling(inputs: Inputs) -> dict[str, Any]:
    """A request's wishes, as the model of the LLM API takes them."""
    found: dict[str, Any] = {}
    for name in SAMPLING:
        value = inputs.scalar(f"sampling_param_{name}")
        if value is not None:
            found[name] = value.item()
    found.setdefault("max_tokens", DEFAULT_MAX_TOKENS)
    if not any(name in found for name in CHOOSING):
        found["top_k"] = 1
    stop = inputs.array("sampling_param_stop")
    if stop is not None:
        found["stop"] = [word.decode("utf-8", "replace") for word in stop.reshape(-1)]
    return found
