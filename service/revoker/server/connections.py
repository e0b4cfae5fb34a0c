"""Connections, and the only use of what is private in aiohttp.

A connection bounds the head of a request, answers bytes that are no request, writes prebuilt responses, and
cancels lookups whose client has gone. ``tests/server/test_aiohttp_private.py`` lists the private names used
here; it fails by name when a release of aiohttp changes one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol, cast

import structlog
from aiohttp import EMPTY_PAYLOAD, HttpVersion11, StreamReader, web
from aiohttp.http import RawRequestMessage, StreamWriter
from aiohttp.web_protocol import _ErrInfo

from revoker.api.error_responses import server_error
from revoker.api.prebuilt import Handler, PrebuiltResponse
from revoker.server import eager_tasks
from revoker.server.parsed_heads import ParsedHeads, ParsedRequest, is_one_request
from revoker.server.prebuilt_writers import AS_OF, PrebuiltWriter, bytes_of

_log = structlog.get_logger("service")

WRITE_TIMEOUT_S: Final = 30.0
"""A client that reads nothing of its responses for this time is disconnected."""

HEAD_BYTES: Final = 128 * 1024
"""Limit for the whole head of a request, beyond what comes in one read; aiohttp limits each line alone."""

DISCARD_SECONDS: Final = 2.0
DISCARD_BYTES: Final = 4 * 1024 * 1024
"""How long, and how much, input is read and dropped after the response to a broken request.

