# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes what Alertmanager sends, and writes the names of the alerts to a file: webhook.py PORT FILE"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Hook(BaseHTTPRequestHandler):
    """One group of alerts."""

    def do_POST(self) -> None:
        """Note which alerts came."""
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open(sys.argv[2], "a", encoding="utf-8") as file:
            for alert in sent["alerts"]:
                file.write(f"{alert['status']} {alert['labels']['alertname']} {alert['annotations']['summary']}\n")
        self.send_response(200)
        self.end_headers()


HTTPServer(("127.0.0.1", int(sys.argv[1])), Hook).serve_forever()
