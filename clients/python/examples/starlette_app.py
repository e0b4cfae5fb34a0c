"""REVOKER_URL=… REVOKER_SECRET=… uvicorn starlette_app:app"""

import os

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from revoker_client import RevokerClient
from revoker_client.asgi import RevokerMiddleware

client = RevokerClient(os.environ["REVOKER_URL"], os.environ["REVOKER_SECRET"])


async def orders(request: Request) -> JSONResponse:
    return JSONResponse({"user": request.state.token.sub})


async def health(_: Request) -> JSONResponse:
    return JSONResponse({"status": "ok"})


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(websocket.state.token.sub)
    await websocket.close()


app = Starlette(
    routes=[Route("/orders", orders), Route("/health", health), WebSocketRoute("/echo", echo)],
    middleware=[
        Middleware(RevokerMiddleware, client=client, is_public=lambda scope: scope["path"] == "/health")
    ],
)