A connection that is closed with unread input is reset, and the reset can overtake the response. A gateway
would then see no response at all.
"""

_START_BYTES: Final = 64
"""Enough of a request to find its path."""


class Site(Protocol):
    """What is served on one port."""

    @property
    def application(self) -> web.Application: ...

    def entry(self, route: Callable[[Any], Awaitable[web.StreamResponse]]) -> Handler:
        """The handler of all requests, around that of the application."""

    def at_once(self, message: RawRequestMessage) -> Handler | None:
        """The handler of a request that has come completely, if it can begin without a task.

        Until it waits for something, it changes no context variable and uses no current task. None: the
        request is handled by :meth:`entry`.
        """

    def is_read_only(self, target: str) -> bool:
        """Whether a request for this target may be cancelled once its client has gone."""

    def malformed(self, target: str, status: int) -> web.Response:
        """The response to bytes that are no request."""


class _LastResponse(web.Response):
    """The response to a broken request: the connection is closed once the client can have read it."""

    def __init__(self, connection: "Connection", response: web.Response) -> None:
        super().__init__(status=response.status, headers=response.headers, body=response.body)
        self._connection = connection
        self.force_close()

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(data)
        await self._connection.discard_input()


class Connection(web.RequestHandler):
    """One connection; errors about malformed requests never repeat what was sent.

    Attributes:
        refused_at: When load shedding last refused a request on it, in monotonic seconds.
    """

    refused_at = -1.0
    _head_bytes = _head_request = 0
    _request_start = b""
    _abort_timer: asyncio.TimerHandle | None = None
    _discarding = False
    _discarded_bytes = 0
    _input_ended: asyncio.Future[None] | None = None
    _between_requests = True
    """Whether the parser has certainly seen complete requests only."""

    def __init__(self, server: "_Server", **options: Any) -> None:
        super().__init__(server, **options)
        self._server = server

    def data_received(self, data: bytes) -> None:
        if self._discarding:
            self._discard(len(data))
            return
        waiter = self._waiter
        if waiter is None or waiter.done() or self._messages:
            self._parse(data)
            self._stop_after_error(data)
            return
        if (
            self._between_requests
            and not self._force_close
            and (parsed := self._server.heads.find(data)) is not None
        ):
            self._request_count += 1
            self._respond_at_once(*parsed)
            return
        self._waiter = None  # as if aiohttp's loop was busy, so that nothing wakes it
        try:
            self._parse(data)
        finally:
            self._waiter = waiter
        if not self._messages:
            self._limit_head(data)
        elif (parsed := self._request_at_once()) is not None:
            self._respond_at_once(*parsed, new=data if self._between_requests else b"")
        else:
            waiter.set_result(None)
            self._stop_after_error(data)

    def _parse(self, data: bytes) -> None:
        queued = len(self._messages)
        super().data_received(data)
        if self._between_requests:
            self._between_requests = len(self._messages) == queued + 1 and is_one_request(
                data, *self._messages[-1]
            )

    def _stop_after_error(self, data: bytes) -> None:
        """Parse nothing after what is no request."""
        if self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            self._discarding = True  # the parser cannot continue
            if not self._head_bytes or self._head_request != self._request_count - 1:
                self._request_start = b""
            self._add_to_start(data)

    def _request_at_once(self) -> ParsedRequest | None:
        """Take the only request that has come, if it can be responded to in this turn."""
        message, payload = self._messages[0]
        if (
            isinstance(message, _ErrInfo)
            or len(self._messages) > 1
            or not payload.is_eof()
            or message.should_close
            or message.upgrade
            or message.version != HttpVersion11
            or self._upgraded
            or self._buffer_paused
            or (handler := self._server.site.at_once(message)) is None
        ):
            return None
        self._messages.popleft()
        assert self._parser is not None  # noqa: S101  # the connection is there
        self._parser.message_consumed()
        return message, payload, handler

    def _respond_at_once(
        self, message: RawRequestMessage, payload: StreamReader, handler: Handler, new: bytes = b""
    ) -> None:
        """Respond to a request as aiohttp's loop does, which still waits for the next meanwhile.

        That loop takes a future, a task and three turns of the event loop for each request. ``new`` are the
        bytes of a request whose head can be remembered.
        """
        self._server.requests_count += 1
        writer = StreamWriter(self, self._loop)
        request = self._request_factory(message, payload, self, writer, self._task_handler)  # type: ignore[arg-type, misc]
        task = eager_tasks.start(self._serve(request, message, handler, new), self._loop)
        if task is not None:
            self._task_handler = task

    async def _serve(
        self, request: web.BaseRequest, message: RawRequestMessage, handler: Handler, new: bytes
    ) -> None:
        waiter, task = self._waiter, self._task_handler
        self._waiter, self._current_request, self._request_in_progress = None, request, True
        keep_alive = False
        try:
            response: Any = await handler(cast("web.Request", request))
            self._current_request = None
            if new and response.status == 200:  # nobody without credentials displaces the heads of others
                self._server.heads.remember(new, message, handler)
            if type(response) is PrebuiltResponse and self._can_write_at_once():
                assert self.transport is not None  # noqa: S101  # as it can write
                self.transport.write(self._bytes_of(response))
                keep_alive = True
            else:
                written, gone = await self.finish_response(request, response, None)
                keep_alive = bool(written.keep_alive) and not gone
        except ConnectionError:
            pass  # the client has gone
        except Exception as error:  # noqa: BLE001  # as aiohttp's loop
            self.log_exception("Unhandled exception", exc_info=error)
        finally:
            self._current_request, self._request_in_progress = None, False
            self._waiter = waiter
            if self._task_handler is not None:  # the connection is not lost
                self._task_handler = task
            if self._handler_waiter is not None and not self._handler_waiter.done():  # for a shutdown
                self._handler_waiter.set_result(None)
            self._keepalive = keep_alive
            self._await_next_request()

    def _can_write_at_once(self) -> bool:
        return self.transport is not None and not self._server.closing and not self.writing_paused

    def _bytes_of(self, response: PrebuiltResponse) -> bytes:
        return bytes_of(response)

    def _await_next_request(self) -> None:
        """Leave the connection as aiohttp's loop does after a response."""
        if not self._keepalive or self._close or self._force_close:
            self.force_close()
            return
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(
                self._next_keepalive_close_time, self._process_keepalive
            )
        if self._messages and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _limit_head(self, data: bytes) -> None:
        """Refuse a head that grows too long; ``data`` is a part of one that is not complete yet."""
        if self._head_request != self._request_count:
            self._head_request, self._head_bytes = self._request_count, 0
        if not self._head_bytes:
            self._request_start = b""
        self._add_to_start(data)
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES and self._waiter is not None:
            self._discarding = True
            self._messages.append((_ErrInfo(431, ValueError("the head is too long"), ""), EMPTY_PAYLOAD))
            self._waiter.set_result(None)

    def _add_to_start(self, data: bytes) -> None:
        missing = _START_BYTES - len(self._request_start)
        if missing > 0:
            self._request_start += data[:missing]

    async def discard_input(self) -> None:
        """Send no more; read and drop input until the client closes, or sends too long or too much."""
        if self.transport is None:
            return
        self._discarding = True
        self._input_ended = asyncio.get_running_loop().create_future()
        self._discard(0)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._resume_reading_for_buffer()
        await asyncio.wait([self._input_ended], timeout=DISCARD_SECONDS)

    def _discard(self, size: int) -> None:
        self._discarded_bytes += size
        if self._discarded_bytes > DISCARD_BYTES:
            self._pause_transport_reading()
            self._end_input()

    def _end_input(self) -> None:
        if self._input_ended is not None and not self._input_ended.done():
            self._input_ended.set_result(None)

    def pause(self, seconds: float) -> None:
        """Read nothing more from the client for a while."""
        self._pause_transport_reading()
        asyncio.get_running_loop().call_later(seconds, self._unpause)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Resume if it was paused: aiohttp asks twice for each body, and parses nothing once more."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def _unpause(self) -> None:
        if not self._reading_paused and not self._buffer_paused:  # for a reason of aiohttp's own
            self._resume_transport_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.transport is not None:
            self._abort_timer = asyncio.get_running_loop().call_later(WRITE_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._cancel_abort()

    def _cancel_abort(self) -> None:
        if self._abort_timer is not None:
            self._abort_timer.cancel()
            self._abort_timer = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """Cancel a lookup that nobody waits for any more; a request that changes something is completed."""
        request, task = self._current_request, self._task_handler
        super().connection_lost(exc)
        self._cancel_abort()
        self._end_input()
        if request is not None and task is not None and self._server.site.is_read_only(request.raw_path):
            task.cancel()

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """Write a response, prebuilt ones included; close the connection after it where the server closes."""
        response: object = resp
        if isinstance(response, PrebuiltResponse):
            resp = PrebuiltWriter(response, keep_alive=not self._server.closing)  # type: ignore[assignment]
        elif self._server.closing:
            resp.force_close()
        return _finish_response(self, request, resp, start_time)  # super() would cost more

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # quotes what was sent, which may be a secret
    ) -> web.StreamResponse:
        """Respond as every endpoint does, and close the connection."""
        if request.writer.output_size > 0 or isinstance(exc, ConnectionError):
            raise ConnectionError("the client has gone, or a response has begun already")
        if status < 500:
            _log.debug("bad_request", peer=request.remote, problem=type(exc).__name__)
            _, _, rest = self._request_start.partition(b" ")
            target = rest.split(b" ")[0].decode("latin-1")
            return _LastResponse(self, self._server.site.malformed(target, status))
        response = server_error(exc, status)
        response.force_close()
        return response


