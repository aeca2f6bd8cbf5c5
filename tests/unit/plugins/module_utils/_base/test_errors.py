# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator is told of a file that the system refuses."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.files import naming, write_atomically


def refused(number: int, *names: str) -> OSError:
    """What a copy raises: the file that is read, and the one that is written."""
    return OSError(number, os.strerror(number), names[0], None, names[1] if len(names) > 1 else None)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_copy_that_finds_no_room_names_where_there_is_none(number: int) -> None:
    assert sentence(refused(number, "/root/.ansible/tmp/a", "/srv/full/a")).startswith("/srv/full/a: ")
    assert sentence(refused(number, "/srv/full")).startswith("/srv/full: ")


def test_a_copy_that_cannot_read_names_what_it_reads() -> None:
    assert sentence(refused(errno.ENOENT, "/srv/source", "/srv/target")).startswith("/srv/source: No such file")


def test_an_error_that_names_nothing_is_of_the_place() -> None:
    assert sentence(OSError(errno.ENOSPC, "No space left on device"), "/var/lib/trtllm") == (
        "/var/lib/trtllm: No space left on device; make room there."
    )


def test_a_file_that_finds_no_room_when_it_is_written_to_is_named() -> None:
    with pytest.raises(OSError) as raised, naming(Path("/srv/repositories/config.pbtxt")):
        Path("/dev/full").write_bytes(b"x")
    assert sentence(raised.value).startswith("/srv/repositories/config.pbtxt: No space left on device; ")


def test_a_file_that_finds_no_room_when_it_is_put_in_place_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        os.write(os.open("/dev/full", os.O_WRONLY), b"x")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as raised:
        write_atomically(tmp_path / "manifest.json", b"{}")
    assert sentence(raised.value) == f"{tmp_path}/manifest.json: No space left on device; make room there."
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [TimeoutError("timed out"), ConnectionResetError(errno.ECONNRESET, "reset by peer")])
def test_a_server_that_does_not_answer_is_no_matter_of_files(error: OSError) -> None:
    told = sentence(error, "http://gpu-01:8000")
    assert told.startswith("http://gpu-01:8000: ") and told.endswith(
        "; see that what is asked runs, and that the network lets it be reached."
    )
