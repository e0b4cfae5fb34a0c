"""Access tokens of the sessions kept here (RFC 9068)."""

import asyncio
import os
from collections.abc import Callable, Collection
from typing import Final

import msgspec

from revoker.models import Session
from revoker.tokens.parsing import base64url
from revoker.tokens.private_keys import SigningKey
from revoker.tokens.signing import SigningKeys

_JTI_BYTES: Final = 16

TOGETHER: Final = 32
"""Signatures made before others get their turn of the event loop: about a ms."""


class _AccessToken(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The claims of RFC 9068 §2.2; what is not known of a session is left out."""

    iss: str
    sub: str
    aud: str | tuple[str, ...]
    client_id: str
    iat: int
    exp: int
    jti: str
    sid: str
    auth_time: int
    scope: str = ""
    acr: str = ""
    amr: tuple[str, ...] = ()


class Minter:
    """Mints with the newest key whose time has come.

    What is minted in one turn of the event loop is signed together: a signature by ES256 reads 150 kB of
    OpenSSL's tables, and takes half as long again where other work has driven them out of the cache.
    """

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
        self._audiences: Final = tuple(audiences)
        self._lifetime: Final = lifetime
        self._keys = keys
        self._revoked = revoked
        self._unsigned: list[tuple[SigningKey, str, asyncio.Future[str]]] = []

    def signer(self, now: int) -> SigningKey:
        """The key that signs at ``now`` (ms by Redis).

        It is asked for before anything is changed, so that nothing is changed where there is none.

        Raises:
            KeysUnavailable: there is no key to sign with.
        """
        return self._keys.signer(now / 1000, self._revoked())

    async def mint(
        self, session: Session, now: int, scope: str, key: SigningKey | None = None
    ) -> tuple[str, int]:
        """An access token dated ``now`` (ms by Redis); it never outlives its session.

        Args:
            session: For which it is.
            now: The present by Redis, ms.
            scope: Of the token.
            key: What :meth:`signer` has given; None: it is asked now.

        Returns:
            The token, and the seconds until it expires.

        Raises:
            KeysUnavailable: there is no key to sign with.
        """
        issued = now // 1000
        expires = min(issued + self._lifetime, session.ends // 1000)
        audiences = session.aud or self._audiences
        claims = _AccessToken(
            self._iss,
            session.sub,
            audiences[0] if len(audiences) == 1 else audiences,
            session.client_id,
            issued,
            expires,
            base64url(os.urandom(_JTI_BYTES)),
            session.sid,
            session.auth_time,
            scope,
            session.acr,
            session.amr,
        )
        if key is None:
            key = self.signer(now)
        return await self._signed(key, key.unsigned(claims)), expires - issued

    def _signed(self, key: SigningKey, unsigned: str) -> asyncio.Future[str]:
        loop = asyncio.get_running_loop()
        signed: asyncio.Future[str] = loop.create_future()
        if not self._unsigned:
            loop.call_soon(self._sign)
        self._unsigned.append((key, unsigned, signed))
        return signed

    def _sign(self) -> None:
        turn, self._unsigned = self._unsigned[:TOGETHER], self._unsigned[TOGETHER:]
        if self._unsigned:
            asyncio.get_running_loop().call_soon(self._sign)
        for key, unsigned, signed in turn:
            if not signed.done():
                try:
                    signed.set_result(key.signed(unsigned))
                except Exception as error:  # noqa: BLE001  # for the one who waits
                    signed.set_exception(error)
