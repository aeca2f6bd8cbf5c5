# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What surrounds the GPUs: kernel, Secure Boot, cgroups, SELinux, memory, disk, podman, packages, units."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Optional

from .._base.versions import version_key
from .system import System

EFI_SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
# Written by the gpu_driver role; Ansible shows it as ansible_local too.
REBOOT_FACT = "/etc/ansible/facts.d/trtllm_fleet.fact"
# "deb [options] URL suite", "URIs: URL...", "baseurl=URL"
_REPOSITORY_LINE = re.compile(r"(?:deb\s+(?:\[[^]]*\]\s+)?|URIs:\s*|baseurl\s*=\s*)(\S+:.*)$")
QUADLET_GENERATORS = (
    "/usr/lib/systemd/system-generators/podman-system-generator",
    "/usr/libexec/podman/quadlet",
)


def operating_system(system: System) -> dict[str, str]:
    """``id``, ``version`` and ``name`` from os-release."""
    found: dict[str, str] = {}
    for line in (system.text("/etc/os-release") or system.text("/usr/lib/os-release") or "").splitlines():
        key, equals, value = line.partition("=")
        if equals:
            found[key.strip()] = value.strip().strip("\"'")
    return {
        "id": found.get("ID", ""),
        "version": found.get("VERSION_ID", ""),
        "name": found.get("PRETTY_NAME", ""),
    }


def kernel(system: System) -> dict[str, Any]:
    """The running release, the installed ones, the next to boot, and of which the headers are there."""
    release = system.kernel_release()
    installed = {name.split("-", 1)[1] for name in system.names("/boot") if re.match(r"vmlinuz-\d", name)}
    following = next_kernel(release, installed)
    return {
        "release": release,
        "machine": system.machine,
        "installed": sorted(installed),
        "next": following,
        "headers": [name for name in dict.fromkeys([release, following]) if has_headers(system, name)],
        "modules": system.exists("/proc/modules"),
        "boot_id": system.text("/proc/sys/kernel/random/boot_id") or "",
    }


def has_headers(system: System, release: str) -> bool:
    """Whether modules can be built for *release*."""
    places = (
        f"/lib/modules/{release}/build/Makefile",
        f"/usr/src/linux-headers-{release}/Makefile",
        f"/usr/src/kernels/{release}/Makefile",
    )
    return any(system.exists(place) for place in places)


