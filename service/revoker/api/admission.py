"""How many requests for a verdict may be under way: what is too many is refused at once, not answered late.

Only what gateways ask all the time is counted and refused. Revocations, blocks, sessions, health and
metrics always get through: an administrator must be able to act while gateways ask too much.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from revoker.api.prebuilt import OVERLOADED, PrebuiltResponse
from revoker.metrics import Metrics

BURST_SECONDS: Final = 1.0
"""More than may be under way are taken in for so long: a burst is worked off, a crowd is not."""

CROWD_SECONDS: Final = 10.0
"""A crowd that comes back earlier is the same crowd."""

AGAIN_SECONDS: Final = 2.0
"""So long after more came than may be under way, who was refused and did not wait is refused again."""

PAUSE_SECONDS: Final = 0.25
"""Nothing is read from a connection for so long after a refusal, which costs nearly what an answer does.

Shorter than gateways wait, so that they get their answer; who waits as ``Retry-After`` says notices nothing.
"""


class Connection(Protocol):
    """What load shedding asks of a connection.

    Attributes:
        refused_at: When a request on it was last refused, in monotonic seconds; negative: never.
    """

    refused_at: float

    def pause(self, seconds: float) -> None:
        """Read nothing more from the client for a while."""


class Admission:
    """Counts what is under way in one process, and refuses what is beyond the limit.

    Handlers count themselves, in ``under_way``, while they work on a request that has come whole: who sends
    slowly must not take another's place. Nor must who waits for the keys of an issuer, which another machine
    may hold back: that is bounded for each issuer by itself.

    Attributes:
        crowded: Whether requests have been refused lately.
    """

    def __init__(
        self, limit: int, metrics: Metrics, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.limit: Final = limit
        self.under_way = 0
        self.crowded = False
        self._metrics = metrics
        self._monotonic = monotonic
        self._last_crowd = self._crowd_began = -CROWD_SECONDS

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """For a request that has counted itself: not to count while it waits for another machine's answer."""
        self.under_way -= 1
        try:
            yield
        finally:
            self.under_way += 1

    async def refused(self, path: str) -> PrebuiltResponse:
        """What is answered to one too many."""
        self._metrics.no_verdicts.labels("overload").inc()
        self._metrics.requests.labels(path, str(OVERLOADED.status)).inc()
        return OVERLOADED

    def refuses(self, connection: Connection) -> bool:
        """Whether a request is one too many; asked where ``crowded``, or ``limit`` are under way."""
        now = self._monotonic()
        if self.under_way >= self.limit:
            if now - self._last_crowd > CROWD_SECONDS:
                self._crowd_began = now
            self._last_crowd = now
            self.crowded = now - self._crowd_began > BURST_SECONDS
        elif now - self._last_crowd > AGAIN_SECONDS:
            self.crowded = False
        did_not_wait = now - connection.refused_at < 1.5 * PAUSE_SECONDS
        if self.crowded and (did_not_wait or self.under_way >= self.limit):
            connection.refused_at = now
            connection.pause(PAUSE_SECONDS)
            return True
        return False
