# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that is lost stops itself; contradictions, and too many lost hosts, stop the run. Run by ansible itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.plugin_utils._lost import limit, reason

pytestmark = pytest.mark.slow

# What each stage of site.yml is made of, with a task in place of the work.
STAGES = """
- name: First stage
  hosts: all
  gather_facts: false
  tasks:
    - name: Plan
      ansible.builtin.include_role: {name: trtllm.fleet.fleet, rolespec_validate: false}
    - name: Work
      block:
        - name: Do the work
          ansible.builtin.command: {argv: [sh, -c, "{{ work | default('true') }}"]}
          no_log: "{{ hidden | default(false) }}"
          vars:
            ansible_connection: "{{ 'ssh' if dies_on is defined else 'local' }}"
            ansible_host: 127.0.0.1
            ansible_port: "{{ dies_on | default(22) }}"
          changed_when: false
      rescue:
        - ansible.builtin.include_role: {name: trtllm.fleet.fleet, tasks_from: lost.yml}
    - trtllm.fleet.lost_hosts: {max_lost: "{{ trtllm_max_lost | default(omit) }}"}
      run_once: true
      register: fleet_lost_hosts

- name: Second stage
  hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.debug: {msg: "SECOND on {{ inventory_hostname }}"}
    - trtllm.fleet.lost_hosts: {max_lost: "{{ trtllm_max_lost | default(omit) }}"}
      run_once: true
"""

# Two roles after each other, as the playbooks run theirs.
ROLES = """
- name: Two roles
  hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.import_tasks: {playbooks}/tasks/stage.yml
      vars: {{stage_name: Run the first, stage_role: first}}
    - ansible.builtin.import_tasks: {playbooks}/tasks/stage.yml
      vars: {{stage_name: Run the second, stage_role: second, second_word: given}}
    - ansible.builtin.import_tasks: {playbooks}/tasks/lost_hosts.yml
"""
# One host after the other, as rollout.yml changes them.
BATCHES = """
- name: Plan
  hosts: gpu_hosts
  gather_facts: false
  tasks:
    - ansible.builtin.set_fact: {{rollout: {{}}, rollout_id: r, rollout_held: []}}
    - ansible.builtin.include_tasks: {playbooks}/tasks/batches.yml
      vars: {{batches_group: rollout_switched, batches_hosts: "{{{{ ansible_play_hosts }}}}", batches_serial: 1}}
      run_once: true
- name: Change
  hosts: rollout_switched
  gather_facts: false
  serial: "{{{{ hostvars[groups['rollout_switched'] | first].rollout_sizes }}}}"
  tasks:
    - ansible.builtin.import_tasks: {playbooks}/tasks/rollout_lost.yml
    - ansible.builtin.include_tasks: {playbooks}/tasks/stage.yml
      vars: {{stage_name: Run the first, stage_role: first}}
      when: not fleet_placeholder
- name: End
  hosts: gpu_hosts
  gather_facts: false
  tasks:
    - ansible.builtin.debug: {{msg: "SECOND on {{{{ inventory_hostname }}}}"}}
    - ansible.builtin.import_tasks: {playbooks}/tasks/lost_hosts.yml
"""
FIRST = """
- ansible.builtin.command: {argv: [sh, -c, "{{ work | default('true') }}"]}
  register: first_done
  vars:
    ansible_connection: "{{ 'ssh' if dies_on is defined else 'local' }}"
    ansible_port: "{{ dies_on | default(22) }}"
  changed_when: false
"""
SECOND = """
- ansible.builtin.debug: {msg: "SECOND {{ second_word }} on {{ inventory_hostname }}"}
"""

