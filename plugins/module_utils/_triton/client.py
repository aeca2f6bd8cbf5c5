# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a running Triton says of itself, and the requests of its generate extension.

`TritonServer` needs tritonclient[http] and so belongs on the controller. The rest is plain HTTP.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Optional
from urllib.parse import urlsplit

from .._base.errors import FleetError

# Metrics that the documents show; the first group is TensorRT-LLM's own.
METRIC_FAMILIES = ("nv_trt_llm_", "nv_inference_", "nv_gpu_", "nv_cpu_", "nv_pinned_memory_", "nv_energy_")
_SAMPLE = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Json = Any


class TritonError(FleetError):
    """Triton did not answer, or answered with an error. *status* is 0 when it did not answer at all."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Sample(NamedTuple):
    """One line of the metrics."""

    name: str
    labels: dict[str, str]
    value: float


class Event(NamedTuple):
    """One event of a stream, and the seconds since the request when it came."""

    data: dict[str, Any]
    seconds: float


def parse_metrics(text: str) -> list[Sample]:
    """The samples of a page in Prometheus' text format; comments and what is no number are left out."""
    found: list[Sample] = []
    for line in text.splitlines():
        match = _SAMPLE.match(line)
        if match is None:
            continue
        try:
            value = float(match.group(3))
        except ValueError:
            continue
        labels = {key: re.sub(r"\\(.)", r"\1", text) for key, text in _LABEL.findall(match.group(2) or "")}
        found.append(Sample(match.group(1), labels, value))
    return found


