# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A transfer as a transient unit of systemd: started, looked at, stopped, and never left behind.

The unit has less of the processor and of the disk than what serves, and a time after which systemd ends it whatever
became of the controller. Its directory holds the code, so that it needs nothing of the run that started it.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._base import files, transient
from .._base.command import Answer, run_command
from .._base.errors import FleetError
from .._base.names import DEFAULT_ROOT, check_name, check_path
from .._base.pyz import pyz
from .artifact_store import ArtifactStore
from .transfer import KINDS, SPEC, STATUS, TOKEN

# Which artefact; plugins/doc_fragments/artifact.py documents both.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "fingerprint": {"type": "str", "required": True},
    "kind": {"type": "str", "choices": list(KINDS), "default": "engine"},
    "root": {"type": "path", "default": DEFAULT_ROOT},
    "time_limit": {"type": "int", "default": 7200},
}
# Of one that arrives: whose files of an engine; [] for all.
OF_RANKS: dict[str, dict[str, Any]] = {"ranks": {"type": "list", "elements": "int", "default": []}}
# How it is handed out.
NETWORK: dict[str, dict[str, Any]] = {
    "port": {"type": "int", "default": 18800},
    "rate": {"type": "int", "default": 0},
}

# What the process is made of, besides the standard library.
CODE = (
    "_artifact.artifact_store", "_artifact.fetch", "_artifact.fingerprint", "_artifact.pagecache", "_artifact.pieces",
    "_artifact.serve", "_artifact.store", "_artifact.transfer", "_artifact.turn",
    "_base.errors", "_base.files", "_base.names", "_base.sizes",
)  # fmt: skip
PACKAGE = "trtllm_transfer"
ARCHIVE = "transfer.pyz"
PROPERTIES = {"NoNewPrivileges": "yes", "TimeoutStopSec": "10"}
BEGIN = 20.0  # seconds within which a process says that it listens, or why it does not
SHORT = 12
FIRST_POLL, GROWTH = 0.1, 1.3  # seconds; by how much the next pause is longer
DONE = ("published", "received")  # the latter of a draft, which is published by nobody


def archive() -> bytes:
    """The code as one file that Python runs."""
    return pyz(PACKAGE, CODE, "_artifact.transfer")


def check_counts(params: Mapping[str, Any]) -> None:
    """Refuse C(threads) and C(poll) that are none; raises `FleetError`."""
    for option in ("threads", "poll"):
        if params[option] < 1:
            raise FleetError(f"{option} is {params[option]}; give at least 1.")


