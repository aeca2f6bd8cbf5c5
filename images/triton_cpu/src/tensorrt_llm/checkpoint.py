# SPDX-License-Identifier: GPL-3.0-or-later
"""From a Hugging Face directory to one rank's weights under TensorRT-LLM's names.

Column-parallel layers (qkv, gate, up, and the vocabulary of lm_head) are split along their outputs,
row-parallel layers (attention's dense, the MLP's proj) along their inputs, so that one sum over ranks
after each of the two restores the full activation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Union

import numpy as np

from .config import PretrainedConfig, read_json
from .errors import TrtllmError
from .safetensors_file import SafetensorsFile, Tensor

Weights = dict[str, Tensor]


class HuggingFaceWeights:
    """All tensors of a directory, of one file or of the shards that its index names."""

    def __init__(self, directory: Union[str, Path]) -> None:
        self.directory = Path(directory)
        index = self.directory / "model.safetensors.index.json"
        if index.exists():
            where = read_json(index).get("weight_map", {})
            missing = sorted(name for name in set(where.values()) if not (self.directory / name).exists())
            if missing:
                raise TrtllmError(f"{index} names {missing[0]}, which is missing; download the checkpoint again")
            files = sorted(set(where.values()))
        elif (self.directory / "model.safetensors").exists():
            files = ["model.safetensors"]
        else:
            raise TrtllmError(
                f"{self.directory} holds neither model.safetensors nor model.safetensors.index.json;"
                " other formats are not read here, save the model as safetensors"
            )
        self._files = [SafetensorsFile(self.directory / name) for name in files]

    def __contains__(self, name: str) -> bool:
        return any(name in file for file in self._files)

    def __getitem__(self, name: str) -> Tensor:
        for file in self._files:
            if name in file:
                return file[name]
        raise TrtllmError(f"{self.directory} holds no tensor {name!r}; it is not a complete Llama checkpoint")


def split(tensor: Tensor, parts: int, part: int, axis: int) -> Tensor:
    """One of `parts` equal slices along `axis`."""
    if parts == 1:
        return tensor
    return Tensor(tensor.dtype, np.array_split(tensor.data, parts, axis=axis)[part])


def pad_rows(tensor: Tensor, multiple: int) -> Tensor:
    """Zero rows appended until their number divides: a vocabulary need not divide over the ranks."""
    extra = -tensor.shape[0] % multiple
    if not extra:
        return tensor
    return Tensor(tensor.dtype, np.pad(tensor.data, [(0, extra)] + [(0, 0)] * (tensor.data.ndim - 1)))


def join(tensors: list[Tensor]) -> Tensor:
    """Rows of several tensors of one type, in order."""
    return Tensor(tensors[0].dtype, np.concatenate([t.data for t in tensors]))


def repeat_heads(tensor: Tensor, heads: int, copies: int) -> Tensor:
    """Each of `heads` blocks of rows `copies` times in a row: key-value heads that several ranks share."""
    if copies == 1:
        return tensor
    blocks = tensor.data.reshape(heads, -1, *tensor.shape[1:])
    return Tensor(tensor.dtype, np.repeat(blocks, copies, axis=0).reshape(-1, *tensor.shape[1:]))


def _attention(config: PretrainedConfig, source: HuggingFaceWeights, prefix: str, kind: str) -> Tensor:
    """This rank's rows of the joined q, k and v; `kind` is weight or bias."""
    tp, rank = config.mapping.tp_size, config.mapping.tp_rank
    parts = [split(source[f"{prefix}.q_proj.{kind}"], tp, rank, 0)]
    for name in ("k_proj", "v_proj"):
        copies = max(1, tp // config.num_key_value_heads)
        whole = repeat_heads(source[f"{prefix}.{name}.{kind}"], config.num_key_value_heads, copies)
        parts.append(split(whole, tp, rank, 0))
    return join([part.to(config.dtype) for part in parts])


def rank_weights(config: PretrainedConfig, source: HuggingFaceWeights) -> Weights:
    """The tensors of `config.mapping.rank`. Layers are numbered from 0 within a pipeline stage."""
    config.check_split()
    mapping = config.mapping
    tp, rank = mapping.tp_size, mapping.tp_rank

    def take(name: str, axis: int | None = None) -> Tensor:
        tensor = source[name]
        return (tensor if axis is None else split(tensor, tp, rank, axis)).to(config.dtype)

    weights: Weights = {}
    embedding = source["model.embed_tokens.weight"]
    if mapping.is_first_stage:
        if config.use_parallel_embedding and tp > 1:
            axis = config.embedding_sharding_dim
            padded = pad_rows(embedding, tp) if axis == 0 else embedding
            weights["transformer.vocab_embedding.weight"] = split(padded, tp, rank, axis).to(config.dtype)
        else:
            weights["transformer.vocab_embedding.weight"] = embedding.to(config.dtype)
    for local, layer in enumerate(mapping.layers(config.num_hidden_layers)):
        hf, ours = f"model.layers.{layer}", f"transformer.layers.{local}"
        weights[f"{ours}.input_layernorm.weight"] = take(f"{hf}.input_layernorm.weight")
        weights[f"{ours}.post_layernorm.weight"] = take(f"{hf}.post_attention_layernorm.weight")
        weights[f"{ours}.attention.qkv.weight"] = _attention(config, source, f"{hf}.self_attn", "weight")
        if config.attn_bias:
            weights[f"{ours}.attention.qkv.bias"] = _attention(config, source, f"{hf}.self_attn", "bias")
        weights[f"{ours}.attention.dense.weight"] = take(f"{hf}.self_attn.o_proj.weight", 1)
        if f"{hf}.self_attn.o_proj.bias" in source:
            weights[f"{ours}.attention.dense.bias"] = take(f"{hf}.self_attn.o_proj.bias")
        # Upstream calls the activated half `fc` and the other one `gate`.
        for name, theirs, axis in (("fc", "gate_proj", 0), ("gate", "up_proj", 0), ("proj", "down_proj", 1)):
            weights[f"{ours}.mlp.{name}.weight"] = take(f"{hf}.mlp.{theirs}.weight", axis)
            if config.mlp_bias:
                bias_axis = 0 if axis == 0 else None
                weights[f"{ours}.mlp.{name}.bias"] = take(f"{hf}.mlp.{theirs}.bias", bias_axis)
    if mapping.is_last_stage:
        weights["transformer.ln_f.weight"] = take("model.norm.weight")
        tied = config.tie_word_embeddings or "lm_head.weight" not in source
        head = embedding if tied else source["lm_head.weight"]
        weights["lm_head.weight"] = split(pad_rows(head, tp), tp, rank, 0).to(config.dtype)
    return weights
