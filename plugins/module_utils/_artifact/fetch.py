# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Receive an artefact in pieces from hosts that have it, or are about to have it.

Threads take one piece after the other, write it where it belongs and keep it if its digest is right. There is no
journal: what an earlier run left is hashed again, and what is right of it is kept. Of a draft, whose list has no
digests, that of each piece comes with it, and the source is told the digest of what is here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import http.client
import os
import queue
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .._base import files
from .._base.errors import FleetError
from .._base.sizes import MIB, gib
from .fingerprint import walk
from .pagecache import CacheState
from .pieces import BLOCK, DIGEST, Pieces, Span, hash_span
from .serve import HAVE, SHA256, WAIT

THREADS = 4
CONNECT = 10.0  # seconds for a connection to be made
SILENCE = 30.0  # seconds for which a source may say nothing; longer than it holds a request
PATIENCE = 15.0  # seconds for which a source that is about to begin is waited for, before the next one is asked
GIVE_UP = 60.0  # seconds without one byte of a file from any source
REST = (0.3, 5.0)  # seconds that a source which failed is left alone: first, at most
LAG = 64 * MIB  # what a thread writes after a piece before its pages are given back: by then they are on disk
LARGEST_LIST = 64 << 20
REFUSALS = {
    401: "refuses the token",
    404: "has no such artefact",
    416: "has files of other sizes",
}
NO_DIGEST = "sends a piece without its digest"


class WrongPiece(Exception):
    """A piece came whole, and is not what the list says."""


class NotYet(Exception):
    """The source does not have the piece yet."""


class Refused(Exception):
    """The source will not hand the artefact out, however often it is asked."""


class Source:
    """A host that hands the artefact out."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = None
        if parts.scheme != "http" or not parts.hostname or not port or parts.path not in ("", "/"):
            raise FleetError(f"{url!r} is not a source; expected http://ADDRESS:PORT.")
        self.url, self.host, self.port = url, parts.hostname, port
        self.rest_until, self.failures, self.answered = 0.0, 0, False
        self.reason = self.refusal = ""


class Directory(Source):
    """A directory of this host that has the artefact; it is read as a host would be asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url, self.host, self.port = str(path), "", 0
        self.rest_until, self.failures, self.answered = 0.0, 0, False
        self.reason = self.refusal = ""


class Stretch:
    """A part of a file, read as the body of an answer is."""

    def __init__(self, path: Path, span: Span) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._span, self._at = span, span.start
        self._cache = CacheState.of(self._descriptor, span.start + span.size, span.start)

    def readinto(self, view: memoryview) -> int:
        """Fill *view* with what comes next; 0 where the file is shorter than it was."""
        try:
            count = os.preadv(self._descriptor, [view], self._at)
        except OSError as error:  # without its number, which would be taken for one of the disk that is written to
            raise OSError(f"cannot be read: {error.strerror}") from error
        self._at += count
        return count

    def read(self) -> bytes:
        """Nothing is left; the page cache is as it was before."""
        self._cache.release(self._descriptor, self._span.start, self._at)
        self.close()
        return b""

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


