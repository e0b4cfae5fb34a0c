"""What is answered before an endpoint is reached: to bytes that are no request, and to expectations."""

import asyncio
from typing import Any, Final

import structlog
from aiohttp import web

from service.api.errors import error_response
from service.api.paths import asks_for_verdicts

_log = structlog.get_logger("service")


READING_SECONDS: Final = 30.0
"""A client that has not read so much of its answers that more can be written is cut off after this."""


HEAD_BYTES: Final = 128 * 1024
"""For the whole head of a request, beyond what comes in one read; aiohttp bounds each line alone."""

_HEAD_TOO_LONG: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Cache-Control: no-store\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)


class Connection(web.RequestHandler):
    """One connection; what is wrong with its bytes is told without repeating them.

    Attributes:
        refused_at: When it was last refused as one too many, in monotonic seconds.
    """

    refused_at = -1.0
    _head = _head_of = 0
    _cut_off: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Something has come."""
        super().data_received(data)
        if self._waiter is not None and not self._waiter.done():
            self._bound_head(len(data))

    def _bound_head(self, more: int) -> None:
        """What came is a part of a head, of which the rest has not come yet."""
        if self._head_of != self._request_count:
            self._head_of, self._head = self._request_count, 0
        self._head += more
        if self._head > HEAD_BYTES and self.transport is not None:
            self.transport.write(_HEAD_TOO_LONG)
            self.force_close()

    def pause(self, seconds: float) -> None:
        """Read nothing more from the client for a while."""
        self._pause_transport_reading()
        asyncio.get_running_loop().call_later(seconds, self._read_again)

    def _read_again(self) -> None:
        if not self._reading_paused and not self._buffer_paused:  # for a reason of aiohttp's own
            self._resume_transport_reading()

    def pause_writing(self) -> None:
        """The client does not read what it is sent: it may do so for a while."""
        super().pause_writing()
        if self.transport is not None:
            self._cut_off = asyncio.get_running_loop().call_later(READING_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read on."""
        super().resume_writing()
        self._read_on()

    def connection_lost(self, exc: BaseException | None) -> None:
        """It has gone, and with it the interest in a verdict; what changes anything is brought to its end."""
        request, working = self._current_request, self._task_handler
        super().connection_lost(exc)
        self._read_on()
        if request is not None and working is not None and asks_for_verdicts(request.raw_path):
            working.cancel()

    def _read_on(self) -> None:
        if self._cut_off is not None:
            self._cut_off.cancel()
            self._cut_off = None

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
