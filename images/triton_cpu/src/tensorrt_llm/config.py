# SPDX-License-Identifier: GPL-3.0-or-later
"""A model's description: read from Hugging Face's config.json, written in the shape of upstream's."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

from .errors import TrtllmError
from .mapping import Mapping

# Hugging Face architecture -> what TensorRT-LLM calls it. All are the Llama graph; Qwen2 adds a bias to q, k, v.
ARCHITECTURES = {
    "LlamaForCausalLM": "LlamaForCausalLM",
    "MistralForCausalLM": "MistralForCausalLM",
    "Qwen2ForCausalLM": "QWenForCausalLM",
}
ROPE_TYPES = ("default", "linear", "llama3")


@dataclass
class PretrainedConfig:
    """Dimensions and numerics of one model. Sizes are counts of elements, head_size in elements per head."""

    architecture: str
    dtype: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    max_position_embeddings: int
    head_size: int
    norm_epsilon: float = 1e-5
    hidden_act: str = "silu"
    rotary_base: float = 10000.0
    rotary_scaling: dict[str, Any] | None = None
    attn_bias: bool = False
    mlp_bias: bool = False
    sliding_window: int | None = None
    tie_word_embeddings: bool = False
    mapping: Mapping = field(default_factory=Mapping)
    quant_algo: str | None = None
    kv_cache_quant_algo: str | None = None
    use_parallel_embedding: bool = False
    embedding_sharding_dim: int = 0
    # What upstream records besides, and nothing here computes with.
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise TrtllmError(
                f"{self.num_attention_heads} attention heads cannot share {self.num_key_value_heads} key-value heads"
            )
        if self.hidden_act not in ("silu", "swish"):
            raise TrtllmError(f"activation {self.hidden_act!r} is not implemented here; silu is")

    @property
    def kv_heads_after_split(self) -> int:
        """Key-value heads of one rank: each rank holds at least one, repeated where ranks outnumber heads."""
        return max(1, self.num_key_value_heads // self.mapping.tp_size)

    def check_split(self) -> None:
        """Raise where the dimensions do not divide over the ranks."""
        tp = self.mapping.tp_size
        for what, count in (
            ("attention heads", self.num_attention_heads),
            ("columns of the MLP", self.intermediate_size),
        ):
            if count % tp:
                raise TrtllmError(f"{count} {what} cannot be split over tp_size {tp}; choose a divisor of {count}")
        heads = self.num_key_value_heads
        if heads % tp and tp % heads:
            raise TrtllmError(f"{heads} key-value heads can be neither split over nor repeated for tp_size {tp}")
        self.mapping.layers(self.num_hidden_layers)

    def to_json(self) -> dict[str, Any]:
        """config.json of a converted checkpoint, and `pretrained_config` of an engine."""
        return {
            "architecture": self.architecture,
            "dtype": self.dtype,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "hidden_act": self.hidden_act,
            "logits_dtype": "float32",
            "norm_epsilon": self.norm_epsilon,
            "position_embedding_type": "rope_gpt_neox",
            "num_key_value_heads": self.num_key_value_heads,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "mapping": self.mapping.as_config(),
            "quantization": {
                "quant_algo": self.quant_algo,
                "kv_cache_quant_algo": self.kv_cache_quant_algo,
                "group_size": 128,
                "smoothquant_val": 0.5,
                "clamp_val": None,
                "has_zero_point": False,
                "pre_quant_scale": False,
                "exclude_modules": None,
            },
            "use_parallel_embedding": self.use_parallel_embedding,
            "embedding_sharding_dim": self.embedding_sharding_dim,
            "head_size": self.head_size,
            "qk_layernorm": False,
            "attn_bias": self.attn_bias,
            "mlp_bias": self.mlp_bias,
            "rotary_base": self.rotary_base,
            "rotary_scaling": self.rotary_scaling,
            "sliding_window": self.sliding_window,
            "tie_word_embeddings": self.tie_word_embeddings,
            **self.extra,
        }

    @staticmethod
    def from_json(block: dict[str, Any], rank: int = 0) -> PretrainedConfig:
        """The inverse of `to_json`, seen from `rank`."""
        try:
            known = {name: block[name] for name in _SAME_NAME}
            quantization = block["quantization"]
            return PretrainedConfig(
                **known,
                mapping=Mapping.from_config(block["mapping"], rank),
                quant_algo=quantization["quant_algo"],
                kv_cache_quant_algo=quantization["kv_cache_quant_algo"],
            )
        except KeyError as e:
            raise TrtllmError(f"config.json lacks {e}; convert the checkpoint with this release's script") from e


_SAME_NAME = (
    "architecture", "dtype", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "intermediate_size", "max_position_embeddings", "head_size", "norm_epsilon",
    "hidden_act", "rotary_base", "rotary_scaling", "attn_bias", "mlp_bias", "sliding_window",
    "tie_word_embeddings", "use_parallel_embedding", "embedding_sharding_dim",
)  # fmt: skip


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, with errors that name the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrtllmError(f"{path} does not exist") from None
    except (OSError, ValueError) as e:
        raise TrtllmError(f"{path} cannot be read as JSON: {e}") from e
    if not isinstance(value, dict):
        raise TrtllmError(f"{path} holds a JSON {type(value).__name__}, an object was expected")
    return value


def from_hugging_face(directory: Union[str, Path], dtype: str = "auto") -> PretrainedConfig:
    """The model of a Hugging Face directory. `dtype` auto is the checkpoint's own, float32 becoming float16."""
    path = Path(directory) / "config.json"
    hf = read_json(path)
    names = hf.get("architectures") or ["LlamaForCausalLM"]
    if names[0] not in ARCHITECTURES:
        raise TrtllmError(f"{path}: architecture {names[0]} is not implemented here; {', '.join(ARCHITECTURES)} are")
    try:
        heads = int(hf["num_attention_heads"])
        hidden = int(hf["hidden_size"])
        return PretrainedConfig(
            architecture=ARCHITECTURES[names[0]],
            dtype=_dtype(hf, dtype),
            vocab_size=int(hf["vocab_size"]),
            hidden_size=hidden,
            num_hidden_layers=int(hf["num_hidden_layers"]),
            num_attention_heads=heads,
            num_key_value_heads=int(hf.get("num_key_value_heads") or heads),
            intermediate_size=int(hf["intermediate_size"]),
            max_position_embeddings=int(hf.get("max_position_embeddings", 2048)),
            head_size=int(hf.get("head_dim") or hidden // heads),
            norm_epsilon=float(hf.get("rms_norm_eps", 1e-6)),
            hidden_act=str(hf.get("hidden_act", "silu")),
            rotary_base=_rope(hf)[0],
            rotary_scaling=_rope(hf)[1],
            attn_bias=names[0] == "Qwen2ForCausalLM" or bool(hf.get("attention_bias", False)),
            mlp_bias=bool(hf.get("mlp_bias", False)),
            sliding_window=_sliding_window(hf),
            tie_word_embeddings=bool(hf.get("tie_word_embeddings", False)),
        )
    except KeyError as e:
        raise TrtllmError(f"{path} lacks {e}; it is not the configuration of a Llama model") from e


def _dtype(hf: dict[str, Any], wanted: str) -> str:
    if wanted != "auto":
        return wanted
    own = str(hf.get("dtype") or hf.get("torch_dtype") or "float16")
    return "float16" if own == "float32" else own


def _sliding_window(hf: dict[str, Any]) -> int | None:
    """Positions that a token sees, where the checkpoint limits them (Mistral v0.1; Qwen2 has a switch)."""
    if not hf.get("use_sliding_window", True) or not hf.get("sliding_window"):
        return None
    return int(hf["sliding_window"])


def _rope(hf: dict[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """Base and scaling, from `rope_theta`/`rope_scaling` or, since transformers 5, `rope_parameters`."""
    parameters = dict(hf.get("rope_parameters") or {})
    base = float(parameters.pop("rope_theta", hf.get("rope_theta", 10000.0)))
    scaling = parameters or dict(hf.get("rope_scaling") or {})
    kind = str(scaling.get("rope_type") or scaling.get("type") or "default")
    if kind not in ROPE_TYPES:
        raise TrtllmError(f"rope scaling {kind!r} is not implemented here; {', '.join(ROPE_TYPES)} are")
    return base, None if kind == "default" else {**scaling, "rope_type": kind}
