# SPDX-License-Identifier: GPL-3.0-or-later
"""Named stages that run one after another, are timed, and stop at the first that fails."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "collections"))

from ansible_collections.trtllm.fleet.plugins.plugin_utils._cache import cache_dir

__all__ = ["REPO", "VENV", "StageError", "Stages", "cache_dir", "main_guard"]

VENV = REPO / ".venv"


class StageError(Exception):
    """A stage failed; the message is the one sentence that the user reads."""


@dataclass
class Stages:
    """Runs commands, prints what each is for, and keeps its wall time in seconds."""

    title: str
    seconds: dict[str, float] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """One line for the user."""
        print(f"{self.title}: {text}", flush=True)

    def run(
        self,
        name: str,
        argv: Sequence[str | Path],
        why: str,
        env: Mapping[str, str] | None = None,
        remedy: str = "see the lines above",
    ) -> None:
        """Run *argv* in the checkout; raise `StageError` where it fails."""
        self.say(why)
        started = time.monotonic()
        code = subprocess.run(
            [str(word) for word in argv], cwd=REPO, env={**os.environ, **(env or {})}, check=False
        ).returncode
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started
        if code != 0:
            raise StageError(f"{name} failed (exit code {code}); {remedy}.")

    def summary(self) -> str:
        """The stages and their times, one a line."""
        width = max((len(name) for name in self.seconds), default=0)
        return "\n".join(f"  {name:<{width}}  {seconds:7.1f} s" for name, seconds in self.seconds.items())


def main_guard(title: str, function: object) -> int:
    """Run *function*; a `StageError` becomes one sentence and exit code 1, Ctrl-C becomes 130."""
    try:
        return int(function() or 0)  # type: ignore[operator]
    except StageError as error:
        print(f"{title}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{title}: interrupted; run it again to go on.", file=sys.stderr)
        return 130
