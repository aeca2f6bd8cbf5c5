# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kinds of things that runs leave on a host: where they are, whose they are, and how one is removed.

Only what the layout of ours has is found: a name that is none of ours, a link, and what is below a link stay unseen.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from .._artifact.artifact_store import FINGERPRINT, MANIFEST, ArtifactStore
from .._artifact.store import PARTIAL, Store
from .._base import files
from .._base.names import is_name
from .._checkpoint.store import CheckpointStore
from .._engine.converted import ConvertedStore
from .._gateway.drain import DEFAULT_DIRECTORY
from .._gateway.flavours import FLAVOURS
from .._podman import stock
from .._podman.image import repository
from .._service.host import ServiceHost
from .._triton.gang import GANGS_DIR, SECRET
from .._triton.held import PREFIX
from .._triton.replica import SCRIPTS_DIR
from .._triton.serve import CACHES
from .named import records, text_of
from .rule import Thing

REPOSITORY, ENGINE, CONVERTED, CHECKPOINT = "repository", "engine", "converted checkpoint", "checkpoint"
TOKENIZER, SCRIPTS, GATEWAY, IMAGE = "tokenizer", "scripts", "gateway configuration", "image"
PACKED, GANG, CACHE = "packed image", "secret of a replica", "cache of a start"
SHOWN = 12  # characters of a fingerprint
SHORT = re.compile(r"[0-9a-f]{16}")  # what is named by the beginning of a digest
IN_USE = "another run works on it"
SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
# What is replaced or removed steps aside under one of these endings; what is half made has one of those.
ASIDE = (Store.ASIDE, CheckpointStore.ASIDE)
HALF = (PARTIAL, ".incoming")
ENDING = re.compile(rf"({'|'.join(map(re.escape, (*ASIDE, *HALF)))})$")
# Seconds after which nobody will go on with what an interrupted run left; who does, does it soon.
REST = 86400.0
# Directory -> files of it that are named by what is in them, or by the flavour that reads them.
GATEWAY_FILES = {
    DEFAULT_DIRECTORY: re.compile(rf"probe-[0-9a-f]{{16}}\.bash|(?:{'|'.join(map(re.escape, FLAVOURS))})\.env"),
    # where the first versions had them
    "/etc/trtllm/openai-gateway": re.compile(r"[0-9a-f]{4,64}\.yml"),
}


@dataclass(frozen=True)
class Ground:
    """A host, and the directory *root* of the fleet on it."""

    host: ServiceHost
    root: Path

    def at(self, *parts: str) -> Path:
        """A place below the root."""
        return self.host.path(str(self.root.joinpath(*parts)))


# -- what there is -------------------------------------------------------------------------------------------------


def _artefacts(kind: str, below: str, ground: Ground) -> Iterator[Thing]:
    store = ArtifactStore(ground.at(below))
    for home in _directories(store.root):
        if not is_name(home.name):
            continue
        for path in _directories(home):
            if FINGERPRINT.fullmatch(path.name):
                manifest = path / MANIFEST
                yield _stored(
                    kind, f"{home.name}/{path.name[:SHOWN]}", path, [path.name], store, home.name,
                    functools.partial(store.remove, home.name, path.name),
                    made=_made(manifest), model=home.name, names=text_of(manifest),
                )  # fmt: skip
        yield from _left(home, FINGERPRINT, store, home.name, home.name)


def _converted(ground: Ground) -> Iterator[Thing]:
    store = ConvertedStore(ground.at())
    for path in _directories(store.root):
        if FINGERPRINT.fullmatch(path.name):
            remove = functools.partial(store.remove, path.name)
            yield _stored(CONVERTED, path.name[:SHOWN], path, [path.name], store, path.name, remove)
    yield from _left(store.root, FINGERPRINT, store)


