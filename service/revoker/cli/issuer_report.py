"""What a service would answer about a token, as far as this follows from the token and the configuration.

The tests are those of the service, in its order; the store is not asked. No text here holds a value that
names a person, a session or a token: only ``iss``, ``aud``, ``typ`` and the client are repeated.
"""

import json
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from revoker.api import bodies
from revoker.api.introspection import claims_of, read_introspect
from revoker.auth import Caller
from revoker.cli.issuer_actions import Action, actions_with, none_of
from revoker.cli.issuer_terms import Terms
from revoker.cli.pasted_token import is_id_token, printable
from revoker.errors import InvalidRequest, InvalidToken
from revoker.models import NO_REVOCATIONS, STANDARD_NAMES, Claims, Issuer, Payload, Verdict
from revoker.rules import judge
from revoker.tokens.claims import (
    access_token_claims,
    confirmation_of,
    is_meant_for,
    refuse_other_kinds,
    scope_of,
)
from revoker.tokens.jwk import VerifyingKey, header_algorithms
from revoker.tokens.parsing import UnverifiedToken

PRINTED_VALUES: Final = 4
"""Values of a long ``aud`` that are printed."""

Signature = Literal["verified", "failed", "not checked"]


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A test that a token fails.

    Attributes:
        why: As in the answer of ``/explain``: its ``why``, or ``reason`` for a verdict about dates and keys.
        problem: What is wrong.
        advice: What to set or to do; empty if there is nothing.
    """

    why: str
    problem: str
    advice: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What works with a token and a configuration.

    Attributes:
        token_form: The tests that it fails where a caller sends the token.
        claims_form: The tests that it fails where a caller sends its claims.
        actions: By what they do.
    """

    issuer: str | None
    profile: str | None
    signature: Signature
    token_form: list[Failure]
    claims_form: list[Failure]
    actions: dict[str, Action]
    notes: list[str]


def report(
    token: UnverifiedToken,
    terms: Terms,
    keys: Collection[VerifyingKey] | None,
    *,
    logout_tokens: bool | None = None,
) -> Report:
    """What works with a token.

    Args:
        token: Not verified.
        terms: Of the issuer.
        keys: Its keys; None: unknown, so the signature is not checked.
        logout_tokens: Whether its discovery document says that it sends logout tokens; None: not read.
    """
    now = time.time()
    key = None if keys is None else _signing_key(token, keys)
    signature: Signature = "not checked" if keys is None else "failed" if key is None else "verified"
    kid = token.kid if key is None else key.id
    why_no_key = "signature" if keys is None or token.kid in {held.kid for held in keys} else "key"
    notes = []
    if signature == "not checked":
        notes.append(
            "the signature was not checked: without the issuer's keys, anybody can have made this token"
        )
    if is_id_token(token, scope_of(token.payload, terms.issuer.claim_names)):
        notes.append("this is an ID token, meant for the client; an API expects an access token")
    return Report(
        issuer=terms.issuer.name,
        profile=terms.profile,
        signature=signature,
        token_form=_failed_in_token_form(token, terms, kid, now, signature, why_no_key=why_no_key),
        claims_form=_failed_in_claims_form(token, terms, kid, now),
        actions=actions_with(token.payload, terms, logout_tokens),
        notes=notes,
    )


def unknown_issuer(token: UnverifiedToken, terms: Sequence[Terms]) -> Report:
    """The report for a token of an issuer that is not configured."""
    iss = token.payload.get("iss")
    names = ", ".join(printable(entry.issuer.iss) for entry in terms)
    failure = Failure(
        why="issuer",
        problem=f"its iss is {_listed(iss)}; configured: {names}",
        advice="add an [[issuers]] entry (revoker issuer suggest prints it), or, for another iss of the same "
        "provider, add it to issuer_aliases",
    )
    return Report(
        issuer=None,
        profile=None,
        signature="not checked",
        token_form=[failure],
        claims_form=[failure],
        actions={},
        notes=[],
    )


def _signing_key(token: UnverifiedToken, keys: Collection[VerifyingKey]) -> VerifyingKey | None:
    fitting = [key for key in keys if token.kid is None or key.kid in (token.kid, None)]
    return next(
        (key for key in fitting if key.verifies(token.alg, token.signing_input, token.signature)), None
    )


def _failed_in_token_form(
    token: UnverifiedToken,
    terms: Terms,
    kid: str | None,
    now: float,
    signature: Signature,
    *,
    why_no_key: str,
) -> list[Failure]:
    payload, issuer = token.payload, terms.issuer
    failures = []
    iss = payload.get("iss")
    if iss not in (issuer.iss, *issuer.aliases):
        failures.append(
            Failure(
                why="issuer",
                problem=f"its iss is {_listed(iss)}, that of the entry is {printable(issuer.iss)}",
                advice="correct issuer, or add the other one to issuer_aliases if it is of the same provider",
            )
        )
    if token.alg not in header_algorithms(terms.algorithms):
        failures.append(
            Failure(
                why=why_no_key,
                problem=f"it is signed with {printable(token.alg)}, which algorithms does not have",
                advice=f"add {printable(token.alg)} to algorithms, if the provider is meant to sign with it",
            )
        )
    elif signature == "failed":
        failures.append(
            Failure(
                why=why_no_key,
                problem="none of the issuer's keys made its signature",
                advice="compare jwks_uri with the provider's discovery document, and copy the whole token",
            )
        )
    scope = scope_of(payload, issuer.claim_names)
    try:
        refuse_other_kinds(token, terms.require_typ, scope=scope, id_tokens=terms.id_tokens)
    except InvalidToken as error:
        failures.append(_kind_failure(token, terms, error, scope))
    try:
        claims = access_token_claims(payload, kid, issuer)
    except InvalidToken as error:
        return [*failures, _claim_failure(error, terms)]
    if not is_meant_for(claims, terms.audiences, terms.client_ids):
        failures.append(_audience_failure(claims, terms))
    try:
        confirmation_of(payload)
    except InvalidToken as error:
        failures.append(Failure(why=error.why, problem=str(error)))
    return failures + _failed_limits(claims, issuer, now)


