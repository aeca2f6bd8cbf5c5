# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From one description of a model to what the LLM API of its release is told, by trtllm-serve or in Triton.

Pure, as ``cli`` is for engines. Every setting is said once, and in the file of the LLM API: up to 1.3.0rc3 the file
wins over the command line, later the command line over the file. What a release is not known to take is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from .._base.errors import FleetError, nearest
from .limits import is_set
from .options import QUANTIZATION
from .releases import FLOW_SERVE, RELEASES, Release, flows, within
from .serve_data import CACHES, DISAGGREGATED, ENGINE_WAYS, FLAGS, INSTEAD, KEYS, PARAMETER_WAYS

# The model of a repository whose parameters say how the engine is run.
BACKEND_MODEL = "tensorrt_llm"
KV_CACHE_SHARE = "kv_cache_config.free_gpu_memory_fraction"
# Without it trtllm-serve has no metrics in Prometheus' format, at the route below.
PERF_METRICS, PROMETHEUS_ROUTE = "return_perf_metrics", "/prometheus/metrics"
# What is always said where the release has it. 1.0.0 forgets the share of its command line where the file has a
# kv_cache_config; without statistics of iterations nothing tells a busy server from one that hangs.
ALWAYS = {"tensor_parallel_size": 1, KV_CACHE_SHARE: 0.9, "enable_iter_perf_stats": True, PERF_METRICS: True}
# In Triton nobody reads these statistics, which the LLM API keeps until somebody does, and there is no such route.
UNREAD_IN_TRITON = ("enable_iter_perf_stats", PERF_METRICS)
# What is said by where the model is, or cannot be said in a file.
OWN_KEYS = {
    "model": "the checkpoint of the model is served",
    "tokenizer": "the tokenizer of the checkpoint is taken",
    "backend": "PyTorch is the backend that serves checkpoints",
    "batched_logits_processor": "it takes an object of Python",
    "checkpoint_loader": "it takes an object of Python",
    "mpi_session": "it takes an object of Python",
}
# The kinds of servers of a replica that reads prompts in one place and writes answers in another, and what each is told
# beside all else.
CONTEXT, GENERATION = "context", "generation"
SERVER_KINDS: dict[str, dict[str, Any]] = {CONTEXT: {"disable_overlap_scheduler": True}, GENERATION: {}}
TRANSFER = "cache_transceiver_config"
# What the default is differs between releases, so that it is always said.
TRANSFER_BACKEND = "UCX"
# What the unit says itself, and what the file says.
OWN_FLAGS = ("host", "port", "extra_llm_api_options", "config")
# Options of the command line that may be given beside the file; each has no key in it.
FREE_FLAGS = ("log_level", "chat_template", "tool_parser", "media_io_kwargs", "custom_module_dirs")


