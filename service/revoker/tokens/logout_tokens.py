"""Validation of logout tokens (OpenID Connect Back-Channel Logout 1.0, §2.4 and §2.6)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from revoker.errors import InvalidToken
from revoker.models import LATEST_DATE, STANDARD_NAMES
from revoker.tokens.claims import first_readable
from revoker.tokens.verifying import GenuineToken

EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
OLDEST_S: Final = 86_400
"""Logouts are delivered within this time; an older token is a replay."""

LIFETIME_S: Final = 300
"""Of a token without ``exp``, from its ``iat`` on."""

AHEAD_S: Final = 60
"""How far ahead of the store's clock ``iat`` may be: a refused logout leaves the user logged in."""

_TYPES: Final = frozenset((None, "logout+jwt", "jwt"))
"""OpenID Connect only recommends the first; many providers send the second."""


@dataclass(frozen=True, slots=True)
class LogoutTerms:
    """Which logout tokens of an issuer are accepted, and what they end.

    Attributes:
        audience: Their ``aud``.
        ends_user: Whether a token that names a session and a user ends all sessions of the user.
    """

    audience: str
    ends_user: bool = False


@dataclass(frozen=True, slots=True)
class LogoutToken:
    """A valid logout token; at least one of ``sub`` and ``sid`` is set.

    Attributes:
        iat: In seconds; it may be ahead of our clock by ``AHEAD_S``.
        expires: The token is invalid from then on (s).
    """

    jti: str | None
    iat: float
    expires: float
    sub: str | None
    sid: str | None


def logout_token(genuine: GenuineToken, audience: str) -> LogoutToken:
    """Read a genuine token as a logout token for ``audience`` alone.

    Its dates are judged later, by the store's clock when the logout is stored.

    Raises:
        InvalidToken: it is another kind of token, or for another audience too.
    """
    payload = genuine.payload
    if (genuine.typ and genuine.typ.lower().removeprefix("application/")) not in _TYPES:
        raise InvalidToken("typ of another kind of token", "kind")
    _refuse_other_events(payload)
    if payload.get("aud") not in (audience, [audience]):
        raise InvalidToken("aud is not exactly the configured one", "audience")
    iat = _date(payload, "iat")
    if payload.get("exp") is None:
        expires = iat + LIFETIME_S
    else:
        expires = min(_date(payload, "exp") + genuine.issuer.leeway, iat + OLDEST_S)
    names = genuine.issuer.claim_names or STANDARD_NAMES
    sub = first_readable([name for name in names.sub if name not in names.client_id], payload)
    sid = first_readable(names.sid, payload)
    if sub is None and sid is None:
        raise InvalidToken("neither sub nor sid", "sub")
    return LogoutToken(first_readable(("jti",), payload), iat, expires, sub, sid)


def _refuse_other_events(payload: Mapping[str, Any]) -> None:
    events = payload.get("events")
    if type(events) is not dict or type(events.get(EVENT)) is not dict:
        raise InvalidToken("events has no logout event", "kind")
    if "nonce" in payload:
        raise InvalidToken("has a nonce, as ID tokens do", "kind")


def _date(payload: Mapping[str, Any], name: str) -> float:
    date: Any = payload.get(name)
    if type(date) not in (int, float) or not 0 <= date <= LATEST_DATE:
        raise InvalidToken(f"{name} is not a date", name)
    return float(date)
