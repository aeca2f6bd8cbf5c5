# SPDX-License-Identifier: GPL-3.0-or-later
"""One reader of nvidia-smi: a driver that hangs, or says something else, stops neither facts nor status nor builds."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base import command
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._base.sizes import MIB
from ansible_collections.trtllm.fleet.plugins.module_utils._host import facts, nvidia_smi
from ansible_collections.trtllm.fleet.plugins.module_utils._host import gpu as host_gpu
from ansible_collections.trtllm.fleet.plugins.module_utils._host.system import System
from ansible_collections.trtllm.fleet.plugins.module_utils._service.host import ServiceHost
from ansible_collections.trtllm.fleet.plugins.module_utils._service.quadlet import HEADER, QUADLET_DIR
from ansible_collections.trtllm.fleet.plugins.module_utils._triton import state
from fake_host import row


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi, the first of this machine."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


def says(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def lists(program: Path, *rows: str, mig: str = "") -> None:
    says(program, f"case $1 in -L) cat <<'E'\n{mig}\nE\n;; *) cat <<'E'\n" + "\n".join(rows) + "\nE\n;; esac")


MIG = (
    "GPU 0: NVIDIA H200 (UUID: GPU-0)\n"
    "  MIG 1g.18gb     Device  0: (UUID: MIG-a)\n"
    "  MIG 3g.71gb     Device  1: (UUID: MIG-b)"
)


class TestAHangingDriver:
    @pytest.fixture(autouse=True)
    def hangs(self, smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(command, "TIMEOUT_S", 0.3)
        # The child keeps the pipes open after the shell has been killed.
        says(smi, "sleep 20 & wait")

    def test_status_answers_without_the_memory_of_the_gpus(self, tmp_path: Path, smi: Path) -> None:
        says(smi.parent / "systemctl", "echo Id=triton-a.service; echo ActiveState=inactive")
        units = tmp_path / "host" / QUADLET_DIR.lstrip("/")
        units.mkdir(parents=True)
        (units / "triton-a.container").write_text(f"{HEADER}\n")
        began = time.monotonic()
        (found,) = state.replicas(ServiceHost(tmp_path / "host"), "/releases")
        assert time.monotonic() - began < 10
        assert (found["service"], found["gpu_memory_mib"]) == ("triton-a", None)

    def test_facts_say_so(self) -> None:
        driver = facts.gather(System(), subsets=["gpus"], paths=[])["driver"]
        assert (driver["nvml"], driver["nvml_message"]) == ("failed", "nvidia-smi gave no answer within 0.3 s")

    def test_a_build_is_refused_with_the_reason(self) -> None:
        with pytest.raises(FleetError, match=r"\(nvidia-smi gave no answer within 0\.3 s\); check the driver"):
            host_gpu.select([0])

    def test_nothing_of_it_is_left(self, smi: Path) -> None:
        says(smi, f"sh -c 'echo $$ > {smi.parent}/child; exec sleep 20' & wait")
        assert command.run_command(["nvidia-smi"]).rc == 124
        child = Path("/proc") / (smi.parent / "child").read_text().strip() / "stat"
        deadline = time.monotonic() + 5
        while child.exists() and child.read_text().split()[2] != "Z" and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not child.exists() or child.read_text().split()[2] == "Z"


def test_gpus_are_selected_by_index_uuid_and_mig_slice(smi: Path) -> None:
    lists(smi, row(mig="Enabled"), row(1, "00000000:02:00.0"), mig=MIG)
    first, second = host_gpu.select([1, "GPU-1"])
    assert first == second
    assert (first.index, first.name, first.compute_capability) == (1, "NVIDIA H200", "9.0")
    assert (first.memory_total, first.memory_free) == (143771 * MIB, 143160 * MIB)
    by_place, by_uuid = host_gpu.select(["0:1", "nvidia.com/gpu=MIG-b"])
    assert (by_place.name, by_uuid.name) == ("NVIDIA H200 MIG 3g.71gb",) * 2
    assert (by_place.index, by_place.memory_free) == (0, None)
    with pytest.raises(FleetError, match=r"GPU 0:2 is not on this host \(it has 0, 1\)"):
        host_gpu.select(["0:2"])


def test_memory_that_is_not_told_refuses_no_build(smi: Path) -> None:
    lists(smi, row().replace("143771, 143160", "[N/A], [N/A]"))
    assert host_gpu.select([0])[0].memory_free is None
    assert state.gpu_memory() == {}


def test_warnings_among_the_rows_are_passed_over(smi: Path) -> None:
    lists(smi, row(), "WARNING: infoROM is corrupted at gpu 0000:01:00.0")
    assert [gpu.index for gpu in host_gpu.select([0])] == [0]
    assert state.gpu_memory()["0"] == (143771 - 143160, 143771)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "version mismatch"),
        ("echo nonsense", "printed what is not understood: nonsense"),
        ("exit 3", "ended with 3"),
    ],
)
def test_what_nvidia_smi_says_instead_is_quoted(smi: Path, script: str, words: str) -> None:
    says(smi, script)
    with pytest.raises(FleetError, match=words):
        host_gpu.select([0])


def test_a_host_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(command, "SEARCH_PATH", str(tmp_path))
    assert host_gpu.executable() is None and state.gpu_memory() == {}
    with pytest.raises(FleetError, match="install the driver"):
        host_gpu.select([0])


def test_it_is_found_where_a_poor_path_does_not_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists(tmp_path / "nvidia-smi", row())
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(command, "SEARCH_PATH", f"{tmp_path}:/usr/bin:/bin")
    assert nvidia_smi.read(System()).state == "ok" and state.gpu_memory()
    json.dumps(nvidia_smi.read(System()).gpus)
