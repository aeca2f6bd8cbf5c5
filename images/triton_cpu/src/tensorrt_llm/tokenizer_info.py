# SPDX-License-Identifier: GPL-3.0-or-later
"""What guided decoding knows of a tokenizer, in the file that generate_xgrammar_tokenizer_info.py writes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import TrtllmError

FILE = "xgrammar_tokenizer_info.json"
KEYS = ("encoded_vocab", "tokenizer_str", "stop_token_ids")


def tokenizer_info(directory: Path) -> dict[str, Any]:
    """The vocabulary in the order of its ids, the tokenizer itself, and the token that ends an answer."""
    from tokenizers import Tokenizer

    if not (directory / "tokenizer.json").is_file():
        raise TrtllmError(f"{directory} holds no tokenizer.json; give the directory of the model's tokenizer")
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    settings = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    end = settings.get("eos_token")
    stop = vocabulary.get(str(end.get("content") if isinstance(end, dict) else end))
    if stop is None:
        raise TrtllmError(
            f"{directory}/tokenizer_config.json names no eos_token of the vocabulary: no answer could end"
        )
    tokens = [token for token, _ in sorted(vocabulary.items(), key=lambda item: item[1])]
    return dict(zip(KEYS, (tokens, tokenizer.to_str(), [stop]), strict=True))


def read_info(path: Path) -> dict[str, Any]:
    """The content of such a file."""
    if not path.exists():
        raise TrtllmError(f"Xgrammar's tokenizer info path at {path} does not exist.")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise TrtllmError(f"{path} cannot be read as JSON ({e}); make it again") from None
    if not isinstance(info, dict) or any(key not in info for key in KEYS):
        raise TrtllmError(f"{path} has no {', '.join(KEYS)}; make it with generate_xgrammar_tokenizer_info.py")
    return info


def main(argv: Sequence[str] | None = None) -> int:
    """The script."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_dir", type=Path, required=True, help="HF model directory")
    parser.add_argument("--output_dir", type=Path, required=True, help=f"where {FILE} is written to")
    options = parser.parse_args(argv)
    try:
        info = tokenizer_info(options.model_dir)
        options.output_dir.mkdir(parents=True, exist_ok=True)
        (options.output_dir / FILE).write_text(json.dumps(info), encoding="utf-8")
    except (TrtllmError, OSError) as e:
        print(f"[TensorRT-LLM][ERROR] {e}", file=sys.stderr)
        return 1
    return 0
