#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast checkpoints are fingerprinted, as ratios within one run: a table, and JSON with --json.

No change: 2,000 files, 140 GB (sparse), against ansible.builtin.stat with its checksum on one of its 4 GB files and
against sha256sum. First time: 8 GB in 8 files against sha256sum of one file times the cores. Beside the times: peak
memory, and whether the page cache is as it was.

Needs about 9 GB of disk; --scale 0.1 takes a tenth of everything.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "collections"))

from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.pagecache import WINDOW, _resident_pages

GB = 10**9
MB = 1 << 20
REPEAT = 5

# What one measurement runs in a process of its own, so that peak memory is its own.
PROBE = """
import json, re, sys, time
from pathlib import Path
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact import fingerprint
fingerprint.RACY_NS = -10**15  # what was just written counts as settled
start = time.perf_counter()
tree = fingerprint.tree_digest(Path(sys.argv[1]), Path(sys.argv[2]), write_index=sys.argv[3] == "write")
seconds = time.perf_counter() - start
# Not ru_maxrss: that begins with the size of the process which started this one.
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
print(json.dumps({"seconds": seconds, "bytes": tree.bytes_read, "files": len(tree.files),
                  "peak_mb": int(peak.group(1)) / 1024}))
"""


@dataclass
class Row:
    """One line of the table. *ratio* compares with *against*; *goal* is what it should be."""

    what: str
    value: str
    against: str = ""
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None


def digest(tree: Path, index: Path, write: bool = True) -> dict[str, Any]:
    """Fingerprint *tree* in a fresh process."""
    environment = {**os.environ, "PYTHONPATH": str(REPO / "collections")}
    argv = [sys.executable, "-c", PROBE, str(tree), str(index), "write" if write else "read"]
    found: dict[str, Any] = json.loads(subprocess.check_output(argv, env=environment))
    return found


