# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that speaks the hubs' interfaces, as their real clients do: models, trees, files, redirects to storage.

Below /api/v1 it is ModelScope's hub, with the same repositories; else it is Hugging Face's.

``python3 hub_server.py ROOT PORT`` serves what stands below ROOT: ``OWNER/NAME/hub.json`` with ``revisions`` (branch or
tag -> commit), ``commits`` (commit -> directory beside it), and what goes wrong. It is read at each request, so a test
changes the hub by writing it. Files from LFS_FROM bytes on are kept as LFS objects, as the hub keeps weights.

Faults: ``token`` (what Authorization must hold), ``gated`` (refused with the hub's words), ``limited`` (so many
requests are answered with 429, and ``retry_after``), ``altered`` (names whose first byte differs), ``truncated`` (names
that end too early), ``rate`` (bytes a second).
"""

from __future__ import annotations

import hashlib
import http.server
import json
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any

LFS_FROM = 1024
BLOCK = 1 << 14
GATED = (
    "Access to model {0} is restricted and you are not in the authorized list. Visit https://huggingface.co/{0} to ask "
    "for access."
)


def commit_of(text: str) -> str:
    """A commit's name, made up."""
    return hashlib.sha1(text.encode()).hexdigest()


class Hub(http.server.ThreadingHTTPServer):
    """What it was asked is in *requests*, how many bytes of files it sent in *sent*."""

    daemon_threads = True

    def __init__(self, root: Path, port: int = 0, address: str = "127.0.0.1") -> None:
        super().__init__((address, port), Handler)
        self.root, self.requests, self.sent = root, list[str](), 0
        self.lock = threading.Lock()
        self.hub = self
        # Where weights come from is another host, as it is at the hub, to which no token may go.
        self.storage = Storage((address, port + 1 if port else 0), Handler)
        self.storage.hub = self
        threading.Thread(target=self.storage.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}"

    def add(self, repo: str, files: dict[str, bytes], revision: str = "main", **faults: Any) -> str:
        """Another commit of *repo*, to which *revision* moves; the commit."""
        home = self.root / repo
        about = json.loads((home / "hub.json").read_text()) if (home / "hub.json").exists() else {}
        content = json.dumps({name: hashlib.sha1(body).hexdigest() for name, body in files.items()}, sort_keys=True)
        commit = commit_of(content)
        for name, body in files.items():
            path = home / commit / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        about.setdefault("revisions", {})[revision] = commit
        about.setdefault("commits", {})[commit] = commit
        (home / "hub.json").write_text(json.dumps({**about, **faults}))
        return commit

    def change(self, repo: str, **faults: Any) -> None:
        """Another fault, or None for none."""
        path = self.root / repo / "hub.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **faults}))

    def start(self) -> Hub:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self


