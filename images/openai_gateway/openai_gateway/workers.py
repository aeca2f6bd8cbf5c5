# SPDX-License-Identifier: GPL-3.0-or-later
"""Several processes that serve one address, one for each core that the gateway may use."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from openai_gateway.config import GatewayConfig
from openai_gateway.errors import ConfigError
from openai_gateway.shared import Shared

LOG = logging.getLogger("openai_gateway")
SHORT_LIFE = 5.0  # seconds; a worker that ended sooner is started again after a pause
PAUSE = 1.0
BACKLOG, BATCH = 2048, 1  # connections that wait, and how many of them are accepted at one go
FIRST_GIVEN = 3  # the descriptor of the first socket that systemd hands over
PR_SET_PDEATHSIG = 1  # of prctl(2)
WRONG_CONFIG = 2  # exit status of a worker that cannot start


class Listener(socket.socket):
    """A socket whose backlog is its own.

    An event loop accepts as many connections at one go as it was told for the backlog. With BATCH for that, a burst of
    clients does not go to the worker that wakes up first.
    """

    def listen(self, _backlog: int = 0) -> None:
        """Listen, whatever the event loop asks for."""
        super().listen(BACKLOG)


def listen(address: str, port: int) -> Listener:
    """A socket that all workers accept from: the one that has time takes the next connection."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # Named, as asyncio has the kernel send at once only where a socket says that it is TCP's; answers would wait 40 ms.
    listener = Listener(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {address}, port {port}: {error.strerror}") from None
    listener.listen()
    listener.setblocking(False)
    return listener


def given() -> Listener | None:
    """The socket that systemd listens on in this process' place: it stays while the gateway restarts."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not os.environ.get("LISTEN_FDS", "").isdigit():
        return None
    if os.environ["LISTEN_FDS"] != "1":
        raise ConfigError(f"systemd hands over {os.environ['LISTEN_FDS']} sockets; the gateway takes one")
    listener = Listener(fileno=FIRST_GIVEN)
    listener.setblocking(False)
    return listener


class Workers:
    """Starts them, starts them again when they die, and ends them with this process."""

    def __init__(self, count: int, work: Callable[[], int], shared: Shared) -> None:
        """*work*: what a worker does; returns its exit status. *shared*: what they have in common."""
        self._count, self._work, self._shared = count, work, shared
        self._started: dict[int, tuple[int, float]] = {}  # process -> number of the worker, and when
        self._stopping = False
        self._failed = 0

    def run(self) -> int:
        """The exit status once all have ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        signal.signal(signal.SIGHUP, lambda *_: self._tell(signal.SIGHUP))
        for worker in range(self._count):
            self._start(worker)
        while self._started:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                break
            self._ended(pid, os.waitstatus_to_exitcode(status))
        return self._failed

    def _start(self, worker: int) -> None:
        pid = os.fork()
        if pid == 0:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it reads the file anyway, as it begins
            self._shared.worker = worker
            _end_with_parent()
            status = 1
            try:
                status = self._work()
            finally:
                logging.shutdown()
                os._exit(status)
        self._started[pid] = worker, time.monotonic()
        if self._stopping:  # the signal came while it was made
            os.kill(pid, signal.SIGTERM)

    def _ended(self, pid: int, status: int) -> None:
        from prometheus_client import multiprocess

        if pid not in self._started:
            return  # an orphan that process 1 of a container inherits
        worker, started = self._started.pop(pid)
        lived = time.monotonic() - started
        self._shared.forget(worker)
        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
        if self._stopping:
            self._failed = self._failed or max(status, 0)
        elif status == WRONG_CONFIG:
            self._failed = status
            self._stop()
        else:
            LOG.error("worker %d ended with status %d and is started again", pid, status)
            if lived < SHORT_LIFE:
                time.sleep(PAUSE)
            if not self._stopping:
                self._start(worker)

    def _stop(self) -> None:
        self._stopping = True
        self._tell(signal.SIGTERM)

    def _tell(self, number: signal.Signals) -> None:
        for pid in self._started:
            os.kill(pid, number)


def _end_with_parent() -> None:
    """Have the kernel end this worker where its parent is killed: nobody else would, and it would go on serving."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def share_metrics() -> None:
    """Have the workers keep their numbers in files, so that any of them can tell all. Before metrics are imported."""
    memory = Path("/dev/shm")
    directory = tempfile.mkdtemp(prefix="openai-gateway-", dir=memory if os.access(memory, os.W_OK) else None)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory


def run(config: GatewayConfig, serve: Callable[[Listener, Shared], int]) -> int:
    """Serve with as many workers as *config* wants; *serve* is what each does with the common socket and numbers."""
    share_metrics()
    listener, shared = given() or listen(config.address, config.port), Shared(config.workers)
    return Workers(config.workers, lambda: serve(listener, shared), shared).run()
