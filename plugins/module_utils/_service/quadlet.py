# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A container service as data, rendered for the podman that the host has.

A unit is a mapping of sections, each a mapping of keys to a value or to a list of values (a repeated key)::

    {"Unit": {"Description": "..."},
     "Container": {"Image": "sha256:...", "Network": "host", "Exec": ["server", "--port=8000"]},
     "Service": {"Restart": "on-failure"},
     "Install": {"WantedBy": "multi-user.target"}}

Values of ``Container`` are literal: blanks, quotes, ``%`` and ``$`` are escaped here. ``Exec`` is a list of
words; ``Environment``, ``Label`` and ``Annotation`` may be mappings. The other sections are systemd's own and
are written as they are given, so that specifiers work there; `command_line` quotes words for them.

With a section ``Socket``, systemd listens in the service's place and podman hands the sockets into the container, as
every podman that is served here does. The socket is a file beside the unit, and outlives a restart of the service.

The result is a Quadlet file with the keys that the version knows, and ``PodmanArgs=`` for the rest; below
podman 4.4, which has no Quadlet, it is a plain systemd service that says the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Union

from .._base.errors import FleetError, nearest
from .._base.versions import version_in
from .quadlet_keys import (
    CONTAINER_KEYS,
    FIRST_NOTIFY_HEALTHY,
    FIRST_QUADLET,
    FIRST_SDNOTIFY_HEALTHY,
    NEWEST,
    OLDEST,
    OPTION_FIRST,
    REPEATED_FIRST,
    Key,
    Version,
)

Unit = Mapping[str, Mapping[str, Any]]
Lines = list[tuple[str, str]]

HEADER = "# Written by trtllm.fleet. Changes made here are overwritten."
QUADLET_DIR = "/etc/containers/systemd"
SERVICE_DIR = "/etc/systemd/system"
PODMAN = "/usr/bin/podman"
STARTED = "/tmp/.started"  # in the container
# What ends a line for systemd, a carriage return and a NUL too.
BREAKS = re.compile(r"[\n\r\0]")
ESCAPED = re.compile(r'[\\"\x01-\x1f\x7f]')
SHORT_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
SECTIONS = ("Unit", "Container", "Socket", "Service", "Install")


class RenderedUnit(NamedTuple):
    """A unit file: where it goes, what it holds, what this podman cannot do of what was asked. *socket*: a text too."""

    path: str
    text: str
    quadlet: bool
    notes: list[str]
    socket: str = ""

    @property
    def files(self) -> dict[str, str]:
        """All files that systemd reads, by path."""
        return {self.path: self.text, **({socket_path(unit_name(self.path)): self.socket} if self.socket else {})}


def podman_version(text: Union[str, Sequence[int], None]) -> Version:
    """``(major, minor)`` of a podman version; of the newest known one for None (nothing is installed yet).

    Raises `FleetError` for what is no version, and for a podman that does not hand out CDI devices.
    """
    if text is None or text == "":
        return NEWEST
    given = text if isinstance(text, str) else ".".join(str(part) for part in text)
    numbers = version_in(given)
    if not numbers:
        raise FleetError(f"{given!r} is not a version of podman; give it as for example '5.4.2'.")
    version = (numbers[0], numbers[1])
    if version < OLDEST:
        raise FleetError(
            f"podman {version[0]}.{version[1]} cannot hand GPUs to a container by CDI name, which needs "
            f"{OLDEST[0]}.{OLDEST[1]}; install a newer podman (Ubuntu 22.04 ships 3.4: use a newer "
            "release of the distribution or a backport)."
        )
    return version


def unit_path(name: str, version: Union[str, Sequence[int], None]) -> str:
    """Where the unit *name* belongs for this podman."""
    if podman_version(version) >= FIRST_QUADLET:
        return f"{QUADLET_DIR}/{name}.container"
    return f"{SERVICE_DIR}/{name}.service"


