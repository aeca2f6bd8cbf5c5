# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the testbed keeps things and which addresses it uses."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "collections"))

from ansible_collections.trtllm.fleet.plugins.plugin_utils._cache import cache_dir

from .errors import TestbedError

DEFAULT_SUBNET = "10.200.0.0/24"
NETWORK = "testbed"
LABEL = "trtllm.testbed"
IMAGE = "localhost/testbed/host"
BASE_IMAGE = "localhost/testbed/base"
SUITE = "trixie"
# What a host may be made of beside it.
SUITES = (SUITE, "bookworm")
# Named before the testbed had its name; hosts and volumes that are there are found by it.
REGISTRY_HOST = "bed-registry"
REGISTRY_VOLUME = "bed-registry"
REGISTRY_PORT = 5000
# Hosts that ask for no address get one of these offsets; lower ones are for those that name theirs.
DYNAMIC_RANGE = range(100, 250)
HOST_FILES = Path(__file__).resolve().parent / "host"


@dataclass(frozen=True)
class Settings:
    """Paths and addresses, all derived from the cache directory and the subnet."""

    cache: Path
    subnet: ipaddress.IPv4Network

    @property
    def gateway(self) -> str:
        """Address of the machine itself in the hosts' network."""
        return str(self.subnet[1])

    @property
    def registry_ip(self) -> str:
        """Address of the registry's host."""
        return str(self.subnet[2])

    @property
    def registry(self) -> str:
        """`address:port` of the registry, as it stands in an image reference."""
        return f"{self.registry_ip}:{REGISTRY_PORT}"

    @property
    def off(self) -> Path:
        """Directory with an empty file for each host that was powered off and shall stay so."""
        return self.cache / "off"

    @property
    def key(self) -> Path:
        """Private ssh key that every host accepts for root."""
        return self.cache / "id_ed25519"

    @property
    def host_key(self) -> Path:
        """Private ssh key that every host presents; one for all, so that a new host is known already."""
        return self.cache / "ssh_host_ed25519_key"

    @property
    def known_hosts(self) -> Path:
        """What the ssh client trusts: the key above, and no other."""
        return self.cache / "known_hosts"

    @property
    def logs(self) -> Path:
        """Output of apt and mmdebstrap, and journals of hosts that did not come up."""
        return self.cache / "logs"

    @property
    def tmp(self) -> Path:
        """Half-made things; emptied by the next `testbed prepare`."""
        return self.cache / "tmp"

    @property
    def socket(self) -> Path:
        """Podman's Docker-compatible API."""
        return self.cache / "podman.sock"

    def address(self, text: str) -> str:
        """The address as given, if a host may have it."""
        try:
            address = ipaddress.IPv4Address(text)
        except ValueError:
            raise TestbedError(f"{text!r} is not an IPv4 address; give NAME=IP with IP in {self.subnet}.") from None
        reserved = {self.subnet[0], self.subnet[1], self.subnet[-1]}
        if address not in self.subnet or address in reserved:
            raise TestbedError(
                f"{text} cannot be a host's address; give one in {self.subnet} other than its first two and last "
                "(another subnet: TRTLLM_TESTBED_SUBNET)."
            )
        return str(address)


def from_environment(env: Mapping[str, str] = os.environ) -> Settings:
    """Read the cache directory and TRTLLM_TESTBED_SUBNET."""
    cache = cache_dir(env) / "testbed"
    text = env.get("TRTLLM_TESTBED_SUBNET") or DEFAULT_SUBNET
    try:
        subnet = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise TestbedError(f"TRTLLM_TESTBED_SUBNET={text!r} is not an IPv4 network ({error}).") from None
    if subnet.prefixlen > 24:
        raise TestbedError(f"TRTLLM_TESTBED_SUBNET={text} is too small for the test hosts; give a /24 or larger.")
    return Settings(cache.absolute(), subnet)
