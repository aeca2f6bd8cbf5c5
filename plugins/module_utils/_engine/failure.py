# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a build failed, from its last words, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Diagnosis:
    """*cause* and *remedy* are clauses of one sentence."""

    cause: str
    remedy: str


# Named, because the host's own evidence leads to them as well.
DISK_FULL = Diagnosis(
    "the disk is full", "free space on the file system of the log and engine directories, then run again"
)
HOST_MEMORY = Diagnosis("the host has too little memory", "free memory, lower workers, or set load_by_shard: true")

# Asked in this order. The patterns are the messages that upstream's users report.
_PATTERNS: tuple[tuple[str, Diagnosis], ...] = (
    (r"No space left on device|OSError: \[Errno 28\]|SafetensorError.*I/O error.*28", DISK_FULL),
    (
        r"not compatible with this version of TensorRT|expecting library version|stdVersionRead",
        Diagnosis(
            "the TensorRT versions differ",
            "build and serve with the same image, and give a timing cache only to the version that wrote it",
        ),
    ),
    (
        r"generated on an incompatible device|expecting compute \d|no kernel image is available"
        r"|SM version .*not supported|Unsupported (SM|architecture)",
        Diagnosis(
            "the release, or one of its files, is made for another GPU",
            "choose a release whose GPUs include this one, and build on the kind of GPU that serves",
        ),
    ),
    (
        r"CUDA out of memory|OutOfMemoryError|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY"
        r"|Cuda Runtime \(out of memory\)|out of memory.*(GPU|device)|Requested amount of GPU memory",
        Diagnosis(
            "the GPU has too little free memory",
            "stop what runs on it, raise tp_size, or lower max_batch_size, max_num_tokens or max_seq_len",
        ),
    ),
    (
        r"MemoryError|Cannot allocate memory|std::bad_alloc|DefaultCPUAllocator: can't allocate memory"
        r"|oom-kill|\bOut of memory\b",
        HOST_MEMORY,
    ),
    (
        r"ModuleNotFoundError: No module named 'tensorrt_llm'|trtllm-build: (command )?not found"
        r"|No such file or directory: 'trtllm-build'",
        Diagnosis(
            "the image cannot build engines",
            "use an image that has the tensorrt_llm package (NVIDIA's own have it from 24.04, release 0.9.0, on), "
            "or give the model an engine_image that has it",
        ),
    ),
    (
        r"can't open file '[^']*(convert_checkpoint|build|quantize|hf_gpt_convert)\.py'|no such script",
        Diagnosis(
            "the image does not have this release's example scripts where they are expected",
            "set examples_dir to where they stand (in the image, or in a checkout of the same release on the host)",
        ),
    ),
    (
        r"error: unrecognized arguments|error: argument --?\S+: invalid choice",
        Diagnosis(
            "the image holds another release than the one given",
            "give the release that the image holds, or the image of the release",
        ),
    ),
    (
        r"Can't load tokenizer|tokenizer.*(not found|does not exist|missing)|requires the (SentencePiece|protobuf)"
        r"|No module named 'sentencepiece'|Couldn't instantiate the backend tokenizer",
        Diagnosis(
            "the checkpoint's tokenizer is missing or cannot be read",
            "complete the checkpoint (tokenizer.json or tokenizer.model) and run again",
        ),
    ),
    (
        r"trust_remote_code|configuration_\w+\.py|modeling_\w+\.py.*(not found|No such file)",
        Diagnosis(
            "the checkpoint needs its own Python files",
            "download the checkpoint with its *.py files",
        ),
    ),
    (
        r"couldn't connect to|ConnectionError|Name or service not known|Temporary failure in name resolution"
        r"|HF_HUB_OFFLINE|OfflineModeIsEnabled|LocalEntryNotFoundError",
        Diagnosis(
            "something had to be downloaded",
            "put the calibration data on the host and set calib_dataset to its directory",
        ),
    ),
    (
        r"libcuda\.so|CUDA driver version is insufficient|no CUDA-capable device|Found no NVIDIA driver"
        r"|CUDA_ERROR_NO_DEVICE|nvidia-container",
        Diagnosis(
            "the container has no usable GPU",
            "check gpus, the CDI specification and the driver (roles gpu_driver and container_toolkit)",
        ),
    ),
    (
        r"unresolvable CDI devices?",
        Diagnosis(
            "the CDI specification does not know a GPU that was given",
            "correct gpus or renew the specification (role container_toolkit)",
        ),
    ),
    (
        r"mpiSize == tp|world_size .* (mismatch|does not match)|must be divisible by",
        Diagnosis(
            "the model cannot be split that way",
            "correct tp_size and pp_size",
        ),
    ),
)


def diagnose(
    lines: Sequence[str], exit_code: int | None, *, oom_killed: bool = False, free_bytes: int | None = None
) -> Diagnosis | None:
    """The cause that *lines* (the last of the log), the exit code and the host show; None where none is known."""
    if oom_killed:
        return replace(HOST_MEMORY, cause="the kernel ended it because the host ran out of memory")
    text = "\n".join(lines)
    for pattern, diagnosis in _PATTERNS:
        if re.search(pattern, text):
            return diagnosis
    if free_bytes is not None and free_bytes < 1 << 20:
        return DISK_FULL
    if exit_code in (-9, 137) or re.search(r"^Killed$", text, re.MULTILINE):
        return replace(HOST_MEMORY, cause="it was killed, most often because the host ran out of memory")
    return None
