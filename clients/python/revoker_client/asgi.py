"""ASGI middleware, for Starlette, Litestar, Quart and plain applications.

    app = RevokerMiddleware(app, RevokerClient(url, secret))

Every HTTP request and WebSocket needs an active token. The verdict is in ``scope["state"]["token"]``, which
is ``request.state.token`` in Starlette.
"""

import json
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from revoker_client.bearer import Refused, token_in, verified
from revoker_client.client import RevokerClient

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class RevokerMiddleware:
    """Lets requests with an active token pass.

    Args:
        app: The application behind it.
        client: Asks Revoker.
        scopes: Those that a token must have, all of them.
        is_public: Whether a request needs no token, from its ASGI scope. None: all need one. It gets the path
            as the server decoded it: compare whole paths where routes must not be opened by mistake.
    """

    def __init__(
        self,
        app: App,
        client: RevokerClient,
        *,
        scopes: Collection[str] = (),
        is_public: Callable[[Scope], bool] | None = None,
    ) -> None:
        self._app = app
        self._client = client
        self._scopes = tuple(scopes)
        self._is_public = is_public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, 403 or 503, or pass the request on."""
        if scope["type"] not in {"http", "websocket"} or (self._is_public and self._is_public(scope)):
            await self._app(scope, receive, send)
            return
        values = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
        try:
            token = await verified(self._client, token_in(values), self._scopes)
        except Refused as refused:
            await refuse(refused, scope, send)
            return
        scope.setdefault("state", {})["token"] = token
        await self._app(scope, receive, send)


async def refuse(refused: Refused, scope: Scope, send: Send) -> None:
    """Answer a request, or a WebSocket before it is accepted; a server that cannot do that answers 403."""
    websocket = scope["type"] == "websocket"
    if websocket and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1013 if refused.status == 503 else 1008})
        return
    prefix = "websocket.http.response" if websocket else "http.response"
    body = json.dumps(refused.body).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **refused.headers}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": f"{prefix}.start", "status": refused.status, "headers": encoded})
    await send({"type": f"{prefix}.body", "body": body})
