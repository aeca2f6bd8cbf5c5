# SPDX-License-Identifier: GPL-3.0-or-later
"""Contexts of the controller: what belongs to them, what tells one from another, and how they come to the host."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.context import Context, Ignored, unpack


def tree(root: Path, **files: str) -> Path:
    for name, text in {"Containerfile": "FROM scratch\n", **files}.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def packed(context: Context, to: Path) -> Path:
    with to.open("wb") as stream:
        context.pack(stream)
    return to


@pytest.mark.parametrize(
    ("rules", "left_out", "kept"),
    [
        ("secret", ["secret", "secret/a/b"], ["a/secret", "secrets"]),
        ("/secret/", ["secret"], ["a/secret"]),
        ("*.key", ["a.key"], ["b/a.key"]),
        ("**/*.key", ["a.key", "b/a.key", "b/c/a.key"], ["a.keys"]),
        ("b/**", ["b/a", "b/c/d"], ["a"]),
        ("a?c\n[xy]z", ["abc", "xz"], ["ac", "zz", "a/c"]),
        ("# no rule\n\n  *  \n!keep\n!d/e", ["a", "d", "d/f"], ["keep", "keep/all", "d/e"]),
        ("!a\na", ["a"], []),
        ("a.b", ["a.b"], ["axb"]),
    ],
)
def test_the_rules_are_podmans(rules: str, left_out: list[str], kept: list[str]) -> None:
    ignored = Ignored(rules)
    assert [path for path in left_out if not ignored(path)] == []
    assert [path for path in kept if ignored(path)] == []


def test_a_rule_that_is_none_is_refused() -> None:
    with pytest.raises(FleetError, match=r"The ignore file has '\[b-a\]', which is no pattern"):
        Ignored("[b-a]")


def test_what_is_left_out_is_not_even_read(tmp_path: Path) -> None:
    root = tree(tmp_path / "c", app__main="x", secrets__key="s", **{".containerignore": "secrets\n.env\n", ".env": "s"})
    before = Context.of(root).digest
    (root / "secrets" / "key").write_text("other")
    (root / ".env").chmod(0)
    (root / "secrets" / "key").chmod(0)
    assert Context.of(root).digest == before
    with tarfile.open(packed(Context.of(root), tmp_path / "a")) as archive:
        assert archive.getnames() == [
            "Containerfile", "context/.containerignore", "context/Containerfile", "context/app", "context/app/main",
        ]  # fmt: skip


def test_below_a_directory_that_is_left_out_something_may_be_taken_back(tmp_path: Path) -> None:
    root = tree(tmp_path, a__b="1", a__c="2", **{".dockerignore": "a\n!a/b\n"})
    assert Context.of(root).paths == (".dockerignore", "Containerfile", "a/b")


def test_the_digest_is_of_content_links_and_the_permission_to_run_and_of_nothing_else(tmp_path: Path) -> None:
    root = tree(tmp_path, a="1", d__b="2")
    (root / "link").symlink_to("a")
    first = Context.of(root).digest
    os.utime(root / "a", (1, 1))
    (root / "a").chmod(0o600)
    assert Context.of(root).digest == first
    seen = {first}
    (root / "a").chmod(0o755)
    seen.add(Context.of(root).digest)
    (root / "link").unlink()
    (root / "link").symlink_to("d")
    seen.add(Context.of(root).digest)
    (root / "d" / "b").write_text("3")
    seen.add(Context.of(root).digest)
    (root / "empty").mkdir()
    seen.add(Context.of(root).digest)
    assert len(seen) == 5


def test_it_arrives_as_it_was(tmp_path: Path) -> None:
    root = tree(tmp_path / "c", d__run="2", a="1")
    (root / "d" / "run").chmod(0o755)
    os.link(root / "a", root / "same")
    (root / "link").symlink_to("../../out/of/it")
    (root / "empty").mkdir()
    context = Context.of(root)
    place, containerfile = unpack(packed(context, tmp_path / "archive"), tmp_path / "there")
    assert Context.of(place).digest == context.digest
    assert containerfile.read_text() == "FROM scratch\n" and (place / "same").read_text() == "1"
    assert (tmp_path / "there").stat().st_mode & 0o777 == 0o700


def test_a_containerfile_may_be_another_one(tmp_path: Path) -> None:
    root = tree(tmp_path / "c", docker__F="FROM a\n")
    (tmp_path / "G").write_text("FROM b\n")
    for given, text in (("docker/F", "FROM a\n"), (str(tmp_path / "G"), "FROM b\n")):
        assert Context.of(root, given).containerfile.read_text() == text
    with pytest.raises(FleetError, match=r"There is no .*/H on the controller; give containerfile"):
        Context.of(root, "H")
    with pytest.raises(FleetError, match=r"There is no directory '.*/x' on the controller"):
        Context.of(tmp_path / "x")


def test_what_no_image_is_built_from_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tree(tmp_path) / "pipe")
    with pytest.raises(FleetError, match="pipe is neither a file nor a directory; leave it out"):
        Context.of(tmp_path)


@pytest.mark.parametrize("name", ["../x", "/x", "context/../../x", "other", "context/link/x"])
def test_nothing_is_unpacked_elsewhere(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "a", "w") as archive:
        link = tarfile.TarInfo("context/link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(FleetError, match="run again"):
        unpack(tmp_path / "a", tmp_path / "there")
    assert not (tmp_path / "x").exists()
