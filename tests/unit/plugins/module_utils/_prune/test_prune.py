# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes from a host, what stays and why, and what a kill, a lock or another run does to it."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.artifact_store import ArtifactStore
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.transfer_unit import TransferUnit
from ansible_collections.trtllm.fleet.plugins.module_utils._base import files
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.store import CheckpointStore
from ansible_collections.trtllm.fleet.plugins.module_utils._podman import stock
from ansible_collections.trtllm.fleet.plugins.module_utils._prune.prune import NEVER, Pruner, Wanted
from ansible_collections.trtllm.fleet.plugins.module_utils._prune.rule import Names, keep_of
from ansible_collections.trtllm.fleet.plugins.module_utils._prune.table import prune_table
from ansible_collections.trtllm.fleet.plugins.module_utils._rollout.state import SWITCHING, RolloutState
from ansible_collections.trtllm.fleet.plugins.module_utils._service import record
from ansible_collections.trtllm.fleet.plugins.module_utils._service.quadlet import HEADER
from ansible_collections.trtllm.fleet.plugins.module_utils._service.record import ReleaseRecord
from unit.service_fakes import FakeHost

ROOT = "/var/lib/trtllm"
QUADLET = "/etc/containers/systemd/{}.container"
DAYS = 2 * 86400


def sha(number: int) -> str:
    return f"{number:03x}" + "0" * 61


