# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs in the container that downloads, or on the controller: one request, into one directory.

All that it has to tell stands in ``status.json`` of its directory. It reads the token from a file there and removes it,
so that no command line, environment or log has it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._base.errors import FleetError, sentence
from .._base.files import remove, write_atomically
from . import archive, git, huggingface, modelscope
from .consent import judge_names
from .request import GIT, HUGGINGFACE, MODELSCOPE, URL, Request
from .watch import Watch

SPEC, STATUS, TOKEN, LOG = "spec.json", "status.json", "token", "log"
TERMINATED = 143
# Each brings the files of a request into a directory, and tells a watch what they should be.
SOURCES: dict[str, Callable[[Request, str, Path, Watch], None]] = {
    HUGGINGFACE: huggingface.fetch,
    MODELSCOPE: modelscope.fetch,
    GIT: git.fetch,
    URL: archive.fetch,
}


def main(directory: str) -> int:
    """Do what ``spec.json`` in *directory* says; the exit status is 0 once everything has arrived."""
    home = Path(directory)
    spec: dict[str, Any] = json.loads((home / SPEC).read_bytes())
    token = _taken(home / TOKEN)
    request = Request(**{**spec["request"], **{key: tuple(spec["request"][key]) for key in ("include", "exclude")}})
    target = Path(spec["target"])

    def tell(status: dict[str, Any]) -> None:
        write_atomically(home / STATUS, json.dumps({"id": spec["id"], "state": "running", **status}).encode())

    watch = Watch(target, tell, lambda names: judge_names(request.title, names, **spec["consent"]))

    def stop(number: int, frame: Any) -> None:
        os._exit(TERMINATED)  # what has arrived stays; threads of a client would hold an orderly end up

    signal.signal(signal.SIGTERM, stop)
    os.environ.setdefault("HOME", str(home))
    os.environ["HF_HOME"] = str(home / "client")
    os.environ["MODELSCOPE_CACHE"] = str(home / "client")
    try:
        with watch.ticking():
            SOURCES[request.source](request, token, target, watch)
    except (FleetError, OSError) as error:
        watch.update(state="failed", message=_hidden(sentence(error, str(target)), token))
        return 1
    except Exception as error:
        (home / LOG).write_text(_hidden(traceback.format_exc(), token), encoding="utf-8")
        what = " ".join(f"{type(error).__name__}: {error}".split())
        watch.update(state="failed", message=_hidden(f"{request.title}: it failed ({what}); run again.", token))
        return 1
    watch.update(state="done")
    return 0


def _taken(path: Path) -> str:
    try:
        token = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    remove(path)
    return token


def _hidden(text: str, token: str) -> str:
    return text.replace(token, "********") if token else text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