def _packed(ground: Ground) -> Iterator[Thing]:
    """What was written to hand an image on, by a run that did not come to its end."""
    store = ArtifactStore(ground.at("images"))
    for home in _directories(store.root):
        for path in _directories(home) if is_name(home.name) else ():
            if FINGERPRINT.fullmatch(path.name):
                yield _stored(
                    PACKED, f"{home.name}/{path.name[:SHOWN]}", path, [f"images/{home.name}"], store, home.name,
                    functools.partial(store.remove, home.name, path.name), made=_made(path / MANIFEST), rests=REST,
                )  # fmt: skip
        yield from _left(home, FINGERPRINT, store, home.name)


def _checkpoints(ground: Ground) -> Iterator[Thing]:
    store = CheckpointStore(ground.at("checkpoints"))
    for path in _directories(store.root):
        # A run that took it in held its lock and wrote its digests. One that an operator put there is none of ours.
        if is_name(path.name) and store.lock_file(path.name).is_file() and store.index(path.name).is_file():
            yield _stored(
                CHECKPOINT, path.name, path, [f"checkpoints/{path.name}"], store, path.name,
                functools.partial(store.remove, path.name), model=path.name,
            )  # fmt: skip
    yield from _left(store.root, re.compile(r".+"), store)


def _tokenizers(ground: Ground) -> Iterator[Thing]:
    for home in _directories(ground.at("tokenizers")):
        store = CheckpointStore(home)
        for path in _directories(home):
            if SHORT.fullmatch(path.name):
                name = f"{home.name}/{path.name}"
                remove = functools.partial(store.remove, path.name)
                yield _stored(TOKENIZER, name, path, [f"tokenizers/{name}"], store, path.name, remove)
        yield from _left(home, SHORT, store)


def _scripts(ground: Ground) -> Iterator[Thing]:
    for path in _directories(ground.host.path(SCRIPTS_DIR)):
        if SHORT.fullmatch(path.name):
            yield _plain(SCRIPTS, path, f"{SCRIPTS_DIR}/{path.name}")


def _caches(ground: Ground) -> Iterator[Thing]:
    """What replicas compiled and tuned as they started. The unit that names one is written before it is made."""
    for home in _directories(ground.at(CACHES)):
        for path in _directories(home) if is_name(home.name) else ():
            if FINGERPRINT.fullmatch(path.name):
                made = _plain(CACHE, path, path.name)
                yield replace(made, name=f"{home.name}/{path.name[:SHOWN]}")


def _secrets(ground: Ground) -> Iterator[Thing]:
    """Of replicas on several hosts. A run writes it before the unit that names it."""
    for path in _directories(ground.host.path(GANGS_DIR)):
        if path.name.startswith(PREFIX) and is_name(path.name) and (path / SECRET).is_file():
            yield _plain(GANG, path, f"{GANGS_DIR}/{path.name}", rests=REST)


def _gateway_files(ground: Ground) -> Iterator[Thing]:
    for directory, pattern in GATEWAY_FILES.items():
        top = ground.host.path(directory)
        for path in sorted(top.iterdir()) if top.is_dir() and not top.is_symlink() else []:
            if pattern.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                # It is written before the unit that names it.
                yield _plain(GATEWAY, path, f"{directory}/{path.name}", rests=REST)


def _images(ground: Ground) -> Iterator[Thing]:
    """Images that our records name, by digest: whatever else the host has is somebody else's."""
    told = [text_of(ground.at("engines", ".images.json"))]
    told += [json.dumps(line) for _service, record in records(ground.host, ground.root) for line in record.entries()]
    told += [text_of(path) for kind in ("engines", "repositories") for path in ground.at(kind).glob(f"*/*/{MANIFEST}")]
    ours = {digest for text in told for digest in SHA256.findall(text)}
    stored = stock.images() if ours else []
    parents = {image.parent for image in stored}
    for image in stored:
        if image.keys & ours:
            stays = _of_others(image, parents)
            yield Thing(
                IMAGE, (image.names or image.digests or (image.id,))[0], image.id, image.size,
                [*image.keys, image.id.partition(":")[2], *image.names, *image.digests],
                functools.partial(_remove_image, image, stays), functools.partial(str, stays),
                image.created, bound=bool(stays),
            )  # fmt: skip


