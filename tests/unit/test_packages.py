# SPDX-License-Identifier: GPL-3.0-or-later
"""The packages of ``plugins/module_utils`` and what each may import: downwards only, never in a circle."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

# package -> the packages that it may import. The order is the floors: each only names packages above its own line.
MAY_IMPORT: dict[str, set[str]] = {
    "_base": set(),
    "_release": {"_base"},
    "_artifact": {"_base"},
    "_checkpoint": {"_base", "_artifact"},
    "_podman": {"_base", "_artifact"},
    "_hub": {"_base", "_artifact", "_checkpoint", "_podman"},
    "_host": {"_base", "_release", "_podman"},
    "_service": {"_base", "_podman"},
    "_gateway": {"_base", "_release", "_host", "_service"},
    "_engine": {"_base", "_release", "_artifact", "_checkpoint", "_podman", "_host"},
    "_repository": {"_base", "_release", "_artifact", "_checkpoint", "_podman"},
    "_triton": {"_base", "_release", "_podman", "_host", "_service"},
    "_rollout": {"_base", "_service", "_triton"},
    "_prune": {
        "_base",
        "_artifact",
        "_checkpoint",
        "_podman",
        "_service",
        "_gateway",
        "_engine",
        "_triton",
        "_rollout",
    },
    "_settled": {"_base", "_artifact", "_podman", "_host", "_service", "_triton"},
    "_plan": {"_base", "_hub", "_release", "_repository", "_triton"},
    "_fleet": {"_base", "_checkpoint", "_gateway", "_triton"},
    "_migrate": {"_base", "_release", "_plan"},
    "_kubernetes": {
        "_base",
        "_release",
        "_artifact",
        "_podman",
        "_hub",
        "_host",
        "_engine",
        "_repository",
        "_triton",
    },
    "_slurm": {"_base", "_release", "_repository", "_engine", "_triton", "_plan"},
}


def imported(path: Path, root: Path) -> Iterator[str]:
    """The packages of module_utils that one file imports; only relative imports are used there."""
    package = path.relative_to(root).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            absolute = (node.module or "").startswith("ansible_collections.")
            assert not absolute, f"{path}:{node.lineno}: import relatively"
            if node.level:
                base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
                names = [base[0]] if base[0] else [alias.name for alias in node.names]
                yield from (name for name in names if name != package[:1])


def arrows(root: Path) -> dict[str, set[str]]:
    """package -> packages that it imports, as the files have it."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in root.rglob("*.py"):
        here = path.relative_to(root).with_suffix("").parts[0]
        found[here] |= set(imported(path, root)) - {here}
    found.pop("__init__", None)
    return dict(found)


def test_packages_import_only_what_stands_below_them(repo_dir: Path) -> None:
    found = arrows(repo_dir / "plugins" / "module_utils")
    assert set(found) == set(MAY_IMPORT), "a new package needs a line in MAY_IMPORT"
    for package, names in found.items():
        assert names <= MAY_IMPORT[package], f"{package} may not import {sorted(names - MAY_IMPORT[package])}"


def test_there_is_no_circle_and_no_arrow_upwards() -> None:
    floors = list(MAY_IMPORT)
    for package, names in MAY_IMPORT.items():
        assert all(floors.index(name) < floors.index(package) for name in names), package
