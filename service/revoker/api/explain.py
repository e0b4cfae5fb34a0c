"""``POST /explain``: for support staff, why a token is active or not, and since when."""

from typing import Any

import msgspec

from revoker.api import bodies
from revoker.api.endpoint import Call, Endpoint
from revoker.api.fields import NumericDate
from revoker.api.introspection import Introspect, claims_of, read_introspect, token_of
from revoker.api.verdicts import Judged, Verdicts
from revoker.errors import AccessDenied, KeysUnavailable
from revoker.models import Revocation, RevocationState, Verdict
from revoker.rules import FOREVER_MS, is_blocked


class StandingRevocation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A revocation, cutoff, block or loss of data that concerns a token.

    ``since`` is when it was made, or the date of a cutoff; ``until`` is the end of a block. ``claim`` and
    ``value`` are there for a claim cutoff.
    """

    kind: str
    since: NumericDate | None = None
    until: NumericDate | None = None
    except_sid: str | None = None
    claim: str | None = None
    value: str | None = None
    why: str | None = None


class Explanation(msgspec.Struct, frozen=True, omit_defaults=True):
    """The verdict, with the first test that failed (or ``active``), and all that concerns the token.

    ``why`` is there where ``reason`` is ``invalid``: ``malformed``, ``issuer``, ``key``, ``signature``,
    ``kind``, ``audience``, or the claim that is missing or can't be read.
    """

    active: bool
    reason: str
    standing: list[StandingRevocation]
    why: str | None = None


async def explain(call: Call[Introspect], *, verdicts: Verdicts) -> Explanation:
    """Judge a token or claims, as the store says now, and list what concerns them."""
    body, caller = call.body, call.caller
    call.refuse_bound_caller()
    if call.fields is not None and ("token" in call.fields or "client_secret" in call.fields):
        body = msgspec.structs.replace(body, client_id=None)  # the caller's own (RFC 6749 §2.3.1)
    token = token_of(body)
    if token is not None:
        judged = await verdicts.of_token(token, caller, checked=True)
    else:
        document = call.raw if call.fields is None else _members(call.fields, body)
        payload, issuer = claims_of(body, caller, document)
        judged = await verdicts.of_claims(payload, issuer, caller, checked=True)
    claims = judged.claims
    call.audit(
        "token_explained",
        verdict=judged.verdict.value,
        why=judged.why or None,
        iss=claims.iss if claims else None,
        jti=claims.jti if claims else None,
        sub=claims.sub if claims else None,
    )
    foreign = judged.verdict is Verdict.FOREIGN
    return Explanation(
        judged.verdict is Verdict.ACTIVE,
        judged.verdict.value,
        [] if foreign or judged.state is None else _standing_revocations(judged, judged.state),
        judged.why or None,
    )


def _members(fields: bodies.Fields, body: Introspect) -> dict[str, Any]:
    """The claims of a form, with its dates as numbers."""
    dates: dict[str, Any] = {
        name: getattr(body, name) for name in ("iat", "exp", "nbf", "auth_time") if name in fields
    }
    return {**fields, "client_id": body.client_id, **dates}


def _standing_revocations(judged: Judged, state: RevocationState) -> list[StandingRevocation]:
    found = []
    user = state.user
    if user is not None and is_blocked(user, judged.store_now):
        until = None if user.blocked >= FOREVER_MS else user.blocked / 1000
        found.append(StandingRevocation(kind="user_block", until=until, why=user.block_reason or None))
    if user is not None and user.hard:
        found.append(StandingRevocation(kind="user_cutoff", since=user.hard / 1000, why=user.reason or None))
    if user is not None and user.soft > user.hard:
        found.append(
            StandingRevocation(
                kind="user_cutoff",
                since=user.soft / 1000,
                except_sid=user.sid or None,
                why=user.reason or None,
            )
        )
    marks: list[tuple[str, Revocation | None]] = [
        ("token", state.jti),
        ("session_cutoff", state.session),
        ("client_cutoff", state.client),
    ]
    found += [_standing_revocation(kind, mark) for kind, mark in marks if mark is not None]
    revocable = judged.claims.revocable if judged.claims else ()
    found += [
        StandingRevocation(
            kind="claim_cutoff", since=mark.at / 1000, claim=claim, value=value, why=mark.reason or None
        )
        for (claim, value), mark in zip(revocable, state.claims, strict=False)  # of none where there is none
        if mark is not None
    ]
    if state.issuer is not None:
        found.append(_standing_revocation("issuer_cutoff", state.issuer))
    kid = judged.claims.kid if judged.claims else None
    found += [
        _standing_revocation("key", mark) for revoked, mark in state.keys.items() if kid in {None, revoked}
    ]
    configured = judged.issuer.revoked_kids if judged.issuer else frozenset()
    if kid in configured or (kid is None and configured):
        found.append(StandingRevocation(kind="key", why="revoked_kids of the configuration"))
    if state.loss:
        found.append(
            StandingRevocation(kind="data_loss", since=state.loss / 1000, why="the store lost data then")
        )
    return found


def _standing_revocation(kind: str, mark: Revocation) -> StandingRevocation:
    return StandingRevocation(kind=kind, since=mark.at / 1000, why=mark.reason or None)


ENDPOINTS = (
    Endpoint(
        path="/explain",
        scope="revoke",
        body=Introspect,
        answer=Explanation,
        summary="Say what decides about a token, since when and why",
        handle=explain,
        errors=(AccessDenied, KeysUnavailable),
        read_json=read_introspect,
    ),
)
