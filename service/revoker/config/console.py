"""The settings of the console."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator

from revoker.config.section import Section
from revoker.config.value_types import (
    LOOPBACK,
    NotEmpty,
    ReadableFile,
    Seconds,
    Text,
    Texts,
    crosses_network_in_clear,
    http_url,
    reject,
)

_SET_BY_USERS: Final = frozenset((
    "name", "given_name", "family_name", "middle_name", "nickname", "preferred_username", "profile",
    "picture", "website", "email", "gender", "birthdate", "zoneinfo", "locale", "phone_number", "address",
    "user_metadata", "nonce",
))  # fmt: skip
"""Claims that users set themselves at many providers (OpenID Connect Core §5.1), or that the console sets."""


def _endpoint(value: str) -> str:
    if value:
        http_url(value, schemes=("https", "http"))
        parts = urlsplit(value)
        if parts.fragment:
            raise reject("must have no fragment")
        if crosses_network_in_clear(value):
            raise reject("must be https")
    return value


class ConsoleSettings(Section):
    """The [console](console.md): web pages for support and security staff."""

    enabled: bool = False
    """Whether there is a console, at `/console`. Needs the extra `console`."""

    url: str = ""
    """Where browsers reach this service: scheme, host and port alone, as `https://revoker-admin.example.com`."""

    issuer: str = ""
    """Name of the entry of `[[issuers]]` by which people sign in."""

    client_id: str = ""
    """The client that is registered for the console there; its redirect URI is `<url>/console/callback`."""

    client_secret_file: ReadableFile = ""
    """File that holds the client's secret; read at every sign-in. Empty: a public client, with PKCE alone."""

    authorization_endpoint: str = ""
    """`authorization_endpoint` of the provider's `/.well-known/openid-configuration`."""

    token_endpoint: str = ""
    """`token_endpoint` of the same."""

    scope: Text = "openid profile"
    """What is asked for; with whatever the provider needs to put the roles into the ID token."""

    roles_claim: Annotated[Texts, NotEmpty, Field(max_length=8)] = ("roles",)
    """Where the roles are in the ID token, one member in another: `["realm_access", "roles"]`. It must be a
    claim that nobody but the provider's administrators can set."""

    viewer_roles: Texts = ("revoker-viewer",)
    """Values of it that make a `viewer`, who can look at everything."""

    support_roles: Texts = ("revoker-support",)
    """Values that make `support`, who can also act on one user at a time."""

    admin_roles: Texts = ("revoker-admin",)
    """Values that make an `admin`, who can also act on more than one user."""

    secret_sign_in: bool = False
    """For development: sign in by the name and secret of a caller instead, whose scopes give the role. Only
    with a `server.host` that other machines cannot reach, and without a proxy."""

    idle_timeout: Seconds = 900
    """Seconds without a request after which one has to sign in again."""

    absolute_timeout: Seconds = 28800
    """Seconds after which one has to sign in again in any case."""

    @field_validator("enabled")
    @classmethod
    def _has_what_it_needs(cls, value: bool) -> bool:
        if value and not all(map(find_spec, ("authlib", "jinja2"))):
            raise reject("needs the extra console: pip install 'revoker[console]'")
        return value

    @field_validator("url")
    @classmethod
    def _is_an_origin(cls, value: str) -> str:
        if not value:
            return value
        http_url(value, schemes=("https", "http"))
        parts = urlsplit(value)
        if parts.path not in {"", "/"} or parts.query or parts.fragment:
            raise reject("must be scheme, host and port alone: the console is at /console of it")
        if crosses_network_in_clear(value):
            raise reject("must be https: by http anybody on the way could take over a sign-in")
        if parts.port == {"https": 443, "http": 80}[parts.scheme]:
            raise reject("must not name the default port: browsers leave it out of the origin of a request")
        return value.rstrip("/").lower()

    @field_validator("authorization_endpoint", "token_endpoint")
    @classmethod
    def _is_an_endpoint(cls, value: str) -> str:
        return _endpoint(value)

    @field_validator("scope")
    @classmethod
    def _asks_for_an_id_token(cls, value: str) -> str:
        if "openid" not in value.split(" "):
            raise reject("must have openid in it: without it there is no ID token")
        return value

    @field_validator("roles_claim")
    @classmethod
    def _is_not_set_by_users(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value and value[0] in _SET_BY_USERS:
            raise reject("names a claim that users can set themselves, and so make themselves administrators")
        return value

    @field_validator("absolute_timeout")
    @classmethod
    def _outlasts_idleness(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("idle_timeout", 0):
            raise reject("must be at least console.idle_timeout")
        return value


_OF_PROVIDER: Final = ("url", "issuer", "client_id", "authorization_endpoint", "token_endpoint")


def console_problems(values: dict[str, Any], issuers: list[dict[str, Any]]) -> Iterator[str]:
    """What is wrong between the console and other sections, in raw values; one line for each problem."""
    console, server = values.get("console"), values.get("server")
    if not isinstance(console, dict) or console.get("enabled") is not True:
        return
    if console.get("secret_sign_in") is True:
        listens = server if isinstance(server, dict) else {}
        if listens.get("host", "127.0.0.1") not in LOOPBACK:
            yield "console.secret_sign_in: is for development: server.host must be 127.0.0.1, ::1, localhost"
        if listens.get("trusted_proxies"):
            yield "console.secret_sign_in: is for development: with server.trusted_proxies others reach it"
        url = console.get("url")
        if isinstance(url, str) and url and urlsplit(url).hostname not in LOOPBACK:
            yield "console.secret_sign_in: is for development: console.url must be of this machine"
        if console.get("issuer"):
            yield "console.secret_sign_in: give either this or console.issuer"
        return
    for name in _OF_PROVIDER:
        if not console.get(name):
            yield f"console.{name}: is required for a sign-in by OpenID Connect"
    issuer = console.get("issuer")
    found = [table for table in issuers if issuer and table.get("name") == issuer]
    if issuer and not found:
        yield "console.issuer: is not the name of an entry of [[issuers]]"
    if any(table.get("hmac_secret_file") for table in found):
        yield "console.issuer: must have public keys: whoever shares its secret could make administrators"