Hosts = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def closed_port() -> Iterator[int]:
    """A port of this machine that refuses connections for as long as the tests run."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


@pytest.fixture
def checkpoint(tmp_path: Path) -> dict[str, Any]:
    """A model with the least that is a checkpoint."""
    directory = tmp_path / "llama"
    directory.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "num_attention_heads": 2,
              "num_hidden_layers": 1, "vocab_size": 16, "intermediate_size": 16}  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    return {"name": "a", "checkpoint": {"path": str(directory)}}


def unreachable(port: int) -> dict[str, Any]:
    return {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": port}


class Fleet:
    """Hosts that are this machine, unless a test says otherwise."""

    def __init__(self, repo: Path, tmp: Path, model: dict[str, Any]) -> None:
        self.repo, self.tmp = repo, tmp
        self.variables: dict[str, Any] = {"trtllm_models": [model], "trtllm_release": LAST}

    def roles(self, hosts: Hosts, *argv: str, playbook: str = ROLES) -> tuple[int, str]:
        """As `run`, for the two roles."""
        for role, tasks in (("first", FIRST), ("second", SECOND)):
            (self.tmp / "roles" / role / "tasks").mkdir(parents=True)
            (self.tmp / "roles" / role / "tasks" / "main.yml").write_text(tasks)
        (self.tmp / "roles.yml").write_text(playbook.format(playbooks=self.repo / "playbooks"))
        return self.run(str(self.tmp / "roles.yml"), hosts, *argv)

    def run(self, playbook: str, hosts: Hosts, *argv: str) -> tuple[int, str]:
        """The exit status and what was printed, with blanks and line breaks as single blanks."""
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        inventory = self.tmp / "hosts.json"
        named = {name: {**local, **values} for name, values in hosts.items()}
        inventory.write_text(json.dumps({"gpu_hosts": {"hosts": named, "vars": self.variables}}))
        if playbook == "stages":
            (self.tmp / "stages.yml").write_text(STAGES)
        path = self.tmp / "stages.yml" if playbook == "stages" else self.repo / "playbooks" / playbook
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(inventory), str(path), *argv]
        env = {**os.environ, "ANSIBLE_CONFIG": str(self.repo / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        done = subprocess.run(command, cwd=self.repo, env=env, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def fleet(repo_dir: Path, tmp_path: Path, checkpoint: dict[str, Any]) -> Fleet:
    return Fleet(repo_dir, tmp_path, checkpoint)


def lines(text: str, begin: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(begin)]


def test_a_host_that_does_not_answer_stops_only_itself(fleet: Fleet, closed_port: int) -> None:
    status, text = fleet.run("stages", {"h1": unreachable(closed_port), "h2": {}, "h3": {}})
    assert status != 0
    assert "SECOND on h2" in text and "SECOND on h3" in text and "SECOND on h1" not in text
    # Named after the last stage too, with what ssh said.
    named = lines(text, "h1 is lost:")
    assert len(named) == 2 and len(set(named)) == 1
    assert "Connection refused" in named[-1]
    assert text.rindex("h1 is lost:") > text.index("SECOND on h3")


def test_a_host_that_fails_by_itself_stops_only_itself(fleet: Fleet) -> None:
    status, text = fleet.run("stages", {"h1": {}, "h2": {"work": "echo no space >&2; exit 3"}, "h3": {}})
    assert status == 2
    assert "SECOND on h1" in text and "SECOND on h3" in text and "SECOND on h2" not in text
    assert lines(text, "h2 is lost:")[-1].endswith("(at 'Do the work')")


def test_a_host_that_stops_answering_in_a_stage_is_named_to_the_end(fleet: Fleet, closed_port: int) -> None:
    status, text = fleet.run("stages", {"h1": {}, "h2": {"dies_on": closed_port}, "h3": {}})
    assert status == 4
    assert "SECOND on h1" in text and "SECOND on h3" in text and "SECOND on h2" not in text
    assert lines(text, "h2 is lost:") == ["h2 is lost: did not get through 'First stage'; its message is above"] * 2


def test_a_secret_of_a_failed_task_is_not_told(fleet: Fleet) -> None:
    bad = {"work": "echo hunter2; echo hunter2 >&2; exit 3", "hidden": True}
    status, text = fleet.run("stages", {"h1": bad, "h2": {}})
    assert status == 2
    assert lines(text, "h1 is lost: 'Do the work' failed; its output is hidden")
    assert "hunter2" not in text


@pytest.mark.parametrize(("max_lost", "goes_on"), [(1, False), ("60%", False), (2, True), ("67%", True)])
def test_too_many_lost_hosts_stop_the_run(fleet: Fleet, closed_port: int, max_lost: Any, goes_on: bool) -> None:
    fleet.variables["trtllm_max_lost"] = max_lost
    hosts = {"h1": {}, "h2": unreachable(closed_port), "h3": {"work": "exit 1"}}
    status, text = fleet.run("stages", hosts)
    assert status != 0
    assert ("SECOND on h1" in text) is goes_on
    assert ("2 of 3 hosts are lost (h2, h3), and trtllm_max_lost allows 1" in " ".join(text.split())) is not goes_on


def test_a_contradiction_stops_all_before_any_host_is_asked(fleet: Fleet, closed_port: int) -> None:
    replicas = [{"http_port": 8000}, {"http_port": 8000}]
    bad = {"trtllm_models": [{**fleet.variables["trtllm_models"][0], "serving": {"replicas": replicas}}]}
    for playbook in ("stages", "check.yml", "model.yml", "serve.yml", "preflight.yml"):
        hosts = {"h1": unreachable(closed_port), "h2": bad, "h3": {"work": "touch asked"}}
        status, text = fleet.run(playbook, hosts)
        assert status == 2, playbook
        assert "Port 8000 is given to a-0.http_port and to a-1.http_port" in " ".join(text.split()), playbook
        assert "UNREACHABLE" not in text and "Do the work" not in text and "SECOND" not in text, playbook


def test_a_limit_that_is_none_is_refused_before_any_host_is_asked(fleet: Fleet, closed_port: int) -> None:
    fleet.variables["trtllm_max_lost"] = "many"
    status, text = fleet.run("check.yml", {"h1": unreachable(closed_port)})
    assert status == 2 and "UNREACHABLE" not in text
    assert "trtllm_max_lost is 'many'; give a number of hosts, or a share" in " ".join(text.split())


def test_site_goes_past_a_host_that_does_not_answer(fleet: Fleet, closed_port: int) -> None:
    """A port that is taken loses one more host at the check, and two are too many: nothing is changed anywhere."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        fleet.variables["trtllm_max_lost"] = 1
        model = {**fleet.variables["trtllm_models"][0], "serving": {"replicas": [{"http_port": port, "gpus": []}]}}
        hosts = {"h1": unreachable(closed_port), "h2": {"trtllm_models": [model]}, "h3": {}}
        status, text = fleet.run("site.yml", hosts, "--check")
    assert status == 2
    assert "Connection refused" in lines(text, "h1 is lost:")[-1]
    assert str(port) in lines(text, "h2 is lost:")[-1]
    assert "2 of 3 hosts are lost (h1, h2), and trtllm_max_lost allows 1" in " ".join(text.split())
    # The GPUs and ports of the host that is left.
    assert lines(text, "h3 ")[0].split()[1:] == ["a-0", "0", "8000", "8001", "8002"]
    assert "Prepare the hosts" not in text


