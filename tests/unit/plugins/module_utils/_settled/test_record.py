# SPDX-License-Identifier: GPL-3.0-or-later
"""A host is settled until anything that a whole run looks at differs, and it is said what does."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.filter.settled import unsettled_hosts
from ansible_collections.trtllm.fleet.plugins.module_utils._host.system import System
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.cli import ContainerState
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.stock import Stored
from ansible_collections.trtllm.fleet.plugins.module_utils._service.host import ServiceHost
from ansible_collections.trtllm.fleet.plugins.module_utils._service.quadlet import HEADER
from ansible_collections.trtllm.fleet.plugins.module_utils._settled import parts
from ansible_collections.trtllm.fleet.plugins.module_utils._settled.parts import PARTS, Ground
from ansible_collections.trtllm.fleet.plugins.module_utils._settled.record import (
    Found,
    Settled,
    differing,
    settled_table,
)
from ansible_collections.trtllm.fleet.plugins.modules import fleet_settled
from fake_host import FakeHost

ROOT = "/var/lib/trtllm"
UNIT = "/etc/containers/systemd/triton-m-0.container"
ENGINE = f"{ROOT}/engines/m/{'a' * 64}/rank0.engine"
CHECKPOINT = "/srv/models/m"
INPUTS = {"the plan": "1", "the variable trtllm_models": "2", "/srv/ca.pem of the controller": "3"}
OLD = time.time() - 3600


class Services(ServiceHost):
    """A host with one service, as systemd and podman tell it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.told = {"ActiveState": "active", "NRestarts": "0", "InvocationID": "1f", "NeedDaemonReload": "no"}
        self.container = {"status": "running", "id": "c1", "pid": 7}

    def systemctl(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        units = arguments[arguments.index("--") + 1 :]
        blocks = ["\n".join(f"{key}={value}" for key, value in {"Id": unit, **self.told}.items()) for unit in units]
        return subprocess.CompletedProcess(list(arguments), 0, "\n\n".join(blocks), "")

    def containers(self, names: Sequence[str]) -> dict[str, ContainerState]:
        at: Any = self.container
        return {
            name: ContainerState(name, at["id"], at["status"], 0, False, "sha256:1", pid=at["pid"]) for name in names
        }


class Host:
    """All of a host that the record stands for."""

    def __init__(self, root: Path) -> None:
        self.root, self.fake, self.services = root, FakeHost(root), Services(root)
        self.fake.gpu(driver="nvidia").driver().packages({"podman": "5.4.2"})
        self.images = [Stored("sha256:1", ("reg/triton:1",), ("reg/triton@sha256:2",), 1)]
        self.clock = time.time()
        files = {
            UNIT: f"{HEADER}\n[Container]\nContainerName=triton-m-0\n",
            f"{UNIT}.d/own.conf": "[Service]\n", "/etc/systemd/system/openai-gateway.socket": "x",
            ENGINE: "weights", f"{ROOT}/repositories/m/b/config.pbtxt": "name",
            f"{ROOT}/releases/triton-m-0.jsonl": "{}",
            f"{ROOT}/checkpoints/m/config.json": "{}", f"{CHECKPOINT}/model.safetensors": "weights",
            "/etc/trtllm/openai_gateway/config.yml": "port: 3000", "/etc/cdi/nvidia.yaml": "cdiVersion: 0.6.0\n",
            "/etc/apt/preferences.d/nvidia.pref": "Pin", "/etc/apt/sources.list.d/nvidia.list": "deb",
            "/usr/share/keyrings/nvidia.gpg": "key", "/etc/modprobe.d/trtllm-nouveau.conf": "blacklist",
            "/etc/containers/containers.conf.d/50-trtllm-fleet.conf": "[engine]",
            "/var/lib/dpkg/status": "Package: podman", "/var/lib/containers/storage/secrets/secrets.json": "{}",
        }  # fmt: skip
        for path, text in files.items():
            self.fake.write(path, text)

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    @property
    def system(self) -> System:
        return self.fake.system

    def record(self) -> Settled:
        # Far from every file's time, so that none is as young as the look.
        return Settled(Ground(ROOT, [CHECKPOINT], self.system, self.services), clock=lambda: self.clock + 60)

    def look(self, inputs: dict[str, str] = INPUTS, unsettled: Sequence[str] = (), check: bool = False) -> Found:
        return self.record().look(inputs, list(unsettled), check)

    def run_whole(self, inputs: dict[str, str] = INPUTS) -> Found:
        return self.record().settle(self.look(inputs).at, False)

    @property
    def path(self) -> Path:
        return self.at(f"{ROOT}/settled.json")


@pytest.fixture(name="host")
def _host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(tmp_path)
    monkeypatch.setattr(parts.stock, "images", lambda: made.images)
    return made


def test_a_host_is_settled_when_a_whole_run_has_found_nothing_to_change(host: Host) -> None:
    first = host.look()
    assert not first.settled and first.why == ["no whole run has found nothing to change yet"]
    assert not host.look().settled  # a run that did not come to its end settles nothing
    assert host.run_whole().settled
    assert host.path.stat().st_mode & 0o777 == 0o600
    found = host.look()
    assert found.settled and not found.why and found.since.endswith("Z")
    assert host.look().settled


def test_a_run_that_changed_something_settles_nothing_and_the_next_does(host: Host) -> None:
    begun = host.look()
    host.fake.write(UNIT, "a new unit of the run")
    ended = host.record().settle(begun.at, False)
    assert not ended.settled and UNIT in ended.why[0]
    assert not host.path.exists()
    assert not host.look().settled
    assert host.run_whole().settled and host.look().settled


def test_what_changes_between_a_check_and_the_end_of_a_run_is_not_taken_for_settled(host: Host) -> None:
    begun = host.look()
    host.at(ENGINE).write_text("another engine, of a hand that the run did not see")
    assert not host.record().settle(begun.at, False).settled


def _replaced(path: str, text: str = "other") -> Callable[[Host], None]:
    return lambda host: host.at(path).write_text(text) and None


def _in_place(host: Host) -> None:
    """The same size and the old time of the content."""
    before = host.at(ENGINE).stat()
    time.sleep(0.02)  # a tick of the clock that file systems stamp with
    host.at(ENGINE).write_text("WEIGHTS")
    os.utime(host.at(ENGINE), ns=(before.st_atime_ns, before.st_mtime_ns))


def _same_again(host: Host) -> None:
    text = host.at(ENGINE).read_text()
    host.at(ENGINE).rename(host.at(ENGINE + ".old"))
    host.at(ENGINE).write_text(text)
    host.at(ENGINE + ".old").unlink()


def _told(**values: str) -> Callable[[Host], None]:
    return lambda host: host.services.told.update(values)


DRIFTS: dict[str, tuple[Callable[[Host], Any], str]] = {
    "unit edited": (_replaced(UNIT, f"{HEADER}\n[Container]\nContainerName=triton-m-0\nEnvironment=A=B\n"), UNIT),
    "drop-in added": (lambda host: host.fake.write(f"{UNIT}.d/more.conf", ""), "more.conf is new"),
    "drop-in removed": (lambda host: host.at(f"{UNIT}.d/own.conf").unlink(), "own.conf is gone"),
    "unit made unreadable for others": (lambda host: host.at(UNIT).chmod(0o600), "mode"),
    "unit added": (lambda host: host.fake.write("/etc/systemd/system/other.service", ""), "other.service is new"),
    "socket removed": (lambda host: host.at("/etc/systemd/system/openai-gateway.socket").unlink(), "is gone"),
    "runtime drop-in": (lambda host: host.fake.write("/run/systemd/system/x.service.d/1.conf", ""), "1.conf is new"),
    "engine altered in place, its time restored": (_in_place, "rank0.engine differs in time of the last change"),
    "engine replaced by the same": (_same_again, "inode"),
    "engine gone": (lambda host: host.at(ENGINE).unlink(), "rank0.engine is gone"),
    "half an engine left": (lambda host: host.fake.write(f"{ROOT}/engines/m/b.partial/x", ""), "b.partial/x is new"),
    "model repository edited": (_replaced(f"{ROOT}/repositories/m/b/config.pbtxt"), "config.pbtxt"),
    "checkpoint in its place changed": (_replaced(f"{CHECKPOINT}/model.safetensors"), "model.safetensors"),
    "checkpoint gone": (lambda host: host.at(f"{ROOT}/checkpoints/m/config.json").unlink(), "is gone"),
    "release record lost": (lambda host: host.at(f"{ROOT}/releases/triton-m-0.jsonl").unlink(), "is gone"),
    "rollout at work": (lambda host: host.fake.write(f"{ROOT}/rollouts/lock.json", "{}"), "lock.json is new"),
    "replica drained": (lambda host: host.fake.write("/etc/trtllm/openai_gateway/draining", "x"), "draining is new"),
    "gateway's configuration edited": (_replaced("/etc/trtllm/openai_gateway/config.yml"), "config.yml"),
    "CDI specification removed": (lambda host: host.at("/etc/cdi/nvidia.yaml").unlink(), "host: cdi"),
    "CDI specification added": (lambda host: host.fake.write("/run/cdi/n.yaml", "kind: nvidia.com/gpu"), "host: cdi"),
    "pin removed": (lambda host: host.at("/etc/apt/preferences.d/nvidia.pref").unlink(), "nvidia.pref is gone"),
    "repository edited": (_replaced("/etc/apt/sources.list.d/nvidia.list", "deb http://other"), "nvidia.list"),
    "repository's key replaced": (_replaced("/usr/share/keyrings/nvidia.gpg"), "nvidia.gpg"),
    "dnf's lock added": (lambda host: host.fake.write("/etc/dnf/plugins/versionlock.list", "x"), "versionlock.list"),
    "nouveau let in": (lambda host: host.at("/etc/modprobe.d/trtllm-nouveau.conf").unlink(), "nouveau.conf is gone"),
    "runtime of podman changed": (_replaced("/etc/containers/containers.conf.d/50-trtllm-fleet.conf"), "50-trtllm"),
    "registry's authority added": (lambda host: host.fake.write("/etc/containers/certs.d/r/x.crt", ""), "x.crt is new"),
    "package changed": (_replaced("/var/lib/dpkg/status"), "/var/lib/dpkg/status"),
    "podman upgraded": (lambda host: host.fake.packages({"podman": "5.5.0"}), "packages.podman.version differs"),
    "secret changed": (_replaced("/var/lib/containers/storage/secrets/secrets.json", "[]"), "secrets.json"),
    "image removed": (lambda host: host.images.clear(), "images: sha256:1 is gone"),
    "image's name moved": (lambda host: host.images.__setitem__(0, Stored("sha256:1", (), (), 1)), "images: sha256:1"),
    "service stopped": (_told(ActiveState="inactive"), "ActiveState"),
    "service restarted": (_told(InvocationID="2e"), "InvocationID"),
    "service fell and was started again": (_told(NRestarts="1"), "NRestarts"),
    "systemd not reloaded": (_told(NeedDaemonReload="yes"), "NeedDaemonReload"),
    "container killed": (lambda host: host.services.container.update(status="exited", pid=0), "containers: triton-m-0"),
    "container another one": (lambda host: host.services.container.update(id="c2"), "containers: triton-m-0"),
    "reboot": (lambda host: host.fake.write("/proc/sys/kernel/random/boot_id", "2222\n"), "kernel.boot_id"),
    "reboot noted": (lambda host: host.fake.write("/etc/ansible/facts.d/trtllm_fleet.fact", "{}"), "fact is new"),
    "driver gone": (lambda host: host.at("/proc/driver/nvidia/version").unlink(), "host: driver"),
    "GPU gone from the bus": (lambda host: host.at("/sys/bus/pci/devices/0000:01:00.0/vendor").unlink(), "host: gpus"),
    "another kernel": (lambda host: host.fake.write("/boot/vmlinuz-6.9.0-1-generic", ""), "host: kernel.installed"),
    "SELinux enforces": (lambda host: host.fake.write("/sys/fs/selinux/enforce", "1"), "host: selinux.mode"),
    "rules of the firewall gone": (lambda host: host.fake.answer("nft", "", 1), "firewall: the loaded rules"),
    "root replaced": (lambda host: host.at(ROOT).chmod(0o777), f"{ROOT} differs in mode"),
}  # fmt: skip


@pytest.mark.parametrize("drift", DRIFTS)
def test_a_host_that_differs_is_not_settled_and_is_settled_again_after_a_whole_run(host: Host, drift: str) -> None:
    host.fake.answer("nft", "table inet trtllm_fleet { }")
    assert host.run_whole().settled and host.look().settled
    change, told = DRIFTS[drift]
    change(host)
    found = host.look()
    assert not found.settled
    assert told in "; ".join(found.why), found.why
    # What was found is no record, whoever looks again.
    assert not host.look().settled
    assert host.run_whole().settled and host.look().settled


SHOWS = {
    "host": "reboot", "units": "unit edited", "settings": "replica drained", "artefacts": "engine gone",
    "CDI specifications": "CDI specification removed", "package sources": "pin removed",
    "packages": "package changed", "images": "image removed",
    "podman's secrets": "secret changed", "services": "service restarted", "containers": "container another one",
    "firewall": "rules of the firewall gone",
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_a_drift_that_shows_in_it(host: Host, part: str) -> None:
    host.fake.answer("nft", "table inet trtllm_fleet { }")
    before = parts.signed(parts.look(host.record().ground), 2**62)
    DRIFTS[SHOWS[part]][0](host)
    assert before[part] != parts.signed(parts.look(host.record().ground), 2**62)[part]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({**INPUTS, "the plan": "9"}, "given: the plan differs"),
        ({**INPUTS, "the variable trtllm_models": "9"}, "given: the variable trtllm_models differs"),
        ({**INPUTS, "the variable openai_gateway_clients": "4"}, "given: the variable openai_gateway_clients is new"),
        ({name: INPUTS[name] for name in list(INPUTS)[:2]}, "given: /srv/ca.pem of the controller is gone"),
    ],
)
def test_what_the_run_is_given_counts(host: Host, given: dict[str, str], told: str) -> None:
    host.run_whole()
    assert host.look(given).why == [told]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "", lambda text: text[: len(text) // 2], lambda text: "[]", lambda text: "{}", lambda text: "null",
        lambda text: json.dumps({**json.loads(text), "version": 0}),
        lambda text: json.dumps({**json.loads(text), "at": "x"}),
        lambda text: json.dumps({**json.loads(text), "observed": {"units": []}}),
        lambda text: json.dumps({**json.loads(text), "inputs": {"the plan": 1}}),
        lambda text: json.dumps({**json.loads(text), "observed": {}}),
        lambda text: json.dumps({**json.loads(text), "since": None}),
        lambda text: json.dumps({**json.loads(text), "told": {"found": {}}}),
        lambda text: json.dumps({**json.loads(text), "told": {"found": [], "quiet_until": 0}}),
    ],
)  # fmt: skip
def test_a_record_that_was_altered_or_cut_is_none(host: Host, spoil: Callable[[str], str]) -> None:
    host.run_whole()
    host.path.write_text(spoil(host.path.read_text()))
    assert not host.look().settled
    assert host.run_whole().settled


