"""A small load generator, for machines without ``wrk`` and where refusals count: raw HTTP/1.1.

Arguments: URL, connections, seconds, file of bodies, path, Authorization, offset, Content-Type, requests
a second (0: as many as are answered). Prints one line of JSON, as ``wrk.lua`` does. It costs about as
much CPU as the floor: read its figures as ratios.
"""

import asyncio
import functools
import itertools
import json
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import uvloop


class Connection(asyncio.Protocol):
    """One request after the other; answers have a Content-Length."""

    def __init__(self, requests: Iterator[bytes], until: float) -> None:
        self._requests = requests
        self._until = until
        self._received = b""
        self._began = 0.0
        self.latencies: list[float] = []
        self.failed = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(next(self._requests))  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or len(body) < _length(head):
            return
        self._received = b""
        now = time.perf_counter()
        if head.startswith(b"HTTP/1.1 2"):
            self.latencies.append(now - self._began)
        else:
            self.failed += 1
        if now < self._until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        self.failed += time.perf_counter() < self._until
        self.done.set_result(None)


def _given(connection: Connection) -> Connection:
    return connection


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


@dataclass(frozen=True)
class Asked:
    """What is to be sent where."""

    host: str
    port: int
    connections: int
    seconds: float
    requests: Iterator[bytes]


async def flooding(asked: Asked) -> tuple[list[float], int]:
    """Send on each connection as soon as the answer is there; latencies of 2xx, and how many failed."""
    until = time.perf_counter() + asked.seconds
    opened = []
    for _ in range(asked.connections):
        connection = Connection(asked.requests, until)
        await asyncio.get_running_loop().create_connection(
            functools.partial(_given, connection), asked.host, asked.port
        )
        opened.append(connection)
    await asyncio.gather(*(each.done for each in opened))
    return [latency for each in opened for latency in each.latencies], sum(each.failed for each in opened)


def paced(asked: Asked, rate: float) -> tuple[list[float], int]:
    """Send at a fixed rate, whether the server keeps up or not.

    A latency is counted from when its request was due: where all connections wait, those behind wait too.
    """
    idle = deque(socket.create_connection((asked.host, asked.port), 10) for _ in range(asked.connections))
    for each in idle:
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    busy: dict[socket.socket, float] = {}
    received: dict[socket.socket, bytes] = dict.fromkeys(idle, b"")
    due: deque[float] = deque()
    latencies, failed = [], 0
    following = time.perf_counter()
    until = following + asked.seconds
    while True:
        now = time.perf_counter()
        while following <= min(now, until):
            due.append(following)
            following += 1 / rate
        while idle and due:
            connection = idle.popleft()
            busy[connection] = due.popleft()
            connection.send(next(asked.requests))
        if following > until and not busy and not due:
            break
        pause = max(0.0, following - time.perf_counter()) if following <= until else 1.0
        readable, _, _ = select.select(list(busy), [], [], pause)
        for connection in readable:
            data = received[connection] + connection.recv(65536)
            head, found, body = data.partition(b"\r\n\r\n")
            if not data:
                raise ConnectionError("the server closed a connection")
            if not found or len(body) < _length(head):
                received[connection] = data
                continue
            received[connection] = b""
            latencies.append(time.perf_counter() - busy.pop(connection))
            failed += not head.startswith(b"HTTP/1.1 2")
            idle.append(connection)
    return latencies, failed


def main() -> None:
    url, connections, seconds, file, path, authorization, offset, content_type, rate = sys.argv[1:]
    host, _, port = urlsplit(url).netloc.partition(":")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: {content_type}\r\n"
        f"Authorization: {authorization}\r\nContent-Length: "
    ).encode()
    bodies = Path(file).read_bytes().split(b"\n")
    requests = [head + str(len(body)).encode() + b"\r\n\r\n" + body for body in bodies]
    turn = itertools.islice(itertools.cycle(requests), int(offset) % len(requests), None)
    asked = Asked(host, int(port), int(connections), float(seconds), turn)
    began = time.perf_counter()
    latencies, failed = paced(asked, float(rate)) if float(rate) else uvloop.run(flooding(asked))
    took = time.perf_counter() - began
    latencies.sort()
    told = {
        "requests": len(latencies),
        "microseconds": int(took * 1e6),
        "p50": int(latencies[len(latencies) // 2] * 1e6),
        "p99": int(latencies[len(latencies) * 99 // 100] * 1e6),
        "failed": failed,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
