"""Ends TLS in front of a server that speaks none."""

import asyncio
import contextlib
import ssl

from tests.rig.listener import connected, listening


def tls_before(port: int, context: ssl.SSLContext) -> contextlib.AbstractAsyncContextManager[int]:
    """The port of a relay that speaks TLS and leads to a port of 127.0.0.1."""

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
        target.close()

    async def relay(client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        async with connected(port) as (replies, server):
            await asyncio.gather(copy(client, server), copy(replies, answers))

    return listening(relay, tls=context)
