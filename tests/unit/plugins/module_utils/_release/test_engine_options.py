# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation, the argument spec and the release table say the same; fingerprints follow the options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trtllm.fleet.plugins.doc_fragments.engine_options import ModuleDocFragment
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.inspect import parse_config
from ansible_collections.trtllm.fleet.plugins.module_utils._engine.plan import Facts, Request, describe
from ansible_collections.trtllm.fleet.plugins.module_utils._release.cli import Paths, plan
from ansible_collections.trtllm.fleet.plugins.module_utils._release.options import (
    ENGINE_OPTIONS,
    WITHOUT_EFFECT_ON_ENGINE,
    argument_spec,
    world_size,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import release
from ansible_collections.trtllm.fleet.plugins.modules import trtllm_engine
from hypothesis import given, settings
from hypothesis import strategies as st

DOCUMENTED = yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["options"]["options"]["suboptions"]
PATHS = Paths("/c", "/v", "/e")


def test_every_option_is_documented_as_it_is() -> None:
    assert list(DOCUMENTED) == list(ENGINE_OPTIONS)
    for name, option in argument_spec(ENGINE_OPTIONS).items():
        documented = dict(DOCUMENTED[name])
        assert documented.pop("description").startswith(ENGINE_OPTIONS[name]["description"])
        assert documented == {key: value for key, value in option.items() if key != "no_log"}, name


def test_what_ansible_validates_has_no_description() -> None:
    options = trtllm_engine.ARGUMENT_SPEC["options"]["options"]
    assert list(options) == list(ENGINE_OPTIONS)
    assert not [name for name, option in options.items() if "description" in option]
    assert options["max_num_tokens"] == {"type": "int", "no_log": False}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("max_batch_size", "V(1) (0.8.0 to 0.10.0), V(256) (0.11.0 to 0.13.0), V(2048) (0.14.0 to "),
        ("tokens_per_block", "V(128) (0.8.0 to 0.9.0), V(64) (0.10.0 to 0.16.0), V(32) (1.0.0 to "),
        ("gemm_plugin", "The tool's default is V(disable) (0.11.0 to 0.16.0)."),
        ("use_fp8", "The tool's default is V(false)."),
        ("paged_kv_cache", "The tool's default is V(true)."),
        ("random_seed", "Known to 0.9.0 to "),
        ("quantize_lm_head", "Known to 0.8.0 and 1.0.0 to "),
    ],
)
def test_the_documentation_says_what_the_tables_say(name: str, says: str) -> None:
    assert says in DOCUMENTED[name]["description"]


@pytest.mark.parametrize("name", ["max_seq_len", "lora_dir", "logits_dtype", "tp_size", "model_family"])
def test_the_documentation_tells_no_default_of_a_tool_that_has_none(name: str) -> None:
    assert "The tool's default" not in DOCUMENTED[name]["description"]


def test_the_module_documents_every_parameter() -> None:
    documented = yaml.safe_load(trtllm_engine.DOCUMENTATION)["options"]
    fragment = {"root", *yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["options"]}
    spec = {name: dict(option) for name, option in trtllm_engine.ARGUMENT_SPEC.items() if name not in fragment}
    for option in documented.values():
        option.pop("description")
    assert documented == spec


def test_the_examples_are_accepted_by_their_releases() -> None:
    tasks = yaml.safe_load(trtllm_engine.EXAMPLES)
    assert len(tasks) >= 9
    families = {"codellama": "llama", "baichuan2": "baichuan", "llama": "llama", "gpt2": "gpt2", "mixtral": "mixtral"}
    for task in tasks:
        given_to_module = task["trtllm.fleet.trtllm_engine"]
        family = families[given_to_module["name"].split("-")[0]]
        made = plan(
            release(given_to_module["release"]), family, given_to_module["options"], PATHS,
            checkpoint_dtype="float16", model_version="v2_13b",
        )  # fmt: skip
        assert made.world_size == len(given_to_module.get("gpus", range(made.world_size)))


def fingerprint(version: str, options: dict[str, Any]) -> str:
    return describe(
        Request("m", Path("/r"), Path("/c"), release(version), "i", [], {"model_family": "llama", **options}),
        release(version), Facts(image_id="sha256:1"), Path("/r"),
    ).fingerprint  # fmt: skip


numbers = {name: st.integers(1, 10_000) for name in ("max_batch_size", "max_num_tokens", "opt_num_tokens")}
switches = {
    name: st.booleans()
    for name in ("remove_input_padding", "gather_context_logits", "strip_plan", "use_parallel_embedding")
}
dtypes = {name: st.sampled_from(["float16", "bfloat16"]) for name in ("dtype", "gemm_plugin")}
some_options = st.fixed_dictionaries({}, optional={**numbers, **switches, **dtypes})
some_releases = st.sampled_from(["0.10.0", "0.12.0", "0.16.0", LAST])


@settings(max_examples=80, deadline=None)
@given(version=some_releases, options=some_options, seed=st.randoms())
def test_the_order_of_options_does_not_matter(version: str, options: dict[str, Any], seed: Any) -> None:
    names = list(options)
    seed.shuffle(names)
    assert fingerprint(version, {name: options[name] for name in names}) == fingerprint(version, options)


