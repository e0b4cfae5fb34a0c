"""Ends TLS in front of a server that speaks none."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def tls_before(port: int, context: ssl.SSLContext) -> AsyncIterator[int]:
    """The port of a relay that speaks TLS and leads to a port of 127.0.0.1."""
    tasks: set[asyncio.Task[None]] = set()

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
        target.close()

    async def relay(client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            replies, server = await asyncio.open_connection("127.0.0.1", port)
            try:
                await asyncio.gather(copy(client, server), copy(replies, answers))
            finally:
                server.close()
        except asyncio.CancelledError:
            pass
        finally:
            answers.transport.abort()
            tasks.discard(task)

    listener = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for _ in range(20):  # what was accepted a moment ago gets its task some turns of the loop later
            await asyncio.sleep(0)
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
