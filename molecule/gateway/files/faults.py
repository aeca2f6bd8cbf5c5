#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run on a host: what goes wrong in service, one after another, while the gateway is asked.

Arguments: the gateway's address, and the faults by name. Prints JSON, a list of {what, ok, found}; the exit code is 1
where one was not borne as it has to be.
"""

from __future__ import annotations

import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable
from urllib.parse import urlsplit

QUESTION = [{"role": "user", "content": "What is machine learning?"}]
UNITS = ("triton-tiny-0.service", "triton-tiny-1.service")
SLOW_CLIENTS, ABANDONED = 1000, 60
AT_ONCE, WAITING = 32, 32  # requests that the gateway of this scenario lets through, and lets wait
# Seconds. On a busy machine all takes longer, so there the first two are measured by what other work takes beside it.
NEXT_ANSWER, OTHERS_WAIT, BACK_AGAIN = 1.0, 0.05, 120.0
STOPPED = 5.0  # less than what the gateway of this scenario waits for a replica that says nothing
SHARE = 0.5  # replicas, gateway and clients have the same few cores here

Found = dict[str, Any]


class Gateway:
    """The gateway as a client of few words sees it."""

    def __init__(self, url: str) -> None:
        self.host, self.port = urlsplit(url).hostname or "", urlsplit(url).port or 80

    def send(self, body: Any, path: str = "/v1/chat/completions", timeout: float = 120) -> Found:
        """One request: status, whether Retry-After was told, text, seconds."""
        begin = time.monotonic()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request("POST" if data else "GET", path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode()
            found: Found = {"status": answer.status, "retry": answer.getheader("Retry-After"), "text": text}
        except OSError as error:
            found = {"status": 0, "retry": None, "text": repr(error)}
        finally:
            connection.close()
        return {**found, "seconds": round(time.monotonic() - begin, 3)}

    def ask(self, **more: Any) -> Found:
        return self.send({"model": "tiny", "messages": QUESTION, "temperature": 0, "max_tokens": 8, **more})

    def replicas(self) -> list[Found]:
        """What the gateway says of each replica."""
        return list(json.loads(self.send(None, "/health/replicas")["text"])["replicas"])

    def outstanding(self) -> int:
        """Requests that the replicas work on."""
        return sum(replica["outstanding"] for replica in self.replicas())

    def all_ready(self) -> bool:
        """Whether every replica gives a token."""
        answer = self.send(None, "/health/ready")
        states = json.loads(answer["text"])["models"]["tiny"].values() if answer["status"] else []
        return bool(states) and set(states) == {"ready"}

    def request(self, body: Any) -> bytes:
        """The bytes of a request."""
        data = json.dumps({"model": "tiny", "messages": QUESTION, **body}).encode()
        lines = ["POST /v1/chat/completions HTTP/1.1", "Host: x", f"Content-Length: {len(data)}"]
        return "\r\n".join([*lines, "", ""]).encode() + data

    def begin(self, body: Any) -> socket.socket:
        """A connection on which a request was sent."""
        connection = socket.create_connection((self.host, self.port), timeout=60)
        connection.sendall(self.request(body))
        return connection

    def exchange(self, request: bytes) -> tuple[int, str]:
        """Send *request*; status and text of its answer."""
        with socket.create_connection((self.host, self.port), timeout=120) as connection:
            connection.sendall(request)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return answer.status, answer.read().decode()


class Streams:
    """Long streams that are read beside each other until they end."""

    def __init__(self, gateway: Gateway, count: int) -> None:
        self.texts = [""] * count
        self.ended = [0.0] * count
        more = {"stream": True, "max_tokens": 900, "ignore_eos": True, "temperature": 0}
        self._threads = [threading.Thread(target=self._read, args=(gateway, i, more)) for i in range(count)]
        for thread in self._threads:
            thread.start()
        until(lambda: all("content" in text for text in self.texts), 60)

    def _read(self, gateway: Gateway, index: int, more: Found) -> None:
        with gateway.begin(more) as connection:
            while "[DONE]" not in self.texts[index] and '"error"' not in self.texts[index]:
                piece = connection.recv(65536)
                if not piece:
                    break
                self.texts[index] += piece.decode("utf-8", "replace")
        self.ended[index] = time.monotonic()

    def result(self, since: float) -> Found:
        """How many ended well, were told of the fault, or broke off without a word."""
        for thread in self._threads:
            thread.join(120)
        told = [i for i, text in enumerate(self.texts) if '"error"' in text and "[DONE]" not in text]
        whole = [i for i, text in enumerate(self.texts) if "[DONE]" in text]
        seconds = [round(self.ended[i] - since, 2) for i in told]
        return {"whole": len(whole), "told": len(told), "silent": len(self.texts) - len(told) - len(whole),
                "told_after": max(seconds, default=None)}  # fmt: skip


def post(target: tuple[str, int, str, Any]) -> int:
    """Send one request and read its answer; its status."""
    host, port, path, body = target
    connection = http.client.HTTPConnection(host, port, timeout=120)
    connection.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def until(condition: Callable[[], bool], seconds: float) -> float:
    """Wait for *condition*; the seconds that it took, or -1."""
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > seconds:
            return -1
        time.sleep(0.1)
    return round(time.monotonic() - begin, 2)


def tritons(unit: str) -> list[int]:
    """Triton's own process in a unit."""
    shown = subprocess.run(
        ["systemctl", "show", "--property=ControlGroup", "--value", unit], capture_output=True, text=True, check=True
    )
    group = Path("/sys/fs/cgroup") / shown.stdout.strip().lstrip("/")
    pids = [int(pid) for file in group.rglob("cgroup.procs") for pid in file.read_text().split()]
    return [pid for pid in pids if Path(f"/proc/{pid}/comm").read_text().strip() == "tritonserver"]


