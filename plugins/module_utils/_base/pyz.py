# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parts of the collection as one file that Python runs, where the collection is not: in a unit, in a container."""

from __future__ import annotations

import importlib
import io
import zipfile
from collections.abc import Sequence
from typing import Any


def pyz(package: str, code: Sequence[str], main: str) -> bytes:
    """The modules *code* of ``module_utils`` below *package*; ``main(sys.argv[1])`` of the module *main* is run."""
    here, packed = __name__.rsplit(".", 2)[0], io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as zipped:
        for directory in (package, *sorted({f"{package}/{name.split('.')[0]}" for name in code})):
            zipped.writestr(f"{directory}/__init__.py", "")
        for name in code:
            loader: Any = importlib.import_module(f"{here}.{name}").__loader__
            zipped.writestr(f"{package}/{name.replace('.', '/')}.py", loader.get_source(f"{here}.{name}"))
        zipped.writestr("__main__.py", f"import sys\nfrom {package}.{main} import main\nsys.exit(main(sys.argv[1]))\n")
    return packed.getvalue()
