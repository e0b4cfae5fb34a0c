"""Access tokens of our own sessions (RFC 9068)."""

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

SIGN_BATCH: Final = 32
"""Tokens signed in one turn of the event loop: about 1 ms."""


class _AccessToken(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The claims of RFC 9068 §2.2; empty ones are left out."""

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
    """Mints access tokens.

    Tokens minted in one turn of the event loop are signed together: an ES256 signature reads 150 kB of
    OpenSSL's tables, and takes half as long again if other work has evicted them from the CPU's cache.
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
        """``revoked`` returns the ``kid`` of keys that must not sign; ``lifetime`` is in seconds."""
        self._iss: Final = iss
        self._audiences: Final = tuple(audiences)
        self._lifetime: Final = lifetime
        self._keys = keys
        self._revoked = revoked
        self._unsigned: list[tuple[SigningKey, str, asyncio.Future[str]]] = []

    def signer(self, now: int) -> SigningKey:
        """The key that signs at ``now`` (ms by Redis).

        Call it before a change in the store: without a key, nothing must change.

        Raises:
            KeysUnavailable: there is no key to sign with.
        """
        return self._keys.signer(now / 1000, self._revoked())

    async def mint(
        self, session: Session, now: int, scope: str, key: SigningKey | None = None
    ) -> tuple[str, int]:
        """An access token issued at ``now`` (ms by Redis); it never outlives its session.

        Args:
            session: The session of the token.
            now: ms by Redis.
            scope: The ``scope`` of the token.
            key: From :meth:`signer`; None: the present one.

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
        whole = {**session.claims, **msgspec.to_builtins(claims)} if session.claims else claims
        return await self._signed(key, key.unsigned(whole)), expires - issued

    def _signed(self, key: SigningKey, unsigned: str) -> asyncio.Future[str]:
        loop = asyncio.get_running_loop()
        signed: asyncio.Future[str] = loop.create_future()
        if not self._unsigned:
            loop.call_soon(self._sign)
        self._unsigned.append((key, unsigned, signed))
        return signed

    def _sign(self) -> None:
        batch, self._unsigned = self._unsigned[:SIGN_BATCH], self._unsigned[SIGN_BATCH:]
        if self._unsigned:
            asyncio.get_running_loop().call_soon(self._sign)
        for key, unsigned, signed in batch:
            if not signed.done():
                try:
                    signed.set_result(key.signed(unsigned))
                except Exception as error:  # noqa: BLE001  # passed to the caller
                    signed.set_exception(error)
