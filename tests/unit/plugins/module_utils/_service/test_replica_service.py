# SPDX-License-Identifier: GPL-3.0-or-later
"""What the management of services does to a host, seen from the host: files, systemd's calls, the record."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._base.ports import Listener, Owner
from ansible_collections.trtllm.fleet.plugins.module_utils._service import refusals
from ansible_collections.trtllm.fleet.plugins.module_utils._service.host import (
    ServiceHost,
    UnitState,
    error_line,
    timestamp,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._service.manager import ServiceManager
from ansible_collections.trtllm.fleet.plugins.module_utils._service.types import Listen, ServiceFailed, Settings
from ansible_collections.trtllm.fleet.plugins.modules.port_check import held_by_others
from unit.service_fakes import IMAGE, QUADLETS, FakeHost, deploy, record, service


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def test_new_services_are_written_and_started_together(host: FakeHost) -> None:
    outcomes = deploy(host, service("a"), service("b", 8010))
    assert host.done() == ["daemon-reload", "start a b"]
    assert {name: outcome["action"] for name, outcome in outcomes.items()} == {"a": "started", "b": "started"}
    assert host.path(f"{QUADLETS}/a.container").stat().st_mode & 0o777 == 0o644
    assert [line["outcome"] for line in record(host, "a")] == ["serving"]


def test_a_second_run_does_nothing(host: FakeHost) -> None:
    deploy(host, service("a"))
    host.done()
    assert deploy(host, service("a"))["a"]["action"] == "none"
    assert host.done() == []
    assert len(record(host, "a")) == 1


def test_exactly_the_changed_service_is_restarted(host: FakeHost) -> None:
    deploy(host, service("a"), service("b", 8010))
    host.done()
    outcomes = deploy(host, service("a"), service("b", 8010, container={"Memory": "1g"}))
    assert host.done() == ["daemon-reload", "restart b"]
    assert (outcomes["a"]["action"], outcomes["b"]["action"]) == ("none", "restarted")
    assert (outcomes["a"]["reason"], outcomes["b"]["reason"]) == ("", "its unit changed: --memory")


def test_a_reason_names_what_was_added_and_what_was_removed_once_each(host: FakeHost) -> None:
    deploy(host, service("a", container={"Label": {"one": "1", "two": "2"}, "ReadOnly": True}))
    found = deploy(host, service("a", container={"Label": {"one": "2", "two": "3"}, "StopTimeout": 9}))
    assert found["a"]["reason"] == "its unit changed: Label, StopTimeout, ReadOnly"


def test_changed_services_are_restarted_one_by_one(host: FakeHost) -> None:
    deploy(host, service("a"), service("b", 8010))
    host.done()
    deploy(host, service("a", container={"Memory": "1g"}), service("b", 8010, container={"Memory": "1g"}))
    assert host.done() == ["daemon-reload", "restart a", "restart b"]


def test_a_stopped_service_is_started_again_and_a_running_one_left_alone(host: FakeHost) -> None:
    deploy(host, service("a"), service("b", 8010))
    host.systemctl(["stop", "a"])
    host.done()
    deploy(host, service("a"), service("b", 8010))
    assert host.done() == ["start a"]


def test_a_run_that_was_cut_off_before_the_restart_is_finished(host: FakeHost) -> None:
    deploy(host, service("a"))
    host.running["a"] = UnitState(True, "active", started=1)  # long before the unit was written
    host.done()
    deploy(host, service("a"))
    assert host.done() == ["restart a"]


def test_a_new_unit_that_fails_is_put_back_and_the_error_quotes_the_server(host: FakeHost) -> None:
    deploy(host, service("a", record={"engine": "1"}))
    before = host.text("a")
    host.done()
    with pytest.raises(ServiceFailed, match=r"cannot read config.pbtxt.*previous unit was put back and serves again"):
        deploy(host, service("a", container={"Label": {"x": "broken"}}, record={"engine": "2"}))
    assert host.text("a") == before
    assert host.running["a"].active == "active"
    assert host.done() == ["daemon-reload", "restart a", "stop a", "daemon-reload", "start a"]
    assert [line["outcome"] for line in record(host, "a")] == ["serving", "failed", "put back"]
    assert "config.pbtxt" in record(host, "a")[1]["error"]
    assert record(host, "a")[2]["engine"] == "1"  # what the old unit served, not the new one


def test_a_service_that_never_served_leaves_nothing_behind(host: FakeHost) -> None:
    with pytest.raises(ServiceFailed, match=r"Its unit was removed again"):
        deploy(host, service("a", container={"Label": {"x": "broken"}}))
    assert host.text("a") == ""
    assert host.running["a"].active == "inactive"


def test_after_a_failure_the_next_services_are_left_alone(host: FakeHost) -> None:
    deploy(host, service("a"), service("b", 8010))
    host.done()
    with pytest.raises(ServiceFailed):
        deploy(host, service("a", container={"Label": {"x": "broken"}}), service("b", 8010, container={"Memory": "1g"}))
    assert "restart b" not in host.done()


@pytest.mark.parametrize("ends", [True, False])
def test_what_ends_as_it_is_looked_for_holds_no_port(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    monkeypatch.setattr(refusals, "PAUSE", 0.01)
    looks: list[Listener] = []

    def listeners() -> list[Listener]:
        looks.append(Listener("0.0.0.0", 8000, 7))
        return [] if ends and len(looks) > 2 else looks[-1:]

    monkeypatch.setattr(host, "listeners", listeners)
    if ends:
        deploy(host, service("a"))
        assert host.running["a"].active == "active"
        return
    with pytest.raises(FleetError, match=r"a: port 8000 .*held by a process that cannot be seen;.* Nothing was"):
        deploy(host, service("a"))
    assert len(looks) == refusals.LOOKS and host.done() == []


def test_a_foreign_process_on_the_port_is_named_and_nothing_is_touched(host: FakeHost) -> None:
    host.sockets = {Listener("0.0.0.0", 8000, 7): Owner(321, "nginx", "nginx.service")}
    with pytest.raises(FleetError, match=r"a: port 8000 .*held by nginx \(process 321, nginx.service\).*Nothing was"):
        deploy(host, service("a"))
    assert host.text("a") == ""
    assert host.done() == []


@pytest.mark.parametrize(
    ("said", "then"),
    [
        ("Failed to connect to system scope bus via local transport: Connection refused", "restart"),
        ("Failed to wait for response: Connection reset by peer", "start"),
    ],
)
def test_systemd_that_is_executed_anew_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, then: str
) -> None:
    host, asked = ServiceHost(tmp_path), []

    def run(argv: list[str]) -> subprocess.CompletedProcess[str]:
        asked.append(argv[1])
        return subprocess.CompletedProcess(argv, int(len(asked) < 3), "", said if len(asked) < 3 else "")

    monkeypatch.setattr(host, "_run", run)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert host.systemctl(["restart", "--", "a.service"]).returncode == 0
    assert asked == ["restart", then, then]


def test_systemd_that_does_not_come_back_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = iter(range(0, 1000, 8))
    host = ServiceHost(tmp_path)
    gone = subprocess.CompletedProcess([], 1, "", "Failed to connect to bus: Connection refused")
    monkeypatch.setattr(host, "_run", lambda argv: gone)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    with pytest.raises(FleetError, match="'systemctl show' failed: Failed to connect to bus.*is systemd running"):
        host.states(["a"])


def test_what_somebody_has_masked_stays_masked(host: FakeHost) -> None:
    deploy(host, service("a"))
    host.systemctl(["stop", "a"])
    host.done()
    mask = host.path("/etc/systemd/system/a.service")
    mask.parent.mkdir(parents=True, exist_ok=True)
    mask.symlink_to("/dev/null")
    host.running["a"] = UnitState(enabled="masked")
    with pytest.raises(FleetError, match=r"a: somebody has masked a.service .*'systemctl unmask a.service'.*Nothing"):
        deploy(host, service("a"))
    assert mask.is_symlink()
    assert host.done() == []


def test_a_replica_of_ours_under_an_old_name_is_told_as_that_with_what_to_set(host: FakeHost) -> None:
    deploy(host, service("triton-old-0", record={"replica": "old-0", "model": "old"}))
    host.sockets = {Listener("127.0.0.1", 8000, 7): Owner(321, "tritonserver", "triton-old-0.service")}
    sentence = (
        r"triton-new-0: port 8000 of 127.0.0.1 \(HTTP\) is held by triton-old-0, a replica of ours of the model old "
        "that is not described any more; set triton_remove_stale: true to have it removed, or give triton-new-0 "
        "another port."
    )
    with pytest.raises(FleetError, match=sentence + " Nothing was changed"):
        deploy(host, service("triton-new-0"), prune_prefix="triton-")
    asked = {"prune_prefix": "triton-", "prune": False, "releases_dir": "/var/lib/trtllm/releases"}
    wanted = [("triton-new-0", Listen("127.0.0.1", 8000, "HTTP"))]
    (problem,) = held_by_others(host, wanted, asked)
    assert re.fullmatch(sentence, problem)
    assert held_by_others(host, wanted, {**asked, "prune": True}) == []
    assert (
        deploy(host, service("triton-new-0"), prune_prefix="triton-", prune=True)["triton-old-0"]["action"] == "removed"
    )


def test_our_own_port_is_no_obstacle_to_a_restart(host: FakeHost) -> None:
    deploy(host, service("a"))
    host.sockets = {Listener("127.0.0.1", 8000, 7): Owner(321, "tritonserver", "a.service")}
    assert deploy(host, service("a", container={"Memory": "1g"}))["a"]["action"] == "restarted"


def test_services_may_swap_ports(host: FakeHost) -> None:
    deploy(host, service("a", 8000), service("b", 8010))
    host.sockets = {
        Listener("127.0.0.1", 8000, 7): Owner(1, "tritonserver", "a.service"),
        Listener("127.0.0.1", 8010, 8): Owner(2, "tritonserver", "b.service"),
    }
    host.done()
    deploy(host, service("a", 8010), service("b", 8000))
    assert host.done() == ["daemon-reload", "stop a b", "restart a", "restart b"]


def test_services_that_swap_ports_are_taken_back_together(host: FakeHost) -> None:
    deploy(host, service("a", 8000), service("b", 8010))
    before = host.text("a"), host.text("b")
    host.sockets = {Listener("127.0.0.1", 8000, 7): Owner(1, "tritonserver", "a.service")}
    with pytest.raises(ServiceFailed, match=r"a did not come up.*a.*put back.*b was taken back too.*serves again"):
        deploy(host, service("a", 8010, container={"Label": {"x": "broken"}}), service("b", 8000))
    assert (host.text("a"), host.text("b")) == before
    assert {name: host.running[name].active for name in "ab"} == {"a": "active", "b": "active"}


def test_an_image_or_a_directory_that_is_missing_is_refused(host: FakeHost) -> None:
    with pytest.raises(FleetError, match=r"a: the image triton:2 is not on this host"):
        deploy(host, service("a", container={"Image": "triton:2"}))
    with pytest.raises(FleetError, match=r"a: /srv/models does not exist on this host"):
        deploy(host, service("a", container={"Volume": ["/srv/models:/srv/models:ro"]}))
    assert host.text("a") == ""


def test_an_image_by_tag_is_pinned_so_that_a_new_one_is_seen(host: FakeHost) -> None:
    described = service("a", container={"Image": "triton:1"})
    host.images["sha256:" + "2" * 64] = "sha256:" + "2" * 64
    deploy(host, described)
    assert f"Image=sha256:{'2' * 64}\n" in host.text("a")
    host.images["triton:1"] = IMAGE
    assert deploy(host, described)["a"]["action"] == "restarted"


def test_a_service_that_runs_but_does_not_answer_is_restarted(host: FakeHost) -> None:
    described = service("a", container={"HealthCmd": "curl -sf http://127.0.0.1:8000"})
    deploy(host, described)
    host.unhealthy = {"a"}
    assert deploy(host, described)["a"]["action"] == "restarted"


def test_stale_services_are_told_and_removed_only_when_asked(host: FakeHost) -> None:
    deploy(host, service("triton-a"), service("triton-b", 8010))
    host.path(f"{QUADLETS}/triton-foreign.container").write_text("[Container]\nImage=x\n")
    manager = ServiceManager(host, Settings(prune_prefix="triton-"))
    assert [item.name for item in manager.plan([service("triton-a")])] == ["triton-a"]
    assert manager.stale == ["triton-b"]
    host.done()
    outcomes = deploy(host, service("triton-a"), prune_prefix="triton-", prune=True)
    assert outcomes["triton-b"]["action"] == "removed"
    assert host.done() == ["stop triton-b", "daemon-reload", "reset-failed triton-b"]
    assert host.text("triton-b") == ""
    assert host.path(f"{QUADLETS}/triton-foreign.container").exists()
    assert record(host, "triton-b")[-1]["outcome"] == "removed"


def test_a_device_of_a_stale_service_is_not_given_away(host: FakeHost) -> None:
    gpu = {"AddDevice": ["nvidia.com/gpu=0"]}
    deploy(host, service("triton-old", container=gpu))
    with pytest.raises(FleetError, match=r"nvidia.com/gpu=0 is in use by triton-old"):
        deploy(host, service("triton-new", 8010, container=gpu), prune_prefix="triton-")
    deploy(host, service("triton-new", 8010, container=gpu), prune_prefix="triton-", prune=True)


def test_check_mode_touches_nothing_and_needs_no_podman(host: FakeHost) -> None:
    host.podman = None
    manager = ServiceManager(host, Settings(check=True))
    planned = manager.plan([service("a")])
    assert manager.outcomes(planned)["a"]["action"] == "started"
    assert "podman is not installed on this host yet" in manager.notes[0]
    assert host.done() == []
    assert list(host.root.iterdir()) == []
    with pytest.raises(FleetError, match="run the podman role first"):
        ServiceManager(host, Settings()).plan([service("a")])


def test_a_plain_service_is_enabled_and_becomes_a_quadlet_with_a_newer_podman(host: FakeHost) -> None:
    host.podman = "4.3.1"
    deploy(host, service("a"))
    assert host.done() == ["daemon-reload", "enable a", "start a"]
    assert host.path("/etc/systemd/system/a.service").exists()
    host.podman = "5.4.2"
    deploy(host, service("a"))
    assert not host.path("/etc/systemd/system/a.service").exists()
    assert host.path(f"{QUADLETS}/a.container").exists()
    assert "restart a" in host.done()


def test_the_time_limit_follows_the_size_of_what_is_loaded(host: FakeHost) -> None:
    engine = host.path("/engines/a/rank0.engine")
    engine.parent.mkdir(parents=True)
    with open(engine, "wb") as file:
        file.truncate(20 * 2**30)
    deploy(host, service("a", load_paths=("/engines/a",)))
    assert "TimeoutStartSec=330" in host.text("a")  # 120 + 20 GiB * 10 s, rounded up to half minutes
    deploy(host, service("b", 8010, load_paths=("/missing",)))
    assert "TimeoutStartSec=120" in host.text("b")


def test_older_systemds_get_no_keys_that_they_would_warn_of(host: FakeHost) -> None:
    described = service("a")
    described.unit["Service"]["RestartSteps"] = 6  # type: ignore[index]
    host.systemd = 252
    deploy(host, described)
    assert "RestartSteps" not in host.text("a")
    assert "RestartSec=5" in host.text("a")
    host.systemd = 254
    deploy(host, described)
    assert "RestartSteps=6" in host.text("a")


def test_volumes_are_relabelled_only_with_selinux(host: FakeHost) -> None:
    host.path("/srv/m").mkdir(parents=True)
    described = service("a", container={"Volume": ["/srv/m:/srv/m:ro,z"]})
    deploy(host, described)
    assert "Volume=/srv/m:/srv/m:ro\n" in host.text("a")
    host.with_selinux = True
    deploy(host, described)
    assert "Volume=/srv/m:/srv/m:ro,z\n" in host.text("a")


def rollback(host: FakeHost, name: str, to: str | None = None) -> dict[str, dict[str, Any]]:
    manager = ServiceManager(host, Settings())
    return manager.apply(manager.plan_rollback([name], {} if to is None else {name: to}))


def test_a_rollback_brings_back_the_previous_unit_step_by_step(host: FakeHost) -> None:
    for memory in ("1g", "2g", "3g"):
        deploy(host, service("a", container={"Memory": memory}))
    assert rollback(host, "a")["a"]["action"] == "restarted"
    assert "memory=2g" in host.text("a")
    rollback(host, "a")
    assert "memory=1g" in host.text("a")
    assert record(host, "a")[-1]["outcome"] == "rolled back"
    with pytest.raises(FleetError, match="no unit that served before"):
        rollback(host, "a")


def test_a_rollback_goes_to_the_unit_that_is_named_and_then_no_further(host: FakeHost) -> None:
    done = [deploy(host, service("a", container={"Memory": memory}))["a"] for memory in ("1g", "2g", "3g")]
    assert [one["before_sha256"] for one in done[1:]] == [one["unit_sha256"] for one in done[:-1]]
    first = done[0]["unit_sha256"]
    assert rollback(host, "a", first)["a"]["action"] == "restarted"
    assert "memory=1g" in host.text("a")
    assert rollback(host, "a", first)["a"]["action"] == "none"
    with pytest.raises(FleetError, match="the release record knows no unit 000000000000 that served"):
        rollback(host, "a", "0" * 64)


def test_a_rollback_to_before_a_service_was_there_removes_it(host: FakeHost) -> None:
    new = deploy(host, service("a"))["a"]
    assert new["before_sha256"] == ""
    assert rollback(host, "a", "")["a"]["action"] == "removed"
    assert rollback(host, "a", "") == {}


def test_a_rollback_ignores_releases_that_never_served(host: FakeHost) -> None:
    deploy(host, service("a", container={"Memory": "1g"}))
    with pytest.raises(ServiceFailed):
        deploy(host, service("a", container={"Label": {"x": "broken"}}))
    deploy(host, service("a", container={"Memory": "2g"}))
    rollback(host, "a")
    assert "memory=1g" in host.text("a")


def test_a_rollback_to_what_is_no_longer_there_is_refused(host: FakeHost) -> None:
    engine = host.path("/engines/1")
    engine.mkdir(parents=True)
    deploy(host, service("a", container={"Volume": ["/engines/1:/engines/1:ro"]}))
    deploy(host, service("a"))
    engine.rmdir()
    with pytest.raises(FleetError, match="/engines/1 does not exist"):
        rollback(host, "a")


@pytest.mark.parametrize(
    ("journal", "line"),
    [
        (
            ["I1 fine", "W1 hm", "E1120 13:00:00.5 1 model_repository_manager.cc:1460] Poll failed for model directory",
             "E1120 13:00:00.6 1 main.cc:9] creating server: Internal - failed to load all models", "bye"],
            "E1120 13:00:00.5 1 model_repository_manager.cc:1460] Poll failed for model directory",
        ),
        (["E1120 13:00:00.5 1 x.cc:1] Error: Failed to initialize NVML", "ValueError: bad"], "ValueError: bad"),
        (
            ["E1120 13:00:00.5 1 m.cc:1] \"Failed: RuntimeError: no tokenizer\\n\\nAt:\\n  model.py(1)\\n\""],
            'E1120 13:00:00.5 1 m.cc:1] "Failed: RuntimeError: no tokenizer',
        ),
        (
            ['E1120 13:00:00.5 7 main.cc:5] "failed to stop server: Internal - Exit timeout expired. Exiting..."',
             "probe: tensorrt_llm_bls gave no token"],
            "probe: tensorrt_llm_bls gave no token",
        ),
        (["Error: unable to find image"], "Error: unable to find image"),
        (
            ["I1 fine", "probe: tensorrt_llm_bls has 7 of its 8 Python processes", "mpirun has exited"],
            "probe: tensorrt_llm_bls has 7 of its 8 Python processes",
        ),
        (
            ["/opt/tritonserver: unrecognized option '--no=1'", "Usage: tritonserver [options]", "mpirun has exited"],
            "/opt/tritonserver: unrecognized option '--no=1'",
        ),
        (
            ["  --log-error <boolean>", 'Bad option: "--pinned-memory-pool-byte-size".',
             "Invalid option value. Got many", "mpirun detected that", "Failed to start a.service"],
            'Bad option: "--pinned-memory-pool-byte-size". Invalid option value. Got many',
        ),
        (["nothing of note", "the last words"], "the last words"),
        ([], "the service wrote nothing to the journal"),
    ],
)  # fmt: skip
def test_the_line_that_says_why(journal: list[str], line: str) -> None:
    assert error_line(journal) == line


def test_systemds_time_is_read() -> None:
    assert timestamp("Fri 2026-11-20 13:05:51 UTC") == 1795179951
    assert timestamp("n/a") == 0
