"""The sections ``[[callers]]``."""

from typing import Annotated, Any, Literal

from pydantic import Field, Strict, ValidationInfo, field_validator

from revoker.config.section import Section
from revoker.config.value_types import CallerName, Digest, NotEmpty, Texts, reject

Scope = Literal["introspect", "revoke", "revoke-all", "sessions", "read", "feed"]


class CallerSettings(Section):
    """Who may call, and for what."""

    name: CallerName
    """The name it authenticates with (Basic, `client_id`); appears in the audit log."""

    secret_sha256: Annotated[tuple[Digest, ...], Strict(False), Field(max_length=2)] = ()
    """SHA-256 of its secret, in hex (`revoker secret` makes both); two during a rotation."""

    scopes: Annotated[tuple[Scope, ...], Strict(False), NotEmpty]
    """What it may do: `introspect`, `revoke`, `revoke-all`, `sessions`, `read`, `feed`."""

    audiences: Texts = ()
    """Tokens for other audiences are inactive for it. Empty: all audiences."""

    issuers: Texts = ()
    """Names of the issuers whose tokens it may use. Empty: all."""

    client_id: str = ""
    """It may only revoke this client's tokens. Empty: anything its scopes allow."""

    @field_validator("audiences", "issuers", "client_id")
    @classmethod
    def _bounds_no_feed(cls, value: Any, info: ValidationInfo) -> Any:
        if value and "feed" in info.data.get("scopes", ()):
            raise reject("can't be combined with the scope feed, which shows the revocations of every issuer")
        return value

    rate_limit: Annotated[float, Field(ge=0, le=1_000_000)] = 0
    """Requests per second to one process, beyond which the answer is 429; each token of a batch counts.
    0: no limit."""
