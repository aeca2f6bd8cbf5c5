# SPDX-License-Identifier: GPL-3.0-or-later
"""The journals of all hosts are one table, in the order of time."""

from __future__ import annotations

from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.history import history_table

LINE = {"rollout": "r1", "who": "alice@deploy-01", "services": ["triton-a-0"]}


def test_lines_of_all_hosts_are_in_the_order_of_time() -> None:
    journals = {
        "h2": [{"time": "2", "step": "switching", **LINE}],
        "h1": [
            {"time": "1", "step": "switching", "why": "a\nb", **LINE},
            {"time": "3", "step": "passed", "seconds": 7, **LINE},
        ],
    }
    head, first, second, third = (line.split() for line in history_table(journals))
    assert head == ["time", "rollout", "who", "host", "step", "services", "seconds", "why"]
    assert first == ["1", "r1", "alice@deploy-01", "h1", "switching", "triton-a-0", "a", "b"]
    assert [second[3], third[3], third[6]] == ["h2", "h1", "7"]
    assert len(history_table(journals, last=1)) == 2


def test_there_may_be_none() -> None:
    assert history_table({"h1": []}) == ["No host has a journal of rollouts."]
