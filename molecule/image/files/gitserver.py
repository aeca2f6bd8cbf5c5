#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""git's own http-backend, and the batch interface of git-lfs, for what is below DIRECTORY: gitserver.py PORT."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

DIRECTORY = Path("/srv/git")
LFS = "application/vnd.git-lfs+json"


class Server(BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self) -> None:
        """A file of git-lfs, or what git asks."""
        path = urlsplit(self.path).path
        if path.startswith("/lfs/"):
            file = DIRECTORY / "lfs" / Path(path).name
            self.answer(200, "application/octet-stream", file.read_bytes()) if file.exists() else self.answer(404)
        else:
            self.git(b"")

    def do_POST(self) -> None:
        """Where files of git-lfs are, or what git asks."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not urlsplit(self.path).path.endswith("/info/lfs/objects/batch"):
            return self.git(body)
        base = f"http://{self.headers['Host']}/lfs/"
        objects = [{**one, "actions": {"download": {"href": base + one["oid"]}}} for one in json.loads(body)["objects"]]
        return self.answer(200, LFS, json.dumps({"transfer": "basic", "objects": objects}).encode())

    def git(self, body: bytes) -> None:
        """Ask git http-backend, a CGI program."""
        parts = urlsplit(self.path)
        environment = {
            **os.environ, "GIT_PROJECT_ROOT": str(DIRECTORY), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": parts.path,
            "QUERY_STRING": parts.query, "REQUEST_METHOD": self.command, "REMOTE_ADDR": self.client_address[0],
            "CONTENT_TYPE": self.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }  # fmt: skip
        said = subprocess.run(
            ["git", "http-backend"], input=body, env=environment, capture_output=True, check=True
        ).stdout
        head, _, content = said.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.answer(int(headers.pop("Status", "200").split()[0]), headers.get("Content-Type", ""), content)

    def answer(self, status: int, kind: str = "text/plain", body: bytes = b"") -> None:
        """Say it."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("", int(sys.argv[1])), Server).serve_forever()
