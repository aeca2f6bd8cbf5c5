# SPDX-License-Identifier: GPL-3.0-or-later
"""The common causes of a failed build are recognised by the words that upstream's tools use."""

from __future__ import annotations

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._engine.failure import diagnose
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST

WORDS = {
    "the disk is full": ["OSError: [Errno 28] No space left on device: 'rank1.safetensors'"],
    "the TensorRT versions differ": [
        "The engine plan file is not compatible with this version of TensorRT, expecting library version 10.1 got 9.3"
    ],
    "the release, or one of its files, is made for another GPU": [
        "The engine plan file is generated on an incompatible device, expecting compute 8.6 got compute 8.0",
        "CUDA error: no kernel image is available for execution on the device",
    ],
    "the GPU has too little free memory": [
        "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "[TRT] [E] 1: [defaultAllocator.cpp::allocate::42] Error Code 1: Cuda Runtime (out of memory)",
    ],
    "the host has too little memory": ["RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory"],
    "the image cannot build engines": ["ModuleNotFoundError: No module named 'tensorrt_llm'"],
    "the image does not have this release's example scripts where they are expected": [
        "python3: can't open file '/app/examples/llama/convert_checkpoint.py': [Errno 2] No such file or directory"
    ],
    "the image holds another release than the one given": [
        "trtllm-build: error: unrecognized arguments: --max_seq_len"
    ],
    "the checkpoint's tokenizer is missing or cannot be read": ["OSError: Can't load tokenizer for '/models/x'."],
    "something had to be downloaded": ["huggingface_hub.errors.OfflineModeIsEnabled: Cannot reach https://"],
    "the container has no usable GPU": ["ImportError: libcuda.so.1: cannot open shared object file"],
}


@pytest.mark.parametrize(("cause", "line"), [(cause, line) for cause, lines in WORDS.items() for line in lines])
def test_a_known_cause_is_recognised(cause: str, line: str) -> None:
    found = diagnose([f"[TensorRT-LLM] TensorRT-LLM version: {LAST}", line, "exit"], 1)
    assert found is not None
    assert found.cause == cause
    assert found.remedy


def test_an_unknown_cause_is_not_guessed() -> None:
    assert diagnose(["AssertionError: something new"], 1) is None
    assert diagnose([], None) is None


def test_the_host_s_own_evidence_counts() -> None:
    for found in (diagnose([], -9), diagnose(["Killed"], 137), diagnose([], 1, oom_killed=True)):
        assert found is not None
        assert "memory" in found.cause
    full = diagnose([], 1, free_bytes=0)
    assert full is not None
    assert full.cause == "the disk is full"


def test_the_host_s_own_evidence_leads_to_the_remedy_of_its_cause() -> None:
    """Not to that of whichever pattern stands in some place of the list."""
    killed, memory = diagnose(["Killed"], 137), diagnose(["MemoryError"], 1)
    full, disk = diagnose([], 1, free_bytes=0), diagnose(["No space left on device"], 1)
    assert killed is not None and memory is not None
    assert killed.remedy == memory.remedy == "free memory, lower workers, or set load_by_shard: true"
    assert full == disk
