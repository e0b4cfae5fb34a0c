"""``GET /sessions``: the sessions of a user, page by page."""

import base64
import re
from typing import Annotated, Final

import msgspec

from revoker.api.endpoint import Call, Endpoint
from revoker.api.fields import NumericDate, Text
from revoker.api.session_services import SessionServices
from revoker.errors import AccessDenied, InvalidRequest
from revoker.models import Session
from revoker.rules import session_is_cut_off
from revoker.store.keys import user_tag
from revoker.store.source import Found

_position: Final = re.compile(r"([0-9]{1,15}):([A-Za-z0-9_-]{38})").fullmatch
"""What a cursor encodes: the end (ms) and the ``sid`` of the last session of a page."""

_SLICE: Final = 50
"""Sessions that are read and listed at a time: other requests get no verdict meanwhile."""


class SessionQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Whose sessions; ``current`` names the one that asks, ``cursor`` comes from the page before."""

    sub: Text
    iss: Text | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    cursor: str | None = None
    current: str | None = None


class ListedSession(msgspec.Struct, frozen=True, kw_only=True):
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


class SessionPage(msgspec.Struct, frozen=True):
    """``next`` is the cursor of the next page, null on the last."""

    sessions: list[ListedSession]
    next: str | None


async def list_sessions(call: Call[SessionQuery], *, sessions: SessionServices) -> SessionPage:
    """A page of the sessions that no cutoff covers; a bound caller sees those of its client."""
    query = call.body
    sessions.require_access(call.caller)
    if query.iss is not None and query.iss != sessions.issuer.iss:
        raise InvalidRequest("iss is not the issuer of the sessions held by this service")
    return await session_page(
        sessions,
        query.sub,
        limit=query.limit,
        cursor=query.cursor,
        current=query.current,
        own_client=call.caller.client_id,
    )


async def session_page(
    sessions: SessionServices,
    sub: str,
    *,
    limit: int,
    cursor: str | None,
    current: str | None = None,
    own_client: str = "",
) -> SessionPage:
    """A page of a user's sessions; ``own_client``: only those of this client (empty: of any)."""
    place = None if cursor is None else _decode_cursor(cursor)
    found = await sessions.cutoffs.beyond_user("", user_tag(sessions.issuer.iss, sub))
    listed: list[ListedSession] = []
    left = limit
    while True:
        page = await sessions.reader.of_user(sub, after=place, limit=min(left, _SLICE), now=found.now)
        live = [
            session
            for session in page.sessions
            if own_client in {"", session.client_id} and not is_cut_off(session, found)
        ]
        live = await without_revoked_parts(live, sessions)
        listed += [_listed(session, sessions, current) for session in live]
        left -= len(page.sessions)
        place = page.next
        if place is None or not left:
            break
    return SessionPage(listed, None if place is None else _encode_cursor(*place))


async def without_revoked_parts(live: list[Session], services: SessionServices) -> list[Session]:
    """The sessions that no cutoff of their clients and claims covers."""
    parts = [(session.client_id, services.revocable(session.claims)) for session in live]
    distinct = sorted(set(parts))
    found = dict(zip(distinct, await services.cutoffs.of_clients_and_claims(distinct), strict=True))
    return [session for session, own in zip(live, parts, strict=True) if not is_cut_off(session, found[own])]


def is_cut_off(session: Session, found: Found) -> bool:
    """Whether what was found beyond its user covers a session."""
    return session_is_cut_off(session.start, found.state, store_now=found.now)


def _listed(session: Session, services: SessionServices, current: str | None) -> ListedSession:
    return ListedSession(
        sid=session.sid,
        client_id=session.client_id,
        device=session.device or None,
        ip=session.ip or None,
        user_agent=session.user_agent or None,
        amr=list(session.amr),
        created=session.start / 1000,
        last_used=session.used / 1000,
        expires=services.reader.expiry(session) / 1000,
        current=session.sid == current,
    )


def _encode_cursor(end: int, sid: str) -> str:
    return base64.urlsafe_b64encode(f"{end}:{sid}".encode()).rstrip(b"=").decode()


def _decode_cursor(cursor: str) -> tuple[int, str]:
    try:
        position = _position(base64.b64decode(cursor + "==", altchars=b"-_").decode())
    except ValueError:
        position = None
    if position is None:
        raise InvalidRequest("cursor is not one that this service gave out")
    return int(position[1]), position[2]


ENDPOINTS: Final = (
    Endpoint(
        path="/sessions",
        method="GET",
        scope="sessions",
        body=SessionQuery,
        answer=SessionPage,
        summary="List a user's sessions",
        handle=list_sessions,
        errors=(AccessDenied,),
    ),
)
