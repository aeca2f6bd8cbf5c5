# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documents' requests, replayed against a deployed replica: request, expectation, answer.

A check never raises: what goes wrong is its answer. Requests are greedy (``top_k`` 1), so that two of them can
be compared.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Optional

from .._base.errors import FleetError, escaped
from .._base.tables import columns
from .._base.versions import version_key
from .._release.releases import LAST_ENGINE_RELEASE
from .client import GenerateClient, TritonError, TritonServer, requests_served, trt_llm_metrics
from .gate import Gate, Prompt, tokens_per_second, too_slow

# The request of the source document, word for word.
DOCUMENT_REQUEST = {
    "text_input": "What is machine learning?",
    "max_tokens": 20,
    "bad_words": "",
    "stop_words": "",
    "pad_id": 2,
    "end_id": 2,
}
# From this release on, several inputs have other names.
RENAMED_FROM = (0, 20)
LONGEST_ANSWER, LONGEST_REQUEST = 120, 44
# So long a cancelled request may still be counted as active; metrics are renewed from time to time only.
CANCEL_SECONDS = 10.0
# Tokens of the stream whose speed is taken.
LONGEST_STREAM = 64
# Requests at once; Triton gives them to the instances of a model in turn.
MOST_AT_ONCE = 32

Request = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """One line of the table. *ok* is None for what cannot be judged here, with the reason as the answer."""

    name: str
    request: str
    expectation: str
    answer: str
    ok: Optional[bool]
    seconds: float = 0.0


@dataclass
class Target:
    """What is verified.

    *gathers*: which logits the engine gathers (``context``, ``generation``), None for unknown. *streaming*: whether
    the repository streams; asked of Triton when None. *gate*: what the operator expects beside the documents, and
    alone with *gate_only*. *only_gateway*: nothing but the chat completion is asked for. *api*: what the server speaks,
    ``triton``, ``llmapi`` or ``openai``.
    """

    url: str
    metrics_url: Optional[str] = None
    entry_models: Sequence[str] = ("ensemble", "tensorrt_llm_bls")
    release: str = LAST_ENGINE_RELEASE
    streaming: Optional[bool] = None
    gathers: Optional[Sequence[str]] = None
    gateway_url: Optional[str] = None
    gateway_model: Optional[str] = None
    gateway_key: str = "none"
    gateway_tls_verify: bool = True
    only_gateway: bool = False
    timeout: float = 60
    early_stop_ms: int = 300
    early_stop_tokens: int = 400
    request: Mapping[str, Any] = field(default_factory=lambda: dict(DOCUMENT_REQUEST))
    gate: Gate = field(default_factory=Gate)
    gate_only: bool = False
    api: str = "triton"

    def __post_init__(self) -> None:
        for name in ("url", "entry_models", "release"):
            if not getattr(self, name):
                raise FleetError(
                    f"{name} is empty, so there is nothing to verify; give it as triton_replica_info tells it."
                )


class Failed(FleetError):
    """A check did not hold; the message is the answer that it got instead."""


class NotJudged(FleetError):
    """A check has no meaning here; the message says why."""


