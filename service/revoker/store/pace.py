"""Lets long reads take short pieces of the event loop, so that verdicts do not wait for them."""

import asyncio
import time
from collections.abc import Callable
from typing import Final, Self

PIECE_S: Final = 0.000_1
"""Longest piece, but for one item: a request that meets it waits that much longer."""

PAUSE_S: Final = 0.001
"""Between two pieces: so nearly every request meets one at most."""


class Pace:
    """Gives turns to all who use it: one at a time has the event loop, and a pause follows every piece.

    What turns take adds up: short ones, between which the store is waited for anyway, share a pause.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock: Final = clock
        self._lock: Final = asyncio.Lock()
        self._taken = 0.0
        self._began = 0.0

    def turn(self) -> "Turn":
        """A turn, to be used by ``async with``."""
        return Turn(self)

    async def begin(self) -> None:
        """Wait until nobody else has a turn, and for the end of a pause."""
        await self._lock.acquire()
        self.begin_piece()

    def begin_piece(self) -> None:
        """Count from now: something was waited for, so other requests had the event loop."""
        self._began = self._clock()

    @property
    def is_due(self) -> bool:
        """Whether it is time for a pause."""
        return self._taken + self._clock() - self._began >= PIECE_S

    def end(self) -> None:
        """Let others begin, after a pause if one is due."""
        if self.is_due:
            self._taken = 0.0
            asyncio.get_running_loop().call_later(PAUSE_S, self._lock.release)
        else:
            self._taken += self._clock() - self._began
            self._lock.release()


class Turn:
    """Pieces of the event loop, between which others can have theirs."""

    def __init__(self, pace: Pace) -> None:
        self._pace: Final = pace
        self._is_held = False

    async def __aenter__(self) -> Self:
        await self._begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        is_long = self._is_held and self._pace.is_due
        self._end()
        if is_long:  # what follows, such as the answer, is a piece of its own
            await asyncio.sleep(0)

    async def _begin(self) -> None:
        await self._pace.begin()
        self._is_held = True

    def _end(self) -> None:
        if self._is_held:  # otherwise it was cancelled while it waited for the next piece
            self._is_held = False
            self._pace.end()

    def begin_piece(self) -> None:
        """Count from now: something was waited for, so other requests had the event loop."""
        self._pace.begin_piece()

    async def give_way(self) -> None:
        """End the piece if it is long enough by now, and wait for the next one."""
        if self._pace.is_due:
            self._end()
            await self._begin()
