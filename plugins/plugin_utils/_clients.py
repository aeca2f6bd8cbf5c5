# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA's and OpenAI's clients, read in one process that asks for all hosts.

They take a second of processor to import. An action is read by Ansible's main process, so that this is one second for
the run, and not one for each host.
"""

from __future__ import annotations

import contextlib
import importlib

TRITON, OPENAI = "tritonclient.http", "openai"


def read_clients(*clients: str) -> None:
    """Read these, by default both; one that is missing is told of where it is used."""
    for client in clients or (TRITON, OPENAI):
        with contextlib.suppress(ImportError):
            importlib.import_module(client)
