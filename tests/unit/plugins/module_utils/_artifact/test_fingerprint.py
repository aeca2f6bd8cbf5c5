# SPDX-License-Identifier: GPL-3.0-or-later
"""What a fingerprint depends on, what a tree digest reads again, and that the page cache stays as it was."""

from __future__ import annotations

import hashlib
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact import fingerprint as fp
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.pagecache import CacheState, _resident_pages
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
names = st.text("abcdefghijklmnop0123456789._-", min_size=1, max_size=12).filter(lambda n: n not in (".", ".."))
trees = st.dictionaries(names, st.binary(max_size=200), min_size=1, max_size=6)
quick = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def make(root: Path, files: dict[str, bytes]) -> Path:
    root.mkdir(parents=True)
    for name, content in files.items():
        (root / name).write_bytes(content)
    return root


def age(root: Path) -> None:
    """Pretend that the records were taken long after the files were written."""
    for path in root.rglob("*"):
        os.utime(path, (1e9, 1e9))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of this test count as old as soon as they are written."""
    monkeypatch.setattr(fp, "RACY_NS", -(10**15))


def shuffled(value: object) -> object:
    """The same value with every mapping in the opposite order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(list(value))}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(json_values)
def test_fingerprint_does_not_depend_on_key_order(value: object) -> None:
    try:
        expected = fp.fingerprint(value)
    except FleetError:
        return  # lone surrogates have no UTF-8 form
    assert fp.fingerprint(shuffled(value)) == expected


@given(st.dictionaries(st.text("abc"), st.integers(), min_size=1), st.data())
def test_fingerprint_differs_when_any_option_differs(value: dict[str, int], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(value)))
    assert fp.fingerprint({**value, key: value[key] + 1}) != fp.fingerprint(value)
    assert fp.fingerprint({k: v for k, v in value.items() if k != key}) != fp.fingerprint(value)


def test_a_name_that_is_not_utf_8_is_told_as_what_it_is(tmp_path: Path) -> None:
    root = make(tmp_path / "tree", {"config.json": b"{}"})
    Path(os.fsdecode(os.fsencode(root) + b"/weights\xff.bin")).write_bytes(b"w")
    with pytest.raises(FleetError) as refused:
        fp.tree_digest(root, None)
    assert str(refused.value) == f"'{root}/weights\\udcff.bin' has a name that is not UTF-8; rename it."


def test_each_refusal_of_a_value_has_its_own_advice() -> None:
    with pytest.raises(FleetError, match=r"holds \\udcff, which is not UTF-8 text; give UTF-8 text\.$"):
        fp.fingerprint({"path": "/weights\udcff"})
    with pytest.raises(FleetError, match=r"has no JSON form \(.+\); give finite numbers\.$"):
        fp.fingerprint({"smoothquant": float("nan")})


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, {1: 2}, {"a": {3}}, "\ud800", [b"x"]])
def test_what_has_no_json_form_is_refused(value: object) -> None:
    with pytest.raises(FleetError):
        fp.fingerprint(value)


