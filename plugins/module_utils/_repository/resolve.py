# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what the user wrote, the engine and the tokenizer to the value of every placeholder, with its source."""

from __future__ import annotations

from .._base.errors import FleetError
from .._checkpoint.tokenizer import Tokenizer
from .._checkpoint.xgrammar import INFO_FILE
from .._release.releases import Release
from .contradictions import check_contradictions
from .engine import Engine
from .entry import (
    BLS,
    ENSEMBLE,
    INFO_PATH,
    LLM,
    OWN_DIRECTORY,
    POST,
    PRE,
    EntryRequest,
    Resolved,
    Value,
    conflict,
    given_directory,
)
from .schema import MULTIMODAL, check_model_names, normalise, parameters_of
from .schema_values import is_true

# Upstream: "ideally the batch size; 5 works well; not 1". An instance is a Python process of 40 MB and more (some
# 200 MB with a Hugging Face tokenizer), hence the upper bounds. A BLS instance serves one request at a time, so
# it gets the larger one.
INSTANCES = {
    PRE: ("preprocessing_instance_count", 5),
    POST: ("postprocessing_instance_count", 5),
    BLS: ("bls_instance_count", 16),
}


class Resolver:
    """Resolves one entry. *engine* and *tokenizer* are None where they will only exist once this run has made them."""

    def __init__(
        self, rel: Release, request: EntryRequest, engine: Engine | None, tokenizer: Tokenizer | None
    ) -> None:  # fmt: skip
        self.rel, self.request, self.engine, self.tokenizer = rel, request, engine, tokenizer
        self.entry = Resolved(request, values={}, notes=[], streaming=False, engine=engine)

    def resolve(self) -> Resolved:
        """All values, checked against each other."""
        self._take_given()
        self.entry.streaming = self._streaming()
        self._directories()
        self._batch_sizes()
        self._tokenizer_values()
        self._names()
        self._types()
        self._mandatory()
        check_contradictions(self.rel, self.entry, self.tokenizer)
        return self.entry

    def put(self, model: str, name: str, text: str, source: str, needed: bool = False) -> None:
        """Derive a value, unless the user gave one or the release (or this repository) has no place for it."""
        values = self.entry.values.get(model)
        if values is not None and name not in values and name in parameters_of(model, self.rel.key):
            values[name] = Value(text, source, needed=needed)

    def _take_given(self) -> None:
        parameters, label = self.request.parameters, self.request.label
        check_model_names(parameters, label)
        for model in parameters:
            if model not in self.request.models and parameters[model]:
                raise FleetError(
                    f"{label}.{model} has values, but models leaves {model} out of the repository; add it to "
                    "models, or take the values away."
                )
        for model in self.request.models:
            given, notes = normalise(self.rel, model, parameters.get(model) or {}, label)
            self.entry.values[model] = {name: Value(item.value, item.source, True) for name, item in given.items()}
            self.entry.notes += notes

    def _streaming(self) -> bool:
        """One switch: the option, or what decoupled_mode says; both models have to agree with it."""
        switch = self.request.streaming
        source = "streaming"
        for model in (LLM, BLS):
            value = self.entry.get(model, "decoupled_mode")
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
        self._engine_directories()
        tokenizer_dir, source = given_directory(self.request, PRE, "tokenizer_dir", self.request.tokenizer_dir)
        if tokenizer_dir:
            for model in (PRE, POST):
                self.put(model, "tokenizer_dir", tokenizer_dir, source)
        one, other = self.entry.get(PRE, "tokenizer_dir"), self.entry.get(POST, "tokenizer_dir")
        if one and other and one.text.rstrip("/") != other.text.rstrip("/"):
            raise conflict(
                f"tokenizer_dir '{one.text}' of {PRE}", one.source, f"'{other.text}' of {POST}", other.source,
                "both have to use the same tokenizer",
            )  # fmt: skip
        guided = self.entry.get(LLM, "guided_decoding_backend")
        if guided and tokenizer_dir:
            source = f"{guided.source}, which needs it"
            if self.entry.backend == "python":
                self.put(LLM, "tokenizer_dir", tokenizer_dir, source)
            else:
                own = f"{OWN_DIRECTORY}/{self.request.model_name(LLM)}/{INFO_FILE}"
                self.put(LLM, INFO_PATH, own, source, needed=True)

    def _engine_directories(self) -> None:
        """Of a pair of encoder and decoder the decoder's directory is the engine's, the encoder stands beside it."""
        directory, source = given_directory(self.request, LLM, "engine_dir", self.request.engine_dir)
        if self.engine and directory != self.engine.directory:
            directory = self.engine.directory
            self.entry.values[LLM].pop("engine_dir", None)  # it named the pair, which is no engine
        if directory:
            self.put(LLM, "engine_dir", directory, source)
            if self.entry.get(PRE, "multimodal_model_path"):
                self.put(PRE, "engine_dir", directory, source)
        if self.engine and self.engine.decoder_of_pair and self.engine.directory.rstrip("/").endswith("/decoder"):
            encoder = self.engine.directory.rstrip("/")[: -len("decoder")] + "encoder"
            source = f"the decoder's place beside it, {self.engine.directory}"
            self.put(LLM, "encoder_engine_dir", encoder, source, needed=True)

    def _batch_sizes(self) -> None:
        """One batch size for all models, by default the engine's, and how many instances serve it."""
        engine, name = self.engine, "triton_max_batch_size"
        if engine and engine.max_batch_size:
            self.put(LLM, name, str(engine.max_batch_size), engine.source("max_batch_size"))
        llm = self.entry.get(LLM, name)
        if llm:
            for model in self.request.models:
                self.put(model, name, llm.text, f"{name} of {LLM}, from {llm.source}")
        if engine and engine.max_batch_size:
            for model in self.request.models:
                value = self.entry.get(model, name)
                if value and int(value.text) > engine.max_batch_size:
                    raise conflict(
                        f"{name} {value.text} of {model}", value.source, f"max_batch_size {engine.max_batch_size}",
                        engine.source("max_batch_size"), "lower it, or build the engine for the larger batch",
                    )  # fmt: skip
        for model, (count, most) in INSTANCES.items():
            size = self.entry.get(model, name)
            if size:
                if model == POST and self.entry.streaming:
                    # The ensemble hands each token to whichever process is free: with several they overtake each other.
                    self.put(model, count, "1", "streaming is on: one process keeps the tokens of an answer in order")
                    continue
                number = min(int(size.text), most)
                self.put(model, count, str(number), f"{name} {size.text}, at most {most} processes")

    def _tokenizer_values(self) -> None:
        """What streaming through this tokenizer takes; prompts are never echoed unless asked for."""
        self.put(LLM, "exclude_input_in_output", "True", "the fleet's default: answers without the prompt")
        if not self.entry.streaming:
            self.put(BLS, "accumulate_tokens", "False", "streaming is off")
            return
        if self.tokenizer is None:
            return
        beam = self.entry.get(LLM, "max_beam_width")
        if beam and int(beam.text) > 1:
            self.put(BLS, "accumulate_tokens", "False", f"max_beam_width {beam.text} from {beam.source}")
            self.entry.notes.append(
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
        self.put(BLS, "tensorrt_llm_model_name", self.request.model_name(LLM), source)
        if MULTIMODAL in self.request.models:
            self.put(BLS, "multimodal_encoders_name", self.request.model_name(MULTIMODAL), source)

    def _types(self) -> None:
        """Tensors that pass from model to model have one type; encoder-decoder pairs share the KV cache."""
        for name in ("logits_datatype", "prompt_embedding_table_data_type"):
            leading = self.entry.get(LLM, name)
            for model in (ENSEMBLE, BLS, MULTIMODAL):
                value = self.entry.get(model, name)
                if leading and value and value.text != leading.text:
                    raise conflict(
                        f"{name} {leading.text} of {LLM}", leading.source, f"{value.text} of {model}", value.source,
                        "the tensor passes between them, so give them the same",
                    )  # fmt: skip
                if leading and not value:
                    self.put(model, name, leading.text, f"{name} of {LLM}, from {leading.source}")
                elif value and value.given and not leading:
                    self.put(LLM, name, value.text, f"{name} of {model}, from {value.source}")
                    leading = self.entry.get(LLM, name)
        encoder = self.entry.get(LLM, "encoder_engine_dir")
        if encoder:
            source = f"encoder_engine_dir, from {encoder.source}"
            self.put(LLM, "cross_kv_cache_fraction", "0.5", source, needed=True)

    def _mandatory(self) -> None:
        """What does not parse, or does not load, when it is left unfilled."""
        for model in self.request.models:
            for name, parameter in parameters_of(model, self.rel.key).items():
                if parameter.written is not None:
                    self.put(model, name, parameter.written, f"upstream's value for release {self.rel.version}")
