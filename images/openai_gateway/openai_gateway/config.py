# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration file: what is served, from where, and to whom."""

from __future__ import annotations

import difflib
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from openai_gateway.errors import ConfigError
from openai_gateway.interface import parse_release


@dataclass(frozen=True)
class ModelConfig:
    """One name that clients may ask for, and the Triton servers that answer for it."""

    name: str
    entry_model: str  # ensemble or tensorrt_llm_bls
    urls: tuple[str, ...]  # http://host:port of every replica
    tokenizer_dir: Path  # the checkpoint: tokenizer.json, tokenizer_config.json, chat template
    release: str  # TensorRT-LLM version: decides the names of tensors
    max_seq_len: int | None = None  # tokens of prompt and answer together; None: the checkpoint's own limit
    default_max_tokens: int = 1024  # cap of an answer when the client names none
    chat_template: Path | None = None  # a file that replaces the checkpoint's template


@dataclass(frozen=True)
class GatewayConfig:
    """The whole file."""

    models: tuple[ModelConfig, ...]
    address: str = "127.0.0.1"
    port: int = 3000
    api_keys_file: Path | None = None  # one key per line, mode 0600; None: everybody may ask
    request_timeout: float = 600.0  # seconds without a byte from Triton before a request is given up
    connect_timeout: float = 5.0  # seconds to reach a replica
    shutdown_timeout: int = 60  # seconds that running requests get after SIGTERM
    max_body_bytes: int = 8 * 1024 * 1024


def load_config(path: Path) -> GatewayConfig:
    """Read and check the file; JSON is YAML, so both are welcome."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    return parse_config(document, str(path))


def parse_config(document: Any, source: str) -> GatewayConfig:
    """Turn the file's content into a GatewayConfig; *source* is named in errors."""
    top = _mapping(document, source)
    _known_keys(top, (f.name for f in fields(GatewayConfig)), source)
    models = top.get("models")
    if not isinstance(models, list) or not models:
        raise ConfigError(f"{source}: 'models' must be a list with at least one model")
    parsed = tuple(_model(_mapping(m, f"{source}: models[{i}]"), i, source) for i, m in enumerate(models))
    names = [m.name for m in parsed]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{source}: the model name '{name}' is given {names.count(name)} times")
    port = _integer(top, "port", 3000, source, 0, 65535)
    keys = top.get("api_keys_file")
    return GatewayConfig(
        models=parsed,
        address=_text(top, "address", source, "127.0.0.1"),
        port=port,
        api_keys_file=Path(str(keys)) if keys else None,
        request_timeout=_number(top, "request_timeout", 600.0, source),
        connect_timeout=_number(top, "connect_timeout", 5.0, source),
        shutdown_timeout=_integer(top, "shutdown_timeout", 60, source, 0),
        max_body_bytes=_integer(top, "max_body_bytes", 8 * 1024 * 1024, source, 1024),
    )


def _model(entry: Mapping[str, Any], index: int, source: str) -> ModelConfig:
    where = f"{source}: models[{index}]"
    _known_keys(entry, (f.name for f in fields(ModelConfig)), where)
    name = _text(entry, "name", where)
    where = f"{source}: model '{name}'"
    urls = entry.get("urls")
    if not isinstance(urls, list) or not urls:
        raise ConfigError(f"{where}: 'urls' must be a list of Triton's HTTP addresses")
    for url in urls:
        parts = urlsplit(str(url))
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(f"{where}: '{url}' is not an address; write http://HOST:PORT")
    release = _text(entry, "release", where)
    parse_release(release, where)
    template = entry.get("chat_template")
    limit = entry.get("max_seq_len")
    return ModelConfig(
        name=name,
        entry_model=_text(entry, "entry_model", where),
        urls=tuple(str(url).rstrip("/") for url in urls),
        tokenizer_dir=Path(_text(entry, "tokenizer_dir", where)),
        release=release,
        max_seq_len=None if limit is None else _integer(entry, "max_seq_len", 0, where, 2),
        default_max_tokens=_integer(entry, "default_max_tokens", 1024, where, 1),
        chat_template=Path(str(template)) if template else None,
    )


def load_api_keys(path: Path) -> tuple[str, ...]:
    """Read one key per line; refuse a file that others may read. A key's text never appears in an error."""
    try:
        mode = path.stat().st_mode
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read the API keys {path}: {error.strerror}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path} has mode {stat.S_IMODE(mode):04o}; API keys must be 0600 or 0400")
    keys = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not keys:
        raise ConfigError(f"{path} holds no API key; write one per line, or leave api_keys_file out")
    return keys


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected keys and values, found {type(value).__name__}")
    return value


def _known_keys(given: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    names = list(known)
    for key in given:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; known are {', '.join(names)}"
            raise ConfigError(f"{where}: unknown key '{key}'{hint}")


def _text(given: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = given.get(key, default)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where}: '{key}' must be a text that is not empty")
    return value


def _integer(given: Mapping[str, Any], key: str, default: int, where: str, least: int, most: int | None = None) -> int:
    value = given.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most and value > most):
        limits = f"from {least} to {most}" if most else f"of at least {least}"
        raise ConfigError(f"{where}: '{key}' is {value!r}; it must be a whole number {limits}")
    return value


def _number(given: Mapping[str, Any], key: str, default: float, where: str) -> float:
    value = given.get(key, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
        raise ConfigError(f"{where}: '{key}' is {value!r}; it must be a number above 0")
    return float(value)
