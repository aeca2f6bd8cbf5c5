# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values that contradict each other, the engine or the tokenizer: refused with both sides and where each came from.

Judged as far as the facts go: what needs an engine that is not built yet is judged once it is.
"""

from __future__ import annotations

from .._base.errors import FleetError
from .._base.sizes import MIB
from .._base.versions import version_key
from .._checkpoint.tokenizer import Tokenizer
from .._release.releases import Release
from .engine import Engine
from .entry import BLS, INFO_PATH, LLM, Resolved, conflict
from .schema import parameters_of
from .schema_values import id_lists, is_true


def check_contradictions(rel: Release, entry: Resolved, tokenizer: Tokenizer | None) -> None:
    """Raise for the first contradiction in *entry*. *tokenizer* is None where it is not there yet."""
    for check in (_check_engine, _check_ids, _check_scheduling, _check_decoding, _check_guided, _check_kv_cache):
        check(rel, entry)
    _check_tokenizer(entry, tokenizer)


def _check_engine(rel: Release, entry: Resolved) -> None:
    """What the engine was built for bounds what it can be asked to do."""
    engine = entry.engine
    if engine is None:
        return
    beam = entry.get(LLM, "max_beam_width")
    if beam and engine.max_beam_width and int(beam.text) > engine.max_beam_width:
        raise conflict(
            f"max_beam_width {beam.text}", beam.source, f"max_beam_width {engine.max_beam_width}",
            engine.source("max_beam_width"), "lower it, or build the engine for wider beams",
        )  # fmt: skip
    strategy = entry.get(LLM, "batching_strategy")
    if strategy and strategy.text.lower() != "v1" and engine.paged_kv_cache is False:
        raise conflict(
            f"batching_strategy {strategy.text}", strategy.source, "a KV cache that is not paged",
            engine.source("paged_kv_cache"), "in-flight batching needs an engine built with a paged KV cache",
        )  # fmt: skip
    for name in ("enable_chunked_context", "enable_kv_cache_reuse"):
        value = entry.get(LLM, name)
        if value and is_true(value.text) and engine.paged_context is False:
            raise conflict(
                f"{name} {value.text}", value.source, "use_paged_context_fmha disabled",
                engine.source("paged_context"), "build the engine with use_paged_context_fmha: enable",
            )  # fmt: skip
    cross, encoder = entry.get(LLM, "cross_kv_cache_fraction"), entry.get(LLM, "encoder_engine_dir")
    if cross and cross.given and not encoder:
        raise conflict(
            f"cross_kv_cache_fraction {cross.text}", cross.source, "a decoder-only engine", engine.directory,
            "leave it out, it is for encoder-decoder models with encoder_engine_dir only",
        )  # fmt: skip
    if engine.decoder_of_pair and not encoder and rel.key >= version_key("0.11.0"):
        raise FleetError(
            f"{engine.source('architecture')} is the decoder of an encoder-decoder model, but no "
            f"encoder_engine_dir is given; set {entry.request.label}.{LLM}.encoder_engine_dir."
        )
    nodes = entry.get(LLM, "num_nodes")
    if nodes and int(nodes.text) > engine.world_size:
        raise conflict(
            f"num_nodes {nodes.text}", nodes.source, f"world size {engine.world_size}", engine.source("world_size"),
            "an engine cannot span more nodes than it has ranks",
        )  # fmt: skip


def _check_ids(rel: Release, entry: Resolved) -> None:
    """One list of GPUs and of ranks, as long as the engine has ranks."""
    engine = entry.engine
    for name in ("gpu_device_ids", "participant_ids"):
        value = entry.get(LLM, name)
        if not value:
            continue
        lists = id_lists(value.text)
        for ids in lists:
            if engine and len(ids) != engine.world_size:
                raise conflict(
                    f"{name} {value.text}", value.source, f"world size {engine.world_size}",
                    engine.source("world_size"), f"give {engine.world_size} for each instance of the model",
                )  # fmt: skip
        if len(lists) > 1:
            raise FleetError(
                f"{name} is '{value.text}' (from {value.source}), for {len(lists)} instances, but the template of "
                f"{LLM} has one; give each instance an entry of its own."
            )


def _check_scheduling(rel: Release, entry: Resolved) -> None:
    """What this release's scheduler cannot do while it streams."""
    strategy = entry.get(LLM, "batching_strategy")
    if entry.streaming and strategy and strategy.text.lower() == "v1":
        raise conflict(
            f"batching_strategy {strategy.text}", strategy.source, "streaming true", "streaming",
            "V1 batching answers whole requests only; take inflight_fused_batching",
        )  # fmt: skip
    policy, chunked = entry.get(LLM, "batch_scheduler_policy"), entry.get(LLM, "enable_chunked_context")
    if (
        entry.streaming and policy and policy.text == "max_utilization" and rel.key < version_key("0.10.0")
        and not (chunked and is_true(chunked.text))
    ):  # fmt: skip
        raise conflict(
            f"batch_scheduler_policy {policy.text}", policy.source, "streaming true", "streaming",
            f"release {rel.version} then falls back to guaranteed_no_evict without a word, so say that"
            + (", or set enable_chunked_context" if rel.key >= version_key("0.8.0") else ""),
        )  # fmt: skip


