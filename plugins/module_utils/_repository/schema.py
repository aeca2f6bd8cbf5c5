# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each release's model repository templates can be given: names, types, ranges, choices, renames.

The table was read from the templates of tensorrtllm_backend v0.7.0 to v0.19.0 and TensorRT-LLM's triton_backend
(0.20 and newer); meanings and defaults from the documents' tables (README, docs/model_config.md) and from how the
backends read each parameter. A contract test holds it against the recorded templates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Union

from .._base.errors import FleetError, nearest
from .._base.versions import version_key
from .._release.releases import FLOW_SERVE, LAST_ENGINE_RELEASE, Release, flow_of, release
from .schema_llmapi import normalise_llmapi, normalise_serve
from .schema_values import KINDS, NO_LIMITS, Limits, same

INFLIGHT, LLMAPI = "inflight_batcher_llm", "llmapi"
# No model repository of Triton: the file that trtllm-serve is started with.
SERVE = FLOW_SERVE
LAYOUTS = (INFLIGHT, LLMAPI, SERVE)

# The models of the inflight_batcher_llm layout. The last one is optional and only for multimodal checkpoints.
MODELS = ("preprocessing", "tensorrt_llm", "postprocessing", "ensemble", "tensorrt_llm_bls")
MULTIMODAL = "multimodal_encoders"
# The first release whose image holds the llmapi layout.
FIRST_LLMAPI = "0.19.0"

# A value that changed with a release: ((first release, value), ...), oldest first; "" is the first of all.
Versioned = Union[str, tuple[tuple[str, Any], ...], None]

# Inputs of the models that upstream renamed: before, since, and the first release with the present name.
RENAMED_INPUTS = (("random_seed", "seed", "0.20.0"), ("min_length", "min_tokens", "0.20.0"))
# Each instance is a process of 40 MB and more.
MOST_INSTANCES = 4096
DATA_TYPES = ("TYPE_FP16", "TYPE_BF16", "TYPE_FP32")


@dataclass(frozen=True)
class Parameter:
    """One parameter of one model.

    *since* and *until* (exclusive) are the releases whose template has it. *default* is what upstream takes when
    it is left unset; *written* is what is filled in then, because the template does not parse, or the model does
    not load, without it. *formerly* is (older placeholder name, first release with the present one). *retired*
    says why a value is dropped from *until* on. *assured* is the first release whose template is known to have it,
    where those from *since* on may lack it: their templates were not recorded one by one. A *documented* parameter
    has no placeholder: it is appended to the configuration.
    """

    name: str
    kind: str
    limits: Limits = NO_LIMITS
    since: str = ""
    until: str = ""
    assured: str = ""
    default: Versioned = None
    written: str | None = None
    aliases: tuple[str, ...] = ()
    formerly: tuple[str, str] | None = None
    retired: str = ""
    documented: bool = False
    choices: Versioned = None

    def placeholder(self, key: tuple[int, ...]) -> str:
        """The name in the templates of the release whose version is *key*."""
        if self.formerly is not None and key < version_key(self.formerly[1]):
            return self.formerly[0]
        return self.name

    def exists(self, key: tuple[int, ...]) -> bool:
        """Whether the release's template has it."""
        return key >= version_key(self.since or "0") and not self.over(key)

    def over(self, key: tuple[int, ...]) -> bool:
        """Whether the release's template has it no more."""
        return bool(self.until) and key >= version_key(self.until)

    def may_lack_place(self, key: tuple[int, ...]) -> bool:
        """Whether the release's own template may have no place for it."""
        return key < version_key(self.assured or "0")

    def default_of(self, key: tuple[int, ...]) -> str | None:
        """What upstream takes in this release when it is not set."""
        default: str | None = at(self.default, key)
        return default

    def limits_of(self, key: tuple[int, ...]) -> Limits:
        """The limits of its value in this release."""
        choices = at(self.choices, key)
        return replace(self.limits, choices=choices) if choices else self.limits


def at(value: Versioned, key: tuple[int, ...]) -> Any:
    """The value that holds in the release whose version is *key*."""
    if not isinstance(value, tuple):
        return value
    found = None
    for since, item in value:
        if key >= version_key(since or "0"):
            found = item
    return found


def _number(name: str, low: int = 0, high: int | None = None, bits: int = 32, **more: Any) -> Parameter:
    return Parameter(name, "int", Limits(low=low, high=high, bits=bits), **more)


def _bytes(name: str, **more: Any) -> Parameter:
    return _number(name, bits=64, **more)


def _instances(name: str) -> Parameter:
    return _number(name, 1, MOST_INSTANCES)


def _flag(name: str, **more: Any) -> Parameter:
    return Parameter(name, "bool", **more)


