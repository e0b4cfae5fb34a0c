"""``POST /revoke-key``: a signing key was stolen; nothing under it is ever active again."""

from typing import Annotated

import msgspec
import structlog

from revoker.api.cutoffs import refuse_bound
from revoker.api.endpoint import Call, Endpoint
from revoker.api.fields import NumericDate, Reason, Text
from revoker.api.parts import Parts
from revoker.errors import InvalidRequest

_audit = structlog.get_logger("audit")


class RevokeKey(msgspec.Struct, frozen=True, kw_only=True):
    """Revoke a key for good; a thief writes any ``iat``, so ``before`` is refused."""

    kid: Text
    iss: Text
    reason: Reason | None = None
    before: Annotated[
        NumericDate | None,
        msgspec.Meta(description="refused: a key is revoked for good", extra_json_schema={"type": "null"}),
    ] = None


class RevokedKey(msgspec.Struct, frozen=True):
    """When the key was first revoked."""

    iss: str
    kid: str
    revoked_at: NumericDate


async def revoke_key(parts: Parts, call: Call[RevokeKey]) -> RevokedKey:
    asked = call.body
    refuse_bound(call)
    if asked.before is not None:
        raise InvalidRequest("a key is revoked for good: before is not taken")
    issuer = call.caller.require_issuer(asked.iss)
    at = await parts.store.revocations.revoke_key(issuer, asked.kid, reason=asked.reason or "")
    _audit.info(
        "key_revoked",
        caller=call.caller.name,
        peer=call.peer,
        iss=issuer.iss,
        kid=asked.kid,
        reason=asked.reason,
    )
    return RevokedKey(issuer.iss, asked.kid, at / 1000)


ENDPOINTS = (
    Endpoint(
        path="/revoke-key",
        scope="revoke-all",
        body=RevokeKey,
        answer=RevokedKey,
        summary="Revoke a signing key for good",
        handle=revoke_key,
    ),
)