class Sources:
    """Which source is asked next: the first that is not at rest. One that fails rests, longer each time."""

    def __init__(self, urls: Sequence[str | Source], patience: float = PATIENCE, give_up: float = GIVE_UP) -> None:
        if not urls:
            raise FleetError("sources is empty; give the URL of a host that hands the artefact out.")
        self.all = [url if isinstance(url, Source) else Source(url) for url in dict.fromkeys(urls)]
        self.give_up, self._lock = give_up, threading.Lock()
        self.begun = self.progress = time.monotonic()
        self._patient_until = self.begun + patience

    def pick(self, without: set[Source]) -> Source | None:
        """The source to ask, once one is fit to be asked; None when it is time to give up."""
        while True:
            with self._lock:
                left = [source for source in self.all if not source.refusal and source not in without]
                now = time.monotonic()
                if not left or now - self.progress > self.give_up:
                    return None
                for source in left:
                    if source.rest_until <= now:
                        return source
                    if not source.answered and now < self._patient_until:
                        break  # it is about to begin; the others have enough to do
                wait = min(source.rest_until for source in left) - now
            time.sleep(min(max(wait, 0.05), 0.5))

    def succeeded(self, source: Source) -> None:
        """*source* answered whole."""
        with self._lock:
            source.answered, source.failures, source.reason = True, 0, ""
        self.moved()

    def moved(self) -> None:
        """Bytes came, so it is not time to give up, however slow they are."""
        self.progress = time.monotonic()

    def failed(self, source: Source, reason: str) -> None:
        """*source* did not answer, or broke off."""
        with self._lock:
            source.rest_until = time.monotonic() + min(REST[0] * 2**source.failures, REST[1])
            source.failures, source.reason = source.failures + 1, reason

    def not_yet(self, source: Source) -> None:
        """*source* waits itself. Another one is asked if nothing comes from anywhere."""
        with self._lock:
            source.answered = True
            if time.monotonic() - self.progress > WAIT:
                source.rest_until, source.reason = time.monotonic() + REST[1], "waits for the piece itself"

    def refused(self, source: Source, reason: str) -> None:
        """*source* is asked no more."""
        with self._lock:
            source.refusal = reason

    def reasons(self) -> str:
        """Why each source gave nothing."""
        said = [f"{source.url} {source.refusal or source.reason}" for source in self.all]
        return ", ".join(line for line in said if not line.endswith(" ")) or "none gave a piece"


class Link:
    """One kept connection to a source."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._source: Source | None = None
        self._connection: http.client.HTTPConnection | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def ask(self, source: Source, path: str, span: Span | None = None, have: str = "") -> http.client.HTTPResponse:
        """The answer to a request, whose body is still to be read; raises for any other answer.

        The answer 304 to who told that it has *have* of the piece means that this is the piece.
        """
        if source is not self._source:
            self.close()
        if self._connection is None:
            connection = http.client.HTTPConnection(source.host, source.port, timeout=CONNECT)
            connection.connect()
            connection.sock.settimeout(SILENCE)
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection, self._source = connection, source
        headers = {"Authorization": f"Bearer {self._token}"}
        if span is not None:
            headers["Range"] = f"bytes={span.start}-{span.start + span.size - 1}"
        if have:
            headers[HAVE] = have
        self._connection.request("GET", urllib.parse.quote(path), headers=headers)
        answer = self._connection.getresponse()
        if answer.status == (206 if span else 200) or (have and answer.status == 304):
            return answer
        answer.read()
        if answer.status == 503:
            raise NotYet
        if answer.status in REFUSALS:
            raise Refused(REFUSALS[answer.status])
        raise OSError(f"answers {answer.status}")


def why(error: Exception) -> str:
    """A network's error in words."""
    if isinstance(error, socket.timeout):
        return "does not answer"
    return f"does not answer: {getattr(error, 'strerror', None) or error or type(error).__name__}"


def receive_list(sources: Sources, fingerprint: str, identity: str, token: str) -> Pieces:
    """The list of pieces, from the first source that has the one called *identity*."""
    link = Link(token)
    try:
        while (source := sources.pick(set())) is not None:
            try:
                answer = link.ask(source, f"/{fingerprint}/")
                content = answer.read(LARGEST_LIST)
                if hashlib.sha256(content).hexdigest() == identity:
                    sources.succeeded(source)
                    return Pieces.decoded(content)
                sources.refused(source, "hands out another list of pieces than was asked for")
                link.close()
            except Refused as refusal:
                sources.refused(source, str(refusal))
            except NotYet:
                sources.not_yet(source)
            except (OSError, http.client.HTTPException) as error:
                link.close()
                sources.failed(source, why(error))
    finally:
        link.close()
    raise FleetError(f"No source hands the artefact out: {sources.reasons()}; see that one does, and run again.")


