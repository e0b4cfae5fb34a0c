"""What the endpoints for sessions held by this service share."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

import msgspec

from revoker.auth import Caller
from revoker.errors import AccessDenied
from revoker.models import Claims, Issuer, Session
from revoker.store.sessions import Sessions
from revoker.store.source import Found
from revoker.store.store import Store
from revoker.tokens.access_tokens import Minter
from revoker.tokens.private_keys import SigningKey
from revoker.tokens.refresh_tokens import RefreshTokens
from revoker.tokens.signing import SigningKeys


class Tokens(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 6749 §5.1, with the session; ``expires_in`` in seconds."""

    sid: str
    access_token: str
    token_type: str
    expires_in: int
    refresh_token: str | None = None
    scope: str | None = None


class SessionCutoffs:
    """Looks up what can end sessions of this service's issuer; the rules judge what is found."""

    def __init__(self, issuer: Issuer, store: Store) -> None:
        self._issuer = issuer
        self._lookups = store.lookups
        self._keys = store.keys

    def of(self, *, sub: str, client_id: str, sid: str | None = None) -> Awaitable[Found]:
        """Every cutoff and block that can cover a session, or a login where ``sid`` is None."""
        claims = Claims(sub=sub, sid=sid, client_id=client_id)
        return self._lookups.find(self._keys.of_token(claims, self._issuer))

    def beyond_user(self, client_id: str, user_tag: str) -> Awaitable[Found]:
        """Cutoffs of the client (empty: none), of the issuer, and by a loss of the user's data."""
        return self._lookups.find(self._keys.of_client(self._issuer, client_id, user_tag))

    def beyond_user_together(self, client_id: str, user_tag: str) -> Awaitable[Found]:
        """As :meth:`beyond_user`; requests at the same time share one lookup.

        Only for requests that nothing cancels: one that is cancelled would cancel the lookup of the others.
        """
        return self._lookups.find_shared(self._keys.of_client(self._issuer, client_id, user_tag))

    def of_clients(self, clients: Sequence[str]) -> Awaitable[list[Found]]:
        """The cutoff of each client, in the same order."""
        keys = self._keys
        return self._lookups.find_all(
            [(None, None, None, keys.client_cutoff(self._issuer, client), None, None) for client in clients]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionServices:
    """What sessions held by this service need."""

    issuer: Issuer
    audiences: frozenset[str]
    store: Sessions
    cutoffs: SessionCutoffs
    minter: Minter
    refresh_tokens: RefreshTokens
    signing_keys: SigningKeys

    def require_access(self, caller: Caller) -> None:
        """Raise ``AccessDenied`` where the caller may not use the issuer of these sessions."""
        if self.issuer.iss not in caller.issuers:
            raise AccessDenied("this caller may not use the sessions held by this service")

    def expiry(self, session: Session) -> int:
        """When the session ends if it is not used again, in ms."""
        return self.store.expiry(session)

    async def tokens(
        self, session: Session, now: int, scope: str, key: SigningKey, *, refreshable: bool
    ) -> Tokens:
        """The token response for a session at ``now`` (ms by Redis)."""
        access_token, seconds = await self.minter.mint(session, now, scope, key)
        refresh_token = None
        if refreshable:
            refresh_token = self.refresh_tokens.make(session.sid, session.generation, session.client_id)
        return Tokens(
            sid=session.sid,
            access_token=access_token,
            token_type="Bearer",
            expires_in=seconds,
            refresh_token=refresh_token,
            scope=scope or None,
        )
