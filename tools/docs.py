# SPDX-License-Identifier: GPL-3.0-or-later
"""What is generated from one source: ``docs.py`` writes it, ``docs.py --check`` compares.

* ``docs/reference.md``, the reference of all roles, from their argument specs;
* what each flavour of the OpenAI gateway can do, in its page, from the table of flavours;
* the supported platforms in roles' metadata and pages, from the table of platforms;
* the documentation of an engine's options, from the table of options and those of the releases;
* where things are kept on a host, in doc fragments, defaults and argument specs;
* what may be said about a replica, in defaults, settings and argument specs of the role triton.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from _stages import REPO

# The checkout is its own collection, so what is generated comes from the code beside it.
sys.path.insert(0, str(REPO / "collections"))

import doc_engine_options
import doc_flavours
import doc_platforms
import doc_replica
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
    "tokenizer",
    "openai_gateway",
    "kubernetes",
    "slurm",
    "monitoring",
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


def reference(texts: Mapping[Path, str]) -> str:
    """The whole page; *texts* has the argument specs that are about to be written."""
    parts = [HEAD]
    for role in ROLES:
        specs = REPO / "roles" / role / "meta" / "argument_specs.yml"
        entries = yaml.safe_load(texts.get(specs) or specs.read_text(encoding="utf-8"))["argument_specs"]
        if role == "fleet":
            engine = entries["main"]["options"]["trtllm_models"]["options"]["engine"]
            engine["options"] = doc_engine_options.engine_keys()
        for name, entry in entries.items():
            if name != "main" and set(entry.get("options", {})) <= set(entries["main"].get("options", {})):
                continue
            title = f"## {role}" if name == "main" else f"### {role}, tasks_from: {name}"
            parts.append(f"\n{title}\n\n{plain(entry['short_description'])}.\n")
            description = entry.get("description", [])
            for paragraph in description if isinstance(description, list) else [description]:
                parts.append(f"\n{plain(paragraph)}\n")
            if entry.get("options"):
                parts.append("\n| variable | type | default | |\n|---|---|---|---|\n")
                parts.append("\n".join(rows(entry["options"])) + "\n")
    return "".join(parts)


def generated() -> dict[Path, str]:
    """Every file that is generated, or has parts that are, as it should be."""
    specs = doc_replica.with_replica(REPO, doc_root.with_root(REPO))
    return {
        **specs,
        **doc_platforms.platform_texts(),
        **doc_flavours.flavour_texts(),
        ENGINE_FRAGMENT: doc_engine_options.fragment(),
        OUT: reference(specs),
    }


def main() -> int:
    texts = generated()
    stale = [path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    names = ", ".join(str(path.relative_to(REPO)) for path in stale)
    if "--check" in sys.argv[1:]:
        if stale:
            print(f"docs: {names}: not what its source says; run `make docs`.", file=sys.stderr)
        return 1 if stale else 0
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    print(f"docs: wrote {names or 'nothing, all is as it should be'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