def _lines(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


@cache
def _spans(mapping: str) -> dict[str, list[str]]:
    """Key of *mapping* -> the spans of releases that have it."""
    found: dict[str, list[str]] = {}
    for releases, names in _lines(KEYS[mapping]):
        for name in names.split():
            found.setdefault(name, []).append(releases)
    return found


def keys(release: Release, mapping: str = "") -> set[str]:
    """The keys of *mapping*, such as ``kv_cache_config``, that *release* is known to take."""
    return {name for name, spans in _spans(mapping).items() if any(within(release, span) for span in spans)}


def has_key(release: Release, path: str) -> bool:
    """Whether *release* is known to take a key such as ``kv_cache_config.dtype``."""
    mapping, _dot, name = path.rpartition(".")
    return name in keys(release, mapping)


def caches(release: Release) -> dict[str, str]:
    """Variable of the environment -> where it points in the directory for what a start compiles and tunes."""
    return {name: where for releases, name, where in _lines(CACHES) if within(release, releases)}


def flags(release: Release) -> dict[str, bool]:
    """The options of the command line that *release* is known to have, without dashes; true for a bare one."""
    words = [word for releases, names in _lines(FLAGS) if within(release, releases) for word in names.split()]
    return {word.rstrip("="): word.endswith("=") for word in words}


@cache
def _ways(table: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Option -> the key that says it, and by value what it becomes; an empty one is not written."""
    return {option: (key, dict(pair.split("=", 1) for pair in values.split())) for option, key, values in _lines(table)}


def engine_ways() -> dict[str, str]:
    """Option of an engine -> the key that says it; empty where the server does so anyway."""
    return {option: key for option, (key, _values) in _ways(ENGINE_WAYS).items()}


def prometheus_route(release: Release) -> str:
    """Where trtllm-serve has metrics in Prometheus' format; empty where *release* is not known to have them."""
    return PROMETHEUS_ROUTE if has_key(release, PERF_METRICS) else ""


def serving_releases() -> list[Release]:
    """The releases whose trtllm-serve is known, oldest first."""
    return [row for row in RELEASES.values() if FLOW_SERVE in flows(row)]


def releases_with(path: str) -> list[Release]:
    """The releases that are known to take a key."""
    return [row for row in serving_releases() if has_key(row, path)]


class _File:
    """The file of the LLM API as it grows, and who said what of it."""

    def __init__(self, release: Release, flow: str = FLOW_SERVE) -> None:
        self.release = release
        self.flow = flow
        self.said: dict[str, Any] = {}
        self.by: dict[str, str] = {}

    def say(self, path: str, value: Any, source: str) -> None:
        if not has_key(self.release, path):
            raise _refuse_key(self.release, path, source)
        if path in self.by and self.said[path] != value:
            raise FleetError(
                f"{source} and {self.by[path]} both say {path} of the LLM API, and not the same; leave one out."
            )
        self.said[path], self.by[path] = value, source

    def nested(self) -> dict[str, Any]:
        """The content of the file, mappings in mappings."""
        found: dict[str, Any] = {}
        for path, value in self.said.items():
            place = found
            *above, name = path.split(".")
            for part in above:
                place = place.setdefault(part, {})
            place[name] = value
        return found


def _refuse_key(release: Release, path: str, source: str) -> FleetError:
    elsewhere = [row.version for row in releases_with(path)]
    where = f"; it is for {', '.join(elsewhere)}" if elsewhere else ""
    engine = release.builds_engines and source.startswith(("engine.", "repository."))
    advice = "leave it out" + (", or set flow: engine, which has it" if engine else "")
    return FleetError(
        f"{source} needs the key {path} of the LLM API, which TensorRT-LLM {release.version} is not known to "
        f"have{where}; {advice}."
    )


def _refuse_option(release: Release, option: str, source: str, flow: str = FLOW_SERVE) -> FleetError:
    """Why an option of an engine cannot be had, with what can."""
    other = dict(_lines(INSTEAD)).get(option)
    if other and (flow == FLOW_SERVE or "triton_extra_args" not in other):
        return FleetError(f"{source} is not an option of {flow}; {other}.")
    advice = "leave it out"
    if option in QUANTIZATION:
        advice = "serve a checkpoint that is quantised already, whose own configuration says how"
    if release.builds_engines:
        advice += ", or set flow: engine, which has it"
    return FleetError(f"{source} says how an engine is made, and {flow} makes none; {advice}.")


def _take(file: _File, table: str, option: str, value: Any, source: str) -> None:
    key, values = _ways(table)[option]
    if values:
        word = str(value).lower() if isinstance(value, bool) else str(value)
        if word not in values and set(values) != {"-1"}:
            raise FleetError(f"{source} is {word}, but {file.flow} takes {' or '.join(values)}; leave it out.")
        value = values.get(word, value)
    if key and value != "":
        file.say(key, value, source)


def _leaves(given: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
    """What a mapping says, by path; what no table is for stays whole."""
    for name, value in given.items():
        path = f"{above}.{name}" if above else str(name)
        if isinstance(value, Mapping) and value and path in KEYS:
            yield from _leaves(value, path)
        else:
            yield path, value


def serve_config(
    release: Release,
    options: Mapping[str, Any],
    parameters: Mapping[str, Any],
    llm_args: Mapping[str, Any],
    flow: str = FLOW_SERVE,
) -> dict[str, Any]:
    """What the file of the LLM API says.

    *options* as for an engine; *parameters*: of the model repository, by model; *llm_args*: further keys, as the file
    has them; *flow*: who reads the file. Raises `FleetError` for what the release is not known to take, and for what is
    said twice.
    """
    file = _File(release, flow)
    for option, value in options.items():
        if value is None or (value is False and option not in engine_ways()):
            continue
        source = f"engine.{option}"
        if option not in engine_ways():
            if is_set(value):
                raise _refuse_option(release, option, source, flow)
            continue
        _take(file, ENGINE_WAYS, option, value, source)
    for model, given in parameters.items():
        for name, value in (given or {}).items():
            source = f"repository.parameters.{model}.{name}"
            if model != BACKEND_MODEL or name not in _ways(PARAMETER_WAYS):
                known = ", ".join(_ways(PARAMETER_WAYS))
                raise FleetError(
                    f"{source} is of a model repository for an engine, and {flow} has none; of {BACKEND_MODEL} it "
                    f"takes {known}, and all else in llm_args."
                )
            _take(file, PARAMETER_WAYS, name, _window(name, value), source)
    said = {key: option for option, key in engine_ways().items() if key}
    for path, value in _leaves(llm_args):
        source = f"llm_args.{path}"
        mapping, _dot, name = path.rpartition(".")
        if path in OWN_KEYS:
            raise FleetError(f"{source} is not for you to give: {OWN_KEYS[path]}; leave it out.")
        if path in said:
            raise FleetError(f"{source} is said as engine.{said[path]}; give that.")
        if mapping not in KEYS or name not in _spans(mapping):
            hint = nearest(name, keys(release, mapping if mapping in KEYS else ""))
            raise FleetError(f"{source} is not a key of the LLM API{hint or '.'}")
        file.say(path, value, source)
    for path, value in ALWAYS.items():
        read = flow == FLOW_SERVE or path not in UNREAD_IN_TRITON
        if read and path not in file.by and has_key(release, path):
            file.say(path, value, path)
    return file.nested()


def kind_configs(release: Release, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By kind what its servers are told; *config*: what `serve_config` says of the model.

    Raises `FleetError` for what cannot be where prompts are read in another place than answers are written.
    """
    source = "serving.replicas with context and generation"
    if (config.get("max_beam_width") or 1) != 1:
        raise FleetError(
            f"engine.max_beam_width is {config['max_beam_width']}, but {source} has one beam; leave it out."
        )
    transfer = dict(config.get(TRANSFER) or {})
    transfer.setdefault("backend", TRANSFER_BACKEND)
    longest = config.get("max_input_len") or config.get("max_seq_len")
    if longest:
        transfer.setdefault("max_tokens_in_buffer", longest)
    said = {name: {**config, **more, TRANSFER: transfer} for name, more in SERVER_KINDS.items()}
    for kind in said.values():
        check_keys(release, kind, source)
    return said


def check_keys(release: Release, given: Mapping[str, Any], source: str) -> None:
    """Raise `FleetError` for a key of a whole file that *release* is not known to take."""
    for path, _value in _leaves(given):
        if path in OWN_KEYS:
            raise FleetError(f"{source}.{path} is not for you to give: {OWN_KEYS[path]}; leave it out.")
        if not has_key(release, path):
            raise _refuse_key(release, path, f"{source}.{path}")


def _window(name: str, value: Any) -> Any:
    """A window is a number, or as many as there are layers in a text, in a repository; here always a list."""
    if name != "max_attention_window_size" or isinstance(value, list):
        return value
    try:
        return [int(part) for part in str(value).split(",")]
    except ValueError as error:
        raise FleetError(
            f"max_attention_window_size is {value!r}; give numbers of tokens, separated by commas."
        ) from error


def check_arguments(release: Release, arguments: Iterable[str], source: str) -> None:
    """Refuse options of the command line that the file says, the unit says, or the release is not known to have."""
    known = flags(release)
    for argument in arguments:
        name = argument.partition("=")[0].lstrip("-")
        if name in OWN_FLAGS:
            raise FleetError(f"{source} has --{name}, which the unit gives itself; leave it out.")
        if name not in known:
            raise FleetError(
                f"{source} has --{name}, which trtllm-serve of TensorRT-LLM {release.version} is not known to have"
                f"{nearest(name, FREE_FLAGS) or '.'}"
            )
        if name not in FREE_FLAGS:
            raise FleetError(
                f"{source} has --{name}, which the file of the LLM API says; give it in engine or llm_args."
            )


def disaggregated_flags(release: Release) -> set[str]:
    """The options that `trtllm-serve disaggregated` of *release* is known to have, without dashes."""
    return {name for releases, names in _lines(DISAGGREGATED) if within(release, releases) for name in names.split()}


def check_disaggregated(release: Release, source: str) -> None:
    """Refuse servers of two kinds where the release is not known to have what stands before them."""
    having = [row.version for row in serving_releases() if disaggregated_flags(row)]
    if release.version not in having:
        raise FleetError(
            f"{source} need trtllm-serve disaggregated, which TensorRT-LLM {release.version} is not known to have; "
            f"take {having[0]} to {having[-1]}, or give gpus in the place of both."
        )


def crossing(release: Release, options: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[dict[str, str]]:
    """What becomes of each option where a model goes from an engine to trtllm-serve of *release*.

    A list of ``option``, ``value``, ``fate`` (survives, changes, goes) and ``becomes``; nothing is raised.
    """
    found = []
    given = [("engine", ENGINE_WAYS, options)]
    given += [(f"repository.parameters.{model}", PARAMETER_WAYS, values or {}) for model, values in parameters.items()]
    for above, table, values in given:
        for option, value in values.items():
            if value is None:
                continue
            found.append(_fate(release, f"{above}.{option}", table, option, value, above))
    return found


def _fate(release: Release, source: str, table: str, option: str, value: Any, above: str) -> dict[str, str]:
    line = {"option": source, "value": str(value).lower() if isinstance(value, bool) else str(value)}
    file = _File(release)
    try:
        if above not in ("engine", f"repository.parameters.{BACKEND_MODEL}") or option not in _ways(table):
            raise _refuse_option(release, option, source)
        _take(file, table, option, _window(option, value), source)
    except FleetError as error:
        return {**line, "fate": "goes", "becomes": str(error)}
    if not file.said:
        return {**line, "fate": "survives", "becomes": "always so"}
    ((path, now),) = file.said.items()
    same = path == option and now == value
    return {**line, "fate": "survives" if same else "changes", "becomes": f"{path}: {now}"}
