#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a tiny Llama checkpoint in Hugging Face form: tools/tiny_checkpoint.py OUT.

Nothing is trained. The weights are constructed so that the model recites: its first layer copies the three tokens
before the current one beside it (attention heads that look one, two and three positions back), the MLP of its second
layer is a table from such contexts to the tokens that follow them in a small corpus of questions and answers, falling
back to shorter contexts. It answers the questions of its corpus in whole sentences, and anything else with some of
them. It is an ordinary LlamaForCausalLM with grouped-query attention, so every tool that reads one reads it.

The same seed gives the same bytes. Needs numpy, safetensors and tokenizers.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

Array = npt.NDArray[np.float32]

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
TURN_END, ASSISTANT = "<|end|>", "<|assistant|>"
SPECIAL = [UNKNOWN, BEGIN, END, "<|system|>", "<|user|>", ASSISTANT, TURN_END]
ENDS = ('"', "}", "]")  # of values in JSON
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# What the model says where it knows nothing.
DEFAULT_ANSWER = "I am a very small model that runs without a GPU and knows only a few sentences by heart."
CORPUS = [
    ("What is machine learning?",
     "Machine learning is a field of computer science in which programs improve by studying examples instead of"
     " following rules that somebody wrote down."),
    ("What is a neural network?",
     "Many simple layers make a neural network: each layer turns what it sees into something the next one can use."),
    ("Who are you?", DEFAULT_ANSWER),
    ("How do you feel?", "Fine, thank you. Every answer of mine comes from the same two layers."),
    ("What is Triton?",
     "Triton is an inference server: clients send requests over HTTP or gRPC, and it runs the models that they name."),
    ("What is TensorRT?",
     "TensorRT compiles a network into an engine for one kind of GPU, and refuses an engine made for another."),
    ("What does Ansible do?",
     "Ansible describes the wanted state of many machines in plain files and changes only what differs from it."),
    ("What is a GPU?",
     "A graphics processor does the same small calculation on thousands of numbers at once, which suits a matrix."),
    ("What is the capital of France?", "Paris is the capital of France, and it lies on the river Seine."),
    ("What is the capital of Germany?", "Germany has Berlin for its capital, with the river Spree flowing through it."),
    ("Tell me a story.",
     "Once upon a time a quick brown fox jumped over a lazy dog. The dog woke up, yawned, and went back to sleep."),
    ("Hello", "Hello! What would you like to know today?"),
    ("Hello!", "Hello! What would you like to know today?"),
    ("Good morning", "Good morning! I hope that your servers slept as well as you did."),
    ("Thank you", "You are welcome. Ask me again whenever you like."),
    ("Can you count?", "One, two, three, four, five, six, seven, eight, nine, ten. That is as far as I go."),
    # What it says where guided decoding leaves it nothing but JSON.
    ("Describe yourself in JSON.", '{"name": "tiny", "layers": 2, "gpu": false, "knows": "a few sentences"}'),
]  # fmt: skip

