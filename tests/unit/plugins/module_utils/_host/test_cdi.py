# SPDX-License-Identifier: GPL-3.0-or-later
"""CDI specifications: read without PyYAML, and caught when they lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml as reference
from ansible_collections.trtllm.fleet.plugins.module_utils._host import cdi, yaml
from fake_host import FakeHost
from hypothesis import given
from hypothesis import strategies as st

SPEC = """---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
    - name: "0"
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
    - name: all
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
containerEdits:
    env:
        - NVIDIA_CTK_LIBCUDA_DIR=/usr/lib/x86_64-linux-gnu
    deviceNodes:
        - path: /dev/nvidia-uvm
          major: 510
          minor: 0
    hooks:
        - hookName: createContainer
          path: /usr/bin/nvidia-cdi-hook
          args: [nvidia-cdi-hook, update-ldcache, --folder, /usr/lib/x86_64-linux-gnu]
    mounts:
        - hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05
          containerPath: /usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05
          options: [ro, nosuid, nodev, rbind, rprivate]
"""
GPU = {"index": 0, "uuid": "GPU-0", "mig": {"enabled": False, "devices": []}}


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    host = FakeHost(tmp_path)
    host.write("/etc/cdi/nvidia.yaml", SPEC).device("/dev/nvidia0", 195, 0).device("/dev/nvidia-uvm", 510, 0)
    host.write("/usr/bin/nvidia-cdi-hook", "")
    return host.write("/usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05", "")


def problems(host: FakeHost, gpus: Any = (GPU,)) -> list[str]:
    found = cdi.read(host.system, list(gpus) if gpus is not None else None)["problems"]
    return [f"{problem['kind']}: {problem['message']}" for problem in found]


def test_true_specification(host: FakeHost) -> None:
    seen = cdi.read(host.system, [GPU])
    assert seen["devices"] == ["nvidia.com/gpu=0", "nvidia.com/gpu=all"]
    assert seen["specs"][0]["driver"] == "580.95.05"
    assert seen["problems"] == []


def test_major_number_of_uvm_changed_over_a_reboot(host: FakeHost) -> None:
    host.device("/dev/nvidia-uvm", 511, 0)
    assert problems(host) == [
        "stale_device: /etc/cdi/nvidia.yaml declares /dev/nvidia-uvm as device 510:0, but it is 511:0"
    ]


def test_device_that_is_gone_is_told_once(host: FakeHost) -> None:
    host.devices.pop("/dev/nvidia0")
    assert problems(host) == ["stale_device: /etc/cdi/nvidia.yaml declares /dev/nvidia0, which does not exist"]


def test_libraries_of_the_driver_before(host: FakeHost) -> None:
    (host.root / "usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05").unlink()
    assert problems(host)[0].startswith("stale_file: /etc/cdi/nvidia.yaml mounts /usr/lib/")


def test_a_hook_without_its_program(host: FakeHost) -> None:
    (host.root / "usr/bin/nvidia-cdi-hook").unlink()
    assert problems(host) == ["stale_file: /etc/cdi/nvidia.yaml runs /usr/bin/nvidia-cdi-hook, which does not exist"]


def test_leftover_beside_a_fresh_one(host: FakeHost) -> None:
    host.write("/var/run/cdi/nvidia.yaml", SPEC)
    assert problems(host) == [
        "duplicate: /etc/cdi/nvidia.yaml and /var/run/cdi/nvidia.yaml both declare nvidia.com/gpu=0,"
        " nvidia.com/gpu=all: the one in /var/run/cdi hides the other"
    ]


def test_two_in_one_directory_block_each_other(host: FakeHost) -> None:
    host.write("/etc/cdi/other.yaml", SPEC)
    assert "neither can be used" in problems(host)[0]


def test_mig_was_enabled_since(host: FakeHost) -> None:
    devices = [{"index": 0, "uuid": "MIG-a"}, {"index": 1, "uuid": "MIG-b"}]
    gpu = {"index": 0, "uuid": "GPU-0", "mig": {"enabled": True, "devices": devices}}
    assert problems(host, [gpu]) == [
        "missing: the GPU 0:0 is in no CDI specification",
        "missing: the GPU 0:1 is in no CDI specification",
        "gone: a CDI specification declares the GPU 0, which does not exist",
    ]


def test_gpu_added_since(host: FakeHost) -> None:
    assert problems(host, [GPU, {**GPU, "index": 1, "uuid": "GPU-1"}]) == [
        "missing: the GPU 1 is in no CDI specification"
    ]


def test_devices_named_by_uuid(host: FakeHost) -> None:
    host.write("/etc/cdi/nvidia.yaml", SPEC.replace('"0"', "GPU-0"))
    assert problems(host) == []
    assert problems(host, [{**GPU, "uuid": "GPU-9"}]) == [
        "gone: a CDI specification declares the GPU GPU-0, which does not exist"
    ]


def test_without_an_answer_of_nvidia_smi_nothing_is_said_of_missing_gpus(host: FakeHost) -> None:
    assert problems(host, None) == []


def test_specification_of_another_vendor_is_no_business_of_ours(host: FakeHost) -> None:
    host.write("/etc/cdi/nvidia.yaml", SPEC.replace("nvidia.com/gpu", "example.org/net"))
    assert problems(host) == []


@pytest.mark.parametrize("text", ["kind: [", "a: &x 1\nkind: b", "just text", "- a\n- b", "kind: a\nkind: b", "{"])
def test_no_specification_at_all(host: FakeHost, text: str) -> None:
    host.write("/etc/cdi/nvidia.yaml", text)
    found = problems(host)
    assert len(found) == 1 and found[0].startswith("unreadable: /etc/cdi/nvidia.yaml is no CDI specification")


def test_json_specification(host: FakeHost) -> None:
    host.write("/etc/cdi/nvidia.yaml", "").write(
        "/etc/cdi/a.json", '{"kind": "nvidia.com/gpu", "devices": [{"name": "0"}]}'
    )
    assert "nvidia.com/gpu=0" in cdi.read(host.system, None)["devices"]


TEXT = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]), max_size=20)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-9999, 9999) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT.filter(bool), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(TEXT.filter(bool), TREES, min_size=1, max_size=4), st.booleans())
def test_reads_what_yaml_writers_write(tree: dict[str, Any], flow: bool) -> None:
    text = reference.safe_dump(tree, default_flow_style=flow, width=10**6)
    if any(sign in text for sign in ("? ", "!!", "|", ">")):
        return  # writers of specifications have no use for these forms
    assert yaml.load(text) == reference.safe_load(text)
