# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Job runs in a pod of the image that builds: the engine where there is one, its repository, and the link by
which pods find it.

The code is that of the roles engine and model_repository; only the container that builds is the pod itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._base import files
from .._base.errors import FleetError, sentence
from .._engine.engine import Engine
from .._engine.job import Job
from .._engine.plan import Facts, Request, gather
from .._podman.image_ids import VERSION_PROBE
from .._release.releases import release
from .._repository.entry import EntryRequest
from .._repository.repository import Repository
from .._repository.request import RepositoryRequest
from .._repository.schema import INFLIGHT, SERVE

# Seconds between two looks at a log, and at a checkpoint that a Job brings.
LOOK, WAIT = 0.5, 5.0


class PodJob(Job):
    """A build in this container, to its end: its log is that of the pod too."""

    def _container(self) -> None:
        return None

    def _remove(self) -> None:
        pass

    def _run(
        self, image: str, identity: str, volumes: Sequence[str], devices: Sequence[str],
        environment: Mapping[str, str], network: str,
    ) -> None:  # fmt: skip
        ended = threading.Event()
        shown = threading.Thread(target=self._show, args=(ended,))
        shown.start()
        try:
            subprocess.run(
                [sys.executable, str(self.directory / "runner.py"), str(self.directory / "spec.json")],
                env={**os.environ, **environment}, check=False,
            )  # fmt: skip
        finally:
            ended.set()
            shown.join()

    def _show(self, ended: threading.Event) -> None:
        with open(self.log, "rb") as log:
            while True:
                last = ended.wait(LOOK)
                sys.stdout.write(log.read().decode("utf-8", "replace"))
                sys.stdout.flush()
                if last:
                    return


class PodEngine(Engine):
    """An engine in the volume. The image has no other name here than the one that the pod was started by."""

    jobs = PodJob

    def _gather(self) -> Facts:
        return gather(self.request, tolerant=False, image_id=self.request.image)

    def _version(self, image_id: str) -> str:
        done = subprocess.run([sys.executable, "-c", VERSION_PROBE], capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise FleetError(
                f"The image {image_id} does not say which TensorRT-LLM it holds "
                f"({lines[-1] if lines else 'no message'}); use an image with the tensorrt_llm package."
            )
        return done.stdout.split()[-1]


def build(spec: Mapping[str, Any]) -> str:
    """Make what *spec* asks for, as the role kubernetes writes it, unless it is there; the repository's directory."""
    root, checkpoint = Path(spec["root"]), Path(spec["checkpoint"])
    _wait_for(checkpoint)
    layout = spec.get("layout", INFLIGHT)
    outcome = Repository(
        RepositoryRequest(
            name=spec["name"],
            release=spec["release"],
            root=root,
            layout=layout,
            templates=None if layout == SERVE else spec["templates"],
            entries=[
                EntryRequest(
                    label="parameters",
                    # Other layouts serve the checkpoint itself.
                    engine_dir=_engine(spec, root, checkpoint) if layout == INFLIGHT else None,
                    tokenizer_dir=str(checkpoint),
                    streaming=spec["streaming"],
                    parameters=spec["parameters"],
                )
            ],
        )
    ).present()
    place = str(outcome.facts["repository_dir"])
    _say(f"repository {place}", {"changed": outcome.changed, "reasons": outcome.reasons})
    files.link_atomically(Path(spec["link"]), place)
    return place


def _engine(spec: Mapping[str, Any], root: Path, checkpoint: Path) -> str:
    engine = PodEngine(
        Request(
            name=spec["name"],
            root=root,
            checkpoint=checkpoint,
            release=release(spec["release"]),
            image=spec["image"],
            gpus=spec["gpus"],
            options=spec["options"],
            nodes=spec["nodes"],
        ),
        False,
        spec["environment"],
    )
    made = engine.waited(0)
    _say(f"engine {made['engine_dir']}", made)
    return str(made["engine_dir"])


def _wait_for(checkpoint: Path) -> None:
    """It appears by one rename, from the Job that brings it."""
    said = False
    while not (checkpoint / "config.json").is_file():
        if not said:
            print(f"waiting for {checkpoint}, which another Job brings", flush=True)
            said = True
        time.sleep(WAIT)


def _say(what: str, made: Mapping[str, Any]) -> None:
    reasons = f" ({'; '.join(made.get('reasons') or [])})" if made.get("changed") else ", as it was"
    print(f"{what}{reasons}", flush=True)


def main(path: str) -> int:
    """Run the Job; 1 with a sentence where it cannot be done."""
    # The first process of a container ends only by what it does itself.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        build(json.loads(Path(path).read_bytes()))
    except (FleetError, OSError) as error:
        print(f"ERROR {sentence(error)}", file=sys.stderr, flush=True)
        return 1
    return 0
