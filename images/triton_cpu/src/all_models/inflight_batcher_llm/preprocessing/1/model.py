# SPDX-License-Identifier: GPL-3.0-or-later
"""Text to tokens: the first model of the repository."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer


def parameter(config, key):
    """A parameter's text; None if it is absent, empty or still a placeholder."""
    value = config.get("parameters", {}).get(key, {}).get("string_value", "")
    return None if not value or value.startswith("${") else value


def special_token(settings, key):
    """A special token's text from tokenizer_config.json, where it is a string or an object; None if unset."""
    value = settings.get(key)
    return value.get("content") if isinstance(value, dict) else value


class TritonPythonModel:
    """Encodes the prompt, the stop and bad words and the biased words with the checkpoint's own tokenizer."""

    def initialize(self, args):
        config = json.loads(args["model_config"])
        directory = parameter(config, "tokenizer_dir")
        if directory is None or not (Path(directory) / "tokenizer.json").is_file():
            raise pb_utils.TritonModelException(
                f"tokenizer_dir {directory} holds no tokenizer.json; give the directory of the model's tokenizer"
            )
        self._tokenizer = Tokenizer.from_file(str(Path(directory) / "tokenizer.json"))
        settings_file = Path(directory) / "tokenizer_config.json"
        settings = json.loads(settings_file.read_text()) if settings_file.is_file() else {}
        self._add_special = (parameter(config, "add_special_tokens") or "true").lower() in ("true", "1")
        end, pad = special_token(settings, "eos_token"), special_token(settings, "pad_token")
        self._end_id = self._tokenizer.token_to_id(end) if end else None
        pad_id = self._tokenizer.token_to_id(pad) if pad else None
        self._pad_id = self._end_id if pad_id is None else pad_id
        self._outputs = {o["name"]: pb_utils.triton_string_to_numpy(o["data_type"]) for o in config["output"]}

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        try:
            values = self._encode(request)
        except ValueError as e:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(e), pb_utils.TritonError.INVALID_ARG))
        wanted = set(request.requested_output_names())
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(name, np.ascontiguousarray(value, dtype=self._outputs[name]))
                for name, value in values.items()
                if name in wanted
            ]
        )

    def _encode(self, request):
        """All output tensors by name; B is the batch size of the request."""

        def given(name):
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            return None if tensor is None else tensor.as_numpy()

        for name in ("IMAGE_BYTES", "IMAGE_URL", "VIDEO_BYTES", "DECODER_QUERY"):
            if given(name) is not None:
                raise ValueError(f"{name} was given; models of text alone are served here")
        prompts = [self._ids(text, self._add_special) for text in given("QUERY").reshape(-1)]
        batch = len(prompts)
        longest = max(len(ids) for ids in prompts)
        end = self._token_id(given("END_ID"), self._end_id, batch)
        pad = self._token_id(given("PAD_ID"), self._pad_id, batch)
        padded = [ids + [int(pad[row, 0])] * (longest - len(ids)) for row, ids in enumerate(prompts)]
        return {
            "INPUT_ID": np.array(padded, np.int32).reshape(batch, longest),
            "REQUEST_INPUT_LEN": np.array([[len(ids)] for ids in prompts]),
            "DECODER_INPUT_ID": np.zeros((batch, 1)),
            "REQUEST_DECODER_INPUT_LEN": np.zeros((batch, 1)),
            "REQUEST_OUTPUT_LEN": given("REQUEST_OUTPUT_LEN"),
            "BAD_WORDS_IDS": self._words(given("BAD_WORDS_DICT"), batch),
            "STOP_WORDS_IDS": self._words(given("STOP_WORDS_DICT"), batch),
            "EMBEDDING_BIAS": self._bias(given("EMBEDDING_BIAS_WORDS"), given("EMBEDDING_BIAS_WEIGHTS"), batch),
            "OUT_END_ID": end,
            "OUT_PAD_ID": pad,
            "OUT_PROMPT_TABLE_EXTRA_IDS": np.zeros((batch, 0)),
        }

    def _ids(self, text, special=False):
        text = text.decode("utf-8") if isinstance(text, bytes) else str(text)
        return self._tokenizer.encode(text, add_special_tokens=special).ids

    @staticmethod
    def _token_id(given, default, batch):
        """[B, 1]: the request's id, else the tokenizer's; -1 where neither has one."""
        if given is not None:
            return given.reshape(batch, 1)
        return np.full((batch, 1), -1 if default is None else default)

    def _words(self, given, batch):
        """[B, 2, n]: all tokens of the words in row 0, the end of each word in row 1, padded with 0 and -1."""
        rows = [[] for _ in range(batch)] if given is None else given.reshape(batch, -1)
        lists = [[ids for ids in map(self._ids, words) if ids] for words in rows]
        width = max(1, *(sum(map(len, words)) for words in lists))
        result = np.zeros((batch, 2, width), np.int32)
        result[:, 1] = -1
        for row, words in enumerate(lists):
            flat = [token for ids in words for token in ids]
            result[row, 0, : len(flat)] = flat
            result[row, 1, : len(words)] = np.cumsum([len(ids) for ids in words])
        return result

    def _bias(self, words, weights, batch):
        """[B, vocabulary], or [B, 0] without biased words: a weight for each token of each word."""
        if words is None or weights is None or not any(words.reshape(-1)):
            return np.zeros((batch, 0), np.float32)
        words, weights = words.reshape(batch, -1), weights.reshape(batch, -1)
        if words.shape != weights.shape:
            raise ValueError(
                f"{words.shape[1]} embedding_bias_words and {weights.shape[1]} weights were given, expected as many"
            )
        result = np.zeros((batch, self._tokenizer.get_vocab_size()), np.float32)
        for row in range(batch):
            for word, weight in zip(words[row], weights[row], strict=True):
                result[row, self._ids(word)] += weight
        return result
