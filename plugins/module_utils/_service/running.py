# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the container that runs differs from what its unit says: the text of a unit may be right while what it
started is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Optional

from .._podman.cli import ContainerState
from .host import Identity, ServiceHost

Container = Mapping[str, Any]


class Difference(NamedTuple):
    """*what* differs, as a sentence without its end; *runs* and *wanted* are lines that show it, without secrets."""

    what: str
    runs: str
    wanted: str


def differences(host: ServiceHost, container: Container, running: Optional[ContainerState]) -> list[Difference]:
    """All differences between *container* (the section of a unit) and what runs; none where nothing is known."""
    if running is None or not running.running:
        return [Difference("its container is not there", "no container", "a container")]
    return [
        *_image(host, container, running),
        *_command(container, running),
        *_environment(container, running),
        *_mounts(host, container, running),
    ]


def lasting_note(service: str, difference: Difference) -> str:
    """What to tell of a difference that a restart does not end."""
    return (
        f"{service}: {difference.what}, although it was started from its unit; something beside the unit changes it "
        f"(see 'systemctl cat {service}')."
    )


def _image(host: ServiceHost, container: Container, running: ContainerState) -> Iterator[Difference]:
    wanted = host.image_id(str(container["Image"]))
    if wanted is not None and running.image_id != wanted:
        yield Difference(f"it runs the image {running.image_id}", f"image {running.image_id}", f"image {wanted}")


def _command(container: Container, running: ContainerState) -> Iterator[Difference]:
    given = container.get("Exec")
    wanted = tuple(str(word) for word in (given if isinstance(given, (list, tuple)) else [given] if given else []))
    if wanted and running.command != wanted:
        # Values of what runs are not told: whoever started it may have given it what is secret.
        runs = [word.partition("=")[0] for word in running.command if word not in wanted]
        missing = [word for word in wanted if word not in running.command]
        yield Difference(
            "it runs another command", " ".join(["command with", *runs]), " ".join(["command with", *missing])
        )


def _environment(container: Container, running: ContainerState) -> Iterator[Difference]:
    """Only names are told. What the image and podman add is not ours to judge."""
    given = container.get("Environment") or {}
    pairs = [given] if isinstance(given, str) else given
    wanted = dict(str(pair).partition("=")[::2] for pair in pairs) if not isinstance(pairs, Mapping) else pairs
    other = sorted(name for name, value in wanted.items() if running.environment.get(name) != str(value))
    if other:
        names = ", ".join(other)
        yield Difference(
            f"its environment differs in {names}", f"environment: others of {names}", f"environment: {names}"
        )


def _mounts(host: ServiceHost, container: Container, running: ContainerState) -> Iterator[Difference]:
    for source, target in bind_mounts(container.get("Volume")):
        held = host.identity_in_container(running.pid, target)
        there = host.identity(source)
        if held is not None and held != there:
            state = "is gone" if there is None else "was replaced"
            yield Difference(
                f"{source} {state} under it", f"mount {target}: {_named(held)}", f"mount {target}: {_named(there)}"
            )


def _named(identity: Optional[Identity]) -> str:
    return f"inode {identity[1]} of device {identity[0]}" if identity else "nothing"


def bind_mounts(volumes: Any) -> list[tuple[str, str]]:
    """Source and target of the volumes that are directories or files of the host, seen in the container as they are."""
    listed = volumes if isinstance(volumes, (list, tuple)) else [volumes] if volumes else []
    found: list[tuple[str, str]] = []
    for volume in listed:
        source, target, options = (str(volume).split(":") + ["", ""])[:3]
        # An overlay (O) is a file system of its own.
        if source.startswith("/") and target and "O" not in options.split(","):
            found.append((source, target))
    return found
