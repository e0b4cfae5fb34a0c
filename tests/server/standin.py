"""A service without a store, run by the real processes: `python standin.py settings.json`."""

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from aiohttp import web

from revoker import logs
from revoker.api.prebuilt import PrebuiltResponse
from revoker.config.schema import settle
from revoker.errors import RevokerError, StoreUnavailable
from revoker.server import workers as processes


class Site:
    def __init__(self):
        self.application = web.Application()

    def entry(self, route):
        async def enter(request):
            response = await route(request)
            if not isinstance(response, PrebuiltResponse):
                response.headers["X-Entry"] = "yes"
            return response

        return enter

    def at_once(self, _):
        return None

    def is_read_only(self, _):
        return False

    def malformed(self, _, status):
        return web.Response(status=status)


class StandIn:
    def __init__(self, settings):
        from prometheus_client import CollectorRegistry, Counter

        if os.environ.get("STANDIN") == "builds":
            Path(f"building-{os.getpid()}").touch()
            while not Path("built").exists():
                time.sleep(0.01)
        self.callers = len(settings.callers)
        self.draining = False
        self.closed = False
        self.under_way = 0
        self.answered = 0
        self.requests = Counter("requests", "Requests.", registry=CollectorRegistry())
        self.main = Site()
        self.main.application.add_routes(
            [
                web.get("/pid", self.pid),
                web.get("/slow", self.slow),
                web.get("/held", self.held),
                web.get("/held-prebuilt", self.held_prebuilt),
                web.get("/under-way", self.report),
                web.get("/crash", self.crash),
                web.get("/metrics", self.metrics),
            ]
        )
        self.ops = None
        if settings.server.ops_port:
            self.ops = Site()
            self.ops.application.add_routes([web.get("/ops", self.pid)])

    async def start(self):
        if os.environ.get("STANDIN") == "fails":
            raise StoreUnavailable("the stand-in does not start")
        if os.environ.get("STANDIN") == "breaks":
            raise RuntimeError("the stand-in has a bug")
        if os.environ.get("STANDIN") == "hangs":
            await asyncio.sleep(600)

    def started(self):
        return os.environ.get("STANDIN") != "waits"

    def conflicts(self):
        return []

    async def close(self):
        sys.stdout.write('{"event": "closed"}\n')
        sys.stdout.flush()

    def drain(self):
        self.draining = True

    def reload(self, settings):
        self.callers = len(settings.callers)

    async def pid(self, request):
        self.requests.inc()
        self.answered += 1
        certificate = request.transport.get_extra_info("peercert") or {}
        return web.json_response(
            {
                "pid": os.getpid(),
                "draining": self.draining,
                "callers": self.callers,
                "token": len(request.headers.get("X-Token", "")),
                "certificate": dict(pair for names in certificate.get("subject", ()) for pair in names),
                "tls": request.secure,
            }
        )

    async def slow(self, _):
        self.under_way += 1
        await asyncio.sleep(1)
        return web.Response(text="done")

    async def held(self, _):
        """Answer as soon as the shutdown has begun."""
        self.under_way += 1
        while not self.draining:
            await asyncio.sleep(0.01)
        return web.Response(text="{}")

    async def held_prebuilt(self, request):
        await self.held(request)
        return PrebuiltResponse(b"{}")

    async def report(self, _):
        return web.json_response({"pid": os.getpid(), "slow": self.under_way, "answered": self.answered})

    async def crash(self, _):
        os._exit(9)

    async def metrics(self, _):
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return web.Response(body=generate_latest(registry))


def main():
    file = Path(sys.argv[1])

    def read():
        return settle(json.loads(file.read_text()), {})

    def ready(url):
        sys.stdout.write(json.dumps({"event": "ready", "url": url}) + "\n")
        sys.stdout.flush()

    logs.configure()
    try:
        processes.run(processes.Plan(settings=read(), reload_settings=read, build=StandIn, ready=ready))
    except RevokerError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
