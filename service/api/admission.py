"""How many requests for a verdict may be under way: what is too many is refused at once, not answered late.

Only what gateways ask all the time is counted and refused. Revocations, blocks, sessions, health and
metrics always get through: an administrator must be able to act while gateways ask too much.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Final, cast

from aiohttp import web

from service.api.connections import Connection
from service.api.ready import ReadyAnswer, Refusal
from service.metrics import Metrics

BURST_SECONDS: Final = 0.1
"""More than may be under way are taken in for so long: a burst is worked off, a crowd is not."""

CROWD_SECONDS: Final = 10.0
"""A crowd that comes back earlier is the same crowd."""

AGAIN_SECONDS: Final = 2.0
"""So long after more came than may be under way, who was refused and did not wait is refused again."""

PAUSE_SECONDS: Final = 0.1
"""Nothing is read from a connection for so long after a refusal: refusals must cost less than answers."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse | ReadyAnswer]]


class Admission:
    """Counts what is under way in one process, and refuses what is beyond the limit."""

    def __init__(
        self, limit: int, metrics: Metrics, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit: Final = limit
        self._metrics = metrics
        self._monotonic = monotonic
        self._under_way = 0
        self._refusing = False
        self._crowded = self._crowded_since = -CROWD_SECONDS

    def admitted(self, path: str, handle: Handler) -> Handler:
        """The handler, for as many requests as may be under way."""
        no_verdict = self._metrics.no_verdicts.labels("overload").inc
        answered = self._metrics.requests.labels(path, str(Refusal.status)).inc

        async def answer(request: web.Request) -> web.StreamResponse | ReadyAnswer:
            if (self._refusing or self._under_way >= self._limit) and self._refuses(request):
                no_verdict()
                answered()
                return Refusal()
            if not request.content.is_eof():  # who sends slowly must not take another's place
                return await handle(request)
            self._under_way += 1
            try:
                return await handle(request)
            finally:
                self._under_way -= 1

        return answer

    def _refuses(self, request: web.Request) -> bool:
        now = self._monotonic()
        if self._under_way >= self._limit:
            if now - self._crowded > CROWD_SECONDS:
                self._crowded_since = now
            self._crowded = now
            self._refusing = now - self._crowded_since > BURST_SECONDS
        elif now - self._crowded > AGAIN_SECONDS:
            self._refusing = False
        connection = cast("Connection", request.protocol)
        did_not_wait = now - connection.refused_at < 1.5 * PAUSE_SECONDS
        if self._refusing and (did_not_wait or self._under_way >= self._limit):
            connection.refused_at = now
            connection.pause(PAUSE_SECONDS)
            return True
        return False
