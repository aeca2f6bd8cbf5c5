# SPDX-License-Identifier: GPL-3.0-or-later
"""Which gateways cannot drain is told apart from those that should and do not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._gateway import drain
from ansible_collections.trtllm.fleet.plugins.module_utils._gateway.status import GatewayStatus

WANTED = drain.check_wanted(["http://10.0.0.1:8000"], True, 60)


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that answers everything with the status of the test."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(request.param)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("answering", "details"), [(404, {"can_drain": False}), (500, {})], indirect=["answering"])
def test_a_gateway_from_before_there_were_drains_is_told_from_a_broken_one(
    answering: str, details: dict[str, Any]
) -> None:
    with pytest.raises(FleetError, match="does not say what its replicas work on") as refused:
        GatewayStatus(answering).replicas()
    assert refused.value.details == details


def test_a_gateway_that_does_not_run_sends_nothing() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(FleetError, match="refused") as refused:
            GatewayStatus(f"http://127.0.0.1:{bound.getsockname()[1]}").replicas()
    assert refused.value.details == {"can_drain": False}


def test_a_gateway_that_hangs_might_send_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible_collections.trtllm.fleet.plugins.module_utils._gateway.status.TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(FleetError) as refused:
        GatewayStatus(f"http://127.0.0.1:{listener.getsockname()[1]}").replicas()
    assert refused.value.details == {}


def test_a_gateway_that_reads_no_file_or_knows_no_such_replica_cannot_drain_it(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="no gateway reads it") as refused:
        drain.DrainFile(tmp_path / "absent").check()
    assert refused.value.details == {"can_drain": False}
    with pytest.raises(FleetError, match="has no replica") as refused:
        drain.check_known(WANTED, {})
    assert refused.value.details == {"can_drain": False}
