# SPDX-License-Identifier: GPL-3.0-or-later
"""A service described once reaches every podman: the same command line, whatever the version can express."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._service import quadlet
from ansible_collections.trtllm.fleet.plugins.module_utils._service.quadlet_keys import CONTAINER_KEYS
from contract.facts import quadlet_keys

QUADLET = ["4.4", "4.5", "4.6", "4.7", "4.8", "4.9.3", "5.0", "5.2", "5.3", "5.4.2", "5.5", "5.6", "5.8"]
HEALTH = """curl -sf -d '{"text_input": "100% of $HOME"}' http://127.0.0.1:8000/ | grep -q '"text_output"'"""
EXEC = ["mpirun", "-n", "1", "/opt/tritonserver/bin/tritonserver", "--note=a b", '--say="hi"', "100%", "$HOME", ":"]


def unit() -> dict[str, Any]:
    """One of everything that a service of this collection uses, with values that need escaping."""
    return {
        "Unit": {"Description": "Triton codellama-0", "After": ["network-online.target", "x.service"]},
        "Container": {
            "ContainerName": "triton-codellama-0",
            "Image": "registry.example:5000/triton@sha256:" + "ab" * 32,
            "Pull": "never",
            "Network": "host",
            "AddDevice": ["nvidia.com/gpu=0", "nvidia.com/gpu=1:0"],
            "ShmSize": "2g",
            "Ulimit": ["memlock=-1:-1", "stack=67108864:67108864"],
            "Volume": ["/var/lib/trtllm/a:/var/lib/trtllm/a:ro", "/srv/b c:/srv/b c:ro"],
            "Environment": {"PLAIN": "1", "BLANK": "a b", "PERCENT": "100%", "DOLLAR": "$HOME"},
            "Label": {"trtllm.release": LAST},
            "DropCapability": "all",
            "NoNewPrivileges": True,
            "LogDriver": "passthrough",
            "Memory": "4g",
            "Secret": "hub,type=mount,mode=0400",
            "Exec": EXEC,
            "HealthCmd": HEALTH,
            "HealthInterval": "10s",
            "HealthOnFailure": "kill",
            "HealthStartupCmd": "until curl -sf x; do sleep 0.1; done",
            "HealthStartupInterval": "1s",
            "Notify": "healthy",
            "StopTimeout": 60,
            "PodmanArgs": ["--cpus=2"],
        },
        "Service": {"Restart": "on-failure", "TimeoutStartSec": "300"},
        "Install": {"WantedBy": "multi-user.target"},
    }


def options_of(command: str) -> list[str]:
    """The words of a systemd command line, with ``--option value`` written as ``--option=value``."""
    # Newer generators write a blank within quotes as \\x20.
    words = [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(command.replace("\\x20", " "))]
    joined: list[str] = []
    while words:
        word = words.pop(0)
        if word == "-v":
            word = "--volume"
        if word == "mpirun":
            return joined + [word] + words
        if word.startswith("--") and "=" not in word and words and not words[0].startswith("-") and word != "--rm":
            word = f"{word}={words.pop(0)}"
        joined.append(word.replace("--security-opt seccomp", "--security-opt=seccomp"))
    return joined


EXPECTED = [
    "--pull=never",
    "--network=host",
    "--device=nvidia.com/gpu=0",
    "--device=nvidia.com/gpu=1:0",
    "--shm-size=2g",
    "--ulimit=memlock=-1:-1",
    "--ulimit=stack=67108864:67108864",
    "--volume=/srv/b c:/srv/b c:ro",
    "--env=BLANK=a b",
    "--env=PERCENT=100%",
    "--env=DOLLAR=$HOME",
    f"--label=trtllm.release={LAST}",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--log-driver=passthrough",
    "--memory=4g",
    "--cpus=2",
    "--secret=hub,type=mount,mode=0400",
    f"--health-cmd={HEALTH}",
    "--health-interval=10s",
    "--health-on-failure=kill",
    "--stop-timeout=60",
]


