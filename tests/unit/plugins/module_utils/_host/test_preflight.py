# SPDX-License-Identifier: GPL-3.0-or-later
"""Preflight: one verdict for each host, one table for the fleet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._host import facts
from ansible_collections.trtllm.fleet.plugins.module_utils._host.verdict import report, table, verdict, verdict_text
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from fake_host import MISMATCH, FakeHost, row

PODMAN = {"host": {"ociRuntime": {"name": "crun"}}, "store": {"graphRoot": "/g"}}
SPEC = """kind: nvidia.com/gpu
devices:
  - name: "0"
    containerEdits: {env: [A=b]}
  - name: "1"
    containerEdits: {env: [A=b]}
"""


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """Two H200, driver, CDI and podman in order."""
    host = FakeHost(tmp_path)
    host.gpu("0000:01:00.0", driver="nvidia").gpu("0000:02:00.0", driver="nvidia").driver()
    host.smi(row(0, "00000000:01:00.0"), row(1, "00000000:02:00.0"))
    host.answer("podman --version", "podman version 5.4.2\n").answer("podman info --format json", json.dumps(PODMAN))
    return host.write("/etc/cdi/nvidia.yaml", SPEC)


def judge(host: FakeHost, **options: Any) -> dict[str, Any]:
    seen = facts.gather(host.system, paths=["/var/lib/trtllm"])
    return verdict(seen, "h1", {"release": LAST, "gpus": [[0], [1]], **options})


def test_host_in_order(host: FakeHost) -> None:
    found = judge(host)
    assert (found["ok"], found["reasons"], found["todo"]) == (True, [], [])
    assert verdict_text(found) == "ok"


def test_a_host_that_is_not_reached_as_root_is_refused(host: FakeHost) -> None:
    host.user = 1000
    found = judge(host)
    assert not found["ok"]
    assert found["reasons"] == ["tasks run there without root's rights: set ansible_become to true for the host"]


def test_a_host_that_only_runs_a_gateway_needs_no_driver_and_is_asked_for_no_gpu(tmp_path: Path) -> None:
    found = judge(FakeHost(tmp_path).gpu(), serves=False)
    assert (found["ok"], found["todo"]) == (True, ["install podman"])


def test_fresh_host_is_ok_and_lists_what_will_be_done(tmp_path: Path) -> None:
    found = judge(FakeHost(tmp_path).gpu(), gpus=[0])
    assert found["ok"]
    assert found["todo"] == ["install driver 580", "write the CDI specification", "install podman"]


def test_host_without_gpu_may_serve_without_one(tmp_path: Path) -> None:
    found = judge(FakeHost(tmp_path), gpus=[[]])
    assert found["ok"] and found["todo"] == ["install podman"]
    assert found["cells"]["GPUs"] == "none"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"gpus": [0, 2]}, "GPU 2 asked for, but the host has 0, 1; change serving.replicas"),
        ({"gpus": [[2], ["3"]]}, "GPUs 2, 3 asked for, but the host has 0, 1; change serving.replicas"),
        ({"gpus": ["0:0"]}, "GPU 0 has no MIG device 0; create it, or ask for another"),
        ({"release": "9.9"}, "TensorRT-LLM release '9.9' is not known"),
        ({"minimum_free_gib": {"/var/lib/trtllm": 500}}, "/var/lib/trtllm has 400.0 GiB free, and 500 GiB are asked"),
    ],
)
def test_reasons(host: FakeHost, options: dict[str, Any], reason: str) -> None:
    found = judge(host, **options)
    assert not found["ok"]
    assert found["reasons"][0].startswith(reason)


def test_gpu_by_uuid(host: FakeHost) -> None:
    found = judge(host, gpus=["GPU-1"])
    assert found["reasons"] == [] and found["todo"] == ["write the CDI specification"]


def test_driver_too_old_for_the_release(host: FakeHost) -> None:
    for path in ("proc/driver/nvidia/version", "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"):
        (host.root / path).unlink()
    host.driver("535.183.01")
    assert judge(host)["todo"] == [f"driver 535.183.01 is older than 580, which release {LAST} needs: upgrade to 580"]
    assert judge(host, release="0.21.0")["todo"] == []
    assert "set gpu_driver_branch to 580" in judge(host, driver_branch=535)["reasons"][0]
    assert "set gpu_driver_branch to 580" in judge(host, manage_driver=False)["reasons"][0]


def test_compute_capability_before_there_is_a_driver(tmp_path: Path) -> None:
    host = FakeHost(tmp_path).gpu(device="1eb8")
    found = judge(host, gpus=[0])
    assert found["reasons"][0].startswith(f"GPU 0 (10de:1eb8) has compute capability 7.5, but release {LAST} is made")


def test_release_for_blackwell(tmp_path: Path) -> None:
    host = FakeHost(tmp_path).gpu(device="2901")
    assert judge(host, gpus=[0], release="0.17.0")["ok"]
    assert not judge(host, gpus=[0], release="0.16.0")["ok"]


def test_each_gpu_is_judged_by_the_release_that_its_replica_serves(tmp_path: Path) -> None:
    """Blackwell is not made for 0.16.0, which only the second replica serves; the driver is that of the newest."""
    host = FakeHost(tmp_path).gpu(device="2901")
    assert judge(host, gpus=[[0], []], releases=["0.17.0", "0.16.0"], release="0.16.0")["ok"]
    found = judge(host, gpus=[[0], [0]], releases=["", "0.16.0"], release="0.17.0")
    assert [reason.partition(", but ")[2].partition(" is made")[0] for reason in found["reasons"]] == ["release 0.16.0"]


def test_the_driver_has_to_do_for_the_newest_release_that_is_served(host: FakeHost) -> None:
    for path in ("proc/driver/nvidia/version", "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"):
        (host.root / path).unlink()
    host.driver("535.183.01")
    assert judge(host, gpus=[[0]], releases=["0.8.0"])["todo"] == []
    text = f"driver 535.183.01 is older than 580, which release {LAST} needs: upgrade to 580"
    assert judge(host, gpus=[[0], [1]], releases=["0.8.0", ""])["todo"] == [text]


def test_whole_gpu_asked_for_where_mig_is_enabled(host: FakeHost) -> None:
    host.smi(row(0, "00000000:01:00.0", mig="Enabled"), row(1, "00000000:02:00.0"))
    host.answer("nvidia-smi -L", "GPU 0: NVIDIA H200 (UUID: GPU-0)\n  MIG 3g.71gb     Device  0: (UUID: MIG-aa)\n")
    assert judge(host)["reasons"] == ["GPU 0 has MIG enabled; ask for its MIG devices (0:0), or disable MIG"]
    assert judge(host, gpus=["0:0"])["ok"] and judge(host, gpus=["MIG-aa"])["ok"]


def test_gpu_of_a_virtual_machine(tmp_path: Path) -> None:
    found = judge(FakeHost(tmp_path).gpu(driver="vfio-pci"), gpus=[0])
    assert "handed to a virtual machine" in found["reasons"][0]


def test_reboot_needs_consent(host: FakeHost) -> None:
    host.smi(MISMATCH, rc=18)
    assert judge(host)["reasons"][0].startswith("a reboot is needed: ")
    found = judge(host, reboot="if_needed")
    assert found["ok"] and found["todo"][0].startswith("a reboot is needed: ")


def test_secure_boot_with_modules_built_on_the_host(tmp_path: Path) -> None:
    host = FakeHost(tmp_path).recorded("secure-boot").gpu()
    assert "Secure Boot is enabled" in judge(host, gpus=[0])["reasons"][0]
    assert judge(host, gpus=[0], driver_source="distribution")["ok"]


def test_podman_and_control_groups(host: FakeHost) -> None:
    host.answer("podman --version", "podman version 3.4.4\n")
    (host.root / "sys/fs/cgroup/cgroup.controllers").unlink()
    reasons = judge(host)["reasons"]
    assert reasons[0].startswith("control groups v1 are mounted")
    assert reasons[1] == "podman 3.4.4 cannot hand over CDI devices; 4.1 or newer is needed"
    assert len(judge(host, cgroup_v2=False)["reasons"]) == 1


def test_cdi_is_work_where_it_is_managed_and_a_reason_where_not(host: FakeHost) -> None:
    host.write("/etc/cdi/nvidia.yaml", SPEC.replace('"1"', '"3"'))
    managed = judge(host)
    assert managed["ok"] and len(managed["todo"]) == 3
    assert not judge(host, manage_cdi=False)["ok"]


def test_table_has_a_line_for_every_host(host: FakeHost) -> None:
    lines = table([judge(host), verdict(None, "h2", {})]).splitlines()
    assert lines[0].split() == ["host", "system", "GPUs", "driver", "CC", "CDI", "podman", "verdict"]
    assert lines[1].endswith("5.4.2   ok") and "2 x NVIDIA H200" in lines[1]
    assert lines[2].startswith("h2") and lines[2].endswith("it could not be looked at: the error above says why")


def test_report_is_json_with_everything(host: FakeHost) -> None:
    found = report([judge(host), judge(host, gpus=[7])], LAST)
    assert not found["ok"] and found["release"] == LAST
    assert found["failures"] == ["h1: GPU 7 asked for, but the host has 0, 1; change serving.replicas"]
    assert json.loads(json.dumps(found))["hosts"][0]["facts"]["gpus"][0]["name"] == "NVIDIA H200"
