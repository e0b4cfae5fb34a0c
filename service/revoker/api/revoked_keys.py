"""``POST /revoke-key``: after a signing key was stolen, no token that it signed is active again."""

from typing import Annotated

import msgspec

from revoker.api.dry_run import DryRun, DryRuns
from revoker.api.endpoint import Call, Endpoint
from revoker.api.fields import NumericDate, Reason, Text
from revoker.api.receipts import Edges, Receipts, WaitsForEdges
from revoker.errors import AccessDenied, InvalidRequest
from revoker.store.revocations import Revocations


class RevokeKey(WaitsForEdges, frozen=True, kw_only=True):
    """Revoke a key for good; a thief writes any ``iat``, so ``before`` is refused."""

    kid: Text
    iss: Text
    reason: Reason | None = None
    dry_run: bool = False
    before: Annotated[
        NumericDate | None,
        msgspec.Meta(description="refused: a key is revoked for good", extra_json_schema={"type": "null"}),
    ] = None


class RevokedKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """When the key was first revoked."""

    iss: str
    kid: str
    revoked_at: NumericDate
    dry_run: DryRun | None = None
    edges: Edges | None = None


async def revoke_key(
    call: Call[RevokeKey], *, revocations: Revocations, dry_runs: DryRuns, receipts: Receipts
) -> RevokedKey:
    """Revoke a signing key for good."""
    body = call.body
    call.refuse_bound_caller()
    if body.before is not None:
        raise InvalidRequest("a key is revoked for good: before is not allowed")
    issuer = call.caller.require_issuer(body.iss)
    if body.dry_run:
        predicted = await dry_runs.revoke_key(issuer, body.kid)
        call.audit("revocation_tried", iss=issuer.iss, kid=body.kid)
        return RevokedKey(issuer.iss, body.kid, predicted.date / 1000, predicted.dry_run)
    revoked_at = await revocations.revoke_key(issuer, body.kid, reason=body.reason or "", by=call.caller.name)
    call.audit("key_revoked", iss=issuer.iss, kid=body.kid, reason=body.reason)
    return RevokedKey(issuer.iss, body.kid, revoked_at / 1000, edges=await receipts.of(call))


ENDPOINTS = (
    Endpoint(
        path="/revoke-key",
        scope="revoke-all",
        body=RevokeKey,
        answer=RevokedKey,
        summary="Revoke a signing key for good",
        handle=revoke_key,
        errors=(AccessDenied,),
    ),
)
