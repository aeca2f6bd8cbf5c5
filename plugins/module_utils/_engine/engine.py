# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An engine on a host: is it there and right, and if not, the build that makes it so.

A build is started by one run and collected by whichever run comes first after it ended. Every decision is taken
under the lock of the engine's name; the build itself holds no lock of ours, so nothing but the kernel and podman
has to survive for a later run to find it.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .._artifact.artifact_store import ArtifactStore
from .._base.errors import FleetError
from .._base.files import read_object, write_atomically
from .._checkpoint.inspect import inspect_checkpoint
from .._host import gpu
from .._podman.image_ids import Images
from .._release.releases import Release, release, same_release
from .converted import ConvertedStore
from .failure import diagnose
from .inputs import as_told_now, host_paths, same, volumes
from .job import Job, JobState, finished_ranks
from .plan import Facts, Request, Wanted, describe_with_scripts, gather, require_image
from .preflight import Host, preflight
from .reasons import SHORT, diff, explain
from .runner import is_complete

TAIL = 50
# What of a result the manifest keeps, beside what the engine was made from.
RECORDED = (
    "name", "release", "tensorrt_llm_version", "model_family", "world_size", "commands", "reasons", "seconds",
    "log_path",
)  # fmt: skip
ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
# Options that calibrate, and so read a data set, which upstream's tools download unless it is a directory.
CALIBRATING = ("qformat", "int8_kv_cache", "smoothquant")


class BuildFailed(FleetError):
    """A build ended badly."""


