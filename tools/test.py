# SPDX-License-Identifier: GPL-3.0-or-later
"""All that must be true before a change is kept: lint, unit and contract tests, molecule on real hosts.

What reads code runs beside what makes images and boots hosts. The exit code is 0 only if every stage passed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import controllers
import demo
from _stages import REPO, VENV, StageError, Stages, cache_dir, main_guard

BIN = VENV / "bin"
PYTHON = BIN / "python"
CONTRACT = "contract tests"
OUTPUT = REPO / "tests" / "output"
# Sanity tests that need no container and no interpreter beyond the one at hand.
SANITY = [
    "action-plugin-docs", "ansible-doc", "changelog", "compile", "empty-init", "ignores", "line-endings", "no-assert",
    "no-get-exception", "no-illegal-filenames", "no-smart-quotes", "pep8", "replace-urlopen", "runtime-metadata",
    "shebang", "symlinks", "use-argspec-type-path", "use-compat-six", "validate-modules", "yamllint",
]  # fmt: skip

# Scenario -> an image that only it needs, made of a source that is not ours, which a machine may not reach.
OWN_IMAGES = {
    "openai_trtllm": "localhost/openai_trtllm_base:1.74.0",
    "triton_frontend": "localhost/triton_frontend:24.11",
}
# The longest: two with eight and seven hosts, and one host on which tutorials are followed. Others run beside the
# first, so many that the second begins after it.
LONGEST = ("rollout", "rollout_faults", "tutorials")
BESIDE = 3
BESIDE_HOSTS = 5  # how far what reads code stands back for test hosts
# Images that the demo does not need.
MORE_IMAGES = {
    "checkpoint_fetch": "localhost/checkpoint_fetch:0.1.0",
    "trtllm_serve_cpu": "localhost/trtllm_serve_cpu:1.3.0",
}

# What says why a stage failed, in the words of ansible-playbook, ansible-lint, pytest and make.
REASON = re.compile(r"^(fatal: |failed: |\[ERROR\]|ERROR|FAILED |E   |Error: |\S+: error: |.*Traceback \(most)")
DETAIL = re.compile(r"^\s+(msg|assertion|stderr): ")
TASK = re.compile(r"^(TASK|RUNNING HANDLER) \[")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# What molecule puts before a line of ansible-playbook.
MARGIN = re.compile(r"^\s*│ ")
REASONS_SHOWN, REASON_LENGTH = 12, 700

# What the collection ships, and so what it answers for to ansible-test.
SHIPPED = ("plugins/", "roles/", "playbooks/", "meta/", "changelogs/", "galaxy.yml", "README.md", "LICENSE")


@dataclass
class Stage:
    """One command of one lane."""

    name: str
    argv: list[str]
    cwd: Path = REPO
    nice: int = 0
    seconds: float = 0.0
    code: int | None = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = OUTPUT / f"{re.sub(r'[^a-z0-9]+', '-', self.name.lower())}.log"

    def run(self) -> bool:
        """Run the command; its output goes to the log, and to the terminal where it fails."""
        started = time.monotonic()
        with self.log.open("wb") as log:
            self.code = subprocess.run(
                ["nice", "-n", str(self.nice), *self.argv],
                cwd=self.cwd,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode
        self.seconds = time.monotonic() - started
        return self.code == 0

    def lines(self) -> list[str]:
        """The log, without colours."""
        return COLOUR.sub("", self.log.read_text(encoding="utf-8", errors="replace")).splitlines()

    def reasons(self) -> list[str]:
        """The lines of the log that say why the stage failed, the last ones, each after the task it belongs to."""
        found: list[str] = []
        task, failed = "", False
        for line in (MARGIN.sub("", line) for line in self.lines()):
            if TASK.match(line):
                task, failed = line.rstrip(" *"), False
            elif REASON.match(line) or (failed and DETAIL.match(line)):
                if task and task not in found:
                    found.append(task)
                found.append(line if len(line) <= REASON_LENGTH else f"{line[:REASON_LENGTH]} ...")
                failed = True
        return found[-REASONS_SHOWN:]

    def report(self) -> str:
        """The stage's line, its last summary line, and its whole tail where it failed."""
        lines = self.lines()
        head = f"test: {'passed' if self.code == 0 else 'FAILED'}  {self.name} ({self.seconds:.0f} s)"
        if self.code == 0:
            closing = [line for line in lines if re.search(r"\b\d+ (passed|failed|skipped)\b", line)]
            skips = [line for line in lines if line.startswith("SKIPPED")]
            return "\n".join([head, *(f"      {line}" for line in skips), *closing[-1:]])
        return "\n".join([head, *lines[-120:], f"test: the whole log of '{self.name}' is {self.log}"])


