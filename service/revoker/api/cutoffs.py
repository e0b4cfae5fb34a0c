"""``POST /revoke-user``, ``-session``, ``-client``, ``-claim`` and ``-issuer``: move a cutoff."""

from typing import Any

import msgspec

from revoker.api.dry_run import DryRun, DryRuns
from revoker.api.endpoint import Call, Endpoint
from revoker.api.fields import NumericDate, Reason, Text, numeric_date_ms
from revoker.api.receipts import Edges, Receipts, WaitsForEdges
from revoker.api.session_services import SessionServices
from revoker.errors import AccessDenied, InvalidRequest
from revoker.models import Issuer
from revoker.rules import revocable_value
from revoker.store.keys import tag_and_start
from revoker.store.revocations import Revocations
from revoker.store.store import Store


class RevokeUser(WaitsForEdges, frozen=True, kw_only=True):
    """Log a user out everywhere, or everywhere but in one session.

    ``iss`` is needed where ``except_sid`` has the form of a session held by this service (38 characters of
    base64url) and the default is another issuer.
    """

    sub: Text
    iss: Text | None = None
    before: NumericDate | None = None
    dry_run: bool = False
    except_sid: Text | None = None
    reason: Reason | None = None


class RevokeSession(WaitsForEdges, frozen=True, kw_only=True):
    """End one session.

    ``iss`` is needed where ``sid`` has the form of a session held by this service (38 characters of
    base64url) and the default is another issuer.
    """

    sid: Text
    iss: Text | None = None
    before: NumericDate | None = None
    dry_run: bool = False
    reason: Reason | None = None


class RevokeClient(WaitsForEdges, frozen=True, kw_only=True):
    """Revoke everything that one client was given."""

    client_id: Text
    iss: Text | None = None
    before: NumericDate | None = None
    dry_run: bool = False
    reason: Reason | None = None


class RevokeClaim(WaitsForEdges, frozen=True, kw_only=True):
    """Revoke everything whose claim has a value, or has it among others.

    ``claim`` is one that is revocable by the settings of the issuer. A number is the same value as its text.
    """

    claim: Text
    value: Text | int | float
    iss: Text | None = None
    before: NumericDate | None = None
    dry_run: bool = False
    reason: Reason | None = None


class RevokeIssuer(WaitsForEdges, frozen=True, kw_only=True):
    """Revoke every token and session of one issuer: all of its users are logged out."""

    iss: Text
    before: NumericDate | None = None
    dry_run: bool = False
    reason: Reason | None = None


class UserCutoff(msgspec.Struct, frozen=True, omit_defaults=True):
    """The cutoff in force: it covers no token whose ``iat`` is greater than ``iat_after``.

    With ``dry_run`` in the request nothing has changed, and this is the cutoff that would be in force.
    """

    iss: str
    sub: str
    cutoff: NumericDate
    iat_after: NumericDate
    dry_run: DryRun | None = None
    edges: Edges | None = None


class SessionCutoff(msgspec.Struct, frozen=True, omit_defaults=True):
    """As ``UserCutoff``, for a session."""

    iss: str
    sid: str
    cutoff: NumericDate
    iat_after: NumericDate
    dry_run: DryRun | None = None
    edges: Edges | None = None


class ClientCutoff(msgspec.Struct, frozen=True, omit_defaults=True):
    """As ``UserCutoff``, for a client."""

    iss: str
    client_id: str
    cutoff: NumericDate
    iat_after: NumericDate
    dry_run: DryRun | None = None
    edges: Edges | None = None


class ClaimCutoff(msgspec.Struct, frozen=True, omit_defaults=True):
    """As ``UserCutoff``, for the value of a claim, as it is compared: a text, for ``email`` case-folded."""

    iss: str
    claim: str
    value: str
    cutoff: NumericDate
    iat_after: NumericDate
    dry_run: DryRun | None = None
    edges: Edges | None = None


class IssuerCutoff(msgspec.Struct, frozen=True, omit_defaults=True):
    """As ``UserCutoff``, for everything of an issuer."""

    iss: str
    cutoff: NumericDate
    iat_after: NumericDate
    dry_run: DryRun | None = None
    edges: Edges | None = None


