"""The link between a gateway and Revoker, which can be closed or held up."""

import asyncio
import contextlib

from tests.rig.listener import Listener, connected


class InterruptibleLink(Listener):
    """Forwards connections to one port, and answers only while ``answers_pass`` is set."""

    def __init__(self, target: int) -> None:
        super().__init__(self._forward)
        self._target = target
        self.answers_pass = asyncio.Event()
        self.answers_pass.set()

    async def _forward(self, reader, writer) -> None:
        async with connected(self._target) as (ahead_reader, ahead_writer), asyncio.TaskGroup() as both:
            both.create_task(self._pump(reader, ahead_writer, answers=False))
            both.create_task(self._pump(ahead_reader, writer, answers=True))

    async def _pump(self, reader, writer, *, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if answers:
                    await self.answers_pass.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
