# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file that guided decoding reads a tokenizer from, as upstream's generate_xgrammar_tokenizer_info.py makes it.

That script runs transformers and torch to repeat what stands in tokenizer.json. This reads it there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from .._base.errors import FleetError
from .tokenizer import Tokenizer

INFO_FILE = "xgrammar_tokenizer_info.json"
SCRIPT = "generate_xgrammar_tokenizer_info.py"


def tokenizer_info(tokenizer: Tokenizer) -> bytes:
    """The vocabulary in the order of its ids, the tokenizer itself, and the token that ends an answer."""
    path = os.path.join(tokenizer.directory, "tokenizer.json")
    try:
        with open(path, encoding="utf-8") as stream:
            content = json.load(stream)
        ids = _ids(content)
    except FileNotFoundError:
        raise FleetError(
            f"{tokenizer.directory} holds no tokenizer.json, which guided decoding reads; make {INFO_FILE} with "
            f"upstream's {SCRIPT} and name it in parameters.tensorrt_llm.xgrammar_tokenizer_info_path."
        ) from None
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise FleetError(
            f"{path} cannot be read as a tokenizer ({type(error).__name__}: {error}); bring the checkpoint's again."
        ) from error
    if tokenizer.end_id is None:
        raise FleetError(
            f"{tokenizer.directory} names no token that ends an answer, so that none that is bound to a guide would "
            "end; name eos_token in its tokenizer_config.json."
        )
    info = {
        "encoded_vocab": sorted(ids, key=ids.__getitem__),
        "tokenizer_str": json.dumps(content, ensure_ascii=False, separators=(",", ":")),
        "stop_token_ids": [tokenizer.end_id],
    }
    return json.dumps(info, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _ids(content: Mapping[str, Any]) -> dict[str, int]:
    """Token -> id: those of the model, and those added to it."""
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: pairs of a token and its score
        ids = {token: number for number, (token, _) in enumerate(vocabulary)}
    else:
        ids = {str(token): int(number) for token, number in vocabulary.items()}
    ids.update({token["content"]: int(token["id"]) for token in content.get("added_tokens") or []})
    return ids