def best(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The fastest of several runs: what else the machine does only ever adds."""
    return min((measure() for _ in range(REPEAT)), key=lambda found: float(found["seconds"]))


def seconds_of(argv: list[str]) -> float:
    """Wall time of a command."""
    start = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def sparse_checkpoint(root: Path, scale: float) -> tuple[Path, int]:
    """2,000 files with 140 GB among them, of which nearly nothing is on the disk; and the size of a large one."""
    tree = root / "sparse"
    tree.mkdir()
    large = int(4 * GB * scale)
    for number in range(35):
        with open(tree / f"model-{number:05}-of-00035.safetensors", "wb") as stream:
            stream.truncate(large)
    for number in range(1965):
        (tree / f"part-{number:04}.json").write_text(f'{{"number": {number}}}')
    return tree, large


def real_files(root: Path, scale: float) -> Path:
    """8 GB in 8 files, on the disk."""
    tree = root / "real"
    tree.mkdir()
    block = os.urandom(16 * MB)
    for number in range(8):
        with open(tree / f"shard-{number}", "wb") as stream:
            for _ in range(max(1, int(GB * scale) // len(block))):
                stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
    return tree


def resident(path: Path) -> bytes:
    """One byte per page of *path*, 1 where it is in the page cache."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        parts = [_resident_pages(stream.fileno(), at, min(WINDOW, size - at)) for at in range(0, size, WINDOW)]
    if None in parts:
        raise SystemExit("bench: this kernel does not tell what the page cache holds")
    return b"".join(part for part in parts if part is not None)


def forget(path: Path) -> None:
    """Take *path* out of the page cache."""
    with open(path, "rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_no_change(root: Path, scale: float) -> list[Row]:
    tree, large = sparse_checkpoint(root, scale)
    index = root / "sparse.json"
    total = sum(path.stat().st_size for path in tree.iterdir())
    first = digest(tree, index)
    again = best(lambda: digest(tree, index, write=False))
    assert again["bytes"] == 0, "nothing had changed, and yet something was read"
    one = next(tree.glob("model-*"))
    stat = seconds_of(
        [str(Path(sys.executable).with_name("ansible")), "localhost", "-m", "ansible.builtin.stat", "-a", f"path={one}"]
    )
    sha256sum = seconds_of(["sha256sum", str(one)])
    whole = sha256sum * total / large
    seconds = float(again["seconds"])
    return [
        Row(f"no change: {again['files']} files, {total / GB:.0f} GB", f"{seconds * 1000:.0f} ms", goal="< 100 ms",
            met=seconds < 0.1),
        Row("", "", f"ansible.builtin.stat, checksum of one {large / GB:.1f} GB file: {stat:.1f} s", stat / seconds),
        Row("", "", f"sha256sum of that file: {sha256sum:.1f} s", sha256sum / seconds),
        Row("", "", f"sha256sum of all (by size): {whole:.0f} s", whole / seconds),
        Row("first time, the same files", f"{first['seconds']:.1f} s", f"sha256sum of all (by size): {whole:.0f} s",
            whole / float(first["seconds"])),
        Row("peak memory, first time", f"{first['peak_mb']:.0f} MB", goal="< 64 MB", met=first["peak_mb"] < 64),
    ]  # fmt: skip


def measure_first_time(root: Path, scale: float) -> list[Row]:
    tree = real_files(root, scale)
    files = sorted(tree.iterdir())
    total = sum(path.stat().st_size for path in files)
    cores = min(len(os.sched_getaffinity(0)), len(files))  # one file is hashed on one core
    for path in files:
        seconds_of(["cat", str(path)])
    rows = []
    for tool in (["sha256sum"], ["openssl", "dgst", "-sha256"]):
        if shutil.which(tool[0]) is None:
            continue
        rate = files[0].stat().st_size / min(seconds_of([*tool, str(files[0])]) for _ in range(3))
        runs = [digest(tree, root / f"{tool[0]}-{number}.json") for number in range(3)]
        found = min(runs, key=lambda run: float(run["seconds"]))
        speed = total / found["seconds"]
        ratio = speed / (rate * cores)
        rows.append(
            Row(f"first time: {total / GB:.1f} GB in 8 files, cached", f"{speed / GB:.2f} GB/s",
                f"{' '.join(tool)} of one file: {rate / GB:.2f} GB/s, times {cores} cores", ratio, ">= 0.9",
                ratio >= 0.9)
        )  # fmt: skip
    rows.append(Row("peak memory", f"{found['peak_mb']:.0f} MB", goal="< 64 MB", met=found["peak_mb"] < 64))
    rows.append(measure_page_cache(tree, files, root))
    return rows


def measure_page_cache(tree: Path, files: list[Path], root: Path) -> Row:
    """Half of the files are cached, as a serving process would have them, one of them in part."""
    for path in files[4:]:
        forget(path)
    with open(files[4], "rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for at in range(0, files[4].stat().st_size, 8 * MB):
            os.pread(stream.fileno(), MB, at)
    before = {path: resident(path) for path in files}
    digest(tree, root / "cache.json")
    after = {path: resident(path) for path in files}
    pages = sum(map(len, before.values()))
    changed = sum(a != b for path in files for a, b in zip(before[path], after[path]))
    held = sum(map(sum, before.values())) / pages
    return Row(
        f"page cache, {held:.0%} of the files resident", f"{changed} of {pages} pages differ afterwards",
        goal="< 0.1 %", met=changed < pages / 1000,
    )  # fmt: skip


def table(rows: list[Row]) -> str:
    """The rows as text, columns aligned."""
    cells = [
        [row.what, row.value, row.against, f"{row.ratio:,.2f} x" if row.ratio is not None else "", row.goal,
         {True: "yes", False: "NO", None: ""}[row.met]]
        for row in rows
    ]  # fmt: skip
    cells.insert(0, ["measured", "", "against", "ratio", "goal", "met"])
    widths = [max(len(line[column]) for line in cells) for column in range(6)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in cells)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="where the test files go (a real disk)")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the sizes, for a quick look")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-fingerprint-", dir=arguments.dir) as scratch:
        root = Path(scratch)
        rows = measure_no_change(root, arguments.scale) + measure_first_time(root, arguments.scale)
    print(table(rows))
    if arguments.json:
        facts = {"cores": len(os.sched_getaffinity(0)), "scale": arguments.scale, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")
    return 0 if all(row.met is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
