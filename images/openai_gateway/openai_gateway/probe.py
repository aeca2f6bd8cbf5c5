# SPDX-License-Identifier: GPL-3.0-or-later
"""The container's health check: GET a path of the gateway; exit 0 if it says 200.

Standard library only and few imports of it, because it runs every few seconds:
``python3 -I -S /opt/gateway/app/openai_gateway/probe.py http://127.0.0.1:3000/health``
"""

from __future__ import annotations

import socket
import sys
from urllib.parse import urlsplit

TIMEOUT = 20.0  # seconds; above the gateway's own patience with a backend


def connected(host: str, port: int, tls: bool) -> socket.socket:
    """A connection to the gateway itself, by an address that no certificate has."""
    plain = socket.create_connection((host, port), timeout=TIMEOUT)
    if not tls:
        return plain
    import ssl

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(plain, server_hostname=host)


def main(url: str) -> int:
    """The exit status for *url* and print the answer's body where it is not 200."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or (443 if parts.scheme == "https" else 80)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    request = f"GET {target} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    try:
        with connected(host, port, parts.scheme == "https") as connection:
            connection.settimeout(TIMEOUT)
            connection.sendall(request.encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
    except OSError as error:
        print(f"{url}: {error}")
        return 1
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.split(b" ", 2)[1:2] == [b"200"]:
        return 0
    print(body.decode("utf-8", "replace").strip() or f"{url}: no answer")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
