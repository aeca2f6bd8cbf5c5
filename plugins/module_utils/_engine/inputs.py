# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that an engine is made from: which they are, what of them counts, and how a container gets at them.

What a tool reads counts by its content, wherever it stands. What no tool reads does not count.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._artifact.fingerprint import IGNORED_DIRECTORIES, tree_digest
from .._base.names import check_absolute, check_path
from .._checkpoint.read import index_of, is_read
from .._release.cli import PATH_OPTIONS, Command, is_host_path

# In a data set everything counts: its README.md says which files hold what, and its directory's name how they are read.
READ_WHOLE = frozenset({"calib_dataset"})
# Where the digest of scripts stands among the inputs.
SCRIPTS = "examples_dir"


@dataclass(frozen=True)
class Input:
    """The digest of what a path holds, and the one that earlier versions of this collection made of the same."""

    digest: str
    former: str


# -- paths ---------------------------------------------------------------------------------------------------------


def real_directory(path: str, what: str) -> str:
    """*path* without links in it, if it is a directory: links of a download cache lead on from where it really is.

    A file keeps the path that it was given, whose ending tells tools what it holds.
    """
    check_absolute(path, what)
    return check_path(os.path.realpath(path) if os.path.isdir(path) else path, what)


def real_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """*options* with every path of the host checked, and resolved where it is a directory."""
    return {name: _real_value(name, value) for name, value in options.items()}


def _real_value(option: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_real_value(option, item) for item in value]
    if not isinstance(value, str) or not is_host_path(option, value):
        return value
    return check_path(check_absolute(value, option), option) if option in READ_WHOLE else real_directory(value, option)


def host_paths(options: Mapping[str, Any]) -> dict[str, str]:
    """``option`` or ``option[1]`` -> path, for options whose value is a path of the host."""
    found: dict[str, str] = {}
    for option in sorted(PATH_OPTIONS | READ_WHOLE):
        value = options.get(option)
        values = value if isinstance(value, list) else [value]
        for number, path in enumerate(values):
            if isinstance(path, str) and is_host_path(option, path):
                found[f"{option}[{number}]" if len(values) > 1 else option] = path
    return found


# -- what counts ---------------------------------------------------------------------------------------------------


def option_input(root: Path, option: str, path: str, verify: str, write_index: bool) -> Input:
    """What the *path* that *option* names holds: a file by itself, of a directory what is read."""
    where = Path(path)
    tree = tree_digest(where, index_of(root, where), verify=verify, write_index=write_index)
    whole = where.is_file() or option.split("[")[0] in READ_WHOLE
    return Input((tree if whole else tree.only(is_read)).digest, tree.digest)


def script_inputs(
    root: Path, examples_dir: str | None, commands: Sequence[Command], verify: str, write_index: bool
) -> dict[str, Input]:  # fmt: skip
    """The scripts of *commands* where they are run from a checkout of the host; in the image, the image covers them."""
    if not examples_dir or not os.path.isdir(examples_dir):
        return {}
    directories: set[str] = set()
    for command in commands:
        places = [word for word in (*command.argv[1:2], *command.alternatives) if os.path.isfile(word)]
        directories.update(os.path.dirname(place) for place in places[:1] if place.startswith(f"{examples_dir}/"))
    if not directories:
        return {}
    digests = [option_input(root, SCRIPTS, path, verify, write_index).digest for path in sorted(directories)]
    digest = digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()
    return {SCRIPTS: Input(digest, digest)}


def as_told_now(
    manifest: Mapping[str, Any], inputs: Mapping[str, Input], examples_dir: str | None
) -> dict[str, Any] | None:  # fmt: skip
    """What an engine was made from, in today's words; earlier versions counted more files, and no scripts.

    None where the manifest does not say. *inputs* are those of today, which tell a former digest by its content.
    """
    made_from = manifest.get("made_from")
    if not isinstance(made_from, Mapping):
        return None
    checkpoint = made_from.get("checkpoint", {})
    known = dict(made_from.get("inputs", {}))
    for option, now in inputs.items():
        if known.get(option) == now.former:
            known[option] = now.digest
    if SCRIPTS in inputs and SCRIPTS not in known and _ran_from(manifest, f"{examples_dir}/"):
        known[SCRIPTS] = inputs[SCRIPTS].digest
    return {
        **made_from,
        "checkpoint": {**checkpoint, "files": {p: d for p, d in checkpoint.get("files", {}).items() if is_read(p)}},
        "inputs": known,
        "convert": {tool: _without_paths(values) for tool, values in made_from.get("convert", {}).items()},
    }


def _ran_from(manifest: Mapping[str, Any], place: str) -> bool:
    """Whether a command of the engine began with a script of *place*."""
    return any(word.startswith(place) for command in manifest.get("commands") or [] for word in command[1:2])


def _without_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not (isinstance(value, str) and value.startswith("/"))}


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two engines are made from the same, by the content of every file and all else."""
    return {**one, "checkpoint": one["checkpoint"]["files"]} == {**other, "checkpoint": other["checkpoint"]["files"]}


# -- mounts --------------------------------------------------------------------------------------------------------


def volumes(paths: Iterable[str]) -> list[str]:
    """Read-only mounts that show *paths* in a container where they are here, and whatever their links lead to."""
    places: dict[str, str] = {}
    for path in paths:
        if os.path.exists(path):
            _reach(path, os.path.realpath(path), places, ())
    return [f"{host}:{inside}:ro" for inside, host in sorted(places.items())]


def _reach(inside: str, host: str, places: dict[str, str], above: tuple[str, ...]) -> None:
    """Add what shows *host* at the path *inside* of the container, and where its links lead from there.

    *above*: the directories whose links have led here; to come back to one of them is to go in a circle.
    """
    if places.get(inside) == host or host in above:
        return
    places[check_path(inside, "A link")] = check_path(host, "A link")
    for relative in _links(host):
        link = os.path.join(host, relative)
        seen = os.path.normpath(os.path.join(inside, os.path.dirname(relative), os.readlink(link)))
        around = f"{seen.rstrip('/')}/"
        # Within the tree it is shown already; to a directory around the tree it is a circle too.
        if not around.startswith(f"{inside}/") and not inside.startswith(around) and os.path.exists(link):
            _reach(seen, os.path.realpath(link), places, (*above, host))


def _links(host: str) -> Iterator[str]:
    """The relative paths of the symbolic links below *host*; none where it is a file."""
    for directory, directories, names in os.walk(host):
        for name in (*directories, *names):
            path = os.path.join(directory, name)
            if os.path.islink(path):
                yield os.path.relpath(path, host)
        directories[:] = [name for name in directories if name not in IGNORED_DIRECTORIES]
