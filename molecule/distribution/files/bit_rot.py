#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run on a host: turn one byte of a file of an artefact over, as a disk does that forgets.

Arguments: the directory of the artefact's name, the file, the place of the byte. No program can leave the time of a
file's last change as it was, so what is noted of the file is given the new one.
"""

import json
import os
import sys
from pathlib import Path

name, file, place = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
path, note = next(name.glob(f"*/{file}")), next(name.glob("*.digests.json"))
with path.open("r+b") as opened:
    byte = os.pread(opened.fileno(), 1, place)
    os.pwrite(opened.fileno(), bytes([byte[0] ^ 0xFF]), place)
status, noted = path.stat(), json.loads(note.read_text())
size, _, _, inode, device, sha256, _ = noted["files"][file]
noted["files"][file] = [
    size,
    status.st_mtime_ns,
    status.st_ctime_ns,
    inode,
    device,
    sha256,
    status.st_ctime_ns + 10**12,
]
note.write_text(json.dumps(noted))
