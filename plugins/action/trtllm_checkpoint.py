# Copyright: The trtllm.fleet authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Transfers a checkpoint of the controller; on the host the module of the same name does the rest.

Through ssh it goes as a checkpoint goes from host to host: the controller hands it out to this host alone, through a
port that its ssh opens there meanwhile, and the host receives it in verified pieces, takes up what a broken transfer
left, writes once and reads nothing again. Where its digests are not known yet, they are made while it goes, and it is
received once more, of which nothing but the digests goes then, under the name that they make. Where only little of it
differs, or ssh may forward no port, single files go the way that every connection has.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import random
import secrets
import shlex
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.trtllm.fleet.plugins.action.trtllm_checkpoint_fetch import line
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.fingerprint import TreeDigest
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.pieces import Pieces
from ansible_collections.trtllm.fleet.plugins.module_utils._artifact.serve import Offer, Sender
from ansible_collections.trtllm.fleet.plugins.module_utils._base.errors import FleetError, sentence
from ansible_collections.trtllm.fleet.plugins.module_utils._base.sizes import MB
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.draft import Draft, Reading, draft
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.handed import KIND, Local, local
from ansible_collections.trtllm.fleet.plugins.module_utils._checkpoint.inspect import inspect_checkpoint
from ansible_collections.trtllm.fleet.plugins.module_utils._host.base import memory
from ansible_collections.trtllm.fleet.plugins.module_utils._host.system import System
from ansible_collections.trtllm.fleet.plugins.plugin_utils._cache import cache_dir

MODULE = "trtllm.fleet.trtllm_checkpoint"
FETCH, ARTIFACT = "trtllm.fleet.trtllm_artifact_fetch", "trtllm.fleet.trtllm_checkpoint_artifact"
# What ssh's programs for files take besides; both have the option -l, in kilobits (of 1024) a second.
LIMITED = ("sftp_extra_args", "scp_extra_args")
KILOBIT = 1024 // 8  # bytes
HERE = "127.0.0.1"
PORTS = range(18900, 32768)  # of the host, below those that a kernel gives to connections
TRIES = 3  # ports
# A connection of its own, which ends with what it is for. What -C costs is more than it saves of weights, and of the
# ciphers that every OpenSSH has this one is the fastest where the processor knows AES.
ALONE = ("ControlMaster=no", "ControlPath=none", "Compression=no", "Ciphers=^aes128-gcm@openssh.com",
         "ExitOnForwardFailure=yes")  # fmt: skip
REFUSED = "forwarding failed"  # what ssh says of a port
MUCH = 0.5  # the share of a checkpoint's bytes from which on it is sent as a whole
SHOWN, LOOK = 100 * 1024 * 1024, 5.0  # bytes from which on lines tell how far it is; seconds between them
display = Display()


class NoForwarding(Exception):
    """ssh opens no port of the host."""


def local_index(source: Path) -> Path:
    """Where the controller keeps the digests of *source*, so that it reads the weights once for all hosts."""
    directory = cache_dir() / "digests"
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"{hashlib.sha256(os.fsencode(source)).hexdigest()[:32]}.json"


