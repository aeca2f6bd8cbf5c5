# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation site: what is put together for it. `make lint` builds it, where each link has to lead somewhere."""

from __future__ import annotations

import importlib
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(name="website")
def website_(repo_dir: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repo_dir / "tools"))
    return importlib.import_module("website")


def test_every_page_has_its_place_in_the_navigation(website: ModuleType) -> None:
    names = [*website.pages().values(), "playbooks", "plugins/index"]
    placed = [name for _, section in website.order(names) for name in section]
    assert sorted(placed) == sorted(set(names) - {"index"})


def test_a_page_that_the_order_does_not_name_stands_among_the_guides(website: ModuleType) -> None:
    names = [*website.pages().values(), "playbooks", "plugins/index", "new-page"]
    sections = dict(website.order(names))
    assert sections["Guides"][-1] == "new-page"


def test_the_order_names_no_page_that_is_not_there(website: ModuleType) -> None:
    with pytest.raises(website.StageError, match=r"nav\.yml names the page .* not there"):
        website.order(["index"])


def test_links_lead_to_pages_and_others_are_words(website: ModuleType) -> None:
    known, problems = website.pages(), []
    text = "[a](docs/concepts.md#what-is-where) [b](galaxy.yml) [`c`](images/triton_cpu) [d](https://example.com)\n"
    text += "[e](docs/no.md)\n"
    found = website.with_links("README.md", text, known, problems)
    assert found.startswith("[a](concepts.md#what-is-where) b [`c`](images/triton_cpu.md) [d](https://example.com)")
    assert problems == ["README.md: docs/no.md leads nowhere"]


def test_what_stands_in_a_block_is_left_alone(website: ModuleType) -> None:
    text = "```yaml\nkey: '[a](no.md)'\n```\n"
    problems: list[str] = []
    assert website.with_links("README.md", text, website.pages(), problems) == text
    assert not problems


def test_a_wrapped_link_is_one(website: ModuleType) -> None:
    problems: list[str] = []
    text = "see [the\npage](docs/concepts.md)\n"
    assert "[the page](concepts.md)" in website.with_links("README.md", text, website.pages(), problems)


def test_options_of_a_playbook_are_a_table(website: ModuleType) -> None:
    text = "---\n# Does it; see docs/fleet.md.\n#   -e number=N   how many,\n#                 at most\n"
    text += "#   --check       show\n- name: x\n"
    page = website.playbook_page({"x.yml": text})
    assert "Does it; see [docs/fleet.md](fleet.md)." in page
    assert "| `-e number=N` | how many, at most |\n| `--check` | show |" in page


def test_every_playbook_says_what_it_does(website: ModuleType, repo_dir: Path) -> None:
    for path in (repo_dir / "playbooks").glob("*.yml"):
        assert re.search(r"\n\n\w.{20}", website.playbook_page({path.name: path.read_text()}).split("## ", 1)[1]), path


def test_an_option_of_another_entry_point_leads_to_that_of_main(website: ModuleType) -> None:
    text = ":ansopt:`trtllm.fleet.triton#role:firewall:triton\\_cpus`"
    assert website.of_main(text) == ":ansopt:`trtllm.fleet.triton#role:main:triton\\_cpus`"
    own = f".. _x__parameter-firewall__triton_cpus:\n{text}"
    assert website.of_main(own) == own


def test_what_a_page_would_fetch_elsewhere_is_found(website: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="https://example.com">x</a><link rel="x" href="https://example.com/a.css">'
    )
    (tmp_path / "b.css").write_text("@font-face { src: url(//example.com/a.woff) } p { background: url(a.png) }")
    assert len(website.fetched_from_elsewhere(tmp_path)) == 2


# Pages of upstream's repositories that comments name.
UPSTREAM = {"docs/build.md", "docs/model_config.md"}


def test_pages_that_texts_name_are_there(repo_dir: Path) -> None:
    """In modules, roles, playbooks and code: `docs/NAME.md` is a page."""
    listed = subprocess.run(["git", "ls-files"], cwd=repo_dir, check=True, capture_output=True, text=True).stdout
    missing = []
    for name in listed.splitlines():
        if name.startswith(("plugins/", "roles/", "playbooks/", "inventories/", "group_vars/", "molecule/", "images/")):
            try:
                text = (repo_dir / name).read_text(encoding="utf-8")
            except (UnicodeDecodeError, IsADirectoryError):
                continue
            missing += [
                f"{name}: {page}"
                for page in set(re.findall(r"\bdocs/(?:[\w-]+/)*[\w-]+\.md\b", text)) - UPSTREAM
                if not (repo_dir / page).is_file()
            ]
    assert not missing


def test_the_packages_have_sums(repo_dir: Path) -> None:
    text = (repo_dir / "tools" / "site" / "requirements.txt").read_text(encoding="utf-8")
    named = re.findall(r"^([\w.-]+)==\S+.*\\\n    --hash=sha256:", text, re.M)
    for wanted in re.findall(r"^([\w-]+)", (repo_dir / "tools" / "site" / "requirements.in").read_text(), re.M):
        assert wanted in named
    assert len(named) == len(re.findall(r"^[\w.-]+==", text, re.M))


@pytest.mark.parametrize(
    ("text", "made"),
    [
        (":ref:`a word <callback_plugins>`", "a word"),
        ("See :ref:`callback_plugins` for", "See callback_plugins for"),
        (":ref:`fleet <ansible_collections.trtllm.fleet.fleet_role>`", None),
    ],
)
def test_what_only_ansible_s_own_site_has_is_plain(website: ModuleType, text: str, made: str | None) -> None:
    assert website.OUTSIDE.sub(r"\1", text) == (text if made is None else made)
