"""``POST /revoke`` (RFC 7009): this one token stops being valid now."""

from typing import Annotated, Any

import msgspec
import structlog

from revoker.api import refresh_tokens
from revoker.api.endpoint import Call, Endpoint
from revoker.api.fields import NumericDate, Text, milliseconds
from revoker.api.parts import Parts
from revoker.errors import (
    AccessDenied,
    InvalidRequest,
    InvalidToken,
    KeysUnavailable,
    Unconfirmed,
    UnsupportedTokenType,
)
from revoker.models import Claims, Issuer
from revoker.rules import SAFETY_S
from revoker.tokens.parsing import parse_token
from revoker.tokens.refresh_tokens import looks_like

_audit = structlog.get_logger("audit")


class Revoke(msgspec.Struct, frozen=True, kw_only=True):
    """A token by its text, or by ``jti``; without ``exp`` it is kept as long as any token can live."""

    token: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    token_type_hint: str | None = None
    jti: Text | None = None
    iss: Text | None = None
    exp: NumericDate | None = None


async def revoke(parts: Parts, call: Call[Revoke]) -> None:
    """Revoke; a token that is not genuine stores nothing and is answered alike (RFC 7009 §2.2)."""
    asked = call.body
    milliseconds(asked.exp, "exp")
    if asked.token is not None and asked.jti is not None:
        raise InvalidRequest("token and jti are both there: one of the two is wanted")
    kept = parts.kept
    if asked.token is not None and kept is not None and looks_like(asked.token):
        await refresh_tokens.revoke(parts, kept, asked.token, call.caller, call.peer)
    elif asked.token is not None:
        await _revoke_token(parts, call, asked.token)
    elif asked.jti is not None:
        await _revoke_jti(parts, call, asked.jti)
    else:
        raise InvalidRequest("token is missing, or jti")


async def _revoke_token(parts: Parts, call: Call[Revoke], token: str) -> None:
    try:
        verified = await parts.verifier.verify_origin(token)
    except InvalidToken:
        return
    except KeysUnavailable:
        if _has_ended(parts, token):
            return
        raise
    claims, caller = verified.claims, call.caller
    if claims.iss not in caller.issuers:
        raise AccessDenied("this caller may not revoke tokens of that issuer")
    if caller.client_id and caller.client_id != (claims.client_id or claims.azp):
        raise AccessDenied("this caller may revoke its own client's tokens only")
    if not claims.jti:
        raise UnsupportedTokenType("a token without jti can't be revoked by itself")
    await _store(parts, call, verified.issuer, claims)


def _has_ended(parts: Parts, token: str) -> bool:
    """Whether a token expired so long ago that its revocation would not be stored any more.

    Such a token is inactive for good, whoever signed it. Its key may have left the key set since, and
    who revokes it on a late logout must not be told to try again for ever.
    """
    payload = parse_token(token).payload
    exp: Any = payload.get("exp")
    leeway = parts.issuers[payload["iss"]].leeway
    now = parts.store.clocks.store_ms
    return now is not None and type(exp) in (int, float) and bool((exp + leeway + SAFETY_S) * 1000 < now)


async def _revoke_jti(parts: Parts, call: Call[Revoke], jti: str) -> None:
    if call.caller.client_id:
        raise AccessDenied("this caller may revoke its own client's tokens only, by token")
    issuer = call.caller.require_issuer(call.body.iss)
    await _store(parts, call, issuer, Claims(jti=jti, exp=call.body.exp), bounded=True)


async def _store(
    parts: Parts, call: Call[Revoke], issuer: Issuer, claims: Claims, *, bounded: bool = False
) -> None:
    assert claims.jti is not None  # noqa: S101  # both callers have looked
    try:
        at = await parts.store.revocations.revoke_token(issuer, claims.jti, claims.exp, bounded=bounded)
    except Unconfirmed as error:
        error.about = {"iss": issuer.iss, "jti": claims.jti, "sub": claims.sub, "exp": claims.exp}
        raise
    _audit.info(
        "token_revoked",
        caller=call.caller.name,
        peer=call.peer,
        iss=issuer.iss,
        jti=claims.jti,
        sub=claims.sub,
        exp=claims.exp,
        revoked_at=at / 1000,
    )


ENDPOINTS = (
    Endpoint(
        path="/revoke",
        scope="revoke",
        body=Revoke,
        answer=None,
        summary="Revoke one token (RFC 7009)",
        handle=revoke,
    ),
)
