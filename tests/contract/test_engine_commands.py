# SPDX-License-Identifier: GPL-3.0-or-later
"""Every command that is composed is accepted by the option list of the very tool of the very release.

The option lists are upstream's (``facts``). Each tool's parser is rebuilt from its list, so names, types, choices
and required options are judged by argparse as upstream's own parser would.
"""

from __future__ import annotations

import argparse
import re
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._release.cli import EnginePlan, Paths, plan
from ansible_collections.trtllm.fleet.plugins.module_utils._release.cli_data import TOOLS
from ansible_collections.trtllm.fleet.plugins.module_utils._release.lookup import (
    engine_releases,
    flag,
    flags,
    flow,
    flow_rows,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import release
from contract.facts import engine_options, left_out

PATHS = Paths("/models/checkpoint", "/models/converted", "/models/engine")
TYPES = {"int": int, "float": float}

FP16 = {"dtype": "float16"}
PLUGINS = {"gpt_attention_plugin": "float16", "gemm_plugin": "float16"}
SIZES = {"max_batch_size": 8, "max_input_len": 1024, "max_output_len": 1024}
BAICHUAN = {**FP16, **PLUGINS, **SIZES, "model_version": "v2_13b"}
IN_FLIGHT = {"remove_input_padding": True, "kv_cache_type": "paged"}

# The cases of the documents: name -> (family, options, releases that can).
CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "Baichuan2-13B on 1 GPU": ("baichuan", {**BAICHUAN, **IN_FLIGHT, "context_fmha": True}, f"0.7.1 to {LAST}"),
    "Baichuan2-13B on 2 GPUs": ("baichuan", {**BAICHUAN, **IN_FLIGHT, "tp_size": 2}, f"0.7.1 to {LAST}"),
    "Baichuan2-13B with in-flight batching": (
        "baichuan", {**BAICHUAN, "use_inflight_batching": True, "tp_size": 2}, "0.7.1 to 0.7.1"),
    "CodeLlama-13B": (
        "llama", {**FP16, **PLUGINS, **SIZES, **IN_FLIGHT, "tp_size": 2, "context_fmha": True}, f"0.7.1 to {LAST}"),
    "Llama-2-7b-chat": ("llama", {**FP16, "gemm_plugin": "float16", "max_batch_size": 4}, f"0.7.1 to {LAST}"),
    "Llama-2-7b TP4": (
        "llama", {**FP16, "tp_size": 4, "workers": 4, "gemm_plugin": "float16", "max_seq_len": 4096,
                  "max_input_len": 2048, "max_batch_size": 64}, f"0.7.1 to {LAST}"),
    "gpt2-medium TP4": ("gpt2", {**FP16, "tp_size": 4, "gemm_plugin": "float16"}, f"0.7.1 to {LAST}"),
    "Mixtral-8x7B TP2": (
        "mixtral", {**FP16, "tp_size": 2, "moe_tp_size": 2, "max_num_tokens": 8192, "max_batch_size": 64,
                    "gemm_plugin": "auto", "use_paged_context_fmha": True, "lora_plugin": "auto",
                    "lora_dir": ["/adapters/a"], "max_lora_rank": 8,
                    "lora_target_modules": ["attn_q", "attn_k", "attn_v"]}, f"0.11.0 to {LAST}"),
    "weight-only int8": ("llama", {"use_weight_only": True, "weight_only_precision": "int8"}, f"0.7.1 to {LAST}"),
    "weight-only int4": ("llama", {"use_weight_only": True, "weight_only_precision": "int4"}, f"0.7.1 to {LAST}"),
    "FP8 by quantize.py": (
        "llama", {"qformat": "fp8", "kv_cache_dtype": "fp8", "calib_size": 512, "tp_size": 2}, f"0.8.0 to {LAST}"),
    "AWQ by quantize.py": (
        "llama", {"qformat": "int4_awq", "awq_block_size": 128, "calib_batch_size": 4}, f"0.8.0 to {LAST}"),
    "gathered logits": ("llama", {"gather_context_logits": True, "gather_generation_logits": True}, f"0.8.0 to {LAST}"),
    "all logits": ("llama", {"gather_all_token_logits": True}, f"0.7.1 to {LAST}"),
    "pipeline parallelism": ("llama", {"tp_size": 2, "pp_size": 2, "workers": 4}, f"0.7.1 to {LAST}"),
    "context parallelism": ("llama", {"cp_size": 2}, f"0.16.0 to {LAST}"),
    "experts": ("mixtral", {"tp_size": 4, "moe_tp_size": 2, "moe_ep_size": 2}, f"0.11.0 to {LAST}"),
    "custom all-reduce off": ("llama", {"tp_size": 2, "use_custom_all_reduce": False}, "0.7.1 to 0.11.0"),
    "Qwen2": ("qwen2", {"tp_size": 2, "gemm_plugin": "auto", "dtype": "auto"}, f"0.10.0 to {LAST}"),
    "Qwen": ("qwen", {"tp_size": 2, "dtype": "auto", "max_output_len": 100}, f"0.7.1 to {LAST}"),
    "Mistral": ("mistral", {"dtype": "bfloat16", "max_seq_len": 32768, "max_input_len": 30000}, f"0.7.1 to {LAST}"),
    "Phi": ("phi", {"dtype": "auto", "gemm_plugin": "auto"}, f"0.8.0 to {LAST}"),
    "Phi on 4 GPUs": ("phi", {"tp_size": 2, "pp_size": 2}, f"0.8.0 to {LAST}"),
    "Phi-3": ("phi3", {"dtype": "auto", "tp_size": 2}, f"0.11.0 to {LAST}"),
    "Gemma": ("gemma", {"tp_size": 2, "gemm_plugin": "auto"}, f"0.9.0 to {LAST}"),
    "Gemma int8": ("gemma", {"use_weight_only": True}, f"0.9.0 to 0.16.0 and 1.0.0 to {LAST}"),
    "Gemma by SmoothQuant": (
        "gemma", {"smoothquant": 0.5, "per_channel": True, "per_token": True}, f"0.9.0 to {LAST}"),
    "gpt2 by SmoothQuant": (
        "gpt2", {**PLUGINS, "smoothquant": 0.5, "per_channel": True, "per_token": True}, f"0.7.1 to {LAST}"),
    "Falcon": ("falcon", {"tp_size": 2, "pp_size": 2, "dtype": "bfloat16"}, f"0.8.0 to {LAST}"),
}  # fmt: skip


