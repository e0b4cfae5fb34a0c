"""Decides whether a token or session is active now, and how long a revocation is stored.

All decisions of this kind are made here: whether a limit, block, cutoff or loss of data covers a token or a
session. Every function is pure: it takes what it needs, its time included.
"""

from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

from revoker.errors import StoreRefused
from revoker.models import (
    ACTIVE_VERDICT,
    NO_REVOCATIONS,
    Issuer,
    Number,
    OldLimits,
    Payload,
    Revocation,
    RevocationState,
    Session,
    UserState,
    Verdict,
)

SAFETY_S: Final = 60
"""Added to every lifetime in the store, because clocks differ a little."""

OWN_MARGIN_MS: Final = 2000
"""For sessions held by this service: the time of a cutoff may come from another node."""

START_AHEAD_MS: Final = 120_000
"""A session held by this service starts no further ahead of the store's time: twice as far as the clocks of
two primaries can be apart, of which each is at most 30 s from the service's."""

FOREVER_MS: Final = 99_999_999_999_000
"""In the year 5138: the end of a block without an end, and the latest expiry.

Lua's JSON prints no more digits.
"""

_FAR_S: Final = 1e12
"""Beyond any date; a later one is taken as this."""


def microseconds(at: Number) -> int:
    """A NumericDate as whole µs: exact for whole seconds, and for at most six decimals."""
    if type(at) is int:
        return at * 1_000_000
    return round(min(max(at, -_FAR_S), _FAR_S) * 1_000_000)


def check_limits(claims: Payload, issuer: Issuer, *, store_now: int, own_now: int) -> Verdict:
    """Check a token's claims, dates and lifetimes.

    Args:
        claims: Of a token whose signature was checked.
        issuer: Of the token.
        store_now: Redis ``TIME`` in ms; it alone is compared with ``iat``.
        own_now: This service's clock in ms; the later of the two is compared with ``exp``, the earlier with
            ``nbf``.
    """
    iat, exp = claims.iat, claims.exp
    if iat is None or exp is None or not claims.sub or (issuer.require_jti and not claims.jti):
        return Verdict.INCOMPLETE
    issued = iat * 1_000_000 if type(iat) is int else microseconds(iat)
    ends = exp * 1_000_000 if type(exp) is int else microseconds(exp)
    if issued < 0 or ends < issued:
        return Verdict.INCOMPLETE
    if ends - issued > issuer.max_token_lifetime * 1_000_000:
        return Verdict.LIVES_TOO_LONG
    ahead = (store_now + issuer.clock_skew * 1000) * 1000
    if issued > ahead:
        return Verdict.ISSUED_IN_FUTURE
    later = store_now if store_now > own_now else own_now  # noqa: FURB136  # max() takes thrice the time
    if ends <= (later - issuer.leeway * 1000) * 1000:
        return Verdict.EXPIRED
    nbf, auth_time = claims.nbf, claims.auth_time
    if nbf is not None and microseconds(nbf) > (min(store_now, own_now) + issuer.leeway * 1000) * 1000:
        return Verdict.NOT_YET_VALID
    if issuer.cutoff_claim == "auth_time" and auth_time is not None:
        proved = microseconds(auth_time)
        if proved > ahead:
            return Verdict.ISSUED_IN_FUTURE
        if ends - proved > issuer.max_session_lifetime * 1_000_000:
            return Verdict.LIVES_TOO_LONG
    return ACTIVE_VERDICT


def judge(
    claims: Payload,
    issuer: Issuer,
    state: RevocationState,
    old_limits: OldLimits | None,
    *,
    store_now: int,
    own_now: int,
    session_start: int | None = None,
) -> Verdict:
    """Decide whether a token is active now.

    Args:
        claims: Of a token whose signature was checked.
        issuer: Of the token.
        state: What the store holds, read after the request came.
        old_limits: What the store remembers of the issuer; None where no limit was increased and there is
            no conflict.
        store_now: Redis ``TIME`` in ms, read together with ``state``.
        own_now: This service's clock in ms.
        session_start: For sessions held by this service, the start (ms) in the ``sid``.

    Returns:
        The first check that failed, those of the token itself first; else ``ACTIVE``.

    Raises:
        StoreRefused: the settings and the store are in conflict about the issuer.
    """
    verdict = check_limits(claims, issuer, store_now=store_now, own_now=own_now)
    if verdict is ACTIVE_VERDICT and old_limits is not None:
        verdict = check_old_limits(
            claims, issuer, old_limits, now=max(store_now, own_now), session_start=session_start
        )
    if verdict is not ACTIVE_VERDICT:
        return verdict
    if state is NO_REVOCATIONS and not issuer.revoked_kids:
        return verdict
    if state.keys or issuer.revoked_kids:
        kid = claims.kid
        if kid is None or kid in issuer.revoked_kids or kid in state.keys:
            return Verdict.KEY_REVOKED
    if state.jti is not None:
        return Verdict.TOKEN_REVOKED
    wider_by = 0
    if old_limits is not None and old_limits.margins:
        wider_by = lost_margin(claims, issuer, old_limits)
    return check_cutoffs(claims, issuer, state, store_now, session_start, wider_by)