class Bed(FakeHost):
    """A host on which one replica served some releases, each with an engine, a repository and an image of its own."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.images_there: list[stock.Stored] = []
        self.containers_there: dict[str, str] = {}
        self.root_dir = self.path(ROOT)
        self.root_dir.mkdir(parents=True)

    def artefact(self, below: str, model: str, number: int, **manifest: Any) -> Path:
        store = ArtifactStore(self.root_dir / below)
        staging = store.staging(model, sha(number))
        (staging / "rank0.engine").write_bytes(bytes(5000))
        made = store.publish(model, sha(number), manifest)
        os.utime(made / "manifest.json", (number, number))
        return made

    def image(self, number: int, *names: str, parent: str = "") -> None:
        self.images_there.append(stock.Stored(f"sha256:{sha(number)}", names, (), 10**9, 1.0, parent))

    def unit(self, engine: int) -> str:
        volumes = f"Volume={ROOT}/engines/m/{sha(engine)}\nVolume={ROOT}/repositories/m/{sha(engine + 100)}\n"
        volumes += f"Volume={ROOT}/checkpoints/m\nVolume=/etc/trtllm/triton/{engine:016x}\n"
        return f"{HEADER}\nImage=sha256:{sha(engine + 200)}\n{volumes}"

    def serve(self, engine: int, outcome: str = record.SERVING, service: str = "triton-m-0") -> str:
        """A release of the replica, with all that it needs."""
        if not (self.root_dir / "engines/m" / sha(engine)).exists():
            self.artefact("engines", "m", engine, commands=[["x", f"{ROOT}/converted/{sha(engine + 300)}"]])
            self.artefact("repositories", "m", engine + 100, engine=sha(engine))
            (self.root_dir / "converted" / sha(engine + 300)).mkdir(parents=True)
            scripts = self.path(f"/etc/trtllm/triton/{engine:016x}")
            scripts.mkdir(parents=True)
            (scripts / "run.sh").write_text("exec")
            self.image(engine + 200)
        path = self.path(QUADLET.format(service))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.unit(engine))
        line = record.entry(outcome, str(QUADLET.format(service)), self.unit(engine), 0, {"image": "i"})
        ReleaseRecord(self.root_dir / "releases", service).append(line)
        return str(line["unit_sha256"])

    def checkpoint(self, name: str) -> Path:
        store = CheckpointStore(self.root_dir / "checkpoints")
        with store.lock(name):
            store.missing(name, {"config.json": "0"})
            (store.staging(name) / "config.json").write_text("{}")
            content = {"config.json": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}
            store.publish(name, content)
        return store.path(name)

    def prune(
        self, keep: int = 2, models: tuple[str, ...] = ("m",), check: bool = False, **more: Any
    ) -> dict[str, Any]:
        return Pruner(self, ROOT, Wanted(keep, models, more.get("described", ())), check).run().result()

    def engines(self) -> list[int]:
        return sorted(int(path.name[:3], 16) for path in (self.root_dir / "engines/m").glob("[0-9a-f]" * 64))


@pytest.fixture
def bed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bed]:
    host = Bed(tmp_path)
    monkeypatch.setattr(stock, "images", lambda: list(host.images_there))
    monkeypatch.setattr(stock, "containers", lambda: host.containers_there)
    monkeypatch.setattr(stock, "remove", lambda image: host.images_there.remove(image) or "")
    monkeypatch.setattr(TransferUnit, "running", lambda unit: True)
    yield host


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    return {str(p.relative_to(root)): (p.lstat().st_ino, p.lstat().st_mtime_ns) for p in sorted(root.rglob("*"))}


def gone(result: dict[str, Any]) -> list[str]:
    return [f"{thing['kind']} {thing['name']}" for thing in result["removed"]]


def why(result: dict[str, Any], kind: str, name: str) -> str:
    return next(str(thing["why"]) for thing in result["kept"] if thing["kind"] == kind and name in thing["name"])


def test_the_last_releases_stay_with_all_that_they_need_and_the_others_go(bed: Bed, tmp_path: Path) -> None:
    for engine in (1, 2, 3, 4):
        bed.serve(engine)
    bed.checkpoint("m")
    before = snapshot(tmp_path)
    expected = bed.prune(check=True)
    assert snapshot(tmp_path) == before, "check mode touches nothing"
    result = bed.prune()
    assert expected == result and result["quiet_until"] == NEVER
    assert gone(result) == [
        *(f"repository m/{sha(number)[:12]}" for number in (101, 102)),
        *(f"engine m/{sha(number)[:12]}" for number in (1, 2)),
        *(f"converted checkpoint {sha(number)[:12]}" for number in (301, 302)),
        *(f"scripts {number:016x}" for number in (1, 2)),
        *(f"image sha256:{sha(number)}" for number in (201, 202)),
    ]
    assert result["freed"] == sum(thing["size"] for thing in result["removed"]) > 2 * 10**9
    assert bed.engines() == [3, 4]
    assert [image.id for image in bed.images_there] == [f"sha256:{sha(number)}" for number in (203, 204)]
    assert why(result, "checkpoint", "m") == f"{QUADLET.format('triton-m-0')} names it"
    assert {bed.prune(check=True)["changed"], bed.prune()["changed"]} == {False}


def test_what_starts_compiled_goes_with_the_last_unit_that_names_it(bed: Bed) -> None:
    bed.serve(1)
    named, other = (bed.root_dir / "caches/m-0" / sha(number) for number in (401, 402))
    for cache in (named, other):
        (cache / "inductor").mkdir(parents=True)
    (bed.root_dir / "caches/m-0/mine").mkdir()
    unit = bed.path(QUADLET.format("triton-m-0"))
    unit.write_text(unit.read_text() + f"Volume={ROOT}/caches/m-0/{sha(401)}:/cache:rw,z\n")
    assert gone(bed.prune()) == [f"cache of a start m-0/{sha(402)[:12]}"]
    assert named.is_dir() and not other.exists() and (bed.root_dir / "caches/m-0/mine").is_dir()


def test_the_secret_of_a_replica_on_several_hosts_goes_once_no_release_names_it(bed: Bed) -> None:
    for number in (1, 2):
        directory = bed.path(f"/etc/trtllm/gangs/triton-m-{number}")
        directory.mkdir(parents=True)
        (directory / "secret").write_text("0" * 64)
        bed.serve(number, service=f"triton-m-{number}")
        unit = bed.path(QUADLET.format(f"triton-m-{number}"))
        unit.write_text(f"{unit.read_text()}Volume=/etc/trtllm/gangs/triton-m-{number}\n")
        os.utime(directory, (1, 1))
    (bed.path("/etc/trtllm/gangs") / "of-somebody-else").mkdir()
    assert "secret" not in " ".join(gone(bed.prune()))
    unit.unlink()
    assert "secret of a replica triton-m-2" in gone(bed.prune(keep=1))
    assert sorted(path.name for path in bed.path("/etc/trtllm/gangs").iterdir()) == ["of-somebody-else", "triton-m-1"]
    os.utime(bed.path("/etc/trtllm/gangs/triton-m-1"))
    bed.path(QUADLET.format("triton-m-1")).unlink()
    assert "less than a day" in why(bed.prune(keep=1), "secret of a replica", "triton-m-1")


def test_what_rollbacks_bring_back_stays_after_a_rollback_too(bed: Bed) -> None:
    """The record's stack, not the newest lines alone: after 1, 2, 3 and back to 2, a rollback brings back 1."""
    for engine in (1, 2, 3):
        bed.serve(engine)
    bed.serve(2, record.ROLLED_BACK)
    result = bed.prune()
    assert not result["changed"]
    back = ReleaseRecord(bed.root_dir / "releases", "triton-m-0").before(bed.unit(2))
    assert back is not None
    assert back["unit"] == bed.unit(1)
    bed.prune(keep=1)
    # 3 is the newest of a model that is described, so it is there for the next rollout.
    assert bed.engines() == [2, 3]


