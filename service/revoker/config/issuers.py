"""The sections ``[[issuers]]``."""

from typing import Annotated, Literal

from pydantic import Field, Strict, ValidationInfo, field_validator

from revoker.config.profiles import PROFILE_NAMES
from revoker.config.section import Section
from revoker.config.value_types import (
    HMAC_KEY_BYTES,
    ClaimNames,
    Name,
    NotEmpty,
    Text,
    Texts,
    http_url,
    reject,
    secret_of_size,
)
from revoker.models import STANDARD_NAMES

Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
    "EdDSA", "Ed25519", "Ed448", "HS256", "HS384", "HS512",
]  # fmt: skip


class ClaimSettings(Section):
    """How an issuer names its claims: of several names, the first is used that a token has.

    Revocations are stored by the values of these claims, so the store remembers the names. With others the
    service does not start, until `revoker store accept-mapping`
    ([changed claims](reliability.md#changed-claims)). `scope` may change freely. So may `revocable`, but a
    claim stays by which something was revoked.
    """

    jti: ClaimNames = STANDARD_NAMES.jti
    """Claims that identify a token, such as `uti`."""

    sub: Annotated[ClaimNames, NotEmpty] = STANDARD_NAMES.sub
    """Claims that identify a user, such as `oid`; `["sub", "client_id"]` for machine tokens without `sub`."""

    sid: ClaimNames = STANDARD_NAMES.sid
    """Claims that identify a session, such as `session_id`."""

    client_id: ClaimNames = STANDARD_NAMES.client_id
    """Claims that identify a client, such as `cid` or `appid`."""

    scope: ClaimNames = STANDARD_NAMES.scope
    """Claims that hold the scope: a string, or a list of strings."""

    revocable: Annotated[ClaimNames, Field(max_length=4)] = ()
    """Up to 4 further claims whose values `/revoke-claim` revokes, such as `grant_id` or `email`: strings,
    numbers, or lists of up to 16 of them."""


