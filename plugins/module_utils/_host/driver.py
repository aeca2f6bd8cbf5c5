# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the driver role has to do on a host, worked out before anything is changed.

Pure: facts of ``gpu_host_info``, the role's settings and its data tables in; refusals, package names and pins
out. The role's tasks do what stands here and decide nothing themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from .._base.sizes import MIB
from .._base.versions import version_key
from .platforms import host_platform, known

DRIVER_VERSION = re.compile(r"\d{3}\.\d{2,3}(?:\.\d{2})?$")


_SECURE_BOOT_WAYS = {
    "ubuntu": "set gpu_driver_source to distribution, whose modules are signed",
    "": "enrol a key for DKMS (mokutil --import, confirmed at the console), set gpu_driver_secure_boot_key_enrolled",
}


@dataclass(frozen=True)
class Context:
    """One host with its platform, its settings and the role's data, and what follows at once from them."""

    host: Mapping[str, Any]
    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    platform: Mapping[str, Any]

    @property
    def family(self) -> str:
        return str(self.platform["family"])

    @property
    def manager(self) -> str:
        return str(self.platform["manager"])

    @property
    def branch(self) -> int:
        return int(self.settings["branch"])

    @property
    def source(self) -> str:
        return str(self.settings["source"])

    @property
    def gpus(self) -> list[Mapping[str, Any]]:
        """The GPUs on the bus that are this host's own to drive."""
        return [gpu for gpu in self.host["gpus"] if gpu["pci_id"] and gpu["pci_driver"] != "vfio-pci"]


def plan(
    host: Mapping[str, Any], settings: Mapping[str, Any], data: Mapping[str, Any], platforms: Mapping[str, Any]
) -> dict[str, Any]:
    """What to do; ``refusals`` is a list of sentences, and where it is not empty nothing may be done."""
    context = Context(host, settings, data, host_platform(host["os"], platforms))
    if not context.gpus:
        return {"needed": False, "refusals": []}
    refusals: list[str] = []
    _check_system(context, known(platforms), refusals)
    if refusals:
        return {"needed": True, "refusals": refusals}
    flavor = _flavor(context, refusals)
    table = _table(context)
    _check_source(context, table, refusals)
    _check_repositories(context, refusals)
    installed = driver_packages(host["packages"], data)
    if host["driver"]["loaded"] and host["driver"]["userspace"] and not installed:
        refusals.append(
            f"driver {host['driver']['userspace']} was not installed from packages; remove it"
            " (nvidia-uninstall), or set gpu_driver_manage to false to keep it"
        )
    if refusals:
        return {"needed": True, "refusals": refusals}
    held = max((entry["upstream"] for entry in installed.values()), key=version_key, default=None)
    target = _target(context, held, refusals)
    versioned = _versioned_packages(context, table, flavor)
    modules = _module_packages(context, table, flavor)
    other = [*data["fabric"][fabric(context)]["other"], *_headers(context, table)]
    pending = [name for name in versioned if not _has(host, name, target)]
    pending += [name for name in [*modules, *other] if name not in host["packages"]]
    if pending:
        _check_boot(context, refusals)
    return {
        "needed": True,
        "refusals": refusals,
        "platform": context.platform["name"],
        "manager": context.manager,
        "flavor": flavor,
        "build": table["build"],
        "stream": _stream(context, flavor),
        "target": target,
        "installed_version": held,
        "versioned": versioned,
        "modules": modules,
        "other": other,
        "pending": pending,
        "surplus": _surplus(context, installed),
        "services": ["nvidia-persistenced.service", *data["fabric"][fabric(context)]["services"]],
        "kernel_modules": list(data["fabric"][fabric(context)]["modules"]),
        "mismatched": sorted(
            f"{name} {entry['upstream']}" for name, entry in installed.items() if entry["upstream"] != (target or held)
        ),
        # One line for each name: a pattern of names would lock the container toolkit too.
        "locks": sorted(f"{name}-{entry.get('epoch', '0')}:{entry['upstream']}-*" for name, entry in installed.items()),
        "held": sorted(name for name, entry in installed.items() if entry["held"]),
        "unheld": sorted(name for name, entry in installed.items() if not entry["held"]),
        "forbidden_origins": list(data["forbidden_origins"][context.source]),
        "repository": _repository(context),
    }


