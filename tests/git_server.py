# SPDX-License-Identifier: GPL-3.0-or-later
"""git's own http-backend, and the batch interface of git-lfs with its storage: ``python3 git_server.py ROOT PORT``.

Bare repositories stand below ROOT, objects of git-lfs in ROOT/lfs by their sha256; what is not there is answered as
missing. ROOT/server.json says, at each request, ``token`` (the password that is wanted, any name) and ``rate`` (bytes a
second of git-lfs).
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LFS = "application/vnd.git-lfs+json"
BLOCK = 1 << 14


def pointer(body: bytes) -> bytes:
    """What git-lfs keeps in git in place of *body*."""
    digest = hashlib.sha256(body).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(body)}\n".encode()


class GitServer(http.server.ThreadingHTTPServer):
    """How many bytes of git-lfs it sent is in *sent*."""

    daemon_threads = True

    def __init__(self, root: Path, port: int = 0, address: str = "127.0.0.1") -> None:
        super().__init__((address, port), Handler)
        self.root, self.sent, self.lock = root, 0, threading.Lock()
        (root / "lfs").mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}"

    def start(self) -> GitServer:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def change(self, **faults: Any) -> None:
        """Another fault, or none."""
        (self.root / "server.json").write_text(json.dumps(faults))

    def add(self, repository: str, files: dict[str, bytes], large: tuple[str, ...] = (), branch: str = "main") -> str:
        """Another commit of *branch*, with *large* files in git-lfs; the commit."""
        home, work = self.root / repository, self.root / f"{repository}.work"
        if not home.exists():
            run(["git", "init", "--quiet", "--bare", f"--initial-branch={branch}", str(home)])
            run(["git", "init", "--quiet", f"--initial-branch={branch}", str(work)])
        for name, body in files.items():
            path = work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pointer(body) if name in large else body)
            if name in large:
                (self.root / "lfs" / hashlib.sha256(body).hexdigest()).write_bytes(body)
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
        run(["git", "-C", str(work), "add", "--all"])
        run(["git", "-C", str(work), *identity, "commit", "--quiet", "--message=files"])
        run(["git", "-C", str(work), "push", "--quiet", str(home), f"HEAD:{branch}"])
        return run(["git", "-C", str(work), "rev-parse", "HEAD"])


def run(argv: list[str]) -> str:
    environment = {**os.environ, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    return subprocess.run(argv, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: GitServer

    def log_message(self, *_: Any) -> None:
        pass

    def about(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.server.root / "server.json").read_text())
        except OSError:
            return {}
        return found

    def allowed(self) -> bool:
        token = self.about().get("token")
        given = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode()
        if token and given.partition(":")[2] != token:
            self.answer(401, "text/plain", b"", {"WWW-Authenticate": 'Basic realm="git"'})
            return False
        return True

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/_sent":
            return self.answer(200, "application/json", json.dumps({"sent": self.server.sent}).encode())
        if path.startswith("/lfs/"):
            return self.content(self.server.root / "lfs" / Path(path).name)
        return self.git(b"") if self.allowed() else None

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self.allowed():
            return None
        if not urlsplit(self.path).path.endswith("/info/lfs/objects/batch"):
            return self.git(body)
        base, objects = f"http://{self.headers['Host']}/lfs/", []
        for one in json.loads(body)["objects"]:
            missing = {"error": {"code": 404, "message": "Object does not exist on the server"}}
            there = {"actions": {"download": {"href": base + one["oid"]}}}
            objects.append({**one, **(there if (self.server.root / "lfs" / one["oid"]).exists() else missing)})
        return self.answer(200, LFS, json.dumps({"transfer": "basic", "objects": objects}).encode())

    def content(self, path: Path) -> None:
        asked, body = self.headers.get("Range", ""), path.read_bytes()
        first = int(asked.removeprefix("bytes=").split("-")[0]) if asked.startswith("bytes=") else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - first))
        self.end_headers()
        for start in range(first, len(body), BLOCK):
            block = body[start : start + BLOCK]
            self.wfile.write(block)
            with self.server.lock:
                self.server.sent += len(block)
            if rate := self.about().get("rate"):
                time.sleep(len(block) / rate)

    def git(self, body: bytes) -> None:
        """Ask git http-backend, a CGI program."""
        parts = urlsplit(self.path)
        environment = {
            **os.environ, "GIT_PROJECT_ROOT": str(self.server.root), "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
            "PATH_INFO": parts.path, "QUERY_STRING": parts.query, "REQUEST_METHOD": self.command,
            "REMOTE_ADDR": self.client_address[0], "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }  # fmt: skip
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(headers.pop("Status", "200").split()[0])
        self.answer(status, headers.get("Content-Type", ""), content)

    def answer(self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    GitServer(Path(sys.argv[1]), int(sys.argv[2]), "0.0.0.0").serve_forever()
