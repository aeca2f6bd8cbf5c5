# SPDX-License-Identifier: GPL-3.0-or-later
"""gpu_host_info: what is reported of hosts that nobody has at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.command import run_command
from ansible_collections.trtllm.fleet.plugins.module_utils._host import base, nvidia, pci
from ansible_collections.trtllm.fleet.plugins.module_utils._host import facts as host_facts
from ansible_collections.trtllm.fleet.plugins.module_utils._host.system import System
from fake_host import CLOSED_MODULE, MISMATCH, NO_COMMUNICATION, QUERY, FakeHost, row


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def facts(host: FakeHost, **options: Any) -> dict[str, Any]:
    return host_facts.gather(host.system, **options)


def test_fresh_host_is_told_by_its_pci_bus_alone(host: FakeHost) -> None:
    host.recorded("hgx-h200")
    seen = facts(host)
    assert [gpu["pci_address"] for gpu in seen["gpus"]] == ["0000:01:00.0", "0000:02:00.0"]
    gpu = seen["gpus"][0]
    assert (gpu["pci_id"], gpu["architecture"], gpu["compute_capability"]) == ("2335", "hopper", "9.0")
    assert (gpu["index"], gpu["name"], gpu["open_modules"]) == (None, None, "yes")
    assert seen["driver"]["nvml"] == "absent" and seen["driver"]["version"] is None
    assert seen["fabric"] == "nvswitch" and len(seen["nvswitches"]) == 1
    assert seen["podman"] is None and seen["packages"] == {}
    assert not seen["reboot"]["required"]


def test_host_without_gpu(host: FakeHost) -> None:
    seen = facts(host)
    assert (seen["gpus"], seen["pci_gpus"], seen["fabric"]) == ([], 0, "none")
    assert seen["secure_boot"] == "unsupported"


def test_working_host(host: FakeHost) -> None:
    host.gpu(driver="nvidia").gpu("0000:02:00.0", driver="nvidia").driver()
    host.smi(row(0, "00000000:01:00.0"), row(1, "00000000:02:00.0"))
    seen = facts(host)
    assert [gpu["index"] for gpu in seen["gpus"]] == [0, 1]
    assert seen["gpus"][1]["name"] == "NVIDIA H200" and seen["gpus"][1]["memory_mib"] == 143771
    assert seen["driver"]["loaded"] == seen["driver"]["userspace"] == seen["driver"]["version"] == "580.95.05"
    assert seen["driver"]["flavor"] == "open" and seen["driver"]["nvml"] == "ok"
    assert not seen["reboot"]["required"]


@pytest.mark.parametrize(
    ("out", "rc", "state"),
    [
        (MISMATCH, 18, "mismatch"),
        (NO_COMMUNICATION, 9, "no_driver"),
        ("No devices were found", 6, "no_gpu"),
        ("Unable to determine the device handle for GPU0000:01:00.0: Unknown Error", 255, "failed"),
    ],
)
def test_words_of_nvidia_smi(host: FakeHost, out: str, rc: int, state: str) -> None:
    host.gpu().smi(out, rc=rc)
    seen = facts(host)
    assert seen["driver"]["nvml"] == state
    assert seen["driver"]["nvml_message"]
    assert [gpu["index"] for gpu in seen["gpus"]] == [None]


def test_driver_upgraded_under_a_loaded_module(host: FakeHost) -> None:
    host.gpu(driver="nvidia").driver("570.172.08", "580.95.05").smi(MISMATCH, rc=18)
    reboot = facts(host)["reboot"]
    assert reboot["required"]
    assert reboot["reasons"] == ["the loaded kernel module is 570.172.08, the installed driver 580.95.05"]


def test_mismatch_is_found_from_the_words_alone(host: FakeHost) -> None:
    host.gpu(driver="nvidia").driver("580.95.05", None).smi(MISMATCH, rc=18)
    assert "differ in version" in facts(host)["reboot"]["reasons"][0]


def test_driver_installed_while_nouveau_drives(host: FakeHost) -> None:
    host.gpu(driver="nouveau").driver(None, "580.95.05").write("/sys/module/nouveau/refcnt", "1")
    seen = facts(host)
    assert seen["driver"]["nouveau"]
    assert seen["reboot"]["reasons"] == ["nouveau drives the GPU"]


def test_gpu_of_a_virtual_machine_asks_for_no_reboot(host: FakeHost) -> None:
    host.gpu(driver="vfio-pci").driver(None, "580.95.05")
    assert not facts(host)["reboot"]["required"]


def test_noted_reboot_counts_until_the_next_boot(host: FakeHost) -> None:
    note = {"reboot_required": True, "reasons": ["because"], "boot_id": "11111111-2222-4333-8444-555555555555"}
    host.write(base.REBOOT_FACT, json.dumps(note))
    assert facts(host)["reboot"] == {"required": True, "reasons": ["because"], "noted": True}
    host.write(base.REBOOT_FACT, json.dumps({**note, "boot_id": "another"}))
    assert facts(host)["reboot"] == {"required": False, "reasons": [], "noted": True}


def test_proprietary_module(host: FakeHost) -> None:
    host.write("/proc/driver/nvidia/version", CLOSED_MODULE.format("535.183.01"))
    assert nvidia.loaded(host.system) == ("535.183.01", "proprietary")


def test_libraries_where_a_machine_mounts_them(host: FakeHost) -> None:
    host.write("/usr/local/nvidia/lib64/libcuda.so.580.159.04", "")
    assert nvidia.userspace(host.system) == "580.159.04"


def test_mig_devices_are_listed(host: FakeHost) -> None:
    host.gpu().smi(row(mig="Enabled"), row(1, "00000000:02:00.0")).answer(
        "nvidia-smi -L",
        "GPU 0: NVIDIA H200 (UUID: GPU-0)\n"
        "  MIG 3g.71gb     Device  0: (UUID: MIG-aa)\n"
        "  MIG 1g.18gb     Device  1: (UUID: MIG-bb)\n"
        "GPU 1: NVIDIA H200 (UUID: GPU-1)\n",
    )
    mig = facts(host)["gpus"][0]["mig"]
    assert mig["enabled"] and mig["supported"]
    assert mig["devices"] == [
        {"index": 0, "profile": "3g.71gb", "uuid": "MIG-aa"},
        {"index": 1, "profile": "1g.18gb", "uuid": "MIG-bb"},
    ]
    assert facts(host)["gpus"][1]["mig"] == {"supported": True, "enabled": False, "devices": []}


def test_older_nvidia_smi_without_a_field(host: FakeHost) -> None:
    fields = QUERY.replace(",mig.mode.current", "")
    host.gpu().smi('Field "mig.mode.current" is not a valid field to query.', rc=2)
    host.answer(
        f"nvidia-smi --query-gpu={fields} --format=csv,noheader,nounits",
        "0, Tesla T4, GPU-0, 00000000:01:00.0, 15360, 15000, 535.183.01, 7.5, Enabled\n",
    )
    seen = facts(host)
    assert seen["driver"]["nvml"] == "ok" and seen["gpus"][0]["name"] == "Tesla T4"
    assert not seen["gpus"][0]["mig"]["supported"]


@pytest.mark.parametrize(
    ("pci_id", "name", "capability", "open_modules"),
    [
        ("1db6", "volta", "7.0", "no"),
        ("1eb8", "turing", "7.5", "yes"),
        ("20b2", "ampere", "8.0", "yes"),
        ("26b9", "ada", "8.9", "yes"),
        ("2330", "hopper", "9.0", "yes"),
        ("2901", "blackwell", "10.0", "only"),
        ("2bb5", "blackwell", "12.0", "only"),
        ("3182", "blackwell", "10.3", "only"),
    ],
)
def test_architectures(pci_id: str, name: str, capability: str, open_modules: str) -> None:
    known = pci.architecture(int(pci_id, 16))
    assert known is not None
    assert (known.name, known.compute_capability, known.open_modules) == (name, capability, open_modules)


def test_gpu_newer_than_the_table_takes_open_modules(host: FakeHost) -> None:
    gpu = facts(host.gpu(device="3f01"))["gpus"][0]
    assert (gpu["architecture"], gpu["open_modules"], gpu["compute_capability"]) == (None, "only", None)


def test_hgx_b200_is_known_by_its_bridge(host: FakeHost) -> None:
    host.gpu(device="2901")
    assert facts(host)["fabric"] == "none"
    bridge = "/sys/bus/pci/devices/0000:09:00.0"
    host.write(f"{bridge}/vendor", "0x15b3").write(f"{bridge}/device", "0x1021").write(f"{bridge}/class", "0x020700")
    host.write(f"{bridge}/vpd", "V0=....SMDL=SW_MNG....")
    assert facts(host)["fabric"] == "nvlink5"


def test_gb200_needs_imex(host: FakeHost) -> None:
    assert facts(host.gpu(device="2941"))["fabric"] == "multinode"


@pytest.mark.parametrize(
    ("value", "state"), [(b"\x06\0\0\0\x01", "enabled"), (b"\x06\0\0\0\x00", "disabled"), (b"", "unknown")]
)
def test_secure_boot_from_the_firmware(host: FakeHost, value: bytes, state: str) -> None:
    host.write(base.EFI_SECURE_BOOT, "")
    (host.root / base.EFI_SECURE_BOOT.lstrip("/")).write_bytes(value)
    assert facts(host)["secure_boot"] == state


def test_secure_boot_from_mokutil(host: FakeHost) -> None:
    host.write("/sys/firmware/efi/fw_platform_size", "64").answer("mokutil", "SecureBoot enabled\n")
    assert facts(host)["secure_boot"] == "enabled"


def test_cgroups_v1(host: FakeHost) -> None:
    (host.root / "sys/fs/cgroup/cgroup.controllers").unlink()
    host.write("/sys/fs/cgroup/memory/tasks", "")
    assert facts(host)["cgroups"] == {"version": 1, "controllers": ["memory"]}


def test_selinux(host: FakeHost) -> None:
    host.write("/sys/fs/selinux/enforce", "1").write("/sys/fs/selinux/booleans/container_use_devices", "0 0")
    assert facts(host)["selinux"] == {"mode": "enforcing", "container_use_devices": False}


def test_podman(host: FakeHost) -> None:
    info = {"host": {"ociRuntime": {"name": "crun"}, "networkBackend": "netavark"}, "store": {"graphRoot": "/g"}}
    host.answer("podman --version", "podman version 4.9.3\n").answer("podman info --format json", json.dumps(info))
    host.write("/usr/libexec/podman/quadlet", "")
    podman = facts(host)["podman"]
    assert (podman["version"], podman["runtime"], podman["cdi"], podman["quadlet"]) == ("4.9.3", "crun", True, True)


def test_podman_that_does_not_answer(host: FakeHost) -> None:
    host.answer("podman --version", "podman version 5.4.2\n").answer(
        "podman info --format json", "", 125, "Error: no\n"
    )
    podman = facts(host)["podman"]
    assert podman["error"] == "Error: no" and podman["runtime"] is None


def test_podman_that_cannot_read_its_settings_is_not_missing(host: FakeHost) -> None:
    host.answer("podman --version", "", 125, "Error: decode configuration 60-broken.conf: unexpected end\n")
    podman = facts(host)["podman"]
    assert (podman["version"], podman["cdi"]) == ("", False)
    assert podman["error"] == "Error: decode configuration 60-broken.conf: unexpected end"


def test_podman_that_hangs_is_not_missing(host: FakeHost) -> None:
    host.answer("podman --version", "", 124, "podman gave no answer within 60 s")
    assert facts(host)["podman"]["error"] == "podman gave no answer within 60 s"


def test_debian_packages_with_holds(host: FakeHost) -> None:
    host.packages({"nvidia-utils-580": "580.95.05-0ubuntu1", "podman": "4.9.3+ds1-1build2"}, held=["nvidia-utils-580"])
    found = facts(host)["packages"]
    assert found["nvidia-utils-580"] == {"version": "580.95.05-0ubuntu1", "upstream": "580.95.05", "held": True}
    assert found["podman"]["upstream"] == "4.9.3" and not found["podman"]["held"]


def test_half_configured_package_is_marked(host: FakeHost) -> None:
    host.answer("dpkg-query", "nvidia-dkms-580-open\t580.95.05-0ubuntu1\thalf-configured\tinstall\n")
    assert facts(host)["packages"]["nvidia-dkms-580-open"]["broken"]


def test_rpm_packages_with_locks(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, "rocky-9")
    host.answer("rpm", "nvidia-driver-cuda\t3\t580.95.05-1.el9\nnvlsm\t0\t2025.06.11-1\n")
    host.write("/etc/dnf/plugins/versionlock.list", "# a comment\nnvidia-driver-cuda-3:580.95.05-*\n")
    found = facts(host)["packages"]
    assert found["nvidia-driver-cuda"]["epoch"] == "3"
    assert found["nvidia-driver-cuda"]["held"] and not found["nvlsm"]["held"]


def test_units(host: FakeHost) -> None:
    host.answer(
        "systemctl",
        "Result=exec-condition\nId=a.service\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n\n"
        "Result=success\nId=b.service\nLoadState=not-found\nActiveState=inactive\nUnitFileState=\n",
    )
    found = facts(host, units=["a.service", "b.service"])["units"]
    assert found["a.service"] == {"exists": True, "active": True, "enabled": True, "result": "exec-condition"}
    assert found["b.service"] == {"exists": False, "active": False, "enabled": False, "result": "success"}


def test_repositories(host: FakeHost) -> None:
    host.write("/etc/apt/sources.list.d/a.list", "# x\ndeb [signed-by=/k arch=amd64] https://e.org/cuda/ /\n")
    host.write("/etc/apt/sources.list.d/b.sources", "Types: deb\nURIs: http://a.org/u http://b.org/u\nSuites: n\n")
    host.write("/etc/yum.repos.d/c.repo", "[c]\nbaseurl = https://e.org/rhel9/$basearch\n")
    assert facts(host)["repositories"] == [
        {"path": "/etc/apt/sources.list.d/a.list", "url": "https://e.org/cuda/"},
        {"path": "/etc/apt/sources.list.d/b.sources", "url": "http://a.org/u"},
        {"path": "/etc/apt/sources.list.d/b.sources", "url": "http://b.org/u"},
        {"path": "/etc/yum.repos.d/c.repo", "url": "https://e.org/rhel9/$basearch"},
    ]


@pytest.mark.parametrize(
    "place",
    [
        "updates/dkms/nvidia.ko.zst",
        "kernel/nvidia-580-server-open/nvidia.ko",
        "extra/nvidia.ko.xz",
        "extra/x/y/nvidia.ko",
    ],
)
def test_modules_for_the_kernel(host: FakeHost, place: str) -> None:
    host.write(f"/lib/modules/{host.release}/{place}", "")
    assert facts(host)["driver"]["modules"][host.release] == ["nvidia"]


def test_kernel_that_boots_next(host: FakeHost) -> None:
    host.write("/boot/vmlinuz-6.8.0-150-generic", "").write("/boot/vmlinuz-6.8.0-151-lowlatency", "")
    kernel = facts(host)["kernel"]
    assert kernel["next"] == "6.8.0-150-generic" and kernel["headers"] == []
    host.write("/usr/src/linux-headers-6.8.0-150-generic/Makefile", "")
    assert facts(host)["kernel"]["headers"] == ["6.8.0-150-generic"]


def test_room_at_a_path_that_does_not_exist_yet(host: FakeHost) -> None:
    host.disks["/var/lib"] = (100, 60)
    disk = facts(host, paths=["/var/lib/trtllm/engines"])["disk"]["/var/lib/trtllm/engines"]
    assert disk == {"measured_at": "/var/lib", "total_bytes": 100, "free_bytes": 60}


def test_commands_never_raise() -> None:
    assert run_command(["no-such-command-anywhere"]).rc == 127
    assert run_command(["sh", "-c", "echo out; echo err >&2; exit 3"]) == (3, "out\n", "err\n")


def test_this_machine_can_be_looked_at() -> None:
    seen = host_facts.gather(System(), packages=["no-such-package"], units=[], paths=["/"])
    assert seen["kernel"]["release"] and seen["disk"]["/"]["total_bytes"] > 0
    json.dumps(seen)


def hca(
    host: FakeHost, name: str, address: str, number: int, layer: str = "InfiniBand", state: str = "4: ACTIVE"
) -> None:
    """An adapter as mlx5_ib shows it."""
    device = f"/sys/devices/pci0000:15/0000:15:01.0/{address}"
    host.write(f"{device}/numa_node", "0\n" if number else "-1\n")
    host.write(f"{device}/net/ibs{number}/address", "00:00:10:49:fe:80\n")
    port = f"{device}/infiniband/{name}/ports/1"
    host.write(f"{port}/state", f"{state}\n").write(f"{port}/link_layer", f"{layer}\n")
    host.write(f"{port}/rate", "400 Gb/sec (4X NDR)\n")
    host.link(f"{device}/infiniband/{name}/device", f"../../../{address}")
    host.link(f"/sys/class/infiniband/{name}", f"../../devices/pci0000:15/0000:15:01.0/{address}/infiniband/{name}")
    host.write(f"/sys/class/infiniband_verbs/uverbs{number}/ibdev", f"{name}\n")
    host.write(f"/dev/infiniband/uverbs{number}", "").write("/dev/infiniband/rdma_cm", "")


def test_rdma_devices_and_how_they_are_handed_over(host: FakeHost) -> None:
    host.write("/sys/class/infiniband_verbs/abi_version", "6\n")
    hca(host, "mlx5_0", "0000:17:00.0", 0)
    hca(host, "mlx5_bond_0", "0000:3a:00.0", 1, "Ethernet", "1: DOWN")
    host.write(
        "/etc/cdi/mofed.yaml",
        "kind: nvidia.com/mofed\ndevices:\n  - name: all\n    containerEdits:\n      deviceNodes:\n"
        "        - path: /dev/infiniband/uverbs0\n        - path: /dev/infiniband/rdma_cm\n",
    )
    host.device("/dev/infiniband/uverbs0", 231, 192).device("/dev/infiniband/rdma_cm", 10, 58)
    found = facts(host)["rdma"]
    assert found["manager"] == "/dev/infiniband/rdma_cm"
    assert found["devices"][0] == {
        "name": "mlx5_0", "pci_address": "0000:17:00.0", "nodes": ["/dev/infiniband/uverbs0"],
        "cdi": ["nvidia.com/mofed=all"], "interfaces": ["ibs0"], "numa_node": None,
        "ports": [{"port": 1, "state": "ACTIVE", "link_layer": "InfiniBand", "rate": "400 Gb/sec (4X NDR)"}],
    }  # fmt: skip
    second = found["devices"][1]
    assert (second["name"], second["nodes"], second["cdi"]) == ("mlx5_bond_0", ["/dev/infiniband/uverbs1"], [])
    assert second["ports"][0]["state"] == "DOWN" and second["numa_node"] == 0


def test_a_kernel_with_rdma_and_no_device(host: FakeHost) -> None:
    """As a machine of a cloud has it: the class, the connection manager, and nothing else."""
    host.write("/sys/class/infiniband_verbs/abi_version", "6\n").write("/dev/infiniband/rdma_cm", "")
    assert facts(host)["rdma"] == {"devices": [], "manager": "/dev/infiniband/rdma_cm"}
