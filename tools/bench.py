# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the demo's stages take, cold and warm, and what a run without changes costs.

Cold: no host, no registry, no image, nothing downloaded (this empties the cache); what was installed on the machine
itself and the virtual environment stay. Warm: the cache and the images are there, the host is made anew. Then a run
without changes. The counts are of commands that ansible ran on the host over ssh, from its own debug output.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import demo
from _stages import REPO, VENV, StageError, Stages, cache_dir, main_guard

PLAYBOOK = ["ansible-playbook", "-i", "inventories/demo", "playbooks/site.yml"]


def timed_demo(label: str) -> dict[str, float]:
    """Run the demo as a user does and return the seconds of its stages."""
    with tempfile.TemporaryDirectory() as scratch:
        timings = Path(scratch) / "timings.json"
        argv = [str(VENV / "bin" / "python"), str(REPO / "tools" / "demo.py"), "up", "--timings", str(timings)]
        print(f"bench: {label}: {' '.join(argv[1:3])}", flush=True)
        done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise StageError(f"the demo failed ({label}): {(done.stdout + done.stderr)[-2000:]}")
        seconds: dict[str, float] = json.loads(timings.read_text(encoding="utf-8"))
    return seconds


def remove_host() -> None:
    """Remove the demo's host and registry, as `make clean-demo` does."""
    subprocess.run([str(demo.TESTBED), "down", demo.HOST, "bed-registry"], cwd=REPO, check=True, capture_output=True)


def empty_caches() -> None:
    """Remove hosts, the registry, images and all that was downloaded, so that the next demo starts from nothing."""
    podman = str(REPO / "tests" / "testbed" / "podman")
    listing = [podman, "images", "--quiet", "--no-trunc", "--filter", "reference=localhost/trtllm-fleet/*"]
    bases = subprocess.run(listing, cwd=REPO, check=True, capture_output=True, text=True).stdout.split()
    subprocess.run(
        [podman, "rmi", "--ignore", "--force", *demo.IMAGES.values(), *bases],
        cwd=REPO,
        check=False,
        capture_output=True,
    )
    subprocess.run([str(demo.TESTBED), "purge"], cwd=REPO, check=True, capture_output=True)
    for name in ("rootfs", "site", "build", "demo"):
        shutil.rmtree(cache_dir() / name, ignore_errors=True)


def unchanged_run() -> dict[str, Any]:
    """site.yml where everything is there: seconds, changed tasks, commands on the host."""
    started = time.monotonic()
    done = subprocess.run(PLAYBOOK, cwd=REPO, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    if done.returncode != 0:
        raise StageError(f"the run without changes failed: {done.stdout[-2000:]}")
    changed = sum(int(count) for count in re.findall(r"changed=(\d+)", done.stdout))
    loud = subprocess.run([*PLAYBOOK, "-vvv"], cwd=REPO, capture_output=True, text=True, check=False)
    remote = [line for line in loud.stdout.splitlines() if "SSH: EXEC" in line]
    transfers = [line for line in loud.stdout.splitlines() if re.search(r"> PUT |SSH: PUT|sftp>", line)]
    return {
        "seconds": round(seconds, 2),
        "changed": changed,
        "remote_module_calls": sum("/usr/bin/python3" in line for line in remote),
        "remote_commands": len(remote),
        "transfers": len(transfers),
    }


def bench(cold: bool, out: Path | None) -> int:
    """Measure, print the table, write the JSON."""
    stages = Stages("bench")
    demo.preflight()
    runs: dict[str, dict[str, float]] = {}
    if cold:
        stages.say(f"emptying {cache_dir()} and removing the test hosts, to start from nothing")
        empty_caches()
        runs["cold"] = timed_demo("cold")
    else:
        runs["filled"] = timed_demo("with the cache filled, if it was not")
    remove_host()
    runs["warm"] = timed_demo("warm")
    again = unchanged_run()
    shown = [name for name in ("cold", "warm") if name in runs]
    names = list(runs["warm"])
    stages.say("wall time in seconds")
    print(f"  {'stage':<12}" + "".join(f"{name:>10}" for name in shown))
    for name in names:
        print(f"  {name:<12}" + "".join(f"{runs[run].get(name, 0.0):>10.1f}" for run in shown))
    print(f"  {'total':<12}" + "".join(f"{sum(runs[run].values()):>10.1f}" for run in shown))
    stages.say(
        f"run without changes: {again['seconds']:.1f} s, changed={again['changed']}, "
        f"{again['remote_module_calls']} remote module calls, {again['remote_commands']} remote commands, "
        f"{again['transfers']} file transfers"
    )
    result = {"stages": {name: runs[name] for name in shown}, "unchanged": again}
    text = json.dumps(result, indent=2)
    print(text)
    if out:
        out.write_text(text + "\n", encoding="utf-8")
    return 0 if again["changed"] == 0 else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--warm-only", action="store_true", help="leave out the cold run")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    os.environ["PATH"] = f"{VENV / 'bin'}:{os.environ['PATH']}"
    os.environ.setdefault("ANSIBLE_CONFIG", str(REPO / "ansible.cfg"))
    return main_guard("bench", lambda: bench(not args.warm_only, args.json))


if __name__ == "__main__":
    sys.exit(main())
