# SPDX-License-Identifier: GPL-3.0-or-later
"""Images are built when what they are made from has changed, and only then."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

IMAGES = Path(__file__).resolve().parents[3] / "images"
sys.path.insert(0, str(IMAGES))

import _build
from _build import BuildError, build_image, fetch_tree

# Remembers the label of the last build and answers inspect with it; the base image "base" is always there.
PODMAN = """#!/bin/sh
echo "$*" >> "$FAKE/calls"
case "$1 $2" in
  "image inspect")
    case "$5" in
      base) echo sha256:base ;;
      *) test -e "$FAKE/label" || exit 1
         case "$4" in *Labels*) cat "$FAKE/label" ;; *) echo "built 1000000" ;; esac ;;
    esac ;;
  "build "*)
    for word; do
      pair=${word#--label=}
      test "$pair" = "$word" || printf '{"%s":"%s"}' "${pair%%=*}" "${pair#*=}" > "$FAKE/label"
    done
    for last; do :; done; ls "$last" > "$FAKE/context" ;;
esac
"""


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "podman").write_text(PODMAN)
    (fake / "podman").chmod(0o755)
    monkeypatch.setenv("FAKE", str(fake))
    monkeypatch.setenv("PODMAN", str(fake / "podman"))
    monkeypatch.setenv("TRTLLM_FLEET_CACHE", str(tmp_path / "cache"))
    directory = tmp_path / "image"
    (directory / "source").mkdir(parents=True)
    (directory / "Containerfile").write_text("ARG BASE\nFROM ${BASE}\n")
    (directory / "source" / "main.py").write_text("print(1)\n")
    (directory / "README.md").write_text("read me\n")
    return directory


def build(context: Path, **more: object) -> bool:
    image = build_image(
        "thing",
        context,
        version="1",
        files=["Containerfile", "source"],
        **{"base": "base", **more},  # type: ignore[arg-type]
    )
    assert image.reference == "localhost/thing:1" and image.id == "sha256:built"
    return image.built


def test_the_same_inputs_build_nothing(context: Path) -> None:
    assert build(context)
    assert not build(context)
    (context / "README.md").write_text("something else\n")
    (context / "source" / "main.pyc").write_bytes(b"byte code")
    (context / "source" / ".mypy_cache").mkdir()
    (context / "source" / ".mypy_cache" / "cache.db").write_bytes(b"what a tool remembers")
    assert not build(context)


def test_an_image_with_the_label_of_the_first_versions_is_not_built_again(context: Path) -> None:
    build(context)
    label = context.parent / "fake" / "label"
    label.write_text(label.read_text().replace('"trtllm.fleet.', '"org.trtllm.fleet.'))
    assert not build(context)


def test_an_image_of_somebody_else_is_built(context: Path) -> None:
    label = context.parent / "fake" / "label"
    label.write_text("null\n")
    assert build(context)


def test_a_changed_source_argument_or_mode_builds_again(context: Path) -> None:
    build(context)
    (context / "source" / "main.py").write_text("print(2)\n")
    assert build(context)
    assert build(context, build_args={"X": "1"})
    (context / "source" / "main.py").chmod(0o755)
    assert build(context, build_args={"X": "1"})
    assert build(context, build_args={"X": "1"}, rebuild=True)


def test_only_what_the_build_needs_is_handed_to_it(context: Path) -> None:
    build(context)
    assert (context.parent / "fake" / "context").read_text().split() == ["Containerfile", "source"]


def test_a_requirement_that_is_not_pinned_is_refused(context: Path) -> None:
    requirements = context / "requirements.txt"
    for line in ("fastapi>=0.1", "fastapi==0.1"):
        requirements.write_text(f"{line}\n")
        with pytest.raises(BuildError, match=rf"'{re.escape(line)}' is not pinned; write .* --hash=sha256:SUM"):
            build(context, wheels_requirements=requirements)


@pytest.mark.parametrize("source", sorted(IMAGES.glob("*/requirements.in")), ids=lambda path: path.parent.name)
def test_what_an_image_installs_is_what_is_asked_for_with_its_sums(source: Path) -> None:
    asked = [line for line in source.read_text().splitlines() if not line.startswith("#")]
    pins = _build._requirement_lines(source.with_suffix(".txt")).splitlines()
    assert sorted(pin.split()[0].lower() for pin in pins) == sorted(line.lower() for line in asked)
    assert "--require-hashes" in (source.parent / "Containerfile").read_text()


def test_what_is_missing_is_named(context: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BuildError, match=r"source2 is missing from the sources"):
        build_image("thing", context, version="1", files=["source2"], base="base")
    with pytest.raises(BuildError, match="built for x86_64, aarch64, not for riscv64"):
        build(context, machine="riscv64")
    monkeypatch.setenv("PODMAN", "/nowhere/podman")
    with pytest.raises(BuildError, match="install the package podman"):
        build(context)


@pytest.fixture
def repository(tmp_path: Path) -> tuple[Path, str]:
    """A git repository with two files, and its only commit."""
    home = tmp_path / "upstream"
    (home / "wanted").mkdir(parents=True)
    (home / "wanted" / "main.py").write_text("print(1)\n")
    (home / "large.bin").write_text("0" * 1000)
    git = ["git", "-C", str(home), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for argv in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=One"]):
        subprocess.run([*git, *argv], check=True)
    subprocess.run([*git, "config", "uploadpack.allowFilter", "true"], check=True)
    found = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return home, found.stdout.strip()


@pytest.mark.parametrize("parts", [(), ("wanted",)])
def test_a_source_is_fetched_once(
    repository: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: tuple[str, ...]
) -> None:
    """All of it, or what is wanted alone; where it is there, nobody is asked any more."""
    home, commit = repository
    monkeypatch.setenv("THING_SOURCE", f"file://{home}")
    tree = fetch_tree(tmp_path / "tree", commit, "https://git.invalid/thing.git", "THING_SOURCE", parts)
    assert (tree / "wanted" / "main.py").read_text() == "print(1)\n"
    assert (tree / "large.bin").exists() == (not parts)
    monkeypatch.setenv("THING_SOURCE", str(tmp_path / "nowhere"))
    assert fetch_tree(tmp_path / "tree", commit, "https://git.invalid/thing.git", "THING_SOURCE", parts) == tree


@pytest.mark.parametrize("parts", [(), ("wanted",)])
def test_a_source_that_cannot_be_had_says_how_to_name_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: tuple[str, ...]
) -> None:
    monkeypatch.delenv("THING_SOURCE", raising=False)
    with pytest.raises(BuildError, match=r"git could not fetch .*nowhere \(or name another one as THING_SOURCE\)"):
        fetch_tree(tmp_path / "tree", "0" * 40, str(tmp_path / "nowhere"), "THING_SOURCE", parts)