@pytest.mark.parametrize("version", QUADLET)
def test_quadlet_keys_are_known_to_the_version(version: str) -> None:
    rendered = quadlet.render("triton-x", unit(), version)
    assert rendered.path == "/etc/containers/systemd/triton-x.container"
    container = rendered.text.split("[Container]")[1].split("[Service]")[0]
    for key in re.findall(r"^(\w+)=", container, re.M):
        assert CONTAINER_KEYS[key].first <= quadlet.podman_version(version), key


def test_a_key_that_is_too_new_is_said_with_podman_args() -> None:
    old, new = (quadlet.render("x", unit(), version).text for version in ("4.4", "5.5"))
    assert "Memory=4g" in new.splitlines()
    assert "PodmanArgs=--memory=4g" in old.splitlines()
    assert "ShmSize" not in old and "PodmanArgs=--shm-size=2g" in old


def test_repeated_ulimits_are_not_lost_before_5_0() -> None:
    lines = quadlet.render("x", unit(), "4.9.3").text.splitlines()
    assert not [line for line in lines if line.startswith("Ulimit=")]
    assert "PodmanArgs=--ulimit=memlock=-1:-1" in lines
    assert "PodmanArgs=--ulimit=stack=67108864:67108864" in lines
    assert "Ulimit=memlock=-1:-1" in quadlet.render("x", unit(), "5.0.1").text


def test_one_ulimit_keeps_its_key() -> None:
    single = unit()
    single["Container"]["Ulimit"] = "memlock=-1:-1"
    assert "\nUlimit=memlock=-1:-1\n" in quadlet.render("x", single, "4.7").text


@pytest.mark.parametrize(
    ("version", "line"),
    [("5.0", "Notify=healthy"), ("4.7", "PodmanArgs=--sdnotify=healthy"), ("4.6", "ExecStartPost=/bin/sh -c")],
)
def test_a_start_waits_for_health_on_every_version(version: str, line: str) -> None:
    text = quadlet.render("x", unit(), version).text
    assert [found for found in text.splitlines() if found.startswith(line)]
    assert version >= "5.0" or "Notify=" not in text.replace("--sdnotify=", "")


def test_a_plain_service_says_what_quadlet_would() -> None:
    rendered = quadlet.render("triton-x", unit(), "4.3.1")
    assert rendered.path == "/etc/systemd/system/triton-x.service"
    assert not rendered.quadlet
    start = next(line for line in rendered.text.splitlines() if line.startswith("ExecStart="))
    options = options_of(start.partition("=")[2])
    # Until the container has started, its steady probe does not judge: there is no start-up probe before 4.4.
    expected = {option.replace("--health-cmd=", "--health-cmd=[ -e /tmp/.started ] || exit 0; ") for option in EXPECTED}
    assert expected <= set(options)
    assert options[-len(EXEC) :] == EXEC
    after = next(line for line in rendered.text.splitlines() if line.startswith("ExecStartPost="))
    assert after.startswith("ExecStartPost=/usr/bin/podman exec triton-codellama-0 /bin/sh -c ")
    assert "until (until curl -sf x; do sleep 0.1; done); do sleep 1; done; touch /tmp/.started" in after
    for line in ("Type=notify", "Delegate=yes", "KillMode=mixed", "WantedBy=multi-user.target"):
        assert line in rendered.text.splitlines()


def test_what_an_old_podman_cannot_do_is_said() -> None:
    notes = quadlet.render("x", unit(), "4.1.0").notes
    assert notes == ["podman 4.1 has no --health-on-failure (needs 4.3); it is left out of the unit."]
    assert quadlet.render("x", unit(), "4.3.1").notes == []


@pytest.mark.parametrize("version", ["3.4.4", "4.0.3"])
def test_a_podman_without_cdi_is_refused_with_the_remedy(version: str) -> None:
    with pytest.raises(FleetError, match=r"needs 4\.1; install a newer podman"):
        quadlet.render("x", unit(), version)


