"""What is answered before an endpoint is reached: to bytes that are no request, and to expectations."""

from typing import Any

import structlog
from aiohttp import web

from service.api.errors import error_response

_log = structlog.get_logger("service")


class Connection(web.RequestHandler):
    """One connection; what is wrong with its bytes is told without repeating them."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # quotes what was sent, which may be a secret
    ) -> web.StreamResponse:
        """Answer as every endpoint does, and close."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        if status < 500:
            _log.debug("bad_request", peer=request.remote, problem=type(exc).__name__)
            response = error_response(status, "invalid_request", "this is not HTTP/1.1 as it should be")
        else:
            _log.error("request_failed", exc_info=exc)
            response = error_response(status, "server_error", "the service failed")
        response.force_close()
        return response


class _Server(web.Server):
    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs an application on such connections; compressed bodies are not unpacked."""

    def __init__(self, application: web.Application, **options: Any) -> None:
        super().__init__(application, auto_decompress=False, **options)

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server
        return server


async def expect(request: web.Request) -> web.StreamResponse | None:
    """Ask for the body where a client waits to be asked (RFC 9110 §10.1.1)."""
    if request.headers["Expect"].lower() != "100-continue":
        return error_response(417, "invalid_request", "only 100-continue can be expected")
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the answer itself has not begun
    return None
