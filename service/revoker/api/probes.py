"""``/livez``, ``/readyz`` and ``/metrics``: for Kubernetes and Prometheus."""

import os
from collections.abc import Callable
from typing import Final, Literal

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from revoker.api.errors import NO_STORE


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong, by the name that the metric ``revoker_problem`` has for it."""

    problem: str
    detail: str


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether requests should come here, and what is wrong."""

    status: Literal["ok", "degraded", "starting", "draining"]
    problems: list[Problem]


class Health:
    """What a process says of itself; ``started`` and ``draining`` are set by it as it goes."""

    def __init__(self, problems: Callable[[], dict[str, str]], started: Callable[[], bool]) -> None:
        self._problems = problems
        self._started = started
        self.draining = False

    def readiness(self) -> Readiness:
        """Say how things are: once started, a broken store is ``degraded`` and still ready.

        Taking every pod out of service at a blip of Redis would make it worse.
        """
        problems = [Problem(name, detail) for name, detail in self._problems().items()]
        if self.draining:
            return Readiness(status="draining", problems=problems)
        if not self._started():
            return Readiness(status="starting", problems=problems)
        return Readiness(status="degraded" if problems else "ok", problems=problems)


def routes(health: Health, registry: CollectorRegistry) -> list[web.RouteDef]:
    """The three routes; they stand on ``ops_port`` where that is set."""

    async def livez(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"}, headers=NO_STORE)

    async def readyz(_: web.Request) -> web.Response:
        readiness = health.readiness()
        return web.Response(
            status=503 if readiness.status in {"starting", "draining"} else 200,
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
    together = CollectorRegistry()
    MultiProcessCollector(together)  # type: ignore[no-untyped-call]
    return together


_MULTIPROCESS: Final = "PROMETHEUS_MULTIPROC_DIR"
