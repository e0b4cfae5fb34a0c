"""From a token to a verdict, for every endpoint that judges tokens."""

import collections
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec
import structlog

from revoker.auth import Caller
from revoker.errors import InvalidToken, StoreUnavailable
from revoker.metrics import Metrics
from revoker.models import Issuer, OldLimits, Payload, RevocationState, UserState, Verdict
from revoker.rules import begins_too_far_ahead, judge
from revoker.store.keys import Keys, TokenKeys, tag_and_start, user_tag
from revoker.store.revocations import Revocations
from revoker.store.source import Found, Lookups
from revoker.tokens.verifying import VerifiedToken, Verifier, Waiting

_log = structlog.get_logger("service")


class Judged(msgspec.Struct, frozen=True, gc=False):
    """A verdict with what it rests on; ``state`` is None where nothing was looked up.

    ``why`` is that of :class:`revoker.errors.InvalidToken`; empty for other verdicts than ``INVALID``.
    """

    verdict: Verdict
    claims: Payload | None = None
    token: VerifiedToken | None = None
    issuer: Issuer | None = None
    state: RevocationState | None = None
    store_now: int = 0
    why: str = ""


class HasOldLimits(Protocol):
    """What is remembered of the issuers: :class:`revoker.store.issuer_records.IssuerRecords`."""

    @property
    def old_limits(self) -> Mapping[str, OldLimits]: ...
    @property
    def read(self) -> bool: ...


class JudgingStore(Protocol):
    """What verdicts need of a store: :class:`revoker.store.store.Store`, or a mirror of one."""

    @property
    def keys(self) -> Keys: ...
    @property
    def lookups(self) -> Lookups: ...
    @property
    def issuer_records(self) -> HasOldLimits: ...
    @property
    def revocations(self) -> Revocations:
        """Used only where ``store_outage = "allow"``."""


