# SPDX-License-Identifier: GPL-3.0-or-later
"""Lay the wheels out in a root directory: python3 unpack_wheels.py WHEELS ROOT.

Triton's tree keeps the place it has in its wheel relative to its libraries, because its run paths are relative:
/opt/pytriton/pytriton/tritonserver beside /opt/pytriton/nvidia_pytriton.libs.
"""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

STUB = "3.11"
TREE = "pytriton/tritonserver/"
LIBRARIES = "nvidia_pytriton.libs/"
# The interpreter that the wheel bundles serves Python 3.13 alone.
UNUSED_LIBRARY = "nvidia_pytriton.libs/libpython3"


def unpack_triton(wheel: Path, root: Path) -> None:
    """The server, its libraries, the local cache, the Python backend with the one stub that fits."""
    target = root / "opt/pytriton"
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            unused = name.startswith((f"{TREE}python_backend_stubs/", UNUSED_LIBRARY))
            if name.startswith((TREE, LIBRARIES)) and not unused:
                archive.extract(name, target)
        stub = f"{TREE}python_backend_stubs/{STUB}/triton_python_backend_stub"
        place = target / TREE / "backends/python/triton_python_backend_stub"
        place.write_bytes(archive.read(stub))
    for program in (place, target / TREE / "bin/tritonserver"):
        program.chmod(0o755)
    # bin and backends are the image's own: a launcher for ranks, and the backend tensorrtllm beside python.
    server = root / "opt/tritonserver"
    (server / "backends").mkdir(parents=True)
    (server / "backends/python").symlink_to(f"/opt/pytriton/{TREE}backends/python")
    (server / "caches").symlink_to(f"/opt/pytriton/{TREE}caches")


def unpack_package(wheel: Path, root: Path) -> None:
    """A plain package, where Debian's interpreter looks for them."""
    target = root / "usr/lib/python3/dist-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)


def main() -> None:
    wheels, root = Path(sys.argv[1]), Path(sys.argv[2])
    shutil.rmtree(root, ignore_errors=True)
    for wheel in sorted(wheels.glob("*.whl")):
        unpack = unpack_triton if wheel.name.startswith("nvidia_pytriton") else unpack_package
        unpack(wheel, root)


if __name__ == "__main__":
    main()