def lint_stages() -> list[Stage]:
    """Style and types of Python, YAML, roles and modules."""
    # The images bring their own Python; what else is in the checkout has to run on older ones.
    images = [
        str(BIN / "mypy"),
        "--cache-dir",
        str(REPO / ".mypy_cache"),
        "--config-file",
        str(REPO / "pyproject.toml"),
        "--python-version",
        "3.11",
    ]
    return [
        Stage("ruff", [str(BIN / "ruff"), "check", "."]),
        Stage("ruff format", [str(BIN / "ruff"), "format", "--check", "."]),
        Stage("mypy", [str(BIN / "mypy"), "plugins/module_utils", "tests/testbed", "tools", "images/_build.py"]),
        Stage("mypy openai_gateway", [*images, "openai_gateway"], REPO / "images" / "openai_gateway"),
        Stage("mypy triton_cpu", [*images, "tensorrt_llm"], REPO / "images" / "triton_cpu" / "src"),
        Stage("mypy trtllm_serve_cpu", [*images, "trtllm_serve"], REPO / "images" / "trtllm_serve_cpu" / "src"),
        Stage("yamllint", [str(BIN / "yamllint"), "-s", "."]),
        Stage("ansible-lint", [str(BIN / "ansible-lint"), "--offline", "-q"]),
        Stage("ansible-test sanity", [str(PYTHON), __file__, "sanity"]),
        Stage("site", [str(PYTHON), "tools/website.py", "--look"]),
        Stage("galaxy", [str(PYTHON), "tools/release.py", "galaxy"]),
        *(
            Stage(f"{OTHER_CORE} {release}", [str(PYTHON), "tools/controllers.py", release])
            for release in controllers.others()
        ),
    ]


# a minute or more each, and about what CI and a review look at
OTHER_CORE = "with ansible-core"
SLOW_LINTERS = ("ansible-lint", "ansible-test sanity", "site", "galaxy", OTHER_CORE)


