# SPDX-License-Identifier: GPL-3.0-or-later
"""A checkpoint that several hosts need is brought by one of them: which host is asked for what, and in which order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.draft import draft
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.handed import local
from recorder import Recording, record
from unit.plugins.module_utils._hub.hub_files import files

pytestmark = pytest.mark.slow

A, D = "a" * 64, "d" * 64
ORIGIN = {"commit": "1" * 40}
Result = dict[str, Any]


def fetched(*reasons: str, asked: str = A, changed: bool = False) -> Result:
    return {
        "changed": changed, "asked": asked, "reasons": list(reasons), "digest": "" if reasons else D,
        "path": "/srv/llm/checkpoints/m", "commit": "1" * 40, "fetching": False, "received": 0,
    }  # fmt: skip


MISSING, THERE, DONE = fetched("acme/m: not there yet"), fetched(), fetched(changed=True)
OFFERED = {"changed": True, "digest": D, "origin": ORIGIN, "there": True, "path": "/srv/llm/checkpoints/m"}
NOT_YET, ADOPTED = {**OFFERED, "digest": "", "origin": {}, "there": False}, OFFERED
SERVED = {"changed": True, "pieces": "c" * 64, "url": "x"}
RECEIVED = [{"changed": True, "receiving": True}, {"changed": True, "receiving": False, "received": 5}]
FIRST = [OFFERED, NOT_YET, ADOPTED, OFFERED]  # it asks the one that offers, too
NEXT = [NOT_YET, ADOPTED]


def host(number: int, *fetches: Result, artifact: list[Result] = FIRST, **more: Any) -> dict[str, Any]:
    """A host whose modules say of its checkpoint what is given, one after the other."""
    modules = {
        "trtllm_checkpoint_fetch": fetches, "trtllm_checkpoint_artifact": artifact,
        "trtllm_image": [{"changed": False}], "trtllm_artifact_serve": [SERVED],
        "trtllm_artifact_fetch": RECEIVED, **more,
    }  # fmt: skip
    return {"modules": modules, "vars": {"ansible_host": f"10.0.0.{number}"}}


def run(tmp_path: Path, hosts: dict[str, Any], *arguments: str, code: int = 0, **variables: Any) -> Recording:
    given = {
        "checkpoint_models": [{"name": "m", "source": "huggingface", "repo": "acme/m"}],
        "checkpoint_root": "/srv/llm", "checkpoint_image_source": "present", **variables,
    }  # fmt: skip
    found = record(tmp_path, hosts, ["trtllm.fleet.checkpoint"], given, arguments)
    assert found.returncode == code, found.output
    return found


def asks(found: Recording, name: str) -> list[bool]:
    """Whether it was only asked, for each time that the module was called on the host."""
    return [call.args["ask"] for call in found.of(name, "trtllm_checkpoint_fetch")]


def test_one_brings_it_and_the_others_receive_it(tmp_path: Path) -> None:
    found = run(
        tmp_path, {"h1": host(1, MISSING, DONE), "h2": host(2, MISSING), "h3": host(3, MISSING, artifact=NEXT)}, "-vvv"
    )
    assert {name: asks(found, name) for name in found.calls} == {"h1": [True, False], "h2": [True], "h3": [True]}
    assert [len(found.of(name, "trtllm_image")) for name in ("h1", "h2", "h3")] == [1, 0, 0], "who downloads needs it"
    states = [call.args.get("state") for call in found.of("h2", "trtllm_checkpoint_artifact")]
    assert states == [None, "adopted", "adopted", "absent"]
    assert found.of("h3", "trtllm_checkpoint_artifact")[1].args["origin"] == ORIGIN
    started, waited = (call.args for call in found.of("h3", "trtllm_artifact_fetch"))
    assert (started["wait"], waited["wait"], started["kind"]) == (False, True, "checkpoint")
    assert started["sources"] == ["http://10.0.0.2:18850", "http://10.0.0.1:18850"]
    assert (started["fingerprint"], started["pieces"], started["root"]) == (D, SERVED["pieces"], "/srv/llm")
    assert found.output.count("checkpoint m (aaaaaaaaaaaa): h1 brings it, for h2, h3\n") == 1
    assert len(started["token"]) == 43 and started["token"] not in found.output
    assert "Record what the controller is about to send" not in found.output, "nothing is known of it before"


def test_where_all_have_it_each_is_asked_once(tmp_path: Path) -> None:
    found = run(tmp_path, {"h1": host(1, THERE), "h2": host(2, THERE)})
    assert {name: [call.module for call in calls] for name, calls in found.calls.items()} == {
        "h1": ["trtllm_checkpoint_fetch"], "h2": ["trtllm_checkpoint_fetch"]
    }  # fmt: skip
    assert "changed=0" in found.output


def test_when_it_fails_another_one_brings_it(tmp_path: Path) -> None:
    failed = {"failed": True, "changed": False, "msg": "The download of m ended too early."}
    hosts = {"h1": host(1, MISSING, failed), "h2": host(2, MISSING, DONE), "h3": host(3, MISSING)}
    found = run(tmp_path, hosts, code=2)
    assert {name: asks(found, name) for name in ("h2", "h3")} == {"h2": [True, False], "h3": [True]}
    assert found.output.count("checkpoint m (aaaaaaaaaaaa): h2 brings it, for h3\n") == 1


@pytest.mark.parametrize(
    ("variables", "brings"),
    [
        ({"checkpoint_distribution": "source"}, {"h1": [False], "h2": [False]}),
        ({"checkpoint_downloaders": ["h2"]}, {"h1": [True], "h2": [True, False]}),
        ({"checkpoint_refresh": True}, {"h1": [True, False], "h2": [True]}),
    ],
)
def test_what_the_user_says(tmp_path: Path, variables: dict[str, Any], brings: dict[str, list[bool]]) -> None:
    last = (
        [DONE]
        if variables.get("checkpoint_distribution")
        else [THERE if "checkpoint_refresh" in variables else MISSING, DONE]
    )
    found = run(tmp_path, {"h1": host(1, *last), "h2": host(2, *last)}, **variables)
    assert {name: asks(found, name) for name in brings} == brings


def test_what_cannot_be_handed_out_is_brought_by_each(tmp_path: Path) -> None:
    silent = {"failed": True, "msg": "10.0.0.1 port 18850 cannot be listened on: in use."}
    found = run(
        tmp_path,
        {
            "h1": host(1, MISSING, DONE),
            "h2": host(2, MISSING, DONE, trtllm_artifact_serve=[silent], artifact=[OFFERED]),
        },
    )
    assert "m does not come from h1: 10.0.0.1 port 18850 cannot be listened on: in use." in found.output
    assert asks(found, "h2") == [True, False] and found.of("h2", "trtllm_artifact_fetch") == []


def test_check_mode_says_who_would_bring_it_and_asks_nobody_to(tmp_path: Path) -> None:
    found = run(tmp_path, {"h1": host(1, MISSING, DONE), "h2": host(2, MISSING, DONE)}, "--check")
    assert "checkpoint m (aaaaaaaaaaaa): h1 brings it, for h2" in found.output
    assert all(call.check_mode for name in found.calls for call in found.calls[name])
    assert all(found.of(name, "trtllm_artifact_fetch") == [] for name in found.calls)


def weights_of(directory: Path) -> Path:
    """A checkpoint of the controller."""
    weights = directory / "weights"
    weights.mkdir()
    for name, body in files().items():
        (weights / name).write_bytes(body)
    return weights


def test_what_the_controller_sends_is_handed_on_while_it_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRTLLM_FLEET_CACHE", str(tmp_path / "cache"))
    weights = weights_of(tmp_path)
    found = local(weights, tmp_path / "index.json")
    digest, pieces = found.tree.digest, found.pieces.identity
    missing = {"changed": False, "reasons": ["config.json: added"], "digest": "", "path": "/srv/llm/checkpoints/m"}
    brought = {**missing, "changed": True, "digest": digest}
    offered, served = {**OFFERED, "digest": digest, "origin": {}}, {**SERVED, "pieces": pieces}
    # What is announced is made the checkpoint once, at the end, as it goes on from here until then.
    first, later = [offered, offered, offered], [offered]
    answers = {"h1": ([missing, brought], first), "h2": ([missing], first), "h3": ([missing], later)}
    hosts = {
        name: host(number, trtllm_checkpoint=said, artifact=artifact, trtllm_artifact_serve=[served])
        for number, (name, (said, artifact)) in enumerate(answers.items(), 1)
    }
    ran = run(tmp_path, hosts, checkpoint_models=[{"name": "m", "path": str(weights)}])
    asked = {name: [call.args for call in ran.of(name, "trtllm_checkpoint")] for name in hosts}
    assert {name: [args["ask"] for args in calls] for name, calls in asked.items()} == {
        "h1": [True, False], "h2": [True], "h3": [True]
    }  # fmt: skip
    sent = asked["h1"][1]
    assert (asked["h1"][0]["address"], sent["address"], sent["port"]) == ("", "10.0.0.1", 18850)
    begun, *after = (call.args for call in ran.of("h3", "trtllm_artifact_fetch"))
    assert (begun["wait"], begun["pieces"], begun["fingerprint"]) == (False, pieces, digest)
    assert begun["token"] == sent["token"] and len(sent["token"]) == 43
    alike = [{**call, "wait": False, "follow": None} for call in (begun, *after)]  # who waits is shown how far it is
    assert after and all(call == alike[0] for call in alike), "what runs is not begun anew"
    states = [call.args.get("state") for call in ran.of("h3", "trtllm_checkpoint_artifact")]
    stopped = [call.args["name"] for call in ran.of("h3", "trtllm_artifact_serve")]
    assert (states, stopped) == (["adopted"], ["m"])
    order = [call.module for call in ran.calls["h2"]]
    assert order.index("trtllm_artifact_fetch") < order.index("trtllm_artifact_serve"), "they wait for it to arrive"


def test_what_is_read_while_it_is_sent_is_received_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTLLM_FLEET_CACHE", str(tmp_path / "cache"))
    weights = weights_of(tmp_path)
    digest, pieces = (found := local(weights, tmp_path / "index.json")).tree.digest, found.pieces.identity
    first = draft(weights, tmp_path / "none.json")
    assert first is not None
    missing = {"reasons": ["config.json: added"], "digest": "", "path": "/srv/llm/checkpoints/m", "alike": False}
    offered, served = {**OFFERED, "digest": digest, "origin": {}}, {**SERVED, "pieces": pieces}
    asked, received = (
        [{**missing, "changed": False}, {**missing, "changed": True}],
        {"changed": True, "receiving": False},
    )
    more: dict[str, Any] = {"trtllm_artifact_serve": [served], "trtllm_artifact_fetch": [received]}
    hosts = {f"h{n}": host(n, artifact=[offered], trtllm_checkpoint=asked, **more) for n in (1, 2, 3)}
    for about in hosts.values():
        about["vars"]["ansible_connection"] = "ssh"
    ran = run(tmp_path, hosts, checkpoint_models=[{"name": "m", "path": str(weights)}])
    assert ran.output.count("checkpoint m (not read yet): h1 brings it, for h2, h3\n") == 1
    calls = [call.args for name in hosts for call in ran.of(name, "trtllm_checkpoint")]
    assert [args["ask"] for args in calls] == [True, False, True, True]
    assert all(args["sizes"] == first.sizes and "wanted" not in args for args in calls)
    of_draft, of_whole = (first.pieces.fingerprint, first.pieces.identity), (digest, pieces)
    got = {
        name: [(call.args["fingerprint"], call.args["pieces"]) for call in ran.of(name, "trtllm_artifact_fetch")]
        for name in hosts
    }
    assert got["h1"] == [of_draft, of_whole]
    assert got["h3"][:2] == [of_draft] * 2 and set(got["h3"][2:]) == {of_whole}
    waits = [call.args.get("wait", True) for call in ran.of("h3", "trtllm_artifact_fetch")]
    assert waits[0] is False and waits[1] is True, "it has come before the one before it hands it out as a whole"
    adopted = [call.args for call in ran.of("h1", "trtllm_checkpoint_artifact") if call.args.get("state") == "adopted"]
    assert adopted[0]["digest"] == digest and adopted[0]["keep"]


def test_where_one_host_may_have_it_all_are_asked_by_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRTLLM_FLEET_CACHE", str(tmp_path / "cache"))
    weights = weights_of(tmp_path)
    digest = local(weights, tmp_path / "index.json").tree.digest
    about = {"changed": False, "path": "/srv/llm/checkpoints/m", "digest": ""}
    missing = {**about, "reasons": ["config.json: added"], "alike": False}
    there = [{**about, "reasons": [], "alike": True}, {**about, "reasons": [], "digest": digest}]
    offered = {**OFFERED, "digest": digest, "origin": {}}
    hosts = {
        "h1": host(1, artifact=[offered], trtllm_checkpoint=there),
        "h2": host(2, artifact=[offered], trtllm_checkpoint=[missing]),
    }
    for each in hosts.values():
        each["vars"]["ansible_connection"] = "ssh"
    ran = run(tmp_path, hosts, checkpoint_models=[{"name": "m", "path": str(weights)}])
    assert f"checkpoint m ({digest[:12]}): h1 has it, for h2\n" in ran.output
    last = ran.of("h2", "trtllm_checkpoint")[-1].args
    assert last["ask"] and last["wanted"], "it is asked anew, as its digest is known by then"
    assert {call.args["fingerprint"] for call in ran.of("h2", "trtllm_artifact_serve")} == {digest}
    assert all(call.args["ask"] for name in hosts for call in ran.of(name, "trtllm_checkpoint")), "nothing is sent"
