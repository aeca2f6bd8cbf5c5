# SPDX-License-Identifier: GPL-3.0-or-later
"""A terminal as far as the table of what takes long asks one for something; it refuses all that it does not know."""

from __future__ import annotations

import re

SEQUENCE = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])")


class Terminal:
    """What is on it, with all that has scrolled off its upper end."""

    def __init__(self, columns: int = 80, height: int = 24) -> None:
        self.columns, self.height = columns, height
        self.rows: list[list[str]] = [[]]
        self.row = self.column = 0

    @property
    def lines(self) -> list[str]:
        return ["".join(row).rstrip() for row in self.rows]

    def feed(self, text: str) -> None:
        place = 0
        while place < len(text):
            sequence = SEQUENCE.match(text, place)
            if sequence:
                self._obey(sequence[2], sequence[1])
                place = sequence.end()
            else:
                self._put(text[place])
                place += 1

    def _obey(self, command: str, given: str) -> None:
        if command == "A":
            top = max(0, len(self.rows) - self.height)
            assert self.row - int(given) >= top, "the cursor would leave the screen"
            self.row -= int(given)
        elif command == "J" and not given:
            assert self.column == 0
            self.rows[self.row :] = [[]]
        else:
            assert command == "m", f"unknown sequence {given}{command}"

    def _put(self, letter: str) -> None:
        if letter == "\r":
            self.column = 0
        elif letter == "\n":
            self._next()
        else:
            assert letter.isprintable(), f"unknown control character {letter!r}"
            if self.column == self.columns:
                self._next()
            row = self.rows[self.row]
            row.extend(" " * (self.column + 1 - len(row)))
            row[self.column] = letter
            self.column += 1

    def _next(self) -> None:
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.rows):
            self.rows.append([])
