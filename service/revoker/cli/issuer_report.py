"""What a service would answer about a token, as far as this follows from the token and the configuration.

The tests are those of the service, in its order; the store is not asked. No text here holds a value that
names a person, a session or a token: only ``iss``, ``aud``, ``typ`` and the client are repeated.
"""

import json
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec

from revoker import app
from revoker.api import bodies
from revoker.api.introspection import claims_of, read_introspect
from revoker.auth import Caller
from revoker.cli import provider_documents
from revoker.cli.identity_providers import IdentityProvider, of_profile
from revoker.config.issuers import Algorithm, IssuerSettings
from revoker.config.schema import Settings
from revoker.config.sessions import SessionSettings
from revoker.errors import ConfigError, InvalidRequest, InvalidToken, RevokerError
from revoker.models import NO_REVOCATIONS, STANDARD_NAMES, ClaimNames, Claims, Issuer, Payload, Verdict
from revoker.rules import judge
from revoker.tokens import keystore, refresh_tokens
from revoker.tokens.claims import (
    access_token_claims,
    confirmation_of,
    first_readable,
    is_meant_for,
    refuse_other_kinds,
    scope_of,
)
from revoker.tokens.jwk import VerifyingKey, header_algorithms, shared_secret
from revoker.tokens.key_sets import read_key_set, require_usable
from revoker.tokens.parsing import UnverifiedToken, base64url_decoded, parse_token, strict_json_object

PRINTED_VALUES: Final = 4
"""Values of a long ``aud`` that are printed."""

Signature = Literal["verified", "failed", "not checked"]
Answer = Literal["yes", "no", "after setup"]

_DISCLAIMER: Final = "the signature was not checked"


class UnusableToken(RevokerError):
    """A text that is no access token, whatever the configuration; the message says what it is.

    Attributes:
        kind: In one word, for programs.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


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


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """Whether something can be done with the tokens of an issuer, and by which claim."""

    works: Answer
    claim: str | None = None
    note: str = ""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a configuration requires of the tokens of one issuer."""

    issuer: Issuer
    audiences: frozenset[str]
    algorithms: frozenset[str]
    client_ids: frozenset[str] = frozenset()
    require_typ: str = ""
    id_tokens: bool = False
    profile: str | None = None
    logout_audience: str = ""
    logout_ends: str = "session"


def terms_of(settings: Settings) -> list[Terms]:
    """The issuers of a configuration, that of ``[sessions]`` among them."""
    issuers = app.issuers_of(settings)
    terms = [
        Terms(
            issuer=issuers[configured.issuer],
            audiences=frozenset(configured.audiences),
            algorithms=frozenset(configured.algorithms),
            client_ids=frozenset(configured.client_ids),
            require_typ=configured.require_typ,
            id_tokens=configured.accept_id_tokens,
            profile=configured.profile,
            logout_audience=configured.backchannel_audience,
            logout_ends=configured.backchannel_ends,
        )
        for configured in settings.issuers
    ]
    if settings.sessions is not None:
        terms.append(
            Terms(
                issuer=issuers[settings.sessions.issuer],
                audiences=frozenset(settings.sessions.audiences),
                algorithms=frozenset(get_args(Algorithm)),
                require_typ="at+jwt",
            )
        )
    return terms


# The token


def read_token(pasted: str) -> UnverifiedToken:
    """The token in a text that may hold ``Bearer``, quotes, white space and line breaks, too.

    Raises:
        ConfigError: there is nothing.
        UnusableToken: it is no access token.
    """
    text = pasted.strip("\ufeff \t\r\n\"'`,;")
    text = re.sub(r"(?i)^(?:authorization\s*:\s*)?(?:bearer|dpop)\s+", "", text)
    text = re.sub(r"[\s\"'`]+", "", text)
    if not text:
        raise ConfigError(["standard input: is empty; give a token, for example by a pipe"])
    if text.startswith(("{", "[")):
        raise UnusableToken("json", "JSON, not a token: give the value of access_token alone")
    if refresh_tokens.looks_like(text):
        raise UnusableToken(
            "refresh token", "a refresh token of Revoker itself: no issuer is configured for it"
        )
    if re.match(r"v[1-4]\.(?:local|public)\.", text):
        raise UnusableToken("paseto", "a PASETO: Revoker reads JWTs; have the provider issue these")
    _require_jws(text)
    try:
        token = parse_token(text)
    except InvalidToken as error:
        raise UnusableToken("malformed", f"a malformed JWT: {error}") from None
    _require_access_token(token)
    return token


