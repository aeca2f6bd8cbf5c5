# SPDX-License-Identifier: GPL-3.0-or-later
"""Render a checkpoint's chat template the way the transformers library does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from openai_gateway.errors import ApiError, ConfigError


class TemplateRefusal(jinja2.TemplateError):
    """A template called raise_exception: the conversation does not suit the model."""


class GenerationTag(Extension):
    """Accept ``{% generation %}...{% endgeneration %}``, which marks text for training: render its body."""

    tags = {"generation"}  # noqa: RUF012 - the library's own way

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The block's body unchanged."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateRefusal(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes <, > and & for HTML, which would reach the model.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class ChatTemplate:
    """A compiled chat template with the special tokens of its tokenizer."""

    def __init__(self, source: str, special_tokens: Mapping[str, str], where: str) -> None:
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(
                f"{where}: the chat template has a mistake in line {error.lineno}: {error.message}"
            ) from None
        self._special_tokens = dict(special_tokens)
        self.source = source

    def render(self, messages: Sequence[Mapping[str, Any]], **more: Any) -> str:
        """The prompt for *messages*, ready for the assistant's answer; *more*: other variables.

        Raises ApiError 400 with the template's words if it refuses the conversation or fails on it.
        """
        variables = {"tools": None, "documents": None, "add_generation_prompt": True, **self._special_tokens, **more}
        try:
            return self._template.render({**variables, "messages": [dict(message) for message in messages]})
        except TemplateRefusal as error:
            raise ApiError(400, f"The chat template refuses: {error.message}", param="messages") from None
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise ApiError(
                400, f"The chat template cannot render this conversation: {error}", param="messages"
            ) from None
