# SPDX-License-Identifier: GPL-3.0-or-later
"""The archive that users install: it builds, its documentation can be read, its playbooks are found by full name."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def installed(repo_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection, built and installed as a user would, away from the checkout."""
    root = tmp_path_factory.mktemp("collection")
    galaxy = str(BIN / "ansible-galaxy")
    subprocess.run(
        [galaxy, "collection", "build", "--output-path", str(root)], cwd=repo_dir, check=True, capture_output=True
    )
    (archive,) = root.glob("trtllm-fleet-*.tar.gz")
    argv = [galaxy, "collection", "install", str(archive), "-p", str(root / "collections"), "--offline", "--force"]
    subprocess.run(argv, cwd=root, check=True, capture_output=True)
    return root


def ansible(root: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(root / "collections"), "ANSIBLE_NOCOLOR": "1"}
    env.pop("ANSIBLE_CONFIG", None)
    return subprocess.run(
        [str(BIN / argv[0]), *argv[1:]], cwd=root, env=env, capture_output=True, text=True, check=False
    )


def test_every_module_filter_and_lookup_is_documented_with_examples(installed: Path, repo_dir: Path) -> None:
    for kind, pattern in (
        ("module", "modules/[a-z]*.py"),
        ("filter", "filter/*.yml"),
        ("lookup", "lookup/*.py"),
    ):
        names = [f"trtllm.fleet.{path.stem}" for path in (repo_dir / "plugins").glob(pattern)]
        done = ansible(installed, "ansible-doc", "-t", kind, "--json", *names)
        documented = json.loads(done.stdout)
        assert sorted(documented) == sorted(names), done.stderr
        for name, page in documented.items():
            assert page["doc"].get("short_description"), name
            assert page.get("examples"), name


def test_the_gateways_image_can_be_built_without_a_checkout(installed: Path, repo_dir: Path) -> None:
    expression = "{{ lookup('trtllm.fleet.image_context', 'openai_gateway') | to_json }}"
    done = ansible(installed, "ansible", "localhost", "-m", "ansible.builtin.debug", "-a", f"msg={expression!r}")
    assert done.returncode == 0, done.stdout + done.stderr
    source = repo_dir / "images" / "openai_gateway"
    copied = re.findall(r"^COPY (\S+)", (source / "Containerfile").read_text(), re.M)
    assert copied and all(f'\\"{name}' in done.stdout for name in copied), "each COPY finds its files"
    shipped = installed / "collections" / "ansible_collections" / "trtllm" / "fleet" / "images"
    assert all((shipped / "openai_gateway" / name).exists() for name in copied), "podman build finds them there too"
    assert not (shipped / "triton_cpu").exists() and not (shipped / "openai_gateway" / "tests").exists()
    assert {p.name for p in (shipped / "openai_gateway" / "openai_gateway").glob("*.py")} == {
        p.name for p in (source / "openai_gateway").glob("*.py")
    }


def test_playbooks_are_found_by_their_full_names(installed: Path, repo_dir: Path) -> None:
    inventory = installed / "hosts"
    inventory.write_text("[gpu_hosts]\nnowhere\n")
    for playbook in (repo_dir / "playbooks").glob("*.yml"):
        done = ansible(
            installed, "ansible-playbook", "-i", str(inventory), "--syntax-check", f"trtllm.fleet.{playbook.stem}"
        )
        assert done.returncode == 0, f"{playbook.name}: {done.stdout}{done.stderr}"


def test_execution_environments_get_the_packages_of_the_controller(installed: Path, repo_dir: Path) -> None:
    """ansible-builder reads this file of the installed collection, and the files that it names."""
    root = installed / "collections" / "ansible_collections" / "trtllm" / "fleet"
    named = yaml.safe_load((root / "meta" / "execution-environment.yml").read_text())["dependencies"]
    assert set(named) == {"python", "system"}
    lines = (root / named["python"]).read_text().splitlines()
    packages = {re.split(r"[\[<>=]", line)[0] for line in lines if line and not line.startswith("#")}
    imported = set()
    for path in (root / "plugins").rglob("*.py"):
        imported |= set(re.findall(r"^\s*(?:import|from) (\w+)", path.read_text(), re.MULTILINE))
    ours = {"tritonclient", "openai", "yaml", "jinja2", "docker"} & imported
    assert {name.replace("yaml", "pyyaml") for name in ours} <= packages, "what a plugin imports must be installed"
    assert "docker" not in packages, "only the test hosts need it"
    assert all("[platform:" in line for line in (root / named["system"]).read_text().splitlines() if line[0] != "#")


def test_every_role_states_its_interface(repo_dir: Path) -> None:
    for role in (repo_dir / "roles").iterdir():
        specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]
        main = specs["main"]
        assert main["short_description"], role.name
        assert (role / "README.md").is_file(), role.name
        defaults = role / "defaults" / "main.yml"
        if defaults.is_file():
            unspecified = set(yaml.safe_load(defaults.read_text()) or {}) - {
                name for entry in specs.values() for name in entry.get("options", {})
            }
            assert not unspecified, f"{role.name}: defaults without a specification: {sorted(unspecified)}"


def test_main_of_every_role_stays_readable(repo_dir: Path) -> None:
    for main in (repo_dir / "roles").glob("*/tasks/main.yml"):
        assert len(main.read_text().splitlines()) <= 70, main


def test_the_reference_is_what_the_argument_specs_say(repo_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "tools/docs.py", "--check"], cwd=repo_dir, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def old_python() -> str | None:
    """An interpreter of the oldest Python that hosts may have."""
    candidates = [shutil.which("python3.9"), *map(str, Path.home().glob(".pyenv/versions/3.9.*/bin/python3.9"))]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "--version"], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


def test_what_runs_on_hosts_runs_on_their_oldest_python(repo_dir: Path) -> None:
    python = old_python()
    if python is None:
        pytest.skip("there is no Python 3.9 on this machine")
    utils = repo_dir / "plugins" / "module_utils"
    names = sorted(
        ".".join(path.relative_to(utils).with_suffix("").parts)
        for path in utils.rglob("*.py")
        if path.stem != "__init__"
    )
    script = "import importlib, sys; sys.path.insert(0, 'collections')\n" + "\n".join(
        f"importlib.import_module('ansible_collections.trtllm.fleet.plugins.module_utils.{name}')" for name in names
    )
    done = subprocess.run([python, "-c", script], cwd=repo_dir, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
