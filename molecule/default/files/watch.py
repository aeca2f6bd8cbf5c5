# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the argument list of every process that is seen into a file, until it is stopped."""

import os
import time

seen = set()
with open("/run/molecule-arguments", "ab", buffering=0) as file:
    while True:
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open(f"/proc/{name}/cmdline", "rb") as other:
                        words = other.read()
                except OSError:
                    continue
                if words not in seen:
                    seen.add(words)
                    file.write(words.replace(b"\0", b" ") + b"\n")
        time.sleep(0.05)
