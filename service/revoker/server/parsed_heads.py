"""Heads of requests that were parsed before, so that the same head is not parsed again.

Clients that keep a connection send the same bytes with each request, up to the length of the body. What a
parser makes of them depends on nothing else, while it is between two requests.
"""

import asyncio
from typing import Final

from aiohttp import StreamReader
from aiohttp.http import RawRequestMessage
from aiohttp.streams import EmptyStreamReader

from revoker.api.prebuilt import Handler

MAX_HEADS: Final = 512
MAX_HEAD_BYTES: Final = 2048
"""With many short headers, all of them take 15 MB."""

FORGOTTEN_AFTER_S: Final = 60.0
"""They contain credentials, which may be withdrawn."""

_END: Final = b"\r\n\r\n"


ParsedRequest = tuple[RawRequestMessage, StreamReader, Handler]
"""A message, its body, and who responds."""


class CompleteBody(EmptyStreamReader):
    """A body that has come completely."""

    __slots__ = ("_body",)

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self._body = body

    def read_nowait(self, n: int = -1) -> bytes:  # noqa: ARG002  # it is read once, and completely
        body, self._body = self._body, b""
        return body

    async def read(self, n: int = -1) -> bytes:
        return self.read_nowait(n)

    async def readany(self) -> bytes:
        return self.read_nowait()


class ParsedHeads:
    """Messages by their bytes, with their handlers and the lengths of the bodies."""

    def __init__(self) -> None:
        self._heads: dict[bytes, tuple[RawRequestMessage, Handler, int]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def find(self, data: bytes) -> ParsedRequest | None:
        """The request that ``data`` is, if it is exactly one, and its head was parsed before."""
        end = data.find(_END) + len(_END)
        found = self._heads.get(data[:end])
        if found is None or len(data) != end + found[2]:
            return None
        return found[0], CompleteBody(data[end:]), found[1]

    def remember(self, data: bytes, message: RawRequestMessage, handler: Handler) -> None:
        """Remember the head of a request that ``data`` is exactly."""
        end = data.find(_END) + len(_END)
        if MAX_HEAD_BYTES >= end < len(data):
            if len(self._heads) >= MAX_HEADS:
                self._heads.clear()
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(FORGOTTEN_AFTER_S, self._forget)
            self._heads[data[:end]] = message, handler, len(data) - end

    def _forget(self) -> None:
        self._heads.clear()
        self._timer = None


def is_one_request(data: bytes, message: object, body: StreamReader) -> bool:
    """Whether data that was parsed to a message is exactly that request, with all of its body.

    It is uncertain where a line ends with a line feed alone: the parser may find another end of the head.
    """
    if not isinstance(message, RawRequestMessage) or not body.is_eof() or message.chunked or message.upgrade:
        return False
    end = data.find(_END) + len(_END)
    head = data[:end]
    length = int(message.headers.get("Content-Length", 0))
    return len(data) == end + length and head.count(b"\n") == head.count(b"\r\n")
