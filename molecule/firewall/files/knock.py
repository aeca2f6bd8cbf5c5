# SPDX-License-Identifier: GPL-3.0-or-later
"""Which ports of an address answer: knock.py ADDRESS PORT..."""

import json
import socket
import sys

found = {}
for port in sys.argv[2:]:
    try:
        with socket.create_connection((sys.argv[1], int(port)), timeout=10):
            found[port] = "open"
    except OSError:
        found[port] = "closed"
print(json.dumps(found))