async def revoke_user(
    call: Call[RevokeUser],
    *,
    revocations: Revocations,
    sessions: SessionServices | None,
    dry_runs: DryRuns,
    receipts: Receipts,
) -> UserCutoff:
    """Log a user out everywhere, or everywhere but in one session."""
    body = call.body
    issuer = call.issuer(body.iss)
    _refuse_ambiguous_session(call, issuer, sessions, sid=body.except_sid, member="except_sid")
    before = numeric_date_ms(body.before, "before")
    if body.dry_run:
        predicted = await dry_runs.revoke_user(issuer, body.sub, before=before, except_sid=body.except_sid)
        _log_dry_run(call, issuer, sub=body.sub)
        return UserCutoff(issuer.iss, body.sub, *_dates(issuer, predicted.date), predicted.dry_run)
    cutoff = await revocations.revoke_user(
        issuer,
        body.sub,
        before=before,
        except_sid=body.except_sid,
        reason=body.reason or "",
        by=call.caller.name,
    )
    _log_cutoff("user_revoked", call, issuer, cutoff, sub=body.sub, except_sid=body.except_sid)
    return UserCutoff(issuer.iss, body.sub, *_dates(issuer, cutoff), edges=await receipts.of(call))


async def revoke_session(
    call: Call[RevokeSession],
    *,
    revocations: Revocations,
    sessions: SessionServices | None,
    dry_runs: DryRuns,
    receipts: Receipts,
) -> SessionCutoff:
    """End one session, of this service or of another issuer."""
    body = call.body
    issuer = call.issuer(body.iss)
    _refuse_ambiguous_session(call, issuer, sessions, sid=body.sid, member="sid")
    before = numeric_date_ms(body.before, "before")
    if body.dry_run:
        predicted = await dry_runs.revoke_session(issuer, body.sid, before=before)
        _log_dry_run(call, issuer, sid=body.sid)
        return SessionCutoff(issuer.iss, body.sid, *_dates(issuer, predicted.date), predicted.dry_run)
    cutoff = await revocations.revoke_session(
        issuer,
        body.sid,
        before=before,
        reason=body.reason or "",
        by=call.caller.name,
    )
    _log_cutoff("session_revoked", call, issuer, cutoff, sid=body.sid)
    return SessionCutoff(issuer.iss, body.sid, *_dates(issuer, cutoff), edges=await receipts.of(call))


async def revoke_client(
    call: Call[RevokeClient], *, revocations: Revocations, dry_runs: DryRuns, receipts: Receipts
) -> ClientCutoff:
    """Revoke what a client was given; a bound caller may name its own client only."""
    body = call.body
    if call.caller.client_id not in {"", body.client_id}:
        raise AccessDenied("this caller may revoke its own client only")
    issuer = call.caller.require_issuer(body.iss)
    before = numeric_date_ms(body.before, "before")
    if body.dry_run:
        unbound = not call.caller.client_id  # one that is bound may not have the whole store searched
        predicted = await dry_runs.revoke_client(issuer, body.client_id, before=before, counts=unbound)
        _log_dry_run(call, issuer, client_id=body.client_id)
        return ClientCutoff(issuer.iss, body.client_id, *_dates(issuer, predicted.date), predicted.dry_run)
    cutoff = await revocations.revoke_client(
        issuer,
        body.client_id,
        before=before,
        reason=body.reason or "",
        by=call.caller.name,
    )
    _log_cutoff("client_revoked", call, issuer, cutoff, client_id=body.client_id)
    return ClientCutoff(issuer.iss, body.client_id, *_dates(issuer, cutoff), edges=await receipts.of(call))


async def revoke_claim(
    call: Call[RevokeClaim], *, revocations: Revocations, store: Store, dry_runs: DryRuns, receipts: Receipts
) -> ClaimCutoff:
    """Revoke everything whose claim has a value.

    The first revocation by a claim takes seconds: every process has noticed by then that the claim is in use.
    """
    body = call.body
    issuer = call.issuer(body.iss)
    names = () if issuer.claim_names is None else issuer.claim_names.revocable
    if body.claim not in names:
        given = f"only {', '.join(names)}" if names else "none"
        raise InvalidRequest(f"claim is not revocable at issuer {issuer.name}: {given} by its settings")
    value = revocable_value(body.claim, body.value)
    if value is None:
        raise InvalidRequest("value can't be read")
    before = numeric_date_ms(body.before, "before")
    if body.dry_run:
        predicted = await dry_runs.revoke_claim(issuer, body.claim, value, before=before)
        _log_dry_run(call, issuer, claim=body.claim, value=value)
        dates = _dates(issuer, predicted.date)
        return ClaimCutoff(issuer.iss, body.claim, value, *dates, predicted.dry_run)
    await store.issuer_records.record_claim(issuer, body.claim)
    cutoff = await revocations.revoke_claim(
        issuer,
        body.claim,
        value,
        before=before,
        reason=body.reason or "",
        by=call.caller.name,
    )
    _log_cutoff("claim_revoked", call, issuer, cutoff, claim=body.claim, value=value)
    return ClaimCutoff(issuer.iss, body.claim, value, *_dates(issuer, cutoff), edges=await receipts.of(call))


