# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of the testbed."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import engine, hosts, inventory, outer, probes, registry, rootfs, tools
from .errors import TestbedError
from .settings import SUITE, Settings, from_environment

# in the host: keeps the command out of the root control group
EXEC = "/usr/local/lib/testbed/exec"


def parser() -> argparse.ArgumentParser:
    """The options of `testbed`."""
    top = argparse.ArgumentParser(prog="testbed", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=text, description=text)

    prepare = verb("prepare", "install what is needed and make the image of the test hosts")
    prepare.add_argument("--refresh", action="store_true", help="make the root file system anew, with newer packages")
    up = verb("up", "bring hosts up and wait until systemd and ssh answer")
    up.add_argument("hosts", nargs="*", metavar="NAME[=IP]")
    up.add_argument("--from", dest="source", metavar="FILE", help="hosts from a JSON list of {name, ip, gpu, volumes, "
                    "tmpfs, suite}; - is standard input")  # fmt: skip
    up.add_argument("--volume", "-v", action="append", default=[], metavar="SRC:DST[:ro]")
    up.add_argument("--tmpfs", action="append", default=[], metavar="DST[:OPTIONS]")
    up.add_argument("--no-gpu", dest="gpu", action="store_false", help="without nvidia-smi and CDI devices")
    up.add_argument("--recreate", action="store_true", help="replace a host that exists with other options")
    up.add_argument("--json", action="store_true", help="print how to reach the hosts, as molecule's instance config")
    up.add_argument("--timing", action="store_true", help="say what took how long")
    down = verb("down", "remove hosts and their storage")
    down.add_argument("hosts", nargs="*", metavar="NAME")
    down.add_argument("--all", action="store_true", help="all hosts, the registry's host, the network, the API service")
    verb("purge", "down --all, and remove the images, what was pushed, and the cache")
    for name, text in (
        ("stop", "power hosts off"), ("cut", "take the power from hosts, whatever they do"),
        ("start", "power hosts on and wait for them"),
        ("pause", "freeze hosts: the address answers ping, nothing else"), ("unpause", "let frozen hosts go on"),
    ):  # fmt: skip
        verb(name, text).add_argument("hosts", nargs="+", metavar="NAME")
    verb("list", "list hosts").add_argument("--json", action="store_true")
    execute = verb("exec", "run a command in a host: testbed exec NAME -- COMMAND")
    execute.add_argument("host", metavar="NAME")
    execute.add_argument("command", nargs="+", metavar="COMMAND")
    logs = verb("logs", "the journal of a host: testbed logs NAME -- -u sshd")
    logs.add_argument("host", metavar="NAME")
    logs.add_argument("arguments", nargs="*", metavar="JOURNALCTL-ARGUMENT")
    verb("ssh-config", "print an ssh client configuration").add_argument("hosts", nargs="*", metavar="NAME")
    listing = verb("inventory", "print an Ansible inventory")
    listing.add_argument("hosts", nargs="*", metavar="NAME")
    listing.add_argument("--group", help="put the hosts in this group")
    push = verb("push", "push an image of the machine's podman to the hosts' registry and print its reference")
    push.add_argument("image", metavar="IMAGE")
    push.add_argument("name", nargs="?", metavar="NAME:TAG")
    verb("registry", "the hosts' registry").add_argument("action", choices=["up"])
    verb("doctor", "say which work-arounds this machine needs, and why")
    return top


def main(argv: Sequence[str]) -> int:
    """Run one command. One sentence and 1 if it cannot be done."""
    arguments = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        settings = from_environment()
        if arguments.verb != "doctor":
            tools.require_root()
        return COMMANDS[arguments.verb](settings, arguments) or 0
    except TestbedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        print("testbed: interrupted; nothing half-made is left.", file=sys.stderr)
        return 130
    except Exception as error:
        said = engine.reason(error)
        if said is None:
            raise
        print(f"testbed: podman could not do it: {said}", file=sys.stderr)
        return 1


def _interrupt(number: int, frame: object) -> None:
    """Clean up after SIGTERM as after Ctrl-C."""
    raise KeyboardInterrupt


def _prepare(settings: Settings, arguments: argparse.Namespace) -> None:
    started = time.monotonic()
    rootfs.prepare(settings, arguments.refresh)
    print(f"ready for `testbed up` after {time.monotonic() - started:.1f} s")


def _hosts(settings: Settings, arguments: argparse.Namespace) -> list[hosts.Host]:
    """Hosts from the command line and from --from."""
    options = {"gpu": arguments.gpu, "volumes": tuple(arguments.volume), "tmpfs": tuple(arguments.tmpfs)}
    wanted = [hosts.parse(text, settings, **options) for text in arguments.hosts]
    if arguments.source:
        wanted += [_host(settings, entry, options) for entry in _entries(arguments.source)]
    names = [host.name for host in wanted]
    if not names or len(set(names)) < len(names):
        raise TestbedError("give one or more hosts with different names: testbed up NAME[=IP] ...")
    return wanted


