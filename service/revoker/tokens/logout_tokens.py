"""What a logout token must say (OpenID Connect Back-Channel Logout 1.0, §2.4 and §2.6)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from revoker.errors import InvalidToken
from revoker.tokens.claims import LATEST_DATE
from revoker.tokens.verifying import GenuineToken

EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
OLDEST_S: Final = 86_400
"""Nobody delivers a logout later than this; a token that is older was kept by somebody."""

_TYPES: Final = frozenset((None, "logout+jwt", "application/logout+jwt"))


@dataclass(frozen=True, slots=True)
class LogoutToken:
    """Whom to log out, and when that was said; at least one of ``sub`` and ``sid`` is there.

    Attributes:
        iat: When it was said (s); how far ahead it may be, the issuer's ``clock_skew`` says.
        expires: It counts for nothing from then on (s).
    """

    jti: str
    iat: float
    expires: float
    sub: str | None
    sid: str | None


def logout_token(genuine: GenuineToken, audience: str) -> LogoutToken:
    """What a token that its issuer signed says, if it is a logout token for ``audience``.

    Its dates are read here, and judged by the store's clock when the logout is stored.

    Raises:
        InvalidToken: it is another kind of token, or for others too.
    """
    payload = genuine.payload
    if (genuine.typ and genuine.typ.lower()) not in _TYPES:
        raise InvalidToken("typ of another kind of token")
    _refuse_other_events(payload)
    if payload.get("aud") not in (audience, [audience]):
        raise InvalidToken("aud is not exactly the one that is configured")
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
        raise InvalidToken("events does not name the logout")
    if "nonce" in payload:
        raise InvalidToken("nonce, as only ID tokens have it")


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
