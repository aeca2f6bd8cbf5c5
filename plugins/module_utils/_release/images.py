# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an image with Triton and TensorRT-LLM is built from, by release: repository, tag, Dockerfile and arguments.

Sources: ``dockerfile/Dockerfile.trt_llm_backend`` and the README (later ``docs/build.md``) of tensorrtllm_backend at
each tag; from 0.20 on ``docker/Dockerfile.multi`` and ``docker/Makefile`` of TensorRT-LLM, where the former went.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from .releases import release, require_engines, within

BACKEND = "https://github.com/triton-inference-server/tensorrtllm_backend.git"
TENSORRT_LLM = "https://github.com/NVIDIA/TensorRT-LLM.git"


@dataclass(frozen=True)
class Source:
    """What one release is built from.

    *base_image*: what its Dockerfile is built on where no argument says otherwise. *target*: the stage of the
    Dockerfile, None for the last. *build_args*: what upstream's own command gives on this machine.
    """

    repository: str
    version: str
    containerfile: str
    target: Optional[str]
    base_image: Optional[str]
    build_args: dict[str, str]


# releases | repository | Dockerfile | stage
_PLACES = """
0.7.1-0.19.0 | backend      | dockerfile/Dockerfile.trt_llm_backend | -
0.20.0-      | TensorRT-LLM | docker/Dockerfile.multi               | tritonrelease
"""

# releases | tag of nvcr.io/nvidia/tritonserver that the Dockerfile is built on
_BASES = """
0.7.1         | 23.10-py3
0.8.0         | 23.12-py3
0.9.0         | 24.02-py3
0.10.0        | 24.03-py3
0.11.0        | 24.05-py3
0.12.0-0.14.0 | 24.07-py3
0.15.0        | 24.10-py3
0.16.0        | 24.11-py3
0.17.0        | 25.01-py3
0.18.0        | 25.02-py3
0.18.1-0.19.0 | 25.03-py3
"""

# releases | machine | argument | value
_ARGUMENTS = """
0.7.1-0.16.0 | aarch64 | TORCH_INSTALL_TYPE | src_non_cxx11_abi
0.20.0-      | any     | DEVEL_IMAGE        | tritondevel
0.20.0-      | any     | TRT_LLM_VER        | {version}
"""
BASE_REPOSITORY = "nvcr.io/nvidia/tritonserver"
REPOSITORIES = {"backend": BACKEND, "TensorRT-LLM": TENSORRT_LLM}


def _rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


def source_of(version: str, machine: str) -> Source:
    """What the release called *version* is built from on *machine*, such as ``x86_64``; raises `FleetError`."""
    wanted = release(version)
    require_engines(wanted)
    _, name, containerfile, stage = next(row for row in _rows(_PLACES) if within(wanted, row[0]))
    base = next((tag for span, tag in _rows(_BASES) if within(wanted, span)), None)
    return Source(
        repository=REPOSITORIES[name],
        version=wanted.backend_tag if name == "backend" else f"v{wanted.version}",
        containerfile=containerfile,
        target=None if stage == "-" else stage,
        base_image=f"{BASE_REPOSITORY}:{base}" if base else None,
        build_args={
            argument: value.format(version=wanted.version)
            for span, where, argument, value in _rows(_ARGUMENTS)
            if within(wanted, span) and where in ("any", machine)
        },
    )
