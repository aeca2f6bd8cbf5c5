# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may ask, for what and how much: API keys with names and limits, read again when their file changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import secrets
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from openai_gateway.errors import ApiError, ConfigError
from openai_gateway.files import stamp
from openai_gateway.shared import Number, Shared

LOG = logging.getLogger("openai_gateway")
LOOK_AGAIN = 1.0  # seconds after which the keys' file is looked at again
MINUTE = 60.0
Positive = Annotated[int, Field(strict=True, ge=1)]


class Client(BaseModel):
    """One entry of the file of keys. ``key_hash`` is ``sha256$SALT$HEX``, as ``--hash-key`` prints it."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: Annotated[str, Field(strict=True, pattern=r"^[\w.@-]{1,64}$")]
    key: Annotated[str | None, Field(strict=True, min_length=1, repr=False)] = None
    key_hash: Annotated[str, Field(strict=True, pattern=r"^sha256\$[0-9a-f]{8,}\$[0-9a-f]{64}$")] | None = None
    models: tuple[str, ...] | None = None  # None: all
    max_requests: Positive | None = None  # at once
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None  # of prompts and answers together

    @model_validator(mode="after")
    def _one_key(self) -> Client:
        if (self.key is None) == (self.key_hash is None):
            raise ValueError("needs either 'key' or 'key_hash'")
        return self

    def is_key(self, key: str) -> bool:
        """Whether *key* is this client's; takes as long for a wrong one."""
        _, salt, expected = (self.key_hash or hash_key(self.key or "", "00")).split("$")
        return hmac.compare_digest(hash_key(key, salt).rpartition("$")[2], expected)


def hash_key(key: str, salt: str | None = None) -> str:
    """What may stand in the file in place of *key*. Keys are random, so one round is enough."""
    salt = salt or secrets.token_hex(16)
    return f"sha256${salt}${hashlib.sha256(bytes.fromhex(salt) + key.encode()).hexdigest()}"


class Bucket:
    """So much a minute, for all workers: full at first, it fills again steadily; its level may fall below nothing."""

    def __init__(self, size: int, used: Number, at: Number, clock: Callable[[], float]) -> None:
        self.size, self._used, self._at, self._clock = size, used, at, clock

    @property
    def level(self) -> float:
        """What it holds now."""
        return self.size - self._used_now()

    def take(self, amount: float) -> None:
        """Take *amount* out, whether it is there or not."""
        self._used.common, self._at.common = self._used_now() + amount, self._clock()

    def wait_for(self, amount: float) -> float:
        """The seconds until it holds *amount*."""
        return max(0.0, amount - self.level) * MINUTE / self.size

    def _used_now(self) -> float:
        return max(0.0, self._used.common - (self._clock() - self._at.common) * self.size / MINUTE)


class Account:
    """What a client has used, at all workers."""

    def __init__(self, client: Client, shared: Shared, clock: Callable[[], float] = time.monotonic) -> None:
        self.client = client
        self._shared = shared
        limits = {"requests": client.requests_per_minute, "tokens": client.tokens_per_minute}
        limits = {name: size for name, size in limits.items() if size}
        self._limited = bool(limits or client.max_requests)

        def number(what: str) -> Number:
            return shared.number(f"{what} of the client {client.name}")

        self._running = number("running") if self._limited else None
        self._buckets = {
            name: Bucket(size, number(name), number(f"time of {name}"), clock) for name, size in limits.items() if size
        }

    @property
    def running(self) -> int:
        """Its requests that are worked on, where they are limited."""
        return int(self._running.total) if self._running else 0

    def may_use(self, model: str) -> bool:
        """Whether *model* is there for this client."""
        return self.client.models is None or model in self.client.models

    def admit(self) -> None:
        """Count a request that begins, or raise ApiError 429."""
        if self._running is None:
            return
        with self._shared.locked():
            limit = self.client.max_requests
            if limit and self.running >= limit:
                raise _too_many(f"at most {limit} requests at once", 1)
            for name, bucket in self._buckets.items():
                if wait := bucket.wait_for(1):
                    raise _too_many(f"at most {bucket.size} {name} a minute", wait)
            if "requests" in self._buckets:
                self._buckets["requests"].take(1)
            self._running.mine += 1

    def release(self) -> None:
        """A request that was admitted is over."""
        if self._running:
            self._running.mine -= 1

    def spend(self, tokens: int) -> None:
        """Count the tokens of an answer."""
        if "tokens" in self._buckets:
            with self._shared.locked():
                self._buckets["tokens"].take(tokens)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """OpenAI's headers that tell what is left."""
        found = []
        for name, bucket in self._buckets.items():
            values = {"limit": bucket.size, "remaining": max(0, int(bucket.level))}
            values["reset"] = math.ceil(bucket.wait_for(bucket.size))
            for what, value in values.items():
                text = f"{value}s" if what == "reset" else str(value)
                found.append((f"x-ratelimit-{what}-{name}".encode(), text.encode()))
        return found


