"""A server as Revoker's, past router and middleware, that reads the body and answers at once."""

import asyncio
import sys

import uvloop
from aiohttp import web

from revoker.api.endpoint import read_bytes
from revoker.api.prebuilt import PrebuiltResponse
from revoker.server.connections import Runner


async def answer(request: web.Request) -> PrebuiltResponse | web.Response:
    if request.method == "GET":
        return web.Response(text="ready")
    await read_bytes(request, 65536)
    return PrebuiltResponse(b'{"active":true}')


async def main() -> None:
    runner = Runner(web.Application(), access_log=None)
    await runner.setup()
    assert runner.server is not None
    runner.server.request_handler = answer  # type: ignore[assignment]  # aiohttp hands over Request
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1])).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
