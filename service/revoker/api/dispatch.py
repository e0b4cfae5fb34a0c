"""The table of every path that is served: its handler, its port, and how it is reached."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry

from revoker.api import (
    administration,
    backchannel,
    blocks,
    cutoffs,
    explain,
    feed,
    feed_consumers,
    feed_snapshot,
    forward_auth,
    openapi,
    probes,
    revocation,
    revoked_keys,
    session_list,
    sessions,
    token,
    well_known,
)
from revoker.api.endpoint import BoundEndpoint, Endpoint
from revoker.api.error_responses import NO_STORE, error_response
from revoker.api.paths import BATCH, FORWARD_AUTH, INTROSPECT
from revoker.api.prebuilt import Handler, PrebuiltResponse
from revoker.api.served_paths import ANY, FastPath, LoadShedding, Logged, Port, ServedPath
from revoker.api.services import Services
from revoker.metrics import Metrics

ENDPOINTS: tuple[Endpoint[Any], ...] = (
    *revocation.ENDPOINTS,
    *cutoffs.ENDPOINTS,
    *revoked_keys.ENDPOINTS,
    *blocks.ENDPOINTS,
    *explain.ENDPOINTS,
    *administration.ENDPOINTS,
    *feed_consumers.ENDPOINTS,
)


def paths(
    services: Services,
    health: probes.Health,
    *,
    introspect: Handler,
    introspect_batch: Handler,
    authorize_forward: Handler,
    send_feed: Handler,
    send_snapshot: Handler,
    introspection_seconds: Callable[[float], None],
) -> Iterator[ServedPath]:
    """Every path. Fast are those on which gateways and clients ask all the time."""
    yield from verdict_paths(
        introspect=introspect,
        introspect_batch=introspect_batch,
        authorize_forward=authorize_forward,
        introspection_seconds=introspection_seconds,
    )
    if services.sessions is not None:
        for endpoint in token.ENDPOINTS:
            yield FastPath(
                path=endpoint.path,
                handle=_prebuilt(endpoint.bind(services)),
                load_shedding=LoadShedding.COMPLETE,
                logged=Logged.FAILURES,
            )
    yield FastPath(  # every edge asks here many times a second while there are changes
        path=feed_consumers.CONFIRM.path,
        handle=_without_body(feed_consumers.CONFIRM.bind(services)),
        logged=Logged.FAILURES,
        traced=False,
    )
    for endpoint in _ordinary_endpoints(services):
        yield ServedPath(method=endpoint.method, path=endpoint.path, handle=endpoint.bind(services).respond)
    yield ServedPath(method="GET", path=feed.PATH, handle=send_feed)
    yield ServedPath(method="GET", path=feed_snapshot.PATH, handle=send_snapshot)
    for route in _well_known_routes(services):
        yield _routed(route)
    yield from ops_paths(health, services.metrics.registry)


def edge_paths(
    verdicts: Iterable[ServedPath], health: probes.Health, metrics: Metrics, *, service: str
) -> Iterator[ServedPath]:
    """Every path of an edge: those for verdicts, and a hint for what only the ``service`` (a URL) does."""
    yield from verdicts
    for endpoint in (
        *ENDPOINTS,
        *token.ENDPOINTS,
        *backchannel.ENDPOINTS,
        *sessions.ENDPOINTS,
        *session_list.ENDPOINTS,
    ):
        yield ServedPath(method=endpoint.method, path=endpoint.path, handle=_not_here(service, endpoint.path))
    for path in (feed.PATH, feed_snapshot.PATH):
        yield ServedPath(method="GET", path=path, handle=_not_here(service, path))
    yield from ops_paths(health, metrics.registry)


def _not_here(service: str, path: str) -> Handler:
    async def respond(_: web.Request) -> web.Response:
        return error_response(
            404, "invalid_request", f"this is an edge, which only answers; send this to {service}{path}"
        )

    return respond


def ops_paths(health: probes.Health, registry: CollectorRegistry) -> Iterator[ServedPath]:
    """For Kubernetes and Prometheus."""
    for route in probes.routes(health, registry):
        yield _routed(route, port=Port.OPS, logged=Logged.NOTHING)


def verdict_paths(
    *,
    introspect: Handler,
    introspect_batch: Handler,
    authorize_forward: Handler,
    introspection_seconds: Callable[[float], None],
) -> Iterator[ServedPath]:
    """Where verdicts are given."""
    yield FastPath(
        path=INTROSPECT,
        handle=introspect,
        load_shedding=LoadShedding.BY_HANDLER,
        read_only=True,
        traced=False,
        begins_at_once=True,
        seconds=introspection_seconds,
    )
    yield FastPath(
        path=BATCH,
        handle=introspect_batch,
        load_shedding=LoadShedding.COMPLETE,
        read_only=True,
        logged=Logged.FAILURES,
    )
    yield FastPath(
        path=FORWARD_AUTH,
        method=ANY,
        handle=authorize_forward,
        subtree=True,
        load_shedding=LoadShedding.ALL,
        read_only=True,
        logged=Logged.NOTHING,
        traced=False,
        render_error=forward_auth.unavailable,
        malformed=forward_auth.malformed_request,
    )


def documentation(served: Iterable[ServedPath], *, separate_ops: bool) -> Iterator[ServedPath]:
    """The paths that describe the others; ``separate_ops``: the others are on another port."""
    for route in openapi.routes({path.path for path in served}, requests_elsewhere=separate_ops):
        yield _routed(route, port=Port.OPS)


def _ordinary_endpoints(services: Services) -> tuple[Endpoint[Any], ...]:
    return (
        *(endpoint for endpoint in ENDPOINTS if endpoint is not feed_consumers.CONFIRM),
        *(backchannel.ENDPOINTS if services.logout_terms else ()),
        *(() if services.sessions is None else (*sessions.ENDPOINTS, *session_list.ENDPOINTS)),
    )


def _prebuilt(endpoint: BoundEndpoint[Any]) -> Handler:
    async def respond(request: web.Request) -> PrebuiltResponse:
        return PrebuiltResponse(msgspec.json.encode(await endpoint.answer(request)))

    return respond


def _without_body(endpoint: BoundEndpoint[Any]) -> Handler:
    async def respond(request: web.Request) -> web.Response:
        await endpoint.answer(request)
        return web.Response(status=endpoint.endpoint.status, headers=NO_STORE)

    return respond


def _routed(route: web.RouteDef, *, port: Port = Port.MAIN, logged: Logged = Logged.ALL) -> ServedPath:
    return ServedPath(method=route.method, path=route.path, handle=route.handler, port=port, logged=logged)


def _well_known_routes(services: Services) -> list[web.RouteDef]:
    if (own := services.sessions) is None:
        return []
    revoked_key_ids = services.revoked_key_ids
    return well_known.routes(
        own.issuer.iss,
        own.signing_keys,
        revoked=lambda: revoked_key_ids(own.issuer),
        clock=services.clocks.now,
        client_certificates=services.authentication.client_certificates,
    )