def pytest_stage(name: str, *paths: str) -> Stage:
    """A run of pytest."""
    return Stage(name, [str(PYTHON), "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths])


def preparations() -> list[Stage]:
    """What the scenarios need: the testbed, the images in its registry, a checkpoint, and clients of the gateway."""
    stages = [
        Stage("testbed", [str(demo.TESTBED), "prepare"]),
        Stage("registry", [str(demo.TESTBED), "registry", "up"]),
    ]
    for name, reference in {**demo.IMAGES, **MORE_IMAGES}.items():
        stages.append(Stage(f"image {name}", [str(PYTHON), str(REPO / "images" / name / "build")]))
        stages.append(Stage(f"push {name}", [str(demo.TESTBED), "push", reference]))
    checkpoint = cache_dir() / "demo" / demo.MODEL
    stages.append(Stage("checkpoint", [str(PYTHON), "tools/tiny_checkpoint.py", str(checkpoint)]))
    stages.append(Stage("clients", [str(PYTHON), "tools/conformance.py", "setup"]))
    return stages


def molecule_stages(scenarios: list[str]) -> list[Stage]:
    """One run of molecule per scenario, or what says why there is none."""
    return [molecule_stage(name) for name in scenarios]


def molecule_stage(name: str) -> Stage:
    """A scenario, after the image that it alone needs; where that cannot be made here, a stage that says why."""
    run = [str(BIN / "molecule"), "test", "-s", name]
    if name not in OWN_IMAGES:
        return Stage(f"molecule {name}", run)
    build = REPO / "images" / name / "build"
    checked = subprocess.run([str(PYTHON), str(build), "--check"], capture_output=True, text=True, check=False)
    if checked.returncode:
        line = f"SKIPPED [1] molecule {name}: {checked.stderr.strip().splitlines()[-1]}"
        return Stage(f"molecule {name}", [str(PYTHON), "-c", f"print({line!r})"])
    steps = [[str(PYTHON), str(build)], [str(demo.TESTBED), "push", OWN_IMAGES[name]], run]
    return Stage(f"molecule {name}", ["sh", "-c", " && ".join(map(shlex.join, steps))])


def all_scenarios() -> list[str]:
    """The scenarios of the checkout, the default one first. The longest begin early, and not at the same time."""
    found = {path.parent.name for path in (REPO / "molecule").glob("*/molecule.yml")}
    longest = [name for name in LONGEST if name in found]
    others = sorted(found.difference(longest), key=lambda name: (name != "default", name))
    return [*others[:1], *longest[:1], *others[1 : 1 + BESIDE], *longest[1:], *others[1 + BESIDE :]]


def sanity() -> int:
    """Run ansible-test on a copy: it refuses a collection that is reached through a symbolic link."""
    _prime_pip()
    with tempfile.TemporaryDirectory(prefix="trtllm-sanity-") as scratch:
        root = Path(scratch) / "ansible_collections" / "trtllm" / "fleet"
        listed = subprocess.run(
            ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=REPO, check=True, capture_output=True
        )
        for name in filter(None, listed.stdout.decode().split("\0")):
            source, target = REPO / name, root / name
            if not name.startswith(SHIPPED) or not source.is_file():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
        argv = [
            str(BIN / "ansible-test"),
            "sanity",
            "--color",
            "no",
            "--python",
            f"{sys.version_info[0]}.{sys.version_info[1]}",
        ]
        for test in SANITY:
            argv += ["--test", test]
        return subprocess.run(argv, cwd=root, check=False).returncode


def _prime_pip() -> None:
    """Let ansible-test make its environments with the pip that Python carries: its own bootstrap downloads one."""
    spec = importlib.util.find_spec("ansible_test")
    if spec is None or not spec.submodule_search_locations:
        raise StageError("ansible-test is not installed; run `make setup`.")
    packages = (Path(next(iter(spec.submodule_search_locations))) / "_internal" / "python_requirements.py").read_text(
        encoding="utf-8"
    )
    for version in set(re.findall(r"pip=['\"]([\d.]+)['\"]", packages)):
        shim = Path.home() / ".ansible" / "test" / "cache" / f"get_pip_{version.replace('.', '_')}.py"
        if not shim.exists():
            shim.parent.mkdir(parents=True, exist_ok=True)
            shim.write_text(
                'import subprocess, sys\nsubprocess.check_call([sys.executable, "-m", "ensurepip", "--default-pip"])\n',
                encoding="utf-8",
            )


def restart_lost_hosts(finished: threading.Event) -> None:
    """Start hosts again that rebooted and did not come back, until *finished*.

    A host that reboots is a container that ends, and podman's restart policy brings it back within a second. Seen
    once in some hundred reboots with podman 4.3: the restart was begun and never done. Hosts that a scenario powered
    off are left so.
    """
    off = cache_dir() / "testbed" / "off"
    listing = [str(REPO / "tests" / "testbed" / "podman"), "ps", "--all", "--filter", "label=trtllm.testbed=host"]
    listing += ["--filter", "status=exited", "--format", "{{.Names}}"]
    before: set[str] = set()
    while not finished.wait(5):
        found = subprocess.run(listing, capture_output=True, text=True, check=False)
        now = {name for name in found.stdout.split() if not (off / name).exists()}
        for name in sorted(now & before):
            subprocess.run([str(demo.TESTBED), "start", name], capture_output=True, check=False)
        before = now


def run_lanes(reading: list[Stage], preparing: list[Stage], scenarios: list[Stage]) -> int:
    """Run what reads code beside what boots hosts.

    Scenarios wait for others (boots, probes, connections) most of their time, so two run at once on two cores. They
    begin when all is prepared, and after the contract tests: those serve with a Triton that takes a process of its own
    for dead which does not get the processor for a second. A failed preparation ends them.
    """
    OUTPUT.mkdir(parents=True, exist_ok=True)
    printing, prepared, finished = threading.Lock(), threading.Event(), threading.Event()
    quiet_over = threading.Event()

    def go(stage: Stage) -> bool:
        passed = stage.run()
        with printing:
            print(stage.report(), flush=True)
        return passed

    def hosts() -> None:
        try:
            ready = all(go(stage) for stage in preparing)
        finally:
            prepared.set()
        if CONTRACT in [stage.name for stage in reading]:
            quiet_over.wait()
        if ready:
            threading.Thread(target=restart_lost_hosts, args=(finished,), daemon=True).start()
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(go, scenarios))

    with ThreadPoolExecutor(1) as pool:
        booting = pool.submit(hosts)
        for stage in reading:
            # Contract tests try the real image too, so it has to be there.
            if stage.name == CONTRACT and preparing:
                prepared.wait()
            go(stage)
            if stage.name == CONTRACT:
                quiet_over.set()
        booting.result()
        finished.set()
    stages = [*reading, *preparing, *scenarios]
    failed = [stage for stage in stages if stage.code not in (0, None)]
    skipped = [stage for stage in stages if stage.code is None]
    for stage in failed:
        print(f"test: failed: {stage.name} (log: {stage.log})")
        for line in stage.reasons():
            print(f"      {line}")
    for stage in skipped:
        print(f"test: not run: {stage.name}")
    print(f"stages: {len(stages) - len(failed) - len(skipped)} passed, {len(failed) + len(skipped)} failed")
    return 1 if failed or skipped else 0


def run(what: str, scenarios: list[str]) -> int:
    """Run one part, or all of it."""
    if what == "sanity":
        return sanity()
    unit = pytest_stage("unit tests", "tests/unit", "images")
    contract = pytest_stage(CONTRACT, "tests/contract")
    quick = pytest_stage("quick unit tests", "-m", "not slow", "tests/unit", "images")
    fast = [stage for stage in lint_stages() if not stage.name.startswith(SLOW_LINTERS)]
    slow = [stage for stage in lint_stages() if stage.name.startswith(SLOW_LINTERS)]
    # Installed while images are made; the contract tests look at pages, and measure, with them.
    clients = [Stage(name, [str(PYTHON), f"tools/{name}.py", "setup"]) for name in ("browser", "benchmark")]
    carrier = Stage("execution environment", [str(PYTHON), "tools/execution_environment.py"])
    if what in ("all", "molecule"):
        demo.preflight()
    hosts = molecule_stages(scenarios or all_scenarios())
    reading, preparing, booting = {
        "all": ([*clients, *fast, contract, *slow, carrier, unit], preparations(), hosts),
        "quick": ([*fast, quick], [], []),
        "lint": ([*fast, *slow], [], []),
        "unit": ([unit], [], []),
        "contract": ([*clients, contract], [], []),
        "molecule": ([], preparations(), hosts),
    }[what]
    if booting:
        # A Triton ends that does not get the processor for a second, and scenarios start several.
        for stage in reading:
            stage.nice = 0 if stage.name == CONTRACT else BESIDE_HOSTS
    stages = Stages("test")
    stages.say(f"running {len(reading) + len(preparing) + len(booting)} stages; logs are kept in {OUTPUT}")
    return run_lanes(reading, preparing, booting)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", nargs="?", default="all", choices=["all", "quick", "lint", "unit", "contract", "molecule", "sanity"]
    )
    parser.add_argument("scenarios", nargs="*", help="molecule scenarios; all by default")
    args = parser.parse_args()
    os.environ["PATH"] = f"{BIN}:{os.environ['PATH']}"
    os.environ["ANSIBLE_CONFIG"] = str(REPO / "ansible.cfg")
    os.environ["MOLECULE_GLOB"] = "molecule/*/molecule.yml"
    os.environ.setdefault("ANSIBLE_INJECT_FACT_VARS", "false")
    return main_guard("test", lambda: run(args.what, args.scenarios))


if __name__ == "__main__":
    sys.exit(main())
