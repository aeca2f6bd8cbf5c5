#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Draw what `make demo` printed as a picture: a terminal in SVG, whose lines come as they came, only sooner.

    make demo 2>&1 | tee demo.log; tools/recording.py demo.log

Lines are those of the log; what is left out is tasks that say nothing, and digests are cut. Whoever has asked for less
movement, and whoever prints it, sees the whole at once. When a line came is worked out from the stages' times.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

from _stages import REPO, StageError, main_guard

OUT = REPO / "docs" / "pictures" / "demo.svg"
WIDTH, LINE, LEFT, TOP, COLUMNS = 880, 18, 18, 48, 104
PLAYS_FOR = 12.0  # seconds that the whole takes in the picture
# What is shown of the log, and in which colour class.
SHOWN = (
    (re.compile(r"^demo: (?!.*(try next|run it again|-\d+$))"), "say"),
    (re.compile(r"^root file system made|^localhost/\S+ sha256:.* built"), "dim"),
    (re.compile(r"^PLAY \["), "play"),
    (re.compile(r"^(host  system|demo  debian|batch  host  replica|-      demo  \S+-0|  +no engine of)"), "table"),
    (re.compile(r"^\w+ +: ok=\d+"), "good"),
    (re.compile(r"^  (you:|\S+: |usage:|streamed:)"), "chat"),
    (re.compile(r"^  [a-z.]+ +[\d.]+ s$"), "dim"),
)
STAGE = re.compile(r"^  ([a-z.]+) +([\d.]+) s$")
# The first words of a stage, as `make demo` says them.
BEGINS = {
    "testbed": "demo: preparing the testbed",
    "images": "demo: building the image triton_cpu",
    "checkpoint": "demo: making a tiny Llama",
    "host": "demo: booting the test host",
    "site.yml": "demo: running: ansible-playbook",
    "chat": "demo: asking the gateway",
}
STYLE = """
text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #d6deeb }
text { white-space: pre }
.say { fill: #8ecbff } .dim, .title { fill: #a8b3c2 } .play { fill: #c3a6ff } .table { fill: #d6deeb }
.good { fill: #9be27d; font-weight: bold } .chat { fill: #ffd479 } .typed { fill: #ffffff; font-weight: bold }
.line { opacity: 1 }
@media (prefers-reduced-motion: no-preference) {
  .line { animation: come .01s linear both; }
  @keyframes come { from { opacity: .3 } to { opacity: 1 } }
}
@media print { .line { animation: none } }
"""


@dataclass(frozen=True)
class Line:
    """A line of the picture: when it came, in seconds of the run."""

    text: str
    kind: str
    at: float


def times(log: list[str]) -> dict[str, float]:
    """The seconds of each stage, from the table at the end."""
    return {found[1]: float(found[2]) for line in log if (found := STAGE.match(line))}


def shown(log: list[str]) -> list[Line]:
    """The lines of the picture, each with its time: stages follow one another, and lines are spread over a stage."""
    seconds = times(log)
    if not seconds:
        raise StageError("the log has no table of stages at its end; give one of a run of `make demo` that ended well.")
    picked: list[tuple[str, str, str]] = []
    stage = "testbed"
    for line in log:
        stage = next((name for name, words in BEGINS.items() if line.startswith(words)), stage)
        kind = next((kind for pattern, kind in SHOWN if pattern.match(line)), None)
        if kind is None:
            continue
        text = re.sub(r" \*{3,}$", "", re.sub(r"sha256:[0-9a-f]{64}", "sha256:…", line.rstrip()))
        text = " ".join(text.split()) if kind == "good" else text
        picked += [(part, kind, stage) for part in wrapped(text)]
    lines: list[Line] = []
    begun = 0.0
    for name in BEGINS:
        own = [entry for entry in picked if entry[2] == name]
        length = seconds.get(name, 0.0) + (seconds.get("push", 0.0) if name == "images" else 0.0)
        lines += [Line(text, kind, begun + length * place / len(own)) for place, (text, kind, _) in enumerate(own)]
        begun += length
    return lines


def wrapped(text: str) -> list[str]:
    """*text* in lines that fit; what goes on is set in."""
    parts = []
    while len(text) > COLUMNS:
        cut = text.rfind(" ", 0, COLUMNS)
        cut = cut if cut > COLUMNS // 2 else COLUMNS
        parts.append(text[:cut])
        text = "              " + text[cut:].lstrip()
    return [*parts, text]


def picture(lines: list[Line], seconds: float) -> str:
    """The SVG."""
    height = TOP + LINE * (len(lines) + 1) + 16
    told = f"A terminal: make demo, {seconds:.0f} seconds on a fresh machine, and what it printed."
    rows = [
        f'<text class="typed" x="{LEFT}" y="{TOP}">$ make demo</text>',
        *(
            f'<text class="line {line.kind}" style="animation-delay:{line.at / seconds * PLAYS_FOR:.2f}s" '
            f'x="{LEFT}" y="{TOP + LINE * number}">{escape(line.text, quote=False)}</text>'
            for number, line in enumerate(lines, 1)
        ),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="t d">\n'
        f'<title id="t">make demo</title>\n<desc id="d">{escape(told)}</desc>\n<style>{STYLE}</style>\n'
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#16202c"/>\n'
        '<g fill="#4a5666"><circle cx="20" cy="18" r="5"/><circle cx="38" cy="18" r="5"/>'
        '<circle cx="56" cy="18" r="5"/></g>\n'
        f'<text class="title" x="{WIDTH - LEFT}" y="22" text-anchor="end">{seconds:.0f} s of stages, a fresh machine, '
        f"shown in {PLAYS_FOR:.0f}</text>\n" + "\n".join(rows) + "\n</svg>\n"
    )


def main() -> int:
    if len(sys.argv) not in (2, 3):
        raise StageError("give the log of a run: tools/recording.py LOG [OUT].")
    log = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    out = Path(sys.argv[2]) if len(sys.argv) == 3 else OUT
    lines = shown(log)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(picture(lines, sum(times(log).values())), encoding="utf-8")
    print(f"recording: wrote {out} ({len(lines)} lines)")
    return 0


if __name__ == "__main__":
    sys.exit(main_guard("recording", main))
