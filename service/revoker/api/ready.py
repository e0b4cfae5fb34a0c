"""Answers whose bytes are written at once, for the path on which every microsecond counts."""

import time
from email.utils import formatdate
from typing import Final

from aiohttp import HttpVersion11, web

_HEAD: Final = (
    "HTTP/1.1 {}\r\n"
    "Content-Type: application/json\r\n"
    "Cache-Control: no-store\r\n"
    "Pragma: no-cache\r\n"
    "Date: {}\r\n"
    "Content-Length: "
)

_TOO_MANY: Final = (
    b'{"error":"temporarily_unavailable","error_description":"too many requests are under way"}'
)


class _Clock:
    """The head with the present second, written anew once a second."""

    def __init__(self, status: str) -> None:
        self._status = status
        self._second = 0
        self._head = b""

    def head(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._head = _HEAD.format(self._status, formatdate(second, usegmt=True)).encode()
        return self._head


class ReadyAnswer:
    """200 with a JSON body, as aiohttp takes it from a handler: one write, no headers to build.

    Not a ``web.Response``, so nothing that is given one of these may look at its headers.
    """

    __slots__ = ("body", "keep_alive")

    status = 200
    clock = _Clock("200 OK")

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
        body = self.body if request.method != "HEAD" else b""
        transport.write(b"%b%d%b%b" % (self.clock.head(), len(self.body), end, body))
        protocol = request.protocol
        if protocol._paused:  # noqa: SLF001 -- set while the client does not read what it is sent
            await protocol._drain_helper()  # noqa: SLF001

    async def write_eof(self) -> None:
        """Nothing is left to be written."""


class Refusal(ReadyAnswer):
    """503 before anything of the request was looked at."""

    __slots__ = ()

    status = 503
    clock = _Clock("503 Service Unavailable\r\nRetry-After: 1")

    def __init__(self) -> None:
        super().__init__(_TOO_MANY)
