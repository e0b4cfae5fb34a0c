"""The table of every path that is served: its handler, its port, and how it is reached."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from aiohttp import web

from revoker.api import (
    backchannel,
    blocks,
    cutoffs,
    explain,
    forward_auth,
    openapi,
    probes,
    revocation,
    revoked_keys,
    sessions,
    token,
    well_known,
)
from revoker.api.endpoint import Endpoint
from revoker.api.envelope import ANY, Logged, Path, Port
from revoker.api.parts import Parts
from revoker.api.paths import BATCH, FORWARD_AUTH, INTROSPECT
from revoker.api.prebuilt import Handler, PrebuiltResponse

ENDPOINTS: tuple[Endpoint[Any], ...] = (
    *revocation.ENDPOINTS,
    *cutoffs.ENDPOINTS,
    *revoked_keys.ENDPOINTS,
    *blocks.ENDPOINTS,
    *explain.ENDPOINTS,
)


def paths(
    parts: Parts,
    health: probes.Health,
    *,
    introspect: Handler,
    introspect_batch: Handler,
    authorize_forward: Handler,
    introspection_seconds: Callable[[float], None],
) -> Iterator[Path]:
    """Every path. Fast are those on which gateways and clients ask all the time."""
    yield Path(
        path=INTROSPECT,
        handle=introspect,
        fast=True,
        sheds_load=True,
        read_only=True,
        traced=False,
        seconds=introspection_seconds,
    )
    yield Path(
        path=BATCH,
        handle=introspect_batch,
        fast=True,
        sheds_load=True,
        read_only=True,
        logged=Logged.FAILURES,
    )
    yield Path(
        path=FORWARD_AUTH,
        method=ANY,
        handle=authorize_forward,
        subtree=True,
        fast=True,
        sheds_load=True,
        ignores_body=True,
        read_only=True,
        logged=Logged.NOTHING,
        traced=False,
        render_error=forward_auth.unavailable,
        malformed=forward_auth.malformed_request,
    )
    if parts.kept is not None:
        for endpoint in token.ENDPOINTS:
            yield Path(
                path=endpoint.path,
                handle=_prebuilt(endpoint, parts),
                fast=True,
                sheds_load=True,
                logged=Logged.FAILURES,
            )
    for endpoint in _ordinary_endpoints(parts):
        yield _routed(endpoint.route(parts))
    for route in _well_known_routes(parts):
        yield _routed(route)
    for route in probes.routes(health, parts.metrics.registry):
        yield _routed(route, port=Port.OPS, logged=Logged.NOTHING)
    own_issuer = None if parts.kept is None else parts.kept.issuer.iss
    tokens = () if parts.kept is None else token.ENDPOINTS
    for route in openapi.routes((*_ordinary_endpoints(parts), *tokens), own_issuer):
        yield _routed(route, port=Port.OPS)


def _ordinary_endpoints(parts: Parts) -> tuple[Endpoint[Any], ...]:
    return (
        *ENDPOINTS,
        *(backchannel.ENDPOINTS if parts.logout_audiences else ()),
        *(() if parts.kept is None else sessions.ENDPOINTS),
    )


def _prebuilt(endpoint: Endpoint[Any], parts: Parts) -> Handler:
    async def respond(request: web.Request) -> PrebuiltResponse:
        return PrebuiltResponse(msgspec.json.encode(await endpoint.ask(parts, request)))

    return respond


def _routed(route: web.RouteDef, *, port: Port = Port.MAIN, logged: Logged = Logged.ALL) -> Path:
    return Path(method=route.method, path=route.path, handle=route.handler, port=port, logged=logged)


def _well_known_routes(parts: Parts) -> list[web.RouteDef]:
    if parts.kept is None:
        return []
    remembered, name = parts.store.revocations.remembered, parts.kept.issuer.name
    return well_known.routes(
        parts.kept.issuer.iss,
        parts.kept.signing_keys,
        revoked=lambda: remembered.keys[name],
        clock=parts.store.clocks.now,
        client_certificates=parts.client_certificates,
    )
