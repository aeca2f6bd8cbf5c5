# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a release cannot be given an option or a value, with the releases that can."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .._base.errors import FleetError, nearest
from .cli_data import UNREAD
from .lookup import Flag, engine_releases, flag, flow, flow_rows, listing, releases_with
from .options import ENGINE_OPTIONS, RANKS
from .releases import Release, span, within

# Why an option is gone, and what took its place.
_HINTS = {
    "use_inflight_batching": "it follows from gpt_attention_plugin, remove_input_padding and a paged kv_cache_type",
    "use_custom_all_reduce": "later releases decide it at run time",
    "multi_block_mode": "later releases take it as a parameter of the model repository",
    "context_fmha_fp32_acc": "later releases take it as a parameter of the model repository",
    "enable_xqa": "later releases decide it at run time",
    "qformat": "earlier releases quantise with use_weight_only",
    "moe_tp_size": "earlier releases choose by themselves",
    "moe_ep_size": "earlier releases choose by themselves",
}


def have(found: Iterable[Release]) -> str:
    """``0.8.0 has`` or ``0.8.0 to 0.11.0 have``."""
    releases = list(found)
    return f"{listing(releases)} {'has' if len(releases) == 1 else 'have'}"


def _not_established(release: Release, known: Callable[[Release], bool]) -> bool:
    """Whether the list of *release* was not read, and only one of the neighbours that were read is *known* to."""
    first, last = span(UNREAD)
    order = engine_releases()
    before = [row for row in order if row.key < first][-1]
    after = next(row for row in order if row.key > last)
    return within(release, UNREAD) and (known(before) or known(after))


def _where(option: str, family: str, quantized: bool) -> str:
    """``; 0.8.0 to 0.12.0 have it``, and which have it only with, or only without, qformat; empty for none."""
    same, other = releases_with(option, family, quantized), releases_with(option, family, not quantized)
    parts = [f"{have(same)} it"] if same else []
    rest = [row for row in other if row not in same]
    if rest:
        parts.append(f"{have(rest)} it {'without' if quantized else 'with'} qformat")
    return "".join(f"; {part}" for part in parts)


def refuse_option(option: str, release: Release, family: str, quantized: bool) -> FleetError:
    """Why *option* cannot be given here, with the releases that know it."""
    if option not in ENGINE_OPTIONS:
        return FleetError(f"{option} is not an option of an engine{nearest(option, ENGINE_OPTIONS) or '.'}")
    here = f"TensorRT-LLM {release.version}"
    where = _where(option, family, quantized)
    hint = f" ({_HINTS[option]})" if option in _HINTS else ""
    if _not_established(release, lambda row: row in releases_with(option, family, quantized)):
        return FleetError(
            f"Whether {here} has the option {option} for {family} is not established{where}. Leave it out or choose "
            "such a release."
        )
    if release in releases_with(option, family, not quantized):
        return _refuse_way(option, release, family, quantized)
    if where:
        return FleetError(
            f"{here} has no option {option} for {family}{hint}{where}. Leave it out or choose such a release."
        )
    families = [name for name in sorted({row[0] for row in flow_rows()}) if releases_with(option, name)]
    return FleetError(
        f"No release has the option {option} for {family}{hint}; it is known for {', '.join(families)}. Leave it out."
    )


def _refuse_way(option: str, release: Release, family: str, quantized: bool) -> FleetError:
    """For an option of the way that is not taken: converting or, with qformat, quantising."""
    same = releases_with(option, family, quantized)
    elsewhere = f"; {have(same)} it here too" if same else ""
    if quantized:
        return FleetError(
            f"TensorRT-LLM {release.version} has {option} for {family} only without qformat, which quantises instead "
            f"of converting{elsewhere}; leave {option} or qformat out."
        )
    (tool, *_) = flow(release, family, quantized) or ("",)
    if option in RANKS:
        others = [name for name in RANKS if name != option and release in releases_with(name, family, quantized)]
        advice = f"leave {option} out" + (f" or raise {others[0]}" if others else "")
        return FleetError(
            f"TensorRT-LLM {release.version} cannot split a {family} model by {option}: its {tool} has no such option"
            f"{elsewhere}; {advice}."
        )
    return FleetError(
        f"TensorRT-LLM {release.version} has {option} for {family} only together with qformat{elsewhere}; leave "
        f"{option} out or set qformat."
    )


def refuse_choice(option: str, value: str, found: Flag, release: Release, tool: str) -> FleetError:
    """Why *value* cannot be given, with what the release knows and the releases that know the value."""

    def knows(row: Release) -> bool:
        other = flag(tool, found.name, row)
        return other is not None and (not other.choices or value in other.choices)

    elsewhere = [row for row in engine_releases() if knows(row)]
    where = f"; {have(elsewhere)} it" if elsewhere else ""
    known = ", ".join(found.choices)
    if _not_established(release, knows):
        return FleetError(
            f"{option} is '{value}', and whether TensorRT-LLM {release.version} knows that is not established "
            f"(it knows {known}){where}."
        )
    return FleetError(
        f"{option} is '{value}', which TensorRT-LLM {release.version} does not know (it knows {known}){where}."
    )


def refuse_family(release: Release, family: str) -> FleetError:
    """Why *release* cannot build *family*."""
    known = [row for row in engine_releases() if flow(row, family, False)]
    if not known:
        families = sorted({row[0] for row in flow_rows()})
        return FleetError(
            f"'{family}' is not a known model family{nearest(family, families) or '.'} "
            f"Known are {', '.join(families)}; set model_family."
        )
    return FleetError(
        f"TensorRT-LLM {release.version} has no established way to build a {family} engine; {have(known)} one."
    )
