# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hugging Face's hub, and mirrors of it, through its own client."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from .._base.errors import FleetError
from .download import LONGEST_WAIT, PATIENCE, Downloads, refusal, retry_after
from .request import COMMIT, SHA256, Request
from .watch import Expected, Watch

# The client reads these when it is imported. What it finds of tokens on this machine is not asked for.
ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
}


def fetch(request: Request, token: str, target: Path, watch: Watch) -> None:
    """Bring the files of *request* into *target*, and tell *watch* what they should be."""
    os.environ.update(ENVIRONMENT)
    try:
        import huggingface_hub
    except ImportError:
        raise FleetError(
            "huggingface_hub is not installed where the checkpoint is downloaded; install it beside Ansible, or let "
            "the host do it in a container with location: host."
        ) from None
    if request.cache:
        _from_cache(huggingface_hub, request, target, watch)
        return
    hub: Any = huggingface_hub
    options: dict[str, Any] = {"token": token or False}
    if request.endpoint:
        options["endpoint"] = request.endpoint
    commit, expected = _patiently(request, watch, lambda: _resolved(hub, request, options))
    watch.resolved(commit, expected)
    addresses = {
        name: hub.hf_hub_url(request.repo, name, revision=commit, endpoint=request.endpoint or None)
        for name in expected
    }
    headers = hub.utils.build_hf_headers(token=token or False)
    Downloads(_where(request), target, watch, headers).all(addresses, expected)


def _resolved(hub: Any, request: Request, options: dict[str, Any]) -> tuple[str, dict[str, Expected]]:
    info = hub.HfApi(**options).model_info(request.repo, revision=request.revision, files_metadata=True)
    found: dict[str, Expected] = {}
    for file in info.siblings or []:
        lfs = file.lfs
        if lfs is not None:
            found[file.rfilename] = Expected(int(lfs.size), sha256=str(lfs.sha256))
        else:
            found[file.rfilename] = Expected(int(file.size or 0), blob=str(file.blob_id or ""))
    return str(info.sha), {name: found[name] for name in _chosen(hub, request, list(found))}


def _chosen(hub: Any, request: Request, names: list[str]) -> list[str]:
    chosen = hub.utils.filter_repo_objects(
        names, allow_patterns=list(request.include) or None, ignore_patterns=list(request.exclude) or None
    )
    return sorted(str(name) for name in chosen)


def _from_cache(hub: Any, request: Request, target: Path, watch: Watch) -> None:
    """From a cache as the client keeps one. Its files are links to blobs, whose names are the hub's own digests."""
    try:
        snapshot = Path(
            hub.snapshot_download(
                request.repo, revision=request.revision, cache_dir=request.cache, local_files_only=True
            )
        )
    except (OSError, ValueError) as error:
        raise FleetError(
            f"{request.repo}: the cache {request.cache} does not have revision {request.revision}; fill it with "
            f"'hf download' where there is a connection, or leave cache out. The client: {_line(error)}"
        ) from None
    names = [str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file()]
    expected: dict[str, Expected] = {}
    for name in _chosen(hub, request, names):
        blob = os.path.basename(os.path.realpath(snapshot / name))
        size = (snapshot / name).stat().st_size
        if SHA256.fullmatch(blob):
            expected[name] = Expected(size, sha256=blob)
        else:
            expected[name] = Expected(size, blob=blob if COMMIT.fullmatch(blob) else "")
    watch.resolved(snapshot.name, expected)
    for name in expected:
        watch.copy(snapshot / name, target / name)


def _patiently(request: Request, watch: Watch, work: Any) -> Any:
    """Do *work*; a rate limit that says how long it lasts is waited for."""
    for attempt in range(PATIENCE + 1):
        try:
            return work()
        except Exception as error:
            response = getattr(_with_response(error), "response", None)
            wait = retry_after(response.headers) if response is not None and response.status_code == 429 else None
            if wait is None or wait > LONGEST_WAIT or attempt == PATIENCE:
                raise _refusal(request, error) from None
            watch.say(f"the hub asks to wait {wait} s")
            time.sleep(wait)
    raise AssertionError


def _with_response(error: BaseException) -> BaseException:
    """The error of the chain that has the hub's answer."""
    found: BaseException | None = error
    while found is not None and getattr(found, "response", None) is None:
        found = found.__cause__ or found.__context__
    return found or error


def _where(request: Request) -> str:
    return f"{request.repo} at revision {request.revision}"


def _refusal(request: Request, error: Exception) -> FleetError:
    """One sentence, with the hub's own words where it said any."""
    if isinstance(error, FleetError):
        return error
    cause = _with_response(error)
    response = getattr(cause, "response", None)
    if response is None:
        return FleetError(
            f"{_where(request)} cannot be resolved: {_line(error)}; run again once the hub "
            f"{request.endpoint or 'https://huggingface.co'} can be reached."
        )
    words = response.headers.get("X-Error-Message") or getattr(cause, "server_message", None) or _line(cause)
    return refusal(_where(request), response.status_code, str(words), retry_after(response.headers))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
