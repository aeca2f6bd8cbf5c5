#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Golden logits of small random Llama-family models, computed by transformers and torch.

    python -m venv golden && golden/bin/pip install torch transformers numpy
    golden/bin/python tools/golden_llama.py tests/data/golden_llama.npz

The models are a recipe (configuration and seed of a frozen generator), so the file holds only the tokens and the
values. Tests import the recipe from here and need neither torch nor transformers.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

_BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 97,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False, "torch_dtype": "float32",
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip

# Name -> what differs from the base, and the seed.
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "gqa": ({}, 11),
    "llama3_rope_tied": (
        {"rope_theta": 500000.0, "rope_scaling": _LLAMA3_ROPE, "tie_word_embeddings": True, "num_key_value_heads": 1},
        12,
    ),
    "biases_linear_rope": (
        {"attention_bias": True, "mlp_bias": True, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}, 13
    ),
    "qwen2": (
        {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "num_key_value_heads": 4, "rope_theta": 1e6}, 14
    ),
    "mistral_window": (
        {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 6, "head_dim": 16}, 15
    ),
}  # fmt: skip
PROMPT_TOKENS = 20
NEW_TOKENS = 12


def config_of(case: str) -> dict[str, Any]:
    """config.json of a case, as a checkpoint of that architecture carries it."""
    return {**_BASE, **CASES[case][0]}


def weights_of(case: str) -> dict[str, Array]:
    """The tensors of a case under Hugging Face's names, drawn in a fixed order from a frozen generator."""
    config, random = config_of(case), np.random.RandomState(CASES[case][1])
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    head = config.get("head_dim", hidden // heads)

    def draw(*shape: int, scale: float = 0.25) -> Array:
        drawn: Array = (random.standard_normal(shape) * scale).astype(np.float32)
        return drawn

    def norm() -> Array:
        drawn: Array = (1.0 + random.standard_normal(hidden) * 0.1).astype(np.float32)
        return drawn

    tensors = {"model.embed_tokens.weight": draw(config["vocab_size"], hidden, scale=1.0)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        tensors[f"{prefix}.input_layernorm.weight"] = norm()
        for name, rows, columns in (
            ("q_proj", heads * head, hidden), ("k_proj", kv * head, hidden), ("v_proj", kv * head, hidden),
            ("o_proj", hidden, heads * head),
        ):  # fmt: skip
            tensors[f"{prefix}.self_attn.{name}.weight"] = draw(rows, columns)
            if config["attention_bias"] or (config["model_type"] == "qwen2" and name != "o_proj"):
                tensors[f"{prefix}.self_attn.{name}.bias"] = draw(rows)
        tensors[f"{prefix}.post_attention_layernorm.weight"] = norm()
        for name, rows, columns in (
            ("gate_proj", inner, hidden), ("up_proj", inner, hidden), ("down_proj", hidden, inner)
        ):  # fmt: skip
            tensors[f"{prefix}.mlp.{name}.weight"] = draw(rows, columns)
            if config["mlp_bias"]:
                tensors[f"{prefix}.mlp.{name}.bias"] = draw(rows)
    tensors["model.norm.weight"] = norm()
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = draw(config["vocab_size"], hidden)
    return tensors


def prompt_of(case: str) -> list[int]:
    """The tokens that a case is asked to go on from."""
    random = np.random.RandomState(CASES[case][1] + 1000)
    return [int(token) for token in random.randint(3, config_of(case)["vocab_size"], PROMPT_TOKENS)]


def _golden(case: str) -> tuple[Array, list[int]]:
    """Logits of every position of the prompt and its greedy continuation, and that continuation."""
    import torch
    import transformers

    config = dict(config_of(case))
    name = config.pop("architectures")[0]
    config["attn_implementation"] = "eager"
    model_class = getattr(transformers, name)
    model = model_class(model_class.config_class(**config)).eval().to(torch.float32)
    state = {key: torch.from_numpy(value) for key, value in weights_of(case).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = {"lm_head.weight"} if config["tie_word_embeddings"] else set()
    assert set(missing) <= tied and not unexpected, (case, missing, unexpected)
    model.tie_weights()
    tokens = prompt_of(case)
    with torch.no_grad():
        for _ in range(NEW_TOKENS):
            logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
            tokens = [*tokens, int(logits[-1].argmax())]
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
    return logits.numpy().astype(np.float32), tokens[PROMPT_TOKENS:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the .npz file to write")
    out = parser.parse_args().out
    arrays: dict[str, Any] = {}
    for case in CASES:
        logits, continuation = _golden(case)
        arrays[f"{case}.logits"], arrays[f"{case}.continuation"] = logits, np.asarray(continuation, np.int32)
        print(f"{case}: {logits.shape}, largest {np.abs(logits).max():.2f}, continues {continuation}")
    np.savez_compressed(out, **arrays)


if __name__ == "__main__":
    main()
