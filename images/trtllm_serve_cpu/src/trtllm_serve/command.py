# SPDX-License-Identifier: GPL-3.0-or-later
"""``trtllm-serve serve MODEL``."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path

import uvicorn
from tensorrt_llm import progress
from tensorrt_llm.errors import TrtllmError
from tensorrt_llm.llmapi.llm_args import LlmArgs
from tensorrt_llm.llmapi.model import Model

from .disaggregated import Front
from .llm_args import asks_for_metrics, read_args
from .options import disaggregated_parser, parser
from .server import Server

KEEP_ALIVE = 5  # seconds


def main(argv: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["disaggregated"]:
        return disaggregated(words[1:])
    # A first word that is no subcommand means serve.
    options = parser().parse_args(words[1:] if words[:1] == ["serve"] else words)
    scratch = Path(tempfile.mkdtemp(prefix="trtllm-serve-"))
    try:
        args, metrics = read_args(options), asks_for_metrics(options)
        serve(options.model, options.host, options.port, args, scratch, metrics)
    except (TrtllmError, OSError) as e:
        progress.log("E", str(e))
        return 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


def disaggregated(words: list[str]) -> int:
    """What stands before servers of two kinds. Returns the exit status."""
    options = disaggregated_parser().parse_args(words)
    try:
        if options.metadata_server_config_file:
            raise TrtllmError("--metadata_server_config_file was given, but etcd is not implemented in this image")
        front = Front.read(options.config_file, options.request_timeout)
        front.wait(options.server_start_timeout)
    except (TrtllmError, OSError) as e:
        progress.log("E", str(e))
        return 1
    config = uvicorn.Config(
        front.app(), host=front.hostname, port=front.port, log_level="info", timeout_keep_alive=2 * KEEP_ALIVE
    )
    uvicorn.Server(config).run()
    return 0


def serve(path: str, host: str, port: int, args: LlmArgs, scratch: Path, metrics: bool = False) -> None:
    """Take the port, load the model, and serve it until the end is asked for; *metrics*: for Prometheus.

    A port that is taken is found at once, and nothing is listened on before the model is there.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise TrtllmError(f"{path} is no directory; this image downloads nothing")
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as e:
            raise TrtllmError(f"Failed to bind socket to {host}:{port}: {e.strerror}") from None
        # The server starts its other ranks itself.
        os.environ["TRTLLM_ORCHESTRATOR"] = "1"
        model = Model(directory, args, scratch)
        progress.log("I", f"serves {directory.name} at {host}:{port}")
        app = Server(model, directory.name, metrics).app()
        config = uvicorn.Config(app, log_level="info", timeout_keep_alive=KEEP_ALIVE)
        uvicorn.Server(config).run(sockets=[listener])
