# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an engine will be made from: the facts of this host, the commands, the fingerprint, and why it is stale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional, TypeVar

from .._artifact.fingerprint import TreeDigest, fingerprint
from .._base.errors import FleetError
from .._base.names import check_path
from .._checkpoint.inspect import ModelConfig, read_config
from .._checkpoint.read import checkpoint_tree
from .._host import gpu
from .._podman import cli
from .._podman.image_ids import Images
from .._release.cli import EXAMPLES_DIR, Command, EnginePlan, Paths, plan
from .._release.limits import check_options, check_settings
from .._release.options import world_size
from .._release.releases import Release, require_engines
from .inputs import Input, host_paths, option_input, real_directory, real_options, script_inputs
from .preflight import check_ranks

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """What the user asked for. *attach* is the id of a build to report on; then none is started.

    *lifeline*: a file that this process has locked; the build ends when it is locked no more.
    *ranks* are those of this host, where others are on other *nodes*; none where it has, or may have to make, all.
    """

    name: str
    root: Path
    checkpoint: Path
    release: Release | None = None
    image: str | None = None
    gpus: Sequence[gpu.GpuRef] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    rebuild: str = "when_stale"
    verify: str = "stat"
    keep_converted: bool = False
    timeout: int = 0
    examples_dir: str | None = None
    skip_preflight: Sequence[str] = ()
    attach: str | None = None
    nodes: int = 1
    lifeline: str = ""
    ranks: Sequence[int] = ()

    @property
    def devices(self) -> list[gpu.GpuRef]:
        """The GPUs; where none were named, as many as the engine has ranks on each node, from 0 on."""
        return list(range(world_size(self.options) // max(1, self.nodes))) if self.gpus is None else list(self.gpus)

    def located(self) -> Request:
        """The same with its paths checked, and without links in those of directories."""
        return replace(
            self,
            root=Path(check_path(self.root, "root")),
            checkpoint=Path(real_directory(str(self.checkpoint), "checkpoint")),
            options=real_options(self.options),
            examples_dir=check_path(self.examples_dir, "examples_dir") if self.examples_dir else None,
        )

    @property
    def image_reference(self) -> str:
        """The image to build in: the one given, else upstream's for the release."""
        if self.image:
            return self.image
        if self.release is not None and self.release.image:
            return self.release.image
        raise FleetError("Neither image nor a release that has one is given; give image.")


@dataclass
class Facts:
    """What the host says. *image_seen*: whether podman was asked for the image, or its id known without.

    *unknown*: sentences on what it cannot say yet (check mode only).
    """

    image_id: str | None = None
    image_seen: bool = False
    tree: TreeDigest | None = None
    config: ModelConfig | None = None
    gpus: list[gpu.Gpu] = field(default_factory=list)
    inputs: dict[str, Input] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Wanted:
    """The engine that should be: what it is made from, its fingerprint, and how it is made."""

    made_from: dict[str, Any]
    fingerprint: str
    converted_fingerprint: str
    plan: EnginePlan | None
    family: str | None
    dtype: str | None

    @property
    def commands(self) -> list[Command]:
        """The commands in order; [] where too little is known to compose them."""
        return self.plan.commands if self.plan else []


class _Gatherer:
    """Asks the image store, the GPUs and the checkpoint at the same time: each mostly waits."""

    def __init__(self, request: Request, tolerant: bool, image_id: str | None = None) -> None:
        self.request, self.tolerant, self.image_id, self.facts = request, tolerant, image_id, Facts()

    def gather(self) -> Facts:
        with ThreadPoolExecutor(3) as pool:
            image = pool.submit(self._try, self._image)
            gpus = pool.submit(self._try, self._gpus)
            self.facts.config = self._try(self._config)
            self.facts.tree = self._try(self._tree)
            self.facts.image_id = image.result()
            self.facts.gpus = gpus.result() or []
        if self.facts.tree is not None:
            self.facts.inputs = self._try(self._inputs) or {}
        return self.facts

    def _try(self, ask: Callable[[], Optional[T]]) -> T | None:
        """In check mode what is missing may be what an earlier task would have brought."""
        try:
            return ask()
        except _Missing as missing:
            if not self.tolerant:
                raise FleetError(f"{missing}; {missing.remedy}.") from missing
            self.facts.unknown.append(f"{missing}.")
            return None

    def _image(self) -> str:
        if self.image_id is not None:
            self.facts.image_seen = True
            return self.image_id
        remembered = Images(self.request.root).remembered_id(self.request.image_reference)
        if remembered is not None:
            return remembered
        self.facts.image_seen = True
        return _present_image(self.request, learn=not self.tolerant)

    def _gpus(self) -> list[gpu.Gpu]:
        if not self.request.devices:
            return []
        if gpu.executable() is None:
            raise _Missing(
                "the GPUs of this host are not known yet (no nvidia-smi)",
                "run the role gpu_driver first, or give gpus: [] for a host without GPUs",
            )
        return gpu.select(self.request.devices)

    def _present(self) -> Path:
        path = self.request.checkpoint
        if not path.exists():
            raise _Missing(f"the checkpoint {path} is not on this host yet", "run the role checkpoint first")
        return path

    def _config(self) -> ModelConfig:
        return read_config(self._present())

    def _tree(self) -> TreeDigest | None:
        path = self.request.checkpoint
        if not path.exists():
            return None  # the configuration has said so
        return checkpoint_tree(self.request.root, path, self.request.verify, not self.tolerant)

    def _inputs(self) -> dict[str, Input]:
        found = {}
        for option, path in host_paths(self.request.options).items():
            if option == "input_timing_cache":
                continue
            if not Path(path).exists():
                raise _Missing(f"{option} names {path}, which is not on this host", "bring it there")
            found[option] = option_input(self.request.root, option, path, self.request.verify, not self.tolerant)
        return found


class _Missing(Exception):
    """Something that another role brings is not there. *remedy* is a clause."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.remedy = remedy


def _present_image(request: Request, *, learn: bool) -> str:
    """The id of the image, which has to be on the host."""
    if cli.executable() is None:
        raise _Missing("podman is not installed yet", "run the role podman first")
    found = Images(request.root).ask_id(request.image_reference, learn=learn)
    if found is None:
        raise _Missing(
            f"the image {request.image_reference} is not on this host yet", "run the role triton_image first"
        )
    return found


def require_image(request: Request, facts: Facts, *, tolerant: bool) -> list[str]:
    """Before a build: the image has to be there, even where its id was known without asking.

    Returns what is missing as sentences with *tolerant*; otherwise it raises.
    """
    if facts.image_seen:
        return []
    facts.image_seen = True
    try:
        _present_image(request, learn=not tolerant)
    except _Missing as missing:
        if not tolerant:
            raise FleetError(f"{missing}; {missing.remedy}.") from missing
        return [f"{missing}."]
    return []


def gather(request: Request, *, tolerant: bool, image_id: str | None = None) -> Facts:
    """Ask the host. With *tolerant* (check mode) what is missing is noted; otherwise it raises `FleetError`.

    *image_id*: what stands for the image where there is no podman to ask, as in a container of it.
    """
    check_options(request.options)
    check_settings(timeout=request.timeout)
    if request.release is not None:
        require_engines(request.release)
    check_ranks(request.options, request.devices, request.nodes)
    return _Gatherer(request, tolerant, image_id).gather()


def family_of(request: Request, config: ModelConfig | None) -> str | None:
    """The model family: the one given, else the checkpoint's; None while there is no checkpoint."""
    given = request.options.get("model_family")
    if given:
        return str(given)
    if config is None:
        return None
    if config.family is None:
        raise FleetError(
            f"{request.checkpoint} holds a {config.architecture or 'model without architectures'}, a family that is "
            "not known here; set model_family to the family whose tools convert it."
        )
    return config.family


def describe(request: Request, release: Release | None, facts: Facts, root: Path) -> Wanted:
    """The engine that should be. Pure but for its arguments, and cheap: planning twice costs a millisecond."""
    family = family_of(request, facts.config)
    outline = _plan(request, release, facts, family, Paths("", "", "", ""))
    made_from: dict[str, Any] = {
        "checkpoint": {
            "digest": facts.tree.digest if facts.tree else None,
            "files": facts.tree.contents() if facts.tree else {},
        },
        "inputs": {name: found.digest for name, found in facts.inputs.items()},
        "image": facts.image_id,
        "release": release.version if release else None,
        "gpu": gpu.identity(facts.gpus, world_size(request.options)),
        "family": family,
        "convert": outline.convert_arguments if outline else {},
        "build": outline.build_arguments if outline else {},
        "options": outline.options if outline else {},
    }
    if request.nodes > 1:
        count = request.nodes
        made_from["nodes"] = {"count": count, "gpus_per_node": world_size(request.options) // count}
    converted = fingerprint({key: _identity(made_from)[key] for key in _CONVERT_DEPENDS_ON})
    final = fingerprint(_identity(made_from))
    paths = Paths(
        str(request.checkpoint),
        str(root / "converted" / converted),
        str(root / "engines" / request.name / f"{final}.partial"),
        request.examples_dir or EXAMPLES_DIR,
    )
    complete = _plan(request, release, facts, family, paths)
    return Wanted(made_from, final, converted, complete, family, outline.dtype if outline else None)


def describe_with_scripts(
    request: Request, release: Release | None, facts: Facts, root: Path, *, tolerant: bool
) -> Wanted:  # fmt: skip
    """`describe`, with the scripts among *facts* that its commands run from a checkout of the host."""
    commands = describe(request, release, facts, root).commands
    facts.inputs.update(script_inputs(root, request.examples_dir, commands, request.verify, not tolerant))
    return describe(request, release, facts, root)


_CONVERT_DEPENDS_ON = ("checkpoint", "inputs", "image", "release", "family", "convert")


def _identity(made_from: Mapping[str, Any]) -> dict[str, Any]:
    """What the fingerprint is taken of: of the checkpoint its digest, which covers the files.

    Of the options it is what the tools are given, so that two ways of saying the same are the same engine.
    """
    without = {key: value for key, value in made_from.items() if key != "options"}
    return {**without, "checkpoint": made_from["checkpoint"]["digest"]}


def _plan(
    request: Request, release: Release | None, facts: Facts, family: str | None, paths: Paths
) -> EnginePlan | None:
    if release is None or family is None:
        return None
    config = facts.config
    return plan(
        release,
        family,
        request.options,
        paths,
        checkpoint_dtype=config.dtype if config else None,
        model_version=config.baichuan_version if config else None,
        architecture=config.architecture if config else "",
    )
