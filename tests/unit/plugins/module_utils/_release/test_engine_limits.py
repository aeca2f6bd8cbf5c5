# SPDX-License-Identifier: GPL-3.0-or-later
"""What needs no release to be refused: numbers out of bounds and contradictions, by plan and module alike."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._engine.plan import Request, gather
from ansible_collections.trtllm.fleet.plugins.module_utils._plan import plan as fleet_plan
from ansible_collections.trtllm.fleet.plugins.module_utils._release.limits import (
    BOUNDS,
    NEEDS,
    check_options,
    check_settings,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._release.options import ENGINE_OPTIONS
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import release
from ansible_collections.trtllm.fleet.plugins.modules import trtllm_engine
from unit.plugins.module_utils.test_plan import description, model

NUMERIC = {name for name, option in ENGINE_OPTIONS.items() if option["type"] in ("int", "float")}
ABSURD: list[tuple[dict[str, Any], str]] = [
    ({"max_batch_size": 0}, "max_batch_size is 0; give a number from 1 to 65,536."),
    ({"max_input_len": 0}, "max_input_len is 0; give a number from 1"),
    ({"max_num_tokens": 0}, "max_num_tokens is 0; give a number from 1"),
    ({"max_beam_width": 0}, "max_beam_width is 0; give a number from 1"),
    ({"workers": 0}, "workers is 0; give a number from 1 to 64."),
    ({"max_seq_len": 10**12}, "max_seq_len is 1000000000000; give a number from 1 to 16,777,216."),
    ({"smoothquant": 7.0}, "smoothquant is 7.0; give a number from 0 to 1."),
    ({"smoothquant": -1.0}, "smoothquant is -1.0; give a number from 0 to 1."),
    ({"smoothquant": math.nan}, "smoothquant is nan; give a number from 0 to 1."),
    ({"auto_quantize_bits": -4.0}, "auto_quantize_bits is -4.0; give a number from 4 to 16."),
    ({"builder_opt": 9}, "builder_opt is 9; give a number from 0 to 5."),
    ({"moe_ep_size": 0}, "moe_ep_size is 0; give a number from 1 to 64, or -1 to let the tool choose."),
    ({"max_input_len": 5000, "max_seq_len": 100}, "max_seq_len is 100 but max_input_len is 5000"),
    ({"tp_size": 10**8}, "tp_size is 100000000; give a number from 1 to 64."),
    ({"tp_size": 64, "pp_size": 64}, "tp_size * pp_size * cp_size is 4,096; give at most 1,024 ranks."),
    ({"lora_dir": ["/adapter"]}, "lora_dir has no effect without lora_plugin; give lora_plugin too"),
    ({"lora_dir": ["/adapter"], "lora_plugin": "disable"}, "lora_dir has no effect without lora_plugin"),
    ({"per_channel": True}, "per_channel has no effect without smoothquant"),
    ({"per_token": True}, "per_token has no effect without smoothquant"),
    ({"weight_only_precision": "int4"}, "weight_only_precision has no effect without use_weight_only"),
]


@pytest.mark.parametrize(("options", "sentence"), ABSURD)
def test_what_the_module_refuses_the_plan_refuses_in_the_same_words(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FleetError) as refused:
        gather(Request("m", Path("/r"), Path("/c"), release(LAST), options=options), tolerant=True)
    assert sentence in str(refused.value)
    with pytest.raises(FleetError) as planned:
        fleet_plan(description(model("tiny", options)))
    assert str(planned.value) == f"tiny: engine.{refused.value}"


@pytest.mark.parametrize(
    "options",
    [
        {"smoothquant": 0.0, "per_channel": True},
        {"per_channel": False, "embedding_sharding_dim": 0},
        {"max_input_len": 512, "max_seq_len": 512},
        {"max_draft_len": 0, "builder_opt": 0, "max_prompt_embedding_table_size": 0, "moe_tp_size": -1},
        {"tp_size": 64, "max_batch_size": None},
        {"lora_dir": ["/adapter"], "lora_plugin": "auto", "max_lora_rank": 8},
    ],
)
def test_what_is_rare_but_right_passes(options: dict[str, Any]) -> None:
    check_options(options)


def test_every_number_that_can_be_given_has_bounds() -> None:
    free = {name for name in NUMERIC if "choices" not in ENGINE_OPTIONS[name]}
    assert set(BOUNDS) == free
    for name, (lowest, highest, _) in BOUNDS.items():
        assert lowest < highest, name
        default = ENGINE_OPTIONS[name].get("default")
        assert default is None or lowest <= default <= highest, name
    assert {*NEEDS, *NEEDS.values()} <= set(ENGINE_OPTIONS)


def test_ten_to_the_eight_ranks_take_no_memory() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FleetError):
            gather(Request("m", Path("/r"), Path("/c"), options={"tp_size": 10**8}), tolerant=True)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"timeout": -5}, "timeout is -5; give a number from 0 to"), ({"poll": 0}, "poll is 0; give a number from 1 to")],
)
def test_seconds_have_bounds_too(settings: dict[str, int], sentence: str) -> None:
    with pytest.raises(FleetError, match=sentence):
        check_settings(**settings)
    params = {name: option.get("default") for name, option in trtllm_engine.ARGUMENT_SPEC.items()}
    with pytest.raises(FleetError, match=sentence):
        trtllm_engine.run({**params, "name": "m", "checkpoint": "/c", **settings}, check_mode=True)


@pytest.mark.parametrize("image", [None, "localhost/triton:1"])
def test_a_release_without_engines_says_so_and_which_to_choose(image: str | None) -> None:
    request = Request("m", Path("/r"), Path("/c"), release("1.3.0"), image, [])
    with pytest.raises(FleetError) as refused:
        gather(request, tolerant=False)
    assert str(refused.value) == (
        f"TensorRT-LLM 1.3.0 has no engines any more (it serves checkpoints directly); {LAST} is the last release that "
        "builds them, so choose it or an earlier one."
    )