@settings(max_examples=80, deadline=None)
@given(version=some_releases, options=some_options, data=st.data())
def test_any_option_that_determines_the_engine_changes_the_fingerprint(
    version: str, options: dict[str, Any], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted({**numbers, **switches, **dtypes})))
    kind = {**numbers, **switches, **dtypes}[name]
    first, second = data.draw(kind), data.draw(kind)
    same = first == second
    one, other = fingerprint(version, {**options, name: first}), fingerprint(version, {**options, name: second})
    assert (one == other) is same


@settings(max_examples=40, deadline=None)
@given(version=some_releases, options=some_options, workers=st.integers(1, 8))
def test_what_does_not_reach_the_engine_does_not_change_it(version: str, options: dict[str, Any], workers: int) -> None:
    assert "workers" in WITHOUT_EFFECT_ON_ENGINE
    assert fingerprint(version, {**options, "workers": workers, "log_level": "info"}) == fingerprint(version, options)


@pytest.mark.parametrize(
    ("version", "defaults"),
    [
        ("0.9.0", {"max_batch_size": 1, "max_seq_len": 2048, "tokens_per_block": 128, "dtype": "float16"}),
        ("0.12.0", {"max_batch_size": 256, "kv_cache_type": "paged", "use_fused_mlp": False}),
        (LAST, {"max_batch_size": 2048, "kv_cache_type": "paged", "use_fused_mlp": True, "tokens_per_block": 32}),
        (LAST, {"paged_kv_cache": True, "moe_tp_size": 1, "moe_ep_size": 1, "gather_context_logits": False}),
    ],
)
def test_a_default_that_is_written_out_is_no_difference(version: str, defaults: dict[str, Any]) -> None:
    assert fingerprint(version, defaults) == fingerprint(version, {})


def test_a_default_that_is_not_established_counts() -> None:
    assert fingerprint("0.19.0", {"tokens_per_block": 32}) != fingerprint("0.19.0", {})


@pytest.mark.parametrize(
    ("version", "options", "sentence"),
    [
        (LAST, {"max_batchsize": 4}, "max_batchsize is not an option of an engine; did you mean 'max_batch_size'?"),
        (LAST, {"use_custom_all_reduce": False}, "(later releases decide it at run time); 0.7.1 to 0.11.0 have it"),
        ("0.10.0", {"moe_tp_size": 1}, f"0.11.0 to {LAST} have it"),
        ("0.16.0", {"gemm_plugin": "nvfp4"}, "gemm_plugin is 'nvfp4', which TensorRT-LLM 0.16.0 does not know"),
        ("0.16.0", {"gemm_plugin": "nvfp4"}, f"1.0.0 to {LAST} have it"),
        ("0.12.0", {"kv_cache_type": "disabled"}, "0.13.0 and later have it"),
        (LAST, {"weight_only_precision": "int8"}, "has no effect without use_weight_only"),
        (LAST, {"max_seq_len": 10, "max_output_len": 5}, "max_output_len are both given; give max_seq_len"),
        (LAST, {"paged_kv_cache": True, "kv_cache_type": "paged"}, "both given; give kv_cache_type"),
        ("0.9.0", {"max_seq_len": 100, "max_input_len": 100}, "nothing is left to generate"),
        (LAST, {"tp_size": 4, "moe_tp_size": 3}, "moe_tp_size * moe_ep_size must be tp_size"),
        (LAST, {"tp_size": 0}, "tp_size is 0; give a number from 1 to 64"),
        (LAST, {"max_batch_size": -1}, "max_batch_size is -1; give a number from 1 to 65,536"),
        (LAST, {"qformat": "fp8", "use_weight_only": True}, "has use_weight_only for llama only without qformat"),
        (LAST, {"kv_cache_dtype": "fp8"}, "has kv_cache_dtype for llama only together with qformat"),
        ("0.7.1", {"qformat": "fp8"}, f"0.8.0 to {LAST} have it"),
        ("1.3.0", {}, f"{LAST} is the last release that builds them"),
    ],
)
def test_refusals_name_what_was_given_and_the_release_that_can(
    version: str, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(FleetError) as refused:
        plan(release(version), "llama", options, PATHS, checkpoint_dtype="float16")
    assert sentence in str(refused.value)


def test_auto_is_spelled_out_for_releases_that_do_not_know_it() -> None:
    def words(version: str, **options: Any) -> list[str]:
        made = plan(release(version), "llama", options, PATHS, checkpoint_dtype="bfloat16")
        return [word for command in made.commands for word in command.argv]

    assert "bfloat16" in words("0.9.0", dtype="auto")
    assert words("0.9.0", dtype="auto", gemm_plugin="auto").count("bfloat16") == 2
    assert "auto" in words(LAST, dtype="auto")
    with pytest.raises(FleetError, match="wants it spelled out"):
        plan(release("0.9.0"), "llama", {"dtype": "auto"}, PATHS)


def test_the_checkpoint_says_which_gpt_it_is() -> None:
    config = parse_config({"architectures": ["GPTBigCodeForCausalLM"], "torch_dtype": "float16"})
    request = Request("m", Path("/r"), Path("/c"), release("0.8.0"), "i", [])
    made = describe(request, release("0.8.0"), Facts(image_id="sha256:1", config=config), Path("/r"))
    assert made.family == "gpt2"
    assert " ".join(made.commands[0].argv).count("--model starcoder") == 1


def test_world_size_is_the_product() -> None:
    assert world_size({}) == 1
    assert world_size({"tp_size": 4, "pp_size": 2, "cp_size": None}) == 8
