# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run of site.yml is given for one host, as digests by which it is seen whether any of it differs.

The plan of the host, its share of the fleet, the variables of all roles and playbooks, files of the controller that
they name, the collection's own files and Ansible's version. A variable that asks for more than a look, such as an image
that the registry is asked for each time, keeps its host from being settled.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.release import __version__ as ansible_version
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.fingerprint import fingerprint
from ansible_collections.trtllm.fleet.plugins.module_utils._settled.signature import tree
from ansible_collections.trtllm.fleet.plugins.plugin_utils._role_values import options_of, roles

HERE = Path(__file__).resolve().parents[2]
OWN = ("galaxy.yml", "MANIFEST.json", "images", "meta", "playbooks", "plugins", "roles")
NOT_OURS = re.compile(r"(^|/)(__pycache__|tests|\.[^/]+)$|\.pyc$")
# Of playbooks; where a run writes its reports, what is asked of verify.yml, and that a settled host is gone through all
# the same, changes nothing on a host.
PLAYBOOKS = re.compile(r"(?!trtllm_skip_settled)(trtllm|rollout|preflight|prune)_\w+")
# Values that ask for what no look at the host can answer, so that all is done each time.
ASKS_MORE: Mapping[str, Callable[[Any], bool]] = {
    r"\w+_image_pull": lambda value: value == "always",
    r"(checkpoint|engine)_verify": lambda value: value == "full",
    r"checkpoint_refresh|(container_toolkit|gpu_driver)_upgrade": lambda value: boolean(value, strict=False),
    r"container_toolkit_probe": lambda value: value == "always",
    r"engine_rebuild": lambda value: value == "always",
    r"preflight_report|rollout_take_over": lambda value: True,
}
# A variable of these names a file of the controller, if need be beside the playbook.
SOURCES = re.compile(r"\w+_(archive|context|containerfile|certificate|key|authfile|templates)")
IMAGE_SOURCES = ("archive", "context", "containerfile")  # likewise, of the image of a model's own
MOST_FILES = 50_000
ROUNDS = 20_000  # of the digest of a secret, so that it cannot be guessed from a record
Find = Callable[[str], str]


@functools.cache
def collection_digest() -> str:
    """Of all files of the collection that a run uses; the same wherever they lie."""
    digest = hashlib.sha256()
    for name in OWN:
        for path in tree(HERE / name, lambda below: bool(NOT_OURS.search(below))):
            if path.is_file() and not NOT_OURS.search(path.name):
                digest.update(f"{path.relative_to(HERE)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@functools.cache
def secret_variables() -> frozenset[str]:
    """Variables of roles that hold a secret somewhere."""
    return frozenset(name for role in roles() for name, about in options_of(role).items() if _is_secret(about))


def _is_secret(about: Mapping[str, Any]) -> bool:
    return bool(about.get("no_log")) or any(_is_secret(inner) for inner in (about.get("options") or {}).values())


def names(variables: Mapping[str, Any]) -> list[str]:
    """The variables that a run depends on, of those there are."""
    known = {name for role in roles() for name in options_of(role)}
    return sorted(name for name in variables if name in known or PLAYBOOKS.fullmatch(name))


def given(host: str, plan: Any, fleet_map: Mapping[str, Any], values: Mapping[str, Any], find: Find) -> dict[str, str]:
    """All digests for *host*. *values*: of its variables; *find* tells where a file of the controller is."""
    share = {part: (fleet_map.get(part) or {}).get(host) for part in ("hosts", "gateways", "tokenizers")}
    paths = sorted({found for text in sources(plan, values) if (found := find(text))})
    return {
        "the plan": _digest(plan),
        "the plan of the fleet": _digest(share),
        "the collection": collection_digest(),
        "the version of Ansible": ansible_version,
        **{f"the variable {name}": value_digest(host, name, value) for name, value in values.items()},
        **{f"{path} of the controller": file_digest(path) for path in paths},
    }


def _digest(value: Any) -> str:
    return fingerprint(plain(value))


def value_digest(host: str, name: str, value: Any) -> str:
    """The digest of one variable; that of a secret takes long to guess, and is another one for each host."""
    if name not in secret_variables():
        return _digest(value)
    salt = f"{host} {name}".encode()
    return hashlib.pbkdf2_hmac("sha256", _digest(value).encode(), salt, ROUNDS).hex()


def plain(value: Any) -> Any:
    """*value* as JSON can have it, without what Ansible adds to texts."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value)


def texts(value: Any) -> Iterator[str]:
    """Each text in *value*."""
    if isinstance(value, str):
        yield str(value)
    elif isinstance(value, Mapping):
        yield from (text for inner in value.values() for text in texts(inner))
    elif isinstance(value, (list, tuple)):
        yield from (text for inner in value for text in texts(inner))


def places(plan: Any, values: Mapping[str, Any]) -> Iterator[str]:
    """Each absolute path that is given; what is below the fleet's directory is looked at as a whole."""
    root = str((plan or {}).get("root") or "/")
    for text in [*texts(plan), *texts(dict(values))]:
        path = os.path.expanduser(text) if text.startswith("~") else text
        if re.fullmatch(r"(/[^/\n]+)+/?", path) and not f"{path}/".startswith((f"{root}/", "/dev/", "/proc/", "/sys/")):
            yield path


def sources(plan: Any, values: Mapping[str, Any]) -> Iterator[str]:
    """What may be a file of the controller: each absolute path, and what a variable or a model names as one."""
    yield from places(plan, values)
    for checkpoint in (plan or {}).get("checkpoints") or []:
        if checkpoint.get("location") == "controller" and checkpoint.get("path"):
            yield os.path.abspath(os.path.expanduser(str(checkpoint["path"])))
    for image in (plan or {}).get("images") or []:
        yield from (str(image[key]) for key in IMAGE_SOURCES if image.get(key))
    for name, value in values.items():
        if SOURCES.fullmatch(name):
            yield from (text for text in texts(value) if text and not text.startswith(("/", "~")) and "\n" not in text)


def file_digest(path: str) -> str:
    """What is known of a file or directory of the controller without reading it."""
    digest = hashlib.sha256()
    for number, found in enumerate(tree(Path(path))):
        if number > MOST_FILES:
            return ""
        digest.update(_stated(found))
    return digest.hexdigest()


def _stated(path: Path) -> bytes:
    try:
        found = path.stat()
    except OSError:
        return b""
    return f"{path} {found.st_mode} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}\n".encode()


def asks_more(plan: Any, values: Mapping[str, Any]) -> list[str]:
    """Why all has to be done each time, with what the run is given."""
    found = [
        f"{name} asks for more than a look at the host"
        for name, value in values.items()
        if any(re.fullmatch(pattern, name) and asks(value) for pattern, asks in ASKS_MORE.items())
    ]
    own = [str(image.get("name")) for image in (plan or {}).get("images") or [] if image.get("pull") == "always"]
    found += [f"the registry is asked for {name} each time" for name in own]
    joined = [str(one.get("name")) for one in (plan or {}).get("replicas") or [] if one.get("nodes")]
    return found + [f"the network between the hosts of {name} is tried each time" for name in joined]
