# SPDX-License-Identifier: GPL-3.0-or-later
"""A service is what its container is, not what its unit's text says; and the release record comes back."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._service.host import ServiceHost, mount_points
from ansible_collections.trtllm.fleet.plugins.module_utils._service.manager import ServiceManager
from ansible_collections.trtllm.fleet.plugins.module_utils._service.record import ReleaseRecord
from ansible_collections.trtllm.fleet.plugins.module_utils._service.running import bind_mounts
from ansible_collections.trtllm.fleet.plugins.module_utils._service.types import Settings
from unit.service_fakes import IMAGE, FakeHost, deploy, record, service

RECORD = "/var/lib/trtllm/releases/a.jsonl"


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    made = FakeHost(tmp_path)
    made.path("/srv/m").mkdir(parents=True)
    return made


def described(**more: Any) -> Any:
    return service("a", container={"Volume": ["/srv/m:/srv/m:ro"], "Environment": {"TOKEN": "right", "B": "1"}}, **more)


def test_a_directory_that_was_replaced_under_a_service_restarts_it_and_is_the_reason(host: FakeHost) -> None:
    deploy(host, described())
    shutil.move(host.path("/srv/m"), host.path("/srv/old"))
    host.path("/srv/m").mkdir()
    host.done()
    outcome = deploy(host, described())["a"]
    assert (outcome["action"], outcome["reason"]) == ("restarted", "/srv/m was replaced under it")
    assert host.done() == ["restart a"]
    assert deploy(host, described())["a"]["action"] == "none"


def test_a_directory_that_is_gone_is_told_before_it_is_missed_at_the_next_start(host: FakeHost) -> None:
    deploy(host, described())
    host.path("/srv/m").rmdir()
    outcome = deploy(host, described(), check=True)["a"]
    assert (outcome["action"], outcome["reason"]) == ("restarted", "/srv/m is gone under it")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_id": "sha256:" + "9" * 64}, "it runs the image sha256:" + "9" * 64),
        ({"command": ("serve", "--port=8000", "--key=hidden")}, "it runs another command"),
        ({"environment": {"TOKEN": "hidden", "B": "1"}}, "its environment differs in TOKEN"),
        ({"environment": {}}, "its environment differs in B, TOKEN"),
        ({"status": "exited"}, "its container is not there"),
    ],
)
def test_what_runs_must_be_what_the_unit_says(host: FakeHost, change: dict[str, Any], reason: str) -> None:
    deploy(host, described())
    host.started["a"] = dataclasses.replace(host.started["a"], **change)
    manager = ServiceManager(host, Settings(check=True))
    planned = manager.plan([described()])
    outcome = manager.outcomes(planned)["a"]
    assert (outcome["action"], outcome["reason"]) == ("restarted", reason)
    (diff,) = manager.diff(planned)
    assert diff["before"] != diff["after"] and diff["before_header"] == "a as it runs"
    assert "hidden" not in str(diff) and "hidden" not in str(outcome) and "right" not in str(diff)
    host.done()
    assert deploy(host, described())["a"]["reason"] == reason
    assert host.done() == ["restart a"]


def test_a_service_whose_container_is_missing_is_restarted(host: FakeHost) -> None:
    deploy(host, described())
    del host.started["a"]
    assert deploy(host, described())["a"]["reason"] == "its container is not there"


def test_what_something_beside_the_unit_changes_is_told_and_restarts_nothing(host: FakeHost) -> None:
    host.drop_in = {"B": "2"}
    deploy(host, described())
    host.done()
    manager = ServiceManager(host, Settings())
    assert manager.apply(manager.plan([described()]))["a"]["action"] == "none"
    assert host.done() == []
    (note,) = manager.notes
    assert note.startswith("a: its environment differs in B, although it was started from its unit")
    host.started["a"] = dataclasses.replace(host.started["a"], image_id="sha256:" + "9" * 64)
    assert "runs the image" in deploy(host, described())["a"]["reason"]


@pytest.mark.parametrize(
    "damage",
    [
        None,
        "",
        "null\n",
        "[1]\n",
        '{"unit_sha256": 1}\n',
        '{"time": "now", "outcome": "serving", "unit_path": "/x", "unit_sha256": "00", "unit": "another"}\n',
        "\x00\xff{half a li",
    ],
)
def test_a_record_that_was_lost_or_damaged_is_written_again_without_a_restart(host: FakeHost, damage: str) -> None:
    deploy(host, described(record={"model": "m"}))
    whole = record(host, "a")
    path = host.path(RECORD)
    if damage is None:
        shutil.rmtree(path.parent)
    else:
        path.write_text(damage, encoding="latin-1")
    host.done()
    manager = ServiceManager(host, Settings())
    planned = manager.plan([described(record={"model": "m"})])
    assert planned[0].changes
    assert manager.diff(planned)[0]["after_header"] == "a in the release record"
    outcome = manager.apply(planned)["a"]
    assert (outcome["action"], outcome["reason"]) == ("none", "its release record does not tell of it")
    assert host.done() == []
    assert record(host, "a") == whole
    assert not ServiceManager(host, Settings()).plan([described(record={"model": "m"})])[0].changes


def test_a_record_that_tells_otherwise_of_the_same_unit_is_written_again(host: FakeHost) -> None:
    deploy(host, described(record={"model": "m"}))
    deploy(host, described(record={"model": "m", "more": ["x"]}))
    assert [line.get("more") for line in record(host, "a")] == [None, ["x"]]
    assert ReleaseRecord(host.path("/var/lib/trtllm/releases"), "a").before(host.text("a")) is None


def test_in_check_mode_a_lost_record_is_told_and_not_written(host: FakeHost) -> None:
    deploy(host, described())
    host.path(RECORD).unlink()
    assert deploy(host, described(), check=True)["a"]["reason"] == "its release record does not tell of it"
    assert not host.path(RECORD).exists()


def test_what_a_container_holds_is_read_from_the_kernel(tmp_path: Path) -> None:
    """With /proc as files: the container's root is another tree, with something mounted at one place of it."""
    host, root = ServiceHost(tmp_path), tmp_path / "container"
    (root / "srv/a b").mkdir(parents=True)
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/root").symlink_to(root)
    (tmp_path / "proc/7/mountinfo").write_text(
        "36 35 98:0 /x / rw - ext4 d rw\n37 36 98:0 /y /srv/a\\040b ro - ext4 d rw\n"
    )
    held = (root / "srv/a b").stat()
    assert host.identity_in_container(7, "/srv/a b") == (held.st_dev, held.st_ino)
    assert host.identity_in_container(7, "/srv") is None  # no mount point, so it may be reached through a link
    assert host.identity_in_container(8, "/srv") is None
    assert host.identity("/container/srv/a b") == (held.st_dev, held.st_ino)
    assert host.identity("/nothing") is None
    assert mount_points("") == set()