class Verdicts:
    """Judges tokens for callers.

    Every method raises ``StoreUnavailable``, ``StoreRefused`` or ``KeysUnavailable`` where no verdict
    can be had.
    """

    def __init__(
        self,
        *,
        verifier: Verifier,
        store: JudgingStore,
        clock: Callable[[], float],
        metrics: Metrics,
        allow_outage: bool,
    ) -> None:
        self._verifier = verifier
        self._store = store
        self._records = store.issuer_records
        self._clock = clock
        self._metrics = metrics
        self._allow_outage: Final = allow_outage
        counters = {verdict: metrics.verdicts.labels(verdict.value) for verdict in Verdict}
        self._count: Final = {
            verdict: metrics.deferred.counting(counter) for verdict, counter in counters.items()
        }
        self._count_many: Final = {verdict: counter.inc for verdict, counter in counters.items()}

    async def of_claims(
        self, claims: Payload, issuer: Issuer | None, caller: Caller, *, checked: bool = False
    ) -> Judged:
        """Judge claims whose signature the caller has checked; ``issuer`` None: the caller may not ask.

        ``checked``: fail where the store is unavailable, whatever ``store_outage`` says.
        """
        if issuer is None or not caller.may_see(claims.aud):
            return self._counted(Judged(Verdict.FOREIGN, claims))
        keys = self._store.keys.of_token(claims, issuer)
        try:
            found = await self._store.lookups.find(keys)
        except StoreUnavailable:
            if checked or not self._allow_outage:
                raise
            return self._counted(self._unchecked(claims, issuer, None, keys))
        if claims.kid is not None:
            claims = self._without_unproven_kid(claims, issuer, found.state)
        return self._counted(self.judged(claims, issuer, found))

    async def of_token(
        self,
        token: str,
        caller: Caller,
        *,
        checked: bool = False,
        waiting: Waiting = contextlib.nullcontext,
    ) -> Judged:
        """Judge a token from its text; ``checked`` as in :meth:`of_claims`, ``waiting`` as in verifying."""
        try:
            verified = self._verifier.cached(token) or await self._verifier.verify(token, waiting)
        except InvalidToken as error:
            return self._counted(Judged(Verdict.INVALID, why=error.why))
        claims = verified.claims
        if claims.iss not in caller.issuers or not caller.may_see(claims.aud):
            return self._counted(Judged(Verdict.FOREIGN, claims, verified))
        keys = self._store.keys.of_token(claims, verified.issuer)
        try:
            found = await self._store.lookups.find(keys)
        except StoreUnavailable:
            if checked or not self._allow_outage:
                raise
            return self._counted(self._unchecked(claims, verified.issuer, verified, keys))
        return self._counted(self.judged(claims, verified.issuer, found, verified))

    async def of_many(self, tokens: Sequence[tuple[Payload, Issuer, VerifiedToken | None]]) -> list[Verdict]:
        """Judge tokens whose signatures were checked, with one lookup for all of them."""
        of_token = self._store.keys.of_token
        keys: list[TokenKeys] = [of_token(claims, issuer) for claims, issuer, _ in tokens]
        try:
            found = await self._store.lookups.find_all(keys)
        except StoreUnavailable:
            if not self._allow_outage:
                raise
            verdicts = [
                self._unchecked(*token, read).verdict for token, read in zip(tokens, keys, strict=True)
            ]
        else:
            own_now = int(self._clock() * 1000)
            old = self._records.old_limits
            verdicts = [
                self._verdict(
                    claims, issuer, answer.state, old.get(issuer.name) if old else None, answer.now, own_now
                )
                if issuer.own
                else judge(
                    claims
                    if token is not None or claims.kid is None
                    else self._without_unproven_kid(claims, issuer, answer.state),
                    issuer,
                    answer.state,
                    old.get(issuer.name) if old else None,
                    store_now=answer.now,
                    own_now=own_now,
                )
                for (claims, issuer, token), answer in zip(tokens, found, strict=True)
            ]
        for verdict, times in collections.Counter(verdicts).items():
            self._count_many[verdict](times)
        return verdicts

    def judged(
        self, claims: Payload, issuer: Issuer, found: Found, token: VerifiedToken | None = None
    ) -> Judged:
        """Apply the rules to what was found."""
        old = self._records.old_limits
        old_limits = old.get(issuer.name) if old else None
        own_now = int(self._clock() * 1000)
        verdict = self._verdict(claims, issuer, found.state, old_limits, found.now, own_now)
        return Judged(verdict, claims, token, issuer, found.state, found.now)

    def _without_unproven_kid(self, claims: Payload, issuer: Issuer, state: RevocationState) -> Payload:
        """The claims that a caller has checked, without the header's ``kid`` where it proves nothing.

        A key without a name verifies tokens whatever their ``kid`` is. Once such a key is revoked, its thief
        would write any other ``kid``.
        """
        if claims.kid is None or not (state.keys or issuer.revoked_kids):
            return claims
        for kid in self._verifier.ids_of_unnamed_keys(issuer):
            if kid in issuer.revoked_kids or kid in state.keys:
                return msgspec.structs.replace(claims, kid=None)
        return claims

    @staticmethod
    def _verdict(  # noqa: PLR0917  # in the order of judge
        claims: Payload,
        issuer: Issuer,
        state: RevocationState,
        old_limits: OldLimits | None,
        store_now: int,
        own_now: int,
    ) -> Verdict:
        start = None
        if issuer.own:
            session = tag_and_start(claims.sid) if claims.sid else None
            if session is None or session[0] != user_tag(issuer.iss, claims.sub or ""):
                return Verdict.SESSION_MALFORMED
            start = session[1]
            if begins_too_far_ahead(start, store_now):
                return Verdict.ISSUED_IN_FUTURE
        return judge(
            claims, issuer, state, old_limits, store_now=store_now, own_now=own_now, session_start=start
        )

    def foreign(self) -> Judged:
        """Count a token about which the caller may not ask."""
        return self._counted(Judged(Verdict.FOREIGN))

    def invalid(self) -> Judged:
        """Count a text that is no valid token."""
        return self._counted(Judged(Verdict.INVALID))

    def _unchecked(
        self, claims: Payload, issuer: Issuer, token: VerifiedToken | None, keys: TokenKeys
    ) -> Judged:
        """What ``store_outage = "allow"`` answers while the store is away.

        All rules apply as ever, to what this process remembers of the store: its time, blocks, revoked
        keys, bounds that were raised and losses of data. Only what must be looked up is taken as absent, and
        all of it by a process that was started during the outage.
        """
        own_now = int(self._clock() * 1000)
        store = self._store.lookups.last_read(keys)
        store_now = own_now if store.now is None else store.now
        revocations = self._store.revocations.remembered
        blocked = revocations.blocks.get(user_tag(issuer.iss, claims.sub or ""), 0)
        state = RevocationState(
            user=UserState(blocked=blocked) if blocked else None,
            keys=revocations.keys[issuer.name],
            loss=store.loss,
        )
        old_limits = self._records.old_limits.get(issuer.name) if self._records.read else None
        judged = claims if token else self._without_unproven_kid(claims, issuer, state)
        verdict = self._verdict(judged, issuer, state, old_limits, store_now, own_now)
        if verdict is Verdict.ACTIVE:
            self._metrics.unchecked_verdicts.inc()
            _log.warning("answered_unchecked", iss=claims.iss, jti=claims.jti)
        return Judged(verdict, claims, token, issuer, store_now=max(store_now, own_now))

    def _counted(self, judged: Judged) -> Judged:
        self._count[judged.verdict]()
        return judged
