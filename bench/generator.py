"""A small load generator for machines without ``wrk``: one process, raw HTTP/1.1 on asyncio.

Arguments: URL, connections, seconds, file of bodies, path, Authorization, offset. Prints one line
of JSON, as ``wrk.lua`` does. It costs about as much CPU as the floor: read its figures as ratios.
"""

import asyncio
import functools
import itertools
import json
import sys
import time
from collections.abc import Iterator
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
        self.refused = 0
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
            self.refused += head.startswith(b"HTTP/1.1 503")
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


async def main() -> None:
    url, connections, seconds, file, path, authorization, offset = sys.argv[1:]
    host, _, port = urlsplit(url).netloc.partition(":")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Authorization: {authorization}\r\nContent-Length: "
    ).encode()
    bodies = Path(file).read_bytes().split(b"\n")
    requests = [head + str(len(body)).encode() + b"\r\n\r\n" + body for body in bodies]
    turn = itertools.islice(itertools.cycle(requests), int(offset) % len(requests), None)
    began = time.perf_counter()
    opened = []
    for _ in range(int(connections)):
        connection = Connection(turn, began + float(seconds))
        await asyncio.get_running_loop().create_connection(
            functools.partial(_given, connection), host, int(port)
        )
        opened.append(connection)
    await asyncio.gather(*(each.done for each in opened))
    took = time.perf_counter() - began
    latencies = sorted(latency for each in opened for latency in each.latencies)
    told = {
        "requests": len(latencies),
        "microseconds": int(took * 1e6),
        "p50": int(latencies[len(latencies) // 2] * 1e6),
        "p99": int(latencies[len(latencies) * 99 // 100] * 1e6),
        "failed": sum(each.failed for each in opened),
        "refused": sum(each.refused for each in opened),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    uvloop.run(main())
