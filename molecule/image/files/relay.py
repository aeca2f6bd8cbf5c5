#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands before the registry, relay.py PORT REGISTRY_PORT BYTES: passes on so many bytes of its answers, and holds the
others back until there is the file OPEN. So a pull is in the middle for as long as a test needs.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

OPEN = Path("/run/relay.open")


class Relay(BaseRequestHandler):
    """One connection."""

    left = 0
    registry = 0

    def handle(self) -> None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.registry)) as registry:
            asks = threading.Thread(target=self.ask, args=(registry,), daemon=True)
            asks.start()
            while data := registry.recv(65536):
                Relay.left -= len(data)
                while Relay.left < 0 and not OPEN.exists():
                    time.sleep(0.05)
                self.request.sendall(data)

    def ask(self, registry: socket.socket) -> None:
        """What the client says is not held back."""
        with contextlib.suppress(OSError):
            while data := self.request.recv(65536):
                registry.sendall(data)
            registry.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    Relay.registry, Relay.left = int(sys.argv[2]), int(sys.argv[3])
    ThreadingTCPServer.allow_reuse_address = ThreadingTCPServer.daemon_threads = True
    ThreadingTCPServer(("", int(sys.argv[1])), Relay).serve_forever()
