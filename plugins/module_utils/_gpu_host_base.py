# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What surrounds the GPUs: kernel, Secure Boot, cgroups, SELinux, memory, disk, podman, packages, units."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from ansible_collections.trtllm.fleet.plugins.module_utils._gpu_host_system import System

EFI_SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
# Written by the gpu_driver role; Ansible shows it as ansible_local too.
REBOOT_FACT = "/etc/ansible/facts.d/trtllm_fleet.fact"
QUADLET_GENERATORS = (
    "/usr/lib/systemd/system-generators/podman-system-generator",
    "/usr/libexec/podman/quadlet",
)


def operating_system(system: System) -> dict[str, str]:
    """Return C(id), C(version) and C(name) from os-release."""
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
    """Return the running release, the installed ones and whether headers of the running one are there."""
    release = system.kernel_release()
    installed = {name.split("-", 1)[1] for name in system.names("/boot") if re.match(r"vmlinuz-\d", name)}
    headers = any(
        system.exists(path)
        for path in (
            f"/lib/modules/{release}/build/Makefile",
            f"/usr/src/linux-headers-{release}/Makefile",
            f"/usr/src/kernels/{release}/Makefile",
        )
    )
    return {
        "release": release,
        "machine": system.machine,
        "installed": sorted(installed),
        "headers": headers,
        "modules": system.exists("/proc/modules"),
        "boot_id": system.text("/proc/sys/kernel/random/boot_id") or "",
    }


def secure_boot(system: System) -> str:
    """Return V(enabled), V(disabled), V(unsupported) (no UEFI) or V(unknown)."""
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
    """Return the version of the hierarchy that is mounted, and its controllers."""
    controllers = system.text("/sys/fs/cgroup/cgroup.controllers")
    if controllers is None:
        return {"version": 1, "controllers": system.names("/sys/fs/cgroup")}
    return {"version": 2, "controllers": controllers.split()}


def selinux(system: System) -> dict[str, Any]:
    """Return the mode and whether containers may use devices (the boolean container_use_devices)."""
    mode = {"1": "enforcing", "0": "permissive"}.get(system.text("/sys/fs/selinux/enforce") or "", "disabled")
    boolean = system.text("/sys/fs/selinux/booleans/container_use_devices")
    return {"mode": mode, "container_use_devices": boolean.startswith("1") if boolean else None}


def memory(system: System) -> dict[str, Optional[int]]:
    """Return total and available memory in bytes."""
    values = dict(re.findall(r"^(\w+):\s+(\d+) kB", system.text("/proc/meminfo") or "", re.MULTILINE))

    def size(name: str) -> Optional[int]:
        return int(values[name]) * 1024 if name in values else None

    return {"total_bytes": size("MemTotal"), "available_bytes": size("MemAvailable")}


def disks(system: System, paths: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return size and free room at each path; of a path that is not there yet, its nearest parent's."""
    result: dict[str, dict[str, Any]] = {}
    for path in paths:
        place = Path(path)
        while not system.exists(str(place)) and place != place.parent:
            place = place.parent
        usage = system.disk_usage(system.path(str(place)))
        if usage is not None:
            result[path] = {"measured_at": str(place), "total_bytes": usage[0], "free_bytes": usage[1]}
    return result


def version_tuple(text: str) -> tuple[int, ...]:
    """Return the numbers at the start of a version: V(4.9.3-dev) is (4, 9, 3)."""
    match = re.match(r"\d+(?:\.\d+)*", text.strip())
    return tuple(int(part) for part in match.group(0).split(".")) if match else ()


def podman(system: System) -> Optional[dict[str, Any]]:
    """Return version, runtime, network backend and storage of podman; None where it is not installed."""
    answer = system.run(["podman", "--version"])
    match = re.search(r"(\d+\.\d+\.\d+\S*)", answer.out)
    if answer.rc != 0 or match is None:
        return None
    found: dict[str, Any] = {
        "version": match.group(1),
        "cdi": version_tuple(match.group(1)) >= (4, 1),
        "quadlet": any(system.exists(path) for path in QUADLET_GENERATORS),
        "runtime": None,
        "network_backend": None,
        "graph_root": None,
        "error": None,
    }
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
    """Return the installed packages that match *patterns* (shell wildcards), with version and hold."""
    if not patterns:
        return {}
    if system.exists("/var/lib/dpkg/status"):
        return _debian_packages(system, patterns)
    return _rpm_packages(system, patterns)


def upstream_version(version: str) -> str:
    """Return a package's version without epoch and distribution's revision."""
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
    answer = system.run(["rpm", "-qa", "--qf", "%{NAME}\t%{VERSION}-%{RELEASE}\n", *patterns])
    locks = "\n".join(
        system.text(path) or ""
        for path in ("/etc/dnf/plugins/versionlock.list", "/etc/yum/pluginconf.d/versionlock.list")
    )
    locked = set(re.findall(r"^(?:\d+:)?([A-Za-z0-9_+.-]+?)-\d+[:.]", locks, re.MULTILINE))
    found = {}
    for line in answer.out.splitlines():
        name, tab, version = line.partition("\t")
        if tab:
            found[name] = _entry(version, name in locked)
    return found


def units(system: System, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return whether each systemd unit exists, runs and is enabled."""
    if not names:
        return {}
    keys = "Id,LoadState,ActiveState,UnitFileState"
    answer = system.run(["systemctl", "show", "--property", keys, "--", *names])
    result = {name: {"exists": False, "active": False, "enabled": False} for name in names}
    for name, block in zip(names, re.split(r"\n\s*\n", answer.out.strip())):
        shown = dict(line.partition("=")[::2] for line in block.splitlines() if "=" in line)
        result[name] = {
            "exists": shown.get("LoadState") == "loaded",
            "active": shown.get("ActiveState") == "active",
            "enabled": shown.get("UnitFileState") in ("enabled", "static", "generated"),
        }
    return result


def recorded_reboot(system: System) -> dict[str, Any]:
    """Return what a role noted about a reboot that is due; a note from before the last boot is void."""
    try:
        noted = json.loads(system.text(REBOOT_FACT) or "{}")
    except ValueError:
        noted = {}
    boot_id = system.text("/proc/sys/kernel/random/boot_id") or ""
    due = bool(noted.get("reboot_required")) and noted.get("boot_id") == boot_id
    return {"noted": system.exists(REBOOT_FACT), "reasons": list(noted.get("reasons", [])) if due else []}
