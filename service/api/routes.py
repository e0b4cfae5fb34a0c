"""Which path leads where."""

from typing import Any

from aiohttp import web

from service.api import batch, blocks, cutoffs, explain, introspection, probes, revocation, revoked_keys
from service.api.endpoint import BATCH_LIMIT, Endpoint
from service.api.observing import observed
from service.api.parts import Parts

ENDPOINTS: tuple[Endpoint[Any], ...] = (
    *revocation.ENDPOINTS,
    *cutoffs.ENDPOINTS,
    *revoked_keys.ENDPOINTS,
    *blocks.ENDPOINTS,
    *explain.ENDPOINTS,
)


def application(
    parts: Parts, health: probes.Health | None, introspect: introspection.Introspection
) -> web.Application:
    """All endpoints; health and metrics too where ``health`` is given."""
    return _application(
        parts,
        [
            web.post(introspection.PATH, introspect.respond),
            web.post(batch.PATH, batch.BatchIntrospection(parts).respond),
            *(endpoint.route(parts) for endpoint in ENDPOINTS),
            *([] if health is None else probes.routes(health, parts.metrics.registry)),
        ],
    )


def ops_application(parts: Parts, health: probes.Health) -> web.Application:
    """Health and metrics alone."""
    return _application(parts, probes.routes(health, parts.metrics.registry))


def _application(parts: Parts, routes: list[web.RouteDef]) -> web.Application:
    paths = frozenset(route.path for route in routes)
    made = web.Application(client_max_size=BATCH_LIMIT, middlewares=[observed(parts, paths)])
    made.add_routes(routes)
    return made
