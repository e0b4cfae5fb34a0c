"""Takes what is exported by OTLP over HTTP, and drops it."""

import sys

from aiohttp import web


async def receive(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(content_type="application/x-protobuf")


async def ready(_: web.Request) -> web.Response:
    return web.Response()


def main() -> None:
    application = web.Application(client_max_size=64 * 1024 * 1024)
    application.add_routes([web.post("/v1/traces", receive), web.get("/readyz", ready)])
    web.run_app(application, host="127.0.0.1", port=int(sys.argv[1]), print=None)


if __name__ == "__main__":
    main()
