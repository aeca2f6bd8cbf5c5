#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the documentation site: README, docs, pages of roles and images, playbooks, and what plugins say of themselves.

Everything is one site with one search, without anything of another host. A link or an anchor that leads nowhere is an
error, between all of these. The result is site/index.html.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import browser
import yaml
from _stages import REPO, StageError, main_guard
from _venvs import environment

HERE = REPO / "tools" / "site"
REQUIREMENTS = HERE / "requirements.txt"
BUILD = REPO / ".cache" / "site"
OUT = REPO / "site"
COLLECTION = "trtllm.fleet"
# One page of each kind.
LOOKED_AT = ("index", "by-hand", "tutorials/two-models", "troubleshooting", "plugins/trtllm_image_module", "search")
# What stands outside of docs/, and how its page is called.
NAMED = {
    "README.md": "index",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "SECURITY.md": "security-policy",
    "tests/testbed/README.md": "testbed",
}
FENCE = re.compile(r"^ {0,3}(```+|~~~+)")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
# A page that a module, a role or a playbook names in its text.
MENTION = re.compile(r"\bdocs/((?:[\w-]+/)*[\w-]+)\.md\b")
# The same in what antsibull-docs writes, where a dash is escaped.
MENTION_RST = re.compile(r"(?::literal:`)?\bdocs/((?:[\w-]|\\-|/)+)\.md\b(`)?(?:\\ )?")
# A list of the headings, which the theme has beside the page.
CONTENTS = re.compile(r"\n\.\. contents::\n(?:   .*\n)+")
NOTE = re.compile(r"\n\.\. Collection note\n.*?(?=\n\.\. version_added\n)", re.S)
# What only Ansible's own site has: labels that are not of this collection, and variables of the environment.
OUTSIDE = re.compile(r":ref:`([^<`]+?)(?: <(?!ansible_collections\.trtllm\.)[\w.]+>)?`")
VARIABLE = re.compile(r":(?:ans)?envvar(?:ref)?:`([^`]+)`")
# An option of a role that is named where another entry point of the role is described.
OF_ENTRY = re.compile(r"(:ansopt:`[\w.]+\.(\w+)#role:)(\w+)(:((?:\w|\\_)+))")


def pages() -> dict[str, str]:
    """The name of the page of each text of the checkout."""
    found = {name: page for name, page in NAMED.items() if (REPO / name).is_file()}
    for path in sorted((REPO / "docs").rglob("*.md")):
        found[path.relative_to(REPO).as_posix()] = path.relative_to(REPO / "docs").with_suffix("").as_posix()
    for kind in ("roles", "images"):
        for path in sorted((REPO / kind).glob("*/README.md")):
            found[path.relative_to(REPO).as_posix()] = f"{kind}/{path.parent.name}"
    return found


