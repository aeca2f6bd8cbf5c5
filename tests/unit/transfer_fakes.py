# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts that hand artefacts to each other over loopback: stores of their own, real sockets, real processes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.artifact_store import ArtifactStore
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.pieces import Pieces, pieces_of
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.serve import Offer, Sender
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.transfer_unit import archive

NAME = "tiny"
FINGERPRINT = "ab" * 32
TOKEN = "a secret of the test"
PIECE = 64 << 10
SIZES = {"rank0.engine": 20 * PIECE + 5, "rank1.engine": 20 * PIECE, "config.json": 2, "1/empty": 0}


def store_of(home: Path) -> ArtifactStore:
    """The engines of the host whose root is *home*."""
    return ArtifactStore(home / "engines")


def made(home: Path, fingerprint: str = FINGERPRINT, seed: int = 1) -> Path:
    """An engine that this host has built."""
    store, random_ = store_of(home), random.Random(seed)
    staging = store.staging(NAME, fingerprint)
    for name, size in SIZES.items():
        (staging / name).parent.mkdir(exist_ok=True)
        (staging / name).write_bytes(random_.randbytes(size))
    return store.publish(NAME, fingerprint, {"made_from": {}})


def pieces(home: Path) -> Pieces:
    """The pieces of the engine, small ones."""
    return pieces_of(store_of(home), NAME, FINGERPRINT, piece=PIECE)


def content(path: Path) -> dict[str, bytes]:
    """Relative path -> bytes of all files."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def alter(file: Path, at: int) -> None:
    """Turn one byte over."""
    with open(file, "r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte[0] ^ 0xFF]))


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(home: Path, rate: int = 0, port: int = 0, token: str = TOKEN) -> Iterator[Sender]:
    """The host hands its engine out."""
    path = store_of(home).path(NAME, FINGERPRINT)
    sender = Sender(Offer.of_directory(pieces(home), path), "127.0.0.1", port, token, rate)
    try:
        yield sender
    finally:
        sender.stop()


class Process:
    """A transfer in a process of its own, made of nothing but the packed code, as on a host."""

    def __init__(self, home: Path, **spec: object) -> None:
        self.directory = home / "process"
        self.directory.mkdir(parents=True, exist_ok=True)
        whole = {
            "root": str(home), "kind": "engine", "name": NAME, "fingerprint": FINGERPRINT, "sources": [], "pieces": "",
            "threads": 4, "address": "", "port": 0, "rate": 0, "shared": "", "turn": False, "ranks": [],
            "time_limit": 60, **spec,
        }  # fmt: skip
        (self.directory / "transfer.pyz").write_bytes(archive())
        (self.directory / "spec.json").write_text(json.dumps(whole))
        (self.directory / "token").write_text(TOKEN)
        (self.directory / "status.json").unlink(missing_ok=True)
        argv = [sys.executable, "-I", str(self.directory / "transfer.pyz"), str(self.directory)]
        self.process = subprocess.Popen(argv, env={"PATH": os.environ["PATH"]}, stderr=subprocess.PIPE, text=True)

    def status(self) -> dict[str, object]:
        try:
            found: dict[str, object] = json.loads((self.directory / "status.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found

    def until(self, *states: str, seconds: float = 30) -> dict[str, object]:
        """Its status once it says one of *states*."""
        deadline = time.monotonic() + seconds
        while self.status().get("state") not in states:
            assert time.monotonic() < deadline, (self.status(), self.process.poll())
            time.sleep(0.02)
        return self.status()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def ended(self, seconds: float = 90) -> int:
        """Its exit code."""
        said = self.process.communicate(timeout=seconds)[1]
        assert "Traceback" not in said, said
        return self.process.returncode
