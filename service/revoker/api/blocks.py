"""``POST /block-user`` and ``/unblock-user``: a blocked user has no active token, however new."""

import msgspec

from revoker.api.dry_run import DryRun, DryRuns
from revoker.api.endpoint import Call, Endpoint
from revoker.api.fields import NumericDate, Reason, Text, numeric_date_ms
from revoker.api.receipts import Edges, Receipts, WaitsForEdges
from revoker.errors import AccessDenied
from revoker.rules import FOREVER_MS
from revoker.store.revocations import Revocations


class BlockUser(WaitsForEdges, frozen=True, kw_only=True):
    """Let no token of a user be active until a date, or for good."""

    sub: Text
    iss: Text | None = None
    until: NumericDate | None = None
    reason: Reason | None = None
    dry_run: bool = False


class UnblockUser(WaitsForEdges, frozen=True, kw_only=True):
    """End a block; cutoffs stay as they are."""

    sub: Text
    iss: Text | None = None
    reason: Reason | None = None
    dry_run: bool = False


class UserBlock(msgspec.Struct, frozen=True, omit_defaults=True):
    """The block in force: it never gets shorter. ``until`` null: for good.

    With ``dry_run`` in the request nothing has changed, and this is the block that would be in force.
    """

    iss: str
    sub: str
    blocked: bool
    until: NumericDate | None
    dry_run: DryRun | None = None
    edges: Edges | None = None


async def block_user(
    call: Call[BlockUser], *, revocations: Revocations, dry_runs: DryRuns, receipts: Receipts
) -> UserBlock:
    """Block a user; an existing block that ends later stays."""
    body = call.body
    issuer = call.issuer(body.iss)
    until = numeric_date_ms(body.until, "until")
    if body.dry_run:
        predicted = await dry_runs.block_user(issuer, body.sub, until=until)
        call.audit("revocation_tried", iss=issuer.iss, sub=body.sub)
        return UserBlock(issuer.iss, body.sub, True, _end(predicted.date), predicted.dry_run)
    end = _end(
        await revocations.block_user(
            issuer, body.sub, until=until, reason=body.reason or "", by=call.caller.name
        )
    )
    call.audit("user_blocked", iss=issuer.iss, sub=body.sub, until=end, reason=body.reason)
    return UserBlock(issuer.iss, body.sub, True, end, edges=await receipts.of(call))


async def unblock_user(
    call: Call[UnblockUser], *, revocations: Revocations, dry_runs: DryRuns, receipts: Receipts
) -> UserBlock:
    """End a block."""
    body = call.body
    issuer = call.issuer(body.iss)
    if body.dry_run:
        predicted = await dry_runs.unblock_user(issuer, body.sub)
        call.audit("revocation_tried", iss=issuer.iss, sub=body.sub)
        return UserBlock(issuer.iss, body.sub, False, None, predicted.dry_run)
    await revocations.unblock_user(issuer, body.sub)
    call.audit("user_unblocked", iss=issuer.iss, sub=body.sub, reason=body.reason)
    return UserBlock(issuer.iss, body.sub, False, None, edges=await receipts.of(call))


def _end(end_ms: int) -> float | None:
    return None if end_ms >= FOREVER_MS else end_ms / 1000


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
