# SPDX-License-Identifier: GPL-3.0-or-later
"""Text to text in one model that calls the other three.

With `accumulate_tokens` a streamed response decodes all tokens so far and its text_output is the whole text so
far; otherwise each response holds the text of its own tokens.
"""

from __future__ import annotations

import contextlib
import json
import threading
import uuid

import numpy as np
import triton_python_backend_utils as pb_utils

# Input of preprocessing <- our input.
TO_PREPROCESSING = {
    "QUERY": "text_input",
    "DECODER_QUERY": "decoder_text_input",
    "REQUEST_OUTPUT_LEN": "max_tokens",
    "BAD_WORDS_DICT": "bad_words",
    "STOP_WORDS_DICT": "stop_words",
    "EMBEDDING_BIAS_WORDS": "embedding_bias_words",
    "EMBEDDING_BIAS_WEIGHTS": "embedding_bias_weights",
    "END_ID": "end_id",
    "PAD_ID": "pad_id",
    "IMAGE_BYTES": "image_bytes_input",
    "IMAGE_URL": "image_url_input",
    "VIDEO_BYTES": "video_bytes_input",
}
# Input of tensorrt_llm <- output of preprocessing.
FROM_PREPROCESSING = {
    "input_ids": "INPUT_ID",
    "input_lengths": "REQUEST_INPUT_LEN",
    "request_output_len": "REQUEST_OUTPUT_LEN",
    "bad_words_list": "BAD_WORDS_IDS",
    "stop_words_list": "STOP_WORDS_IDS",
    "embedding_bias": "EMBEDDING_BIAS",
    "end_id": "OUT_END_ID",
    "pad_id": "OUT_PAD_ID",
}
# Input of tensorrt_llm <- our input, where the names differ; the others pass under their own.
RENAMED = {"runtime_top_k": "top_k", "runtime_top_p": "top_p", "len_penalty": "length_penalty", "streaming": "stream"}
PASSED = (
    "temperature", "repetition_penalty", "min_tokens", "presence_penalty", "frequency_penalty", "seed", "beam_width",
    "num_return_sequences", "exclude_input_in_output", "return_log_probs", "return_context_logits",
    "return_generation_logits", "return_num_input_tokens", "return_num_output_tokens", "return_perf_metrics",
    "prompt_embedding_table", "prompt_vocab_size", "lora_task_id", "lora_weights", "lora_config",
    "guided_decoding_guide_type", "guided_decoding_guide",
)  # fmt: skip
TO_TENSORRT_LLM = {**RENAMED, **{name: name for name in PASSED}}
CANCELLATION_CHECK_SECONDS = 0.1


def parameter(config, key):
    """A parameter's text; None if it is absent, empty or still a placeholder."""
    value = config.get("parameters", {}).get(key, {}).get("string_value", "")
    return None if not value or value.startswith("${") else value


def checked(response):
    """A response's tensors by name. Raises what the called model reported."""
    if response.has_error():
        raise pb_utils.TritonModelException(response.error().message())
    return {tensor.name(): tensor for tensor in response.output_tensors()}


