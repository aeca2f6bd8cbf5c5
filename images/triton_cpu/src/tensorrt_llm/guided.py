# SPDX-License-Identifier: GPL-3.0-or-later
"""Guided decoding: which tokens may follow, so that an answer keeps to a schema, an expression or a grammar.

xgrammar decides, the library of upstream's executor, in the version of this release. Its Python package is made for
torch; only the C++ core is used here, whose masks are arrays of numpy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import TrtllmError
from .tokenizer_info import read_info, tokenizer_info

Allowed = npt.NDArray[np.bool_]
NOT_SET_UP = (
    "Request is specified with GuidedDecodingParams, but GuidedDecoder is not setup. Please provide a valid"
    " GuidedDecodingConfig to setup GuidedDecoder."
)


@cache
def core() -> Any:
    """xgrammar's core. The package around it would import torch, so its module is loaded from its file."""
    package = find_spec("xgrammar")
    spec = package and PathFinder.find_spec("xgrammar_bindings", [*(package.submodule_search_locations or ())])
    if spec is None or spec.loader is None:
        raise TrtllmError("guided decoding needs the package xgrammar, which is not installed here")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _json_schema(compiler: Any, guide: str) -> Any:
    return compiler.compile_json_schema(guide, True, None, None, True, None)


def _regex(compiler: Any, guide: str) -> Any:
    return compiler.compile_grammar(core().Grammar.from_regex(guide, False))


def _grammar(compiler: Any, guide: str) -> Any:
    return compiler.compile_grammar(core().Grammar.from_ebnf(guide, "root"))


# The types that upstream's backend passes on to its executor; with "json" there is no guide.
COMPILE: Mapping[str, Callable[[Any, str], Any]] = {
    "json": lambda compiler, guide: compiler.compile_builtin_json_grammar(),
    "json_schema": _json_schema,
    "regex": _regex,
    "ebnf_grammar": _grammar,
}


class Guide:
    """What one answer is bound to, and how far it has come."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary
        self._mask = np.full((1, -(-vocabulary // 32)), -1, np.int32)

    def allowed(self) -> Allowed:
        """Which tokens of the vocabulary may be next."""
        self._matcher.fill_next_token_bitmask(self._mask, 0, False)
        return np.unpackbits(self._mask.view(np.uint8), bitorder="little")[: self._vocabulary].astype(np.bool_)

    def advance(self, token: int) -> bool:
        """Take the next token. False where it ends the answer."""
        self._matcher.accept_token(token, False)
        return not self._matcher.is_terminated()


class GuidedDecoder:
    """Makes guides for one engine."""

    def __init__(self, info: Mapping[str, Any], vocabulary: int) -> None:
        """*info*: what the tokenizer's information file holds; *vocabulary*: the engine's size of it."""
        library = core()
        # What TokenizerInfo::FromHuggingFace does, which upstream calls.
        found = json.loads(library.TokenizerInfo._detect_metadata_from_hf(info["tokenizer_str"]))
        tokens = library.TokenizerInfo(
            info["encoded_vocab"], found["vocab_type"], vocabulary, info["stop_token_ids"], found["add_prefix_space"]
        )
        self._compiler = library.GrammarCompiler(tokens, min(8, os.cpu_count() or 1), True, -1)
        self._vocabulary = vocabulary

    def guide(self, kind: str, text: str | None) -> Guide:
        """A guide for one answer. Raises TrtllmError for one that cannot be followed."""
        if kind not in COMPILE:
            raise TrtllmError(f"guided_decoding_guide_type is '{kind}', expected one of {', '.join(COMPILE)}")
        if text is None and kind != "json":
            raise TrtllmError("The guide string must be provided unless using GuideType::kJSON.")
        try:
            compiled = COMPILE[kind](self._compiler, text or "")
        except RuntimeError as e:
            raise TrtllmError(f"guided_decoding_guide is no {kind} that can be followed: {_words(str(e))}") from None
        return Guide(core().GrammarMatcher(compiled, None, False, -1), self._vocabulary)


def load_decoder(tokenizer: str | None, vocabulary: int) -> GuidedDecoder | None:
    """The decoder for *tokenizer*, an information file or a tokenizer's directory; None where there is none."""
    if tokenizer is None:
        return None
    path = Path(tokenizer)
    return GuidedDecoder(tokenizer_info(path) if path.is_dir() else read_info(path), vocabulary)


def _words(text: str) -> str:
    """The library's own words without time and place in its sources: "[12:00:00] /project/cpp/x.cc:75: Words"."""
    return " ".join(text.split(": ", 1)[-1].split())
