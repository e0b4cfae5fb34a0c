"""Lets long reads take short pieces of the event loop, so that verdicts do not wait for them."""

import asyncio
import time
from typing import Final, Self

PIECE_S: Final = 0.000_1
"""Longest piece, but for one item: a request that meets it waits that much longer."""

PAUSE_S: Final = 0.001
"""Between two pieces: nearly every request then meets one at most."""


class Pace:
    """All who use it take turns. Each turn is cut into pieces of :data:`PIECE_S` with pauses between them.

    ``async with`` takes a turn. No other one begins before a pause after its end.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._began = 0.0

    async def __aenter__(self) -> Self:
        await self._turn.acquire()
        self.begin_piece()
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().call_later(PAUSE_S, self._turn.release)

    def begin_piece(self) -> None:
        """Count from now: something was waited for, so other requests had the event loop."""
        self._began = time.perf_counter()

    async def give_way(self) -> None:
        """Pause, if the piece is long enough by now."""
        if time.perf_counter() - self._began >= PIECE_S:
            await asyncio.sleep(PAUSE_S)
            self.begin_piece()