def next_kernel(release: str, installed: Iterable[str]) -> str:
    """The kernel that boots next: the newest of the running one's kind, such as ``-generic``."""
    kind = release.rsplit("-", 1)[-1] if re.search(r"-[a-z]+$", release) else ""
    same = [name for name in installed if not kind or name.endswith(f"-{kind}")]
    return max([release, *same], key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def secure_boot(system: System) -> str:
    """``enabled``, ``disabled``, ``unsupported`` (no UEFI) or ``unknown``."""
    if not system.exists("/sys/firmware/efi"):
        return "unsupported"
    data = system.data(EFI_SECURE_BOOT, 16)
    if data and len(data) >= 5:
        # Four bytes of attributes, then the value.
        return "enabled" if data[4] == 1 else "disabled"
    answer = system.run(["mokutil", "--sb-state"])
    words = (answer.out + answer.err).lower()
    if "secureboot enabled" in words:
        return "enabled"
    if "secureboot disabled" in words or "not supported" in words:
        return "disabled"
    return "unknown"


def cgroups(system: System) -> dict[str, Any]:
    """The version of the hierarchy that is mounted, and its controllers."""
    controllers = system.text("/sys/fs/cgroup/cgroup.controllers")
    if controllers is None:
        return {"version": 1, "controllers": system.names("/sys/fs/cgroup")}
    return {"version": 2, "controllers": controllers.split()}


def selinux(system: System) -> dict[str, Any]:
    """The mode and whether containers may use devices (the boolean container_use_devices)."""
    mode = {"1": "enforcing", "0": "permissive"}.get(system.text("/sys/fs/selinux/enforce") or "", "disabled")
    boolean = system.text("/sys/fs/selinux/booleans/container_use_devices")
    return {"mode": mode, "container_use_devices": boolean.startswith("1") if boolean else None}


def memory(system: System) -> dict[str, Optional[int]]:
    """Total and available memory in bytes."""
    values = dict(re.findall(r"^(\w+):\s+(\d+) kB", system.text("/proc/meminfo") or "", re.MULTILINE))

    def size(name: str) -> Optional[int]:
        return int(values[name]) * 1024 if name in values else None

    return {"total_bytes": size("MemTotal"), "available_bytes": size("MemAvailable")}


def disks(system: System, paths: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Size and free room at each path; of a path that is not there yet, its nearest parent's."""
    result: dict[str, dict[str, Any]] = {}
    for path in paths:
        place = Path(path)
        while not system.exists(str(place)) and place != place.parent:
            place = place.parent
        usage = system.disk_usage(system.path(str(place)))
        if usage is not None:
            result[path] = {"measured_at": str(place), "total_bytes": usage[0], "free_bytes": usage[1]}
    return result


def podman(system: System) -> Optional[dict[str, Any]]:
    """Version, runtime, network backend and storage of podman; None where it is not installed."""
    answer = system.run(["podman", "--version"])
    if answer.rc == 127:
        return None
    match = re.search(r"(\d+\.\d+\.\d+\S*)", answer.out) if answer.rc == 0 else None
    # One that does not even say its version, as with settings that it cannot read, is not one that is missing.
    version = match.group(1) if match else ""
    found: dict[str, Any] = {
        "version": version,
        "cdi": bool(version) and version_key(version) >= (4, 1),
        "quadlet": any(system.exists(path) for path in QUADLET_GENERATORS),
        "runtime": None,
        "network_backend": None,
        "graph_root": None,
        "error": None,
    }
    if not version:
        found["error"] = " ".join(answer.err.split()) or "podman --version told no version"
        return found
    answer = system.run(["podman", "info", "--format", "json"])
    try:
        info = json.loads(answer.out)
        found["runtime"] = info["host"]["ociRuntime"]["name"]
        found["network_backend"] = info["host"].get("networkBackend")
        found["graph_root"] = info["store"]["graphRoot"]
    except (ValueError, KeyError, TypeError):
        found["error"] = " ".join(answer.err.split()) or "podman info gave no answer"
    return found


def packages(system: System, patterns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The installed packages that match *patterns* (shell wildcards), with version and hold."""
    if not patterns:
        return {}
    if system.exists("/var/lib/dpkg/status"):
        return _debian_packages(system, patterns)
    return _rpm_packages(system, patterns)


def upstream_version(version: str) -> str:
    """A package's version without epoch and distribution's revision."""
    return re.split(r"[-~+]", version.split(":", 1)[-1])[0]


def _entry(version: str, held: bool) -> dict[str, Any]:
    return {"version": version, "upstream": upstream_version(version), "held": held}


def _debian_packages(system: System, patterns: Sequence[str]) -> dict[str, dict[str, Any]]:
    form = "${Package}\t${Version}\t${db:Status-Status}\t${db:Status-Want}\n"
    answer = system.run(["dpkg-query", "-W", "-f", form, *patterns])
    found = {}
    for line in answer.out.splitlines():
        name, version, status, want = (line.split("\t") + ["", "", ""])[:4]
        if version and status in (
            "installed",
            "unpacked",
            "half-configured",
            "triggers-pending",
            "triggers-awaited",
        ):
            found[name] = _entry(version, want == "hold")
            if status in ("unpacked", "half-configured"):
                found[name]["broken"] = True
    return found


def _rpm_packages(system: System, patterns: Sequence[str]) -> dict[str, dict[str, Any]]:
    answer = system.run(["rpm", "-qa", "--qf", "%{NAME}\t%{EPOCHNUM}\t%{VERSION}-%{RELEASE}\n", *patterns])
    locks = "\n".join(
        system.text(path) or ""
        for path in ("/etc/dnf/plugins/versionlock.list", "/etc/yum/pluginconf.d/versionlock.list")
    )
    wanted_locks = [re.sub(r"-\d+:", "-", line.split("#")[0].strip()) for line in locks.splitlines()]
    found = {}
    for line in answer.out.splitlines():
        name, epoch, version = (line.split("\t") + ["", ""])[:3]
        if version:
            full = f"{name}-{version}"
            found[name] = {
                **_entry(version, any(fnmatchcase(full, lock) for lock in wanted_locks)),
                "epoch": epoch,
            }
    return found


def units(system: System, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Whether each systemd unit exists, runs and is enabled, and how its last run ended."""
    if not names:
        return {}
    keys = "Id,LoadState,ActiveState,UnitFileState,Result"
    answer = system.run(["systemctl", "show", "--property", keys, "--", *names])
    result: dict[str, dict[str, Any]] = {
        name: {"exists": False, "active": False, "enabled": False, "result": ""} for name in names
    }
    for name, block in zip(names, re.split(r"\n\s*\n", answer.out.strip())):
        shown = dict(line.partition("=")[::2] for line in block.splitlines() if "=" in line)
        result[name] = {
            "exists": shown.get("LoadState") == "loaded",
            "active": shown.get("ActiveState") == "active",
            "enabled": shown.get("UnitFileState") in ("enabled", "static", "generated"),
            "result": shown.get("Result", ""),
        }
    return result


def repositories(system: System) -> list[dict[str, str]]:
    """The address of each package repository and the file that configures it."""
    files = ["/etc/apt/sources.list"]
    for directory, ends in (("/etc/apt/sources.list.d", (".list", ".sources")), ("/etc/yum.repos.d", (".repo",))):
        files += [f"{directory}/{name}" for name in system.names(directory) if name.endswith(ends)]
    found = []
    for path in files:
        for line in (system.text(path) or "").splitlines():
            match = _REPOSITORY_LINE.match(line.strip())
            if match:
                found += [{"path": path, "url": url} for url in match.group(1).split() if ":" in url]
    return found


def recorded_reboot(system: System) -> dict[str, Any]:
    """What a role noted about a reboot that is due; a note from before the last boot is void."""
    try:
        noted = json.loads(system.text(REBOOT_FACT) or "{}")
    except ValueError:
        noted = {}
    noted = noted if isinstance(noted, dict) else {}
    boot_id = system.text("/proc/sys/kernel/random/boot_id") or ""
    due = bool(noted.get("reboot_required")) and noted.get("boot_id") == boot_id
    return {"noted": system.exists(REBOOT_FACT), "reasons": list(noted.get("reasons", [])) if due else []}
