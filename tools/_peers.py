# SPDX-License-Identifier: GPL-3.0-or-later
"""Other servers of OpenAI's API that are put to the same suite and the same bench."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from _stages import REPO, StageError
from _venvs import environment

__all__ = ["SUITE", "Proxy", "litellm"]

SUITE = REPO / "tests" / "conformance"
ENTRY = "tensorrt_llm_bls"


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Proxy(NamedTuple):
    """LiteLLM's proxy as it runs."""

    url: str
    key: str
    pid: int


@contextlib.contextmanager
def litellm(triton: str, model: str, *, before: Sequence[str] = (), program: Path | None = None) -> Iterator[Proxy]:
    """Run LiteLLM's proxy before a Triton; *before*: a command that starts it, *program*: its own, else installed."""
    program = program or environment("litellm", SUITE / "requirements-litellm.txt") / "litellm"
    port, key = free_port(), f"sk-{secrets.token_hex(16)}"
    url = f"{triton}/v2/models/{ENTRY}/generate"
    entries = [{"model_name": model, "litellm_params": {"model": f"triton/{model}", "api_base": url}}]
    with tempfile.TemporaryDirectory(prefix="litellm-") as scratch:
        config, log = Path(scratch) / "config.yaml", Path(scratch) / "log"
        # As its own words ask for: a parameter that it cannot pass on is left out, not refused.
        settings: dict[str, Any] = {"general_settings": {"master_key": key}, "litellm_settings": {"drop_params": True}}
        # A request that failed neither keeps its client waiting for further tries nor has the next ones refused.
        settings["router_settings"] = {"num_retries": 0, "disable_cooldowns": True}
        config.write_text(json.dumps({"model_list": entries, **settings}), encoding="utf-8")
        quiet = {"LITELLM_TELEMETRY": "False", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*before, str(program), f"--config={config}", f"--port={port}", "--host=127.0.0.1"],
                stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **quiet}, cwd=scratch,
            )  # fmt: skip
        try:
            until = time.monotonic() + 300
            while True:
                with socket.socket() as connection:
                    if connection.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if process.poll() is not None or time.monotonic() > until:
                    raise StageError(f"LiteLLM did not start: {log.read_text(errors='replace')[-500:]}")
                time.sleep(0.2)
            yield Proxy(f"http://127.0.0.1:{port}", key, process.pid)
        finally:
            process.terminate()
            process.wait(30)