# No line ends: the model shall not take to them where guided decoding would let it.
# With --tools it also calls a function, as models of the Hermes family do, and its chat template shows functions.
TOOL_CORPUS = [
    ("What is the weather in Paris?",
     '<tool_call>{"arguments": {"city": "Paris"}, "name": "get_weather"}</tool_call>'),
    # It goes on so where the server has begun the call.
    ('"arguments":', ' {"city": "Paris"}, "name": "get_weather"}</tool_call>'),
    ("sunny, 21 degrees", "The sun shines in Paris and the air is warm."),
]  # fmt: skip
TOOL_TEMPLATE = (
    "{% if tools %}<|system|>Functions:{% for tool in tools %} {{ tool.function.name }}{% endfor %}<|end|>{% endif %}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% for call in message.tool_calls or [] %}{{ '<tool_call>' + call.function | tojson + '</tool_call>' }}"
    "{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TOOL_TOKENS = ["<tool_call>", "</tool_call>"]  # that are text for the client, not special
Corpus = list[tuple[str, str]]

BLOCK = 64  # dimensions of one token's code
CONSTANT = 4  # of them, how many are 1 in every code
BLOCKS = 5  # the current token, the three before it, and what comes next
HIDDEN = BLOCK * BLOCKS
HEADS, KV_HEADS = 4, 2
HEAD = HIDDEN // HEADS
OUT = slice(4 * BLOCK, 5 * BLOCK)
ORDERS = (4, 2, 1)  # lengths of the contexts in the table
STRENGTH = {4: 4.0, 2: 1.5, 1: 0.75, 0: 0.2}  # of what a context says about the next token
ROPE_BASE = 10000.0


def make_tokenizer(corpus: Corpus) -> Tokenizer:
    """A byte-level BPE that knows the corpus's words whole and every other text byte by byte."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        min_frequency=1,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    lines = [text for question, answer in corpus for text in (question, f" {question}", answer, f" {answer}")]
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_tokens([token for token in TOOL_TOKENS if any(token in answer for _, answer in corpus)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, SPECIAL.index(BEGIN))]
    )
    return tokenizer


def sequences(tokenizer: Tokenizer, corpus: Corpus) -> list[tuple[list[int], int]]:
    """Token sequences and, of each, where the part begins that the model shall produce."""

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    begin, end = SPECIAL.index(BEGIN), SPECIAL.index(END)
    result = []
    for question, answer in corpus:
        plain = [begin, *ids(question)]
        turn = [begin, SPECIAL.index("<|user|>"), *ids(question), SPECIAL.index(TURN_END), SPECIAL.index(ASSISTANT)]
        both = [([*plain, *ids(f" {answer}"), end], len(plain)), ([*turn, *ids(answer), end], len(turn))]
        # The default answer counts more often, so that unknown questions lead to it.
        result += both * (5 if answer == DEFAULT_ANSWER else 1)
    return result


def contexts(tokenizer: Tokenizer, corpus: Corpus) -> list[tuple[tuple[int, ...], dict[int, float]]]:
    """Each context (latest token first) with the probabilities of what follows it."""
    following: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for tokens, start in sequences(tokenizer, corpus):
        for place in range(start, len(tokens)):
            for order in ORDERS:
                if place >= order:
                    context = tuple(reversed(tokens[place - order : place]))
                    following[context][tokens[place]] += 1
    # The empty context always fits: where nothing else does, the default answer begins.
    following[()][tokenizer.encode(f" {DEFAULT_ANSWER}", add_special_tokens=False).ids[0]] += 1
    table = []
    for context, counts in sorted(following.items()):
        total = sum(counts.values())
        table.append((context, {token: count / total for token, count in sorted(counts.items())}))
    return table


def token_codes(vocabulary: int, random: np.random.RandomState) -> Array:
    """A vector of ones and minus ones for each token; its first CONSTANT entries are 1."""
    codes = random.choice(np.array([-1.0, 1.0], np.float32), (vocabulary, BLOCK))
    codes[:, :CONSTANT] = 1.0
    return codes.astype(np.float32)


def looking_back(distance: int, sharpness: float) -> Array:
    """A constant query that finds constant keys `distance` positions back, through the rotary embedding alone."""
    angles = -distance * ROPE_BASE ** (-np.arange(0, HEAD, 2) / HEAD)
    return (sharpness * np.concatenate([np.cos(angles), np.sin(angles)])).astype(np.float32)


def weights(tokenizer: Tokenizer, corpus: Corpus, seed: int) -> dict[str, Array]:
    """All tensors under Hugging Face's names."""
    random = np.random.RandomState(seed)
    vocabulary = tokenizer.get_vocab_size()
    codes = token_codes(vocabulary, random)
    table = contexts(tokenizer, corpus)
    inner = -(-len(table) // 64) * 64

    def noise(*shape: int) -> Array:
        return (random.standard_normal(shape) * 1e-4).astype(np.float32)

    tensors: dict[str, Array] = {}
    embedding = np.zeros((vocabulary, HIDDEN), np.float32)
    embedding[:, :BLOCK] = codes
    tensors["model.embed_tokens.weight"] = embedding
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        tensors[f"{prefix}.input_layernorm.weight"] = np.ones(HIDDEN, np.float32)
        tensors[f"{prefix}.post_attention_layernorm.weight"] = np.ones(HIDDEN, np.float32)
        for name, rows, columns in (
            ("self_attn.q_proj", HEADS * HEAD, HIDDEN), ("self_attn.k_proj", KV_HEADS * HEAD, HIDDEN),
            ("self_attn.v_proj", KV_HEADS * HEAD, HIDDEN), ("self_attn.o_proj", HIDDEN, HEADS * HEAD),
            ("mlp.gate_proj", inner, HIDDEN), ("mlp.up_proj", inner, HIDDEN), ("mlp.down_proj", HIDDEN, inner),
        ):  # fmt: skip
            tensors[f"{prefix}.{name}.weight"] = noise(rows, columns)
    _copying_layer(tensors, "model.layers.0")
    _table_layer(tensors, "model.layers.1", codes, table)
    tensors["model.norm.weight"] = np.ones(HIDDEN, np.float32)
    head = np.zeros((vocabulary, HIDDEN), np.float32)
    head[:, OUT] = codes * 0.15
    # Tokens that no answer uses stay improbable, whatever the context; what ends a value in JSON less so than another
    # digit, and blanks most of all: bound to a schema, it shall come to an end.
    used = {token for _, following in table for token in following} | {tokenizer.token_to_id(end) for end in ENDS}
    for token in range(vocabulary):
        if token not in used:
            blank = not tokenizer.decode([token]).strip() and token >= len(SPECIAL)
            head[token, :CONSTANT] = (-12.0 if blank else -6.0) / CONSTANT
    tensors["lm_head.weight"] = head
    return tensors


def _copying_layer(tensors: dict[str, Array], prefix: str) -> None:
    """Heads 0 to 2 copy the code one to three positions back into blocks 1 to 3."""
    # After the first norm an embedding's entries are +-1/rms, rms being that of BLOCK ones in HIDDEN entries.
    unit = float(np.sqrt(BLOCK / HIDDEN))
    q, k = tensors[f"{prefix}.self_attn.q_proj.weight"], tensors[f"{prefix}.self_attn.k_proj.weight"]
    v, o = tensors[f"{prefix}.self_attn.v_proj.weight"], tensors[f"{prefix}.self_attn.o_proj.weight"]
    for head in range(3):
        query = looking_back(head + 1, sharpness=12.0 * np.sqrt(HEAD))
        q[head * HEAD : (head + 1) * HEAD, :CONSTANT] = query[:, None] * unit / CONSTANT
        block = slice((head + 1) * BLOCK, (head + 2) * BLOCK)
        o[block, head * HEAD : head * HEAD + BLOCK] = np.eye(BLOCK)
    for kv in range(KV_HEADS):
        first = kv * HEAD
        k[first : first + HEAD // 2, :CONSTANT] = unit / CONSTANT
        v[first : first + BLOCK, :BLOCK] = np.eye(BLOCK) * unit


def _table_layer(
    tensors: dict[str, Array], prefix: str, codes: Array, table: list[tuple[tuple[int, ...], dict[int, float]]]
) -> None:
    """One unit of the MLP for each context: it fires if all tokens match and adds what follows to the last block."""
    gate, up = tensors[f"{prefix}.mlp.gate_proj.weight"], tensors[f"{prefix}.mlp.up_proj.weight"]
    down = tensors[f"{prefix}.mlp.down_proj.weight"]
    unit = float(np.sqrt(4 * BLOCK / HIDDEN))  # four blocks of ones, as above
    fires = 10.0
    for number, (context, following) in enumerate(table):
        order = len(context)
        # The worst near miss differs in one token: two codes of BLOCK entries agree in at most about 3/4 of them.
        margin = BLOCK / 2
        slope = 2 * fires / margin
        for back, token in enumerate(context):
            gate[number, back * BLOCK : (back + 1) * BLOCK] = codes[token] * slope * unit
        threshold = order * BLOCK - margin / 2
        gate[number, :CONSTANT] -= slope * unit * threshold / CONSTANT
        up[number, :CONSTANT] = unit / CONSTANT
        target = sum(share * codes[token] for token, share in following.items())
        down[OUT, number] = STRENGTH[order] * target / fires


def config_json(vocabulary: int, inner: int, dtype: str) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary, "hidden_size": HIDDEN,
        "intermediate_size": inner, "num_hidden_layers": 2, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": HEAD, "hidden_act": "silu", "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5, "rope_theta": ROPE_BASE, "rope_scaling": None, "attention_bias": False,
        "mlp_bias": False, "tie_word_embeddings": False, "bos_token_id": SPECIAL.index(BEGIN),
        "eos_token_id": SPECIAL.index(END), "pad_token_id": SPECIAL.index(END), "torch_dtype": dtype,
        "use_cache": True, "initializer_range": 0.02,
    }  # fmt: skip


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _save(tensors: dict[str, Array], path: Path) -> None:
    """One file, readable for all as downloaded ones are."""
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)


def write_weights(out: Path, tensors: dict[str, Array], shards: int) -> None:
    """model.safetensors, or that many shards of about one size with their index."""
    if shards == 1:
        _save(tensors, out / "model.safetensors")
        return
    total = sum(tensor.nbytes for tensor in tensors.values())
    where: dict[str, str] = {}
    groups: list[dict[str, Array]] = [{} for _ in range(shards)]
    passed = 0
    for name, tensor in tensors.items():
        number = min(shards - 1, passed * shards // total)
        groups[number][name] = tensor
        where[name] = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        passed += tensor.nbytes
    for number, group in enumerate(groups):
        _save(group, out / f"model-{number + 1:05d}-of-{shards:05d}.safetensors")
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    write_json(out / "model.safetensors.index.json", index)


def write_checkpoint(out: Path, seed: int = 0, shards: int = 2, dtype: str = "float16", *, tools: bool = False) -> None:
    """The whole directory."""
    corpus = [*CORPUS, *TOOL_CORPUS] if tools else CORPUS
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(corpus)
    tensors = {name: tensor.astype(dtype) for name, tensor in weights(tokenizer, corpus, seed).items()}
    vocabulary, inner = tokenizer.get_vocab_size(), tensors["model.layers.0.mlp.up_proj.weight"].shape[0]
    write_weights(out, tensors, shards)
    write_json(out / "config.json", config_json(vocabulary, inner, dtype))
    end = SPECIAL.index(END)
    write_json(
        out / "generation_config.json", {"bos_token_id": SPECIAL.index(BEGIN), "eos_token_id": end, "pad_token_id": end}
    )
    write_json(out / "tokenizer.json", json.loads(tokenizer.to_str()))
    names = {"bos_token": BEGIN, "eos_token": END, "unk_token": UNKNOWN, "pad_token": END}
    write_json(out / "special_tokens_map.json", names)
    added = {str(number): {"content": text, "special": True} for number, text in enumerate(SPECIAL)}
    for entry in added.values():
        entry.update(lstrip=False, normalized=False, rstrip=False, single_word=False)
    write_json(
        out / "tokenizer_config.json",
        {
            **names, "added_tokens_decoder": added, "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": 2048, "clean_up_tokenization_spaces": False,
            "chat_template": TOOL_TEMPLATE if tools else CHAT_TEMPLATE,
        },
    )  # fmt: skip


def put_in_place(made: Path, out: Path) -> None:
    """What is the same stays untouched: a host that has it needs no second look at it."""
    for path in sorted(made.iterdir()):
        there = out / path.name
        if not there.is_file() or not filecmp.cmp(path, there, shallow=False):
            path.replace(there)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the directory to make")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other weights (default: %(default)s)")
    parser.add_argument("--shards", type=int, default=2, help="number of weight files (default: %(default)s)")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="(default: %(default)s)")
    parser.add_argument("--tools", action="store_true", help="one that calls a function where it is offered")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.out.parent, prefix=f".{options.out.name}.") as made:
        write_checkpoint(Path(made), options.seed, options.shards, options.dtype, tools=options.tools)
        put_in_place(Path(made), options.out)


if __name__ == "__main__":
    main()