def test_only_what_is_mounted_as_it_is_can_be_compared() -> None:
    volumes = ["/srv/a:/a:ro,z", "name:/b", "/c", "/d:/d:O", "/e:/e"]
    assert bind_mounts(volumes) == [("/srv/a", "/a"), ("/e", "/e")]
    assert bind_mounts("/srv/a:/a") == [("/srv/a", "/a")]
    assert bind_mounts(None) == []


def test_an_image_that_the_host_does_not_have_any_more_is_no_difference(host: FakeHost) -> None:
    deploy(host, described())
    del host.images[IMAGE]
    assert deploy(host, described())["a"]["action"] == "none"


SCRIPT = "/etc/trtllm/triton/1f/probe.sh"


def scripted(text: str = "exit 0\n") -> Any:
    volume = {"Volume": ["/etc/trtllm/triton/1f:/etc/trtllm/triton/1f:ro"]}
    return service("a", container=volume, files={SCRIPT: text})


def test_files_of_a_service_are_there_before_it_starts(host: FakeHost) -> None:
    assert deploy(host, scripted(), check=True)["a"]["action"] == "started"
    assert not host.path(SCRIPT).exists()
    deploy(host, scripted())
    assert host.path(SCRIPT).read_text() == "exit 0\n"
    assert host.path(SCRIPT).stat().st_mode & 0o777 == 0o644
    assert deploy(host, scripted())["a"]["reason"] == ""


def test_a_file_that_was_changed_is_put_right_without_a_restart(host: FakeHost) -> None:
    deploy(host, scripted())
    host.path(SCRIPT).write_text("exit 1\n")
    host.done()
    assert deploy(host, scripted())["a"]["reason"] == "a file of it is missing or was changed"
    assert host.done() == []
    assert host.path(SCRIPT).read_text() == "exit 0\n"


def test_a_directory_of_files_that_was_lost_is_made_again_and_given_to_the_container(host: FakeHost) -> None:
    deploy(host, scripted())
    shutil.rmtree(host.path("/etc/trtllm"))
    outcome = deploy(host, scripted())["a"]
    assert (outcome["action"], outcome["reason"]) == ("restarted", "/etc/trtllm/triton/1f is gone under it")
    assert deploy(host, scripted())["a"]["action"] == "none"
