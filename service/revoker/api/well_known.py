"""``/.well-known/``: the keys that sign access tokens (RFC 7517), and the server's metadata (RFC 8414).

Every URL begins with the configured issuer, never with the ``Host`` of a request.
"""

from collections.abc import Callable, Collection
from typing import Final
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from revoker.api.caching import cacheable_response
from revoker.tokens.signing import SigningKeys

JWKS: Final = "/.well-known/jwks.json"
METADATA: Final = "/.well-known/oauth-authorization-server"

_JSON: Final = "application/json"
MAX_AGE_S: Final = 300
_HEADERS: Final = {
    "Cache-Control": f"public, max-age={MAX_AGE_S}",
    "Access-Control-Allow-Origin": "*",
}


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 8414 §2; without an authorization endpoint there are no response types."""

    issuer: str
    token_endpoint: str
    jwks_uri: str
    introspection_endpoint: str
    revocation_endpoint: str
    token_endpoint_auth_methods_supported: list[str]
    introspection_endpoint_auth_methods_supported: list[str]
    revocation_endpoint_auth_methods_supported: list[str]
    response_types_supported: tuple[str, ...] = ()
    grant_types_supported: tuple[str, ...] = ("refresh_token",)


def metadata(issuer: str, *, client_certificates: bool) -> Metadata:
    """The metadata of ``issuer``; where it has a path, that must lead to the root of this service."""
    base = issuer.rstrip("/")
    by_secret = ["client_secret_basic", "client_secret_post"]
    by_certificate = ["tls_client_auth"] if client_certificates else []
    callers = [*by_secret, "Bearer", *by_certificate]
    return Metadata(
        issuer=issuer,
        token_endpoint=f"{base}/token",
        jwks_uri=base + JWKS,
        introspection_endpoint=f"{base}/introspect",
        revocation_endpoint=f"{base}/revoke",
        token_endpoint_auth_methods_supported=["none", *by_secret, *by_certificate],
        introspection_endpoint_auth_methods_supported=callers,
        revocation_endpoint_auth_methods_supported=callers,
    )


def routes(
    issuer: str,
    keys: SigningKeys,
    *,
    revoked: Callable[[], Collection[str]],
    clock: Callable[[], float],
    client_certificates: bool = False,
) -> list[web.RouteDef]:
    """The routes; ``revoked`` gives the ids of own keys that were revoked: they are not published."""
    described = msgspec.json.encode(metadata(issuer, client_certificates=client_certificates))

    async def jwks(request: web.Request) -> web.Response:
        return cacheable_response(request, keys.jwks(clock(), revoked()), _JSON, _HEADERS)

    async def describe(request: web.Request) -> web.Response:
        return cacheable_response(request, described, _JSON, _HEADERS)

    return [web.get(JWKS, jwks), *(web.get(path, describe) for path in metadata_paths(issuer))]


def metadata_paths(issuer: str) -> list[str]:
    """Where clients look for the metadata of ``issuer``: at the root, and below it if it has a path."""
    return list(dict.fromkeys((METADATA, METADATA + _path_of(issuer))))


def _path_of(issuer: str) -> str:
    """The path that RFC 8414 §3.1 appends to the well-known one; braces would be a pattern."""
    return urlsplit(issuer).path.rstrip("/").replace("{", "%7B").replace("}", "%7D")
