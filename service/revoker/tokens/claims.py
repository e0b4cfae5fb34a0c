"""The claims of access tokens: which tokens are access tokens, and what introspection answers about them.

Times are only read here; :mod:`revoker.rules` judges them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from revoker.errors import InvalidToken
from revoker.models import (
    LATEST_DATE,
    STANDARD_NAMES,
    ClaimNames,
    Claims,
    Issuer,
    Number,
    Payload,
    RevocableClaims,
)
from revoker.rules import revocable_value
from revoker.tokens.parsing import UnverifiedToken

REQUIRED_BY_RFC_9068: Final = frozenset(("iss", "exp", "aud", "sub", "client_id", "iat", "jti"))

_ACCESS_TOKEN_TYPES: Final = frozenset((None, "jwt", "at+jwt"))
_CLAIMS_OF_OTHER_KINDS: Final = frozenset(("events", "token_introspection", "status_list"))
_HASHES_OF_ID_TOKENS: Final = ("at_hash", "c_hash", "s_hash")

MAX_REVOCABLE_VALUES: Final = 16
"""Of one claim. All are looked up; a token with more is refused, because one beyond could be revoked."""

_encode: Final = msgspec.json.Encoder().encode

_Value = TypeVar("_Value")


def refuse_other_kinds(token: UnverifiedToken, require_typ: str, *, scope: str, id_tokens: bool) -> None:
    """Refuse tokens that are not access tokens, but signed with the same key (RFC 8725 §3.11).

    Args:
        token: Its signature has been verified.
        require_typ: The only ``typ`` accepted; empty: ``JWT``, ``at+jwt`` or none.
        scope: Of the token. A ``nonce`` beside a scope is that of the login, as some providers repeat it.
        id_tokens: Whether ID tokens (OpenID Connect Core §2) are accepted too.

    Raises:
        InvalidToken: it is of another kind, or lacks a claim that RFC 9068 requires.
    """
    payload = token.payload
    typ = None if token.typ is None else _media_type(token.typ)
    if require_typ:
        if typ != _media_type(require_typ):
            raise InvalidToken("not of the required typ", "kind")
        if typ == "at+jwt" and not payload.keys() >= REQUIRED_BY_RFC_9068:
            raise InvalidToken("lacks a claim that RFC 9068 requires", "kind")
    elif typ not in _ACCESS_TOKEN_TYPES:
        raise InvalidToken("typ of another kind of token", "kind")
    if not _CLAIMS_OF_OTHER_KINDS.isdisjoint(payload):
        raise InvalidToken("claims of another kind of token", "kind")
    typ_claim, use = _lower(payload.get("typ")), _lower(payload.get("token_use"))
    if typ_claim in ("refresh", "offline", "logout") or use == "refresh":
        raise InvalidToken("declares another kind of token", "kind")
    if id_tokens:
        return
    if typ_claim == "id" or use == "id":
        raise InvalidToken("declares an ID token", "kind")
    if typ == "at+jwt" or typ_claim in ("bearer", "dpop") or use == "access":
        return
    if any(payload.get(name) is not None for name in _HASHES_OF_ID_TOKENS) or (
        payload.get("nonce") is not None and not scope
    ):
        raise InvalidToken("claims of an ID token", "kind")


def _media_type(typ: str) -> str:
    """In lower case and without ``application/``, which may be left out (RFC 7515 §4.1.9)."""
    return typ.lower().removeprefix("application/")


def _lower(value: Any) -> str | None:
    return value.lower() if isinstance(value, str) else None


def access_token_claims(payload: Mapping[str, Any], kid: str | None, issuer: Issuer) -> Claims:
    """The claims that a verdict depends on, by the names that the issuer gives them.

    A claim that is null counts as absent, and so does an optional one that can't be read.

    Raises:
        InvalidToken: ``jti``, ``sub``, ``iat``, ``exp``, ``nbf``, ``aud`` or ``iss`` has the wrong type,
            ``sub`` or a required ``jti`` is missing or empty, or a claim has too many values to revoke.
    """
    identity = identity_of(payload, issuer)
    fixed = Payload(
        iss=_strict("iss", payload, _text),
        iat=_strict("iat", payload, _date),
        exp=_strict("exp", payload, _date),
        aud=_strict("aud", payload, _audience),
        auth_time=_lenient("auth_time", payload, _date),
        nbf=_strict("nbf", payload, _date),
    )
    return joined_claims(fixed, kid, identity)


def origin_claims(payload: Mapping[str, Any], kid: str, names: ClaimNames | None) -> Claims:
    """The claims of a genuine token of any kind; one that is empty or has the wrong type is ignored."""
    azp = None
    if names is None:
        jti, sub, sid, client_id, azp = (
            _lenient(name, payload, _text) or None for name in ("jti", "sub", "sid", "client_id", "azp")
        )
    else:
        jti, sub, sid, client_id = (
            first_readable(given, payload) for given in (names.jti, names.sub, names.sid, names.client_id)
        )
    fixed = Payload(
        iss=_lenient("iss", payload, _text) or None,
        iat=_lenient("iat", payload, _date),
        exp=_lenient("exp", payload, _date),
        aud=_lenient("aud", payload, _audience) or None,
        auth_time=_lenient("auth_time", payload, _date),
        nbf=_lenient("nbf", payload, _date),
    )
    return joined_claims(fixed, kid, (jti, sub, sid, client_id, azp, ()))


Identity = tuple[str | None, str | None, str | None, str | None, str | None, RevocableClaims]
"""``jti``, ``sub``, ``sid``, ``client_id``, ``azp``, and what can be revoked by value."""


def identity_of(payload: Mapping[str, Any], issuer: Issuer) -> Identity:
    """The claims whose names an issuer may choose; raises as :func:`access_token_claims`."""
    names = issuer.claim_names
    azp = None
    revocable: RevocableClaims = ()
    if names is None:
        jti, sub = _strict("jti", payload, _text), _strict("sub", payload, _text)
        sid, client_id, azp = (_lenient(name, payload, _text) for name in ("sid", "client_id", "azp"))
    else:
        jti, sub = _first(names.jti, payload), _first(names.sub, payload)
        sid, client_id = first_readable(names.sid, payload), first_readable(names.client_id, payload)
        revocable = revocable_claims(names.revocable, payload)
    if not sub:
        raise InvalidToken("no sub", "sub")
    if jti == "" or (issuer.require_jti and jti is None):
        raise InvalidToken("no jti", "jti")
    return jti, sub, sid, client_id, azp, revocable


def joined_claims(fixed: Payload, kid: str | None, identity: Identity) -> Claims:
    """The claims that all issuers name alike, together with the others."""
    jti, sub, sid, client_id, azp, revocable = identity
    return Claims(
        kid=kid,
        iss=fixed.iss,
        jti=jti,
        sub=sub,
        iat=fixed.iat,
        exp=fixed.exp,
        sid=sid,
        client_id=client_id,
        azp=azp,
        aud=fixed.aud,
        auth_time=fixed.auth_time,
        nbf=fixed.nbf,
        revocable=revocable,
    )


def _strict(name: str, payload: Mapping[str, Any], read: Callable[[str, Any], _Value]) -> _Value | None:
    """A claim; None where it is absent or null."""
    value = payload.get(name)
    return None if value is None else read(name, value)


def _lenient(name: str, payload: Mapping[str, Any], read: Callable[[str, Any], _Value]) -> _Value | None:
    """As :func:`_strict`, and None where the claim can't be read."""
    try:
        return _strict(name, payload, read)
    except InvalidToken:
        return None


