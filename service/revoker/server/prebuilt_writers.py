"""Writes prebuilt responses, past what aiohttp does for a response."""

import time
from email.utils import formatdate
from typing import Final

from aiohttp import HttpVersion11, web

from revoker.api.prebuilt import PrebuiltResponse

_HEAD: Final = (
    "HTTP/1.1 {}\r\n"
    "Content-Type: application/json\r\n"
    "Cache-Control: no-store\r\n"
    "Pragma: no-cache\r\n"
    "Date: {}\r\n"
    "Content-Length: "
)

AS_OF: Final = "Revoker-As-Of"
"""The header with the time (ms by the store) of what an edge knows of revocations when it answers."""

_AS_OF_BYTES: Final = AS_OF.encode()


class _PrebuiltHead:
    """The head of prebuilt responses of one status, formatted once a second."""

    def __init__(self, status_and_headers: str) -> None:
        self._status_and_headers = status_and_headers
        self._second = 0
        self._head = b""

    def now(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._head = _HEAD.format(self._status_and_headers, formatdate(second, usegmt=True)).encode()
        return self._head


_HEADS: Final = {
    200: _PrebuiltHead("200 OK"),
    503: _PrebuiltHead("503 Service Unavailable\r\nRetry-After: 1"),
}


def bytes_of(response: PrebuiltResponse, as_of: int = 0) -> bytes:
    """A response that leaves the connection open, with :data:`AS_OF` unless ``as_of`` is 0."""
    head, body = _HEADS[response.status].now(), response.body
    if as_of:
        return b"%b%d%b\r\n\r\n%b" % (head, len(body), _dated(as_of), body)
    return b"%b%d\r\n\r\n%b" % (head, len(body), body)


def _dated(as_of: int) -> bytes:
    return b"\r\n%b: %d" % (_AS_OF_BYTES, as_of)


class PrebuiltWriter:
    """Writes a prebuilt response; aiohttp takes it for a ``web.StreamResponse``."""

    __slots__ = ("_as_of", "_response", "keep_alive")

    def __init__(self, response: PrebuiltResponse, *, keep_alive: bool, as_of: int = 0) -> None:
        """``as_of`` as for :func:`bytes_of`."""
        self._response = response
        self._as_of = as_of
        self.keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write all of it."""
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client has gone")
        if not request.keep_alive or request.version != HttpVersion11:
            self.keep_alive = False
        dated = _dated(self._as_of) if self._as_of else b""
        end = b"\r\n\r\n" if self.keep_alive else b"\r\nConnection: close\r\n\r\n"
        response = self._response
        body = response.body if request.method != "HEAD" else b""
        head = _HEADS[response.status].now()
        transport.write(b"%b%d%b%b%b" % (head, len(response.body), dated, end, body))
        if request.protocol.writing_paused:
            await request.writer.drain()

    async def write_eof(self) -> None:
        """Nothing is left to be written."""
