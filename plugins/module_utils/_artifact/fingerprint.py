# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fingerprints of values, files and trees.

A tree is hashed once. After that a per-file index (size, times, inode, sha256) kept outside the tree makes
the same question cost one ``stat`` per file. The page cache of a serving host is left as it was: pages that
were not resident before a file was read are given back after it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from .._base.errors import FleetError
from .._base.files import write_atomically
from .._base.sizes import MIB
from .pagecache import CacheState

BLOCK = 4 * MIB
MAX_THREADS = 16
BUFFER_BUDGET = 24 * MIB  # of all threads together, so that a module stays far below 64 MB
CACHE_WINDOW = 64 * MIB  # how much of a file may stand in the page cache because of us
INDEX_VERSION = 1
# A file changed within this of being read may change again without its times showing it: the kernel stamps
# files with the time of its last tick (1-10 ms), some network file systems with whole seconds.
RACY_NS = 2_000_000_000
# Metadata of the download tools: it differs between two downloads of the same revision.
IGNORED_DIRECTORIES = frozenset({".git", ".cache", ".huggingface"})
# Is told what was read of a file, one part after the other; each is there only for the time of the call.
Told = Callable[[memoryview], None]


class FileRecord(NamedTuple):
    """What is known of one file: identity by stat, content by digest, and when it was read (time.time_ns)."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    dev: int
    sha256: str
    read_ns: int


@dataclass(frozen=True)
class TreeDigest:
    """The digest of a tree: over relative path, size and sha256 of every file, and over nothing else."""

    digest: str
    files: dict[str, FileRecord]
    reread: list[str] = field(default_factory=list)
    bytes_read: int = 0

    def contents(self) -> dict[str, str]:
        """Relative path -> sha256, as manifests keep it."""
        return {path: record.sha256 for path, record in self.files.items()}

    def only(self, keep: Callable[[str], bool]) -> TreeDigest:
        """The same tree as if it held nothing but the files whose relative path *keep* says yes to."""
        files = {path: record for path, record in self.files.items() if keep(path)}
        return replace(self, digest=_digest_of(files), files=files)


def _digest_of(files: Mapping[str, FileRecord]) -> str:
    return fingerprint([[path, record.size, record.sha256] for path, record in files.items()])


def _refuse_unnatural(value: Any, at: str) -> None:
    """Raise for what JSON would silently change: keys that are not strings, types it does not have."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise FleetError(f"{at}: the key {key!r} is not a string; give string keys.")
            _refuse_unnatural(item, f"{at}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _refuse_unnatural(item, f"{at}[{index}]")
    elif value is not None and not isinstance(value, (str, int, float, bool)):
        raise FleetError(f"{at}: {type(value).__name__} has no JSON form; give text, numbers, lists.")


def canonical_json(value: Any) -> bytes:
    """The one JSON form of *value*: keys sorted, no spaces, UTF-8. NaN and non-JSON types raise."""
    _refuse_unnatural(value, "value")
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise FleetError(f"A value has no JSON form ({error}); give finite numbers.") from error
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        given = error.object[error.start : error.end].encode("ascii", "backslashreplace").decode()
        raise FleetError(f"A value holds {given}, which is not UTF-8 text; give UTF-8 text.") from error


def fingerprint(value: Any) -> str:
    """sha256, in hex, over the canonical JSON of *value*."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def _hash_open_file(descriptor: int, block: int, told: Told | None = None, stays: int = 0) -> tuple[str, int]:
    """(sha256, bytes) of an open file, giving back the pages that were not cached before, after the first *stays*."""
    size = os.fstat(descriptor).st_size
    cache = CacheState.of(descriptor, size) if stays < size else CacheState(size)
    sha, buffer, position, released = hashlib.sha256(), memoryview(bytearray(block)), 0, stays
    while True:
        count = os.readv(descriptor, [buffer])
        if not count:
            break
        sha.update(buffer[:count])
        if told is not None:
            told(buffer[:count])
        position += count
        if position - released >= CACHE_WINDOW:
            cache.release(descriptor, released, position)
            released = position
    cache.release(descriptor, released, None)
    return sha.hexdigest(), position


def file_sha256(path: str | os.PathLike[str], size_hint: int | None = None) -> str:
    """sha256 of one file, read in 4 MiB blocks (in smaller ones where *size_hint*, in bytes, is smaller)."""
    block = BLOCK if size_hint is None else max(4096, min(BLOCK, size_hint))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _hash_open_file(descriptor, block)[0]
        finally:
            os.close(descriptor)
    except OSError as error:
        raise FleetError(f"{os.fspath(path)} cannot be read: {error.strerror}.") from error


def _refuse_undecodable(entry: os.DirEntry[str]) -> None:
    """Raise for a name that is not text: it could stand in no manifest."""
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        raise FleetError(f"{entry.path!r} has a name that is not UTF-8; rename it.") from None


def walk(root: Path, ignore: Collection[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield (relative path, stat) of every file below *root*; symbolic links count as what they point to."""
    top = os.stat(root)
    parents: tuple[tuple[int, int], ...] = ((top.st_dev, top.st_ino),)
    pending = [(str(root), "", parents)]
    while pending:
        directory, prefix, parents = pending.pop()
        with os.scandir(directory) as entries:
            for entry in entries:
                relative = prefix + entry.name
                _refuse_undecodable(entry)
                try:
                    status = entry.stat()
                except OSError as error:
                    message = f"{entry.path} cannot be read: {error.strerror}; remove or repair it."
                    raise FleetError(message) from error
                if stat.S_ISREG(status.st_mode):
                    yield relative, status
                elif stat.S_ISDIR(status.st_mode):
                    here = (status.st_dev, status.st_ino)
                    if entry.name not in ignore and here not in parents:
                        pending.append((entry.path, relative + "/", parents + (here,)))
                else:
                    raise FleetError(f"{entry.path} is neither a file nor a directory; remove it.")


def _load_index(index: Path | None) -> dict[str, FileRecord]:
    """Records of an earlier run. An index that is absent or damaged is no index: everything is read again."""
    if index is None:
        return {}
    try:
        stored = json.loads(index.read_bytes())
        if stored["version"] != INDEX_VERSION:
            return {}
        return {path: FileRecord(*record) for path, record in stored["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _unchanged(record: FileRecord | None, status: os.stat_result) -> bool:
    """Whether *record* still tells the content. "Racy git": a file as young as its record is read again.

    ctime decides on youth, not mtime: a modification always moves ctime to the present, and only mtime can be
    set at will (tar and rsync do).
    """
    return (
        record is not None
        and record.size == status.st_size
        and record.mtime_ns == status.st_mtime_ns
        and record.ctime_ns == status.st_ctime_ns
        and record.inode == status.st_ino
        and record.dev == status.st_dev
        and record.ctime_ns < record.read_ns - RACY_NS
    )


def _read_record(path: str, block: int, told: Told | None, stays: int) -> tuple[FileRecord, int]:
    """Hash one file and return (record, bytes read); a file being written is an error, not a digest."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise FleetError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        read_ns = time.time_ns()
        before = os.fstat(descriptor)
        digest, count = _hash_open_file(descriptor, block, told, stays)
        after = os.fstat(descriptor)
    except OSError as error:
        raise FleetError(f"{path} cannot be read: {error.strerror}.") from error
    finally:
        os.close(descriptor)
    if count != after.st_size or before.st_mtime_ns != after.st_mtime_ns or before.st_size != after.st_size:
        raise FleetError(f"{path} changed while it was read; wait for its download to end and run again.")
    times = after.st_mtime_ns, after.st_ctime_ns
    return FileRecord(after.st_size, *times, after.st_ino, after.st_dev, digest, read_ns), count


def usable_cpus() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shares(sizes: Mapping[str, int], room: int) -> dict[str, int]:
    """How much of each file, from its beginning, is of the first *room* bytes of all of them."""
    shares = {}
    for path in sorted(sizes):
        shares[path] = min(sizes[path], room)
        room -= shares[path]
    return shares


def _read_records(
    root: Path, paths: list[str], listener: Callable[[str], Told] | None, stays: Mapping[str, int], threads: int
) -> tuple[dict[str, FileRecord], int]:
    """Hash *paths* on several cores: hashlib and reads release the GIL, so threads are enough."""
    threads = max(1, min(threads, MAX_THREADS, len(paths)))
    block = min(BLOCK, BUFFER_BUDGET // threads)
    records, total = {}, 0
    with ThreadPoolExecutor(threads) as pool:
        told = [listener(path) if listener else None for path in paths]
        results = pool.map(lambda path, to: _read_record(os.path.join(root, path), block, to, stays[path]), paths, told)
        for path, (record, count) in zip(paths, results):
            records[path] = record
            total += count
    return records, total


def tree_digest(
    root: Path,
    index: Path | None,
    *,
    verify: str = "stat",
    write_index: bool = True,
    ignore: Collection[str] = IGNORED_DIRECTORIES,
    listener: Callable[[str], Told] | None = None,
    stays: int = 0,
    in_order: bool = False,
) -> TreeDigest:
    """Digest of all files below *root*; directories named in *ignore* do not count.

    Where *root* is a file, its content alone makes the digest: neither its name nor what stands beside it counts.
    *verify* ``stat`` reads only files whose size, times or inode differ from *index* (or that are as young as
    their record); ``full`` reads all. *index* is written, atomically, only when it changed and *write_index*. What
    *listener* returns for the path of a file that is read is told all that is read of it. The first *stays* bytes, in
    the order of paths, are left in the page cache, for who reads them again at once. *in_order*, one file is read after
    the other, in the order of paths.
    """
    if verify not in ("stat", "full"):
        raise FleetError(f"verify is '{verify}'; expected 'stat' or 'full'.")
    single = root.is_file()
    if not single and not root.is_dir():
        raise FleetError(f"{root} is not a directory, nor a file; give the path of one that exists.")
    known = _load_index(index)
    base, found = (root.parent, {root.name: root.stat()}) if single else (root, dict(walk(root, ignore)))
    kept = {} if verify == "full" else {p: known[p] for p, s in found.items() if _unchanged(known.get(p), s)}
    # The largest first, so that the cores end together.
    reread = sorted((p for p in found if p not in kept), key=lambda p: (0 if in_order else -found[p].st_size, p))
    shares = _shares({path: found[path].st_size for path in reread}, stays)
    threads = 1 if in_order else usable_cpus()
    records, bytes_read = _read_records(base, reread, listener, shares, threads) if reread else ({}, 0)
    for path, record in records.items():  # what is noted already need not be noted again
        noted = known.get(path)
        if noted is not None and noted.sha256 == record.sha256 and _unchanged(noted, found[path]):
            records[path] = noted
    files = {path: records[path] if path in records else kept[path] for path in sorted(found)}
    if index is not None and write_index and files != known:
        _write_index(index, root, files)
    digest = files[root.name].sha256 if single else _digest_of(files)
    return TreeDigest(digest, files, reread, bytes_read)


def sizes_and_unread(root: Path, index: Path) -> tuple[dict[str, os.stat_result], list[str]]:
    """The files below *root* in the order of their paths, and those of which *index* does not tell the content."""
    known, found = _load_index(index), dict(sorted(walk(root, IGNORED_DIRECTORIES)))
    return found, [path for path, status in found.items() if not _unchanged(known.get(path), status)]


def _write_index(index: Path, root: Path, records: Mapping[str, FileRecord]) -> None:
    body = {"version": INDEX_VERSION, "root": str(root), "files": {p: list(r) for p, r in records.items()}}
    write_atomically(index, json.dumps(body, separators=(",", ":")).encode())


def _known(path: Path, sha256: str) -> FileRecord:
    """A record as if the file had been read once it was old enough to be trusted."""
    status = path.stat()
    read_ns = status.st_ctime_ns + RACY_NS + 1
    times = status.st_mtime_ns, status.st_ctime_ns
    return FileRecord(status.st_size, *times, status.st_ino, status.st_dev, sha256, read_ns)


def write_known_index(root: Path, index: Path, contents: Mapping[str, str]) -> str:
    """Write the index of files below *root* whose sha256 was verified as they were written; the digest of the tree."""
    records = {path: _known(root / path, contents[path]) for path in sorted(contents)}
    _write_index(index, root, records)
    return _digest_of(records)


def change_links(root: Path, index: Path, change: Callable[[], None]) -> None:
    """Do *change*, which makes or removes links to files below *root*, and tell the index of it.

    That moves a file's ctime, for which it would be read again; its content and mtime it leaves. A file that differs
    from its record before or afterwards is read again all the same.
    """
    before = {path: record for path, record in _load_index(index).items() if (root / path).is_file()}
    knew = {path for path, record in before.items() if _unchanged(record, (root / path).stat())}
    change()
    after = {path: _known(root / path, record.sha256) for path, record in before.items() if path in knew}
    same = {path: now for path, now in after.items() if now[:2] == before[path][:2]}  # size and mtime
    if same:
        _write_index(index, root, {**before, **same})


def _text(value: Any) -> str:
    """How *value* stands in a line of differences: strings bare, the rest as JSON."""
    return value if isinstance(value, str) and value else json.dumps(value, sort_keys=True, default=str)


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines such as ``max_batch_size: 32 -> 64`` for each leaf of two nested mappings that is not equal.

    A key that one side lacks reads ``unset``.
    """
    lines: list[str] = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        name = f"{prefix}{key}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{name}.")
        elif old != new or (key in before) != (key in after):
            left = _text(old) if key in before else "unset"
            right = _text(new) if key in after else "unset"
            lines.append(f"{name}: {left} -> {right}")
    return lines


def content_differences(before: Mapping[str, str], after: Mapping[str, str], prefix: str = "") -> list[str]:
    """Lines such as ``model-00002-of-00003.safetensors content`` for two path -> sha256 mappings."""
    lines = []
    for path in sorted({*before, *after}):
        if before.get(path) != after.get(path):
            what = "content" if path in before and path in after else "added" if path in after else "removed"
            lines.append(f"{prefix}{path} {what}")
    return lines
