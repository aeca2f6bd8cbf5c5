# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A gateway that goes where a job goes: Slurm may start it anew at any time, on other nodes, and asks nobody.

Each start of a job writes its address to a file beside its log. A service beside the gateway looks at the files of the
jobs that it fronts, and puts the new address in the place of the old one in the gateway's configuration, which the
gateway reads again by itself. It asks nothing of Slurm, so that it runs where only the jobs' directory is.
"""

from __future__ import annotations

import ipaddress
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from .._base.files import read_object, write_atomically

PAUSE = 2.0  # seconds between two looks
NOTICE = "<5>"  # for the journal


def told(config: str, jobs: Sequence[Mapping[str, str]]) -> str:
    """What the service is told, and writes again: each job's ``url`` in the configuration, and its ``file``."""
    return f"{json.dumps({'config': config, 'jobs': list(jobs)}, indent=1, sort_keys=True)}\n"


def moved(jobs: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """By old URL the new one, of those jobs that are elsewhere; one that says nothing that is an address stays."""
    found = {}
    for job in jobs:
        try:
            address = ipaddress.ip_address(Path(job["file"]).read_text(encoding="ascii").strip())
        except (OSError, ValueError):
            continue
        host = f"[{address}]" if address.version == 6 else str(address)
        url = f"http://{host}:{urlsplit(job['url']).port}"
        if url != job["url"]:
            found[job["url"]] = url
    return found


def replaced(text: str, moves: Mapping[str, str]) -> str:
    """A configuration with all URLs moved at once: two jobs may have changed places."""
    urls = "|".join(map(re.escape, moves))
    return re.sub(rf"(?:{urls})(?![0-9])", lambda match: moves[match[0]], text)


def follow(spec_file: Path) -> dict[str, str]:
    """Look once; what has moved. Raises OSError where the configuration cannot be written."""
    spec = read_object(spec_file)
    moves = moved(spec.get("jobs", []))
    if not moves:
        return {}
    config = Path(spec["config"])
    before = config.read_text(encoding="utf-8")
    after = replaced(before, moves)
    # A run that writes it meanwhile knows as much; the next look sees what it wrote.
    if read_object(spec_file) != spec or config.read_text(encoding="utf-8") != before:
        return {}
    if after != before:
        write_atomically(config, after.encode(), config.stat().st_mode & 0o777)
    jobs = [{**job, "url": moves.get(job["url"], job["url"])} for job in spec["jobs"]]
    write_atomically(spec_file, told(spec["config"], jobs).encode())
    return moves


def main(spec_file: str) -> int:
    """Look until ended."""
    said = ""
    while True:
        try:
            for url, new in follow(Path(spec_file)).items():
                print(f"{NOTICE}{url} is at {new} by now", flush=True)
            said = ""
        except OSError as error:
            if str(error) != said:
                said = str(error)
                print(f"{NOTICE}not followed: {said}", file=sys.stderr, flush=True)
        time.sleep(PAUSE)