def test_a_key_without_any_equivalent_is_refused() -> None:
    newer = unit()
    newer["Container"]["ReloadCmd"] = "reload"
    with pytest.raises(FleetError, match=r"Container.ReloadCmd needs podman 5.5, found 5.4"):
        quadlet.render("x", newer, "5.4.2")


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("Container", "AddDevise", "x", "did you mean 'AddDevice'"),
        ("Container", "HealthCmd", "a\nPodmanArgs=--privileged", "must be one line"),
        ("Service", "Restart", "no\nExecStartPre=rm", "has a line break"),
        ("Container", "Exec", ["a", ";", "b"], "lone word ';'"),
        ("Containers", "Image", "x", "did you mean 'Container'"),
    ],
)
def test_bad_units_are_refused(section: str, key: str, value: object, message: str) -> None:
    bad = unit()
    bad.setdefault(section, {})[key] = value
    with pytest.raises(FleetError, match=message):
        quadlet.render("x", bad, "5.4.2")


def test_the_version_may_be_unknown() -> None:
    assert quadlet.render("x", unit(), None).text == quadlet.render("x", unit(), "5.8.2").text
    with pytest.raises(FleetError, match="is not a version of podman"):
        quadlet.podman_version("newest")


def test_the_table_agrees_with_the_recorded_first_versions() -> None:
    for name, key in CONTAINER_KEYS.items():
        assert quadlet_keys()[name] == f"{key.first[0]}.{key.first[1]}", name


def generators() -> list[Path]:
    """Real generators: the one of this machine, and any ``quadlet-v*`` in $TRTLLM_QUADLET_GENERATORS."""
    directory = Path(os.environ.get("TRTLLM_QUADLET_GENERATORS", "/nonexistent"))
    found = sorted(directory.glob("quadlet-v*"))
    installed = Path("/usr/libexec/podman/quadlet")
    return found + ([installed] if installed.exists() else [])


def run(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_real_generators_understand_the_unit(tmp_path: Path) -> None:
    if not generators():
        pytest.skip("no Quadlet generator here; set TRTLLM_QUADLET_GENERATORS to a directory of quadlet-v* binaries")
    for generator in generators():
        named = re.search(r"-v([0-9.]+)$", generator.name)
        version = named.group(1) if named else run("podman", "--version").split()[-1]
        units = tmp_path / version
        units.mkdir()
        (units / "triton-x.container").write_text(quadlet.render("triton-x", unit(), version).text)
        done = subprocess.run(
            [generator, "-dryrun", "-no-kmsg-log"],
            capture_output=True,
            text=True,
            env={**os.environ, "QUADLET_UNIT_DIRS": str(units)},
        )
        assert "unsupported key" not in done.stderr + done.stdout, version
        start = [line for line in done.stdout.splitlines() if line.startswith("ExecStart=")]
        assert start, f"{version}: {done.stderr}"
        options = options_of(start[0].partition("=")[2])
        assert set(EXPECTED) - set(options) == set(), version
        assert options[-len(EXEC) :] == EXEC, version
        sdnotify = [option for option in options if option.startswith("--sdnotify=")]
        waits = "ExecStartPost=/bin/sh" in done.stdout
        assert waits or sdnotify[-1] == "--sdnotify=healthy", version


def test_systemd_accepts_the_plain_service(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze here")
    path = tmp_path / "triton-x.service"
    path.write_text(quadlet.render("triton-x", unit(), "4.3.1").text.replace(quadlet.PODMAN, "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True)
    about_us = [line for line in done.stderr.splitlines() if "triton-x" in line]
    assert about_us == []


def test_user_and_group_are_one_option_of_a_podman_without_quadlet() -> None:
    given = unit()
    given["Container"] |= {"User": "65532", "Group": "65532"}
    assert " --user=65532:65532 " in quadlet.render("x", given, "4.3.1").text
