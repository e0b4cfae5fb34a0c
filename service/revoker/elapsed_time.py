"""How much time has passed, also while the machine was suspended or stood still."""

import functools
import time
from collections.abc import Callable
from typing import Final

Clock = Callable[[], float]

elapsed: Final[Clock] = (
    functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if hasattr(time, "CLOCK_BOOTTIME")
    else time.monotonic
)
"""Monotonic seconds, those of a suspended machine included where the system counts them: on Linux."""

PAUSE_S: Final = 1.0
"""Pauses that are shorter are not noticed; clocks are never slewed as fast between two readings."""


class PauseWatch:
    """Notices that the wall clock has gone forward by more than the other: the machine stood still.

    No clock of a virtual machine counts the time for which it was paused. Its wall clock is set afterwards.
    """

    def __init__(self, wall: Clock, elapsed_time: Clock) -> None:
        self._wall = wall
        self._elapsed = elapsed_time
        self._difference = 0.0
        self.begin()

    def begin(self) -> None:
        """Forget what was before."""
        self._difference = self._wall() - self._elapsed()

    @property
    def noticed(self) -> bool:
        """Whether there was a pause since it began, or the wall clock was set forward."""
        return self._wall() - self._elapsed() - self._difference > PAUSE_S