def _require_jws(text: str) -> None:
    parts = text.split(".")
    try:
        header: dict[str, Any] = strict_json_object(base64url_decoded(parts[0]))
    except ValueError:
        if len(parts) == 3:
            return  # the parser names what is wrong with it
        raise UnusableToken(
            "opaque",
            "an opaque token, not a JWT: have the provider issue JWTs; often a request with the audience of "
            "an API does it",
        ) from None
    if len(parts) == 5 or "enc" in header:
        raise UnusableToken(
            "encrypted",
            "an encrypted token (JWE), which only its recipient reads: have the provider sign only",
        )
    if len(parts) == 1:
        raise UnusableToken("header only", "the header of a token only: copy all three parts")
    if len(parts) == 2:
        raise UnusableToken("no signature", "a token without its signature: copy all three parts")
    if str(header.get("alg")).lower() == "none":
        raise UnusableToken("unsigned", "an unsigned token (alg: none), which anybody can make")
    if len(parts) == 3 and not parts[2]:
        raise UnusableToken("no signature", "a token whose signature is missing: copy all three parts")


def _require_access_token(token: UnverifiedToken) -> None:
    """Refuse a token of a kind that no setting makes acceptable."""
    typ = (token.typ or "").lower().removeprefix("application/")
    if typ == "logout+jwt" or "events" in token.payload:
        raise UnusableToken("logout token", "a logout token or another event: give an access token")
    try:
        refuse_other_kinds(token, "", scope="", id_tokens=True)
    except InvalidToken as error:
        if "typ of" in str(error):
            raise UnusableToken(
                "other kind", f"not an access token: its header has the typ {printable(token.typ or '')}"
            ) from None
        kind = str(token.payload.get("typ", token.payload.get("token_use", ""))).lower()
        if kind in {"refresh", "offline"}:
            raise UnusableToken(
                "refresh token", "a refresh token: only its provider accepts it; give an access token"
            ) from None
        raise UnusableToken("other kind", "not an access token: it has claims of another kind") from None


def is_id_token(token: UnverifiedToken, scope: str) -> bool:
    """Whether only ``accept_id_tokens`` makes the token acceptable."""
    try:
        refuse_other_kinds(token, "", scope=scope, id_tokens=False)
    except InvalidToken:
        return True
    return False


def is_machine(payload: Mapping[str, Any], names: ClaimNames) -> bool:
    """Whether the token is of a program, without a user: its subject is its client."""
    sub, client = first_readable(names.sub, payload), first_readable(names.client_id, payload)
    username = payload.get("preferred_username")
    return (client is not None and sub in (client, f"{client}@clients")) or (
        type(username) is str and username.startswith("service-account-")
    )


def printable(text: str) -> str:
    """A value in quotes; characters that a terminal does not print are escaped, as TOML does it."""
    escaped = "".join(
        f"\\{char}"
        if char in '"\\'
        else char
        if char.isprintable()
        else f"\\u{ord(char):04x}"
        if ord(char) < 0x10000
        else f"\\U{ord(char):08x}"
        for char in text
    )
    return f'"{escaped}"'


# The configuration


async def keys_of(settings: Settings, terms: Terms) -> list[VerifyingKey]:
    """The keys that a configuration gives an issuer, read now.

    Raises:
        ConfigError: they can't be read.
    """
    if terms.issuer.own and settings.sessions is not None:
        return _own_keys(settings.sessions)
    configured = next(entry for entry in settings.issuers if entry.name == terms.issuer.name)
    if configured.jwks_uri:
        return await provider_documents.fetch_keys(configured.jwks_uri, configured.algorithms)
    return _keys_in_file(configured)


def _own_keys(sessions: SessionSettings) -> list[VerifyingKey]:
    keys, _ = keystore.listed(Path(sessions.signing_keys_dir), time.time())
    return [entry.dated.key.verifying for entry in keys if entry.state != "retired"]


def _keys_in_file(configured: IssuerSettings) -> list[VerifyingKey]:
    setting = "hmac_secret_file" if configured.hmac_secret_file else "jwks_file"
    try:
        contents = Path(getattr(configured, setting)).read_bytes()
        if configured.hmac_secret_file:
            secret = contents.removesuffix(b"\n").removesuffix(b"\r")
            return [shared_secret(secret, configured.algorithms)]
        return require_usable(*read_key_set(contents, configured.algorithms))
    except OSError as fault:
        raise ConfigError([f"issuer {configured.name}: {setting}: {fault.strerror}"]) from None
    except ValueError as fault:
        raise ConfigError([f"issuer {configured.name}: {setting}: {fault}"]) from None


# The verdict


