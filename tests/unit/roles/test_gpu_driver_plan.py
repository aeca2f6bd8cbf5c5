# SPDX-License-Identifier: GPL-3.0-or-later
"""What the driver role plans for each system, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trtllm.fleet.plugins.module_utils._host import driver, facts, platforms
from fake_host import KERNELS, OS_RELEASES, FakeHost

ROLE = Path(__file__).resolve().parents[3] / "roles" / "gpu_driver"
DATA = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())["__gpu_driver_data"]
PLATFORMS = yaml.safe_load((ROLE.parent / "gpu_host" / "vars" / "main.yml").read_text())["gpu_host_platforms"]
DEFAULTS = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
DIRECTORIES = {
    "debian-12": "debian12",
    "debian-13": "debian13",
    "ubuntu-22.04": "ubuntu2204",
    "ubuntu-24.04": "ubuntu2404",
    "rhel-8": "rhel8",
    "rocky-9": "rhel9",
    "almalinux-10": "rhel10",
}
SETTINGS = {name[len("gpu_driver_") :]: value for name, value in DEFAULTS.items()}


def plan(host: FakeHost, **settings: Any) -> dict[str, Any]:
    seen = facts.gather(host.system)
    return driver.plan(seen, {**SETTINGS, **settings}, DATA, PLATFORMS)


def refusal(host: FakeHost, **settings: Any) -> str:
    refusals = plan(host, **settings)["refusals"]
    assert len(refusals) == 1, refusals
    assert not refusals[0].endswith(".") and "\n" not in refusals[0]
    return str(refusals[0])


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path).gpu()


def test_settings_of_the_role_are_all_known() -> None:
    raw = (ROLE / "vars" / "main.yml").read_text()
    used = yaml.safe_load(raw)["__gpu_driver_settings"]
    assert set(used) <= set(SETTINGS)


def test_host_without_gpu_needs_nothing(tmp_path: Path) -> None:
    assert plan(FakeHost(tmp_path)) == {"needed": False, "refusals": []}
    assert not plan(FakeHost(tmp_path).gpu(driver="vfio-pci"))["needed"]


@pytest.mark.parametrize("system", [name for name in OS_RELEASES if name != "fedora-43"])
@pytest.mark.parametrize(("machine", "directory"), [("x86_64", "x86_64"), ("aarch64", "sbsa")])
def test_every_supported_system(tmp_path: Path, system: str, machine: str, directory: str) -> None:
    found = plan(FakeHost(tmp_path, system, machine).gpu())
    assert found["refusals"] == []
    repository = found["repository"]
    root = "https://developer.download.nvidia.com/compute/cuda/repos"
    assert repository["url"] == f"{root}/{DIRECTORIES[system]}/{directory}/"
    assert repository["key"].startswith(repository["url"])
    assert all(len(fingerprint) == 40 for fingerprint in repository["fingerprints"])
    assert found["versioned"] and found["pending"]
    assert "nvidia-persistenced.service" in found["services"]


@pytest.mark.parametrize(
    ("system", "settings", "packages"),
    [
        ("debian-13", {}, ["nvidia-kernel-open-dkms", "nvidia-driver-cuda", "nvidia-persistenced"]),
        ("debian-12", {"modules": "proprietary"}, ["nvidia-kernel-dkms", "nvidia-driver-cuda", "nvidia-persistenced"]),
        (
            "ubuntu-24.04",
            {},
            [
                "nvidia-dkms-580-open",
                "nvidia-kernel-source-580-open",
                "nvidia-kernel-common-580",
                "libnvidia-compute-580",
                "libnvidia-cfg1-580",
                "nvidia-compute-utils-580",
                "nvidia-utils-580",
            ],
        ),
        ("ubuntu-22.04", {"branch": "590"}, ["nvidia-dkms-open", "libnvidia-compute"]),
        (
            "ubuntu-24.04",
            {"source": "distribution"},
            ["nvidia-headless-no-dkms-580-server-open", "nvidia-utils-580-server"],
        ),
        ("rocky-9", {}, ["kmod-nvidia-open-dkms", "nvidia-driver-cuda", "nvidia-persistenced"]),
        (
            "rhel-8",
            {"modules": "proprietary"},
            ["kmod-nvidia-latest-dkms", "nvidia-driver-cuda", "nvidia-persistenced"],
        ),
        ("almalinux-10", {}, ["kmod-nvidia-open-dkms", "nvidia-driver-cuda", "nvidia-persistenced"]),
    ],
)
def test_packages(tmp_path: Path, system: str, settings: dict[str, Any], packages: list[str]) -> None:
    assert plan(FakeHost(tmp_path, system).gpu(), **settings)["versioned"] == packages


@pytest.mark.parametrize(
    ("system", "settings", "stream"),
    [
        ("rhel-8", {}, "580-open"),
        ("rocky-9", {"modules": "proprietary", "branch": "570"}, "570-dkms"),
        ("almalinux-10", {}, ""),
        ("ubuntu-24.04", {}, ""),
    ],
)
def test_module_streams(tmp_path: Path, system: str, settings: dict[str, Any], stream: str) -> None:
    assert plan(FakeHost(tmp_path, system).gpu(), **settings)["stream"] == stream


@pytest.mark.parametrize(
    ("system", "settings", "names"),
    [
        ("ubuntu-24.04", {}, ["nvidia-fabricmanager", "libnvidia-nscq"]),
        ("ubuntu-24.04", {"branch": "570"}, ["nvidia-fabricmanager-570", "libnvidia-nscq-570"]),
        ("ubuntu-24.04", {"source": "distribution"}, ["nvidia-fabricmanager-580", "libnvidia-nscq-580"]),
        ("rocky-9", {"branch": "570"}, ["nvidia-fabricmanager", "libnvidia-nscq"]),
    ],
)
def test_fabric_manager_where_there_are_switches(
    tmp_path: Path, system: str, settings: dict[str, Any], names: list[str]
) -> None:
    found = plan(FakeHost(tmp_path, system).recorded("hgx-h200"), **settings)
    assert found["versioned"][-2:] == names
    assert "nvidia-fabricmanager.service" in found["services"]


def test_fabric_of_b200_and_gb200(host: FakeHost) -> None:
    found = plan(host, fabric="nvlink5")
    assert "nvlsm" in found["other"] and found["kernel_modules"] == ["ib_umad"]
    found = plan(host, fabric="multinode")
    assert found["versioned"][-1] == "nvidia-imex" and "nvidia-imex.service" in found["services"]


def test_pascal_gets_proprietary_modules(tmp_path: Path) -> None:
    host = FakeHost(tmp_path).gpu(device="1b38")
    assert plan(host)["flavor"] == "proprietary"
    assert "needs branch 580 or older" in refusal(host, branch="590")
    assert "is not driven by open modules" in refusal(host, modules="open")
    host.gpu("0000:02:00.0", "2901")
    assert "a host can have only one kind" in refusal(host)


def test_blackwell_has_no_proprietary_modules(tmp_path: Path) -> None:
    assert "is driven by open modules only" in refusal(FakeHost(tmp_path).gpu(device="2901"), modules="proprietary")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"branch": "999"}, "driver branch 999 is not known; use one of 535, "),
        ({"version": "580"}, "gpu_driver_version '580' is no driver version; give one like 580.95.05"),
        ({"version": "570.172.08"}, "gpu_driver_version 570.172.08 is not of branch 580"),
    ],
)
def test_bad_input(host: FakeHost, settings: dict[str, Any], sentence: str) -> None:
    assert refusal(host, **settings).startswith(sentence)


def test_system_that_is_not_supported(tmp_path: Path) -> None:
    assert refusal(FakeHost(tmp_path, "fedora-43").gpu()).startswith("Fedora Linux 43 is not supported; use one of")
    assert refusal(FakeHost(tmp_path, machine="ppc64le").gpu()).startswith("a ppc64le machine is not supported")


def test_branches_of_the_distribution(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, "debian-13").gpu()
    assert "has driver branch 550 only" in refusal(host, source="distribution")
    assert plan(host, source="distribution", branch="550")["refusals"] == []
    assert "no NVIDIA driver in its own archive" in refusal(
        FakeHost(tmp_path / "r", "rocky-9").gpu(), source="distribution"
    )


def test_secure_boot(tmp_path: Path) -> None:
    host = FakeHost(tmp_path).recorded("secure-boot").gpu()
    assert "set gpu_driver_source to distribution" in refusal(host)
    assert plan(host, source="distribution")["refusals"] == []
    assert plan(host, secure_boot_key_enrolled=True)["refusals"] == []
    host.driver()
    host.packages({"nvidia-utils-580": "580.95.05-0ubuntu1"})
    assert plan(host)["refusals"] == []


def test_little_room_in_boot(host: FakeHost) -> None:
    host.disks["/boot"] = (500 * 2**20, 40 * 2**20)
    assert refusal(host).startswith("/boot has 40 MiB free and 150 are needed for a new initramfs")
    assert plan(host, boot_free_mib=32)["refusals"] == []


def test_driver_that_is_no_package(host: FakeHost) -> None:
    host.driver()
    assert refusal(host).startswith("driver 580.95.05 was not installed from packages")


def test_second_configuration_of_the_repository(host: FakeHost) -> None:
    url = "https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2404/x86_64"
    host.write("/etc/apt/sources.list.d/cuda-ubuntu2404-x86_64.list", f"deb {url}/ /\n")
    assert refusal(host).startswith("/etc/apt/sources.list.d/cuda-ubuntu2404-x86_64.list configures")
    assert plan(host, manage_repository=False)["refusals"] == []


UTILS = dict.fromkeys(
    (
        "nvidia-dkms-580-open",
        "nvidia-kernel-source-580-open",
        "nvidia-kernel-common-580",
        "libnvidia-compute-580",
        "libnvidia-cfg1-580",
        "nvidia-compute-utils-580",
        "nvidia-utils-580",
        "libnvidia-decode-580",
    ),
    "580.95.05-0ubuntu1",
)


@pytest.fixture
def installed(host: FakeHost) -> FakeHost:
    host.driver().packages({**UTILS, "nvidia-container-toolkit": "1.18.1-1"}, held=list(UTILS))
    return host.write(f"/usr/src/linux-headers-{host.release}/Makefile", "")


def test_installed_driver_is_kept(installed: FakeHost) -> None:
    found = plan(installed)
    assert (found["target"], found["pending"], found["mismatched"], found["unheld"]) == ("580.95.05", [], [], [])


def test_newer_of_the_branch_only_when_asked(installed: FakeHost) -> None:
    found = plan(installed, upgrade=True)
    assert found["target"] is None and set(found["pending"]) == set(UTILS) - {"libnvidia-decode-580"}


def test_upgrade_takes_the_old_branch_away(installed: FakeHost) -> None:
    installed.packages({"nvidia-utils-570": "570.172.08-0ubuntu1", "nvidia-fabricmanager-570": "570.172.08-1"})
    found = plan(installed)
    assert found["surplus"] == ["nvidia-fabricmanager-570", "nvidia-utils-570"]
    assert found["installed_version"] == "570.172.08" and found["target"] is None


def test_downgrade_needs_consent(installed: FakeHost) -> None:
    assert refusal(installed, branch="570").startswith("driver 580.95.05 is installed and 570 is older")
    assert "580.65.06 is older" in refusal(installed, version="580.65.06")
    assert plan(installed, version="580.65.06", allow_downgrade=True)["refusals"] == []


def test_half_configured_package_is_pending(installed: FakeHost) -> None:
    lines = "".join(
        f"{name}\t{version}\t{'half-configured' if 'dkms' in name else 'installed'}\tinstall\n"
        for name, version in UTILS.items()
    )
    installed.answer("dpkg-query", lines)
    assert plan(installed)["pending"] == ["nvidia-dkms-580-open"]


def test_headers_and_signed_modules_for_the_kernel_that_runs_and_the_one_that_boots_next(host: FakeHost) -> None:
    host.write("/boot/vmlinuz-6.8.0-150-generic", "")
    assert plan(host)["other"] == [f"linux-headers-{KERNELS['ubuntu']}", "linux-headers-6.8.0-150-generic"]
    found = plan(host, source="distribution")
    assert found["other"] == []
    assert found["modules"] == [
        "linux-modules-nvidia-580-server-open-6.8.0-149-generic",
        "linux-modules-nvidia-580-server-open-6.8.0-150-generic",
    ]


def test_mirror(host: FakeHost) -> None:
    found = plan(host, repository_root="http://mirror/cuda")["repository"]
    assert found["url"] == "http://mirror/cuda/ubuntu2404/x86_64/"
    assert found["key"] == "http://mirror/cuda/ubuntu2404/x86_64/3bf863cc.pub"
    found = plan(host, repository_url="http://mirror/x", repository_key="/etc/k.asc")["repository"]
    assert (found["url"], found["key"]) == ("http://mirror/x", "/etc/k.asc")


MADISON = """\
 nvidia-dkms-580-open | 580.105.08-1ubuntu1 | https://e.org  Packages
 nvidia-dkms-580-open | 580.95.05-0ubuntu1 | https://e.org  Packages
"""
REPOQUERY = "kmod-nvidia-open-dkms 3:580.95.05-1.el9\nkmod-nvidia-open-dkms 570.172.08-1.el9\n"


def test_versions_on_offer() -> None:
    assert driver.versions(MADISON, "580") == ["580.95.05", "580.105.08"]
    assert driver.versions(REPOQUERY) == ["570.172.08", "580.95.05"]
    assert driver.versions(REPOQUERY, "590") == []


def test_names_of_branches_agree_with_the_table() -> None:
    assert SETTINGS["branch"] in SETTINGS["branches"]
    assert all(int(branch) for branch in SETTINGS["branches"])
    named = {platforms.row(name, PLATFORMS)["driver_key"] for name in PLATFORMS["releases"]}
    assert named == set(DATA["keys"])
