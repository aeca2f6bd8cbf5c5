# SPDX-License-Identifier: GPL-3.0-or-later
"""One replica on several hosts, started without ssh: one secret, one port, the standard library of Python 3.8.

gang.py lead COMMAND...        process 1 of the leader's container: waits until every worker has the same as the leader,
                               and runs COMMAND, an mpirun. Ends as that ends, which ends all ranks on all nodes.
gang.py wait                   process 1 of a worker's container: waits for a call that knows the secret, is orted's
                               parent until that ends or the caller is gone, and ends, so that every start is in a fresh
                               container.
gang.py call NODE COMMAND...   what mpirun calls to start its daemon on a worker (plm_rsh_agent).

TRTLLM_GANG is a JSON object: ``nodes`` (their addresses, the leader's first), ``node`` (which of them this is),
``port`` (that workers wait on), ``secret`` (a file), ``is`` (what must be the same on all nodes, by its name), and of
this node ``ranks`` and ``engines``, the directories that hold a file for each of them.

A message is one line of JSON. Both sides prove that they know the secret by an HMAC over both nonces and what is said,
without sending it. A worker starts orted and nothing else, and no shell reads what it was sent.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import hmac
import json
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import Any, Dict, Optional

BEAT = 2.0  # seconds between signs of life, in both directions
PATIENCE = 10.0  # seconds without one after which the other side counts as gone
PAUSE = 0.3  # seconds between two looks
END = 5.0  # seconds that mpirun may take to end its ranks
GRACE = 20.0  # seconds that another node may have something else, as it is being changed too
LONGEST = 1 << 16  # bytes of a message
CALLERS = 16  # at once
SIOCGIFADDR = 0x8915
DAEMON = "orted"
STATE, PROC = "/tmp", "/proc"

Message = Dict[str, Any]


class Refused(Exception):
    """The other side says no, and why."""


class Differs(Exception):
    """A node has something else than the leader."""


def say(text: str) -> None:
    """Into the journal."""
    print(f"gang: {text}", flush=True)


class Gang:
    """What this node was told."""

    def __init__(self, told: Message) -> None:
        self.nodes: list[str] = told["nodes"]
        self.node: int = told["node"]
        self.port: int = told["port"]
        self.secret_file: str = told["secret"]
        self.own: dict[str, Any] = told["is"]
        self.ranks: list[int] = told["ranks"]
        self.engines: list[str] = told["engines"]

    @property
    def address(self) -> str:
        """This node's own."""
        return self.nodes[self.node]

    def proof(self, who: str, nonces: list[str], said: Message) -> str:
        """That *who* (caller or worker) knows the secret and says this, in this call."""
        with open(self.secret_file, "rb") as file:
            secret = file.read().strip()
        if not secret:
            raise OSError(f"{self.secret_file} is empty")
        text = "\0".join([who, *nonces, json.dumps(said, sort_keys=True)])
        return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()

    def missing(self) -> str:
        """What of the engine is not on this node, empty where all is."""
        lost = [
            f"rank {rank} of {engine}"
            for engine in self.engines
            for rank in self.ranks
            if not glob.glob(f"{glob.escape(engine)}/*rank{rank}.engine")
        ]
        return ", ".join(lost)

    def state(self) -> Message:
        """What this node tells of itself."""
        return {"is": self.own, "missing": self.missing()}

    def problem(self, address: str, other: Message) -> str:
        """Why ranks of another node cannot start together with those of this one, empty where they can."""
        if other.get("missing"):
            return f"{address} lacks {other['missing']}"
        there = other.get("is") or {}
        differing = [f"{key} {there.get(key)} and not {self.own.get(key)}" for key in sorted({*self.own, *there})
                     if there.get(key) != self.own.get(key)]  # fmt: skip
        return f"{address} has {'; '.join(differing)}" if differing else ""


# -- messages ---------------------------------------------------------------------------------------------------------


