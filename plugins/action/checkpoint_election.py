# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on the controller, once for the play: see the documentation of the module of the same name."""

from __future__ import annotations

from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.election import CHECKPOINTS
from ansible_collections.trtllm.fleet.plugins.plugin_utils._election import Election


class ActionModule(Election):
    """Elect a host that brings each checkpoint, from what the hosts have told in this run."""

    goods, fact, preferred = CHECKPOINTS, "checkpoint_offer", "downloaders"
