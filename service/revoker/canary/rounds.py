"""One round: make a token, see that it is accepted, revoke it, and ask until it is refused.

A second token is never revoked. Who refuses that one, too, refuses everything, such as a limiter that the
questions of the canary have tripped, and shows nothing about revocations.
"""

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from revoker.canary.asking import Answer, Reply, Token
from revoker.elapsed_time import Clock
from revoker.tokens.private_keys import SigningKey

SUBJECT: Final = "revoker-canary"
"""``sub`` and ``client_id`` of all tokens, by which logs and backends recognise them."""

ANSWER_S: Final = 3.0
"""How long one answer may take at least; what takes longer than :func:`answer_seconds` is no answer."""

CLOCKS_APART_S: Final = 60
"""By so much the clock of a target may be ahead without a token that expires for it within the round."""

FIRST_PAUSE_S: Final = 0.005
LAST_PAUSE_S: Final = 0.25

NOT_REVOKED: Final = "not_revoked"
REFUSES_ALL: Final = "refuses_all"

REASONS: Final = (
    Answer.ACCEPTED.value,
    NOT_REVOKED,
    REFUSES_ALL,
    Answer.REFUSED.value,
    Answer.NO_VERDICT.value,
    Answer.NONE.value,
)
"""Why there is no figure; the gravest first."""

Sleep = Callable[[float], Awaitable[object]]


class Asked(Protocol):
    """One address of a target."""

    @property
    def address(self) -> str: ...
    async def ask(self, token: Token, seconds: float) -> Reply: ...


class Target(Protocol):
    """Who must refuse what was revoked."""

    @property
    def name(self) -> str: ...
    async def places(self, seconds: float) -> Sequence[Asked]: ...


class Upstream(Protocol):
    """Who revokes."""

    async def revoke(self, token: Token, seconds: float) -> str: ...


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no figure: a value of the label ``reason``, and the same in words."""

    reason: str
    problem: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one target in one round.

    Attributes:
        seconds: From the acknowledgement of the revocation to the refusal, by the slowest of the addresses
            that refused in time; None: none did.
        failures: Of the other addresses, one for every reason; the gravest first.
    """

    target: str
    seconds: float | None = None
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True)
class _Revocation:
    """When the revocation of ``token`` was acknowledged; ``control`` is the other token of the round."""

    token: Token
    control: Token
    at: float


@dataclass(frozen=True, slots=True)
class _Checked:
    """A target before the revocation: which of its addresses accept the token, and why others do not."""

    target: str
    accepting: Sequence[Asked] = ()
    failures: Sequence[Failure] = ()

    def outcome(self, found: Iterable[float | Failure]) -> Outcome:
        """With what was found at the addresses that accepted the token."""
        seconds, failures = [], list(self.failures)
        for one in found:
            if isinstance(one, Failure):
                failures.append(one)
            else:
                seconds.append(one)
        return Outcome(self.target, max(seconds, default=None), _gravest_first(failures))


class TokenMaker:
    """Makes tokens that live a little longer than a round can take.

    A token that expired while targets are asked would be refused, revoked or not.
    """

    def __init__(self, key: SigningKey, *, issuer: str, audience: str, timeout_s: float, wall: Clock) -> None:
        self._key = key
        self._issuer = issuer
        self._audience = audience
        answers = 4 * answer_seconds(timeout_s)  # addresses, check, revocation; and control, at the end
        self._lifetime: Final = math.ceil(answers + timeout_s) + CLOCKS_APART_S
        self._wall = wall

    def make(self) -> Token:
        """A token that nobody else has."""
        now = int(self._wall())
        jti, exp = f"canary-{secrets.token_urlsafe(16)}", now + self._lifetime
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": SUBJECT,
            "client_id": SUBJECT,
            "jti": jti,
            "iat": now,
            "exp": exp,
        }
        return Token(self._key.sign(claims), self._issuer, jti, exp)


