# SPDX-License-Identifier: GPL-3.0-or-later
"""Batch scripts: what is in them, and that shells take them."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from ansible_collections.trtllm.fleet.plugins.module_utils._slurm import plan
from ansible_collections.trtllm.fleet.plugins.module_utils._slurm.script import build_job, layout, serving_job

IMAGE = "r.example/triton@sha256:" + "0" * 64
REPLICA: dict[str, Any] = {
    "name": "m-0", "model": "m", "world_size": 4, "mode": "leader", "repository_dir": "/s/r", "engine_dirs": ["/s/e"],
    "checkpoint_dirs": ["/s/c"], "http_port": 8000, "grpc_port": 8001, "metrics_port": 8002, "address": "127.0.0.1",
}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "image": IMAGE, "launcher": "podman", "gpus_per_node": 2, "gres": "gpu:h100", "options": ["--partition=p"],
    "mpi": "pmix", "environment": {}, "tls_verify": True, "authfile": "", "container_image": "",
    "scripts": {"task.sh": "t", "rank.sh": "r"},
}  # fmt: skip
OF_ALL = {"release": LAST, "image": IMAGE, "scripts": {"probe.sh": "p", "run.sh": "x"}}
ENGINE = {"name": "m", "image": IMAGE, "options": {}}
BUILD = {"gpus": 2, "gres": "gpu", "options": [], "python": "python3", "tls_verify": False, "authfile": "/s/auth"}


def job(replica: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    return serving_job({**REPLICA, **(replica or {})}, {**SETTINGS, **settings}, OF_ALL)


def scontrol(directory: Path, said: str) -> None:
    """A scontrol that says that."""
    path = directory / "scontrol"
    path.write_text(f"#!/bin/sh\necho '{said}'\n")
    path.chmod(0o755)


def command(job: dict[str, Any], slot: int, rank: int) -> list[str]:
    """The words that a rank runs, as its shell makes them."""
    text = job["files"]["server.sh"].replace("exec ", "printf '%s\\n' ")
    values = f"slot={slot} SLURM_PROCID={rank} SLURM_JOB_ID=77 TRTLLM_ADDRESS=10.0.0.1\n"
    done = subprocess.run(["sh", "-euc", f"{values}{text}\nserve"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize(("ranks", "gpus", "found"), [(1, 8, (1, 1)), (8, 8, (1, 8)), (16, 8, (2, 8)), (2, 1, (2, 1))])
def test_ranks_fill_nodes(ranks: int, gpus: int, found: tuple[int, int]) -> None:
    assert layout("m", ranks, gpus) == found


def test_ranks_that_do_not_fill_nodes_are_refused() -> None:
    with pytest.raises(FleetError, match=r"^m: its engine has 12 ranks .* which do not fill nodes of 8 GPUs"):
        layout("m", 12, 8)
    with pytest.raises(FleetError, match="slurm_gpus_per_node is 0"):
        layout("m", 1, 0)


def test_a_job_has_one_task_for_each_rank() -> None:
    found = job()
    assert found["name"] == "trtllm-m-0"
    head = [line for line in found["script"].splitlines() if line.startswith("#SBATCH")]
    wanted = ["nodes=2", "ntasks-per-node=2", "gres=gpu:h100:2", "requeue", "open-mode=append", "partition=p"]
    assert head == [f"#SBATCH --{option}" for option in wanted]
    assert (
        "srun --nodes=2 --ntasks=4 --ntasks-per-node=2 --mpi=pmix --kill-on-bad-exit=1 --wait=10 sh " in found["script"]
    )
    subprocess.run(["bash", "-n"], input=found["script"], text=True, check=True)


def test_only_the_first_rank_listens_and_each_slot_has_its_ports() -> None:
    found = job()
    for slot, port in ((0, 8000), (1, 8005)):
        first = command(found, slot, 0)
        assert f"--http-port={port}" in first and "--http-address=10.0.0.1" in first
        assert "--backend-config=python,shm-region-prefix-name=77_0_" in first
        other = command(found, slot, 3)
        assert "--allow-http=false" in other and "--http-address=10.0.0.1" not in other
        assert "--backend-config=python,shm-region-prefix-name=77_3_" in other
        assert "--load-model=tensorrt_llm" in other
    assert found["serves"]["port"] == 8000 and found["serves"]["models"] == ["tensorrt_llm_bls"]


def test_what_changes_a_running_triton_takes_a_word_of_this_start() -> None:
    found = job()
    said = [word for word in command(found, 0, 0) + command(found, 0, 0) if word.startswith("--http-restricted-api=")]
    words = {word.partition("trtllm-fleet=")[2] for word in said}
    assert len(words) == 2 and all(len(word) == 36 for word in words)


def test_a_word_of_the_user_stays_one_word() -> None:
    hostile = "--x=$(touch /tmp/x) 'a' \"b\""
    assert hostile in command(job({"extra_args": [hostile]}), 0, 0)


def test_ranks_of_one_node_share_its_memory_and_one_alone_has_its_own() -> None:
    assert "--ipc=host" in job()["script"]
    assert "--shm-size=2g" in job(gpus_per_node=1)["script"] and "--ipc=host" not in job(gpus_per_node=1)["script"]


def test_each_start_of_a_job_tells_where_it_is(tmp_path: Path) -> None:
    lines = job()["script"].replace("@DIRECTORY@", str(tmp_path)).splitlines()
    (line,) = (line for line in lines if ".address" in line)
    for address in ("10.0.0.1", "10.0.0.2"):
        values = {"TRTLLM_ADDRESS": address, "SLURM_JOB_ID": "77", "PATH": "/usr/bin:/bin"}
        subprocess.run(["bash", "-euc", line], env=values, check=True)
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("77.address", f"{address}\n")]


def test_pyxis_is_told_as_in_upstreams_script() -> None:
    (line,) = (line for line in job(launcher="pyxis")["script"].splitlines() if "--mpi=pmix" in line)
    words = shlex.split(line)
    assert f"--container-image=r.example#triton@sha256:{'0' * 64}" in words
    mounts = "/s/c:/s/c:ro,/s/e:/s/e:ro,/s/r:/s/r:ro,@DIRECTORY@:@DIRECTORY@:ro"
    assert f"--container-mounts={mounts}" in words
    assert words[-3:] == ["sh", "@DIRECTORY@/rank.sh", "$slot"]
    assert "podman" not in line
    given = job(launcher="pyxis", container_image="/s/triton.sqsh")["script"]
    assert "--container-image=/s/triton.sqsh" in given


def test_environment_is_exported_and_passed_by_name() -> None:
    script = job({"environment": {"B": "2"}}, environment={"A": "x y$z"})["script"]
    assert "export A='x y$z'\n" in script and "export B=2\n" in script
    assert "export TRTLLM_PASSED='A B HF_HUB_OFFLINE " in script


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"options": ["-p gpu"]}, "give long options of sbatch"),
        ({"options": ["--nodes=3"]}, "follows from trtllm_models"),
        ({"options": ["--comment=x"]}, "follows from trtllm_models"),
        ({"options": ["--partition=a\n#SBATCH --nodes=9"]}, "line breaks"),
        ({"gres": "gpu:1 --x"}, "slurm_gres is"),
        ({"mpi": "pmix; id"}, "slurm_mpi is"),
        ({"environment": {"A;id": "1"}}, "is no name of an environment variable"),
        ({"environment": {"A": "1\n2"}}, "line breaks"),
        ({"launcher": "docker"}, "it is one of podman, pyxis"),
    ],
)
def test_what_would_change_the_job_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(FleetError, match=said):
        job(**settings)


@pytest.mark.parametrize(
    ("replica", "said"),
    [
        ({"mode": "llmapi", "world_size": 1}, "mode is llmapi"),
        ({"nodes": [{"name": "a", "address": "10.0.0.1"}, {"name": "b", "address": "10.0.0.2"}], "gang_port": 18700},
         "nodes names a, b, but Slurm chooses"),
    ],
)  # fmt: skip
def test_what_slurm_does_not_run_is_refused(replica: dict[str, Any], said: str) -> None:
    with pytest.raises(FleetError, match=said):
        job(replica)


def test_a_build_is_a_job_on_one_node() -> None:
    found = build_job(ENGINE, BUILD)
    assert found["name"] == "trtllm.build-m"
    assert "#SBATCH --gres=gpu:2" in found["script"] and "--dependency=singleton" in found["script"]
    assert f"podman pull --quiet --tls-verify=false --authfile=/s/auth {IMAGE} || exit 1" in found["script"]
    assert "#SBATCH --gres" not in build_job(ENGINE, {**BUILD, "gres": ""})["script"]
    subprocess.run(["bash", "-n"], input=found["script"], text=True, check=True)


@pytest.mark.parametrize("name", ["task.sh", "rank.sh", "current.sh"])
def test_shells_take_the_scripts_of_the_role(name: str, repo_dir: Path) -> None:
    for shell in ("sh", "bash"):
        subprocess.run([shell, "-n", str(repo_dir / "roles" / "slurm" / "files" / name)], check=True)


@pytest.mark.parametrize(
    ("said", "restarts", "known"),
    [
        ("JobState=RUNNING Reason=None Requeue=1 Restarts=0", "", True),
        ("JobState=RUNNING Reason=None Requeue=1 Restarts=2", "2", True),
        ("JobState=RUNNING Reason=None Requeue=1 Restarts=1", "", False),
        ("JobState=RUNNING Reason=None Requeue=1 Restarts=2", "1", False),
        # Slurm is at it.
        ("JobState=COMPLETING Reason=None Requeue=1 Restarts=1", "", True),
        ("JobState=PENDING Reason=BeginTime Requeue=1 Restarts=1", "", False),
        ("JobState=CANCELLED Reason=None Requeue=1 Restarts=0", "", False),
        ("JobState=NODE_FAIL Reason=None Requeue=1 Restarts=0", "", False),
        ("JobState=OF_A_LATER_SLURM Reason=None Requeue=1 Restarts=0", "", True),
        ("slurm_load_jobs error: Invalid job id specified", "", False),
        ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", "", True),
        ("sh: 1: scontrol: not found", "", True),
    ],
)
def test_a_start_of_a_job_ends_only_where_slurm_says_that_it_is_over(
    said: str, restarts: str, known: bool, tmp_path: Path, repo_dir: Path
) -> None:
    scontrol(tmp_path, f"JobId=7 JobName=trtllm-m-0 {said} BatchFlag=1" if "JobState" in said else said)
    given = {"SLURM_JOB_ID": "7", "PATH": f"{tmp_path}:/usr/bin:/bin"}
    given |= {"SLURM_RESTART_COUNT": restarts} if restarts else {}
    done = subprocess.run(["sh", str(repo_dir / "roles/slurm/files/current.sh")], env=given, check=False)
    assert done.returncode == (0 if known else 1)


def test_a_rank_ends_where_slurm_has_given_its_node_up(tmp_path: Path, repo_dir: Path) -> None:
    scontrol(tmp_path, "JobState=RUNNING Restarts=0")
    podman = tmp_path / "podman"
    podman.write_text("#!/bin/sh\nexec sleep 600\n")
    podman.chmod(0o755)
    given = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "TMPDIR": str(tmp_path)}
    # So that it asks every second.
    given |= {"SLURM_NTASKS": "-14", "PATH": f"{tmp_path}:/usr/bin:/bin"}
    argv = ["sh", str(repo_dir / "roles/slurm/files/task.sh"), "image"]
    task = subprocess.Popen(argv, env=given, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            task.wait(timeout=3)
        (lock,) = tmp_path.glob("trtllm-7-*")
        taken = ["flock", "--nonblock", str(lock), "true"]
        assert subprocess.run(taken, check=False).returncode == 1
        scontrol(tmp_path, "JobState=PENDING Restarts=1")
        assert task.wait(timeout=30) == -signal.SIGKILL
        assert subprocess.run(taken, check=False).returncode == 0
    finally:
        os.killpg(task.pid, signal.SIGKILL)


def test_a_job_starts_no_ranks_where_slurm_has_started_it_elsewhere(tmp_path: Path) -> None:
    text = job()["script"].replace("@DIRECTORY@", str(tmp_path))
    loop = text[text.index("stopping= early=0") :]
    (tmp_path / "current.sh").write_text("exit 1\n")
    counted = f"srun() {{ echo started; }}\nslot=0\n{loop}"
    done = subprocess.run(["bash", "-uc", counted], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout.splitlines()) == (
        0, ["started", "trtllm.fleet: Slurm has given this start up"]
    )  # fmt: skip


# -- the plan ------------------------------------------------------------------------------------------------------


def test_engines_and_repositories_are_told_of_nodes() -> None:
    items = [{"name": "m", "options": {"tp_size": 4}}, {"name": "n", "options": {}}]
    found = plan.engines(items, 2, {"m": {"digest": "d"}})
    assert [(one["nodes"], one["gpus"], one["checkpoint_digest"]) for one in found] == [(2, 2, "d"), (1, 1, None)]
    repositories = [{"name": "m", "parameters": {}}, {"name": "n", "parameters": {}}]
    told = plan.repositories(repositories, found, LAST)
    assert [one["parameters"] for one in told] == [{"tensorrt_llm": {"num_nodes": 2}}, {}]
    assert [one["parameters"] for one in plan.repositories(repositories, found, "0.9.0")] == [{}, {}]


def test_gateways_get_the_ports_and_the_address_of_the_job() -> None:
    other = {**REPLICA, "name": "m-1", "http_port": 8010, "grpc_port": 8011, "metrics_port": 8012}
    given = {"replicas": [REPLICA, other], "gateway_models": [{"name": "m", "urls": []}, {"name": "n", "urls": []}]}
    found = plan.serving(given, {"m-0": {"address": "10.0.0.7", "slot": 1}})
    assert [one["name"] for one in found["replicas"]] == ["m-0"]
    assert found["replicas"][0]["metrics_port"] == 8007
    assert found["gateway_models"] == [{"name": "m", "urls": ["http://10.0.0.7:8005"]}]


def test_weights_go_with_replicas_to_their_jobs() -> None:
    other = {**REPLICA, "name": "m-1", "http_port": 8010, "grpc_port": 8011, "metrics_port": 8012}
    weights = {plan.http_url(REPLICA): 9, plan.http_url(other): 0}
    given = {"replicas": [REPLICA, other], "gateway_models": [{"name": "m", "urls": [], "weights": weights}]}
    found = plan.serving(given, {"m-0": {"address": "10.0.0.7", "slot": 1}})
    assert found["gateway_models"] == [
        {"name": "m", "urls": ["http://10.0.0.7:8005"], "weights": {"http://10.0.0.7:8005": 9}}
    ]


def test_the_gate_is_told_where_to_ask() -> None:
    found = plan.result(job(), {"action": "submit", "reason": "r"}, {"address": "10.0.0.7", "slot": 1, "id": 3})
    assert (found["http_url"], found["metrics_url"]) == ("http://10.0.0.7:8005", "http://10.0.0.7:8007")
    assert found["service"] == "trtllm-m-0" and found["entry_models"] == ["ensemble", "tensorrt_llm_bls"]
