# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hand out one artefact over HTTP to who has the token: its list of pieces, and ranges of the files that it names.

The bytes go from the page cache to the socket inside the kernel. Nothing is encrypted: that they are the right ones
the receiver proves by their digests, but whoever can listen on the network can read them.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import os
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Optional

from .._base.errors import FleetError
from .._base.sizes import MIB
from .pagecache import CacheState
from .pieces import Pieces

IDLE = 60  # seconds after which a connection that asks nothing, or takes nothing, is closed
WAIT = 20.0  # seconds that a request for a piece which is still to arrive is held
CONNECTIONS = 256
PIECES_PATH = "pieces"
RANGE = re.compile(r"bytes=(\d+)-(\d+)")
# The sha256 of the piece that is asked for, which a draft does not have, and that of what the one who asks has of it.
SHA256, HAVE = "Piece-Sha256", "Have-Sha256"


class Withdrawn(Exception):
    """What was handed out is not to be had any more."""


@dataclass(frozen=True)
class Offer:
    """What is handed out: *open* opens a file by its name, *wait* says whether the piece at an offset is there.

    Of a draft, *sha256* is the digest of the piece at an offset, and *gone* is told which part of which file was sent.
    """

    pieces: Pieces
    open: Callable[[str], int]
    wait: Optional[Callable[[str, int, float], bool]] = None
    sha256: Optional[Callable[[str, int], str]] = None
    gone: Optional[Callable[[str, int, int], None]] = None

    @classmethod
    def of_directory(cls, pieces: Pieces, root: Path) -> Offer:
        """All of a published artefact."""
        return cls(pieces, lambda name: os.open(root / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))


class Bucket:
    """Holds all connections together to *rate* bytes a second; 0 is no limit."""

    def __init__(self, rate: int) -> None:
        self.rate, self._lock, self._free_at = rate, threading.Lock(), time.monotonic()
        # Small enough that a slow rate is even, large enough that a fast one is not held up.
        self.chunk = max(64 << 10, min(8 * MIB, rate // 20)) if rate else 8 * MIB

    def take(self, count: int) -> None:
        """Wait until *count* bytes more may be sent."""
        if not self.rate:
            return
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + count / self.rate
            wait = self._free_at - time.monotonic()
        if wait > 0:
            time.sleep(wait)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "trtllm-transfer", ""
    timeout = IDLE
    server: _Server

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "").encode("utf-8", "replace")
        if not hmac.compare_digest(given, self.server.expected):
            return self._answer(401)
        try:
            return self._respond()
        except OSError:  # whoever asked has gone, or asks again
            self.close_connection = True

    def _respond(self) -> None:
        offer = self.server.offer
        fingerprint, _, rest = self.path.lstrip("/").partition("/")
        name = urllib.parse.unquote(rest)
        if fingerprint != offer.pieces.fingerprint:
            return self._answer(404)
        if not name:
            return self._answer(200, offer.pieces.encoded())
        # Only what the list names is there at all, so no path leads anywhere else.
        if name not in offer.pieces.files:
            return self._answer(404)
        asked = RANGE.fullmatch(self.headers.get("Range", ""))
        start, stop = (int(asked.group(1)), int(asked.group(2)) + 1) if asked else (0, 0)
        if not start < stop <= offer.pieces.files[name].size:
            return self._answer(416)
        try:
            if offer.wait is not None and not offer.wait(name, start, WAIT):
                return self._answer(503)
        except Withdrawn:
            return self._answer(404)
        sha256 = offer.sha256(name, start) if offer.sha256 is not None else ""
        if sha256 and self.headers.get(HAVE) == sha256:
            self._answer(304)
        else:
            self._send(name, start, stop, sha256)
        if offer.gone is not None:
            offer.gone(name, start, stop)
        return None

    def _send(self, name: str, start: int, stop: int, sha256: str) -> None:
        with os.fdopen(self.server.offer.open(name), "rb") as stream:
            cache = CacheState.of(stream.fileno(), stop, start)
            self.send_response(206)
            self.send_header("Content-Length", str(stop - start))
            if sha256:
                self.send_header(SHA256, sha256)
            self.end_headers()
            self.wfile.flush()
            bucket, at = self.server.bucket, start
            while at < stop:
                count = self.connection.sendfile(stream, at, min(bucket.chunk, stop - at))
                if not count:  # the file is shorter than it was
                    self.close_connection = True
                    break
                at += count
                self.server.count(count)
                bucket.take(count)
            cache.release(stream.fileno(), start, stop)

    def _answer(self, code: int, content: bytes = b"") -> None:
        self.send_response(code)
        if code != 304:  # which has no content
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for each piece helps nobody."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    block_on_close = False

    def __init__(self, address: tuple[str, int], offer: Offer, token: str, rate: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.offer, self.expected, self.bucket = offer, f"Bearer {token}".encode(), Bucket(rate)
        self.sent, self._counting = 0, threading.Lock()
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Without HTTPServer's look at the name server."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for the connection, or none where there are too many: it is closed, and asks again later."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks is no event."""

    def count(self, sent: int) -> None:
        with self._counting:
            self.sent += sent


def url_of(address: str, port: int) -> str:
    """``http://10.0.0.1:18800``; an IPv6 address stands in brackets."""
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def local_address(name: str) -> str:
    """The address that *name* is, which may be one already."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(name))
    try:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        raise FleetError(
            f"address is {name!r}, which is no IP address and is not resolved on this host; give an IP address of this "
            "host."
        ) from None
    # Debian's installer enters a host's own name as 127.0.1.1.
    outside = [address for address in found if not ipaddress.ip_address(address.partition("%")[0]).is_loopback]
    if not outside:
        raise FleetError(
            f"address is {name!r}, which is {found[0]} on this host, where no other host reaches it; give an IP "
            "address of this host."
        )
    return outside[0]


class Sender:
    """Hands out an `Offer` from now on until it is stopped, or the process ends."""

    def __init__(self, offer: Offer, address: str, port: int, token: str, rate: int = 0) -> None:
        if not token:
            raise FleetError("token is empty, and nothing is handed out to everybody; give a token.")
        try:
            self._server = _Server((local_address(address), port), offer, token, rate)
        except OSError as error:
            raise FleetError(
                f"{address} port {port} cannot be listened on: {error.strerror or error}; give an address of this host "
                "and a port that is free."
            ) from error
        self.url = url_of(address, int(self._server.server_address[1]))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)
        self._thread.start()

    @property
    def sent(self) -> int:
        """Bytes of files that were handed out."""
        return self._server.sent

    def stop(self) -> None:
        """Take no more connections."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
