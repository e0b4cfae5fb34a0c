"""``POST /block-user`` and ``/unblock-user``: whatever the identity provider goes on minting."""

import msgspec
import structlog

from revoker.api.cutoffs import refuse_bound
from revoker.api.endpoint import Call, Endpoint
from revoker.api.fields import NumericDate, Reason, Text, milliseconds
from revoker.api.parts import Parts
from revoker.rules import FOREVER_MS

_audit = structlog.get_logger("audit")


class BlockUser(msgspec.Struct, frozen=True, kw_only=True):
    """Let nothing of a user's be active, until a date or for good."""

    sub: Text
    iss: Text | None = None
    until: NumericDate | None = None
    reason: Reason | None = None


class UnblockUser(msgspec.Struct, frozen=True, kw_only=True):
    """End a block; cutoffs stay as they are."""

    sub: Text
    iss: Text | None = None
    reason: Reason | None = None


class Block(msgspec.Struct, frozen=True):
    """The block that stands: it never gets shorter. ``until`` null: for good."""

    iss: str
    sub: str
    blocked: bool
    until: NumericDate | None


async def block_user(parts: Parts, call: Call[BlockUser]) -> Block:
    asked = call.body
    refuse_bound(call)
    issuer = call.caller.require_issuer(asked.iss)
    until = milliseconds(asked.until, "until")
    stands = await parts.store.revocations.block_user(
        issuer, asked.sub, until=until, reason=asked.reason or ""
    )
    end = None if stands >= FOREVER_MS else stands / 1000
    _audit.info(
        "user_blocked",
        caller=call.caller.name,
        peer=call.peer,
        iss=issuer.iss,
        sub=asked.sub,
        until=end,
        reason=asked.reason,
    )
    return Block(issuer.iss, asked.sub, True, end)


async def unblock_user(parts: Parts, call: Call[UnblockUser]) -> Block:
    asked = call.body
    refuse_bound(call)
    issuer = call.caller.require_issuer(asked.iss)
    await parts.store.revocations.unblock_user(issuer, asked.sub)
    _audit.info(
        "user_unblocked",
        caller=call.caller.name,
        peer=call.peer,
        iss=issuer.iss,
        sub=asked.sub,
        reason=asked.reason,
    )
    return Block(issuer.iss, asked.sub, False, None)


ENDPOINTS = (
    Endpoint(
        path="/block-user",
        scope="revoke",
        body=BlockUser,
        answer=Block,
        summary="Let nothing of a user's be active",
        handle=block_user,
    ),
    Endpoint(
        path="/unblock-user",
        scope="revoke",
        body=UnblockUser,
        answer=Block,
        summary="End a user's block",
        handle=unblock_user,
    ),
)