def test_a_release_that_failed_does_not_count(bed: Bed) -> None:
    bed.serve(1)
    bed.serve(2)
    bed.serve(3, record.FAILED)
    bed.serve(2, record.PUT_BACK)
    bed.prune()
    assert bed.engines() == [1, 2, 3]
    bed.prune(models=())
    assert bed.engines() == [1, 2]


def test_of_a_service_that_was_removed_the_removal_is_the_newest_release(bed: Bed) -> None:
    bed.serve(1)
    bed.serve(2)
    text = bed.unit(2)
    bed.path(QUADLET.format("triton-m-0")).unlink()
    line = record.entry(record.REMOVED, QUADLET.format("triton-m-0"), text, 0, {})
    ReleaseRecord(bed.root_dir / "releases", "triton-m-0").append(line)
    bed.checkpoint("m")
    bed.prune(models=())
    assert bed.engines() == [2]
    result = bed.prune(keep=1, models=())
    assert bed.engines() == []
    assert "checkpoint m" in gone(result)
    assert [path.name for path in (bed.root_dir / "checkpoints").iterdir()] == [".m.lock"], "a lock stays: one may wait"


def test_what_an_interrupted_rollout_would_go_back_to_stays(bed: Bed) -> None:
    first = bed.serve(1)
    bed.serve(2)
    bed.serve(3)
    state = RolloutState(bed.root_dir)
    state.note({"rollout": "r", "step": SWITCHING, "services": ["triton-m-0"], "from": {"triton-m-0": first}})
    result = bed.prune(keep=1, models=())
    assert bed.engines() == [1, 3]
    assert why(result, "engine", sha(1)[:12]) == "a rollout of triton-m-0 that was interrupted would go back to it"


def test_while_a_rollout_works_here_nothing_goes(bed: Bed) -> None:
    for engine in (1, 2, 3):
        bed.serve(engine)
    RolloutState(bed.root_dir).acquire({"id": "r1", "owner": "alice@ctl"}, 60)
    for check in (True, False):
        result = bed.prune(check=check)
        assert not result["changed"]
        assert result["reason"] == "the rollout r1 of alice@ctl works on this host"
        assert result["quiet_until"] == 0
    assert bed.engines() == [1, 2, 3]


def test_an_engine_that_nothing_names_yet_stays_for_the_run_that_will(bed: Bed) -> None:
    bed.serve(1)
    bed.artefact("engines", "m", 9)
    result = bed.prune()
    assert why(result, "engine", sha(9)[:12]) == "it is one of the newest of m, which is described"
    assert f"engine m/{sha(9)[:12]}" in gone(bed.prune(models=()))


