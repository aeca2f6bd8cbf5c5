# SPDX-License-Identifier: GPL-3.0-or-later
"""The callback in a run of ansible-playbook with forks: on a terminal one table, elsewhere plain lines."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest
from terminal import Terminal

REPO = Path(__file__).parents[4]
COLUMNS, HEIGHT, HOSTS = 100, 30, ["gpu-1", "gpu-2", "gpu-3"]
BOUND = 300.0  # seconds after which a run that hangs is ended
# A plugin as those for images and engines are, of a module whose work is done when it, and those of the other hosts,
# were asked often enough.
ACTION = """
from ansible_collections.trtllm.fleet.plugins.plugin_utils._progress import Followed
class ActionModule(Followed):
    module, running, what, work, first_poll = "fill", "filling", "tank", "filling", 0.2
    def line(self, host, name, progress):
        return f"[{host}] tank {name}: {progress['done']}"
    def row(self, progress):
        return {"done": progress["done"], "total": 4 << 30, "said": "filling"}
    def attach(self, arguments, result):
        return {**arguments, "wait": False, "attach": "j1"}
"""
MODULE = """
from pathlib import Path
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule(dict(name={}, path={}, hosts=dict(type="list"), wait=dict(type="bool"), attach={}))
place = Path(module.params["path"])
done = len(place.read_text()) + 1 if place.exists() else 1
place.write_text("." * done)
others = [place.with_name(host) for host in module.params["hosts"]]
shown = all(other.exists() and len(other.read_text()) > 1 for other in others)
module.exit_json(changed=True, filling=done < 4 or not shown, progress={"done": min(done, 4) << 30})
"""
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Fill the tanks
      fill: {name: large, path: "{{ playbook_dir }}/{{ inventory_hostname }}", hosts: "{{ ansible_play_hosts }}"}
    - name: Wait for {{ 'the third' }} host
      ansible.builtin.command: sleep {{ third if inventory_hostname == 'gpu-3' else 0 }}
      vars: {third: "{{ lookup('env', 'THIRD') | default('3', true) }}"}
    - name: Fail somewhere
      ansible.builtin.fail: {msg: no}
      when: inventory_hostname == 'gpu-2'
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    for name, text in (("action_plugins/fill.py", ACTION), ("library/fill.py", MODULE), ("play.yml", PLAY)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    inventory = "".join(
        f"{host} ansible_connection=local ansible_python_interpreter={sys.executable}\n" for host in HOSTS
    )
    (tmp_path / "hosts").write_text(inventory)
    monkeypatch.setenv("ANSIBLE_CONFIG", str(REPO / "ansible.cfg"))
    monkeypatch.setenv("ANSIBLE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ANSIBLE_NOCOLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("TRTLLM_FLEET_PROGRESS_AFTER", "0.5")
    playbook = Path(sys.executable).with_name("ansible-playbook")
    return [str(playbook), "-i", str(tmp_path / "hosts"), str(tmp_path / "play.yml")]


def on_terminal(command: list[str], until: str = "") -> tuple[int, list[list[str]]]:
    """Its exit status, and all screens that a reader saw; the reader ends it once of all hosts only *until* is shown.

    Only then: Ansible never ends that is interrupted while one of its processes tells of a result.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, COLUMNS, 0, 0))
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    bound = threading.Timer(BOUND, process.kill)
    bound.start()
    terminal, screens, rest = Terminal(COLUMNS, HEIGHT), [], b""
    with contextlib.suppress(OSError):  # which is how a terminal without a process ends
        while data := os.read(ours, 65536):
            whole, line_end, rest = (rest + data).rpartition(b"\n")
            terminal.feed((whole + line_end).decode())
            screens.append(terminal.lines)
            if until and [line[: len(until)] for line in screens[-1] if line.startswith("gpu-")] == [until]:
                process.send_signal(signal.SIGINT)
                until = ""
    terminal.feed(rest.decode())
    os.close(ours)
    status = process.wait()
    bound.cancel()
    return status, [*screens, terminal.lines]


def test_on_a_terminal_there_is_one_table_for_all_hosts_which_leaves_nothing(command: list[str]) -> None:
    status, screens = on_terminal(command)
    assert status == 2, screens[-1]
    tables = [
        table
        for screen in screens
        for start, line in enumerate(screen)
        if line.startswith("-- ") and (table := screen[start:])
    ]
    full = [
        table
        for table in tables
        if all(any(line.startswith(f"{host}  tank large  [") for line in table) for host in HOSTS)
    ]
    assert full, tables
    assert "3 hosts at work" in full[0][0] and " of 12.0 GiB" in full[0][0]
    assert any(line.startswith("gpu-3  Wait for the third host") for table in tables for line in table), tables
    for screen in screens:
        assert sum(line.startswith("-- ") for line in screen) <= 1
    last = "\n".join(screens[-1])
    assert "at work" not in last and "tank large" not in last
    assert last.count("changed: [") == 6 and "PLAY RECAP" in last and last.count("failed=1") == 1


@pytest.mark.slow
def test_elsewhere_there_are_plain_lines(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert all(f"[{host}] tank large: {1 << 30}\n" in done.stdout for host in HOSTS)
    assert "at work" not in done.stdout and "\x1b" not in done.stdout and "\x1e" not in done.stdout


@pytest.mark.slow
def test_a_run_that_is_interrupted_leaves_no_table(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THIRD", "60")
    status, screens = on_terminal(command, until="gpu-3  Wait for the third host")
    assert status not in (0, 2) and "interrupted" in "\n".join(screens[-1])
    assert not any(line.startswith(("-- ", "gpu-")) for line in screens[-1]), screens[-1]


@pytest.mark.slow
def test_lines_may_be_asked_for(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTLLM_FLEET_PROGRESS", "lines")
    _status, screens = on_terminal([*command, "--limit", "gpu-1"])
    assert f"[gpu-1] tank large: {1 << 30}" in screens[-1]
    assert not any(line.startswith("-- ") for screen in screens for line in screen)
