# SPDX-License-Identifier: GPL-3.0-or-later
"""Pack the code that modules share, so that Python can import it from one file: pack.py ARCHIVE."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

repository = Path(__file__).resolve().parents[3]
home = Path("ansible_collections/trtllm/fleet")
with zipfile.ZipFile(sys.argv[1], "w") as archive:
    for package in [home / "plugins", *(parent for parent in (home, *home.parents) if parent.name)]:
        archive.writestr(str(package / "__init__.py"), "")
    for path in sorted((repository / "plugins" / "module_utils").rglob("*.py")):
        archive.write(path, home / path.relative_to(repository))
