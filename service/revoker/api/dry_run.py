"""What a revocation would do: ``dry_run`` of the endpoints that revoke, which reads and changes nothing."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Final

import msgspec

from revoker import rules
from revoker.api.session_list import is_cut_off, without_revoked_parts
from revoker.api.session_services import SessionServices
from revoker.api.standing import StandingRevocation, standing_key, standing_revocations
from revoker.errors import InvalidRequest
from revoker.models import Claims, Issuer, Number, RevocableClaims, Session, UserState, Verdict
from revoker.rules import FOREVER_MS, START_AHEAD_MS
from revoker.store.keys import TokenKeys, tag_and_start, user_tag
from revoker.store.listing import Listing
from revoker.store.revocations import AHEAD_MS, BEFORE_AHEAD, EXP_AHEAD, UNTIL_PAST
from revoker.store.source import Found
from revoker.store.store import Store

_CHUNK: Final = 500
"""Keys of the store that are searched at a time."""

_SLICE: Final = 100
"""Sessions that are read at a time: more would keep this process from verdicts."""

COUNTED_KEYS: Final = 100_000
COUNTED_S: Final = 2.0
"""How much of the store is searched for sessions of a client, an issuer or a claim, and for how long."""


class DryRun(msgspec.Struct, frozen=True, kw_only=True):
    """What would happen; nothing has changed.

    ``changes``: whether anything would be stored that is not stored already. ``sessions``: how many sessions
    held by this service would end, or by a block give no tokens. ``sessions_exact`` false: at least so many,
    since they are not all counted. ``covered_by``: what is in effect already and covers all of it.
    ``standing``: all that concerns it.
    """

    changes: bool
    sessions: int
    sessions_exact: bool
    covered_by: list[str]
    standing: list[StandingRevocation]


NO_EFFECT: Final = DryRun(changes=False, sessions=0, sessions_exact=True, covered_by=[], standing=[])
"""Of what is no genuine token."""


class Predicted(msgspec.Struct, frozen=True):
    """A dry run, and the date (ms) that a cutoff or block would have then."""

    date: int
    dry_run: DryRun


class DryRuns:
    """Predicts what revocations do."""

    def __init__(self, store: Store, listing: Listing, sessions: SessionServices | None) -> None:
        """``sessions``: None where this service holds none."""
        self._store: Final = store
        self._listing: Final = listing
        self._sessions: Final = sessions
        self._searches: Final = asyncio.Lock()
        """Held while somebody counts what takes long; others do not wait, and get what is counted at once."""

    async def revoke_user(
        self, issuer: Issuer, sub: str, *, before: int | None, except_sid: str | None
    ) -> Predicted:
        """As :meth:`revoker.store.revocations.Revocations.revoke_user`, and raises as that."""
        keys = self._store.keys
        tag = user_tag(issuer.iss, sub)
        lookup: TokenKeys = (None, keys.user(tag), None, None, keys.issuer_cutoff(issuer), None)
        found = await self._find(issuer, lookup)
        user = found.state.user or UserState()
        earliest = max(user.last, await self._latest_start(tag))
        at = _cutoff_time(before, found.now, earliest=earliest)
        after = rules.moved_user_cutoff(user, at, except_sid or "")

        def ends(session: Session) -> bool:
            return session.start <= rules.user_cutoff(after, session.sid)

        own = rules.includes_user_cutoff(user, at, except_sid or "")
        broader = ["user_block"] if user.blocked >= FOREVER_MS else []
        return await self._predicted(
            max(after.hard, after.soft),
            found,
            lookup,
            changes=(after.hard, after.soft, after.sid) != (user.hard, user.soft, user.sid),
            covered_by=(["user_cutoff"] if own else []) + broader + self._broader(issuer, found, at),
            counted=await self._count(self._of_user(issuer, sub), ends),
        )

    async def revoke_session(self, issuer: Issuer, sid: str, *, before: int | None) -> Predicted:
        """As :meth:`revoke_user`, for a session."""
        keys = self._store.keys
        own = tag_and_start(sid) if issuer.own else None
        user = None if own is None else keys.user(own[0])
        lookup: TokenKeys = (
            None, user, keys.session_cutoff(issuer, sid), None, keys.issuer_cutoff(issuer), None,
        )  # fmt: skip
        found = await self._find(issuer, lookup)
        start = 0 if own is None else own[1]
        at = _cutoff_time(before, found.now, earliest=start, earliest_ahead=START_AHEAD_MS)
        covered_by = ["session_cutoff"] if rules.includes_cutoff(found.state.session, at) else []
        if own is not None and start <= rules.user_cutoff(found.state.user or UserState(), sid):
            covered_by.append("user_cutoff")
        return await self._predicted(
            max(at, found.state.session.at if found.state.session else 0),
            found,
            lookup,
            changes=not rules.includes_cutoff(found.state.session, at),
            covered_by=covered_by + self._broader(issuer, found, at),
            counted=await self._count(self._one(issuer, sid), lambda session: session.start <= at),
        )

    async def revoke_client(
        self, issuer: Issuer, client: str, *, before: int | None, counts: bool
    ) -> Predicted:
        """As :meth:`revoke_user`, for a client; without ``counts`` no session is counted."""
        keys = self._store.keys
        lookup: TokenKeys = (
            None, None, None, keys.client_cutoff(issuer, client), keys.issuer_cutoff(issuer), None,
        )  # fmt: skip
        found = await self._find(issuer, lookup)
        at = self._shared_cutoff_time(issuer, before, found)
        mark = found.state.client

        def ends(session: Session) -> bool:
            return session.client_id == client and _compared(session, found) <= at

        return await self._predicted(
            max(at, mark.at if mark else 0),
            found,
            lookup,
            changes=not rules.includes_cutoff(mark, at),
            covered_by=(["client_cutoff"] if rules.includes_cutoff(mark, at) else [])
            + self._broader(issuer, found, at),
            counted=await self._count(self._all(issuer, counts=counts), ends),
        )

    async def revoke_claim(self, issuer: Issuer, claim: str, value: str, *, before: int | None) -> Predicted:
        """As :meth:`revoke_user`, for a value of a claim."""
        keys = self._store.keys
        revocable: RevocableClaims = ((claim, value),)
        lookup: TokenKeys = (
            None, None, None, None, keys.issuer_cutoff(issuer), None, keys.claim_cutoff(issuer, claim, value),
        )  # fmt: skip
        found = await self._find(issuer, lookup)
        at = self._shared_cutoff_time(issuer, before, found)
        mark = found.state.claims[0] if found.state.claims else None

        def ends(session: Session) -> bool:
            own = () if self._sessions is None else self._sessions.revocable(session.claims)
            return (claim, value) in own and _compared(session, found) <= at

        return await self._predicted(
            max(at, mark.at if mark else 0),
            found,
            lookup,
            revocable,
            changes=not rules.includes_cutoff(mark, at),
            covered_by=(["claim_cutoff"] if rules.includes_cutoff(mark, at) else [])
            + self._broader(issuer, found, at),
            counted=await self._count(self._all(issuer), ends),
        )

    async def revoke_issuer(self, issuer: Issuer, *, before: int | None) -> Predicted:
        """As :meth:`revoke_user`, for everything that an issuer made."""
        lookup: TokenKeys = (None, None, None, None, self._store.keys.issuer_cutoff(issuer), None)
        found = await self._find(issuer, lookup)
        at = self._shared_cutoff_time(issuer, before, found)
        mark = found.state.issuer
        return await self._predicted(
            max(at, mark.at if mark else 0),
            found,
            lookup,
            changes=not rules.includes_cutoff(mark, at),
            covered_by=self._broader(issuer, found, at),
            counted=await self._count(self._all(issuer), lambda session: _compared(session, found) <= at),
        )

    async def block_user(self, issuer: Issuer, sub: str, *, until: int | None) -> Predicted:
        """As :meth:`revoker.store.revocations.Revocations.block_user`, and raises as that."""
        keys = self._store.keys
        lookup: TokenKeys = (
            None, keys.user_of(issuer, sub), None, None, keys.issuer_cutoff(issuer), None,
        )  # fmt: skip
        found = await self._find(issuer, lookup)
        if until is not None and until <= found.now:
            raise InvalidRequest(UNTIL_PAST)
        user = found.state.user or UserState()
        end = FOREVER_MS if until is None else min(until, FOREVER_MS)
        blocked = rules.is_blocked(user, found.now)
        counted = (0, True) if blocked else await self._count(self._of_user(issuer, sub), lambda _: True)
        return await self._predicted(
            max(user.blocked, end),
            found,
            lookup,
            changes=end > user.blocked,
            covered_by=["user_block"] if user.blocked >= end else [],
            counted=counted,
        )

    async def unblock_user(self, issuer: Issuer, sub: str) -> Predicted:
        """As :meth:`revoker.store.revocations.Revocations.unblock_user`."""
        keys = self._store.keys
        lookup: TokenKeys = (
            None, keys.user_of(issuer, sub), None, None, keys.issuer_cutoff(issuer), None,
        )  # fmt: skip
        found = await self._find(issuer, lookup)
        user = found.state.user or UserState()
        return await self._predicted(
            user.blocked, found, lookup, changes=bool(user.blocked), covered_by=[], counted=(0, True)
        )

    async def revoke_token(self, issuer: Issuer, claims: Claims, *, bounded: bool) -> Predicted:
        """As :meth:`revoker.store.revocations.Revocations.revoke_token`, and raises as that."""
        lookup = self._store.keys.of_token(claims, issuer)
        found = await self._find(issuer, lookup)
        exp: Number | None = claims.exp
        if bounded and exp is not None and found.now < rules.earliest_active_ms(issuer, exp):
            raise InvalidRequest(EXP_AHEAD)
        mark = found.state.jti
        covered_by = ["token"] if mark else []
        own = tag_and_start(claims.sid) if issuer.own and claims.sid else None
        if claims.sub:
            start = None if own is None else own[1]
            verdict = rules.check_cutoffs(claims, issuer, found.state, found.now, start)
            if verdict is not Verdict.ACTIVE:
                covered_by.append("user_block" if verdict is Verdict.USER_BLOCKED else verdict.value)
        return await self._predicted(
            mark.at if mark else found.now,
            found,
            lookup,
            claims.revocable,
            changes=mark is None,
            covered_by=covered_by,
            counted=(0, True),
        )

    async def revoke_key(self, issuer: Issuer, kid: str) -> Predicted:
        """As :meth:`revoker.store.revocations.Revocations.revoke_key`."""
        keys = self._store.keys
        lookup: TokenKeys = (None, None, None, None, keys.issuer_cutoff(issuer), keys.revoked_keys(issuer))
        found = await self._find(issuer, lookup)
        mark = found.state.keys.get(kid)
        predicted = await self._predicted(
            mark.at if mark else found.now,
            found,
            lookup,
            changes=mark is None,
            covered_by=["key"] if mark or kid in issuer.revoked_kids else [],
            counted=(0, True),
        )
        if mark is not None:
            [audit] = await self._store.values([keys.audit(keys.revoked_keys(issuer), kid)])
            predicted.dry_run.standing.append(standing_key(mark, audit))
        return predicted

    async def _find(self, issuer: Issuer, lookup: TokenKeys) -> Found:
        self._store.issuer_records.refuse_in_conflict(issuer)
        return await self._store.lookups.find(lookup)

    async def _predicted(  # what was looked up, and how
        self,
        date: int,
        found: Found,
        lookup: TokenKeys,
        revocable: RevocableClaims = (),
        *,
        changes: bool,
        covered_by: list[str],
        counted: tuple[int, bool],
    ) -> Predicted:
        audits = await self._listing.audits(lookup, revocable)
        standing = standing_revocations(found.state, found.now, revocable, audits)
        sessions, exact = counted
        return Predicted(
            date,
            DryRun(
                changes=changes,
                sessions=sessions,
                sessions_exact=exact,
                covered_by=covered_by,
                standing=standing,
            ),
        )

    def _broader(self, issuer: Issuer, found: Found, at: int) -> list[str]:
        """What covers everything that the issuer made up to a time (ms)."""
        broader = []
        if rules.includes_cutoff(found.state.issuer, at) and issuer.cutoff_claim != "auth_time":
            broader.append("issuer_cutoff")
        if found.state.loss >= at and issuer.cutoff_claim != "auth_time":
            broader.append("data_loss")
        return broader

    def _shared_cutoff_time(self, issuer: Issuer, before: int | None, found: Found) -> int:
        latest = self._store.clocks.latest if issuer.own else 0
        return _cutoff_time(before, found.now, earliest=latest, earliest_ahead=START_AHEAD_MS)

    async def _latest_start(self, tag: str) -> int:
        """When the user's latest session began (ms), which the index of their sessions says."""
        index = self._store.keys.sessions(tag)
        [score] = await self._store.source.read_trusted(index, [("ZSCORE", index, "")])
        return 0 if score is None else -int(float(score))

    async def _count(
        self, slices: AsyncGenerator[Sequence[Session] | None, None], ends: Callable[[Session], bool]
    ) -> tuple[int, bool]:
        """How many sessions that can be used would end, and whether these are all."""
        counted: set[str] = set()
        async with contextlib.aclosing(slices):
            async for found in slices:
                if found is None:
                    return len(counted), False
                counted |= {session.sid for session in found if ends(session)}
        return len(counted), True

    async def _of_user(self, issuer: Issuer, sub: str) -> AsyncGenerator[Sequence[Session] | None, None]:
        """The sessions of a user that can be used, some at a time; in the end None if these are not all."""
        services = self._sessions
        if services is None or not issuer.own:
            return
        found = await services.cutoffs.beyond_user("", user_tag(issuer.iss, sub))
        page = await services.reader.of_user(sub, after=None, limit=_SLICE, now=found.now)
        yield await self._usable(page.sessions, found)
        if page.next is None:
            return
        if not self._searches.locked():
            async with self._searches:
                for _ in range(COUNTED_KEYS // _SLICE):
                    page = await services.reader.of_user(sub, after=page.next, limit=_SLICE, now=found.now)
                    yield await self._usable(page.sessions, found)
                    if page.next is None:
                        return
        yield None

    async def _one(self, issuer: Issuer, sid: str) -> AsyncGenerator[Sequence[Session] | None, None]:
        """As :meth:`_of_user`, one session."""
        services, own = self._sessions, tag_and_start(sid)
        if services is None or not issuer.own or own is None:
            return
        found = await services.cutoffs.beyond_user("", own[0])
        yield await self._usable(await services.reader.usable([sid], found.now), found)

    async def _all(
        self, issuer: Issuer, *, counts: bool = True
    ) -> AsyncGenerator[Sequence[Session] | None, None]:
        """As :meth:`_of_user`, of all users; without ``counts`` none of them."""
        services = self._sessions
        if services is None or not issuer.own:
            return
        if not counts or self._searches.locked():
            yield None
            return
        loop = asyncio.get_running_loop()
        until, left = loop.time() + COUNTED_S, COUNTED_KEYS
        async with self._searches, contextlib.aclosing(services.reader.all_sids(_CHUNK)) as chunks:
            async for sids in chunks:
                if left <= 0 or loop.time() >= until:
                    yield None
                    return
                left -= _CHUNK
                for start in range(0, len(sids), _SLICE):
                    of_slice = sids[start : start + _SLICE]
                    found = await services.cutoffs.beyond_user("", of_slice[0][8:24])
                    yield await self._usable(await services.reader.usable(of_slice, found.now), found)

    async def _usable(self, sessions: Iterable[Session], found: Found) -> Sequence[Session]:
        """Those that no cutoff of the client, a claim or the issuer covers."""
        assert self._sessions is not None  # noqa: S101  # there are sessions
        live = [session for session in sessions if not is_cut_off(session, found)]
        return await without_revoked_parts(live, self._sessions)


def _cutoff_time(before: int | None, now: int, *, earliest: int, earliest_ahead: int | None = None) -> int:
    at = rules.cutoff_time(before, now, max_ahead=AHEAD_MS, earliest=earliest, earliest_ahead=earliest_ahead)
    if isinstance(at, str):
        raise InvalidRequest(BEFORE_AHEAD)
    return at


def _compared(session: Session, found: Found) -> int:
    """The time of a session (ms) that is compared with cutoffs other than those of its user and its own."""
    return rules.session_comparison_time(session.start, found.now)