def _entries(source: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(sys.stdin.read() if source == "-" else Path(source).read_text())
    except (OSError, ValueError) as error:
        raise TestbedError(f"--from {source} could not be read as JSON ({error}).") from None
    if not isinstance(found, list) or not all(isinstance(entry, dict) and "name" in entry for entry in found):
        raise TestbedError(f"--from {source} must hold a JSON list of objects with a name.")
    return found


def _host(settings: Settings, entry: dict[str, Any], options: dict[str, Any]) -> hosts.Host:
    """One object of --from; keys that mean nothing here are left to their owner (molecule's own: groups, ...)."""
    text = f"{entry['name']}={entry['ip']}" if entry.get("ip") else str(entry["name"])
    return hosts.parse(
        text, settings, gpu=bool(entry.get("gpu", options["gpu"])),
        volumes=(*options["volumes"], *entry.get("volumes", ())), tmpfs=(*options["tmpfs"], *entry.get("tmpfs", ())),
        suite=str(entry.get("suite", SUITE)),
    )  # fmt: skip


def _up(settings: Settings, arguments: argparse.Namespace) -> None:
    started = time.monotonic()
    boots = hosts.up(settings, _hosts(settings, arguments), arguments.recreate)
    if arguments.json:
        print(json.dumps([inventory.instance(settings, boot.name, boot.ip) for boot in boots]))
        return
    for boot in boots:
        failed = f" (failed: {', '.join(boot.failed_units)})" if boot.failed_units else ""
        print(f"{boot.name} {boot.ip} {boot.state}{failed}")
        if arguments.timing:
            print("  " + ", ".join(f"{stage} after {seconds:.2f} s" for stage, seconds in boot.seconds.items()))
    if arguments.timing:
        print(f"in all {time.monotonic() - started:.2f} s")


def _down(settings: Settings, arguments: argparse.Namespace) -> None:
    if arguments.all == bool(arguments.hosts):
        raise TestbedError("say which hosts to remove, or --all.")
    for name in hosts.down(settings, None if arguments.all else arguments.hosts):
        print(f"{name} removed")
    if arguments.all:
        outer.remove_namespace(settings)


def _purge(settings: Settings, arguments: argparse.Namespace) -> None:
    hosts.down(settings, None)
    rootfs.purge(settings)
    outer.remove_namespace(settings)
    shutil.rmtree(settings.cache)


def _list(settings: Settings, arguments: argparse.Namespace) -> None:
    rows = hosts.table(settings)
    if arguments.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(f"{row['name']:<24} {row['ip']:<15} {row['state']:<10} {row['kind']}")


def _replace(settings: Settings, *podman: str) -> None:
    """Become podman: terminal, signals and exit status are then its own."""
    sys.stdout.flush()
    argv = outer.command(settings, *podman)
    os.execvpe(argv[0], argv, outer.environment(settings))


def _exec(settings: Settings, arguments: argparse.Namespace) -> None:
    terminal = ["-t"] if sys.stdin.isatty() and sys.stdout.isatty() else []
    _replace(settings, "exec", "-i", *terminal, arguments.host, EXEC, *arguments.command)


def _logs(settings: Settings, arguments: argparse.Namespace) -> None:
    if any(row["name"] == arguments.host for row in hosts.table(settings)):
        _replace(settings, "exec", arguments.host, EXEC, "journalctl", "--no-pager", *(arguments.arguments or ["-b"]))
    kept = settings.logs / f"{arguments.host}.journal"
    if not kept.exists():
        raise TestbedError(f"there is no test host {arguments.host}, nor a journal kept from one that did not come up.")
    print(kept.read_text(), end="")


def _addresses(settings: Settings, names: list[str]) -> dict[str, str]:
    found = {c.name: c for c in hosts.find(engine.connect(settings), names or None)}
    return {name: hosts.address(found[name]) for name in names or sorted(found)}


def _ssh_config(settings: Settings, arguments: argparse.Namespace) -> None:
    print(inventory.ssh_config(settings, _addresses(settings, arguments.hosts)), end="")


def _inventory(settings: Settings, arguments: argparse.Namespace) -> None:
    import yaml

    tree = inventory.inventory(settings, _addresses(settings, arguments.hosts), arguments.group)
    print(yaml.safe_dump(tree, sort_keys=False, explicit_start=True, width=1000), end="")


def _push(settings: Settings, arguments: argparse.Namespace) -> None:
    reference, sent = registry.push(settings, arguments.image, arguments.name)
    print(f"{'pushed' if sent else 'there already'}: {reference}", file=sys.stderr)
    print(reference)


def _registry(settings: Settings, arguments: argparse.Namespace) -> None:
    registry.up(settings)
    print(settings.registry)


def _doctor(settings: Settings, arguments: argparse.Namespace) -> None:
    due = probes.needed(outer.machine())
    print(outer.machine())
    for workaround in due:
        print(f"{workaround.name}: {workaround.why}")
    if not due:
        print("this machine needs no work-around")


COMMANDS: dict[str, Any] = {
    "prepare": _prepare,
    "up": _up,
    "down": _down,
    "purge": _purge,
    "list": _list,
    "exec": _exec,
    "logs": _logs,
    "ssh-config": _ssh_config,
    "inventory": _inventory,
    "push": _push,
    "registry": _registry,
    "doctor": _doctor,
} | {
    action: lambda settings, arguments: hosts.act(settings, arguments.verb, arguments.hosts)
    for action in ("stop", "cut", "start", "pause", "unpause")
}  # fmt: skip
