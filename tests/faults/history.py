"""The history of requests and faults of a campaign, and the rules that it must satisfy.

No I/O but :func:`write` and :func:`read`, so a history can be stored and checked again. Times are seconds by
one monotonic clock, except those in tokens and cutoffs, which are seconds UTC.
"""

import bisect
import collections
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

FINDING_S = 5.0
"""A loss takes effect up to so long before it is logged: a second, or more on a busy machine."""

SKEW_S = 2.0
"""The issuer's ``clock_skew``: how far before its ``iat`` a cutoff already covers a token."""

Kind = Literal["jti", "sub", "sid", "client_id", "grant_id"]
KINDS: tuple[Kind, ...] = ("jti", "sub", "sid", "client_id", "grant_id")


class Token(msgspec.Struct, frozen=True):
    """The claims of a token that a verdict depends on."""

    jti: str
    sub: str
    sid: str
    client_id: str
    iat: float
    exp: float
    grant_id: str = ""


class Revoked(msgspec.Struct, frozen=True, tag=True):
    """An attempt to revoke; ``status`` is None where no answer came.

    Attributes:
        iat_after: As answered for cutoffs: a later ``iat`` is not covered.
    """

    start: float
    end: float
    instance: str
    kind: Kind
    value: str
    status: int | None
    iat_after: float | None = None


class Introspected(msgspec.Struct, frozen=True, tag=True):
    """An introspection; ``active`` is None where the answer held no verdict, whatever its status."""

    start: float
    end: float
    instance: str
    token: Token
    status: int | None
    active: bool | None = None


class Cutoff(msgspec.Struct, frozen=True, tag=True):
    """The service found a loss of data at ``found``: no token issued up to ``at`` (UTC) is active since.

    Attributes:
        declared: When it was declared, of which others hear later; None: at ``found``.
    """

    found: float
    at: float
    finding: str
    declared: float | None = None


SEPARATING = {"cut-off-one", "minority", "half-minority", "cut-tail-unread"}
"""Faults that separate an instance from the store, for longer than a repair may take."""

UNHEARD_S = 1.5
"""A beat of the watch, at whose end the losses of a cluster's slots are logged together, and the writing."""


RUNNING_S = 10.0
"""So long others may wait for a process that has ended: five seconds, and the time of a slow beat."""

CLOCKS_S = 0.1
"""How far apart the store's clock and that of the history may be."""


class Absent(msgspec.Struct, frozen=True, tag=True):
    """An instance was killed or stopped: it may leave requests unanswered.

    Attributes:
        ended: When its process had ended; None: it continued.
    """

    instance: str
    start: float
    end: float
    ended: float | None = None


class Isolated(msgspec.Struct, frozen=True, tag=True):
    """An instance could not reach enough servers: it may acknowledge nothing."""

    instance: str
    start: float
    end: float


class Fault(msgspec.Struct, frozen=True, tag=True):
    """One fault, from its cause to the recovery.

    Attributes:
        healed: When what was broken had been put right.
        recovered: When every instance had given a verdict and acknowledged a revocation again.
        promoted: When another server had become primary, or one was back that had lost data or was restarted.
        loses: Whether the store may have lost acknowledged revocations by it.
        of_ended: Whether it took from the store what processes had revoked that had ended before: nobody can
            write that back.
    """

    name: str
    start: float
    healed: float
    recovered: float
    promoted: float | None = None
    loses: bool = True
    of_ended: bool = False


Record = Revoked | Introspected | Cutoff | Absent | Isolated | Fault


class Violation(msgspec.Struct, frozen=True):
    """A rule that was broken, and the records that show it."""

    rule: str
    records: tuple[msgspec.Struct, ...]

    def __str__(self) -> str:
        return f"{self.rule}: " + "; ".join(map(repr, self.records))


class _Claim:
    """All attempts to revoke one jti, user, session, client or grant."""

    def __init__(self) -> None:
        self.attempted = float("inf")
        self.acknowledged: list[Revoked] = []


