# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables of trtllm-serve against what is recorded of upstream: nothing that a release lacks, nothing left out."""

from __future__ import annotations

import itertools

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import Release, release
from ansible_collections.trtllm.fleet.plugins.module_utils._release.serve import (
    OWN_KEYS,
    disaggregated_flags,
    engine_ways,
    flags,
    has_key,
    keys,
    serve_config,
    serving_releases,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._release.serve_data import KEYS
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.disaggregated import PATIENCE
from contract.facts import serve_options

pytest.importorskip("starlette", reason="images/trtllm_serve_cpu/requirements.txt is not installed")

from trtllm_serve import options as image

FIRST, AFTER = "1.0.0", "1.3.0"


def sources(version: str, lists: dict[str, list[str]]) -> list[set[str]]:
    """The lists that say what *version* has: its own, or those on both sides of it."""
    if version == FIRST:
        return [set(lists[FIRST])]
    if version == AFTER:
        return [set(lists[name]) for name in ("1.3.0rc3", "main") if name in lists]
    return [set(lists[FIRST]), set(lists["1.3.0rc3"])]


@pytest.mark.parametrize("version", [row.version for row in serving_releases()])
def test_options_of_the_command_line_are_those_that_are_recorded(version: str) -> None:
    recorded = {name: [flag.lstrip("-") for flag in found] for name, found in serve_options()["flags"].items()}
    known = flags(release(version))
    assert set(known) == set.intersection(*sources(version, recorded))
    assert {name for name, bare in known.items() if bare} == set(known) & {
        flag.lstrip("-") for flag in serve_options()["bare"]
    }


@pytest.mark.parametrize("version", [row.version for row in serving_releases()])
def test_options_of_what_stands_before_servers_are_those_that_are_recorded(version: str) -> None:
    recorded = {name: [flag.lstrip("-") for flag in found] for name, found in serve_options()["disaggregated"].items()}
    known = disaggregated_flags(release(version))
    assert known == set.intersection(*sources(version, recorded))
    assert {"config_file", *PATIENCE} <= known, "what a unit gives"


@pytest.mark.parametrize(
    ("version", "mapping"), list(itertools.product([row.version for row in serving_releases()], KEYS))
)
def test_keys_of_the_file_are_those_that_are_recorded(version: str, mapping: str) -> None:
    assert keys(release(version), mapping) == set.intersection(*sources(version, serve_options()["keys"][mapping]))


def test_every_mapping_that_is_recorded_has_a_table() -> None:
    assert set(KEYS) == set(serve_options()["keys"])


def everything(known: Release) -> dict[str, object]:
    """Every option of an engine that the release can be told."""
    given = {"fp8_kv_cache": True, "kv_cache_type": "paged", "paged_kv_cache": True, "dtype": "auto"}
    found = {option: given.get(option, 2) for option, key in engine_ways().items() if not key or has_key(known, key)}
    found.pop("kv_cache_dtype")  # fp8_kv_cache says it
    return found


@pytest.mark.parametrize("version", [row.version for row in serving_releases()])
def test_all_that_is_written_is_recorded(version: str) -> None:
    known = release(version)
    config = serve_config(known, everything(known), {}, {})
    for mapping, lists in serve_options()["keys"].items():
        part = config
        for name in filter(None, mapping.split(".")):
            part = part.get(name) or {}
        for found in sources(version, lists):
            assert set(part) <= found
    assert not set(config) & set(OWN_KEYS)


def test_the_image_has_the_options_and_keys_of_its_version() -> None:
    recorded = serve_options()
    names = {name for option in image.OPTIONS for name in option.names}
    assert names == set(recorded["flags"]["1.3.0rc3"])
    assert {name for option in image.OPTIONS if option.kind is bool for name in option.names} == names & set(
        recorded["bare"]
    )
    front = [name for action in image.disaggregated_parser()._actions for name in action.option_strings]
    assert {name for name in front if name.startswith("--")} - {"--help"} == set(recorded["disaggregated"]["1.3.0rc3"])
    for mapping, names in image.KEYS.items():
        assert names == set(recorded["keys"][mapping]["1.3.0rc3"]), mapping


@pytest.mark.parametrize("version", [AFTER])
def test_the_image_takes_what_is_written_for_its_release(version: str) -> None:
    config = serve_config(release(version), {"tp_size": 2, "max_batch_size": 8, "dtype": "float16"}, {}, {})
    assert set(config) <= image.KEYS[""]
    assert set(config["kv_cache_config"]) <= image.KEYS["kv_cache_config"]
