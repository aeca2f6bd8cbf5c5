# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration file while the gateway runs: read again when it changes, and how far that is."""

from __future__ import annotations

import hashlib
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openai_gateway.config import GatewayConfig, parse_config_text, read_config_text
from openai_gateway.errors import ConfigError
from openai_gateway.files import stamp
from openai_gateway.shared import Shared

LOG = logging.getLogger("openai_gateway")
# What is taken over while the gateway runs; all else takes a restart.
LIVE = ("models", "api_keys_file", "max_requests", "max_queued")
FIXED = tuple(key for key in GatewayConfig.model_fields if key not in LIVE)


class ConfigFile:
    """The file of one worker. A file that cannot be used changes nothing, and is told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: Any = None
        self._asked = False
        self._sha256 = ""  # of what was read last
        self._tls: ssl.SSLContext | None = None
        self._tls_files: list[Path] = []
        self._tls_stamps: list[Any] = []
        self.in_force = ""  # the sha256 of what is served by
        self.refused = ""  # why what was read last is not

    def ask(self) -> None:
        """Have it read again in any case: SIGHUP."""
        self._asked = True

    def due(self) -> bool:
        """Whether it is to be read again."""
        asked, self._asked = self._asked, False
        return asked or stamp(self.path) != self._stamp

    def load(self) -> GatewayConfig:
        """Read and check it. Raises ConfigError."""
        self._stamp = stamp(self.path)
        self._sha256 = ""
        text = read_config_text(self.path)
        self._sha256 = hashlib.sha256(text.encode()).hexdigest()
        return parse_config_text(text, self.path)

    def taken(self) -> None:
        """What was read last is in force."""
        self.in_force, self.refused = self._sha256, ""

    def refuse(self, error: ConfigError) -> None:
        """What was read last cannot be used."""
        self.refused = str(error)
        LOG.error("the configuration was not read again: %s", error)

    def tls_context(self, config: Any, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        """uvicorn's own, which is kept, so that it gets a certificate that was renewed."""
        self._tls = default()
        self._tls_files = [Path(config.ssl_certfile), Path(config.ssl_keyfile)]
        self._tls_stamps = [stamp(path) for path in self._tls_files]
        return self._tls

    def renew_certificate(self) -> None:
        """Serve new connections with the certificate that is there now."""
        stamps = [stamp(path) for path in self._tls_files]
        if self._tls is None or stamps == self._tls_stamps:
            return
        self._tls_stamps = stamps
        try:
            certificate, key = self._tls_files
            self._tls.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            LOG.error("the certificate %s was not read again: %s", self._tls_files[0], error.strerror or error)
        else:
            LOG.info("the certificate %s was read again", self._tls_files[0])


def fixed_changes(before: GatewayConfig, after: GatewayConfig) -> list[str]:
    """The keys that differ and take a restart."""
    return [key for key in FIXED if getattr(before, key) != getattr(after, key)]


class InForce:
    """Whether all workers serve by the same file."""

    def __init__(self, shared: Shared) -> None:
        self._file, self._serving = shared.number("configuration"), shared.number("serving")

    def tell(self, sha256: str) -> None:
        """This worker serves by the file of that *sha256*."""
        self._file.mine, self._serving.mine = self._number(sha256), 1

    def everywhere(self, sha256: str) -> bool:
        """Whether every worker does."""
        serving = zip(self._file.parts, self._serving.parts, strict=True)
        return all(number == self._number(sha256) for number, serves in serving if serves)

    @staticmethod
    def _number(sha256: str) -> float:
        return float(int(sha256[:12] or "0", 16))  # as many bits as a number keeps
