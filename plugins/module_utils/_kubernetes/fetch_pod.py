# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Job runs in a pod of the image that downloads: a checkpoint, verified and published in the volume.

The code is that of the role checkpoint; only the container that downloads is the pod itself.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from .._base.errors import FleetError, sentence
from .._hub.job import Fetch
from .._hub.request import Request
from .._hub.runner import Process

LOOK, TELL = 1.0, 30


def main(path: str) -> int:
    """Run the Job; 1 with a sentence where it cannot be done."""
    # The first process of a container ends only by what it does itself.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        fetch(Path(path))
    except (FleetError, OSError) as error:
        print(f"ERROR {sentence(error)}", file=sys.stderr, flush=True)
        return 1
    return 0


def fetch(path: Path) -> None:
    """Download what the file at *path* asks for, as the role kubernetes writes it, unless it is there."""
    spec = json.loads(path.read_bytes())
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in spec["request"].items()
    }
    request, consent = Request(**given), spec["consent"]
    job = Fetch(Path(spec["root"]), spec["name"])
    # What a pod before this one left cannot run any more.
    job.runner = Process(job.directory)
    _digest, commit, reasons = job.current(request, "stat", True)
    if not reasons:
        print(f"{job.path} is there, at {commit or 'no commit'}", flush=True)
        return
    print("; ".join(reasons), flush=True)
    record = job.record()
    same = record is not None and record.asked == request.asked()
    token = Path(spec["token"]).read_text(encoding="utf-8").strip() if spec["token"] else ""
    job.start(request, consent, token, commit if same else "")
    looks = 0
    while job.running():
        if looks % TELL == 0:
            said = job.status()
            print(f"{said.get('phase', 'starting')}: {said.get('bytes_done') or 0} of {said.get('bytes_total') or '?'} "
                  "bytes", flush=True)  # fmt: skip
        looks += 1
        time.sleep(LOOK)
    job.refuse_failure()
    done = job.publish(consent)
    job.discard()
    print(f"{job.path} is there, at {done.commit or 'no commit'}", flush=True)
