# SPDX-License-Identifier: GPL-3.0-or-later
"""A new parameter of ``config.pbtxt`` is one line of the schema: it is rendered, bounded, and found by a wrong name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SCHEMA = "plugins/module_utils/_repository/schema.py"
LINE = '        _number("brand_new_window", 1, since="1.0.0"),\n'
BEFORE = '        _number("lookahead_window_size", 1, since="0.19.0"),\n'
TRIAL = """
import sys
from pathlib import Path
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from unit.model_repo_fixture import RepositoryFixture

host = RepositoryFixture(Path(sys.argv[1]))
host.engine()
host.tokenizer()
host.templates()
made = host.present(tensorrt_llm={"brand_new_window": 7})
text = (Path(made.facts["repository_dir"]) / "tensorrt_llm" / "config.pbtxt").read_text()
print("rendered" if 'string_value: "7"' in text else text)
for wrong in ({"brand_new_window": 0}, {"brand_new_windw": 7}):
    try:
        host.present(tensorrt_llm=wrong)
    except FleetError as error:
        print(error)
"""


def test_a_new_parameter_is_one_line(repo_dir: Path, tmp_path: Path) -> None:
    root = tmp_path / "fleet"
    for name in ("plugins", "collections", "tests/unit"):
        ignored = shutil.ignore_patterns("__pycache__", ".*_cache")
        shutil.copytree(repo_dir / name, root / name, symlinks=True, ignore=ignored)
    schema = (root / SCHEMA).read_text()
    assert schema.count(BEFORE) == 1
    (root / SCHEMA).write_text(schema.replace(BEFORE, LINE + BEFORE))
    (tmp_path / "host").mkdir()
    paths = os.pathsep.join([str(root / "collections"), str(root / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", TRIAL, str(tmp_path / "host")],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rendered, bounded, nearest = done.stdout.splitlines()
    assert rendered == "rendered"
    assert "brand_new_window is 0" in bounded
    assert "did you mean 'brand_new_window'?" in nearest
