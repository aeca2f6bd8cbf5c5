# SPDX-License-Identifier: GPL-3.0-or-later
"""A new release is rows of a table and ``make docs``: nothing else names the last release with engines."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._release.lookup import BUILD_TOOL, find_all
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import RELEASES, Release

TABLE = "plugins/module_utils/_release/releases.py"
FLAGS = "plugins/module_utils/_release/cli_data.py"
GENERATED = "plugins/doc_fragments/engine_options.py"
# Where a release may stand as an example, as a fact of one release, or as the one that something of ours imitates.
EXAMPLES = [
    "README.md", "docs/*.md", "changelogs/*", "CHANGELOG.md", "group_vars/*", "inventories/*", "molecule/*",
    "roles/*", "plugins/filter/*.yml",
    # What an image holds and says, and what calls it by its tag.
    "images/*", "tools/demo.py", "tests/testbed/README.md", "tests/gpu/*", "tests/bench/*", "tests/faults/*",
    # Recorded, and versions of other packages.
    "tests/data/*", "tests/contract/data/*", "docs/pictures/*", "tools/site/requirements.txt",
    "plugins/plugin_utils/benchmark/requirements.txt",
]  # fmt: skip
# What the last release calls the option, and the next one.
OLD = next(iter(find_all(BUILD_TOOL, "max_num_tokens", RELEASES[LAST]))).name
NEW = f"{OLD}_anew"
NEXT = "{}.{}.{}".format(*(int(number) + (place == 2) for place, number in enumerate(LAST.split("."))))


def examples_of(text: str) -> str:
    """What a module's EXAMPLES and RETURN hold."""
    held = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("EXAMPLES", "RETURN"):
            held.append(ast.literal_eval(node.value))
    return "".join(held)


def test_only_the_tables_name_the_last_release_with_engines(repo_dir: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=repo_dir, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout, so what belongs to it cannot be told from what was built in it")
    named = []
    for name in listed.stdout.split():
        path = repo_dir / name
        may = name in (TABLE, FLAGS, GENERATED) or any(fnmatch(name, pattern) for pattern in EXAMPLES)
        if may or not path.is_file():
            continue
        text = path.read_bytes().decode(errors="replace").replace("\\.", ".")
        allowed = examples_of(text).count(LAST) if fnmatch(name, "plugins/modules/*.py") else 0
        if text.count(LAST) > allowed:
            named.append(name)
    assert named == []
    assert (repo_dir / TABLE).read_text().count(LAST) == 1


def test_the_last_release_with_engines_is_the_table_s() -> None:
    order = list(RELEASES.values())
    assert [row.flow for row in order[order.index(RELEASES[LAST]) + 1 :]] == ["llmapi"]
    assert isinstance(RELEASES[LAST], Release) and RELEASES[LAST].flow == "convert+build"


@pytest.fixture(scope="module")
def newcomer(repo_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree with a release that calls ``--max_num_tokens`` otherwise, and no more by hand than its rows."""
    root = tmp_path_factory.mktemp("newcomer") / "fleet"
    for name in ("plugins", "roles", "docs", "tools", "meta", "collections"):
        shutil.copytree(
            repo_dir / name, root / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", ".*_cache")
        )
    edited = 0
    for name, pattern, replacement in (
        (TABLE, rf"^({re.escape(LAST)} .*)$", lambda row: f"{row[1]}\n{row[1].replace(LAST, NEXT)}"),
        (
            FLAGS, rf"^{OLD}( +\| [\d.]+-) +(\|.*)$",
            lambda row: f"{OLD}{row[1]}{LAST} {row[2]}\n{NEW} | {NEXT}- | int | 8192 | | max_num_tokens",
        ),
    ):  # fmt: skip
        before = (root / name).read_text()
        after, times = re.subn(pattern, replacement, before, flags=re.M)
        assert times == 1, name
        edited += len(set(after.splitlines()) - set(before.splitlines()))
        (root / name).write_text(after)
    assert edited <= 3
    return root


def run(root: Path, *argv: str) -> str:
    done = subprocess.run([sys.executable, *argv], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_documentation_of_a_new_release_is_generated(newcomer: Path) -> None:
    assert f"to {NEXT}" not in (newcomer / GENERATED).read_text()
    assert GENERATED in run(newcomer, "tools/docs.py")
    text = (newcomer / GENERATED).read_text()
    assert f"to V({NEXT}), the last one with engines" in text and f"to V({LAST})" not in text
    says = " ".join(text[text.index("max_num_tokens:") : text.index("opt_num_tokens:")].split())
    assert re.search(rf"Known to 0\.7\.1 to {NEXT}\. The tool's default is V\(8192\) \(0\.11\.0 to .*{NEXT}\)", says)
    run(newcomer, "tools/docs.py", "--check")


def test_a_renamed_flag_reaches_the_command_of_its_release_alone(newcomer: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, "collections")
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import release
from ansible_collections.trtllm.fleet.plugins.module_utils._release.cli import Paths, plan
for version in ("{LAST}", "{NEXT}"):
    options = {{"max_num_tokens": 512}}
    made = plan(release(version), "llama", options, Paths("/c", "/v", "/e"), checkpoint_dtype="float16")
    print(" ".join(made.commands[-1].argv))
"""
    old, new = run(newcomer, "-c", script).splitlines()
    assert f"--{OLD} 512" in old and f"--{NEW}" not in old
    assert f"--{NEW} 512" in new and f"--{OLD} " not in new
