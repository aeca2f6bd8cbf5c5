# SPDX-License-Identifier: GPL-3.0-or-later
"""One plan for all hosts and gateways of an inventory, made by ansible itself."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST

MODEL: dict[str, Any] = {"name": "a", "checkpoint": {"path": "/srv/a", "location": "host", "in_place": True}}
# The description alone: the hosts are not there.
DESCRIBED = """
- hosts: gpu_hosts:gateway_hosts
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: trtllm.fleet.fleet, tasks_from: describe.yml, rolespec_validate: false}
    - ansible.builtin.include_role: {name: trtllm.fleet.fleet, tasks_from: map.yml, rolespec_validate: false}
    - trtllm.fleet.fleet_table: {table: "{{ fleet_map | trtllm.fleet.map_table }}"}
      run_once: true
    - ansible.builtin.debug: {msg: "SERVES {{ inventory_hostname }} {{ fleet_description.plan.serves }}"}
"""


class Inventory:
    """Hosts by group, and what holds for all of them."""

    def __init__(self, repo: Path, tmp: Path) -> None:
        self.repo, self.tmp = repo, tmp
        self.variables: dict[str, Any] = {"trtllm_models": [MODEL], "trtllm_release": LAST}
        self.hosts: dict[str, dict[str, Any]] = {"g1": {"ansible_host": "10.0.0.1"}, "g2": {"ansible_host": "10.0.0.2"}}
        self.gateways: dict[str, dict[str, Any]] = {"w1": {}, "w2": {}}

    def run(self, playbook: str, *argv: str) -> tuple[int, str]:
        """The exit status and what was printed."""
        groups = {"gpu_hosts": self.hosts, **({"gateway_hosts": self.gateways} if self.gateways else {})}
        (self.tmp / "hosts.json").write_text(
            json.dumps({name: {"hosts": hosts, "vars": self.variables} for name, hosts in groups.items()})
        )
        (self.tmp / "described.yml").write_text(DESCRIBED)
        path = self.tmp / "described.yml" if playbook == "described" else self.repo / "playbooks" / playbook
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(self.tmp / "hosts.json"), str(path)]
        env = {**os.environ, "ANSIBLE_CONFIG": str(self.repo / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        done = subprocess.run([*command, *argv], cwd=self.repo, env=env, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def inventory(repo_dir: Path, tmp_path: Path) -> Inventory:
    return Inventory(repo_dir, tmp_path)


def table(text: str) -> list[list[str]]:
    lines = text.splitlines()
    begin = next(index for index, line in enumerate(lines) if line.split()[:2] == ["host", "model"])
    return [line.split() for line in itertools.takewhile(lambda line: line[:1] == "g", lines[begin + 1 :])]


def test_gateways_on_hosts_of_their_own_front_all_hosts(inventory: Inventory) -> None:
    # One of them serves too; a name that means nothing is reached at no address, but a gateway needs none.
    inventory.gateways = {"w1": {}, "g2": {}}
    status, text = inventory.run("described")
    assert status == 0, text
    assert table(text) == [["g1", "a", "10.0.0.1:8000", "w1,", "g2"], ["g2", "a", "10.0.0.2:8000", "w1,", "g2"]]
    assert [text.count(f"SERVES {name}") for name in ("g1 True", "g2 True", "w1 False")] == [1, 1, 1]


def test_hosts_beyond_the_limit_are_in_the_map_as_they_are_described(inventory: Inventory) -> None:
    inventory.hosts["g2"]["trtllm_port_base"] = 9000
    status, text = inventory.run("described", "--limit", "w1")
    assert status == 0, text
    unasked = ["(not", "asked", "in", "this", "run)", "w1,", "w2"]
    assert table(text) == [["g1", "a", "10.0.0.1:8000", *unasked], ["g2", "a", "10.0.0.2:9000", *unasked]]


@pytest.mark.parametrize(("fronts", "gateways"), [("host", [["g1"], ["g2"]]), ("fleet", [["g1,", "g2"]] * 2)])
def test_without_the_group_each_host_has_a_gateway(inventory: Inventory, fronts: str, gateways: list[Any]) -> None:
    inventory.gateways = {}
    inventory.variables["trtllm_gateway_fronts"] = fronts
    address = {"host": "127.0.0.1", "fleet": "10.0.0"}[fronts]
    status, text = inventory.run("described")
    assert status == 0, text
    assert [line[3:] for line in table(text)] == gateways
    assert all(line[2].startswith(address) for line in table(text))


@pytest.mark.parametrize("gateways", [{}, {"w1": {}}])
def test_a_host_that_only_builds_is_fronted_by_no_gateway(inventory: Inventory, gateways: dict[str, Any]) -> None:
    inventory.gateways, inventory.variables["trtllm_gateway_fronts"] = gateways, "fleet"
    inventory.hosts["g2"].update(trtllm_serves=False, ansible_host="no-such-host.invalid")
    status, text = inventory.run("described")
    assert status == 0, text
    assert [line for line in table(text) if len(line) > 1] == [["g1", "a", "10.0.0.1:8000", "w1" if gateways else "g1"]]
    assert "SERVES g2 True" in text


def test_no_gateway_fronts_anything_where_none_is_wanted(inventory: Inventory) -> None:
    inventory.variables["trtllm_gateway"] = False
    status, text = inventory.run("described")
    assert status == 0, text
    assert [line[2:] for line in table(text)] == [["127.0.0.1:8000", "-"]] * 2


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"trtllm_models": [{**MODEL, "serving": {"streaming": False}}]},
            "a: serving.streaming is true on g1 and false on g2, but gateways show both as one model; make them the "
            "same, or give one of the two another name.",
        ),
        (
            {"trtllm_triton_address": "127.0.0.1"},
            "a-0 on g2 listens on 127.0.0.1, where the gateway on w1 does not reach it; set trtllm_triton_address of "
            "g2 to an address that gateways reach, or leave it out.",
        ),
        (
            {"ansible_host": "nowhere.invalid"},
            "Gateways of other hosts front the replicas of this one, and the inventory reaches it at nowhere.invalid, "
            "which is no address here; set trtllm_triton_address to the address on which they reach Triton.",
        ),
        ({"trtllm_gateway_fronts": "all"}, "value of trtllm_gateway_fronts must be one of: host, fleet, got: all."),
    ],
)
def test_hosts_that_do_not_fit_together_are_refused_before_any_is_asked(
    inventory: Inventory, values: dict[str, Any], sentence: str
) -> None:
    inventory.hosts["g2"].update(values)
    status, text = inventory.run("check.yml")
    assert status == 2
    assert sentence in " ".join(text.split())
    assert "UNREACHABLE" not in text and "Traceback" not in text


def test_a_host_that_is_left_out_of_the_run_must_fit_too(inventory: Inventory) -> None:
    inventory.hosts["g2"]["trtllm_models"] = [{**MODEL, "engine": {"tp_sise": 2}}]
    status, text = inventory.run("check.yml", "--limit", "g1,w1")
    assert status == 2 and "UNREACHABLE" not in text
    assert "g2: trtllm_models[0].engine.tp_sise is not an option; did you mean 'tp_size'?" in " ".join(text.split())
    inventory.hosts["g2"] = {"trtllm_port_base": "{{ nowhere }}"}
    status, text = inventory.run("check.yml", "--limit", "g1,w1")
    assert status == 2 and "UNREACHABLE" not in text
    assert "trtllm_port_base of g2 cannot be worked out: 'nowhere' is undefined; correct it" in " ".join(text.split())


ONE, OTHER = (f"sha256:{digit * 64}" for digit in "ab")
GANG = {**MODEL, "engine": {"tp_size": 2}, "serving": {"replicas": [{"nodes": ["g1", "g2"], "gpus": [0]}]}}
# The role's own tasks, up to where it would touch a host.
GANGS = """
- hosts: gpu_hosts
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: trtllm.fleet.fleet, tasks_from: describe.yml, rolespec_validate: false}
    - ansible.builtin.set_fact: {fleet_plan: "{{ fleet_description.plan }}"}
    - ansible.builtin.include_role: {name: trtllm.fleet.triton, tasks_from: gangs.yml, rolespec_validate: false}
      vars:
        triton_replicas: "{{ fleet_plan.replicas }}"
        triton_release: "{{ fleet_plan.release }}"
