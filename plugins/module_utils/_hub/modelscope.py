# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ModelScope's hub, through its own client.

It names no commit for a branch or a tag, only the sha256 of each file, and these are what is kept of a revision.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from .._base.errors import FleetError
from .archive import is_chosen
from .download import LONGEST_WAIT, PATIENCE, Downloads, refusal
from .request import COMMIT, Request
from .watch import Expected, Watch


def fetch(request: Request, token: str, target: Path, watch: Watch) -> None:
    """Bring the files of *request* into *target*, and tell *watch* what they should be."""
    try:
        import modelscope_hub
        import modelscope_hub.errors as errors
    except ImportError:
        raise FleetError(
            "modelscope_hub is not installed where the checkpoint is downloaded; install it beside Ansible, or let the "
            "host do it in a container with location: host."
        ) from None
    hub: Any = modelscope_hub
    api = hub.HubApi(endpoint=request.endpoint or None, token=token or None)
    where = f"{request.repo} at revision {request.revision}"
    found = _listed(api, errors, request, where, watch)
    expected = {
        file.path: Expected(int(file.size), sha256=str(file.sha256 or ""))
        for file in found
        if not file.is_dir and is_chosen(file.path, request)
    }
    for name, file in expected.items():
        if not file.sha256:
            raise FleetError(f"{where}: the hub has no sha256 of {name}; leave it out with exclude.")
    watch.resolved(request.revision if COMMIT.fullmatch(request.revision) else "", expected)
    addresses = {
        name: api.legacy.get_download_url(request.repo, "model", name, revision=request.revision) for name in expected
    }
    headers = {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"} if token else {}
    Downloads(where, target, watch, headers).all(addresses, expected)


def _listed(api: Any, errors: Any, request: Request, where: str, watch: Watch) -> list[Any]:
    """The files of the revision; a rate limit that says how long it lasts is waited for."""
    for attempt in range(PATIENCE + 1):
        try:
            return list(api.list_repo_files(request.repo, "model", revision=request.revision))
        except errors.APIError as error:
            wait = getattr(error, "retry_after", None)
            if not error.status_code:
                raise FleetError(f"{where} cannot be resolved: {_words(error)}; run again.") from None
            if error.status_code != 429 or not wait or wait > LONGEST_WAIT or attempt == PATIENCE:
                raise refusal(where, error.status_code, _words(error), wait) from None
            watch.say(f"the hub asks to wait {wait} s")
            time.sleep(wait)
        except errors.HubError as error:
            raise FleetError(
                f"{where} cannot be resolved: {_words(error)}; run again once the hub can be reached."
            ) from None
    raise AssertionError


def _words(error: Exception) -> str:
    said = str(getattr(error, "message", "") or error)
    return " ".join(said.split()) or type(error).__name__
