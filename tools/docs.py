# SPDX-License-Identifier: GPL-3.0-or-later
"""What is generated from one source: ``docs.py`` writes it, ``docs.py --check`` compares.

* ``docs/reference.md``, the reference of all roles, from their argument specs and the table of platforms;
* the platforms in ``meta/main.yml`` of the roles that prepare hosts, from the same table;
* the documentation of an engine's options, from the table of options and those of the releases;
* where things are kept on a host, in doc fragments, defaults and argument specs.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).resolve().parent.parent
# The checkout is its own collection, so what is generated comes from the code beside it.
sys.path.insert(0, str(REPO / "collections"))

import doc_engine_options
import doc_root

OUT = REPO / "docs" / "reference.md"
ENGINE_FRAGMENT = REPO / "plugins" / "doc_fragments" / "engine_options.py"
# The order in which site.yml uses them.
ROLES = [
    "fleet",
    "gpu_host",
    "gpu_driver",
    "container_toolkit",
    "podman",
    "triton_image",
    "checkpoint",
    "engine",
    "model_repository",
    "triton",
    "openai_gateway",
]
PLATFORMS = REPO / "roles" / "gpu_host" / "vars" / "main.yml"
# The roles that know one system from another.
HOST_ROLES = ("gpu_host", "podman", "gpu_driver", "container_toolkit")
HEAD = """# Reference of the roles

Generated from `roles/*/meta/argument_specs.yml` by `make docs`. Modules document themselves:
`ansible-doc trtllm.fleet.trtllm_engine`, and so on.
"""


def plain(text: Any) -> str:
    """Ansible's semantic markup as Markdown."""
    joined = " ".join(text) if isinstance(text, list) else str(text or "")
    joined = re.sub(r"\b[OVC]\(([^)]*)\)|\bRV\(([^)]*)\)", lambda m: f"`{m.group(1) or m.group(2)}`", joined)
    joined = re.sub(r"\bP\(([^#)]*)#role\)|\bM\(([^)]*)\)", lambda m: f"`{m.group(1) or m.group(2)}`", joined)
    joined = re.sub(r"\b[BI]\(([^)]*)\)", r"*\1*", joined)
    return " ".join(joined.split()).replace("|", "\\|")


def rows(options: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """One table row per option, nested ones below their parent."""
    for name, option in options.items():
        kind = option.get("type", "str")
        if option.get("elements"):
            kind += f" of {option['elements']}"
        if option.get("choices"):
            kind += ": " + ", ".join(f"`{choice}`" for choice in option["choices"])
        if option.get("required"):
            default = "required"
        elif "default" in option:
            default = f"`{json.dumps(option['default'])}`"
        else:
            default = ""
        yield f"| `{prefix}{name}` | {kind} | {default} | {plain(option.get('description'))} |"
        if "options" in option:
            yield from rows(option["options"], f"{prefix}{name}{'[]' if option.get('type') == 'list' else ''}.")


def platforms() -> dict[str, dict[str, Any]]:
    """The supported systems, one row each."""
    rows_: dict[str, dict[str, Any]] = yaml.safe_load(PLATFORMS.read_text(encoding="utf-8"))["__gpu_host_platforms"]
    return rows_


def supported_systems() -> str:
    """The table of supported systems."""
    lines = [
        "\n## Supported systems\n\n",
        "| system | packages | podman of its own | NVIDIA's driver repository |\n|---|---|---|---|\n",
    ]
    for row in platforms().values():
        lines.append(f"| {row['name']} | {row['manager']} | {row['podman']} | `{row['nvidia']}` |\n")
    return "".join(lines) + "\nEL is RHEL, Rocky, Alma or CentOS. Each on x86_64 and aarch64.\n"


def galaxy_platforms(role: str) -> str:
    """``meta/main.yml`` of *role* with the platforms of the table."""
    text = (REPO / "roles" / role / "meta" / "main.yml").read_text(encoding="utf-8")
    versions: dict[str, list[str]] = {}
    for row in platforms().values():
        name, version = row["galaxy"]
        versions.setdefault(name, []).append(version)
    block = "".join(
        f"    - name: {name}\n      versions: [{', '.join(json.dumps(v) if v.isdigit() else v for v in found)}]\n"
        for name, found in versions.items()
    )
    return re.sub(r"(  platforms:\n)(?:    .*\n)+", rf"\g<1>{block}", text)


def reference() -> str:
    """The whole page."""
    parts = [HEAD, supported_systems()]
    for role in ROLES:
        specs = REPO / "roles" / role / "meta" / "argument_specs.yml"
        main = yaml.safe_load(specs.read_text(encoding="utf-8"))["argument_specs"]["main"]
        parts.append(f"\n## {role}\n\n{plain(main['short_description'])}.\n")
        description = main.get("description", [])
        for paragraph in description if isinstance(description, list) else [description]:
            parts.append(f"\n{plain(paragraph)}\n")
        if main.get("options"):
            parts.append("\n| variable | type | default | |\n|---|---|---|---|\n")
            parts.append("\n".join(rows(main["options"])) + "\n")
    return "".join(parts)


def generated() -> dict[Path, str]:
    """Every generated file with its text."""
    metas = {REPO / "roles" / role / "meta" / "main.yml": galaxy_platforms(role) for role in HOST_ROLES}
    return {OUT: reference(), ENGINE_FRAGMENT: doc_engine_options.fragment(), **metas, **doc_root.with_root(REPO)}


def main() -> int:
    stale = {
        path: text
        for path, text in generated().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    names = ", ".join(str(path.relative_to(REPO)) for path in stale)
    if "--check" in sys.argv[1:]:
        if stale:
            print(f"docs: {names} is not what its source says; run `make docs`.", file=sys.stderr)
        return 1 if stale else 0
    for path, text in stale.items():
        path.write_text(text, encoding="utf-8")
    print(f"docs: wrote {names}" if stale else "docs: all is as its source says")
    return 0


if __name__ == "__main__":
    sys.exit(main())
