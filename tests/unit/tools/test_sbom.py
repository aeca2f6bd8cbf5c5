# SPDX-License-Identifier: GPL-3.0-or-later
"""A bill of materials names what the image itself says is installed; its provenance names the inputs of its build."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

import sbom
from _stages import StageError

STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u10
Description: GNU C Library
 with a second line

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""
METADATA = "Metadata-Version: 2.4\nName: Prometheus_Client\nVersion: 0.26.0\n\nVersion: of the text\n"
FILES = {
    "./usr/lib/os-release": 'ID=debian\nVERSION_ID="12"\n',
    "./var/lib/dpkg/status": STATUS,
    "./opt/gateway/site/prometheus_client-0.26.0.dist-info/METADATA": METADATA,
    "./opt/gateway/app/main.py": "print(1)\n",
}
IMAGE: dict[str, Any] = {
    "Id": "ab" * 32, "Created": "2026-01-01T00:00:00Z", "Architecture": "amd64",
    "Labels": {"trtllm.fleet.inputs": "cd" * 32},
}  # fmt: skip


def archive(files: dict[str, str]) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as written:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            written.addfile(member, io.BytesIO(text.encode()))
    stream.seek(0)
    return stream


def test_the_packages_of_debian_and_of_python_are_named_and_nothing_else() -> None:
    bill = json.loads(sbom.bill("openai_gateway", "1", sbom.told(archive(FILES))))
    assert bill["specVersion"] == "1.6" and bill["metadata"]["component"]["name"] == "openai_gateway"
    assert {part["purl"] for part in bill["components"]} == {
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64&distro=debian-12",
        "pkg:pypi/prometheus-client@0.26.0",
    }


def test_an_image_that_tells_nothing_is_refused() -> None:
    with pytest.raises(StageError, match="nothing in the image thing says what is installed"):
        sbom.bill("thing", "1", {})


def test_the_statement_names_the_image_its_inputs_and_the_commit() -> None:
    made = sbom.provenance(IMAGE, "localhost/openai_gateway:0.1.0", "ef" * 20)
    assert made["subject"] == [{"name": "localhost/openai_gateway:0.1.0", "digest": {"sha256": "ab" * 32}}]
    built = made["predicate"]["buildDefinition"]
    assert built["externalParameters"]["inputs"] == {"sha256": "cd" * 32}
    assert built["resolvedDependencies"][0]["digest"] == {"gitCommit": "ef" * 20}
    with pytest.raises(StageError, match="no label of its inputs"):
        sbom.provenance({**IMAGE, "Labels": {}}, "localhost/thing:1", "ef" * 20)