def check_old_limits(
    claims: Payload, issuer: Issuer, old: OldLimits, *, now: int, session_start: int | None
) -> Verdict:
    """Apply limits that have been increased since to a token that keeps the present ones.

    A revocation made before an increase expires by the old limit. A token that was issued before the
    increase, or whose login was, must keep the old limit too, so that no token outlives its revocation.

    Args:
        claims: With ``iat`` and ``exp``.
        issuer: With its present limits.
        old: The old ones.
        now: In ms, by the later clock.
        session_start: As for :func:`judge`.

    Raises:
        StoreRefused: the settings and the store are in conflict about the issuer.
    """
    if old.conflict is not None:
        raise StoreRefused(old.conflict)
    skew = issuer.clock_skew * 1_000_000
    issued, ends = microseconds(claims.iat or 0), microseconds(claims.exp or 0)
    leeway, ahead = issuer.leeway, 0
    login = issued
    if issuer.own:
        login = (session_start or 0) * 1000
    elif issuer.cutoff_claim == "auth_time" and claims.auth_time is not None:
        login = min(issued, microseconds(claims.auth_time))
    for increase in old.increases:
        old_value, until = increase.old_value, increase.until * 1000 + skew
        if increase.limit == "max_token_lifetime":
            if issued <= until and ends - issued > old_value * 1_000_000:
                return Verdict.LIVES_TOO_LONG
        elif login > until:
            continue
        elif increase.limit == "horizon":
            if ends - login > old_value * 1_000_000:
                return Verdict.LIVES_TOO_LONG
        elif increase.limit == "leeway":
            leeway = min(leeway, old_value)
        else:
            ahead = max(ahead, issuer.clock_skew - old_value)
    if ends <= (now - (leeway - ahead) * 1000) * 1000:
        return Verdict.EXPIRED
    return ACTIVE_VERDICT


def login_end(claims: Payload, issuer: Issuer, old: OldLimits | None) -> int:
    """When what depends on a login alone must end (ms), such as a session of the console.

    Until then every cutoff is stored that covers the login, those included that were made before the horizon
    was widened.
    """
    login = microseconds(claims.iat or 0)
    if issuer.cutoff_claim == "auth_time" and claims.auth_time is not None:
        login = min(login, microseconds(claims.auth_time))
    skew = issuer.clock_skew * 1_000_000
    horizon = min(
        (
            increase.old_value
            for increase in (old.increases if old else ())
            if increase.limit == "horizon" and login <= increase.until * 1000 + skew
        ),
        default=issuer.horizon,
    )
    return login // 1000 + min(horizon, issuer.horizon) * 1000


def judge_login(
    claims: Payload,
    issuer: Issuer,
    state: RevocationState,
    old: OldLimits | None,
    *,
    store_now: int,
    began: int | None,
) -> Verdict:
    """Decide whether somebody may be signed in who once came with an ID token, which may have expired.

    Args:
        claims: Of the ID token, whose signature was checked.
        issuer: Of the same.
        state: As for :func:`judge`, with ``old`` and ``store_now``.
        old: What the store remembers of the issuer.
        store_now: Redis ``TIME`` in ms, read together with ``state``.
        began: When the session began that depends on the login (ms); None: now.
    """
    ahead = (store_now + issuer.clock_skew * 1000) * 1000
    dated = [claims.iat or 0]
    if issuer.cutoff_claim == "auth_time" and claims.auth_time is not None:
        dated.append(claims.auth_time)
    if max(map(microseconds, dated)) > ahead:  # a cutoff that is made now would not cover it
        return Verdict.ISSUED_IN_FUTURE
    if login_end(claims, issuer, old) <= store_now:
        return Verdict.EXPIRED
    revoked_kids = {*state.keys, *issuer.revoked_kids}
    if revoked_kids and (claims.kid is None or claims.kid in revoked_kids):
        return Verdict.KEY_REVOKED
    if state.jti is not None:
        return Verdict.TOKEN_REVOKED
    if state.user is not None and began is not None and state.user.blocked > began:
        return Verdict.USER_BLOCKED  # also by a block that is over: no request came meanwhile
    wider_by = 0 if old is None else lost_margin(claims, issuer, old)
    return check_cutoffs(claims, issuer, state, store_now, None, wider_by)


