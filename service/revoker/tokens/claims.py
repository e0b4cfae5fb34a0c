"""The claims of access tokens: which tokens are access tokens, and what introspection answers about them.

Times are only read here; :mod:`revoker.rules` judges them.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from revoker.errors import InvalidToken
from revoker.models import Claims, Number
from revoker.tokens.parsing import UnverifiedToken

LATEST_DATE: Final = 253_402_300_799
"""The end of the year 9999, in seconds since 1970; dates beyond it are refused."""

REQUIRED_BY_RFC_9068: Final = frozenset(("iss", "exp", "aud", "sub", "client_id", "iat", "jti"))

_ACCESS_TOKEN_TYPES: Final = frozenset((None, "jwt", "at+jwt"))
_CLAIMS_OF_OTHER_KINDS: Final = frozenset(("events", "token_introspection", "status_list"))
_CLAIMS_OF_ID_TOKENS: Final = frozenset(("nonce", "at_hash", "c_hash", "s_hash"))

_encode: Final = msgspec.json.Encoder().encode


def refuse_other_kinds(token: UnverifiedToken, require_typ: str) -> None:
    """Refuse tokens that are not access tokens, but signed with the same key (RFC 8725 §3.11).

    Args:
        token: Its signature has been verified.
        require_typ: The only ``typ`` accepted; empty: ``JWT``, ``at+jwt`` or none.

    Raises:
        InvalidToken: it is of another kind, or lacks a claim that RFC 9068 requires.
    """
    payload = token.payload
    typ = None if token.typ is None else _media_type(token.typ)
    if require_typ:
        if typ != _media_type(require_typ):
            raise InvalidToken("not of the required typ")
        if typ == "at+jwt" and not payload.keys() >= REQUIRED_BY_RFC_9068:
            raise InvalidToken("lacks a claim that RFC 9068 requires")
    elif typ not in _ACCESS_TOKEN_TYPES:
        raise InvalidToken("typ of another kind of token")
    if not _CLAIMS_OF_OTHER_KINDS.isdisjoint(payload):
        raise InvalidToken("claims of another kind of token")
    typ_claim, use = _lower(payload.get("typ")), _lower(payload.get("token_use"))
    if typ_claim in ("id", "refresh", "offline", "logout") or use in ("id", "refresh"):
        raise InvalidToken("declares another kind of token")
    if (
        not _CLAIMS_OF_ID_TOKENS.isdisjoint(payload)
        and typ != "at+jwt"
        and typ_claim not in ("bearer", "dpop")
        and use != "access"
    ):
        raise InvalidToken("claims of an ID token")


def _media_type(typ: str) -> str:
    """In lower case and without ``application/``, which may be left out (RFC 7515 §4.1.9)."""
    return typ.lower().removeprefix("application/")


def _lower(value: Any) -> str | None:
    return value.lower() if isinstance(value, str) else None


def access_token_claims(payload: Mapping[str, Any], kid: str, *, require_jti: bool) -> Claims:
    """The claims that a verdict depends on.

    Raises:
        InvalidToken: one has the wrong type, or ``sub`` or a required ``jti`` is missing or empty.
    """
    claims = Claims(
        kid=kid, **{name: read(name, payload[name]) for name, read in _READERS if name in payload}
    )
    if not claims.sub:
        raise InvalidToken("no sub")
    if claims.jti == "" or (require_jti and claims.jti is None):
        raise InvalidToken("no jti")
    return claims


def origin_claims(payload: Mapping[str, Any], kid: str) -> Claims:
    """The claims of a genuine token of any kind; one that is empty or has the wrong type is ignored."""
    readable = {}
    for name, read in _READERS:
        try:
            readable[name] = read(name, payload[name]) or None
        except (InvalidToken, KeyError):
            continue
    return Claims(kid=kid, **readable)


def is_meant_for(claims: Claims, audiences: frozenset[str]) -> bool:
    """Whether ``aud`` is or contains one of the audiences, compared exactly (RFC 7519 §4.1.3)."""
    if isinstance(claims.aud, str):
        return claims.aud in audiences
    return not audiences.isdisjoint(claims.aud or ())


def scope_of(payload: Mapping[str, Any]) -> str:
    """The scope in the form of RFC 6749 §3.3, from ``scope`` or ``scp``; empty if there is none."""
    if "scope" in payload:
        return _text("scope", payload["scope"])
    scope = payload.get("scp", "")
    if type(scope) is list and all(type(value) is str and " " not in value for value in scope):
        return " ".join(scope)
    return _text("scp", scope)


def scope_words(scope: str) -> list[str]:
    """The values of a scope, separated by spaces only (RFC 6749 §3.3), not by other white space."""
    return [word for word in scope.split(" ") if word]


def acr_of(payload: Mapping[str, Any]) -> str | None:
    """The authentication context class (RFC 9470 §3)."""
    return _text("acr", payload["acr"]) if "acr" in payload else None


def confirmation_of(payload: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the token is bound to (RFC 7800 §3.1)."""
    if "cnf" not in payload:
        return None
    cnf = payload["cnf"]
    if type(cnf) is not dict:
        raise InvalidToken("cnf is not an object")
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
        raise InvalidToken(f"{name} is not a string")
    return value


def _date(name: str, value: Any) -> Number:
    if type(value) not in (int, float) or not -LATEST_DATE <= value <= LATEST_DATE:
        raise InvalidToken(f"{name} is not a date")
    number: Number = value
    return number


def _audience(name: str, value: Any) -> str | list[str]:
    if type(value) is list and all(type(item) is str for item in value):
        return value
    return _text(name, value)


_READERS: Final[tuple[tuple[str, Callable[[str, Any], Any]], ...]] = (
    ("iss", _text),
    ("jti", _text),
    ("sub", _text),
    ("iat", _date),
    ("exp", _date),
    ("sid", _text),
    ("client_id", _text),
    ("azp", _text),
    ("aud", _audience),
    ("auth_time", _date),
    ("nbf", _date),
)
