# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A download as something that a later run finds again.

Its container sees no more of the machine than the directory that it fills and its own. What has arrived is verified and
published by the collection, outside of it.
"""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Optional

from .._artifact.fingerprint import fingerprint, tree_digest
from .._base import files
from .._base.errors import FleetError
from .._base.names import check_name
from .._base.pyz import pyz
from .._checkpoint.inspect import inspect_checkpoint
from .._checkpoint.store import CheckpointStore
from .consent import judge_directory
from .fetcher import SPEC, STATUS, TOKEN
from .request import Record, Request, read_record
from .runner import Container, Process
from .watch import Expected, is_as_expected

PACKAGE = "trtllm_fetch"
CODE = (
    "_artifact.fingerprint", "_artifact.pagecache", "_base.errors", "_base.files", "_base.names", "_base.sizes",
    "_base.urls", "_hub.archive", "_hub.consent", "_hub.download", "_hub.fetcher", "_hub.git", "_hub.huggingface",
    "_hub.modelscope", "_hub.request", "_hub.watch",
)  # fmt: skip
ARCHIVE = "fetch.pyz"
# How the system says that a disk, or what an owner may have of it, is full.
FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


class Fetch:
    """The download of the checkpoint *name* below *root*, in whatever state an earlier run left it.

    It runs in a container of *image*; without one, as a process.
    """

    def __init__(self, root: Path, name: str, image: str = "", network: str = "host") -> None:
        self.name = check_name(name, "name")
        self.store = CheckpointStore(root / "checkpoints")
        self.path = self.store.path(name)
        self.staging = self.store.staging(name)
        self.directory = root / "fetches" / name
        self.runner = Container(name, image, network) if image else Process(self.directory)

    # -- what is there -------------------------------------------------------------------------------------

    def record(self) -> Optional[Record]:
        """What was fetched last; None where nothing was."""
        return read_record(self.store.record(self.name))

    def current(self, request: Request, verify: str, write_index: bool) -> tuple[str, str, list[str]]:
        """(digest, commit, reasons): no reason where the checkpoint is there, from this request and unaltered."""
        record = self.record()
        tree = self.store.current(self.name, verify, write_index)
        if record is None or tree is None:
            return "", "", [f"{request.title}: not there yet"]
        reasons = [
            f"{key}: {_word(record.asked.get(key))} -> {_word(value)}"
            for key, value in request.asked().items()
            if record.asked.get(key) != value
        ]
        have, want = tree.contents(), record.files
        if not reasons:
            reasons = [f"{at}: content differs" for at in sorted({*have, *want}) if have.get(at) != want.get(at)]
        return tree.digest, record.commit, reasons

    # -- the download --------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What it last said; {} where it said nothing."""
        return files.read_object(self.directory / STATUS)

    def identity(self, request: Request, consent: Mapping[str, bool]) -> str:
        """What is the same for a download that may be joined."""
        return fingerprint({"request": asdict(request), "consent": dict(consent)})

    def running(self) -> bool:
        """Whether it runs."""
        return self.runner.running()

    def runs(self, identity: str) -> bool:
        """Whether a download of the same runs."""
        return files.read_object(self.directory / SPEC).get("identity") == identity and self.running()

    def start(self, request: Request, consent: Mapping[str, bool], token: str, commit: str = "") -> str:
        """Start it; the id of the download. *commit* is taken instead of the revision."""
        self.discard()
        identity = self._write(request, consent, token, commit)
        try:
            self.runner.start(self.directory / ARCHIVE, self.directory, [self.directory, self.staging], request.cache)
        except FleetError:
            self.discard()
            raise
        return identity

    def _write(self, request: Request, consent: Mapping[str, bool], token: str, commit: str) -> str:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        with self.store.lock(self.name):
            self._prepare()
        identity = uuid.uuid4().hex
        wanted = {**asdict(request), **({"revision": commit} if commit and request.revision else {})}
        spec = {
            "id": identity,
            "identity": self.identity(request, consent),
            "request": wanted,
            "asked": request.asked(),
            "title": request.title,
            "consent": dict(consent),
            "target": str(self.staging),
        }
        files.write_atomically(self.directory / ARCHIVE, pyz(PACKAGE, CODE, "_hub.fetcher"))
        files.write_atomically(self.directory / SPEC, json.dumps(spec).encode(), mode=0o600)
        if token.strip():
            files.write_atomically(self.directory / TOKEN, token.strip().encode(), mode=0o600)
        return identity

    def _prepare(self) -> None:
        """What is published and whole need not come again: the client compares it with the hub's digests."""
        fresh = not self.staging.exists()
        self.staging.mkdir(parents=True, exist_ok=True)
        record = self.record()
        if not fresh or record is None:
            return
        tree = self.store.current(self.name, write_index=False)
        for path, sha256 in (tree.contents() if tree else {}).items():
            target = files.inside(self.staging, path, "checkpoint")
            if record.files.get(path) == sha256:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(self.path / path, target)

    def refuse_failure(self) -> None:
        """Raise what it said when it failed, or that it is gone."""
        said = self.status()
        if said.get("state") == "failed":
            self.discard()
            raise FleetError(str(said.get("message")))
        if said.get("state") != "done":
            words = self.runner.last_words()
            self.discard()
            # On a full disk it cannot even write down why it fails.
            if any(full in words for full in FULL):
                raise FleetError(
                    f"The download of {self.name} found no room in {self.staging} ({words}); make room there, then run "
                    "again; what has arrived is kept."
                )
            raise FleetError(
                f"The download of {self.name} ended too early, it was stopped or killed ({words}); what has arrived is "
                "kept, so run again."
            )

    def discard(self) -> None:
        """End it, and remove what it was told; what has arrived stays."""
        self.runner.remove()
        files.remove(self.directory)

    # -- the end -------------------------------------------------------------------------------------------

    def publish(self, consent: Mapping[str, bool]) -> Record:
        """Verify what has arrived by the source's own digests, and put it in its place with its record."""
        said, spec = self.status(), files.read_object(self.directory / SPEC)
        expected = {name: Expected(**about) for name, about in said["files"].items()}
        title = spec["title"]
        with self.store.lock(self.name):
            wanted = self._verified(title, expected)
            judge_directory(title, self.staging, **consent)
            inspect_checkpoint(self.staging)
            self.store.publish(self.name, wanted)
            record = Record(spec["asked"], said["commit"], wanted)
            self.store.write_record(self.name, asdict(record))
        return record

    def _verified(self, title: str, expected: Mapping[str, Expected]) -> dict[str, str]:
        # What a client keeps of its own.
        for entry in self.staging.iterdir():
            if entry.is_dir() and entry.name.startswith("."):
                files.remove(entry)
        for name in sorted(expected):
            path = files.inside(self.staging, name, "checkpoint")
            if not path.is_file() or path.is_symlink():
                raise FleetError(f"{title}: {name} did not arrive; run again.")
            os.chmod(path, 0o644)
        # It is kept as publishing keeps it, which then reads nothing again.
        contents = tree_digest(self.staging, self.store.index(self.name)).contents()
        for name, file in sorted(expected.items()):
            path = self.staging / name
            if not is_as_expected(path, file, contents[name]):
                files.remove(path)
                raise FleetError(
                    f"{title}: {name} arrived damaged (it is not what the source's own digest says), and was removed; "
                    "run again."
                )
        return {name: contents[name] for name in expected}


def _word(value: Any) -> str:
    return "unset" if value in (None, "", [], ()) else value if isinstance(value, str) else json.dumps(value)
