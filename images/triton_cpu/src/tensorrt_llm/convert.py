# SPDX-License-Identifier: GPL-3.0-or-later
"""convert_checkpoint.py: a Hugging Face directory to one weight file per rank and a config.json."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from . import __version__, progress
from .checkpoint import HuggingFaceWeights, rank_weights
from .config import PretrainedConfig, from_hugging_face
from .errors import TrtllmError
from .mapping import Mapping
from .options import CONVERT_OPTIONS, parser
from .quantization import ALGORITHMS, quantise
from .safetensors_file import write

# Options that ask for a computation which needs a GPU, other tools or other files.
_REFUSED = {
    "smoothquant": "SmoothQuant", "use_qserve": "QServe", "use_fp8": "FP8", "use_nvfp4": "NVFP4",
    "use_fp8_rowwise": "FP8 row-wise", "use_meta_fp8_rowwise_recipe": "FP8 row-wise",
    "quant_ckpt_path": "a quantised checkpoint", "meta_ckpt_dir": "Meta's own checkpoint format",
}  # fmt: skip


def model_config(args: Namespace) -> PretrainedConfig:
    """The converted checkpoint's config. Raises for options that cannot be honoured here."""
    for name, what in _REFUSED.items():
        if getattr(args, name, None):
            raise TrtllmError(
                f"--{name} was given; {what} is not implemented in this image, weight-only int8 and int4 are"
            )
    if args.model_dir is None:
        raise TrtllmError("--model_dir is missing; give the directory of a Hugging Face checkpoint")
    if args.cp_size != 1:
        raise TrtllmError(f"--cp_size is {args.cp_size}; context parallelism is not implemented in this image")
    if getattr(args, "moe_num_experts", 0):
        raise TrtllmError("--moe_num_experts was given; mixtures of experts are not implemented in this image")
    for name in ("tp_size", "pp_size", "workers"):
        if getattr(args, name) < 1:
            raise TrtllmError(f"--{name} is {getattr(args, name)}, expected at least 1")
    config = from_hugging_face(args.model_dir, args.dtype)
    config.mapping = Mapping(0, args.tp_size, args.pp_size)
    config.use_parallel_embedding = args.use_parallel_embedding
    config.embedding_sharding_dim = args.embedding_sharding_dim
    if args.use_weight_only:
        if args.weight_only_precision not in ALGORITHMS:
            raise TrtllmError(
                f"--weight_only_precision {args.weight_only_precision} is not implemented here, int8 and int4 are"
            )
        config.quant_algo = ALGORITHMS[args.weight_only_precision]
    config.kv_cache_quant_algo = (
        "INT8" if args.int8_kv_cache else "FP8" if getattr(args, "fp8_kv_cache", False) else None
    )
    # Recorded as upstream records them; none changes the result on a CPU.
    config.extra = {
        "disable_weight_only_quant_plugin": args.disable_weight_only_quant_plugin,
        "remove_duplicated_kv_heads": getattr(args, "remove_duplicated_kv_heads", False),
        "moe": {"num_experts": 0, "top_k": 0, "normalization_mode": getattr(args, "moe_renorm_mode", 1)},
    }
    config.check_split()
    return config


def convert_rank(config: PretrainedConfig, model_dir: str, out: Path, rank: int) -> None:
    """Write rank<rank>.safetensors."""
    own = replace(config, mapping=replace(config.mapping, rank=rank))
    weights = rank_weights(own, HuggingFaceWeights(model_dir))
    if config.quant_algo:
        weights = quantise(weights, config.quant_algo)
    progress.pause(0.9 / config.mapping.world_size)
    write(out / f"rank{rank}.safetensors", weights)
    progress.log(
        "I", f"rank{rank}.safetensors: {len(weights)} tensors, {sum(t.data.nbytes for t in weights.values())} bytes"
    )


def convert(args: Namespace) -> None:
    """The whole conversion."""
    started = time.monotonic()
    config = model_config(args)
    out = Path(args.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    progress.log(
        "I", f"{config.architecture} in {config.dtype}, {config.mapping.world_size} ranks, from {args.model_dir}"
    )
    progress.pause(0.1)
    if not getattr(args, "save_config_only", False):
        ranks = range(config.mapping.world_size)
        if args.workers == 1 or len(ranks) == 1:
            for rank in ranks:
                convert_rank(config, args.model_dir, out, rank)
        else:
            with ProcessPoolExecutor(min(args.workers, len(ranks))) as pool:
                for done in [pool.submit(convert_rank, config, args.model_dir, out, rank) for rank in ranks]:
                    done.result()
    # Last, so that a config.json means that all ranks are there.
    (out / "config.json").write_text(json.dumps({"version": __version__, **config.to_json()}, indent=4) + "\n")
    print(f"Total time of converting checkpoints: {progress.duration(time.monotonic() - started)}", flush=True)


def main(family: str, argv: list[str] | None = None) -> int:
    """The command line of one example directory's convert_checkpoint.py. Returns the exit status."""
    required = ("--model_dir",) if family == "qwen" else ()
    args = parser("convert_checkpoint.py", CONVERT_OPTIONS[family], required).parse_args(argv)
    print(__version__, flush=True)
    try:
        convert(args)
    except (TrtllmError, OSError) as e:
        progress.log("E", str(e))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main("llama"))
