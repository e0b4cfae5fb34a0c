"""``POST /explain``: for support staff, why a token is active or not, and since when."""

from typing import Any

import msgspec

from revoker.api import bodies
from revoker.api.endpoint import Call, Endpoint
from revoker.api.introspection import Introspect, claims_of, read_introspect, token_of
from revoker.api.standing import StandingRevocation, standing_key, standing_revocations
from revoker.api.verdicts import Judged, Verdicts
from revoker.errors import AccessDenied, KeysUnavailable
from revoker.models import RevocationState, Verdict


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
        [] if foreign or judged.state is None else _standing(judged, judged.state),
        judged.why or None,
    )


def _members(fields: bodies.Fields, body: Introspect) -> dict[str, Any]:
    """The claims of a form, with its dates as numbers."""
    dates: dict[str, Any] = {
        name: getattr(body, name) for name in ("iat", "exp", "nbf", "auth_time") if name in fields
    }
    return {**fields, "client_id": body.client_id, **dates}


def _standing(judged: Judged, state: RevocationState) -> list[StandingRevocation]:
    revocable = judged.claims.revocable if judged.claims else ()
    found = standing_revocations(state, judged.store_now, revocable)
    kid = judged.claims.kid if judged.claims else None
    keys = [standing_key(mark) for revoked, mark in state.keys.items() if kid in {None, revoked}]
    configured = judged.issuer.revoked_kids if judged.issuer else frozenset()
    if kid in configured or (kid is None and configured):
        keys.append(StandingRevocation(kind="key", why="revoked_kids of the configuration"))
    return found + keys


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