@pytest.mark.parametrize("who", ["container", "job", "transfer"])
def test_what_somebody_works_on_stays(bed: Bed, who: str) -> None:
    bed.artefact("engines", "m", 1)
    partial = bed.root_dir / "engines/m" / f"{sha(2)}.partial"
    partial.mkdir()
    incoming = bed.root_dir / "engines/m" / f"{sha(1)}.incoming"
    incoming.mkdir()
    for path in (partial, incoming):
        os.utime(path, (1, 1))
    if who == "container":
        bed.containers_there = {"x": f"sha256:{sha(0)} {ROOT}/engines/m/{sha(1)} {ROOT}/engines/m/{sha(2)}.partial"}
    elif who == "job":
        (bed.root_dir / "jobs/m" / sha(2)).mkdir(parents=True)
    else:
        spec = bed.root_dir / "transfers/x/spec.json"
        spec.parent.mkdir(parents=True)
        spec.write_text(json.dumps({"kind": "engine", "name": "m", "fingerprint": sha(1)}))
    assert bed.prune(models=())["quiet_until"] < time.time(), "it goes as soon as they have ended"
    left = {path.name for path in (bed.root_dir / "engines/m").iterdir()} - {".lock"}
    assert (f"{sha(1)}.digests.json" in left) == (sha(1) in left)
    assert (
        left - {f"{sha(1)}.digests.json"}
        == {
            "container": {sha(1), f"{sha(2)}.partial"},
            "job": {f"{sha(2)}.partial"},
            "transfer": {sha(1), f"{sha(1)}.incoming"},
        }[who]
    )


def test_what_an_interrupted_run_left_goes_after_a_day(bed: Bed) -> None:
    partial = bed.root_dir / "engines/m" / f"{sha(2)}.partial"
    partial.mkdir(parents=True)
    result = bed.prune()
    assert "less than a day" in why(result, "left over", sha(2)[:12])
    assert time.time() + 86400 - 60 < result["quiet_until"] < time.time() + 86400 + 60
    os.utime(partial, (time.time() - DAYS,) * 2)
    assert gone(bed.prune()) == [f"left over m/{sha(2)[:12]}.partial"]
    begun = bed.root_dir / "checkpoints/m.partial"
    begun.mkdir(parents=True)
    os.utime(begun, (1, 1))
    assert why(bed.prune(), "left over", "m.partial") == "the model m is described", "its transfer is taken up"


def test_an_image_that_was_packed_to_be_handed_on_goes_after_a_day_whatever_names_its_id(bed: Bed) -> None:
    bed.serve(1)
    packed = bed.artefact("images", "triton-1", 201)
    os.utime(packed / "manifest.json", (time.time(),) * 2)
    assert "less than a day" in why(bed.prune(), "packed image", "triton-1")
    os.utime(packed / "manifest.json", (time.time() - DAYS,) * 2)
    with ArtifactStore(bed.root_dir / "images").lock("triton-1"):
        assert why(bed.prune(), "packed image", "triton-1") == "another run works on it"
    assert gone(bed.prune()) == [f"packed image triton-1/{sha(201)[:12]}"]
    assert not packed.exists()


def test_a_run_that_was_killed_is_finished_by_the_next(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in (1, 2, 3):
        bed.serve(engine)
    real = files.remove

    def killed(path: Path) -> None:
        real(path / "rank0.engine")
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "remove", lambda path: killed(path) if path.name.endswith(".replaced") and path.is_dir()
                        else real(path))  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        bed.prune()
    monkeypatch.setattr(files, "remove", real)
    left = [path.name for path in (bed.root_dir / "repositories/m").iterdir() if path.name.startswith(sha(101))]
    assert left == [f"{sha(101)}.replaced"], "nobody sees half of one under its name"
    assert f"left over m/{sha(101)[:12]}.replaced" in gone(bed.prune())
    assert not bed.prune()["changed"]
    assert bed.engines() == [2, 3]


def test_what_is_being_replaced_is_not_taken_away_before_the_new_one_stands(bed: Bed) -> None:
    home = bed.root_dir / "engines/m"
    for ending in (".replaced", ".partial"):
        (home / f"{sha(1)}{ending}").mkdir(parents=True)
    assert gone(bed.prune(models=())) == []


@pytest.mark.parametrize("check", [True, False])
def test_what_is_locked_stays(bed: Bed, check: bool) -> None:
    for engine in (1, 2, 3):
        bed.serve(engine)
    locks = bed.root_dir / "converted/.locks"
    locks.mkdir()
    with open(bed.root_dir / "engines/m/.lock", "w") as engines, open(locks / f"{sha(301)}.used", "w") as used:
        fcntl.flock(engines, fcntl.LOCK_EX)
        fcntl.flock(used, fcntl.LOCK_SH)
        result = bed.prune(check=check)
    assert why(result, "engine", sha(1)[:12]) == "another run works on it"
    assert result["quiet_until"] < time.time()
    assert bed.engines() == [1, 2, 3]
    assert (bed.root_dir / "converted" / sha(301)).exists()
    assert f"repository m/{sha(101)[:12]}" in gone(result)


