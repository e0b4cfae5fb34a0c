"""Which path leads where."""

from typing import Any

from aiohttp import web

from service.api import (
    batch,
    blocks,
    cutoffs,
    explain,
    introspection,
    openapi,
    probes,
    revocation,
    revoked_keys,
    sessions,
    token,
)
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

SESSION_ENDPOINTS: tuple[Endpoint[Any], ...] = (*sessions.ENDPOINTS, *token.ENDPOINTS)
"""There where sessions are kept here."""


def application(
    parts: Parts, health: probes.Health | None, introspect: introspection.Introspection
) -> web.Application:
    """All endpoints; health, metrics and documentation too where ``health`` is given."""
    return _application(
        parts,
        [
            web.post(introspection.PATH, introspect.respond),
            web.post(batch.PATH, batch.BatchIntrospection(parts).respond),
            *(endpoint.route(parts) for endpoint in _endpoints(parts)),
            *([] if health is None else _ops_routes(parts, health)),
        ],
    )


def ops_application(parts: Parts, health: probes.Health) -> web.Application:
    """Health, metrics and documentation alone."""
    return _application(parts, _ops_routes(parts, health))


def _endpoints(parts: Parts) -> tuple[Endpoint[Any], ...]:
    return ENDPOINTS if parts.kept is None else (*ENDPOINTS, *SESSION_ENDPOINTS)


def _ops_routes(parts: Parts, health: probes.Health) -> list[web.RouteDef]:
    return [*probes.routes(health, parts.metrics.registry), *openapi.routes(_endpoints(parts))]


def _application(parts: Parts, routes: list[web.RouteDef]) -> web.Application:
    paths = frozenset(route.path for route in routes)
    made = web.Application(client_max_size=BATCH_LIMIT, middlewares=[observed(parts, paths)])
    made.add_routes(routes)
    return made
