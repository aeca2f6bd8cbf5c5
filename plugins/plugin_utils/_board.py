# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One live table of all work that takes long, below what Ansible prints.

A task's plugin runs in a process of its own, a fork, and what it displays goes through Ansible's queue to the process
that has the terminal. What it tells of its work takes the same way, as a line that begins with `MARK`; `Stream`, which
stands there for stdout, takes such lines out, and keeps the table below all others. So everything happens under the
lock of Ansible's display, in the order in which it was said.
"""

from __future__ import annotations

import json
import os
import threading
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from ansible_collections.trtllm.fleet.plugins.module_utils._base.sizes import gib

MARK = "\x1etrtllm.fleet.progress "
AFTER = 5.0  # seconds after which a task that tells nothing has a row too
PAINT = 0.1  # seconds that the table stays as it is at least, whatever is printed above it
BAR = 12  # characters
SPARE = 3  # lines of the terminal that are left to Ansible at least
HOST, WHAT = 28, 44  # characters of a column at most
FAILED = "rolled back"
OVER = ("passed", "started", "built", FAILED)  # steps of a rollout's journal with which a host is done


def duration(seconds: float) -> str:
    """``75`` -> ``1m15s``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def message(host: str = "", what: str = "", **told: Any) -> str:
    """What a worker displays so that the table has a row; without a host, so that it is painted again."""
    return MARK + (json.dumps({"host": host, "what": what, **told}) if host else "")


