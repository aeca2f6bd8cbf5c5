# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of ours that a person, a disk or a power cut has damaged: read as far as they go, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.artifact_store import ArtifactStore
from ansible_collections.trtllm.fleet.plugins.module_utils._base.files import read_object
from ansible_collections.trtllm.fleet.plugins.module_utils._engine.job import Job
from ansible_collections.trtllm.fleet.plugins.module_utils._host import facts
from ansible_collections.trtllm.fleet.plugins.module_utils._host.base import REBOOT_FACT
from ansible_collections.trtllm.fleet.plugins.module_utils._hub.request import read_record
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.image_ids import Images
from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.state import RolloutState
from ansible_collections.trtllm.fleet.plugins.module_utils._service.host import ServiceHost
from ansible_collections.trtllm.fleet.plugins.module_utils._service.record import ReleaseRecord
from ansible_collections.trtllm.fleet.plugins.module_utils._service.units import own_sockets, own_units, unit_files
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.firewall import RULES_FILE, Firewall
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.gang import SECRET, keep_secret
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.state import gathered_logits
from fake_host import FakeHost, row

DAMAGES = {
    "emptied": b"",
    "cut short": b'{"time": "20',
    "of binary bytes": bytes(range(256)),
    "a list": b"[1]",
    "null": b"null",
    "of other types": json.dumps(
        {
            "ids": [1], "digests": 2, "until": None, "id": 3, "files": [], "asked": 4, "build_config": [5], "error": {},
            "state": [6], "version": 7, "time": 8, "outcome": 9, "unit_path": 10, "unit_sha256": 11, "unit": 12,
        }
    ).encode(),
}  # fmt: skip
# What is read: the file, and what reads it below a directory.
Reader = Callable[[Path], Any]
READERS: dict[str, tuple[str, Reader]] = {
    "images": (
        "engines/.images.json",
        lambda root: (Images(root).digest("a"), Images(root).remembered_id("a@sha256:1")),
    ),
    "release record": (
        "x.jsonl",
        lambda root: (ReleaseRecord(root, "x").entries(), ReleaseRecord(root, "x").known("u")),
    ),
    "rollout's lock": ("rollouts/lock.json", lambda root: RolloutState(root).holder()),
    "rollout's journal": (
        "rollouts/journal.jsonl",
        lambda root: (RolloutState(root).lines(), RolloutState(root).unsettled()),
    ),
    "unit": ("etc/containers/systemd/triton-x.container", lambda root: own_units(ServiceHost(root), "triton-")),
    "unit of a service": ("etc/containers/systemd/x.container", lambda root: unit_files(ServiceHost(root), "x")),
    "socket": (
        "etc/systemd/system/x.socket",
        lambda root: (own_sockets(ServiceHost(root)), unit_files(ServiceHost(root), "x")),
    ),
    "firewall's rules": (RULES_FILE.lstrip("/"), lambda root: Firewall(root).files()),
    "secret of a gang": (SECRET, lambda root: keep_secret(root, None)),
    "engine's config": ("e/config.json", lambda root: gathered_logits(ServiceHost(root), "/e")),
    "manifest": (
        "engines/m/f/manifest.json",
        lambda root: ArtifactStore(root / "engines").verify(root / "engines/m/f", False),
    ),
    "job's state": ("jobs/m/f/status.json", lambda root: Job(root, "m", "f")._status()),
    "job's description": ("jobs/m/f/spec.json", lambda root: Job(root, "m", "f").spec()),
    "record of a download": ("m.source.json", lambda root: read_record(root / "m.source.json")),
    "any object": ("o.json", lambda root: read_object(root / "o.json")),
}


OF_THE_SYSTEM = (
    "/etc/cdi/nvidia.yaml", REBOOT_FACT, "/proc/driver/nvidia/version", "/etc/os-release",
    "/sys/bus/pci/devices/0000:01:00.0/class", "/etc/dnf/plugins/versionlock.list", "/etc/apt/sources.list.d/a.sources",
)  # fmt: skip
CDI = {
    **DAMAGES,
    "of odd devices": b'{"kind": "nvidia.com/gpu", "devices": [1, {"name": 2}, null], "containerEdits": []}',
    "of odd nodes": b'{"kind": "nvidia.com/gpu", "devices": [{"name": "0", "containerEdits": {"deviceNodes": [5]}}]}',
    "of odd mounts": b'{"kind": "nvidia.com/gpu", "containerEdits": {"mounts": 1, "hooks": [2], "deviceNodes": {}}}',
}


@pytest.mark.parametrize("damage", CDI)
@pytest.mark.parametrize("name", OF_THE_SYSTEM)
def test_a_host_with_a_damaged_file_can_be_looked_at(tmp_path: Path, name: str, damage: str) -> None:
    host = FakeHost(tmp_path, "rocky-9" if "dnf" in name else "debian-13").gpu(driver="nvidia").driver().smi(row())
    path = tmp_path / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(CDI[damage])
    facts.gather(host.system)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_read_as_far_as_it_goes(tmp_path: Path, reader: str, damage: str) -> None:
    name, read = READERS[reader]
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(DAMAGES[damage])
    read(tmp_path)
