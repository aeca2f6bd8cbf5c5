# SPDX-License-Identifier: GPL-3.0-or-later
"""Images on a host: what podman is asked, and what a unit is told afterwards."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._base.labels import INPUTS
from ansible_collections.trtllm.fleet.plugins.module_utils._podman import cli
from ansible_collections.trtllm.fleet.plugins.module_utils._podman import image as image_module
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.context import Context
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.image import (
    ImageManager,
    ImageRequest,
    Missing,
    inspect,
    repository,
)
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.image_ids import Images
from ansible_collections.trtllm.fleet.plugins.module_utils._podman.registry_api import (
    Manifest,
    RegistryClient,
    RegistryError,
)

NAME = "reg:5000/triton:1"


class FakeJob:
    """Long work that is done at once, by the podman of the test."""

    podman: Podman
    last: dict[str, Any]

    def __init__(self, name: str) -> None:
        self.directory = Path(FakeJob.podman.home, "job")
        self.authfile = self.directory / "auth.json"
        self.context = Path(FakeJob.podman.home, "context")
        self.said: dict[str, Any] = {}
        self.about: dict[str, Any] = {}
        self.printed = ""

    def status(self) -> dict[str, Any]:
        return self.said

    def running(self) -> bool:
        return False

    def log(self) -> str:
        return self.printed

    def prepare(self) -> Path:
        self.forget()
        self.directory.mkdir()
        return self.directory

    def start(self, argv: Sequence[str], *, step: str, about: dict[str, Any], **how: Any) -> None:
        self.about, self.how = about, how
        FakeJob.last = {"cwd": how["cwd"], **{key: about.get(key) for key in ("tool", "inputs")}}
        FakeJob.podman.auths.append(self.authfile.read_text() if self.authfile.exists() else "")
        done = FakeJob.podman.run(argv)
        self.printed = done.stdout
        self.said = {"state": "failed" if done.returncode else "done", "step": step}
        self.said.update(message=cli.last_line(done.stderr), code=done.returncode)

    def collect(self, what: str, wait: bool) -> dict[str, Any]:
        if self.said["state"] == "failed":
            raise cli.PodmanError(f"podman cannot {what} (exit code {self.said['code']}): {self.said['message']}")
        return self.said

    def forget(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.rmtree(self.context, ignore_errors=True)


class Podman:
    """A podman whose images are a dictionary."""

    def __init__(self, **images: dict[str, Any]) -> None:
        self.images = {name.replace("__", NAME): image for name, image in images.items()}
        self.after: dict[str, Any] | None = None
        self.failure: str | None = None
        self.unreadable = "image not known"
        self.calls: list[list[str]] = []
        self.auths: list[str] = []  # what stood in the file with credentials while podman ran
        self.home = ""
        self.manifest: Manifest | RegistryError | None = None  # what the registry answers
        self.asked: list[str] = []
        self.built: list[str] = []  # the Containerfiles, which may be gone later

    def run(self, arguments: Sequence[str], **how: Any) -> subprocess.CompletedProcess[str]:
        argv = list(arguments)
        self.calls.append(argv)
        if argv[:2] == ["image", "inspect"]:
            image = self.images.get(argv[-1])
            if image is None:
                return subprocess.CompletedProcess(argv, 125, "", f"Error: {self.unreadable}")
            return subprocess.CompletedProcess(argv, 0, json.dumps([image]), "")
        if self.failure:
            return subprocess.CompletedProcess(argv, 125, "", f"noise\nError: {self.failure}\n")
        if argv[0] == "build":
            self.built.append(Path(argv[argv.index("--file") + 1]).read_text())
        if argv[0] == "tag":
            self.images[argv[2]] = self.images[argv[1]]
        if argv[0] == "push":
            Path(argv[argv.index("--digestfile") + 1]).write_text(f"sha256:{'d' * 64}")
        if argv[0] == "pull" and "@" in argv[-1]:
            self.images[argv[-1]] = self.after or self.images[NAME]
        elif self.after and argv[0] != "tag":
            self.images[NAME] = self.after
        return subprocess.CompletedProcess(argv, 0, "", "")


Host = Callable[..., Podman]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Host:
    def install(**images: dict[str, Any]) -> Podman:
        made = Podman(**images)
        made.home = str(tmp_path_factory.mktemp("host"))
        FakeJob.podman = made
        monkeypatch.setattr(cli, "run", made.run)
        monkeypatch.setattr(image_module, "Job", FakeJob)
        monkeypatch.setattr(image_module, "Images", lambda root: Images(Path(made.home)))

        def manifest(client: RegistryClient, reference: str) -> Manifest | None:
            made.asked.append(f"{client.name.repository} {reference} {client.credentials}")
            if isinstance(made.manifest, RegistryError):
                raise made.manifest
            return made.manifest

        monkeypatch.setattr(RegistryClient, "manifest", manifest)
        return made

    return install


def image(
    identity: str = "a" * 64, digests: list[str] | None = None, labels: dict[str, str] | None = None
) -> dict[str, Any]:
    return {"Id": identity, "RepoDigests": digests or [], "Labels": labels, "Size": 7, "Architecture": "arm64"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reg:5000/a/b:1", "reg:5000/a/b"),
        ("reg:5000/a/b@sha256:x", "reg:5000/a/b"),
        ("localhost/x:1@sha256:y", "localhost/x"),
        ("x", "x"),
    ],
)
def test_a_repository_is_a_name_without_tag_and_digest(name: str, expected: str) -> None:
    assert repository(name) == expected


def test_a_unit_names_the_image_by_digest(host: Host) -> None:
    host(__=image(digests=["other/triton@sha256:1", "reg:5000/triton@sha256:2"]))
    found = inspect(NAME)
    assert found
    assert found.facts() == {
        "id": "sha256:" + "a" * 64,
        "reference": "reg:5000/triton@sha256:2",
        "digest": "sha256:2",
        "size": 7,
        "architecture": "arm64",
    }


def test_an_image_from_no_registry_is_named_by_its_id(host: Host) -> None:
    host(__=image())
    found = inspect(NAME)
    assert found
    assert found.reference == found.id == "sha256:" + "a" * 64


def test_an_image_that_is_there_costs_one_call_and_is_never_updated(host: Host) -> None:
    podman = host(__=image())
    assert ImageManager(ImageRequest(NAME)).ensure()[0] is False
    assert len(podman.calls) == 1


def test_pull(host: Host) -> None:
    podman = host()
    podman.after = image()
    changed, found, _ = ImageManager(ImageRequest(NAME, tls_verify=False, authfile="/root/auth.json")).ensure()
    assert changed and found
    pull = next(call for call in podman.calls if call[0] == "pull")
    assert "--tls-verify=false" in pull and "/root/auth.json" in pull


def test_check_mode_pulls_nothing(host: Host) -> None:
    podman = host()
    changed, found, _ = ImageManager(ImageRequest(NAME), check_mode=True).ensure()
    assert changed and found is None
    assert not any("pull" in call for call in podman.calls)


def test_pull_always_changes_only_when_the_registry_has_another(host: Host) -> None:
    podman = host(__=image())
    podman.after = image()
    assert ImageManager(ImageRequest(NAME, pull="always")).ensure()[0] is False
    podman.after = image("b" * 64)
    assert ImageManager(ImageRequest(NAME, pull="always")).ensure()[0] is True


def test_a_failed_pull_says_podmans_own_words(host: Host) -> None:
    podman = host()
    podman.failure = "connection refused"
    with pytest.raises(
        FleetError, match=r"cannot pull 'reg:5000/triton:1' \(exit code 125\): Error: connection refused"
    ):
        ImageManager(ImageRequest(NAME)).ensure()


ONE, TWO = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"


def at(digest: str, identity: str = "a" * 64) -> dict[str, Any]:
    """An image as it is after it was pulled by this digest."""
    return image(identity, [f"reg:5000/triton@{digest}"])


def test_a_tag_is_resolved_once_and_its_digest_is_kept(host: Host) -> None:
    podman = host()
    podman.manifest, podman.after = Manifest(ONE, size=9), at(ONE)
    changed, found, _ = ImageManager(ImageRequest(NAME)).ensure()
    assert changed and found and found.digest == ONE
    assert ["tag", f"reg:5000/triton@{ONE}", NAME] in podman.calls
    podman.manifest = Manifest(TWO)
    assert ImageManager(ImageRequest(NAME)).ensure()[0] is False
    podman.images.clear()  # a host that lost its images
    ImageManager(ImageRequest(NAME)).ensure()
    assert [call[-1] for call in podman.calls if call[0] == "pull"] == [f"reg:5000/triton@{ONE}"] * 2
    podman.after = at(TWO, "b" * 64)
    changed, found, _ = ImageManager(ImageRequest(NAME, pull="always")).ensure()
    assert changed and found and found.digest == TWO
    assert ImageManager(ImageRequest(NAME)).ensure()[0] is False


def test_a_tag_that_was_moved_on_the_host_is_moved_back_without_a_pull(host: Host) -> None:
    podman = host()
    podman.manifest, podman.after = Manifest(ONE), at(ONE)
    ImageManager(ImageRequest(NAME)).ensure()
    podman.images[NAME] = at(TWO, "b" * 64)
    pulls = len([call for call in podman.calls if call[0] == "pull"])
    changed, found, reason = ImageManager(ImageRequest(NAME)).ensure()
    assert changed and found and found.digest == ONE and reason == "named by the digest that is kept"
    assert len([call for call in podman.calls if call[0] == "pull"]) == pulls


def test_a_host_takes_the_digest_that_others_have_but_keeps_its_own(host: Host) -> None:
    podman = host()
    podman.manifest, podman.after = Manifest(TWO), at(ONE)
    ImageManager(ImageRequest(NAME, digest=ONE)).ensure()
    assert [call[-1] for call in podman.calls if call[0] == "pull"] == [f"reg:5000/triton@{ONE}"]
    assert ImageManager(ImageRequest(NAME, digest=TWO)).ensure()[0] is False


def test_what_is_missing_is_told_with_its_digest_and_nothing_is_done(host: Host) -> None:
    podman = host()
    podman.manifest = Manifest(ONE)
    with pytest.raises(Missing) as missing:
        ImageManager(ImageRequest(NAME, when_missing="tell")).ensure()
    assert missing.value.digest == ONE
    assert [call[0] for call in podman.calls] == ["image"]
    assert ImageManager(ImageRequest("other", when_missing="tell", source="present"), check_mode=True).ensure()[0]


def test_where_the_registry_does_not_answer_podman_pulls_the_tag(host: Host) -> None:
    podman = host()
    podman.after = at(ONE)
    ImageManager(ImageRequest(NAME)).ensure()
    assert [call[-1] for call in podman.calls if call[0] == "pull"] == [NAME]
    podman.images.clear()
    ImageManager(ImageRequest(NAME)).ensure()
    assert [call[-1] for call in podman.calls if call[0] == "pull"] == [NAME, f"reg:5000/triton@{ONE}"]


def test_a_digest_in_the_name_is_final(host: Host) -> None:
    name = f"reg:5000/triton:1@{ONE}"
    podman = host()
    podman.after = at(ONE)
    changed, found, _ = ImageManager(ImageRequest(name)).ensure()
    assert changed and found and found.reference == f"reg:5000/triton@{ONE}"
    assert ImageManager(ImageRequest(name, pull="always")).ensure()[0] is False
    assert len([call for call in podman.calls if call[0] == "pull"]) == 1


def test_a_password_is_in_no_command(host: Host) -> None:
    podman = host()
    podman.manifest, podman.after = Manifest(ONE), at(ONE)
    ImageManager(ImageRequest(NAME, username="u", password="s3cret")).ensure()
    assert json.loads(podman.auths[0]) == {"auths": {"reg:5000": {"auth": "dTpzM2NyZXQ="}}}
    assert "s3cret" not in str(podman.calls) and "dTpzM2NyZXQ=" not in str(podman.calls)
    assert not FakeJob(NAME).authfile.exists()
    assert "s3cret" not in repr(ImageRequest(NAME, username="u", password="s3cret"))
    assert podman.asked == ["reg:5000/triton 1 u:s3cret"]


def test_credentials_that_the_registry_refuses_are_told_in_its_words(host: Host) -> None:
    podman = host()
    podman.manifest = RegistryError("401: authentication required", 401)
    with pytest.raises(FleetError, match=r"^The registry reg:5000 refuses user 'u' .*\(401: authentication required\)"):
        ImageManager(ImageRequest(NAME, username="u", password="wrong")).ensure()
    assert not any(call[0] == "pull" for call in podman.calls)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"username": "u"}, "Only one of username and password"),
        ({"username": "u:v", "password": "x"}, "takes none with ':'"),
        ({"username": "u", "password": "x\n"}, "has a line break"),
        ({"username": "u", "password": "x", "authfile": "/a"}, "Both authfile and password"),
        ({"digest": "sha256:1"}, "give sha256: and 64"),
        ({"retries": -1}, "give 0 or more"),
        ({"push": "short"}, "give a full name with registry"),
    ],
)
def test_what_cannot_be_meant_is_refused(host: Host, given: dict[str, Any], message: str) -> None:
    host()
    with pytest.raises(FleetError, match=message):
        ImageManager(ImageRequest(NAME, **given))


def test_mirrors_are_asked_first_and_get_no_password(host: Host) -> None:
    podman = host()
    podman.after = at(ONE)
    request = ImageRequest(NAME, username="u", password="p", mirrors=[{"location": "mirror/cache"}])
    ImageManager(request).ensure()
    assert podman.asked == ["mirror/cache/triton 1 ", "reg:5000/triton 1 u:p"]


def test_what_is_pushed_is_named_by_its_digest_there(host: Host) -> None:
    podman = host(__=image())
    pushed = f"reg:5000/other@sha256:{'d' * 64}"
    podman.after = image(digests=[pushed])
    request = ImageRequest(NAME, source="present", push="reg:5000/other:1")
    changed, found, reason = ImageManager(request).ensure()
    assert changed and reason == "pushed"
    assert found
    podman.images[NAME] = image(digests=[pushed])
    podman.manifest = Manifest(f"sha256:{'d' * 64}", config=f"sha256:{'a' * 64}")
    changed, found, _ = ImageManager(request).ensure()
    assert not changed and found and found.reference == pushed
    assert [call[0] for call in podman.calls if call[0] in ("push", "pull")] == ["push", "pull"]


def test_an_archive_with_another_sum_is_refused_before_it_is_loaded(host: Host, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_text("x")
    given: Any = {"source": "load", "archive": str(archive)}
    podman = host()
    with pytest.raises(FleetError, match=r"has the sha256 2d711642.*, and not 0000.*; nothing was loaded"):
        ImageManager(ImageRequest(NAME, **given, archive_sha256="0" * 64)).ensure()
    with pytest.raises(FleetError, match="64 hexadecimal digits"):
        ImageManager(ImageRequest(NAME, **given, archive_sha256="0")).ensure()
    assert not any(call[0] == "load" for call in podman.calls)
    podman.after = image()
    right = ImageRequest(
        NAME, **given, archive_sha256="2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    )
    assert ImageManager(right).ensure()[0] is True
    assert ImageManager(right).ensure()[0] is False


def test_present_refuses_an_image_that_is_not_there(host: Host) -> None:
    host()
    with pytest.raises(FleetError, match="source is 'present'"):
        ImageManager(ImageRequest(NAME, source="present")).ensure()


def test_an_archive_without_the_image_is_refused(host: Host, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.touch()
    host()
    with pytest.raises(FleetError, match="holds no image called"):
        ImageManager(ImageRequest(NAME, source="archive", archive=str(archive))).ensure()
    host()
    with pytest.raises(FleetError, match="no image archive"):
        ImageManager(ImageRequest(NAME, source="archive", archive=str(tmp_path / "b"))).ensure()


def test_a_build_is_repeated_only_when_its_inputs_differ(host: Host, tmp_path: Path) -> None:
    (tmp_path / "Containerfile").write_text("FROM scratch\n")
    request = ImageRequest(NAME, source="build", context=str(tmp_path), build_args={"B": "2", "A": "1"})
    podman = host()
    podman.after = image()
    assert ImageManager(request).ensure()[0] is True
    build = next(call for call in podman.calls if call[0] == "build")
    label = build[build.index("--label") + 1]
    assert label.startswith(f"{INPUTS}=")
    assert [build[i + 1] for i, word in enumerate(build) if word == "--build-arg"] == ["A=1", "B=2"]

    podman = host(__=image(labels={INPUTS: label.split("=", 1)[1]}))
    assert ImageManager(request).ensure()[0] is False
    (tmp_path / "Containerfile").write_text("FROM scratch\nENV X=1\n")
    assert ImageManager(request, check_mode=True).ensure()[0] is True


def test_files_are_built_from_without_being_left_on_the_host(host: Host, tmp_path: Path) -> None:
    files = {"Containerfile": "FROM x", "app/a.py": "print(1)"}
    request = ImageRequest(NAME, source="build", context_files=files)
    podman = host()
    podman.after = image()
    assert ImageManager(request).ensure()[0]
    build = next(call for call in podman.calls if call[0] == "build")
    assert not Path(build[-1]).exists()
    label = build[build.index("--label") + 1].partition("=")[2]
    podman.images[NAME] = image(labels={INPUTS: label})
    assert ImageManager(request).ensure()[0] is False, "the same texts are the same inputs"
    other = ImageRequest(NAME, source="build", context_files={**files, "app/a.py": "print(2)"})
    assert ImageManager(other).ensure()[0] is True
    for name in ("../x", "/x", ""):
        with pytest.raises(FleetError, match="it takes paths below the context"):
            ImageManager(ImageRequest(NAME, source="build", context_files={name: ""})).ensure()


def test_a_context_of_the_controller_is_built_from_and_gone_afterwards(host: Host, tmp_path: Path) -> None:
    (tmp_path / "Containerfile").write_text("FROM a\nCOPY b /\n")
    with (tmp_path.parent / "sent.tar.gz").open("wb") as stream:
        Context.of(tmp_path).pack(stream)
    asked = ImageRequest(NAME, source="build", context=str(tmp_path), context_location="controller", inputs="1" * 64)
    podman = host()
    podman.after = image(labels={INPUTS: "1" * 64})
    with pytest.raises(Missing):
        ImageManager(replace(asked, when_missing="tell")).ensure()
    assert ImageManager(asked, check_mode=True).ensure()[0] is True
    with pytest.raises(FleetError, match="which has not sent it"):
        ImageManager(asked).ensure()
    sent = replace(asked, context_archive=stream.name, base_images={"a": "r/b:1"})
    assert ImageManager(sent).ensure()[::2] == (True, "built")
    assert podman.built == ["FROM r/b:1\nCOPY b /\n"]
    build = next(call for call in podman.calls if call[0] == "build")
    assert build[build.index("--label") + 1] == f"{INPUTS}={'1' * 64}" and not Path(build[-1]).exists()
    assert ImageManager(asked).ensure()[0] is False
    assert ImageManager(asked, check_mode=True).ensure()[0] is False


def test_a_program_builds_once_for_the_same_inputs(host: Host, tmp_path: Path) -> None:
    request = ImageRequest(NAME, source="program", program=["./build.py", "-v"], chdir=str(tmp_path), inputs="a")
    podman = host()
    podman.after = image()
    assert ImageManager(request, check_mode=True).ensure()[0] is True
    assert podman.calls == [["image", "inspect", NAME]], "nothing is built in check mode"
    manager = ImageManager(request)
    assert manager.ensure()[::2] == (True, "built")
    assert ["./build.py", "-v"] in podman.calls
    assert FakeJob.last == {"cwd": str(tmp_path), "tool": "build.py", "inputs": "a"}
    assert ImageManager(request, check_mode=True).ensure()[0] is False
    assert ImageManager(request).ensure()[0] is False
    podman.images[NAME] = {**image(), "Id": "f" * 64}
    assert ImageManager(request, check_mode=True).ensure()[0] is True, "another image has its name by now"
    with pytest.raises(Missing, match="would be built"):
        ImageManager(replace(request, inputs="b", when_missing="tell")).ensure()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "source is 'program', which takes program .* chdir .* and inputs"),
        ({"inputs": "a", "chdir": "/nowhere", "program": ["./build.py"]}, "There is no directory '/nowhere'"),
    ],
)
def test_a_program_that_cannot_run_is_refused(host: Host, given: dict[str, Any], message: str) -> None:
    host()
    with pytest.raises(FleetError, match=message):
        ImageManager(ImageRequest(NAME, source="program", **given)).ensure()


def test_a_build_without_a_containerfile_is_refused(host: Host, tmp_path: Path) -> None:
    host()
    with pytest.raises(FleetError, match=r"There is no .*Containerfile"):
        ImageManager(ImageRequest(NAME, source="build", context=str(tmp_path))).ensure()


def test_of_the_containerfile_nothing_but_its_content_counts(host: Host, tmp_path: Path) -> None:
    """It may stand anywhere, and so beside anything."""
    context, elsewhere = tmp_path / "context", tmp_path / "elsewhere"
    for directory in (context, elsewhere):
        directory.mkdir()
    (context / "app.py").touch()
    (elsewhere / "Containerfile").write_text("FROM scratch\n")
    (elsewhere / "gone").symlink_to("nowhere")  # what is not asked for may be in any state
    containerfile = str(elsewhere / "Containerfile")
    request = ImageRequest(NAME, source="build", context=str(context), containerfile=containerfile)
    host().after = image()
    assert ImageManager(request).ensure()[0] is True


def test_a_build_can_stand_on_other_base_images(host: Host, tmp_path: Path) -> None:
    text = "FROM --platform=linux/amd64 rust:1.74 as chef\nRUN true # FROM rust:1.74\nfrom debian:12\nFROM chef\n"
    (tmp_path / "Dockerfile").write_text(text)
    given: Any = {"source": "build", "context": str(tmp_path), "containerfile": str(tmp_path / "Dockerfile")}
    plain = ImageRequest(NAME, **given)
    rebased = ImageRequest(NAME, **given, base_images={"rust:1.74": "reg/rust:9", "debian:12": "reg/debian:12"})
    built = []
    for request in (plain, rebased):
        podman = host()
        podman.after = image()
        assert ImageManager(request).ensure()[0] is True
        built += podman.built
    assert built[0] == text
    assert built[1] == text.replace(" rust:1.74 as", " reg/rust:9 as").replace("from debian", "from reg/debian")
    assert (tmp_path / "Dockerfile").read_text() == text
    host()
    with pytest.raises(
        FleetError, match=r"base_images has 'rust:1', but .* is not built on it, only on chef, debian:12"
    ):
        ImageManager(ImageRequest(NAME, **given, base_images={"rust:1": "x"})).ensure()


def test_an_image_that_cannot_be_read_is_not_taken_for_a_missing_one(host: Host) -> None:
    host().unreadable = "mounting storage: no space left on device"
    with pytest.raises(FleetError, match="cannot read the image 'reg:5000/triton:1': Error: mounting storage"):
        inspect(NAME)
