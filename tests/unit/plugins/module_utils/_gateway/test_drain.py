# SPDX-License-Identifier: GPL-3.0-or-later
"""Replicas are taken out of a gateway's service and given back, four ways, and whatever the gateway does meanwhile."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._gateway import drain
from ansible_collections.trtllm.fleet.plugins.module_utils._gateway.status import GatewayStatus
from ansible_collections.trtllm.fleet.plugins.module_utils._triton import state
from unit import modules

A, B = "http://10.0.0.7:8000", "http://10.0.0.8:8000"


class FakeGateway:
    """A gateway with two replicas that reads its file as the real one does, and finishes a request with each look."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "draining"
        self.outstanding = {A: 2, B: 0}
        self.status = 200
        self.finishes = True

    def replicas(self) -> list[dict[str, Any]]:
        lines = self.file.read_text().split() if self.file.exists() else []
        told = []
        for url in self.outstanding:
            told.append(
                {"url": url, "models": ["tiny"], "outstanding": self.outstanding[url], "draining": url in lines,
                 "resting": False}
            )  # fmt: skip
            if url in lines and self.finishes:
                self.outstanding[url] = max(0, self.outstanding[url] - 1)
        return told


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[tuple[FakeGateway, str]]:
    fake = FakeGateway(tmp_path)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(fake.status)
            self.end_headers()
            if self.path == "/health/replicas":
                self.wfile.write(json.dumps({"replicas": fake.replicas()}).encode())

        def log_message(self, *_: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield fake, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def call(gateway: tuple[FakeGateway, str], *, check: bool = False, **given: Any) -> dict[str, Any]:
    arguments = {"urls": [A], "directory": str(gateway[0].file.parent), "gateway_url": gateway[1], **given}
    return modules.call("openai_gateway_drain", arguments, check=check)


def test_a_replica_is_drained_and_given_back(gateway: tuple[FakeGateway, str]) -> None:
    fake, _ = gateway
    shown = call(gateway, check=True)
    assert shown["changed"] and not shown["drained"] and shown["outstanding"] == {A: 2} and not fake.file.exists()
    done = call(gateway)
    assert done["changed"] and done["drained"] and done["outstanding"] == {A: 0} and done["seconds"] > 0
    assert fake.file.stat().st_mode & 0o777 == 0o644, "the gateway runs as somebody else"
    url, until = fake.file.read_text().split()
    assert url == A and 880 < int(until) - time.time() <= 900
    assert done["diff"]["after"].startswith(A) and shown["diff"]["after"].startswith(A)
    for check in (True, False):
        again = call(gateway, check=check)
        assert not again["changed"] and again["drained"]
    assert call(gateway, urls=[B])["changed"] and A in fake.file.read_text(), "others are left alone"

    back = {"state": "undrained", "urls": [f"{A}/", B]}
    shown = call(gateway, check=True, **back)
    assert shown["changed"] and A in fake.file.read_text()
    assert call(gateway, **back)["changed"] and fake.file.read_text() == ""
    for check in (True, False):
        again = call(gateway, check=check, **back)
        assert not again["changed"] and not again["drained"]


def test_a_lease_is_renewed_when_half_of_it_is_over(gateway: tuple[FakeGateway, str]) -> None:
    fake, _ = gateway
    fake.file.write_text(f"{A} {int(time.time()) + 500}\n{B} 5\n# a word\n")
    assert not call(gateway)["changed"]
    fake.file.write_text(f"{A} {int(time.time()) + 400}\n{B} 5\n")
    assert call(gateway)["changed"]
    assert int(fake.file.read_text().split()[1]) > time.time() + 800
    assert B not in fake.file.read_text(), "a lease that is over goes along"
    assert call(gateway, lease=0)["changed"] and fake.file.read_text() == f"{A}\n"
    assert not call(gateway, lease=0)["changed"] and not call(gateway)["changed"], "what shall stay, stays"


def test_what_a_dead_rollout_left_is_given_back_and_what_an_operator_drained_is_not(
    gateway: tuple[FakeGateway, str],
) -> None:
    fake, _ = gateway
    assert call(gateway, owner="r1", timeout=0)["changed"]
    assert fake.file.read_text().startswith(f"# {A} is drained by r1\n{A} ")
    assert call(gateway, urls=[B], lease=0, timeout=0)["changed"], "by hand"
    assert f"# {A} is drained by r1\n" in fake.file.read_text(), "who drains the others is not forgotten"
    left = {"urls": [A, B], "state": "undrained", "owner": "r2"}
    before = fake.file.read_text()
    assert call(gateway, check=True, **left)["changed"] and fake.file.read_text() == before
    done = call(gateway, **left)
    assert done["changed"] and done["diff"]["after"] == fake.file.read_text() == f"{B}\n"
    for check in (True, False):
        assert not call(gateway, check=check, **left)["changed"]
    assert call(gateway, urls=[B], state="undrained")["changed"] and fake.file.read_text() == "", "by hand again"


def test_a_rollout_takes_over_what_another_one_drained(gateway: tuple[FakeGateway, str]) -> None:
    fake, _ = gateway
    call(gateway, owner="r1", timeout=0)
    mine = {"owner": "r2", "timeout": 0}
    assert call(gateway, check=True, **mine)["changed"] and "by r1" in fake.file.read_text()
    assert call(gateway, **mine)["changed"] and fake.file.read_text().startswith(f"# {A} is drained by r2\n")
    for check in (True, False):
        assert not call(gateway, check=check, **mine)["changed"]
    assert not call(gateway, timeout=0)["changed"], "by hand, with enough of the lease left, it stays the rollout's"
    assert call(gateway, timeout=0, lease=0)["changed"] and fake.file.read_text() == f"{A}\n"
    assert not call(gateway, **mine)["changed"], "an operator's stays an operator's"


def test_a_gateway_skips_the_line_that_says_who_drains(gateway: tuple[FakeGateway, str]) -> None:
    call(gateway, owner="20260114T093000Z-4711", timeout=0)
    lines = [line for line in gateway[0].file.read_text().splitlines() if not line.startswith("#")]
    assert [line.split()[0] for line in lines] == [A]
    assert "owner is 'a b'" in call(gateway, owner="a b")["msg"]


def test_a_replica_that_does_not_finish_is_told_and_is_no_failure(gateway: tuple[FakeGateway, str]) -> None:
    gateway[0].finishes = False
    done = call(gateway, timeout=1)
    assert not done.get("failed") and done["changed"] and not done["drained"]
    assert done["outstanding"] == {A: 2} and done["seconds"] >= 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"gateway_url": "http://127.0.0.1:1"}, "work on (Connection refused); start it, or correct gateway_url."),
        ({"gateway_url": "nowhere"}, "gateway_url is 'nowhere'; it takes an address such as"),
        ({"urls": []}, "urls is empty"),
        ({"urls": ["10.0.0.7:8000"]}, "urls is '10.0.0.7:8000'; it takes an address"),
        ({"urls": ["http://other:8000"]}, f"The gateway has no replica http://other:8000; it has {A}, {B}:"),
        ({"lease": -1}, "lease is -1; it takes seconds"),
        ({"directory": "/nowhere"}, "/nowhere does not exist on this host, so no gateway reads it; run the role"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_changes_nothing(
    gateway: tuple[FakeGateway, str], given: dict[str, Any], says: str
) -> None:
    for check in (True, False):
        result = call(gateway, check=check, **given)
        assert result["failed"] and says in result["msg"] and "\n" not in result["msg"]
        assert not result["changed"] and not gateway[0].file.exists()


def test_an_old_gateway_and_a_broken_file_are_told(gateway: tuple[FakeGateway, str]) -> None:
    fake, _ = gateway
    fake.status = 404
    assert "(it answers 404); install a newer image of it." in call(gateway)["msg"]
    fake.status = 200
    fake.file.write_text(f"{B} soon\n")
    for wanted in ("drained", "undrained"):
        assert f"has the line '{B} soon', which the gateway does not read either" in call(gateway, state=wanted)["msg"]
    assert fake.file.read_text() == f"{B} soon\n"


def test_without_waiting_no_gateway_is_needed(gateway: tuple[FakeGateway, str]) -> None:
    away = {"gateway_url": "http://127.0.0.1:1"}
    done = call(gateway, timeout=0, **away)
    assert done["changed"] and not done["drained"] and done["outstanding"] == {}
    assert call(gateway, state="undrained", **away)["changed"]


def test_a_gateway_that_restarts_is_asked_again(gateway: tuple[FakeGateway, str]) -> None:
    fake, url = gateway
    fake.file.write_text(A)
    fake.outstanding[A], fake.status = 0, 503
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        fake.status = 200 if now[0] > 1 else 503

    wanted = drain.check_wanted([A], True, 900)
    done = drain.wait(wanted, GatewayStatus(url), 10, clock=lambda: now[0], sleep=sleep)
    assert done.drained and 1 < done.seconds < 3
    fake.status, now[0] = 503, -10.0
    with pytest.raises(FleetError, match="it answers 503"):
        drain.wait(wanted, GatewayStatus(url), 2, clock=lambda: now[0], sleep=sleep)


def test_the_hosts_own_gateway_is_found(gateway: tuple[FakeGateway, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it listens; the release record tells."""
    listens = [{"service": "openai-gateway", "url": gateway[1], "models": ["tiny"], "active": "active"}]
    monkeypatch.setattr(state, "gateways", lambda *_: listens)
    assert call(gateway, gateway_url=None)["drained"]


def test_two_that_drain_at_once_do_not_lose_each_other(gateway: tuple[FakeGateway, str]) -> None:
    directory = gateway[0].file.parent
    urls = [f"http://10.0.1.{number}:8000" for number in range(20)]
    threads = [
        threading.Thread(target=drain.DrainFile(directory).write, args=(drain.check_wanted([url], True, 900),))
        for url in urls
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(line.split()[0] for line in gateway[0].file.read_text().splitlines()) == sorted(urls)
