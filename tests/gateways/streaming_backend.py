"""A backend as a process of its own, with what browsers and apps do beyond a request and its answer.

``python streaming_backend.py port grpc_port``. On every path:

- a WebSocket is answered with what it sends;
- ``GET …/events`` streams the events that ``POST /publish`` gives it, without a token and not by the gateway;
- an upload is read as it comes; ``GET /received`` says how much of it has come, by the ``id`` of its query;
- ``POST …/login`` sets the cookie of the recipe; the body is the token, as a provider would have issued it;
- ``?limit=n`` refuses a longer upload with 413;
- everything else is answered with the request as the backend sees it, and as a CGI program would see it.

gRPC: every method echoes its messages; ``/shop.Orders/Seen`` answers with its metadata.
"""

import asyncio
import contextlib
import json
import sys

import grpc
from aiohttp import WSMsgType, web

from tests.gateways.raw_http import folded

LONGEST_LINE = 200_000

received: dict[str, int] = {}
streams: set[asyncio.Queue] = set()


async def answer(request: web.Request) -> web.StreamResponse:
    if "websocket" in request.headers.get("Upgrade", "").lower():
        return await echo(request)
    if request.path.endswith("/events"):
        return await stream(request)
    if request.path.endswith("/login"):
        return await log_in(request)
    limit = int(request.query.get("limit", sys.maxsize))
    if (request.content_length or 0) > limit:
        return web.json_response({"limit": limit}, status=413, headers={"X-Refused-By": "backend"})
    length = 0
    async for chunk in request.content.iter_any():
        length += len(chunk)
        if "id" in request.query:
            received[request.query["id"]] = length
    headers = [[name.lower(), value] for name, value in request.headers.items()]
    seen = {"path": request.path_qs, "headers": headers, "cgi": folded(headers), "length": length}
    return web.json_response(seen, headers={"X-Answered-By": "backend"})


async def echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(max_msg_size=0)
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        else:
            await socket.send_bytes(message.data)
    return socket


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    queue: asyncio.Queue = asyncio.Queue()
    streams.add(queue)
    try:
        await response.write(b": opened\n\n")
        while (event := await queue.get()) != "end":
            await response.write(f"data: {event}\n\n".encode())
        await response.write_eof()
    finally:
        streams.discard(queue)
    return response


async def log_in(request: web.Request) -> web.Response:
    response = web.json_response({})
    token = await request.text()
    response.set_cookie("__Host-token", token, secure=True, httponly=True, samesite="Strict", max_age=300)
    return response


async def publish(request: web.Request) -> web.Response:
    event = await request.text()
    for queue in streams:
        queue.put_nowait(event)
    return web.json_response({"streams": len(streams)})


async def show_received(request: web.Request) -> web.Response:
    return web.json_response(received.get(request.query["id"], 0))


class Echo(grpc.GenericRpcHandler):
    """Any method of any service."""

    def service(self, details):
        metadata = [[name, value] for name, value in details.invocation_metadata if isinstance(value, str)]

        async def respond(messages, context):
            async for message in messages:
                yield json.dumps(metadata).encode() if details.method.endswith("/Seen") else message

        return grpc.stream_stream_rpc_method_handler(respond)


async def main(port: int, grpc_port: int) -> None:
    rpc = grpc.aio.server()
    rpc.add_generic_rpc_handlers([Echo()])
    rpc.add_insecure_port(f"127.0.0.1:{grpc_port}")
    await rpc.start()
    application = web.Application(client_max_size=0)
    application.router.add_post("/publish", publish)
    application.router.add_get("/received", show_received)
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(
        application, max_line_size=LONGEST_LINE, max_field_size=LONGEST_LINE, auto_decompress=False
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*map(int, sys.argv[1:])))