@contextlib.contextmanager
def alone(source: Path, waits: bool = True) -> Iterator[bool]:
    """Whether no other worker of the controller reads *source* for its digests, within the block."""
    with open(local_index(source).with_suffix(".lock"), "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def local_checkpoint(source: Path) -> Local:
    """What *source* holds. The hosts of a run ask at once; all but the first wait for what that reads."""
    # It is sent next, so what there is memory for is read from the disk once.
    stays = (memory(System())["available_bytes"] or 0) // 2
    with alone(source):
        return local(source, local_index(source), stays)


class ActionModule(ActionBase):
    """Compare, transfer what is missing, publish. A run without changes is one remote call."""

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = dict(self._task.args)
        if args.get("location", "controller") != "controller" or args.get("state", "present") == "absent":
            return self._module(args, task_vars)
        if not args.get("path"):
            raise AnsibleActionFail("path is missing; give the directory of the controller that holds the checkpoint.")
        rate = str(args.get("rate") or 0)
        if not rate.isdigit():
            raise AnsibleActionFail(f"rate is {rate}; give 0 for no limit, or megabytes a second.")
        if int(rate) and self._connection.transport != "ssh":
            raise AnsibleActionFail(
                f"rate is {rate}, but the connection is {self._connection.transport}; only ssh has one."
            )
        source = Path(os.path.expanduser(str(args["path"]))).absolute()
        args.update(path=str(source))
        try:
            inspect_checkpoint(source)
            sent = self._while_sending(source, int(rate), args, task_vars or {})
            if sent is not None:
                return sent
            found = local_checkpoint(source)
        except (FleetError, OSError) as error:
            raise AnsibleActionFail(sentence(error, str(source))) from error
        args.update(wanted=found.tree.contents())
        result = self._module(args, task_vars)
        if args.get("ask"):
            return {**result, "asked": found.tree.digest, "pieces": found.pieces.identity, "draft": False}
        if result.get("failed") or "missing" not in result:
            return result
        if self._connection.transport == "ssh" and is_much(result["missing"], found.tree):
            try:
                return self._hand_out(found, int(rate), args, result, task_vars or {})
            except NoForwarding as error:
                display.warning(f"{args.get('name')} is sent file by file and read again on the host, as {error}.")
        with self._held_to(int(rate)):
            self._transfer(source, result["staging"], result["missing"])
        return self._module({**args, "publish": True}, task_vars)

    # -- as a whole ----------------------------------------------------------------------------------------

    def _while_sending(
        self, source: Path, rate: int, args: dict[str, Any], task_vars: dict[str, Any]
    ) -> dict[str, Any] | None:
        """The module's result where the digests are made while it is sent; None where they have to be made before."""
        if not args.get("while_sending") or self._connection.transport != "ssh" or self._task.check_mode:
            return None
        first = draft(source, local_index(source))
        if first is None:
            return None
        asked = self._module({**args, "sizes": first.sizes}, task_vars)
        if asked.get("failed"):
            return asked
        if asked["alike"]:
            return None
        if args.get("ask"):
            return {**asked, "asked": first.pieces.fingerprint, "pieces": first.pieces.identity, "draft": True}
        with alone(source, waits=False) as mine:
            try:
                return self._send_draft(first, rate, args, asked, task_vars) if mine else None
            except NoForwarding:  # which is told once it is known what there is to send
                return None

    def _send_draft(
        self, first: Draft, rate: int, args: Mapping[str, Any], asked: dict[str, Any], task_vars: dict[str, Any]
    ) -> dict[str, Any]:
        """Send it while it is read; what arrived becomes the checkpoint by the list that was made of it."""
        reading = Reading(first)
        try:
            got, on = self._sent(reading.offer(), first.pieces, rate, args, task_vars)
            if got.get("failed"):
                if reading.failure is not None:
                    raise reading.failure
                return {**got, "invocation": asked.get("invocation")}
            found = reading.found()
        finally:
            reading.stop()
        # By now others may receive the draft from there; they have it from this host once they have asked for it.
        return {**self._hand_out(found, rate, {**args, "address": ""}, asked, task_vars, keep=on), "drafted": True}

    def _sent(
        self, offer: Offer, pieces: Pieces, rate: int, args: Mapping[str, Any], task_vars: dict[str, Any]
    ) -> tuple[dict[str, Any], bool]:
        """Have the host receive it from here; what its module says, and whether others receive it from there."""
        token = str(args.get("token") or secrets.token_urlsafe(32))
        hands_on = {key: args[key] for key in ("address", "port", "time_limit") if args.get(key)}
        wanted = {
            **_which(args), **hands_on, "kind": KIND, "fingerprint": pieces.fingerprint, "pieces": pieces.identity,
            "token": token, "rate": rate,
        }  # fmt: skip
        with self._sender(offer, token, rate) as sender, self._told(sender, pieces.size, task_vars):
            got = self._received(sender, wanted, task_vars)
            if got.get("failed") and hands_on.pop("address", None) and not sender.sent:
                # Its address or port may be no good to others; it is brought all the same.
                display.warning(f"{args['name']} is not handed on while it arrives: {got.get('msg')}")
                got = self._received(sender, {**wanted, "address": ""}, task_vars)
        return got, bool(hands_on.get("address"))

    def _hand_out(
        self,
        found: Local,
        rate: int,
        args: Mapping[str, Any],
        asked: dict[str, Any],
        task_vars: dict[str, Any],
        keep: bool = False,
    ) -> dict[str, Any]:
        """Have the host receive it from here, and make it the checkpoint; the module's result."""
        got, on = self._sent(found.offer(), found.pieces, rate, args, task_vars)
        if got.get("failed"):
            return {**got, "invocation": asked.get("invocation")}  # the other one is of a module that nobody named
        taken = {**_which(args), "state": "adopted", "digest": found.tree.digest, "keep": keep or on}
        put = self._execute_module(module_name=ARTIFACT, module_args=taken, task_vars=task_vars)
        if put.get("failed") or not put.get("there"):
            said = put.get("msg") or f"{args['name']} arrived on the host and is not there; run again."
            return {**asked, "failed": True, "changed": False, "msg": said}
        kept = {key: value for key, value in asked.items() if key not in ("missing", "staging", "alike")}
        return {**kept, "digest": found.tree.digest, "drafted": False}

    @contextlib.contextmanager
    def _sender(self, offer: Offer, token: str, rate: int) -> Iterator[Sender]:
        sender = Sender(offer, HERE, 0, token, rate * MB)
        try:
            yield sender
        finally:
            sender.stop()

    def _received(self, sender: Sender, wanted: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """The result of the module that receives, which reaches *sender* through the connection that it runs by."""
        said = ""
        for port in random.sample(PORTS, TRIES):
            try:
                with self._forwarding(port, sender.url):
                    arguments = {**wanted, "sources": [f"http://{HERE}:{port}"]}
                    result: dict[str, Any] = self._execute_module(
                        module_name=FETCH, module_args=arguments, task_vars=task_vars
                    )
                    return result
            except AnsibleConnectionFailure as error:
                if REFUSED not in str(error):
                    raise
                said = str(error).strip().splitlines()[-1]
        raise NoForwarding(f"ssh cannot forward a port there ({said})")

    @contextlib.contextmanager
    def _forwarding(self, port: int, url: str) -> Iterator[None]:
        """Meanwhile ssh opens *port* of the host, which leads to *url*."""
        connection = self._connection
        before = connection.get_option("ssh_args")
        options = [*ALONE, f"RemoteForward={HERE}:{port} {url.removeprefix('http://')}"]
        words = [word for option in options for word in ("-o", option)]
        words += [word for word in shlex.split(before or "") if word != "-C"]
        connection.set_option("ssh_args", shlex.join(words))
        try:
            yield
        finally:
            connection.set_option("ssh_args", before)

    @contextlib.contextmanager
    def _told(self, sender: Sender, total: int, task_vars: Mapping[str, Any]) -> Iterator[None]:
        """Meanwhile lines tell how far it is."""
        host, name = str(task_vars.get("inventory_hostname", "")), str(self._task.args.get("name"))
        over = threading.Event()

        def tell() -> None:
            last = 0
            while not over.wait(LOOK):
                sent = min(sender.sent, total)
                speed = (sent - last) / LOOK
                if speed > 0:
                    left = (total - sent) / speed
                    progress = {
                        "phase": "sending",
                        "bytes_total": total,
                        "bytes_done": sent,
                        "rate": speed,
                        "left": left,
                    }
                    display.display(line(host, name, progress))
                last = sent

        thread = threading.Thread(target=tell, daemon=True)
        if total > SHOWN:
            thread.start()
        try:
            yield
        finally:
            over.set()
            if total > SHOWN:
                thread.join()

    # -- file by file --------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _held_to(self, rate: int) -> Iterator[None]:
        """Meanwhile sftp and scp send at most *rate* megabytes a second; 0 is no limit."""
        connection = self._connection
        before = {option: connection.get_option(option) for option in LIMITED} if rate else {}
        for option, words in before.items():
            connection.set_option(option, f"{words or ''} -l {rate * MB // KILOBIT}".strip())
        try:
            yield
        finally:
            for option, words in before.items():
                connection.set_option(option, words)

    def _transfer(self, source: Path, staging: str, paths: list[str]) -> None:
        host = self._task.args.get("name")
        total = sum((source / path).stat().st_size for path in paths)
        done = 0
        for path in paths:
            size = (source / path).stat().st_size
            if total > SHOWN:
                display.display(f"{host}: {path} ({size / 1e9:.1f} GB, {done / total:.0%} done)")
            self._connection.put_file(str(source / path), os.path.join(staging, path))
            done += size

    def _module(self, args: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(module_name=MODULE, module_args=args, task_vars=task_vars)
        return result


def _which(args: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint, as other modules name it too."""
    return {"name": args["name"], **({"root": args["root"]} if args.get("root") else {})}


def is_much(missing: list[str], tree: TreeDigest) -> bool:
    """Whether so much of it is missing that all of it is sent."""
    lacking = sum(tree.files[path].size for path in missing)
    return lacking > MUCH * sum(record.size for record in tree.files.values())
