"""A copy of a store in memory, as a source of lookups: it answers at once, and knows how old it is."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Final

from revoker.elapsed_time import Clock, PauseWatch, elapsed
from revoker.errors import StoreUnavailable
from revoker.models import Issuer, OldLimits
from revoker.store.keys import Keys, TokenKeys
from revoker.store.mirror.copy import Copy
from revoker.store.mirror.feed_lines import FeedLine
from revoker.store.mirror.upstream_clock import UpstreamClock
from revoker.store.source import Found, LastRead


class CopyStale(StoreUnavailable):
    """There is no copy yet, or its data may be older than allowed."""


class Mirror:
    """As :class:`revoker.store.source.Lookups`, by the copy that was installed last.

    Attributes:
        as_of: The store's time (ms) as of which the copy has everything; 0 while there is none.
        copy: None before the first snapshot was complete.
        old_limits: As :attr:`revoker.store.issuer_records.IssuerRecords.old_limits`.
        read: As :attr:`revoker.store.issuer_records.IssuerRecords.read`.
    """

    def __init__(
        self,
        keys: Keys,
        issuers: Mapping[str, Issuer],
        *,
        max_staleness: float,
        monotonic: Clock = elapsed,
        wall: Clock = time.time,
    ) -> None:
        """``issuers`` by ``iss``, ``max_staleness`` in seconds; ``wall`` shows pauses of ``monotonic``."""
        self.keys: Final = keys
        self.issuers: Final = issuers
        self.max_staleness: Final = max_staleness
        self._max_age_ms: Final = max_staleness * 1000
        self._monotonic: Final = monotonic
        self._valid_until = -math.inf
        self._read_at = -math.inf
        self._offset = -math.inf
        self._clock: Final = UpstreamClock()
        self._pauses: Final = PauseWatch(wall, monotonic)
        self._paused_until = -math.inf
        self.copy: Copy | None = None
        self.as_of = 0
        self.old_limits: Mapping[str, OldLimits] = {}
        self.read = True

    def install(self, copy: Copy, as_of: int) -> None:
        """Answer by another copy from now on, which has everything that was acknowledged before ``as_of``."""
        self._look_for_pause()
        self.copy, self.as_of, self.old_limits = copy, as_of, copy.old_limits
        self._take_reading(self._clock.earliest_reading(as_of, self._now()))

    def add(self, line: FeedLine) -> None:
        """Add a line to the copy; raises as that does."""
        assert self.copy is not None  # noqa: S101  # otherwise nothing is followed
        self.copy.add(line, self.expiry_now)
        self.old_limits = self.copy.old_limits

    def confirm(self, as_of: int) -> None:
        """The copy has everything that was acknowledged before ``as_of`` (ms by the store)."""
        self._look_for_pause()
        self.as_of, now = as_of, self._now()
        self._clock.arrived(as_of, now)
        self._take_reading(max(self._read_at, self._clock.earliest_reading(as_of, now)))

    def sample(self, as_of: int, sent: float, age: float = 0.0) -> None:
        """Compare the clocks by the answer to one request.

        It is ignored if this process has paused while the request was under way.

        Args:
            as_of: The store's time (ms) in the answer.
            sent: When the request was sent, in monotonic ms.
            age: How long before that the upstream may have read ``as_of``, in ms.
        """
        self._look_for_pause()
        if sent < self._paused_until:
            return
        sent -= age
        now = self._now()
        read_at = self._read_at
        if self._clock.sampled(as_of, sent, now):
            read_at = min(read_at, self._clock.earliest_reading(self.as_of, now))
        self._take_reading(read_at)  # not later than before: the clock may have been set since

    def _look_for_pause(self) -> None:
        """After a pause, everything is older than it seems: believe nothing before the next sample."""
        if self._pauses.noticed:
            self._paused_until = self._now()
            self._clock.step_suspected = True
            self._take_reading(-math.inf)
        self._pauses.begin()

    @property
    def must_sample(self) -> bool:
        """Whether nothing can be believed before the next sample."""
        return self._clock.step_suspected

    def _take_reading(self, read_at: float) -> None:
        self._read_at = read_at
        self._valid_until = (read_at + self._max_age_ms) / 1000 if self.copy is not None else -math.inf
        self._offset = self._clock.offset(self._now())

    def _now(self) -> float:
        return self._monotonic() * 1000

    @property
    def now(self) -> int:
        """The store's time (ms), or a little less; 0 before it was known."""
        return max(0, int(self._now() + self._offset)) if self._offset > -math.inf else 0

    @property
    def expiry_now(self) -> int:
        """The store's time (ms) for dropping what has expired; 0 (drop nothing) while it is uncertain."""
        return self.now if self.fresh else 0

    @property
    def staleness(self) -> float:
        """The greatest age (s) that the data can have; infinite without any."""
        if self.copy is None or self._pauses.noticed:
            return math.inf
        return max(0.0, self._now() - self._read_at) / 1000

    @property
    def fresh(self) -> bool:
        """Whether there are verdicts."""
        return self._monotonic() <= self._valid_until and not self._pauses.noticed

    def _check(self) -> int:
        """The store's time (ms); raises ``CopyStale``."""
        now = self._monotonic()
        if now > self._valid_until or self._pauses.noticed:
            raise self._stale()
        return int(now * 1000 + self._offset)

    def _stale(self) -> CopyStale:
        if self.copy is None:
            return CopyStale("this edge has not loaded the revocations yet")
        return CopyStale(f"what this edge knows may be older than {self._max_age_ms / 1000:g} seconds")

    async def find(self, keys: TokenKeys) -> Found:
        now = self._monotonic()
        if now > self._valid_until or self._pauses.noticed:
            raise self._stale()
        return Found(self.copy.find(keys), int(now * 1000 + self._offset))  # type: ignore[union-attr]

    find_shared = find

    async def find_all(self, keys: Sequence[TokenKeys]) -> list[Found]:
        now = self._check()
        states = self.copy.find_all(keys)  # type: ignore[union-attr]  # it is valid
        return [Found(state, now) for state in states]

    def last_read(self, keys: TokenKeys) -> LastRead:  # noqa: ARG002
        raise self._stale()

    async def touch(self) -> None:
        self._check()

    @property
    def ahead(self) -> float:
        return 0.0

    def reconnect(self) -> None:
        """A mirror has no connection of its own."""