class _EdgeConnection(Connection):
    """A connection to an edge."""

    def _bytes_of(self, response: PrebuiltResponse) -> bytes:
        return bytes_of(response, self._server.as_of() if self._server.as_of is not None else 0)

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        server = self._server
        as_of = server.as_of() if server.as_of is not None else 0
        response: object = resp
        if not as_of:
            return super().finish_response(request, resp, start_time)
        if isinstance(response, PrebuiltResponse):
            resp = PrebuiltWriter(response, keep_alive=not server.closing, as_of=as_of)  # type: ignore[assignment]
            return _finish_response(self, request, resp, start_time)
        resp.headers[AS_OF] = str(as_of)
        return super().finish_response(request, resp, start_time)


_finish_response: Final = web.RequestHandler.finish_response


class _Server(web.Server):
    """Makes the connections.

    Attributes:
        site: What is served.
        heads: Those of requests that can be responded to in the turn in which they came.
        closing: Whether every response closes its connection.
        as_of: Gives the time for :data:`AS_OF` (0: none); None: this is no edge.
    """

    site: Site
    heads: ParsedHeads
    as_of: Callable[[], int] | None = None
    closing = False

    def __call__(self) -> Connection:
        kind = Connection if self.as_of is None else _EdgeConnection
        return kind(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Serves on such connections; compressed bodies are not unpacked."""

    def __init__(self, site: Site, **options: Any) -> None:
        super().__init__(site.application, auto_decompress=False, **options)
        self._site = site

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.request_handler = cast("Any", self._site.entry(server.request_handler))
        server.__class__ = _Server
        made = cast("_Server", server)
        made.heads = ParsedHeads()
        made.site, made.as_of = self._site, getattr(self._site, "as_of", None)
        return server

    def close_connections_after_response(self) -> None:
        """Say ``Connection: close`` from now on, so that no client is cut off between two requests."""
        if self.server is not None:
            cast("_Server", self.server).closing = True
