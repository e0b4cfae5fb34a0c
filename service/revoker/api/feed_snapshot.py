"""``GET /feed/snapshot``: everything that an edge must know, from which the feed continues."""

import asyncio
from typing import Final

import structlog
from aiohttp import web

from revoker.api.bodies import refuse_query
from revoker.api.credentials import Authentication
from revoker.api.error_responses import NO_STORE
from revoker.api.feed import SCOPE
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

_STEP_S: Final = 30.0
"""A client that reads nothing for this time is disconnected."""


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

    async def respond(self, request: web.Request) -> web.StreamResponse:
        self._authentication.authenticate(request, None).require(SCOPE)
        refuse_query(request)
        try:
            async with asyncio.timeout(_TURN_S):
                await self._turns.acquire()
        except TimeoutError:
            raise StoreUnavailable("other snapshots are being sent") from None
        try:
            snapshot = await Snapshot.begin(self._store, self._tail)
            return await self._send(request, snapshot)
        finally:
            self._turns.release()

    async def _send(self, request: web.Request, snapshot: Snapshot) -> web.StreamResponse:
        response = web.StreamResponse(headers={**NO_STORE, "Content-Type": "application/x-ndjson"})
        outcome = "broken_off"
        try:
            await response.prepare(request)
            await _write(response, snapshot.head)
            try:
                async for lines in snapshot.steps(self._tail):
                    await _write(response, lines)
            except NoVerdict as error:  # without its last line, a snapshot is invalid
                _log.warning("feed_snapshot_broken_off", error=str(error))
            else:
                await _write(response, snapshot.end)
                outcome = "complete"
            await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the consumer does not read") from None
        finally:
            self._metrics.feed_snapshots.labels(outcome).inc()
        return response


async def _write(response: web.StreamResponse, data: bytes) -> None:
    if data:
        async with asyncio.timeout(_STEP_S):
            await response.write(data)
