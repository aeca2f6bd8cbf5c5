# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection's filters, read before Ansible forks its workers.

Ansible compiles a collection's Python from its source wherever it is imported, and looks for a filter where a template
is rendered, which is in a worker of its own for each task of each host. What Ansible's main process has read, its
workers have too. An action is read by the main process.
"""

from __future__ import annotations

import pkgutil

from ansible.plugins.loader import filter_loader
from ansible_collections.trtllm.fleet.plugins import filter as filters


def read_filters() -> None:
    """Read all of them; one that cannot be read is told of where it is used."""
    for found in pkgutil.iter_modules(filters.__path__):
        filter_loader.get_with_context(f"trtllm.fleet.{found.name}")
