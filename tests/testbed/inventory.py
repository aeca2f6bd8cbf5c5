# SPDX-License-Identifier: GPL-3.0-or-later
"""How ssh and Ansible reach the hosts. Host keys are pinned: there is one, and known_hosts holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .settings import Settings


def ssh_options(settings: Settings) -> dict[str, str]:
    """Options of the ssh client, by name."""
    return {
        "IdentityFile": str(settings.key),
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": str(settings.known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
    }


def connection_vars(settings: Settings) -> dict[str, str]:
    """Ansible variables that hold for every test host."""
    options = {k: v for k, v in ssh_options(settings).items() if k != "IdentityFile"}
    return {
        "ansible_connection": "ssh",
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(settings.key),
        "ansible_ssh_common_args": " ".join(f"-o {name}={value}" for name, value in options.items()),
        "ansible_python_interpreter": "/usr/bin/python3",
    }


def instance(settings: Settings, name: str, ip: str) -> dict[str, Any]:
    """One entry of molecule's instance config, and where the pinned host key is."""
    return {
        "instance": name,
        "address": ip,
        "user": "root",
        "port": 22,
        "identity_file": str(settings.key),
        "known_hosts": str(settings.known_hosts),
    }


def inventory(settings: Settings, addresses: Mapping[str, str], group: str | None = None) -> dict[str, Any]:
    """An Ansible inventory of the hosts, in a group if one is named."""
    hosts = {name: {"ansible_host": ip} for name, ip in addresses.items()}
    tree: dict[str, Any] = {"vars": connection_vars(settings)}
    if group:
        tree["children"] = {group: {"hosts": hosts}}
    else:
        tree["hosts"] = hosts
    return {"all": tree}


def ssh_config(settings: Settings, addresses: Mapping[str, str]) -> str:
    """An ssh client configuration: `ssh -F FILE NAME`."""
    options = "".join(f"  {name} {value}\n" for name, value in ssh_options(settings).items())
    return "".join(f"Host {name}\n  HostName {ip}\n  User root\n{options}" for name, ip in addresses.items())