def _failed_in_claims_form(
    token: UnverifiedToken, terms: Terms, kid: str | None, now: float
) -> list[Failure]:
    """By the functions that answer such a request, with the whole payload and the ``kid`` of the header."""
    issuer = terms.issuer
    caller = Caller(
        name="report",
        digests=(),
        scopes=frozenset(),
        issuers=dict.fromkeys((issuer.iss, *issuer.aliases), issuer),
        default_issuer=None,
    )
    body: dict[str, Any] = dict(token.payload)
    if kid:
        body = {"claims": token.payload, "header": {"kid": kid}}
    raw = json.dumps(body).encode()
    try:
        asked = read_introspect(raw)
        claims, found = claims_of(asked, caller, bodies.refuse_ambiguous(raw, asked))
    except InvalidRequest as error:
        return [Failure(why="claims", problem=f"the request is answered 400: {error}")]
    if found is None:
        return [Failure(why="issuer", problem=f"its iss is {_listed(token.payload.get('iss'))}")]
    return _failed_limits(claims, issuer, now)


def _failed_limits(claims: Payload, issuer: Issuer, now: float) -> list[Failure]:
    now_ms = int(now * 1000)
    verdict = judge(claims, issuer, NO_REVOCATIONS, None, store_now=now_ms, own_now=now_ms)
    iat, exp = claims.iat, claims.exp
    match verdict:
        case Verdict.ACTIVE:
            return []
        case Verdict.EXPIRED if exp is not None:
            problem, advice = f"it expired at {_date(exp)}", "get a new token"
        case Verdict.LIVES_TOO_LONG if iat is not None and exp is not None:
            problem = f"it is valid for {exp - iat:.0f} s, longer than max_token_lifetime"
            advice = f"set max_token_lifetime = {exp - iat:.0f} for this issuer"
            if exp - iat <= issuer.max_token_lifetime:
                problem = "its login is longer ago than max_session_lifetime allows"
                advice = "increase max_session_lifetime for this issuer"
        case Verdict.ISSUED_IN_FUTURE:
            problem = "it was issued in the future"
            advice = "compare the clocks of the provider and this machine; clock_skew is the tolerance"
        case Verdict.NOT_YET_VALID if claims.nbf is not None:
            problem, advice = f"it is not valid before {_date(claims.nbf)}", "compare the clocks, or wait"
        case Verdict.KEY_REVOKED:
            problem, advice = "revoked_kids has the key that signed it", ""
            if claims.kid is None:
                problem = "its header has no kid, and revoked_kids is set"
        case _:
            problem, advice = "it lacks iat or exp, or ends before it begins", "have the provider add both"
    return [Failure(why=verdict.value, problem=problem, advice=advice)]


def _kind_failure(token: UnverifiedToken, terms: Terms, error: InvalidToken, scope: str) -> Failure:
    if terms.require_typ:
        return Failure(
            why="kind",
            problem=f"require_typ = {printable(terms.require_typ)}: {error}",
            advice='set require_typ = "" if the provider does not follow RFC 9068',
        )
    if is_id_token(token, scope):
        return Failure(
            why="kind",
            problem="it is an ID token",
            advice="send the access token; accept_id_tokens = true accepts ID tokens, which are meant for a "
            "client and not for an API",
        )
    return Failure(why="kind", problem=str(error))


def _claim_failure(error: InvalidToken, terms: Terms) -> Failure:
    names = terms.issuer.claim_names or STANDARD_NAMES
    why = error.why
    advice = f"have the provider correct {why}"
    if why == "jti" and "no jti" in str(error):
        advice = (
            f"it has {none_of(names.jti)}: name the claim that identifies a token in claims.jti, or "
            "set require_jti = false; then single tokens can't be revoked"
        )
    elif why == "sub" and "no sub" in str(error):
        advice = f"it has {none_of(names.sub)}: name the claim that identifies a user in claims.sub"
    return Failure(why=why, problem=str(error), advice=advice)


def _audience_failure(claims: Claims, terms: Terms) -> Failure:
    client = claims.client_id or claims.azp
    if claims.aud:
        return Failure(
            why="audience",
            problem=f"its aud is {_listed(claims.aud)}; audiences has {_listed(sorted(terms.audiences))}",
            advice="add its aud to audiences if that is your API, or request a token for your API",
        )
    if client:
        return Failure(
            why="audience",
            problem=f"it has no aud, and its client {printable(client)} is not in client_ids",
            advice=f"set client_ids = [{printable(client)}], or have the provider add aud",
        )
    return Failure(
        why="audience",
        problem="it has neither aud nor a client",
        advice="have the provider add aud",
    )


def _listed(value: Any) -> str:
    if value is None:
        return "missing"
    values = value if isinstance(value, list) else [value]
    texts = [printable(item) if isinstance(item, str) else "(not a string)" for item in values]
    more = f" and {len(texts) - PRINTED_VALUES} more" if len(texts) > PRINTED_VALUES else ""
    return ", ".join(texts[:PRINTED_VALUES]) + more if texts else "empty"


def _date(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return "a date that is out of range"
