# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which checks a replica is asked, by the API that it speaks: those of engines in Triton, or those of checkpoints."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Optional

from .._release.serve import PROMETHEUS_ROUTE
from .client import CompletionsClient, LlmApiClient, TritonError, requests_answered, requests_served
from .verify import Failed, NotJudged, Outcome, Target, Verification

# Requests at once to a server that has no instances.
AT_ONCE = 4


class CheckpointVerification(Verification):
    """What the checks of servers that load a checkpoint have in common."""

    def _left_the_server(self, remaining: float) -> str:
        """Whether it answers the next: none of them tells everybody who asks which requests run."""
        problem = self._one_token(self.target.entry_models[0])
        if problem:
            raise Failed(f"no token after the connection was dropped: {problem}")
        return "and it answers the next"


class CompletionsVerification(CheckpointVerification):
    """The checks of a server that speaks OpenAI's API itself, which Triton and its models have no part in."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.client = CompletionsClient(target.url, target.timeout)
        self._streams = True

    def run(self) -> list[Outcome]:
        """Every check that such a server can be asked."""
        if self.target.only_gateway:
            return self._through_gateway()
        self._check("readiness", "GET /health and /v1/models", "its model is there", self.readiness)
        self._gate(self.target.gate)
        if self.target.gate_only:
            return self.outcomes
        before = self._answered()
        for model in self.target.entry_models:
            self._entry_model(model)
        self._check("metrics", f"GET {PROMETHEUS_ROUTE}", "requests counted", partial(self.metrics, before))
        return self._through_gateway()

    def _answered(self) -> Optional[int]:
        try:
            return requests_answered(self.client.metrics(f"{self.target.url}{PROMETHEUS_ROUTE}"))
        except TritonError:
            return None

    def metrics(self, before: Optional[int]) -> str:
        """Our requests were counted; a release without such metrics, or a front that has other ones, is not judged."""
        served = self._answered()
        if served is None:
            raise NotJudged("it counts no requests in Prometheus' format")
        if served <= (before or 0):
            raise Failed(f"trtllm_request_success_total stayed at {served}")
        return f"{served - (before or 0)} more requests counted"

    def readiness(self) -> str:
        """Health, and the models that it names. One that stands before servers of two kinds names none."""
        self.client.get("/health")
        try:
            listed = self.client.get("/v1/models")
        except TritonError as error:
            if error.status != 404:
                raise
            self.client.get("/version")
            return "healthy; it stands before others, and lists no models"
        named = [str(model["id"]) for model in json.loads(listed)["data"]]
        missing = [model for model in self.target.entry_models if model not in named]
        if missing:
            raise Failed(f"no model {', '.join(missing)}, but {', '.join(named) or 'none'}")
        return f"serves {', '.join(named)}"

    def _entry_model(self, model: str) -> None:
        self._check(f"{model} completion", "the document's prompt, 20 tokens", "text", partial(self.generate, model))
        ask = f"{AT_ONCE} at once, one token each"
        self._check(f"{model} at once", ask, "a token each", partial(self.at_once, model))
        word = "a word of the answer before"
        stop = partial(self.stop_words, model, "list")
        self._check(f"{model} stop", word, "the answer ends with it", stop)
        self._check(f"{model} streaming", "stream: true", "the same text in pieces", partial(self.streaming, model))
        ask = f"max_tokens: {self.target.early_stop_tokens}, dropped after {self.target.early_stop_ms} ms"
        self._check(f"{model} early stop", ask, "fewer tokens, and it answers", partial(self.early_stop, model))

    def at_once(self, model: str) -> str:
        """Several requests that run in one batch."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            problems = [problem for problem in pool.map(self._one_token, [model] * AT_ONCE) if problem]
        if problems:
            raise Failed(f"{len(problems)} of {AT_ONCE} requests failed: {problems[0]}")
        return f"{AT_ONCE} tokens"

    def _model_to_stop(self) -> str:
        return self.target.entry_models[0]


class LlmApiVerification(CheckpointVerification):
    """The checks of a Triton whose one model loads a checkpoint: no tokens by number, logits or words to avoid."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.client = LlmApiClient(target.url, target.timeout)

    def _checks(self, before: Optional[int]) -> None:
        for model in self.target.entry_models:
            self._entry_model(model)
        self._check("metrics", "GET /metrics", "requests counted", lambda: self.metrics(before))

    def _entry_model(self, model: str) -> None:
        self._check(f"{model} generate", "the document's prompt, 20 tokens", "text", partial(self.generate, model))
        ask = "one token, twice for each instance"
        self._check(f"{model} every instance", ask, "a token each", partial(self.every_instance, model))
        if self._streams:
            streaming = partial(self.streaming, model)
            self._check(f"{model} streaming", "streaming: true", "the same text in pieces", streaming)
            ask = f"max_tokens: {self.target.early_stop_tokens}, cancelled after {self.target.early_stop_ms} ms"
            self._check(f"{model} early stop", ask, "fewer tokens, and it answers", partial(self.early_stop, model))

    def metrics(self, before: Optional[int]) -> str:
        """Our requests were counted; metrics of TensorRT-LLM's own such a model has none."""
        if not self.target.metrics_url:
            raise NotJudged("no metrics_url given")
        served = requests_served(self.client.metrics(self.target.metrics_url))
        if before is not None and served <= before:
            raise Failed(f"nv_inference_request_success stayed at {served}")
        return f"{served - (before or 0)} more requests counted"


VERIFICATIONS = {"triton": Verification, "llmapi": LlmApiVerification, "openai": CompletionsVerification}


def verification_of(target: Target) -> Verification:
    """The checks for what *target* speaks."""
    return VERIFICATIONS[target.api](target)
