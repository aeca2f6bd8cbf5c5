# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that hands out, or receives and hands on, or shares one artefact. It belongs to the host, not to the
controller.

What it shall do stands in ``spec.json``; how it stands, it writes into ``status.json``. It ends when it has nothing
left to do, when it is told to, and in any case when its time is over.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from .._base import files
from .._base.errors import FleetError, sentence
from .artifact_store import ArtifactStore
from .fetch import Directory, Receiver, Sources, held_alone, only_receiver, receive_list
from .pieces import Pieces, pieces_of
from .serve import Offer, Sender
from .turn import Turn

# Kinds of artefacts, and where the root keeps them.
KINDS = {"engine": "engines", "repository": "repositories", "image": "images", "checkpoint": "handed"}
# Of these, whatever a transfer left is of use to the next one of the same name: most versions of one differ in little.
TAKEN_UP = ("checkpoint",)
SPEC, STATUS, TOKEN = "spec.json", "status.json", "token"
STATUS_INTERVAL = 0.5  # seconds
TURN_INTERVAL = 1.0  # seconds between two looks at what hosts share


class Transfer:
    """What one process does, from its spec. *token* never stands in the spec."""

    def __init__(self, spec: dict[str, Any], token: str, status: Optional[Path] = None) -> None:
        self.spec, self.token, self._status_file = spec, token, status
        self.store = ArtifactStore(Path(spec["root"]) / KINDS[spec["kind"]])
        self.name, self.fingerprint = spec["name"], spec["fingerprint"]
        self.receiver: Optional[Receiver] = None
        self.sender: Optional[Sender] = None
        self.begun, self.seconds = time.monotonic(), 0.0
        self.state, self.message, self.holder, self.size = "starting", "", "", 0
        self._held = -1  # the directory that it receives into
        self.over = threading.Event()
        self._writing = threading.RLock()  # a signal may come while it is held

    # -- how it stands -------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What the module reads."""
        return {
            "state": self.state,
            "message": self.message,
            "holder": self.holder,
            "size": self.size,
            "kept": self.receiver.kept if self.receiver else 0,
            "received": self.receiver.received if self.receiver else 0,
            "sent": self.sender.sent if self.sender else 0,
            "seconds": round(self.seconds or time.monotonic() - self.begun, 2),
            "url": self.sender.url if self.sender else "",
        }

    def tell(self, state: str = "", message: str = "") -> None:
        """Write the status; a disk that is full must not end the transfer by itself."""
        with self._writing:
            self.state, self.message = state or self.state, message or self.message
            if self._status_file is not None:
                with contextlib.suppress(OSError):
                    files.write_atomically(self._status_file, json.dumps(self.status()).encode())

    def end(self, *_: Any) -> None:
        """End at once, with the last figures told. What is verified stays."""
        self.tell()
        os._exit(0)

    def _tell_on(self) -> None:
        while not self.over.wait(STATUS_INTERVAL):
            self.tell()

    # -- what it does --------------------------------------------------------------------------------------

    def run(self) -> int:
        """Do it, and return the exit code of the process."""
        threading.Thread(target=self._tell_on, daemon=True).start()
        try:
            if self.spec["shared"]:
                self._share(ArtifactStore(Path(self.spec["shared"]) / KINDS[self.spec["kind"]], shared=True))
            elif self.spec["sources"]:
                self._receive()
            else:
                pieces = pieces_of(self.store, self.name, self.fingerprint)
                self._serve(Offer.of_directory(pieces, self.store.path(self.name, self.fingerprint)), pieces)
                self.tell("serving")
            if self.sender is not None:
                self.over.wait(max(0.0, self.begun + self.spec["time_limit"] - time.monotonic()))
        except (FleetError, OSError) as error:
            self.tell("failed", sentence(error, str(self.store.root)))
            print(self.message, file=sys.stderr)  # the journal has it too, as the disk may be full
            return 1
        finally:
            self.over.set()
            if self.sender is not None:
                self.sender.stop()
            if self._held >= 0:
                os.close(self._held)
        return 0

    def _serve(self, offer: Offer, pieces: Pieces) -> None:
        self.size = pieces.size
        if self.spec["address"]:
            self.sender = Sender(offer, self.spec["address"], self.spec["port"], self.token, self.spec["rate"])

    def _receive(self) -> None:
        """Receive, hand on what is verified meanwhile, and publish; or keep what came of a draft."""
        spec, where = self.spec, self.store.incoming(self.name, self.fingerprint)
        sources = Sources(spec["sources"])
        self.tell("receiving")
        pieces = receive_list(sources, self.fingerprint, spec["pieces"], self.token)
        own = pieces.of_ranks(spec["ranks"])
        # Held until it is published, or verified, so that no other transfer takes it up meanwhile.
        with self._taken_up(where) as descriptor:
            receiver = Receiver(own, where, sources, self.token, spec["threads"], self.name, self._verified(where))
            self.receiver = receiver
            self._held = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._hand_on(pieces, own, receiver, where)
            receiver.run()
            if pieces.is_draft:
                body = json.dumps(receiver.digests()).encode()
                files.write_atomically(self.store.verified_file(where), body)
            else:
                self._publish(pieces, own, self.store)
        self.seconds = time.monotonic() - self.begun
        self.tell("received" if pieces.is_draft else "published")

    def _hand_on(self, pieces: Pieces, own: Pieces, receiver: Receiver, where: Path) -> None:
        """Hand on what is verified, from now on."""
        places = [where, self.store.path(self.name, self.fingerprint), Path(f"/proc/self/fd/{self._held}")]

        def opened(name: str) -> int:
            # It is renamed while others read from it, and what came of a draft is taken up under another name.
            for place in places:
                with contextlib.suppress(FileNotFoundError):
                    return os.open(place / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            raise FileNotFoundError(name)

        self._serve(Offer(pieces, opened, receiver.wait, receiver.sha256), own)

    @contextlib.contextmanager
    def _taken_up(self, where: Path) -> Iterator[int]:
        """The directory *where*, held, with what another transfer of this name left unless this one left something."""
        left: list[Path] = []
        if self.spec["kind"] in TAKEN_UP and not where.exists() and where.parent.is_dir():
            left = [path for path in where.parent.glob("*.incoming") if not path.is_symlink()]
        # What is verified first, and then what is newest.
        left.sort(key=lambda path: (self.store.verified_file(path).exists(), _changed(path)), reverse=True)
        for path in left:
            with held_alone(path) as descriptor:
                if descriptor is not None:
                    known, beside = self.store.verified_file(path), self.store.verified_file(where)
                    files.remove(beside)
                    if known.exists():
                        known.rename(beside)
                    path.rename(where)
                    yield descriptor
                    return
        with only_receiver(where) as descriptor:
            yield descriptor

    def _verified(self, where: Path) -> Mapping[str, Sequence[str]]:
        """What is known of it; nothing any more of what may be written to from now on."""
        beside = self.store.verified_file(where)
        known = files.read_object(beside)
        files.remove(beside)
        return known

    # -- from a directory that hosts share -----------------------------------------------------------------

    def _share(self, shared: ArtifactStore) -> None:
        """Until this host has it, and so has the directory that hosts share. Whose turn it is makes it meanwhile.

        The turn is asked for once, at the beginning: later it would fall to a host whose run does not wait for it.
        """
        with Turn(shared.turn_file(self.name, self.fingerprint)) as turn:
            # A host that has what its own ranks need makes the rest for nobody.
            part = self._enough() and not self._whole(self.store)
            if self.spec["turn"] and not part and not self._whole(shared):
                turn.take()
            while (state := self._step(shared, turn)) != "published":
                self.holder = turn.holder() if state == "waiting" else ""
                self.tell(state)
                left = self.begun + self.spec["time_limit"] - time.monotonic()
                if left <= 0:
                    raise FleetError(
                        f"{self.name} was not put into {shared.root} within {self.spec['time_limit']} s"
                        f"{f', and {self.holder} still has its lock' if self.holder else ''}; see what becomes of it "
                        "there, and run again."
                    )
                self.over.wait(min(TURN_INTERVAL, left))
        self.seconds = time.monotonic() - self.begun
        self.tell("published")

    def _step(self, shared: ArtifactStore, turn: Turn) -> str:
        """The state in which one look at both stores leaves this host."""
        here, given = self._enough(), self._whole(shared)
        if given and not here:
            turn.give_back()
            self._copy(shared, self.store, self.spec["ranks"])
        elif turn.taken and not given:
            if not here:
                return "holding"
            self._copy(self.store, shared)
        elif not here:
            return "free" if turn.free() else "waiting"
        return "published"

    def _whole(self, store: ArtifactStore) -> bool:
        return store.has(self.name, self.fingerprint)

    def _enough(self) -> bool:
        return self.store.has(self.name, self.fingerprint, self.spec["ranks"])

    def _copy(self, source: ArtifactStore, target: ArtifactStore, ranks: Collection[int] = ()) -> None:
        """From one store of this host into another, as it comes from another host."""
        self.tell("receiving")
        place = Directory(source.path(self.name, self.fingerprint))
        pieces = pieces_of(source, self.name, self.fingerprint)
        own = pieces.of_ranks(ranks)
        self.size = own.size
        where = target.incoming(self.name, self.fingerprint)
        self.receiver = Receiver(own, where, Sources([place]), self.token, self.spec["threads"], self.name)
        with only_receiver(where):
            self.receiver.run()
            self._publish(pieces, own, target)

    def _publish(self, pieces: Pieces, own: Pieces, store: ArtifactStore) -> None:
        """Put *own*, what of *pieces* arrived, in its place, unless a build was faster. Both are the same artefact."""
        where = store.incoming(self.name, self.fingerprint)
        with store.lock(self.name):
            manifest = store.manifest(where) or {"files": {}}
            for name, held in manifest["files"].items():
                if name in pieces.files and pieces.files[name].sha256 != held["sha256"]:
                    raise FleetError(
                        f"{self.name}: {name} is not what the artefact's manifest says; nothing is published. Make it "
                        "again where it comes from."
                    )
            if self._whole(store):
                files.remove(where)
                return
            left_out = [name for name in pieces.files if name not in own.files]
            if not left_out:
                # First, as hosts that may not write here read it as soon as the artefact is there.
                files.write_atomically(store.pieces_file(self.name, self.fingerprint), pieces.encoded())
            store.adopt(self.name, self.fingerprint, left_out)


def _changed(path: Path) -> int:
    """When the directory changed, in ns; 0 where another transfer has taken it up."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def main(directory: str) -> int:
    """The process: its directory has the spec, and the token until it was read."""
    home = Path(directory)
    spec = json.loads((home / SPEC).read_text(encoding="utf-8"))
    token = (home / TOKEN).read_text(encoding="utf-8").strip()
    (home / TOKEN).unlink()
    transfer = Transfer(spec, token, home / STATUS)
    signal.signal(signal.SIGTERM, transfer.end)
    return transfer.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
