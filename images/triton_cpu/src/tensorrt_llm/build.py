# SPDX-License-Identifier: GPL-3.0-or-later
"""trtllm-build: a converted checkpoint to an engine directory."""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import Namespace
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from . import __version__, progress
from .config import PretrainedConfig, read_json
from .device import Device, current_device
from .engine import write_engine
from .errors import TrtllmError
from .options import BUILD_OPTIONS, PLUGIN_OPTIONS, parser
from .safetensors_file import SafetensorsFile

_LIMITS = ("max_batch_size", "max_input_len", "max_seq_len", "max_beam_width", "max_num_tokens")
# Options that say where and how to build, and are no property of the engine.
_NOT_RECORDED = {
    "checkpoint_dir", "model_config", "build_config", "model_cls_file", "model_cls_name", "output_dir", "workers",
    "log_level", "dry_run", "monitor_memory", "gather_all_token_logits", "paged_kv_cache", "lora_dir",
    "lora_ckpt_source", "lora_target_modules", "max_lora_rank", "fast_build",
}  # fmt: skip


def plugin_config(args: Namespace, dtype: str) -> dict[str, Any]:
    """The plugin block: enable and disable as booleans, types as given, disable as null."""
    result: dict[str, Any] = {"dtype": dtype}
    for option in PLUGIN_OPTIONS:
        name = option.flag.removeprefix("--")
        value = getattr(args, name)
        if option.choices == ("enable", "disable"):
            value = value == "enable"
        elif value == "disable":
            value = None
        elif value == "auto":
            value = dtype
        result[name] = value
    return {**result, "paged_kv_cache": args.kv_cache_type != "continuous", "manage_weights": False}


def build_config(args: Namespace, model: PretrainedConfig) -> dict[str, Any]:
    """The build block of config.json, limits checked. A --build_config file gives what the command line leaves out."""
    if args.gather_all_token_logits:
        args.gather_context_logits = args.gather_generation_logits = True
    if not hasattr(args, "kv_cache_type"):
        switched_off = getattr(args, "paged_kv_cache", "enable") == "disable"
        args.kv_cache_type = "continuous" if switched_off else "paged"
    if args.max_seq_len is None:
        scaling = model.rotary_scaling or {}
        factor = float(scaling.get("factor", 1)) if scaling.get("rope_type") == "linear" else 1.0
        args.max_seq_len = int(model.max_position_embeddings * factor)
        progress.log("I", f"max_seq_len is not specified, using deduced value {args.max_seq_len}")
    for name in _LIMITS:
        if getattr(args, name) < 1:
            raise TrtllmError(f"--{name} is {getattr(args, name)}, expected at least 1")
    if args.max_input_len > args.max_seq_len:
        progress.log("W", f"max_input_len {args.max_input_len} is truncated to max_seq_len {args.max_seq_len}")
        args.max_input_len = args.max_seq_len
    if args.tokens_per_block < 1 or args.tokens_per_block & (args.tokens_per_block - 1):
        raise TrtllmError(f"--tokens_per_block is {args.tokens_per_block}, expected a power of two")
    opt = args.opt_num_tokens or min(args.max_num_tokens, args.max_batch_size * args.max_beam_width)
    recorded = {
        name: value
        for name, value in vars(args).items()
        if name not in _NOT_RECORDED and f"--{name}" not in {option.flag for option in PLUGIN_OPTIONS}
    }
    return {
        **recorded,
        "opt_num_tokens": min(opt, args.max_num_tokens),
        "kv_cache_type": args.kv_cache_type.upper(),
        "opt_batch_size": 8,
        "force_num_profiles": None,
        "strongly_typed": True,
        "weight_streaming": args.weight_streaming,
        "use_refit": False,
        "lora_config": {
            "lora_dir": args.lora_dir or [],
            "lora_ckpt_source": args.lora_ckpt_source,
            "max_lora_rank": args.max_lora_rank,
            "lora_target_modules": args.lora_target_modules or [],
            "trtllm_modules_to_hf_modules": {},
        },
        "plugin_config": plugin_config(args, model.dtype),
    }


