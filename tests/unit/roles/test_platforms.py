# SPDX-License-Identifier: GPL-3.0-or-later
"""One table of platforms: a new release of a distribution is one row, and all else follows from it."""

from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trtllm.fleet.plugins.module_utils._host import facts, platforms
from fake_host import OS_RELEASES, FakeHost
from recorder import record

REPO = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(REPO / "tools")]
import doc_platforms as generated

TABLE = yaml.safe_load(generated.TABLE.read_text())["gpu_host_platforms"]


@pytest.fixture
def newer() -> dict[str, Any]:
    """The table with one row more: Ubuntu 26.04."""
    table = copy.deepcopy(TABLE)
    table["releases"]["ubuntu-26.04"] = {"release": "resolute", "podman": "5.7.0"}
    return table


@pytest.mark.parametrize(
    ("system", "name"),
    [
        ("debian-12", "debian-12"),
        ("ubuntu-22.04", "ubuntu-22.04"),
        ("rhel-8", "el-8"),
        ("rocky-9", "el-9"),
        ("almalinux-10", "el-10"),
        ("fedora-43", None),
    ],
)
def test_a_host_is_found_by_its_os_release(system: str, name: str | None) -> None:
    identity, version, _title = OS_RELEASES[system]
    assert platforms.host_platform({"id": identity, "version": version}, TABLE).get("name") == name


@pytest.mark.parametrize(
    "system", [{"id": "", "version": ""}, {"id": "debian", "version": ""}, {"id": "ubuntu", "version": "23.10"}]
)
def test_an_unknown_release_is_no_platform(system: dict[str, str]) -> None:
    assert platforms.host_platform(system, TABLE) == {}


def test_metadata_and_pages_are_what_the_table_says() -> None:
    for path, text in generated.platform_texts().items():
        assert path.read_text() == text, f"{path}: run `make docs`"


def test_every_role_of_hosts_names_every_row(newer: dict[str, Any]) -> None:
    for role in generated.ROLES:
        path = REPO / "roles" / role / "meta" / "main.yml"
        before = yaml.safe_load(path.read_text())["galaxy_info"]["platforms"]
        assert sorted(version for entry in before for version in entry["versions"]) == sorted(
            str(row["release"]) for row in TABLE["releases"].values()
        )
        after = yaml.safe_load(generated.metadata(path.read_text(), newer))["galaxy_info"]["platforms"]
        assert {"name": "Ubuntu", "versions": ["jammy", "noble", "resolute"]} in after, role


def test_the_pages_get_the_new_row(newer: dict[str, Any]) -> None:
    guide = generated.page((REPO / "docs" / "gpu-hosts.md").read_text(), newer)
    assert "| Ubuntu 26.04 | yes, DKMS | yes, signed modules | 5.7.0: everything |\n" in guide
    for role in generated.ROLES:
        text = generated.page((REPO / "roles" / role / "README.md").read_text(), newer)
        assert "Ubuntu 22.04, 24.04, 26.04;" in text, role


def test_nothing_else_knows_releases() -> None:
    """Code, tasks and tables elsewhere branch on what a row says, not on its name."""
    for path in [*(REPO / "roles").rglob("*.yml"), *(REPO / "roles").rglob("*.j2")]:
        if path != generated.TABLE and not path.match("meta/main.yml"):
            found = re.search(r"\b(jammy|noble|bookworm|trixie|(ubuntu|debian|el)-\d+)\b", path.read_text())
            assert found is None, f"{path}: {found}"


def test_a_host_of_the_new_release_gets_podman_and_driver(tmp_path: Path, newer: dict[str, Any]) -> None:
    host = FakeHost(tmp_path / "host").recorded("hgx-h200").packages({"python3-apt": "2.7"})
    host.write("/etc/os-release", 'ID=ubuntu\nVERSION_ID="26.04"\nPRETTY_NAME="Ubuntu 26.04 LTS"\n')
    fresh = facts.gather(host.system, units=[])
    fresh["units"] = {name: {"exists": False, "active": False, "enabled": False} for name in facts.UNITS}
    roles = ["trtllm.fleet.podman", "trtllm.fleet.gpu_driver"]
    for name in ("without", "with"):
        (tmp_path / name).mkdir()
    older = {**newer, "releases": {name: row for name, row in newer["releases"].items() if name != "ubuntu-26.04"}}
    extra = ["--extra-vars", json.dumps({"gpu_host_platforms": older})]
    known = record(tmp_path / "without", {"h": {"looks": [fresh]}}, roles, {}, extra)
    assert "runs Ubuntu 26.04 LTS, which this role does not know" in " ".join(known.output.split())
    listing = "nvidia-dkms-580-open | 580.95.05-1\n"
    extra = ["--extra-vars", json.dumps({"gpu_host_platforms": newer})]
    hosts = {"h": {"looks": [fresh], "answers": {"apt-cache": listing}}}
    recorded = record(tmp_path / "with", hosts, roles, {}, extra)
    assert next(call.args["name"] for call in recorded.of("h", "apt") if "name" in call.args)[0] == "podman"
    (key,) = [call.args["source"] for call in recorded.of("h", "repository_key")]
    assert key.endswith("/cuda/repos/ubuntu2604/x86_64/3bf863cc.pub")
    assert "ubuntu2604" in recorded.files("h")["/etc/apt/sources.list.d/trtllm-nvidia-driver.list"]