def _remove_image(image: stock.Stored, stays: str) -> str:
    return stays or stock.remove(image)


def _of_others(image: stock.Stored, parents: set[str]) -> str:
    """Why an image stays for others than us, empty where there are none."""
    if image.id in parents:
        return "another image is built on it"
    called = sorted({repository(name) for name in image.names})
    return f"it has several names: {', '.join(called)}" if len(called) > 1 else ""


# -- what they have in common --------------------------------------------------------------------------------------


def _stored(
    kind: str,
    name: str,
    path: Path,
    words: list[str],
    store: Store,
    lock: str,
    remove: Callable[[], object],
    made: Optional[float] = None,
    model: str = "",
    names: str = "",
    rests: float = 0.0,
) -> Thing:
    """A thing of a store, removed under its lock and by a rename first, as `Store._take_away` does it."""

    def removed() -> str:
        with store.unused(lock) as unused:
            if not unused:
                return IN_USE
            remove()
        return ""

    def look() -> str:
        with store.unused(lock, look=True) as unused:
            return "" if unused else IN_USE

    when = _made(path) if made is None else made
    return Thing(kind, name, str(path), size_of(path), words, removed, look, when, model, names, rests)


def _plain(kind: str, path: Path, word: str, rests: float = 0.0) -> Thing:
    def removed() -> str:
        files.remove(path)
        return ""

    return Thing(kind, path.name, str(path), size_of(path), [word], removed, made=_made(path), rests=rests)


def _left(home: Path, ours: re.Pattern[str], store: Store, lock: str = "", model: str = "") -> Iterator[Thing]:
    """What interrupted runs left in *home* of things whose names are *ours*; *lock* where it is not their own."""
    for path in _directories(home):
        name = ENDING.sub("", path.name)
        if name == path.name or not ours.fullmatch(name) or not is_name(name):
            continue
        aside = path.name.endswith(ASIDE)
        if aside and store.partial_of(home / name).exists() and not (home / name).exists():
            continue  # what replaces it is not in its place yet
        newest = max((_made(Path(found)) for found, _directories_, _files in os.walk(path)), default=0.0)
        shown = f"{home.name}/{name[:SHOWN]}{path.name[len(name) :]}" if len(name) > SHOWN else path.name
        yield _stored(
            "left over", shown, path, [path.name], store, lock or name, functools.partial(files.remove, path),
            newest, "" if aside else model or name, rests=0.0 if aside else REST,
        )  # fmt: skip


def _directories(path: Path) -> Iterator[Path]:
    """The directories in *path*, which may be absent; no link is followed."""
    if path.is_dir() and not path.is_symlink():
        yield from sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink())


def size_of(path: Path) -> int:
    """Bytes on disk that are free once *path* is removed: what has another name elsewhere does not count."""
    places = [path] if path.is_file() else [Path(at, name) for at, _, names in os.walk(path) for name in names]
    found = [os.lstat(place) for place in places]
    return sum(status.st_blocks * 512 for status in found if status.st_nlink == 1)


def _made(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


@dataclass(frozen=True)
class Kind:
    """One kind. *newest*: the newest ones of each model that is described are kept, though nothing names them yet;
    *described*: the one of each such model is."""

    find: Callable[[Ground], Iterator[Thing]]
    newest: bool = False
    described: bool = False


# In this order: what is kept of one kind may name what is of the next.
KINDS: Mapping[str, Kind] = {
    REPOSITORY: Kind(functools.partial(_artefacts, REPOSITORY, "repositories"), newest=True),
    ENGINE: Kind(functools.partial(_artefacts, ENGINE, "engines"), newest=True),
    CONVERTED: Kind(_converted),
    CHECKPOINT: Kind(_checkpoints, described=True),
    TOKENIZER: Kind(_tokenizers),
    SCRIPTS: Kind(_scripts),
    CACHE: Kind(_caches),
    GANG: Kind(_secrets),
    GATEWAY: Kind(_gateway_files),
    IMAGE: Kind(_images),
    PACKED: Kind(_packed),
}
