"""The store's clock as it can be estimated from afar, and when data was read at the store.

``as_of`` is the time of the store when the data was read. How long ago that was cannot be taken from the
clock of this machine: that may be wrong by any amount, and may be set meanwhile. Nor can it be taken from the
time at which ``as_of`` arrived: it may have been under way for any time. So the offset between the store's
clock and the monotonic clock here is bounded from both sides:

- **From above**, by samples. A request leaves at ``sent``, and the store is read after that, at ``as_of``.
  Then the store's clock showed ``as_of`` at or after ``sent``: the offset is at most ``as_of - sent``. The
  error is the time until the request was read. By this bound no data is taken for younger than it is.
- **From below**, by arrivals. ``as_of`` was read before it was received: the offset is at least
  ``as_of - received``.

The clocks run at different speeds, at most :data:`DRIFT` apart, so the bounds widen with their age, and a
newer sample replaces an older one once it is the closer bound. Once it is found when something was read, only
the monotonic clock counts.

If the bounds contradict each other, the store's clock was set, or another server with another clock has
taken over. What was measured before is worthless then, and nothing is believed before the next sample. A
clock set forward while all arrivals are late contradicts nothing. The next sample finds it. Until then data
is taken for younger than it is by as much as the clock was set, so nothing is believed without a recent
sample.
"""

import math
from typing import Final

DRIFT: Final = 500e-6
"""By how much the speeds of two clocks can differ: the most by which NTP slews one."""

SAMPLE_S: Final = 4.0
"""How often the offset is sampled."""

SAMPLE_VALID_MS: Final = 10_000.0
"""What arrives without a sample that began in this time before it is not believed."""


class UpstreamClock:
    """All times in ms; those of this machine by its monotonic clock.

    Attributes:
        step_suspected: Whether the bounds have contradicted each other since the last sample.
    """

    def __init__(self) -> None:
        self._above = math.inf
        self._above_at = 0.0
        self._below = -math.inf
        self._below_at = 0.0
        self._sampled_at = -math.inf
        self.step_suspected = False

    def arrived(self, as_of: int, received: float) -> None:
        """``as_of`` was received, and may have been under way for any time."""
        below = as_of - received
        if below > self._most(received):
            self.step_suspected = True
        if below >= self._least(received):
            self._below, self._below_at = below, received

    def sampled(self, as_of: int, sent: float, received: float) -> bool:
        """``as_of`` was read by a request that was sent and answered at these times.

        Returns:
            Whether the store's clock was set, so that what was measured before is worthless.
        """
        above, below = as_of - sent, as_of - received
        was_set = self.step_suspected or below > self._most(received) or above < self._least(received)
        if was_set or above <= self._most(sent):
            self._above, self._above_at = above, sent
        if was_set or below >= self._least(received):
            self._below, self._below_at = below, received
        self._sampled_at = max(self._sampled_at, sent)
        self.step_suspected = False
        return was_set

    def earliest_reading(self, as_of: int, now: float) -> float:
        """The earliest time at which ``as_of`` can have been read; without a recent sample, at any time."""
        if self.step_suspected or now - self._sampled_at > SAMPLE_VALID_MS:
            return -math.inf
        return as_of - self._most(now)

    def offset(self, now: float) -> float:
        """The least by which the store's clock is ahead."""
        return self._least(now)

    def _most(self, now: float) -> float:
        return self._above + DRIFT * (now - self._above_at)

    def _least(self, now: float) -> float:
        return self._below - DRIFT * (now - self._below_at)
