# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference of all roles, from their argument specs: ``docs.py`` writes it, ``docs.py --check`` compares."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).resolve().parent.parent
OUT = REPO / "docs" / "reference.md"
# The order in which site.yml uses them.
ROLES = [
    "fleet",
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


def reference() -> str:
    """The whole page."""
    parts = [HEAD]
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


def main() -> int:
    text = reference()
    if "--check" in sys.argv[1:]:
        if not OUT.exists() or OUT.read_text(encoding="utf-8") != text:
            print("docs: docs/reference.md is not what the argument specs say; run `make docs`.", file=sys.stderr)
            return 1
        return 0
    OUT.write_text(text, encoding="utf-8")
    print(f"docs: wrote {OUT.relative_to(REPO)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
