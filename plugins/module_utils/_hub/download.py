# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files over HTTP that go on where they stopped.

The hubs' clients begin a file anew after a kill (huggingface_hub gives each process a file of its own), and a shard has
5 GB; so the clients say what there is and where, and the bytes come through here.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional
from urllib.parse import urljoin, urlsplit

from .._artifact.fingerprint import file_sha256
from .._base.errors import FleetError
from .._base.files import inside, remove
from .watch import BLOCK, Expected, Watch, is_as_expected

WORKERS = 8
TIMEOUT = 60  # seconds without a byte
REDIRECTS = 10
ATTEMPTS = 5  # in a row without a byte
# A rate limit that asks for no longer than this is waited for, so many times.
LONGEST_WAIT, PATIENCE = 300, 5  # seconds
HALVES = ".cache"  # in the directory: what is half there, by the name of its content
SECRET_HEADERS = ("authorization", "cookie")
TRANSIENT = (408, 429, 500, 502, 503, 504)
REMEDIES = {
    401: "give the token of an account that may read it, and check the name",
    403: "ask its owner for access with the account of the token",
    404: "check the name and the revision",
    429: "wait, or give the token of an account with a higher limit",
}


def refusal(where: str, status: int, words: str, wait: Optional[int] = None) -> FleetError:
    """What a hub answered, in its own *words*, and what to do; *wait* are the seconds that it asks for."""
    remedy = REMEDIES.get(status, "run again; what has arrived is kept") + (f" ({wait} s, it asks)" if wait else "")
    said = " ".join(words.split()).rstrip(".")
    return FleetError(f"{where}: the answer is '{said}' (HTTP {status}); {remedy}.")


def retry_after(headers: Any) -> Optional[int]:
    """The seconds that an answer asks to wait; None where it does not say."""
    value = str(headers.get("Retry-After") or "")
    return max(1, int(value)) if value.isdigit() else None


class _Stay(urllib.request.HTTPRedirectHandler):
    """Redirects are followed by `_open`, which leaves the token behind where they lead to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


OPENER = urllib.request.build_opener(_Stay)


class Downloads:
    """Files of one checkpoint; *title* names it in a refusal, *headers* go to the host of each address alone."""

    def __init__(self, title: str, target: Path, watch: Watch, headers: Mapping[str, str]) -> None:
        self.title, self.target, self.watch, self.headers = title, target, watch, dict(headers)

    def all(self, addresses: Mapping[str, str], expected: Mapping[str, Expected]) -> None:
        """Bring every file, by its path, from its address; several at a time."""
        pool = concurrent.futures.ThreadPoolExecutor(WORKERS)
        try:
            work = [pool.submit(self.one, addresses[name], name, expected[name]) for name in sorted(addresses)]
            for done in concurrent.futures.as_completed(work):
                done.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def size(self, address: str) -> int:
        """Bytes of the file at *address*, as its server says."""
        failures = 0
        while True:
            try:
                # Who signs addresses signs them for GET.
                with self._open(address, {**self.headers, "Range": "bytes=0-0"}) as answer:
                    whole = str(answer.headers.get("Content-Range") or "").rpartition("/")[2]
                    said = whole if answer.status == 206 else str(answer.headers.get("Content-Length") or "")
                if said.isdigit():
                    return int(said)
                raise FleetError(f"{self.title}: its server does not say how large it is; give another address.")
            except urllib.error.HTTPError as error:
                self._refused(error, failures)
                why = f"HTTP {error.code}"
            except (OSError, http.client.HTTPException) as error:
                why = " ".join(str(error).split()) or type(error).__name__
            failures += 1
            if failures >= ATTEMPTS:
                raise FleetError(f"{self.title}: {urlsplit(address).hostname} does not answer ({why}); run again.")
            time.sleep(min(2 ** (failures - 1) / 2, 8))

    def one(self, address: str, name: str, expected: Expected) -> None:
        """Bring one file, unless it is there already."""
        target = inside(self.target, name, "checkpoint")
        if target.is_file() and is_as_expected(target, expected, file_sha256(target) if expected.sha256 else ""):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        remove(target)
        content = f"{name}\0{expected.sha256}{expected.blob}\0{expected.size}"
        half = self.target / HALVES / hashlib.sha256(content.encode()).hexdigest()[:32]
        half.parent.mkdir(parents=True, exist_ok=True)
        self.get(address, half, expected.size)
        half.rename(target)

    def get(self, address: str, half: Path, size: int) -> None:
        """Bring *half* to its whole *size*."""
        failures = 0
        while True:
            have = half.stat().st_size if half.exists() else 0
            if have > size:
                remove(half)
                have = 0
            if have == size and half.exists():
                return
            try:
                self._append(address, half, have, size)
                why = "the connection was closed too early"
            except urllib.error.HTTPError as error:
                self._refused(error, failures)
                why = f"HTTP {error.code}"
            except (OSError, http.client.HTTPException) as error:
                why = " ".join(str(error).split()) or type(error).__name__
            now = half.stat().st_size if half.exists() else 0
            if now < size:
                failures = failures + 1 if now == have else 1
                if failures >= ATTEMPTS:
                    raise FleetError(
                        f"{self.title}: {urlsplit(address).hostname} does not send the rest of "
                        f"{urlsplit(address).path.rpartition('/')[2]} ({why}); what has arrived is kept, so run again."
                    )
                time.sleep(min(2 ** (failures - 1) / 2, 8) if now == have else 0)

    def _append(self, address: str, half: Path, have: int, size: int) -> None:
        more = {"Range": f"bytes={have}-"} if have else {}
        with contextlib.ExitStack() as held:
            answer = held.enter_context(self._open(address, {**self.headers, **more}))
            # A server that knows no ranges sends it from its beginning.
            stream = held.enter_context(open(half, "ab" if answer.status == 206 else "wb"))
            while block := answer.read(BLOCK):
                stream.write(block)
                self.watch.count(len(block))
                if stream.tell() > size:
                    raise FleetError(f"{self.title}: {half.name} is longer than its source says; run again.")

    def _open(self, address: str, headers: Mapping[str, str]) -> Any:
        sent = {**headers, "Accept-Encoding": "identity"}
        for _ in range(REDIRECTS):
            try:
                return OPENER.open(urllib.request.Request(address, headers=sent), timeout=TIMEOUT)
            except urllib.error.HTTPError as error:
                location = error.headers.get("Location")
                if error.code not in (301, 302, 303, 307, 308) or not location:
                    raise
                there = urljoin(address, location)
                if urlsplit(there).scheme not in ("http", "https"):
                    raise FleetError(f"{self.title}: the source sends to {there}, which is no web address.") from None
                if urlsplit(there).netloc != urlsplit(address).netloc:
                    sent = {key: value for key, value in sent.items() if key.lower() not in SECRET_HEADERS}
                address = there
        raise FleetError(f"{self.title}: {address} is redirected without end.")

    def _refused(self, error: urllib.error.HTTPError, failures: int) -> None:
        wait = retry_after(error.headers)
        if error.code in TRANSIENT and failures + 1 < ATTEMPTS and (wait or 0) <= LONGEST_WAIT:
            if wait:
                self.watch.say(f"the source asks to wait {wait} s")
                time.sleep(wait)
            return
        words = error.headers.get("X-Error-Message") or str(error.reason)
        raise refusal(self.title, error.code, words, wait) from None
