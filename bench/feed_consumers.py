"""Consumers of the feed that read and count, at the least cost for their machine.

Arguments: URL, Authorization, cursor, how many consumers. They follow the feed until SIGTERM; then it is
printed how many changes each has got.
"""

import re
import selectors
import signal
import socket
import sys
from urllib.parse import quote, urlsplit

_CHANGES = re.compile(rb"event: change\n").findall
_MARK = len(b"event: change\n") - 1


class _Consumer:
    """One stream."""

    def __init__(self, url: str, authorization: str, cursor: str, number: int) -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=10)
        self.socket.sendall(
            f"GET /feed?cursor={quote(cursor, '')}&name=consumer-{number} HTTP/1.1\r\n"
            f"Host: {parts.netloc}\r\nAccept: text/event-stream\r\n"
            f"Authorization: {authorization}\r\n\r\n".encode()
        )
        self.changes = 0
        self._rest = b""

    def read(self) -> None:
        data = self.socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the service ended a stream")
        self.changes += len(_CHANGES(self._rest + data))
        self._rest = (self._rest + data)[-_MARK:]


def main() -> None:
    url, authorization, cursor, count = sys.argv[1:]
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    consumers = [_Consumer(url, authorization, cursor, number) for number in range(int(count))]
    with selectors.DefaultSelector() as ready:
        for consumer in consumers:
            ready.register(consumer.socket, selectors.EVENT_READ, consumer)
        while not ended:
            for key, _ in ready.select(0.2):
                key.data.read()
    print(*(consumer.changes for consumer in consumers))


if __name__ == "__main__":
    main()
