"""What the service answers. Times are seconds since 1970, UTC, to the millisecond."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Introspection:
    """The verdict on one token (RFC 7662).

    Attributes:
        active: Whether it may be used now.
        members: All members of the answer. In the claims form it has ``active`` alone.
    """

    active: bool
    members: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sub(self) -> str | None:
        return self._text("sub")

    @property
    def iss(self) -> str | None:
        return self._text("iss")

    @property
    def sid(self) -> str | None:
        return self._text("sid")

    @property
    def client_id(self) -> str | None:
        return self._text("client_id")

    @property
    def exp(self) -> int | None:
        value = self.members.get("exp")
        return value if isinstance(value, int) else None

    @property
    def scopes(self) -> tuple[str, ...]:
        """The words of ``scope``."""
        return tuple((self._text("scope") or "").split(" ")) if self._text("scope") else ()

    @property
    def sender_constrained(self) -> bool:
        """Whether the token is bound to a key (``cnf``): it is no bearer token, and proof must be checked."""
        return self.members.get("cnf") is not None

    def _text(self, member: str) -> str | None:
        value = self.members.get(member)
        return value if isinstance(value, str) else None


@dataclass(frozen=True, slots=True)
class Edges:
    """How far a change has spread, where the call waited for edges.

    Attributes:
        reached: How many edges have confirmed the change.
        connected: How many are connected; None: that is not known.
    """

    reached: int
    connected: int | None

    @property
    def all_reached(self) -> bool:
        """Whether all that are connected have confirmed it."""
        return self.connected is not None and self.reached >= self.connected


@dataclass(frozen=True, slots=True)
class Cutoff:
    """A cutoff in effect.

    Attributes:
        iss: The issuer whose tokens it covers.
        cutoff: Tokens issued before are not active.
        iat_after: A token with a greater ``iat`` is not covered. A new login that has to work at once waits
            for it.
        edges: None unless the call waited for them.
    """

    iss: str
    cutoff: float
    iat_after: float
    edges: Edges | None = None


@dataclass(frozen=True, slots=True)
class RevokedKey:
    """A signing key that is revoked for good; ``edges`` as in :class:`Cutoff`."""

    iss: str
    kid: str
    revoked_at: float
    edges: Edges | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """The block of a user.

    Attributes:
        until: When it ends; None: never by itself, or it has ended.
        edges: As in :class:`Cutoff`.
    """

    iss: str
    sub: str
    blocked: bool
    until: float | None
    edges: Edges | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a session was given.

    Attributes:
        expires_in: Seconds until the access token expires.
        refresh_token: None where the service gave none.
    """

    sid: str
    access_token: str
    token_type: str
    expires_in: int
    refresh_token: str | None = None
    scope: str | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """One session of a user's list."""

    sid: str
    client_id: str
    device: str | None
    ip: str | None
    user_agent: str | None
    amr: tuple[str, ...]
    created: float
    last_used: float
    expires: float
    current: bool


@dataclass(frozen=True, slots=True)
class SessionPage:
    """Some of a user's sessions.

    Attributes:
        next: The cursor of the next page; None: this was the last one.
    """

    sessions: tuple[Session, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a token is active or not.

    Attributes:
        reason: What decides.
        standing: Every revocation that is in effect for it, as the service describes it.
        why: Which test an invalid token failed; None for others.
    """

    active: bool
    reason: str
    standing: tuple[Mapping[str, Any], ...]
    why: str | None = None