def test_a_run_that_was_refused_leaves_the_record_as_it_was(host: Host) -> None:
    host.run_whole()
    text = host.path.read_text()
    assert not host.look({**INPUTS, "the plan": "bad"}).settled
    assert host.path.read_text() == text
    assert host.look().settled


def test_check_mode_judges_and_writes_nothing(host: Host) -> None:
    assert not host.look(check=True).settled and not host.path.exists()
    host.run_whole()
    text = host.path.read_text()
    assert host.look(check=True).settled
    host.at(UNIT).write_text("edited")
    assert not host.look(check=True).settled
    assert host.path.read_text() == text


def test_what_a_record_tells_at_any_time_is_of_the_host_and_notes_nothing(host: Host) -> None:
    assert host.record().told({}) == Found(False, ["no whole run has found nothing to change yet"])
    since = host.run_whole().since
    host.record().looked.unlink(missing_ok=True)
    assert host.record().told({}) == Found(True, since=since, prunes=True)
    host.look({**INPUTS, "the plan": "another"}, check=True)
    assert host.record().told({}).settled, "the plan only a run works out"
    host.fake.write(UNIT, "edited")
    told = host.record().told({})
    assert not told.settled and told.since == since and UNIT in told.why[0]
    assert not host.record().looked.exists() and host.path.exists()


