# SPDX-License-Identifier: GPL-3.0-or-later
"""No name and no path leads elsewhere: every module is asked, for every option that ends in a path."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import ansible.utils.display  # noqa: F401  it looks for the C library with a command when it is first imported
import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._base.names import (
    MODEL_NAME,
    RESERVED,
    check_absolute,
    check_name,
    check_path,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._triton.options import REPLICA_OPTIONS
from unit import kubernetes_fakes, modules
from unit.modules import Option

BAD_NAMES = ["..", ".", "", "a/b", "/x", "../x", "a\nb", "a b", "-x", "x" * 300]
BAD_PATHS = ["rel/ative", "", ".", "/a\nb", "/a\x00b"]

# Options that become a path, with what else the module has to be given; ROOT is a directory of the test.
ROOT = {"root": "ROOT"}
MODEL = {
    "trtllm_release": LAST,
    "trtllm_models": [
        {"name": "m", "checkpoint": {"path": "/srv/m"}, "image": {"name": "r/i:1"}, "engine_image": {"name": "r/e:1"}}
    ],
}
ENGINE = {**ROOT, "name": "m", "checkpoint": "/srv/m", "release": LAST, "gpus": [], "image": "i"}
REPOSITORY = {**ROOT, "name": "m", "release": LAST, "image": "i"}
JOB = {"name": "m", "directory": "ROOT/slurm", "script": "#!/bin/sh"}
SLURM_ENGINE = {**ROOT, "name": "m", "checkpoint": "/srv/m", "release": LAST, "image": "i"}
SERVED = {**ROOT, "name": "m", "fingerprint": "0" * 64, "address": "127.0.0.1", "token": "no secret at all"}
HUB = {**ROOT, "name": "m", "repo": "a/b", "image": "i"}
FETCHED = {
    **ROOT, "name": "m", "fingerprint": "0" * 64, "pieces": "0" * 64, "sources": ["http://127.0.0.1:1"],
    "token": "no secret at all",
}  # fmt: skip
SHARED = {**ROOT, "name": "m", "fingerprint": "0" * 64, "shared_dir": "ROOT/engines"}
TAKEN = {**ROOT, "name": "m", "image": "i", "state": "unpacked", "fingerprint": "0" * 64}
SERVICES = {"releases_dir": "ROOT/releases"}
UNIT = {"services": [{"name": "x", "unit": {"Container": {"Image": "i"}}}]}
TOKENIZER = {"tokenizer.json": "0" * 64}
LISTEN = {"listen": [{"service": "x", "address": "127.0.0.1", "port": 1}]}
NAMED: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("container_service", "services[].name"): [{**SERVICES, **UNIT}],
    ("container_service", "absent"): [SERVICES],
    ("container_service", "prune_prefix"): [{**SERVICES, "prune": True}],
    ("container_service_rollback", "names"): [SERVICES],
    ("fleet_plan", "trtllm_models[].name"): [MODEL],
    ("port_check", "prune_prefix"): [LISTEN],
    ("rollout_lock", "id"): [ROOT, {**ROOT, "state": "absent"}],
    ("rollout_note", "rollout"): [{**ROOT, "step": "passed"}],
    ("triton_model_repo", "name"): [REPOSITORY, {**ROOT, "state": "absent"}],
    ("triton_model_repo", "fingerprint"): [{**ROOT, "name": "kept", "state": "absent"}],
    ("triton_model_repo_info", "name"): [ROOT],
    ("trtllm_checkpoint", "name"): [
        {**ROOT, "state": "absent"},
        {**ROOT, "path": "/srv/m", "wanted": {"config.json": "0" * 64}, "publish": True},
        {**ROOT, "path": "ROOT/checkpoints/kept", "location": "host"},
        {**ROOT, "path": "ROOT/checkpoints/kept", "location": "host", "in_place": True},
    ],
    ("trtllm_checkpoint_fetch", "name"): [HUB],
    ("trtllm_checkpoint_artifact", "name"): [ROOT, {**ROOT, "state": "adopted", "digest": "0" * 64}],
    ("trtllm_checkpoint_artifact", "digest"): [{**ROOT, "name": "kept", "state": "adopted"}],
    ("trtllm_tokenizer", "name"): [{**ROOT, "files": TOKENIZER}, {**ROOT, "files": TOKENIZER, "source": "ROOT"}],
    ("trtllm_engine", "name"): [
        ENGINE, {**ROOT, "state": "absent"}, {**ROOT, "cancel": True}, {**ROOT, "attach": "id", "wait": False},
    ],
    ("trtllm_engine_info", "name"): [ROOT],
    ("slurm_job", "name"): [JOB, {**JOB, "state": "absent"}, {**JOB, "state": "verified", "job": 1}],
    ("slurm_engine", "name"): [SLURM_ENGINE],
    ("trtllm_image_pack", "name"): [{**ROOT, "image": "i"}, {**ROOT, "state": "absent"}, TAKEN],
    ("trtllm_image_pack", "fingerprint"): [TAKEN],
    ("trtllm_artifact_serve", "name"): [SERVED, {**SERVED, "state": "stopped"}],
    ("trtllm_artifact_serve", "fingerprint"): [SERVED, {**SERVED, "state": "stopped"}],
    ("trtllm_artifact_share", "name"): [SHARED, {**SHARED, "state": "absent"}],
    ("trtllm_artifact_share", "fingerprint"): [SHARED, {**SHARED, "state": "absent"}],
    ("trtllm_artifact_fetch", "name"): [FETCHED],
    ("trtllm_artifact_fetch", "fingerprint"): [FETCHED],
}  # fmt: skip
# Options of text that become no path, and what they become instead.
OF_A_REPLICA = "fleet_plan trtllm_models[].serving.replicas[].options."
NOT_NAMES = {
    **{f"{OF_A_REPLICA}{option.name}": "judged by its row in the table" for option in REPLICA_OPTIONS},
    "address": "an IP address, which is parsed",
    "allow": "addresses and networks, which are parsed",
    "attach": "compared with the ids of builds",
    "archive": "a path or a URL, judged as one",
    "archive_sha256": "compared with a digest",
    "autoq_format": "a word of a command",
    "builders": "compared with the names of hosts",
    "downloaders": "compared with the names of hosts",
    "failed": "compared with the names of hosts",
    "build_args": "words of a command",
    "calib_dataset": "a path or a name of a hub, judged as a path",
    "endpoint": "a URL",
    "exclude": "patterns of files",
    "include": "patterns of files",
    "network": "a word of a command",
    "sha256": "compared with a digest",
    "repo": "a name of a hub, judged as one",
    "revision": "a name of a commit, judged as one",
    "contains": "compared with an answer",
    "controller": "a word of a message",
    "checkpoint_digest": "compared with a digest",
    "digest": "a digest, which is parsed",
    "entry_model": "a word of a request",
    "entry_models": "words of a request",
    "equals": "compared with an answer",
    "fingerprints": "compared with those of keys",
    "gateway_hosts": "names of the inventory",
    "gateway_key": "a header of a request",
    "gateway_model": "a word of a request",
    "gateway_url": "a URL",
    "host": "a name of the inventory",
    "image": "a reference that podman parses",
    "inputs": "compared with a label",
    "journal": "a file of the controller",
    "page": "a file of the controller",
    "json": "a file of the controller",
    "benchmarks": "a directory of the controller",
    "fleet_report name": "a heading",
    "fleet_benchmark against": "a file of the controller, or compared with labels",
    "fleet_benchmark directory": "a directory of the controller",
    "fleet_benchmark key": "a header of a request",
    "fleet_benchmark label": "a heading",
    "fleet_benchmark model": "a word of a request",
    "fleet_benchmark trace": "a file of the controller",
    "listen[].service": "compared with the units of listeners",
    "mirrors[].location": "a word of a URL",
    "matches": "a regular expression, which is parsed",
    "metrics_url": "a URL",
    "nodes": "names of the inventory",
    "triton_gang_secret secret": "what a file holds",
    "trtllm_node_address": "an IP address, which is parsed",
    "models": "one of upstream's models, or compared with names of directories",
    "images": "references that are compared with those of podman",
    "trtllm_models[].image.name": "a reference that podman parses",
    "trtllm_models[].engine_image.name": "a reference that podman parses",
    "program": "words of a command",
    "trtllm_image name": "a reference that podman parses",
    "owner": "a word of a message",
    "unsettled": "sentences of a message",
    "packages": "patterns for the package manager",
    "password": "a header of a request",
    "pieces": "compared with a digest",
    "podman_version": "two numbers, which are parsed",
    "prefix": "the beginning of a model's name, judged with the other names of a repository",
    "process": "compared with processes of the controller",
    "prompt": "a text to ask",
    "release": "one row of a table",
    "rollout_info rollout": "compared with lines of the journal",
    "services": "words of the journal",
    "push": "a reference that podman parses",
    "reached_at": "an address or a name that is looked up",
    "serving_hosts": "names of the inventory",
    "source": "a URL, a path, or the key itself",
    "sources": "URLs, which are parsed",
    "script": "a file of the job, as it is",
    "gres": "a word of Slurm, judged as one",
    "sbatch_options": "options of sbatch, judged as such",
    "python": "a word of a command",
    "serves.models": "words of a request",
    "stage": "a word of a message",
    "step": "a word of the journal",
    "table": "lines for the terminal",
    "take_over": "compared with ids of rollouts",
    "target": "a word of a command",
    "token": "a header of a request",
    "trtllm_release": "one row of a table",
    "trtllm_triton_address": "an IP address, which is parsed",
    "units": "words for systemctl",
    "url": "a URL",
    "username": "a header of a request",
    "urls": "URLs, compared with those that the gateway tells",
    "what": "a word of a message",
}
# What each module has to be given before its paths are looked at.
WITH_PATHS: dict[str, dict[str, Any]] = {
    "container_service": UNIT,
    "container_service_rollback": {"names": ["x"]},
    "fleet_plan": MODEL,
    "fleet_settled": {},
    "kubernetes_manifests": {**kubernetes_fakes.given(), "output": "ROOT/rendered"},
    "openai_gateway_drain": {"urls": ["http://127.0.0.1:8000"], "timeout": 0, "gateway_url": "http://127.0.0.1:1"},
    "port_check": LISTEN,
    "repository_key": {"source": "/x", "dest": "/x"},
    "rollout_lock": {"id": "r"},
    "rollout_note": {"rollout": "r", "step": "passed"},
    "triton_model_repo": REPOSITORY,
    "triton_model_repo_info": {"name": "m"},
    "trtllm_checkpoint": {"name": "m", "location": "host", "path": "/srv/m"},
    "slurm_job": {"name": "m", "script": "#!/bin/sh"},
    "slurm_engine": SLURM_ENGINE,
    "slurm_follow": {"directory": "/shared/jobs"},
    "trtllm_artifact_fetch": FETCHED,
    "trtllm_artifact_serve": SERVED,
    "trtllm_artifact_share": {"name": "m", "fingerprint": "0" * 64, "shared_dir": "/"},
    "trtllm_checkpoint_artifact": {"name": "m"},
    "trtllm_checkpoint_fetch": HUB,
    "trtllm_engine": ENGINE,
    "trtllm_tokenizer": {"name": "m", "files": TOKENIZER},
    "trtllm_image": {"name": "i"},
    "trtllm_image_pack": {"name": "m", "image": "i"},
    "trtllm_prune": {"models": []},
}

TEXT = [option for option in modules.options() if option.takes("str") and not option.about.get("choices")]
PATHS = [option for option in modules.options() if option.takes("path")]


def name_of(option: Option) -> str:
    return f"{option.module} {option.path}"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with something of every kind in it, and something beside it; no command may be run."""
    root = tmp_path / "lib" / "trtllm"
    for kind in ("engines", "checkpoints", "repositories", "releases", "jobs", "converted"):
        (root / kind / "kept").mkdir(parents=True)
        (root / kind / "kept" / "config.json").write_text("{}")
    (tmp_path / "lib" / "other").mkdir()
    (tmp_path / "lib" / "other" / "data").write_text("of somebody else")

    def refuse(argv: Any, *_: Any, **__: Any) -> None:
        raise AssertionError(f"{argv} was run before the name was judged")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setenv("PATH", str(tmp_path))
    return root


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    return {str(p.relative_to(root)): (p.lstat().st_ino, p.lstat().st_mtime_ns) for p in sorted(root.rglob("*"))}


