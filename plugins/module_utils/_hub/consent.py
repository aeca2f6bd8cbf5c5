# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that run code where they are loaded: they are named, and taken only with the operator's word for it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .._base.errors import FleetError

CODE_SUFFIX = ".py"
# Reading these runs whatever they hold.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
SAFE = ".safetensors"
# Where auto_map may name a class of another repository: OWNER/NAME--module.Class.
CONFIGS = ("config.json", "tokenizer_config.json", "generation_config.json", "preprocessor_config.json")
LISTED = 6
MAX_CONFIG = 1 << 20  # bytes


def judge_names(title: str, names: Iterable[str], *, trust_remote_code: bool, allow_pickle: bool) -> None:
    """Refuse files that would run code without the operator's consent; *names* are all that would be taken."""
    names = sorted(names)
    code = [name for name in names if name.endswith(CODE_SUFFIX)]
    if code and not trust_remote_code:
        raise FleetError(
            f"{title} brings code that runs where the model is loaded ({_listed(code)}); read it and set "
            "trust_remote_code: true, or leave it out with exclude: ['*.py']."
        )
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles and not allow_pickle and not any(name.endswith(SAFE) for name in names):
        raise FleetError(
            f"{title} has its weights as pickles only ({_listed(pickles)}), which can run code when they are read; "
            "take a revision with *.safetensors, or set allow_pickle: true if you trust who made them."
        )


def judge_directory(title: str, directory: Path, *, trust_remote_code: bool, allow_pickle: bool) -> None:
    """The same of what has arrived, and of what its configurations would load from elsewhere."""
    names = [
        os.path.relpath(os.path.join(parent, name), directory)
        for parent, _, files in os.walk(directory)
        for name in files
    ]
    judge_names(title, names, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
    elsewhere = sorted({entry for name in CONFIGS for entry in _elsewhere(directory / name)})
    if elsewhere and not trust_remote_code:
        raise FleetError(
            f"{title} runs code of another repository where it is loaded ({_listed(elsewhere)}); read it and set "
            "trust_remote_code: true."
        )


def _elsewhere(path: Path) -> list[str]:
    try:
        if path.stat().st_size > MAX_CONFIG:
            return []
        found: Any = json.loads(path.read_bytes()).get("auto_map")
    except (OSError, ValueError, AttributeError, RecursionError):
        return []
    values = [found] if isinstance(found, str) else list(found.values()) if isinstance(found, dict) else found or []
    flat = [part for value in values for part in (value if isinstance(value, list) else [value])]
    return [part for part in flat if isinstance(part, str) and "--" in part]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
