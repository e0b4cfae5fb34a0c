"""The section ``[sessions]``."""

from typing import Annotated, Final

from pydantic import Field, ValidationInfo, field_validator

from revoker.config.section import Section
from revoker.config.value_types import ClaimNames, NotEmpty, Seconds, Text, Texts, http_url, reject
from revoker.models import RESERVED_CLAIMS

SESSIONS_NAME: Final = "sessions"
"""The name of the issuer of our own sessions; part of Redis keys."""


class SessionSettings(Section):
    """Sessions and tokens issued by this service; enabled if the section is present."""

    issuer: Text
    """The `iss` claim of the tokens issued here: an https URL without query and fragment."""

    audiences: Annotated[Texts, NotEmpty]
    """The `aud` claim of the tokens issued here."""

    access_token_lifetime: Seconds = 900
    """Seconds; at most `revocation.max_token_lifetime`."""

    idle_timeout: Seconds = 1209600
    """Seconds without a refresh after which a session ends."""

    absolute_timeout: Seconds = 7776000
    """Seconds after its start at which a session ends in any case."""

    refresh_grace: Annotated[int, Field(ge=0, le=60)] = 10
    """Seconds in which a repeated refresh returns the same successor and is not reuse; 0: none."""

    max_sessions_per_user: Annotated[int, Field(ge=0)] = 0
    """Beyond it the oldest session ends; 0: unlimited."""

    revocable: Annotated[ClaimNames, Field(max_length=4)] = ()
    """Up to 4 claims whose values `/revoke-claim` revokes, such as `grant_id`. A session begins with them in
    `claims` of `POST /sessions`."""

    signing_keys_dir: Text = "keys"
    """Folder with one private key per file (PEM or JWK); the newest usable one signs."""

    refresh_key_file: Text = "refresh.key"
    """File with the keys of refresh tokens."""

    @property
    def name(self) -> str:
        return SESSIONS_NAME

    @field_validator("issuer")
    @classmethod
    def _is_an_issuer(cls, value: str) -> str:
        http_url(value, schemes=("https",))
        if "?" in value or "#" in value:
            raise reject("must have neither query nor fragment (RFC 8414 §2)")
        return value

    @field_validator("revocable")
    @classmethod
    def _are_further_claims(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not RESERVED_CLAIMS.isdisjoint(value):
            raise reject("must not have claims that this service sets itself")
        return value

    @field_validator("idle_timeout")
    @classmethod
    def _outlasts_a_token(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("access_token_lifetime", 0):
            raise reject("must be at least sessions.access_token_lifetime")
        return value

    @field_validator("absolute_timeout")
    @classmethod
    def _outlasts_idleness(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("idle_timeout", 0):
            raise reject("must be at least sessions.idle_timeout")
        return value
