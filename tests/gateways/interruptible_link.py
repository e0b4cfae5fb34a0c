"""The link between a gateway and Revoker, which can be closed or held up."""

import asyncio
import contextlib


class InterruptibleLink:
    """Forwards connections to one port, and answers only while ``passes`` is set."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task] = set()
        self.answers_pass = asyncio.Event()
        self.answers_pass.set()
        self.port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Refuse connections, and end those that stand."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader, writer) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        writers = [writer]
        try:
            ahead_reader, ahead_writer = await asyncio.open_connection("127.0.0.1", self._target)
            writers.append(ahead_writer)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, ahead_writer, answers=False))
                both.create_task(self._pump(ahead_reader, writer, answers=True))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in writers:
                each.transport.abort()
            self._tasks.discard(task)

    async def _pump(self, reader, writer, *, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if answers:
                    await self.answers_pass.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
