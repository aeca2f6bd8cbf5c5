# SPDX-License-Identifier: GPL-3.0-or-later
"""What Jobs run in pods: the collection's own way to an engine, with the container that builds being the pod."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._engine import plan
from ansible_collections.trtllm.fleet.plugins.module_utils._kubernetes import build_pod, fetch_pod
from ansible_collections.trtllm.fleet.plugins.module_utils._release.releases import LAST_ENGINE_RELEASE as LAST
from triton_cpu_fakes import SOURCE, tiny_checkpoint


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A Job as the role writes it, in a container that has what the CPU image has."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "python3").symlink_to(sys.executable)
    (tools / "trtllm-build").write_text(
        f"#!{sys.executable}\nimport sys\nfrom tensorrt_llm.build import main\nsys.exit(main())\n"
    )
    (tools / "trtllm-build").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", ":".join([str(SOURCE), *(path for path in sys.path if path)]))
    monkeypatch.setattr(plan, "EXAMPLES_DIR", str(SOURCE / "examples"))
    root = tmp_path / "volume"
    tiny_checkpoint.write_checkpoint(root / "checkpoints" / "m")
    return {
        "root": str(root), "name": "m", "image": "reg.example/t:1", "release": LAST, "nodes": 1, "gpus": [],
        "checkpoint": str(root / "checkpoints" / "m"), "link": str(root / "kubernetes" / "m" / ("1" * 64)),
        "options": {"dtype": "float32", "max_batch_size": 4, "max_input_len": 64, "max_seq_len": 128},
        "templates": str(SOURCE / "all_models"), "streaming": True, "parameters": {}, "environment": {},
    }  # fmt: skip


def test_a_job_builds_renders_and_points_and_the_next_finds_it_done(
    spec: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    place = Path(build_pod.build(spec))
    (engine,) = (Path(spec["root"]) / "engines" / "m").glob("*/rank0.engine")
    assert (place / "tensorrt_llm" / "config.pbtxt").read_text().count(str(engine.parent)) == 1
    assert os.readlink(spec["link"]) == str(place)
    said = capsys.readouterr().out
    assert "trtllm-build" in said and "no engine of this name is published yet" in said
    before = engine.stat()
    assert build_pod.build(spec) == str(place)
    assert engine.stat() == before and capsys.readouterr().out.count(", as it was") == 2
    # Another option is another engine, beside the one that serves.
    other = {**spec, "options": {**spec["options"], "max_batch_size": 2}, "link": spec["link"][:-1] + "2"}
    assert build_pod.build(other) != str(place) and place.is_dir() and os.readlink(spec["link"]) == str(place)


@pytest.mark.parametrize(
    ("layout", "release", "parameters", "file", "said"),
    [
        ("trtllm-serve", "1.3.0", {"max_batch_size": 4, "return_perf_metrics": True}, "llm_args.yaml",
         "return_perf_metrics: true"),
        ("llmapi", LAST, {"max_batch_size": 4}, "tensorrt_llm/1/model.yaml", "max_batch_size: 4"),
    ],
)  # fmt: skip
def test_a_job_renders_what_serves_a_checkpoint_and_points_to_it(
    spec: dict[str, Any], layout: str, release: str, parameters: dict[str, Any], file: str, said: str
) -> None:
    told = {key: value for key, value in spec.items() if key not in ("options", "gpus", "nodes", "image")}
    told.update(layout=layout, release=release, parameters={"tensorrt_llm": parameters})
    place = Path(build_pod.build(told))
    assert said in (place / file).read_text()
    assert os.readlink(spec["link"]) == str(place) and not (Path(spec["root"]) / "engines").exists()
    assert build_pod.build(told) == str(place)


def test_a_build_that_fails_says_why(spec: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (Path(spec["root"]).parent / "bin" / "trtllm-build").write_text("#!/bin/sh\necho no room here\nexit 3\n")
    job = tmp_path / "spec.json"
    job.write_text(json.dumps(spec))
    assert build_pod.main(str(job)) == 1
    said = capsys.readouterr()
    assert "The build of m failed in phase build with exit code 3" in said.err and "Traceback" not in said.err
    assert "no room here" in said.out and not Path(spec["link"]).exists()


def test_a_download_is_verified_and_the_next_pod_finds_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = tmp_path / "files"
    tiny_checkpoint.write_checkpoint(files / "m")
    subprocess.run(["tar", "-cf", tmp_path / "m.tar", "-C", files, "m"], check=True)
    digest = subprocess.run(
        ["sha256sum", tmp_path / "m.tar"], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    with subprocess.Popen(
        [sys.executable, "-u", "-c", "import http.server as h; s = h.ThreadingHTTPServer(('127.0.0.1', 0), "
         "h.SimpleHTTPRequestHandler); print(s.server_port, flush=True); s.serve_forever()"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/m.tar"
        spec = {
            "root": str(tmp_path / "volume"), "name": "m", "token": "",
            "request": {"source": "url", "url": url, "sha256": digest},
            "consent": {"trust_remote_code": False, "allow_pickle": False},
        }  # fmt: skip
        job = tmp_path / "spec.json"
        job.write_text(json.dumps(spec))
        try:
            assert fetch_pod.main(str(job)) == 0, capsys.readouterr().err
        finally:
            server.kill()
    assert (tmp_path / "volume" / "checkpoints" / "m" / "config.json").is_file()
    # The server is gone, and nobody asks it.
    assert fetch_pod.main(str(job)) == 0
    assert "is there" in capsys.readouterr().out