def test_of_the_record_of_another_collection_no_more_is_told_than_that(host: Host) -> None:
    since = host.run_whole({**INPUTS, "the collection": "1"}).since
    host.fake.write(UNIT, "edited")
    assert host.record().told({"the collection": "2"}) == Found(False, ["given: the collection differs"], since=since)
    assert UNIT in host.record().told({"the collection": "1"}).why[0]


def test_who_cannot_be_settled_is_not_whatever_the_record_says(host: Host) -> None:
    host.run_whole()
    assert host.look(unsettled=["the run was asked for podman alone"]).why == ["the run was asked for podman alone"]


def test_two_runs_at_once_settle_nothing_of_each_other(host: Host) -> None:
    first = host.look()
    host.clock += 1
    host.look()
    assert host.record().settle(first.at, False).why == ["another run looked at the host in the meantime"]


def _linked_file(host: Host) -> None:
    """As download tools lay out a checkpoint: names that are links to what lies elsewhere."""
    host.fake.write("/srv/blobs/1", "weights")
    host.at(f"{CHECKPOINT}/linked.safetensors").symlink_to(host.at("/srv/blobs/1"))


def _linked_directory(host: Host) -> None:
    """As who has a second disk."""
    host.fake.write("/disk/tokenizers/m/tokenizer.json", "{}")
    host.at(f"{ROOT}/tokenizers").symlink_to(host.at("/disk/tokenizers"))
    host.at("/disk/tokenizers/again").symlink_to(host.at("/disk/tokenizers"))


