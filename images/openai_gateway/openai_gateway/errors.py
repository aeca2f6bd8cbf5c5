# SPDX-License-Identifier: GPL-3.0-or-later
"""What clients are told when something is wrong, in OpenAI's shape."""

from __future__ import annotations

from typing import Any


class ConfigError(Exception):
    """The gateway cannot start: one sentence with what was given, what was expected and what to do."""


class ApiError(Exception):
    """An answer other than 200.

    ``status``: the HTTP status; ``param``: the request's parameter at fault, or None; ``code``: OpenAI's word
    for the case, or None; ``retry_after``: seconds for the header Retry-After, or None.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after

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
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


def unsupported(param: str, reason: str = "is not supported by this gateway") -> ApiError:
    """Refuse *param* by name."""
    return ApiError(400, f"'{param}' {reason}.", param=param, code="unsupported_parameter")
