"""Answers whose bytes are written at once, for the path on which every microsecond counts."""

import time
from email.utils import formatdate
from typing import Final

from aiohttp import HttpVersion11, web

_HEAD: Final = (
    "HTTP/1.1 200 OK\r\n"
    "Content-Type: application/json\r\n"
    "Cache-Control: no-store\r\n"
    "Pragma: no-cache\r\n"
    "Date: {}\r\n"
    "Content-Length: "
)


class _Clock:
    """The head with the present second, written anew once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._head = b""

    def head(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._head = _HEAD.format(formatdate(second, usegmt=True)).encode()
        return self._head


_clock: Final = _Clock()


class ReadyAnswer:
    """200 with a JSON body, as aiohttp takes it from a handler: one write, no headers to build.

    Not a ``web.Response``, so nothing that is given one of these may look at its headers.
    """

    __slots__ = ("body", "keep_alive")

    status: Final = 200

    def __init__(self, body: bytes) -> None:
        self.body: Final = body
        self.keep_alive = True

    def force_close(self) -> None:
        """End the connection after this answer, and say so."""
        self.keep_alive = False

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write the whole answer."""
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client has gone")
        if not request.keep_alive or request.version != HttpVersion11:
            self.keep_alive = False
        end = b"\r\n\r\n" if self.keep_alive else b"\r\nConnection: close\r\n\r\n"
        transport.write(b"%b%d%b%b" % (_clock.head(), len(self.body), end, self.body))

    async def write_eof(self) -> None:
        """Nothing is left to be written."""
