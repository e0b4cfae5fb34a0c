"""Frozen values that several modules use."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec

Number = int | float
"""A NumericDate (RFC 7519 §2): seconds UTC, possibly with a fraction."""

LATEST_DATE: Final = 253_402_300_799
"""The end of the year 9999, in seconds since 1970; dates beyond it can't be read."""

_BoundedInt = Annotated[int, msgspec.Meta(ge=-LATEST_DATE, le=LATEST_DATE)]
_BoundedFloat = Annotated[float, msgspec.Meta(ge=-LATEST_DATE, le=LATEST_DATE)]


RevocableClaims = tuple[tuple[str, str], ...]
"""Names and values of claims that can be revoked by value; one with several values is there several times."""

RevocableValues = tuple[str | int | float | None, ...]
"""A value of every claim that an issuer's mapping calls revocable, in the order of :class:`ClaimNames`."""


class Payload(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The claims of a token that a verdict depends on; None where there is none.

    Attributes:
        kid: Always None, because the signing key is unknown; a ``kid`` in the payload says nothing about it.
        revocable: Always empty, because issuers without a mapping have no such claims.
        revocable_values: What ``revocable`` is made from, where the claims were read by the issuer's names:
            its strings are short enough to be cached. Else empty.
        named_by: The issuer by whose names the claims were read; None: by the standard names.
    """

    kid: ClassVar[str | None] = None
    revocable: ClassVar[RevocableClaims] = ()
    revocable_values: ClassVar[RevocableValues] = ()
    named_by: ClassVar["Issuer | None"] = None

    iss: str | None = None
    jti: str | None = None
    sub: str | None = None
    iat: Number | None = None
    exp: Number | None = None
    sid: str | None = None
    client_id: str | None = None
    azp: str | None = None
    aud: str | list[str] | None = None
    auth_time: _BoundedInt | _BoundedFloat | None = None
    nbf: Number | None = None


class Claims(Payload, frozen=True, kw_only=True, gc=False):
    """As :class:`Payload`, with the signing key and the claims that the issuer's mapping names.

    Attributes:
        kid: Of the key that verified the token, or in the claims form that of the header.
        revocable: The values of the claims that can be revoked by value.
    """

    kid: str | None = None  # type: ignore[misc]  # a field here, always None in a payload
    revocable: RevocableClaims = ()  # type: ignore[misc]  # likewise


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimNames:
    """How an issuer names its claims; of several names, the first is used that is present and can be read.

    Attributes:
        revocable: Further claims that can be revoked by value.
    """

    jti: tuple[str, ...] = ("jti",)
    sub: tuple[str, ...] = ("sub",)
    sid: tuple[str, ...] = ("sid",)
    client_id: tuple[str, ...] = ("client_id", "azp")
    scope: tuple[str, ...] = ("scope", "scp")
    revocable: tuple[str, ...] = ()


STANDARD_NAMES: Final = ClaimNames()

RESERVED_CLAIMS: Final = frozenset((
    "iss", "sub", "aud", "exp", "nbf", "iat", "jti", "sid", "client_id", "azp", "scope", "scp", "auth_time",
    "acr", "amr", "nonce", "cnf", "act", "may_act", "typ", "token_use", "events", "at_hash", "c_hash",
    "s_hash", "token_introspection", "status_list",
))  # fmt: skip
"""Claims that this service writes into the tokens of its sessions, or by which tokens are judged."""


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


class OldMargin(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An :attr:`Issuer.cutoff_margin` that was lowered: cutoffs made before that have covered more.

    Attributes:
        margin: The old one, in seconds.
        until: It applies to everything issued up to this time (ms by Redis).
    """

    margin: int
    until: int


class OldLimits(msgspec.Struct, frozen=True, gc=False):
    """What the store remembers of an issuer that a verdict must consider.

    Attributes:
        increases: Of its limits, as long as any token from before one can be active.
        margins: Likewise, wider ones than that of the settings.
        conflict: Why there is no verdict on tokens of the issuer; None where there is.
    """

    increases: tuple[LimitIncrease, ...] = ()
    margins: tuple[OldMargin, ...] = ()
    conflict: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """One issuer's name and the limits that its tokens must keep.

    Attributes:
        name: Short and stable: part of Redis keys.
        iss: The ``iss`` claim, compared by code point. It is part of its users' identity.
        aliases: Other ``iss`` claims of the same issuer.
        claim_names: None where claims have their standard names, and none is revocable by value.
        iat_backdated: Seconds by which ``iat`` may lie before the time at which a token was made.
        own: Whether this service holds its sessions.
        horizon: Longest time in seconds from the time compared with a cutoff to the end of a token, or of a
            session of the console.
        revoked_kids: Signing keys revoked by configuration.
    """

    name: str
    iss: str
    aliases: tuple[str, ...] = ()
    claim_names: ClaimNames | None = None
    own: bool = False
    clock_skew: int = 2
    iat_backdated: int = 0
    leeway: int = 30
    max_token_lifetime: int = 86400
    cutoff_claim: Literal["iat", "auth_time"] = "iat"
    max_session_lifetime: int = 0
    horizon: int = 86400
    require_jti: bool = True
    revoked_kids: frozenset[str] = frozenset()

    @property
    def cutoff_margin(self) -> int:
        """Seconds after a cutoff within which it covers what is issued, by ``iat``; negative: before it."""
        return self.clock_skew - self.iat_backdated


class UserState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The cutoffs and the block of one user; times in ms by Redis, 0 where there is none.

    Attributes:
        hard: A cutoff for all sessions.
        soft: A cutoff for all sessions but ``sid``.
        blocked: End of the block: until then no token of the user is active.
        last: The latest date of any of these, so that nothing later is dated before it.
    """

    hard: int = 0
    soft: int = 0
    sid: str = ""
    blocked: int = 0
    last: int = 0
    reason: str = ""
    block_reason: str = ""


class Revocation(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One revocation: its time (ms), and the reason if one was given."""

    at: int
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationState:
    """All that the store holds about one token.

    Attributes:
        claims: The cutoff of each of the token's revocable claims, in their order; empty: none has one.
        keys: The issuer's signing keys that were revoked through the API, by ``kid``.
        loss: When revocations were lost (ms; 0: never): no token issued before is active.
    """

    jti: Revocation | None = None
    user: UserState | None = None
    session: Revocation | None = None
    client: Revocation | None = None
    issuer: Revocation | None = None
    claims: tuple[Revocation | None, ...] = ()
    keys: Mapping[str, Revocation] = field(default_factory=dict)
    loss: int = 0


NO_REVOCATIONS: Final = RevocationState()


class Verdict(enum.StrEnum):
    """Why a token is or is not active; the values are metric labels and part of ``/explain``."""

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
    CLAIM_CUTOFF = "claim_cutoff"
    ISSUER_CUTOFF = "issuer_cutoff"
    DATA_LOSS = "data_loss"


ACTIVE_VERDICT: Final = Verdict.ACTIVE
"""For hot paths: Python 3.11 takes 0.1 µs to get a member of an enum."""


class Session(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One session held by this service.

    Attributes:
        start: In ms; part of the ``sid``.
        used: When it last gave a token (ms).
        ends: Its end, however often it is used (ms).
        auth_time: When the user last authenticated (s).
        generation: Of the current refresh token.
        claims: Further claims of its access tokens.
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
    claims: Mapping[str, Any] = msgspec.field(default_factory=dict)