class Standing:
    """Which revocations must cover a token, and which may."""

    def __init__(self, history: Iterable[Record]) -> None:
        self._claims: dict[tuple[Kind, str], _Claim] = collections.defaultdict(_Claim)
        for record in history:
            if isinstance(record, Revoked):
                claim = self._claims[record.kind, record.value]
                if record.status == 200:
                    claim.acknowledged.append(record)
                else:
                    claim.attempted = min(claim.attempted, record.start)
        for claim in self._claims.values():
            claim.acknowledged.sort(key=lambda revocation: revocation.end)

    def acknowledged(self, token: Token, before: float) -> Revoked | None:
        """A revocation of the token that was answered 200 before a time."""
        return next(
            (
                revocation
                for claim in self._against(token)
                for revocation in claim.acknowledged[
                    : bisect.bisect_left(claim.acknowledged, before, key=_end)
                ]
                if covers(revocation, token)
            ),
            None,
        )

    def attempted(self, token: Token, before: float) -> bool:
        """Whether a revocation that may have been stored before a time may cover the token."""
        return any(
            claim.attempted < before
            or any(
                revocation.start < before and covers(revocation, token) for revocation in claim.acknowledged
            )
            for claim in self._against(token)
        )

    def _against(self, token: Token) -> Iterator[_Claim]:
        for kind in KINDS:
            if (claim := self._claims.get((kind, getattr(token, kind)))) is not None:
                yield claim


_NEVER = float("inf")


def _end(record: Revoked) -> float:
    return record.end


def covers(revoked: Revoked, token: Token) -> bool:
    """Whether an acknowledged revocation covers a token of its jti, user, session, client or grant."""
    return revoked.kind == "jti" or token.iat <= (revoked.iat_after or 0.0)


def check(
    history: list[Record], *, put_back_s: float | None = None, found_late_s: float = 0.0
) -> list[Violation]:
    """Every violation of the rules below.

    Args:
        history: In any order.
        put_back_s: Where ``data_loss = "ignore"``: for how long after a fault an instance may not have what
            another acknowledged before it; None: it must have it at once.
        found_late_s: How long after the recovery from a fault a loss by it may still be declared: in a
            cluster an instance reads the data sets in turn, and gives verdicts on others meanwhile.

    The rules:

    - after a 200 to a revocation, no introspection that starts later says active;
    - what nobody tried to revoke is never inactive, unless the policy for lost data cut it off, or the
      instance that said so was killed before it can have logged that;
    - only a 200 carries a verdict, and always does; the only other answer is 503;
    - an instance that runs answers;
    - an instance that can not reach enough servers acknowledges nothing;
    - no data is found missing before any was lost;
    - nobody is logged out but for a loss of something acknowledged, of which no repair could be proven: a
      fault had just taken it from the store, and either a process that had ended had revoked some of it, or a
      process had ended, hung or could not reach the store at that time.
    """
    standing = Standing(history)
    cutoffs = [record for record in history if isinstance(record, Cutoff)]
    absences = [record for record in history if isinstance(record, Absent)]
    isolations = [record for record in history if isinstance(record, Isolated)]
    faults = [record for record in history if isinstance(record, Fault)]
    losing = [fault for fault in faults if fault.loses]
    found = [
        Violation(rule, (cutoff,))
        for cutoff in cutoffs
        if (rule := _unjustified(cutoff, losing, absences, faults, found_late_s))
    ]
    for record in history:
        if not isinstance(record, Revoked | Introspected):
            continue
        if record.status is None and not any(_during(record, absence) for absence in absences):
            found.append(Violation("no answer", (record,)))
        if record.status not in {200, 503, None}:
            found.append(Violation("an answer that is neither 200 nor 503", (record,)))
        if isinstance(record, Revoked):
            if record.status == 200:
                found += [
                    Violation("acknowledged while isolated", (record, isolation))
                    for isolation in isolations
                    if isolation.instance == record.instance
                    and isolation.start < record.start < record.end < isolation.end
                ]
            continue
        if (record.active is not None) != (record.status == 200):
            found.append(Violation("a verdict and a status that do not agree", (record,)))
        elif record.active:
            revoked = standing.acknowledged(record.token, record.start)
            if revoked is not None and not _being_put_back(revoked, record, faults, put_back_s):
                found.append(Violation("revoked and active", (revoked, record)))
        elif record.active is False and not (
            standing.attempted(record.token, record.end)
            or any(
                cutoff.found - FINDING_S < record.end and record.token.iat - SKEW_S <= cutoff.at
                for cutoff in cutoffs
            )
            or (
                any(_ended_unheard(record, absence) for absence in absences)
                and any(_may_declare(fault, record.end, found_late_s) for fault in losing)
            )
        ):
            found.append(Violation("never revoked and not active", (record,)))
    return found