class Receiver:
    """Fills the directory *target*, which the caller holds (see `only_receiver`), with what *pieces* lists.

    *known* has the digests of pieces that were verified there and put on disk before, by file.
    """

    def __init__(
        self,
        pieces: Pieces,
        target: Path,
        sources: Sources,
        token: str,
        threads: int = THREADS,
        name: str = "artefact",
        known: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.pieces, self.target, self.sources, self.token, self.name = pieces, target, sources, token, name
        self.threads = max(1, threads)
        self.kept = self.received = 0
        self._known = dict(known or {})
        self._error: Exception | None = None
        self._here: dict[tuple[str, int], str] = {}
        self._news = threading.Condition()
        self._jobs: queue.SimpleQueue[Span] = queue.SimpleQueue()
        self._descriptors: dict[str, int] = {}

    # -- for those who receive from here -------------------------------------------------------------------

    def wait(self, name: str, start: int, seconds: float) -> bool:
        """Whether the piece at *start* is verified, within *seconds*."""
        wanted = (name, start // self.pieces.piece)
        with self._news:
            self._news.wait_for(lambda: wanted in self._here or self._error is not None, timeout=seconds)
            return wanted in self._here

    def sha256(self, name: str, start: int) -> str:
        """The digest of the piece at *start*, which is verified."""
        return self._here[name, start // self.pieces.piece]

    def digests(self) -> dict[str, list[str]]:
        """Those of all pieces, by file, once all are here."""
        found: dict[str, list[str]] = {}
        for span in self.pieces.spans():
            found.setdefault(span.name, []).append(self._here[span.name, span.number])
        return found

    # -- receiving -----------------------------------------------------------------------------------------

    def run(self) -> None:
        """All of it, or one sentence. What is verified stays for the next run."""
        with contextlib.ExitStack() as held:
            self._make_room(held)
            for span in self.pieces.spans():
                self._jobs.put(span)
            workers = [threading.Thread(target=self._work, daemon=True) for _ in range(self.threads)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            if self._error is not None:
                raise self._error
            for name, file in self.pieces.files.items():
                os.fchmod(self._descriptors[name], file.mode)
                files.sync(self.target / name)
                # What was received is not read here soon, and what serves needs its pages.
                os.posix_fadvise(self._descriptors[name], 0, 0, os.POSIX_FADV_DONTNEED)

    def _make_room(self, held: contextlib.ExitStack) -> None:
        """Every file at its full size, so that a disk which is too small is known before anything is fetched."""
        for stale in [path for path, _ in walk(self.target, ()) if path not in self.pieces.files]:
            files.remove(self.target / stale)
        for name in self.pieces.files:
            path = files.inside(self.target, name, "artefact")
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_file() or path.is_symlink():
                files.remove(path)  # such as a directory that another version has there
                self._known.pop(name, None)  # what is known of a file is known of one that was there
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = self._descriptors[name] = os.open(path, flags, 0o600)
            held.callback(os.close, descriptor)
        try:
            for name, file in self.pieces.files.items():
                os.ftruncate(self._descriptors[name], file.size)
                if file.size:
                    os.posix_fallocate(self._descriptors[name], 0, file.size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            # What was taken for nothing is given back. What an earlier run verified, the next one has to fetch again.
            files.remove(self.target)
            raise FleetError(
                f"{self.target.parent} has no room for the {gib(self.pieces.size)} of {self.name} "
                f"({os.strerror(error.errno or 0)}); nothing was fetched. Make room there."
            ) from None

    def _work(self) -> None:
        link, view, written = Link(self.token), memoryview(bytearray(BLOCK)), []
        try:
            while self._error is None:
                try:
                    span = self._jobs.get_nowait()
                except queue.Empty:
                    return
                wanted, have = self.pieces.digest(span), self._have(span)
                got = have if have and have == wanted else self._fetch(span, link, view, have)
                if got != have:
                    self._give_back(span)  # what is not on disk yet begins to be written, and stays
                    written.append(span)
                    if len(written) * self.pieces.piece > LAG:
                        self._give_back(written.pop(0))
                with self._news:
                    self.kept += span.size if got == have else 0
                    self.received += 0 if got == have else span.size
                    self._here[span.name, span.number] = got
                    self._news.notify_all()
        except Exception as error:
            with self._news:
                self._error = self._error or error
                self._news.notify_all()
        finally:
            link.close()

    def _give_back(self, span: Span) -> None:
        os.posix_fadvise(self._descriptors[span.name], span.start, span.size, os.POSIX_FADV_DONTNEED)

    def _have(self, span: Span) -> str:
        """The digest of what an earlier run left of a piece; where the file was never written, nothing is read."""
        known = self._known.get(span.name, ())
        if span.number < len(known) and known[span.number] == self.pieces.digest(span):
            return known[span.number]
        descriptor = self._descriptors[span.name]
        try:
            if os.lseek(descriptor, span.start, os.SEEK_DATA) >= span.start + span.size:
                return ""
        except OSError:  # nothing but a hole up to the end
            return ""
        return hash_span(descriptor, span.start, span.size)

    def _fetch(self, span: Span, link: Link, view: memoryview, have: str) -> str:
        """One piece from whichever source gives it; its digest, which is *have* where nothing had to be sent."""
        without: set[Source] = set()
        wrong = f"piece {span.number} of {span.name} is not what the manifest says"
        while (source := self.sources.pick(without)) is not None and self._error is None:
            try:
                got = self._receive(source, span, link, view, have)
                self.sources.succeeded(source)
                return got
            except WrongPiece:
                without.add(source)
            except NotYet:
                self.sources.not_yet(source)
            except Refused as refusal:
                self.sources.refused(source, str(refusal))
            except (OSError, http.client.HTTPException) as error:
                link.close()
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
                    raise FleetError(
                        f"{self.target} cannot be written: {os.strerror(error.errno)}; make room there, or see the "
                        "kernel's log."
                    ) from None
                self.sources.failed(source, why(error))
        kept = f"{gib(self.kept + self.received)} of {gib(self.pieces.size)} are verified and kept"
        if without:
            urls = ", ".join(sorted(source.url for source in without))
            raise FleetError(f"{self.name}: {wrong} at {urls}, so nothing is published; make it again there. {kept}.")
        raise FleetError(
            f"{self.name}: no source gives more: {self.sources.reasons()}; see that one does, and run again. {kept}."
        )

    def _receive(self, source: Source, span: Span, link: Link, view: memoryview, have: str) -> str:
        answer: http.client.HTTPResponse | Stretch
        wanted = self.pieces.digest(span)
        if isinstance(source, Directory):
            answer = Stretch(source.path / span.name, span)
        else:
            answer = link.ask(source, f"/{self.pieces.fingerprint}/{span.name}", span, "" if wanted else have)
            if answer.status == 304:
                answer.read()
                return have
            wanted = wanted or answer.headers.get(SHA256) or ""
            if not DIGEST.fullmatch(wanted):
                link.close()  # nothing of the answer is read
                raise Refused(NO_DIGEST)
        digest, at, end = hashlib.sha256(), span.start, span.start + span.size
        with contextlib.closing(answer):
            while at < end:
                count = answer.readinto(view[: min(BLOCK, end - at)])
                if not count:
                    raise OSError("broke off")
                digest.update(view[:count])
                os.pwrite(self._descriptors[span.name], view[:count], at)
                at += count
                self.sources.moved()
            answer.read()  # the end of the answer, so that the connection takes another request
        if digest.hexdigest() != wanted:
            raise WrongPiece
        return wanted


@contextlib.contextmanager
def only_receiver(path: Path) -> Iterator[int]:
    """The directory at *path*, made where it is not there, open and held for this process alone.

    The kernel lets it go with the process. Raises FleetError where another process holds it.
    """
    while True:
        path.mkdir(parents=True, exist_ok=True)
        with held_alone(path) as descriptor:
            if descriptor is not None:
                yield descriptor
                return
            if path.is_dir():
                raise FleetError(f"Another process receives into {path}; wait for it or end it.")


@contextlib.contextmanager
def held_alone(path: Path) -> Iterator[int | None]:
    """The same of a directory that is there: None where it is not any more, or where another process holds it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield descriptor if _locked(descriptor) and _is_at(descriptor, path) else None
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether it is what stands there still: another transfer may have taken it up before it was locked."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
