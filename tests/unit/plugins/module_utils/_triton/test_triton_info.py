# SPDX-License-Identifier: GPL-3.0-or-later
"""What Triton tells is read as it is told, and a server behind a host's loopback is reached."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.client import (
    GenerateClient,
    TritonError,
    TritonServer,
    group_metrics,
    parse_metrics,
    requests_served,
    trt_llm_metrics,
)
from ansible_collections.trtllm.fleet.plugins.plugin_utils import _controller
from unit.triton_fakes import fake_triton

PAGE = """
# HELP nv_trt_llm_request_metrics TRT LLM request metrics
# TYPE nv_trt_llm_request_metrics gauge
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="active",version="1"} 2
nv_trt_llm_request_metrics{model="b_tensorrt_llm",request_type="active",version="1"} 3
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max",version="1"} 64
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="free",model="tensorrt_llm",version="1"} 256
nv_inference_request_success{model="ensemble",version="1"} 12
nv_inference_request_success{model="preprocessing",version="1"} 14
nv_gpu_utilization{gpu_uuid="GPU-1"} NaN-ish
nv_gpu_memory_total_bytes{gpu_uuid="GPU \\"1\\""} 1.5e+11
process_cpu_seconds_total 3
"""


def test_metrics_are_read_from_the_page() -> None:
    samples = parse_metrics(PAGE)
    grouped = group_metrics(samples)
    assert grouped["nv_gpu_memory_total_bytes"] == [{"labels": {"gpu_uuid": 'GPU "1"'}, "value": 1.5e11}]
    assert "process_cpu_seconds_total" not in grouped and "nv_gpu_utilization" not in grouped
    assert trt_llm_metrics(samples) == {"request": {"active": 5.0, "max": 64.0}, "kv_cache_block": {"free": 256.0}}
    assert requests_served(samples, ["ensemble"]) == 12
    assert requests_served(samples) == 26


def test_a_server_is_described_with_nvidias_client() -> None:
    pytest.importorskip("tritonclient.http")
    with fake_triton("unready") as triton:
        server = TritonServer(triton.url)
        found = server.describe()
        server.close()
    assert (found["live"], found["ready"], found["version"]) == (True, True, "2.51.0")
    assert found["models"]["postprocessing"]["ready"] is False
    ensemble = found["models"]["ensemble"]
    assert (ensemble["ready"], ensemble["versions"], ensemble["statistics"]["success"]) == (True, ["1"], 2)
    assert ensemble["statistics"]["queue_ms"] == 1.5


def test_a_server_that_is_not_there_is_an_error_and_no_traceback() -> None:
    pytest.importorskip("tritonclient.http")
    with pytest.raises(TritonError, match="did not answer get_server_metadata"):
        TritonServer("http://127.0.0.1:9", 1).describe()
    with pytest.raises(TritonError, match="gives no answer"):
        GenerateClient("http://127.0.0.1:9", 1).generate("ensemble", {})


def test_an_error_with_status_200_is_an_error() -> None:
    with fake_triton("dead stub", "200") as triton, pytest.raises(TritonError, match="Stub process is not healthy"):
        GenerateClient(triton.url).generate("ensemble", {"max_tokens": 1})


@pytest.mark.parametrize(
    ("host", "answer"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("10.0.0.1", False),
        ("gpu1", False),
    ],
)
def test_loopback_addresses_need_a_tunnel(host: str, answer: bool) -> None:
    assert _controller.is_loopback(host) is answer


def test_the_tunnel_uses_the_connection_that_ansible_has() -> None:
    options: dict[str, Any] = {
        "host": "10.0.0.7", "port": 2222, "remote_user": "ops", "private_key_file": "/keys/id",
        "ssh_args": "-o ControlMaster=auto -o ControlPersist=60s", "ssh_common_args": "-o ProxyJump=bastion",
    }  # fmt: skip
    command = _controller.tunnel_command(options.get, {("127.0.0.1", 8000): 41000})
    text = " ".join(command)
    assert text.endswith("-p 2222 -l ops -i /keys/id -L 127.0.0.1:41000:127.0.0.1:8000 -N -T 10.0.0.7")
    assert text.index("ControlMaster=no") < text.index("ControlMaster=auto")  # ssh takes the first
    assert "ProxyJump=bastion" in text and "BatchMode=yes" in text


def test_what_was_asked_through_a_tunnel_is_told_with_the_address_that_was_given() -> None:
    given = {"url": "http://127.0.0.1:8000", "gateway_url": "http://127.0.0.1:3000/v1", "metrics_url": None}
    here = {**given, "url": "http://127.0.0.1:41000", "gateway_url": "http://127.0.0.1:41001/v1"}
    told = {"checks": [{"answer": "the gateway at http://127.0.0.1:41001/v1 refused", "ok": False}], "seconds": 2}
    assert _controller.as_asked(told, given, here, list(given)) == {
        "checks": [{"answer": "the gateway at http://127.0.0.1:3000/v1 refused", "ok": False}],
        "seconds": 2,
    }
    assert _controller.as_asked("http://10.0.0.7:8000 x", given, given, list(given)) == "http://10.0.0.7:8000 x"
