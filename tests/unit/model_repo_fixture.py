# SPDX-License-Identifier: GPL-3.0-or-later
"""A host in a temporary directory: templates of any release in our own words, an engine, a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import release
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.entry import EntryRequest
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.repository import Outcome, Repository
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.request import RepositoryRequest
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.schema import MODELS, Parameter, parameters_of

# name -> (inputs, outputs) as (tensor, type, optional); None stands for the logits' type.
TENSORS: dict[str, tuple[list[tuple[str, str | None, bool]], list[tuple[str, str | None, bool]]]] = {
    "preprocessing": (
        [("QUERY", "TYPE_STRING", False), ("REQUEST_OUTPUT_LEN", "TYPE_INT32", False)],
        [("INPUT_ID", "TYPE_INT32", False), ("REQUEST_OUTPUT_LEN", "TYPE_INT32", False)],
    ),
    "tensorrt_llm": (
        [
            ("input_ids", "TYPE_INT32", False),
            ("request_output_len", "TYPE_INT32", False),
            ("seed", "TYPE_UINT64", True),
        ],
        [("output_ids", "TYPE_INT32", False), ("generation_logits", None, False)],
    ),
    "postprocessing": ([("TOKENS_BATCH", "TYPE_INT32", False)], [("OUTPUT", "TYPE_STRING", False)]),
    "ensemble": (
        [("text_input", "TYPE_STRING", False), ("max_tokens", "TYPE_INT32", False)],
        [("text_output", "TYPE_STRING", False), ("generation_logits", None, False)],
    ),
    "tensorrt_llm_bls": (
        [("text_input", "TYPE_STRING", False), ("max_tokens", "TYPE_INT32", False)],
        [("text_output", "TYPE_STRING", False), ("generation_logits", None, False)],
    ),
}
STEPS = """ensemble_scheduling { step [
  { model_name: "preprocessing" model_version: -1
    input_map { key: "QUERY" value: "text_input" } input_map { key: "REQUEST_OUTPUT_LEN" value: "max_tokens" }
    output_map { key: "INPUT_ID" value: "_ids" } output_map { key: "REQUEST_OUTPUT_LEN" value: "_len" } },
  { model_name: "tensorrt_llm" model_version: -1
    input_map { key: "input_ids" value: "_ids" } input_map { key: "request_output_len" value: "_len" }
    output_map { key: "output_ids" value: "_tokens" }
    output_map { key: "generation_logits" value: "generation_logits" } },
  { model_name: "postprocessing" model_version: -1
    input_map { key: "TOKENS_BATCH" value: "_tokens" } output_map { key: "OUTPUT" value: "text_output" } }
] }
"""
BLS_CODE = """# Calls "preprocessing" of the same name.
PRE, LLM, POST = "preprocessing", 'tensorrt_llm', "postprocessing"
"""
# How upstream's configuration calls a parameter, where the placeholder has another name.
KEYS = {
    "batching_strategy": "gpt_model_type",
    "engine_dir": "gpt_model_path",
    "encoder_engine_dir": "encoder_model_path",
}
LLMAPI = 'name: "tensorrt_llm"\nbackend: "python"\ninstance_group [ { count: 1 } ]\n'


def _template(model: str, version: str) -> str:
    key = release(version).key
    present = {p.placeholder(key): p for p in parameters_of(model, key).values() if not p.documented}
    logits = "${logits_datatype}" if "logits_datatype" in present else "TYPE_FP32"
    parts = [f'name: "{model}"', "max_batch_size: ${triton_max_batch_size}"]
    if model == "ensemble":
        parts += ['platform: "ensemble"', STEPS]
    elif model == "tensorrt_llm":
        parts.append(f'backend: "{"${triton_backend}" if "triton_backend" in present else "tensorrtllm"}"')
    else:
        parts.append('backend: "python"')
    if "decoupled_mode" in present:
        parts.append("model_transaction_policy { decoupled: ${decoupled_mode} }")
    if "max_queue_delay_microseconds" in present:
        size = "default_queue_policy: { max_queue_size: ${max_queue_size} }" if "max_queue_size" in present else ""
        parts.append("dynamic_batching { max_queue_delay_microseconds: ${max_queue_delay_microseconds} " + size + " }")
    for kind, tensors in zip(("input", "output"), TENSORS[model]):
        for name, dtype, optional in tensors:
            name = "random_seed" if name == "seed" and key < (0, 20) else name
            more = " optional: true" if optional else ""
            parts.append(f'{kind} {{ name: "{name}" data_type: {dtype or logits} dims: [ -1 ]{more} }}')
    for name in ("prompt_embedding_table_data_type", "encoder_input_features_data_type"):
        if name in present:
            parts.append(f'input {{ name: "of_{name}" data_type: ${{{name}}} dims: [ -1 ] optional: true }}')
    count = next((name for name in present if name.endswith("_instance_count")), None)
    parts.append(f"instance_group [ {{ count: {f'${{{count}}}' if count else 1} kind: KIND_CPU }} ]")
    parts += [_parameter(name, parameter, key) for name, parameter in present.items() if _is_string(parameter)]
    return "\n".join(part for part in parts if part) + "\n"


def _is_string(parameter: Parameter) -> bool:
    scalars = ("triton_max_batch_size", "decoupled_mode", "triton_backend", "max_queue_size")
    return not (
        parameter.name in scalars
        or parameter.name.endswith(("_instance_count", "_datatype", "_data_type", "_microseconds"))
    )


def _parameter(name: str, parameter: Parameter, key: tuple[int, ...]) -> str:
    if name == "enable_trt_overlap" and key >= (0, 10):
        return "# enable_trt_overlap: ${enable_trt_overlap}"
    return f'parameters: {{ key: "{KEYS.get(name, name)}" value: {{ string_value: "${{{name}}}" }} }}'


class RepositoryFixture:
    """Makes the inputs of a model repository below *path*."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = path / "root"

    def templates(self, version: str = LAST) -> Path:
        """Templates of all five models, with a layout directory as in a checkout."""
        place = self.path / f"backend-{version}"
        for model in MODELS:
            directory = place / "all_models" / "inflight_batcher_llm" / model / "1"
            directory.mkdir(parents=True, exist_ok=True)
            (directory.parent / "config.pbtxt").write_text(_template(model, version))
            if model != "ensemble":
                (directory / "model.py").write_text(BLS_CODE if model.endswith("bls") else f"# {model}\n")
        return place

    def llmapi(self, config: str = LLMAPI) -> Path:
        """The template of the llmapi layout."""
        place = self.path / "llmapi-backend" / "all_models" / "llmapi" / "tensorrt_llm"
        (place / "1").mkdir(parents=True, exist_ok=True)
        (place / "config.pbtxt").write_text(config)
        (place / "1" / "model.py").write_text("# the LLM API\n")
        (place / "1" / "model.yaml").write_text("model: somebody/else\n")
        return self.path / "llmapi-backend"

    def engine(self, name: str = "engine", version: str = LAST, ranks: int = 1, **changes: Any) -> Path:
        """An engine's directory. *changes* go into config.json by section: build, pretrained, plugin."""
        place = self.path / name
        place.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {
            "version": version,
            "pretrained_config": {
                "architecture": "LlamaForCausalLM", "dtype": "float16", "vocab_size": 32000, "hidden_size": 4096,
                "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
                "mapping": {"world_size": ranks, "tp_size": ranks, "pp_size": 1}, **changes.get("pretrained", {}),
            },
            "build_config": {
                "max_batch_size": 8, "max_input_len": 1024, "max_seq_len": 2048, "max_beam_width": 1,
                "plugin_config": {
                    "tokens_per_block": 64, "paged_kv_cache": True, "use_paged_context_fmha": True,
                    **changes.get("plugin", {}),
                },
                **changes.get("build", {}),
            },
        }  # fmt: skip
        (place / "config.json").write_text(json.dumps(config))
        for rank in range(ranks):
            (place / f"rank{rank}.engine").write_bytes(b"\0" * 64)
        return place

    def tokenizer(self, name: str = "checkpoint", cls: str = "LlamaTokenizer", **files: Any) -> Path:
        """A checkpoint's directory with a tokenizer. *files* replace the small JSON files by their stem."""
        place = self.path / name
        place.mkdir(parents=True, exist_ok=True)
        content = {
            "tokenizer_config": {
                "tokenizer_class": cls, "eos_token": "</s>",
                "added_tokens_decoder": {"2": {"content": "</s>"}, "0": {"content": "<unk>"}},
            },
            "config": {"vocab_size": 32000},
            **files,
        }  # fmt: skip
        (place / "tokenizer.json").write_text("{}")
        for stem, value in content.items():
            (place / f"{stem}.json").write_text(value if isinstance(value, str) else json.dumps(value))
        return place

    def entry(self, **options: Any) -> EntryRequest:
        """One set of models over a standard engine and tokenizer."""
        options.setdefault("engine_dir", str(self.path / "engine"))
        options.setdefault("tokenizer_dir", str(self.path / "checkpoint"))
        return EntryRequest(**options)

    def repository(self, *entries: EntryRequest, check_mode: bool = False, **options: Any) -> Repository:
        """A repository of the last release with engines and with standard templates, unless *options* say otherwise."""
        version = options.setdefault("release", LAST)
        if "templates" not in options and "image" not in options:
            options["templates"] = str(self.path / f"backend-{version}")
        options.setdefault("name", "llama")
        request = RepositoryRequest(root=self.root, entries=list(entries or [self.entry()]), **options)
        return Repository(request, check_mode)

    def standard(self, version: str = LAST) -> RepositoryFixture:
        """Templates, engine and tokenizer that fit together."""
        self.templates(version)
        self.engine(version=version)
        self.tokenizer()
        return self

    def present(self, **parameters: Any) -> Outcome:
        """Render and publish with these parameters per model."""
        return self.repository(self.entry(parameters=parameters)).present()