def test_two_runs_at_once_remove_each_thing_once(bed: Bed) -> None:
    for engine in (1, 2, 3, 4):
        bed.serve(engine)
    read, write = os.pipe()
    children = []
    for _ in range(2):
        child = os.fork()
        if not child:
            code = 1
            try:
                os.write(write, f"{json.dumps(gone(bed.prune()))}\n".encode())
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    os.close(write)
    with open(read) as told:
        found = [thing for line in told for thing in json.loads(line) if not thing.startswith("image")]
    assert len(found) == len(set(found)) == 8
    assert bed.engines() == [3, 4]


def test_nothing_of_anybody_elses_is_touched(bed: Bed, tmp_path: Path) -> None:
    bed.serve(1)
    elsewhere = tmp_path / "elsewhere" / sha(7)
    elsewhere.mkdir(parents=True)
    (elsewhere / "data").write_text("of somebody else")
    home = bed.root_dir / "engines/m"
    (home / sha(7)).symlink_to(elsewhere)
    (home / f"{sha(8)}.replaced").symlink_to(elsewhere)
    (bed.root_dir / "engines/linked").symlink_to(elsewhere.parent)
    (bed.root_dir / "tokenizers").symlink_to(elsewhere.parent)
    for path in (
        "checkpoints/by-hand/config.json",
        "engines/m/notes/a",
        "repositories/bad/1",
        "backup/x",
        "engines/..a/b",
    ):
        place = bed.root_dir / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("{}")
    # As one that is used in place has it.
    (bed.root_dir / "checkpoints/by-hand.digests.json").write_text("{}")
    (bed.path("/etc/trtllm/openai_gateway")).mkdir(parents=True)
    for name in ("gateway.yml", "clients", "tls.key", "draining"):
        (bed.path("/etc/trtllm/openai_gateway") / name).write_text("x")
    bed.image(50, "docker.io/library/postgres:17")
    before = snapshot(tmp_path)
    assert gone(bed.prune(models=())) == []
    after = snapshot(tmp_path)
    assert {path: stamp for path, stamp in after.items() if not path.endswith(".lock")}.items() >= {
        path: stamp for path, stamp in before.items() if (tmp_path / path).is_file() and not path.endswith(".lock")
    }.items()
    assert len(bed.images_there) == 2


def test_an_image_of_ours_that_others_use_too_stays(bed: Bed) -> None:
    for engine in (1, 2, 3, 4, 5):
        bed.serve(engine)
    first, second, third = bed.images_there[:3]
    bed.images_there[0] = stock.Stored(first.id, ("r/a:1", "r/a:2"), (), 1)
    bed.images_there[1] = stock.Stored(second.id, ("r/a:1", "mine/b:2"), (), 1)
    bed.image(60, "mine/c:1", parent=third.id)
    result = bed.prune()
    assert [thing for thing in gone(result) if thing.startswith("image")] == ["image r/a:1"]
    assert [thing["why"] for thing in result["kept"] if thing["kind"] == "image"][:2] == [
        "it has several names: mine/b, r/a",
        "another image is built on it",
    ]
    assert result["quiet_until"] == NEVER, "that shows in the images of the host"


def test_an_image_that_the_description_or_a_container_names_stays(bed: Bed) -> None:
    for engine in (1, 2, 3, 4):
        bed.serve(engine)
    bed.images_there[0] = stock.Stored(f"sha256:{sha(201)}", ("r/a:1",), (), 1)
    bed.containers_there = {"old": f"sha256:{sha(202)} "}
    result = bed.prune(described=("r/a:1",))
    assert [thing["why"] for thing in result["kept"] if thing["kind"] == "image"][:2] == [
        "the description names it",
        "the container old uses it",
    ]
    assert result["quiet_until"] < time.time()