class Link:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.settimeout(PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lock = threading.Lock()
        self._rest = b""

    def send(self, message: Message) -> None:
        with self._lock:
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, seconds: float = PATIENCE) -> Message:
        """One message, whole within *seconds*; raises OSError or ValueError for anything else."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or len(self._rest) > LONGEST:
                raise OSError("no message came in time" if left <= 0 else "a message is too long")
            self.socket.settimeout(left)
            part = self.socket.recv(4096)
            if not part:
                raise OSError("it hung up")
            self._rest += part
        line, _newline, self._rest = self._rest.partition(b"\n")
        self.socket.settimeout(PATIENCE)
        found = json.loads(line)
        if not isinstance(found, dict):
            raise ValueError("a message is no object")
        return found

    def beat(self, gone: threading.Event) -> None:
        """Send signs of life until the other side is gone."""
        try:
            while not gone.wait(BEAT):
                self.send({"beat": 1})
        except OSError:
            gone.set()

    def close(self) -> None:
        self.socket.close()


def ask(gang: Gang, address: str, said: Message) -> tuple[Link, Message]:
    """Call a worker: the link, and what it answers. Raises OSError where there is none, `Refused` where it says no."""
    link = Link(socket.create_connection((address, gang.port), timeout=5))
    try:
        nonces = [str(link.receive().get("nonce")), os.urandom(16).hex()]
        link.send({"nonce": nonces[1], "said": said, "proof": gang.proof("caller", nonces, said)})
        told = link.receive()
        answer = told.get("said") or {}
        if "refused" in told:
            raise Refused(str(told["refused"]))
        if not hmac.compare_digest(gang.proof("worker", nonces, answer), str(told.get("proof"))):
            raise Refused("it does not know the secret of this replica")
    except ValueError as error:
        link.close()
        raise OSError(f"what it says is no message: {error}") from error
    except BaseException:
        link.close()
        raise
    return link, answer


# -- a worker ---------------------------------------------------------------------------------------------------------


class Worker:
    """Answers calls, until it was told to start ranks and these have ended."""

    def __init__(self, gang: Gang) -> None:
        self.gang = gang
        self.busy = threading.Lock()
        self.callers = threading.BoundedSemaphore(CALLERS)

    def serve(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        with socket.create_server((self.gang.address, self.gang.port)) as shop:
            say(f"waiting on {self.gang.address}:{self.gang.port} for the leader {self.gang.nodes[0]}")
            while True:
                connection, caller = shop.accept()
                if not self.callers.acquire(blocking=False):
                    connection.close()
                    continue
                threading.Thread(target=self.answer, args=(Link(connection), caller[0]), daemon=True).start()

    def answer(self, link: Link, caller: str) -> None:
        """One call."""
        try:
            self._answer(link, caller)
        except (OSError, ValueError) as error:
            say(f"a call from {caller} came to nothing: {error}")
        finally:
            link.close()
            self.callers.release()

    def _answer(self, link: Link, caller: str) -> None:
        nonces = [os.urandom(16).hex(), ""]
        link.send({"nonce": nonces[0]})
        told = link.receive()
        nonces[1], said = str(told.get("nonce")), told.get("said")
        if not isinstance(said, dict) or not hmac.compare_digest(
            self.gang.proof("caller", nonces, said), str(told.get("proof"))
        ):
            say(f"refused a call from {caller}: it does not know the secret of this replica")
            link.send({"refused": "it does not know the secret of this replica"})
            return
        answer = self.gang.state()
        refusal = ""
        if "start" in said:
            refusal = self.gang.problem(caller, {"is": said.get("is")}) or self._unfit(said["start"])
            if not refusal and not self.busy.acquire(blocking=False):
                refusal = "it still has ranks of an earlier start"
        else:
            answer["busy"] = self.busy.locked()
        if refusal:
            say(f"refused to start ranks for {caller}: {refusal}")
            link.send({"refused": refusal})
            return
        link.send({"said": answer, "proof": self.gang.proof("worker", nonces, answer)})
        if "start" in said:
            self._run(link, daemon_words(said["start"]) or [])

    def _unfit(self, command: Any) -> str:
        if self.gang.missing():
            return f"{self.gang.address} lacks {self.gang.missing()}"
        if daemon_words(command) is None:
            return f"it may start {DAEMON} and nothing else, and was asked for {str(command)[:200]!r}"
        return "" if shutil.which(DAEMON) else f"{DAEMON} is not in the image"

    def _run(self, link: Link, words: list[str]) -> None:
        """Be the daemon's parent until it ends or the caller is gone, and end."""
        say(f"starting ranks {', '.join(map(str, self.gang.ranks))}")
        child = subprocess.Popen([str(shutil.which(DAEMON)), *words], env=environment(self.gang))
        gone = threading.Event()
        threading.Thread(target=link.beat, args=(gone,), daemon=True).start()
        threading.Thread(target=self._listen, args=(link, child), daemon=True).start()
        code = child.wait()
        gone.set()
        say(f"the ranks have ended ({DAEMON} with {code})")
        with contextlib.suppress(OSError):
            link.send({"code": code})
        os._exit(0)  # process 1: the kernel ends what is left

    def _listen(self, link: Link, child: subprocess.Popen[bytes]) -> None:
        try:
            while True:
                link.receive()
        except (OSError, ValueError) as error:
            if child.poll() is None:
                say(f"the leader is gone ({error}); its ranks end here")
                child.kill()
                os._exit(0)


def daemon_words(command: Any) -> Optional[list[str]]:
    """The arguments for orted, or None where something else was asked for.

    An Open MPI with a prefix begins with assignments, which an image that has it does not need.
    """
    if not isinstance(command, str):
        return None
    plain = re.sub(r"^(?:\s*(?:export\s+\w+|\w+=[\w/.:-]*(?:\$\w+)?)\s*;)+", "", command)
    try:
        words = shlex.split(plain)
    except ValueError:
        return None
    return words[1:] if words and os.path.basename(words[0]) == DAEMON else None


