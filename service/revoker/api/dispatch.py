"""Which path leads where."""

from typing import Any

from aiohttp import HttpVersion11, web

from revoker.api import (
    backchannel,
    batch,
    blocks,
    cutoffs,
    explain,
    introspection,
    openapi,
    paths,
    probes,
    revocation,
    revoked_keys,
    session_list,
    sessions,
    token,
    well_known,
)
from revoker.api.endpoint import BATCH_LIMIT, Endpoint
from revoker.api.observing import observed
from revoker.api.parts import Parts

ENDPOINTS: tuple[Endpoint[Any], ...] = (
    *revocation.ENDPOINTS,
    *cutoffs.ENDPOINTS,
    *revoked_keys.ENDPOINTS,
    *blocks.ENDPOINTS,
    *explain.ENDPOINTS,
)

SESSION_ENDPOINTS: tuple[Endpoint[Any], ...] = (
    *sessions.ENDPOINTS,
    *session_list.ENDPOINTS,
    *token.ENDPOINTS,
)
"""There where sessions are kept here."""


def application(
    parts: Parts, health: probes.Health | None, introspect: introspection.Introspection
) -> web.Application:
    """All endpoints; health, metrics and documentation too where ``health`` is given."""
    return _application(
        parts,
        [
            web.post(paths.INTROSPECT, introspect.respond),
            web.post(paths.BATCH, batch.BatchIntrospection(parts).respond),
            *(endpoint.bind(parts).route() for endpoint in _endpoints(parts)),
            *_well_known_routes(parts),
            *([] if health is None else _ops_routes(parts, health)),
        ],
    )


def ops_application(parts: Parts, health: probes.Health) -> web.Application:
    """Health, metrics and documentation alone."""
    return _application(parts, _ops_routes(parts, health))


def _endpoints(parts: Parts) -> tuple[Endpoint[Any], ...]:
    return (
        *ENDPOINTS,
        *(backchannel.ENDPOINTS if parts.logout_audiences else ()),
        *(() if parts.sessions is None else SESSION_ENDPOINTS),
    )


def _well_known_routes(parts: Parts) -> list[web.RouteDef]:
    if (own := parts.sessions) is None:
        return []
    revoked_key_ids = parts.revoked_key_ids
    return well_known.routes(
        own.issuer.iss,
        own.signing_keys,
        revoked=lambda: revoked_key_ids(own.issuer),
        clock=parts.store.clocks.now,
        client_certificates=parts.client_certificates,
    )


def _ops_routes(parts: Parts, health: probes.Health) -> list[web.RouteDef]:
    probe_routes = probes.routes(health, parts.metrics.registry)
    served = {paths.INTROSPECT, paths.BATCH, paths.FORWARD_AUTH}
    served |= {endpoint.path for endpoint in _endpoints(parts)}
    served |= {route.path for route in (*_well_known_routes(parts), *probe_routes)}
    return [*probe_routes, *openapi.routes(served)]


def _application(parts: Parts, routes: list[web.RouteDef]) -> web.Application:
    paths = frozenset(route.path for route in routes)
    made = web.Application(client_max_size=BATCH_LIMIT, middlewares=[observed(parts, paths)])
    made.add_routes(
        web.RouteDef(each.method, each.path, each.handler, {**each.kwargs, "expect_handler": _send_continue})
        for each in routes
    )
    return made


async def _send_continue(request: web.Request) -> web.StreamResponse | None:
    """Ask for the body where a client waits for that (RFC 9110 §10.1.1)."""
    if request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the response itself has not begun
    return None