def filled(others: Any, root: Path) -> Any:
    """*others* with the directory of the test for ROOT."""
    if isinstance(others, dict):
        return {key: filled(value, root) for key, value in others.items()}
    return others.replace("ROOT", str(root)) if isinstance(others, str) else others


def refused(option: Option, value: str, others: dict[str, Any], root: Path, *, check: bool = False) -> str:
    """The one sentence with which the module refuses *value*, before it has touched or run anything."""
    top = root.parent.parent
    before = snapshot(top)
    result = modules.call(option.module, modules.given(option, value, filled(others, root)), check=check)
    assert result.get("failed"), result
    assert snapshot(top) == before, "something was touched"
    message = str(result["msg"])
    assert "Traceback" not in message
    assert "\n" not in message
    assert len(message) < 600, "a name is shown as far as a reader needs it"
    return message


def test_every_option_of_text_is_known_to_be_a_name_or_not() -> None:
    """A new module, or a new option, has to say which it is."""
    unknown = [
        name_of(option)
        for option in TEXT
        if (option.module, option.path) not in NAMED
        and NOT_NAMES.keys().isdisjoint({name_of(option), option.path, option.path.rpartition(".")[2]})
    ]
    assert unknown == []
    known = {(option.module, option.path) for option in TEXT}
    assert set(NAMED) <= known, "a row of the table is about an option that is no more"