def is_readable(name: str, value: Any) -> bool:
    """Whether an optional claim, ``auth_time`` or one that is a string, has a value of its type."""
    read: Callable[[str, Any], object] = _date if name == "auth_time" else _text
    return _lenient(name, {name: value}, read) is not None


def _first(names: Sequence[str], payload: Mapping[str, Any]) -> str | None:
    """The first of these claims that is neither absent nor null nor empty.

    Raises:
        InvalidToken: it is not a string.
    """
    for name in names:
        value = payload.get(name)
        if type(value) is str:
            if value:
                return value
        elif value is not None:
            raise InvalidToken(f"{name} is not a string", name)
    return None


def first_readable(names: Sequence[str], payload: Mapping[str, Any]) -> str | None:
    """The first of these claims that is a string and not empty."""
    for name in names:
        value = payload.get(name)
        if type(value) is str and value:
            return value
    return None


def revocable_claims(
    names: Sequence[str], payload: Mapping[str, Any], *, most: int = MAX_REVOCABLE_VALUES
) -> RevocableClaims:
    """The values of the claims that can be revoked by value, without repetitions.

    Raises:
        InvalidToken: a claim has more values than ``most``.
    """
    found: list[tuple[str, str]] = []
    for name in names:
        value = payload.get(name)
        if type(value) is list:
            if len(value) > most:
                raise InvalidToken(f"{name} has more than {most} values", name)
            texts = dict.fromkeys(revocable_value(name, item) for item in value)
            found += [(name, text) for text in texts if text]
        elif text := revocable_value(name, value):
            found.append((name, text))
    return tuple(found)