class Rejected(Exception):
    """argparse of upstream would have exited with status 2."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise Rejected(message)


def kv_cache_type(text: str) -> str:
    """The tool's own enum is parsed without regard to case."""
    if text.lower() not in ("continuous", "paged", "disabled"):
        raise argparse.ArgumentTypeError(text)
    return text


def parser_of(options: dict[str, Any]) -> Parser:
    """Upstream's parser, rebuilt from its recorded options."""
    parser = Parser(allow_abbrev=False, add_help=False)
    for name, option in options.items():
        settings: dict[str, Any] = {"required": bool(option.get("required"))}
        if option.get("action"):
            settings["action"] = option["action"]
        else:
            kind = str(option.get("type"))
            settings["type"] = kv_cache_type if "KVCacheType" in kind else TYPES.get(kind, str)
            if option.get("nargs"):
                settings["nargs"] = option["nargs"]
            if option.get("choices"):
                settings["choices"] = option["choices"]
        parser.add_argument(name, *(option.get("aliases") or []), **settings)
    return parser


def made(version: str, case: str) -> EnginePlan:
    family, options, _ = CASES[case]
    return plan(release(version), family, options, PATHS, checkpoint_dtype="bfloat16")


def can(version: str, case: str) -> bool:
    """Whether *version* is among the releases that the case names."""
    order = [row.version for row in engine_releases()]
    spans = [span.split(" to ") for span in CASES[case][2].split(" and ")]
    return any(order.index(first) <= order.index(version) <= order.index(last) for first, last in spans)


@pytest.mark.parametrize("case", CASES)
def test_commands_are_accepted_by_the_release(case: str) -> None:
    judged = 0
    for version, tools in engine_options().items():
        if not can(version, case):
            with pytest.raises(FleetError):
                made(version, case)
            continue
        for command in made(version, case).commands:
            words = command.argv[1:] if command.argv[0] == "trtllm-build" else command.argv[2:]
            try:
                parser_of(tools[command.tool]).parse_args(words)
            except Rejected as error:
                pytest.fail(f"{version}: {command.tool} rejects {' '.join(words)}: {error}")
            judged += 1
    assert judged


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("version", ["0.17.0", "0.18.2", "0.19.0", "0.20.0", "0.21.0", "1.1.0", "1.2.0", LAST])
def test_unrecorded_releases_get_only_what_both_neighbours_accept(case: str, version: str) -> None:
    """Between 0.16.0 and 1.0.0 what both know; after 1.0.0 what it knows, without what was withdrawn later.

    A last release whose own lists are recorded is judged by them.
    """
    if not can(version, case):
        with pytest.raises(FleetError):
            made(version, case)
        return
    after = version.startswith("1.")
    lists = engine_options()
    for command in made(version, case).commands:
        words = command.argv[1:] if command.argv[0] == "trtllm-build" else command.argv[2:]
        assert not {"--auto_parallel", "--gpus_per_node", "--cluster_key"} & set(words)
        for judge in [version] if version in lists else ["1.0.0"] if after else ["0.16.0", "1.0.0"]:
            parser_of(lists[judge][command.tool]).parse_args(words)