def unit_name(path: str) -> str:
    """The service whose unit is at *path*."""
    return path.rpartition("/")[2].rpartition(".")[0]


def socket_path(name: str) -> str:
    """Where the socket of a service belongs, with every podman."""
    return f"{SERVICE_DIR}/{name}.socket"


def listens(socket: str) -> list[tuple[str, int]]:
    """Address and port of each TCP socket that the text of a socket unit names."""
    found = re.findall(r"^ListenStream=\[?([0-9a-fA-F.:]+?)\]?:(\d+)$", socket, re.M)
    return [(address, int(port)) for address, port in found]


def render(name: str, unit: Unit, version: Union[str, Sequence[int], None]) -> RenderedUnit:
    """The unit file of service *name* for podman *version*."""
    known = podman_version(version)
    _check_sections(unit)
    notes: list[str] = []
    socket = _socket(name, unit)
    if socket:
        unit = {**unit, "Unit": _with_socket(name, unit.get("Unit", {}))}
    container = list(_container_values(unit["Container"]))
    if known >= FIRST_QUADLET:
        sections = _quadlet_sections(unit, container, known, notes)
    else:
        sections = _service_sections(unit, container, known, notes)
    return RenderedUnit(unit_path(name, version), _text(sections), known >= FIRST_QUADLET, notes, socket)


def _socket(name: str, unit: Unit) -> str:
    """The text of the socket that systemd holds for the service, empty for none."""
    if not unit.get("Socket"):
        return ""
    described = unit.get("Unit", {}).get("Description", name)
    return _text({"Unit": [("Description", f"{described} (socket)")], "Socket": _section(unit, "Socket")})


