"""Responses that the server writes in one piece, for the paths on which every microsecond counts."""

from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec
from aiohttp import web


class PrebuiltResponse(msgspec.Struct, frozen=True, gc=False):
    """A JSON body with the status 200 or 503; the server adds the headers that all of these share.

    Not a ``web.Response``: it has no headers to read or to change.
    """

    body: bytes
    status: Literal[200, 503] = 200


Response = web.StreamResponse | PrebuiltResponse
Handler = Callable[[web.Request], Awaitable[Response]]
