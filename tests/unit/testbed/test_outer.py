# SPDX-License-Identifier: GPL-3.0-or-later
"""How the testbed calls the machine's podman, and what it makes of containers whose processes are gone."""

from __future__ import annotations

from pathlib import Path

import pytest
from testbed import engine, outer, probes, settings

IN_A_NAMESPACE = probes.Machine(cgroup="legacy")  # which podman has to have


class TestLostProcesses:
    """Containers whose processes were ended without podman, as at the end of a container that we run in."""

    RUNNING = "a1 running 10 /run/netns/one"

    def test_a_container_without_its_conmon_is_lost(self) -> None:
        assert outer.lost(self.RUNNING, lambda pid: b"") == ([("a1", "/run/netns/one")], False)

    def test_another_process_of_that_number_is_no_conmon(self) -> None:
        assert outer.lost(self.RUNNING, lambda pid: b"bash")[0]

    def test_what_runs_and_what_was_stopped_is_kept(self) -> None:
        inspected = f"{self.RUNNING}\nb2 exited 0 \nc3 created 0"
        assert outer.lost(inspected, {10: b"conmon\0-c\0a1", 0: b""}.__getitem__) == ([], True)

    def test_a_host_that_stopped_half_way_is_lost(self) -> None:
        assert outer.lost("a1 stopping 10 ", lambda pid: b"") == ([("a1", "")], False)


class TestWhereItRuns:
    """podman's API service outlives who starts it, and the directory of who starts it."""

    @pytest.mark.parametrize(("asked", "expected"), [({}, None), ({"directory": "/"}, "/")])
    def test_in_a_namespace(
        self, config: settings.Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: dict[str, str],
        expected: str | None,
    ) -> None:  # fmt: skip
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("testbed.outer.machine", lambda: IN_A_NAMESPACE)
        monkeypatch.setattr("testbed.outer._ensure_namespace", lambda: None)
        argv = outer.command(config, "ps", **asked)
        assert argv[argv.index("-C") + 1 :] == [expected or str(tmp_path), outer.PODMAN, "ps"]

    def test_the_service_is_started_at_the_root(
        self, config: settings.Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started: list[list[str]] = []
        monkeypatch.setattr("testbed.outer.machine", lambda: IN_A_NAMESPACE)
        monkeypatch.setattr("testbed.outer._ensure_namespace", lambda: None)
        monkeypatch.setattr("testbed.outer.forget_lost", lambda where: [])
        monkeypatch.setattr("testbed.engine._server", lambda where: 1)
        monkeypatch.setattr("testbed.engine.subprocess.Popen", lambda argv, **more: started.append(argv))
        engine._start(config)
        assert "env -C / /usr/bin/podman system service" in " ".join(started[0])