def _with_socket(name: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """The section ``Unit`` of a service that starts and stops with its socket."""
    added = {key: section.get(key) or [] for key in ("Requires", "After")}
    words = {key: value if isinstance(value, (list, tuple)) else [value] for key, value in added.items()}
    return {**section, **{key: [*values, f"{name}.socket"] for key, values in words.items()}}


def command_line(argv: Iterable[str]) -> str:
    """*argv* as a systemd command line: words quoted, ``%`` and ``$`` kept literal."""
    return " ".join(_word(str(argument)) for argument in argv)


def _word(text: str) -> str:
    """One word for systemd and for Quadlet, whose parsers share these rules."""
    if text == ";":
        raise FleetError("A unit's command has the lone word ';', where systemd begins another; leave it out.")
    literal = _literal(text)
    if literal and not re.search(r"[\s\"'\\\x00-\x1f\x7f]", literal):
        return literal
    if "\0" in literal:
        raise FleetError(f"A unit's command has the word {text!r}; no command takes a NUL character, so leave it out.")
    return '"' + ESCAPED.sub(_escape, literal) + '"'


def _escape(match: re.Match[str]) -> str:
    text = match.group()
    return SHORT_ESCAPES.get(text) or f"\\x{ord(text):02x}"


def _literal(text: str) -> str:
    return text.replace("%", "%%").replace("$", "$$")


def _line(key: str, text: str) -> str:
    """A value that the generator takes as the raw rest of a line."""
    if BREAKS.search(text) or text.endswith("\\") or text != text.strip():
        raise FleetError(
            f"{key} of a unit is {text!r}; it must be one line without blanks around it and without a "
            "backslash at its end."
        )
    return _literal(text)


def _check_sections(unit: Unit) -> None:
    for section in unit:
        if section not in SECTIONS:
            known = ", ".join(SECTIONS)
            raise FleetError(f"A unit has no section {section!r}{nearest(section, SECTIONS)}; it has {known}.")
    if not unit.get("Container", {}).get("Image"):
        raise FleetError("A unit needs Container.Image, the image's name with a digest, or its id.")


def _container_values(container: Mapping[str, Any]) -> Iterator[tuple[str, Key, list[str]]]:
    """Every key of ``Container`` with its literal values; keys without a value are left out."""
    for name, value in container.items():
        key = CONTAINER_KEYS.get(name)
        if key is None:
            raise FleetError(f"Container.{name} is not a key of Quadlet{nearest(name, CONTAINER_KEYS)}.")
        if isinstance(value, Mapping):
            values = [f"{left}={right}" for left, right in value.items()]
        elif isinstance(value, (list, tuple)):
            values = [str(element) for element in value]
        else:
            values = [] if value is None else [_scalar(value)]
        if values:
            yield name, key, values


def _scalar(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_true(value: str) -> bool:
    return value.lower() in ("1", "true", "yes", "on")


def _quadlet_sections(
    unit: Unit, container: list[tuple[str, Key, list[str]]], version: Version, notes: list[str]
) -> dict[str, Lines]:
    lines: Lines = []
    service = _section(unit, "Service")
    for name, key, values in container:
        if name == "Notify" and values == ["healthy"] and version < FIRST_NOTIFY_HEALTHY:
            arguments, after = _notify_healthy(unit, version)
            lines += [("PodmanArgs", argument) for argument in arguments]
            service += after
        elif name == "Exec":
            lines.append((name, command_line(values)))
        elif version >= key.first and (len(values) == 1 or version >= REPEATED_FIRST.get(name, key.first)):
            lines += [(name, _word(value) if key.form == "words" else _line(name, value)) for value in values]
        else:
            arguments = _arguments(name, key, values, version, notes)
            lines += [("PodmanArgs", command_line([argument])) for argument in arguments]
    sections = {"Unit": _section(unit, "Unit"), "Container": lines, "Service": service}
    return {**sections, "Install": _section(unit, "Install")}


def _section(unit: Unit, section: str) -> Lines:
    lines: Lines = []
    for key, value in unit.get(section, {}).items():
        for element in value if isinstance(value, (list, tuple)) else [value]:
            if element is None:
                continue
            text = _scalar(element)
            if BREAKS.search(text):
                raise FleetError(f"{section}.{key} of a unit has a line break ({text!r}); give it in one line.")
            lines.append((key, text))
    return lines


def _container_name(unit: Unit) -> str:
    name = unit["Container"].get("ContainerName")
    return _literal(str(name)) if name else "systemd-%N"


def _notify_healthy(unit: Unit, version: Version) -> tuple[list[str], Lines]:
    """What makes a start wait for a healthy container where the key does not exist yet.

    Podman itself can do it from 4.7. Before, the start waits in ``ExecStartPost``, which ends at once with
    the container's own end (125: not running) and at the latest after ``TimeoutStartSec``.
    """
    if version >= FIRST_SDNOTIFY_HEALTHY:
        return ["--sdnotify=healthy"], []
    name = _container_name(unit)
    wait = (
        f"while :; do {PODMAN} healthcheck run {name} >/dev/null 2>&1; "
        "case $$? in 0) exit 0;; 1) sleep 1;; *) exit 1;; esac; done"
    )
    return [], [("ExecStartPost", f'/bin/sh -c "{wait}"')]


def _startup_probe(unit: Unit, command: str) -> Lines:
    """What stands in for the start-up probe that podman has from 4.4 on.

    The start asks in the container until *command* succeeds, and leaves a mark there; the steady probe does not
    judge before the mark is there.
    """
    script = f"until ({command}); do sleep 1; done; touch {STARTED}"
    return [("ExecStartPost", f"{PODMAN} exec {_container_name(unit)} {command_line(['/bin/sh', '-c', script])}")]


def _arguments(name: str, key: Key, values: list[str], version: Version, notes: list[str]) -> list[str]:
    """The ``podman run`` arguments that say what *key* says."""
    option = key.option
    if name == "AutoUpdate":
        return [f"--label=io.containers.autoupdate={value}" for value in values]
    if option is None:
        raise FleetError(
            f"Container.{name} needs podman {key.first[0]}.{key.first[1]}, found {version[0]}.{version[1]}, and "
            "no option of podman run says the same; leave it out or install a newer podman."
        )
    first = OPTION_FIRST.get(option, OLDEST)
    if version < first:
        notes.append(
            f"podman {version[0]}.{version[1]} has no {option} (needs {first[0]}.{first[1]}); it is left out "
            "of the unit."
        )
        return []
    if key.form == "flag":
        if "=" in option:
            return [option for value in values if _is_true(value)]
        return [option if _is_true(value) else f"{option}=false" for value in values]
    joint = ":" if option.startswith("--security-opt=label=") else "="
    return [f"{option}{joint}{value}" for value in values]


def _service_sections(
    unit: Unit, container: list[tuple[str, Key, list[str]]], version: Version, notes: list[str]
) -> dict[str, Lines]:
    """The plain service that a podman without Quadlet gets: what the generator would have made of it."""
    options: list[str] = []
    image, command = "", []
    after: Lines = []
    sdnotify = "--sdnotify=conmon"
    startup = str(unit["Container"].get("HealthStartupCmd") or "")
    group = next((values[-1] for name, _key, values in container if name == "Group"), "")
    for name, key, values in container:
        if name == "Image":
            image = values[-1]
        elif name == "User" and group:
            options.append(f"{key.option}={values[-1]}:{group}")
        elif name == "Group" and unit["Container"].get("User"):
            continue  # with the user, as the generator has it
        elif name == "Exec":
            command = values
        elif name == "ContainerName":
            continue
        elif name == "PodmanArgs":
            options += values
        elif name.startswith("HealthStartup"):
            continue  # see _startup_probe
        elif name == "HealthCmd" and startup:
            options.append(f"--health-cmd=[ -e {STARTED} ] || exit 0; {values[-1]}")
        elif name == "Notify" and values == ["healthy"]:
            after = _startup_probe(unit, startup) if startup else _notify_healthy(unit, version)[1]
        elif name == "Notify":
            sdnotify = "--sdnotify=container" if _is_true(values[-1]) else sdnotify
        else:
            options += _arguments(name, key, values, version, notes)
    name = _container_name(unit)
    fixed = f"--name={name} --replace --rm --cgroups=split {sdnotify} -d"
    start = f"{PODMAN} run {fixed} {command_line([*options, image, *command])}"
    remove = f"{PODMAN} rm -v -f -i {name}"
    given = _section(unit, "Service")
    defaults: Lines = [
        ("Type", "notify"),
        ("NotifyAccess", "all"),
        ("Delegate", "yes"),
        ("KillMode", "mixed"),
        ("SyslogIdentifier", "%N"),
        ("Environment", "PODMAN_SYSTEMD_UNIT=%n"),
    ]
    present = {key for key, _value in given}
    service = [line for line in defaults if line[0] not in present or line[0] == "Environment"]
    service += given + [("ExecStart", start)] + after + [("ExecStop", remove), ("ExecStopPost", f"-{remove}")]
    volumes = [value for name, _key, values in container if name == "Volume" for value in values]
    sources = [volume.split(":")[0] for volume in volumes]
    mounts = ["%t/containers"] + [_mount_path(source) for source in sources if source.startswith("/")]
    network: Lines = [("Wants", "network-online.target"), ("After", "network-online.target")]
    return {
        "Unit": _section(unit, "Unit") + network + [("RequiresMountsFor", mount) for mount in mounts],
        "Service": service,
        "Install": _section(unit, "Install"),
    }


def _mount_path(path: str) -> str:
    escaped = path.replace("%", "%%")
    return f'"{escaped}"' if " " in path else escaped


def _text(sections: Mapping[str, Lines]) -> str:
    blocks = [
        "\n".join([f"[{section}]", *(f"{key}={value}" for key, value in lines)])
        for section, lines in sections.items()
        if lines
    ]
    return HEADER + "\n" + "\n\n".join(blocks) + "\n"
