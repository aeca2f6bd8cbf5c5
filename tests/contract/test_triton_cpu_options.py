# SPDX-License-Identifier: GPL-3.0-or-later
"""The CPU image against what is recorded of upstream: command-line options, placeholders, parameters and tensors."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
from contract.facts import engine_options, model_repository_params
from tensorrt_llm.options import BUILD_OPTIONS, CONVERT_OPTIONS, Option, parser
from triton_cpu_fakes import SOURCE

MODELS = SOURCE / "all_models/inflight_batcher_llm"
GONE_IN_1_1 = {"--auto_parallel", "--gpus_per_node", "--cluster_key"}
TYPES = {"str": str, "int": int, "float": float}


def recorded(tool: str) -> dict[str, dict[str, Any]]:
    options = engine_options()["1.0.0"][tool]
    return {flag: option for flag, option in options.items() if flag not in GONE_IN_1_1}


@pytest.mark.parametrize(
    ("tool", "ours"),
    [
        ("trtllm-build", BUILD_OPTIONS),
        ("llama/convert_checkpoint.py", CONVERT_OPTIONS["llama"]),
        ("qwen/convert_checkpoint.py", CONVERT_OPTIONS["qwen"]),
    ],
)
def test_options_are_upstreams(tool: str, ours: list[Option]) -> None:
    """Names, spellings, types, choices and defaults, none more and none less."""
    theirs = recorded(tool)
    assert {option.flag for option in ours} == set(theirs)
    for option in ours:
        fact = theirs[option.flag]
        switch = fact.get("action") == "store_true"
        assert option.default == (False if switch else fact.get("default")), option.flag
        assert list(option.aliases) == fact.get("aliases", []), option.flag
        assert list(option.choices or []) == fact.get("choices", []), option.flag
        assert option.nargs == fact.get("nargs"), option.flag
        assert option.const == fact.get("const"), option.flag
        if switch:
            assert option.kind is bool, option.flag
        elif fact.get("type") in TYPES:
            assert option.kind is TYPES[fact["type"]], option.flag


def sample(fact: dict[str, Any]) -> list[str]:
    """Words that upstream's parser would take after the option."""
    if fact.get("action") == "store_true":
        return []
    if fact.get("choices"):
        return [str(fact["choices"][-1])]
    return [{"int": "3", "float": "0.5"}.get(fact.get("type", "str"), "paged")]


@pytest.mark.parametrize(
    ("tool", "ours"), [("trtllm-build", BUILD_OPTIONS), ("llama/convert_checkpoint.py", CONVERT_OPTIONS["llama"])]
)
def test_every_recorded_option_is_taken_in_every_spelling(tool: str, ours: list[Option]) -> None:
    tool_parser = parser(tool, ours)
    for flag, fact in recorded(tool).items():
        for spelling in (flag, *fact.get("aliases", [])):
            taken = tool_parser.parse_args([spelling, *sample(fact)])
            assert isinstance(taken, argparse.Namespace)


def names_in(block: str) -> list[str]:
    return re.findall(r'name: "(\w+)" data_type', block)


@pytest.mark.parametrize("model", ["preprocessing", "tensorrt_llm", "postprocessing", "ensemble", "tensorrt_llm_bls"])
def test_templates_have_upstreams_placeholders_and_tensors(model: str) -> None:
    """All that is recorded of the newest templates; the token counts are answered by the front models too."""
    fact = model_repository_params()["v1.x"][model]
    text = (MODELS / model / "config.pbtxt").read_text()
    # Triton wants a directory for the version, and neither git nor a build context keeps an empty one.
    assert any((MODELS / model / "1").iterdir())
    assert set(re.findall(r"\$\{(\w+)\}", text)) == set(fact["placeholders"])
    inputs, _, rest = text.partition("output [")
    assert set(names_in(inputs)) == set(fact["inputs"])
    counts = {"num_input_tokens", "num_output_tokens"}
    assert set(names_in(rest)) - counts == set(fact["outputs"]) - counts
    keys = set(re.findall(r'parameters \{ key: "(\w+)"', text))
    assert keys - {"enable_trt_overlap", "hf_model_path"} == set(fact["parameter_keys"])
    for scalar in fact["pbtxt_scalar_placeholders"]:
        assert re.search(rf"(: |\[ )\"?\$\{{{scalar}\}}", text), scalar


@pytest.mark.parametrize("model", ["preprocessing", "tensorrt_llm", "postprocessing", "ensemble", "tensorrt_llm_bls"])
def test_tensors_have_upstreams_types_and_dimensions(shared_dir: Path, model: str) -> None:
    """Against 0.19's own template, whose tensors differ from the newest in three names only."""
    theirs = re.sub(r"#.*", "", (shared_dir / f"templates/v0.19.0/{model}/config.pbtxt").read_text())
    ours = (MODELS / model / "config.pbtxt").read_text()
    renamed = {"random_seed": "seed", "min_length": "min_tokens"}
    pattern = re.compile(r'name:\s*"(\w+)"[\s,]*data_type:\s*(\S+?)[\s,]+dims:\s*\[\s*([^\]]*?)\s*\]')
    # Inputs stand before outputs in all of them, and one name is in both.
    for half, their_half in zip(re.split(r"output\s*\[", ours), re.split(r"output\s*\[", theirs)):
        tensors = {name: (kind, dims) for name, kind, dims in pattern.findall(half)}
        for name, kind, dims in pattern.findall(their_half):
            # The type of prompt_embedding_table became a placeholder.
            if name != "prompt_embedding_table":
                assert tensors[renamed.get(name, name)] == (kind, dims), name
