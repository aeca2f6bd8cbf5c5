# SPDX-License-Identifier: GPL-3.0-or-later
"""The cache directory is the same one for the tools, the images, the test hosts, the inventories and tools/setup."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.trtllm.fleet.plugins.lookup.cache_dir import LookupModule
from ansible_collections.trtllm.fleet.plugins.plugin_utils._cache import cache_dir
from testbed import settings

sys.path[:0] = [str(Path(__file__).resolve().parents[3] / "images")]
import _build

VARIABLES = ("TRTLLM_FLEET_CACHE", "XDG_CACHE_HOME", "HOME")


@pytest.mark.parametrize(
    ("environment", "directory"),
    [
        ({"HOME": "/h"}, "/h/.cache/trtllm-fleet"),
        ({"HOME": "/h", "XDG_CACHE_HOME": ""}, "/h/.cache/trtllm-fleet"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/x/trtllm-fleet"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x", "TRTLLM_FLEET_CACHE": "/c"}, "/c"),
        ({"HOME": "/h", "TRTLLM_FLEET_CACHE": ""}, "/h/.cache/trtllm-fleet"),
    ],
)
def test_everybody_follows_one_rule(
    environment: dict[str, str], directory: str, repo_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    rule = re.search(r"^cache=.*$", (repo_dir / "tools" / "setup").read_text(), re.MULTILINE)
    assert rule is not None
    shell = subprocess.run(
        ["sh", "-euc", f'{rule.group()}; printf %s "$cache"'], check=True, capture_output=True, text=True
    )
    assert shell.stdout == directory
    assert cache_dir() == _build.cache_dir() == Path(directory)
    assert settings.from_environment().cache == Path(directory, "testbed")
    lookup = LookupModule()
    assert lookup.run([]) == [directory]
    assert lookup.run(["demo/tiny"]) == [f"{directory}/demo/tiny"]


def test_nobody_else_spells_the_rule(repo_dir: Path) -> None:
    listed = subprocess.run(
        ["git", "grep", "-lE", "XDG_CACHE_HOME|TRTLLM_FLEET_CACHE", "--", ":!docs", ":!tests/unit", ":!changelogs"],
        cwd=repo_dir, capture_output=True, text=True, check=True,
    )  # fmt: skip
    # The last one gives a run a place of its own.
    explained = {"tests/testbed/README.md", "plugins/lookup/cache_dir.py", "tests/bench/bench_checkpoint.py"}
    assert set(listed.stdout.split()) - explained == {"plugins/plugin_utils/_cache.py", "tools/setup"}
