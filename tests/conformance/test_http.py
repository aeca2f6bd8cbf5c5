# SPDX-License-Identifier: GPL-3.0-or-later
"""The wire: bodies, headers, methods, framing of streams, and connections that end early."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from conformance_api import Api, refused

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"

BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"model=tiny",
    "JSON that ends early": b'{"model": "x", "messages": [',
    "a list": b"[]",
    "a text": b'"hello"',
    "a number": b"5",
    "null": b"null",
    "bytes that are no UTF-8": b'{"model": "\xff\xfe"}',
    "half a character, as a client sends it that cuts UTF-16": b'{"model": "x", "prompt": "\\ud83d"}',
    "the other half": b'{"model": "x", "prompt": "\\ude00 end"}',
    "a trailing comma": b'{"model": "x",}',
    "two objects": b'{"model": "x"}{"model": "x"}',
    "an object after a zero byte": b"\x00{}",
    "brackets that never end": b"[" * 20_000,
    "objects in objects in objects": b'{"model": ' * 5_000 + b"1" + b"}" * 5_000,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_that_is_no_request_is_refused(api: Api, body: bytes) -> None:
    refused(api.post(CHAT, body))


def test_a_byte_order_mark_is_no_reason_to_fall_over(api: Api) -> None:
    answer = api.post(CHAT, b"\xef\xbb\xbf" + json.dumps(api.chat_body(max_tokens=1)).encode())
    assert answer.status_code in (200, 400)


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "text/plain", ""])
def test_the_body_is_read_whatever_it_is_called(api: Api, kind: str) -> None:
    """Clients in shell scripts forget the header."""
    answer = api.post(CHAT, api.chat_body(max_tokens=1), headers={"Content-Type": kind})
    assert answer.status_code in (200, 415) and (kind != "application/json" or answer.status_code == 200)


def test_a_body_in_chunks_is_a_body(api: Api) -> None:
    body = json.dumps(api.chat_body(max_tokens=1)).encode()
    parts = iter([body[:10], body[10:30], body[30:]])
    assert api.http.post(CHAT, content=parts, headers={"Content-Type": "application/json"}).status_code == 200


def test_text_in_escapes_is_text(api: Api) -> None:
    plain = api.post(CHAT, json.dumps(api.chat_body(), ensure_ascii=False)).json()
    escaped = json.dumps(api.chat_body()).replace("GPU", "\\u0047PU")
    assert api.post(CHAT, escaped).json()["choices"][0]["message"] == plain["choices"][0]["message"]


def test_an_answer_is_json(api: Api) -> None:
    answer = api.post(CHAT, api.chat_body(max_tokens=1))
    assert answer.headers["content-type"].split(";")[0] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content)


@pytest.mark.parametrize("path", ["/v1/no-such-thing", "/v2/chat/completions", "/v1/chat", "/"])
def test_what_is_not_there_is_not_found(api: Api, path: str) -> None:
    answer = api.post(path, {})
    assert answer.status_code in (404, 405)
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_refused(api: Api, method: str) -> None:
    answer = api.http.request(method, CHAT)
    assert answer.status_code == 405 and "POST" in answer.headers["allow"]


def test_models_are_not_posted(api: Api) -> None:
    assert api.post("/v1/models", {}).status_code == 405


@pytest.mark.parametrize("name", ["X-Request-Id"])
def test_every_answer_has_an_id(api: Api, name: str) -> None:
    ids = {api.http.get("/v1/models").headers[name] for _ in range(2)}
    assert len(ids) == 2 and all(ids)


def test_a_clients_request_id_comes_back(api: Api) -> None:
    answer = api.http.get("/v1/models", headers={"X-Request-Id": "my-own-id-1"})
    assert answer.headers["x-request-id"] == "my-own-id-1"


def test_errors_have_an_id_too(api: Api) -> None:
    assert api.post(CHAT, {}).headers["x-request-id"]


def test_unknown_headers_do_no_harm(api: Api) -> None:
    headers = {"OpenAI-Organization": "org-x", "OpenAI-Project": "p", "X-Anything": b"caf\xe9"}
    assert api.http.get("/v1/models", headers=headers).status_code == 200


def test_keep_alive_serves_several_requests(api: Api) -> None:
    with httpx.Client(base_url=api.url, headers={"Authorization": f"Bearer {api.key}"}) as client:
        first = client.get("/v1/models").extensions["network_stream"].get_extra_info("client_addr")
        second = client.get("/v1/models").extensions["network_stream"].get_extra_info("client_addr")
    assert first == second


@pytest.fixture(scope="module")
def framed(api: Api) -> httpx.Response:
    return api.post(CHAT, api.chat_body(stream=True))


def test_a_stream_is_of_server_sent_events(framed: httpx.Response) -> None:
    assert framed.status_code == 200 and framed.headers["content-type"].startswith("text/event-stream")


def test_a_stream_is_not_cached(framed: httpx.Response) -> None:
    assert "no-cache" in framed.headers.get("cache-control", "")


def test_every_event_is_one_line_of_data(framed: httpx.Response) -> None:
    events = framed.text.split("\n\n")
    assert events[-1] == "" and all(event.startswith("data: ") and "\n" not in event for event in events[:-1])


def test_a_stream_ends_with_done(framed: httpx.Response) -> None:
    assert framed.text.endswith("\n\ndata: [DONE]\n\n") and framed.text.count("[DONE]") == 1


def test_every_event_but_the_last_is_json(framed: httpx.Response) -> None:
    events = [event.removeprefix("data: ") for event in framed.text.strip().split("\n\n")]
    assert all(json.loads(event)["object"] == "chat.completion.chunk" for event in events[:-1])


def test_every_chunk_has_the_documented_fields(framed: httpx.Response) -> None:
    for event in framed.text.strip().split("\n\n")[:-1]:
        chunk = json.loads(event.removeprefix("data: "))
        assert {"id", "object", "created", "model", "choices"} <= set(chunk)
        assert all({"index", "delta", "finish_reason"} <= set(choice) for choice in chunk["choices"])


def test_completions_end_with_done_too(api: Api) -> None:
    assert api.post(TEXT, api.text_body(stream=True)).text.endswith("data: [DONE]\n\n")


def test_pieces_come_when_they_are_made(api: Api) -> None:
    """Not all at the end: the first one is there well before the last."""
    times = []
    with api.http.stream("POST", CHAT, json=api.chat_body(stream=True, max_tokens=100)) as answer:
        for _line in answer.iter_lines():
            times.append(time.monotonic())
    assert len(set(times)) > 5 and times[-1] > times[0]


def raw(api: Api, data: bytes, *, wait: float = 30) -> bytes:
    """Send bytes as they are, and read until the server closes or nothing comes."""
    parts = urlsplit(api.url)
    with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=wait) as connection:
        received = b""
        # a server that refuses what is still being sent may close before it has all
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(data)
        try:
            while piece := connection.recv(65536):
                received += piece
        except (TimeoutError, ConnectionResetError):
            pass
        return received


MALFORMED: dict[str, bytes] = {
    "no HTTP": b"hello\r\n\r\n",
    "a header without a colon": b"GET /v1/models HTTP/1.1\r\nHost x\r\n\r\n",
    "a blank in a header's name": b"GET /v1/models HTTP/1.1\r\nHo st: x\r\n\r\n",
    "a length that is no number": b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n",
    "a length below 0": b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    "a chunk that is no number": (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx\r\n0\r\n\r\n"
    ),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_http_is_a_400_or_a_closed_connection(api: Api, data: bytes) -> None:
    answer = raw(api, data)
    assert answer == b"" or answer.split(b" ")[1] == b"400", answer[:200]


def test_length_and_chunks_at_once_are_not_two_requests(api: Api) -> None:
    """The oldest trick of smuggling: the rest must not be answered as a request of its own."""
    inner = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    answer = raw(api, head % (len(inner) + 5) + inner, wait=3)
    assert b'"object":"list"' not in answer.replace(b" ", b"")


def test_a_large_head_is_refused(api: Api) -> None:
    answer = raw(api, b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Much: " + b"x" * 300_000 + b"\r\n\r\n", wait=10)
    assert answer == b"" or answer.split(b" ")[1] in (b"400", b"431")


def test_http_1_0_is_answered(api: Api) -> None:
    head = f"GET /v1/models HTTP/1.0\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n\r\n"
    assert raw(api, head.encode(), wait=10).split(b" ")[1] == b"200"


def test_a_body_that_is_announced_too_large_is_refused(api: Api) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\nContent-Length: 99999999999\r\n\r\n"
    assert raw(api, head.encode(), wait=3).split(b" ")[1] == b"413"


def test_a_client_that_leaves_a_stream_harms_nobody(api: Api) -> None:
    for _ in range(3):
        with api.http.stream("POST", CHAT, json=api.chat_body(stream=True, max_tokens=100)) as answer:
            next(answer.iter_lines())
    assert api.chat(max_tokens=1).usage.completion_tokens == 1


def test_two_requests_in_one_packet_are_both_answered(api: Api) -> None:
    one = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n"
    answer = raw(api, f"{one}\r\n{one}Connection: close\r\n\r\n".encode(), wait=10)
    assert answer.count(b"HTTP/1.1 200") == 2


PATHS: list[Any] = ["/v1/models/../../etc/passwd", "/v1//models", "/v1/models/%00", "/v1/models/%2e%2e%2f"]


@pytest.mark.parametrize("path", PATHS)
def test_odd_paths_lead_nowhere(api: Api, path: str) -> None:
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\nConnection: close\r\n\r\n"
    assert raw(api, head.encode(), wait=10).split(b" ")[1] in (b"400", b"404", b"307")
