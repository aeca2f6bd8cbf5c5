# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""TensorRT-LLM releases and everything that hangs on one: image, build flow, templates, driver, GPUs.

Sources: Triton's compatibility matrix, TensorRT-LLM's release notes and support matrix, the backend's tags.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Optional

from .._base.errors import FleetError
from .._base.versions import version_key

IMAGE_REPOSITORY = "nvcr.io/nvidia/tritonserver"
IMAGE_SUFFIX = "-trtllm-python-py3"
FLOW_BUILD_PY, FLOW_LLMAPI = "build.py", "llmapi"
# How a model is served: an engine in Triton, a checkpoint in Triton by the LLM API, or by TensorRT-LLM's own server.
FLOW_ENGINE, FLOW_SERVE = "engine", "trtllm-serve"
FLOWS = (FLOW_ENGINE, FLOW_LLMAPI, FLOW_SERVE)
SERVE_REPOSITORY = "nvcr.io/nvidia/tensorrt-llm/release"


@dataclass(frozen=True)
class Release:
    """One TensorRT-LLM release.

    *image_tags*: Triton image tags (YY.MM) that hold it, newest first. *cuda*: of the newest of them, None
    where not recorded. *min_driver*: lowest driver branch of a datacenter GPU. *template_schema*: whose model
    repository templates it reads. *builds_in_image*: whether the image has the tensorrt_llm Python package.
    """

    version: str
    image_tags: tuple[str, ...]
    flow: str
    backend_tag: str
    template_schema: str
    tensorrt: str | None
    cuda: str | None
    min_driver: int
    builds_in_image: bool

    @property
    def key(self) -> tuple[int, ...]:
        """The version as numbers, for comparing."""
        return version_key(self.version)

    @property
    def image_tag(self) -> str | None:
        """The newest Triton image tag with this release, or None where Triton has none."""
        return self.image_tags[0] if self.image_tags else None

    @property
    def image(self) -> str | None:
        """The default image reference, by tag; a fleet pins it by digest."""
        return f"{IMAGE_REPOSITORY}:{self.image_tag}{IMAGE_SUFFIX}" if self.image_tags else None

    @property
    def builds_engines(self) -> bool:
        """Whether it has a way to make engines."""
        return self.flow != FLOW_LLMAPI

    @property
    def serve_image(self) -> str:
        """TensorRT-LLM's own image, by tag, which has trtllm-serve."""
        return f"{SERVE_REPOSITORY}:{self.version}"

    @property
    def compute_capabilities(self) -> list[str]:
        """The GPUs it is made for, e.g. ``["8.0", "9.0"]``; Turing (7.5) never was in upstream's matrix."""
        known = [cc for cc, (first, end) in _COMPUTE.items() if first <= self.key < end]
        return sorted(known, key=version_key)


def span(text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """``0.8.0-`` (to the last release with engines), ``0.8.0-0.16.0`` or ``0.9.0`` as (first, last)."""
    first, dash, last = text.strip().partition("-")
    return version_key(first), version_key(last or LAST_ENGINE_RELEASE) if dash else version_key(first)


def within(release: Release, text: str) -> bool:
    """Whether *release* is in the span *text*."""
    first, last = span(text)
    return first <= release.key <= last


# version | image tags | flow | backend tag | template schema | TensorRT | CUDA | driver | package in image
_TABLE = """
0.7.1  | 24.01                   | build.py      | v0.7.2  | v0.7.2  | 9.2.0.5    | 12.3   | 525 | no
0.8.0  | 24.03 24.02             | convert+build | v0.8.0  | v0.8.0  | -          | -      | 525 | no
0.9.0  | 24.05 24.04             | convert+build | v0.9.0  | v0.9.0  | 9.3.0      | 12.3.2 | 525 | yes
0.10.0 | 24.06                   | convert+build | v0.10.0 | v0.10.0 | 10.0.1     | 12.4.0 | 525 | yes
0.11.0 | 24.07                   | convert+build | v0.11.0 | v0.11.0 | 10.1.0     | 12.4.1 | 525 | yes
0.12.0 | 24.08                   | convert+build | v0.12.0 | v0.12.0 | 10.3.0     | 12.5.1 | 525 | yes
0.13.0 | 24.09                   | convert+build | v0.13.0 | v0.13.0 | 10.4.0     | 12.5.1 | 525 | yes
0.14.0 | 24.10                   | convert+build | v0.14.0 | v0.14.0 | 10.4.0     | 12.5.1 | 525 | yes
0.15.0 | 24.11                   | convert+build | v0.15.0 | v0.15.0 | 10.6.0     | 12.6.3 | 525 | yes
0.16.0 | 24.12                   | convert+build | v0.16.0 | v0.16.0 | 10.7.0     | 12.6.3 | 525 | yes
0.17.0 | 25.02 25.01             | convert+build | v0.17.0 | v0.17.0 | 10.8.0.43  | 12.8.0 | 525 | yes
0.18.0 | 25.03                   | convert+build | v0.18.0 | v0.18.0 | 10.9.0.34  | 12.8.1 | 525 | yes
0.18.1 | -                       | convert+build | v0.18.1 | v0.18.1 | -          | -      | 525 | yes
0.18.2 | 25.04                   | convert+build | v0.18.2 | v0.18.2 | 10.9.0.34  | 12.8.1 | 525 | yes
0.19.0 | 25.05                   | convert+build | v0.19.0 | v0.19.0 | 10.9.0.34  | 12.8.1 | 525 | yes
0.20.0 | 25.07 25.06             | convert+build | v0.20.0 | v1.x    | 10.10.0.31 | 12.9.0 | 525 | yes
0.21.0 | 25.08                   | convert+build | v0.21.0 | v1.x    | 10.11.0.33 | 12.9.0 | 525 | yes
1.0.0  | 25.10 25.09             | convert+build | v1.0.0  | v1.x    | 10.11.0.33 | 12.9.1 | 525 | yes
1.0.3  | 25.11                   | convert+build | -       | v1.x    | 10.13.3.9  | 13.0.2 | 580 | yes
1.1.0  | 26.02 26.01 25.12       | convert+build | -       | v1.x    | 10.13.3.9  | 13.0.2 | 580 | yes
1.2.0  | 26.03                   | convert+build | -       | v1.x    | 10.14.1.48 | 13.1.0 | 580 | yes
1.2.1  | 26.07 26.06 26.05 26.04 | convert+build | -       | v1.x    | 10.14.1.48 | 13.1.0 | 580 | yes
1.3.0  | -                       | llmapi        | -       | llmapi  | -          | -      | 580 | yes
"""

# Compute capability -> (first release, first release without it).
_COMPUTE: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "7.0": ((0, 5), (0, 15)),
    "8.0": ((0, 5), (9,)),
    "8.6": ((0, 5), (9,)),
    "8.9": ((0, 5), (9,)),
    "9.0": ((0, 5), (9,)),
    "10.0": ((0, 17), (9,)),
    "12.0": ((0, 17), (9,)),
    "12.1": ((1, 0), (9,)),
    "10.3": ((1, 1), (9,)),
}

