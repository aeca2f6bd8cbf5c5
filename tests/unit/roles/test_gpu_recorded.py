# SPDX-License-Identifier: GPL-3.0-or-later
"""Which modules the host roles would run on each supported system, with which arguments and files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._host import facts
from fake_host import FakeHost, row
from recorder import Call, Recording, record

pytestmark = pytest.mark.slow

VERSION = "580.95.05"
CUDA = "http://mirror/cuda"
TOOLKIT = "http://mirror/toolkit"
EL = {"rhel-8": "8", "rocky-9": "9", "almalinux-10": "10"}
APT = {
    "debian-12": "debian12",
    "debian-13": "debian13",
    "ubuntu-22.04": "ubuntu2204",
    "ubuntu-24.04": "ubuntu2404",
}
TOOLKIT_PACKAGES = [
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
]
VARIABLES = {
    "gpu_driver_repository_root": CUDA,
    "container_toolkit_repository_root": TOOLKIT,
    "container_toolkit_version": "1.18.1",
    "podman_packages": None,
    "container_toolkit_probe": "never",
    "gpu_driver_extra_packages": ["beside"],
}


def before(directory: Path, system: str) -> FakeHost:
    """A fresh host with an NVSwitch; EL with SELinux enforcing."""
    host = FakeHost(directory, system).recorded("hgx-h200")
    if system in EL:
        host.write("/sys/fs/selinux/enforce", "1").write("/sys/fs/selinux/booleans/container_use_devices", "0 0")
    else:
        host.packages({"python3-apt": "2.7"})
    return host


def looks(directory: Path, system: str, packages: list[str]) -> list[dict[str, Any]]:
    """What gpu_host_info sees of it: fresh, with podman, with the driver, with all of it."""
    fresh = facts.gather(before(directory, system).system, units=[])
    fresh["units"] = {name: {"exists": False, "active": False, "enabled": False} for name in facts.UNITS}
    podman = copy.deepcopy(fresh)
    podman["podman"] = {"version": "5.4.0", "cdi": True, "quadlet": True, "runtime": "runc", "error": None}
    crun = copy.deepcopy(podman)
    crun["podman"]["runtime"] = "crun"
    host = FakeHost(directory / "with", system).recorded("hgx-h200").driver(VERSION)
    host.smi(row(0, "00000000:01:00.0"), row(1, "00000000:02:00.0"))
    driven = copy.deepcopy(crun)
    seen = facts.gather(host.system, units=[])
    driven.update({key: seen[key] for key in ("gpus", "driver", "cdi", "reboot")})
    driven["packages"].update(
        {name: {"version": VERSION, "upstream": VERSION, "held": False, "epoch": "3"} for name in packages}
    )
    driven["units"]["nvidia-persistenced.service"]["exists"] = True
    driven["units"]["nvidia-fabricmanager.service"].update(exists=True, active=True)
    done = copy.deepcopy(driven)
    entry = {"version": "1.18.1-1", "upstream": "1.18.1", "held": False}
    done["packages"].update(dict.fromkeys(TOOLKIT_PACKAGES, entry))
    done["units"]["nvidia-cdi-refresh.service"]["exists"] = True
    done["cdi"] = {"specs": [], "problems": [], "devices": ["nvidia.com/gpu=all"]}
    second_look = [] if system in EL else [driven]
    return [fresh, podman, crun, driven, *second_look, done]


def driver_packages(system: str) -> list[str]:
    fabric = ["nvidia-fabricmanager", "libnvidia-nscq"]
    if system in EL:
        return ["kmod-nvidia-open-dkms", "nvidia-driver-cuda", "nvidia-persistenced", *fabric]
    if system.startswith("debian"):
        return ["nvidia-kernel-open-dkms", "nvidia-driver-cuda", "nvidia-persistenced", *fabric]
    suffixed = [
        "nvidia-dkms-{}-open",
        "nvidia-kernel-source-{}-open",
        "nvidia-kernel-common-{}",
        "libnvidia-compute-{}",
    ]
    suffixed += ["libnvidia-cfg1-{}", "nvidia-compute-utils-{}", "nvidia-utils-{}"]
    return [name.format(580) for name in suffixed] + fabric


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    directory = tmp_path_factory.mktemp("recorded")
    listing = f"kmod-nvidia-open-dkms | {VERSION}-1\n"
    hosts = {
        system: {
            "looks": looks(directory / system, system, driver_packages(system)),
            "answers": {"apt-cache": listing, "dnf": listing},
        }
        for system in [*APT, *EL]
        if system != "ubuntu-22.04"
    }
    # Its own podman is too old, so the operator has brought another.
    hosts["ubuntu-22.04"] = {
        "looks": looks(directory / "ubuntu-22.04", "ubuntu-22.04", driver_packages("ubuntu-22.04")),
        "answers": {"apt-cache": listing, "dnf": listing},
        "vars": {"podman_packages": ["podman-next"]},
    }
    roles = ["trtllm.fleet.podman", "trtllm.fleet.gpu_driver", "trtllm.fleet.container_toolkit"]
    recorded = record(directory, hosts, roles, VARIABLES)
    assert recorded.returncode == 0, recorded.output
    return recorded


def one(calls: list[Call]) -> Call:
    assert len(calls) == 1, calls
    return calls[0]


@pytest.mark.parametrize("system", list(EL))
def test_el_podman(recording: Recording, system: str) -> None:
    assert recording.of(system, "dnf")[0].args["name"] == ["podman", "crun", "netavark", "aardvark-dns"]
    conf = recording.files(system)["/etc/containers/containers.conf.d/50-trtllm-fleet.conf"]
    assert conf.endswith('[engine]\nruntime = "crun"\n')


@pytest.mark.parametrize(("system", "major"), list(EL.items()))
def test_el_repositories(recording: Recording, system: str, major: str) -> None:
    keys = [call.args for call in recording.of(system, "repository_key")]
    assert [key["source"] for key in keys] == [
        f"{CUDA}/rhel{major}/x86_64/D42D0685.pub",
        f"https://dl.fedoraproject.org/pub/epel/RPM-GPG-KEY-EPEL-{major}",
        f"{TOOLKIT}/gpgkey",
    ]
    assert keys[0]["fingerprints"] == ["610C7B14E068A878070DA4E99CD0A493D42D0685"]
    files = recording.files(system)
    driver = files["/etc/yum.repos.d/trtllm-nvidia-driver.repo"]
    assert f"baseurl={CUDA}/rhel{major}/x86_64/\n" in driver and "gpgcheck=1\n" in driver
    assert f"gpgkey=file://{keys[0]['dest']}\n" in driver
    toolkit = files["/etc/yum.repos.d/trtllm-nvidia-container-toolkit.repo"]
    assert f"baseurl={TOOLKIT}/stable/rpm/x86_64\n" in toolkit and "repo_gpgcheck=1\ngpgcheck=0\n" in toolkit
    epel = one(recording.of(system, "yum_repository")).args
    assert epel["baseurl"] == f"https://dl.fedoraproject.org/pub/epel/{major}/Everything/$basearch/"
    assert epel["includepkgs"] == "dkms" and epel["gpgcheck"] is True


@pytest.mark.parametrize(("system", "major"), list(EL.items()))
def test_el_driver(recording: Recording, system: str, major: str) -> None:
    release = "5.14.0-570.42.2.el9_6.x86_64"
    transactions = [call.args for call in recording.of(system, "dnf")]
    driver = transactions[2]
    assert driver["name"] == [
        *(f"{name}-{VERSION}*" for name in driver_packages(system)),
        f"kernel-devel-{release}",
    ]
    assert driver["exclude"] == [
        "kernel",
        "kernel-core",
        "kernel-modules",
        "kernel-modules-core",
        "kernel-modules-extra",
    ]
    assert driver["state"] == "present" and driver["allow_downgrade"] is False
    assert transactions[1]["name"] == "python3-dnf-plugin-versionlock"
    stream = recording.files(system).get("/etc/dnf/modules.d/nvidia-driver.module")
    assert (stream is None) == (major == "10")
    assert stream is None or "stream=580-open\n" in stream
    lock = recording.of(system, "blockinfile")[0].args
    assert lock["path"] == "/etc/dnf/plugins/versionlock.list"
    assert lock["block"].split() == sorted(f"{name}-3:{VERSION}-*" for name in driver_packages(system))
    commands = [call.args["argv"] for call in recording.of(system, "command") if "argv" in call.args]
    assert ["dracut", "--force"] in commands
    assert commands[0][:2] == ["dnf", "--quiet"] and commands[0][-1] == "kmod-nvidia-open-dkms"


@pytest.mark.parametrize("system", list(EL))
def test_el_toolkit(recording: Recording, system: str) -> None:
    assert recording.of(system, "dnf")[3].args["name"] == ["beside"]
    toolkit = recording.of(system, "dnf")[4].args
    assert toolkit["name"] == [f"{name}-1.18.1*" for name in TOOLKIT_PACKAGES]
    commands = [call.args["argv"] for call in recording.of(system, "command") if "argv" in call.args]
    assert ["setsebool", "-P", "container_use_devices", "on"] in commands
    lock = recording.of(system, "blockinfile")[-1].args["block"]
    assert lock.split() == [f"{name}-0:1.18.1-*" for name in TOOLKIT_PACKAGES]


@pytest.mark.parametrize("system", [*APT, *EL])
def test_services_and_files_everywhere(recording: Recording, system: str) -> None:
    enabled = {call.args["name"] for call in recording.of(system, "systemd_service") if call.args.get("enabled")}
    assert {"nvidia-persistenced.service", "nvidia-fabricmanager.service", "nvidia-cdi-refresh.service"} <= enabled
    assert recording.files(system)["/etc/modprobe.d/trtllm-nouveau.conf"].endswith(
        "blacklist nouveau\noptions nouveau modeset=0\n"
    )
    refreshed = [call for call in recording.of(system, "systemd_service") if call.args.get("state") == "restarted"]
    assert one(refreshed).args["name"] == "nvidia-cdi-refresh.service"
    used = {call.module for call in recording.calls[system]}
    assert "yum_repository" not in used if system in APT else "apt" not in used


@pytest.mark.parametrize(("system", "directory"), list(APT.items()))
def test_apt_repositories(recording: Recording, system: str, directory: str) -> None:
    keys = [call.args for call in recording.of(system, "repository_key")]
    name = "8793F200.pub" if system == "debian-13" else "3bf863cc.pub"
    assert [key["source"] for key in keys] == [f"{CUDA}/{directory}/x86_64/{name}", f"{TOOLKIT}/gpgkey"]
    files = recording.files(system)
    line = f"deb [signed-by={keys[0]['dest']}] {CUDA}/{directory}/x86_64/ /\n"
    assert files["/etc/apt/sources.list.d/trtllm-nvidia-driver.list"].endswith(line)
    line = f"deb [signed-by={keys[1]['dest']}] {TOOLKIT}/stable/deb/amd64 /\n"
    assert files["/etc/apt/sources.list.d/trtllm-nvidia-container-toolkit.list"].endswith(line)


@pytest.mark.parametrize("system", list(APT))
def test_apt_driver(recording: Recording, system: str) -> None:
    release = "6.8.0-149-generic" if system.startswith("ubuntu") else "6.12.48+deb13-amd64"
    wanted = [*(f"{name}={VERSION}*" for name in driver_packages(system)), f"linux-headers-{release}"]
    transactions = [call.args for call in recording.of(system, "apt") if "name" in call.args]
    assert transactions[0]["name"] == (
        ["podman-next"] if system == "ubuntu-22.04" else ["podman", "crun", "netavark", "aardvark-dns"]
    )
    assert transactions[1]["name"] == wanted
    assert transactions[1]["allow_change_held_packages"] is True and transactions[1]["allow_downgrade"] is False
    assert transactions[2]["name"] == ["beside"]
    assert transactions[3]["name"] == [f"{name}=1.18.1*" for name in TOOLKIT_PACKAGES]
    commands = [call.args["argv"] for call in recording.of(system, "command") if "argv" in call.args]
    assert commands[0] == ["apt-cache", "madison", driver_packages(system)[0]]
    assert commands[1][:2] == ["apt-get", "--simulate"] and commands[1][-len(wanted) :] == wanted
    assert ["apt-mark", "hold", *sorted(driver_packages(system))] in commands
    pin = recording.files(system)["/etc/apt/preferences.d/trtllm-nvidia-driver.pref"]
    assert f"Pin: version {VERSION}*\nPin-Priority: 990\n" in pin and "Pin: release o=Ubuntu\nPin-Priority: -1" in pin
    assert '"^nvidia-";' in recording.files(system)["/etc/apt/apt.conf.d/51trtllm-nvidia-driver"]


def fresh(directory: Path, system: str) -> dict[str, Any]:
    return facts.gather(FakeHost(directory, system).system)


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Hosts that cannot serve: each must be refused before anything is changed."""
    directory = tmp_path_factory.mktemp("refused")
    v1 = fresh(directory / "v1", "rhel-8")
    v1["cgroups"]["version"] = 1
    rebooting = looks(directory / "reboot", "debian-13", driver_packages("debian-13"))[3]
    rebooting["reboot"] = {"required": True, "reasons": ["the module is older"], "noted": False}
    rebooting["driver"]["modules"] = {rebooting["kernel"]["next"]: ["nvidia"]}
    hosts: dict[str, dict[str, Any]] = {
        "fedora": {"looks": [fresh(directory / "fedora", "fedora-43")]},
        "v1": {"looks": [v1]},
        "jammy": {"looks": [fresh(directory / "jammy", "ubuntu-22.04")]},
        "local": {
            "looks": [rebooting],
            "vars": {"gpu_driver_reboot": "if_needed", "gpu_driver_version": VERSION},
        },
    }
    return record(directory, hosts, ["trtllm.fleet.podman", "trtllm.fleet.gpu_driver"], VARIABLES)


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ("fedora", "runs Fedora Linux 43, which this role does not know"),
        ("v1", "grubby --update-kernel=ALL --args=systemd.unified_cgroup_hierarchy=1"),
        ("jammy", "has podman 3.4.4 and 4.1 is needed: upgrade the host to Ubuntu 24.04"),
    ],
)
def test_hosts_that_podman_cannot_serve_on(refused: Recording, host: str, sentence: str) -> None:
    assert sentence in " ".join(refused.output.split())
    assert [call.module for call in refused.calls[host]] == ["gpu_host_info"]


def test_local_connection_is_never_rebooted(refused: Recording) -> None:
    said = " ".join(refused.output.split())
    assert "local needs a reboot: the module is older. This is a local connection, which is never rebooted" in said
    note = refused.files("local")["/etc/ansible/facts.d/trtllm_fleet.fact"]
    assert '"reboot_required": true' in note
    assert not refused.of("local", "reboot")