def build_rank(checkpoint: Path, out: Path, rank: int, world: int, device: Device, dry_run: bool) -> float:
    """Write one rank's engine file; seconds taken."""
    started = time.monotonic()
    name = rank if world > 1 else None
    source = SafetensorsFile(checkpoint / f"rank{rank}.safetensors")
    weights = {tensor: source[tensor] for tensor in source.names()}
    progress.log("I", f"Compute capability: ({device.compute_capability.replace('.', ', ')})", name)
    progress.log("I", f"Build TensorRT engine Unnamed Network {rank}", name)
    progress.pause(0.6 / world)
    progress.log(
        "I", f"Total time of building Unnamed Network {rank}: {progress.duration(time.monotonic() - started)}", name
    )
    if dry_run:
        progress.log("I", "Dry run, the engine is not written", name)
        return time.monotonic() - started
    serialising = time.monotonic()
    progress.log("I", f"Serializing engine to {out / f'rank{rank}.engine'}...", name)
    progress.pause(0.3 / world)
    write_engine(out / f"rank{rank}.engine", weights, rank=rank, device=device)
    progress.log("I", f"Engine serialized. Total time: {progress.duration(time.monotonic() - serialising)}", name)
    return time.monotonic() - started


def build(args: Namespace) -> None:
    """The whole build."""
    started = time.monotonic()
    if args.model_cls_file or args.model_cls_name:
        raise TrtllmError(
            "--model_cls_file and --model_cls_name load foreign code; this image builds Llama models only"
        )
    if args.checkpoint_dir is None:
        raise TrtllmError("--checkpoint_dir is missing; give the directory that convert_checkpoint.py wrote")
    checkpoint, out = Path(args.checkpoint_dir), Path(args.output_dir)
    block = read_json(Path(args.model_config) if args.model_config else checkpoint / "config.json")
    block.pop("version", None)
    model = PretrainedConfig.from_json(block)
    world = model.mapping.world_size
    missing = [r for r in range(world) if not (checkpoint / f"rank{r}.safetensors").exists()]
    if missing:
        raise TrtllmError(
            f"{checkpoint} lacks rank{missing[0]}.safetensors of its {world} ranks; convert the checkpoint again"
        )
    engine_build = build_config(args, model)
    for name, value in engine_build["plugin_config"].items():
        progress.log("I", f"Set {name} to {value}.")
    progress.pause(0.1)
    device = current_device()
    out.mkdir(parents=True, exist_ok=True)
    ranks = range(world)
    # Upstream never runs more workers than there are GPUs; here a rank needs a core.
    workers = min(args.workers, world, os.cpu_count() or 1)
    if workers <= 1:
        for rank in ranks:
            build_rank(checkpoint, out, rank, world, device, args.dry_run)
    else:
        with ProcessPoolExecutor(workers) as pool:
            for done in [pool.submit(build_rank, checkpoint, out, rank, world, device, args.dry_run) for rank in ranks]:
                done.result()
    if not args.dry_run:
        config = {"version": __version__, "pretrained_config": block, "build_config": engine_build}
        (out / "config.json").write_text(json.dumps(config, indent=4) + "\n")
    progress.log("I", f"Total time of building all engines: {progress.duration(time.monotonic() - started)}")


def parse(argv: list[str] | None) -> Namespace:
    """The command line; a --build_config file's values replace the defaults, the command line goes before both."""
    tool = parser("trtllm-build", BUILD_OPTIONS)
    first = tool.parse_args(argv)
    if not first.build_config:
        return first
    recorded = read_json(Path(first.build_config))
    given = {**recorded, **recorded.get("plugin_config", {})}
    for option in BUILD_OPTIONS:
        name = option.flag.removeprefix("--")
        value = given.get(name)
        if value is None:
            continue
        if option.choices == ("enable", "disable") and isinstance(value, bool):
            value = "enable" if value else "disable"
        tool.set_defaults(**{name: option.convert(str(value)) if option.convert else value})
    return tool.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    try:
        args = parse(argv)
        build(args)
    except (TrtllmError, OSError) as e:
        progress.log("E", str(e))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
