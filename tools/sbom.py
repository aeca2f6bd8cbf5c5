#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say what is in the images of this project, and what they were made from.

    tools/sbom.py [IMAGE...] [--out DIR]

For each image in podman's storage two files: NAME.cdx.json, its software bill of materials (CycloneDX 1.6: packages of
Debian and of Python, read from the image itself), and NAME.provenance.json, a statement of in-toto with SLSA's
predicate (the image's ID, the digest of all its inputs, the commit). They are not signed: that is for who publishes.
"""

from __future__ import annotations

import argparse
import email.parser
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import demo
from _stages import REPO, StageError, cache_dir, main_guard
from ansible_collections.trtllm.fleet.plugins.module_utils._base import labels
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

PODMAN = str(REPO / "tests" / "testbed" / "podman")
# No address: the project says what it is by its name.
PROJECT = "urn:trtllm.fleet"
# Files that say what is installed: of dpkg (one file, or one a package), of pip, and of the system.
TOLD = re.compile(r"^(?:\./)?(var/lib/dpkg/status(?:\.d/[^/]+)?|.*\.dist-info/METADATA|usr/lib/os-release)$")


def told(stream: IO[bytes]) -> dict[str, str]:
    """Path -> text of the files in the image's tar *stream* that say what is installed."""
    found = {}
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            path = TOLD.match(member.name)
            if path and member.isfile() and (content := archive.extractfile(member)):
                found[path[1]] = content.read().decode("utf-8", "replace")
    return found


def packages(files: Mapping[str, str]) -> Iterator[tuple[str, str, PackageURL]]:
    """Name, version and package URL of each package that *files* tell of."""
    system = dict(re.findall(r'^([A-Z_]+)="?([^"\n]*)"?$', files.get("usr/lib/os-release", ""), re.M))
    distribution = system.get("ID", "debian")
    release = {"distro": f"{distribution}-{system['VERSION_ID']}"} if "VERSION_ID" in system else {}
    for path, text in files.items():
        for paragraph in text.split("\n\n") if "dpkg" in path else [text]:
            fields = email.parser.HeaderParser().parsestr(paragraph.lstrip("\n"))
            if "dpkg" in path and "installed" in fields.get("Status", "installed").split() and fields["Package"]:
                name, version = fields["Package"], fields["Version"]
                qualifiers = {"arch": fields["Architecture"], **release}
                yield name, version, PackageURL("deb", distribution, name, version, qualifiers)
            elif path.endswith("METADATA"):
                name = re.sub(r"[-_.]+", "-", fields["Name"]).lower()
                yield name, fields["Version"], PackageURL("pypi", None, name, fields["Version"])


def bill(name: str, version: str, files: Mapping[str, str]) -> str:
    """The bill of materials as JSON, judged by CycloneDX's own schema."""
    bom = Bom()
    image = Component(name=name, version=version, type=ComponentType.CONTAINER, bom_ref=name)
    bom.metadata.component = image
    for package, number, url in packages(files):
        bom.components.add(
            Component(name=package, version=number, type=ComponentType.LIBRARY, purl=url, bom_ref=url.to_string())
        )
    if not bom.components:
        raise StageError(f"nothing in the image {name} says what is installed; was it built by images/{name}/build?")
    bom.register_dependency(image, bom.components)
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    if wrong := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise StageError(f"the bill of materials of {name} is not valid: {wrong}")
    return text


def provenance(image: Mapping[str, Any], reference: str, commit: str) -> dict[str, Any]:
    """The statement of what *image* (as podman inspects it) was made from."""
    inputs = labels.read(image["Labels"], "inputs")
    if not inputs:
        raise StageError(f"{reference} has no label of its inputs; build it with images/NAME/build.")
    name, _, version = reference.rsplit("/", 1)[-1].partition(":")
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": reference, "digest": {"sha256": image["Id"].removeprefix("sha256:")}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": f"{PROJECT}:images/_build.py",
                "externalParameters": {
                    "image": name,
                    "version": version,
                    "machine": image["Architecture"],
                    # The sum over sources, packages with their sums, base and arguments: the same give the same.
                    "inputs": {"sha256": inputs},
                },
                "resolvedDependencies": [{"uri": PROJECT, "digest": {"gitCommit": commit}}],
            },
            "runDetails": {
                "builder": {"id": f"{PROJECT}:images/{name}/build"},
                "metadata": {"finishedOn": image["Created"]},
            },
        },
    }


def asked(*argv: str) -> str:
    """What a command says; `StageError` where it fails."""
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageError(f"{' '.join(argv[:3])} failed: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def read(reference: str) -> dict[str, str]:
    """The files of an image that say what is installed; the image is never started."""
    container = asked(PODMAN, "create", reference)
    try:
        with subprocess.Popen([PODMAN, "export", container], stdout=subprocess.PIPE) as export:
            if export.stdout is None:
                raise StageError(f"podman gave nothing of {reference}.")
            found = told(export.stdout)
        if export.returncode:
            raise StageError(f"podman could not export {reference} (exit code {export.returncode}).")
    finally:
        asked(PODMAN, "rm", "--force", container)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", default=list(demo.IMAGES), help="by default those of the demo")
    parser.add_argument("--out", type=Path, default=cache_dir() / "sbom")
    args = parser.parse_args()
    if changed := asked("git", "status", "--porcelain", "--", "images"):
        raise StageError(f"the commit would not be what the images are made of; commit these first: {changed}")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.images:
        if name not in demo.IMAGES:
            raise StageError(f"{name} is no image of this project; those are {', '.join(demo.IMAGES)}.")
        reference = demo.IMAGES[name]
        asked(sys.executable, f"images/{name}/build")  # nothing where the image is of this commit
        image = json.loads(asked(PODMAN, "image", "inspect", reference))[0]
        text = bill(name, reference.rpartition(":")[2], read(reference))
        made = provenance(image, reference, asked("git", "rev-parse", "HEAD"))
        (args.out / f"{name}.cdx.json").write_text(text + "\n", encoding="utf-8")
        (args.out / f"{name}.provenance.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        print(f"sbom: {name}: {len(json.loads(text)['components'])} packages, in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main_guard("sbom", main))