@pytest.mark.parametrize("playbook", ["preflight.yml", "verify.yml", "status.yml"])
def test_what_only_looks_has_a_host_that_does_not_answer_in_its_report(
    fleet: Fleet, closed_port: int, playbook: str
) -> None:
    fleet.variables["trtllm_max_lost"] = "100%"
    status, text = fleet.run(playbook, {"h1": unreachable(closed_port), "h2": {}})
    assert status == 2
    assert "h1 is lost: " in text
    # A row of the table for the other; this machine itself need not be fit to serve.
    assert [line for line in lines(text, "h2") if " : ok=" not in line]


def test_the_report_has_lost_hosts_and_virgin_ones_and_is_written_where_none_answers(
    fleet: Fleet, closed_port: int
) -> None:
    page, told = fleet.tmp / "out" / "fleet.html", fleet.tmp / "out" / "fleet.json"
    fleet.variables["trtllm_root"] = str(fleet.tmp / "root")
    files = ["-e", f"report_file={page}", "-e", f"report_json={told}", "-e", "report_benchmarks=/nonexistent"]
    status, text = fleet.run("report.yml", {"h1": unreachable(closed_port), "h2": {}}, "--check", *files)
    assert status == 2 and "Connection refused" in lines(text, "h1 is lost:")[-1]
    found = json.loads(told.read_text())
    assert {host["name"]: host["state"] for host in found["hosts"]} == {"h1": "lost", "h2": "bad"}
    assert sorted({one["host"] for one in found["attention"]}) == ["h1", "h2"]
    assert "it is described, but not on the host" in page.read_text()
    assert "changed=0" in lines(text, "h2 ")[-1] and not (fleet.tmp / "root").exists()
    page.unlink()
    status, text = fleet.run("report.yml", {"h1": unreachable(closed_port)}, *files)
    assert status == 2 and "The host does not answer." in page.read_text()


