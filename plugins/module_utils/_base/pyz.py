# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parts of the collection as one file that Python runs, where the collection is not: in a unit, in a container."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import io
import zipfile
from collections.abc import Sequence
from typing import Any

# No file has a time of its own, so that the same code is the same bytes.
WHEN = (1980, 1, 1, 0, 0, 0)
HERE = __name__.rsplit(".", 2)[0]


def pyz(package: str, code: Sequence[str], main: str) -> bytes:
    """The modules *code* of ``module_utils`` below *package*; ``main(sys.argv[1])`` of the module *main* is run."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as zipped:

        def write(name: str, text: str) -> None:
            zipped.writestr(zipfile.ZipInfo(name, WHEN), text, zipfile.ZIP_DEFLATED, 9)

        for directory in (package, *sorted({f"{package}/{name.split('.')[0]}" for name in code})):
            write(f"{directory}/__init__.py", "")
        for name in code:
            write(f"{package}/{name.replace('.', '/')}.py", source(name))
        write("__main__.py", f"import sys\nfrom {package}.{main} import main\nsys.exit(main(sys.argv[1]))\n")
    return packed.getvalue()


def source(name: str) -> str:
    """The text of a module of ``module_utils``."""
    loader: Any = importlib.import_module(f"{HERE}.{name}").__loader__
    text = loader.get_source(f"{HERE}.{name}")
    # On the controller Ansible's own loader has it, as bytes.
    return text.decode() if isinstance(text, bytes) else str(text)


def closure(*names: str) -> list[str]:
    """The modules *names* of ``module_utils`` with all that they import of it, sorted."""
    found: dict[str, None] = {}
    left = list(names)
    while left:
        name = left.pop()
        if name not in found:
            found[name] = None
            left += _imports(name)
    return sorted(found)


def _imports(name: str) -> list[str]:
    """The modules that one imports; imports within ``module_utils`` are relative."""
    home, found = name.split("."), []
    for node in ast.walk(ast.parse(source(name))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*home[: len(home) - node.level], *((node.module or "").split(".") if node.module else [])]
            places = [base] if _is_module(base) else [[*base, alias.name] for alias in node.names]
            found += [".".join(place) for place in places if _is_module(place)]
    return found


def _is_module(place: Sequence[str]) -> bool:
    return len(place) > 1 and importlib.util.find_spec(f"{HERE}.{'.'.join(place)}") is not None
