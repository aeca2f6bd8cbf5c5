# SPDX-License-Identifier: GPL-3.0-or-later
"""From an engine directory to one rank's part of the model, ready to run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .communicator import Communicator
from .config import PretrainedConfig
from .device import free_memory_bytes
from .engine import EngineConfig, read_engine, read_engine_config
from .errors import TrtllmError
from .executor import Limits
from .kv_cache import BlockAllocator
from .llama import Llama
from .parameters import Parameters


def memory_blocks(config: PretrainedConfig, engine: EngineConfig, parameters: Parameters) -> tuple[int, int]:
    """Cache blocks and tokens per block: as much of the free memory as allowed, no more than could ever be used."""
    per_block = int(engine.build["plugin_config"].get("tokens_per_block") or 32)
    layers = len(config.mapping.layers(config.num_hidden_layers))
    token_bytes = 2 * layers * config.kv_heads_after_split * config.head_size * 4
    longest = -(-engine.limit("max_seq_len") // per_block)
    blocks = min(
        int(parameters.kv_cache_free_fraction * free_memory_bytes()) // (token_bytes * per_block),
        longest * engine.limit("max_batch_size"),
    )
    if parameters.max_tokens_in_cache is not None:
        blocks = min(blocks, parameters.max_tokens_in_cache // per_block)
    if blocks < longest:
        raise TrtllmError(
            f"Assertion failed: maxTokensInPagedKvCache ({blocks * per_block}) must be large enough to process at least"
            f" 1 sequence to completion (i.e. must be larger than beam_width (1) * tokensPerBlock ({per_block}) *"
            f" maxBlocksPerSeq ({longest})); raise kv_cache_free_gpu_mem_fraction or max_tokens_in_paged_kv_cache"
        )
    return blocks, per_block


def load_model(
    parameters: Parameters, comm: Communicator, warn: Callable[[str], None]
) -> tuple[Llama, Limits, BlockAllocator]:
    """This rank's part of the engine, ready to run."""
    directory = Path(parameters.engine_dir)
    engine = read_engine_config(directory)
    config = engine.model(comm.rank)
    weights, warning = read_engine(directory / f"rank{comm.rank}.engine")
    if warning:
        warn(warning)
    blocks, per_block = memory_blocks(config, engine, parameters)
    limits = Limits(
        max_batch_size=engine.limit("max_batch_size"),
        max_input_len=engine.limit("max_input_len"),
        max_seq_len=engine.limit("max_seq_len"),
        max_num_tokens=engine.limit("max_num_tokens"),
        vocab_size=config.vocab_size,
        gather_context_logits=bool(engine.build["gather_context_logits"]),
        gather_generation_logits=bool(engine.build["gather_generation_logits"]),
        policy=parameters.policy,
        chunked_context=parameters.chunked_context,
        inflight=parameters.inflight,
        cancellation_check_seconds=parameters.cancellation_check_ms / 1000,
    )
    return Llama(config, weights, comm, blocks, per_block), limits, BlockAllocator(blocks, per_block)
