# SPDX-License-Identifier: GPL-3.0-or-later
"""A sender hands out one artefact, to who has the token, and nothing else to anybody."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.serve import Bucket, Offer, Sender, url_of
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from unit.transfer_fakes import FINGERPRINT, PIECE, SIZES, TOKEN, made, pieces, serving


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[Sender]:
    made(tmp_path)
    (tmp_path / "engines" / "secret").write_text("not for you")
    with serving(tmp_path) as running:
        yield running


def ask(sender: Sender, path: str, token: str | None = TOKEN, span: str = "bytes=0-0") -> tuple[int, bytes]:
    """Status and body, with the path as it is given: no client of ours makes it harmless."""
    port = int(sender.url.rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    headers = {"Range": span, **({"Authorization": f"Bearer {token}"} if token is not None else {})}
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_ranges_of_files_and_the_list(sender: Sender, tmp_path: Path) -> None:
    data = (tmp_path / "engines" / "tiny" / FINGERPRINT / "rank0.engine").read_bytes()
    assert ask(sender, f"/{FINGERPRINT}/rank0.engine", span="bytes=10-19") == (206, data[10:20])
    assert ask(sender, f"/{FINGERPRINT}/rank0.engine", span=f"bytes=0-{len(data) - 1}") == (206, data)
    assert ask(sender, f"/{FINGERPRINT}/") == (200, pieces(tmp_path).encoded())
    assert sender.sent == 10 + len(data)


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", "ünï"])
def test_without_the_token_there_is_nothing(sender: Sender, token: str | None) -> None:
    given = token.encode().decode("latin-1") if token else token
    assert ask(sender, f"/{FINGERPRINT}/rank0.engine", given) == (401, b"")
    assert ask(sender, f"/{FINGERPRINT}/", given) == (401, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/", "/etc/passwd", f"/{FINGERPRINT}/../../secret", f"/{FINGERPRINT}/%2e%2e/%2e%2e/secret", "/../secret",
        f"/{FINGERPRINT}//etc/passwd", f"/{FINGERPRINT}/rank0.engine/../../x", f"/{FINGERPRINT}/nothing",
        f"/{'0' * 64}/rank0.engine", f"/{FINGERPRINT}/rank0.engine%00", f"/{FINGERPRINT}/1/..",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_artefact(sender: Sender, path: str) -> None:
    assert ask(sender, path) == (404, b"")


@pytest.mark.parametrize("span", ["", "bytes=5-4", "bytes=-5", "bytes=0-", f"bytes=0-{SIZES['rank0.engine']}", "x"])
def test_a_range_is_inside_the_file(sender: Sender, span: str) -> None:
    assert ask(sender, f"/{FINGERPRINT}/rank0.engine", span=span) == (416, b"")


def test_a_piece_that_is_not_there_yet_is_waited_for_and_then_refused(tmp_path: Path) -> None:
    path = made(tmp_path)
    whole = Offer.of_directory(pieces(tmp_path), path)
    offer = Offer(whole.pieces, whole.open, lambda name, start, seconds: start == 0)
    sender = Sender(offer, "127.0.0.1", 0, TOKEN)
    try:
        assert ask(sender, f"/{FINGERPRINT}/rank0.engine")[0] == 206
        assert ask(sender, f"/{FINGERPRINT}/rank0.engine", span=f"bytes={PIECE}-{PIECE + 1}") == (503, b"")
    finally:
        sender.stop()


def test_all_connections_together_keep_to_the_rate() -> None:
    bucket, begun = Bucket(1_000_000), time.monotonic()
    for _ in range(6):
        bucket.take(bucket.chunk)
    assert time.monotonic() - begun >= 0.9 * 6 * bucket.chunk / 1_000_000


def test_a_port_that_is_taken_and_an_address_that_is_none(tmp_path: Path) -> None:
    offer = Offer.of_directory(pieces_at(tmp_path), tmp_path)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(FleetError, match=rf"^127\.0\.0\.1 port {port} cannot be listened on: .*give an address of"):
            Sender(offer, "127.0.0.1", port, TOKEN)
    with pytest.raises(FleetError, match=r"^192\.0\.2\.1 port 1 cannot be listened on: "):
        Sender(offer, "192.0.2.1", 1, TOKEN)
    with pytest.raises(FleetError, match=r"^address is 'no\.such\.host\.invalid', which is no IP address"):
        Sender(offer, "no.such.host.invalid", 1, TOKEN)
    with pytest.raises(FleetError, match=r"^address is 'localhost', which is \S+ on this host, where no other host"):
        Sender(offer, "localhost", 1, TOKEN)
    with pytest.raises(FleetError, match="token is empty"):
        Sender(offer, "127.0.0.1", 0, "")


def pieces_at(home: Path) -> object:
    made(home)
    return pieces(home)


def test_urls() -> None:
    assert url_of("10.0.0.1", 1) == "http://10.0.0.1:1"
    assert url_of("fd00::1", 1) == "http://[fd00::1]:1"
