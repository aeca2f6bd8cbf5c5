# SPDX-License-Identifier: GPL-3.0-or-later
"""YAML that every reader reads the same, whatever stands in it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.trtllm.fleet.plugins.module_utils._kubernetes.text import Value, dump, plain
from hypothesis import given
from hypothesis import strategies as st

HOSTILE = [
    "", " ", "no", "Null", "~", "1.0", "0x10", "1e3", "2026-01-01", "- a", "a: b", "a #b", "{a: b}", "[a]", "*a", "&a",
    "!tag", "%YAML", "@a", "`a`", "'a'", '"a"', "a\\b", "a\nb", "a\nb\n", "a\nb\n\n", "\na\n", " a\nb", "a \nb",
    "a\t\nb",
    "---\na", "a\n---\nb\n", "...\n", "{{ .Values.x }}\n{{ y }}", "a\r\nb", "\x00", "\x7f", "\x85", "\u2028", "\ufeff",
    "\U0001f600", "$(HOME)", "=", "<<",
]  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(HOSTILE)
)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(HOSTILE) | st.text("ab:# "), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_comes_back_as_it_was(text: str) -> None:
    tree = {"key": text, text: [text, {text: text}]}
    assert yaml.safe_load(dump(tree)) == tree


@given(TREES)
def test_any_tree_comes_back_as_it_was(tree: Any) -> None:
    assert yaml.safe_load(dump({"tree": tree})) == {"tree": tree}


def test_the_order_of_what_was_written_says_nothing() -> None:
    one = {"metadata": {"b": 1, "a": 2}, "kind": "K", "spec": 1, "apiVersion": "v1", "data": 2}
    assert dump(one) == dump(dict(reversed(one.items())))
    assert list(yaml.safe_load(dump(one))) == ["apiVersion", "kind", "metadata", "data", "spec"]


def test_text_reads_as_text() -> None:
    assert dump({"a": "one\n\n  two\n"}) == "a: |\n  one\n\n    two\n"


def test_a_chart_reads_its_values_and_nothing_else_as_a_template() -> None:
    tree = {"count": Value(("a", "b-c"), 2), "text": "{{ evil }}", "{{ key }}": "x\n{{ evil }}\n"}
    assert plain(tree)["count"] == 2
    text = dump(tree, chart=True)
    assert 'count: {{ index .Values "a" "b-c" | toJson }}' in text
    assert text.count("{{") - text.count('{{ "{{" }}') - 1 == text.count('{{ "{{" }}')
