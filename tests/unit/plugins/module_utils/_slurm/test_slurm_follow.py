# SPDX-License-Identifier: GPL-3.0-or-later
"""A gateway goes where a job goes, and nowhere else."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.command import Answer
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._slurm import follow, follower
from ansible_collections.trtllm.fleet.plugins.module_utils._slurm.follower import Follower

CONFIG = """models:
- name: a
  urls: [http://10.0.0.1:8000, http://10.0.0.1:80001]
- name: b
  urls: ['http://10.0.0.2:8010']
"""


class Place:
    """A gateway's host with what two jobs have written."""

    def __init__(self, home: Path) -> None:
        self.config, self.spec, self.jobs = home / "gateway.yml", home / "follow.json", home / "jobs"
        self.jobs.mkdir()
        self.config.write_text(CONFIG)
        self.config.chmod(0o640)
        jobs = [
            {"url": "http://10.0.0.1:8000", "file": str(self.jobs / "7.address")},
            {"url": "http://10.0.0.2:8010", "file": str(self.jobs / "8.address")},
        ]
        self.spec.write_text(follow.told(str(self.config), jobs))

    def starts(self, job: int, address: str) -> None:
        (self.jobs / f"{job}.address").write_text(f"{address}\n")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_job_that_moved_is_found_and_others_stay(place: Place) -> None:
    assert follow.follow(place.spec) == {}, "nothing has started yet"
    place.starts(7, "10.0.0.1")
    assert follow.follow(place.spec) == {}
    place.starts(7, "10.0.0.9")
    assert follow.follow(place.spec) == {"http://10.0.0.1:8000": "http://10.0.0.9:8000"}
    assert place.config.read_text() == CONFIG.replace("10.0.0.1:8000,", "10.0.0.9:8000,")
    assert place.config.stat().st_mode & 0o777 == 0o640
    assert follow.follow(place.spec) == {}
    place.starts(7, "10.0.0.1")
    follow.follow(place.spec)
    assert place.config.read_text() == CONFIG


def test_an_address_of_ipv6_stands_in_brackets(place: Place) -> None:
    place.starts(7, "fd00::9")
    assert follow.follow(place.spec) == {"http://10.0.0.1:8000": "http://[fd00::9]:8000"}
    assert follow.follow(place.spec) == {}


def test_two_jobs_that_change_places_are_not_taken_for_each_other(place: Place) -> None:
    place.starts(7, "10.0.0.2")
    place.starts(8, "10.0.0.1")
    assert len(follow.follow(place.spec)) == 2
    assert place.config.read_text() == CONFIG.replace("10.0.0.1:8000,", "10.0.0.2:8000,").replace(
        "10.0.0.2:8010", "10.0.0.1:8010"
    )


@pytest.mark.parametrize("said", ["", "n1", "10.0.0.9:80/x", "10.0.0.9\n10.0.0.8", "ü", "'; x"])
def test_what_is_no_address_is_not_followed(place: Place, said: str) -> None:
    place.starts(7, said)
    assert follow.follow(place.spec) == {} and place.config.read_text() == CONFIG


def test_a_look_that_was_cut_off_is_made_good(place: Place) -> None:
    place.starts(7, "10.0.0.9")
    told = place.spec.read_bytes()
    follow.follow(place.spec)
    moved = place.config.read_text()
    place.spec.write_bytes(told)  # it died before it wrote that
    assert follow.follow(place.spec) != {} and place.config.read_text() == moved
    assert follow.follow(place.spec) == {}


def test_what_a_run_writes_meanwhile_is_not_lost(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.starts(7, "10.0.0.9")
    real = follow.replaced

    def meanwhile(*arguments: Any) -> str:
        place.config.write_text("models: []\n")
        return real(*arguments)

    monkeypatch.setattr(follow, "replaced", meanwhile)
    assert follow.follow(place.spec) == {} and place.config.read_text() == "models: []\n"


class Systemd:
    """`systemctl` for one unit."""

    def __init__(self) -> None:
        self.runs, self.calls = False, []

    def __call__(self, argv: Any) -> Answer:
        verb = argv[1]
        self.calls.append(verb)
        if verb in ("enable", "disable"):
            self.runs = verb == "enable"
        return Answer(0 if self.runs or not verb.startswith("is-") else 3, "", "")


def test_the_service_four_ways(tmp_path: Path) -> None:
    systemd, jobs = Systemd(), [{"url": "http://10.0.0.1:8000", "file": "/shared/slurm/7.address"}]
    one = Follower("/usr/bin/python3", tmp_path, systemd)
    told = ("/etc/gateway.yml", jobs, "/shared/slurm")

    def files() -> list[str]:
        return sorted(path.name for path in tmp_path.rglob("*") if path.is_file())

    assert one.present(*told, check=False) == {"changed": False, "follows": False, "diff": {"before": "", "after": ""}}
    (tmp_path / "shared" / "slurm").mkdir(parents=True)
    checked = one.present(*told, check=True)
    assert (checked["changed"], checked["follows"]) == (True, True) and files() == [] and not systemd.runs
    assert one.present(*told, check=False) == checked and systemd.runs
    assert files() == ["follow.json", "follow.pyz", "trtllm-slurm-follow.service"]
    for check in (True, False):
        assert one.present(*told, check=check)["changed"] is False
    systemd.runs = False
    assert one.present(*told, check=False)["changed"] is True and systemd.runs, "somebody stopped it"
    assert one.present(told[0], [{**jobs[0], "url": "http://10.0.0.3:8000"}], told[2], check=False)["changed"] is True
    assert one.absent(check=True)["changed"] is True and files() != []
    assert one.absent(check=False)["changed"] is True and files() == [] and not systemd.runs
    for check in (True, False):
        assert one.absent(check=check)["changed"] is False


def test_a_systemd_that_refuses_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "j").mkdir()
    one = Follower("python3", tmp_path, lambda argv: Answer(1, "", "no\nbus"))
    with pytest.raises(
        FleetError, match=r"^`systemctl daemon-reload` failed: no bus; see journalctl -u trtllm-slurm-f"
    ):
        one.present("/c", [{"url": "http://10.0.0.1:8000", "file": "/j/7.address"}], "/j", check=False)


def test_the_program_runs_without_the_collection_and_goes_on_after_a_mistake(place: Place, tmp_path: Path) -> None:
    Follower("python3", tmp_path, Systemd()).present(str(place.config), [], "/jobs", check=False)
    program = tmp_path / "follow.pyz"
    program.write_bytes(follower.pyz("trtllm", follower.closure(follower.MAIN), follower.MAIN))
    place.config.rename(tmp_path / "away")
    place.starts(7, "10.0.0.9")
    process = subprocess.Popen(
        [sys.executable, "-I", str(program), str(place.spec)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None and "not followed: " in process.stderr.readline()
        (tmp_path / "away").rename(place.config)
        assert process.stdout is not None
        assert process.stdout.readline() == "<5>http://10.0.0.1:8000 is at http://10.0.0.9:8000 by now\n"
        deadline = time.monotonic() + 30
        while json.loads(place.spec.read_text())["jobs"][0]["url"] != "http://10.0.0.9:8000":
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
        process.communicate()