def wide(text: str) -> int:
    """The columns of a terminal that it takes."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def clean(text: str) -> str:
    """In one line, and with nothing in it that a terminal would obey: parts of it come from hosts."""
    return "".join(" " if unicodedata.category(letter)[0] in "CZ" else letter for letter in text).strip()


def clipped(text: str, columns: int) -> str:
    """As much of it as fits."""
    if wide(text) <= columns:
        return text
    while text and wide(text) >= columns:
        text = text[:-1]
    return text + "…"


@dataclass
class Row:
    """Work on one host."""

    host: str
    what: str
    since: float
    done: float = 0
    total: float = 0
    rate: float = 0
    left: float | None = None
    said: str = ""

    def words(self, now: float) -> str:
        """All but what the columns before it say."""
        left = (self.total - self.done) / self.rate if self.left is None and self.total and self.rate else self.left
        words = [duration(now - self.since) if left is None else f"{duration(max(0.0, left))} left"]
        if self.done or self.total:
            words.append(f"{gib(self.done)} of {gib(self.total)}" if self.total else gib(self.done))
        if self.rate:
            words.append(f"{gib(self.rate)}/s")
        return "  ".join([*words, self.said] if self.said else words)

    def bar(self) -> str:
        if not self.total:
            return ""
        share = min(1.0, self.done / self.total)
        full = int(share * BAR)
        return f"[{'#' * full}{'-' * (BAR - full)}] {share:4.0%}"


@dataclass
class Rollout:
    """How far a rollout is, from its plan and its journal."""

    hosts: Sequence[str]
    batches: Sequence[Sequence[str]]
    steps: dict[str, str] = field(default_factory=dict)
    batch: int = 0

    @classmethod
    def of(cls, plan: Mapping[str, Any]) -> Rollout:
        """From what the filter P(trtllm.fleet.rollout_plan#filter) returns."""
        return cls([*plan["started"], *plan["switched"]], plan["batches"])

    def step(self, host: str, step: str) -> None:
        if host in self.hosts:
            self.steps[host] = step
            self.batch = next((number for number, batch in enumerate(self.batches, 1) if host in batch), self.batch)

    def line(self) -> str:
        """Where it stands; "" where it has nothing to do any more."""
        over = [step for step in self.steps.values() if step in OVER]
        if len(over) >= len(self.hosts):
            return ""
        failed = over.count(FAILED)
        words = [f"rollout: {len(over)} of {len(self.hosts)} hosts done"]
        words += [f"batch {self.batch} of {len(self.batches)}"] if self.batch else []
        return ", ".join([*words, f"{failed} {FAILED}"] if failed else words)


class Board:
    """What is being done on which host, and the table of it."""

    def __init__(self, after: float = AFTER, clock: Callable[[], float] = time.monotonic) -> None:
        self.after, self.clock = after, clock
        self.rollout: Rollout | None = None
        self._rows: dict[tuple[str, str], Row] = {}
        self._tasks: dict[str, tuple[str, Row]] = {}  # host -> the task that it is at
        self._lock = threading.Lock()  # held for no longer than it takes to read or change what is here

    def begin(self, host: str, task: str, name: str) -> None:
        """The host is at this task."""
        with self._lock:
            self._tasks[host] = (task, Row(clean(host), clean(name), self.clock()))

    def end(self, host: str, task: str) -> None:
        """It has done it, whatever the work in it said last."""
        with self._lock:
            if self._tasks.get(host, ("",))[0] == task:
                del self._tasks[host]
            for key in [key for key in self._rows if key[0] == host]:
                del self._rows[key]

    def tell(self, told: Mapping[str, Any]) -> None:
        """What `message` was made of."""
        given = dict(told)
        host, what, over = str(given.pop("host")), clean(str(given.pop("what"))), given.pop("over", False)
        with self._lock:
            known = self._rows.pop((host, what), None)
            if not over:
                given["said"] = clean(str(given.get("said", "")))
                self._rows[host, what] = Row(clean(host), what, known.since if known else self.clock(), **given)

    def rows(self) -> list[Row]:
        """The oldest first, as that is what the run waits for."""
        now = self.clock()
        with self._lock:
            told = list(self._rows.values())
            hosts = {row.host for row in told}
            silent = [row for _task, row in self._tasks.values() if now - row.since >= self.after]
        return sorted(
            [*told, *(row for row in silent if row.host not in hosts)], key=lambda row: (row.since, row.host, row.what)
        )

    def lines(self, columns: int, height: int) -> list[str]:
        """The table, in as much room; nothing where there is nothing to show."""
        rows, rollout = self.rows(), self.rollout.line() if self.rollout else ""
        if not (rows or rollout) or height < 2:
            return []
        hosts = len({row.host for row in rows})
        words = [f"{hosts} host{'' if hosts == 1 else 's'} at work"] if rows else []
        counted = [row for row in rows if row.total]
        if len(counted) > 1:
            words.append(f"{gib(sum(row.done for row in counted))} of {gib(sum(row.total for row in counted))}")
        head = f"-- {', '.join(words)}{' | ' if words and rollout else ''}{rollout} "
        room = height - 1 if len(rows) < height else height - 2
        shown, now = rows[:room], self.clock()
        host, what, bar = (
            max((wide(text) for text in column), default=0)
            for column in (
                [clipped(row.host, HOST) for row in shown],
                [clipped(row.what, WHAT) for row in shown],
                [row.bar() for row in shown],
            )
        )
        found = [head + "-" * (columns - wide(head) - 1)]
        for row in shown:
            cells = [_padded(row.host, host, HOST), _padded(row.what, what, WHAT)]
            cells += [row.bar().ljust(bar)] if bar else []
            found.append("  ".join([*cells, row.words(now)]))
        if len(rows) > len(shown):
            found.append(f"and {len(rows) - len(shown)} more")
        return [clipped(line, columns - 1) for line in found]


def _padded(text: str, columns: int, most: int) -> str:
    text = clipped(text, most)
    return text + " " * (columns - wide(text))


class Screen:
    """A terminal with a table below what is printed."""

    def __init__(self, board: Board, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.board, self.stream, self.clock = board, stream, clock
        self.held = False  # as long as somebody else asks the operator something
        self._painted: list[str] = []
        self._painted_at = -PAINT
        self._at_start = True  # of a line

    def size(self) -> tuple[int, int]:
        try:
            found = os.get_terminal_size(self.stream.fileno())
        except OSError:
            return 80, 24
        return found.columns or 80, found.lines or 24

    def print(self, stream: TextIO, text: str) -> None:
        """Text of anybody's, above the table."""
        erase = self._erase()
        if stream is self.stream:
            stream.write(erase + text)
        else:
            self.stream.write(erase)
            self.stream.flush()
            stream.write(text)
        self._at_start = text.endswith("\n") if text else self._at_start
        if self.clock() - self._painted_at >= PAINT:
            self.paint()
        stream.flush()

    def paint(self) -> None:
        """The table as it is by now."""
        columns, height = self.size()
        usable = self._at_start and not self.held
        lines = self.board.lines(columns, min(height - SPARE, max(8, height // 2))) if usable else []
        if lines or self._painted:
            self.stream.write(self._erase() + "".join(f"{line}\n" for line in lines))
            self.stream.flush()
            self._painted, self._painted_at = lines, self.clock()

    def clear(self) -> None:
        """Without the table."""
        if self._painted:
            self.stream.write(self._erase())
            self.stream.flush()

    def _erase(self) -> str:
        """What takes the table away; lines may have been broken by a terminal that is narrower by now."""
        columns = self.size()[0]
        up = sum(max(1, -(-wide(line) // columns)) for line in self._painted)
        self._painted = []
        return f"\r\x1b[{up}A\x1b[J" if up else ""


class Stream:
    """Stands for a stream of the terminal, and hands what is written to the screen."""

    def __init__(self, stream: TextIO, screen: Screen) -> None:
        self._stream, self._screen = stream, screen

    def write(self, text: str) -> int:
        if text.startswith(MARK):
            told = text[len(MARK) :].strip()
            if told:
                self._screen.board.tell(json.loads(told))
            self._screen.paint()
        elif text:
            self._screen.print(self._stream, text)
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Live:
    """Whether there is a table; workers are forks and so know it."""

    on = False


def live() -> bool:
    return _Live.on


def set_live(on: bool) -> None:
    _Live.on = on
