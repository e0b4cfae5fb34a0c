"""The settings of an edge: those of the service, with an upstream in place of a store."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, Strict, ValidationInfo, field_validator

from revoker.config.callers import CallerSettings
from revoker.config.issuers import IssuerSettings
from revoker.config.loading import read
from revoker.config.revocation import RevocationSettings
from revoker.config.schema import Settings, settled
from revoker.config.section import Section
from revoker.config.server import ServerSettings
from revoker.config.sessions import SESSIONS_NAME
from revoker.config.value_types import (
    AuthoritiesFile,
    ClaimNames,
    EdgeName,
    NotEmpty,
    Seconds,
    SecretFile,
    Text,
    Texts,
    crosses_network_in_clear,
    http_url,
    reject,
)
from revoker.errors import ConfigError


class UpstreamSettings(Section):
    """The service whose feed the edge follows."""

    url: Annotated[Texts, NotEmpty]
    """URL of the service, or a list of them: while one is not available, the edge follows another. All must
    use the same store. https, unless it is on this machine."""

    insecure: bool = False
    """Allow plain http to other machines. Everybody on the way can then read the secret, and un-revoke tokens
    at this edge."""

    ca_file: AuthoritiesFile = ""
    """CA certificates (PEM) of the upstreams; empty: those of the system."""

    secret_file: SecretFile
    """File with the secret of a caller that has the scope `feed`, and for `beyond = "ask"` `introspect`. The
    file is read for every request to the upstream."""

    name: EdgeName = ""
    """By which the upstream lists this edge, with a random suffix for each process. Empty: the name of the
    machine."""

    max_staleness: Annotated[float, Field(ge=2, le=3600)] = 5
    """Seconds; what the edge knows is never older than this when it answers."""

    beyond: Literal["refuse", "ask"] = "refuse"
    """After `max_staleness`: no verdict (503), or ask the upstream for each token."""

    @field_validator("url", mode="before")
    @classmethod
    def _may_be_one(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("url")
    @classmethod
    def _are_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            http_url(url, schemes=("https", "http"))
            parts = urlsplit(url)
            if parts.query or parts.fragment:
                raise reject("must have neither query nor fragment")
        return tuple(url.rstrip("/") for url in value)

    @field_validator("insecure")
    @classmethod
    def _is_private(cls, value: bool, info: ValidationInfo) -> bool:
        if not value and any(map(crosses_network_in_clear, info.data.get("url", ()))):
            raise reject("must be https; insecure = true allows plain http", at="url")
        return value


class EdgeRevocationSettings(Section):
    """As in the service: applies to every issuer."""

    leeway: Annotated[int, Field(ge=0, le=300)] = RevocationSettings.model_fields["leeway"].default
    """Seconds for which a token is still accepted after its `exp`."""

    max_token_lifetime: Seconds = RevocationSettings.model_fields["max_token_lifetime"].default
    """Seconds; a token whose `exp - iat` is larger is never active."""


class EdgeSessionSettings(Section):
    """Tokens issued by the service itself (its section `[sessions]`)."""

    issuer: Text
    """As in the service."""

    audiences: Annotated[Texts, NotEmpty]
    """As in the service."""

    revocable: Annotated[ClaimNames, Field(max_length=4)] = ()
    """As in the service."""

    absolute_timeout: Seconds = 7776000
    """As in the service."""

    jwks_uri: str = ""
    """URL of its keys. Empty: at the first upstream."""

    @property
    def name(self) -> str:
        return SESSIONS_NAME


class EdgeSettings(Section):
    """All settings of an edge."""

    server: ServerSettings = ServerSettings()
    upstream: UpstreamSettings
    revocation: EdgeRevocationSettings = EdgeRevocationSettings()
    issuers: Annotated[tuple[IssuerSettings, ...], Strict(False)] = ()
    callers: Annotated[tuple[CallerSettings, ...], Strict(False)] = ()
    sessions: EdgeSessionSettings | None = None


AnySettings = Settings | EdgeSettings

_NOT_HERE: Final = {
    "redis": "an edge has no store; remove the section: [upstream] says whose feed it follows",
    "feed": "an edge serves no feed; remove the section",
    "console": "an edge has no console; remove the section",
}


def load_edge(path: Path | None, environ: Mapping[str, str]) -> EdgeSettings:
    """As :func:`revoker.config.schema.load`, for an edge."""
    return settle_edge(read(path) if path else {}, environ)


def settle_edge(values: dict[str, Any], environ: Mapping[str, str]) -> EdgeSettings:
    """As :func:`load_edge`, of values shaped like the file."""
    problems = [f"{section}: {problem}" for section, problem in _NOT_HERE.items() if section in values]
    rest = {section: value for section, value in values.items() if section not in _NOT_HERE}
    try:
        settings = settled(rest, environ, EdgeSettings)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if problems:
        raise ConfigError(problems)
    return settings


def is_edge(values: Mapping[str, Any]) -> bool:
    """Whether a file configures an edge, and not a service."""
    return "upstream" in values
