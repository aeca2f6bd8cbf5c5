# SPDX-License-Identifier: GPL-3.0-or-later
"""Pages in a real browser: Chromium without JavaScript, and axe. tools/browser.py sets it up."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from ansible_collections.trtllm.fleet.plugins.plugin_utils._report import Fleet, report
from ansible_collections.trtllm.fleet.plugins.plugin_utils._report_page import page
from unit import report_fakes

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(browser.missing()), reason=f"no page can be looked at: {browser.missing()}"),
]

GOOD = (
    '<!doctype html><html lang="en"><head><title>A page</title><meta name="viewport" content="width=device-width">'
    "</head><body><main><h1>Hello</h1><p>A page.</p></main></body></html>"
)
FAULTS = (
    '<p style="color:#ccc">pale</p><img src="https://example.com/picture.png"><div style="width:2000px">wide</div>'
    "<script>document.write('written')</script>"
)


def test_a_good_page_has_no_findings_and_each_fault_is_found(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.html", tmp_path / "bad.html"
    good.write_text(GOOD)
    bad.write_text(GOOD.replace("<p>A page.</p>", FAULTS))
    found = browser.check([good, bad], must_say=["Hello"], widths=[360])
    assert {Path(one["page"]).name for one in found} == {"bad.html"}
    said = " ".join(f"{one['kind']}: {one['says']}" for one in found)
    assert "outside: asks for https://example.com/picture.png" in said
    assert "width: the page is 2008 px wide of 360" in said
    assert "axe: color-contrast (serious)" in said
    assert "axe: image-alt (critical)" in said
    # what JavaScript would write is not there for who has none
    assert [one["kind"] for one in browser.check([bad], must_say=["written"], widths=[360])].count("text") == 2


def test_the_report_of_a_fleet_is_read_by_everybody(tmp_path: Path) -> None:
    """Of one where much is amiss, and of one with names that have no place to break."""
    long = "a-name-without-a-place-to-break-it-" * 3
    named = {f"{long}{number}": report_fakes.host(report_fakes.code(replica=f"{long}-0")) for number in range(2)}
    fleets = {
        "amiss": ("mysite", report_fakes.found(), report_fakes.LOST, report_fakes.BENCHMARKS),
        "long": (long, named, {}, report_fakes.BENCHMARKS),
    }
    pages = {name: tmp_path / "fleet" / f"{name}.html" for name in fleets}
    (tmp_path / "fleet").mkdir()
    for name, fleet in fleets.items():
        pages[name].write_text(page(report(Fleet(*fleet, now=report_fakes.NOW))))
    said = ["Needs a look", "18,211", "passed its gate", "Latency against throughput"]
    kept = browser.KEPT / "report"
    assert browser.check(list(pages.values()), kept, must_say=said) == []
    for how in ("360-light", "1280-dark", "print"):
        assert (kept / f"fleet-amiss-{how}.png").stat().st_size > 10_000
