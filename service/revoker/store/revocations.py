"""Revokes, blocks and undoes; one script and one round trip each."""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from revoker.errors import InvalidRequest
from revoker.metrics import Metrics
from revoker.models import Issuer, Number, Revocation
from revoker.rules import (
    FOREVER_MS,
    START_AHEAD_MS,
    cutoff_lifetime_ms,
    earliest_active_ms,
    jti_expiry_ms,
    jti_lifetime_ms,
)
from revoker.store.audit import audit_text, audit_text_of_user
from revoker.store.consistency.acknowledged import Acknowledged, Written
from revoker.store.consistency.clocks import LATEST_AHEAD_MS
from revoker.store.consistency.remembered import Remembered
from revoker.store.issuer_records import IssuerRecords
from revoker.store.keys import Keys, segment, tag_and_start, user_tag
from revoker.store.scripts import Scripts
from revoker.store.wire.connection import understood

AHEAD_MS: Final = 5000
"""A cutoff dated up to this far ahead is taken as now, because the caller's clock may be a little fast."""

BEFORE_AHEAD: Final = "before is further ahead than 5 seconds"
EXP_AHEAD: Final = "exp is further ahead than max_token_lifetime allows"
UNTIL_PAST: Final = "until is past"
"""The messages where a date is refused."""

_LATEST_LIFETIME_MS: Final = 300_000
"""Longer than two clocks may be apart: after that a slower clock has passed the time as well."""

_NUMBERS: Final = {"revoke_token": 2, "revoke_user": 2, "move_cutoff": 2}
"""How many numbers a script returns, if not one."""

_NO_REFUSALS: Final[Mapping[bytes, str]] = {}
_BEFORE_REFUSALS: Final[Mapping[bytes, str]] = {b"ahead": BEFORE_AHEAD}
_SIGNED_REFUSALS: Final[Mapping[bytes, str]] = {b"ahead": "iat is ahead", b"expired": "expired"}
"""The words by which a script refuses, and the messages for them."""


@dataclass(frozen=True, slots=True)
class Signed:
    """The dates of a signed request to revoke, which are compared with the store's clock.

    Attributes:
        ahead: How far ahead the requested cutoff may be dated (ms); it is taken as now then.
        expires: From then on the request is refused (ms).
    """

    ahead: int
    expires: int


