"""Servers under callgrind, which counts their instructions, and requests that make such counts repeatable."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.servers import answers
from tests.rig.processes import REPOSITORY

ABREAST = 16
"""Requests that are read in one turn of the event loop."""

_ENVIRON = {
    "PYTHONHASHSEED": "0",
    "OPENSSL_ia32cap": "0:0",  # signatures by the same code on every processor
}


class Counted:
    """A server under callgrind, which counts from the first :meth:`count` on."""

    def __init__(self, stack: ExitStack, folder: Path, name: str, *command: str) -> None:
        self._out = folder / f"callgrind.{name}"
        self._dumps = 0
        self._log = folder / f"{name}.log"
        valgrind = ["valgrind", "--tool=callgrind", "--quiet", "--instr-atstart=no"]
        self._child = subprocess.Popen(
            [*valgrind, f"--callgrind-out-file={self._out}", sys.executable, "-m", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.open("wb"),
            text=True,
            env={**os.environ, **_ENVIRON},
            cwd=REPOSITORY,
        )
        stack.callback(self._stop)

    def await_answer(self, url: str) -> None:
        deadline = time.monotonic() + 600
        while not answers(f"{url}/readyz"):
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"does not answer:\n{self._log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.1)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It does not run meanwhile."""
        self._child.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._child.send_signal(signal.SIGCONT)

    def say(self, line: str) -> str:
        """Write a line to its standard input, unless it is empty; returns the next line of its output."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        if line:
            self._child.stdin.write(f"{line}\n")
            self._child.stdin.flush()
        return self._child.stdout.readline().strip()

    def count(self, rounds: Callable[[int], object], warm: int, counted: int) -> float:
        """Instructions of one of so many rounds, after some that are not counted."""
        rounds(warm)
        self._control("--instr=on")
        rounds(4)  # the first of them are translated, and whatever is made but once is made
        self._dump()
        rounds(counted)
        found = self._dump()
        self._control("--instr=off")
        return found / counted

    def _dump(self) -> int:
        self._control("--dump")
        self._dumps += 1
        text = Path(f"{self._out}.{self._dumps}").read_text()
        total = re.search(r"^(?:totals|summary): (\d+)", text, re.MULTILINE)
        assert total is not None
        return int(total[1])

    def _control(self, what: str) -> None:
        subprocess.run(["callgrind_control", what, str(self._child.pid)], check=True, capture_output=True)

    def _stop(self) -> None:
        self._child.kill()
        self._child.wait()


class Abreast:
    """Connections that all send a request before the server reads the first of them."""

    def __init__(
        self, stack: ExitStack, server: Counted, port: int, bodies: list[Iterator[bytes]], head: bytes
    ) -> None:
        self._server = server
        self._bodies = bodies
        self._head = head
        self.answers = [b""] * len(bodies)
        self._sockets = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 60)) for _ in bodies
        ]

    def rounds(self, count: int) -> None:
        for _ in range(count):
            with self._server.stopped():
                for connection, bodies in zip(self._sockets, self._bodies, strict=True):
                    body = next(bodies)
                    connection.sendall(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
            for index, connection in enumerate(self._sockets):
                self.answers[index] = _answer(connection)


def _answer(connection: socket.socket) -> bytes:
    received = b""
    while True:
        received += connection.recv(65536)
        head, found, body = received.partition(b"\r\n\r\n")
        if found and len(body) == int(re.search(rb"(?i)\r\ncontent-length: (\d+)", head)[1]):  # type: ignore[index]
            if not head.startswith(b"HTTP/1.1 20"):
                raise RuntimeError(received.decode(errors="replace"))
            return body
        if not received:
            raise RuntimeError("the server closed the connection")


def head(path: str, content_type: str, authorization: str = "") -> bytes:
    """The head of a request, up to the length of its body."""
    header = f"Authorization: {authorization}\r\n" if authorization else ""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n{header}Content-Length: "
    ).encode()