@pytest.mark.parametrize(
    ("link", "altered", "told"),
    [
        (_linked_file, "/srv/blobs/1", f"artefacts: {CHECKPOINT}/linked.safetensors differs in content"),
        (_linked_directory, "/disk/tokenizers/m/tokenizer.json", f"{ROOT}/tokenizers/m/tokenizer.json differs in size"),
    ],
)
def test_what_a_link_points_to_counts(host: Host, link: Callable[[Host], None], altered: str, told: str) -> None:
    link(host)
    assert host.run_whole().settled and host.look().settled
    host.at(altered).write_text("other weights")
    assert told in "; ".join(host.look().why)


def test_a_lock_of_packages_counts_and_one_that_is_held_does_not(host: Host) -> None:
    source = "/usr/local/src/trtllm/openai_trtllm/Cargo.lock"
    host.fake.write(source, "axum 0.7")
    assert host.run_whole().settled
    for lock in (f"{ROOT}/engines/m/.lock", f"{ROOT}/checkpoints/.m.lock", f"{ROOT}/engines/m/{'a' * 64}.lock"):
        host.fake.write(lock, "")
    assert host.look().settled
    host.fake.write(source, "axum 0.8")
    assert host.look().why == [f"artefacts: {source} differs in time of the content, time of the last change"]


