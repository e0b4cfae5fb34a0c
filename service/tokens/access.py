"""Access tokens of the sessions kept here (RFC 9068)."""

import secrets
from collections.abc import Callable, Collection
from typing import Any, Final

from service.models import Session
from service.tokens.signing import SigningKeys


class Minter:
    """Mints with the newest key whose time has come."""

    def __init__(
        self,
        *,
        iss: str,
        audiences: Collection[str],
        lifetime: int,
        keys: SigningKeys,
        revoked: Callable[[], Collection[str]],
    ) -> None:
        """``revoked`` names the keys that must not sign any more; ``lifetime`` is in seconds."""
        self._iss: Final = iss
        self._audiences: Final = list(audiences)
        self._lifetime: Final = lifetime
        self._keys = keys
        self._revoked = revoked

    def mint(self, session: Session, now: int, scope: str) -> tuple[str, int]:
        """An access token dated ``now`` (ms by Redis); it never outlives its session.

        Returns:
            The token, and the seconds until it expires.

        Raises:
            KeysUnavailable: there is no key to sign with.
        """
        issued = now // 1000
        expires = min(issued + self._lifetime, session.ends // 1000)
        audiences = list(session.aud) or self._audiences
        claims: dict[str, Any] = {
            "iss": self._iss,
            "sub": session.sub,
            "aud": audiences[0] if len(audiences) == 1 else audiences,
            "client_id": session.client_id,
            "iat": issued,
            "exp": expires,
            "jti": secrets.token_urlsafe(16),
            "sid": session.sid,
            "auth_time": session.auth_time,
        }
        said = {"scope": scope, "acr": session.acr, "amr": list(session.amr)}
        claims |= {name: value for name, value in said.items() if value}
        return self._keys.signer(issued, self._revoked()).sign(claims), expires - issued
