#!/usr/bin/python
# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_table
short_description: Show a table on the operator's terminal
version_added: "0.1.0"
author:
  - The trtllm.fleet authors (@trtllm-fleet)
description:
  - Prints lines as they are. M(ansible.builtin.debug) folds and quotes them as its callback likes.
  - This is an action plugin; nothing runs on the host.
extends_documentation_fragment:
  - trtllm.fleet.attributes
  - trtllm.fleet.attributes.info_module
options:
  table:
    description: The lines.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show the fleet
  trtllm.fleet.fleet_table:
    table: ["host   state", "gpu-01 ok"]
"""

RETURN = r""" # """
