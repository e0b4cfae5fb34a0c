"""A relay in this process, between a client and a server of which both may be in it."""

import asyncio
import contextlib
from typing import Literal

from tests.rig.listener import Listener

Fault = Literal["none", "held back", "late", "cut"]


class Relay:
    """Passes bytes on to a port of 127.0.0.1, unless they are held back, late or cut off.

    Attributes:
        delay: Of all that passes, each way, in seconds.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._passes = asyncio.Event()
        self._passes.set()
        self.delay = 0.0
        self.listener = Listener(self._serve)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(reader, back))
                group.create_task(self._pass_on(there, writer))
        except* (OSError, EOFError):
            pass
        finally:
            back.close()
            with contextlib.suppress(OSError):
                await back.wait_closed()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self.delay:
                await asyncio.sleep(self.delay)
            await self._passes.wait()
            writer.write(data)
            await writer.drain()
        raise EOFError

    async def break_as(self, fault: Fault) -> None:
        match fault:
            case "held back":
                self._passes.clear()
            case "late":
                self.delay = 1.0
            case "cut":
                await self.listener.close()
            case "none":
                pass

    async def repair(self) -> None:
        """Let everything pass again; what was held back is dropped, as by a network."""
        self.delay = 0.0
        self._passes.set()
        await self.listener.close()
        await self.listener.open()
