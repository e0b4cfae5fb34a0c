"""A proxy between a client and a server that replaces the replies to chosen commands."""

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import hiredis

from tests.rig.listener import connected, listening

_INCOMPLETE = object()


class Hold:
    """Commands that wait in the proxy; so does whatever comes after them on their connection.

    Attributes:
        reached: Set once such a command came.
        released: To be set for them to go on.
    """

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.released = asyncio.Event()


class ReplyProxy:
    """Passes commands on; one that a rule names gets the rule's reply and does not reach the server.

    Attributes:
        rules: Raw replies by the name of a command, or by the name and its first argument; an empty one
            ends the connection.
        holds: Commands to hold back, named in the same way.
        after: Called with the name of every command whose reply came, before that is passed on.
        seen: The names of all commands that were received, in upper case.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self.rules: dict[str, bytes] = {}
        self.holds: dict[str, Hold] = {}
        self.after: Callable[[str], object] = lambda _: None
        self.seen: list[str] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def _serve(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        async with connected(self._server_port) as (replies, server):
            await self._pass(client, answers, replies, server)

    async def _pass(
        self,
        client: asyncio.StreamReader,
        answers: asyncio.StreamWriter,
        replies: asyncio.StreamReader,
        server: asyncio.StreamWriter,
    ) -> None:
        pending: collections.deque[tuple[str, bytes | None]] = collections.deque()

        async def commands() -> None:
            async for command in _parsed(client):
                words = [word.decode(errors="replace").upper() for word in command[:2]]
                name, full_name = words[0], " ".join(words)
                self.seen.append(name)
                if hold := self.holds.get(full_name, self.holds.get(name)):
                    hold.reached.set()
                    await hold.released.wait()
                replacement = self.rules.get(full_name, self.rules.get(name))
                pending.append((name, replacement))
                server.write(encode(command if replacement is None else [b"PING"]))
            server.close()

        async def answer() -> None:
            async for reply in _parsed(replies):
                name, replacement = pending.popleft()
                if replacement == b"":
                    return
                self.after(name)
                answers.write(encode(reply) if replacement is None else replacement)

        pumps = [asyncio.ensure_future(commands()), asyncio.ensure_future(answer())]
        try:  # where the server's end is closed, the client's is closed too
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            failures = await asyncio.gather(*pumps, return_exceptions=True)
        for failure in failures:
            if isinstance(failure, Exception) and not isinstance(failure, OSError):
                raise failure

    @classmethod
    @contextlib.asynccontextmanager
    async def before(cls, port: int) -> AsyncIterator[Self]:
        """A proxy before the server on a port of 127.0.0.1."""
        proxy = cls(port)
        async with listening(proxy._serve) as proxy.port:
            yield proxy


async def _parsed(stream: asyncio.StreamReader) -> AsyncIterator[Any]:
    """Commands or replies, until the stream ends."""
    reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
    while data := await stream.read(65536):
        reader.feed(data)
        while (found := reader.gets()) is not _INCOMPLETE:
            yield found


def encode(reply: Any) -> bytes:
    """A command or a reply in RESP2."""
    match reply:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % reply
        case list():
            return b"*%d\r\n%b" % (len(reply), b"".join(map(encode, reply)))
        case Exception():
            return b"-%b\r\n" % str(reply).encode()
        case _:
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
