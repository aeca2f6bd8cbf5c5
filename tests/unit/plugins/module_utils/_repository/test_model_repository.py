# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository on a host: published once, repaired, shown as a difference, described; templates out of an image."""

from __future__ import annotations

import builtins
import io
import os
import re
import shutil
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._podman import cli
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._repository import secure
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.info import describe
from ansible_collections.trtllm.fleet.plugins.module_utils._repository.repository import Repository
from ansible_collections.trtllm.fleet.plugins.modules import triton_model_repo, triton_model_repo_info
from unit.model_repo_fixture import RepositoryFixture

LLM = "tensorrt_llm"


@pytest.fixture
def host(tmp_path: Path) -> RepositoryFixture:
    return RepositoryFixture(tmp_path).standard()


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of everything below *root*."""
    return {
        str(path.relative_to(root)): (stat.S_IMODE(path.stat().st_mode), b"" if path.is_dir() else path.read_bytes())
        for path in sorted(root.rglob("*"))
    }


def test_a_second_run_changes_nothing(host: RepositoryFixture) -> None:
    first = host.present()
    assert first.changed and first.reasons == ["the repository is not on the host yet"]
    place = Path(first.facts["repository_dir"])
    assert place == host.root / "repositories" / "llama" / first.facts["fingerprint"]
    before = tree(place)
    second = host.present()
    assert not second.changed and second.facts["fingerprint"] == first.facts["fingerprint"]
    assert tree(place) == before
    assert before["ensemble/1"] == (0o755, b""), "Triton wants a version directory, even an empty one"


def test_a_run_that_changes_nothing_is_fast_and_reads_nothing_large(
    host: RepositoryFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (host.path / "checkpoint" / "tokenizer.json").write_bytes(b"{}" + b" " * (2 << 20))
    host.present()
    opened: list[str] = []
    for owner, name in ((os, "open"), (builtins, "open"), (io, "open")):
        real = getattr(owner, name)

        def noting(path: Any, *args: Any, _real: Any = real, **more: Any) -> Any:
            opened.append(str(path))
            return _real(path, *args, **more)

        monkeypatch.setattr(owner, name, noting)
    start = time.process_time()
    assert not host.present().changed
    seconds = time.process_time() - start
    monkeypatch.undo()
    assert any(path.endswith("config.json") for path in opened)
    sizes = {path: os.stat(path).st_size for path in opened if os.path.isfile(path)}
    assert max(sizes.values()) <= 1 << 20, sizes
    assert seconds < 0.2, "25 ms of the processor where this was written"


def test_a_changed_parameter_makes_a_new_repository_beside_the_old_one(host: RepositoryFixture) -> None:
    first, second = host.present(), host.present(tensorrt_llm={"max_beam_width": 1})
    assert second.changed and second.reasons == ["tensorrt_llm/config.pbtxt differs"]
    assert Path(first.facts["repository_dir"]).is_dir() and Path(second.facts["repository_dir"]).is_dir()
    [(path, before, after)] = second.diffs
    assert path == "tensorrt_llm/config.pbtxt"
    assert "${max_beam_width}" in before and '"max_beam_width" value: { string_value: "1" }' in after


def test_another_engine_at_the_same_place_makes_a_new_repository(host: RepositoryFixture) -> None:
    first = host.present()
    host.engine(build={"max_num_tokens": 4096})
    second = host.present()
    assert second.changed and second.reasons == ["the engine is another one"] and second.diffs == []
    assert first.facts["fingerprint"] != second.facts["fingerprint"]


def test_drift_by_hand_is_found_and_repaired(host: RepositoryFixture) -> None:
    place = Path(host.present().facts["repository_dir"])
    whole = tree(place)
    text = (place / LLM / "config.pbtxt").read_text()
    (place / LLM / "config.pbtxt").write_text(text.replace("max_batch_size: 8", "max_batch_size: 9"))
    (place / LLM / "added.py").write_text("")
    (place / "preprocessing" / "1" / "model.py").unlink()
    (place / "ensemble" / "1").rmdir()
    (place / "postprocessing").chmod(0o700)
    (place / "postprocessing" / "config.pbtxt").chmod(0o600)
    dry = host.repository(check_mode=True).present()
    for outcome in (dry, host.present()):
        assert outcome.changed
        told = " ".join(outcome.reasons)
        for words in (
            f"{LLM}/config.pbtxt was altered", "added.py was added", "preprocessing/1/model.py is missing",
            "ensemble/1 is missing", "postprocessing has mode 0700 instead of 0755", "has mode 0600 instead of 0644",
        ):  # fmt: skip
            assert words in told
        assert [path for path, _, _ in outcome.diffs] == [f"{LLM}/config.pbtxt"]
    assert tree(place) == whole
    assert not host.present().changed


def test_permissions_do_not_depend_on_the_umask(host: RepositoryFixture) -> None:
    before = os.umask(0o077)
    try:
        place = Path(host.present().facts["repository_dir"])
    finally:
        os.umask(before)
    modes = {mode for mode, _ in tree(place).values()} | {stat.S_IMODE(place.stat().st_mode)}
    assert modes == {0o755, 0o644}


def test_the_selinux_label_is_set_and_watched(host: RepositoryFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    labels: dict[str, str] = {}
    monkeypatch.setattr(secure, "selinux_enabled", lambda: True)
    monkeypatch.setattr(secure, "_label", lambda path: labels.get(path, "unconfined_u:object_r:var_lib_t:s0"))
    monkeypatch.setattr(os, "setxattr", lambda path, name, value: labels.update({path: value.rstrip(b"\0").decode()}))
    place = Path(host.present().facts["repository_dir"])
    assert labels[str(place / LLM / "config.pbtxt")] == "unconfined_u:object_r:container_file_t:s0"
    assert not host.present().changed
    labels[str(place / LLM)] = "unconfined_u:object_r:user_home_t:s0"
    assert "has the SELinux label unconfined_u:object_r:user_home_t:s0" in host.present().reasons[0]


def test_check_mode_writes_nothing(host: RepositoryFixture) -> None:
    outcome = host.repository(check_mode=True).present()
    assert outcome.changed and outcome.diffs and not host.root.exists()


@pytest.mark.parametrize("missing", ["engine", "checkpoint", f"backend-{LAST}"])
def test_check_mode_on_a_host_where_nothing_is_made_yet(host: RepositoryFixture, missing: str) -> None:
    shutil.rmtree(host.path / missing)
    outcome = host.repository(check_mode=True).present()
    assert outcome.changed and "does not exist" in outcome.reasons[0]
    assert outcome.facts["entry_models"] == ["ensemble", "tensorrt_llm_bls"]
    assert outcome.facts["repository_dir"] == f"{host.root}/repositories/llama/pending"
    with pytest.raises(FleetError):
        host.repository(check_mode=True, release="0.4.0", templates="/t").present()


def test_check_mode_names_all_that_is_yet_to_come(host: RepositoryFixture) -> None:
    for name in ("engine", "checkpoint", f"backend-{LAST}"):
        shutil.rmtree(host.path / name)
    reasons = host.repository(check_mode=True).present().reasons
    assert [re.search(rf"/(backend-{re.escape(LAST)}|engine|checkpoint)\b", reason)[1] for reason in reasons] == [
        f"backend-{LAST}", "engine", "checkpoint",
    ]  # fmt: skip


def test_a_fingerprint_that_is_none_removes_nothing(host: RepositoryFixture) -> None:
    request = host.repository().request
    with pytest.raises(FleetError, match="is not a fingerprint; expected 64 hexadecimal digits"):
        Repository.absent(request, "latest")


def test_repositories_are_removed(host: RepositoryFixture) -> None:
    first, second = host.present(), host.present(tensorrt_llm={"max_beam_width": 1})
    request = host.repository().request
    assert Repository.absent(request, None, check_mode=True).changed
    gone = Repository.absent(request, first.facts["fingerprint"])
    assert gone.changed and gone.reasons == [f"removed {first.facts['repository_dir']}"]
    assert Path(second.facts["repository_dir"]).is_dir()
    assert Repository.absent(request, None).changed and not Repository.absent(request, None).changed


def test_a_killed_run_leaves_nothing_that_a_later_one_minds(
    host: RepositoryFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.rename", killed)
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            host.present()
    assert list((host.root / "repositories" / "llama").glob("*.partial"))
    assert host.present().changed and not host.present().changed
    assert not list((host.root / "repositories" / "llama").glob("*.partial"))


# -- templates out of an image ------------------------------------------------------------------------------------

IMAGE_ID = "sha256:" + "ab" * 32


class FakePodman:
    """As much of podman as templates need. *content* is what /app/all_models holds."""

    def __init__(self, content: Path | None, present: bool = True) -> None:
        self.content, self.present = content, present
        self.calls: list[str] = []

    def image_id(self, reference: str) -> str | None:
        self.calls.append("inspect")
        return IMAGE_ID if self.present else None

    def check(self, arguments: list[str]) -> str:
        self.calls.append(arguments[0])
        return "c0ffee\n"

    def run(self, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        self.calls.append(arguments[0])
        if arguments[0] == "cp":
            if self.content is None:
                return subprocess.CompletedProcess(arguments, 125, "", "no such file or directory\n")
            shutil.copytree(self.content, arguments[2], dirs_exist_ok=True)
        return subprocess.CompletedProcess(arguments, 0, "", "")


@pytest.fixture
def podman(host: RepositoryFixture, monkeypatch: pytest.MonkeyPatch) -> FakePodman:
    fake = FakePodman(host.path / f"backend-{LAST}" / "all_models")
    for name in ("image_id", "check", "run"):
        monkeypatch.setattr(cli, name, getattr(fake, name))
    monkeypatch.setattr(cli, "executable", lambda: "/usr/bin/podman")
    return fake


def test_templates_are_taken_out_of_the_image_once(host: RepositoryFixture, podman: FakePodman) -> None:
    reference = f"registry.example.com/triton@sha256:{'c' * 64}"
    outcome = host.repository(image=reference).present()
    assert outcome.changed and podman.calls == ["inspect", "create", "cp", "rm"]
    assert (host.root / "templates" / ("ab" * 6) / ("ab" * 32) / "inflight_batcher_llm").is_dir()
    podman.calls.clear()
    assert not host.repository(image=reference).present().changed
    assert podman.calls == [], "a reference by digest needs no podman any more"
    assert not host.repository(image="registry.example.com/triton:latest").present().changed
    assert podman.calls == ["inspect"], "a tag may have moved"


def test_templates_altered_on_the_host_are_not_used(host: RepositoryFixture, podman: FakePodman) -> None:
    host.repository(image="i").present()
    config = next((host.root / "templates").glob(f"*/*/inflight_batcher_llm/{LLM}/config.pbtxt"))
    config.write_text(config.read_text().replace("TYPE_INT32", "TYPE_INT64", 1) + "# by hand\n")
    with pytest.raises(FleetError):
        host.repository(image="i").present()
    config.write_text(config.read_text().replace("TYPE_INT64", "TYPE_INT32", 1))
    with pytest.raises(FleetError, match=r"are not those of the image any more .* run again"):
        host.repository(image="i").present()
    assert not host.repository(image="i").present().changed


def test_an_image_without_templates_says_where_they_are(host: RepositoryFixture, podman: FakePodman) -> None:
    podman.content = None
    with pytest.raises(FleetError, match=r"holds no /app/all_models .* tensorrtllm_backend at tag v0\.16\.0"):
        host.repository(image="i", release="0.16.0").present()
    assert [path.name for path in (host.root / "templates").glob("*/*")] == [".lock"], "nothing half-made stays"


def test_an_image_that_is_not_on_the_host(host: RepositoryFixture, podman: FakePodman) -> None:
    podman.present = False
    with pytest.raises(FleetError, match="The image i is not on the host"):
        host.repository(image="i").present()
    assert host.repository(image="i", check_mode=True).present().changed


def test_check_mode_on_a_host_without_podman(host: RepositoryFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "executable", lambda: None)
    outcome = host.repository(image="i", check_mode=True).present()
    assert outcome.changed and "podman is not on the host yet" in outcome.reasons[0]
    with pytest.raises(FleetError, match="podman is not installed on this host"):
        host.repository(image="i").present()


# -- what a repository serves -------------------------------------------------------------------------------------


def test_a_published_repository_is_described(host: RepositoryFixture) -> None:
    outcome = host.repository(
        host.entry(streaming=True, parameters={LLM: {"max_beam_width": 1, "kv_cache_free_gpu_mem_fraction": 0.5}})
    ).present()
    [told] = triton_model_repo_info.repositories(
        {"name": "llama", "path": None, "root": str(host.root), "release": None}
    )
    assert told["fingerprint"] == outcome.facts["fingerprint"] and told["release"] == LAST and told["problems"] == []
    assert told["entry_models"] == ["ensemble", "tensorrt_llm_bls"]
    assert told["engines"][LLM]["version"] == LAST and told["engines"][LLM]["present"]
    llm = told["models"][LLM]
    assert (llm["backend"], llm["max_batch_size"], llm["decoupled"]) == ("tensorrtllm", 8, True)
    assert llm["non_default"] == {
        "gpt_model_path": str(host.path / "engine"), "gpt_model_type": "inflight_fused_batching",
        "exclude_input_in_output": "True", "kv_cache_free_gpu_mem_fraction": "0.5",
    }  # fmt: skip
    assert "max_beam_width" in llm["parameters"] and "decoding_mode" in llm["unset"]


def test_a_repository_made_by_hand_is_described(host: RepositoryFixture) -> None:
    outcome = host.repository(host.entry(prefix="x_")).present()
    by_hand = host.path / "by-hand" / "repo"
    shutil.copytree(outcome.facts["repository_dir"], by_hand)
    (by_hand / "manifest.json").unlink()
    told = describe(by_hand, LAST)
    assert not told["managed"] and told["fingerprint"] is None
    assert told["models"]["x_tensorrt_llm_bls"]["kind"] == "tensorrt_llm_bls"
    (by_hand / "x_ensemble" / "config.pbtxt").write_text("max_batch_size: ${n}")
    with pytest.raises(FleetError, match="Triton will not load it"):
        describe(by_hand)
    with pytest.raises(FleetError, match="holds no"):
        describe(host.path / "engine")


# -- the module ---------------------------------------------------------------------------------------------------


def test_the_module_shows_a_difference_for_each_configuration(host: RepositoryFixture) -> None:
    params = {
        name: option.get("default") for name, option in triton_model_repo.ARGUMENT_SPEC.items()
    } | {"name": "llama", "release": LAST, "root": str(host.root), "templates": str(host.path / f"backend-{LAST}"),
         "engine_dir": str(host.path / "engine"), "tokenizer_dir": str(host.path / "checkpoint")}  # fmt: skip

    class Module:
        check_mode = False
        _diff = True

    module: Any = Module()
    module.params = params
    told = triton_model_repo.run(module)
    assert told["changed"] and {part["after_header"] for part in told["diff"]} == {
        f"{model}/config.pbtxt" for model in ("preprocessing", LLM, "postprocessing", "ensemble", "tensorrt_llm_bls")
    }
    assert not triton_model_repo.run(module)["changed"]
    module.params = {**params, "state": "absent"}
    assert triton_model_repo.run(module)["changed"]


def test_several_sets_of_models_are_labelled_by_their_place() -> None:
    entry = {name: option.get("default") for name, option in triton_model_repo.ENTRY_SPEC.items()}
    requests = triton_model_repo.entry_requests({"entries": [entry, {**entry, "prefix": "b_"}]})
    assert [(request.label, request.prefix) for request in requests] == [
        ("entries[0].parameters", ""), ("entries[1].parameters", "b_"),
    ]  # fmt: skip
