# SPDX-License-Identifier: GPL-3.0-or-later
"""The live table: what its rows say, and that it is where it should be and nowhere else."""

from __future__ import annotations

import io
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.plugin_utils import _board
from terminal import Terminal

GIB = 1 << 30


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Written(io.StringIO):
    """A stream that writes to the terminal."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self.terminal = terminal

    def write(self, text: str) -> int:
        self.terminal.feed(text)
        return len(text)


class Place:
    """A screen on a terminal, and the stream that stands for stdout."""

    def __init__(self, columns: int = 80, height: int = 24) -> None:
        self.clock, self.terminal = Clock(), Terminal(columns, height)
        self.board = _board.Board(5, self.clock)
        self.screen = _board.Screen(self.board, Written(self.terminal), self.clock)
        self.screen.size = lambda: (self.terminal.columns, self.terminal.height)  # type: ignore[method-assign]
        self.stdout = _board.Stream(self.screen.stream, self.screen)

    def tell(self, host: str, what: str, **told: Any) -> None:
        self.stdout.write(_board.message(host, what, **told) + "\n")

    @property
    def shown(self) -> list[str]:
        return [line for line in self.terminal.lines if line]


@pytest.fixture
def place() -> Place:
    return Place()


def test_rows_have_how_much_how_fast_and_how_long(place: Place) -> None:
    place.tell("gpu-1", "image t:1", done=2 * GIB, total=8 * GIB, rate=GIB / 10, said="pull")
    place.tell("gpu-10", "engine llama", said="phase 2/3 build")
    place.clock.now += 75
    place.tell("gpu-2", "image t:1", done=8 * GIB, total=8 * GIB, rate=GIB / 10, left=0)
    assert place.shown == [
        "-- 3 hosts at work, 10.0 GiB of 16.0 GiB " + "-" * 38,
        "gpu-1   image t:1     [###---------]  25%  1m00s left  2.0 GiB of 8.0 GiB  102…",
        "gpu-10  engine llama                       1m15s  phase 2/3 build",
        "gpu-2   image t:1     [############] 100%  0s left  8.0 GiB of 8.0 GiB  102.4 …",
    ]


def test_what_is_printed_stands_above_it_and_what_is_over_leaves_nothing(place: Place) -> None:
    place.stdout.write("TASK [a] ****\n")
    place.tell("h1", "image a", done=1, said="pull")
    place.stdout.write("ok: [h2]\n")
    place.stdout.write("ok: [h3]\n")
    place.clock.now += 1
    place.tell("h1", "image a", done=1 << 20, said="pull")
    assert place.shown[:3] == ["TASK [a] ****", "ok: [h2]", "ok: [h3]"]
    assert place.shown[4] == "h1  image a  1s  1.0 MiB  pull" and len(place.shown) == 5
    place.tell("h1", "image a", over=True)
    place.stdout.write("changed: [h1]\n")
    assert place.shown == ["TASK [a] ****", "ok: [h2]", "ok: [h3]", "changed: [h1]"]


def test_a_task_has_a_row_once_it_takes_long(place: Place) -> None:
    place.board.begin("h1", "t1", "Ensure that the driver is installed")
    place.board.begin("h2", "t1", "Ensure that the driver is installed")
    place.stdout.write(_board.message() + "\n")
    assert place.shown == []
    place.clock.now += 22
    place.board.end("h2", "t1")
    place.stdout.write(_board.message() + "\n")
    assert place.shown[1:] == ["h1  Ensure that the driver is installed  22s"]
    place.board.begin("h1", "t2", "The next")
    place.board.end("h1", "t1")  # its result may come late
    place.clock.now += 6
    place.stdout.write(_board.message() + "\n")
    assert place.shown[1:] == ["h1  The next  6s"]


def test_work_that_says_how_far_it_is_takes_the_row_of_its_task_and_goes_with_it(place: Place) -> None:
    place.board.begin("h1", "t1", "Ensure that images are there")
    place.clock.now += 10
    place.tell("h1", "image a", said="pull")
    assert len(place.shown) == 2 and "image a" in place.shown[1]
    place.board.end("h1", "t1")  # the worker was killed and said nothing
    place.stdout.write(_board.message() + "\n")
    assert place.shown == []


def test_a_fleet_is_more_than_a_terminal_has_lines_for() -> None:
    place = Place(height=20)
    for number in range(200):
        place.tell(f"gpu-{number:03}", "image a", said="pull")
    assert len(place.shown) == 10
    assert place.shown[0].startswith("-- 200 hosts at work ---")
    assert place.shown[1].startswith("gpu-000") and place.shown[-1] == "and 192 more"
    for number in range(200):
        place.tell(f"gpu-{number:03}", "image a", over=True)
    assert place.shown == []


@pytest.mark.parametrize("height", [1, 3, 4])
def test_a_terminal_of_few_lines_has_none(height: int) -> None:
    place = Place(height=height)
    place.tell("h1", "image a", said="pull")
    assert place.shown == []


def test_a_terminal_that_becomes_narrow_breaks_lines_which_go_too() -> None:
    place = Place(columns=80)
    place.stdout.write("above\n")
    place.tell("h1", "image a", said="x" * 60)
    # as a terminal does it: what was one line is two
    broken = [line[start : start + 40] for line in place.terminal.lines for start in range(0, max(len(line), 1), 40)]
    place.terminal.rows = [list(line) for line in broken]
    place.terminal.columns, place.terminal.row = 40, len(broken) - 1
    place.tell("h1", "image a", over=True)
    assert place.shown == ["above"]


def test_nothing_of_a_host_moves_the_cursor(place: Place) -> None:
    place.tell("h\x1b[2J1", "image\ta", said="\x1b[31mred\r\nnext\x07 模型")
    assert place.shown[1] == "h [2J1  image a  0s  [31mred  next  模型"
    assert _board.clipped("模型模型", 5) == "模型…" and _board.wide("模型…") == 5


def test_a_question_is_left_alone(place: Place) -> None:
    place.tell("h1", "image a", said="pull")
    place.stdout.write("Go on? ")
    place.stdout.write(_board.message() + "\n")
    assert place.shown == ["Go on?"]
    place.stdout.write("\n")
    place.screen.held = True
    place.stdout.write("another line\n")
    assert place.shown == ["Go on?", "another line"]
    place.screen.held = False
    place.clock.now += 1
    place.stdout.write(_board.message() + "\n")
    assert len(place.shown) == 4
    place.screen.clear()
    assert place.shown == ["Go on?", "another line"]


def test_a_rollout_stands_in_the_head_until_all_hosts_are_done(place: Place) -> None:
    plan = {"started": ["h1"], "switched": ["h2", "h3", "h4"], "batches": [["h2"], ["h3", "h4"]]}
    rollout = place.board.rollout = _board.Rollout.of(plan)
    assert rollout.line() == "rollout: 0 of 4 hosts done"
    place.board.tell({"host": "h3", "what": "engine m", "said": ""})
    for host, step in (("h1", "started"), ("h2", "switching"), ("h2", "passed"), ("h3", "switching"), ("x", "passed")):
        rollout.step(host, step)
    (head, _row) = place.board.lines(80, 10)
    assert head.startswith("-- 1 host at work | rollout: 2 of 4 hosts done, batch 2 of 2 ---")
    rollout.step("h3", "rolled back")
    assert rollout.line() == "rollout: 3 of 4 hosts done, batch 2 of 2, 1 rolled back"
    rollout.step("h4", "passed")
    assert rollout.line() == ""