def lost_margin(claims: Payload, issuer: Issuer, old: OldLimits) -> int:
    """By how much (s) cutoffs have covered more, when a token was issued, than by the present margin.

    A token that a cutoff has covered stays covered. The margin applied to tokens of external issuers alone.
    """
    if issuer.own:
        return 0
    login = claims.iat or 0
    if issuer.cutoff_claim == "auth_time" and claims.auth_time is not None:
        login = min(login, claims.auth_time)
    at, skew = microseconds(login), issuer.clock_skew * 1_000_000
    present = issuer.cutoff_margin
    applied = (margin.margin for margin in old.margins if at <= margin.until * 1000 + skew)
    return max(0, max(applied, default=present) - present)


def check_cutoffs(  # noqa: PLR0917  # nearly every verdict would pay for keywords
    claims: Payload,
    issuer: Issuer,
    state: RevocationState,
    store_now: int,
    session_start: int | None,
    wider_by: int = 0,
) -> Verdict:
    """Check the block and the cutoffs that cover a token or a session.

    Arguments as for :func:`judge`; ``wider_by`` as :func:`lost_margin`.
    """
    login, made = comparison_times(claims, issuer, session_start, wider_by)
    if issuer.own:
        made = session_comparison_time(session_start or 0, store_now) * 1000
    user = state.user
    if user is not None:
        if is_blocked(user, store_now):
            return Verdict.USER_BLOCKED
        cutoff = user_cutoff(user, claims.sid)
        if cutoff and login <= cutoff * 1000:
            return Verdict.USER_CUTOFF
    if covers(state.session, login):
        return Verdict.SESSION_CUTOFF
    if covers(state.client, made if issuer.own else login):
        return Verdict.CLIENT_CUTOFF
    if state.claims and covers_any(state.claims, made if issuer.own else login):
        return Verdict.CLAIM_CUTOFF
    if covers(state.issuer, made):
        return Verdict.ISSUER_CUTOFF
    if state.loss and made <= state.loss * 1000:
        return Verdict.DATA_LOSS
    return ACTIVE_VERDICT


def comparison_times(
    claims: Payload, issuer: Issuer, session_start: int | None, wider_by: int = 0
) -> tuple[int, int]:
    """The times of a token (µs) that are compared with cutoffs; a cutoff at or after them covers it.

    ``wider_by`` is added to the margin of external issuers (:func:`lost_margin`).

    Returns:
        The first for user, session, client and claim cutoffs, the second for issuer and loss cutoffs. For
        sessions held by this service both are the start of the session, the second less a margin. For other
        issuers they are ``iat`` plus ``iat_backdated`` less ``clock_skew``; with
        ``cutoff_claim = "auth_time"``, ``auth_time`` less ``clock_skew`` where that is earlier. A token
        without ``auth_time`` is then covered by every cutoff of the first kind.
    """
    if issuer.own:
        start = (session_start or 0) * 1000
        return start, start - OWN_MARGIN_MS * 1000
    skew = (issuer.clock_skew + wider_by) * 1_000_000
    made = microseconds(claims.iat or 0) + issuer.iat_backdated * 1_000_000 - skew
    if issuer.cutoff_claim == "auth_time":
        if claims.auth_time is None:
            return 0, made
        made = min(made, microseconds(claims.auth_time) - skew)
    return made, made


def session_is_cut_off(session_start: int, state: RevocationState, *, store_now: int) -> bool:
    """Whether a client, claim, issuer or loss cutoff covers a session held by this service.

    The cutoffs of its user and its own are not considered: the scripts that change the session check them.

    Args:
        session_start: When the session began (ms).
        state: What the store holds for the session's client, revocable claims and issuer.
        store_now: Redis ``TIME`` in ms, read together with that.
    """
    at_us = session_comparison_time(session_start, store_now) * 1000
    loss = state.loss
    return (
        covers(state.client, at_us)
        or covers_any(state.claims, at_us)
        or covers(state.issuer, at_us)
        or (loss != 0 and at_us <= loss * 1000)
    )