def _check_system(context: Context, supported: str, refusals: list[str]) -> None:
    if not context.platform:
        name = context.host["os"]["name"] or "an unknown system"
        refusals.append(f"{name} is not supported; use one of {supported}")
    if context.host["kernel"]["machine"] not in context.data["architectures"]:
        machines = " and ".join(context.data["architectures"])
        refusals.append(f"a {context.host['kernel']['machine']} machine is not supported; {machines} are")
    branches = [str(branch) for branch in context.settings["branches"]]
    if str(context.settings["branch"]) not in branches:
        refusals.append(
            f"driver branch {context.settings['branch']} is not known; use one of {', '.join(branches)}, or add it"
            " to gpu_driver_branches"
        )
    version = str(context.settings["version"] or "")
    if version and not DRIVER_VERSION.match(version):
        refusals.append(f"gpu_driver_version {version!r} is no driver version; give one like 580.95.05")
    elif version and version.split(".")[0] != str(context.settings["branch"]):
        refusals.append(
            f"gpu_driver_version {version} is not of branch {context.settings['branch']}; make"
            " gpu_driver_branch and gpu_driver_version agree"
        )


def _flavor(context: Context, refusals: list[str]) -> str:
    """``open`` or ``proprietary``, and refuse what the GPUs cannot be driven by."""
    wanted = str(context.settings["modules"])
    old = [gpu for gpu in context.gpus if gpu["open_modules"] == "no"]
    new = [gpu for gpu in context.gpus if gpu["open_modules"] == "only"]
    if old and context.branch > context.data["pre_turing_last_branch"]:
        refusals.append(
            f"{_names(old)} needs branch {context.data['pre_turing_last_branch']} or older, and"
            f" gpu_driver_branch is {context.branch}"
        )
    if old and new:
        refusals.append(
            f"{_names(old)} needs proprietary modules and {_names(new)} open ones, and a host can have only one"
            " kind; take one kind of GPU out"
        )
    if wanted == "open" and old:
        refusals.append(f"{_names(old)} is not driven by open modules; set gpu_driver_modules to proprietary")
    if wanted == "proprietary" and new:
        refusals.append(f"{_names(new)} is driven by open modules only; set gpu_driver_modules to open")
    if wanted != "auto":
        return wanted
    return "proprietary" if old else "open"


def _names(gpus: Sequence[Mapping[str, Any]]) -> str:
    first = gpus[0]
    return f"GPU {first['pci_address']} (10de:{first['pci_id']}, {first['architecture'] or 'newer than known'})"


def _table(context: Context) -> Mapping[str, Any]:
    tables = context.data["packages"][context.source]
    if (
        context.source == "nvidia"
        and context.family == "ubuntu"
        and context.branch >= context.data["apt_unversioned_from"]
    ):
        return dict(tables["ubuntu-unversioned"])
    return dict(tables.get(context.family, {}))


def _check_source(context: Context, table: Mapping[str, Any], refusals: list[str]) -> None:
    if not table:
        refusals.append(
            f"{context.host['os']['name']} has no NVIDIA driver in its own archive; set gpu_driver_source to nvidia"
        )
        return
    own = context.platform["driver_branches"]
    if context.source == "distribution" and own and str(context.settings["branch"]) not in own:
        refusals.append(
            f"{context.host['os']['name']} has driver branch {', '.join(own)} only; set gpu_driver_branch to it, or"
            " gpu_driver_source to nvidia"
        )
    if context.source == "distribution" and context.family == "debian" and fabric(context) != "none":
        refusals.append("Debian has no fabric manager; set gpu_driver_source to nvidia on a host with NVSwitches")
    signed = table["build"] == "signed" or context.settings["secure_boot_key_enrolled"]
    if context.host["secure_boot"] == "enabled" and not signed and context.host["driver"]["loaded"] is None:
        refusals.append(
            "Secure Boot is enabled and refuses modules that are built on the host: "
            + _SECURE_BOOT_WAYS.get(context.family, _SECURE_BOOT_WAYS[""])
            + ", or disable Secure Boot in the firmware"
        )


def _check_repositories(context: Context, refusals: list[str]) -> None:
    """Refuse a second configuration of the same repository: apt takes no two keys for one address."""
    if context.source != "nvidia" or not context.settings["manage_repository"]:
        return
    ours = _repository(context)
    for found in context.host["repositories"]:
        if found["path"] != ours["file"] and found["url"].rstrip("/") == ours["url"].rstrip("/"):
            refusals.append(
                f"{found['path']} configures {found['url']} already; remove that file, or set"
                " gpu_driver_manage_repository to false to keep it"
            )


def fabric(context: Context) -> str:
    """What joins the GPUs, or what the operator says does."""
    given = str(context.settings["fabric"])
    return str(context.host["fabric"]) if given == "auto" else given


def _target(context: Context, held: Optional[str], refusals: list[str]) -> Optional[str]:
    """The version to have: the one asked for, else the installed one of the branch, else None.

    None means the newest of the branch that the repository offers.
    """
    version = str(context.settings["version"] or "")
    if held and not context.settings["allow_downgrade"]:
        lower = version_key(version) < version_key(held) if version else context.branch < version_key(held)[0]
        if lower:
            refusals.append(
                f"driver {held} is installed and {version or context.branch} is older; set"
                " gpu_driver_allow_downgrade to go back on purpose"
            )
    if version:
        return version
    if held and version_key(held)[0] == context.branch and not context.settings["upgrade"]:
        return held
    return None


