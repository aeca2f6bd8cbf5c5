# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of the gateway's flavours: what each can do, from the table that refuses what one cannot."""

from __future__ import annotations

import re
from pathlib import Path

from _stages import REPO
from ansible_collections.trtllm.fleet.plugins.module_utils._gateway.flavours import matrix

PAGE = REPO / "docs" / "openai-gateway.md"


def flavour_texts() -> dict[Path, str]:
    """The page, with what stands between its marks written anew."""
    head, *rows = matrix()
    lines = [head, ["---"] * len(head), *rows]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines).replace("|  |", "| |", 1)
    text = PAGE.read_text(encoding="utf-8")
    return {PAGE: re.sub(r"(?s)(<!-- flavours -->).*?(<!-- /flavours -->)", rf"\g<1>\n{table}\g<2>", text)}
