# SPDX-License-Identifier: GPL-3.0-or-later
"""``python3 -m openai_gateway --config FILE``"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from openai_gateway import __version__, workers
from openai_gateway.clients import hash_key
from openai_gateway.config import GatewayConfig
from openai_gateway.errors import ConfigError
from openai_gateway.protocol import LimitedProtocol
from openai_gateway.reload import FIXED, ConfigFile
from openai_gateway.shared import Shared

LOG = logging.getLogger("openai_gateway")
COLLECT = 20_000, 20, 20  # how rarely garbage is looked for; by default it is a twentieth of the time


class Server(uvicorn.Server):
    """uvicorn, but a stop by signal is a clean end: it raises the signal again, which fails a service."""

    def __init__(self, config: uvicorn.Config, file: ConfigFile) -> None:
        super().__init__(config)
        self._file = file

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop, and tell connections that are just being made."""
        LimitedProtocol.stopping = True
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Turn SIGTERM and SIGINT into a graceful stop, and SIGHUP into another look at the configuration."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        loop.add_signal_handler(signal.SIGHUP, self._file.ask)
        yield


def serve(
    file: ConfigFile, config: GatewayConfig, listener: workers.Listener | None = None, shared: Shared | None = None
) -> None:
    """Serve until SIGTERM; then refuse new connections and let running requests finish. Raises ConfigError."""
    # Imported late: where there are several workers, metrics must know of it when they are imported.
    from openai_gateway.app import create_app

    app = create_app(config, shared=shared, file=file)
    LimitedProtocol.read_timeout = config.read_timeout
    server = Server(
        uvicorn.Config(
            app,
            http=LimitedProtocol,
            ws="none",
            host=config.address,
            port=config.port,
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            ssl_certfile=config.tls_certificate,
            ssl_keyfile=config.tls_key,
            ssl_context_factory=file.tls_context if config.tls_key else None,
            server_header=False,
            timeout_keep_alive=75,
            backlog=workers.BATCH if listener else workers.BACKLOG,
            timeout_graceful_shutdown=config.shutdown_timeout,
        ),
        file,
    )
    # Every request holds two connections.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # What is there now stays, and a request leaves next to nothing that only the collector would find.
    gc.freeze()
    gc.set_threshold(*COLLECT)
    names = ", ".join(model.name for model in config.models)
    LOG.info("openai_gateway %s serves %s on %s:%d", __version__, names, config.address, config.port)
    asyncio.run(server.serve(sockets=[listener] if listener else None))
    LOG.info("stopped")


def work(file: ConfigFile, config: GatewayConfig, listener: workers.Listener, shared: Shared) -> int:
    """Serve as one of several workers; the file is *config* unless it has changed since the gateway's start."""
    try:
        try:
            newest = file.load().model_copy(update={key: getattr(config, key) for key in FIXED})
            serve(file, newest, listener, shared)
        except ConfigError as error:
            file.refuse(error)
            serve(file, config, listener, shared)
    except ConfigError as error:
        print(f"ERROR {error}", file=sys.stderr, flush=True)
        return workers.WRONG_CONFIG
    return 0


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="openai_gateway", description="OpenAI-compatible front of Triton")
    parser.add_argument("--config", type=Path, help="the YAML or JSON configuration file")
    parser.add_argument("--hash-key", action="store_true", help="read an API key and print its key_hash, then exit")
    parser.add_argument("--check", action="store_true", help="read the configuration and the checkpoints, then exit")
    parser.add_argument("--version", action="version", version=__version__)
    options = parser.parse_args()
    if options.hash_key:
        print(hash_key(sys.stdin.readline().strip()))
        return 0
    if options.config is None:
        parser.error("--config FILE is needed")
    # journald stamps each line, so none is needed here.
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)
    try:
        file = ConfigFile(options.config)
        config = file.load()
        if options.check:
            from openai_gateway.app import create_app

            create_app(config)
            return 0
        if config.workers > 1:
            return workers.run(config, lambda listener, shared: work(file, config, listener, shared))
        serve(file, config, workers.given())
    except ConfigError as error:
        print(f"ERROR {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
