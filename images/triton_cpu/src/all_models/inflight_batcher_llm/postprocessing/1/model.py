# SPDX-License-Identifier: GPL-3.0-or-later
"""Tokens to text: the last model of the repository."""

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


class TritonPythonModel:
    """Decodes each beam's tokens on their own, as far as its length says."""

    def initialize(self, args):
        config = json.loads(args["model_config"])
        directory = parameter(config, "tokenizer_dir")
        if directory is None or not (Path(directory) / "tokenizer.json").is_file():
            raise pb_utils.TritonModelException(
                f"tokenizer_dir {directory} holds no tokenizer.json; give the directory of the model's tokenizer"
            )
        self._tokenizer = Tokenizer.from_file(str(Path(directory) / "tokenizer.json"))
        self._skip_special = (parameter(config, "skip_special_tokens") or "true").lower() in ("true", "1")

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        """Tokens [B, beams, n] and lengths [B, beams] to texts [B, beams]."""
        tokens = pb_utils.get_input_tensor_by_name(request, "TOKENS_BATCH").as_numpy()
        lengths = pb_utils.get_input_tensor_by_name(request, "SEQUENCE_LENGTH").as_numpy()
        batch, beams = lengths.shape
        texts = np.empty((batch, beams), dtype=object)
        for row in range(batch):
            for beam in range(beams):
                ids = [int(token) for token in tokens[row, beam, : lengths[row, beam]]]
                text = self._tokenizer.decode(ids, skip_special_tokens=self._skip_special)
                texts[row, beam] = text.encode("utf-8")
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", texts)])
