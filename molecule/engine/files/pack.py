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
    utils = repository / "plugins" / "module_utils"
    for path in sorted(utils.rglob("*.py")):
        archive.write(path, home / path.relative_to(repository))
    # Python imports from an archive only what says that it is a package; Ansible adds that by itself.
    for package in sorted({path.parent for path in utils.rglob("*.py")} - {utils}):
        archive.writestr(str(home / package.relative_to(repository) / "__init__.py"), "")
