"""A proxy between a client and a server that replaces the replies to chosen commands."""

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import hiredis

_INCOMPLETE = object()


class ReplyProxy:
    """Passes commands on; one that a rule names gets the rule's reply and does not reach the server.

    Attributes:
        rules: Raw replies by the name of a command, or by the name and its first argument.
        seen: The names of all commands that were received, in upper case.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self.rules: dict[str, bytes] = {}
        self.seen: list[str] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def _serve(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        replies, server = await asyncio.open_connection("127.0.0.1", self._server_port)
        asked: collections.deque[bytes | None] = collections.deque()

        def note(command: list[bytes]) -> None:
            words = [word.decode(errors="replace").upper() for word in command[:2]]
            self.seen.append(words[0])
            replacement = self.rules.get(" ".join(words), self.rules.get(words[0]))
            asked.append(replacement)
            server.write(encode(command if replacement is None else [b"PING"]))

        def answer(reply: Any) -> None:
            replacement = asked.popleft()
            answers.write(encode(reply) if replacement is None else replacement)

        async def commands() -> None:
            reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
            while data := await client.read(65536):
                _parsed(reader, data, note)
            server.close()

        pumps = asyncio.gather(commands(), _pump(replies, answer))
        try:
            with contextlib.suppress(OSError):
                await pumps
        finally:
            pumps.cancel()
            for stream in (server, answers):
                stream.close()
                with contextlib.suppress(OSError):
                    await stream.wait_closed()

    async def _pass(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(client, answers)
        except asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)

    @classmethod
    @contextlib.asynccontextmanager
    async def before(cls, port: int) -> AsyncIterator[Self]:
        """A proxy before the server on a port of 127.0.0.1."""
        proxy = cls(port)
        listener = await asyncio.start_server(proxy._pass, "127.0.0.1", 0)
        proxy.port = listener.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            listener.close()
            for task in list(proxy._tasks):
                task.cancel()
            await asyncio.gather(*proxy._tasks, return_exceptions=True)


async def _pump(stream: asyncio.StreamReader, take: Callable[[Any], None]) -> None:
    reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
    while data := await stream.read(65536):
        _parsed(reader, data, take)


def _parsed(reader: hiredis.Reader, data: bytes, take: Callable[[Any], None]) -> None:
    reader.feed(data)
    while (found := reader.gets()) is not _INCOMPLETE:
        take(found)


def encode(reply: Any) -> bytes:
    """A reply as it goes over the wire (RESP2)."""
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