class Revocations:
    """Every write raises ``StoreUnavailable`` where it may not be stored; repeating it is safe.

    Attributes:
        acknowledged: What this process has revoked.
        remembered: The blocks and revoked signing keys of all processes.
    """

    def __init__(
        self,
        scripts: Scripts,
        keys: Keys,
        issuers: Mapping[str, Issuer],
        records: IssuerRecords,
        metrics: Metrics,
        *,
        latest: Callable[[], int] = int,
    ) -> None:
        """``latest`` gives the latest time (ms) that any server of the store has reported."""
        self._scripts = scripts
        self._keys = keys
        self._records = records
        self._metrics = metrics
        self._latest: Final = latest
        self.acknowledged: Final = Acknowledged(metrics, keys.part, now=latest)
        self.remembered: Final = Remembered(keys, [issuer.name for issuer in issuers.values()])

    def cutoff_lifetime(self, issuer: Issuer) -> int:
        """How long after its time a cutoff is stored, in ms."""
        return cutoff_lifetime_ms(self._records.widest(issuer))

    async def revoke_token(
        self,
        issuer: Issuer,
        jti: str,
        exp: Number | None,
        *,
        bounded: bool = False,
        by: str = "",
        reason: str = "",
    ) -> int:
        """List a jti until nothing accepts its token any more (``exp`` in seconds; None: unknown).

        Args:
            issuer: Of the token.
            jti: Of the token.
            exp: Of the token.
            bounded: Whether an ``exp`` is refused that no token of the issuer can have by now.
            by: Who revokes it; stored only with a reason, since tokens are many.
            reason: Why.

        Returns:
            When it was first listed, in ms.

        Raises:
            InvalidRequest: ``exp`` is refused.
        """
        self._records.refuse_in_conflict(issuer)
        earliest = earliest_active_ms(issuer, exp) if bounded and exp is not None else ""
        widest = self._records.widest(issuer)
        audit = audit_text(by, reason=reason) if reason else b""
        expiry = "" if exp is None else jti_expiry_ms(widest, exp)
        args = (expiry, jti_lifetime_ms(widest), "", earliest, audit)
        key = self._keys.jti(issuer, jti)
        refusals = {b"ahead": EXP_AHEAD}
        at, until = await self._run("token", "revoke_token", [key], args, refusals)
        self.acknowledged.note(
            Written("revoke_token", (key,), at, until, seq=self._scripts.seq(key), audit=audit)
        )
        return at

    async def revoke_user(
        self,
        issuer: Issuer,
        sub: str,
        *,
        before: int | None,
        except_sid: str | None,
        reason: str,
        by: str = "",
        signed: Signed | None = None,
    ) -> int:
        """Move a user's cutoff forward to ``before`` (ms; None: now), sparing a session where named.

        ``by``: who does so; empty: that is not stored.

        Returns:
            The standing cutoff in ms.

        Raises:
            InvalidRequest: ``before`` is further ahead than 5 s, or than ``signed`` allows, or that expired.
        """
        tag = user_tag(issuer.iss, sub)
        keys = (self._keys.user(tag), self._keys.sessions(tag))
        return await self._cut_off(
            "user",
            issuer,
            keys,
            before,
            reason=reason,
            audit=audit_text_of_user(by, issuer, sub),
            except_sid=except_sid or "",
            signed=signed,
        )

    async def revoke_session(
        self,
        issuer: Issuer,
        sid: str,
        *,
        before: int | None,
        reason: str,
        by: str = "",
        signed: Signed | None = None,
    ) -> int:
        """As :meth:`revoke_user`, for a session."""
        own = tag_and_start(sid) if issuer.own else None
        keys = (self._keys.session_cutoff(issuer, sid),)
        return await self._cut_off(
            "session",
            issuer,
            keys,
            before,
            reason=reason,
            audit=audit_text(by),
            start=own[1] if own else 0,
            signed=signed,
        )

    async def revoke_client(
        self, issuer: Issuer, client: str, *, before: int | None, reason: str, by: str = ""
    ) -> int:
        """As :meth:`revoke_user`, for a client."""
        keys, start = (self._keys.client_cutoff(issuer, client),), self.latest_start(issuer)
        return await self._cut_off(
            "client", issuer, keys, before, reason=reason, audit=audit_text(by), start=start
        )

    async def revoke_claim(
        self, issuer: Issuer, claim: str, value: str, *, before: int | None, reason: str, by: str = ""
    ) -> int:
        """As :meth:`revoke_user`, for a value of a claim that is recorded as in use.

        See :meth:`revoker.store.issuer_records.IssuerRecords.record_claim`.
        """
        keys, start = (self._keys.claim_cutoff(issuer, claim, value),), self.latest_start(issuer)
        return await self._cut_off(
            "claim", issuer, keys, before, reason=reason, audit=audit_text(by), start=start
        )

    async def revoke_issuer(self, issuer: Issuer, *, before: int | None, reason: str, by: str = "") -> int:
        """As :meth:`revoke_user`, for everything that an issuer made."""
        keys, start = (self._keys.issuer_cutoff(issuer),), self.latest_start(issuer)
        return await self._cut_off(
            "issuer", issuer, keys, before, reason=reason, audit=audit_text(by), start=start
        )

    def latest_start(self, issuer: Issuer) -> int:
        """The latest start (ms) that a session held by this service may have, as this process knows.

        A session begun on a server whose clock was ahead must not escape a cutoff dated by the one that has
        taken its place.
        """
        return self._latest() if issuer.own else 0

    def session_ended(self, issuer: Issuer, sid: str, at: int, audit: bytes = b"") -> None:
        """Remember the end (ms) of a session held by this service, which other scripts bring about."""
        key, until = self._keys.session_cutoff(issuer, sid), at + self.cutoff_lifetime(issuer)
        seq = self._scripts.seq(key)
        self.acknowledged.note(Written("move_cutoff", (key,), at, until, seq=seq, audit=audit))

    async def revoke_key(self, issuer: Issuer, kid: str, *, reason: str, by: str = "") -> int:
        """Revoke a signing key for good; returns when that was first done (ms)."""
        self._records.refuse_in_conflict(issuer)
        key = self._keys.revoked_keys(issuer)
        [at] = await self._run("key", "revoke_key", [key], (kid, reason, "", audit_text(by), segment(kid)))
        self.remembered.revoke_key(issuer.name, kid, Revocation(at, reason))
        return at

    async def forget_key(self, issuer: Issuer, kid: str) -> bool:
        """Take back the revocation of a key; False where there was none."""
        self._records.refuse_in_conflict(issuer)
        key = self._keys.revoked_keys(issuer)
        [undone] = await self._run(
            "forget", "forget_key", [key, self._keys.beside(key).lifted], (kid, segment(kid))
        )
        self.remembered.forget_key(issuer.name, kid)
        return bool(undone)

    async def block_user(
        self, issuer: Issuer, sub: str, *, until: int | None, reason: str, by: str = ""
    ) -> int:
        """Let nothing of a user's be active before ``until`` (ms; None: for good).

        Returns:
            The end of the block, which never gets shorter.

        Raises:
            InvalidRequest: ``until`` is past.
        """
        self._records.refuse_in_conflict(issuer)
        tag = user_tag(issuer.iss, sub)
        [end] = await self._run(
            "block",
            "block_user",
            self._keys.of_block(tag),
            (
                FOREVER_MS if until is None else min(until, FOREVER_MS),
                self.cutoff_lifetime(issuer),
                reason,
                tag,
                1,
                audit_text_of_user(by, issuer, sub),
            ),
            {b"past": UNTIL_PAST},
        )
        self.remembered.block(tag, end)
        return end

    async def unblock_user(self, issuer: Issuer, sub: str) -> int:
        """End a block; returns its end (ms; 0: there was none)."""
        tag = user_tag(issuer.iss, sub)
        [undone] = await self._run(
            "unblock",
            "unblock_user",
            (*self._keys.of_block(tag), self._keys.beside(self._keys.user(tag)).lifted),
            (self.cutoff_lifetime(issuer), tag),
        )
        self.remembered.unblock(tag)
        return undone

    async def lift_user(self, issuer: Issuer, sub: str) -> int:
        """Undo a user's cutoff; returns its time (ms; 0: there was none). For operators only."""
        return await self._lift(self._keys.user_of(issuer, sub), "user", self.cutoff_lifetime(issuer))

    async def lift(self, key: str) -> int:
        """Take back the cutoff of a session, client, claim or issuer by its key; as :meth:`lift_user`."""
        return await self._lift(key, "", 0)

    async def trim_blocks(self, part: int, tags: Collection[bytes]) -> None:
        """Let blocks that have ended leave the store; raises ``NoVerdict``, which harms nothing."""
        await self._scripts.execute("trim_blocks", [self._keys.in_part(part).blocks], tuple(tags))

    async def share_latest_time(self, latest: int) -> None:
        """Share the latest time (ms) that any server of the store has reported; raises ``NoVerdict``."""
        args = (latest, LATEST_AHEAD_MS, _LATEST_LIFETIME_MS)
        await self._scripts.call_unconfirmed("share_latest_time", [self._keys.latest], args)

    async def retire_writers(self, part: int, counts: Mapping[str, int]) -> None:
        """Take ended processes, with these counts, from the list of writers; raises ``NoVerdict``."""
        args = tuple(itertools.chain.from_iterable(counts.items()))
        await self._scripts.execute("retire_writers", (), args, self._keys.in_part(part).tail(""))

    async def _cut_off(
        self,
        kind: str,
        issuer: Issuer,
        keys: tuple[str, ...],
        before: int | None,
        *,
        reason: str,
        audit: bytes,
        start: int = 0,
        except_sid: str = "",
        signed: Signed | None = None,
    ) -> int:
        self._records.refuse_in_conflict(issuer)
        lifetime = self.cutoff_lifetime(issuer)
        script: str
        last: tuple[object, ...]
        script, last = (
            ("revoke_user", (except_sid,)) if kind == "user" else ("move_cutoff", (start, START_AHEAD_MS))
        )
        ahead, expires, refusals = AHEAD_MS, "", _BEFORE_REFUSALS
        if signed is not None:
            ahead, expires, refusals = signed.ahead, str(signed.expires), _SIGNED_REFUSALS
        args = ("" if before is None else before, lifetime, reason, ahead, *last, expires, audit)
        cutoff, at = await self._run(kind, script, keys, args, refusals)
        seq = self._scripts.seq(keys[0])
        self.acknowledged.note(Written(script, keys, at, at + lifetime, reason, except_sid, seq, audit))
        return cutoff

    async def _lift(self, key: str, what: str, lifetime: int) -> int:
        [undone] = await self._run(
            "lift", "lift_cutoff", [key, self._keys.beside(key).lifted], (what, lifetime)
        )
        self.acknowledged.forget([(self._scripts.seq(key) + 1, key)])
        return undone

    async def _run(
        self,
        kind: str,
        script: str,
        keys: Sequence[str],
        args: tuple[object, ...],
        refusals: Mapping[bytes, str] = _NO_REFUSALS,
    ) -> tuple[int, ...]:
        """Run a script; ``refusals`` has the messages for the words by which it refuses."""
        reply = await self._scripts.run(script, keys, args)
        if len(reply) == 1 and (refusal := refusals.get(reply[0])) is not None:
            raise InvalidRequest(refusal)
        with understood():
            numbers = tuple(map(int, reply))
            if len(numbers) != _NUMBERS.get(script, 1):
                raise ValueError("a script returned another count of numbers")
        self._metrics.revocations.labels(kind).inc()
        return numbers
