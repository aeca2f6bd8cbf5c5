# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration file: what is served, from where, and to whom."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from openai_gateway.errors import ConfigError
from openai_gateway.interface import parse_release

Text = Annotated[str, Field(strict=True, min_length=1)]
Whole = Annotated[int, Field(strict=True)]  # neither "5" nor true is a number
Seconds = Annotated[float, Field(strict=True, gt=0)]
Weight = Annotated[int, Field(strict=True, ge=0, le=1000)]


# What pydantic says of these does not suit a reader of YAML.
EXPECTED = {
    "tuple_type": "it should be a list",
    "too_short": "it should have at least one entry",
    "string_type": "it should be a text that is not empty",
    "string_too_short": "it should be a text that is not empty",
    "int_type": "it should be a whole number",
}


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(_Settings):
    """One name that clients may ask for, and the Triton servers that answer for it."""

    name: Text
    entry_model: Text  # ensemble or tensorrt_llm_bls
    urls: Annotated[tuple[Text, ...], Field(min_length=1)]  # http://host:port of every replica
    # Address of a replica -> how many requests it gets for each one that a replica of weight 1 gets, 1 for those not
    # named. One of weight 0 is asked where no other can be.
    weights: Mapping[Text, Weight] = {}
    tokenizer_dir: Path  # the checkpoint: tokenizer.json, tokenizer_config.json, chat template
    release: Text  # TensorRT-LLM version: decides the names of tensors
    # Tokens of prompt and answer together; None: the checkpoint's own limit.
    max_seq_len: Annotated[Whole, Field(ge=2)] | None = None
    # Cap of an answer when the client names none; None: 1024 in chat, and 16 in completions as OpenAI has it.
    default_max_tokens: Annotated[Whole, Field(ge=1)] | None = None
    chat_template: Path | None = None  # a file that replaces the checkpoint's template
    # Requests whose prompts begin with the same so many characters go to the same replica; None: to the least busy.
    prefix_affinity: Annotated[Whole, Field(ge=1)] | None = None
    # How the model writes calls of tools; None: as its chat template shows.
    tool_call_parser: Literal["hermes", "mistral", "llama3", "json"] | None = None

    @field_validator("urls")
    @classmethod
    def _addresses(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.netloc:
                raise ValueError(f"'{url}' is not an address; write http://HOST:PORT")
        return tuple(url.rstrip("/") for url in urls)

    @field_validator("weights")
    @classmethod
    def _of_replicas(cls, weights: dict[str, int], info: ValidationInfo) -> dict[str, int]:
        urls = info.data.get("urls", ())  # none where they were refused themselves
        given = {url.rstrip("/"): weight for url, weight in weights.items()}
        for url in given:
            if urls and url not in urls:
                raise ValueError(f"{url} is none of urls; name replicas of the model")
        if urls and all(given.get(url, 1) == 0 for url in urls):
            raise ValueError("every replica has 0; give one more, or leave weights out")
        return given

    @field_validator("release")
    @classmethod
    def _version(cls, release: str) -> str:
        parse_release(release)
        return release

    @field_validator("chat_template", mode="before")
    @classmethod
    def _no_template(cls, path: Any) -> Any:
        return path or None


class GatewayConfig(_Settings):
    """The whole file."""

    models: Annotated[tuple[ModelConfig, ...], Field(min_length=1)]
    address: Text = "127.0.0.1"
    port: Annotated[Whole, Field(ge=0, le=65535)] = 3000
    tls_certificate: Path | None = None  # PEM, with its chain; clients then speak https
    tls_key: Path | None = None
    workers: Annotated[Whole, Field(ge=1, le=64)] = 1  # processes
    # One key per line, or a YAML list of clients, mode 0600; None: everybody may ask.
    api_keys_file: Path | None = None
    # Addresses of replicas that shall get no new requests, looked at each second; None: draining beside this file.
    drain_file: Path | None = None
    max_requests: Annotated[Whole, Field(ge=1)] | None = None  # at once; None: as many as come
    max_queued: Annotated[Whole, Field(ge=0)] = 100  # that wait beyond these
    request_timeout: Seconds = 600.0  # seconds without a byte from Triton before a request is given up
    connect_timeout: Seconds = 5.0  # seconds to reach a replica
    shutdown_timeout: Annotated[Whole, Field(ge=0)] = 60  # seconds that running requests get after SIGTERM
    cors_origins: tuple[Text, ...] = ()  # web pages of which origins may ask; "*" is every one
    read_timeout: Seconds = 60.0  # seconds in which a client must have sent its request
    max_body_bytes: Annotated[Whole, Field(ge=1024)] = 8 * 1024 * 1024

    @field_validator("models")
    @classmethod
    def _one_of_each_name(cls, models: tuple[ModelConfig, ...]) -> tuple[ModelConfig, ...]:
        names = [model.name for model in models]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the model name '{name}' is given {names.count(name)} times")
        return models

    @model_validator(mode="after")
    def _both_or_none(self) -> GatewayConfig:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together; give both or none")
        return self

    @field_validator("api_keys_file", mode="before")
    @classmethod
    def _no_keys(cls, path: Any) -> Any:
        return path or None


def read_config_text(path: Path) -> str:
    """The file as it is; of "-" what comes in by standard input. Raises ConfigError."""
    try:
        if path == Path("-"):
            return sys.stdin.read()
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    except UnicodeError:
        raise ConfigError(f"{path} is not valid UTF-8") from None


def parse_config_text(text: str, path: Path) -> GatewayConfig:
    """What the *text* of the file at *path* says; JSON is YAML, so both are welcome. Raises ConfigError."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    config = parse_config(document, str(path))
    return config.model_copy(update={"drain_file": config.drain_file or path.parent / "draining"})


def parse_config(document: Any, source: str) -> GatewayConfig:
    """Turn the file's content into a GatewayConfig; *source* is named in errors."""
    try:
        return GatewayConfig.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_sentence(error, document)}") from None


def _sentence(error: ValidationError, document: Any) -> str:
    """Say the first thing wrong in one sentence that names the key, the value and what was expected."""
    # A misspelt key explains the missing one, so it is told first.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    path, kind = list(first["loc"]), first["type"]
    where = ""
    if path[:1] == ["models"] and len(path) > 1:
        where = f"{_model_name(document, int(path[1]))}: "
        path = path[2:]
    if not path and kind == "value_error":
        return f"{where}{str(first['msg']).removeprefix('Value error, ')}"
    if not path:
        return f"{where}expected keys and values, found {type(first['input']).__name__}"
    key = str(path[0]) + "".join(f"[{part}]" for part in path[1:])
    if kind == "extra_forbidden":
        known = list((ModelConfig if where else GatewayConfig).model_fields)
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"
        return f"{where}unknown key '{key}'; {hint}"
    if kind == "missing":
        return f"{where}'{key}' is missing"
    message = str(first["msg"])
    if kind == "value_error":
        return f"{where}'{key}': {message.removeprefix('Value error, ')}"
    expected = EXPECTED.get(kind) or message.replace("Input should", "it should")
    return f"{where}'{key}' is {first['input']!r}; {expected}"


def _model_name(document: Mapping[str, Any], index: int) -> str:
    entry = document["models"][index]
    name = entry.get("name") if isinstance(entry, dict) else None
    return f"model '{name}'" if isinstance(name, str) and name else f"models[{index}]"
