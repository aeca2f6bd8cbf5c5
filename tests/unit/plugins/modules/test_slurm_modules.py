# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules of Slurm, against commands that answer as Slurm's do."""

from __future__ import annotations

import http.server
import io
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._slurm import submit
from unit import modules
from unit.slurm_fakes import FakeSlurm

SCRIPT = "#!/bin/sh\n. @DIRECTORY@/server.sh\n"


class Answer(http.server.BaseHTTPRequestHandler):
    """A Triton that gives a token."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"text_output": "a"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{fake.bin}:/usr/bin:/bin")
    monkeypatch.setattr(submit, "POLL", 0.01)
    return fake


@pytest.fixture
def triton() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    return {"name": "trtllm-m-0", "directory": str(tmp_path / "jobs"), "script": SCRIPT, "files": {"server.sh": "a=1"}}


def call(arguments: dict[str, Any], check: bool = False, **more: Any) -> dict[str, Any]:
    found = modules.call("slurm_job", {**arguments, **more}, check=check)
    assert not found.get("failed"), found["msg"]
    return found


def refused(arguments: dict[str, Any], name: str = "slurm_job", **more: Any) -> str:
    found = modules.call(name, {**arguments, **more})
    assert found.get("failed"), found
    return str(found["msg"])


def started(slurm: FakeSlurm, job: dict[str, Any], **more: Any) -> int:
    """A job that runs, and has passed its gate."""
    number = int(call(job, wait=False, **more)["job"]["id"])
    slurm.runs(number)
    call({"name": job["name"], "directory": job["directory"]}, state="verified", job=number)
    return number


# -- four ways -----------------------------------------------------------------------------------------------------


def test_present_four_ways(slurm: FakeSlurm, job: dict[str, Any], triton: int) -> None:
    serves = {"port": triton, "models": ["ensemble"], "body": {"text_input": "1"}}
    checked = call(job, check=True, serves=serves)
    assert (checked["changed"], checked["action"]) == (True, "submit")
    assert slurm.submitted == [] and not Path(job["directory"]).exists()
    slurm.change(starts={"state": "RUNNING", "reason": "None", "nodes": "n[1-2]", "host": "n1"})
    done = call(job, serves=serves)
    assert (done["changed"], done["reason"]) == (True, "there is no job of trtllm-m-0 yet.")
    assert (done["job"]["id"], done["job"]["address"], done["job"]["slot"]) == (11, "127.0.0.1", 0)
    work = Path(done["directory"])
    assert (work / "job.sh").read_text() == f"#!/bin/sh\n. {work}/server.sh\n"
    (submitted,) = slurm.called("sbatch")
    assert submitted[-2:] == [str(work / "job.sh"), "0"]
    assert call(job, check=True, serves=serves)["changed"] is False
    again = call(job, serves=serves)
    assert (again["changed"], again["job"]["id"]) == (False, 11)
    assert len(slurm.called("sbatch")) == 1


def test_verified_four_ways(slurm: FakeSlurm, job: dict[str, Any]) -> None:
    number = int(call(job, wait=False)["job"]["id"])
    slurm.runs(number)
    arguments = {"name": job["name"], "directory": job["directory"], "state": "verified", "job": number}
    assert call(arguments, check=True)["changed"] is True
    assert slurm.state["jobs"]["11"]["comment"].endswith("slot=0")
    assert call(arguments)["changed"] is True
    assert slurm.state["jobs"]["11"]["comment"].endswith("slot=0 verified")
    assert call(arguments, check=True)["changed"] is False
    assert call(arguments)["changed"] is False


def test_absent_four_ways(slurm: FakeSlurm, job: dict[str, Any]) -> None:
    number = started(slurm, job)
    arguments = {"name": job["name"], "directory": job["directory"], "state": "absent"}
    assert call(arguments, check=True)["cancelled"] == [number]
    assert slurm.state["jobs"]["11"]["state"] == "RUNNING"
    assert call(arguments)["cancelled"] == [number]
    assert slurm.state["jobs"]["11"]["state"] == "CANCELLED"
    assert not (Path(job["directory"]) / job["name"]).exists()
    assert call(arguments, check=True)["changed"] is False
    assert call(arguments)["changed"] is False


# -- one takes the place of another --------------------------------------------------------------------------------


def test_a_changed_job_runs_beside_the_one_that_serves_until_that_is_cancelled(
    slurm: FakeSlurm, job: dict[str, Any]
) -> None:
    first = started(slurm, job)
    done = call(job, wait=False, files={"server.sh": "a=2"})
    assert (done["action"], done["others"], done["job"]["slot"]) == ("replace", [first], 1)
    assert slurm.state["jobs"]["11"]["state"] == "RUNNING"
    slurm.runs(12)
    gone = call({"name": job["name"], "directory": job["directory"]}, state="absent", keep=[12])
    assert gone["cancelled"] == [first]
    assert slurm.state["jobs"]["12"]["state"] == "RUNNING"
    assert [path.name for path in Path(done["directory"]).parent.iterdir() if path.is_dir()] == [done["fingerprint"]]


def test_what_passed_no_gate_is_cancelled_before_its_successor_is_submitted(
    slurm: FakeSlurm, job: dict[str, Any]
) -> None:
    started(slurm, job)
    call(job, wait=False, files={"server.sh": "a=2"})
    done = call(job, wait=False, files={"server.sh": "a=3"})
    assert slurm.called("scancel") == [["scancel", "12"]]
    assert (done["job"]["id"], done["job"]["slot"], done["others"]) == (13, 1, [11])


def test_it_is_cancelled_first_where_there_is_no_room_for_both(slurm: FakeSlurm, job: dict[str, Any]) -> None:
    started(slurm, job)
    done = call(job, wait=False, files={"server.sh": "a=2"}, stop_first=True)
    assert slurm.called("scancel") == [["scancel", "11"]]
    assert (done["job"]["slot"], done["others"]) == (0, [])


def test_only_the_job_that_passed_no_gate_goes(slurm: FakeSlurm, job: dict[str, Any]) -> None:
    started(slurm, job)
    call(job, wait=False, files={"server.sh": "a=2"})
    gone = call({"name": job["name"], "directory": job["directory"]}, state="absent", only=[12])
    assert gone["cancelled"] == [12]
    assert slurm.state["jobs"]["11"]["state"] == "RUNNING"


def test_a_job_on_a_drained_node_is_moved(slurm: FakeSlurm, job: dict[str, Any]) -> None:
    started(slurm, job)
    slurm.change(nodes={"n1": ["draining@", "new memory"], "n2": ["mixed", "none"]})
    done = call(job, wait=False)
    assert (done["action"], done["others"]) == ("replace", [11])
    assert done["reason"] == "job 11 of trtllm-m-0 runs on nodes that are drained: n1 (new memory)."


def test_one_that_slurm_queued_again_is_left_alone(slurm: FakeSlurm, job: dict[str, Any]) -> None:
    number = started(slurm, job)
    slurm.job(number, state="COMPLETING", then="PENDING", reason="BeginTime", host="n/a")
    done = call(job, wait=False)
    assert (done["changed"], done["job"]["id"], done["job"]["verified"]) == (False, number, True)


@pytest.mark.parametrize(
    ("state", "said"), [("FAILED", "job 11 of trtllm-m-0 failed."), ("NODE_FAIL", "job 11 of trtllm-m-0 lost a node.")]
)
def test_what_became_of_a_lost_job_is_said(slurm: FakeSlurm, job: dict[str, Any], state: str, said: str) -> None:
    slurm.job(started(slurm, job), state=state)
    assert call(job, wait=False)["reason"] == said


def test_so_is_one_that_slurm_has_forgotten(slurm: FakeSlurm, job: dict[str, Any]) -> None:
    started(slurm, job)
    slurm.change(jobs={})
    assert call(job, wait=False)["reason"] == "Slurm knows nothing of job 11 of trtllm-m-0 any more."


# -- what goes wrong -----------------------------------------------------------------------------------------------

SERVES = {"port": 1, "models": ["ensemble"], "body": {}}


def test_a_job_that_ends_is_not_waited_for(slurm: FakeSlurm, job: dict[str, Any]) -> None:
    done = call(job, wait=False)
    (Path(done["directory"]) / "11.log").write_text("first\nno such image\n\n")
    slurm.job(11, state="FAILED")
    # It is submitted anew, and ends too.
    slurm.change(starts={"state": "FAILED"})
    said = refused(job, serves=SERVES)
    assert said.startswith("Job 12 of trtllm-m-0 failed. It has said nothing (the whole log: ")
    slurm.change(starts={})
    slurm.job(12, state="PENDING")
    (Path(done["directory"]) / "12.log").write_text("first\nno such image\n\n")
    slurm.job(12, state="COMPLETING", then="FAILED")
    submission = submit.Submission(submit.Request(job["name"], Path(job["directory"]), SCRIPT, job["files"]))
    with pytest.raises(submit.FleetError, match="Its last words: no such image"):
        submission.wait_serving(12, submit.Serves(**SERVES), 5)


def test_one_that_waits_too_long_stays_queued(slurm: FakeSlurm, job: dict[str, Any]) -> None:
    said = refused(job, serves=SERVES, timeout=0)
    assert said.startswith(
        "Job 11 of trtllm-m-0 waits in the queue (Priority: other jobs go first), for longer than 0 s."
    )
    assert slurm.called("scancel") == []
    assert call(job, wait=False)["changed"] is False


def test_one_that_gives_no_token_is_told_of_with_the_answer(slurm: FakeSlurm, job: dict[str, Any]) -> None:
    slurm.change(starts={"state": "RUNNING", "reason": "None", "nodes": "n1", "host": "n1"})
    said = refused(job, serves=SERVES, timeout=0)
    assert said.startswith(
        "Job 11 of trtllm-m-0 runs on n1 and gives no token after 0 s: http://127.0.0.1:1/v2/models/"
    )


def test_a_host_without_slurm_is_refused(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = refused(job, wait=False)
    assert said == "There is no squeue on this host; name a login node, where Slurm's commands are, in slurm_login."


def test_a_controller_that_is_down_is_told_of(slurm: FakeSlurm, job: dict[str, Any]) -> None:
    slurm.change(down=True)
    wanted = "squeue says: slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    assert refused(job, wait=False) == wanted
    assert refused({"directory": job["directory"]}, "slurm_job_info") == wanted


def test_both_slots_may_be_taken(slurm: FakeSlurm, job: dict[str, Any]) -> None:
    started(slurm, job)
    started(slurm, job, files={"server.sh": "a=2"})
    said = refused(job, wait=False, files={"server.sh": "a=3"})
    assert said.startswith("All ports of trtllm-m-0 are taken, by jobs 11, 12; cancel the one")


# -- status --------------------------------------------------------------------------------------------------------


def test_each_job_has_its_sentence(slurm: FakeSlurm, job: dict[str, Any]) -> None:
    info = {"directory": job["directory"]}
    assert modules.call("slurm_job_info", info)["table"] == []
    started(slurm, job)
    call({**job, "name": "trtllm-n-0"}, wait=False)
    call({**job, "name": "trtllm-o-0"}, wait=False)
    slurm.change(jobs={number: one for number, one in slurm.state["jobs"].items() if number != "13"})
    slurm.change(nodes={"n2": ["drained", ""]})
    assert modules.call("slurm_job_info", info)["table"] == [
        "Job 11 of trtllm-m-0 runs on n[1-2]; drained: n2, so the next run moves it.",
        "Job 12 of trtllm-n-0 waits in the queue (Priority: other jobs go first).",
        "Slurm knows nothing of job 13 of trtllm-o-0 any more; the next run submits it.",
    ]
    slurm.change(nodes={"n1": ["mixed*", ""], "n2": ["mixed", ""]})
    assert modules.call("slurm_job_info", info)["table"][0] == (
        "Job 11 of trtllm-m-0 runs on n[1-2]; Slurm gets no answer from n1, and starts the job elsewhere if that lasts."
    )
    slurm.job(12, state="CANCELLED")
    (Path(job["directory"]) / "trtllm-o-0" / "made").mkdir()
    (Path(job["directory"]) / "trtllm-o-0" / "made" / "result.json").write_text("{}")
    assert modules.call("slurm_job_info", info)["table"][1:] == [
        "Job 12 of trtllm-n-0 was cancelled; the next run submits another.",
        "What trtllm-o-0 had to make is there.",
    ]


# -- engines -------------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(tmp_path: Path) -> dict[str, Any]:
    return {
        "name": "m", "root": str(tmp_path / "llm"), "checkpoint": "/srv/m", "image": "r/i@sha256:" + "0" * 64,
        "options": {"tp_size": 2}, "gpus": 2,
    }  # fmt: skip


def test_an_engine_four_ways(slurm: FakeSlurm, engine: dict[str, Any], tmp_path: Path) -> None:
    checked = modules.call("slurm_engine", engine, check=True)
    assert (checked["changed"], checked["engine_dir"]) == (True, None)
    assert not (tmp_path / "llm").exists()
    made = tmp_path / "engine"
    made.mkdir()
    slurm.change(starts={"state": "COMPLETED"})
    slurm.change(result={"engine_dir": str(made), "fingerprint": "f", "paths": [str(made)]})
    done = modules.call("slurm_engine", engine)
    assert (done["changed"], done["engine_dir"], done["fingerprint"]) == (True, str(made), "f")
    for check in (True, False):
        again = modules.call("slurm_engine", engine, check=check)
        assert (again["changed"], again["engine_dir"]) == (False, str(made))
    assert slurm.submitted == [11]
    made.rmdir()
    assert modules.call("slurm_engine", engine, check=True)["changed"] is True
    changed = modules.call("slurm_engine", {**engine, "checkpoint_digest": "other"}, check=True)
    assert changed["changed"] is True


def test_the_program_of_a_build_has_all_that_it_needs(slurm: FakeSlurm, engine: dict[str, Any], tmp_path: Path) -> None:
    slurm.change(starts={"state": "FAILED"})
    said = refused(engine, "slurm_engine")
    assert said.startswith("Job 11 of trtllm.build-m failed. It has said nothing")
    (program,) = (tmp_path / "llm" / "slurm").rglob("build.pyz")
    with zipfile.ZipFile(io.BytesIO(program.read_bytes())) as packed:
        names = set(packed.namelist())
    assert {"trtllm/_slurm/build.py", "trtllm/_engine/runner.py", "trtllm/_release/cli.py"} <= names


def test_the_program_runs_without_the_collection(slurm: FakeSlurm, engine: dict[str, Any], tmp_path: Path) -> None:
    """It gets as far as the checkpoint, which is not there, and says so in one line."""
    slurm.change(starts={"state": "FAILED"})
    refused({**engine, "checkpoint": str(tmp_path / "none")}, "slurm_engine")
    (program,) = (tmp_path / "llm" / "slurm").rglob("build.pyz")
    argv = [sys.executable, "-I", str(program), str(program.with_name("build.json"))]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 1
    assert str(tmp_path / "none") in done.stderr and "Traceback" not in done.stderr