def test_the_report_of_a_description_that_is_none(fleet: Fleet) -> None:
    fleet.variables["trtllm_models"] = [{"name": "m", "engin": {}}]
    status, text = fleet.run("report.yml", {"h1": {}}, "-e", f"report_file={fleet.tmp}/fleet.html")
    assert status == 0, text
    assert "engin is not an option" in (fleet.tmp / "fleet.html").read_text()


@pytest.mark.parametrize("playbook", ["preflight.yml", "verify.yml"])
def test_a_host_that_an_earlier_stage_lost_is_in_the_report_too(fleet: Fleet, closed_port: int, playbook: str) -> None:
    fleet.variables["trtllm_max_lost"] = "100%"
    stages = [{"ansible.builtin.import_playbook": f"{fleet.repo}/playbooks/{name}"} for name in ("check.yml", playbook)]
    (fleet.tmp / "site.yml").write_text(json.dumps(stages))
    status, text = fleet.run(str(fleet.tmp / "site.yml"), {"h1": unreachable(closed_port), "h2": {}})
    assert status in (2, 4)
    assert "has no attribute" not in text
    row = [line for line in lines(text, "h1") if " : ok=" not in line and "is lost" not in line]
    assert row == ["h1: -"] or "it could not be looked at" in row[0]


@pytest.mark.parametrize("playbook", ["model.yml", "serve.yml"])
def test_a_stage_alone_stops_before_it_changes_anything(fleet: Fleet, closed_port: int, playbook: str) -> None:
    fleet.variables["triton_image_name"] = "registry.example.com/a:1"
    hosts = {"h1": unreachable(closed_port), "h2": unreachable(closed_port), "h3": {}}
    status, text = fleet.run(playbook, hosts, "--check")
    assert status == 2
    assert "2 of 3 hosts are lost (h1, h2), and trtllm_max_lost allows 1" in " ".join(text.split())
    assert "triton_image" not in text.split("PLAY RECAP")[0].split("TASK [Refuse to go on")[1]
    assert "changed=0" in lines(text, "h3 ")[-1]


@pytest.mark.parametrize(("max_lost", "goes_on"), [(1, False), (2, True)])
def test_too_many_failures_of_a_role_keep_the_next_from_all_hosts(fleet: Fleet, max_lost: int, goes_on: bool) -> None:
    fleet.variables["trtllm_max_lost"] = max_lost
    status, text = fleet.roles({"h1": {}, "h2": {"work": "exit 3"}, "h3": {"work": "exit 3"}})
    assert status == 2
    assert ("SECOND given on h1" in text) is goes_on
    assert "SECOND given on h2" not in text and "undefined" not in text
    # Named with the reason once, at the end, however it ends.
    assert len(lines(text, "h2 is lost:")) == len(lines(text, "h3 is lost:")) == 1


def test_where_no_host_is_left_all_are_named(fleet: Fleet, closed_port: int) -> None:
    status, text = fleet.run("stages", {"h1": unreachable(closed_port), "h2": {"work": "exit 3"}})
    assert status == 2 and "SECOND" not in text
    assert text.index("Do the work") < text.rindex("h1 is lost:")
    assert "Connection refused" in lines(text, "h1 is lost:")[-1] and lines(text, "h2 is lost:")


def test_what_the_connection_said_of_a_host_lost_on_the_way_is_told(fleet: Fleet, closed_port: int) -> None:
    status, text = fleet.roles({"h1": {}, "h2": {"dies_on": closed_port, "ansible_host": "127.0.0.1"}})
    assert status == 4 and "SECOND given on h1" in text
    (line,) = lines(text, "h2 is lost:")
    assert line.startswith("h2 is lost: it does not answer: ") and line.endswith("Connection refused")


def test_a_batch_that_is_lost_does_not_end_the_run(fleet: Fleet, closed_port: int) -> None:
    hosts = {"h1": {"dies_on": closed_port, "ansible_host": "127.0.0.1"}, "h2": {}, "h3": {}}
    status, text = fleet.roles(hosts, playbook=BATCHES)
    assert status == 4 and "SECOND on h2" in text and "SECOND on h3" in text and "SECOND on h1" not in text
    assert "Connection refused" in lines(text, "h1 is lost:")[-1]
    assert "rollout-switched-1 is lost" not in text