class Storage(http.server.ThreadingHTTPServer):
    """The same requests at another port."""

    daemon_threads = True
    hub: Hub


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Hub | Storage

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/")
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} /{path}")
        parts = path.split("/")
        if path == "_sent":
            return self.answer(json.dumps({"sent": self.hub.sent, "requests": self.hub.requests}))
        if parts[0] == "_lfs":
            if self.headers.get("Authorization"):
                return self.refuse(400, "", "A token was sent to the storage.")
            return self.file(self.hub.root / "/".join(parts[1:]), {}, self.about("/".join(parts[1:3])) or {})
        if parts[:3] == ["api", "v1", "models"]:
            return self.modelscope("/".join(parts[3:5]), "/".join(parts[5:]))
        repo = "/".join(parts[2:4] if parts[:2] == ["api", "models"] else parts[:2])
        about = self.about(repo)
        if about is None:
            return self.refuse(401, "RepoNotFound", "Invalid username or password.")
        if about.get("limited", 0) > 0:
            path_of = self.hub.root / repo / "hub.json"
            path_of.write_text(json.dumps({**about, "limited": about["limited"] - 1}))
            wait = {"Retry-After": str(about.get("retry_after", 1))}
            return self.refuse(429, "", "We had to rate limit your IP.", wait)
        if about.get("gated"):
            return self.refuse(403, "GatedRepo", GATED.format(repo))
        if about.get("token") and self.headers.get("Authorization") != f"Bearer {about['token']}":
            return self.refuse(401, "GatedRepo", f"Access to model {repo} is restricted. You must be logged in.")
        at = parts.index("revision") if "revision" in parts else parts.index("tree") if "tree" in parts else 3
        if parts[0] != "api":
            at = parts.index("resolve")
        revision = parts[at + 1] if len(parts) > at + 1 else "main"
        commit = revision if revision in about["commits"] else about["revisions"].get(revision)
        if commit is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        home = self.hub.root / repo / about["commits"][commit]
        if parts[0] == "api":
            return self.api("tree" in parts, repo, commit, home)
        return self.resolve("/".join(parts[at + 2 :]), repo, commit, home, about)

    def modelscope(self, repo: str, what: str) -> None:
        """A list of files, or one file, as ModelScope's hub answers."""
        about, query = self.about(repo), urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        if about is None:
            return self.words(404, 10010205001, f"record not found: {repo}")
        if about.get("limited", 0) > 0:
            self.hub.change(repo, limited=about["limited"] - 1)
            return self.words(429, 429, "rate limited", {"Retry-After": str(about.get("retry_after", 1))})
        if about.get("token") and self.headers.get("Authorization") != f"Bearer {about['token']}":
            return self.words(403, 10010205002, "no permission to access this model")
        revision = query["Revision"][0]
        commit = revision if revision in about["commits"] else about["revisions"].get(revision)
        if commit is None:
            return self.words(404, 10010206002, f"revision not found: {revision}")
        home = self.hub.root / repo / about["commits"][commit]
        if what == "repo":
            return self.resolve(query["FilePath"][0], repo, commit, home, about)
        files = [
            {"Path": str(path.relative_to(home)), "Name": path.name, "Type": "blob" if path.is_file() else "tree",
             **({"Size": path.stat().st_size, "Sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
                if path.is_file() else {"Size": 0})}
            for path in sorted(home.rglob("*"))
        ]  # fmt: skip
        return self.answer(json.dumps({"Code": 200, "Success": True, "Data": {"Files": files}}))

    def words(self, status: int, code: int, words: str, headers: dict[str, str] | None = None) -> None:
        self.answer(json.dumps({"Code": code, "Message": words, "Success": False}), status, headers)

    def about(self, repo: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.hub.root / repo / "hub.json").read_text())
        except OSError:
            return None
        return found

    def api(self, tree: bool, repo: str, commit: str, home: Path) -> None:
        entries = []
        for path in sorted(home.rglob("*")):
            if path.is_file():
                body, name = path.read_bytes(), str(path.relative_to(home))
                oid = hashlib.sha256(body).hexdigest()
                lfs = {"lfs": {"oid": oid, "sha256": oid, "size": len(body), "pointerSize": 134}}
                blob = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
                entry = {"size": len(body), **(lfs if len(body) >= LFS_FROM else {})}
                entries.append(
                    {"type": "file", "path": name, "oid": blob, **entry}
                    if tree
                    else {"rfilename": name, "blobId": blob, **entry}
                )
        known = {"_id": "1", "id": repo, "modelId": repo, "sha": commit, "private": False, "tags": [], "downloads": 0}
        self.answer(json.dumps(entries if tree else {**known, "siblings": entries}))

    def resolve(self, name: str, repo: str, commit: str, home: Path, about: dict[str, Any]) -> None:
        path = home / name
        if not path.is_file():
            return self.refuse(404, "EntryNotFound", "Entry not found")
        body = path.read_bytes()
        headers = {"X-Repo-Commit": commit}
        if len(body) < LFS_FROM:
            blob = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
            return self.file(path, {**headers, "ETag": f'"{blob}"'}, about)
        headers["X-Linked-Etag"] = f'"{hashlib.sha256(body).hexdigest()}"'
        headers["X-Linked-Size"] = str(len(body))
        host = self.headers.get("Host", "").rpartition(":")[0]
        at = f"{host}:{self.hub.storage.server_address[1]}"
        headers["Location"] = f"http://{at}/_lfs/{urllib.parse.quote(str(path.relative_to(self.hub.root)))}"
        self.send_response(302)
        for key, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(key, value)
        return self.end_headers()

    def file(self, path: Path, headers: dict[str, str], about: dict[str, Any]) -> None:
        body = path.read_bytes()
        if path.name in about.get("altered", []):
            body = bytes([body[0] ^ 1]) + body[1:]
        asked = "" if about.get("no_ranges") else self.headers.get("Range", "")
        first, _, last = asked.removeprefix("bytes=").partition("-") if asked.startswith("bytes=") else ("0", "", "")
        rest = body[int(first) : int(last or len(body)) + 1]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(rest) - 1}/{len(body)}")
        for key, value in {**headers, "Content-Length": str(len(rest)), "Accept-Ranges": "bytes"}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if path.name in about.get("truncated", []):
            rest, self.close_connection = rest[: len(rest) // 2], True
        for start in range(0, len(rest), BLOCK):
            block = rest[start : start + BLOCK]
            self.wfile.write(block)
            with self.hub.lock:
                self.hub.sent += len(block)
            if about.get("rate"):
                time.sleep(len(block) / about["rate"])

    def refuse(self, status: int, code: str, words: str, more: dict[str, str] | None = None) -> None:
        self.answer(
            json.dumps({"error": words}), status, {"X-Error-Code": code, "X-Error-Message": words, **(more or {})}
        )

    def answer(self, text: str, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = text.encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


if __name__ == "__main__":
    Hub(Path(sys.argv[1]), int(sys.argv[2]), "0.0.0.0").serve_forever()
