# SPDX-License-Identifier: GPL-3.0-or-later
"""What a row of the matrix of faults is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

FAILS, GOES_ON, KILLED = "fails", "goes on", "killed"
STAGES = (
    "podman", "gpu_driver", "container_toolkit", "image", "checkpoint", "tokenizer", "engine", "model_repository",
    "triton", "gateway", "rollout", "verify",
)  # fmt: skip


@dataclass(frozen=True)
class Strike:
    """What happens when a line of the playbook's output is there; the playbook stands still meanwhile."""

    line: str
    """A regular expression."""
    do: str = ""
    """A command of the shell, on the host."""
    here: str = ""
    """Or one of this machine, as which ``testbed`` and ``host`` are there."""
    beside: bool = False
    """The playbook goes on meanwhile."""
    kills: bool = False
    """The playbook is killed when the command, if any, is done; it goes on until then."""


@dataclass(frozen=True)
class Row:
    """One fault."""

    stage: str
    fault: str
    when: str
    expected: str
    play: str
    """A name of PLAYS."""
    says: str = ""
    """What the struck run says, as a regular expression over its output with single blanks; what it matches is what
    the table tells as found."""
    ends: str = FAILS
    given: Mapping[str, Any] = field(default_factory=dict)
    """Variables of the struck run alone."""
    always: Mapping[str, Any] = field(default_factory=dict)
    """Variables of both runs."""
    before: str = ""
    """Commands of the shell on the host: the fault before the struck run,"""
    strikes: tuple[Strike, ...] = ()
    keeps: str = ""
    """what holds after it, before anything is mended,"""
    mend: str = ""
    """what an operator does,"""
    then: str = ""
    """what the next run says,"""
    after: str = ""
    """and what holds at last."""
    mend_here: str = ""
    """What is done on this machine after the struck run."""
    loses: bool = False
    """Whether the fault itself takes or alters what was published, which the next run makes again."""
    repair: Optional[str] = None
    """Another play than *play* that repairs."""
    host: str = "serving"
    """Which kind of host: ``serving`` or ``gpu``."""
    limit: int = 300
    """Seconds of the row."""

    @property
    def name(self) -> str:
        """What ``--only`` looks at."""
        return f"{self.stage}: {self.fault}, {self.when}"
