# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every module of the collection does alike: judge its paths, and fail with one sentence, never a traceback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .errors import FleetError, sentence
from .names import check_paths

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule, missing_required_lib


@contextlib.contextmanager
def one_sentence(module: AnsibleModule, result: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Around all that a module does: a refusal, and whatever the host refuses, fail the module with a sentence.

    *result* is returned beside it, as it is by then.
    """
    try:
        check_paths(module.argument_spec, module.params)
        yield
    except FleetError as error:
        module.fail_json(msg=str(error), **{**(result or {}), **error.details})
    except OSError as error:
        module.fail_json(msg=sentence(error, module.params.get("root") or "The host"), **(result or {}))


def missing_client(error: ImportError) -> str:
    """What to install where a client library of the controller is missing."""
    return str(missing_required_lib("openai" if "openai" in str(error) else "tritonclient[http]"))
