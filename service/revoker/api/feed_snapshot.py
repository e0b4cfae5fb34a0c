"""``GET /feed/snapshot``: everything that an edge must know, from which the feed continues."""

import asyncio
from typing import Final

import msgspec
import structlog
from aiohttp import hdrs, web

from revoker.api.bodies import converted, query_fields
from revoker.api.credentials import Authentication
from revoker.api.error_responses import NO_STORE
from revoker.api.feed import SCOPE
from revoker.api.fields import ConsumerName
from revoker.errors import NoVerdict, StoreUnavailable
from revoker.metrics import Metrics
from revoker.store.journal.snapshot import Snapshot
from revoker.store.journal.tail import JournalTail
from revoker.store.store import Store

_log = structlog.get_logger("service")

PATH: Final = "/feed/snapshot"

AT_ONCE: Final = 2
"""Snapshots that one process sends at the same time: each takes a part of its time."""

_TURN_S: Final = 30.0
"""How long a request waits for its turn."""

GRACE_S: Final = 10.0
MIN_BYTES_PER_S: Final = 256 * 1024
"""A client that is behind this rate by more than the grace is disconnected: others wait for its turn."""


_HEADERS: Final = {**NO_STORE, "Content-Type": "application/x-ndjson"}


class SnapshotQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks.

    ``name``: as the consumer calls itself in the feed. Where no turn is free, an older snapshot of the same
    caller under the same name ends.
    """

    name: ConsumerName | None = None


class FeedSnapshot:
    """Sends snapshots."""

    def __init__(
        self, *, authentication: Authentication, store: Store, tail: JournalTail, metrics: Metrics
    ) -> None:
        self._authentication = authentication
        self._store = store
        self._tail = tail
        self._metrics = metrics
        self._turns: Final = asyncio.Semaphore(AT_ONCE)
        self._sending: Final[list[tuple[str, str | None, web.Request]]] = []

    async def respond(self, request: web.Request) -> web.StreamResponse:
        caller = self._authentication.authenticate(request, None)
        caller.require(SCOPE)
        query = converted(query_fields(request), SnapshotQuery)
        if request.method == hdrs.METH_HEAD:  # it asks for the headers alone
            return web.Response(headers=_HEADERS)
        if query.name is not None and self._turns.locked():
            self._end_older(caller.name, query.name)
        try:
            async with asyncio.timeout(_TURN_S):
                await self._turns.acquire()
        except TimeoutError:
            raise StoreUnavailable("other snapshots are being sent") from None
        sending = caller.name, query.name, request
        self._sending.append(sending)
        try:
            snapshot = await Snapshot.begin(self._store, self._tail)
            return await self._send(request, snapshot, caller.name)
        finally:
            self._sending.remove(sending)
            self._turns.release()

    def _end_older(self, caller: str, name: str) -> None:
        """End what a consumer has left behind: it may be gone without a word."""
        for of, called, request in self._sending:
            if (of, called) == (caller, name) and request.transport is not None:
                request.transport.abort()

    async def _send(self, request: web.Request, snapshot: Snapshot, caller: str) -> web.StreamResponse:
        response = web.StreamResponse(headers=_HEADERS)
        pace = _Pace(response)
        outcome = "broken_off"
        try:
            await response.prepare(request)
            await pace.write(snapshot.head)
            try:
                async for lines in snapshot.steps(self._tail):
                    await pace.write(lines)
            except NoVerdict as error:  # without its last line, a snapshot is invalid
                _log.warning("feed_snapshot_broken_off", error=str(error))
            else:
                await pace.write(snapshot.end)
                outcome = "complete"
            async with asyncio.timeout(GRACE_S):
                await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            _log.warning("feed_snapshot_dropped", consumer=caller)
            raise ConnectionResetError("the consumer reads too slowly") from None
        finally:
            self._metrics.feed_snapshots.labels(outcome).inc()
        return response


class _Pace:
    """Writes, as long as the client is fast enough: what the store takes is not its fault."""

    def __init__(self, response: web.StreamResponse) -> None:
        self._response = response
        self._left = GRACE_S

    async def write(self, data: bytes) -> None:
        """Write; raises ``TimeoutError`` where the client is too slow."""
        if not data:
            return
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._left + len(data) / MIN_BYTES_PER_S
        async with asyncio.timeout_at(ends):
            await self._response.write(data)
        self._left = min(GRACE_S, ends - loop.time())  # what was fast before does not excuse a pause
