"""What an identity provider publishes on the web: its discovery document and its keys, read once."""

import ipaddress
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from revoker.errors import ConfigError
from revoker.tokens.jwk import VerifyingKey
from revoker.tokens.key_fetching import FETCH_TIMEOUT_S
from revoker.tokens.key_sets import MAX_SET_BYTES, read_key_set, require_usable

DISCOVERY_PATH: Final = "/.well-known/openid-configuration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What a discovery document says (OpenID Connect Discovery 1.0, RFC 8414).

    Attributes:
        issuers: The ``iss`` of its tokens: of all, or of access tokens where that differs.
        logout_tokens: Whether it sends logout tokens.
        sid_in_logout_tokens: Whether these name the session.
    """

    url: str
    issuers: tuple[str, ...]
    jwks_uri: str
    algorithms: tuple[str, ...]
    logout_tokens: bool
    sid_in_logout_tokens: bool


async def discover(url: str) -> Discovery:
    """Read a discovery document.

    Args:
        url: Of the issuer, or of the document itself.

    Raises:
        ConfigError: it can't be read, or has no URL of keys.
    """
    if "/.well-known/" not in url:
        url = url.rstrip("/") + DISCOVERY_PATH
    _require_safe(url, "--discover")
    try:
        document = json.loads(await _download(url, "--discover"))
    except (ValueError, RecursionError):
        document = None
    if type(document) is not dict:
        raise ConfigError([f"--discover: {url} is not a JSON object; give the URL of the issuer"])
    jwks_uri = document.get("jwks_uri")
    if type(jwks_uri) is not str:
        raise ConfigError([f"--discover: {url} has no jwks_uri; is it the document of an identity provider?"])
    _require_safe(jwks_uri, "jwks_uri of the discovery document")
    return Discovery(
        url=url,
        issuers=_texts([document.get("issuer"), document.get("access_token_issuer")]),
        jwks_uri=jwks_uri,
        algorithms=_texts(document.get("id_token_signing_alg_values_supported")),
        logout_tokens=document.get("backchannel_logout_supported") is True,
        sid_in_logout_tokens=document.get("backchannel_logout_session_supported") is True,
    )


async def fetch_keys(url: str, algorithms: Collection[str]) -> list[VerifyingKey]:
    """The usable keys of a JWK Set.

    Raises:
        ConfigError: it can't be read, or has none.
    """
    document = await _download(url, "jwks_uri")
    try:
        return require_usable(*read_key_set(document, algorithms))
    except ValueError as fault:
        raise ConfigError([f"jwks_uri: {url}: {fault}"]) from None


def is_local(url: str) -> bool:
    """Whether the URL names this machine, which needs no TLS."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _require_safe(url: str, source: str) -> None:
    try:
        parts = urlsplit(url)
        sound = bool(parts.hostname) and (parts.port is None or parts.port > 0) and url.isprintable()
        allowed = parts.scheme == "https" or (parts.scheme == "http" and is_local(url))
        credentials = parts.username is not None or parts.password is not None
    except ValueError:
        sound = allowed = credentials = False
    if not sound or not allowed:
        raise ConfigError([f"{source}: must be a URL that begins with https://"])
    if credentials:
        raise ConfigError([f"{source}: must not hold a user name or password"])


async def _download(url: str, source: str) -> bytes:
    """Read a document of bounded size in bounded time; redirects are not followed."""
    body = bytearray()
    try:
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept": "application/json", "Accept-Encoding": "identity"},
                auto_decompress=False,
            ) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if 300 <= response.status < 400:
                raise ConfigError([f"{source}: {url} redirects; give the URL to which it leads"])
            if response.status != 200:
                raise ConfigError([f"{source}: {url} answered with status {response.status}"])
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_SET_BYTES:
                    raise ConfigError([f"{source}: {url} is larger than {MAX_SET_BYTES // 1024} KiB"])
    except TimeoutError:
        raise ConfigError([f"{source}: {url} did not answer within {FETCH_TIMEOUT_S:g} s"]) from None
    except (aiohttp.ClientError, OSError, ValueError) as fault:
        raise ConfigError([f"{source}: {url} can't be read: {str(fault) or type(fault).__name__}"]) from None
    return bytes(body)


def _texts(values: Any) -> tuple[str, ...]:
    found = values if type(values) is list else []
    return tuple(value for value in found if type(value) is str)
