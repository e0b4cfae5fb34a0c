"""What ``/introspect`` and ``/revoke`` do with a refresh token of a session kept here."""

from typing import Literal

import msgspec
import structlog

from revoker.api.parts import Kept, Parts
from revoker.auth import Caller
from revoker.errors import AccessDenied, Unconfirmed
from revoker.models import Claims, Session, Verdict
from revoker.rules import cut_off
from revoker.store.keys import tag_and_start
from revoker.tokens.refresh_tokens import RefreshToken

_audit = structlog.get_logger("audit")


class ActiveRefreshToken(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 7662 §2.2 without ``token_type``: it is no access token. ``exp`` is where idleness ends it."""

    active: Literal[True]
    client_id: str
    exp: int
    sub: str
    iss: str
    sid: str
    scope: str | None = None


async def introspect(parts: Parts, kept: Kept, token: str, caller: Caller) -> bytes | None:
    """The answer on a refresh token that counts now, read without using it; None for any other.

    Only its own client, or a back end that begins sessions, is told so: a gateway that took it for an
    access token would let it through (RFC 7662 §2.1).
    """
    shown = kept.refresh_tokens.read(token)
    if shown is None or kept.issuer.iss not in caller.issuers:
        return None
    if caller.client_id != shown.client_id and ("sessions" not in caller.scopes or caller.client_id):
        return None
    session = await kept.sessions.peek(shown.sid)
    if session is None or not await _counts(kept, session, shown):
        if (place := tag_and_start(shown.sid)) is not None:  # where data was lost, it says nothing
            await parts.store.lookups.find(parts.store.keys.of_client(kept.issuer, shown.client_id, place[0]))
        return None
    if await verdict(parts, kept, session) is not Verdict.ACTIVE:
        return None
    return msgspec.json.encode(
        ActiveRefreshToken(
            active=True,
            client_id=session.client_id,
            exp=_end(kept, session) // 1000,
            sub=session.sub,
            iss=kept.issuer.iss,
            sid=session.sid,
            scope=session.scope or None,
        )
    )


async def _counts(kept: Kept, session: Session, shown: RefreshToken) -> bool:
    """Whether a refresh token is the one of the session that counts, or its use is not confirmed."""
    if session.generation == shown.generation + 1:
        return await kept.sessions.is_open(shown.sid, shown.generation)
    return session.generation == shown.generation


async def verdict(parts: Parts, kept: Kept, session: Session) -> Verdict:
    """What time, cutoffs and blocks say about a session, as the primary says now."""
    claims = Claims(sub=session.sub, sid=session.sid, client_id=session.client_id)
    found = await parts.store.lookups.find(parts.store.keys.of_token(claims, kept.issuer))
    if _end(kept, session) <= found.now:
        return Verdict.EXPIRED
    return cut_off(claims, kept.issuer, found.standing, found.now, session.start)


def _end(kept: Kept, session: Session) -> int:
    """When the session ends if it is not used again, in ms."""
    return min(session.ends, session.used + kept.idle_timeout * 1000)


async def revoke(parts: Parts, kept: Kept, token: str, caller: Caller, peer: str) -> None:
    """End the session of a genuine refresh token, spent or not, and with it its access tokens."""
    shown = kept.refresh_tokens.read(token)
    if shown is None:
        return
    if kept.issuer.iss not in caller.issuers:
        raise AccessDenied("this caller may not revoke tokens of that issuer")
    if caller.client_id not in {"", shown.client_id}:
        raise AccessDenied("this caller may revoke its own client's tokens only")
    try:
        ended = await kept.sessions.end(shown.sid)
    except Unconfirmed as error:
        error.about = {"sid": shown.sid, "client_id": shown.client_id}
        raise
    if ended:
        parts.metrics.sessions.labels("ended").inc()
        _audit.info("session_ended", caller=caller.name, peer=peer, sid=shown.sid, client_id=shown.client_id)
