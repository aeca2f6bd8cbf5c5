# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of model repositories and tokenizers."""

from __future__ import annotations

from typing import Any

from .blows import MODULE
from .lab import SCRATCH
from .rows import GOES_ON, KILLED, Row, Strike

FRESH = f"rm -rf {SCRATCH}/* {SCRATCH}/.[!.]*; "
REPOSITORY = "ls /var/lib/trtllm/repositories/tiny-llama/*/tensorrt_llm/config.pbtxt"
PLACE = "cd $(ls -d /var/lib/trtllm/repositories/tiny-llama/*/ | head -n 1) && "


def repository(fault: str, when: str, expected: str, **about: Any) -> Row:
    return Row(
        "model_repository",
        fault,
        when,
        expected,
        about.pop("play", "model"),
        ends=about.pop("ends", GOES_ON),
        loses=about.pop("loses", True),
        after=about.pop("after", REPOSITORY),
        **about,
    )


REPOSITORIES = (
    repository(
        "config.pbtxt altered by hand",
        "before the run",
        "found, rendered anew",
        before=PLACE + "echo '# mine' >> tensorrt_llm/config.pbtxt",
        keeps=PLACE + "! grep -q mine tensorrt_llm/config.pbtxt",
    ),
    repository("a directory of it removed", "before the run", "rendered anew", before=PLACE + "rm -r preprocessing"),
    repository(
        "all of it removed",
        "before the run",
        "rendered anew",
        before="rm -r /var/lib/trtllm/repositories/tiny-llama",
    ),
    repository("manifest unreadable", "before the run", "rendered anew", before=PLACE + "echo '{' > manifest.json"),
)

TOKENIZER = f"ls {SCRATCH}/tokenizers/tiny-llama/*/tokenizer.json"
INSTALLS = r"TASK \[trtllm.fleet.tokenizer : Install the tokenizers"


def tokenizer(fault: str, when: str, expected: str, **about: Any) -> Row:
    """A row of a tokenizer, which is not there before."""
    about["before"] = FRESH + about.get("before", "")
    return Row("tokenizer", fault, when, expected, "tokenizer", after=TOKENIZER, **about)


TOKENIZERS = (
    tokenizer(
        "controller killed",
        "while it is installed",
        "nothing half made",
        ends=KILLED,
        strikes=(Strike(INSTALLS, kills=True, do="sleep 0.4"),),
    ),
    tokenizer(
        "module killed",
        "while it is installed",
        "told; nothing half made",
        strikes=(Strike(INSTALLS, beside=True, do=MODULE),),
    ),
    tokenizer(
        "inodes gone",
        "before the run",
        "told; nothing published",
        before=f"mount -o remount,nr_inodes=$(( $(df --output=iused {SCRATCH} | tail -n 1) + 3 )) {SCRATCH}",
        mend=f"mount -o remount,nr_inodes=0 {SCRATCH}",
        keeps=f"! {TOKENIZER} 2> /dev/null",
    ),
)
ROWS: tuple[Row, ...] = (*TOKENIZERS, *REPOSITORIES)