@pytest.mark.parametrize("bad", BAD_NAMES, ids=lambda bad: repr(bad)[:12])
@pytest.mark.parametrize("option", [o for o in TEXT if (o.module, o.path) in NAMED], ids=name_of)
def test_a_name_that_leads_elsewhere_is_refused_and_nothing_is_touched(option: Option, bad: str, root: Path) -> None:
    for others in NAMED[option.module, option.path]:
        for check in (False, True):
            message = refused(option, bad, others, root, check=check)
            assert "it names directories" in message or "is not a fingerprint" in message


@pytest.mark.parametrize("bad", BAD_PATHS, ids=repr)
@pytest.mark.parametrize("option", [o for o in PATHS if o.path != "trtllm_models[].checkpoint.path"], ids=name_of)
def test_a_path_that_begins_nowhere_is_refused_and_nothing_is_touched(option: Option, bad: str, root: Path) -> None:
    others = WITH_PATHS.get(option.module, {})
    if option.path == "path" and option.module == "triton_model_repo_info":
        others = {}
    message = refused(option, bad, others, root)
    assert "it takes an absolute path" in message or "it takes a path without line breaks" in message


@pytest.mark.parametrize("bad", ["/a:b", "/a/../b"])
@pytest.mark.parametrize(
    "option", [o for o in PATHS if o.path in ("root", "trtllm_root", "examples_dir", "options.lora_dir")], ids=name_of
)
def test_a_path_that_is_mounted_is_one_that_podman_takes(option: Option, bad: str, root: Path) -> None:
    if option.module.endswith("_info"):
        return  # what is only read may be called anything
    assert "it is mounted into containers" in refused(option, bad, WITH_PATHS[option.module], root)


