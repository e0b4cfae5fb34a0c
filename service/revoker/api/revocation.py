"""``POST /revoke`` (RFC 7009): this one token stops being valid now."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from revoker.api import refresh_tokens
from revoker.api.dry_run import NO_EFFECT, DryRun, DryRuns
from revoker.api.endpoint import Call, Endpoint
from revoker.api.fields import NumericDate, Reason, Text, numeric_date_ms
from revoker.api.receipts import Edges, Receipts, WaitsForEdges
from revoker.api.session_services import SessionServices
from revoker.auth import Caller
from revoker.errors import (
    AccessDenied,
    InvalidRequest,
    InvalidToken,
    KeysUnavailable,
    Unconfirmed,
    UnsupportedTokenType,
)
from revoker.metrics import Metrics
from revoker.models import Claims, Issuer
from revoker.rules import SAFETY_S
from revoker.store.consistency.clocks import Clocks
from revoker.store.revocations import Revocations
from revoker.tokens.parsing import parse_token
from revoker.tokens.refresh_tokens import looks_like
from revoker.tokens.verifying import Verifier


class Revoke(WaitsForEdges, frozen=True, kw_only=True):
    """A token by its text, or by ``jti``; without ``exp`` it is stored as long as any token can live."""

    token: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    token_type_hint: str | None = None
    jti: Text | None = None
    iss: Text | None = None
    exp: NumericDate | None = None
    reason: Reason | None = None
    dry_run: bool = False


class TokenRevocation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a request with ``dry_run`` or ``wait_edges`` is answered; otherwise the body is empty."""

    dry_run: DryRun | None = None
    edges: Edges | None = None


async def revoke(
    call: Call[Revoke],
    *,
    revocations: Revocations,
    verifier: Verifier,
    sessions: SessionServices | None,
    issuers: Mapping[str, Issuer],
    clocks: Clocks,
    metrics: Metrics,
    dry_runs: DryRuns,
    receipts: Receipts,
) -> TokenRevocation | None:
    """Revoke a token; one that is not genuine stores nothing and is answered alike (RFC 7009 §2.2)."""
    body = call.body
    if body.wait_edges is not False and call.caller.client_id:
        raise AccessDenied("this caller may revoke its own client's tokens only, and may not use wait_edges")
    numeric_date_ms(body.exp, "exp")
    if body.token is not None and body.jti is not None:
        raise InvalidRequest("token and jti are both there: one of the two is needed")
    predicted: DryRun | None = NO_EFFECT
    if body.token is not None and sessions is not None and looks_like(body.token):
        predicted = await _end_session(call, body.token, sessions, metrics, dry_runs)
    elif (found := await _token_of(call, verifier, issuers, clocks)) is not None:
        predicted = await _store(call, revocations, dry_runs, *found)
    if body.dry_run:
        return TokenRevocation(dry_run=predicted)
    edges = await receipts.of(call, stored=predicted is None)
    return None if edges is None else TokenRevocation(edges=edges)


async def _token_of(
    call: Call[Revoke], verifier: Verifier, issuers: Mapping[str, Issuer], clocks: Clocks
) -> tuple[Issuer, Claims] | None:
    """The token that the request names; None where there is nothing to revoke."""
    body = call.body
    if body.token is not None:
        try:
            verified = await verifier.verify_origin(body.token)
        except InvalidToken:
            return None
        except KeysUnavailable:
            if _is_forgotten(body.token, issuers, clocks.store_ms):
                return None
            raise
        _check_token(verified.claims, call.caller)
        return verified.issuer, verified.claims
    if body.jti is not None:
        if call.caller.client_id:
            raise AccessDenied("this caller may revoke its own client's tokens only, by token")
        return call.caller.require_issuer(body.iss), Claims(jti=body.jti, exp=body.exp)
    raise InvalidRequest("token is missing, or jti")


def _check_token(claims: Claims, caller: Caller) -> None:
    if claims.iss not in caller.issuers:
        raise AccessDenied("this caller may not revoke tokens of that issuer")
    if caller.client_id and caller.client_id != (claims.client_id or claims.azp):
        raise AccessDenied("this caller may revoke its own client's tokens only")
    if not claims.jti:
        raise UnsupportedTokenType("a token without jti can't be revoked by itself")


def _is_forgotten(token: str, issuers: Mapping[str, Issuer], store_now: int | None) -> bool:
    """Whether a token has expired, and by long enough that its revocation would not be stored any more.

    It is inactive for good, whoever signed it. Its key may have left the key set since: without this, a late
    logout would be answered 503 for ever.
    """
    payload = parse_token(token).payload
    exp: Any = payload.get("exp")
    leeway = issuers[payload["iss"]].leeway
    return (
        store_now is not None
        and type(exp) in (int, float)
        and bool((exp + leeway + SAFETY_S) * 1000 < store_now)
    )


async def _end_session(
    call: Call[Revoke], text: str, sessions: SessionServices, metrics: Metrics, dry_runs: DryRuns
) -> DryRun | None:
    """End the session of a refresh token; with ``dry_run`` say what that would do, as :func:`_store`."""
    token = refresh_tokens.revocable(call, text, sessions)
    if token is None:
        return NO_EFFECT
    if call.body.dry_run:
        predicted = await dry_runs.revoke_session(sessions.issuer, token.sid, before=None)
        call.audit("revocation_tried", iss=sessions.issuer.iss, sid=token.sid)
        return predicted.dry_run
    await refresh_tokens.revoke(call, token, sessions, metrics)
    return None


async def _store(
    call: Call[Revoke], revocations: Revocations, dry_runs: DryRuns, issuer: Issuer, claims: Claims
) -> DryRun | None:
    """Revoke a token, or with ``dry_run`` say what that would do."""
    assert claims.jti is not None  # noqa: S101  # checked by the caller
    bounded = call.body.token is None  # the request itself says when it expires
    if call.body.dry_run:
        predicted = await dry_runs.revoke_token(issuer, claims, bounded=bounded)
        call.audit("revocation_tried", iss=issuer.iss, jti=claims.jti)
        return predicted.dry_run
    try:
        at = await revocations.revoke_token(
            issuer,
            claims.jti,
            claims.exp,
            bounded=bounded,
            by=call.caller.name,
            reason=call.body.reason or "",
        )
    except Unconfirmed as error:
        error.about = {"iss": issuer.iss, "jti": claims.jti, "sub": claims.sub, "exp": claims.exp}
        raise
    call.audit(
        "token_revoked",
        iss=issuer.iss,
        jti=claims.jti,
        sub=claims.sub,
        exp=claims.exp,
        revoked_at=at / 1000,
        reason=call.body.reason,
    )
    return None


ENDPOINTS = (
    Endpoint(
        path="/revoke",
        scope="revoke",
        body=Revoke,
        answer=None,
        summary="Revoke one token (RFC 7009)",
        handle=revoke,
        errors=(AccessDenied, KeysUnavailable, UnsupportedTokenType),
    ),
)
