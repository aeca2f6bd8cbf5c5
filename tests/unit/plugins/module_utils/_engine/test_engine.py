# SPDX-License-Identifier: GPL-3.0-or-later
"""Engines on a host: never a needless build, never half an engine, whatever dies when."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.artifact_store import ArtifactStore
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._engine.engine import BuildFailed, tell_gpus_per_node
from ansible_collections.trtllm.fleet.plugins.module_utils._engine.job import Job
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import release
from unit.engine_fakes import FakeHost, arranged_host, write_safetensors

pytestmark = pytest.mark.slow

OTHER_IMAGE = "sha256:" + "b" * 64


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    return arranged_host(tmp_path, monkeypatch)


def snapshot(root: Path) -> dict[str, int]:
    """Every path below *root* with its inode and time: what a run changed."""
    return {str(p.relative_to(root)): p.lstat().st_mtime_ns for p in sorted(root.rglob("*"))} if root.exists() else {}


def test_an_engine_is_made_and_published_whole(host: FakeHost) -> None:
    result = host.build(options={"tp_size": 2})
    path = Path(result["engine_dir"])
    assert result["changed"]
    assert not result["building"]
    assert result["reasons"] == ["no engine of this name is published yet"]
    assert result["world_size"] == 2
    assert sorted(p.name for p in path.iterdir()) == ["config.json", "manifest.json", "rank0.engine", "rank1.engine"]
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["made_from"]["image"] == "sha256:" + "a" * 64
    assert manifest["made_from"]["build"] == {"trtllm-build": {"max_batch_size": 4}}
    assert manifest["tensorrt_llm_version"] == LAST
    assert set(manifest["seconds"]) == {"convert", "build"}
    assert manifest["files"]["rank1.engine"]["size"] == (path / "rank1.engine").stat().st_size
    assert list((host.root / "converted").glob("[0-9a-f]*")) == [], "the converted checkpoint is removed"
    assert not list((host.root / "jobs").glob("*/*"))


def test_what_is_no_build_of_ours_is_in_no_way(host: FakeHost) -> None:
    other = host.root / "jobs" / "tiny" / "other"
    other.mkdir(parents=True)
    assert host.build()["changed"]
    assert list((host.root / "jobs" / "tiny").iterdir()) == [other]


def test_an_engine_for_several_hosts_is_another_one_and_says_how_many_gpus_each_has(host: FakeHost) -> None:
    alone = host.build(options={"tp_size": 4})
    spread = host.build(options={"tp_size": 4}, nodes=2)
    assert alone["fingerprint"] != spread["fingerprint"] and spread["reasons"] == ["nodes: unset -> 2"]
    made_from = json.loads((Path(spread["engine_dir"]) / "manifest.json").read_text())["made_from"]
    assert made_from["nodes"] == {"count": 2, "gpus_per_node": 2}
    assert not host.build(options={"tp_size": 4}, nodes=2)["changed"]
    path = Path(spread["engine_dir"])
    (path / "rank0.engine").unlink()
    path.with_name(f"{path.name}.left_out.json").write_text('{"files": ["rank0.engine"]}')
    own = host.build(options={"tp_size": 4}, nodes=2, ranks=[2, 3])
    assert (own["changed"], own["whole"]) == (False, False)
    other = host.build(options={"tp_size": 4}, nodes=2, ranks=[0, 1])
    assert other["reasons"] == ["engine: rank0.engine is on another host"]
    assert not host.build(options={"tp_size": 4}, nodes=2)["changed"], "a build makes all of them"
    config = Path(spread["engine_dir"]).with_name("config.json")
    config.write_text(
        json.dumps({"pretrained_config": {"mapping": {"tp_size": 4, "gpus_per_node": 8}}, "build_config": {}})
    )
    tell_gpus_per_node(config.parent, 2)
    assert json.loads(config.read_text())["pretrained_config"]["mapping"] == {"tp_size": 4, "gpus_per_node": 2}


def test_the_container_gets_what_it_needs_and_no_more(host: FakeHost) -> None:
    host.build(gpus=[0, "GPU-bb"], options={"tp_size": 2}, timeout=50)
    (words,) = host.calls("run", "--detach")
    assert "--network=none" in words
    assert "--pull=never" in words
    assert [w for w in words if w.startswith("--device")] == [
        "--device=nvidia.com/gpu=0",
        "--device=nvidia.com/gpu=GPU-bb",
    ]
    volumes = [w.split("=", 1)[1] for w in words if w.startswith("--volume")]
    assert f"{host.checkpoint}:{host.checkpoint}:ro" in volumes
    assert all(volume.split(":")[0] == volume.split(":")[1] for volume in volumes), "same path inside as outside"
    read_only = {volume for volume in volumes if volume.endswith(":ro")}
    assert read_only == {f"{p}:{p}:ro" for p in (host.checkpoint, host.home / "examples")}
    assert any(w.startswith("--label=trtllm.fleet.engine=tiny") for w in words)


def test_no_change_costs_one_podman_call_and_writes_nothing(host: FakeHost) -> None:
    first = host.build()
    host.forget_calls()
    before = snapshot(host.root)
    again = host.build()
    assert not again["changed"]
    assert again["reasons"] == []
    assert (again["engine_dir"], again["bytes_read"]) == (first["engine_dir"], 0)
    assert host.calls() == [["image", "inspect", "--format", "{{.Id}}", "triton"]]
    assert snapshot(host.root) == before


def test_an_image_by_id_or_digest_needs_no_podman_when_nothing_changes(host: FakeHost) -> None:
    image = {"id": "sha256:" + "a" * 64, "version": LAST}
    digest = "registry/triton@sha256:" + "d" * 64
    (host.home / "images.json").write_text(json.dumps({"triton": image, digest: image, image["id"]: image}))
    host.build(image=digest)
    host.forget_calls()
    for reference in (digest, image["id"], image["id"].removeprefix("sha256:")):
        assert not host.build(image=reference)["changed"]
    assert host.calls() == []
    (host.home / "images.json").write_text("{}")
    assert not host.build(image=digest)["changed"], "the engine is as right as it was"
    with pytest.raises(FleetError, match="is not on this host yet; run the role triton_image first"):
        host.build(image=digest, options={"max_batch_size": 8})
    assert "is not on this host yet" in host.check(image=digest, options={"max_batch_size": 8})["reasons"][-1]


def test_what_does_not_determine_an_engine_does_not_rebuild_it(host: FakeHost) -> None:
    made = host.build()["engine_dir"]
    os.utime(host.checkpoint / "model.safetensors", (5, 5))
    same = [
        {},
        {"options": {"max_beam_width": 1, "kv_cache_type": "paged", "max_num_tokens": 8192}},  # defaults, written out
        {"options": {"dtype": "float16"}},  # what auto stands for here
        {"options": {"workers": 4, "log_level": "verbose"}},
        {"options": dict(reversed(list(host.request().options.items())))},
        {"timeout": 7, "verify": "full"},
    ]
    for changes in same:
        result = host.build(**changes)
        assert (result["changed"], result["engine_dir"]) == (False, made), changes
    assert len(host.calls("run", "--detach")) == 1


def test_each_kind_of_change_rebuilds_and_is_named(host: FakeHost) -> None:
    host.build(gpus=[0])
    first = Path(host.check(gpus=[0])["engine_dir"])

    def reasons(**changes: Any) -> list[str]:
        result = host.check(**{"gpus": [0], **changes})
        assert result["changed"]
        assert result["engine_dir"] != str(first)
        return list(result["reasons"])

    assert reasons(options={"max_batch_size": 64}) == ["max_batch_size: 4 -> 64"]
    assert reasons(options={"gather_context_logits": True}) == ["gather_context_logits: unset -> true"]
    assert reasons(release=release("1.2.0")) == [f"release: {LAST} -> 1.2.0"]
    assert reasons(gpus=[0, 1], options={"tp_size": 2}) == ["GPU count: 1 -> 2", "tp_size: 1 -> 2"]
    host.set_gpus("0, NVIDIA A100, 8.0, 81920, 81000, GPU-cc")
    assert reasons() == ["GPU: NVIDIA H200 -> NVIDIA A100", "GPU compute capability: 9.0 -> 8.0"]
    host.set_gpus("0, NVIDIA H200, 9.0, 143771, 143000, GPU-zz")
    assert not host.check(gpus=[0])["changed"], "another GPU of the same kind is no difference"
    host.set_images(triton={"id": OTHER_IMAGE, "version": LAST})
    assert reasons() == ["image: sha256:aaaaaaaaaaaa -> sha256:bbbbbbbbbbbb"]
    host.set_images(triton={"id": "sha256:" + "a" * 64, "version": LAST})
    write_safetensors(host.checkpoint / "model.safetensors", b"Weights of a tiny model")
    (host.checkpoint / "generation_config.json").write_text("{}")
    assert reasons() == ["checkpoint: generation_config.json added", "checkpoint: model.safetensors content"]
    second = host.build(gpus=[0])
    assert second["changed"]
    assert first.is_dir(), "what serves is not taken away"
    assert second["diff"]["after"]["checkpoint"]["files"].keys() == {"generation_config.json", "model.safetensors"}


def test_a_truncated_engine_is_found_by_its_size_and_an_altered_one_by_its_times(host: FakeHost) -> None:
    path = Path(host.build()["engine_dir"])
    content = (path / "rank0.engine").read_bytes()
    (path / "rank0.engine").write_bytes(content[:-1])
    again = host.build()
    assert again["reasons"] == [f"engine: rank0.engine has {len(content) - 1} bytes instead of {len(content)}"]
    assert not host.build()["changed"]
    before = (path / "rank0.engine").stat()
    (path / "rank0.engine").write_bytes(content.swapcase())
    os.utime(path / "rank0.engine", ns=(before.st_atime_ns, before.st_mtime_ns))
    found = host.build()
    assert found["reasons"] == ["engine: rank0.engine was altered after publication"]
    assert (path / "rank0.engine").read_bytes() == content


def test_an_engine_that_was_touched_and_is_the_same_is_not_built_again(host: FakeHost) -> None:
    path = Path(host.build()["engine_dir"])
    for change in (lambda file: os.utime(file), lambda file: os.chmod(file, 0o600)):
        change(path / "rank0.engine")
        assert not host.build()["changed"]


def test_rebuild_never_keeps_what_is_there_and_says_what_differs(host: FakeHost) -> None:
    assert host.build(rebuild="never")["changed"], "there is nothing to keep yet"
    made = host.check()["engine_dir"]
    kept = host.build(rebuild="never", options={"max_batch_size": 64})
    assert (kept["changed"], kept["stale"], kept["engine_dir"]) == (False, True, made)
    assert kept["reasons"] == ["max_batch_size: 4 -> 64"]


def test_rebuild_always_makes_it_again_in_the_same_place(host: FakeHost) -> None:
    made = host.build()
    inode = Path(made["engine_dir"]).stat().st_ino
    again = host.build(rebuild="always")
    assert again["changed"]
    assert again["reasons"] == ["rebuild is always"]
    assert again["engine_dir"] == made["engine_dir"]
    assert Path(again["engine_dir"]).stat().st_ino != inode


def test_check_mode_writes_nothing_and_predicts_the_real_run(host: FakeHost) -> None:
    before = snapshot(host.root)
    predicted = host.check(options={"tp_size": 2})
    assert predicted["changed"]
    assert not predicted["provisional"]
    assert snapshot(host.root) == before
    assert host.calls("run") == []
    made = host.build(options={"tp_size": 2})
    for key in ("fingerprint", "engine_dir", "commands", "reasons", "world_size"):
        assert made[key] == predicted[key]


def test_planning_needs_no_image_no_gpu_and_no_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = FakeHost(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("ansible_collections.trtllm.fleet.plugins.module_utils._podman.cli.SEARCH_PATH", str(tmp_path))
    plan = bare.check(gpus=[0, 1], options={"model_family": "mixtral", "tp_size": 2, "moe_tp_size": 2})
    assert plan["changed"]
    assert plan["provisional"]
    assert [words[0] for words in plan["commands"]] == ["python3", "trtllm-build"]
    assert plan["reasons"][0] == "no engine of this name is published yet"
    said = " ".join(plan["reasons"][1:])
    for part in ("podman is not installed yet", "the checkpoint", "is not on this host yet", "no nvidia-smi"):
        assert part in said
    assert not bare.root.exists()
    unknown_family = bare.check()
    assert unknown_family["commands"] == []


def test_a_real_run_refuses_what_check_mode_only_notes(host: FakeHost) -> None:
    with pytest.raises(FleetError, match="image absent is not on this host yet; run the role triton_image first"):
        host.build(image="absent")
    with pytest.raises(FleetError, match="checkpoint /nowhere is not on this host yet; run the role checkpoint first"):
        host.build(checkpoint=Path("/nowhere"))
    assert not (host.root / "engines").exists()


def test_the_image_has_the_last_word_on_its_version(host: FakeHost) -> None:
    with pytest.raises(FleetError, match=rf"holds TensorRT-LLM {re.escape(LAST)}, but release is 1\.1\.0"):
        host.build(release=release("1.1.0"))
    host.set_images(triton={"id": OTHER_IMAGE, "version": ""})
    with pytest.raises(FleetError, match="does not say which TensorRT-LLM it holds"):
        host.build()
    host.set_images(triton={"id": OTHER_IMAGE, "version": "1.2.0"})
    (host.root / "engines" / ".images.json").unlink()
    asked = host.build(release=None)
    assert asked["release"] == "1.2.0"
    assert len([c for c in host.calls("run") if "--rm" in c]) == 3, "a version is asked for once per image"


@pytest.mark.parametrize("phase", ["convert", "build"])
def test_kill_9_in_a_phase_and_then_a_run_that_ends_right(host: FakeHost, phase: str) -> None:
    begun = host.engine(environment={"FAKE": f"{phase}:sleep8"}).present()
    assert begun["building"]
    host.wait_until(lambda: host.log_says(f"{phase} begins\nsleeping"))
    children = Path(f"/proc/{host.container_pid()}/task/{host.container_pid()}/children").read_text().split()
    lowered = {os.getpriority(os.PRIO_PROCESS, int(pid)) for pid in children or [host.container_pid()]}
    assert lowered == {min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)}, "what serves goes first"
    os.killpg(host.container_pid(), signal.SIGKILL)
    runner = Path(f"/proc/{host.container_pid()}")
    host.wait_until(lambda: not runner.exists() or "Z" in (runner / "stat").read_text().split(")")[1].split()[0])
    assert ArtifactStore(host.root / "engines").published("tiny") == []
    after = host.build()
    assert after["changed"]
    assert after["reasons"][-1] == f"an earlier build was killed in phase {phase} (exit code 137)"
    assert ArtifactStore(host.root / "engines").verify(Path(after["engine_dir"]), full=True) == []
    assert host.log_says("is there already") == (phase == "build"), "a whole converted checkpoint is used again"


def test_kill_9_before_and_after_the_rename(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ArtifactStore._rename

    def dies_before(self: ArtifactStore, name: str, fingerprint: str) -> Path:
        raise KeyboardInterrupt

    def dies_after(self: ArtifactStore, name: str, fingerprint: str) -> Path:
        real(self, name, fingerprint)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ArtifactStore, "_rename", dies_before)
        host.build()
    assert ArtifactStore(host.root / "engines").published("tiny") == []
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ArtifactStore, "_rename", dies_after)
        host.build()
    last = host.build()
    assert not last["changed"], "it was published"
    assert len(host.calls("run", "--detach")) == 1, "and built once"
    assert not list((host.root / "converted").glob("[0-9a-f]*"))
    assert not list((host.root / "jobs").glob("*/*"))


def test_a_lost_controller_costs_nothing(host: FakeHost) -> None:
    begun = host.engine(environment={"FAKE": "build:sleep0.5"}).present()
    assert begun["building"]
    joined = host.engine().present()
    assert joined["building"]
    assert joined["job"]["id"] == begun["job"]["id"], "a run meanwhile joins the same build"
    host.wait_until(lambda: Job.of_name(host.root, "tiny")[0].state().state == "done")
    collected = host.build()
    assert collected["changed"]
    assert collected["seconds"].keys() == {"convert", "build"}
    assert len(host.calls("run", "--detach")) == 1
    again = host.engine(attach=begun["job"]["id"]).attached()
    assert again["engine_dir"] == collected["engine_dir"], "whoever still waits gets the same result"


def test_two_runs_at_once_build_once(host: FakeHost) -> None:
    results: list[dict[str, Any]] = []
    slow = {"FAKE": "convert:sleep0.3,build:sleep0.3"}
    runs = [threading.Thread(target=lambda: results.append(host.build(environment=slow))) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(30)
    assert len({result["engine_dir"] for result in results}) == 1
    assert len(results) == 3
    assert len(host.calls("run", "--detach")) == 1


def test_progress_tells_phase_rank_and_last_line(host: FakeHost) -> None:
    host.engine(environment={"FAKE": "build:sleep8"}, options={"tp_size": 2}).present()
    host.wait_until(lambda: host.log_says("build begins\nsleeping"))
    progress = host.engine(options={"tp_size": 2}).present()["progress"]
    assert (progress["phase"], progress["phase_number"], progress["phases"]) == ("build", 2, 2)
    assert (progress["ranks_done"], progress["ranks"], progress["last_line"]) == (0, 2, "sleeping")
    host.engine().cancel()


def test_a_failed_build_tells_what_and_the_next_run_starts_anew(host: FakeHost) -> None:
    broken = {"FAKE": "build:fail3", "FAKE_WORDS": "torch.OutOfMemoryError: CUDA out of memory. Tried"}
    with pytest.raises(BuildFailed) as failed:
        host.build(environment=broken)
    assert "failed in phase build with exit code 3: the GPU has too little free memory" in str(failed.value)
    details = failed.value.details
    assert (details["exit_code"], details["phase"]) == (3, "build")
    assert details["log_tail"][-2].startswith("RuntimeError: torch.OutOfMemoryError")
    assert Path(details["log_path"]).read_text().count("begins") == 2
    assert not list((host.root / "engines" / "tiny").glob("*.partial")), "nothing half-made is left"
    repaired = host.build()
    assert repaired["changed"]
    assert repaired["reasons"][-1] == "an earlier build failed in phase build with exit code 3"


def test_a_failed_conversion_leaves_no_room_taken(host: FakeHost) -> None:
    with pytest.raises(BuildFailed, match="failed in phase convert with exit code 1: the disk is full"):
        host.build(environment={"FAKE": "convert:fail1", "FAKE_WORDS": "OSError: [Errno 28] No space left on device"})
    assert not list((host.root / "converted").glob("[0-9a-f]*"))


def test_tools_that_end_well_but_write_nothing_have_failed(host: FakeHost) -> None:
    with pytest.raises(BuildFailed, match=r"ended well but wrote nothing into"):
        host.build(environment={"FAKE": "convert:nothing"})
    with pytest.raises(BuildFailed, match=r"it ended well but wrote no config\.json"):
        host.build(environment={"FAKE": "build:nothing"})


def test_a_time_out_is_kept_by_the_host_itself(host: FakeHost) -> None:
    with pytest.raises(BuildFailed, match="time-out after 1 s; raise timeout"):
        host.build(environment={"FAKE": "build:sleep8"}, timeout=1)


def test_a_container_that_cannot_start_says_why(host: FakeHost) -> None:
    host.set_gpus("99, NVIDIA H200, 9.0, 143771, 143000, GPU-aa")
    with pytest.raises(FleetError, match="unresolvable CDI devices"):
        host.build(gpus=[99])
    assert not list((host.root / "jobs").glob("*/*"))


def test_cancel_stops_the_build_and_nothing_else(host: FakeHost) -> None:
    made = host.build()["engine_dir"]
    begun = host.engine(environment={"FAKE": "build:sleep8"}, options={"max_batch_size": 8}).present()
    assert host.engine(True).cancel()["changed"]
    assert host.engine().cancel()["changed"]
    assert not host.engine().cancel()["changed"]
    assert host.check()["engine_dir"] == made
    assert not host.check()["changed"]
    with pytest.raises(FleetError, match="another run has cancelled it"):
        host.engine(attach=begun["job"]["id"]).attached()


def test_another_description_supersedes_the_running_build(host: FakeHost) -> None:
    first = host.engine(environment={"FAKE": "build:sleep8"}).present()
    second = host.build(options={"max_batch_size": 8})
    assert second["changed"]
    assert f"the build of {first['fingerprint'][:12]} was stopped, it is superseded" in second["reasons"]
    assert len(Job.of_name(host.root, "tiny")) == 0
    assert not list((host.root / "converted").glob("[0-9a-f]*"))


def test_absent_removes_all_of_a_name_and_stops_its_build(host: FakeHost) -> None:
    host.build()
    host.build(options={"max_batch_size": 8})
    host.engine(environment={"FAKE": "build:sleep8"}, options={"max_batch_size": 16}).present()
    before = snapshot(host.root)
    assert host.engine(True).absent()["changed"]
    assert snapshot(host.root) == before
    gone = host.engine().absent()
    assert gone["changed"]
    assert len(gone["removed"]) == 2
    assert not host.engine().absent()["changed"]
    assert [p.name for p in (host.root / "engines" / "tiny").iterdir()] == [".lock"]
    assert not list((host.root / "converted").glob("[0-9a-f]*"))


def test_engines_that_differ_in_build_options_share_the_conversion(host: FakeHost) -> None:
    host.build(keep_converted=True)
    host.build(keep_converted=True, options={"max_batch_size": 8})
    assert host.log_says("is there already")
    assert len(list((host.root / "converted").glob("[0-9a-f]*"))) == 1
    host.build(options={"max_batch_size": 16})
    assert not list((host.root / "converted").glob("[0-9a-f]*")), "removed after the build that does not keep it"


def test_the_converted_checkpoint_stays_while_another_build_reads_it(host: FakeHost) -> None:
    host.engine(name="slow", environment={"FAKE": "build:sleep8"}, options={"max_batch_size": 8}).present()
    host.wait_until(lambda: host.log_says("build begins\nsleeping"))
    host.build()
    assert len(list((host.root / "converted").glob("[0-9a-f]*"))) == 1
    host.build(name="slow", options={"max_batch_size": 8})
    assert not list((host.root / "converted").glob("[0-9a-f]*"))


def test_names_cannot_lead_out_of_the_root(host: FakeHost) -> None:
    with pytest.raises(FleetError, match="it names directories and units"):
        host.engine(name="../escape")