def environment(gang: Gang) -> dict[str, str]:
    """Of the ranks of this node: NCCL asks for an interface by name, which may be another on each node."""
    name = interface(gang.address)
    return {**({"NCCL_SOCKET_IFNAME": f"={name}"} if name else {}), **os.environ}


def interface(address: str) -> str:
    """The interface that has the address, empty for none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _index, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                found = fcntl.ioctl(any_socket.fileno(), SIOCGIFADDR, request)[20:24]
            except OSError:
                continue
            if socket.inet_ntoa(found) == address:
                return name
    return ""


# -- the leader -------------------------------------------------------------------------------------------------------


class Leader:
    """Runs mpirun once all nodes are there, and ends it as a whole."""

    def __init__(self, gang: Gang, state: str) -> None:
        self.gang = gang
        self.state = state
        self.ended = False
        self.said = ""

    def stopping(self) -> bool:
        """Whether the replica was told to end (stop.py)."""
        return os.path.exists(f"{self.state}/.stopping")

    def lead(self, command: list[str]) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        if self.gang.missing():
            raise Differs(f"this node lacks {self.gang.missing()}")
        since = time.monotonic()
        while not self._ready(time.monotonic() - since):
            if self.ended or self.stopping():
                return 0
            time.sleep(2 * PAUSE)
        say(f"all {len(self.gang.nodes)} nodes are there")
        child = subprocess.Popen(command, env=environment(self.gang))
        while child.poll() is None:
            if self.ended or (self.stopping() and not first_rank()):
                self._end_ranks(child)
            time.sleep(PAUSE)
        if self.stopping():
            return 0
        say(f"mpirun has ended with {child.returncode}")
        return child.returncode if 0 < child.returncode < 256 else 1

    def _end(self, *_: Any) -> None:
        self.ended = True

    def _ready(self, seconds: float) -> bool:
        """Whether every worker is there, and has what this node has; raises `Differs` where not for too long."""
        away: list[str] = []
        unlike: list[str] = []
        for address in self.gang.nodes[1:]:
            try:
                link, answer = ask(self.gang, address, {"look": 1})
                link.close()
                problem = self.gang.problem(address, answer)
                unlike += [problem] if problem else []
                away += [f"{address} (it still has ranks of an earlier start)"] if answer.get("busy") else []
            except Refused as error:
                unlike.append(f"{address} refused the call: {error}")
            except OSError as error:
                away.append(f"{address} ({error})")
        if unlike and seconds > GRACE:
            raise Differs("; ".join(unlike))
        waiting = "; ".join([*unlike, *([f"waiting for {', '.join(away)}"] if away else [])])
        if waiting and waiting != self.said:
            say(waiting)
        self.said = waiting
        return not waiting

    @staticmethod
    def _end_ranks(child: subprocess.Popen[bytes]) -> None:
        """mpirun ends all ranks on all nodes within a moment; without it their daemons do."""
        child.terminate()
        try:
            child.wait(END)
        except subprocess.TimeoutExpired:
            child.kill()


def first_rank() -> bool:
    """Whether the server that clients ask is there: the only one that may listen."""
    for name in os.listdir(PROC):
        try:
            with open(f"{PROC}/{name}/comm", encoding="ascii") as file:
                if not name.isdigit() or file.read().strip() != "tritonserver":
                    continue
            with open(f"{PROC}/{name}/cmdline", "rb") as file:
                words = file.read()  # none of one that has ended and that nobody has asked for its exit code
                if words and b"--allow-http=false" not in words:
                    return True
        except OSError:
            continue
    return False


def call(gang: Gang, address: str, command: str) -> int:
    """mpirun's agent: start its daemon on a node, and stay until that ends."""
    try:
        link, _answer = ask(gang, address, {"start": command, "is": gang.own})
    except (Refused, OSError) as error:
        say(f"{address} does not start its ranks: {error}")
        return 1
    threading.Thread(target=link.beat, args=(threading.Event(),), daemon=True).start()
    try:
        while True:
            message = link.receive()
            if "code" in message:
                code = int(message["code"])
                return code if 0 <= code < 256 else 1
    except (OSError, ValueError) as error:
        say(f"{address} is gone: {error}")
        return 1


def main(arguments: list[str]) -> int:
    gang = Gang(json.loads(os.environ["TRTLLM_GANG"]))
    if arguments[:1] == ["wait"]:
        Worker(gang).serve()
    if arguments[:1] == ["call"]:
        return call(gang, arguments[1], " ".join(arguments[2:]))
    try:
        return Leader(gang, STATE).lead(arguments[1:])
    except Differs as error:
        say(f"not started: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
