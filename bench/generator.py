"""A small load generator, for machines without ``wrk`` and where refusals count: raw HTTP/1.1.

Arguments: URL, connections, seconds, file of bodies, path, Authorization, offset, Content-Type, requests
a second (0: as many as are answered). Prints one line of JSON, as ``wrk.lua`` does. It takes more CPU than
that, and so do all figures: read them as ratios.
"""

import itertools
import json
import re
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: *(\d+)")


@dataclass(frozen=True)
class Asked:
    """What is to be sent where."""

    host: str
    port: int
    connections: int
    seconds: float
    requests: Iterator[bytes]


def flooding(asked: Asked) -> tuple[list[float], int]:
    """Send on each connection as soon as the answer is there; latencies of 2xx, and how many failed."""
    connections = {connection.fileno(): connection for connection in _connected(asked)}
    received = dict.fromkeys(connections, b"")
    began: dict[int, float] = {}
    latencies, failed = [], 0
    until = time.perf_counter() + asked.seconds
    with select.epoll() as ready:
        for number, connection in connections.items():
            ready.register(number, select.EPOLLIN)
            began[number] = time.perf_counter()
            connection.send(next(asked.requests))
        while began:
            for number, _ in ready.poll():
                connection = connections[number]
                try:
                    data = received[number] + connection.recv(65536)
                    answered = _answered(data)
                except ConnectionError:
                    failed += 1
                    del began[number]
                    ready.unregister(number)
                    continue
                if answered is None:
                    received[number] = data
                    continue
                received[number] = b""
                now = time.perf_counter()
                if answered:
                    latencies.append(now - began[number])
                else:
                    failed += 1
                if now < until:
                    began[number] = now
                    connection.send(next(asked.requests))
                else:
                    del began[number]
                    ready.unregister(number)
    return latencies, failed


def _connected(asked: Asked) -> list[socket.socket]:
    made = [socket.create_connection((asked.host, asked.port), 10) for _ in range(asked.connections)]
    for connection in made:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def _answered(data: bytes) -> bool | None:
    """Whether an answer is 2xx; None while it is not there whole.

    Raises:
        ConnectionError: nothing came, and nothing will.
    """
    if not data:
        raise ConnectionError("the server closed a connection")
    end = data.find(b"\r\n\r\n") + 4
    length = _LENGTH.search(data, 0, end)
    if end < 4 or len(data) < end + int(length[1] if length else 0):
        return None
    return data.startswith(b"HTTP/1.1 2")


def paced(asked: Asked, rate: float) -> tuple[list[float], int]:
    """Send at a fixed rate, whether the server keeps up or not.

    A latency is counted from when its request was due: where all connections wait, those behind wait too.
    """
    idle = deque(_connected(asked))
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
            answered = _answered(data)
            if answered is None:
                received[connection] = data
                continue
            received[connection] = b""
            latencies.append(time.perf_counter() - busy.pop(connection))
            failed += not answered
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
    latencies, failed = paced(asked, float(rate)) if float(rate) else flooding(asked)
    took = time.perf_counter() - began
    latencies.sort()
    report = {
        "requests": len(latencies),
        "microseconds": int(took * 1e6),
        "p50": int(latencies[len(latencies) // 2] * 1e6),
        "p99": int(latencies[len(latencies) * 99 // 100] * 1e6),
        "failed": failed,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
