#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Install the client of playbooks/benchmark.yml into its environment, as the playbook does the first time: setup."""

from __future__ import annotations

import argparse
import sys

from _stages import StageError, main_guard
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.plugin_utils import _bench_run


def setup() -> int:
    """Make the environment."""
    try:
        _bench_run.program()
    except FleetError as error:
        raise StageError(str(error)) from error
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["setup"])
    parser.parse_args()
    return main_guard("benchmark", setup)


if __name__ == "__main__":
    sys.exit(main())
