# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may go from a host: what nothing names any more, and by one number how long things are named."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from .._base.errors import FleetError

DEFAULT_KEEP = 2
ALL = "all"


def keep_of(value: Any) -> Optional[int]:
    """How many releases of each service are kept, None for all. 0 is refused, as it could be meant either way."""
    if str(value).strip().lower() == ALL:
        return None
    found = None if isinstance(value, bool) else re.fullmatch(r"[1-9]\d{0,3}", str(value).strip())
    if not found:
        raise FleetError(
            f"trtllm_keep is {value!r}; give how many releases of each service are kept, the one that serves included, "
            "or 'all' to remove nothing."
        )
    return int(found[0])


@dataclass(frozen=True)
class Thing:
    """Something on a host that could be removed. *path* is the id of an image; *made* in seconds since the epoch.

    *words*: by each of which others name it; *model*: whose it is; *names*: a text with what it names itself;
    *remove*: removes it and says why it stays, empty where it is gone; *look*: says why it would stay, as far as that
    can be seen, and touches nothing; *rests*: seconds for which nobody has touched what is only waited for; *bound*:
    whether others hold it for as long as nothing else changes on the host.
    """

    kind: str
    name: str
    path: str
    size: int
    words: Sequence[str]
    remove: Callable[[], str]
    look: Callable[[], str] = str
    made: float = 0.0
    model: str = ""
    names: str = ""
    rests: float = 0.0
    bound: bool = False

    def told(self) -> dict[str, Any]:
        """What the module returns of it."""
        return {"kind": self.kind, "name": self.name, "path": self.path, "size": self.size}


class Names:
    """Texts in which things are named, each with the words that say why what it names is kept."""

    def __init__(self) -> None:
        self._texts: list[tuple[str, str, bool]] = []

    def add(self, why: str, text: str, *, lasts: bool = True) -> None:
        """From here on, what *text* names is kept. *lasts*: as long as nothing else changes on the host; else it ends
        by itself, as builds do."""
        self._texts.append((why, text, lasts))

    def why(self, words: Sequence[str], *, lasting: bool = False) -> str:
        """Why what is named by one of *words* is kept, empty where no text names it; *lasting*: no text that lasts."""
        # Not 'a' where 'a.b' or 'a-b' is named, nor the artefact where its partial is.
        pattern = re.compile("|".join(rf"(?<![\w.-]){re.escape(word)}(?![\w-]|\.\w)" for word in words))
        texts = [(why, text) for why, text, lasts in self._texts if lasts or not lasting]
        return next((why for why, text in texts if pattern.search(text)), "") if words else ""