def session_comparison_time(session_start: int, store_now: int) -> int:
    """The time (ms) of a session held by this service that is compared with cutoffs dated by other nodes.

    These are client, claim, issuer and loss cutoffs.

    A session that a faster server dated may start in the future. Its start counts as now, so that a cutoff
    made now covers it.
    """
    return min(session_start, store_now) - OWN_MARGIN_MS


def begins_too_far_ahead(session_start: int, store_now: int) -> bool:
    """Whether no server can have dated a session so far ahead (ms), so that its ``sid`` was not made here."""
    return session_start > store_now + START_AHEAD_MS


def login_is_recent(auth_time: Number | None, issuer: Issuer, *, max_age: int, store_now: int) -> bool:
    """Whether the user authenticated at most ``max_age`` seconds before ``store_now`` (ms; RFC 9470 §4).

    A date ahead says nothing of the age, so it counts only within the issuer's ``clock_skew``, as ``iat``
    does; that of a session held by this service may come from a faster server, as its start may.
    """
    if auth_time is None:
        return False
    ahead = START_AHEAD_MS if issuer.own else issuer.clock_skew * 1000
    return (store_now - max_age * 1000) * 1000 <= microseconds(auth_time) <= (store_now + ahead) * 1000


def covers(cutoff: Revocation | None, at_us: int) -> bool:
    """Whether a cutoff covers what is dated ``at_us`` (µs)."""
    return cutoff is not None and at_us <= cutoff.at * 1000


def is_blocked(user: UserState, now: int) -> bool:
    """Whether a block covers a user ``now`` (ms by Redis)."""
    return user.blocked > now


def includes_cutoff(cutoff: Revocation | None, other: int) -> bool:
    """Whether a cutoff covers all that another one (ms) would cover."""
    return cutoff is not None and cutoff.at >= other


def covers_any(cutoffs: Iterable[Revocation | None], at_us: int) -> bool:
    """Whether one of several cutoffs covers what is dated ``at_us`` (µs)."""
    return any(covers(cutoff, at_us) for cutoff in cutoffs)


def user_cutoff(user: UserState, sid: str | None) -> int:
    """The cutoff (ms; 0: none) of a user that applies to a session, or without ``sid`` to no session."""
    excepted = user.sid != "" and sid == user.sid
    return user.hard if excepted else max(user.hard, user.soft)


def includes_user_cutoff(user: UserState, cutoff: int, except_sid: str) -> bool:
    """Whether the cutoffs of a user cover all that another one (ms) would cover."""
    return (max(user.hard, user.soft) if except_sid and except_sid == user.sid else user.hard) >= cutoff


# The scripts in store/lua decide by the rules below, and tests compare the two.


def moved_user_cutoff(user: UserState, cutoff: int, except_sid: str) -> UserState:
    """The cutoffs of a user after another one (ms) is added: they cover what all together cover.

    Args:
        user: As before.
        cutoff: The one that is added.
        except_sid: The session that it leaves alone; empty: none.
    """
    hard, soft, sid = user.hard, user.soft, user.sid
    if except_sid and except_sid == sid:
        soft = max(soft, cutoff)
    elif except_sid and cutoff >= soft:
        hard, soft, sid = max(hard, soft), cutoff, except_sid
    else:
        hard = max(hard, cutoff)
    return msgspec.structs.replace(user, hard=hard, soft=soft, sid=sid, last=max(user.last, hard, soft))


def session_is_revoked(session_start: int, sid: str, user: UserState, cutoff: Revocation | None) -> bool:
    """Whether a cutoff of its user or its own covers a session held by this service (its start in ms)."""
    return session_start <= user_cutoff(user, sid) or covers(cutoff, session_start * 1000)


def session_end(session: Session, *, idle_ms: int, life_ms: int) -> int:
    """When a session ends if it is not used again (ms): at its end, that of the present settings, or idle."""
    return min(session.ends, session.start + life_ms, session.used + idle_ms)


