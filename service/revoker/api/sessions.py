"""``/sessions``: a login has happened; list, end and elevate what came of it."""

import base64
import re
from typing import Annotated, Final

import msgspec
import structlog

from revoker.api.endpoint import Call, Endpoint
from revoker.api.fields import NumericDate, Text
from revoker.api.parts import Kept, Parts
from revoker.auth import Caller
from revoker.errors import AccessDenied, InvalidRequest, StoreRefused
from revoker.models import Claims, Session
from revoker.rules import compared_widely
from revoker.store.keys import TokenKeys, user_tag
from revoker.store.lookups import Found
from revoker.store.sessions import Refusal
from revoker.tokens.private_keys import SigningKey

_audit = structlog.get_logger("audit")

_PLACE: Final = re.compile(r"([0-9]{1,15}):([A-Za-z0-9_-]{38})").fullmatch

Short = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
# Python's "$" matches before a line feed at the end, too.
Scope = Annotated[
    str,
    msgspec.Meta(max_length=2048, pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*$(?!\n)"),
]
Client = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=r"^[\x20-\x7e]+$(?!\n)")]
Methods = Annotated[list[Short], msgspec.Meta(max_length=16)]


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """A user has logged in, as the caller has checked.

    ``client_id`` defaults to the caller's own, or its name; ``aud`` to the configured audiences, of
    which it must be a part.
    """

    sub: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    client_id: Client | None = None
    scope: Scope | None = None
    aud: str | Annotated[list[str], msgspec.Meta(min_length=1, max_length=16)] | None = None
    amr: Methods | None = None
    acr: Short | None = None
    device: Short | None = None
    ip: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    user_agent: Annotated[str, msgspec.Meta(max_length=1024)] | None = None


