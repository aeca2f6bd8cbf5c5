# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever the host refuses, a module fails with one sentence and never with a traceback."""

from __future__ import annotations

import errno
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import REMEDIES, FleetError, sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.files import write_atomically
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.store import CheckpointStore
from ansible_collections.trtllm.fleet.plugins.module_utils._host import openpgp
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from unit import modules
from unit.engine_fakes import FakeHost, arranged_host
from unit.roles.test_gpu_keys import KEY

# Where nothing can be made, and what the sentence says of it.
BAD_ROOTS = [
    ("/proc/nowhere", r"^/proc/nowhere\S*: No such file or directory; make the directory, or correct the path\.$"),
    ("FILE", r"^FILE\S*: (Not a directory; a part of the path is a file|File exists; something else stands there): "),
    ("/" + "x" * 300, r"^/x{300}\S*: File name too long; give a shorter name or path\.$"),
]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    return arranged_host(tmp_path, monkeypatch)


def failure(module: str, **arguments: Any) -> str:
    """The sentence with which the module fails."""
    result = modules.call(module, arguments)
    assert result.get("failed"), result
    assert "exception" not in result
    message = str(result["msg"])
    assert "Traceback" not in message
    assert "\n" not in message
    return message


def engine(host: FakeHost, **changes: Any) -> dict[str, Any]:
    return {
        "name": "tiny", "root": str(host.root), "checkpoint": str(host.checkpoint), "release": LAST,
        "image": "triton", "gpus": [], "examples_dir": str(host.home / "examples"), "wait": False, **changes,
    }  # fmt: skip


@pytest.mark.parametrize(("root", "says"), BAD_ROOTS, ids=["proc", "file", "long"])
@pytest.mark.parametrize("module", ["trtllm_engine", "trtllm_checkpoint", "repository_key"])
def test_a_root_that_cannot_hold_anything(host: FakeHost, tmp_path: Path, module: str, root: str, says: str) -> None:
    file = tmp_path / "file"
    file.touch()
    root, says = root.replace("FILE", str(file)), says.replace("FILE", str(file))
    (tmp_path / "key").write_bytes(openpgp.armored(KEY))
    arguments = {
        "trtllm_engine": engine(host, root=root),
        "trtllm_checkpoint": {"name": "m", "root": root, "path": str(host.checkpoint), "location": "host"},
        "repository_key": {"source": str(tmp_path / "key"), "dest": f"{root}/key.asc"},
    }[module]
    assert re.search(says, failure(module, **arguments))


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "No space left on device; make room there."),
        (errno.EROFS, "Read-only file system; give a path on a file system that can be written."),
        (errno.EIO, "Input/output error; look into the kernel's log for the disk's errors."),
    ],
)
def test_a_disk_that_takes_nothing_more(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    """What a full or read-only disk answers. The system names no file while one is written, so what writes it does."""

    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    arguments = {"name": "m", "root": str(host.root), "path": str(host.checkpoint), "location": "host"}
    noted = host.root / "checkpoints"
    assert failure("trtllm_checkpoint", **arguments) == f"{noted}/m.source-digests.json: {says}"
    assert failure("trtllm_engine", **engine(host)) == f"{noted}/tiny.digests.json: {says}"


def test_every_module_that_runs_on_a_host_fails_that_way() -> None:
    """A new module cannot forget it: all that it does stands within `one_sentence`."""
    forgotten = [
        path.name
        for path in modules.DIRECTORY.glob("[a-z]*.py")
        if hasattr(modules.load(path.stem), "AnsibleModule") and "with one_sentence(module" not in path.read_text()
    ]
    assert forgotten == []


def test_every_reason_of_the_system_has_a_remedy_or_a_place_to_look() -> None:
    for number in (*REMEDIES, errno.EBUSY):
        said = sentence(OSError(number, os.strerror(number), "/srv/x"))
        assert said.startswith(f"/srv/x: {os.strerror(number)}; ")
        assert said.endswith(".")
    assert sentence(OSError("odd"), "/srv") == "/srv: odd; look at the file system of the host."
    assert sentence(FleetError("As it is.")) == "As it is."


def test_a_file_name_that_is_no_text_is_named(host: FakeHost) -> None:
    with open(os.path.join(os.fsencode(host.checkpoint), b"caf\xe9.json"), "wb"):
        pass
    assert "caf\\udce9.json' has a name that is not UTF-8; rename it." in failure("trtllm_engine", **engine(host))


def test_absent_waits_for_who_takes_the_checkpoint_in(host: FakeHost) -> None:
    store = CheckpointStore(host.root / "checkpoints")
    result: dict[str, Any] = {}
    arguments = {"name": "tiny", "root": str(host.root), "state": "absent"}
    remover = threading.Thread(target=lambda: result.update(modules.call("trtllm_checkpoint", arguments)))
    with store.lock("tiny"):
        remover.start()
        remover.join(1)
        assert remover.is_alive()
        assert host.checkpoint.is_dir()
    remover.join(10)
    assert result["changed"]
    assert not host.checkpoint.exists()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file"
    write_atomically(target, b"old")

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="full"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_there_is_one_place_that_puts_files_on_disk() -> None:
    """The runner and the worker alone have their own: they run by themselves, in a container and as a unit."""
    sources = {
        str(path.relative_to(modules.DIRECTORY.parent)): path.read_text()
        for path in modules.DIRECTORY.parent.rglob("*.py")
    }
    found = {name for name, source in sources.items() if "os.fsync(" in source or "os.replace(" in source}
    alone = {"module_utils/_engine/runner.py", "module_utils/_podman/worker.py"}
    assert found == {"module_utils/_base/files.py"} | alone
