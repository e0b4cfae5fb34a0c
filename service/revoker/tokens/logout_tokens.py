"""Validation of logout tokens (OpenID Connect Back-Channel Logout 1.0, §2.4 and §2.6)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from revoker.errors import InvalidToken
from revoker.models import LATEST_DATE
from revoker.tokens.verifying import GenuineToken

EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
OLDEST_S: Final = 86_400
"""Logouts are delivered within this time; an older token is a replay."""

_TYPES: Final = frozenset((None, "logout+jwt", "application/logout+jwt"))


@dataclass(frozen=True, slots=True)
class LogoutToken:
    """A valid logout token; at least one of ``sub`` and ``sid`` is set.

    Attributes:
        iat: In seconds; it may be ahead of our clock by the issuer's ``clock_skew``.
        expires: The token is invalid from then on (s).
    """

    jti: str
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
    if (genuine.typ and genuine.typ.lower()) not in _TYPES:
        raise InvalidToken("typ of another kind of token")
    _refuse_other_events(payload)
    if payload.get("aud") not in (audience, [audience]):
        raise InvalidToken("aud is not exactly the configured one")
    iat, exp = _date(payload, "iat"), _date(payload, "exp")
    jti, sub, sid = (_text(payload, name) for name in ("jti", "sub", "sid"))
    if jti is None:
        raise InvalidToken("no jti")
    if sub is None and sid is None:
        raise InvalidToken("neither sub nor sid")
    return LogoutToken(jti, iat, min(exp + genuine.issuer.leeway, iat + OLDEST_S), sub, sid)


def _refuse_other_events(payload: Mapping[str, Any]) -> None:
    events = payload.get("events")
    if type(events) is not dict or type(events.get(EVENT)) is not dict:
        raise InvalidToken("events has no logout event")
    if "nonce" in payload:
        raise InvalidToken("has a nonce, as ID tokens do")


def _date(payload: Mapping[str, Any], name: str) -> float:
    date: Any = payload.get(name)
    if type(date) not in (int, float) or not 0 <= date <= LATEST_DATE:
        raise InvalidToken(f"{name} is not a date")
    return float(date)


def _text(payload: Mapping[str, Any], name: str) -> str | None:
    if name not in payload:
        return None
    text = payload[name]
    if type(text) is not str or not text:
        raise InvalidToken(f"{name} is not a string, or empty")
    return text
