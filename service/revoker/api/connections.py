"""What is answered before an endpoint is reached: to bytes that are no request, and to expectations."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from aiohttp import EMPTY_PAYLOAD, HttpVersion11, web
from aiohttp.web_protocol import _ErrInfo

from revoker.api.errors import NO_STORE, error_response
from revoker.api.paths import asks_for_verdicts, is_forward_auth

_log = structlog.get_logger("service")


READING_SECONDS: Final = 30.0
"""A client that has not read so much of its answers that more can be written is cut off after this."""


HEAD_BYTES: Final = 128 * 1024
"""For the whole head of a request, beyond what comes in one read; aiohttp bounds each line alone."""

DISCARD_SECONDS: Final = 2.0
DISCARD_BYTES: Final = 4 * 1024 * 1024
"""How long, and how much, input is read and dropped after the answer to a broken request.

A connection that is closed with unread input is reset, and the reset can overtake the answer. A gateway would
then see no answer where it was refused.
"""

_START_BYTES: Final = 64
"""Enough of a request to find its path."""


class _LastAnswer(web.Response):
    """The answer to a broken request: the connection is closed once the client can have read it."""

    def __init__(self, connection: "Connection", answer: web.Response) -> None:
        super().__init__(status=answer.status, headers=answer.headers, body=answer.body)
        self._connection = connection
        self.force_close()

    async def write_eof(self, data: bytes = b"") -> None:
        """Write the answer, then drop what the client still sends."""
        await super().write_eof(data)
        await self._connection.discard_input()


class Connection(web.RequestHandler):
    """One connection; what is wrong with its bytes is told without repeating them.

    Attributes:
        refused_at: When it was last refused as one too many, in monotonic seconds.
    """

    refused_at = -1.0
    _head = _head_of = 0
    _start = b""
    _cut_off: asyncio.TimerHandle | None = None
    _discarding = False
    _discarded = 0
    _input_ended: asyncio.Future[None] | None = None

    def data_received(self, data: bytes) -> None:
        """Something has come."""
        if self._discarding:
            self._discard(len(data))
            return
        super().data_received(data)
        if self._waiter is not None and not self._waiter.done():
            self._bound_head(data)
        elif self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            self._discarding = True  # the parser is of no use any more
            if not self._head or self._head_of != self._request_count - 1:
                self._start = b""
            self._add_to_start(data)

    def _bound_head(self, data: bytes) -> None:
        """What came is a part of a head, of which the rest has not come yet."""
        if self._head_of != self._request_count:
            self._head_of, self._head = self._request_count, 0
        if not self._head:
            self._start = b""
        self._add_to_start(data)
        self._head += len(data)
        if self._head > HEAD_BYTES and self._waiter is not None:
            self._discarding = True
            self._messages.append((_ErrInfo(431, ValueError("the head is too long"), ""), EMPTY_PAYLOAD))
            self._waiter.set_result(None)

    def _add_to_start(self, data: bytes) -> None:
        missing = _START_BYTES - len(self._start)
        if missing > 0:
            self._start += data[:missing]

    async def discard_input(self) -> None:
        """Send no more; read and drop what comes until the client closes, or sends too long or too much."""
        if self.transport is None:
            return
        self._discarding = True
        self._input_ended = asyncio.get_running_loop().create_future()
        self._discard(0)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._resume_reading_for_buffer()
        await asyncio.wait([self._input_ended], timeout=DISCARD_SECONDS)

    def _discard(self, more: int) -> None:
        self._discarded += more
        if self._discarded > DISCARD_BYTES:
            self._pause_transport_reading()
            self._end_input()

    def _end_input(self) -> None:
        if self._input_ended is not None and not self._input_ended.done():
            self._input_ended.set_result(None)

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
        self._end_input()
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
            return _LastAnswer(self, self._refusal(status))
        _log.error("request_failed", exc_info=exc)
        response = error_response(status, "server_error", "the service failed")
        response.force_close()
        return response

    def _refusal(self, status: int) -> web.Response:
        _, _, rest = self._start.partition(b" ")
        if is_forward_auth(rest.split(b" ")[0].decode("latin-1")):
            # Gateways take other 4xx for a failure of theirs; the user's token or head is what is wrong.
            challenge = 'Bearer realm="revoker", error="invalid_request"'
            return web.Response(status=401, headers={**NO_STORE, "WWW-Authenticate": challenge})
        if status == 431:
            return error_response(status, "invalid_request", "the head of the request is too long")
        return error_response(status, "invalid_request", "this is not HTTP/1.1 as it should be")


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
        server.request_handler = _refusing_expectations(server.request_handler)
        return server


Handler = Callable[[Any], Awaitable[web.StreamResponse]]


def _refusing_expectations(handler: Handler) -> Handler:
    """Answer 417 to what nobody can meet, before the router: it would repeat what the client sent."""

    def handle(request: web.Request) -> Awaitable[web.StreamResponse]:
        if "Expect" in request.headers and not _can_be_met(request):
            return _expectation_failed()
        return handler(request)

    return handle


def _can_be_met(request: web.Request) -> bool:
    return all(value.lower() in {"", "100-continue"} for value in request.headers.getall("Expect"))


async def _expectation_failed() -> web.StreamResponse:
    return error_response(417, "invalid_request", "only 100-continue can be expected")


async def expect(request: web.Request) -> web.StreamResponse | None:
    """Ask for the body where a client waits to be asked (RFC 9110 §10.1.1)."""
    if request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun
    return None