@quick
@given(files=trees)
def test_tree_digest_does_not_depend_on_path_or_time(
    files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.mktemp("trees")
    one, two = make(base / "one", files), make(base / "other" / "two", dict(reversed(list(files.items()))))
    age(two)
    assert fp.tree_digest(one, None).digest == fp.tree_digest(two, None).digest


@quick
@given(files=trees, data=st.data())
def test_tree_digest_differs_when_any_byte_or_name_differs(
    files: dict[str, bytes], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = make(tmp_path_factory.mktemp("trees") / "tree", files)
    index = root.with_name("index.json")
    before = fp.tree_digest(root, index).digest
    victim = root / data.draw(st.sampled_from(sorted(files)))
    content = bytearray(victim.read_bytes())
    change = data.draw(st.sampled_from(["append", "rename", "remove", *(["flip"] if content else [])]))
    if change == "flip":
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] ^= 1 << data.draw(st.integers(0, 7))
        victim.write_bytes(content)
    elif change == "append":
        victim.write_bytes(bytes(content) + b"\0")
    elif change == "rename":
        victim.rename(root / "quite another name")
    else:
        victim.unlink()
    assert fp.tree_digest(root, index).digest != before


def test_no_change_reads_nothing_and_writes_nothing(tmp_path: Path, settled: None) -> None:
    root = make(tmp_path / "tree", {"a": b"1" * 10, "b": b"2" * 5_000_000})
    index = tmp_path / "index.json"
    first = fp.tree_digest(root, index)
    assert first.reread == ["b", "a"], "the largest file is hashed first"
    assert first.bytes_read == 5_000_010
    stamp = index.stat().st_ino
    second = fp.tree_digest(root, index)
    assert (second.digest, second.reread, second.bytes_read) == (first.digest, [], 0)
    assert index.stat().st_ino == stamp


def test_a_touched_file_is_read_again_but_has_the_same_digest(tmp_path: Path, settled: None) -> None:
    root = make(tmp_path / "tree", {"a": b"1", "b": b"2"})
    index = tmp_path / "index.json"
    first = fp.tree_digest(root, index)
    os.utime(root / "a", (5, 5))
    second = fp.tree_digest(root, index)
    assert (second.digest, second.reread) == (first.digest, ["a"])


def test_same_size_and_mtime_but_another_content_is_seen(tmp_path: Path, settled: None) -> None:
    root = make(tmp_path / "tree", {"a": b"1111"})
    index = tmp_path / "index.json"
    first, times = fp.tree_digest(root, index), (root / "a").stat()
    (root / "a").write_bytes(b"2222")
    os.utime(root / "a", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fp.tree_digest(root, index).digest != first.digest


def test_a_file_as_young_as_its_record_is_read_again(tmp_path: Path) -> None:
    root = make(tmp_path / "tree", {"a": b"1111"})
    index = tmp_path / "index.json"
    fp.tree_digest(root, index)
    assert fp.tree_digest(root, index).reread == ["a"]


def test_full_verification_reads_everything(tmp_path: Path, settled: None) -> None:
    root = make(tmp_path / "tree", {"a": b"1", "b": b"2"})
    index = tmp_path / "index.json"
    fp.tree_digest(root, index)
    assert sorted(fp.tree_digest(root, index, verify="full").reread) == ["a", "b"]


def test_check_mode_leaves_no_index(tmp_path: Path) -> None:
    root = make(tmp_path / "tree", {"a": b"1"})
    fp.tree_digest(root, tmp_path / "index.json", write_index=False)
    assert not (tmp_path / "index.json").exists()


def test_a_damaged_index_is_no_index(tmp_path: Path, settled: None) -> None:
    root, index = make(tmp_path / "tree", {"a": b"1"}), tmp_path / "index.json"
    good = fp.tree_digest(root, index)
    for damage in (
        b"",
        b"[]",
        b'{"version": 1, "files": {"a": [1]}}',
        b'{"version": 99}',
        index.read_bytes()[:-20],
    ):
        index.write_bytes(damage)
        again = fp.tree_digest(root, index)
        assert (again.digest, again.reread) == (good.digest, ["a"])


def test_links_count_as_what_they_point_to(tmp_path: Path) -> None:
    plain = make(tmp_path / "plain", {"a": b"1"})
    blobs, linked = make(tmp_path / "blobs", {"deadbeef": b"1"}), tmp_path / "linked"
    linked.mkdir()
    (linked / "a").symlink_to(blobs / "deadbeef")
    (plain / ".git").mkdir()
    (plain / ".git" / "HEAD").write_text("not part of a checkpoint")
    (linked / "loop").symlink_to(linked)
    assert fp.tree_digest(plain, None).digest == fp.tree_digest(linked, None).digest


def test_of_a_file_its_content_alone_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp, "RACY_NS", -(10**15))
    root, index = make(tmp_path / "tree", {"one.npz": b"scales", "two.npz": b"others"}), tmp_path / "index.json"
    first = fp.tree_digest(root / "one.npz", index)
    assert first.digest == hashlib.sha256(b"scales").hexdigest()
    assert (first.reread, first.bytes_read) == (["one.npz"], 6)
    (root / "beside.log").write_bytes(b"noise")
    again = fp.tree_digest(root / "one.npz", index)
    assert (again.digest, again.reread) == (first.digest, [])
    assert fp.tree_digest(root / "two.npz", None).digest != first.digest
    (root / "two.npz").write_bytes(b"scales")
    assert fp.tree_digest(root / "two.npz", None).digest == first.digest, "its name does not count"


def test_a_part_of_a_tree_has_the_digest_of_a_tree_that_holds_no_more(tmp_path: Path) -> None:
    whole = fp.tree_digest(make(tmp_path / "whole", {"a": b"1", "b": b"2", "README.md": b"3"}), None)
    part = fp.tree_digest(make(tmp_path / "part", {"a": b"1", "b": b"2"}), None)
    assert whole.digest != part.digest
    kept = whole.only(lambda path: path != "README.md")
    assert (kept.digest, kept.contents()) == (part.digest, part.contents())


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    root = make(tmp_path / "tree", {"a": b"1"})
    (root / "gone").symlink_to(root / "nowhere")
    with pytest.raises(FleetError, match="gone cannot be read"):
        fp.tree_digest(root, None)
    (root / "gone").unlink()
    os.mkfifo(root / "pipe")
    with pytest.raises(FleetError, match="pipe is neither a file nor a directory"):
        fp.tree_digest(root, None)
    with pytest.raises(FleetError, match="is not a directory"):
        fp.tree_digest(tmp_path / "absent", None)


def test_file_sha256_equals_hashlib(tmp_path: Path) -> None:
    content = os.urandom(9 * fp.MIB + 17)
    (tmp_path / "file").write_bytes(content)
    assert fp.file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
    assert fp.file_sha256(tmp_path / "file", 100) == hashlib.sha256(content).hexdigest()


def resident(path: Path) -> list[int]:
    with open(path, "rb") as stream:
        pages = _resident_pages(stream.fileno(), 0, path.stat().st_size)
        assert pages is not None
        return list(pages)


def test_the_page_cache_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    path.write_bytes(os.urandom(200 * mmap.PAGESIZE))
    with open(path, "r+b") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for page in (3, 4, 150):
            os.pread(stream.fileno(), 1, page * mmap.PAGESIZE)
    before = resident(path)
    if all(before):
        pytest.skip("this file system keeps every page in memory")
    assert sum(before) >= 3
    fp.tree_digest(tmp_path, None)
    assert resident(path) == before


def test_what_is_read_again_at_once_is_left_in_the_page_cache(tmp_path: Path) -> None:
    """As far as it was asked for, in the order of paths, and no further."""
    first, second = tmp_path / "a", tmp_path / "b"
    for path in (first, second):
        path.write_bytes(os.urandom(100 * mmap.PAGESIZE))
        with open(path, "r+b") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if any(resident(second)):
        pytest.skip("this file system keeps every page in memory")
    fp.tree_digest(tmp_path, None, stays=140 * mmap.PAGESIZE)
    assert all(resident(first)) and resident(second) == [1] * 40 + [0] * 60


def test_a_file_wholly_in_the_cache_stays_there(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    path.write_bytes(os.urandom(100 * mmap.PAGESIZE))
    os.sync()
    before = resident(path)
    fp.file_sha256(path)
    assert resident(path) == before


def test_runs_that_were_absent_are_exact_across_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    import zlib

    from ansible_collections.trtllm.fleet.plugins.module_utils._artifact import pagecache

    page = mmap.PAGESIZE
    monkeypatch.setattr(pagecache, "WINDOW", 4 * page)
    state = CacheState(8 * page, [zlib.compress(bytes([0, 1, 0, 0])), zlib.compress(bytes([0, 1, 1, 0]))])
    runs = [(offset // page, length // page) for offset, length in state.absent(0, 8 * page)]
    assert runs == [(0, 1), (2, 2), (4, 1), (7, 1)]
    assert [(o // page, n // page) for o, n in state.absent(3 * page, 5 * page)] == [(3, 1), (4, 1)]


def test_differences_name_each_leaf() -> None:
    before = {"build": {"max_batch_size": 32, "gone": True}, "GPU": "NVIDIA A100", "same": [1]}
    after = {"build": {"max_batch_size": 64, "new": None}, "GPU": "NVIDIA H200", "same": [1]}
    assert fp.differences(before, after) == [
        "GPU: NVIDIA A100 -> NVIDIA H200",
        "build.gone: true -> unset",
        "build.max_batch_size: 32 -> 64",
        "build.new: unset -> null",
    ]
    assert fp.content_differences({"a": "1", "b": "2"}, {"b": "3", "c": "4"}, "checkpoint: ") == [
        "checkpoint: a removed",
        "checkpoint: b content",
        "checkpoint: c added",
    ]


def test_files_that_are_known_are_checked_for_little_more_than_asking_for_their_size(
    tmp_path: Path, settled: None
) -> None:
    root, index = make(tmp_path / "tree", {f"f{i}": b"" for i in range(2000)}), tmp_path / "index.json"
    fp.tree_digest(root, index)

    def least(work: Callable[[], object]) -> float:
        """Seconds of the processor, of the best of five, which a busy machine makes no longer."""
        taken = []
        for _ in range(5):
            start = time.process_time()
            work()
            taken.append(time.process_time() - start)
        return min(taken)

    # 2.3 times where this was written
    assert least(lambda: fp.tree_digest(root, index)) < 10 * least(lambda: [path.stat() for path in root.iterdir()])