def is_meant_for(claims: Claims, audiences: frozenset[str], client_ids: frozenset[str]) -> bool:
    """Whether a token is meant for one of the audiences, compared exactly (RFC 7519 §4.1.3).

    Args:
        claims: Of the token.
        audiences: ``aud`` is or contains one of these.
        client_ids: For a token whose ``aud`` is absent or an empty list: its client is one of these.
    """
    aud = claims.aud
    if aud is None or aud == []:
        return (claims.client_id or claims.azp) in client_ids
    if isinstance(aud, str):
        return aud in audiences
    return not audiences.isdisjoint(aud)


def scope_of(payload: Mapping[str, Any], names: ClaimNames | None) -> str:
    """The scope in the form of RFC 6749 §3.3; empty if there is none that can be read.

    It is a string, or an array of strings without spaces.
    """
    for name in (names or STANDARD_NAMES).scope:
        scope = payload.get(name)
        if type(scope) is str:
            return scope
        if type(scope) is list and all(type(value) is str and " " not in value for value in scope):
            return " ".join(scope)
    return ""


def scope_words(scope: str) -> list[str]:
    """The values of a scope, separated by spaces only (RFC 6749 §3.3), not by other white space."""
    return [word for word in scope.split(" ") if word]


def acr_of(payload: Mapping[str, Any]) -> str | None:
    """The authentication context class (RFC 9470 §3); None where it can't be read."""
    acr = payload.get("acr")
    return acr if type(acr) is str else None


def confirmation_of(payload: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the token is bound to (RFC 7800 §3.1).

    Raises:
        InvalidToken: it can't be read: without it, the token could be used by anybody.
    """
    cnf = payload.get("cnf")
    if cnf is not None and type(cnf) is not dict:
        raise InvalidToken("cnf is not an object", "cnf")
    return cnf


class IntrospectionResponse(msgspec.Struct, kw_only=True, omit_defaults=True):
    """RFC 7662 §2.2 with members registered since; a member that is None is left out.

    The claims form, and a token that is not active, get ``active`` alone.
    """

    active: bool
    scope: str | None = None
    client_id: str | None = None
    username: str | None = None
    token_type: str | None = None
    exp: int | None = None
    iat: int | None = None
    nbf: int | None = None
    sub: str | None = None
    aud: str | list[str] | None = None
    iss: str | None = None
    jti: str | None = None
    sid: str | None = None
    auth_time: int | None = None
    acr: str | None = None
    amr: list[str] | None = None
    cnf: dict[str, Any] | None = None
    act: dict[str, Any] | None = None
    authorization_details: list[dict[str, Any]] | None = None


def active_answer(
    claims: Claims, payload: Mapping[str, Any], *, scope: str, acr: str | None, cnf: dict[str, Any] | None
) -> bytes:
    """The JSON response for the token while it is active; other claims stay private."""
    username = payload.get("preferred_username")
    answer = IntrospectionResponse(
        active=True,
        scope=scope or None,
        client_id=claims.azp if claims.client_id is None else claims.client_id,
        username=username if type(username) is str else None,
        token_type="Bearer" if cnf is None or "jkt" not in cnf else "DPoP",
        exp=_whole(claims.exp),
        iat=_whole(claims.iat),
        nbf=_whole(claims.nbf),
        sub=claims.sub,
        aud=claims.aud,
        iss=claims.iss,
        jti=claims.jti,
        sid=claims.sid,
        auth_time=_whole(claims.auth_time),
        acr=acr,
        amr=payload.get("amr"),
        cnf=cnf,
        act=payload.get("act"),
        authorization_details=payload.get("authorization_details"),
    )
    return _encode(answer)


def _whole(date: Number | None) -> int | None:
    return None if date is None else math.floor(date)


def _text(name: str, value: Any) -> str:
    if type(value) is not str:
        raise InvalidToken(f"{name} is not a string", name)
    return value


def _date(name: str, value: Any) -> Number:
    if type(value) not in (int, float) or not -LATEST_DATE <= value <= LATEST_DATE:
        raise InvalidToken(f"{name} is not a date", name)
    number: Number = value
    return number


def _audience(name: str, value: Any) -> str | list[str]:
    if type(value) is list and all(type(item) is str for item in value):
        return value
    return _text(name, value)
