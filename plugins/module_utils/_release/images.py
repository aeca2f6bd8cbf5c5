# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an image with Triton and TensorRT-LLM is built from, by release: repository, tag, Dockerfile and arguments.

Sources: ``dockerfile/Dockerfile.trt_llm_backend`` and the README (later ``docs/build.md``) of tensorrtllm_backend at
each tag; from 0.20 on ``docker/Dockerfile.multi`` and ``docker/Makefile`` of TensorRT-LLM, where the former went.
For the build by Triton's server, the README up to 0.11, from 0.12 on ``build.sh`` and the defaults of
``dockerfile/Dockerfile.triton.trt_llm_backend`` of tensorrtllm_backend, and ``build.py`` of the server at each branch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from .._base.errors import FleetError
from .releases import release, require_engines, within

BACKEND = "https://github.com/triton-inference-server/tensorrtllm_backend.git"
TENSORRT_LLM = "https://github.com/NVIDIA/TensorRT-LLM.git"
ORGANIZATION = "https://github.com/triton-inference-server"
SERVER = f"{ORGANIZATION}/server.git"


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


# -- by build.py of Triton's server ----------------------------------------------------------------------------------

SERVER_BASE = "dockerfile/Dockerfile.triton.trt_llm_backend"
_TENSORRT = "https://developer.nvidia.com/downloads/compute/machine-learning/tensorrt"

# releases | argument of the base image's Dockerfile | value; from 0.12 on its defaults are those of its release
_SERVER_ARGUMENTS = f"""
0.7.1  | BASE_IMAGE          | nvcr.io/nvidia/tritonserver:24.01-py3-min
0.7.1  | TRT_VER             | 9.2.0.5
0.7.1  | RELEASE_URL_TRT_x86 | {_TENSORRT}/9.2.0/tensorrt-9.2.0.5.linux.x86_64-gnu.cuda-12.2.tar.gz
0.7.1  | RELEASE_URL_TRT_ARM | {_TENSORRT}/9.2.0/tensorrt-9.2.0.5.Ubuntu-22.04.aarch64-gnu.cuda-12.2.tar.gz
0.10.0 | BASE_IMAGE          | nvcr.io/nvidia/pytorch:24.03-py3
0.10.0 | TRT_VER             | 10.0.1.6
0.10.0 | RELEASE_URL_TRT_x86 | {_TENSORRT}/10.0.1/tars/TensorRT-10.0.1.6.Linux.x86_64-gnu.cuda-12.4.tar.gz
0.10.0 | RELEASE_URL_TRT_ARM | {_TENSORRT}/10.0.1/tars/TensorRT-10.0.1.6.ubuntu-22.04.aarch64-gnu.cuda-12.4.tar.gz
0.11.0 | BASE_IMAGE          | nvcr.io/nvidia/tritonserver:24.05-py3-min
0.11.0 | PYTORCH_IMAGE       | nvcr.io/nvidia/pytorch:24.05-py3
0.11.0 | TRT_VER             | 10.1.0.27
0.11.0 | RELEASE_URL_TRT_x86 | {_TENSORRT}/10.1.0/tars/TensorRT-10.1.0.27.Linux.x86_64-gnu.cuda-12.4.tar.gz
0.11.0 | RELEASE_URL_TRT_ARM | {_TENSORRT}/10.1.0/tars/TensorRT-10.1.0.27.ubuntu-22.04.aarch64-gnu.cuda-12.4.tar.gz
"""

# releases | options of build.py. Upstream's README of 0.7.2 lacks --no-container-pull, and so asks a registry for the
# base image that was just built; later ones have it. --target-platform is ours: from r24.09 on, build.py takes the
# platform from ID_LIKE of the machine that it runs on, and so a host with Debian, which has none, for one of RHEL.
_SERVER_OPTIONS = """
0.7.1-0.19.0  | --target-platform=linux
0.7.1-0.19.0  | -v --no-container-interactive --enable-logging --enable-stats --enable-tracing
0.7.1-0.19.0  | --enable-metrics --enable-gpu-metrics --enable-cpu-metrics --enable-gpu --no-container-pull
0.7.1-0.19.0  | --filesystem=gcs --filesystem=s3 --filesystem=azure_storage
0.7.1-0.19.0  | --endpoint=http --endpoint=grpc --endpoint=sagemaker --endpoint=vertex-ai
0.7.1-0.19.0  | --backend=ensemble --backend=tensorrtllm:{backend} --backend=python:{server} --image=base,{base}
0.14.0-0.19.0 | --repoagent=checksum --cache=local --cache=redis
"""

# releases | why the server's build.py cannot make them
_SERVER_LACKS = """
0.8.0   | its README has the lines of 0.5.0, and its Dockerfile no address of TensorRT
0.9.0   | its README has the lines of 0.7.2, whose TensorRT is another
0.18.1  | no branch of the server is for it
0.20.0- | TensorRT-LLM builds it by its own Dockerfile
"""


@dataclass(frozen=True)
class ServerBuild:
    """How ``build.py`` of Triton's server makes the image of one release.

    *containerfile* and *build_args*: of the base image, in a checkout of the backend. *version*: branch of the server.
    *options*: of ``build.py``, which takes the base image as *base* and leaves its own as ``tritonserver``.
    """

    repository: str
    version: str
    containerfile: str
    build_args: dict[str, str]
    base: str
    options: tuple[str, ...]


def server_build(version: str, base: str, backend_tag: str = "", organization: str = "") -> ServerBuild:
    """How the release called *version* is built by Triton's server; raises `FleetError` for what upstream cannot do.

    *base*: what the base image is called. *backend_tag* and *organization*: in place of upstream's.
    """
    wanted = release(version)
    require_engines(wanted)
    lacks = next((why for span, why in _rows(_SERVER_LACKS) if within(wanted, span)), None)
    if lacks:
        raise FleetError(
            f"TensorRT-LLM {wanted.version} cannot be built by Triton's server ({lacks}); take source build_backend."
        )
    server = f"r{wanted.image_tags[-1]}"
    asked = " ".join(options for span, options in _rows(_SERVER_OPTIONS) if within(wanted, span))
    options = asked.format(backend=backend_tag or wanted.backend_tag, server=server, base=base).split()
    return ServerBuild(
        repository=SERVER,
        version=server,
        containerfile=SERVER_BASE,
        build_args={name: value for span, name, value in _rows(_SERVER_ARGUMENTS) if within(wanted, span)},
        base=base,
        options=(*options, *([f"--github-organization={organization}"] if organization else [])),
    )
