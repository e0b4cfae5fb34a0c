"""A server of a test that leaves no connection behind: an unclosed one fails whichever test runs later."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

from tests.rig.servers import free_port

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_LIMIT = 2**20
"""Bytes that a reader holds back: more than the largest head that a test sends."""


class Listener:
    """Accepts connections on a port of 127.0.0.1, and ends those that are open when it closes.

    Attributes:
        port: 0 before :meth:`open`; the same again where it was closed and is opened once more.
    """

    def __init__(self, serve: Serve, *, tls: ssl.SSLContext | None = None, backlog: int = 100) -> None:
        self._serve = serve
        self._tls = tls
        self._backlog = backlog
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def open(self) -> None:
        self.port = self.port or free_port()
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self.port, limit=_LIMIT, ssl=self._tls, backlog=self._backlog
        )

    async def close(self) -> None:
        """Refuse connections, and end the open ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for _ in range(20):  # what was accepted a moment ago gets its task some turns of the loop later
            await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self._server is not None:
                await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side ended the connection, or the listener did
        finally:
            await _ended(writer)
            self._tasks.discard(task)


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a port of 127.0.0.1, ended at exit."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        await _ended(writer)


@contextlib.asynccontextmanager
async def listening(serve: Serve, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port of a listener that is open until exit."""
    listener = Listener(serve, tls=tls)
    await listener.open()
    try:
        yield listener.port
    finally:
        await listener.close()


async def _ended(writer: asyncio.StreamWriter) -> None:
    """Send what was written, for a moment, and end the connection whether or not the other side reads."""
    writer.close()
    try:
        async with asyncio.timeout(1):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        pass
    finally:
        writer.transport.abort()
