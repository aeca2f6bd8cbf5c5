# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the module of the same name on the controller, through the host's ssh where Triton listens on loopback."""

from __future__ import annotations

from ansible_collections.trtllm.fleet.plugins.modules import triton_info
from ansible_collections.trtllm.fleet.plugins.plugin_utils._clients import read_clients
from ansible_collections.trtllm.fleet.plugins.plugin_utils._controller import ControllerActionBase

read_clients()  # as this file is read, before there are workers


class ActionModule(ControllerActionBase):
    """See the module's documentation."""

    MODULE = triton_info
    URL_OPTIONS = ("url", "metrics_url")
