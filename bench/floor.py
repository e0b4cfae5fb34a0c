"""The floor: aiohttp and uvloop doing nothing but reading a body and answering fixed JSON."""

import sys

import uvloop
from aiohttp import web


async def answer(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=b'{"active":true}', content_type="application/json")


async def ready(_: web.Request) -> web.Response:
    return web.Response(text="ready")


def application() -> web.Application:
    made = web.Application()
    made.router.add_post("/introspect", answer)
    made.router.add_get("/readyz", ready)
    return made


if __name__ == "__main__":
    uvloop.install()
    web.run_app(
        application(),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        reuse_port=True,
        access_log=None,
        print=None,
    )