def _check_decoding(rel: Release, entry: Resolved) -> None:
    """The decoding mode, and what it reads or needs."""
    beam, mode = entry.get(LLM, "max_beam_width"), entry.get(LLM, "decoding_mode")
    accumulate = entry.get(BLS, "accumulate_tokens")
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
        choices = entry.get(LLM, name)
        if choices and mode and mode.text != wanted:
            raise conflict(
                f"{name} {choices.text}", choices.source, f"decoding_mode {mode.text}", mode.source,
                f"the choices are read with decoding_mode {wanted} only",
            )  # fmt: skip
    sizes = [f"lookahead_{part}_size" for part in ("window", "ngram", "verification_set")]
    missing = [name for name in sizes if not entry.get(LLM, name)]
    known = parameters_of(LLM, rel.key)
    if mode and mode.text == "lookahead" and missing and missing[0] in known:
        raise FleetError(
            f"decoding_mode is lookahead (from {mode.source}), but {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not given; upstream has no default for them."
        )


def _check_guided(rel: Release, entry: Resolved) -> None:
    """Guided decoding reads the tokenizer its own way with each of Triton's backends."""
    guided = entry.get(LLM, "guided_decoding_backend")
    if not guided:
        return
    needed = "tokenizer_dir" if entry.backend == "python" else INFO_PATH
    if not entry.get(LLM, needed):
        where = f"{entry.request.label}.{LLM}"
        raise FleetError(
            f"guided_decoding_backend is {guided.text} (from {guided.source}), but {where}.{needed} is not given; with "
            f"triton_backend {entry.backend} guided decoding stays off without it."
        )


def _check_kv_cache(rel: Release, entry: Resolved) -> None:
    """The KV cache has to hold at least one sequence of full length, in every beam."""
    engine = entry.engine
    if engine is None or not engine.max_seq_len:
        return
    length = engine.max_seq_len
    window = entry.get(LLM, "max_attention_window_size")
    if window:
        length = min(length, max(int(part) for part in window.text.split(",")))
    block = engine.tokens_per_block or 1
    beam = entry.text(LLM, "max_beam_width") or "1"
    needed = int(beam) * -(-length // block) * block
    budget = entry.get(LLM, "max_tokens_in_paged_kv_cache")
    if budget and int(budget.text) < needed:
        raise conflict(
            f"max_tokens_in_paged_kv_cache {budget.text}", budget.source,
            f"one sequence of {needed} tokens ({length} tokens in blocks of {block}, beam width {beam})",
            engine.source("max_seq_len"),
            "give room for at least one sequence, or lower the engine's max_seq_len",
        )  # fmt: skip
    _check_gpu_memory(entry, engine, needed)


def _check_gpu_memory(entry: Resolved, engine: Engine, needed: int) -> None:
    """*needed* tokens of KV cache fit on the smallest GPU beside its part of the engine."""
    memory = entry.request.gpu_memory_mib
    if memory is None or not engine.kv_bytes:
        return
    share = entry.get(LLM, "kv_cache_free_gpu_mem_fraction")
    fraction = float(share.text) if share else 0.9
    room = int(max(0, memory * MIB - engine.shard_bytes) * fraction // engine.kv_bytes)
    if room < needed:
        raise FleetError(
            f"A GPU of {memory} MiB holds {room} tokens of KV cache beside the engine's "
            f"{engine.shard_bytes // MIB} MiB with kv_cache_free_gpu_mem_fraction {fraction:g} "
            f"(from {share.source if share else 'the default'}), but one sequence takes {needed} "
            f"({engine.source('max_seq_len')}); use more GPUs, a smaller type, or a shorter max_seq_len."
        )


def _check_tokenizer(entry: Resolved, tokenizer: Tokenizer | None) -> None:
    """A tokenizer whose ids the engine does not know belongs to another model."""
    engine = entry.engine
    if engine is None or tokenizer is None or not engine.vocab_size:
        return
    for number, source in ((tokenizer.end_id, tokenizer.end_source), (tokenizer.pad_id, tokenizer.pad_source)):
        if number is not None and number >= engine.vocab_size:
            raise conflict(
                f"token id {number}", f"{tokenizer.directory}/{source}", f"a vocabulary of {engine.vocab_size}",
                engine.source("vocab_size"), "the tokenizer and the engine are of different models",
            )  # fmt: skip