def _share(name: str, open_low: bool = True, **more: Any) -> Parameter:
    return Parameter(name, "float", Limits(low=0, high=1, open_low=open_low), **more)


def _path(name: str, **more: Any) -> Parameter:
    return Parameter(name, "path", **more)


def _choice(name: str, *choices: str, **more: Any) -> Parameter:
    return Parameter(name, "choice", Limits(choices=choices), **more)


_BATCH = _number("triton_max_batch_size", 1, aliases=("max_batch_size",))
_TOKENIZER = _path("tokenizer_dir")
_TOKENIZER_TYPE = _choice(
    "tokenizer_type", "auto", "llama", "t5", until="0.9.0", written="auto",
    retired="the models find the tokenizer's class themselves",
)  # fmt: skip
_LOGITS = _choice("logits_datatype", *DATA_TYPES, since="0.17.0", default="TYPE_FP32", written="TYPE_FP32")
# Fixed to TYPE_FP16 in the templates of 0.20.0, a placeholder in those of 1.1.0; between them it is not recorded.
_PROMPT_TABLE = _choice(
    "prompt_embedding_table_data_type", *DATA_TYPES, since="0.20.0", assured="1.1.0",
    default="TYPE_FP16", written="TYPE_FP16",
)  # fmt: skip
_ENCODER_FEATURES = _choice(
    "encoder_input_features_data_type", *DATA_TYPES, since="0.15.0", default="TYPE_FP16", written="TYPE_FP16"
)
_DECOUPLED = Parameter("decoupled_mode", "scalar_bool", aliases=("decoupled",))
_DELAY = _number("max_queue_delay_microseconds", default="0", written="0")
_QUEUE = _number("max_queue_size", since="0.12.0", default="0", written="0")
_VISION = _path("multimodal_model_path", since="0.12.0", formerly=("visual_model_path", "0.19.0"))
_ENGINE = _path("engine_dir", aliases=("gpt_model_path",))

