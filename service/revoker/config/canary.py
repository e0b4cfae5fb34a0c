"""The settings of a canary: whom it asks, and by which key, issuer and caller it makes and revokes tokens."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, Strict, ValidationInfo, field_validator

from revoker.config.loading import overlay, read, validated
from revoker.config.section import Section
from revoker.config.value_types import (
    AuthoritiesFile,
    CallerName,
    Host,
    OptionalHostName,
    Port,
    ReadableFile,
    SecretFile,
    Text,
    crosses_network_in_clear,
    file_with_secret,
    http_url,
    reject,
)

ISSUER: Final = "urn:revoker:canary"
"""The default of `iss` and `aud`: no identity provider has it, and no API is called so."""


class _AskedSettings(Section):
    """Base of the sections that name a server."""

    @field_validator("url", check_fields=False)
    @classmethod
    def _is_a_url(cls, value: str) -> str:
        http_url(value, schemes=("https", "http"))
        if urlsplit(value).fragment:
            raise reject("must have no fragment")
        return value

    @field_validator("insecure", check_fields=False)
    @classmethod
    def _is_private(cls, value: bool, info: ValidationInfo) -> bool:
        if not value and crosses_network_in_clear(info.data.get("url", "")):
            raise reject("must be https; insecure = true allows plain http", at="url")
        return value


class CanaryServerSettings(Section):
    """Where the canary has its `/metrics`, `/livez` and `/readyz`."""

    host: Host = "127.0.0.1"
    """Address or host name to listen on; `0.0.0.0` or `::` for all."""

    port: Port = 9190
    """Port to listen on; 0: a free one, which is logged."""


class CanaryUpstreamSettings(_AskedSettings):
    """The service at which the canary revokes its tokens."""

    url: Text
    """URL of the service. https, unless it is on this machine."""

    insecure: bool = False
    """Allow plain http to another machine. Everybody on the way can then read the secret."""

    ca_file: AuthoritiesFile = ""
    """CA certificates (PEM) of the service; empty: those of the system."""

    secret_file: SecretFile
    """File with the secret of a caller that has the scopes `introspect` and `revoke`, and whose `issuers`
    names the issuer of the canary alone. The file is read for every request."""


class CanaryRoundSettings(Section):
    """The canary's tokens, and how often it revokes one."""

    key_file: ReadableFile
    """File with the private key (PEM or JWK) that signs its tokens; `revoker canary init` makes one."""

    issuer: Text = ISSUER
    """The `iss` claim of its tokens. The service and all edges need an `[[issuers]]` with it."""

    audience: Text = ISSUER
    """The `aud` claim of its tokens."""

    every_seconds: Annotated[float, Field(ge=5, le=120)] = 60
    """Seconds from the beginning of one round to that of the next."""

    timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 10
    """Seconds after its revocation by which a token must be refused, such as `max_staleness` of the edges and
    something for the way. Less than `every_seconds`."""

    @field_validator("timeout_seconds")
    @classmethod
    def _ends_before_the_next(cls, value: float, info: ValidationInfo) -> float:
        if value >= info.data.get("every_seconds", value + 1):
            raise reject("must be less than canary.every_seconds")
        return value


class TargetSettings(_AskedSettings):
    """An edge, an instance of the service, or a gateway that must refuse what was revoked."""

    name: CallerName
    """The value of the label `target`."""

    kind: Literal["introspect", "http"] = "introspect"
    """`introspect`: an edge or a service, asked by `/introspect`. `http`: a page behind a gateway, fetched
    with the token in `Authorization`: a status of 2xx or 404 accepts it, 401 and 403 refuse it."""

    url: Text
    """URL of the edge or the service, or of the page."""

    insecure: bool = False
    """Allow plain http to another machine. Everybody on the way can then read the token and the secret."""

    ca_file: AuthoritiesFile = ""
    """CA certificates (PEM) of the target; empty: those of the system."""

    secret_file: str = ""
    """For `introspect`: file with the secret of a caller with that scope. Empty: `upstream.secret_file`."""

    server_name: OptionalHostName = ""
    """The name in its certificate, which is sent in `Host`, too. Empty: the host of `url`."""

    all_addresses: bool = False
    """Ask every address that the host of `url` has, such as all pods behind a headless Service. The figure is
    that of the last one to refuse in time. Of those that do not, every reason counts once a round."""

    @field_validator("secret_file")
    @classmethod
    def _is_used(cls, value: str, info: ValidationInfo) -> str:
        if not value:
            return value
        if info.data.get("kind") == "http":
            raise reject('belongs to kind = "introspect"; a page is asked with the token alone')
        return file_with_secret(value)


class CanarySettings(Section):
    """All settings of a canary."""

    server: CanaryServerSettings = CanaryServerSettings()
    upstream: CanaryUpstreamSettings
    canary: CanaryRoundSettings
    targets: Annotated[tuple[TargetSettings, ...], Strict(False)]

    @field_validator("targets")
    @classmethod
    def _have_names_of_their_own(cls, value: tuple[TargetSettings, ...]) -> tuple[TargetSettings, ...]:
        if not value:
            raise reject("at least one [[targets]] is needed")
        if len({target.name for target in value}) < len(value):
            raise reject("two have the same name; names are unique")
        return value


def load_canary(path: Path | None, environ: Mapping[str, str]) -> CanarySettings:
    """As :func:`revoker.config.schema.load`, for a canary."""
    return settle_canary(read(path) if path else {}, environ)


def settle_canary(values: dict[str, Any], environ: Mapping[str, str]) -> CanarySettings:
    """As :func:`load_canary`, of values shaped like the file."""
    values = deepcopy(values)
    problems = list(overlay(values, environ, CanarySettings))
    return validated(values, problems, CanarySettings)


def is_canary(values: Mapping[str, Any]) -> bool:
    """Whether a file configures a canary."""
    return "canary" in values or "targets" in values