def _fill(names: Iterable[str], **values: str) -> list[str]:
    return [name.format(**values) for name in names]


def _versioned_packages(context: Context, table: Mapping[str, Any], flavor: str) -> list[str]:
    if context.settings["packages"]:
        return list(context.settings["packages"])
    names = _fill(table[flavor], branch=str(context.branch))
    for name in context.data["fabric"][fabric(context)]["versioned"]:
        bare = context.manager == "dnf" or (
            context.source == "nvidia" and context.branch >= context.data["fabric_unversioned_from"]
        )
        names.append(name if bare else f"{name}-{context.branch}")
    return names


def _module_packages(context: Context, table: Mapping[str, Any], flavor: str) -> list[str]:
    """The packages of modules made for one kernel each: the running one and newer ones."""
    if "modules" not in table or context.settings["packages"]:
        return []
    return [
        table["modules"][flavor].format(branch=str(context.branch), kernel=release)
        for release in bootable_kernels(context.host)
    ]


def bootable_kernels(host: Mapping[str, Any]) -> list[str]:
    """The kernel that runs now and the one that boots next, once if they are the same."""
    return list(dict.fromkeys([str(host["kernel"]["release"]), str(host["kernel"]["next"])]))


def _headers(context: Context, table: Mapping[str, Any]) -> list[str]:
    """The packages of kernel headers that DKMS lacks; headers that lie there count, however they came."""
    if table["build"] != "dkms" or not context.settings["kernel_headers"]:
        return []
    kernel = context.host["kernel"]
    name = context.data["headers"][context.manager]
    lacking = [release for release in bootable_kernels(context.host) if release not in kernel["headers"]]
    return [name.format(kernel=release) for release in lacking]


def _has(host: Mapping[str, Any], name: str, target: Optional[str]) -> bool:
    entry = host["packages"].get(name)
    return bool(entry) and not entry.get("broken") and (target is not None and entry["upstream"] == target)


def driver_packages(packages: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """The installed packages that make up the driver, by name."""
    return {
        name: entry
        for name, entry in packages.items()
        if re.search(data["set"], name)
        and not re.search(data["not_in_set"], name)
        and DRIVER_VERSION.match(entry["upstream"])
    }


def _surplus(context: Context, installed: Mapping[str, Any]) -> list[str]:
    """Installed packages of another branch, which an upgrade must take away."""
    branch = str(context.branch)
    return sorted(
        name
        for name, entry in installed.items()
        if entry["upstream"].split(".")[0] != branch and re.search(r"-\d{3}(-|$)", name)
    )


def _stream(context: Context, flavor: str) -> str:
    if context.source != "nvidia" or not context.platform["driver_streams"]:
        return ""
    return str(context.data["streams"][flavor]).format(branch=context.branch)


def _repository(context: Context) -> dict[str, Any]:
    """Address, key and file of NVIDIA's repository, or of the mirror that stands for it."""
    settings, platform, key = context.settings, context.platform, context.platform["driver_key"]
    directory, identity = platform["driver_directory"], context.data["repository"]
    architecture = context.data["architectures"][context.host["kernel"]["machine"]]
    url = settings["repository_url"] or f"{settings['repository_root'].rstrip('/')}/{directory}/{architecture}/"
    return {
        "id": identity,
        "url": url,
        "key": settings["repository_key"] or f"{url.rstrip('/')}/{key}.pub",
        "fingerprints": list(settings["repository_fingerprints"] or context.data["keys"][key]),
        "file": platform["repository_file"].format(id=identity),
    }


def _check_boot(context: Context, refusals: list[str]) -> None:
    """An initramfs is written anew; a full /boot leaves a host that does not boot."""
    least = float(context.settings["boot_free_mib"])
    measured = context.host["disk"].get("/boot")
    if measured is not None and measured["free_bytes"] < least * MIB:
        refusals.append(
            f"/boot has {measured['free_bytes'] / MIB:.0f} MiB free and {least:.0f} are needed for a new initramfs;"
            " remove old kernels, or lower gpu_driver_boot_free_mib"
        )


def versions(listing: str, branch: str = "") -> list[str]:
    """The driver versions, rising, in what ``apt-cache madison`` or ``dnf repoquery`` printed.

    With *branch*, those of that branch alone.
    """
    found = set()
    for word in re.split(r"[\s|]+", listing):
        upstream = re.split(r"[-~+]", word.split(":", 1)[-1])[0]
        if DRIVER_VERSION.match(upstream) and upstream.split(".")[0] == (branch or upstream.split(".")[0]):
            found.add(upstream)
    return sorted(found, key=version_key)