@pytest.mark.parametrize("case", ["Llama-2-7b TP4", "gpt2-medium TP4", "Mixtral-8x7B TP2", "Baichuan2-13B on 2 GPUs"])
def test_what_a_release_cannot_do_names_the_release_that_can(case: str) -> None:
    with pytest.raises(FleetError, match=f"{re.escape(LAST)} is the last release that builds them"):
        made("1.3.0", case)


def test_the_table_agrees_with_every_recorded_list() -> None:
    """No row claims an option, a kind or a choice that the release's own tool does not have."""
    lists, judged = engine_options(), 0
    for tool in TOOLS:
        for name, rows in flags(tool).items():
            for row in rows:
                for version, tools in lists.items():
                    if not row.first <= release(version).key <= row.last or tool not in tools:
                        continue
                    theirs = tools[tool].get(f"--{name}")
                    assert theirs is not None, f"{tool} of {version} has no --{name}"
                    assert (row.kind == "flag") == (theirs.get("action") == "store_true"), f"{version} {tool} --{name}"
                    if row.kind in ("int", "float"):
                        assert theirs["type"] == row.kind, f"{version} {tool} --{name}"
                    choices = {str(choice) for choice in theirs.get("choices") or []}
                    expected = set(row.choices) or ({"enable", "disable"} if row.kind == "word" else set())
                    if name != "kv_cache_type" and choices:
                        assert expected <= choices, f"{version} {tool} --{name}"
                    default = theirs.get("default")
                    if row.default not in (None, "?") and default not in (None, "==SUPPRESS=="):
                        assert str(default) == row.default, f"{version} {tool} --{name}"
                    judged += 1
    assert judged > 1500


def run_by(version: str) -> set[str]:
    """The tools that some flow of the release runs."""
    families = {row[0] for row in flow_rows()}
    ways = [(name, quantized) for name in families for quantized in (False, True)]
    return {tool for way in ways for tool in flow(release(version), *way) or ()}


def test_every_option_of_every_recorded_list_is_in_the_table_or_left_out_for_a_reason() -> None:
    """The reverse: an option that a tool has and the table has not is refused to a user without need."""
    reasons, missing, used = left_out(), [], set()
    for version, tools in engine_options().items():
        assert run_by(version) <= set(tools), f"{version} has no recorded list of one of its tools"
        for tool in run_by(version):
            for name in tools[tool]:
                reason = next((key for key in ((tool, name), ("", name)) if key in reasons), None)
                if flag(tool, name.removeprefix("--"), release(version)) is None:
                    used.add(reason)
                    missing += [] if reason else [f"{version} {tool} {name}"]
    assert missing == []
    assert set(reasons) == used, "reasons for what no tool has, or the table has everywhere"
    assert all(len(why) > 20 for why in reasons.values())


def test_renames_follow_the_release() -> None:
    def words(version: str, **options: Any) -> str:
        made = plan(release(version), "llama", options, PATHS, checkpoint_dtype="float16")
        return " ".join(word for command in made.commands for word in command.argv)

    lengths = {"max_input_len": 1000, "max_seq_len": 1500}
    assert "--max_output_len 500" in words("0.10.0", **lengths)
    assert "--max_seq_len 1500" in words("0.11.0", **lengths)
    assert "--max_seq_len 1500" in words(LAST, max_input_len=1000, max_output_len=500)
    assert "--paged_kv_cache enable" in words("0.12.0", kv_cache_type="paged")
    assert "--kv_cache_type continuous" in words("0.13.0", paged_kv_cache=False)
    assert "--paged_kv_cache" in words("0.7.2", kv_cache_type="paged")
    assert "--use_fused_mlp --" not in words("0.13.0", use_fused_mlp=True)
    assert "--ammo_quant_ckpt_path /q" in words("0.9.0", quant_ckpt_path="/q")
    assert "--modelopt_quant_ckpt_path /q" in words("0.10.0", quant_ckpt_path="/q")
    assert "--quant_ckpt_path /q" in words(LAST, quant_ckpt_path="/q")
    assert "--enable_fp8" in words("0.8.0", use_fp8=True)
    assert "--use_fp8" in words("0.13.0", use_fp8=True)
    assert "/app/examples/llama/convert" in words("0.18.2")
    assert "/app/examples/models/core/llama/convert" in words("0.20.0")