def surroundings(history: list[Record], violations: list[Violation]) -> list[Record]:
    """All faults and losses, and what was done to the token of the first violation that has one."""
    tokens: list[Token] = [
        token
        for violation in violations
        for record in violation.records
        if (token := getattr(record, "token", None)) is not None
    ][:1]
    values = {(kind, getattr(token, kind)) for token in tokens for kind in KINDS}
    return [
        record
        for record in history
        if isinstance(record, Fault | Cutoff | Absent)
        or (isinstance(record, Revoked) and (record.kind, record.value) in values)
        or (isinstance(record, Introspected) and record.token in tokens)
    ]


def _being_put_back(
    revoked: Revoked, record: Introspected, faults: list[Fault], put_back_s: float | None
) -> bool:
    return (
        put_back_s is not None
        and revoked.instance != record.instance
        and any(fault.start <= record.end and record.start <= fault.healed + put_back_s for fault in faults)
    )


def _may_declare(fault: Fault, at: float, late_s: float) -> bool:
    """Whether a loss that is declared at a time can be by a fault."""
    return fault.start - CLOCKS_S <= at <= fault.recovered + late_s + CLOCKS_S


def _unjustified(
    cutoff: Cutoff, losing: list[Fault], absences: list[Absent], faults: list[Fault], late_s: float
) -> str:
    """The rule that a cutoff breaks; empty: none."""
    declared = cutoff.found if cutoff.declared is None else cutoff.declared
    if cutoff.finding != "cutoff":  # of an earlier loss
        earlier = any(fault.start <= cutoff.found for fault in losing)
        return "" if earlier else "a loss where nothing was lost"
    causes = [fault for fault in losing if _may_declare(fault, declared, late_s)]
    if not causes:
        return "a loss where nothing was lost"
    since = min(fault.start for fault in causes)
    provable = not (
        any(fault.of_ended for fault in causes)
        or any(
            absence.start <= declared and since <= max(absence.end, (absence.ended or 0.0) + RUNNING_S)
            for absence in absences
        )
        or any(
            fault.name in SEPARATING and fault.start <= declared and since <= fault.recovered
            for fault in faults
        )
    )
    return "logged out although every writer ran" if provable else ""


def _ended_unheard(record: Introspected, absence: Absent) -> bool:
    """Whether an instance was killed so soon after an answer that its reason may not be in its log."""
    if absence.instance != record.instance or absence.ended is None:
        return False
    return record.end <= absence.ended < record.end + UNHEARD_S


def _during(record: Revoked | Introspected, absence: Absent) -> bool:
    return absence.instance == record.instance and record.start < absence.end and record.end > absence.start


def outage(history: list[Record], kind: type[Revoked | Introspected], start: float, end: float) -> float:
    """The longest time, of any instance, from its first answer that was no 200 to the last such.

    Only what was asked within the interval counts; instances that were absent then are left out.
    """
    spans: dict[str, tuple[float, float]] = {}
    absent = {
        absence.instance
        for absence in history
        if isinstance(absence, Absent) and absence.end > start and absence.start < end
    }
    for record in history:
        if (
            isinstance(record, kind)
            and record.status != 200
            and start <= record.end
            and record.start <= end
            and record.instance not in absent
        ):
            first, last = spans.get(record.instance, (record.start, record.end))
            spans[record.instance] = min(first, record.start), max(last, record.end)
    return max((last - first for first, last in spans.values()), default=0.0)


def after_promotion(records: list[Record], fault: Fault) -> float:
    """How long an instance still gave no verdict after the promotion, or after the beginning of the fault.

    Instances that were killed or stopped meanwhile are left out.
    """
    absent = {
        absence.instance
        for absence in records
        if isinstance(absence, Absent) and fault.start <= absence.start < fault.recovered
    }
    last = [
        record.end
        for record in records
        if isinstance(record, Introspected)
        and record.status != 200
        and record.instance not in absent
        and fault.start <= record.end
        and record.start <= fault.recovered
    ]
    return max(0.0, max(last, default=0.0) - (fault.promoted or fault.start))


def write(history: list[Record], path: Path) -> None:
    """One JSON document a line."""
    path.write_bytes(b"\n".join(map(msgspec.json.encode, history)))


def read(path: Path) -> list[Record]:
    """A history that was written down."""
    decode = msgspec.json.Decoder(Record).decode
    return [decode(line) for line in path.read_bytes().splitlines()]