class Engine:
    """The engine called *request.name* on this host. Methods return the module's result."""

    # What builds; a pod of Kubernetes, which is a container itself, has another.
    jobs: type[Job] = Job

    def __init__(self, request: Request, check_mode: bool, environment: Mapping[str, str] | None = None) -> None:
        self.request, self.check_mode = request.located(), check_mode
        self.environment = dict(environment or {})
        self.root = self.request.root
        self.store = ArtifactStore(self.root / "engines", looks=check_mode)
        self.images = Images(self.root)
        self.store.home(request.name)  # refuses a name that would lead out of it

    # -- what is there -------------------------------------------------------------------------------------

    def _newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest published engine of this name with a readable manifest."""
        for path in self.store.published(self.request.name):
            manifest = self.store.manifest(path)
            if manifest is not None:
                return path, manifest
        return None

    def _reasons(self, wanted: Wanted, facts: Facts) -> tuple[list[str], dict[str, Any] | None]:
        """Why the engine has to be made, [] when it has not; and what the present one was made from."""
        path = self.store.path(self.request.name, wanted.fingerprint)
        newest = self._newest()
        before = self._made_from(newest[1], facts) if newest else None
        if path.is_dir():
            problems = self._problems(path, full=self.request.verify == "full")
            manifest = self.store.manifest(path)
            before = self._made_from(manifest, facts) if manifest else before
            reasons = [f"engine: {problem}" for problem in problems]
            if not reasons and self.request.rebuild == "always":
                reasons = ["rebuild is always"]
        elif before is None:
            reasons = ["no engine of this name is published yet"]
        else:
            reasons = explain(before, wanted.made_from) or ["no engine with these inputs is published"]
        return [*reasons, *facts.unknown] if reasons else [], before

    def _problems(self, path: Path, full: bool) -> list[str]:
        """What is wrong with an engine, or of it not on this host and needed here."""
        elsewhere = self.store.lacks(path, self.request.ranks)
        return self.store.verify(path, full) + [f"{name} is on another host" for name in elsewhere]

    def _made_from(self, manifest: Mapping[str, Any], facts: Facts) -> dict[str, Any] | None:
        return as_told_now(manifest, facts.inputs, self.request.examples_dir)

    def _describe(self, chosen: Release | None, facts: Facts) -> Wanted:
        """The engine that should be; what is it already may bear the fingerprint of an earlier version of ours."""
        request, full = self.request, self.request.verify == "full"
        wanted = describe_with_scripts(request, chosen, facts, self.root, tolerant=self.check_mode)
        if facts.unknown or request.rebuild == "always" or self.store.path(request.name, wanted.fingerprint).is_dir():
            return wanted
        for path in self.store.published(request.name):
            before = self._made_from(self.store.manifest(path) or {}, facts)
            if before is not None and same(before, wanted.made_from) and not self._problems(path, full):
                return replace(wanted, fingerprint=path.name)
        return wanted

    def _result(self, wanted: Wanted, facts: Facts, path: Path, release_: Release | None) -> dict[str, Any]:
        return {
            "changed": False,
            "building": False,
            "name": self.request.name,
            "engine_dir": str(path),
            "fingerprint": wanted.fingerprint,
            "provisional": bool(facts.unknown),
            "release": release_.version if release_ else None,
            "model_family": wanted.family,
            "world_size": wanted.plan.world_size if wanted.plan else None,
            "gpu": wanted.made_from["gpu"],
            "image_id": facts.image_id,
            "commands": [step["argv"] for step in self._steps(wanted)],
            "reasons": [],
            "bytes_read": facts.tree.bytes_read if facts.tree else 0,
            "whole": not self.store.left_out(path),
        }

    # -- present -------------------------------------------------------------------------------------------

    def present(self) -> dict[str, Any]:
        """Compare and, where needed and allowed, start a build or join the one that runs."""
        request = self.request
        facts = self._gather()
        chosen = request.release or self._release_in(facts.image_id)
        wanted = self._describe(chosen, facts)
        path = self.store.path(request.name, wanted.fingerprint)
        reasons, before = self._reasons(wanted, facts)
        result = self._result(wanted, facts, path, chosen)
        if not reasons:
            return self._tidied(result)
        if request.rebuild == "never":
            kept = self._newest_intact()
            if kept is not None:
                return self._kept(result, kept, reasons)
        missing = require_image(request, facts, tolerant=self.check_mode)
        result.update(changed=True, reasons=[*reasons, *missing], diff=diff(before, wanted.made_from))
        if chosen is not None and facts.config is not None and not (self.check_mode and facts.unknown):
            self._preflight(wanted, facts, chosen)
        if self.check_mode:
            return result
        if chosen is None or facts.image_id is None:
            raise FleetError(f"The release in {request.image_reference} is not known; give release.")
        version = self._version(facts.image_id)
        self._refuse_other_release(chosen, version)
        with self.store.lock(request.name):
            return self._build(wanted, facts, {**result, "tensorrt_llm_version": version})

    def _gather(self) -> Facts:
        """What the host says."""
        return gather(self.request, tolerant=self.check_mode)

    def _version(self, image_id: str) -> str:
        """The TensorRT-LLM version of the image."""
        return self.images.version(image_id, self.request.image_reference)

    def _newest_intact(self) -> Path | None:
        for path in self.store.published(self.request.name):
            if not self._problems(path, full=False):
                return path
        return None

    def _kept(self, result: dict[str, Any], path: Path, reasons: list[str]) -> dict[str, Any]:
        """``rebuild: never``: the engine that is there, and why it is not the one that was described."""
        manifest = self.store.manifest(path) or {}
        kept = {key: manifest.get(key, result[key]) for key in ("world_size", "release", "model_family")}
        result.update(kept, engine_dir=str(path), fingerprint=path.name, reasons=reasons, stale=True)
        return result

    def _tidied(self, result: dict[str, Any]) -> dict[str, Any]:
        """Remove what a run left that was killed between publishing and cleaning up."""
        if not self.check_mode and self.jobs.of_name(self.root, self.request.name):
            with self.store.lock(self.request.name):
                for job in self.jobs.of_name(self.root, self.request.name):
                    if job.fingerprint == result["fingerprint"] and job.state().state != "running":
                        self._drop(job)
        return result

    def _preflight(self, wanted: Wanted, facts: Facts, chosen: Release) -> None:
        steps = self._steps(wanted)
        preflight(
            release=chosen,
            checkpoint=inspect_checkpoint(self.request.checkpoint),
            options=self.request.options,
            dtype=wanted.dtype,
            gpus=facts.gpus,
            host=Host.of(self.root),
            root=self.root,
            ranks=wanted.plan.world_size if wanted.plan else 1,
            converts=any(step.get("publish") and not is_complete(step["publish"]) for step in steps),
            skip=self.request.skip_preflight,
        )

    # -- the release in the image ----------------------------------------------------------------------------

    def _release_in(self, image_id: str | None) -> Release | None:
        """The release of the image, where none was given. Check mode asks no container."""
        if image_id is None:
            return None
        version = (
            self.images.known_version(image_id)
            if self.check_mode
            else self.images.version(image_id, self.request.image_reference)
        )
        return release(version) if version else None

    def _refuse_other_release(self, chosen: Release, version: str) -> None:
        if not same_release(chosen, version):
            raise FleetError(
                f"The image {self.request.image_reference} holds TensorRT-LLM {version}, but release is "
                f"{chosen.version}; give the release that the image holds, or the image of that release."
            )

    # -- building ------------------------------------------------------------------------------------------

    def _steps(self, wanted: Wanted) -> list[dict[str, Any]]:
        """The commands as the runner takes them. What is shared is written beside its place and renamed."""
        steps: list[dict[str, Any]] = []
        for command in wanted.commands:
            step: dict[str, Any] = {
                "phase": command.phase, "argv": command.argv, "alternatives": command.alternatives,
                "output": command.output, "ranks": command.ranks, "env": command.env,
            }  # fmt: skip
            if command is not wanted.commands[-1]:
                partial = f"{command.output}.partial"
                step["argv"] = [partial if word == command.output else word for word in command.argv]
                lock = ConvertedStore(self.root).lock_file(Path(command.output).name)
                step.update(publish=command.output, output=partial, lock=str(lock))
            steps.append(step)
        return steps

    def _build(self, wanted: Wanted, facts: Facts, result: dict[str, Any]) -> dict[str, Any]:
        """Under the lock: take what another run made, join its build, or start one."""
        name = self.request.name
        path = self.store.path(name, wanted.fingerprint)
        reasons, _ = self._reasons(wanted, Facts())
        if not reasons:
            return {**result, "reasons": [*result["reasons"], "another run has made it meanwhile"]}
        for other in self.jobs.of_name(self.root, name):
            if other.fingerprint != wanted.fingerprint:
                if other.state().state == "running":
                    result["reasons"].append(f"the build of {other.fingerprint[:SHORT]} was stopped, it is superseded")
                self._drop(other, spare=wanted.converted_fingerprint)
        job = self.jobs(self.root, name, wanted.fingerprint)
        state = job.state()
        if state.state == "running":
            return self._report(job, state, result)
        if state.state == "done":
            return self._collect(job, state, result)
        if (
            state.state == "absent"
            and self.request.rebuild != "always"
            and self.store.recover(name, wanted.fingerprint)
        ):
            return {**result, "reasons": [*result["reasons"], "a finished build was not published yet"]}
        if state.state in ("failed", "interrupted"):
            result["reasons"].append(f"an earlier build {self._how_it_ended(state)}")
        about = {"result": {**result, "engine_dir": str(path)}, "made_from": wanted.made_from,
                 "converted": wanted.converted_fingerprint}  # fmt: skip
        self._start(job, wanted, facts, about)
        return self._report(job, JobState("running", id=job.spec()["id"], started=time.time()), result)

    def _start(self, job: Job, wanted: Wanted, facts: Facts, about: dict[str, Any]) -> None:
        request = self.request
        staging = self.store.staging(request.name, wanted.fingerprint)
        converted = self.root / "converted"
        (converted / ".locks").mkdir(parents=True, exist_ok=True)
        offline = self._needs_no_network()
        read = [str(request.checkpoint), *host_paths(request.options).values(), *filter(None, [request.examples_dir])]
        job.start(
            str(facts.image_id),
            self._steps(wanted),
            volumes=[*volumes(read), f"{converted}:{converted}", f"{staging}:{staging}"],
            devices=[gpu.cdi_name(device) for device in request.devices],
            network="none" if offline else "host",
            environment={**ENVIRONMENT, **(OFFLINE if offline else {}), **self.environment},
            timeout=request.timeout,
            lifeline=request.lifeline,
            about={**about, "keep_converted": request.keep_converted},
        )

    def _needs_no_network(self) -> bool:
        options = self.request.options
        calibrates = any(options.get(name) for name in CALIBRATING)
        return not calibrates or str(options.get("calib_dataset") or "").startswith("/")

    def _report(self, job: Job, state: JobState, result: Mapping[str, Any]) -> dict[str, Any]:
        """A build is running: how far it is, and under which id to ask again."""
        return {
            **result,
            "changed": True,
            "building": True,
            "job": {"id": state.id, "container": job.container, "log_path": str(job.log)},
            "progress": job.progress(state),
        }

    def attached(self) -> dict[str, Any]:
        """Report on the build with the id *request.attach*, and collect its result once it has ended."""
        name, wanted_id = self.request.name, self.request.attach
        with self.store.lock(name):
            for job in self.jobs.of_name(self.root, name):
                spec = job.spec()
                if spec.get("id") != wanted_id:
                    continue
                state = job.state()
                result = spec["about"]["result"]
                if state.state == "running":
                    return self._report(job, state, result)
                if state.state == "done":
                    return self._collect(job, state, result)
                raise self._failure(job, state)
            for path in self.store.published(name):
                manifest = self.store.manifest(path) or {}
                if manifest.get("job") == wanted_id:
                    return self._published(path, manifest)
        raise FleetError(
            f"The build of {name} is not there any more: another run has cancelled it, or what {self.root} had of it "
            "is gone, as after a reboot where it is kept in memory; run again to start it anew."
        )

    def _collect(self, job: Job, state: JobState, result: Mapping[str, Any]) -> dict[str, Any]:
        """Publish what a finished build made."""
        about = job.spec()["about"]
        complete = {**about["result"], "seconds": dict(state.phases or {}), "log_path": str(job.log)}
        partial = self.store.partial(self.request.name, job.fingerprint)
        missing = self._missing_output(partial, complete.get("world_size") or 1)
        if missing:
            raise self._failure(job, replace(state, state="failed", message=missing))
        if about["made_from"].get("nodes"):
            tell_gpus_per_node(partial, about["made_from"]["nodes"]["gpus_per_node"])
        self.store.publish(
            self.request.name,
            job.fingerprint,
            {
                "kind": "engine",
                "made_from": about["made_from"],
                "built_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "job": state.id,
                **{key: complete.get(key) for key in RECORDED},
            },
        )
        job.discard()
        if not about.get("keep_converted"):
            self._remove_converted(about["converted"])
        return {**complete, "changed": True, "building": False, "diff": result.get("diff", {})}

    def _published(self, path: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """The result of a build that another run has collected."""
        return {
            **{key: manifest.get(key) for key in RECORDED},
            "changed": True,
            "building": False,
            "engine_dir": str(path),
            "fingerprint": path.name,
            "provisional": False,
            "image_id": manifest["made_from"]["image"],
            "gpu": manifest["made_from"]["gpu"],
        }

    @staticmethod
    def _missing_output(partial: Path, ranks: int) -> str:
        """What a build that ended well left out; "" when nothing."""
        if not (partial / "config.json").is_file():
            return "it ended well but wrote no config.json"
        found = finished_ranks(str(partial))
        return "" if found >= ranks else f"it ended well but wrote {found} of {ranks} rank files"

    def _remove_converted(self, converted: str) -> None:
        """Remove a converted checkpoint unless another build reads it; the last one removes it."""
        store = ConvertedStore(self.root)
        with store.unused(converted) as unused:
            if unused:
                store.remove(converted)

    # -- failure -------------------------------------------------------------------------------------------

    @staticmethod
    def _how_it_ended(state: JobState) -> str:
        where = f" in phase {state.phase}" if state.phase else ""
        if state.message and state.reason != "exit":
            return f"failed{where}: {state.message}"
        if state.reason == "stopped":
            return f"was stopped{where}"
        if state.state == "interrupted":
            code = f" (exit code {state.exit_code})" if state.exit_code is not None else ""
            return f"was killed{where}{code}"
        return f"failed{where} with exit code {state.exit_code}"

    def _failure(self, job: Job, state: JobState) -> BuildFailed:
        """The error for a build that ended badly; what it left half-made is removed, the log is kept."""
        lines = job.log_lines(TAIL)
        free = Host.of(self.root).disk_free
        found = diagnose(lines, state.exit_code, oom_killed=state.oom_killed, free_bytes=free)
        if state.reason in ("timeout", "stopped", "killed") and not state.oom_killed:
            found = None
        advice = f": {found.cause}; {found.remedy}" if found else "; the next run starts it anew"
        if state.reason == "timeout":
            advice = "; raise timeout, or look at the log for what took so long"
        shutil.rmtree(self.store.partial(self.request.name, job.fingerprint), ignore_errors=True)
        converted = job.spec().get("about", {}).get("converted")
        if converted:
            store = ConvertedStore(self.root)
            with store.unused(converted) as unused:
                if unused:
                    shutil.rmtree(store.partial_of(store.home(converted)), ignore_errors=True)
        return BuildFailed(
            f"The build of {self.request.name} {self._how_it_ended(state)}{advice}. The whole log: {job.log}",
            {
                "exit_code": state.exit_code,
                "phase": state.phase,
                "log_path": str(job.log),
                "log_tail": lines,
                "cause": found.cause if found else None,
                "remedy": found.remedy if found else None,
                "seconds": dict(state.phases or {}),
            },
        )

    # -- the other states ----------------------------------------------------------------------------------

    def waited(self, poll: float) -> dict[str, Any]:
        """`present`, and then wait until the build has ended, asking every *poll* seconds."""
        result = self.present()
        while result["building"]:
            time.sleep(poll)
            engine = type(self)(replace(self.request, attach=result["job"]["id"]), False)
            result = engine.attached()
        return result

    def cancel(self) -> dict[str, Any]:
        """Stop whatever builds an engine of this name."""
        running = self.jobs.of_name(self.root, self.request.name)
        result = {"changed": bool(running), "building": False, "name": self.request.name,
                  "cancelled": [job.fingerprint for job in running]}  # fmt: skip
        if running and not self.check_mode:
            with self.store.lock(self.request.name):
                for job in self.jobs.of_name(self.root, self.request.name):
                    self._drop(job)
        return result

    def _drop(self, job: Job, spare: str = "") -> None:
        """End a job and remove all that it was making, but for the converted checkpoint *spare*."""
        about = job.spec().get("about", {})
        job.discard()
        shutil.rmtree(self.store.partial(self.request.name, job.fingerprint), ignore_errors=True)
        converted = about.get("converted", spare)
        if converted != spare and not about.get("keep_converted"):
            self._remove_converted(converted)

    def absent(self) -> dict[str, Any]:
        """Remove every engine of this name, and stop its build."""
        name = self.request.name
        home = self.root / "engines" / name
        jobs = self.jobs.of_name(self.root, name)
        leftovers = (
            [path.name for path in home.iterdir() if re.match(r"[0-9a-f]{64}", path.name)] if home.is_dir() else []
        )
        published = [path.name for path in self.store.published(name)]
        result = {"changed": bool(jobs or leftovers), "building": False, "name": name, "removed": sorted(published)}
        result["diff"] = {"before": {"engines": sorted(published)}, "after": {"engines": []}}
        if result["changed"] and not self.check_mode:
            with self.store.lock(name):
                for job in self.jobs.of_name(self.root, name):
                    self._drop(job)
                for entry in sorted(home.iterdir()):
                    if re.match(r"[0-9a-f]{64}", entry.name):
                        self.store.remove(name, entry.name[:64])
        return result


def tell_gpus_per_node(engine: Path, count: int) -> None:
    """Write into an engine how many GPUs each of its hosts has: no tool can be told, and each says 8.

    TensorRT-LLM's runtime compares it with the GPUs that it sees where ranks are on several hosts (worldConfig.cpp);
    editing the file is what upstream advises in its tutorial on several nodes.
    """
    config = read_object(engine / "config.json")
    mapping = (config.get("pretrained_config") or {}).get("mapping")
    if isinstance(mapping, dict):
        mapping["gpus_per_node"] = count
        write_atomically(engine / "config.json", json.dumps(config, indent=4).encode() + b"\n")
