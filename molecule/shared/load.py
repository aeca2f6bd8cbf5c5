#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask gateways with the official client until told to stop, and count what a user would have noticed.

load.py --model M --seconds N --out FILE [--until FILE] URL [URL...]: half of the threads ask for whole answers, the
others for streams. Ends at SIGTERM, when the file of --until is there, or after N seconds, whichever is first, and
writes one JSON object: requests and streams that were asked, that failed and that broke off, the slowest of each, the
first errors, and the counts of each gateway.
"""

from __future__ import annotations

import argparse
import collections
import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import openai

TIMEOUT = 60.0
SHOWN = 5  # errors that are kept as they are
TOKENS = 24
KINDS = ("whole", "stream")


class Counts:
    """What happened, of all threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counts: collections.Counter[str] = collections.Counter()
        self.gateways: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.slowest: dict[str, float] = collections.defaultdict(float)
        self.errors: list[str] = []

    def add(self, url: str, kind: str, seconds: float, error: str = "") -> None:
        """One answer, or its error."""
        with self.lock:
            for counts in (self.counts, self.gateways[url]):
                counts[kind] += 1
                counts[f"{kind} failed"] += bool(error)
            self.slowest[kind] = max(self.slowest[kind], round(seconds, 3))
            if error and len(self.errors) < SHOWN:
                self.errors.append(f"{time.strftime('%H:%M:%S', time.gmtime())} {url} {kind}: {error}")

    def report(self) -> dict[str, Any]:
        """The object that is written."""
        return {
            **_told(self.counts),
            **{f"{kind}_slowest": self.slowest[kind] for kind in KINDS},
            "errors": self.errors,
            "gateways": {url: _told(counts) for url, counts in self.gateways.items()},
        }


def _told(counts: collections.Counter[str]) -> dict[str, int]:
    return {
        **{kind: counts[kind] for kind in KINDS},
        **{f"{kind}_failed": counts[f"{kind} failed"] for kind in KINDS},
    }


def ask(client: openai.OpenAI, model: str, streamed: bool) -> str:
    """One question; what is wrong with the answer, or nothing."""
    messages = [{"role": "user", "content": "What is machine learning?"}]
    try:
        if not streamed:
            answer = client.chat.completions.create(model=model, messages=messages, max_tokens=TOKENS)  # type: ignore[call-overload]
            return "" if answer.choices[0].message.content else "an empty message"
        ended, text = "", ""
        for chunk in client.chat.completions.create(model=model, messages=messages, max_tokens=TOKENS, stream=True):  # type: ignore[call-overload]
            for choice in chunk.choices:
                ended, text = choice.finish_reason or ended, text + (choice.delta.content or "")
    except openai.OpenAIError as error:
        return f"{type(error).__name__}: {error}"
    return "" if ended and text else f"a stream that broke off after {text!r}"


def work(url: str, model: str, streamed: bool, pause: float, counts: Counts, stop: threading.Event) -> None:
    """Ask one gateway, again and again."""
    # no second try: it would hide what a user without one meets
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=TIMEOUT, max_retries=0)
    while not stop.is_set():
        begin = time.monotonic()
        error = ask(client, model, streamed)
        counts.add(url, "stream" if streamed else "whole", time.monotonic() - begin, error)
        stop.wait(pause)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between two questions of a thread")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--until", type=Path, default=Path("/nonexistent"), help="a file whose coming ends the load")
    parser.add_argument("urls", nargs="+", metavar="URL")
    options = parser.parse_args()
    counts, stop = Counts(), threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    threads = [
        threading.Thread(target=work, args=(url, options.model, streamed, options.pause, counts, stop))
        for url in options.urls
        for streamed in (False, True)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + options.seconds
    while time.monotonic() < deadline and not options.until.exists():
        if stop.wait(0.5):
            break
    stop.set()
    for thread in threads:
        thread.join()
    # who waits for the file finds all of it
    whole = options.out.with_suffix(".part")
    whole.write_text(json.dumps(counts.report(), indent=2) + "\n", encoding="utf-8")
    whole.replace(options.out)


if __name__ == "__main__":
    main()
