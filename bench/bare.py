"""A server as Revoker's, past router and middleware, that reads the body and answers at once."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop
from aiohttp import web
from aiohttp.http import RawRequestMessage

from revoker.api.bodies import read_bytes
from revoker.api.error_responses import malformed_request
from revoker.api.prebuilt import Handler, PrebuiltResponse, Response
from revoker.server.connections import Runner


async def answer(request: web.Request) -> Response:
    if request.method == "GET":
        return web.Response(text="ready")
    await read_bytes(request, 65536)
    return PrebuiltResponse(b'{"active":true}')


class Site:
    """Answers whatever is asked."""

    def __init__(self) -> None:
        self.application = web.Application()

    def entry(self, _: Callable[[Any], Awaitable[web.StreamResponse]]) -> Handler:
        return answer

    def at_once(self, message: RawRequestMessage) -> Handler | None:
        return answer if message.method == "POST" else None

    def is_read_only(self, _: str) -> bool:
        return True

    def malformed(self, _: str, status: int) -> web.Response:
        return malformed_request(status)


async def main() -> None:
    runner = Runner(Site(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1])).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
