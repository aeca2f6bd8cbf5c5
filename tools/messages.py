#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every sentence with which the collection refuses or fails, and which of them docs/troubleshooting.md has to explain.

A sentence that says itself what to do needs no entry. What is filled in is shown as `…`. Without an argument, print
what lacks an entry, and entries of what is not said any more; with `all`, all sentences with their places.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from _stages import REPO, main_guard

PAGE = REPO / "docs" / "troubleshooting.md"
GAP = "…"
# What users read as it is; other errors are bugs, or are turned into one of these.
ERRORS = {
    "AnsibleActionFail",
    "AnsibleError",
    "AnsibleFilterError",
    "AnsibleLookupError",
    "FleetError",
    "PodmanError",
    "Refused",
    "TritonError",
    "YamlError",
}
# What tells an operator to do something, at the beginning of a sentence or of a part of it.
VERBS = """
add allow ask boot bring build cancel change check choose close connect convert copy correct cut delete deploy
describe download drop enable end expected fetch free give install keep leave let load look lower make mend mount
move name open pack pass pick pull push put raise read reboot receive remove rename repair replace run say see
serve set spread start stop take try turn unload update upgrade use wait write
""".split()  # noqa: SIM905 - a list of words reads better as words
DOES = re.compile(
    r"(?:^|(?:[;:.,)}'`…-]|\b(?:so|and|or|then|first))\s+(?:(?:so|or|and|then|first)\s+)?)(?:"
    + "|".join(VERBS)
    + r")\b",
    re.I,
)
# What names what is taken instead of what was given: then it is plain what to write.
TAKES = re.compile(
    r"it takes|takes (?:one|path|paths|only|…)|one of (?:…|them)|can be …|(?:it|them) (?:has|have) …|there are …"
    r"|it builds …|[Kk]nown are|known there: …|knows …|must be|has to|needs (?:it|at least|Container)|is needed"
    r"|has letters|did you mean|and later have it|that has is …|the first with|is a number from"
)


@dataclass(frozen=True)
class Message:
    """A sentence and where it is said."""

    text: str
    path: str
    line: int

    @property
    def needs_entry(self) -> bool:
        """Whether an operator would ask what to do; what only passes on another sentence says nothing itself."""
        if len(re.findall(r"[A-Za-z]{2,}", self.text)) < 2:
            return False
        return not (DOES.search(self.text) or TAKES.search(self.text))


def text_of(node: ast.expr) -> str | None:
    """The text of an expression, with gaps; None where it is none."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = text_of(node.left), text_of(node.right)
        return None if left is None and right is None else f"{left or GAP}{right or GAP}"
    return None


def plain(text: str) -> str:
    """*text* on one line, without what would end code in Markdown; neighbouring gaps are one."""
    return re.sub(r"(?:…\s*)+…", GAP, " ".join(text.replace("`", "'").split()))


def texts_of(node: ast.expr) -> list[str]:
    """The texts that an expression may be: of a condition both."""
    if isinstance(node, ast.IfExp):
        return [*texts_of(node.body), *texts_of(node.orelse)]
    found = text_of(node)
    return [] if found is None else [found]


def said_in_python(path: Path) -> Iterator[Message]:
    """What *path* raises, or hands to fail_json."""
    name = path.relative_to(REPO).as_posix()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        arguments: list[ast.expr] = []
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            called = node.exc.func
            if (called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")) in ERRORS:
                arguments = node.exc.args[:1]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "fail_json":
            arguments = [word.value for word in node.keywords if word.arg == "msg"]
        for argument in arguments:
            yield from (Message(plain(text), name, argument.lineno) for text in texts_of(argument))


def said_in_tasks(path: Path) -> Iterator[Message]:
    """What the tasks of *path* say where they refuse something."""

    def tasks(value: Any) -> Iterator[str]:
        if isinstance(value, list):
            for each in value:
                yield from tasks(each)
        elif isinstance(value, dict):
            yield from (value[key]["fail_msg"] for key in value if key.endswith("assert") and "fail_msg" in value[key])
            yield from (value[key]["msg"] for key in value if key.endswith("builtin.fail"))
            for each in value.values():
                yield from tasks(each)

    text = path.read_text(encoding="utf-8")
    for said in tasks(yaml.safe_load(text)):
        own = max(re.split(r"\{\{.*?\}\}", said, flags=re.S), key=len).split()  # as it may be wrapped in the file
        found = re.search(r"\s+".join(map(re.escape, own)), text)
        line = text.count("\n", 0, found.start()) + 1 if found else 1
        yield Message(
            plain(re.sub(r"\{\{.*?\}\}|\{%.*?%\}", GAP, said, flags=re.S)), path.relative_to(REPO).as_posix(), line
        )


def messages() -> list[Message]:
    """All that is said, in the order of the files."""
    found: list[Message] = []
    for path in sorted((REPO / "plugins").rglob("*.py")):
        found += said_in_python(path)
    for folder in ("playbooks", "roles"):
        for path in sorted((REPO / folder).rglob("*.yml")):
            if "tasks" in path.parts or folder == "playbooks":
                found += said_in_tasks(path)
    return found


def entries(page: str) -> list[str]:
    """The sentences that the page explains: lines that are nothing but one, in bold code."""
    return re.findall(r"^\*\*`(.+)`\*\*\\?$", page, re.M)


def problems(said: list[Message], explained: list[str]) -> list[str]:
    """What is said and not explained, and what is explained and not said."""
    known = set(explained)
    found = [
        f"{each.path}:{each.line}: no entry for: {each.text}"
        for each in said
        if each.needs_entry and each.text not in known
    ]
    texts = {each.text for each in said}
    found += [f"docs/troubleshooting.md: nothing says any more: {text}" for text in explained if text not in texts]
    found += [
        f"docs/troubleshooting.md: explained twice: {text}" for text in sorted(known) if explained.count(text) > 1
    ]
    return found


def main() -> int:
    said = messages()
    if sys.argv[1:] == ["all"]:
        for each in said:
            print(f"{each.path}:{each.line}: {'needs an entry' if each.needs_entry else 'says it'}: {each.text}")
        return 0
    found = problems(said, entries(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else [])
    print("\n".join([*found, f"messages: {len(said)} sentences, {sum(m.needs_entry for m in said)} need an entry"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main_guard("messages", main))