_DECODING_MODES = ("top_k", "top_p", "top_k_top_p", "beam_search")
_TABLE: dict[str, tuple[Parameter, ...]] = {
    "preprocessing": (
        _BATCH,
        _TOKENIZER,
        _TOKENIZER_TYPE,
        _instances("preprocessing_instance_count"),
        replace(_DELAY, since="0.19.0"),
        replace(_QUEUE, since="0.19.0"),
        _flag("add_special_tokens", since="0.9.0", default=(("", "False"), ("0.10.0", "True"))),
        _VISION,
        replace(_ENGINE, since="0.12.0"),
        _number("max_num_images", 1, since="0.15.0"),
        _path("hf_model_path", since="0.20.0"),
    ),
    "postprocessing": (
        _BATCH,
        _TOKENIZER,
        _TOKENIZER_TYPE,
        _instances("postprocessing_instance_count"),
        _flag("skip_special_tokens", since="0.11.0", default="True"),
    ),
    "tensorrt_llm": (
        _choice(
            "triton_backend", "tensorrtllm", "python", since="0.10.0", default="tensorrtllm", written="tensorrtllm",
        ),
        _BATCH,
        _DECOUPLED,
        _DELAY,
        _QUEUE,
        _ENGINE,
        _path("encoder_engine_dir", since="0.11.0", aliases=("encoder_model_path",)),
        _choice(
            "batching_strategy", "inflight_fused_batching", "inflight_batching", "V1", "v1",
            written="inflight_fused_batching", aliases=("gpt_model_type",),
        ),
        _choice("batch_scheduler_policy", "guaranteed_no_evict", "max_utilization", default="guaranteed_no_evict"),
        _number("max_beam_width", 1, default="1"),
        _number("max_tokens_in_paged_kv_cache", 1),
        Parameter(
            "max_attention_window_size", "numbers", Limits(low=1, several="0.13.0"), aliases=("max_kv_cache_length",)
        ),
        _number("sink_token_length", since="0.10.0"),
        _share("kv_cache_free_gpu_mem_fraction", default=(("", "0.85"), ("0.8.0", "0.9"))),
        _share("cross_kv_cache_fraction", since="0.14.0", default="0.5"),
        _bytes("kv_cache_host_memory_bytes", since="0.10.0", default="0"),
        _flag("kv_cache_onboard_blocks", since="0.10.0", default="True"),
        _flag("enable_kv_cache_reuse", default="False"),
        _flag("enable_chunked_context", since="0.8.0", default="False"),
        _flag("exclude_input_in_output", default="False"),
        _flag("normalize_log_probs", since="0.8.0", default="True"),
        _number("cancellation_check_period_ms", 1, since="0.10.0", default="100"),
        _number("stats_check_period_ms", 1, since="0.10.0", default="100"),
        _number("recv_poll_period_ms", since="0.16.0", default="0", documented=True),
        _number("iter_stats_max_iterations", since="0.10.0"),
        _number("request_stats_max_iterations", since="0.10.0"),
        Parameter("gpu_device_ids", "ids", Limits(several="0.12.0"), since="0.8.0"),
        Parameter("participant_ids", "ids", Limits(low=1, several="0.13.0"), since="0.13.0"),
        _number("num_nodes", 1, since="0.19.0", default="1"),
        _number("lora_cache_optimal_adapter_size", 1, since="0.9.0", default="8"),
        _number("lora_cache_max_adapter_size", 1, since="0.9.0", default="64"),
        _share("lora_cache_gpu_memory_fraction", since="0.9.0", default="0.05"),
        _bytes("lora_cache_host_memory_bytes", since="0.9.0", default=str(1 << 30)),
        _path("lora_prefetch_dir", since="0.19.0"),
        _choice(
            "decoding_mode", since="0.9.0",
            choices=(
                ("0.9.0", _DECODING_MODES),
                ("0.10.0", (*_DECODING_MODES, "medusa")),
                ("0.16.0", (*_DECODING_MODES, "medusa", "redrafter", "lookahead", "eagle")),
            ),
        ),
        _number("lookahead_window_size", 1, since="0.19.0"),
        _number("lookahead_ngram_size", 1, since="0.19.0"),
        _number("lookahead_verification_set_size", 1, since="0.19.0"),
        Parameter("medusa_choices", "tree", since="0.9.0"),
        Parameter("eagle_choices", "tree", since="0.16.0"),
        _share("gpu_weights_percent", open_low=False, since="0.10.0", default="1.0"),
        _flag("enable_context_fmha_fp32_acc", since="0.12.0", default="False"),
        _flag("multi_block_mode", since="0.12.0", default="True"),
        _flag("cuda_graph_mode", since="0.15.0", default="False"),
        _number("cuda_graph_cache_size", since="0.15.0", default="0"),
        _flag("speculative_decoding_fast_logits", since="0.15.0", default="False"),
        _ENCODER_FEATURES,
        _LOGITS,
        _PROMPT_TABLE,
        replace(_TOKENIZER, since="0.19.0"),
        _choice("guided_decoding_backend", "xgrammar", since="0.19.0"),
        _path("xgrammar_tokenizer_info_path", since="0.19.0"),
        # Still a placeholder, in a comment, long after the backend stopped reading it.
        _flag("enable_trt_overlap", default="False"),
        _number("max_num_sequences", 1, until="0.8.0", retired="the engine's own batch size decides"),
    ),
    "ensemble": (_BATCH, _LOGITS),
    "tensorrt_llm_bls": (
        _BATCH,
        _DECOUPLED,
        _instances("bls_instance_count"),
        _flag("accumulate_tokens", default="False"),
        _LOGITS,
        _PROMPT_TABLE,
        Parameter("tensorrt_llm_model_name", "name", since="0.9.0", default="tensorrt_llm"),
        Parameter("tensorrt_llm_draft_model_name", "name", since="0.9.0"),
        Parameter("multimodal_encoders_name", "name", since="0.13.0"),
    ),
    MULTIMODAL: (
        replace(_BATCH, since="0.13.0"),
        replace(_DELAY, since="0.19.0"),
        replace(_QUEUE, since="0.19.0"),
        _ENCODER_FEATURES,
        _PROMPT_TABLE,
        replace(_VISION, since="0.13.0"),
        _path("hf_model_path", since="0.16.0"),
    ),
}  # fmt: skip
_BY_NAME = {model: {parameter.name: parameter for parameter in table} for model, table in _TABLE.items()}
_ALIASES = {
    model: {
        alias: parameter.name
        for parameter in table
        for alias in (*parameter.aliases, *((parameter.formerly[0],) if parameter.formerly else ()))
    }
    for model, table in _TABLE.items()
}


@dataclass(frozen=True)
class Given:
    """One parameter that the user gave: its value as it is written into the template, and under which name."""

    value: str
    source: str


def parameters_of(model: str, key: tuple[int, ...]) -> dict[str, Parameter]:
    """The parameters that *model* has in the release whose version is *key*, by their present name."""
    return {name: parameter for name, parameter in _BY_NAME[model].items() if parameter.exists(key)}


def find(model: str, name: str) -> Parameter | None:
    """The parameter that *name*, present or former, stands for in any release; None where there is none."""
    return _BY_NAME[model].get(_ALIASES[model].get(name, name))