class IssuerSettings(Section):
    """An identity provider whose tokens are judged."""

    name: Name
    """Short and stable: part of Redis keys. A store refuses an issuer that has changed its name."""

    profile: Literal[PROFILE_NAMES] | None = None  # type: ignore[valid-type]  # the names in the data file
    """Defaults for a well-known provider, such as `keycloak`. Settings that are given here take
    precedence."""

    issuer: Text
    """The `iss` claim of its tokens, compared exactly."""

    issuer_aliases: Texts = ()
    """Other `iss` claims of the same provider, with the same users and keys. A revocation under one holds for
    all. The store remembers them: an alias does not become an issuer of its own, nor the reverse."""

    audiences: Texts = ()
    """The `aud` of a token must contain at least one of these. Required, unless `client_ids` is given."""

    client_ids: Texts = ()
    """For tokens without `aud` alone: their client must be one of these."""

    accept_id_tokens: bool = False
    """Whether OpenID Connect ID tokens are accepted, too. They are meant for a client, not for an API."""

    claims: ClaimSettings = ClaimSettings()
    """Names of its claims."""

    algorithms: Annotated[tuple[Algorithm, ...], Strict(False), NotEmpty] = ("RS256",)
    """Accepted signature algorithms, whatever a token's header asks for. `Ed25519` and `Ed448` (RFC 9864)
    are `EdDSA` with that curve."""

    jwks_insecure: bool = False
    """Allow plain http in `jwks_uri`."""

    jwks_uri: str = ""
    """URL of its keys. Exactly one of `jwks_uri`, `jwks_file` and `hmac_secret_file` is required."""

    jwks_file: str = ""
    """File with its keys as a JSON Web Key Set; reloaded when it changes."""

    hmac_secret_file: str = ""
    """File with the secret shared with it (HS algorithms); a newline at its end is ignored."""

    restricted: bool = False
    """Only callers whose `issuers` names it, and edges (the scope `feed`), may use its tokens, such as
    those of a [canary](canary.md)."""

    revoked_kids: Texts = ()
    """`kid`s of keys that are revoked permanently, independent of the store."""

    cutoff_claim: Literal["iat", "auth_time"] = "iat"
    """Claim that cutoffs are compared with; with `auth_time` a cutoff covers refreshed tokens too."""

    max_session_lifetime: Annotated[int, Field(ge=0, le=10 * 366 * 86400)] = 0
    """Seconds; with `cutoff_claim = "auth_time"` the maximum `exp - auth_time` of a token."""

    max_token_lifetime: Annotated[int, Field(ge=0, le=10 * 366 * 86400)] = 0
    """Seconds; a token whose `exp - iat` is larger is never active. 0: `revocation.max_token_lifetime`."""

    clock_skew: Annotated[int, Field(ge=0, le=300)] = 2
    """Seconds by which its clock may be ahead."""

    iat_backdated: Annotated[int, Field(ge=0, le=900)] = 0
    """Seconds by which it dates `iat` before the time at which it makes a token. With 30, a token that it
    did not date back stays active after a cutoff that is made within 30 seconds after it was issued."""

    require_jti: bool = True
    """Whether a token without `jti` is never active."""

    require_typ: Literal["", "at+jwt"] = ""
    """`at+jwt`: tokens must follow RFC 9068 exactly."""

    backchannel_audience: str = ""
    """Accept back-channel logout tokens for this audience. Empty: none."""

    backchannel_ends: Literal["session", "user"] = "session"
    """What a logout token ends that names a session and a user: the session, or every session of the user,
    where access tokens do not name theirs. One that names no user ends its session."""

    @field_validator("issuer", "issuer_aliases")
    @classmethod
    def _is_no_template(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if any("{" in iss for iss in ((value,) if isinstance(value, str) else value)):
            raise reject("holds a placeholder; give the issuer as it is in the iss claim of a token")
        return value

    @field_validator("audiences")
    @classmethod
    def _are_exact(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "*" in value:
            raise reject("are compared exactly; * would match no token")
        return value

    @field_validator("client_ids")
    @classmethod
    def _replace_audiences(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not value and info.data.get("audiences") == ():
            raise reject("is required, unless client_ids is given", at="audiences")
        return value

    @field_validator("require_jti")
    @classmethod
    def _needs_a_claim(cls, value: bool, info: ValidationInfo) -> bool:
        claims = info.data.get("claims")
        if value and claims is not None and not claims.jti:
            raise reject("needs a claim in claims.jti")
        return value

    @field_validator("jwks_uri")
    @classmethod
    def _is_safe(cls, value: str, info: ValidationInfo) -> str:
        if value:
            http_url(value, schemes=("https", "http"))
            if value.startswith("http:") and info.data.get("jwks_insecure") is False:
                raise reject("must be https; jwks_insecure = true allows plain http")
        return value

    @field_validator("hmac_secret_file")
    @classmethod
    def _is_the_one_source(cls, value: str, info: ValidationInfo) -> str:
        others = (info.data.get("jwks_uri"), info.data.get("jwks_file"))
        if None not in others and [*map(bool, others), bool(value)].count(True) != 1:
            raise reject("give exactly one of jwks_uri, jwks_file and hmac_secret_file", at="jwks_uri")
        algorithms = info.data.get("algorithms", ())
        if value and any(algorithm not in HMAC_KEY_BYTES for algorithm in algorithms):
            raise reject("must be HS256, HS384 or HS512 only, with hmac_secret_file", at="algorithms")
        if any(others) and any(algorithm in HMAC_KEY_BYTES for algorithm in algorithms):
            raise reject("must not be HS256, HS384 or HS512, with keys that are public", at="algorithms")
        if value:
            secret_of_size(value, max((HMAC_KEY_BYTES.get(name, 0) for name in algorithms), default=32))
        return value

    @field_validator("max_session_lifetime")
    @classmethod
    def _bounds_the_claim(cls, value: int, info: ValidationInfo) -> int:
        if info.data.get("cutoff_claim") == "auth_time" and not value:
            raise reject('must be set: cutoff_claim = "auth_time" needs the longest life of a login')
        return value
