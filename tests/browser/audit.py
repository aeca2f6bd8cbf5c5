#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Open pages in Chromium, and say as JSON what is wrong with each. Runs in the environment of tools/browser.py.

Each page is opened without JavaScript in every width and both colour schemes: nothing may reach beyond the width, no
request may leave the place of the page, and no picture may be missing. Then axe looks at it.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

# The browser asks nobody but the page's own place.
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SERIOUS = ("serious", "critical")
HEIGHT = 900
TALLEST = 12000  # of a screenshot; Chromium's own limit is a little above
SCHEMES = ("light", "dark")
# Elements that reach beyond the window and do not stand in something that scrolls on its own.
TOO_WIDE = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const inside = (e) => { for (let p = e.parentElement; p; p = p.parentElement)
    if (/auto|scroll|hidden/.test(getComputedStyle(p).overflowX)) return true; return false; };
  return [...document.body.querySelectorAll('*')]
    .filter((e) => e.getBoundingClientRect().right > width + 0.5 && !inside(e))
    .slice(0, 5).map((e) => e.tagName.toLowerCase() + (e.className && e.className.baseVal === undefined ?
      '.' + e.className : '') + ' ' + Math.round(e.getBoundingClientRect().right) + ' px of ' + width)
    .concat(['the page is ' + document.documentElement.scrollWidth + ' px wide of ' + width]);
}"""
BROKEN_PICTURES = "() => [...document.images].filter((i) => !i.complete || !i.naturalWidth).map((i) => i.src)"
AXE = "async (options) => (await axe.run(document, options)).violations"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="+", help="URLs, or paths of files")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--widths", default="360,1280")
    parser.add_argument("--screenshots", type=Path, help="a directory for PNG files")
    parser.add_argument("--must-say", action="append", default=[], help="text that each page shows without JavaScript")
    options = parser.parse_args()
    widths = [int(width) for width in options.widths.split(",")]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=FLAGS)
        findings = [
            {"page": page, **finding} for page in options.pages for finding in looked_at(browser, page, widths, options)
        ]
        print(json.dumps({"browser": browser.version, "findings": findings}))
        browser.close()
    return 0


def looked_at(browser: Browser, page: str, widths: list[int], options: argparse.Namespace) -> list[dict[str, Any]]:
    """What is wrong with one page."""
    found: list[dict[str, Any]] = []
    for scheme in SCHEMES:
        for width in widths:
            where = f"{width} px, {scheme}"
            with browser.new_context(
                viewport={"width": width, "height": HEIGHT}, color_scheme=scheme, java_script_enabled=False
            ) as context:
                opened, outside = open_page(context, page)
                found += [finding(where, "outside", f"asks for {url}") for url in outside]
                found += [finding(where, "width", words) for words in opened.evaluate(TOO_WIDE)]
                found += [finding(where, "picture", f"{url} is not there") for url in opened.evaluate(BROKEN_PICTURES)]
                shown = " ".join(opened.inner_text("body").split())
                found += [finding(where, "text", f"does not show '{t}'") for t in options.must_say if t not in shown]
                if options.screenshots:
                    picture(opened, options.screenshots, page, f"{width}-{scheme}")
        # Once narrow and light, once wide and dark: colours and places are what these change.
        width = widths[SCHEMES.index(scheme) * -1]
        with browser.new_context(viewport={"width": width, "height": HEIGHT}, color_scheme=scheme) as context:
            found += [finding(f"{width} px, {scheme}", "axe", words) for words in axe(context, page)]
    if options.screenshots:
        with browser.new_context(viewport={"width": 794, "height": 1123}, java_script_enabled=False) as context:
            opened, _outside = open_page(context, page)
            opened.emulate_media(media="print", color_scheme="light")
            picture(opened, options.screenshots, page, "print")
    return found


def finding(where: str, kind: str, says: str) -> dict[str, str]:
    """One thing that is wrong."""
    return {"where": where, "kind": kind, "says": says}


def open_page(context: BrowserContext, page: str) -> tuple[Page, list[str]]:
    """The page, and what it asked for elsewhere, which it does not get."""
    url = page if "://" in page else Path(page).resolve().as_uri()
    home, outside = urlsplit(url), []

    def route(route: Any) -> None:
        asked = urlsplit(route.request.url)
        if asked.scheme == "data" or (asked.scheme, asked.netloc) == (home.scheme, home.netloc):
            route.continue_()
        else:
            outside.append(route.request.url)
            route.abort()

    context.route("**/*", route)
    opened = context.new_page()
    opened.goto(url, wait_until="load")
    return opened, outside


def axe(context: BrowserContext, page: str) -> list[str]:
    """What axe finds serious or critical, with the first element."""
    opened, _outside = open_page(context, page)
    failed: list[str] = []
    opened.on("pageerror", lambda error: failed.append(f"an error of JavaScript: {error}"))
    opened.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    violations = opened.evaluate(AXE, {"resultTypes": ["violations"]})
    return failed + [
        f"{one['id']} ({one['impact']}): {one['help']}; {len(one['nodes'])} times, "
        f"first {one['nodes'][0]['html'][:200]}"
        for one in violations
        if one["impact"] in SERIOUS
    ]


def picture(opened: Page, directory: Path, page: str, name: str) -> None:
    """A screenshot of the whole page, down to what Chromium can take."""
    directory.mkdir(parents=True, exist_ok=True)
    stem = "-".join(part for part in Path(urlsplit(page).path).with_suffix("").parts[-2:] if part != "/") or "page"
    height = min(int(opened.evaluate("() => document.documentElement.scrollHeight")), TALLEST)
    size = opened.viewport_size or {"width": 1280, "height": HEIGHT}
    opened.set_viewport_size({"width": size["width"], "height": max(height, 200)})
    opened.screenshot(path=directory / f"{stem}-{name}.png")


if __name__ == "__main__":
    sys.exit(main())
