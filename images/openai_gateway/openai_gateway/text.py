# SPDX-License-Identifier: GPL-3.0-or-later
"""Turn Triton's pieces of text into what a client may see: whole characters, nothing of a stop sequence."""

from __future__ import annotations

from collections.abc import Sequence

REPLACEMENT = "\ufffd"  # what a tokenizer writes for the bytes of a character that is not complete yet


class StopFilter:
    """Cut text at the first stop sequence, wherever the borders of the pieces lie.

    "First" is the sequence that is complete first; of two complete at the same character the longer one. That
    is where a model that is asked token by token would have stopped, and it does not depend on how the text
    is cut into pieces.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        """*include*: show the sequence that was found."""
        self._stops = [stop for stop in stops if stop]
        self._include = include
        self._held = ""
        self.hit: str | None = None

    def feed(self, piece: str) -> str:
        """What is safe to show after *piece*; nothing more once a stop sequence was found."""
        if not self._stops:
            return piece
        if self.hit is not None:
            return ""
        text = self._held + piece
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            end, start, self.hit = min(found)
            self._held = ""
            return text[: end if self._include else start]
        keep = self._possible_start(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back for a stop sequence that did not come."""
        held, self._held = self._held, ""
        return held

    def _possible_start(self, text: str) -> int:
        """The length of the longest end of *text* that a stop sequence may begin with."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            tail = text[len(text) - length :]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0


class TextAssembler:
    """Collect text_output of successive responses and release it in whole characters.

    *cumulative*: each response repeats everything so far; otherwise each brings only what is new. An end made
    of U+FFFD is kept back, for it may be the first bytes of a character; so are spaces at the end in
    cumulative mode, because a tokenizer's clean-up may still take them away (" ." becomes "."). What is left
    of a character at the very end is not shown where the limit of tokens cut it off.
    """

    def __init__(self, cumulative: bool) -> None:
        self._cumulative = cumulative
        self._so_far = ""  # cumulative: the last response
        self._shown = 0
        self._parts: list[str] = []  # otherwise: all that came
        self._held = ""

    @property
    def text(self) -> str:
        """All that came, complete or not."""
        return self._so_far if self._cumulative else "".join(self._parts)

    def feed(self, piece: str) -> str:
        """The text that *piece* completes."""
        if self._cumulative:
            self._so_far = piece
            return self._release(piece.rstrip(REPLACEMENT).rstrip(" "))
        self._parts.append(piece)
        if self._held:
            piece = self._held + piece
        whole = piece.rstrip(REPLACEMENT)
        self._held = piece[len(whole) :]
        return whole

    def join(self, pieces: Sequence[str]) -> str:
        """One piece that says what *pieces* say."""
        return pieces[-1] if self._cumulative else "".join(pieces)

    def flush(self, *, cut_off: bool) -> str:
        """The rest at the end of the answer; *cut_off*: the limit of tokens ended it."""
        if self._cumulative:
            return self._release(self._so_far.rstrip(REPLACEMENT) if cut_off else self._so_far)
        rest, self._held = self._held, ""
        return "" if cut_off else rest

    def _release(self, whole: str) -> str:
        new = whole[self._shown :]
        self._shown = max(self._shown, len(whole))
        return new


class AnswerText:
    """The pipeline of one answer: whole characters first, then the stop sequences."""

    def __init__(self, stops: Sequence[str], cumulative: bool, *, include_stop: bool = False) -> None:
        self._assembler = TextAssembler(cumulative)
        self._filter = StopFilter(stops, include=include_stop)
        self._parts: list[str] = []

    def feed(self, piece: str) -> str:
        """What a client may see after *piece*, possibly nothing yet."""
        return self._keep(self._filter.feed(self._assembler.feed(piece)))

    def feed_all(self, pieces: Sequence[str]) -> str:
        """Do the same for several pieces at once."""
        return self._keep(self._filter.feed(self._assembler.feed(self._assembler.join(pieces))))

    def finish(self, *, cut_off: bool) -> str:
        """The rest once Triton has said all; *cut_off*: the limit of tokens ended it."""
        rest = self._filter.feed(self._assembler.flush(cut_off=cut_off))
        return self._keep(rest + self._filter.flush())

    @property
    def stopped(self) -> bool:
        """Whether a stop sequence ended the answer."""
        return self._filter.hit is not None

    @property
    def hit(self) -> str | None:
        """The stop sequence that ended the answer."""
        return self._filter.hit

    @property
    def text(self) -> str:
        """All that was released so far."""
        return "".join(self._parts)

    @property
    def generated(self) -> str:
        """All that Triton wrote, what was cut off included."""
        return self._assembler.text

    def _keep(self, piece: str) -> str:
        if piece:
            self._parts.append(piece)
        return piece
