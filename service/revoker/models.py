"""Frozen values that cross modules."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal

import msgspec

Number = int | float
"""A NumericDate (RFC 7519 §2): seconds UTC, possibly with a fraction."""


class Payload(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The claims of a token that bear on a verdict; None where there is none.

    Attributes:
        kid: The key that signed the token is not known: a payload's own ``kid`` is a claim like any other.
    """

    kid: ClassVar[str | None] = None

    iss: str | None = None
    jti: str | None = None
    sub: str | None = None
    iat: Number | None = None
    exp: Number | None = None
    sid: str | None = None
    client_id: str | None = None
    azp: str | None = None
    aud: str | list[str] | None = None
    auth_time: Number | None = None
    nbf: Number | None = None


class Claims(Payload, frozen=True, kw_only=True, gc=False):
    """As :class:`Payload`, with the key.

    ``kid`` is that of the key which verified the token, or in the claims form the header's.
    """

    kid: str | None = None  # type: ignore[misc]  # a field here, and for a mere payload always None


class LimitIncrease(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A limit of an issuer that was increased: revocations made before it expire by the old value.

    Attributes:
        limit: The attribute of :class:`Issuer`.
        old_value: In seconds.
        until: The old value applies to everything issued up to this time (ms by Redis).
    """

    limit: Literal["max_token_lifetime", "horizon", "leeway", "clock_skew"]
    old_value: int
    until: int


class OldLimits(msgspec.Struct, frozen=True, gc=False):
    """What the store remembers of an issuer that a verdict must consider.

    Attributes:
        increases: Of its limits, as long as any token from before one can be active.
        conflict: Why there is no verdict on tokens of the issuer; None where there is.
    """

    increases: tuple[LimitIncrease, ...] = ()
    conflict: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """One issuer's name and the limits that its tokens must keep.

    Attributes:
        name: Short and stable: part of Redis keys.
        iss: The ``iss`` claim, compared by code point.
        own: Whether its sessions are kept here.
        horizon: Longest time in seconds between what a cutoff is compared with and the end of a token.
        revoked_kids: Keys revoked by configuration, whatever the store knows.
    """

    name: str
    iss: str
    own: bool = False
    clock_skew: int = 2
    leeway: int = 30
    max_token_lifetime: int = 86400
    cutoff_claim: Literal["iat", "auth_time"] = "iat"
    max_session_lifetime: int = 0
    horizon: int = 86400
    require_jti: bool = True
    revoked_kids: frozenset[str] = frozenset()


class UserState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is kept for one user; times in ms by Redis, 0 where there is none (DESIGN §1).

    Attributes:
        sid: The session excepted from ``soft``.
        blocked: Nothing of the user's is active before it.
        last: The latest time that anything of the user's was dated, so that none is dated before it.
    """

    hard: int = 0
    soft: int = 0
    sid: str = ""
    blocked: int = 0
    last: int = 0
    reason: str = ""
    block_reason: str = ""


class Revocation(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One revocation that stands: when it was made or is dated (ms), and why, where that was said."""

    at: int
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationState:
    """All that the store says about one token.

    Attributes:
        keys: The issuer's keys that were revoked through the API, by ``kid``.
        loss: Everything issued before it is not active, since revocations were lost then (ms; 0: none).
    """

    jti: Revocation | None = None
    user: UserState | None = None
    session: Revocation | None = None
    client: Revocation | None = None
    issuer: Revocation | None = None
    keys: Mapping[str, Revocation] = field(default_factory=dict)
    loss: int = 0


NO_REVOCATIONS: Final = RevocationState()


class Verdict(enum.StrEnum):
    """Why a token is or is not active; the values are metric labels and stand in ``/explain``."""

    ACTIVE = "active"
    INVALID = "invalid"
    FOREIGN = "foreign"
    INCOMPLETE = "incomplete"
    ISSUED_IN_FUTURE = "issued_in_future"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    LIVES_TOO_LONG = "lives_too_long"
    SESSION_MALFORMED = "session_malformed"
    KEY_REVOKED = "key_revoked"
    TOKEN_REVOKED = "token_revoked"
    USER_BLOCKED = "user_blocked"
    USER_CUTOFF = "user_cutoff"
    SESSION_CUTOFF = "session_cutoff"
    CLIENT_CUTOFF = "client_cutoff"
    ISSUER_CUTOFF = "issuer_cutoff"
    DATA_LOSS = "data_loss"


class Session(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One session kept here.

    Attributes:
        start: When it began (ms); its ``sid`` says the same.
        used: When it was last used to get a token (ms).
        ends: Its end in any case (ms).
        auth_time: When the user last proved who they are (s).
        generation: Of the refresh token that counts now.
    """

    sid: str
    sub: str
    client_id: str
    scope: str = ""
    aud: tuple[str, ...] = ()
    amr: tuple[str, ...] = ()
    acr: str = ""
    device: str = ""
    ip: str = ""
    user_agent: str = ""
    start: int
    used: int
    ends: int
    auth_time: int
    generation: int