def group_metrics(samples: list[Sample]) -> dict[str, list[dict[str, Any]]]:
    """Samples of the families that matter here, by name, as plain dictionaries."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        if sample.name.startswith(METRIC_FAMILIES):
            grouped.setdefault(sample.name, []).append({"labels": sample.labels, "value": sample.value})
    return grouped


def trt_llm_metrics(samples: list[Sample]) -> dict[str, dict[str, float]]:
    """TensorRT-LLM's own metrics: from the family (``request``, ``kv_cache_block``, ...) to its values by type.

    ``nv_trt_llm_request_metrics{request_type="active",...} 1`` is ``{"request": {"active": 1.0}}``. Several
    models of one server are added up.
    """
    found: dict[str, dict[str, float]] = {}
    for sample in samples:
        family = re.fullmatch(r"nv_trt_llm_(\w+?)_metrics", sample.name)
        if family is None:
            continue
        kinds = [value for key, value in sample.labels.items() if key not in ("model", "version")]
        values = found.setdefault(family.group(1), {})
        kind = kinds[0] if kinds else "value"
        values[kind] = values.get(kind, 0.0) + sample.value
    return found


def requests_served(samples: list[Sample], models: Optional[list[str]] = None) -> int:
    """Successful requests since the server started, of *models* or of all."""
    found = [sample for sample in samples if sample.name == "nv_inference_request_success"]
    return int(sum(sample.value for sample in found if models is None or sample.labels.get("model") in models))


def requests_answered(samples: list[Sample]) -> Optional[int]:
    """The same of trtllm-serve; None where it does not count them, or has answered none yet."""
    found = [sample.value for sample in samples if sample.name == "trtllm_request_success_total"]
    return int(sum(found)) if found else None


class GenerateClient:
    """The generate extension of one server: ``POST /v2/models/M/generate`` and ``generate_stream``."""

    def __init__(self, url: str, timeout: float = 60) -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout

    def get(self, path: str, base: Optional[str] = None) -> str:
        """The body of a GET."""
        with self._answer(urllib.request.Request((base or self.url) + path)) as answer:
            body: bytes = answer.read()
        return body.decode("utf-8", "replace")

    def metrics(self, metrics_url: str) -> list[Sample]:
        """The metrics page, parsed."""
        base = metrics_url.rstrip("/").removesuffix("/metrics")
        return parse_metrics(self.get("/metrics", base))

    def generate(self, model: str, request: Mapping[str, Json]) -> dict[str, Any]:
        """The one answer to a request. An error in a body with status 200 is an error here too."""
        with self._answer(self._request(model, "generate", request)) as answer:
            body: bytes = answer.read()
        return self._judge(model, body.decode("utf-8", "replace"))

    def stream(self, model: str, request: Mapping[str, Json]) -> Iterator[Event]:
        """The events of a streamed answer as they come. Closing the iterator drops the connection."""
        begin = time.monotonic()
        with self._answer(self._request(model, "generate_stream", {**request, "stream": True})) as answer:
            for line in answer:
                text = line.decode("utf-8", "replace").rstrip("\r\n")
                if text.startswith("data:"):
                    yield Event(self._judge(model, text[5:].strip()), time.monotonic() - begin)

    def _request(self, model: str, verb: str, request: Mapping[str, Json]) -> urllib.request.Request:
        return urllib.request.Request(
            f"{self.url}/v2/models/{model}/{verb}",
            data=json.dumps(dict(request)).encode(),
            headers={"Content-Type": "application/json"},
        )

    @contextlib.contextmanager
    def _answer(self, request: urllib.request.Request) -> Iterator[Any]:
        """The answer to be read. A server may end, or hang, in the middle of it."""
        with self._open(request) as answer:
            try:
                yield answer
            except socket.timeout as error:
                raise TritonError(
                    f"{request.full_url} says nothing more for {self.timeout:g} s; see the journal of its service."
                ) from error
            except (OSError, http.client.HTTPException) as error:
                why = "" if isinstance(error, http.client.HTTPException) else f": {error}"
                raise TritonError(
                    f"{request.full_url} broke off in its answer{why}; see the journal of its service.", answer.status
                ) from error

    def _open(self, request: urllib.request.Request) -> Any:
        # No proxy of the environment may stand between a host and its own server.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            return opener.open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            body = b""
            with contextlib.suppress(OSError, http.client.HTTPException):  # the status tells enough
                body = error.read()
            raise TritonError(_error_text(body.decode("utf-8", "replace")), error.code) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise TritonError(f"{request.full_url} gives no answer: {reason}.") from error

    def _judge(self, model: str, body: str) -> dict[str, Any]:
        try:
            answer = json.loads(body)
        except ValueError as error:
            raise TritonError(f"{model} answered with what is no JSON: {body[:100]!r}.", 200) from error
        if not isinstance(answer, dict) or "error" in answer:
            raise TritonError(_error_text(body), 200)
        return answer


class LlmApiClient(GenerateClient):
    """The same of Triton's one model that loads a checkpoint: what is asked for is named as with models for engines.

    What is asked for under a name that it does not have is left out, and an answer is never repeated behind its prompt.
    """

    NAMES: ClassVar[dict[str, str]] = {
        "text_input": "text_input",
        "stream": "streaming",
        **{name: f"sampling_param_{name}" for name in ("max_tokens", "top_k", "seed", "temperature")},
    }
    ALWAYS: ClassVar[dict[str, Json]] = {"sampling_param_exclude_input_from_output": True}

    def _request(self, model: str, verb: str, request: Mapping[str, Json]) -> urllib.request.Request:
        named = {self.NAMES[name]: value for name, value in request.items() if name in self.NAMES}
        return super()._request(model, verb, {**named, **self.ALWAYS})


class CompletionsClient(GenerateClient):
    """The same of a server that speaks OpenAI's API: a prompt for text, as Triton's tensors are called here.

    What is asked for under a name that completions do not have is left out; an answer has ``text_output``.
    """

    NAMES: ClassVar[dict[str, str]] = {"text_input": "prompt", "stop_words": "stop"}
    KNOWN = ("prompt", "max_tokens", "stop", "top_k", "seed", "min_tokens", "temperature")

    def generate(self, model: str, request: Mapping[str, Json]) -> dict[str, Any]:
        answer = super().generate(model, request)
        return {"text_output": answer["choices"][0]["text"]}

    def stream(self, model: str, request: Mapping[str, Json]) -> Iterator[Event]:
        for event in super().stream(model, request):
            text = "".join(str(choice.get("text") or "") for choice in event.data.get("choices") or [])
            if text:
                yield Event({"text_output": text}, event.seconds)

    def _request(self, model: str, verb: str, request: Mapping[str, Json]) -> urllib.request.Request:
        named = {self.NAMES.get(name, name): value for name, value in request.items()}
        body = {"model": model, **{name: value for name, value in named.items() if name in self.KNOWN and value != ""}}
        return urllib.request.Request(
            f"{self.url}/v1/completions",
            data=json.dumps({**body, "stream": verb == "generate_stream"}).encode(),
            headers={"Content-Type": "application/json"},
        )

    def _judge(self, model: str, body: str) -> dict[str, Any]:
        return {} if body == "[DONE]" else super()._judge(model, body)


def _error_text(body: str) -> str:
    try:
        found = json.loads(body)
        error = found.get("error", found.get("message")) if isinstance(found, dict) else None
        if error is None:
            raise KeyError("error")
        return str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return body.strip()[:300] or "an empty answer"


class TritonServer:
    """Readiness, statistics and versions, asked with NVIDIA's client."""

    def __init__(self, url: str, timeout: float = 10) -> None:
        import tritonclient.http as triton  # heavy, and only on the controller

        parts = urlsplit(url)
        # With what an answer is that breaks off, or is no HTTP.
        broken = (OSError, http.client.HTTPException)
        self._errors: tuple[type[BaseException], ...] = (triton.InferenceServerException, *broken)
        self._client = triton.InferenceServerClient(
            parts.netloc, ssl=parts.scheme == "https", connection_timeout=timeout, network_timeout=timeout
        )
        self.url = url

    def close(self) -> None:
        """Give the connection back."""
        self._client.close()

    def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._client, method)(*arguments)
        except self._errors as error:
            raise TritonError(f"Triton at {self.url} did not answer {method}: {error}.") from error

    def describe(self, statistics: bool = True) -> dict[str, Any]:
        """``live``, ``ready``, ``name``, ``version``, ``extensions`` and ``models``.

        A model has ``ready``, ``versions``, ``state``, ``reason`` and, where asked for, ``statistics``: counts and
        mean milliseconds since it was loaded.
        """
        metadata = self._ask("get_server_metadata")
        found = {
            "url": self.url,
            "live": bool(self._ask("is_server_live")),
            "ready": bool(self._ask("is_server_ready")),
            "name": metadata["name"],
            "version": metadata["version"],
            "extensions": metadata.get("extensions", []),
        }
        models: dict[str, dict[str, Any]] = {}
        for line in self._ask("get_model_repository_index"):
            model = models.setdefault(line["name"], {"versions": [], "state": "", "reason": "", "ready": False})
            model["versions"].append(str(line.get("version", "")))
            model["state"], model["reason"] = line.get("state", ""), line.get("reason", "")
        for name, model in models.items():
            model["ready"] = bool(self._ask("is_model_ready", name))
        if statistics:
            for entry in self._ask("get_inference_statistics").get("model_stats", []):
                models.setdefault(entry["name"], {})["statistics"] = model_statistics(entry)
        return {**found, "models": models}


def model_statistics(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Triton's statistics of one model, in counts and mean milliseconds."""
    phases = entry.get("inference_stats", {})

    def count(phase: str) -> int:
        return int(phases.get(phase, {}).get("count", 0))

    def mean(phase: str) -> float:
        number = count(phase)
        return round(int(phases[phase].get("ns", 0)) / number / 1e6, 3) if number else 0.0

    return {
        "inferences": int(entry.get("inference_count", 0)),
        "executions": int(entry.get("execution_count", 0)),
        "last_inference_ms": int(entry.get("last_inference", 0)),
        "success": count("success"),
        "fail": count("fail"),
        "cancel": count("cancel"),
        **{f"{phase}_ms": mean(phase) for phase in ("queue", "compute_input", "compute_infer", "compute_output")},
    }