def session_refusal(  # the state of one session
    sid: str,
    session_start: int,
    session: Session | None,
    user: UserState,
    cutoff: Revocation | None,
    *,
    now: int,
    idle_ms: int,
    life_ms: int,
) -> Literal["blocked", "revoked", "ended"] | None:
    """Why a session gives no token; None where it does.

    Args:
        sid: Of the session.
        session_start: In ms.
        session: Its record; None where there is none any more.
        user: What is stored for its user.
        cutoff: Its own.
        now: Redis ``TIME`` in ms. The last use of the session counts where that is later.
        idle_ms: Idle time-out of a session.
        life_ms: Longest lifetime of a session.
    """
    if session is not None:
        now = max(now, session.used)
    if is_blocked(user, now):
        return "blocked"
    if session_is_revoked(session_start, sid, user, cutoff):
        return "revoked"
    if session is None or session_end(session, idle_ms=idle_ms, life_ms=life_ms) <= now:
        return "ended"
    return None


def session_start_time(now: int, user: UserState, latest_start: int) -> int:
    """The start (ms) of a session that begins ``now``: later than anything else dated for its user.

    Args:
        now: Redis ``TIME`` in ms.
        user: With the latest time of the user's cutoffs.
        latest_start: Of the user's sessions (ms).
    """
    return max(now, user.last + 1, latest_start + 1)


def cutoff_time(
    requested: int | None,
    now: int,
    *,
    max_ahead: int | None,
    earliest: int,
    earliest_ahead: int | None = None,
    expires: int | None = None,
) -> int | Literal["ahead", "expired"]:
    """The time (ms) that a new cutoff gets, or why the request is refused.

    Args:
        requested: By the caller; None: now.
        now: Redis ``TIME`` in ms.
        max_ahead: A request that is further ahead is refused (ms). None for a cutoff that is restored, with
            the time that it had.
        earliest: A cutoff made now is not dated before this time, which may be ahead of ``now``.
        earliest_ahead: By how much that may be ahead (ms); None: by any time.
        expires: When the request expires (ms); None: never.
    """
    if expires is not None and now >= expires:
        return "expired"
    if requested is not None:
        if max_ahead is None:
            return requested
        if requested > now + max_ahead:
            return "ahead"
        if requested <= now:
            return requested
    if earliest_ahead is not None:
        earliest = min(earliest, now + earliest_ahead)
    return max(now, earliest)


def refresh_outcome(
    generation: int, current: int, *, issued_ms_ago: int, grace_ms: int, unconfirmed: bool
) -> Literal["ahead", "reused", "repeated", "completed", "rotated"]:
    """What the use of a refresh token's generation does to its session.

    Args:
        generation: Of the token.
        current: The generation that the session expects.
        issued_ms_ago: How long ago the current generation was first issued (ms).
        grace_ms: How long the previous generation gets the same answer again.
        unconfirmed: Whether the use of this generation is stored, but not confirmed to be stored for good.
    """
    if generation > current:
        return "ahead"
    if generation == current:
        return "rotated"
    if generation == current - 1:
        if unconfirmed:
            return "completed"
        if issued_ms_ago < grace_ms:
            return "repeated"
    return "reused"


def revocable_value(claim: str, value: Any) -> str | None:
    """The text by which a value of a claim is revoked; None where there is none.

    A whole number is the same value with and without a fraction of zero. ``email`` is case-folded.
    """
    if type(value) is str:
        return (value.casefold() if claim == "email" else value) or None
    if type(value) is float and value.is_integer():
        value = int(value)
    return str(value) if type(value) in (int, float) else None


def cutoff_lifetime_ms(issuer: Issuer) -> int:
    """How long a cutoff is stored after its time, in ms.

    For this function and the two below, ``issuer`` must have the widest limits by which any process judges.
    """
    return (issuer.horizon + issuer.clock_skew + issuer.leeway + SAFETY_S) * 1000


def jti_lifetime_ms(issuer: Issuer) -> int:
    """How long the entry of a revoked token is stored whose ``exp`` is not known, in ms."""
    return (issuer.max_token_lifetime + issuer.clock_skew + issuer.leeway + SAFETY_S) * 1000


def jti_expiry_ms(issuer: Issuer, exp: Number) -> int:
    """When the entry of a revoked token may expire (ms): the token has expired for every process by then."""
    return min(microseconds(exp) // 1000 + 1 + (issuer.leeway + SAFETY_S) * 1000, FOREVER_MS)


def earliest_active_ms(issuer: Issuer, exp: Number) -> int:
    """The earliest time (ms) at which a token with this ``exp`` can be active, or will be soon."""
    return microseconds(exp) // 1000 - (issuer.max_token_lifetime + issuer.clock_skew) * 1000
