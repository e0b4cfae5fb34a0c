"""``POST /revoke-user``, ``/revoke-session``, ``/revoke-client``, ``/revoke-issuer``: cutoffs."""

from typing import Any

import msgspec
import structlog

from revoker.api.endpoint import Call, Endpoint
from revoker.api.fields import NumericDate, Reason, Text, milliseconds
from revoker.api.parts import Parts
from revoker.errors import AccessDenied, InvalidRequest
from revoker.models import Issuer
from revoker.store.keys import tag_and_start

_audit = structlog.get_logger("audit")


class RevokeUser(msgspec.Struct, frozen=True, kw_only=True):
    """Log a user out everywhere, or everywhere but in one session.

    ``iss`` is needed where ``except_sid`` may be a session kept here and the default is another issuer.
    """

    sub: Text
    iss: Text | None = None
    before: NumericDate | None = None
    except_sid: Text | None = None
    reason: Reason | None = None


class RevokeSession(msgspec.Struct, frozen=True, kw_only=True):
    """End one session; ``iss`` is needed where it may be one kept here and the default is another issuer."""

    sid: Text
    iss: Text | None = None
    before: NumericDate | None = None
    reason: Reason | None = None


class RevokeClient(msgspec.Struct, frozen=True, kw_only=True):
    """Revoke everything that one client was given."""

    client_id: Text
    iss: Text | None = None
    before: NumericDate | None = None
    reason: Reason | None = None


class RevokeIssuer(msgspec.Struct, frozen=True, kw_only=True):
    """Revoke everything that one issuer made: it logs out the world."""

    iss: Text
    before: NumericDate | None = None
    reason: Reason | None = None


class UserCutoff(msgspec.Struct, frozen=True):
    """The cutoff that stands now; a token with an ``iat`` greater than ``iat_after`` is not covered."""

    iss: str
    sub: str
    cutoff: NumericDate
    iat_after: NumericDate


class SessionCutoff(msgspec.Struct, frozen=True):
    """As :class:`UserCutoff`."""

    iss: str
    sid: str
    cutoff: NumericDate
    iat_after: NumericDate


class ClientCutoff(msgspec.Struct, frozen=True):
    """As :class:`UserCutoff`."""

    iss: str
    client_id: str
    cutoff: NumericDate
    iat_after: NumericDate


class IssuerCutoff(msgspec.Struct, frozen=True):
    """As :class:`UserCutoff`."""

    iss: str
    cutoff: NumericDate
    iat_after: NumericDate


async def revoke_user(parts: Parts, call: Call[RevokeUser]) -> UserCutoff:
    asked = call.body
    issuer = _issuer(call, asked.iss)
    _refuse_unclear_session(parts, call, issuer, asked.except_sid, "except_sid")
    cutoff = await parts.store.revocations.revoke_user(
        issuer,
        asked.sub,
        before=milliseconds(asked.before, "before"),
        except_sid=asked.except_sid,
        reason=asked.reason or "",
    )
    _audited("user_revoked", call, issuer, cutoff, sub=asked.sub, except_sid=asked.except_sid)
    return UserCutoff(issuer.iss, asked.sub, *_dates(issuer, cutoff))


async def revoke_session(parts: Parts, call: Call[RevokeSession]) -> SessionCutoff:
    asked = call.body
    issuer = _issuer(call, asked.iss)
    _refuse_unclear_session(parts, call, issuer, asked.sid, "sid")
    cutoff = await parts.store.revocations.revoke_session(
        issuer, asked.sid, before=milliseconds(asked.before, "before"), reason=asked.reason or ""
    )
    _audited("session_revoked", call, issuer, cutoff, sid=asked.sid)
    return SessionCutoff(issuer.iss, asked.sid, *_dates(issuer, cutoff))


async def revoke_client(parts: Parts, call: Call[RevokeClient]) -> ClientCutoff:
    asked = call.body
    bound = call.caller.client_id
    if bound and asked.client_id != bound:
        raise AccessDenied("this caller may revoke its own client only")
    issuer = call.caller.require_issuer(asked.iss)
    cutoff = await parts.store.revocations.revoke_client(
        issuer, asked.client_id, before=milliseconds(asked.before, "before"), reason=asked.reason or ""
    )
    _audited("client_revoked", call, issuer, cutoff, client_id=asked.client_id)
    return ClientCutoff(issuer.iss, asked.client_id, *_dates(issuer, cutoff))


async def revoke_issuer(parts: Parts, call: Call[RevokeIssuer]) -> IssuerCutoff:
    asked = call.body
    issuer = _issuer(call, asked.iss)
    cutoff = await parts.store.revocations.revoke_issuer(
        issuer, before=milliseconds(asked.before, "before"), reason=asked.reason or ""
    )
    _audited("issuer_revoked", call, issuer, cutoff)
    return IssuerCutoff(issuer.iss, *_dates(issuer, cutoff))


def _issuer(call: Call[Any], iss: str | None) -> Issuer:
    refuse_bound(call)
    return call.caller.require_issuer(iss)


def _refuse_unclear_session(
    parts: Parts, call: Call[Any], issuer: Issuer, sid: str | None, name: str
) -> None:
    """Refuse a session that looks like one kept here where ``iss`` is left out and means another issuer.

    The other issuer would be answered for, and the session would go on.
    """
    if call.body.iss is not None or sid is None or issuer.own or parts.kept is None:
        return
    if tag_and_start(sid) is not None and parts.kept.issuer.iss in call.caller.issuers:
        raise InvalidRequest(f"iss is needed: {name} has the form of a session kept here")


def refuse_bound(call: Call[Any]) -> None:
    """A caller bound to a client revokes that client's tokens and nothing wider."""
    if call.caller.client_id:
        raise AccessDenied("this caller may revoke its own client's tokens only")


def _dates(issuer: Issuer, cutoff_ms: int) -> tuple[float, float]:
    """For sessions kept here the start is compared, so no margin for the issuer's clock is needed."""
    skew_ms = 0 if issuer.own else issuer.clock_skew * 1000
    return cutoff_ms / 1000, (cutoff_ms + skew_ms) / 1000


def _audited(event: str, call: Call[Any], issuer: Issuer, cutoff_ms: int, **of: str | None) -> None:
    _audit.info(
        event,
        caller=call.caller.name,
        peer=call.peer,
        iss=issuer.iss,
        cutoff=cutoff_ms / 1000,
        reason=call.body.reason,
        **of,
    )


ENDPOINTS = (
    Endpoint(
        path="/revoke-user",
        scope="revoke",
        body=RevokeUser,
        answer=UserCutoff,
        summary="Log a user out everywhere",
        handle=revoke_user,
    ),
    Endpoint(
        path="/revoke-session",
        scope="revoke",
        body=RevokeSession,
        answer=SessionCutoff,
        summary="End one session",
        handle=revoke_session,
    ),
    Endpoint(
        path="/revoke-client",
        scope="revoke",
        body=RevokeClient,
        answer=ClientCutoff,
        summary="Revoke what a client was given",
        handle=revoke_client,
    ),
    Endpoint(
        path="/revoke-issuer",
        scope="revoke-all",
        body=RevokeIssuer,
        answer=IssuerCutoff,
        summary="Revoke everything of an issuer",
        handle=revoke_issuer,
    ),
)