class Rounds:
    """Runs rounds."""

    def __init__(
        self,
        targets: Sequence[Target],
        upstream: Upstream,
        make_token: Callable[[], Token],
        *,
        timeout_s: float,
        now: Clock,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """``timeout_s``: by then a revoked token must be refused; ``now`` gives monotonic seconds."""
        self._targets = targets
        self._upstream = upstream
        self._make_token = make_token
        self._timeout_s = timeout_s
        self._answer_s = answer_seconds(timeout_s)
        self._now = now
        self._sleep = sleep

    async def run(self) -> list[Outcome]:
        """One round; an outcome for every target, in their order."""
        token, control = self._make_token(), self._make_token()
        checked = await asyncio.gather(*(self._check(target, token) for target in self._targets))
        if not any(target.accepting for target in checked):
            return [target.outcome(()) for target in checked]
        problem = await self._upstream.revoke(token, self._answer_s)
        revocation = _Revocation(token, control, self._now())
        if problem:
            failure = Failure(NOT_REVOKED, f"the upstream did not revoke: {problem}")
            return [target.outcome([failure] if target.accepting else ()) for target in checked]
        return await asyncio.gather(*(self._measure(target, revocation) for target in checked))

    async def _check(self, target: Target, token: Token) -> _Checked:
        try:
            places = await target.places(self._answer_s)
        except OSError as fault:
            problem = str(fault) or "no address was found in time"
            return _Checked(target.name, failures=[Failure(Answer.NONE.value, problem)])
        replies = await asyncio.gather(*(place.ask(token, self._answer_s) for place in places))
        accepting, failures = [], []
        for place, reply in zip(places, replies, strict=True):
            if reply.answer is Answer.ACCEPTED:
                accepting.append(place)
            else:
                failures.append(_failure(place, reply, "before the revocation"))
        return _Checked(target.name, accepting, failures)

    async def _measure(self, target: _Checked, revocation: _Revocation) -> Outcome:
        return target.outcome(
            await asyncio.gather(*(self._until_refused(place, revocation) for place in target.accepting))
        )

    async def _until_refused(self, place: Asked, revocation: _Revocation) -> float | Failure:
        """Seconds until the refusal has arrived, or what the last answer was where there was none in time."""
        deadline = revocation.at + self._timeout_s
        when = f"{self._timeout_s:g} s after the revocation"
        last: Failure | None = None
        for pause in pauses():
            left = deadline - self._now()
            if left <= 0:
                break
            reply = await place.ask(revocation.token, min(left, self._answer_s))
            now = self._now()
            if reply.answer is Answer.REFUSED:
                last = await self._refused_alike(place, revocation.control, when)
                if last is None:
                    return now - revocation.at
            elif last is None or reply.answer is not Answer.NONE or now < deadline:
                last = _failure(place, reply, when)  # otherwise the end of the round cut it off
            await self._sleep(max(0.0, min(pause, deadline - self._now())))
        return last or _failure(place, Reply(Answer.NONE, "there was no time to ask"), when)

    async def _refused_alike(self, place: Asked, control: Token, when: str) -> Failure | None:
        """Why a refusal shows nothing: the token that is not revoked is not accepted either; None: it is."""
        reply = await place.ask(control, self._answer_s)
        if reply.answer is Answer.ACCEPTED:
            return None
        when = f"{when}, to a token that is not revoked"
        if reply.answer is Answer.REFUSED:
            return _failure(place, reply, when, REFUSES_ALL)
        return _failure(place, reply, when)


def _failure(place: Asked, reply: Reply, when: str, reason: str = "") -> Failure:
    where = f"{place.address}: " if place.address else ""
    return Failure(reason or reply.answer.value, f"{where}{when}: {reply.problem}")


def _gravest_first(failures: Iterable[Failure]) -> tuple[Failure, ...]:
    """One failure for every reason."""
    problems: dict[str, list[str]] = {}
    for failure in failures:
        problems.setdefault(failure.reason, []).append(failure.problem)
    return tuple(
        Failure(reason, found[0] if len(found) == 1 else f"{found[0]} (as {len(found) - 1} other addresses)")
        for reason in REASONS
        if (found := problems.get(reason))
    )


def answer_seconds(timeout_s: float) -> float:
    """How long one answer may take in rounds of this ``timeout_s``: several fit in, so that one may fail."""
    return max(ANSWER_S, timeout_s / 3)


def pauses() -> Iterator[float]:
    """Seconds between one question and the next: short at first, since the first ones decide the figure."""
    pause = FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(2 * pause, LAST_PAUSE_S)
