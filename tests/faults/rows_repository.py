# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of model repositories and tokenizers."""

from __future__ import annotations

from typing import Any

from .blows import CLOCK, CLOCK_RIGHT, MODULE
from .lab import SCRATCH
from .rows import FAILS, GOES_ON, KILLED, Row, Strike
from .scratch import FEW_INODES, FILL, FRESH, MANY_INODES

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


RENDERS = r"TASK \[trtllm.fleet.model_repository : Ensure that the model repositories are rendered"
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
    repository(
        "module killed",
        "while it renders",
        "told; nothing half made",
        before="rm -r /var/lib/trtllm/repositories/tiny-llama",
        ends=FAILS,
        strikes=(Strike(RENDERS, beside=True, do=MODULE),),
    ),
    repository(
        "controller killed",
        "while it renders",
        "nothing half made",
        before="rm -r /var/lib/trtllm/repositories/tiny-llama",
        ends=KILLED,
        strikes=(Strike(RENDERS, kills=True, do="sleep 0.3"),),
    ),
    repository(
        "host lost",
        "while it renders",
        "named as lost; the next run renders",
        # The host boots with what serves.
        before=PLACE + "echo '# mine' >> tensorrt_llm/config.pbtxt",
        after=PLACE + "! grep -q mine tensorrt_llm/config.pbtxt",
        ends=FAILS,
        strikes=(Strike(RENDERS, here="$testbed cut $host"),),
        # So soon the power may not be off yet.
        mend_here="sleep 5; $testbed start $host || { sleep 5; $testbed start $host; }",
    ),
    repository(
        "clock a day ahead",
        "before the run",
        "no difference",
        before="rm -r /var/lib/trtllm/repositories/tiny-llama; " + CLOCK.format("+1d"),
        mend=CLOCK_RIGHT,
    ),
    repository(
        "disk read-only",
        "before the run",
        "told",
        ends=FAILS,
        before=(
            "rm -r /var/lib/trtllm/repositories/tiny-llama; cd /var/lib/trtllm/repositories; mount "
            "--bind . . && mount -o remount,ro,bind ."
        ),
        mend="umount /var/lib/trtllm/repositories",
    ),
    repository(
        "disk full",
        "before the run",
        "told; nothing half made",
        ends=FAILS,
        before="cd /var/lib/trtllm && rm -r repositories/tiny-llama; mount -t tmpfs -o size=8k faults repositories",
        mend="umount /var/lib/trtllm/repositories",
    ),
    repository(
        "inodes gone",
        "before the run",
        "told; nothing half made",
        ends=FAILS,
        before="cd /var/lib/trtllm && rm -r repositories/tiny-llama; mount -t tmpfs -o nr_inodes=6 faults repositories",
        mend="umount /var/lib/trtllm/repositories",
    ),
)

TOKENIZER = f"ls {SCRATCH}/tokenizers/tiny-llama/*/tokenizer.json"
INSTALLS = r"TASK \[trtllm.fleet.tokenizer : Install the tokenizers"
HAVE = f"mkdir -p {SCRATCH}/tokenizers/tiny-llama; "


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
        "host lost",
        "while it is installed",
        "named as lost; the next run installs it",
        strikes=(Strike(INSTALLS, here="$testbed cut $host"),),
        mend_here="$testbed start $host",
    ),
    tokenizer(
        "clock a day ahead",
        "before the run",
        "no difference",
        ends=GOES_ON,
        before=CLOCK.format("+1d"),
        mend=CLOCK_RIGHT,
    ),
    tokenizer(
        "disk full",
        "before the run",
        "told; nothing published",
        before=FILL.format(0),
        mend=f"rm {SCRATCH}/full",
        keeps=f"! {TOKENIZER} 2> /dev/null",
    ),
    tokenizer(
        "inodes gone",
        "before the run",
        "told; nothing published",
        before=FEW_INODES.format(3),
        mend=MANY_INODES,
        keeps=f"! {TOKENIZER} 2> /dev/null",
    ),
    tokenizer(
        "disk read-only",
        "before the run",
        "told",
        before=f"mount -o remount,ro {SCRATCH}",
        mend=f"mount -o remount,rw {SCRATCH}",
    ),
    tokenizer(
        "file altered",
        "after the run before",
        "found, brought again",
        ends=GOES_ON,
        strikes=(Strike(r"PLAY RECAP", do=f"printf x >> $({TOKENIZER})"),),
        keeps=f"{TOKENIZER}",
        then="changed=[1-9]",
    ),
    tokenizer(
        "file removed",
        "after the run before",
        "found, brought again",
        ends=GOES_ON,
        strikes=(Strike(r"PLAY RECAP", do=f"rm $({TOKENIZER})"),),
        then="changed=[1-9]",
    ),
)
ROWS: tuple[Row, ...] = (*TOKENIZERS, *REPOSITORIES)
