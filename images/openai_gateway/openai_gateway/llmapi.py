# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica that is Triton with the repository `llmapi`: one model that loads a checkpoint, with other tensors.

What is asked of it and what it answers is named here as with the models for engines. Each response of a stream has all
the text so far.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from openai_gateway.interface import Interface, is_decoupled, names_of, release_row
from openai_gateway.triton import TritonClient

MODEL = "tensorrt_llm"
# Inputs of the models for engines that it has too, and what it calls them. Sequences that end an answer are not among
# them: it hands them on as bytes, and the gateway cuts an answer and ends the request itself. Its end tokens it knows.
NAMES = {
    "text_input": "text_input",
    "max_tokens": "sampling_param_max_tokens",
    "temperature": "sampling_param_temperature",
    "top_k": "sampling_param_top_k",
    "top_p": "sampling_param_top_p",
    "frequency_penalty": "sampling_param_frequency_penalty",
    "presence_penalty": "sampling_param_presence_penalty",
    "seed": "sampling_param_seed",
    "exclude_input_in_output": "sampling_param_exclude_input_from_output",
    "stream": "streaming",
}
# By which it is known.
SIGN = NAMES["max_tokens"]
REASON = "return_finish_reason"
# The first release whose repository is known; the model does not say which one it is.
RELEASE = "1.0.0"


def interface_of(config: Mapping[str, Any]) -> Interface | None:
    """How to speak to the model with this configuration; None where it is another."""
    inputs = names_of(config, "input")
    if SIGN not in inputs:
        return None
    return Interface(
        row=release_row(RELEASE),
        inputs=frozenset(name for name, theirs in NAMES.items() if theirs in inputs),
        outputs=names_of(config, "output"),
        decoupled=is_decoupled(config),
        cumulative=True,
        adds_special_tokens=True,
        llmapi=True,
    )


class LlmApiClient(TritonClient):
    """The model of the repository `llmapi` on one Triton."""

    async def llmapi(self) -> Interface | None:
        """How to speak to it; None where this Triton has no such model. Raises Unreachable."""
        config = await self._config(MODEL)
        return interface_of(config) if config else None

    async def generate(
        self, model: str, payload: Mapping[str, Any], *, stream: bool, headers: Mapping[str, str]
    ) -> AsyncGenerator[list[dict[str, Any]], None]:
        """See TritonClient."""
        body = {NAMES[name]: value for name, value in payload.items() if name in NAMES}
        body |= {REASON: True, "id": payload.get("id", "")}
        async for batch in super().generate(MODEL, body, stream=stream, headers=headers):
            yield batch
