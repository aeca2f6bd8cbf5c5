# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP as replicas, proxies before them and broken ones speak it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

pytest.importorskip("httptools", reason="images/openai_gateway/requirements.txt is not installed")

from openai_gateway import http_client
from openai_gateway.http_client import ConnectTimeout, Disconnected, HttpClient, HttpError, NoConnection, Silence

OK = b"HTTP/1.1 200 OK\r\n"
CLOSE = b"close"
PLAIN = OK + b"Content-Length: 2\r\n\r\nHi"


class Replica:
    """Says *answers*, one for each request, in the given parts; after CLOSE it closes the connection."""

    def __init__(self, *answers: list[bytes]) -> None:
        self._answers = list(answers)
        self.heads: list[str] = []
        self.connections = 0
        self.gone = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heads.append(head.decode("latin-1"))
                await reader.readexactly(2 if head.startswith(b"POST") else 0)
                for part in self._answers.pop(0):
                    if part is CLOSE:
                        return
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0.002)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.gone.set()
        finally:
            writer.close()


Story = Callable[[HttpClient, str], Coroutine[Any, Any, Any]]


def told(story: Story, *answers: list[bytes], read_timeout: float = 5.0) -> tuple[Any, Replica]:
    """What *story* returns, and the replica that it was told to."""

    async def run() -> tuple[Any, Replica]:
        replica = Replica(*answers)
        server = await asyncio.start_server(replica, "127.0.0.1", 0)
        client = HttpClient(read_timeout, 5.0)
        try:
            return await story(client, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), replica
        finally:
            client.close()
            server.close()

    return asyncio.run(run())


async def ask(client: HttpClient, base: str) -> tuple[int, bytes]:
    answer = await client.request("POST", base, "/x", b"{}", {"traceparent": "00-1"})
    try:
        return answer.status, await answer.read()
    finally:
        answer.release()


async def twice(client: HttpClient, base: str) -> list[tuple[int, bytes]]:
    return [await ask(client, base), await ask(client, base)]


@pytest.mark.parametrize(
    "answer",
    [
        [PLAIN],
        [bytes([byte]) for byte in PLAIN],
        [OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nH\r\n", b"1\r\ni\r\n", b"0\r\n\r\n"],
        [b"HTTP/1.1 100 Continue\r\n\r\n", PLAIN],
        [OK + b"content-length: 2\r\nConnection: close\r\n\r\nHi", CLOSE],
        [OK + b"\r\nH", b"i", CLOSE],
        [b"HTTP/1.0 200 OK\r\n\r\nHi", CLOSE],
    ],
    ids=["whole", "bytes", "chunks", "continue", "close", "until closed", "1.0"],
)
def test_answers_are_read_to_their_end(answer: list[bytes]) -> None:
    (status, body), replica = told(ask, answer)
    assert (status, body) == (200, b"Hi")
    head = replica.heads[0]
    assert head.startswith("POST /x HTTP/1.1\r\nHost: 127.0.0.1:")
    assert "\r\ntraceparent: 00-1\r\n" in head and "\r\nContent-Length: 2\r\n" in head


def test_a_connection_is_used_again_only_where_both_want_it() -> None:
    kept, replica = told(twice, [PLAIN], [PLAIN])
    assert kept == [(200, b"Hi")] * 2 and replica.connections == 1
    closed, replica = told(twice, [OK + b"Content-Length: 2\r\nConnection: close\r\n\r\nHi", CLOSE], [PLAIN])
    assert closed == [(200, b"Hi")] * 2 and replica.connections == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ([CLOSE], Disconnected),
        ([OK + b"Content-Length: 9\r\n\r\nHi", CLOSE], HttpError),
        ([b"220 mail.example.com ESMTP\r\n"], HttpError),
        ([OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"], HttpError),
    ],
    ids=["closed", "short", "no HTTP", "no chunk"],
)
def test_what_is_no_answer_is_an_error(answer: list[bytes], error: type[Exception]) -> None:
    async def story(client: HttpClient, base: str) -> BaseException:
        with pytest.raises(error) as caught:
            await asyncio.wait_for(ask(client, base), 3)
        return caught.value

    found, _ = told(story, answer)
    assert str(found)


def test_silence_ends_a_request_and_its_connection_but_not_one_that_nobody_waits_for() -> None:
    async def silent(client: HttpClient, base: str) -> None:
        with pytest.raises(Silence):
            await ask(client, base)

    begun = OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nH\r\n"
    told(silent, [], read_timeout=0.2)
    told(silent, [begun], read_timeout=0.2)

    async def busy(client: HttpClient, base: str) -> bytes:
        answer = await client.request("GET", base, "/x")
        first = await answer.more()
        await asyncio.sleep(0.5)  # the client takes its time, not the replica
        answer.release()
        return first

    assert told(busy, [begun], read_timeout=0.2)[0] == b"H"


def test_an_answer_that_nobody_reads_to_its_end_closes_its_connection_at_once() -> None:
    async def story(client: HttpClient, base: str) -> None:
        answer = await client.request("GET", base, "/x")
        await answer.more()
        answer.release()
        await asyncio.sleep(0.1)

    _, replica = told(story, [OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nH\r\n"])
    assert replica.gone.is_set()


def test_a_reader_that_is_slow_holds_the_replica_and_not_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "UNREAD", 1000)
    size = 50_000_000

    async def story(client: HttpClient, base: str) -> tuple[int, int]:
        answer = await client.request("GET", base, "/x")
        await asyncio.sleep(0.2)
        waiting = answer._unread
        read = len(await answer.read())
        answer.release()
        return waiting, read

    (waiting, read), _ = told(story, [OK + f"Content-Length: {size}\r\n\r\n".encode() + b"x" * size])
    assert waiting < 1_000_000 and read == size


def test_an_idle_connection_grows_old_and_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "KEEP_ALIVE", 0.1)

    async def story(client: HttpClient, base: str) -> list[tuple[int, bytes]]:
        first = await ask(client, base)
        await asyncio.sleep(0.3)
        assert not client._idle
        return [first, await ask(client, base)]

    found, replica = told(story, [PLAIN], [PLAIN])
    assert found == [(200, b"Hi")] * 2 and replica.connections == 2


def test_who_cannot_be_reached_is_told_from_who_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        client = HttpClient(1.0, 0.2)
        with pytest.raises(NoConnection, match="Connect call failed|refused"):
            await client.request("GET", "http://127.0.0.1:1", "/x")

        async def never(*_: Any, **__: Any) -> None:
            await asyncio.sleep(9)

        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
        with pytest.raises(ConnectTimeout):
            await client.request("GET", "http://127.0.0.1:1", "/x")

    asyncio.run(story())


def test_an_address_may_have_a_path_and_a_name_and_a_header_has_one_line() -> None:
    async def story(client: HttpClient, base: str) -> int:
        with pytest.raises(ValueError, match="several lines"):
            await client.request("GET", base, "/x", headers={"tracestate": "a\r\nX: y"})
        answer = await client.request("GET", base.replace("//", "//me:p%40ss@") + "/behind", "/x")
        answer.release()
        return answer.status

    status, replica = told(story, [PLAIN])
    assert status == 200
    assert replica.heads[0].startswith("GET /behind/x HTTP/1.1\r\nHost: 127.0.0.1:")
    assert "\r\nAuthorization: Basic bWU6cEBzcw==\r\n" in replica.heads[0]