class Tokens(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 6749 §5.1, with the session; ``expires_in`` in seconds."""

    sid: str
    access_token: str
    token_type: str
    expires_in: int
    refresh_token: str | None = None
    scope: str | None = None


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """Whose sessions; ``current`` names the one that asks, ``cursor`` comes from the page before."""

    sub: Text
    iss: Text | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    cursor: str | None = None
    current: str | None = None


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One session as its user knows it; dates to the millisecond."""

    sid: str
    client_id: str
    device: str | None
    ip: str | None
    user_agent: str | None
    amr: list[str]
    created: NumericDate
    last_used: NumericDate
    expires: NumericDate
    current: bool


class Page(msgspec.Struct, frozen=True):
    """``next`` is the cursor of the next page, null on the last."""

    sessions: list[Listed]
    next: str | None


class End(msgspec.Struct, frozen=True):
    """Nothing is asked but the path."""


class Elevation(msgspec.Struct, frozen=True, kw_only=True):
    """A second factor was passed; what is left out stays as it was."""

    amr: Methods | None = None
    acr: Short | None = None


async def begin(parts: Parts, call: Call[Login]) -> Tokens:
    asked, caller = call.body, call.caller
    kept = _kept(parts, caller)
    client_id = _client(caller, asked.client_id)
    audiences = [asked.aud] if isinstance(asked.aud, str) else asked.aud or []
    if not set(audiences) <= kept.audiences:
        raise InvalidRequest("aud names an audience that is not configured")
    now = await _now_if_not_covered_at_once(parts, kept, asked.sub, client_id)
    key = kept.minter.signer(now)
    started = await kept.sessions.start(
        asked.sub,
        client_id,
        scope=asked.scope or "",
        aud=audiences,
        amr=asked.amr or (),
        acr=asked.acr or "",
        device=asked.device or "",
        ip=asked.ip or "",
        user_agent=asked.user_agent or "",
        now=now,
    )
    if started is None:
        raise AccessDenied("the user is blocked")
    session = started.session
    given = await tokens(kept, session, started.now, session.scope, key, refreshable=True)
    parts.metrics.sessions.labels("begun").inc()
    parts.metrics.sessions.labels("displaced").inc(started.displaced)
    _audit.info(
        "session_begun",
        caller=caller.name,
        peer=call.peer,
        sub=asked.sub,
        sid=session.sid,
        client_id=client_id,
        displaced=started.displaced,
    )
    return given


async def tokens(
    kept: Kept, session: Session, now: int, scope: str, key: SigningKey, *, refreshable: bool
) -> Tokens:
    """What a session gives at ``now`` (ms by Redis)."""
    access, seconds = await kept.minter.mint(session, now, scope, key)
    refresh = None
    if refreshable:
        refresh = kept.refresh_tokens.make(session.sid, session.generation, session.client_id)
    return Tokens(
        sid=session.sid,
        access_token=access,
        token_type="Bearer",
        expires_in=seconds,
        refresh_token=refresh,
        scope=scope or None,
    )


async def listing(parts: Parts, call: Call[Listing]) -> Page:
    asked = call.body
    kept = _kept(parts, call.caller)
    if asked.iss is not None and asked.iss != kept.issuer.iss:
        raise InvalidRequest("iss is not the issuer of the sessions kept here")
    after = None if asked.cursor is None else _place(asked.cursor)
    found = await parts.store.lookups.find(wide(parts, kept, "", user_tag(kept.issuer.iss, asked.sub)))
    page = await kept.sessions.of_user(asked.sub, after=after, limit=asked.limit, now=found.now)
    live = [session for session in page.sessions if not covers(found, session.start)]
    if call.caller.client_id:
        live = [each for each in live if each.client_id == call.caller.client_id]
    live = await _without_revoked_clients(parts, kept, live)
    return Page(
        [_listed(each, kept, asked.current) for each in live],
        None if page.next is None else _cursor(page.next),
    )


async def _without_revoked_clients(parts: Parts, kept: Kept, sessions: list[Session]) -> list[Session]:
    clients = sorted({each.client_id for each in sessions})
    keys = parts.store.keys
    found = await parts.store.lookups.find_all(
        [(None, None, None, keys.client_cutoff(kept.issuer, client), None, None) for client in clients]
    )
    by_client = dict(zip(clients, found, strict=True))
    return [session for session in sessions if not covers(by_client[session.client_id], session.start)]


async def end(parts: Parts, call: Call[End]) -> None:
    kept = _kept(parts, call.caller)
    sid = call.path["sid"]
    if call.caller.client_id:
        session = await kept.sessions.peek(sid)
        if session is not None:  # else it has ended, or was lost: then its tokens must end all the same
            _client(call.caller, session.client_id)
    if await kept.sessions.end(sid):
        parts.metrics.sessions.labels("ended").inc()
        _audit.info("session_ended", caller=call.caller.name, peer=call.peer, sid=sid)


async def elevate(parts: Parts, call: Call[Elevation]) -> Tokens:
    asked, sid = call.body, call.path["sid"]
    kept = _kept(parts, call.caller)
    if asked.amr is None and asked.acr is None:
        raise InvalidRequest("amr or acr is needed")
    session = await kept.sessions.peek(sid)
    if session is None:
        raise AccessDenied("there is no such session")
    _client(call.caller, session.client_id)
    tag = user_tag(kept.issuer.iss, session.sub)
    found = await parts.store.lookups.find(wide(parts, kept, session.client_id, tag))
    if covers(found, session.start):
        raise AccessDenied("the session has ended")
    key = kept.minter.signer(found.now)
    amr = session.amr if asked.amr is None else asked.amr
    elevated = await kept.sessions.elevate(sid, amr, session.acr if asked.acr is None else asked.acr)
    if isinstance(elevated, Refusal):
        raise AccessDenied("the session has ended")
    parts.metrics.sessions.labels("elevated").inc()
    _audit.info(
        "session_elevated",
        caller=call.caller.name,
        peer=call.peer,
        sid=sid,
        amr=asked.amr,
        acr=asked.acr,
    )
    return await tokens(kept, elevated.session, elevated.now, session.scope, key, refreshable=False)


async def _now_if_not_covered_at_once(parts: Parts, kept: Kept, sub: str, client_id: str) -> int:
    """The present by the server that keeps the user (ms).

    Raises:
        StoreRefused: a session that began now would be dead; none begins, and none ends for it.
    """
    keys = parts.store.keys
    found = await parts.store.lookups.find(keys.of_token(Claims(sub=sub, client_id=client_id), kept.issuer))
    if covers(found, found.now):
        raise StoreRefused("everything was revoked a moment ago; log in again in two seconds")
    return found.now


def wide(parts: Parts, kept: Kept, client_id: str, tag: str) -> TokenKeys:
    """The cutoffs that lie beside the user's own keys, and those of the user's data set.

    What is found there is for :func:`covers`. ``tag`` is the user's.
    """
    return parts.store.keys.of_client(kept.issuer, client_id, tag)


def covers(found: Found, start: int) -> bool:
    """Whether a client, issuer or loss cutoff covers a session that began then (ms)."""
    standing = found.standing
    cutoff = standing.loss
    for mark in (standing.client, standing.issuer):
        if mark is not None and mark.at > cutoff:
            cutoff = mark.at
    return compared_widely(start, found.now) <= cutoff


def _kept(parts: Parts, caller: Caller) -> Kept:
    """The sessions kept here, where this caller may use their issuer."""
    kept = parts.kept
    if kept is None or kept.issuer.iss not in caller.issuers:
        raise AccessDenied("this caller may not use the sessions kept here")
    return kept


def _client(caller: Caller, asked: str | None) -> str:
    """The client of a session: the one that the caller is bound to, else the one it names."""
    if caller.client_id and asked not in {None, caller.client_id}:
        raise AccessDenied("this caller may use its own client's sessions only")
    return asked or caller.client_id or caller.name


def _listed(session: Session, kept: Kept, current: str | None) -> Listed:
    return Listed(
        sid=session.sid,
        client_id=session.client_id,
        device=session.device or None,
        ip=session.ip or None,
        user_agent=session.user_agent or None,
        amr=list(session.amr),
        created=session.start / 1000,
        last_used=session.used / 1000,
        expires=min(session.ends, session.used + kept.idle_timeout * 1000) / 1000,
        current=session.sid == current,
    )


def _cursor(place: tuple[int, str]) -> str:
    return base64.urlsafe_b64encode(f"{place[0]}:{place[1]}".encode()).rstrip(b"=").decode()


def _place(cursor: str) -> tuple[int, str]:
    try:
        place = _PLACE(base64.b64decode(cursor + "==", altchars=b"-_").decode())
    except ValueError:
        place = None
    if place is None:
        raise InvalidRequest("cursor is none that was given out")
    return int(place[1]), place[2]


ENDPOINTS: Final = (
    Endpoint(
        path="/sessions",
        scope="sessions",
        body=Login,
        answer=Tokens,
        status=201,
        summary="Begin a session after a login",
        handle=begin,
    ),
    Endpoint(
        path="/sessions",
        method="GET",
        scope="sessions",
        body=Listing,
        answer=Page,
        summary="List a user's sessions",
        handle=listing,
    ),
    Endpoint(
        path="/sessions/{sid}",
        method="DELETE",
        scope="sessions",
        body=End,
        answer=None,
        status=204,
        summary="End a session",
        handle=end,
    ),
    Endpoint(
        path="/sessions/{sid}/elevate",
        scope="sessions",
        body=Elevation,
        answer=Tokens,
        summary="Note that a second factor was passed",
        handle=elevate,
    ),
)