def test_a_run_that_is_not_a_whole_one_settles_nothing(host: Host) -> None:
    begun = host.record().look(INPUTS, ["the run does not begin at its beginning"], False, whole=False)
    ended = host.record().settle(begun.at, False)
    assert not ended.settled and ended.why == ["the run was not a whole one, or found nothing of the fleet as it began"]
    assert not host.path.exists()


def test_of_a_host_that_was_started_again_during_the_run_it_is_said_so(host: Host) -> None:
    begun = host.look()
    host.at("/run/trtllm/looked.json").unlink()
    why = host.record().settle(begun.at, False).why
    assert why == ["what the run found as it began is gone: the host was started again, or another run has ended"]


def test_a_directory_with_many_files_that_is_new_is_told_at_once() -> None:
    names = {f"/var/lib/trtllm/caches/m/{number}/x": "1" for number in range(60_000)}
    before: dict[str, dict[str, str]] = {"artefacts": {"/var/lib/trtllm/caches.old": "1"}}
    now = {"artefacts": {**names, "/var/lib/trtllm/caches": "1", "/var/lib/trtllm/caches.old": "2"}}
    assert differing(before, now) == [
        "artefacts: /var/lib/trtllm/caches.old differs, /var/lib/trtllm/caches/m/0/x is new, and 59999 more"
    ]


def test_a_file_as_young_as_the_look_is_told_by_its_content(host: Host) -> None:
    record = Settled(Ground(ROOT, [], host.system, host.services), clock=lambda: host.at(ENGINE).stat().st_ctime)
    assert record.settle(record.look(INPUTS, [], False).at, False).settled
    kept = json.loads(host.path.read_text())["observed"]["artefacts"][ENGINE]
    assert len(kept.split()) == 9
    assert Settled(Ground(ROOT, [], host.system, host.services)).look(INPUTS, [], False).settled


