# SPDX-License-Identifier: GPL-3.0-or-later
"""How the podman CLI is called and what becomes of its answers; a scripted podman stands in for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._podman import cli as podman

INSPECT = (
    '[{"Id": "c1", "Name": "b", "Image": "abc", '
    '"State": {"Status": "exited", "ExitCode": 137, "OOMKilled": true},'
    ' "Config": {"Labels": {"k": "v"}}}]'
)


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A podman that runs the shell text in ``answer`` with its own arguments and keeps them in ``argv``."""
    program = tmp_path / "podman"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/argv\n. {tmp_path}/answer\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def answer(scripted: Path, text: str) -> None:
    (scripted / "answer").write_text(text)


def argv(scripted: Path) -> list[str]:
    return (scripted / "argv").read_text().splitlines()


def test_version(scripted: Path) -> None:
    answer(scripted, "echo podman version 5.4.2")
    assert podman.version() == (5, 4, 2)


def test_image_id_is_normalised_and_absent_is_none(scripted: Path) -> None:
    answer(scripted, "echo abc")
    assert podman.image_id("x:1") == "sha256:abc"
    answer(scripted, "echo 'Error: x:1: image not known' >&2; exit 125")
    assert podman.image_id("x:1") is None
    answer(scripted, "echo 'Error: database locked' >&2; exit 125")
    with pytest.raises(podman.PodmanError, match="database locked"):
        podman.image_id("x:1")


def test_container_state(scripted: Path) -> None:
    answer(scripted, f"cat <<'J'\n{INSPECT}\nJ")
    state = podman.container_state("b")
    assert state is not None
    assert (state.status, state.exit_code, state.oom_killed) == ("exited", 137, True)
    assert not state.running
    assert (state.image_id, state.labels) == ("sha256:abc", {"k": "v"})
    answer(scripted, "echo 'Error: no such container b' >&2; exit 125")
    assert podman.container_state("b") is None


def test_a_detached_run_is_named_labelled_and_never_pulls(scripted: Path) -> None:
    answer(scripted, "echo 0123")
    identity = podman.run_detached(
        "img", ["sh", "-c", "x"], name="n", labels={"a": "b"}, volumes=["/m:/m:ro"],
        devices=["nvidia.com/gpu=0"], environment={"K": "V"}, network="none", options=["--shm-size=2g"],
    )  # fmt: skip
    assert identity == "0123"
    assert argv(scripted) == [
        "run", "--detach", "--pull=never", "--network=none", "--name=n", "--entrypoint=", "--label=a=b",
        "--volume=/m:/m:ro", "--device=nvidia.com/gpu=0", "--env=K=V", "--shm-size=2g", "img", "sh", "-c", "x",
    ]  # fmt: skip


def test_failures_carry_podmans_last_line(scripted: Path) -> None:
    answer(scripted, "echo first >&2; echo 'Error: unresolvable CDI devices' >&2; exit 126")
    with pytest.raises(podman.PodmanError, match=r"exit code 126: Error: unresolvable CDI devices") as failed:
        podman.run_once("img", ["true"])
    assert failed.value.returncode == 126


def test_a_host_without_podman_gets_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podman, "executable", lambda: None)
    with pytest.raises(podman.PodmanError, match="podman is not installed on this host"):
        podman.version()