# Names under which upstream shipped the same release.
ALIASES = {"0.7.2": "0.7.1", "0.17.0.post1": "0.17.0", "1.0.3.2510": "1.0.3"}


def _row(line: str) -> Release:
    cells = [cell.strip() for cell in line.split("|")]
    known = [None if cell == "-" else cell for cell in cells]
    return Release(
        version=cells[0],
        image_tags=tuple((known[1] or "").split()),
        flow=cells[2],
        backend_tag=known[3] or f"v{cells[0]}",
        template_schema=cells[4],
        tensorrt=known[5],
        cuda=known[6],
        min_driver=int(cells[7]),
        builds_in_image=cells[8] == "yes",
    )


RELEASES: dict[str, Release] = {row.version: row for row in (_row(line) for line in _TABLE.strip().splitlines())}
LAST_ENGINE_RELEASE = [row.version for row in RELEASES.values() if row.builds_engines][-1]

# flow | releases whose way is established. Triton has no image with a release after the last with engines. The
# repository llmapi is in images since 0.19, and what it can be told is known from 1.0.0 on.
_FLOWS = """
engine       | 0.7.1-
llmapi       | 1.0.0-
trtllm-serve | 1.0.0-1.3.0
"""


def flows(wanted: Release) -> tuple[str, ...]:
    """The ways to serve a model with *wanted*; the first is the one that is taken where none is asked for."""
    rows = [[cell.strip() for cell in line.split("|")] for line in _FLOWS.strip().splitlines()]
    return tuple(name for name, releases in rows if within(wanted, releases))


def flow_of(wanted: Release, asked: Optional[str] = None) -> str:
    """The way to serve a model with *wanted*: the one *asked* for, or else the release's own. Raises `FleetError`."""
    known = flows(wanted)
    if asked is None:
        return known[0]
    if asked not in known:
        having = [row.version for row in RELEASES.values() if asked in flows(row)]
        where = f"; {having[0]} to {having[-1]} have it" if having else ""
        raise FleetError(
            f"flow is {asked}, which TensorRT-LLM {wanted.version} is not known to have (it has {' and '.join(known)})"
            f"{where}."
        )
    return asked


def release(version: str) -> Release:
    """The release called *version* (a leading ``v`` and upstream's other names are understood).

    Raises `FleetError` with the nearest name and the range for a version that is not in the table.
    """
    name = str(version).strip().removeprefix("v")
    name = ALIASES.get(name, name)
    if name in RELEASES:
        return RELEASES[name]
    versions = list(RELEASES)
    wanted = (*version_key(name), 0, 0, 0)[:3]
    nearest = next((known for known in reversed(versions) if version_key(known) <= wanted), versions[0])
    raise FleetError(
        f"TensorRT-LLM release '{version}' is not known; the nearest is '{nearest}'. Known are {versions[0]} "
        f"to {versions[-1]}; engines are built by {versions[0]} to {LAST_ENGINE_RELEASE}."
    )


def in_triton(tag: str) -> Optional[Release]:
    """The release in NVIDIA's Triton image of YY.MM, such as ``24.03``; None where that has none."""
    return next((row for row in RELEASES.values() if tag in row.image_tags), None)


def require_engines(wanted: Release) -> None:
    """Raise `FleetError` for a release that builds no engines, with the one to choose."""
    if not wanted.builds_engines:
        raise FleetError(
            f"TensorRT-LLM {wanted.version} has no engines any more (it serves checkpoints directly); "
            f"{LAST_ENGINE_RELEASE} is the last release that builds them, so choose it or an earlier one."
        )


def same_release(wanted: Release, reported: str) -> bool:
    """Whether *reported*, a ``tensorrt_llm.__version__``, is *wanted*, whatever its post or build suffix."""
    name = ALIASES.get(reported, reported)
    return version_key(name)[:3] == wanted.key[:3] and not re.search(r"(rc|a|b|dev)\d", name)
