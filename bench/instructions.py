"""Counts what one request costs in instructions: no clock, no neighbour on the machine changes that.

``python -m bench.instructions`` compares with what ``bench/instructions.json`` recorded and fails where a
request costs more by over :data:`MARGIN`; ``--record`` writes the file anew. It needs valgrind.

What is compared is the ratio to the floor: another build of Python or another processor changes both alike.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from urllib.parse import urlencode

from bench.material import Material, Workload
from bench.processes import REPOSITORY, Cores, answers, free_port
from bench.servers import Servers

MARGIN = 0.05
RECORDED = Path(__file__).with_name("instructions.json")

FLOOR, CLAIMS, WARM, TOKEN = "floor", "claims form", "token form, verified before", "/token, ES256"

_ABREAST = 16
"""Requests sent before an answer is awaited: under valgrind all of them are read in one turn."""

_ENVIRON = {
    "PYTHONHASHSEED": "0",
    "OPENSSL_ia32cap": "0:0",  # signatures by the same code on every processor
}


class Counted:
    """A server under callgrind, which counts from the first :meth:`count` on."""

    def __init__(self, stack: ExitStack, folder: Path, name: str, *command: str) -> None:
        self._out = folder / f"callgrind.{name}"
        self._dumps = 0
        log = folder / f"{name}.log"
        valgrind = ["valgrind", "--tool=callgrind", "--quiet", "--instr-atstart=no"]
        self._child = subprocess.Popen(
            [*valgrind, f"--callgrind-out-file={self._out}", sys.executable, "-m", *command],
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            env={**os.environ, **_ENVIRON},
            cwd=REPOSITORY,
        )
        stack.callback(self._stop)
        self._log = log

    def await_answer(self, url: str) -> None:
        deadline = time.monotonic() + 120
        while not answers(f"{url}/readyz"):
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"does not answer:\n{self._log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.1)

    def count(self, rounds: Callable[[int], None], warm: int, counted: int) -> float:
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
        told = re.search(r"^(?:totals|summary): (\d+)", text, re.MULTILINE)
        assert told is not None
        return int(told[1])

    def _control(self, what: str) -> None:
        subprocess.run(["callgrind_control", what, str(self._child.pid)], check=True, capture_output=True)

    def _stop(self) -> None:
        self._child.kill()
        self._child.wait()


class Abreast:
    """Connections that all send a request, then all read their answer."""

    def __init__(self, stack: ExitStack, port: int, bodies: list[Iterator[bytes]], head: bytes) -> None:
        self._bodies = bodies
        self._head = head
        self.answers = [b""] * len(bodies)
        self._sockets = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 60)) for _ in bodies
        ]

    def rounds(self, count: int) -> None:
        for _ in range(count):
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=__doc__)
    parser.add_argument("--record", action="store_true", help=f"write {RECORDED.name} anew")
    asked = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="instructions-")))
        found = measured(stack, folder)
    if asked.record:
        RECORDED.write_text(json.dumps(found, indent=2) + "\n")
    recorded = json.loads(RECORDED.read_text())
    told = list(_compared(found, recorded))
    if any(told):
        sys.exit("\n".join(filter(None, told)))


def _compared(found: dict[str, int], recorded: dict[str, int]) -> Iterator[str | None]:
    print(f"{'instructions a request':30}{'now':>12}{'÷ floor':>10}{'recorded':>10}{'change':>9}")
    for name, count in found.items():
        ratio, stood = count / found[FLOOR], recorded[name] / recorded[FLOOR]
        change = ratio / stood - 1
        print(f"{name:30}{count:>12,}{ratio:>10.3f}{stood:>10.3f}{change:>+9.1%}")
        if change > MARGIN:
            yield (
                f"{name}: {ratio:.3f} times the instructions of the floor, and {stood:.3f} were recorded. "
                "If this change is worth it, record that: python -m bench.instructions --record"
            )
        elif change < -MARGIN:
            print(f"{name}: cheaper than recorded; python -m bench.instructions --record keeps it so")


def measured(stack: ExitStack, folder: Path) -> dict[str, int]:
    """Instructions of one request, by what is asked."""
    material = Material(folder)
    servers = Servers(stack, folder, Cores.of_this_machine(), material)
    ports = free_port(), free_port()
    config = servers.configured(servers.store(), port=ports[1], sessions="ES256", timeout=30)
    floor = Counted(stack, folder, "floor", "bench.floor", str(ports[0]))
    revoker = Counted(stack, folder, "revoker", "bench.quiet", "serve", "--config", str(config))
    for server, port in zip((floor, revoker), ports, strict=True):
        server.await_answer(f"http://127.0.0.1:{port}")

    def sent(server: Counted, port: int, workload: Workload) -> int:
        bodies = cycle(workload.bodies.read_bytes().split(b"\n"))
        head = _head(workload.path, "application/json", workload.authorization)
        abreast = Abreast(stack, port, [bodies] * _ABREAST, head)
        return round(server.count(abreast.rounds, 140, 40) / _ABREAST)

    claims = material.claims_form()
    return {
        FLOOR: sent(floor, ports[0], claims),
        CLAIMS: sent(revoker, ports[1], claims),
        WARM: sent(revoker, ports[1], material.warm_tokens()),
        TOKEN: round(_refreshes(stack, revoker, ports[1], material.authorization)),
    }


def _refreshes(stack: ExitStack, server: Counted, port: int, authorization: str) -> float:
    """Every answer's refresh token is what the next request of its connection shows."""
    login = json.dumps({"sub": "alice", "client_id": "web"}).encode()
    begun = Abreast(
        stack, port, [cycle([login])] * _ABREAST, _head("/sessions", "application/json", authorization)
    )
    begun.rounds(1)
    latest = begun.answers

    def bodies(index: int) -> Iterator[bytes]:
        while True:
            shown = json.loads(latest[index])["refresh_token"]
            yield urlencode({"grant_type": "refresh_token", "refresh_token": shown}).encode()

    head = _head("/token", "application/x-www-form-urlencoded")
    refreshing = Abreast(stack, port, [bodies(index) for index in range(_ABREAST)], head)
    refreshing.answers = latest
    return server.count(refreshing.rounds, 20, 20) / _ABREAST


def _head(path: str, content_type: str, authorization: str = "") -> bytes:
    shown = f"Authorization: {authorization}\r\n" if authorization else ""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n{shown}Content-Length: "
    ).encode()


if __name__ == "__main__":
    main()
