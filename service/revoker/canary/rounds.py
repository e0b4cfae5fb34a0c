"""One round: make a token, see that it is accepted, revoke it, and ask until it is refused."""

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from revoker.canary.asking import Answer, Reply, Token
from revoker.elapsed_time import Clock
from revoker.tokens.private_keys import SigningKey

SUBJECT: Final = "revoker-canary"
"""``sub`` and ``client_id`` of all tokens, by which logs and backends recognise them."""

ANSWER_S: Final = 3.0
"""How long one answer may take at least; what takes longer than :func:`answer_seconds` is no answer."""

FIRST_PAUSE_S: Final = 0.005
LAST_PAUSE_S: Final = 0.25

NOT_REVOKED: Final = "not_revoked"

Sleep = Callable[[float], Awaitable[object]]


class Asked(Protocol):
    """One address of a target."""

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
class Outcome:
    """Of one target in one round.

    Attributes:
        seconds: From the acknowledgement of the revocation to the refusal; None: there is no figure.
        reason: Why there is none: a value of the label ``reason``.
        problem: The same in words.
    """

    target: str
    seconds: float | None = None
    reason: str = ""
    problem: str = ""


class TokenMaker:
    """Makes tokens that live a little longer than a round can take.

    A token that expired while targets are asked would be refused, revoked or not.
    """

    def __init__(self, key: SigningKey, *, issuer: str, audience: str, timeout_s: float, wall: Clock) -> None:
        self._key = key
        self._issuer = issuer
        self._audience = audience
        self._lifetime: Final = math.ceil(2 * answer_seconds(timeout_s) + timeout_s) + 60
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
        token = self._make_token()
        checked = await asyncio.gather(*(self._places_that_accept(target, token) for target in self._targets))
        problem, revoked_at = "", 0.0
        if not all(isinstance(found, Outcome) for found in checked):
            problem = await self._upstream.revoke(token, self._answer_s)
            revoked_at = self._now()
        return await asyncio.gather(
            *(
                self._outcome(target.name, found, token, problem, revoked_at)
                for target, found in zip(self._targets, checked, strict=True)
            )
        )

    async def _places_that_accept(self, target: Target, token: Token) -> Sequence[Asked] | Outcome:
        """The addresses of a target; an outcome where one of them does not accept the token."""
        try:
            places = await target.places(self._answer_s)
        except OSError as fault:
            problem = str(fault) or "no address was found in time"
            return Outcome(target.name, reason=Answer.NONE.value, problem=problem)
        for reply in await asyncio.gather(*(place.ask(token, self._answer_s) for place in places)):
            if reply.answer is not Answer.ACCEPTED:
                problem = f"before the revocation: {reply.problem}"
                return Outcome(target.name, reason=reply.answer.value, problem=problem)
        return places

    async def _outcome(
        self, name: str, found: Sequence[Asked] | Outcome, token: Token, problem: str, revoked_at: float
    ) -> Outcome:
        if isinstance(found, Outcome):
            return found
        if problem:
            return Outcome(name, reason=NOT_REVOKED, problem=f"the upstream did not revoke: {problem}")
        replies = await asyncio.gather(*(self._until_refused(place, token, revoked_at) for place in found))
        seconds = 0.0
        for reply in replies:
            if isinstance(reply, Reply):
                after = f"{self._timeout_s:g} s after the revocation: {reply.problem}"
                return Outcome(name, reason=reply.answer.value, problem=after)
            seconds = max(seconds, reply)
        return Outcome(name, seconds)

    async def _until_refused(self, place: Asked, token: Token, revoked_at: float) -> float | Reply:
        """Seconds until the refusal has arrived, or the last answer where there was none in time."""
        deadline = revoked_at + self._timeout_s
        last: Reply | None = None
        for pause in pauses():
            left = deadline - self._now()
            if left <= 0:
                break
            reply = await place.ask(token, min(left, self._answer_s))
            now = self._now()
            if reply.answer is Answer.REFUSED:
                return now - revoked_at
            if last is None or reply.answer is not Answer.NONE or now < deadline:
                last = reply  # otherwise the end of the round cut it off, which shows nothing
            await self._sleep(max(0.0, min(pause, deadline - now)))
        return last or Reply(Answer.NONE, "there was no time to ask")


def answer_seconds(timeout_s: float) -> float:
    """How long one answer may take in rounds of this ``timeout_s``: several fit in, so that one may fail."""
    return max(ANSWER_S, timeout_s / 3)


def pauses() -> Iterator[float]:
    """Seconds between one question and the next: short at first, since the first ones decide the figure."""
    pause = FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(2 * pause, LAST_PAUSE_S)
