# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be said against the options of an engine without a release, a host or a checkpoint.

The plan on the controller and the module on the host ask the same `check_options`, so that what one refuses the
other refuses as well, and in the same words. What depends on the release is in ``_release_rules``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional, Union

from .._base.errors import FleetError, nearest
from .options import ENGINE_OPTIONS, world_size

Number = Union[int, float]
Bounds = tuple[Number, Number, Optional[Number]]

# option | lowest | highest | allowed besides. Beyond it is a slip of the keyboard: no model, GPU or release is near.
_BOUNDS = """
tp_size                         |  1 | 64         |
pp_size                         |  1 | 64         |
cp_size                         |  1 | 64         |
moe_tp_size                     |  1 | 64         | -1
moe_ep_size                     |  1 | 64         | -1
workers                         |  1 | 64         |
smoothquant                     |  0 | 1          |
group_size                      |  1 | 65536      |
awq_block_size                  |  1 | 65536      |
auto_quantize_bits              |  4 | 16         |
calib_size                      |  1 | 1000000    |
calib_batch_size                |  1 | 65536      |
calib_max_seq_length            |  1 | 16777216   |
random_seed                     |  0 | 4294967295 |
max_batch_size                  |  1 | 65536      |
max_input_len                   |  1 | 16777216   |
max_seq_len                     |  1 | 16777216   |
max_output_len                  |  1 | 16777216   |
max_beam_width                  |  1 | 1024       |
max_num_tokens                  |  1 | 16777216   |
opt_num_tokens                  |  1 | 16777216   |
max_encoder_input_len           |  1 | 16777216   |
max_prompt_embedding_table_size |  0 | 16777216   |
tokens_per_block                |  1 | 4096       |
builder_force_num_profiles      |  1 | 64         |
builder_opt                     |  0 | 5          |
max_draft_len                   |  0 | 65536      |
max_lora_rank                   |  1 | 65536      |
"""
# The same for the module's own numbers, in seconds.
_SETTINGS = """
timeout | 0 | 31536000 |
poll    | 1 | 86400    |
"""
# Ranks of one engine, over all kinds of parallelism.
MAX_RANKS = 1024

# option -> what it has no effect without, by the tools' own word.
NEEDS: dict[str, str] = {
    "weight_only_precision": "use_weight_only",
    "disable_weight_only_quant_plugin": "use_weight_only",
    "per_channel": "smoothquant",
    "per_token": "smoothquant",
    "use_meta_fp8_rowwise_recipe": "use_fp8_rowwise",
    "auto_quantize_bits": "autoq_format",
    "embedding_sharding_dim": "use_parallel_embedding",
    "lora_dir": "lora_plugin",
    "lora_ckpt_source": "lora_plugin",
    "lora_target_modules": "lora_plugin",
    "max_lora_rank": "lora_plugin",
}
# Two names for one thing: (the one to give, the other).
_EITHER = (("max_seq_len", "max_output_len"), ("kv_cache_type", "paged_kv_cache"))


def _table(text: str) -> dict[str, Bounds]:
    rows: dict[str, Bounds] = {}
    for line in text.strip().splitlines():
        name, lowest, highest, besides = (cell.strip() for cell in line.split("|"))
        rows[name] = (int(lowest), int(highest), int(besides) if besides else None)
    return rows


BOUNDS, SETTINGS = _table(_BOUNDS), _table(_SETTINGS)


def _check_number(name: str, value: Number, bounds: Bounds) -> None:
    lowest, highest, besides = bounds
    if not lowest <= value <= highest and value != besides:  # so written, NaN is refused as well
        instead = f", or {besides} to let the tool choose" if besides is not None else ""
        raise FleetError(f"{name} is {value}; give a number from {lowest} to {highest:,}{instead}.")


def check_settings(**settings: Number) -> None:
    """Raise `FleetError` for a number of the module itself that is out of bounds."""
    for name, value in settings.items():
        _check_number(name, value, SETTINGS[name])


def is_set(value: Any) -> bool:
    """Whether an option with *value* asks for something: not absent, off, empty or ``disable``. A 0.0 asks."""
    return value not in (None, False, "", [], "disable") or isinstance(value, float)


def check_options(options: Mapping[str, Any]) -> None:
    """Raise `FleetError` for an unknown option, a number out of bounds, or options that contradict each other."""
    for name in options:
        if name not in ENGINE_OPTIONS:
            raise FleetError(f"{name} is not an option of an engine{nearest(name, ENGINE_OPTIONS) or '.'}")
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if name in BOUNDS:
            _check_number(name, value, BOUNDS[name])
    for better, other in _EITHER:
        if better in given and other in given:
            raise FleetError(f"{better} and {other} are both given; give {better}.")
    for name, needed in NEEDS.items():
        if is_set(given.get(name)) and not is_set(given.get(needed)):
            raise FleetError(f"{name} has no effect without {needed}; give {needed} too, or leave {name} out.")
    _check_lengths(given)
    _check_parallelism(given)


def _check_lengths(given: Mapping[str, Any]) -> None:
    total, prompt = given.get("max_seq_len"), given.get("max_input_len")
    if total is not None and prompt is not None and total < prompt:
        raise FleetError(
            f"max_seq_len is {total} but max_input_len is {prompt}; max_seq_len counts prompt and output together, so "
            "raise it or lower max_input_len."
        )


def _check_parallelism(given: Mapping[str, Any]) -> None:
    ranks = world_size(given)
    if ranks > MAX_RANKS:
        raise FleetError(f"tp_size * pp_size * cp_size is {ranks:,}; give at most {MAX_RANKS:,} ranks.")
    tp_size = given.get("tp_size", 1)
    moe_tp, moe_ep = given.get("moe_tp_size", -1), given.get("moe_ep_size", -1)
    if (moe_tp > 0 and moe_ep > 0 and moe_tp * moe_ep != tp_size) or any(
        size > 0 and tp_size % size for size in (moe_tp, moe_ep)
    ):
        raise FleetError(
            f"moe_tp_size * moe_ep_size must be tp_size, but moe_tp_size is {moe_tp}, moe_ep_size is {moe_ep} "
            f"and tp_size is {tp_size} (-1: not given)."
        )
