"""``POST /block-user`` and ``/unblock-user``: a blocked user has no active token, however new."""

import msgspec

from revoker.api.endpoint import Call, Endpoint
from revoker.api.fields import NumericDate, Reason, Text, numeric_date_ms
from revoker.errors import AccessDenied
from revoker.rules import FOREVER_MS
from revoker.store.revocations import Revocations


class BlockUser(msgspec.Struct, frozen=True, kw_only=True):
    """Let no token of a user be active until a date, or for good."""

    sub: Text
    iss: Text | None = None
    until: NumericDate | None = None
    reason: Reason | None = None


class UnblockUser(msgspec.Struct, frozen=True, kw_only=True):
    """End a block; cutoffs stay as they are."""

    sub: Text
    iss: Text | None = None
    reason: Reason | None = None


class UserBlock(msgspec.Struct, frozen=True):
    """The block in force: it never gets shorter. ``until`` null: for good."""

    iss: str
    sub: str
    blocked: bool
    until: NumericDate | None


async def block_user(call: Call[BlockUser], *, revocations: Revocations) -> UserBlock:
    """Block a user; an existing block that ends later stays."""
    body = call.body
    issuer = call.issuer(body.iss)
    end_ms = await revocations.block_user(
        issuer,
        body.sub,
        until=numeric_date_ms(body.until, "until"),
        reason=body.reason or "",
        by=call.caller.name,
    )
    until = None if end_ms >= FOREVER_MS else end_ms / 1000
    call.audit("user_blocked", iss=issuer.iss, sub=body.sub, until=until, reason=body.reason)
    return UserBlock(issuer.iss, body.sub, True, until)


async def unblock_user(call: Call[UnblockUser], *, revocations: Revocations) -> UserBlock:
    """End a block."""
    body = call.body
    issuer = call.issuer(body.iss)
    await revocations.unblock_user(issuer, body.sub)
    call.audit("user_unblocked", iss=issuer.iss, sub=body.sub, reason=body.reason)
    return UserBlock(issuer.iss, body.sub, False, None)


ENDPOINTS = (
    Endpoint(
        path="/block-user",
        scope="revoke",
        body=BlockUser,
        answer=UserBlock,
        summary="Block a user: no token of theirs is active",
        handle=block_user,
        errors=(AccessDenied,),
    ),
    Endpoint(
        path="/unblock-user",
        scope="revoke",
        body=UnblockUser,
        answer=UserBlock,
        summary="End a user's block",
        handle=unblock_user,
        errors=(AccessDenied,),
    ),
)