def test_how_much_is_free_does_not_unsettle_but_too_little_does(host: Host) -> None:
    host.run_whole()
    host.fake.disks.update(dict.fromkeys(("/", "/boot"), (500 * 2**30, 2**30)))
    assert host.look().settled
    ground = Ground(ROOT, [], host.system, host.services)
    assert ground.cannot_serve("h", {"minimum_free_gib": {"/boot": 5}, "serves": False})


def test_nothing_is_written_where_the_fleet_has_nothing_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts.stock, "images", list)
    fake = FakeHost(tmp_path)
    record = Settled(Ground(ROOT, [], fake.system, Services(tmp_path)))
    assert not record.look(INPUTS, [], False).settled
    assert not (tmp_path / ROOT.lstrip("/")).exists()


def test_of_a_settled_host_the_look_tells_what_the_run_would_ask_for_next(host: Host) -> None:
    replica = {"service": "triton-m-0", "http_url": "http://127.0.0.1:8000", "problem": ""}
    gateway = {"service": "openai-gateway", "url": "http://127.0.0.1:3000", "models": ["m"], "config": "port: 3000"}
    served = {"changed": False, "replicas": [replica], "workers": [], "gateways": [gateway]}
    quiet_until = int(host.clock) + 86400
    assert host.record().settle(host.look().at, False, served, quiet_until).settled
    told = {"replicas": [replica], "workers": [], "gateways": [{**gateway}]}
    del told["gateways"][0]["config"]
    found = host.look()
    assert found.settled and found.found == told and not found.prunes
    assert "port: 3000" not in host.path.read_text()
    host.clock += 86400
    found = host.look()
    assert found.settled and found.prunes, "nobody went on with it for a day"
    host.services.told["InvocationID"] = "2f"
    assert (host.look().found, host.look().prunes) == ({}, False), "what the record says holds for a settled host alone"


def test_a_host_that_was_seen_tells_what_the_run_compares_itself(host: Host) -> None:
    collection = {"the plan": "1"}
    assert host.record().seen(collection)["why"] == ["no whole run has found nothing to change yet"]
    host.run_whole()
    seen = host.record().seen(collection)
    assert seen["settled"] and seen["compare"] == {"inputs": INPUTS, "paths": [CHECKPOINT]}
    host.at(ENGINE).write_text("other weights")
    seen = host.record().seen(collection)
    assert not seen["settled"] and not seen["compare"] and ENGINE in seen["why"][0]
    assert host.record().seen({"the plan": "2"})["why"] == ["given: the plan differs"]


def test_of_a_host_that_was_seen_it_is_told_what_it_has_and_how_it_is(host: Host) -> None:
    host.fake.write(UNIT, f"{HEADER}\n[Container]\nContainerName=triton-m-0\nExec=--http-port=8000\n")
    host.run_whole()
    ground = Ground(ROOT, [], host.system, host.services)
    told = fleet_settled.seen(ground, Settled(ground).seen({}))
    assert set(told) == {"seen", "ports", "gpus", "gateway_config"} and told["gpus"] == {"m-0": []}
    assert told["seen"]["compare"]["host"]["packages"]["podman"]["version"] == "5.4.2"


def test_what_the_record_was_not_told_is_asked_again(host: Host) -> None:
    assert host.run_whole().settled
    found = host.look()
    assert found.settled and found.found == {} and found.prunes


@pytest.mark.parametrize(
    ("differ", "max_lost", "count"),
    [([], "10%", 0), (["h0"], "10%", 3), (["h0"], 0, 1), (["h0", "h1", "h2", "h3"], "10%", 4), (["h0"], "100%", 20)],
)
def test_a_play_has_more_hosts_than_may_be_lost(differ: list[str], max_lost: Any, count: int) -> None:
    found = {f"h{number}": {"settled": f"h{number}" not in differ} for number in range(20)}
    hosts = unsettled_hosts(found, max_lost)
    assert set(differ) <= set(hosts) and len(hosts) == count


def test_the_screen_says_since_when_and_why_not() -> None:
    assert settled_table(
        {
            "b": {"settled": True, "since": "2026-01-14T09:30:00Z", "why": []},
            "a": {"settled": False, "why": ["units: /x is gone", "and 2 more"]},
            "c": {"failed": True, "msg": "No room on /var"},
        }
    ) == [
        "a: not settled; units: /x is gone; and 2 more.",
        "b: settled since 2026-01-14T09:30:00Z.",
        "c: not settled; No room on /var.",
    ]