def test_files_of_a_gateway_stay_while_a_unit_or_its_releases_name_them(bed: Bed) -> None:
    directory = bed.path("/etc/trtllm/openai_gateway")
    directory.mkdir(parents=True)
    now, old, young = (directory / f"probe-{number:016x}.bash" for number in (1, 2, 3))
    for path in (now, old, young, directory / "openai_trtllm.env"):
        path.write_text("x")
        os.utime(path, (1, 1) if path != young else None)
    unit = bed.path(QUADLET.format("openai-gateway"))
    unit.parent.mkdir(parents=True)
    unit.write_text(f"{HEADER}\nHealthCmd=bash /etc/trtllm/openai_gateway/{now.name}\n")
    assert gone(bed.prune()) == ["gateway configuration openai_trtllm.env", f"gateway configuration {old.name}"]


def test_a_tokenizer_that_the_gateways_configuration_names_stays(bed: Bed) -> None:
    for name in ("0" * 16, "1" * 16):
        (bed.root_dir / "tokenizers/m" / name).mkdir(parents=True)
    config = bed.path("/etc/trtllm/openai_gateway/gateway.yml")
    config.parent.mkdir(parents=True)
    config.write_text(f"models:\n  - tokenizer: {ROOT}/tokenizers/m/{'1' * 16}\n")
    unit = bed.path(QUADLET.format("openai-gateway"))
    unit.parent.mkdir(parents=True)
    unit.write_text(f"{HEADER}\nExec=--config /etc/trtllm/openai_gateway/gateway.yml\n")
    assert gone(bed.prune()) == [f"tokenizer m/{'0' * 16}"]


def test_a_name_that_begins_another_is_not_named_by_it() -> None:
    names = Names()
    names.add("x", '/r/checkpoints/a.b:/r "/r/engines/m/00ff.partial" /r/checkpoints/c\n/r/checkpoints/d-e.')
    assert [names.why([f"checkpoints/{name}"]) for name in "abcde"] == ["", "", "x", "", ""]
    assert names.why(["checkpoints/a.b"]) == "x"
    assert names.why(["00ff"]) == ""
    assert names.why(["00ff.partial"]) == "x"
    assert names.why(["checkpoints/d-e"]) == "x"


@pytest.mark.parametrize(("given", "keep"), [(1, 1), ("2", 2), ("all", None), ("ALL ", None)])
def test_what_can_be_kept(given: Any, keep: Any) -> None:
    assert keep_of(given) == keep


@pytest.mark.parametrize("given", [0, "0", -1, True, "many", 1.5, None])
def test_what_cannot_be_kept_is_refused(given: Any) -> None:
    with pytest.raises(FleetError, match=r"trtllm_keep is .*; give how many releases .* or 'all' to remove nothing\."):
        keep_of(given)


def test_all_and_a_host_without_anything(bed: Bed, tmp_path: Path) -> None:
    bed.serve(1)
    found = Pruner(bed, ROOT, Wanted(None)).run()
    assert (found.reason, found.quiet_until) == ("trtllm_keep is 'all'", NEVER)
    before = snapshot(tmp_path)
    assert Pruner(bed, "/srv/none", Wanted(2)).run().result()["removed"] == []
    assert snapshot(tmp_path) == before


def test_the_table_says_what_goes_and_on_demand_what_stays() -> None:
    thing = {"kind": "engine", "name": "m/1", "path": "/x", "size": 3 << 30}
    told = {"removed": [thing], "kept": [{**thing, "name": "m/2", "why": "a unit names it"}], "freed": 3 << 30,
            "reason": ""}  # fmt: skip
    assert prune_table({"h1": told, "h2": {**told, "removed": [], "reason": "a rollout works"}}) == [
        "host  what     kind    name  size     why",
        "h1    removed  engine  m/1   3.0 GiB  nothing names it",
        "h1: 1 removed, 3.0 GiB; 1 kept.",
        "h2: nothing is removed, as a rollout works.",
    ]
    assert "h1    kept     engine  m/2   3.0 GiB  a unit names it" in prune_table({"h1": told}, whole=True)
    assert prune_table({"h1": {**told, "removed": []}}) == ["Nothing is to be removed."]
