"""Consumers of the feed that ask a service for what edges ask for, at the least cost for their machine.

Each follows the feed, confirms its cursor once a second, and polls once in four seconds, as an edge does to
compare clocks. Arguments: URL, Authorization, cursor, how many consumers. They end with SIGTERM; then it is
printed how many changes each has got.
"""

import json
import re
import selectors
import signal
import socket
import sys
import time
from urllib.parse import quote, urlsplit

_CHANGES = re.compile(rb"event: change\n").findall
_LAST_ID = re.compile(rb".*\nid: ([\w-]+)\nevent: change\n", re.DOTALL).match
_OVERLAP = 100
"""Bytes of the last reading that are looked at again: more than an id and its event's name."""

_CONFIRM_S = 1.0
_CONFIRMS_OF_A_POLL = 4


class _Consumer:
    """A stream, and a connection for other requests."""

    def __init__(self, url: str, authorization: str, cursor: str, number: int) -> None:
        parts = urlsplit(url)
        self._head = f"Host: {parts.netloc}\r\nAuthorization: {authorization}\r\n"
        self._query = f"name=consumer-{number}&confirms=true"
        self._name = f"consumer-{number}"
        self._cursor = cursor
        self._rest = b""
        self._confirmed = number  # so that not all poll at the same time
        self.changes = 0
        self.stream, self.others = (
            socket.create_connection((parts.hostname, parts.port), timeout=10) for _ in range(2)
        )
        self._ask(self.stream, f"GET /feed?cursor={quote(cursor, '')}&{self._query}")

    def _ask(self, connection: socket.socket, target: str, body: str = "") -> None:
        fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        connection.sendall(f"{target} HTTP/1.1\r\n{self._head}{fields}\r\n{body}".encode())

    def read(self) -> None:
        """Count what the stream has."""
        data = _received(self.stream)
        both = self._rest[-_OVERLAP:] + data
        self.changes += len(_CHANGES(both)) - len(_CHANGES(self._rest[-_OVERLAP:]))
        if found := _LAST_ID(both):
            self._cursor = found[1].decode()
        self._rest = both

    def confirm(self) -> None:
        """Send what an edge sends once a second."""
        self._confirmed += 1
        body = json.dumps({"cursor": self._cursor, "name": self._name, "max_staleness": 5})
        self._ask(self.others, "POST /feed/confirm", body)
        if not self._confirmed % _CONFIRMS_OF_A_POLL:
            self._ask(self.others, f"GET /feed?cursor={quote(self._cursor, '')}&wait=0&{self._query}")

    def read_others(self) -> None:
        """Check the answers."""
        data = _received(self.others)
        if any(not status.startswith(b"2") for status in re.findall(rb"HTTP/1.1 (\d+)", data)):
            raise RuntimeError(data.decode())


def _received(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 20)
    if not data:
        raise ConnectionError("the service closed a connection")
    return data


def main() -> None:
    url, authorization, cursor, count = sys.argv[1:]
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    consumers = [_Consumer(url, authorization, cursor, number) for number in range(int(count))]
    due = time.monotonic() + _CONFIRM_S
    with selectors.DefaultSelector() as ready:
        for consumer in consumers:
            ready.register(consumer.stream, selectors.EVENT_READ, consumer.read)
            ready.register(consumer.others, selectors.EVENT_READ, consumer.read_others)
        while not ended:
            for key, _ in ready.select(0.2):
                key.data()
            if time.monotonic() >= due:
                due += _CONFIRM_S
                for consumer in consumers:
                    consumer.confirm()
    print(*(consumer.changes for consumer in consumers))


if __name__ == "__main__":
    main()