def outside_of_fences(text: str) -> Iterator[tuple[str, bool]]:
    """The lines of Markdown, and whether each is prose."""
    fence = ""
    for line in text.splitlines(keepends=True):
        found = FENCE.match(line)
        if found and not fence:
            fence = found[1]
            yield line, False
        elif fence:
            if found and found[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
            yield line, False
        else:
            yield line, True


def with_links(name: str, text: str, known: dict[str, str], problems: list[str]) -> str:
    """The text of *name* for the site: links lead to pages; what has none becomes plain words."""
    here = PurePosixPath(known[name])

    def replaced(match: re.Match[str]) -> str:
        bang, words, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        aim = (REPO / name).parent / path
        try:
            found = aim.resolve().relative_to(REPO).as_posix()
        except ValueError:
            found = ""
        if not found or not aim.exists():
            problems.append(f"{name}: {target} leads nowhere")
            return match[0]
        if bang:
            place = os.path.relpath(found.removeprefix("docs/"), here.parent)
            return f"![{words}]({place})"
        if aim.is_dir() and f"{found}/README.md" in known:
            found += "/README.md"
        if found not in known:
            return words
        place = os.path.relpath(known[found], here.parent)
        return f"[{words}]({place}.md{'#' + anchor if anchor else ''})"

    return "".join(LINK.sub(replaced, line) if prose else line for line, prose in outside_of_fences(joined_links(text)))


def joined_links(text: str) -> str:
    """*text* with each link on one line: its words may be wrapped."""
    return re.sub(r"\[([^\[\]\n]*)\n([^\[\]\n]*)\]\((?=[^)\s]+\))", r"[\1 \2](", text)


def order(names: list[str]) -> list[tuple[str, list[str]]]:
    """The captions of the navigation with their pages; each page stands in one place."""
    table = yaml.safe_load((HERE / "nav.yml").read_text(encoding="utf-8"))
    left = [name for name in names if name != "index"]
    sections: list[tuple[str, list[str]]] = []
    last = 0
    for row in table:
        if row.get("guides"):
            last = len(sections)
        here = []
        for pattern in row["pages"]:
            matching = [name for name in left if fnmatch(name, pattern)]
            if not matching and "*" not in pattern:
                raise StageError(f"tools/site/nav.yml names the page {pattern}, which is not there.")
            here += matching
            left = [name for name in left if name not in matching]
        sections.append((row["caption"], here))
    sections[last][1].extend(left)
    return sections


def navigation(sections: list[tuple[str, list[str]]]) -> str:
    """The same as what Sphinx reads at the end of the first page."""
    return "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(names) + "\n```\n"
        for caption, names in sections
        if names
    )


def playbook_page(texts: dict[str, str]) -> str:
    """What each playbook says of itself in its first lines: prose, and its options."""
    parts = [
        "# The playbooks\n\nWhat each of them says at its head. Each runs as "
        "`ansible-playbook -i inventories/mysite playbooks/NAME.yml`,\n"
        f"and where the collection is installed, as `ansible-playbook -i mysite {COLLECTION}.NAME`.\n"
    ]
    for name, text in texts.items():
        head: list[str] = []
        for line in text.removeprefix("---\n").splitlines():
            if not line.startswith("#"):
                break
            head.append(line.removeprefix("#"))
        parts.append(f"\n## {name}\n\n{head_of_playbook(head)}")
    return "".join(parts)


def head_of_playbook(lines: list[str]) -> str:
    """Prose, and a list of options: what is further in, as deep as its first words, goes on with the option before."""
    prose: list[str] = []
    options: list[tuple[str, str]] = []
    for line in lines:
        found = re.match(r"^\s{2,}(-{1,2}\w\S*(?: '[^']*'| [^\s']+)?)(?:\s{2,}|\s(?=and )|$)(.*)$", line)
        if found:
            options.append((found[1], found[2].strip()))
        elif options and line.startswith("   "):
            options[-1] = (options[-1][0], f"{options[-1][1]} {line.strip()}")
        else:
            prose.append(line.strip())
    text = MENTION.sub(r"[docs/\1.md](\1.md)", " ".join(prose)) + "\n"
    if options:
        text += "\n| option | |\n|---|---|\n"
        text += "".join(f"| `{name}` | {what} |\n" for name, what in options)
    return text


def plugin_pages(where: Path, programs: Path, known: dict[str, str], problems: list[str]) -> None:
    """What antsibull-docs makes of plugins and argument specs, with links to the pages that they name."""
    where.mkdir(parents=True, mode=0o755)
    environ = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(REPO / "collections"),
    }
    argv = [programs / "antsibull-docs", "collection", "--use-current", "--squash-hierarchy", "--fail-on-error"]
    argv += ["--no-breadcrumbs", "--no-add-antsibull-docs-version", "--dest-dir", where, COLLECTION]
    done = subprocess.run(list(map(str, argv)), env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageError(
            f"antsibull-docs cannot read the collection's documentation: {(done.stdout + done.stderr)[-2000:]}"
        )
    names = set(known.values())
    (where / "environment_variables.rst").unlink(missing_ok=True)  # each plugin tells its own
    for path in where.glob("*.rst"):
        text = CONTENTS.sub("\n", NOTE.sub("\n", path.read_text(encoding="utf-8")))
        text = VARIABLE.sub(r":literal:`\1`", OUTSIDE.sub(r"\1", text))
        text = of_main(text.replace(":orphan:\n", "", 1))

        def link(match: re.Match[str], source: str = path.stem) -> str:
            page = match[1].replace("\\", "")
            if page not in names:
                problems.append(f"{source}: docs/{page}.md leads nowhere")
                return match[0]
            return f":doc:`docs/{page}.md </{page}>`"

        path.write_text(MENTION_RST.sub(link, text), encoding="utf-8")
    index = where / "index.rst"
    plugins = sorted(path.stem for path in where.glob("*.rst") if path.stem != "index")
    rows = (f"   {' '.join(name.rsplit('_', 1))} <{name}>\n" for name in plugins)
    toctree = ".. toctree::\n   :hidden:\n\n" + "".join(rows)
    title = "Modules, roles, filters and lookups"
    text = index.read_text(encoding="utf-8").replace("Trtllm.Fleet\n============", f"{title}\n{'=' * len(title)}", 1)
    index.write_text(f"{text}\n{toctree}", encoding="utf-8")


def of_main(text: str) -> str:
    """The text of a role, where what is said of an option leads to that of `main` if this entry point has it not."""

    def aimed(match: re.Match[str]) -> str:
        option = match[5].replace("\\", "")
        if f"__parameter-{match[3]}__{option}:" in text:
            return match[0]
        return f"{match[1]}main{match[4]}"

    return OF_ENTRY.sub(aimed, text)


def sources(where: Path, programs: Path) -> None:
    """All pages, as Sphinx reads them, below *where*."""
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir(parents=True)
    known, problems = pages(), list[str]()
    plugin_pages(where / "plugins", programs, known, problems)
    texts = {
        known[name]: with_links(name, (REPO / name).read_text(encoding="utf-8"), known, problems) for name in known
    }
    books = {path.name: path.read_text(encoding="utf-8") for path in sorted((REPO / "playbooks").glob("*.yml"))}
    texts["playbooks"] = playbook_page(books)
    if problems:
        raise StageError("; ".join(sorted(problems)) + ".")
    texts["index"] += navigation(order([*texts, "plugins/index"]))
    for page, text in texts.items():
        path = where / f"{page}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for name in ("pictures", "site"):
        source = REPO / "docs" / "pictures" if name == "pictures" else HERE / "static"
        if source.is_dir():
            shutil.copytree(source, where / ("pictures" if name == "pictures" else "_static"))
    shutil.copy2(HERE / "conf.py", where / "conf.py")


def fetched_from_elsewhere(root: Path) -> list[str]:
    """What pages of the site would load of another host; there must be nothing."""
    load = re.compile(
        r"""<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)=["'](?:https?:)?//[^"']+"""
        r"""|@import[^;]*//|url\(["']?(?:https?:)?//"""
    )
    return [
        f"{path.relative_to(root)}: {match[0]}"
        for path in sorted(root.rglob("*"))
        if path.suffix in (".html", ".css")
        for match in load.finditer(path.read_text(encoding="utf-8"))
    ]


# What the theme leaves to be said for who does not see the page, or has no pointer: pattern and what takes its place.
ACCESSIBLE = [
    (re.compile(r'<p class="caption" role="heading">'), '<p class="caption" role="heading" aria-level="2">'),
    (re.compile(r"<pre>"), '<pre tabindex="0">'),
    (
        re.compile(r'<div class="(table-wrapper [^"]*)">'),
        r'<div class="\1" tabindex="0" role="region" aria-label="Table">',
    ),
]


def make_accessible(root: Path) -> None:
    """Say what kind of heading a caption is, and let a keyboard move what is wider than a telephone."""
    for path in root.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        for pattern, instead in ACCESSIBLE:
            text = pattern.sub(instead, text)
        path.write_text(text, encoding="utf-8")


def build() -> int:
    """Make site/; what Sphinx warns of is an error."""
    started = time.monotonic()
    programs = environment("site", REQUIREMENTS)
    source = BUILD / "source"
    sources(source, programs)
    out = BUILD / "html"
    shutil.rmtree(out, ignore_errors=True)
    argv = [programs / "sphinx-build", "-q", "-W", "--keep-going", "-j", "auto", "-b", "html"]
    argv += ["-d", BUILD / "doctrees", source, out]
    if code := subprocess.run(list(map(str, argv)), check=False).returncode:
        raise StageError(f"Sphinx did not make the site (exit code {code}); see the lines above.")
    make_accessible(out)
    if loaded := fetched_from_elsewhere(out):
        raise StageError(f"the site would load what other hosts have: {'; '.join(loaded[:5])}.")
    shutil.rmtree(OUT, ignore_errors=True)
    shutil.copytree(out, OUT, ignore=shutil.ignore_patterns(".buildinfo", "objects.inv", "_sources"))
    count = sum(1 for _ in OUT.rglob("*.html"))
    print(f"site: {count} pages in {time.monotonic() - started:.0f} s; open {OUT / 'index.html'}")
    return 0


def look() -> int:
    """Look at a page of each kind in a real browser, where there is one."""
    if reason := browser.missing():
        print(f"SKIPPED [1] site: {reason}")
        return 0
    findings = browser.check([OUT / f"{page}.html" for page in LOOKED_AT], browser.KEPT / "site")
    for one in findings:
        print(f"{one['page']} ({one['where']}): {one['kind']}: {one['says']}")
    return 1 if findings else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--look", action="store_true", help="look at some pages in a browser afterwards")
    options = parser.parse_args()
    return main_guard("site", lambda: build() or (look() if options.look else 0))


if __name__ == "__main__":
    sys.exit(main())
