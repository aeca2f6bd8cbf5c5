# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role triton repeats of the table of a replica's options: defaults, settings and argument specs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ansible_collections.trtllm.fleet.plugins.module_utils._triton.options import REPLICA_OPTIONS, ReplicaOption
from doc_yaml import fill, list_of, text_of, value_of

ROLE = Path("roles") / "triton"
VARIABLES = [option for option in REPLICA_OPTIONS if option.variable]
# The entry point preflight of the role refers to it.
ANCHORED = "address"


def _default(option: ReplicaOption) -> str:
    comment = re.sub(r"\b[OVC]\(([^)]*)\)", r"\1", option.description)
    return f"{fill(comment, '# ')}\ntriton_{option.name}: {value_of(option.default)}\n"


def _spec(name: str, option: ReplicaOption, indent: str, description: str) -> str:
    inner = indent + "  "
    anchor = f" &{ANCHORED}" if name == f"triton_{ANCHORED}" else ""
    parts = [f"{indent}{name}:{anchor}\n", f"{inner}type: {option.type}\n"]
    if option.elements:
        parts.append(f"{inner}elements: {option.elements}\n")
    if option.choices:
        parts.append(list_of("choices", option.choices, inner))
    if option.required:
        parts.append(f"{inner}required: true\n")
    if name.startswith("triton_") and option.default is not None:
        parts.append(f"{inner}default: {value_of(option.default)}\n")
    return "".join([*parts, text_of("description", description, inner)])


def _of_replica(option: ReplicaOption) -> str:
    description = f"Instead of O(triton_{option.name})." if option.variable else option.description
    return _spec(option.name, option, " " * 10, description)


def _of_role(option: ReplicaOption) -> str:
    return _spec(f"triton_{option.name}", option, " " * 6, option.description)


# File and block -> its text.
BLOCKS: Mapping[tuple[str, str], str] = {
    ("defaults/main.yml", "what holds for every replica"): "\n".join(map(_default, VARIABLES)),
    ("vars/main.yml", "what holds for every replica"): "".join(
        f'  {option.name}: "{{{{ triton_{option.name} }}}}"\n' for option in VARIABLES
    ),
    ("meta/argument_specs.yml", "one replica"): "".join(map(_of_replica, REPLICA_OPTIONS)),
    ("meta/argument_specs.yml", "what holds for every replica"): "".join(map(_of_role, VARIABLES)),
}


def with_replica(repo: Path, texts: dict[Path, str]) -> dict[Path, str]:
    """*texts* with the blocks between the marks written anew, of files that are not among them too."""
    found = dict(texts)
    for (file, block), text in BLOCKS.items():
        path = repo / ROLE / file
        before = found.get(path) or path.read_text(encoding="utf-8")
        parts = re.split(rf"(^ *# BEGIN {block}.*\n|^ *# END {block}\n)", before, flags=re.M)
        if len(parts) != 5:
            raise ValueError(f"{path}: '{block}' has to stand there once, between its marks BEGIN and END.")
        parts[2] = text
        found[path] = "".join(parts)
    return found
