# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures for pages that have neither scripts nor other files: SVG, as text.

Colours, lines and letters are the page's style sheet's, by class, so that they follow its colour scheme. Each series
has a shape too: nothing is told by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

SERIES = 6  # classes s0 to s5 of the style sheet


@dataclass(frozen=True)
class Series:
    """Points of one line, each with what it says of itself."""

    name: str
    points: Sequence[tuple[float, float, str]]
    bars: Sequence[tuple[float, float]] = field(default_factory=tuple)  # by point from where to where it varies


def number(value: float) -> str:
    """A number as people read it: three digits that count."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def ticks(lowest: float, highest: float, count: int = 5) -> list[float]:
    """About *count* round numbers from *lowest* to *highest*."""
    span = (highest - lowest) or 1.0
    step = 10.0 ** math.floor(math.log10(span / count))
    step *= next((by for by in (1, 2, 5, 10) if span / (step * by) <= count), 10)
    first = math.ceil(lowest / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(highest / step + 1e-9) + 1)]


def coordinate(value: float) -> str:
    """A length, short."""
    return f"{value:.1f}".removesuffix(".0")


def shape(series: int, x: float, y: float, title: str, size: float = 4.5) -> Markup:
    """The mark of a series at a place."""
    at, wide = coordinate, size + 1
    drawn = (
        f'<circle cx="{at(x)}" cy="{at(y)}" r="{at(size)}"',
        f'<rect x="{at(x - size)}" y="{at(y - size)}" width="{at(2 * size)}" height="{at(2 * size)}"',
        f'<path d="M{at(x)} {at(y - wide)}L{at(x + wide)} {at(y + size)}H{at(x - wide)}Z"',
        f'<path d="M{at(x)} {at(y - wide)}l{at(wide)} {at(wide)}l{at(-wide)} {at(wide)}l{at(-wide)} {at(-wide)}Z"',
        f'<path d="M{at(x)} {at(y + wide)}L{at(x + wide)} {at(y - size)}H{at(x - wide)}Z"',
        f'<rect x="{at(x - size)}" y="{at(y - 2)}" width="{at(2 * size)}" height="4"',
    )[series % SERIES]
    return Markup('{} class="s{}"><title>{}</title></{}>').format(
        Markup(drawn), series % SERIES, title, Markup(drawn[1:].partition(" ")[0])
    )


def picture(width: float, height: float, title: str, parts: Iterable[Markup], style: str = "plot") -> Markup:
    """A whole SVG with a title for those who hear the page."""
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        style, coordinate(width), coordinate(height), title, Markup("").join(parts)
    )


def text(x: float, y: float, words: object, anchor: str = "start", style: str = "") -> Markup:
    """A line of text."""
    return Markup('<text x="{}" y="{}"{}{}>{}</text>').format(
        coordinate(x),
        coordinate(y),
        Markup(f' text-anchor="{anchor}"') if anchor != "start" else "",
        Markup(' class="{}"').format(style) if style else "",
        words,
    )


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    """A straight line."""
    return Markup('<path class="{}" d="M{} {}L{} {}"/>').format(style, *map(coordinate, (x1, y1, x2, y2)))


@dataclass(frozen=True)
class Frame:
    """Where values are in a picture; both axes begin at 0."""

    width: float
    height: float
    x_most: float
    y_most: float
    left: float = 52
    right: float = 14
    top: float = 26
    bottom: float = 40

    def x(self, value: float) -> float:
        """The place of a value of the x axis."""
        return self.left + (self.width - self.left - self.right) * value / self.x_most

    def y(self, value: float) -> float:
        """The place of a value of the y axis."""
        return self.height - self.bottom - (self.height - self.top - self.bottom) * value / self.y_most


def plot(
    series: Sequence[Series],
    title: str,
    x_label: str,
    y_label: str,
    width: float = 520,
    height: float = 300,
    x_values: Sequence[float] = (),
) -> Markup:
    """Lines through points. *x_values*: x stands for places in this row, each as wide as the others."""
    places = {value: index + 0.5 for index, value in enumerate(x_values)}
    at = (lambda value: places[value]) if places else (lambda value: value)
    xs = [at(x) for one in series for x, _y, _says in one.points]
    ys = [y for one in series for _x, y, _says in one.points] + [most for one in series for _least, most in one.bars]
    if not xs:
        return Markup("")
    frame = Frame(width, height, float(len(places)) or max(xs) * 1.05 or 1.0, max(ys) * 1.08 or 1.0)
    floor, parts = frame.y(0), []
    for value in ticks(0, frame.y_most):
        parts.append(line(frame.left, frame.y(value), width - frame.right, frame.y(value), "grid"))
        parts.append(text(frame.left - 6, frame.y(value) + 4, number(value), "end"))
    for value in x_values or ticks(0, frame.x_most, 5):
        parts.append(text(frame.x(at(value)), floor + 16, number(value), "middle"))
    parts.append(line(frame.left, floor, width - frame.right, floor, "axis"))
    parts.append(text(frame.left, 14, y_label, style="label"))
    parts.append(text(width - frame.right, height - 6, x_label, "end", "label"))
    for index, one in enumerate(series):
        points = [(frame.x(at(x)), frame.y(y), says) for x, y, says in one.points]
        way = "L".join(f"{coordinate(x)} {coordinate(y)}" for x, y, _says in points)
        parts += [
            line(points[number_][0], frame.y(least), points[number_][0], frame.y(most), f"bar s{index % SERIES}")
            for number_, (least, most) in enumerate(one.bars)
        ]
        parts.append(Markup('<path class="way s{}" d="M{}"/>').format(index % SERIES, way))
        parts += [shape(index, x, y, f"{one.name}: {says}") for x, y, says in points]
    return picture(width, height, title, parts)


def legend(names: Sequence[str]) -> Markup:
    """Which shape is whose."""
    items = [
        Markup('<li><svg viewBox="0 0 14 14" aria-hidden="true" class="key">{}</svg>{}</li>').format(
            shape(index, 7, 7, ""), name
        )
        for index, name in enumerate(names)
    ]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))


@dataclass(frozen=True)
class Event:
    """What happened in a row of a time line from when to when, in seconds since the epoch."""

    row: str
    begin: float
    end: float
    style: str
    says: str


MARKS = {  # by outcome: a shape of its own
    "good": "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0 -12 0Z",
    "back": "M0 -7l7 7l-7 7l-7 -7Z",
    "open": "M-6 -6h12v12h-12Z",
    "new": "M0 -7l7 12h-14Z",
}


def time_line(
    events: Sequence[Event],
    rows: Sequence[str],
    title: str,
    labels: Sequence[tuple[float, str]],
    span: tuple[float, float],
    width: float = 720,
    name_width: float = 110,
) -> Markup:
    """A row for each of *rows*, and what happened in them at its time. *labels*: words under the axis."""
    row_height, top = 26.0, 8.0
    height = top + row_height * len(rows) + 30
    begin, end = span
    scale = (width - name_width - 24) / ((end - begin) or 1.0)

    def x(time: float) -> float:
        return name_width + 10 + (time - begin) * scale

    floor, parts = top + row_height * len(rows), []
    for time, words in labels:
        parts.append(line(x(time), top, x(time), floor, "grid"))
        anchor = "middle" if name_width + 40 < x(time) < width - 40 else "end" if x(time) >= width - 40 else "start"
        parts.append(text(x(time), floor + 18, words, anchor))
    most = max(4, int((name_width - 8) / 7))
    for index, row in enumerate(rows):
        middle = top + row_height * (index + 0.5)
        parts.append(line(name_width, middle, width - 8, middle, "grid"))
        shown = row if len(row) <= most else f"{row[: most - 1]}…"
        parts.append(text(name_width - 6, middle + 4, shown, "end"))
    place = {row: top + row_height * (index + 0.5) for index, row in enumerate(rows)}
    for event in events:
        left, right, middle = x(event.begin), x(event.end), place[event.row]
        if right - left > 6:
            parts.append(line(left, middle, right, middle, f"span {event.style}"))
        parts.append(
            Markup('<path class="mark {}" transform="translate({} {})" d="{}"><title>{}</title></path>').format(
                event.style, coordinate(right), coordinate(middle), MARKS[event.style], event.says
            )
        )
    return picture(width, height, title, parts, "plot line")


def mark(style: str) -> Markup:
    """The mark of an outcome, in a line of text."""
    return Markup(
        '<svg viewBox="-8 -8 16 16" aria-hidden="true" class="key"><path class="mark {}" d="{}"/></svg>'
    ).format(escape(style), MARKS[style])
