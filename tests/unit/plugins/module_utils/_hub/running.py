# SPDX-License-Identifier: GPL-3.0-or-later
"""A download as the module does it, but as a process of this machine instead of in a container."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._hub.job import Fetch
from ansible_collections.trtllm.fleet.plugins.module_utils._hub.request import Request, request_of

NO_CONSENT = {"trust_remote_code": False, "allow_pickle": False}


def run_here(
    fetch: Fetch, wanted: Request, consent: dict[str, bool], token: str, commit: str = ""
) -> subprocess.Popen[bytes]:
    """What its container runs, as a process of this test."""
    started: list[subprocess.Popen[bytes]] = []

    class Here:
        def start(self, archive: Path, home: Path, directories: Any, cache: str) -> None:
            environment = {**os.environ, "HOME": str(home)}
            started.append(
                subprocess.Popen(
                    [sys.executable, str(archive), str(home)], stdin=subprocess.DEVNULL, env=environment,
                    start_new_session=True,
                )
            )  # fmt: skip

        def remove(self) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch, "runner", Here())
        fetch.start(wanted, consent, token, commit)
    return started[0]


def download(
    root: Path, asked: Mapping[str, Any], *, token: str = "", consent: dict[str, bool] = NO_CONSENT, commit: str = ""
) -> Fetch:
    """One whole download of what is *asked*."""
    fetch = Fetch(root, "m")
    run_here(fetch, request_of(asked, ""), consent, token, commit).wait(300)
    said = fetch.status()
    if said["state"] != "done":
        raise FleetError(said["message"])
    fetch.publish(consent)
    return fetch


def received(fetch: Fetch) -> int:
    return int(fetch.status()["received"])


def arrived(fetch: Fetch) -> int:
    """Bytes that lie where it gathers them."""
    return sum(path.stat().st_size for path in fetch.staging.rglob("*") if path.is_file())


def kill_once_arrived(fetch: Fetch, process: subprocess.Popen[bytes], size: int) -> None:
    """Kill it, and all that it has started, in the middle."""
    while arrived(fetch) < size:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # until its server has seen it
