"""What ``/introspect`` and ``/revoke`` do with a refresh token of a session held by this service."""

from typing import Any

import msgspec

from revoker.api.endpoint import Call
from revoker.api.session_services import SessionServices
from revoker.auth import Caller
from revoker.errors import AccessDenied, Unconfirmed
from revoker.metrics import Metrics
from revoker.models import Claims, Session, Verdict
from revoker.rules import check_cutoffs
from revoker.store.keys import tag_and_start
from revoker.tokens.claims import IntrospectionResponse
from revoker.tokens.refresh_tokens import RefreshToken


async def introspect(sessions: SessionServices, text: str, caller: Caller) -> bytes | None:
    """The answer for a refresh token that can be used now, read without using it; None for any other.

    Only its own client, or a back end that begins sessions, gets it: a gateway that took a refresh token for
    an access token would let it through (RFC 7662 §2.1). ``token_type`` is left out for the same reason, and
    ``exp`` is when the session ends if it is not used.
    """
    token = sessions.refresh_tokens.read(text)
    if token is None or sessions.issuer.iss not in caller.issuers:
        return None
    if caller.client_id != token.client_id and ("sessions" not in caller.scopes or caller.client_id):
        return None
    session = await sessions.reader.peek(token.sid)
    if session is None or not await _is_usable(sessions, session, token):
        if (tag_start := tag_and_start(token.sid)) is not None:
            # raises where the session may be missing because its data was lost
            await sessions.cutoffs.beyond_user(token.client_id, tag_start[0])
        return None
    if not await _is_active(sessions, session):
        return None
    return msgspec.json.encode(
        IntrospectionResponse(
            active=True,
            client_id=session.client_id,
            exp=sessions.reader.expiry(session) // 1000,
            sub=session.sub,
            iss=sessions.issuer.iss,
            sid=session.sid,
            scope=session.scope or None,
        )
    )


async def _is_usable(sessions: SessionServices, session: Session, token: RefreshToken) -> bool:
    """Whether a refresh token is the latest of its session, or the one before, its use unconfirmed."""
    if session.generation == token.generation + 1:
        return await sessions.reader.is_open(token.sid, token.generation)
    return session.generation == token.generation


async def _is_active(sessions: SessionServices, session: Session) -> bool:
    """Whether the session has not expired and no cutoff or block covers it, as the primary says now."""
    revocable = sessions.revocable(session.claims)
    claims = Claims(sub=session.sub, sid=session.sid, client_id=session.client_id)
    found = await sessions.cutoffs.of(
        sub=session.sub, client_id=session.client_id, revocable=revocable, sid=session.sid
    )
    return (
        sessions.reader.expiry(session) > found.now
        and check_cutoffs(claims, sessions.issuer, found.state, found.now, session.start) is Verdict.ACTIVE
    )


def revocable(call: Call[Any], text: str, sessions: SessionServices) -> RefreshToken | None:
    """A genuine refresh token that the caller may revoke; None if it is none.

    Raises:
        AccessDenied: the caller may not.
    """
    token = sessions.refresh_tokens.read(text)
    if token is None:
        return None
    if sessions.issuer.iss not in call.caller.issuers:
        raise AccessDenied("this caller may not revoke tokens of that issuer")
    if call.caller.client_id not in {"", token.client_id}:
        raise AccessDenied("this caller may revoke its own client's tokens only")
    return token


async def revoke(call: Call[Any], token: RefreshToken, sessions: SessionServices, metrics: Metrics) -> None:
    """End the session of a refresh token, spent or not, and with it its access tokens."""
    try:
        ended = await sessions.store.end(token.sid, by=call.caller.name)
    except Unconfirmed as error:
        error.about = {"sid": token.sid, "client_id": token.client_id}
        raise
    if ended:
        metrics.sessions.labels("ended").inc()
        call.audit("session_ended", sid=token.sid, client_id=token.client_id)