def report(
    token: UnverifiedToken,
    terms: Terms,
    keys: Collection[VerifyingKey] | None,
    *,
    logout_tokens: bool | None = None,
    now: float | None = None,
) -> Report:
    """What works with a token.

    Args:
        token: Not verified.
        terms: Of the issuer.
        keys: Its keys; None: unknown, so the signature is not checked.
        logout_tokens: Whether its discovery document says that it sends logout tokens; None: not read.
        now: Seconds since 1970.
    """
    now = time.time() if now is None else now
    key = None if keys is None else _signing_key(token, keys)
    signature: Signature = "not checked" if keys is None else "failed" if key is None else "verified"
    kid = token.kid if key is None else key.id
    why_no_key = "signature" if keys is None or token.kid in {held.kid for held in keys} else "key"
    provider = of_profile(terms.profile)
    notes = []
    if signature == "not checked":
        notes.append(f"{_DISCLAIMER}: without the issuer's keys, anybody can have made this token")
    if is_id_token(token, scope_of(token.payload, terms.issuer.claim_names)):
        notes.append("this is an ID token, meant for the client; an API expects an access token")
    return Report(
        issuer=terms.issuer.name,
        profile=terms.profile,
        signature=signature,
        token_form=_failed_in_token_form(token, terms, kid, now, signature, why_no_key=why_no_key),
        claims_form=_failed_in_claims_form(token, terms, kid, now),
        actions=_actions(token.payload, terms, provider, logout_tokens),
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
            f"it has none of {_names(names.jti)}: name the claim that identifies a token in claims.jti, or "
            "set require_jti = false; then single tokens can't be revoked"
        )
    elif why == "sub" and "no sub" in str(error):
        advice = f"it has none of {_names(names.sub)}: name the claim that identifies a user in claims.sub"
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


# What can be done


def _actions(
    payload: dict[str, Any], terms: Terms, provider: IdentityProvider | None, logout_tokens: bool | None
) -> dict[str, Action]:
    names = terms.issuer.claim_names or STANDARD_NAMES
    sub, sid = present(names.sub, payload), present(names.sid, payload)
    client, jti = present(names.client_id, payload), present(names.jti, payload)
    machine = is_machine(payload, names)
    adding_sid = "have the provider add a claim for the session, and name it in claims.sid"
    if machine:
        adding_sid = "the token is of a program, which has no session"
    elif provider is not None:
        adding_sid = provider.adding_sid
    actions = {
        "log out everywhere": Action(
            works="yes",
            claim=sub,
            note="the token is of a program, not of a user" if machine else "",
        )
        if sub
        else Action(works="no", note=f"the token has none of {_names(names.sub)}"),
        "one session": Action(works="yes", claim=sid) if sid else Action(works="no", note=adding_sid),
        "one client": Action(works="yes", claim=client)
        if client
        else Action(works="no", note=f"the token has none of {_names(names.client_id)}"),
        "one token": Action(works="yes", claim=jti)
        if jti
        else Action(
            works="no",
            note="no claim identifies the token: log out its user"
            if not names.jti
            else f"the token has none of {_names(names.jti)}: log out its user instead",
        ),
    }
    for name in names.revocable:
        if payload.get(name) is None:
            actions[f"by {name}"] = Action(works="no", note="the token does not have this claim")
        else:
            actions[f"by {name}"] = Action(works="yes", claim=name)
    if machine:
        actions["back-channel logout"] = Action(works="no", note="the token is of a program")
    elif not terms.issuer.own:
        sends = provider.sends_logout_tokens if logout_tokens is None and provider else logout_tokens
        actions["back-channel logout"] = _back_channel_logout(terms, sends, sub, sid)
    return actions


def _back_channel_logout(terms: Terms, sends: bool | None, sub: str | None, sid: str | None) -> Action:
    if sends is False and not terms.logout_audience:
        return Action(works="no", note="this provider sends no logout tokens")
    ends_user = terms.logout_ends == "user"
    claim = sub if ends_user else sid or sub
    ends = "the user" if ends_user or sid is None else "the session"
    warning = ""
    if not ends_user and sid is None:
        warning = '; set backchannel_ends = "user", since the token names no session'
    if terms.logout_audience:
        works: Answer = "no" if warning else "yes"
        return Action(works=works, claim=None if warning else claim, note=f"ends {ends}{warning}")
    note = (
        "set backchannel_audience to the client_id at the provider, and register /backchannel-logout there; "
        f"it ends {ends}{warning}"
    )
    if sends is None:
        note += "; whether the provider sends logout tokens, only --discover or its documentation says"
    return Action(works="after setup", claim=claim, note=note)


def present(names: Sequence[str], payload: Mapping[str, Any]) -> str | None:
    """The claim that identifies something; None where the token has none of these."""
    return next((name for name in names if first_readable([name], payload)), None)


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "(no claim)"


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
