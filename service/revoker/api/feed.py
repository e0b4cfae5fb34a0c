"""``GET /feed``: changes as they are made, as server-sent events or by polling."""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
import structlog
from aiohttp import hdrs, web

from revoker.api.bodies import converted, query_fields
from revoker.api.consumers import Consumer, Consumers
from revoker.api.credentials import Authentication
from revoker.api.error_responses import NO_STORE
from revoker.api.fields import ConsumerName
from revoker.errors import NoVerdict, RevokerError, StoreUnavailable, TooManyRequests
from revoker.metrics import Metrics
from revoker.store.journal.cursors import Cursor
from revoker.store.journal.tail import Event, Fresh, JournalTail, Reload

_log = structlog.get_logger("service")

PATH: Final = "/feed"
SCOPE: Final = "feed"

SLOW_S: Final = 10.0
"""A consumer that reads nothing for this time, with a full buffer, is disconnected."""

RECHECK_S: Final = 60.0
"""How often the caller of a stream is checked again."""

_SMALL: Final = 16 * 1024
"""Bytes that a connection takes at once while nothing waits on it; writing them needs no timer."""

_FRESH_EVERY_S: Final = 0.25
_CATCH_UP_S: Final = 0.05
"""A consumer that polls may have got its cursor from another process, whose reader is ahead by a pause."""

_QUIET_S: Final = 5.0
"""A stream on which nothing is sent for this time gets a comment, which shows whether its client is there."""

_RETRY_MS: Final = (500, 3000)
"""When clients of a process that stops connect again, so that they do not all come at once."""

_JSON_HEADERS: Final = {**NO_STORE, "Content-Type": "application/json"}
_STREAM_HEADERS: Final = {**NO_STORE, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}


class FeedQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Where to begin; ``Last-Event-ID`` takes precedence over ``cursor``.

    ``wait``: answer with a JSON array of events, after so many seconds at the latest. ``name``: under which
    the consumer is listed; by default the caller's. ``confirms``: the consumer confirms by ``POST
    /feed/confirm``, so that a poll confirms nothing, and revocations that wait for edges wait for it.
    """

    cursor: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    wait: Annotated[float, msgspec.Meta(ge=0, le=60)] | None = None
    name: ConsumerName | None = None
    confirms: bool = False


class Feed:
    """Sends the journal to consumers; the attributes are those of the constructor."""

    def __init__(
        self,
        *,
        authentication: Authentication,
        consumers: Consumers,
        tail: JournalTail,
        metrics: Metrics,
        patience: float,
    ) -> None:
        """``patience`` is for how many seconds a request waits until the journal can be read."""
        self._authentication = authentication
        self.consumers: Final = consumers
        self.tail: Final = tail
        self.metrics: Final = metrics
        self._patience: Final = patience

    async def respond(self, request: web.Request) -> web.StreamResponse:
        caller = self._authentication.authenticate(request, None)
        caller.require(SCOPE)
        query = converted(query_fields(request), FeedQuery)
        cursor = Cursor.read(request.headers.get("Last-Event-ID") or query.cursor)
        if self.consumers.draining:
            raise StoreUnavailable("the service is stopping")
        if request.method == hdrs.METH_HEAD:  # it asks for the headers alone, and follows nothing
            return web.Response(headers=_STREAM_HEADERS if query.wait is None else _JSON_HEADERS)
        consumer = self.consumers.seen(caller.name, query.name or caller.name)
        async with self.tail.followed():
            await self.tail.ready(self._patience)
            if query.confirms:
                await self.consumers.announce(consumer)
            if query.wait is None:
                consumer.begin_at(cursor)
                with self.consumers.streaming(consumer):
                    return await _Stream(self, request, consumer, cursor).run()
            if not query.confirms:
                self.consumers.confirmed(consumer, cursor)
            with self.consumers.polling(consumer):
                return await self._poll(consumer, cursor, query.wait)

    async def _poll(self, consumer: Consumer, cursor: Cursor, seconds: float) -> web.Response:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        await self.tail.come_to(cursor, _CATCH_UP_S)
        while True:
            try:
                events: Sequence[Event] = await self.tail.after(cursor)
            except Reload as reload:
                self.metrics.feed_reloads.labels(reload.reason).inc()
                return _json(b'[{"event":"reload","data":%b}]' % _reload_data(reload))
            items = [event.items for event in events if event.items]
            if events:
                cursor = events[-1].cursor
            left = deadline - loop.time()
            if items or self.consumers.draining or (left <= 0 and not events):
                if (fresh := self.tail.fresh_at(cursor)) is not None:
                    consumer.as_of = max(consumer.as_of, fresh.as_of)
                    age = b',"age":%d}' % self.tail.age_ms
                    items.append(b'{"event":"fresh","data":%b}' % (fresh.data[:-1] + age))
                return _json(b"[%b]" % b",".join(items))
            if not events:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self.tail.news()

    def may_continue(self, request: web.Request) -> bool:
        """Whether the caller of a stream has kept its secret and its scope."""
        try:
            self._authentication.authenticate(request, None).require(SCOPE)
        except TooManyRequests:  # it has
            return True
        except RevokerError:
            return False
        return True


class _Stream:
    """One stream of server-sent events."""

    def __init__(self, feed: Feed, request: web.Request, consumer: Consumer, cursor: Cursor) -> None:
        self._feed = feed
        self._request = request
        self._consumer = consumer
        self._cursor = cursor
        self._response = web.StreamResponse(headers=_STREAM_HEADERS)
        self._checks = feed.consumers.checks
        self._sent_at = self._checked_at = asyncio.get_running_loop().time()
        self._fresh_at = 0.0
        self._as_of = 0

    async def run(self) -> web.StreamResponse:
        """Send until the client goes or must go."""
        await self._response.prepare(self._request)
        tail = self._feed.tail
        while True:
            now = asyncio.get_running_loop().time()
            if self._feed.consumers.draining:
                await self._send(b"retry: %d\n\n" % random.randint(*_RETRY_MS), now)  # noqa: S311  # no secret
                break
            if not self._is_allowed(now):
                break
            failed = False
            try:
                events: Sequence[Event] = await tail.after(self._cursor)
            except Reload as reload:
                self._feed.metrics.feed_reloads.labels(reload.reason).inc()
                await self._send(b"event: reload\ndata: %b\n\n" % _reload_data(reload), now)
                break
            except NoVerdict:
                events, failed = (), True
            data = [event.stream for event in events]
            if events:
                self._cursor = events[-1].cursor
            if (fresh := self._fresh(now)) is not None:
                data.append(b"event: fresh\ndata: %b\n\n" % fresh.data)
            await self._send(b"".join(data), now)
            self._consumer.sent(self._cursor, self._as_of)
            if failed or not tail.has_after(self._cursor):
                await tail.news()
        await self._response.write_eof()
        return self._response

    def _is_allowed(self, now: float) -> bool:
        if self._checks == self._feed.consumers.checks and now - self._checked_at < RECHECK_S:
            return True
        self._checks, self._checked_at = self._feed.consumers.checks, now
        return self._feed.may_continue(self._request)

    def _fresh(self, now: float) -> Fresh | None:
        """What is to be said of the present."""
        if now < self._fresh_at + _FRESH_EVERY_S:
            return None
        fresh = self._feed.tail.fresh_at(self._cursor)
        if fresh is None or fresh.as_of <= self._as_of:
            return None
        self._as_of, self._fresh_at = fresh.as_of, now
        return fresh

    async def _send(self, data: bytes, now: float) -> None:
        """Write, or a comment after a while without data; end the connection of a client that does not read.

        Raises:
            ConnectionError: it has gone, or was disconnected.
        """
        if not data:
            if now - self._sent_at < _QUIET_S:
                return
            data = b":\n\n"
        self._sent_at = now
        transport = self._request.transport
        if len(data) < _SMALL and transport is not None and not transport.get_write_buffer_size():
            await self._response.write(data)  # it waits for nothing
            return
        try:
            async with asyncio.timeout(SLOW_S):
                await self._response.write(data)
        except TimeoutError:
            self._feed.metrics.feed_dropped.inc()
            _log.warning("feed_consumer_dropped", consumer=self._consumer.name)
            if transport is not None:
                transport.abort()
            raise ConnectionResetError("the consumer does not read") from None


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, headers=_JSON_HEADERS)


def _reload_data(reload: Reload) -> bytes:
    return b'{"reason":"%b"}' % reload.reason.encode()
