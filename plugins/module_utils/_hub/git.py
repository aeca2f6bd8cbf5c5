# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A git repository, with the weights that it keeps in git-lfs, by git itself.

Nothing is checked out, so nothing of the repository is run: its tree is listed, small files are read out of git and
large ones taken from git-lfs. A kill leaves what git-lfs has of an object, which it continues.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from .._base.errors import FleetError
from .._base.files import inside, remove, write_atomically
from .archive import is_chosen
from .download import HALVES
from .request import COMMIT, SHA256, Request
from .watch import Expected, Watch

REPOSITORY = "git"
# What git-lfs writes in place of a file; a pointer is never larger.
POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-.*\n)*oid sha256:([0-9a-f]{64})\nsize (\d+)\n"
)
POINTER_SIZE = 1024
FILE_MODES = ("100644", "100755")
LAST_LINES = 3


@dataclass(frozen=True)
class Entry:
    """A file of the tree; *lfs* where git has a pointer only."""

    name: str
    blob: str
    expected: Expected
    lfs: bool


class Repository:
    """What is kept of the repository while its files are brought. *token* stands in a file that git alone reads."""

    def __init__(self, request: Request, token: str, target: Path) -> None:
        self.request, self.home = request, target / HALVES / REPOSITORY
        self.secrets = Path(os.environ["HOME"]) / "git-credentials"
        if token:
            parts = urlsplit(request.url)
            line = f"{parts.scheme}://token:{quote(token, safe='')}@{parts.netloc}\n"
            write_atomically(self.secrets, line.encode(), mode=0o600)

    def git(self, *arguments: str, words: str = "") -> bytes:
        """What git says; its own last words where it fails. *words* are what else there is to say then."""
        options = [
            "-c", f"credential.helper=store --file={self.secrets}", "-c", "core.hooksPath=/dev/null",
            "-c", "lfs.basictransfersonly=true", "-c", "gc.auto=0",
        ]  # fmt: skip
        environment = {
            **os.environ,
            "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ALLOW_PROTOCOL": "https:http", "LC_ALL": "C",
        }  # fmt: skip
        try:
            done = subprocess.run(
                ["git", "-C", str(self.home), *options, *arguments], env=environment, stdin=subprocess.DEVNULL,
                capture_output=True, check=False,
            )  # fmt: skip
        except OSError:
            raise FleetError("git is not installed where the checkpoint is downloaded; install it.") from None
        if done.returncode:
            lines = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
            said = " ".join(" ".join(lines[-LAST_LINES:]).split()).rstrip(".")
            where = f"{self.request.title} at revision {self.request.revision}"
            raise FleetError(f"{where}: git says '{said}'; {words or 'check the address, the revision and the token'}.")
        return done.stdout

    def commit(self) -> str:
        """The commit that the revision is now; it is fetched, without what came before it."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet", "--bare")
        self.git("config", "remote.origin.url", self.request.url)
        revision = self.request.revision
        if COMMIT.fullmatch(revision) and self._has(revision):
            return revision
        try:
            self.git("fetch", "--quiet", "--depth=1", "origin", revision)
        except FleetError:
            if not COMMIT.fullmatch(revision):
                raise
            # A server that hands out no single commit: all of it, and the commit is in there.
            self.git("fetch", "--quiet", "origin", "+refs/*:refs/fetched/*")
            if not self._has(revision):
                raise
            return revision
        return self.git("rev-parse", "--verify", "--quiet", "FETCH_HEAD^{commit}").decode().strip()

    def _has(self, commit: str) -> bool:
        try:
            return self.git("cat-file", "-t", commit).strip() == b"commit"
        except FleetError:
            return False

    def entries(self, commit: str) -> list[Entry]:
        """The files of the commit that are wanted."""
        found = []
        for line in self.git("ls-tree", "-r", "-l", "-z", commit).decode().split("\0"):
            if not line:
                continue
            about, _, name = line.partition("\t")
            mode, _, blob, size = about.split()
            if not is_chosen(name, self.request):
                continue
            if mode not in FILE_MODES:
                raise FleetError(
                    f"{self.request.title}: {name} is a link or another repository, which no checkpoint has; leave it "
                    "out with exclude."
                )
            pointer = POINTER.match(self._blob(blob)) if int(size) <= POINTER_SIZE else None
            expected = (
                Expected(int(pointer[2]), sha256=pointer[1].decode()) if pointer else Expected(int(size), blob=blob)
            )
            found.append(Entry(name, blob, expected, pointer is not None))
        return found

    def _blob(self, blob: str) -> bytes:
        return self.git("cat-file", "blob", blob)

    def bring(self, entries: Sequence[Entry], commit: str, target: Path, watch: Watch) -> None:
        """Every file in its place: what git has, and what git-lfs has."""
        large = [entry.name for entry in entries if entry.lfs]
        if large:
            before = watch.present()
            self._take_up()
            # Names with these would be patterns; all of git-lfs is fetched then.
            plain = not any(set(name) & set(",*?[!\\ ") for name in large)
            self.git(
                "lfs", "fetch", *(["--include", ",".join(large)] if plain else []), "origin", commit,
                words="what has arrived is kept, so run again once its LFS server has it",
            )  # fmt: skip
            watch.count(max(0, watch.present() - before))
        for entry in entries:
            place = inside(target, entry.name, "repository")
            place.parent.mkdir(parents=True, exist_ok=True)
            remove(place)
            if entry.lfs:
                os.link(self._object(entry), place)
            else:
                place.write_bytes(self._blob(entry.blob))

    def _take_up(self) -> None:
        """What a killed git-lfs had of an object goes where it looks for it: OID.part instead of OID and digits."""
        incomplete = self.home / "lfs" / "incomplete"
        for half in sorted(incomplete.iterdir(), key=lambda path: path.stat().st_size) if incomplete.is_dir() else []:
            if SHA256.fullmatch(half.name[:64]) and half.suffix != ".part":
                half.rename(half.with_name(f"{half.name[:64]}.part"))

    def _object(self, entry: Entry) -> Path:
        oid = entry.expected.sha256
        path = self.home / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
        if not path.is_file():
            raise FleetError(
                f"{self.request.title}: {entry.name} is a git-lfs pointer whose content its LFS server does not have; "
                "push it there with 'git lfs push --all', or leave the file out with exclude."
            )
        return path


def fetch(request: Request, token: str, target: Path, watch: Watch) -> None:
    """Bring the files of *request* into *target*, and tell *watch* what they should be."""
    repository = Repository(request, token, target)
    try:
        commit = repository.commit()
        entries = repository.entries(commit)
        watch.resolved(commit, {entry.name: entry.expected for entry in entries})
        repository.bring(entries, commit, target, watch)
    finally:
        remove(repository.secrets)