def hit(unit: str, number: signal.Signals) -> None:
    for pid in tritons(unit):
        os.kill(pid, number)


def drained(gateway: Gateway) -> Found:
    """A replica that drains gets nothing; clients notice nothing."""
    states = {state["url"]: state for state in gateway.replicas()}
    away = [url for url, state in states.items() if state["draining"]]
    outstanding = []
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(gateway.ask, max_tokens=40) for _ in range(18)]
        while not all(one.done() for one in asked):
            outstanding += [state["outstanding"] for state in gateway.replicas() if state["url"] in away]
            time.sleep(0.05)
    statuses = sorted({one.result()["status"] for one in asked})
    found = {"draining": len(away), "outstanding": max(outstanding, default=0), "statuses": statuses}
    return {"ok": found == {"draining": 1, "outstanding": 0, "statuses": [200]}, "found": found}


def crowd(gateway: Gateway) -> Found:
    """A thousand clients that do not finish their requests."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
    slow = []
    try:
        for _ in range(SLOW_CLIENTS):
            connection = socket.create_connection((gateway.host, gateway.port), timeout=30)
            connection.sendall(head)
            slow.append(connection)
        answers = [gateway.ask() for _ in range(5)]
    finally:
        for connection in slow:
            connection.close()
    found = {"clients": len(slow), "seconds": max(answer["seconds"] for answer in answers)}
    return {"ok": {answer["status"] for answer in answers} == {200}, "found": found}


def queue(gateway: Gateway) -> Found:
    """More requests than are worked on and wait."""
    # The replicas are stopped meanwhile, so that however fast or busy the machine is, none of them is done too early.
    for unit in UNITS:
        hit(unit, signal.SIGSTOP)
    try:
        running = [gateway.begin({"max_tokens": 8, "ignore_eos": True}) for _ in range(AT_ONCE)]
        full = until(lambda: gateway.outstanding() >= AT_ONCE, STOPPED)
        with ThreadPoolExecutor(WAITING) as pool:
            waiting = [pool.submit(gateway.ask) for _ in range(WAITING)]
            queued = until(lambda: f"requests_queued {WAITING}.0" in gateway.send(None, "/metrics")["text"], STOPPED)
            refused = [gateway.ask() for _ in range(10)]
            for unit in UNITS:
                hit(unit, signal.SIGCONT)
            served = [one.result()["status"] for one in waiting]
    finally:
        for unit in UNITS:
            hit(unit, signal.SIGCONT)
    until(lambda: not gateway.outstanding(), 60)
    for connection in running:
        connection.close()
    told = all(answer["retry"] and json.loads(answer["text"])["error"]["message"] for answer in refused)
    found = {"waited": served.count(200), "refused": [answer["status"] for answer in refused].count(503)}
    ok = full >= 0 and queued >= 0 and told and found == {"waited": WAITING, "refused": len(refused)}
    return {"ok": ok, "found": {**found, "full_after": full, "queued_after": queued}}


def abandoned(gateway: Gateway) -> Found:
    """Clients that send a long request and go."""
    begin = time.monotonic()
    with ThreadPoolExecutor(ABANDONED) as pool:
        answered = list(pool.map(lambda _: gateway.ask()["status"], range(ABANDONED)))
    served = round(time.monotonic() - begin, 2)
    for number in range(ABANDONED):
        gateway.begin({"max_tokens": 450, "ignore_eos": True, "stream": number % 2 == 1}).close()
    answer = gateway.ask()
    idle = until(lambda: not gateway.outstanding(), 30)
    found = {"next_answer": answer["seconds"], "if_answered": served, "idle_after": idle}
    ok = set(answered) == {200} and answer["status"] == 200 and idle >= 0
    return {"ok": ok and answer["seconds"] < max(NEXT_ANSWER, served), "found": found}


def long(gateway: Gateway) -> Found:
    """A prompt of 7 MB, while others are served."""
    calm = max(gateway.send(None, "/health")["seconds"] for _ in range(20))
    text = "What is machine learning? " * 280_000
    waits, answers, here = [], [], []
    for _ in range(5):
        # Written beforehand and sent in one call: this process must not keep itself waiting.
        request = gateway.request({"messages": [{"role": "user", "content": text}]})
        begin = time.monotonic()
        json.loads(request.partition(b"\r\n\r\n")[2])
        here.append(round(time.monotonic() - begin, 3))
        with ThreadPoolExecutor(1) as pool:
            asked, slowest = pool.submit(gateway.exchange, request), 0.0
            while not asked.done():
                slowest = max(slowest, gateway.send(None, "/health")["seconds"])
        waits.append(slowest)
        answers.append(asked.result())
    waited, beside = sorted(waits)[2], sorted(here)[2]
    found = {"megabytes": round(len(text) / 1e6, 1), "others_waited": waited, "at_most": max(waits),
             "without_it": calm, "reading_it_here": beside}  # fmt: skip
    refused = all(status == 400 and "context_length_exceeded" in text for status, text in answers)
    return {"ok": refused and waited < max(OTHERS_WAIT, 10 * beside, 10 * calm), "found": found}


def bottleneck(gateway: Gateway) -> Found:
    """As many tokens a second as the replicas give without the gateway."""
    more = {"max_tokens": 200, "temperature": 0, "ignore_eos": True}
    ours = [(gateway.host, gateway.port, "/v1/chat/completions", {"model": "tiny", "messages": QUESTION, **more})]
    asked = {"text_input": QUESTION[0]["content"], "max_tokens": 200, "end_id": -1, "top_k": 1, "stream": True}
    path = "/v2/models/tensorrt_llm_bls/generate_stream"
    bare = [(urlsplit(r["url"]).hostname, urlsplit(r["url"]).port, path, asked) for r in gateway.replicas()]
    seconds: dict[str, list[float]] = {"gateway": [], "bare": []}
    for _ in range(3):
        for name, targets in (("bare", bare), ("gateway", ours)):
            begin = time.monotonic()
            with ThreadPoolExecutor(16) as pool:
                for answer in pool.map(post, [targets[i % len(targets)] for i in range(16)]):
                    if answer != 200:
                        return {"ok": False, "found": {name: answer}}
            seconds[name].append(time.monotonic() - begin)
    rates = {name: round(16 * 200 / min(times)) for name, times in seconds.items()}
    share = round(rates["gateway"] / rates["bare"], 3)
    return {"ok": share > SHARE, "found": {**rates, "share": share}}


def killed(gateway: Gateway) -> Found:
    """A replica that dies in the middle of streams."""
    streams, since = Streams(gateway, 6), time.monotonic()
    hit(UNITS[0], signal.SIGKILL)
    statuses = sorted({gateway.ask()["status"] for _ in range(6)})
    found: Found = {**streams.result(since), "meanwhile": statuses, "back": until(gateway.all_ready, BACK_AGAIN)}
    ok = found["told"] > 0 and found["whole"] > 0 and not found["silent"] and found["back"] >= 0
    return {"ok": ok and statuses == [200], "found": found}


def hung(gateway: Gateway) -> Found:
    """A replica that says nothing any more in the middle of streams."""
    streams, since = Streams(gateway, 4), time.monotonic()
    hit(UNITS[1], signal.SIGSTOP)
    try:
        found: Found = streams.result(since)
        answers = [gateway.ask() for _ in range(6)]
    finally:
        hit(UNITS[1], signal.SIGKILL)
    found |= {
        "meanwhile": sorted({answer["status"] for answer in answers}),
        "back": until(gateway.all_ready, BACK_AGAIN),
    }
    ok = found["told"] > 0 and found["whole"] > 0 and not found["silent"] and found["back"] >= 0
    return {"ok": ok and 200 in found["meanwhile"], "found": found}


def down(gateway: Gateway) -> Found:
    """No replica at all."""
    for unit in UNITS:
        hit(unit, signal.SIGKILL)
    answer = gateway.ask()
    lives = gateway.send(None, "/health")["status"]
    back = until(lambda: gateway.ask()["status"] == 200, BACK_AGAIN)
    found = {"status": answer["status"], "retry": answer["retry"], "health": lives, "served_again": back}
    return {"ok": answer["status"] == 503 and bool(answer["retry"]) and lives == 200 and back >= 0, "found": found}


FAULTS: dict[str, Callable[[Gateway], Found]] = {
    "drained": drained, "crowd": crowd, "queue": queue, "abandoned": abandoned, "long": long,
    "bottleneck": bottleneck, "killed": killed, "hung": hung, "down": down,
}  # fmt: skip


def main() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    gateway = Gateway(sys.argv[1])
    results = [{"what": FAULTS[name].__doc__, **FAULTS[name](gateway)} for name in sys.argv[2:]]
    print(json.dumps(results))
    return 0 if all(result["ok"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