def test_members_of_batches_that_are_no_hosts_are_not_counted(fleet: Fleet, closed_port: int) -> None:
    fleet.variables["trtllm_max_lost"] = "50%"
    hosts: Hosts = {"h1": {"work": "exit 3"}, "h2": {"dies_on": closed_port, "ansible_host": "127.0.0.1"}, "h3": {}}
    status, text = fleet.roles(hosts, playbook=BATCHES)
    assert status != 0 and "SECOND" not in text
    assert "2 of 3 hosts are lost (h1, h2), and trtllm_max_lost allows 1 (50%)" in " ".join(text.split())


def test_a_limit_knows_no_members_that_are_no_hosts(fleet: Fleet) -> None:
    status, text = fleet.roles({"h1": {}, "h2": {}, "h3": {}}, "--limit", "h1,h3", playbook=BATCHES)
    assert status == 0 and "SECOND on h1" in text and "SECOND on h3" in text and "rollout-switched-1" not in text


@pytest.mark.parametrize("playbook", ["preflight", "verify", "status"])
def test_a_report_that_cannot_be_written_is_one_failure(fleet: Fleet, playbook: str) -> None:
    status, text = fleet.run(f"{playbook}.yml", {"h1": {}, "h2": {}}, "-e", f"{playbook}_report=/nonexistent/report")
    assert status == 2
    assert "/nonexistent does not exist" in text and "undefined" not in text and "h1 is lost" not in text


@pytest.mark.parametrize("named", ["rollback_replicas", "rollback_models"])
def test_a_rollback_says_which_hosts_it_could_not_ask(fleet: Fleet, closed_port: int, named: str) -> None:
    hosts = {"h1": unreachable(closed_port), "h2": {}}
    status, text = fleet.run("rollback.yml", hosts, "-e", f"{named}=a-0")
    assert status == 2
    assert "Connection refused" in lines(text, "h1 is lost:")[-1]
    assert "No host has a-0; there are no replicas. Not known is what there is on h1." in " ".join(text.split())


def test_lost_hosts_are_not_kept_for_the_next_run(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSIBLE_CACHE_PLUGIN", "jsonfile")
    monkeypatch.setenv("ANSIBLE_CACHE_PLUGIN_CONNECTION", str(tmp_path / "cache"))
    fleet.run("stages", {"h1": {}, "h2": {"work": "exit 3"}})
    assert not [path for path in (tmp_path / "cache").glob("*") if "lost" in path.read_text()]


@pytest.mark.parametrize(
    ("max_lost", "total", "allowed"),
    [("10%", 1, 1), ("10%", 9, 1), ("10%", 10, 1), ("10%", 39, 3), ("0%", 50, 0), (0, 50, 0), ("2", 50, 2),
     ("100 %", 7, 7)],
)  # fmt: skip
def test_a_share_is_rounded_down_but_allows_one_host(max_lost: Any, total: int, allowed: int) -> None:
    assert limit(max_lost, total) == allowed


@pytest.mark.parametrize("max_lost", ["many", "-1", "101%", 0.1, True, None, ""])
def test_what_is_no_number_and_no_share_is_refused(max_lost: Any) -> None:
    with pytest.raises(FleetError, match="give a number of hosts, or a share"):
        limit(max_lost, 10)


def test_the_reason_of_a_loop_is_that_of_its_first_failure() -> None:
    result = {"msg": "One or more items failed", "results": [{"msg": "fine"}, {"failed": True, "msg": "no\n  room"}]}
    assert reason(result, "Copy") == "no room (at 'Copy')"


def test_a_long_message_keeps_its_end_where_podman_says_why() -> None:
    said = f"podman cannot pull 'a': writing blob {'a' * 400} {'b' * 300}: no space left on device"
    told = reason({"msg": said}, "Pull")
    assert told.startswith("podman cannot pull 'a': writing blob")
    assert told.endswith("b: no space left on device (at 'Pull')")
    assert len(told) < 450


def test_a_module_that_was_killed_is_told_as_that() -> None:
    words = "Module result deserialization failed: No start of json char found"
    result = {"failed": True, "rc": 137, "msg": words, "module_stdout": "", "module_stderr": "Killed"}
    assert reason(result, "Copy") == (
        "the module was killed on the host, as the kernel does where memory is short; see `journalctl -k` there, "
        "and run again (at 'Copy')"
    )
    assert reason({**result, "rc": 1}, "Copy") == f"{words} (at 'Copy')"
