"""Load shedding: too many requests for verdicts are refused at once, instead of answered late.

Only requests of fast paths (introspection, ``/forward-auth``, ``/token``) are counted and refused. All others
are always admitted: an administrator must be able to revoke, and Prometheus to scrape, while gateways
overload the service.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from revoker.api.prebuilt import PrebuiltResponse

OVERLOADED: Final = PrebuiltResponse(
    b'{"error":"temporarily_unavailable","error_description":"too many requests are under way"}', 503
)
"""Refuses a request before anything of it is looked at."""

BURST_SECONDS: Final = 1.0
"""How long more requests than the limit are admitted: a burst ends within this time, overload does not."""

EPISODE_SECONDS: Final = 10.0
"""Overload that resumes within this continues the same episode, without another burst."""

RECOVERY_SECONDS: Final = 2.0
"""How long after the limit was last reached clients that did not wait after a refusal are refused."""

PAUSE_SECONDS: Final = 0.25
"""How long a connection is not read after a refusal, which costs nearly as much as a response.

Shorter than the time-outs of gateways, so that they get their response; a client that heeds ``Retry-After``
notices nothing.
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
    """Counts the requests in progress in one process, and refuses those beyond the limit.

    A request is counted from when its body is complete, so that a slow sender uses up no part of the limit.
    It is not counted while it waits for the keys of an issuer: how long that takes depends on another
    machine, and :mod:`revoker.tokens` limits how many requests wait for one issuer.

    Attributes:
        overloaded: Whether requests have been refused lately.
    """

    def __init__(self, limit: int, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.limit: Final = limit
        self.in_progress = 0
        self.overloaded = False
        self._monotonic = monotonic
        self._last_full = self._episode_began = -EPISODE_SECONDS

    @contextlib.contextmanager
    def not_counted(self) -> Iterator[None]:
        """Do not count a counted request while it waits for the keys of an issuer."""
        self.in_progress -= 1
        try:
            yield
        finally:
            self.in_progress += 1

    def refuses(self, connection: Connection) -> bool:
        """Whether a request on this connection is refused.

        Only asked where ``overloaded``, or where as many as ``limit`` are in progress.
        """
        now = self._monotonic()
        if self.in_progress >= self.limit:
            if now - self._last_full > EPISODE_SECONDS:
                self._episode_began = now
            self._last_full = now
            self.overloaded = now - self._episode_began > BURST_SECONDS
        elif now - self._last_full > RECOVERY_SECONDS:
            self.overloaded = False
        did_not_wait = now - connection.refused_at < 1.5 * PAUSE_SECONDS
        if self.overloaded and (did_not_wait or self.in_progress >= self.limit):
            connection.refused_at = now
            connection.pause(PAUSE_SECONDS)
            return True
        return False
