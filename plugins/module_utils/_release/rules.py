# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a release's tools take on their command line and then stop at, or build a wrong engine from, as data.

Read from the sources of 0.7.1 to 0.16.0 and 1.0.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._base.errors import FleetError
from .limits import is_set
from .releases import Release, within

# releases | option | option that it does not go with | why
_EXCLUSIVE = """
0.10.0- | gather_context_logits   | max_draft_len     | logits of the prompt are not kept with drafts
0.10.0- | gather_all_token_logits | max_draft_len     | logits of the prompt are not kept with drafts
0.9.0-  | opt_num_tokens          | multiple_profiles | each profile has its own number
"""

# releases | option | the only families that it can be given for
_FAMILIES = """
0.9.0-0.16.0 | streamingllm      | llama mistral mixtral
0.15.0-      | pp_reduce_scatter | mixtral
"""

# releases | what becomes of the layers that pp_size leaves over
_LAYERS_LEFT_OVER = """
0.7.1-0.16.0  | dropped
0.17.0-0.21.0 | not established
1.0.0-        | built
"""


def _rows(text: str, release: Release) -> list[list[str]]:
    """The cells after the first of all rows for *release*."""
    rows = [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]
    return [row[1:] for row in rows if within(release, row[0])]


def check_rules(release: Release, family: str, options: Mapping[str, Any]) -> None:
    """Raise `FleetError` for options that the tools of *release* cannot build an engine of *family* with."""
    for option, other, why in _rows(_EXCLUSIVE, release):
        if is_set(options.get(option)) and is_set(options.get(other)):
            raise FleetError(
                f"{option} and {other} do not go together with TensorRT-LLM {release.version} ({why}); leave one out."
            )
    for option, families in _rows(_FAMILIES, release):
        if is_set(options.get(option)) and family not in families.split():
            raise FleetError(
                f"{option} is given for a {family} model, but TensorRT-LLM {release.version} has it for "
                f"{', '.join(families.split())} only; leave it out."
            )


def check_layers(release: Release, layers: int, pp_size: int) -> None:
    """Raise `FleetError` where stages of *release* would not hold all *layers* of the model."""
    if pp_size > layers:
        raise FleetError(f"The model has {layers} layers, fewer than pp_size {pp_size}; lower pp_size.")
    (left_over,) = (cells[0] for cells in _rows(_LAYERS_LEFT_OVER, release))
    if layers % pp_size == 0 or left_over == "built":
        return
    fate = (
        f"TensorRT-LLM {release.version} builds an engine without those left over"
        if left_over == "dropped"
        else f"whether TensorRT-LLM {release.version} builds those left over is not established"
    )
    fitting = ", ".join(str(number) for number in range(1, layers + 1) if layers % number == 0)
    raise FleetError(
        f"The model's {layers} layers cannot be split evenly over pp_size {pp_size}, and {fate}; "
        f"pp_size can be {fitting}."
    )