def check_model_names(names: Mapping[str, Any], source: str) -> None:
    """Raise for the first key of *names* that is no model of the layout."""
    for name in names:
        if name not in _BY_NAME:
            raise FleetError(
                f"{source}.{name} is not a model of the repository{nearest(name, _BY_NAME) or ';'} "
                f"give parameters under one of {', '.join(_BY_NAME)}."
            )
        if names[name] is not None and not isinstance(names[name], Mapping):
            raise FleetError(f"{source}.{name} is {names[name]!r}; it takes a mapping of parameter names to values.")


def normalise(
    rel: Release, model: str, given: Mapping[str, Any], source: str
) -> tuple[dict[str, Given], list[str]]:  # fmt: skip
    """Judge what the user gave for *model*, and return it under present names, as text, with notes.

    A note says which value was dropped, and why nothing is lost by that.
    """
    values: dict[str, Given] = {}
    notes: list[str] = []
    for name, raw in given.items():
        if raw is None:
            continue
        at_name = f"{source}.{model}.{name}"
        parameter = find(model, name)
        if parameter is None:
            raise FleetError(_unknown(rel, model, name, at_name))
        if parameter.over(rel.key) and parameter.retired:
            notes.append(f"{at_name} is not used from release {parameter.until} on: {parameter.retired}")
            continue
        # A value for a later release is judged as that release does, to be told apart from a mistake.
        key = max(rel.key, version_key(parameter.since))
        value = KINDS[parameter.kind](raw, parameter.limits_of(key), at_name, key)
        note = _absent(rel, parameter, value, at_name)
        if note:
            notes.append(note)
            continue
        before = values.get(parameter.name)
        if before is not None and not same(parameter.kind, before.value, value):
            raise FleetError(
                f"{before.source} is '{before.value}' but {at_name}, another name of the same parameter, is '{value}'; "
                "give one of them."
            )
        values[parameter.name] = Given(value, at_name)
    return values, notes


def _unknown(rel: Release, model: str, name: str, source: str) -> str:
    """The sentence for a name that no release has; parameters of other models are named as such."""
    others = [other for other in _BY_NAME if other != model and find(other, name) is not None]
    if others:
        return f"{source} is not a parameter of {model}, it is one of {' and '.join(others)}; give it there."
    known = [parameter.placeholder(rel.key) for parameter in parameters_of(model, rel.key).values()]
    hint = nearest(str(name), {*known, *_BY_NAME[model], *_ALIASES[model]})
    listed = "" if hint else f"; release {rel.version} has {', '.join(sorted(known))}."
    return f"{source} is not a parameter of {model} in any release{hint or listed}"


def _absent(rel: Release, parameter: Parameter, value: str, source: str) -> str:
    """Why *value* is dropped in this release; "" when the release has the parameter.

    Raises where dropping it would make a difference.
    """
    if parameter.exists(rel.key):
        return ""
    default = at(parameter.default, version_key(parameter.since))
    if default is not None and same(parameter.kind, value, default):
        return f"{source}: release {rel.version} has no such parameter and behaves as '{value}' says anyway"
    raise FleetError(
        f"{source} is '{value}', but the parameter exists from release {parameter.since} on and the release is "
        f"{rel.version}; leave it out, or take a newer release."
    )


def validate_parameters(version: str, layout: str, parameters: Mapping[str, Any], source: str = "parameters") -> None:
    """Raise `FleetError` for the first parameter that *version*'s templates of *layout* do not take.

    Names, types, ranges and choices; what depends on the engine and on the tokenizer is judged on the host.
    *parameters* has a mapping of upstream's names to values per model. Pure: for the controller as for the host.
    """
    rel = release(version)
    check_layout(rel, layout)
    if layout == LLMAPI:
        normalise_llmapi(parameters, source)
        return
    if layout == SERVE:
        normalise_serve(rel, parameters, source)
        return
    check_model_names(parameters, source)
    for model, given in parameters.items():
        normalise(rel, model, given or {}, source)


def check_layout(rel: Release, layout: str) -> None:
    """Raise where the release does not have the layout, naming those that do."""
    if layout not in LAYOUTS:
        raise FleetError(f"layout is '{layout}'; expected one of {', '.join(LAYOUTS)}{nearest(layout, LAYOUTS)}")
    if layout == LLMAPI and rel.key < version_key(FIRST_LLMAPI):
        raise FleetError(
            f"Release {rel.version} has no llmapi repository; take release {FIRST_LLMAPI} or newer, or the layout "
            f"{INFLIGHT}."
        )
    if layout == SERVE:
        flow_of(rel, FLOW_SERVE)
    if layout == INFLIGHT and not rel.builds_engines:
        raise FleetError(
            f"Release {rel.version} has no {INFLIGHT} repository, TensorRT engines ended with release "
            f"{LAST_ENGINE_RELEASE}; take that, or the layout llmapi."
        )
