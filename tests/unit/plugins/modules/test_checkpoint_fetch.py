# SPDX-License-Identifier: GPL-3.0-or-later
"""The module that downloads, four ways, with the hub's real client; a small podman of the test runs it as a process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.action.trtllm_checkpoint_fetch import line
from hub_server import Hub
from unit import modules
from unit.plugins.module_utils._hub.hub_files import REPO, SECRET, files

PODMAN = """#!{python}
import json, os, pathlib, signal, subprocess, sys
here = pathlib.Path(__file__).parent
arguments = sys.argv[1:]
named = next((a.removeprefix("--name=") for a in arguments if a.startswith("--name=")), arguments[-1])
kept = here / named
def alive():
    try:
        return pathlib.Path(f"/proc/{{kept.read_text()}}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
if arguments[0] == "run":
    (here / "asked").write_text(json.dumps(arguments))
    nothing = subprocess.DEVNULL
    process = subprocess.Popen([{python!r}, *arguments[-2:]], start_new_session=True, stdout=nothing, stderr=nothing)
    kept.write_text(str(process.pid))
elif arguments[:2] == ["container", "inspect"]:
    if not kept.exists():
        sys.exit("Error: no such container " + named)
    state = {{"Status": "running" if alive() else "exited"}}
    print(json.dumps([{{"Name": named, "Id": "1", "State": state, "Config": {{}}}}]))
elif arguments[0] == "rm" and kept.exists():
    if alive():
        os.kill(int(kept.read_text()), signal.SIGKILL)
    kept.unlink()
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    podman = tmp_path / "bin" / "podman"
    podman.parent.mkdir()
    podman.write_text(PODMAN.format(python=sys.executable))
    podman.chmod(0o755)
    monkeypatch.setenv("PATH", str(podman.parent), prepend=":")
    server = Hub(tmp_path / "hub").start()
    yield server
    server.shutdown()


def asked(hub: Hub, tmp_path: Path, **options: Any) -> dict[str, Any]:
    return {"name": "m", "repo": REPO, "endpoint": hub.url, "image": "i", "root": str(tmp_path / "root"), **options}


def test_four_ways(hub: Hub, tmp_path: Path) -> None:
    commit = hub.add(REPO, files(), token=SECRET)
    arguments = asked(hub, tmp_path, token=SECRET)
    results = [modules.call("trtllm_checkpoint_fetch", arguments, check=check) for check in (True, False, True, False)]
    assert [result.get("changed") for result in results] == [True, True, False, False], results
    assert not results[0]["digest"] and results[1]["commit"] == results[3]["commit"] == commit
    assert results[1]["received"] > 0 and results[3]["received"] == 0
    assert results[1]["diff"]["after"] == f"{REPO}: not there yet\n"
    assert SECRET not in (tmp_path / "bin" / "asked").read_text() and SECRET not in str(results)
    assert not (tmp_path / "root" / "fetches" / "m").exists()


def test_it_is_started_joined_and_collected(hub: Hub, tmp_path: Path) -> None:
    hub.add(REPO, files(), rate=1 << 19)
    first = modules.call("trtllm_checkpoint_fetch", asked(hub, tmp_path, wait=False))
    assert first["fetching"] and first["changed"]
    second = modules.call("trtllm_checkpoint_fetch", asked(hub, tmp_path))
    assert second["changed"] and not second["fetching"] and second["digest"], second
    assert len([request for request in hub.requests if "/api/" in request]) == 1, "it was started twice"


def test_a_refusal_is_one_sentence_and_the_old_checkpoint_stays(hub: Hub, tmp_path: Path) -> None:
    hub.add(REPO, files())
    assert modules.call("trtllm_checkpoint_fetch", asked(hub, tmp_path))["changed"]
    refused = modules.call("trtllm_checkpoint_fetch", asked(hub, tmp_path, revision="v9"))
    assert refused["failed"] and "Invalid rev id: v9" in refused["msg"] and "Traceback" not in refused["msg"]
    assert modules.call("trtllm_checkpoint_fetch", asked(hub, tmp_path))["changed"] is False


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"repo": "../x"}, "repo is '../x'; give it as the hub writes it, OWNER/NAME."),
        ({"repo": None}, "repo is missing; source huggingface needs it."),
        ({"revision": "a b"}, "revision is 'a b'; give a branch, a tag or a commit."),
        ({"endpoint": "http://me:secret@h"}, "endpoint holds a name or a password, which logs would show"),
        ({"endpoint": "file:///etc"}, "it begins with https:// or http://"),
    ],
)
def test_bad_input_is_refused_before_anything(hub: Hub, tmp_path: Path, options: dict[str, Any], said: str) -> None:
    refused = modules.call("trtllm_checkpoint_fetch", asked(hub, tmp_path, **options))
    assert refused["failed"] and said.replace("it begins", "that begins") in refused["msg"], refused
    assert not (tmp_path / "root").exists()


def test_the_line_for_the_terminal() -> None:
    progress = {"phase": "downloading", "bytes_done": 5.12e9, "bytes_total": 13.48e9, "rate": 212e6, "left": 39}
    assert line("h", "m", progress) == "[h] checkpoint m: downloading 5.12 of 13.48 GB (38%) | 212 MB/s | 39s left"


def test_without_an_image_it_is_a_process_of_this_machine(hub: Hub, tmp_path: Path) -> None:
    hub.add(REPO, files(), token=SECRET, rate=1 << 20)
    arguments = asked(hub, tmp_path, token=SECRET, image=None)
    assert modules.call("trtllm_checkpoint_fetch", {**arguments, "wait": False})["fetching"]
    joined = modules.call("trtllm_checkpoint_fetch", arguments)
    assert joined["changed"] and joined["received"] > 0, joined
    assert len([request for request in hub.requests if "/api/" in request]) == 1, "it was started twice"
    assert not (tmp_path / "bin" / "asked").exists(), "podman was asked"
    assert modules.call("trtllm_checkpoint_fetch", arguments)["changed"] is False
    assert list((tmp_path / "root" / "fetches").iterdir()) == []


def test_asked_it_downloads_nothing(hub: Hub, tmp_path: Path) -> None:
    hub.add(REPO, files())
    for _ in range(2):
        told = modules.call("trtllm_checkpoint_fetch", asked(hub, tmp_path, ask=True))
        assert (told["changed"], told["reasons"]) == (False, [f"{REPO}: not there yet"]) and len(told["asked"]) == 64
    assert hub.requests == []
    consents = modules.call("trtllm_checkpoint_fetch", asked(hub, tmp_path, ask=True, allow_pickle=True))
    assert consents["asked"] != told["asked"], "another consent is another checkpoint"