class Verification:
    """All checks of one target."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.client = GenerateClient(target.url, target.timeout)
        self.outcomes: list[Outcome] = []
        # What the prompts of the gate were answered, whether that was good or not.
        self.answers: dict[str, str] = {}
        self._texts: dict[str, str] = {}
        self._streams = False
        # Each further question to a server that hangs would take the whole time-out.
        self._silent = False
        self._models: list[str] = list(target.entry_models)

    def run(self) -> list[Outcome]:
        """Every check, in the order of the documents; returns the table."""
        if self.target.only_gateway:
            return self._through_gateway()
        self._check("readiness", "GET /v2/health/ready and /ready of every model", "all ready", self.readiness)
        before = self._served()
        self._streams = self._asks_streams() if self.target.streaming is None else self.target.streaming
        self._gate(self.target.gate)
        if self.target.gate_only:
            return self.outcomes
        self._checks(before)
        return self._through_gateway()

    def _checks(self, before: Optional[int]) -> None:
        for model in self.target.entry_models:
            self._entry_model(model)
        self._check("end_id", "tensorrt_llm: end_id = the second token it gives", "one or two tokens", self.end_id)
        for which in ("context", "generation"):
            ask = f"return_{which}_logits: true"
            self._check(f"{which} logits", ask, self._logits_expectation(which), partial(self.logits, which))
        self._check("metrics", "GET /metrics", "nv_trt_llm_* and requests counted", lambda: self.metrics(before))

    def _through_gateway(self) -> list[Outcome]:
        if self.target.gateway_url:
            self._check("chat completion", "openai client, one user message", "a message", self.chat)
        return self.outcomes

    def _gate(self, gate: Gate) -> None:
        for prompt in gate.prompts:
            ask = f"text_input: {prompt.prompt!r}, max_tokens: {prompt.max_tokens}"
            self._check("gate: prompt", ask, prompt.expectation(), partial(self.prompt, prompt))
        limits = [
            f"first token within {gate.max_time_to_first_token_ms:g} ms" if gate.max_time_to_first_token_ms else "",
            f"at least {gate.min_tokens_per_second:g} tokens/s" if gate.min_tokens_per_second else "",
        ]
        if any(limits):
            self._check("gate: speed", "stream: true", ", ".join(filter(None, limits)), self.speed)

    def _entry_model(self, model: str) -> None:
        asked = ", ".join(f"{key}: {value!r}" for key, value in self.target.request.items())
        self._check(f"{model} generate", asked, "text", partial(self.generate, model))
        ask = "one token, twice for each instance of the busiest model"
        self._check(f"{model} every instance", ask, "a token each", partial(self.every_instance, model))
        word = "a word of the answer before"
        for form in ("list", "string"):
            name, check = f"{model} bad_words as a {form}", partial(self.bad_words, model, form)
            self._check(name, word, "that word is avoided", check)
            name, check = f"{model} stop_words as a {form}", partial(self.stop_words, model, form)
            self._check(name, word, "the answer ends with it", check)
        if self._streams:
            streaming = partial(self.streaming, model)
            self._check(f"{model} streaming", "stream: true", "the same text in pieces", streaming)
        if self._streams and model == self._model_to_stop():
            ask = f"max_tokens: {self.target.early_stop_tokens}, cancelled after {self.target.early_stop_ms} ms"
            stop = partial(self.early_stop, model)
            self._check(f"{model} early stop", ask, "fewer tokens, and Triton stops", stop)

    def _model_to_stop(self) -> str:
        """The model whose request is cancelled: one, and not an ensemble where there is a BLS model.

        Triton 2.51 never forgets a streamed request to an ensemble whose client went away, and waits for it when
        it stops; a verification must leave no such thing behind.
        """
        models = self.target.entry_models
        return next((model for model in models if model.endswith("tensorrt_llm_bls")), models[-1])

    def _asks_streams(self) -> bool:
        """Whether any model of the repository is decoupled, as it has to be to stream."""
        with contextlib.suppress(TritonError, AttributeError):
            for model in () if self._silent else (*self.target.entry_models, "tensorrt_llm"):
                if (self._config(model).get("model_transaction_policy") or {}).get("decoupled"):
                    return True
        return False

    def _config(self, model: str) -> dict[str, Any]:
        """What Triton says of a model, empty where it does not; raises where there is no answer at all."""
        try:
            found = json.loads(self.client.get(f"/v2/models/{model}/config"))
        except FleetError as error:
            if _no_answer(error):
                raise
            return {}
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _check(self, name: str, request: str, expectation: str, work: Callable[[], str]) -> None:
        begin = time.monotonic()
        ok: Optional[bool] = True
        try:
            answer = work() if not self._silent else self._unasked()
        except NotJudged as reason:
            ok, answer = None, str(reason)
        except FleetError as error:
            ok, answer = False, str(error)
            self._silent = _no_answer(error)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            ok, answer = False, f"an answer of another form ({type(error).__name__}: {error})"
        seconds = round(time.monotonic() - begin, 3)
        self.outcomes.append(Outcome(name, request, expectation, shorten(answer), ok, seconds))

    @staticmethod
    def _unasked() -> str:
        raise NotJudged("not asked, as the server gave no answer before")

    # -- requests -----------------------------------------------------------------------------------------

    def _greedy(self, **more: Any) -> Request:
        return {**self.target.request, "top_k": 1, "seed" if self._renamed else "random_seed": 1, **more}

    @property
    def _renamed(self) -> bool:
        return version_key(self.target.release) >= RENAMED_FROM

    def _text(self, model: str, request: Mapping[str, Any]) -> str:
        answer = self.client.generate(model, request)
        if "text_output" not in answer:
            raise Failed(f"no text_output, but {', '.join(answer)}")
        return "".join(str(part) for part in values_of(answer["text_output"]))

    def _baseline(self, model: str) -> str:
        """The answer that other checks compare with; without end_id, so that it is as long as asked for."""
        if model not in self._texts:
            request = self._greedy()
            request.pop("end_id", None)
            text = self._text(model, request)
            prompt = str(self.target.request.get("text_input", ""))
            self._texts[model] = text[len(prompt) :] if text.startswith(prompt) else text
        return self._texts[model]

    def _words(self, model: str) -> list[str]:
        """Words of the answer as tokens have them: with the blank before."""
        found = re.findall(r"\s\S+", self._baseline(model))
        if len(found) < 2:
            raise NotJudged(f"the answer has too few words to choose one: {self._baseline(model)!r}")
        return found

    # -- checks -------------------------------------------------------------------------------------------

    def readiness(self) -> str:
        """Server and models, asked with NVIDIA's client."""
        server = TritonServer(self.target.url, self.target.timeout)
        try:
            found = server.describe(statistics=False)
        finally:
            server.close()
        if not found["models"]:
            raise Failed(
                "Triton lists no model, as its model repository was removed or replaced under it; restart the replica"
            )
        self._models = sorted(found["models"])
        missing = [model for model in self.target.entry_models if not found["models"].get(model, {}).get("ready")]
        others = [name for name, model in found["models"].items() if not model["ready"]]
        if not found["ready"] or missing or others:
            raise Failed(f"server ready: {found['ready']}; not ready: {', '.join(missing + others) or 'no model'}")
        return f"Triton {found['version']}, ready: {', '.join(sorted(found['models']))}"

    def generate(self, model: str) -> str:
        """The document's request, as it stands there."""
        text = self._text(model, self.target.request)
        if not text.strip():
            raise Failed(f"no text: {text!r}")
        return text

    def prompt(self, prompt: Prompt) -> str:
        """A prompt of the operator's, answered as they expect."""
        model = self.target.entry_models[0]
        asked = self._greedy(text_input=prompt.prompt, max_tokens=prompt.max_tokens)
        text = self._text(model, asked).removeprefix(prompt.prompt)
        self.answers[prompt.prompt] = text
        if prompt.problem(text):
            raise Failed(prompt.problem(text))
        return text

    def speed(self) -> str:
        """How soon the first token comes, and how fast the others."""
        if not self._streams:
            raise NotJudged("the model repository does not stream; set serving.streaming")
        request = self._greedy(max_tokens=LONGEST_STREAM)
        request.pop("end_id", None)
        events = list(self.client.stream(self._model_to_stop(), request))
        if not events:
            raise Failed("no event")
        if too_slow(self.target.gate, events):
            raise Failed(too_slow(self.target.gate, events))
        rate = tokens_per_second(events)
        return f"first token after {events[0].seconds * 1000:.0f} ms" + (f", {rate:.1f} tokens/s" if rate else "")

    def every_instance(self, model: str) -> str:
        """A model answers by several processes in turn, and one of them may be dead while the others answer."""
        total = 2 * max(self._instances(name) for name in self._models)
        with ThreadPoolExecutor(min(total, MOST_AT_ONCE)) as pool:
            problems = [problem for problem in pool.map(self._no_token, [model] * total) if problem]
        said = f"{len(problems)} of {total} requests failed: {problems[0]}" if problems else f"{total} tokens"
        if len(problems) == total and all(map(_no_answer, problems)):
            raise TritonError(said)
        if problems:
            raise Failed(said)
        return said

    def _instances(self, model: str) -> int:
        groups = self._config(model).get("instance_group") or []
        return max(1, sum(int(group.get("count") or 1) * max(1, len(group.get("gpus") or [])) for group in groups))

    def _one_token(self, model: str) -> str:
        """Why there is no token, empty where there is one."""
        return str(self._no_token(model) or "")

    def _no_token(self, model: str) -> Optional[FleetError]:
        try:
            self._text(model, self._greedy(max_tokens=1))
        except FleetError as error:
            return error
        return None

    def bad_words(self, model: str, form: str) -> str:
        """A word of the greedy answer does not come once it is forbidden."""
        word = self._words(model)[0]
        text = self._text(model, self._greedy(bad_words=[word] if form == "list" else word))
        if re.search(re.escape(word) + r"(?!\S)", text.removeprefix(str(self.target.request["text_input"]))):
            raise Failed(f"{word!r} is in {text!r}")
        return f"without {word!r}: {text!r}"

    def stop_words(self, model: str, form: str) -> str:
        """The answer ends where the word comes first."""
        baseline = self._baseline(model)
        words = self._words(model)
        word = words[min(1, len(words) - 1)]
        request = self._greedy(stop_words=[word] if form == "list" else word)
        request.pop("end_id", None)
        text = self._text(model, request).removeprefix(str(self.target.request["text_input"]))
        if len(text) >= len(baseline) and word in baseline[: -len(word)]:
            raise Failed(f"not stopped at {word!r}: {text!r}")
        if text.rstrip() and not baseline.startswith(text.rstrip()):
            raise Failed(f"another answer: {text!r} instead of the beginning of {baseline!r}")
        return f"stopped at {word!r}: {text!r}"

    def end_id(self) -> str:
        """Through tensorrt_llm itself, where tokens have numbers."""
        request: Request = {"input_ids": [1, 5, 9], "input_lengths": 3, "request_output_len": 6}
        top_k = "runtime_top_k"
        first = self._output_ids({**request, top_k: 1})
        if len(first) < 3:
            raise NotJudged(f"the answer is too short to choose an end: {first}")
        end = first[1]
        stopped = self._output_ids({**request, top_k: 1, "end_id": end, "pad_id": end})
        while stopped and stopped[-1] == end:
            stopped.pop()
        if len(stopped) > 1:
            raise Failed(f"end_id {end} did not end {first}: {stopped}")
        return f"{first} ended by end_id {end}"

    def _output_ids(self, request: Request) -> list[int]:
        answer = self.client.generate("tensorrt_llm", request)
        ids = values_of(answer.get("output_ids"))
        length = values_of(answer.get("sequence_length")) or [len(ids)]
        found = [int(token) for token in ids][: int(length[0])]
        prompt = request["input_ids"]
        return found[len(prompt) :] if found[: len(prompt)] == prompt and len(found) > len(prompt) else found

    def streaming(self, model: str) -> str:
        """The pieces put together are the answer in one, with every blank."""
        request = self._greedy()
        request.pop("end_id", None)
        events = list(self.client.stream(model, request))
        pieces = [str(event.data.get("text_output", "")) for event in events]
        text = join_pieces(pieces)
        baseline = self._baseline(model)
        if len(events) < 2:
            raise Failed(f"{len(events)} event: {text!r}")
        if text != baseline:
            lost = text.replace(" ", "") == baseline.replace(" ", "")
            raise Failed(f"{'blanks lost' if lost else 'another answer'}: {text!r} instead of {baseline!r}")
        return f"{len(events)} events, the first after {events[0].seconds:.3f} s: {text!r}"

    def early_stop(self, model: str) -> str:
        """Drop the connection after a while; the request must leave the server too."""
        asked = self.target.early_stop_tokens
        # Without this the model may end by itself before it is stopped.
        at_least = "min_tokens" if self._renamed else "min_length"
        request = self._greedy(max_tokens=asked, **{at_least: asked})
        request.pop("end_id", None)
        stream = self.client.stream(model, request)
        received, stopped, seconds = 0, False, 0.0
        for event in stream:
            received, seconds = received + 1, event.seconds
            stopped = seconds * 1000 >= self.target.early_stop_ms
            if stopped:
                break
        stream.close()  # type: ignore[attr-defined]
        if not stopped or received >= asked:
            raise NotJudged(f"the answer ended by itself after {received} tokens; ask for more than {asked}")
        remaining = (asked - received) * seconds / received
        return f"{received} of {asked} tokens; {self._left_the_server(remaining)}"

    def _left_the_server(self, remaining: float) -> str:
        """Whether the request ended before it would have ended by itself, *remaining* seconds later."""
        if not self.target.metrics_url:
            return "whether Triton stopped too is not known without metrics"
        begin = time.monotonic()
        while True:
            active = trt_llm_metrics(self.client.metrics(self.target.metrics_url)).get("request", {}).get("active")
            took = time.monotonic() - begin
            if active is None:
                return "whether Triton stopped too is not in its metrics"
            if active == 0 and (took < remaining / 2 or took < CANCEL_SECONDS):
                return f"no request active {took:.2f} s later, instead of {remaining:.2f} s"
            if took > max(CANCEL_SECONDS, remaining / 2):
                raise Failed(f"{took:.1f} s after the connection was dropped, the request was still active")
            time.sleep(0.1)

    def _logits_expectation(self, which: str) -> str:
        gathers = self.target.gathers
        if gathers is None:
            return "logits, or a clear refusal"
        return "logits" if which in gathers else "not gathered"

    def logits(self, which: str) -> str:
        """Logits where the engine gathers them, and else a refusal that says so."""
        model = self.target.entry_models[0]
        name = f"{which}_logits"
        try:
            answer = self.client.generate(model, self._greedy(max_tokens=2, **{f"return_{name}": True}))
        except TritonError as error:
            answer = {}
            refusal = str(error)
            if not re.search(r"logits|gather|unexpected inference input", refusal):
                raise
        else:
            refusal = ""
        values = values_of(answer.get(name))
        gathered = len(values) > 1 and any(values)
        gathers = self.target.gathers
        if gathers is not None and gathered is not (which in gathers):
            raise Failed(f"{len(values)} values" if gathered else f"not gathered ({refusal or 'only a placeholder'})")
        return f"{len(values)} values" if gathered else f"not gathered ({refusal or 'a placeholder'})"

    def _served(self) -> Optional[int]:
        if not self.target.metrics_url:
            return None
        try:
            return requests_served(self.client.metrics(self.target.metrics_url))
        except TritonError:
            return None

    def metrics(self, before: Optional[int]) -> str:
        """TensorRT-LLM's own metrics are there, and our requests were counted."""
        if not self.target.metrics_url:
            raise NotJudged("no metrics_url given")
        samples = self.client.metrics(self.target.metrics_url)
        own = sorted({sample.name for sample in samples if sample.name.startswith("nv_trt_llm_")})
        served = requests_served(samples)
        if not own:
            raise Failed("there is no nv_trt_llm_* metric")
        if before is not None and served <= before:
            raise Failed(f"nv_inference_request_success stayed at {served}")
        return f"{len(own)} families ({', '.join(own)}), {served - (before or 0)} more requests counted"

    def chat(self) -> str:
        """A chat completion, as a user of the gateway gets it."""
        import openai  # only on the controller

        client = openai.OpenAI(
            base_url=f"{str(self.target.gateway_url).rstrip('/')}/v1", api_key=self.target.gateway_key,
            timeout=self.target.timeout, max_retries=0,
            http_client=openai.DefaultHttpxClient(verify=self.target.gateway_tls_verify),
        )  # fmt: skip
        try:
            model = self.target.gateway_model or client.models.list().data[0].id
            answer = client.chat.completions.create(
                model=model, max_tokens=16, messages=[{"role": "user", "content": "What is machine learning?"}]
            )
        except (openai.OpenAIError, IndexError) as error:
            raise Failed(f"the gateway at {self.target.gateway_url} refused: {error}") from error
        text = answer.choices[0].message.content or ""
        used = answer.usage.completion_tokens if answer.usage else 0
        if not text:
            raise Failed(f"an empty message, {used} tokens")
        return f"{model}, {used} tokens: {text!r}"


def _no_answer(error: FleetError) -> bool:
    return isinstance(error, TritonError) and error.status == 0


def values_of(value: Any) -> list[Any]:
    """The values of a tensor; the generate extension writes one with a single element as that element."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def join_pieces(pieces: Sequence[str]) -> str:
    """One text of the pieces of a stream, whether each is what is new or (accumulate_tokens) all so far."""
    growing = len(pieces) > 1 and all(later.startswith(earlier) for earlier, later in zip(pieces, pieces[1:]))
    return pieces[-1] if growing and len(pieces[-1]) > len(pieces[0]) and any(pieces) else "".join(pieces)


def shorten(text: str, longest: int = LONGEST_ANSWER) -> str:
    """A text that fits into a table, with nothing in it that a terminal would obey: models say what they like."""
    line = escaped(" ".join(text.split("\n")))
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """The lines of a table for a terminal."""
    marks = {True: "ok", False: "FAILED", None: "-"}
    rows = [("", "check", "request", "expectation", "answer")]
    rows += [
        (marks[o.ok], escaped(o.name), shorten(o.request, LONGEST_REQUEST), escaped(o.expectation), escaped(o.answer))
        for o in outcomes
    ]
    return columns(rows)