@pytest.mark.parametrize("bad", ["rel/ative", "/a\nb"])
def test_a_checkpoint_of_the_host_has_an_absolute_path_in_the_plan_too(bad: str, root: Path) -> None:
    checkpoint = {"path": bad, "location": "host"}
    result = modules.call("fleet_plan", {**MODEL, "trtllm_models": [{"name": "m", "checkpoint": checkpoint}]})
    assert result["msg"].startswith("m: checkpoint.path is ")


# -- the check itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "7b", "CodeLlama_13b.v2", "x" * 128, "a..b"])
def test_what_can_be_a_name(name: str) -> None:
    assert check_name(name, "name") == name


@pytest.mark.parametrize("ending", RESERVED)
def test_a_name_does_not_end_like_the_files_beside_it(ending: str) -> None:
    """Else the checkpoint 'a.old' would be removed when 'a' is replaced."""
    with pytest.raises(FleetError, match=rf"^name is 'a{ending}'; what ends in '.*{ending}' is half made or replaced"):
        check_name(f"a{ending}", "name")


def test_a_models_name_is_stricter() -> None:
    for name in ("A", "a_b", "a-", "x" * 64):
        assert check_name(f"x{name}x" if name == "a-" else "a", "name")
        with pytest.raises(FleetError, match="the model of the OpenAI API, so use at most 63 lower-case letters"):
            check_name(name, "trtllm_models[0].name", MODEL_NAME)


def test_paths_are_taken_as_they_are() -> None:
    for path in ("/", "/srv/a b", "/srv/ünï", "/srv/a'\"$x;#", "/a..b"):
        assert check_path(path, "root") == path
    assert check_absolute("/images/triton:1.tar", "archive") == "/images/triton:1.tar"
