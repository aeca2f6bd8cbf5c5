# SPDX-License-Identifier: GPL-3.0-or-later
"""What an answer can be bound to, in the words of the engine's guided decoding.

A guide that an engine cannot read is trouble for more than the one who sent it, so what can be seen to be wrong is
refused here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from openai_gateway.errors import ApiError, unsupported
from openai_gateway.tools import Family

# Triton's inputs.
KIND, TEXT = "guided_decoding_guide_type", "guided_decoding_guide"
INPUTS = (KIND, TEXT)

# What xgrammar's expressions treat as special.
SPECIAL = re.compile(r"[\\.^$*+?()\[\]{}|]")
# It mistakes a control or a Latin-1 character before a digit of base 16, unless that is a repetition.
MISTAKEN = re.compile(r"([\x00-\x1f\x7f-\xff])(?=[0-9a-fA-F])")
# Groups and characters that Python writes in another way.
FOREIGN = ((re.compile(r"\(\?<(?=\w)"), "(?P<"), (re.compile(r"\\u\{[0-9a-fA-F]+\}"), "."))

# JSON, for what stands behind a name that is not known beforehand.
JSON_RULES = r"""
object ::= "{" ws (member (ws "," ws member)*)? ws "}"
member ::= string ws ":" ws value
array ::= "[" ws (value (ws "," ws value)*)? ws "]"
value ::= object | array | string | number | "true" | "false" | "null"
string ::= "\"" char* "\""
char ::= [^"\\\x00-\x1f] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F])
number ::= "-"? ("0" | [1-9] [0-9]*) ("." [0-9]+)? ([eE] [-+]? [0-9]+)?
ws ::= [ \n]?
"""


class Guide(NamedTuple):
    """What an answer is bound to."""

    kind: str
    text: str
    param: str  # the client's parameter that says so

    def inputs(self) -> dict[str, str]:
        """As Triton's inputs. JSON of any kind has no guide."""
        return {KIND: self.kind, TEXT: self.text} if self.text else {KIND: self.kind}


class StructuredOutputs(BaseModel):
    """``structured_outputs``, as newer clients of other servers say it."""

    model_config = ConfigDict(strict=True, extra="allow")
    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1)] | None = None
    grammar: str | None = None
    json_object: bool | None = None

    def guides(self) -> list[Guide]:
        """The guides that are given. Raises ApiError 400 for what no release has."""
        for name, value in (self.model_extra or {}).items():
            if value is not None and value is not False:
                raise unsupported(f"structured_outputs.{name}", "is nothing that Triton's models can be told")
        found = given("structured_outputs.", json=self.json_, regex=self.regex, choice=self.choice)
        found += given("structured_outputs.", grammar=self.grammar)
        return [*found, Guide("json", "", "structured_outputs.json_object")] if self.json_object else found


def given(
    prefix: str,
    *,
    json: dict[str, Any] | str | None = None,
    regex: str | None = None,
    choice: Sequence[str] | None = None,
    grammar: str | None = None,
) -> list[Guide]:
    """A guide for each that is given; *prefix* stands before the names of the client's parameters."""
    found = []
    if json is not None:
        found.append(schema_guide(json, f"{prefix}json"))
    if regex is not None:
        found.append(_regex(regex, f"{prefix}regex"))
    if choice is not None:
        found.append(Guide("regex", f"({'|'.join(map(_literal, choice))})", f"{prefix}choice"))
    if grammar is not None:
        found.append(_grammar(grammar, f"{prefix}grammar"))
    return found


def schema_guide(schema: dict[str, Any] | str, param: str) -> Guide:
    """A guide to what *schema* describes."""
    if isinstance(schema, dict):
        return Guide("json_schema", json.dumps(schema, separators=(",", ":")), param)
    try:
        fits = isinstance(json.loads(schema), dict | bool)
    except ValueError:
        fits = False
    if not fits:
        raise ApiError(400, f"Invalid '{param}': must be a JSON schema as an object or a text.", param=param)
    return Guide("json_schema", schema, param)


def call_guide(family: Family, functions: Mapping[str, dict[str, Any]], name: str | None) -> Guide:
    """A guide to the rest of a call that was begun: of *name*, or of any of *functions* (parameters by name).

    The arguments of a function that is known beforehand keep to its schema, and end the answer. Otherwise the answer
    is one whole call of a function that was offered, with an object for its arguments.
    """
    if name is not None:
        return schema_guide(functions[name] or {"type": "object"}, "tool_choice")
    names = " | ".join(json.dumps(function) for function in functions)
    between, end = (json.dumps(text) for text in (f'", "{family.arguments}": ', f"}}{family.after}"))
    return Guide("ebnf_grammar", f"root ::= ({names}) {between} object {end}{JSON_RULES}", "tool_choice")


def _regex(pattern: str, param: str) -> Guide:
    if not pattern:
        # Triton takes an empty guide for none, and then refuses the kind that needs one.
        raise ApiError(400, f"Invalid '{param}': is empty; give an expression, or leave it out.", param=param)
    known = pattern
    for foreign, ours in FOREIGN:
        known = foreign.sub(ours, known)
    try:
        re.compile(known)
    except (re.error, RecursionError, OverflowError) as error:
        raise ApiError(400, f"Invalid '{param}': is no regular expression: {error}.", param=param) from None
    return Guide("regex", pattern, param)


def _grammar(grammar: str, param: str) -> Guide:
    if not re.search(r"^\s*root\s*::=", grammar, re.MULTILINE):
        raise ApiError(400, f"Invalid '{param}': must be a grammar in EBNF with a rule 'root ::= ...'.", param=param)
    return Guide("ebnf_grammar", grammar, param)


def _literal(text: str) -> str:
    """An expression that matches *text* alone."""
    return MISTAKEN.sub(r"\1{1,1}", SPECIAL.sub(r"\\\g<0>", text))