async def revoke_issuer(
    call: Call[RevokeIssuer], *, revocations: Revocations, dry_runs: DryRuns, receipts: Receipts
) -> IssuerCutoff:
    """Revoke everything of an issuer."""
    body = call.body
    issuer = call.issuer(body.iss)
    before = numeric_date_ms(body.before, "before")
    if body.dry_run:
        predicted = await dry_runs.revoke_issuer(issuer, before=before)
        _log_dry_run(call, issuer)
        return IssuerCutoff(issuer.iss, *_dates(issuer, predicted.date), predicted.dry_run)
    cutoff = await revocations.revoke_issuer(
        issuer, before=before, reason=body.reason or "", by=call.caller.name
    )
    _log_cutoff("issuer_revoked", call, issuer, cutoff)
    return IssuerCutoff(issuer.iss, *_dates(issuer, cutoff), edges=await receipts.of(call))


def _refuse_ambiguous_session(
    call: Call[Any], issuer: Issuer, sessions: SessionServices | None, *, sid: str | None, member: str
) -> None:
    """Refuse a ``sid`` of this service where ``iss`` is left out and the default is another issuer.

    Otherwise the cutoff would be stored for the other issuer, and the session would continue.
    """
    if call.body.iss is not None or sid is None or issuer.own or sessions is None:
        return
    if tag_and_start(sid) is not None and sessions.issuer.iss in call.caller.issuers:
        raise InvalidRequest(f"iss is needed: {member} has the form of a session held by this service")


def _dates(issuer: Issuer, cutoff_ms: int) -> tuple[float, float]:
    """The cutoff, and the latest ``iat`` that it covers; sessions of this service need no clock skew."""
    skew_ms = 0 if issuer.own else issuer.cutoff_margin * 1000
    return cutoff_ms / 1000, max(0, cutoff_ms + skew_ms) / 1000


def _log_dry_run(call: Call[Any], issuer: Issuer, **of: str) -> None:
    call.audit("revocation_tried", iss=issuer.iss, **of)


def _log_cutoff(event: str, call: Call[Any], issuer: Issuer, cutoff_ms: int, **of: str | None) -> None:
    call.audit(event, iss=issuer.iss, cutoff=cutoff_ms / 1000, reason=call.body.reason, **of)


ENDPOINTS = (
    Endpoint(
        path="/revoke-user",
        scope="revoke",
        body=RevokeUser,
        answer=UserCutoff,
        summary="Log a user out everywhere",
        handle=revoke_user,
        errors=(AccessDenied,),
    ),
    Endpoint(
        path="/revoke-session",
        scope="revoke",
        body=RevokeSession,
        answer=SessionCutoff,
        summary="End one session",
        handle=revoke_session,
        errors=(AccessDenied,),
    ),
    Endpoint(
        path="/revoke-client",
        scope="revoke",
        body=RevokeClient,
        answer=ClientCutoff,
        summary="Revoke what a client was given",
        handle=revoke_client,
        errors=(AccessDenied,),
    ),
    Endpoint(
        path="/revoke-claim",
        scope="revoke",
        body=RevokeClaim,
        answer=ClaimCutoff,
        summary="Revoke by the value of a claim",
        handle=revoke_claim,
        errors=(AccessDenied,),
    ),
    Endpoint(
        path="/revoke-issuer",
        scope="revoke-all",
        body=RevokeIssuer,
        answer=IssuerCutoff,
        summary="Revoke everything of an issuer",
        handle=revoke_issuer,
        errors=(AccessDenied,),
    ),
)