ANYBODY = Client(name="anybody", key="-")


class Clients:
    """The accounts of all clients; without a file of keys everybody shares one without limits."""

    def __init__(
        self, path: Path | None, clock: Callable[[], float] = time.monotonic, shared: Shared | None = None
    ) -> None:
        """Raises ConfigError."""
        self._path: Path | None = None
        self._clock, self._shared = clock, shared or Shared()
        self._accounts: dict[str, Account] = {}
        self._anybody = Account(ANYBODY, self._shared, clock)
        self._stamp: Any = None
        self._next_look = clock() + LOOK_AGAIN
        self.refused = ""  # why the file that is there now is not in force
        self.follow(path)

    def follow(self, path: Path | None) -> None:
        """Take the keys from *path* from now on. Raises ConfigError, and then changes nothing."""
        if path == self._path:
            return
        if path:
            found = stamp(path)
            self._use(load_clients(path))
            self._stamp, self.refused = found, ""
        self._path = path

    @property
    def changed(self) -> float:
        """When the file that is in force was written, in seconds of the epoch; 0 where everybody may ask."""
        return self._stamp[0] / 1e9 if self._path and self._stamp else 0.0

    def identify(self, authorization: str, x_api_key: str = "") -> Account:
        """Whose key one of the headers' values holds, or raise ApiError 401."""
        if self._path is None:
            return self._anybody
        self.look_again()
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer":
            key = x_api_key if not authorization else ""  # as Anthropic's clients send it
        key = key.strip()
        found = [account for account in self._accounts.values() if account.client.is_key(key)]
        if not key or not found:
            said = "Incorrect API key provided." if key else "You did not provide an API key."
            raise ApiError(401, f"{said} Send it as 'Authorization: Bearer KEY'.", code="invalid_api_key")
        return found[0]

    def look_again(self) -> None:
        """Read the file where it has changed. One that cannot be used changes nothing."""
        if self._path is None or self._clock() < self._next_look:
            return
        self._next_look = self._clock() + LOOK_AGAIN
        if (found := stamp(self._path)) == self._stamp:
            return
        self._stamp = found
        try:
            self._use(load_clients(self._path))
        except ConfigError as error:
            self.refused = str(error)
            LOG.error("the API keys were not read again: %s", error)
        else:
            self.refused = ""
            LOG.info("the API keys were read again: %d", len(self._accounts))

    def _use(self, clients: Sequence[Client]) -> None:
        """Take over *clients*; what was counted of one goes by its name, and stays."""
        self._accounts = {client.name: Account(client, self._shared, self._clock) for client in clients}


def load_clients(path: Path) -> list[Client]:
    """Read the file: one key per line, or a YAML list of clients. No error says anything of a key."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the API keys {path}: {error.strerror}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path} has mode {stat.S_IMODE(mode):04o}; API keys must be 0600 or 0400")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise ConfigError(f"{path} holds no API key; write one per line, or leave api_keys_file out")
    if not lines[0].startswith("- "):
        return [Client(name=f"key-{number}", key=line) for number, line in enumerate(lines, 1)]
    try:
        entries = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"{path} begins like a list of clients but is not valid YAML") from None
    clients = [_client(path, number, entry) for number, entry in enumerate(entries, 1)]
    names = [client.name for client in clients]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{path}: the client '{name}' is given {names.count(name)} times")
    return clients


def _client(path: Path, number: int, entry: Any) -> Client:
    try:
        return Client.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False)[0]
        key = ".".join(map(str, first["loc"])) or "the entry"
        message = str(first["msg"]).removeprefix("Value error, ").replace("Input should", "it should")
        raise ConfigError(f"{path}: client {number}: {key}: {message[:1].lower()}{message[1:]}") from None


def _too_many(what: str, wait: float) -> ApiError:
    message = f"Rate limit reached: {what} for this API key."
    return ApiError(429, message, code="rate_limit_exceeded", retry_after=max(1, math.ceil(wait)))
