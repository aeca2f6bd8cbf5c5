# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What filters have in common."""

from __future__ import annotations

import functools
from typing import Any, Callable

from ansible.errors import AnsibleFilterError
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError

Filter = Callable[..., Any]


def as_filter_error(work: Filter) -> Filter:
    """Turn a refusal into the error that Ansible prints without a traceback."""

    @functools.wraps(work)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return work(*args, **kwargs)
        except FleetError as error:
            raise AnsibleFilterError(str(error)) from error

    return wrapped
