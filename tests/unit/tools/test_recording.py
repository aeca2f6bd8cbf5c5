# SPDX-License-Identifier: GPL-3.0-or-later
"""The picture of `make demo`: of a log, with every line readable without movement."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

LOG = """demo: preparing the testbed (Debian packages, a root file system)
Reading package lists...
demo: building the image triton_cpu (kept by content)
localhost/triton_cpu:1 sha256:{digest} built, 341 MB, 33.2 s
demo: running: ansible-playbook -i inventories/demo playbooks/site.yml
PLAY [Prepare the hosts] *******************************************
TASK [x] ***********************************************************
demo                       : ok=150  changed=12   unreachable=0    failed=0
demo: asking the gateway with the openai client
  you:        What is <machine learning>?
  tiny-llama: {answer}
  testbed        30.0 s
  images         40.0 s
  push            5.0 s
  site.yml       25.0 s
"""


@pytest.fixture(name="recording")
def recording_(repo_dir: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repo_dir / "tools"))
    return importlib.import_module("recording")


def test_lines_come_in_order_at_the_times_of_their_stages(recording: ModuleType) -> None:
    lines = recording.shown(LOG.format(digest="a" * 64, answer="word " * 40).splitlines())
    texts = [line.text for line in lines]
    assert "PLAY [Prepare the hosts]" in texts and not [text for text in texts if "TASK" in text or "Reading" in text]
    assert "localhost/triton_cpu:1 sha256:… built, 341 MB, 33.2 s" in texts
    assert max(map(len, texts)) <= recording.COLUMNS + 14
    assert [line.at for line in lines] == sorted(line.at for line in lines)
    assert next(line.at for line in lines if "building" in line.text) == 30.0
    assert next(line.at for line in lines if "running:" in line.text) == 75.0


def test_the_picture_is_svg_that_says_what_it_is(recording: ModuleType) -> None:
    log = LOG.format(digest="a" * 64, answer="short").splitlines()
    text = recording.picture(recording.shown(log), 100.0)
    root = ElementTree.fromstring(text)
    names = [child.tag.split("}")[1] for child in root]
    assert names[:2] == ["title", "desc"] and "&lt;machine learning&gt;" in text
    assert "prefers-reduced-motion: no-preference" in text, "whoever wants no movement sees all of it"


def test_a_log_without_stages_is_refused(recording: ModuleType) -> None:
    with pytest.raises(recording.StageError, match="no table of stages"):
        recording.shown(["demo: preparing the testbed"])


def test_pictures_have_words_and_load_nothing(repo_dir: Path) -> None:
    pictures = list((repo_dir / "docs" / "pictures").glob("*.svg"))
    assert len(pictures) >= 3
    for path in pictures:
        text = path.read_text(encoding="utf-8")
        root = ElementTree.fromstring(text)
        said = {child.tag.split("}")[1]: child.text or "" for child in root if child.tag.endswith(("title", "desc"))}
        assert len(said["title"]) > 5 and len(said["desc"]) > 40, path.name
        assert root.get("role") == "img" and not re.search(r"href=|url\(h|<script|@import", text), path.name
