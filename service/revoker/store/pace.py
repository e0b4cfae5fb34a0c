"""Lets long reads take short pieces of the event loop, so that verdicts do not wait for them."""

import asyncio
import time
from typing import Final, Self

PIECE_S: Final = 0.000_1
"""Longest piece, but for one item: a request that meets it waits that much longer."""

PAUSE_S: Final = 0.001
"""Between two pieces: so nearly every request meets one at most."""


class Pace:
    """Gives turns to all who use it: one at a time has a piece, and a pause follows every piece."""

    def __init__(self) -> None:
        self._lock: Final = asyncio.Lock()

    def turn(self) -> "Turn":
        """A turn, to be used by ``async with``."""
        return Turn(self._lock)


class Turn:
    """Pieces of the event loop, between which others can have theirs."""

    def __init__(self, lock: asyncio.Lock) -> None:
        self._lock: Final = lock
        self._holds_lock = False
        self._began = 0.0

    async def __aenter__(self) -> Self:
        await self._begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end()

    async def _begin(self) -> None:
        await self._lock.acquire()
        self._holds_lock = True
        self.begin_piece()

    def _end(self) -> None:
        if self._holds_lock:  # otherwise it was cancelled while it waited for the next piece
            self._holds_lock = False
            asyncio.get_running_loop().call_later(PAUSE_S, self._lock.release)

    def begin_piece(self) -> None:
        """Count from now: something was waited for, so other requests had the event loop."""
        self._began = time.perf_counter()

    async def give_way(self) -> None:
        """End the piece if it is long enough by now, and wait for the next one."""
        if time.perf_counter() - self._began >= PIECE_S:
            self._end()
            await self._begin()
