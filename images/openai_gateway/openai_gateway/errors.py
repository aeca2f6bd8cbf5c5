# SPDX-License-Identifier: GPL-3.0-or-later
"""What clients are told when something is wrong, in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

# Parameters that may be of several kinds, in words.
ALTERNATIVES = {
    "prompt": "must be a text, a list of texts, the tokens of a text, or a list of such, and not empty",
    "tool_choice": "must be 'none', 'auto', 'required' or name a function",
    "guided_json": "must be a JSON schema as an object or a text",
}


class ConfigError(Exception):
    """The gateway cannot start: one sentence with what was given, what was expected and what to do."""


class ApiError(Exception):
    """An answer other than 200.

    ``status``: the HTTP status; ``param``: the request's parameter at fault, or None; ``code``: OpenAI's word
    for the case, or None; ``retry_after``: seconds for the header Retry-After, or None; ``more_headers``: others.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        more_headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after
        self._more_headers = more_headers or {}

    @property
    def type(self) -> str:
        """OpenAI's ``type`` for the status."""
        return {401: "authentication_error", 429: "rate_limit_error"}.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )

    def body(self) -> dict[str, Any]:
        """The JSON body that OpenAI's clients understand."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Headers that belong to the answer."""
        headers = dict(self._more_headers)
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


def unsupported(param: str, reason: str = "is not supported by this gateway") -> ApiError:
    """Refuse *param* by name."""
    return ApiError(400, f"'{param}' {reason}.", param=param, code="unsupported_parameter")


def invalid_body(error: ValidationError) -> ApiError:
    """Word the first thing wrong with a body as OpenAI does."""
    first = error.errors()[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "model_type":
        message = "Input should be an object"  # and not an instance of some class
    path = list(first["loc"])
    if not path:
        return ApiError(400, f"The body of the request must be a JSON object: {message}.")
    if first["type"] == "missing" and len(path) == 1:
        return ApiError(400, f"You must provide '{path[0]}'.", param=str(path[0]))
    if path[0] in ALTERNATIVES:
        # The rest of the path says which of them was tried first.
        return ApiError(400, f"Invalid '{path[0]}': {ALTERNATIVES[str(path[0])]}.", param=str(path[0]))
    param = str(path[0]) + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path[1:])
    if first["type"] == "missing":
        return ApiError(400, f"You must provide '{param}'.", param=param)
    return ApiError(400, f"Invalid '{param}': {message[:1].lower()}{message[1:]}.", param=param)
