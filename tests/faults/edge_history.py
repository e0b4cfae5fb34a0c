"""What edges answered in a campaign, and the rules that their answers must satisfy.

No I/O, as :mod:`tests.faults.history`. An edge says with every answer as of when it knows (``Revoker-As-Of``,
by the store's clock). When that was is not exactly known here, nor when a revocation was acknowledged. So
every rule takes, of all times that are possible, the one that is best for the edge.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from tests.faults.history import (
    FINDING_S,
    SKEW_S,
    Cutoff,
    Fault,
    Record,
    Standing,
    Token,
    Violation,
)


class EdgeAnswer(msgspec.Struct, frozen=True, tag=True):
    """An introspection at an edge; ``active`` is None where the answer held no verdict.

    Attributes:
        as_of: ms by the store's clock; None where the answer did not say it.
        asks: Whether the edge may have asked the service (``beyond = "ask"``): then its verdict is newer.
    """

    start: float
    end: float
    edge: str
    token: Token
    status: int | None
    active: bool | None = None
    as_of: int | None = None
    asks: bool = False


class EdgeAbsent(msgspec.Struct, frozen=True, tag=True):
    """An edge was killed or stopped: it may leave requests unanswered."""

    edge: str
    start: float
    end: float


class Blocked(msgspec.Struct, frozen=True, tag=True):
    """An attempt to block a user whose tokens nobody revokes; ``status`` is None where no answer came."""

    start: float
    end: float
    sub: str
    status: int | None


class Unblocked(msgspec.Struct, frozen=True, tag=True):
    """An attempt to end that block, the only one."""

    start: float
    end: float
    sub: str
    status: int | None


class StoreClock(msgspec.Struct, frozen=True, tag=True):
    """The store's clock was ``ahead`` seconds ahead of the one of this history.

    Between two of these it was ahead by any amount between theirs.
    """

    at: float
    ahead: float


class Loss(msgspec.Struct, frozen=True, tag=True):
    """A cutoff for lost data that is in effect at the end (seconds UTC)."""

    before: float


EdgeRecord = EdgeAnswer | EdgeAbsent | Blocked | Unblocked | StoreClock | Loss


class StoreTimes:
    """When the store's clock can have displayed a time."""

    def __init__(self, clocks: Iterable[StoreClock]) -> None:
        """``clocks`` span the whole history."""
        self._clocks = sorted(clocks, key=lambda clock: clock.at)
        if len(self._clocks) < 2:
            raise ValueError("the store's clock must be compared at the beginning and at the end")

    def _spans(self, reading: float) -> Iterable[tuple[float, float]]:
        """Each span of time in which the clock can have displayed this time."""
        for one, other in zip(self._clocks, self._clocks[1:], strict=False):
            least, most = sorted((one.ahead, other.ahead))
            first, last = max(one.at, reading - most), min(other.at, reading - least)
            if first <= last:
                yield first, last

    def earliest(self, reading_ms: int) -> float | None:
        """The earliest such time; None: it never can have."""
        return min((first for first, _ in self._spans(reading_ms / 1000)), default=None)

    def latest(self, reading_ms: int) -> float | None:
        """The latest such time, rounding of the clock to whole ms included."""
        return max((last + 0.001 for _, last in self._spans(reading_ms / 1000)), default=None)


@dataclass
class _Block:
    blocked: Blocked | None = None
    unblocked: Unblocked | None = None


