# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller sends: as a whole, through a port that ssh opens, or file by file, held to the rate."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible_collections.trtllm.fleet.plugins.action import trtllm_checkpoint
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact import fingerprint
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.handed import Handed
from unit import modules
from unit.plugins.module_utils._hub.hub_files import files, weights
from unit.systemd_fakes import FakeSystemd
from unit.transfer_fakes import alter, free_port

OPTIONS = {"sftp_extra_args": "-C", "scp_extra_args": None, "ssh_args": "-C -o ControlMaster=auto -o User=me"}
REFUSAL = "Failed to connect to the host via ssh: Error: remote port forwarding failed for listen port 19000"


class Connection:
    """Keeps which options it had when a file was put."""

    def __init__(self, transport: str = "ssh") -> None:
        self.transport, self.options, self.seen = transport, dict(OPTIONS), []

    def get_option(self, name: str) -> str | None:
        return self.options[name]

    def set_option(self, name: str, value: str | None) -> None:
        self.options[name] = value

    def put_file(self, source: str, target: str) -> None:
        self.seen.append(dict(self.options))


@pytest.fixture
def send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Connection]:
    monkeypatch.setattr(trtllm_checkpoint.ActionBase, "run", lambda self, tmp, task_vars: {})
    monkeypatch.setattr(trtllm_checkpoint, "inspect_checkpoint", lambda source: None)
    monkeypatch.setenv("TRTLLM_FLEET_CACHE", str(tmp_path / "cache"))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")

    def run(rate: Any, transport: str = "ssh", **options: Any) -> Connection:
        plugin: Any = trtllm_checkpoint.ActionModule.__new__(trtllm_checkpoint.ActionModule)
        args = {"name": "m", "path": str(tmp_path / "weights"), "rate": rate, **options}
        plugin._task = SimpleNamespace(args=args, check_mode=False)
        plugin._connection = Connection(transport)
        plugin._module = lambda args, task_vars: (
            {} if args.get("publish") else {"missing": ["config.json"], "staging": "/there", "alike": False}
        )

        def refused(**_: Any) -> dict[str, Any]:
            raise AnsibleConnectionFailure(REFUSAL)

        plugin._execute_module = refused
        plugin.run(None, {})
        return plugin._connection

    return run


def test_a_rate_is_kept_by_what_ssh_sends_files_with(send: Callable[..., Connection]) -> None:
    connection = send(64)
    limited = {"sftp_extra_args": "-C -l 500000", "scp_extra_args": "-l 500000"}
    assert connection.seen == [{**OPTIONS, **limited}], "ssh forwards no port, so files are put"
    assert connection.options == OPTIONS


def test_without_one_nothing_is_held(send: Callable[..., Connection]) -> None:
    assert send(0, "local").seen == [OPTIONS]


@pytest.mark.parametrize(("rate", "transport", "said"), [
    (-1, "ssh", "rate is -1; give 0"), ("fast", "ssh", "rate is fast; give 0"), (5, "local", "the connection is local"),
])  # fmt: skip
def test_what_cannot_be_kept_is_refused(send: Callable[..., Connection], rate: Any, transport: str, said: str) -> None:
    with pytest.raises(AnsibleActionFail, match=said):
        send(rate, transport)


def test_hosts_that_ask_at_once_have_the_checkpoint_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "RACY_NS", -(10**15))
    monkeypatch.setenv("TRTLLM_FLEET_CACHE", str(tmp_path / "cache"))
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(bytes(16 << 20))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(trtllm_checkpoint.local_checkpoint, [weights] * 4))
    assert sum(found.tree.bytes_read for found in found) == 16 << 20
    assert len({found.pieces.identity for found in found}) == 1


