# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what the user wrote, the engine and the tokenizer to the value of every placeholder, with its source.

What is derived can be overridden; what contradicts is refused with both values and where each came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._model_repository_engine import Engine
from ansible_collections.trtllm.fleet.plugins.module_utils._release import Release
from ansible_collections.trtllm.fleet.plugins.module_utils._sizes import MIB
from ansible_collections.trtllm.fleet.plugins.module_utils._template_schema import (
    MODELS,
    MULTIMODAL,
    check_model_names,
    find,
    normalise,
    parameters_of,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._template_schema_values import id_lists, is_true
from ansible_collections.trtllm.fleet.plugins.module_utils._tokenizer import Tokenizer
from ansible_collections.trtllm.fleet.plugins.module_utils._versions import version_key

LLM, BLS, PRE, POST, ENSEMBLE = "tensorrt_llm", "tensorrt_llm_bls", "preprocessing", "postprocessing", "ensemble"

# Upstream: "ideally the batch size; 5 works well; not 1". An instance is a Python process of 40 MB and more (some
# 200 MB with a Hugging Face tokenizer), hence the upper bounds. A BLS instance serves one request at a time, so
# it gets the larger one.
INSTANCES = {
    PRE: ("preprocessing_instance_count", 5),
    POST: ("postprocessing_instance_count", 5),
    BLS: ("bls_instance_count", 16),
}
# The first release with upstream's multi-model (orchestrator) mode.
FIRST_ORCHESTRATOR = "0.9.0"


@dataclass(frozen=True)
class Value:
    """The text for a placeholder, where it came from, and whether the user gave it."""

    text: str
    source: str
    given: bool = False


@dataclass
class EntryRequest:
    """One set of models in the repository. *prefix* stands before their names; *label* is how messages call it."""

    label: str = "parameters"
    prefix: str = ""
    models: tuple[str, ...] = MODELS
    engine_dir: str | None = None
    tokenizer_dir: str | None = None
    streaming: bool | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    gpu_memory_mib: int | None = None


@dataclass
class Resolved:
    """The values of one entry: per model, by the parameter's present name."""

    request: EntryRequest
    values: dict[str, dict[str, Value]]
    notes: list[str]
    streaming: bool
    engine: Engine | None

    @property
    def world_size(self) -> int | None:
        """The number of the engine's ranks."""
        return self.engine.world_size if self.engine else None

    def get(self, model: str, name: str) -> Value | None:
        """The value of one parameter, None where it is left unset."""
        return self.values.get(model, {}).get(name)

    def text(self, model: str, name: str) -> str | None:
        """Its text."""
        value = self.get(model, name)
        return value.text if value else None

    def model_name(self, model: str) -> str:
        """What *model* is called in this repository."""
        return f"{self.request.prefix}{model}"

    def derived(self) -> dict[str, dict[str, dict[str, str]]]:
        """What the user did not give, per model of the repository."""
        return {
            self.model_name(model): {
                name: {"value": value.text, "source": value.source}
                for name, value in sorted(values.items())
                if not value.given
            }
            for model, values in self.values.items()
        }


def conflict(one: str, one_source: str, other: str, other_source: str, advice: str) -> FleetError:
    """The sentence for two values that exclude each other."""
    return FleetError(f"{one} (from {one_source}) contradicts {other} (from {other_source}); {advice}.")


def given_directory(request: EntryRequest, model: str, name: str, option: str | None) -> tuple[str | None, str]:
    """A directory that can be given as an option or as a parameter, and which of them gave it."""
    given = request.parameters.get(model) or {}
    for key, raw in given.items():
        parameter = find(model, key)
        if parameter is None or parameter.name != name or raw is None:
            continue
        if option and str(raw).rstrip("/") != option.rstrip("/"):
            source = f"{request.label}.{model}.{key}"
            raise conflict(f"{name} '{raw}'", source, f"'{option}'", f"the option {name}", "give one of them")
        return str(raw), f"{request.label}.{model}.{key}"
    return option, f"the option {name}"


class Resolver:
    """Resolves one entry. *engine* and *tokenizer* are None where they will only exist once this run has made them."""

    def __init__(
        self, rel: Release, request: EntryRequest, engine: Engine | None, tokenizer: Tokenizer | None
    ) -> None:  # fmt: skip
        self.rel, self.request, self.engine, self.tokenizer = rel, request, engine, tokenizer
        self.label = request.label
        self.values: dict[str, dict[str, Value]] = {}
        self.notes: list[str] = []

    def resolve(self) -> Resolved:
        """All values, checked against each other."""
        self._take_given()
        streaming = self._streaming()
        self._directories()
        self._batch_sizes(streaming)
        self._tokenizer_values(streaming)
        self._names()
        self._types()
        self._mandatory()
        self._check_engine(streaming)
        self._check_scheduling(streaming)
        self._check_decoding()
        self._check_kv_cache()
        self._check_tokenizer()
        return Resolved(self.request, self.values, self.notes, streaming, self.engine)

    # -- values ---------------------------------------------------------------------------------------------------

    def get(self, model: str, name: str) -> Value | None:
        return self.values.get(model, {}).get(name)

    def put(self, model: str, name: str, text: str, source: str) -> None:
        """Derive a value, unless the user gave one or the release (or this repository) has no place for it."""
        if model in self.values and name not in self.values[model] and name in parameters_of(model, self.rel.key):
            self.values[model][name] = Value(text, source)

    def _take_given(self) -> None:
        parameters = self.request.parameters
        check_model_names(parameters, self.label)
        for model in parameters:
            if model not in self.request.models and parameters[model]:
                raise FleetError(
                    f"{self.label}.{model} has values, but models leaves {model} out of the repository; add it to "
                    "models, or take the values away."
                )
        for model in self.request.models:
            given, notes = normalise(self.rel, model, parameters.get(model) or {}, self.label)
            self.values[model] = {name: Value(item.value, item.source, True) for name, item in given.items()}
            self.notes += notes

    def _streaming(self) -> bool:
        """One switch: the option, or what decoupled_mode says; both models have to agree with it."""
        switch = self.request.streaming
        source = "streaming"
        for model in (LLM, BLS):
            value = self.get(model, "decoupled_mode")
            if value is None:
                continue
            if switch is None:
                switch, source = is_true(value.text), value.source
            elif is_true(value.text) != switch:
                raise conflict(
                    f"decoupled_mode {value.text} of {model}", value.source, f"{str(switch).lower()}", source,
                    "a decoupled model needs a decoupled BLS and the other way round: set the option streaming only",
                )  # fmt: skip
        text = str(bool(switch))
        for model in (LLM, BLS):
            self.put(model, "decoupled_mode", text, source if switch is not None else "the default of streaming")
        return bool(switch)

    def _directories(self) -> None:
        """Where engine and tokenizer are."""
        engine_dir, source = given_directory(self.request, LLM, "engine_dir", self.request.engine_dir)
        if engine_dir:
            self.put(LLM, "engine_dir", engine_dir, source)
            if self.get(PRE, "multimodal_model_path"):
                self.put(PRE, "engine_dir", engine_dir, source)
        if self.engine and self.engine.decoder_of_pair and self.engine.directory.rstrip("/").endswith("/decoder"):
            encoder = self.engine.directory.rstrip("/")[: -len("decoder")] + "encoder"
            self.put(LLM, "encoder_engine_dir", encoder, f"the decoder's place beside it, {self.engine.directory}")
        tokenizer_dir, source = given_directory(self.request, PRE, "tokenizer_dir", self.request.tokenizer_dir)
        if tokenizer_dir:
            for model in (PRE, POST):
                self.put(model, "tokenizer_dir", tokenizer_dir, source)
        one, other = self.get(PRE, "tokenizer_dir"), self.get(POST, "tokenizer_dir")
        if one and other and one.text.rstrip("/") != other.text.rstrip("/"):
            raise conflict(
                f"tokenizer_dir '{one.text}' of {PRE}", one.source, f"'{other.text}' of {POST}", other.source,
                "both have to use the same tokenizer",
            )  # fmt: skip
        guided = self.get(LLM, "guided_decoding_backend")
        if guided and tokenizer_dir and self._backend() == "python":
            self.put(LLM, "tokenizer_dir", tokenizer_dir, f"{guided.source}, which needs it")

    def _backend(self) -> str:
        value = self.get(LLM, "triton_backend")
        return value.text if value else "tensorrtllm"

    def _batch_sizes(self, streaming: bool) -> None:
        """One batch size for all models, by default the engine's, and how many instances serve it."""
        engine, name = self.engine, "triton_max_batch_size"
        if engine and engine.max_batch_size:
            self.put(LLM, name, str(engine.max_batch_size), engine.source("max_batch_size"))
        llm = self.get(LLM, name)
        if llm:
            for model in self.request.models:
                self.put(model, name, llm.text, f"{name} of {LLM}, from {llm.source}")
        if engine and engine.max_batch_size:
            for model in self.request.models:
                value = self.get(model, name)
                if value and int(value.text) > engine.max_batch_size:
                    raise conflict(
                        f"{name} {value.text} of {model}", value.source, f"max_batch_size {engine.max_batch_size}",
                        engine.source("max_batch_size"), "lower it, or build the engine for the larger batch",
                    )  # fmt: skip
        for model, (count, most) in INSTANCES.items():
            size = self.get(model, name)
            if size:
                if model == POST and streaming:
                    # The ensemble hands each token to whichever process is free: with several they overtake each other.
                    self.put(model, count, "1", "streaming is on: one process keeps the tokens of an answer in order")
                    continue
                number = min(int(size.text), most)
                self.put(model, count, str(number), f"{name} {size.text}, at most {most} processes")

    def _tokenizer_values(self, streaming: bool) -> None:
        """What streaming through this tokenizer takes; prompts are never echoed unless asked for."""
        self.put(LLM, "exclude_input_in_output", "True", "the fleet's default: answers without the prompt")
        if not streaming:
            self.put(BLS, "accumulate_tokens", "False", "streaming is off")
            return
        if self.tokenizer is None:
            return
        beam = self.get(LLM, "max_beam_width")
        if beam and int(beam.text) > 1:
            self.put(BLS, "accumulate_tokens", "False", f"max_beam_width {beam.text} from {beam.source}")
            self.notes.append(
                f"Tokens cannot be accumulated with max_beam_width {beam.text}: streamed text may lack spaces between "
                "words (SentencePiece) or characters that are made of several tokens"
            )
            return
        # A piece alone is not text: SentencePiece marks spaces at the start of words, and in a byte-level
        # vocabulary a character may be several tokens.
        reason = "a character may be several tokens"
        if self.tokenizer.sentencepiece:
            reason = self.tokenizer.sentencepiece_source
        self.put(BLS, "accumulate_tokens", "True", f"{self.tokenizer.directory}: {reason}")

    def _names(self) -> None:
        """Which models the BLS calls. Releases 0.9 to 0.12 take an unfilled name literally, so it is always filled."""
        source = "the models of this repository"
        self.put(BLS, "tensorrt_llm_model_name", f"{self.request.prefix}{LLM}", source)
        if MULTIMODAL in self.request.models:
            self.put(BLS, "multimodal_encoders_name", f"{self.request.prefix}{MULTIMODAL}", source)

    def _types(self) -> None:
        """Tensors that pass from model to model have one type; encoder-decoder pairs share the KV cache."""
        for name in ("logits_datatype", "prompt_embedding_table_data_type"):
            leading = self.get(LLM, name)
            for model in (ENSEMBLE, BLS):
                value = self.get(model, name)
                if leading and value and value.text != leading.text:
                    raise conflict(
                        f"{name} {leading.text} of {LLM}", leading.source, f"{value.text} of {model}", value.source,
                        "the tensor passes between them, so give them the same",
                    )  # fmt: skip
                if leading and not value:
                    self.put(model, name, leading.text, f"{name} of {LLM}, from {leading.source}")
                elif value and value.given and not leading:
                    self.put(LLM, name, value.text, f"{name} of {model}, from {value.source}")
                    leading = self.get(LLM, name)
        encoder = self.get(LLM, "encoder_engine_dir")
        if encoder:
            self.put(LLM, "cross_kv_cache_fraction", "0.5", f"encoder_engine_dir, from {encoder.source}")

    def _mandatory(self) -> None:
        """What does not parse, or does not load, when it is left unfilled."""
        for model in self.request.models:
            for name, parameter in parameters_of(model, self.rel.key).items():
                if parameter.written is not None:
                    self.put(model, name, parameter.written, f"upstream's value for release {self.rel.version}")

    # -- contradictions -------------------------------------------------------------------------------------------

    def _check_engine(self, streaming: bool) -> None:
        engine = self.engine
        if engine is None:
            return
        beam = self.get(LLM, "max_beam_width")
        if beam and engine.max_beam_width and int(beam.text) > engine.max_beam_width:
            raise conflict(
                f"max_beam_width {beam.text}", beam.source, f"max_beam_width {engine.max_beam_width}",
                engine.source("max_beam_width"), "lower it, or build the engine for wider beams",
            )  # fmt: skip
        strategy = self.get(LLM, "batching_strategy")
        if strategy and strategy.text.lower() != "v1" and engine.paged_kv_cache is False:
            raise conflict(
                f"batching_strategy {strategy.text}", strategy.source, "a KV cache that is not paged",
                engine.source("paged_kv_cache"), "in-flight batching needs an engine built with a paged KV cache",
            )  # fmt: skip
        for name in ("enable_chunked_context", "enable_kv_cache_reuse"):
            value = self.get(LLM, name)
            if value and is_true(value.text) and engine.paged_context is False:
                raise conflict(
                    f"{name} {value.text}", value.source, "use_paged_context_fmha disabled",
                    engine.source("paged_context"), "build the engine with use_paged_context_fmha: enable",
                )  # fmt: skip
        cross, encoder = self.get(LLM, "cross_kv_cache_fraction"), self.get(LLM, "encoder_engine_dir")
        if cross and cross.given and not encoder:
            raise conflict(
                f"cross_kv_cache_fraction {cross.text}", cross.source, "a decoder-only engine", engine.directory,
                "leave it out, it is for encoder-decoder models with encoder_engine_dir only",
            )  # fmt: skip
        if engine.decoder_of_pair and not encoder and self.rel.key >= version_key("0.11.0"):
            raise FleetError(
                f"{engine.source('architecture')} is the decoder of an encoder-decoder model, but no "
                f"encoder_engine_dir is given; set {self.label}.{LLM}.encoder_engine_dir."
            )
        self._check_ids("gpu_device_ids", engine)
        self._check_ids("participant_ids", engine)
        nodes = self.get(LLM, "num_nodes")
        if nodes and int(nodes.text) > engine.world_size:
            raise conflict(
                f"num_nodes {nodes.text}", nodes.source, f"world size {engine.world_size}", engine.source("world_size"),
                "an engine cannot span more nodes than it has ranks",
            )  # fmt: skip

    def _check_ids(self, name: str, engine: Engine) -> None:
        value = self.get(LLM, name)
        if not value:
            return
        for ids in id_lists(value.text):
            if len(ids) != engine.world_size:
                raise conflict(
                    f"{name} {value.text}", value.source, f"world size {engine.world_size}",
                    engine.source("world_size"), f"give {engine.world_size} for each instance of the model",
                )  # fmt: skip
        if len(id_lists(value.text)) > 1:
            raise FleetError(
                f"{name} is '{value.text}' (from {value.source}), for {len(id_lists(value.text))} instances, but the "
                f"template of {LLM} has one; give each instance an entry of its own."
            )

    def _check_scheduling(self, streaming: bool) -> None:
        strategy = self.get(LLM, "batching_strategy")
        if streaming and strategy and strategy.text.lower() == "v1":
            raise conflict(
                f"batching_strategy {strategy.text}", strategy.source, "streaming true", "streaming",
                "V1 batching answers whole requests only; take inflight_fused_batching",
            )  # fmt: skip
        policy, chunked = self.get(LLM, "batch_scheduler_policy"), self.get(LLM, "enable_chunked_context")
        if (
            streaming and policy and policy.text == "max_utilization" and self.rel.key < version_key("0.10.0")
            and not (chunked and is_true(chunked.text))
        ):  # fmt: skip
            raise conflict(
                f"batch_scheduler_policy {policy.text}", policy.source, "streaming true", "streaming",
                f"release {self.rel.version} then falls back to guaranteed_no_evict without a word, so say that"
                + (", or set enable_chunked_context" if self.rel.key >= version_key("0.8.0") else ""),
            )  # fmt: skip

    def _check_decoding(self) -> None:
        beam, mode = self.get(LLM, "max_beam_width"), self.get(LLM, "decoding_mode")
        accumulate = self.get(BLS, "accumulate_tokens")
        if beam and int(beam.text) > 1 and accumulate and is_true(accumulate.text):
            raise conflict(
                f"max_beam_width {beam.text}", beam.source, f"accumulate_tokens {accumulate.text}", accumulate.source,
                "tokens are accumulated for a beam width of 1 only",
            )  # fmt: skip
        if mode and mode.text.startswith("top_") and beam and int(beam.text) > 1:
            raise conflict(
                f"decoding_mode {mode.text}", mode.source, f"max_beam_width {beam.text}", beam.source,
                "take decoding_mode beam_search for beams",
            )  # fmt: skip
        for name, wanted in (("medusa_choices", "medusa"), ("eagle_choices", "eagle")):
            choices = self.get(LLM, name)
            if choices and mode and mode.text != wanted:
                raise conflict(
                    f"{name} {choices.text}", choices.source, f"decoding_mode {mode.text}", mode.source,
                    f"the choices are read with decoding_mode {wanted} only",
                )  # fmt: skip
        sizes = [f"lookahead_{part}_size" for part in ("window", "ngram", "verification_set")]
        missing = [name for name in sizes if not self.get(LLM, name)]
        known = parameters_of(LLM, self.rel.key)
        if mode and mode.text == "lookahead" and missing and missing[0] in known:
            raise FleetError(
                f"decoding_mode is lookahead (from {mode.source}), but {' and '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} not given; upstream has no default for them."
            )
        self._check_guided()

    def _check_guided(self) -> None:
        guided = self.get(LLM, "guided_decoding_backend")
        if not guided:
            return
        needed = "tokenizer_dir" if self._backend() == "python" else "xgrammar_tokenizer_info_path"
        if not self.get(LLM, needed):
            raise FleetError(
                f"guided_decoding_backend is {guided.text} (from {guided.source}), but {self.label}.{LLM}.{needed} is "
                f"not given; with triton_backend {self._backend()} guided decoding stays off without it."
            )

    def _check_kv_cache(self) -> None:
        """The KV cache has to hold at least one sequence of full length, in every beam."""
        engine = self.engine
        if engine is None or not engine.max_seq_len:
            return
        length = engine.max_seq_len
        window = self.get(LLM, "max_attention_window_size")
        if window:
            length = min(length, max(int(part) for part in window.text.split(",")))
        block = engine.tokens_per_block or 1
        beam = self.get(LLM, "max_beam_width")
        needed = int(beam.text if beam else 1) * -(-length // block) * block
        budget = self.get(LLM, "max_tokens_in_paged_kv_cache")
        if budget and int(budget.text) < needed:
            raise conflict(
                f"max_tokens_in_paged_kv_cache {budget.text}", budget.source,
                f"one sequence of {needed} tokens ({length} tokens in blocks of {block}, beam width "
                f"{beam.text if beam else 1})", engine.source("max_seq_len"),
                "give room for at least one sequence, or lower the engine's max_seq_len",
            )  # fmt: skip
        memory = self.request.gpu_memory_mib
        if not memory or not engine.kv_bytes:
            return
        share = self.get(LLM, "kv_cache_free_gpu_mem_fraction")
        fraction = float(share.text) if share else 0.9
        room = int(max(0, memory * MIB - engine.shard_bytes) * fraction // engine.kv_bytes)
        if room < needed:
            raise FleetError(
                f"A GPU of {memory} MiB holds {room} tokens of KV cache beside the engine's "
                f"{engine.shard_bytes // MIB} MiB with kv_cache_free_gpu_mem_fraction {fraction:g} "
                f"(from {share.source if share else 'the default'}), but one sequence takes {needed} "
                f"({engine.source('max_seq_len')}); use more GPUs, a smaller type, or a shorter max_seq_len."
            )

    def _check_tokenizer(self) -> None:
        """A tokenizer whose ids the engine does not know belongs to another model."""
        engine, tokenizer = self.engine, self.tokenizer
        if engine is None or tokenizer is None or not engine.vocab_size:
            return
        for number, source in ((tokenizer.end_id, tokenizer.end_source), (tokenizer.pad_id, tokenizer.pad_source)):
            if number is not None and number >= engine.vocab_size:
                raise conflict(
                    f"token id {number}", f"{tokenizer.directory}/{source}", f"a vocabulary of {engine.vocab_size}",
                    engine.source("vocab_size"), "the tokenizer and the engine are of different models",
                )  # fmt: skip


def assign_gpus(entries: Sequence[Resolved], rel: Release) -> None:
    """With several entries in one repository each LLM gets GPUs of its own; overlaps are refused."""
    if len(entries) < 2:
        return
    if rel.key < version_key(FIRST_ORCHESTRATOR):
        raise FleetError(
            f"Release {rel.version} cannot serve several models from one repository; take release "
            f"{FIRST_ORCHESTRATOR} or newer, or give each model a repository of its own."
        )
    for name in ("gpu_device_ids", "participant_ids"):
        _refuse_overlap(entries, name)
    taken = {number for entry in entries for number in _ids(entry, "gpu_device_ids")}
    for entry in entries:
        if LLM not in entry.values or entry.get(LLM, "gpu_device_ids") or entry.world_size is None:
            continue
        free = [number for number in range(len(taken) + entry.world_size) if number not in taken][: entry.world_size]
        taken.update(free)
        entry.values[LLM]["gpu_device_ids"] = Value(
            ",".join(str(number) for number in free), "the lowest GPUs that no other entry of the repository uses"
        )


def _ids(entry: Resolved, name: str) -> list[int]:
    text = entry.text(LLM, name)
    return [number for ids in id_lists(text) for number in ids] if text else []


def _refuse_overlap(entries: Sequence[Resolved], name: str) -> None:
    owners: dict[int, Value] = {}
    for entry in entries:
        value = entry.get(LLM, name)
        for number in _ids(entry, name):
            if number in owners and value is not None:
                raise conflict(
                    f"{name} {value.text}", value.source, f"{owners[number].text}", owners[number].source,
                    f"both name {number}, and models of one repository must not share it",
                )  # fmt: skip
            if value is not None:
                owners[number] = value
