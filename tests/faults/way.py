#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""A way to a server that goes wrong as the file MODE says, read as each connection begins: way.py PORT HOST HOST_PORT.

pass; slow RATE: so many bytes a second; hold BYTES: no more than these, until the file says another thing; cut BYTES:
the connection ends after so many bytes of an answer; lie BYTES: one bit in each block after these is another; refuse:
none is taken.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

MODE = Path("/run/faults-way")


def mode() -> tuple[str, int]:
    """The fault of now, and its number."""
    words = MODE.read_text().split() if MODE.exists() else []
    return (words[0] if words else "pass", int(words[1]) if len(words) > 1 else 0)


class Way(BaseRequestHandler):
    """One connection."""

    server_at = ("", 0)

    def handle(self) -> None:
        fault, number = mode()
        if fault == "refuse":
            return
        with contextlib.suppress(OSError), socket.create_connection(self.server_at) as server:
            threading.Thread(target=self.ask, args=(server,), daemon=True).start()
            seen = 0
            while data := server.recv(65536):
                seen += len(data)
                if fault == "slow":
                    time.sleep(len(data) / number)
                while fault == "hold" and seen > number and mode()[0] == "hold":
                    time.sleep(0.05)
                if fault == "cut" and seen > number:
                    return
                if fault == "lie" and seen > number:
                    data = bytes([data[0] ^ 1]) + data[1:]
                self.request.sendall(data)

    def ask(self, server: socket.socket) -> None:
        """What the client says goes on as it is."""
        with contextlib.suppress(OSError):
            while data := self.request.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    Way.server_at = (sys.argv[2], int(sys.argv[3]))
    ThreadingTCPServer.allow_reuse_address = ThreadingTCPServer.daemon_threads = True
    ThreadingTCPServer(("127.0.0.1", int(sys.argv[1])), Way).serve_forever()
