# SPDX-License-Identifier: GPL-3.0-or-later
"""What is sent as one file has all that it imports."""

from __future__ import annotations

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact import transfer_unit
from ansible_collections.trtllm.fleet.plugins.module_utils._base.pyz import closure
from ansible_collections.trtllm.fleet.plugins.module_utils._hub import job


@pytest.mark.parametrize(("code", "main"), [(job.CODE, "_hub.fetcher"), (transfer_unit.CODE, "_artifact.transfer")])
def test_what_is_sent_has_all_that_it_imports(code: tuple[str, ...], main: str) -> None:
    assert sorted(code) == closure(main)