class _Rules:
    def __init__(self, history: list[Record], edges: list[EdgeRecord], max_staleness: float) -> None:
        self._max_staleness = max_staleness
        self._standing = Standing(history)
        self._times = StoreTimes(record for record in edges if isinstance(record, StoreClock))
        self._absences = [record for record in edges if isinstance(record, EdgeAbsent)]
        self._losing = [record for record in history if isinstance(record, Fault) and record.loses]
        cutoffs = [record for record in history if isinstance(record, Cutoff)]
        found = {cutoff.at for cutoff in cutoffs}
        self._cutoffs = [(cutoff.found - FINDING_S, cutoff.at) for cutoff in cutoffs]
        self._cutoffs += [  # an instance was killed before it logged them
            (0.0, record.before)
            for record in edges
            if isinstance(record, Loss) and record.before not in found
        ]
        self._blocks: dict[str, _Block] = defaultdict(_Block)
        for record in edges:
            if isinstance(record, Blocked):
                self._blocks[record.sub].blocked = record
            elif isinstance(record, Unblocked):
                self._blocks[record.sub].unblocked = record

    def violations(self, answer: EdgeAnswer) -> Iterable[Violation]:
        if answer.status is None and not any(
            absence.edge == answer.edge and answer.start < absence.end and answer.end > absence.start
            for absence in self._absences
        ):
            yield Violation("no answer of an edge", (answer,))
        if answer.status not in {200, 503, None}:
            yield Violation("an edge's answer that is neither 200 nor 503", (answer,))
        if (answer.active is not None) != (answer.status == 200):
            yield Violation("an edge's verdict and status that do not agree", (answer,))
            return
        if answer.active is None:
            return
        if answer.as_of is None:
            yield Violation("a verdict that does not say as of when", (answer,))
            return
        earliest, latest = self._times.earliest(answer.as_of), self._times.latest(answer.as_of)
        if earliest is None or latest is None or earliest > answer.end:
            yield Violation("as of a time that the store's clock had not displayed yet", (answer,))
            return
        if not answer.asks and answer.start - latest > self._max_staleness:
            yield Violation("older than max_staleness", (answer,))
        if answer.active:
            yield from self._active(answer, earliest)
        else:
            yield from self._inactive(answer, earliest)

    def _active(self, answer: EdgeAnswer, as_of: float) -> Iterable[Violation]:
        for rule, before in (
            ("revoked, and active beyond max_staleness", answer.start - self._max_staleness),
            ("revoked, and active as of later", as_of),
        ):
            if (revoked := self._standing.acknowledged(answer.token, before)) is not None:
                yield Violation(rule, (revoked, answer))
            block = self._blocks.get(answer.token.sub, _Block())
            if (
                block.blocked is not None
                and block.blocked.status == 200
                and block.blocked.end < before
                and (block.unblocked is None or block.unblocked.start > answer.end)
            ):
                yield Violation(rule, (block.blocked, answer))

    def _inactive(self, answer: EdgeAnswer, as_of: float) -> Iterable[Violation]:
        if self._standing.attempted(answer.token, answer.end) or any(
            found < answer.end and answer.token.iat - SKEW_S <= before for found, before in self._cutoffs
        ):
            return
        block = self._blocks.get(answer.token.sub, _Block())
        if block.blocked is None or block.blocked.start > answer.end:
            yield Violation("never revoked, and not active at an edge", (answer,))
        elif (
            block.unblocked is not None
            and block.unblocked.status == 200
            and block.unblocked.end < as_of
            and not self._lost_since(block.blocked.start, answer.end)
        ):
            yield Violation("unblocked, and not active as of later", (block.unblocked, answer))

    def _lost_since(self, start: float, end: float) -> bool:
        """Whether the end of a block may have been lost, so that a repair has brought the block back."""
        return any(fault.start < end and fault.recovered > start for fault in self._losing)


def check_edges(history: list[Record], edges: list[EdgeRecord], *, max_staleness: float) -> list[Violation]:
    """Every violation of the rules below by an edge; both histories in any order.

    The rules:

    - what was revoked, or blocked, and acknowledged at *t* is never active after *t* + ``max_staleness``;
    - an edge never says active as of a time later than the acknowledgement;
    - no verdict is as of a time that is longer ago than ``max_staleness``, unless the edge asks, or as of
      one that is still to come;
    - what nobody revoked is never inactive, unless a loss of data covers it; nor is what was blocked, as of a
      time later than the acknowledged end of the block;
    - only a 200 carries a verdict, and always does; the only other answer is 503;
    - an edge that runs answers.
    """
    rules = _Rules(history, edges, max_staleness)
    return [
        violation
        for record in edges
        if isinstance(record, EdgeAnswer)
        for violation in rules.violations(record)
    ]