class TritonPythonModel:
    """One instance answers one request at a time, so instances are what limits concurrency here."""

    def initialize(self, args):
        config = json.loads(args["model_config"])
        self._decoupled = pb_utils.using_decoupled_model_transaction_policy(config)
        self._accumulate = (parameter(config, "accumulate_tokens") or "false").lower() in ("true", "1")
        self._model = parameter(config, "tensorrt_llm_model_name") or "tensorrt_llm"
        self._outputs = [o["name"] for o in config["output"] if o["name"] != "text_output"]

    def execute(self, requests):
        answers = [self._serve(request) for request in requests]
        return None if self._decoupled else answers

    def _serve(self, request):
        """Send the responses of one request as they come, or return the only one."""
        if not self._decoupled:
            try:
                return next(self._responses(request))
            except pb_utils.TritonModelException as e:
                return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(e)))
        sender = request.get_response_sender()
        try:
            for response in self._responses(request):
                sender.send(response)
        except pb_utils.TritonModelException as e:
            sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(str(e))))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return None

    def _responses(self, request):
        given = {}
        for name in {*TO_PREPROCESSING.values(), *TO_TENSORRT_LLM.values(), "num_draft_tokens"}:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is not None:
                value = tensor.as_numpy()
                # Inputs that config.pbtxt reshapes to nothing arrive as [B]; the other models expect [B, 1].
                given[name] = value.reshape(-1, 1) if value.ndim == 1 else value
        if given.get("num_draft_tokens", np.zeros(1)).any():
            raise pb_utils.TritonModelException(
                "num_draft_tokens was given; speculative decoding is not implemented here"
            )
        streaming = bool(given.get("stream", np.zeros(1)).any())
        if streaming and not self._decoupled:
            raise pb_utils.TritonModelException("Streaming is only supported in decoupled mode.")
        inputs = self._preprocess(given)
        so_far = None
        with self._generation(request, inputs) as responses:
            for response in responses:
                tensors = checked(response)
                if not tensors:
                    continue  # an empty response that only closes the stream
                tokens, lengths = tensors["output_ids"].as_numpy(), tensors["sequence_length"].as_numpy()
                if streaming and self._accumulate:
                    so_far = tokens if so_far is None else np.concatenate([so_far, tokens], axis=2)
                    tokens, lengths = so_far, np.array([[so_far.shape[2]]], np.int32)
                text = self._postprocess(tokens, lengths)
                kept = [tensors[name] for name in self._outputs if name in tensors]
                yield pb_utils.InferenceResponse([text, *kept])

    def _preprocess(self, given):
        """tensorrt_llm's inputs."""
        request = pb_utils.InferenceRequest(
            model_name="preprocessing",
            inputs=[pb_utils.Tensor(to, given[name]) for to, name in TO_PREPROCESSING.items() if name in given],
            requested_output_names=list(FROM_PREPROCESSING.values()),
        )
        encoded = checked(request.exec())
        inputs = [
            pb_utils.Tensor(to, encoded[name].as_numpy()) for to, name in FROM_PREPROCESSING.items() if name in encoded
        ]
        return inputs + [pb_utils.Tensor(to, given[name]) for to, name in TO_TENSORRT_LLM.items() if name in given]

    @contextlib.contextmanager
    def _generation(self, request, inputs):
        """tensorrt_llm's responses. While they are awaited, a client that goes away stops the generation."""
        name = request.request_id() or uuid.uuid4().hex
        call = pb_utils.InferenceRequest(
            model_name=self._model,
            request_id=name,
            inputs=inputs,
            requested_output_names=["output_ids", "sequence_length", *self._outputs],
        )
        done = threading.Event()
        watch = threading.Thread(target=self._watch, args=(request, name, inputs, done), daemon=True)
        watch.start()
        try:
            answer = call.exec(decoupled=self._decoupled)
            yield answer if self._decoupled else [answer]
        finally:
            done.set()
            watch.join()

    def _watch(self, request, name, inputs, done):
        """Tell tensorrt_llm to stop the request of that name once our client has cancelled."""
        while not done.wait(CANCELLATION_CHECK_SECONDS):
            if request.is_cancelled():
                needed = [t for t in inputs if t.name() in ("input_ids", "input_lengths", "request_output_len")]
                stop = pb_utils.InferenceRequest(
                    model_name=self._model,
                    request_id=name,
                    inputs=[*needed, pb_utils.Tensor("stop", np.array([[True]]))],
                    requested_output_names=["sequence_length"],
                )
                answer = stop.exec(decoupled=self._decoupled)
                for _ in answer if self._decoupled else ():
                    continue
                return

    def _postprocess(self, tokens, lengths):
        """The text_output tensor."""
        request = pb_utils.InferenceRequest(
            model_name="postprocessing",
            inputs=[pb_utils.Tensor("TOKENS_BATCH", tokens), pb_utils.Tensor("SEQUENCE_LENGTH", lengths)],
            requested_output_names=["OUTPUT"],
        )
        return pb_utils.Tensor("text_output", checked(request.exec())["OUTPUT"].as_numpy())
