"""A proxy between a client and a server that replaces the replies to chosen commands."""

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import hiredis

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
        rules: Raw replies by the name of a command, or by the name and its first argument.
        holds: Commands to hold back, named in the same way.
        after: Called with the name of every command whose reply came, before that is passed on.
        seen: The names of all commands that were received, in upper case.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self.rules: dict[str, bytes] = {}
        self.holds: dict[str, Hold] = {}
        self.after: Callable[[str], object] = lambda _: None
        self.seen: list[str] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def _serve(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        replies, server = await asyncio.open_connection("127.0.0.1", self._server_port)
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
                self.after(name)
                answers.write(encode(reply) if replacement is None else replacement)

        pumps = [asyncio.ensure_future(commands()), asyncio.ensure_future(answer())]
        try:  # where the server's end is closed, the client's is closed too
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            failures = await asyncio.gather(*pumps, return_exceptions=True)
            for stream in (server, answers):
                stream.close()
                with contextlib.suppress(OSError):
                    await stream.wait_closed()
        for failure in failures:
            if isinstance(failure, Exception) and not isinstance(failure, OSError):
                raise failure

    async def _pass(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(client, answers)
        except asyncio.CancelledError:
            pass
        finally:
            answers.close()  # also where it was cancelled while it connected to the server
            with contextlib.suppress(OSError):
                await answers.wait_closed()
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
            for _ in range(20):  # what was accepted a moment ago gets its task some turns of the loop later
                await asyncio.sleep(0)
            for task in list(proxy._tasks):
                task.cancel()
            await asyncio.gather(*proxy._tasks, return_exceptions=True)


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
