# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the job of an engine's build runs on a node: the build of M(trtllm.fleet.trtllm_engine), bound to the job.

It runs as one file, without the collection. Slurm does not see the build's container, which is no child of the job; so
the container holds on to a lock of this process, and ends when this process has ended, in whatever way.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from .._base.errors import FleetError, sentence
from .._base.files import write_atomically
from .._engine.engine import Engine
from .._engine.plan import Request
from .._release.releases import release

# The GPUs of a job, as indices of the host; CUDA_VISIBLE_DEVICES may count anew within a control group.
GPUS = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")
# What a later stage reads of an engine.
TOLD = ("engine_dir", "fingerprint", "world_size", "release", "model_family", "gpu", "image_id", "reasons", "seconds")


def gpus_given() -> list[str]:
    """The GPUs that Slurm gave the job; none on a cluster that counts none."""
    found = next((os.environ[name] for name in GPUS if os.environ.get(name)), "")
    return [gpu for gpu in found.split(",") if gpu]


def _stopped(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)


def main(path: str) -> int:
    """Build what the file *path* describes, and write the result that it names."""
    spec = json.loads(Path(path).read_text(encoding="utf-8"))
    about = spec["engine"]
    signal.signal(signal.SIGTERM, _stopped)
    with tempfile.NamedTemporaryFile(prefix="trtllm-build-") as lifeline:
        fcntl.flock(lifeline, fcntl.LOCK_EX)
        request = Request(
            name=about["name"],
            root=Path(about["root"]),
            checkpoint=Path(about["checkpoint"]),
            release=release(about["release"]) if about["release"] else None,
            image=about["image"],
            gpus=gpus_given(),
            nodes=about["nodes"],
            options=about["options"],
            timeout=about["timeout"],
            skip_preflight=about["skip_preflight"],
            lifeline=lifeline.name,
        )
        engine = Engine(request, False)
        try:
            result = engine.waited(spec["poll"])
        except (FleetError, OSError) as error:
            for line in getattr(error, "details", {}).get("log_tail", []):
                print(line)
            print(sentence(error), file=sys.stderr)
            return 1
        except SystemExit as stopped:
            with contextlib.suppress(FleetError, OSError):
                engine.cancel()
            return int(stopped.code or 1)
    engine_dir = Path(result["engine_dir"])
    found = {key: result.get(key) for key in TOLD}
    paths = sorted(str(file) for file in engine_dir.iterdir())
    write_atomically(Path(spec["result"]), json.dumps({**found, "paths": [str(engine_dir), *paths]}).encode())
    return 0