class TransferUnit:
    """The transfer of one artefact on this host, in whatever state an earlier run left it."""

    def __init__(self, root: str, kind: str, name: str, fingerprint: str, ranks: Sequence[int] = ()) -> None:
        self.root, self.kind, self.name = Path(check_path(root, "root")), kind, check_name(name, "name")
        self.store = ArtifactStore(self.root / KINDS[kind])
        self.path = self.store.path(name, fingerprint)
        self.fingerprint, self.ranks = fingerprint, sorted(ranks)
        identity = f"{kind}-{name}-{fingerprint[:SHORT]}"
        self.directory = self.root / "transfers" / identity
        self.unit = f"trtllm-transfer-{identity}.service"

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> TransferUnit:
        """From a module's parameters."""
        return cls(params["root"], params["kind"], params["name"], params["fingerprint"], params.get("ranks") or [])

    @property
    def is_there(self) -> bool:
        """Whether the artefact, or what of it the ranks need, is published here, and of the right sizes."""
        return self.store.has(self.name, self.fingerprint, self.ranks)

    # -- the unit ------------------------------------------------------------------------------------------

    def running(self) -> bool:
        """Whether systemd runs it."""
        return transient.running(self.unit)

    def status(self) -> dict[str, Any]:
        """What the process last said; {} where it said nothing."""
        return files.read_object(self.directory / STATUS)

    def spec(self, token: str | None, time_limit: int, **how: Any) -> dict[str, Any]:
        """What a process shall do; what does not apply is empty. Without a *token*, it is asked by nobody."""
        if time_limit < 1:
            raise FleetError(f"time_limit is {time_limit}; give at least one second.")
        if how.get("rate", 0) < 0:
            raise FleetError(f"rate is {how['rate']}; give 0 for no limit, or megabytes a second.")
        if token is not None and not token.strip():
            raise FleetError("token is empty; give the secret that both sides know.")
        empty: dict[str, Any] = {"sources": [], "pieces": "", "threads": 1, "address": "", "port": 0, "rate": 0,
                                 "shared": ""}  # fmt: skip
        return {
            **empty,
            **how,
            "root": str(self.root),
            "kind": self.kind,
            "name": self.name,
            "fingerprint": self.fingerprint,
            "ranks": self.ranks,
            "time_limit": time_limit,
            # Only to see whether a process that runs has this token.
            "token_sha256": hashlib.sha256((token or "").strip().encode()).hexdigest(),
        }

    def runs(self, spec: dict[str, Any]) -> bool:
        """Whether a process already does what *spec* says."""
        said = self.status().get("state")
        return said not in (None, "failed") and files.read_object(self.directory / SPEC) == spec and self.running()

    def hands_out(self, spec: dict[str, Any]) -> bool:
        """Whether a process hands out as *spec* says, be it that it has received what it hands out."""
        received = {key: spec[key] for key in ("sources", "pieces", "threads")}
        now = files.read_object(self.directory / SPEC)
        said = self.status().get("state")
        return said in ("serving", "published") and {**now, **received} == spec and self.running()

    def failed(self, spec: dict[str, Any]) -> bool:
        """Whether a process that did this failed, and nobody was told so far."""
        return self.status().get("state") == "failed" and files.read_object(self.directory / SPEC) == spec

    def start(self, spec: dict[str, Any], token: str | None) -> None:
        """Start the process, and wait until it listens or receives."""
        self.stop()
        self._free_port(spec)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        files.write_atomically(self.directory / ARCHIVE, archive())
        files.write_atomically(self.directory / TOKEN, (token or "").strip().encode(), mode=0o600)
        files.write_atomically(self.directory / SPEC, json.dumps(spec).encode(), mode=0o600)
        properties = {**PROPERTIES, "RuntimeMaxSec": str(spec["time_limit"])}
        argv = [sys.executable, "-I", str(self.directory / ARCHIVE), str(self.directory)]
        said = transient.start(self.unit, f"Transfer of {self.name}", properties, argv)
        if said.rc:
            self.stop()
            raise FleetError(f"The transfer of {self.name} cannot be started: {_last(said)}")
        self._begun(spec)

    def _free_port(self, spec: Mapping[str, Any]) -> None:
        """End what hands out something else of this name on the port: an earlier version, or a draft of this one."""
        for entry in self.directory.parent.glob(f"{self.kind}-{self.name}-*") if spec["address"] else ():
            other = files.read_object(entry / SPEC)
            if all(other.get(key) == spec[key] for key in ("kind", "name", "port")) and other["address"]:
                TransferUnit(str(self.root), self.kind, self.name, other["fingerprint"]).stop()

    def _begun(self, spec: dict[str, Any]) -> None:
        deadline = time.monotonic() + BEGIN
        while time.monotonic() < deadline:
            state = self.status().get("state")
            # A receiver that waits for its first source has begun. A sender may have to read the artefact first.
            if state in ("serving", "receiving", "waiting", "free", "holding", *DONE):
                return
            if state == "starting":
                deadline = max(deadline, time.monotonic() + 1)
            self.refuse_failure()
            time.sleep(0.2)
        raise FleetError(f"The transfer of {self.name} does not begin; see 'journalctl -u {self.unit}'.")

    def refuse_failure(self) -> None:
        """Raise what the process said when it failed, or that it is gone."""
        alive = self.running()
        said = self.status()
        if said.get("state") == "failed":
            self.stop()
            raise FleetError(said.get("message") or f"The transfer of {self.name} failed.", {"transfer": said})
        if not alive and said.get("state") not in (*DONE, "serving"):
            raise FleetError(
                f"The transfer of {self.name} ended too early: its time_limit was over, or it was stopped or killed; "
                f"see 'journalctl -u {self.unit}'. What was verified is kept, so run again."
            )

    def is_over(self, said: Mapping[str, Any]) -> bool:
        """Whether nothing is to be waited for any more, by what the process said."""
        state = said.get("state")
        return state in (*DONE, "free") or (state == "holding" and not self.is_there)

    def waited(self, poll: float) -> dict[str, Any]:
        """Its status, once the artefact is published, or nobody but this host could make it.

        It is looked at every *poll* seconds, and more often at first, as what is small is there soon.
        """
        pause = min(FIRST_POLL, poll)
        while True:
            said = self.status()
            if self.is_over(said):
                return said
            self.refuse_failure()
            time.sleep(pause)
            pause = min(pause * GROWTH, poll)

    def stop(self) -> dict[str, Any] | None:
        """End it and remove its directory; what was received stays. Its last status, None if it did not run."""
        ran = self.running()
        if ran:
            done = run_command(["systemctl", "stop", "--", self.unit])
            # One that ended by itself meanwhile is not known to systemd any more, which is as good.
            if done.rc and self.running():
                raise FleetError(f"'systemctl stop {self.unit}' failed: {_last(done)}")
        said = self.status()
        files.remove(self.directory)
        return said if ran else None


def _last(answer: Answer) -> str:
    lines = [line for line in (answer.err or answer.out).strip().splitlines() if line]
    return f"{lines[-1] if lines else f'exit code {answer.rc}'}."