class Hosts:
    """Hosts that the controller sends to, without ssh between: a port that is forwarded is the controller's own."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.monkeypatch, self.weights = tmp_path, monkeypatch, tmp_path / "weights"
        self.weights.mkdir()
        for name, body in files(model__safetensors=weights(20 << 20)).items():
            (self.weights / name).write_bytes(body)
        self.asked: list[dict[str, Any]] = []
        self.heard: Callable[[dict[str, Any]], None] = lambda said: None

    def send(self, host: str, **options: Any) -> dict[str, Any]:
        """What the task says."""
        plugin: Any = trtllm_checkpoint.ActionModule.__new__(trtllm_checkpoint.ActionModule)
        plugin._task = SimpleNamespace(
            args={"name": "m", "path": str(self.weights), "root": str(self.home / host), **options}, check_mode=False
        )
        plugin._connection = Connection()
        self.monkeypatch.setenv("TEST_HOST", host)

        def execute(module_name: str, module_args: dict[str, Any], task_vars: Any) -> dict[str, Any]:
            given = dict(module_args)
            if module_name == trtllm_checkpoint.FETCH:
                self.asked.append(given)
                (forward,) = (w for w in shlex.split(plugin._connection.options["ssh_args"]) if "RemoteForward" in w)
                assert given["sources"] == [f"http://{forward.split('=')[1].split()[0]}"]
                given["sources"] = [f"http://{forward.split()[1]}"]
            said = modules.call(module_name.rpartition(".")[2], given)
            if module_name == trtllm_checkpoint.FETCH:
                self.heard(said)
            return said

        plugin._execute_module = execute
        result: dict[str, Any] = plugin.run(None, {"inventory_hostname": host})
        assert plugin._connection.options == OPTIONS and not plugin._connection.seen
        return result

    def held(self, host: str) -> dict[str, bytes]:
        """What the host has of it."""
        path = self.home / host / "checkpoints" / "m"
        return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    monkeypatch.setattr(fingerprint, "RACY_NS", -(10**15))
    monkeypatch.setattr(trtllm_checkpoint.ActionBase, "run", lambda self, tmp, task_vars: {})
    monkeypatch.setenv("TRTLLM_FLEET_CACHE", str(tmp_path / "cache"))
    systemd = FakeSystemd(tmp_path / "systemd", monkeypatch)
    yield Hosts(tmp_path, monkeypatch)
    systemd.kill()


def test_it_goes_as_a_whole_through_a_port_that_ssh_opens(hosts: Hosts) -> None:
    sent = hosts.send("one")
    assert sent["changed"] and hosts.held("one") == {path.name: path.read_bytes() for path in hosts.weights.iterdir()}
    assert "missing" not in sent and "staging" not in sent
    handed = Handed(hosts.home / "one", "m")
    assert handed.store.current("m", write_index=False).bytes_read == 0, "it was verified as it came"
    again = hosts.send("one")
    assert not again["changed"] and again["digest"] == sent["digest"] and len(hosts.asked) == 1
    assert not (hosts.home / "one" / "handed" / "m").exists()


def test_its_digests_are_made_while_it_goes(hosts: Hosts) -> None:
    size = sum(path.stat().st_size for path in hosts.weights.iterdir())
    asked = hosts.send("one", ask=True, while_sending=True)
    assert asked["draft"] and not asked["changed"] and asked["reasons"]
    sent = hosts.send("one", while_sending=True)
    assert hosts.held("one") == {path.name: path.read_bytes() for path in hosts.weights.iterdir()}
    draft, whole = hosts.asked
    assert (draft["fingerprint"], draft["pieces"]) == (asked["asked"], asked["pieces"])
    assert whole["fingerprint"] == sent["digest"] != asked["asked"]
    assert sent["changed"] and sent["drafted"] and "alike" not in sent
    handed = Handed(hosts.home / "one", "m")
    assert handed.store.current("m", write_index=False).bytes_read == 0, "it was verified as it came"
    assert handed.digest() == sent["digest"] and not (hosts.home / "one" / "handed" / "m").exists()
    # From here on all is as if it had been read before: for the same host, and for another one.
    known = hosts.send("one", while_sending=True)
    assert (known["changed"], known["digest"], len(hosts.asked)) == (False, sent["digest"], 2)
    asked = hosts.send("two", ask=True, while_sending=True)
    assert (asked["asked"], asked["draft"]) == (sent["digest"], False) and asked["pieces"] == whole["pieces"]
    other = hosts.send("two", while_sending=True)
    assert not other["drafted"] and other["digest"] == sent["digest"] and hosts.held("two") == hosts.held("one")
    assert size == sum(len(body) for body in hosts.held("two").values())


def test_a_host_that_may_have_it_is_asked_with_the_digests(hosts: Hosts, tmp_path: Path) -> None:
    digest = hosts.send("one", while_sending=True)["digest"]
    shutil.rmtree(tmp_path / "cache")
    asked = hosts.send("one", ask=True, while_sending=True)
    assert (asked["draft"], asked["asked"], asked["reasons"]) == (False, digest, [])
    # Of the same sizes, and another one.
    body = (hosts.weights / "model.safetensors").read_bytes()
    (hosts.weights / "model.safetensors").write_bytes(body[:-1] + b"x")
    asked = hosts.send("one", ask=True, while_sending=True)
    assert not asked["draft"] and asked["reasons"] == ["model.safetensors: content differs"]


def test_a_draft_is_handed_on_while_it_arrives(hosts: Hosts) -> None:
    asked = hosts.send("one", ask=True, while_sending=True)
    port, token = free_port(), "no secret at all"
    sent = hosts.send("one", while_sending=True, address="127.0.0.1", port=port, token=token)
    assert (hosts.home / "one" / "handed" / "m" / sent["digest"]).is_dir(), (
        "it stays for those who receive it from there"
    )
    url = f"http://127.0.0.1:{port}"
    which = {"kind": "checkpoint", "name": "m", "token": token}
    hosts.monkeypatch.setenv("TEST_HOST", "two")
    two = {**which, "root": str(hosts.home / "two"), "sources": [url], "address": "127.0.0.1", "port": free_port()}
    draft = {**two, "fingerprint": asked["asked"], "pieces": asked["pieces"]}
    modules.call("trtllm_artifact_fetch", {**draft, "wait": False})
    got = modules.call("trtllm_artifact_fetch", draft)
    assert not got["receiving"] and got["received"] == got["size"]
    # The first one hands it out under its digest then, on the port on which it handed out the draft.
    hosts.monkeypatch.setenv("TEST_HOST", "one")
    mine = {
        **which,
        "fingerprint": sent["digest"],
        "root": str(hosts.home / "one"),
        "address": "127.0.0.1",
        "port": port,
    }
    served = modules.call("trtllm_artifact_serve", mine)
    hosts.monkeypatch.setenv("TEST_HOST", "two")
    whole = {**two, "fingerprint": sent["digest"], "pieces": served["pieces"]}
    got = modules.call("trtllm_artifact_fetch", whole)
    assert got["received"] < 4096 < got["kept"] and not got["receiving"]
    taken = {"name": "m", "root": str(hosts.home / "two"), "state": "adopted", "digest": sent["digest"]}
    assert modules.call("trtllm_checkpoint_artifact", taken)["there"]
    assert hosts.held("two") == hosts.held("one")


def test_a_controller_that_was_killed_sends_only_the_rest(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(Exception):
        pass

    def killed(*_: Any, **__: Any) -> Any:
        raise Killed

    # After the draft has come, and before its digests are kept.
    with monkeypatch.context() as patched:
        patched.setattr(trtllm_checkpoint.Reading, "found", killed)
        with pytest.raises(Killed):
            hosts.send("one", while_sending=True)
    assert not (hosts.home / "one" / "checkpoints" / "m").exists()
    for index in (hosts.home / "cache" / "digests").glob("*.json"):
        index.unlink()
    seen: list[dict[str, Any]] = []
    hosts.heard = seen.append
    assert hosts.send("one", while_sending=True)["changed"] and hosts.held("one")
    assert seen[0]["received"] == 0 and seen[0]["kept"] == seen[0]["size"], "the digests alone went"


def test_what_is_altered_while_it_goes_is_not_published(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(reading: Any, name: str, start: int, seconds: float) -> bool:
        read = real(reading, name, start, seconds)
        if start == 8 << 20:
            alter(hosts.weights / "model.safetensors", 9 << 20)
        return read

    real = trtllm_checkpoint.Reading.wait
    monkeypatch.setattr(trtllm_checkpoint.Reading, "wait", late)
    try:
        said = hosts.send("one", while_sending=True)
    except AnsibleActionFail as error:  # what noticed it first: the reader, or the receiver
        assert "changed while it was read" in str(error)
    else:
        assert said["failed"] and "piece 1 of files/model.safetensors is not what" in said["msg"]
    assert not (hosts.home / "one" / "checkpoints" / "m").exists()


def test_where_no_port_is_forwarded_it_is_read_first(send: Callable[..., Connection]) -> None:
    assert send(0, while_sending=True).seen == [OPTIONS]


def test_it_is_handed_on_while_it_arrives(hosts: Hosts) -> None:
    asked = hosts.send("one", ask=True)
    port, token = free_port(), "no secret at all"
    first = hosts.send("one", address="127.0.0.1", port=port, token=token)
    assert first["digest"] == asked["asked"]
    which = {"kind": "checkpoint", "name": "m", "fingerprint": asked["asked"], "token": token}
    hosts.monkeypatch.setenv("TEST_HOST", "one")
    mine = {**which, "root": str(hosts.home / "one"), "address": "127.0.0.1", "port": port}
    served = modules.call("trtllm_artifact_serve", mine)
    assert not served["changed"], "the one that received it goes on handing it out"
    assert served["pieces"] == asked["pieces"]
    hosts.monkeypatch.setenv("TEST_HOST", "two")
    theirs = {**which, "root": str(hosts.home / "two"), "pieces": asked["pieces"], "sources": [served["url"]]}
    got = modules.call("trtllm_artifact_fetch", theirs)
    assert got["received"] == served["size"]
    taken = {"name": "m", "root": str(hosts.home / "two"), "state": "adopted", "digest": asked["asked"]}
    assert modules.call("trtllm_checkpoint_artifact", taken)["there"]
    assert hosts.held("two") == hosts.held("one")


def test_an_address_that_is_no_good_keeps_nothing_from_the_host_itself(hosts: Hosts) -> None:
    assert hosts.send("one", address="192.0.2.1", port=free_port(), token="no secret at all")["changed"]
    assert [asked["address"] for asked in hosts.asked] == ["192.0.2.1", ""] and hosts.held("one")


def test_of_what_differs_little_only_that_is_sent(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts.send("one")
    (hosts.weights / "tokenizer.json").write_text(json.dumps({"another": True}))
    put: list[str] = []

    def copied(plugin: Any, source: Path, staging: str, paths: list[str]) -> None:
        put.extend(paths)
        for path in paths:
            (Path(staging) / path).write_bytes((source / path).read_bytes())

    monkeypatch.setattr(trtllm_checkpoint.ActionModule, "_transfer", copied)
    assert hosts.send("one")["changed"]
    assert put == ["tokenizer.json"] and len(hosts.asked) == 1


def test_what_was_altered_meanwhile_is_not_published(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(source: Path) -> Any:
        found = real(source)
        with open(source / "model.safetensors", "r+b") as stream:
            stream.seek(9 << 20)
            stream.write(b"altered")
        return found

    real = trtllm_checkpoint.local_checkpoint
    monkeypatch.setattr(trtllm_checkpoint, "local_checkpoint", late)
    said = hosts.send("one")
    assert said["failed"] and "piece 1 of files/model.safetensors is not what the manifest says" in said["msg"]
    assert not (hosts.home / "one" / "checkpoints" / "m").exists()
