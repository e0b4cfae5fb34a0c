"""``/livez``, ``/readyz`` and ``/metrics``: for Kubernetes and Prometheus."""

import os
from collections.abc import Callable
from typing import Final, Literal

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from revoker.api.error_responses import NO_STORE

_MULTIPROCESS: Final = "PROMETHEUS_MULTIPROC_DIR"


class Problem(msgspec.Struct, frozen=True):
    """One problem, by its name in the metric ``revoker_problem``."""

    problem: str
    detail: str


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether requests should come here, and what is wrong."""

    status: Literal["ok", "degraded", "starting", "stale", "draining"]
    problems: list[Problem]


class Health:
    """The state of one process; it sets ``draining`` before it stops."""

    def __init__(
        self,
        problems: Callable[[], dict[str, str]],
        started: Callable[[], bool],
        stale: Callable[[], bool] = bool,
    ) -> None:
        """``stale``: whether an edge knows nothing recent, so that another should be asked."""
        self._problems = problems
        self._started = started
        self._stale = stale
        self.draining = False

    def readiness(self) -> Readiness:
        """The present state: once started, a process without its store is ``degraded`` and still ready.

        If a short failure of Redis made every pod unready, nothing would answer at all.
        """
        problems = [Problem(name, detail) for name, detail in self._problems().items()]
        if self.draining:
            return Readiness(status="draining", problems=problems)
        if not self._started():
            return Readiness(status="starting", problems=problems)
        if self._stale():
            return Readiness(status="stale", problems=problems)
        return Readiness(status="degraded" if problems else "ok", problems=problems)


def routes(health: Health, registry: CollectorRegistry) -> list[web.RouteDef]:
    """The three routes; they are on ``ops_port`` where that is set."""

    async def livez(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"}, headers=NO_STORE)

    async def readyz(_: web.Request) -> web.Response:
        readiness = health.readiness()
        return web.Response(
            status=503 if readiness.status in {"starting", "stale", "draining"} else 200,
            body=msgspec.json.encode(readiness),
            content_type="application/json",
            headers=NO_STORE,
        )

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(
            body=encode(_collected(registry)),
            headers={**NO_STORE, "Content-Type": content_type},
        )

    return [
        web.get("/livez", livez),
        web.get("/readyz", readyz),
        web.get("/metrics", metrics),
    ]


def _collected(registry: CollectorRegistry) -> CollectorRegistry:
    """This process's metrics, or those of all workers where there are several."""
    if _MULTIPROCESS not in os.environ:
        return registry
    merged = CollectorRegistry()
    MultiProcessCollector(merged)  # type: ignore[no-untyped-call]
    return merged