"""


def test_a_replica_on_several_hosts_is_fronted_where_it_leads(inventory: Inventory) -> None:
    inventory.variables["trtllm_models"] = [GANG]
    for limit in ([], ["--limit", "g1,w1"]):
        status, text = inventory.run("described", *limit)
        assert status == 0, text
        assert table(text) == [["g1", "a", "10.0.0.1:8000", "on", "g1", "+", "g2", "w1,", "w2"]]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"trtllm_models": [MODEL]}, "a-0: g1 has it on g1, g2, but what is written for g2 has no such replica"),
        ({"trtllm_root": "/srv/llm"}, "a-0: trtllm_root is /var/lib/trtllm on g1 and /srv/llm on g2"),
        ({"ansible_host": "nowhere.invalid"}, "which is no address here; set trtllm_node_address of g2"),
        ({"trtllm_node_address": "fd00::1"}, "trtllm_node_address of g2 is 'fd00::1'; the nodes of a replica reach"),
    ],
)
def test_nodes_of_a_replica_that_do_not_fit_together_are_refused_before_any_is_asked(
    inventory: Inventory, values: dict[str, Any], sentence: str
) -> None:
    inventory.variables["trtllm_models"] = [GANG]
    inventory.gateways = {}
    inventory.hosts["g2"].update(values)
    status, text = inventory.run("check.yml", "--limit", "g1")
    assert status == 2
    assert sentence in " ".join(text.split())
    assert "UNREACHABLE" not in text and "Traceback" not in text


@pytest.mark.parametrize(
    ("values", "argv", "sentence"),
    [
        ({"triton_image": f"r/t@{OTHER}"}, [], f"a-0: image is r/t@{ONE} on g1 and r/t@{OTHER} on g2"),
        ({}, ["--limit", "g1"], "a-0: its node g2 is lost, or is not in this run"),
        ({"fleet_lost": "it is gone"}, [], "a-0: its node g2 is lost, or is not in this run"),
    ],
)  # fmt: skip
def test_nodes_that_turn_out_to_be_unlike_are_refused_on_all_of_them(
    inventory: Inventory, values: dict[str, Any], argv: list[str], sentence: str
) -> None:
    inventory.gateways = {}
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory.variables.update(trtllm_models=[GANG], triton_image=f"r/t@{ONE}", **local)
    inventory.hosts["g2"].update(values)
    path = inventory.tmp / "gangs.yml"
    path.write_text(GANGS)
    status, text = inventory.run(str(path), *argv, "--check")
    assert status == 2
    words = " ".join(text.split())
    assert words.count(sentence) >= (1 if argv else 2), text
    assert "Ensure that the leader has a secret" not in text and "Traceback" not in text
