"""Adds spans to round trips to the store: to batches of lookups, and to all else that a request waits for.

One batch serves many requests, so its span cannot be a child of all of them. A span for every request would
show the same round trip as many times, and cost as much as that of the request. So a batch has one span: a
child of the first of its requests that is recorded, with links to and from the others. There is no span if
none of them is recorded, nor for what the service asks by itself.
"""

import asyncio
import contextlib
import functools
import weakref
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import Any, Final

from opentelemetry.trace import Span

from revoker.errors import NoVerdict
from revoker.store.keys import TokenKeys
from revoker.store.lookups import Batch, BatchedLookups, BatchReader, CheckServer, Group
from revoker.store.scripts import DIGESTS
from revoker.store.source import Found, Source
from revoker.store.wire.addresses import Connectable
from revoker.store.wire.connection import Command, ConnectionLost, Replies
from revoker.tracing.spans import Spans, fail, recorded, type_of

_BATCH_SIZE: Final = "db.operation.batch.size"
_SCRIPT: Final = "db.stored_procedure.name"
_LOOKUPS: Final = "revoker.lookups"
_SCRIPTS: Final = {digest: name for name, digest in DIGESTS.items()}


class _BatchSpans:
    """The spans of batches in flight, and of the requests that wait for them."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._askers: weakref.WeakKeyDictionary[Any, tuple[Span, ...]] = weakref.WeakKeyDictionary()
        self._of_batch: dict[Batch, Span] = {}

    def asked(self, result: Any) -> None:
        """Note that the current request waits for a result: a future or a group."""
        if (span := recorded()) is not None and not result.done():
            askers = self._askers.get(result, ())
            if span not in askers:
                self._askers[result] = (*askers, span)

    def begin(self, batch: Batch) -> None:
        if not self._askers:
            return
        askers: dict[Span, None] = {}
        for _, result, _ in batch.requests:
            askers |= dict.fromkeys(self._askers.get(result, ()))
        if askers:
            about = {_LOOKUPS: len(batch.requests)}
            self._of_batch[batch] = self._spans.round_trip(list(askers), "MGET", about)

    def end(self, batch: Batch, error: Exception | None = None) -> None:
        if (span := self._of_batch.pop(batch, None)) is not None:
            if error is not None:
                fail(span, type_of(error))
            span.end()


class _TracedReader:
    """As :class:`BatchReader`: reading a batch begins its span, and its answer ends it."""

    def __init__(self, reader: BatchReader, batches: _BatchSpans) -> None:
        self._reader = reader
        self._batches = batches

    def pack(self, batch: Batch, role: bytes) -> tuple[bytes, int]:
        packed = self._reader.pack(batch, role)
        self._batches.begin(batch)
        return packed

    def answer(self, batch: Batch, replies: Replies, check_server: CheckServer) -> Batch | None:
        try:
            unsettled = self._reader.answer(batch, replies, check_server)
        except Exception as error:
            self._batches.end(batch, error)
            raise
        self._batches.end(batch)
        return unsettled

    async def settle(self, batches: Sequence[Batch]) -> None:
        await self._reader.settle(batches)

    def last_loss(self, keys: TokenKeys) -> int:
        return self._reader.last_loss(keys)


class TracedLookups(BatchedLookups):
    """As :class:`BatchedLookups`, with a span for every batch that serves a recorded request."""

    def __init__(self, server: Connectable, reader: BatchReader, *, spans: Spans, **options: Any) -> None:
        self._batches: Final = _BatchSpans(spans)
        super().__init__(server, _TracedReader(reader, self._batches), **options)

    def find(self, keys: TokenKeys) -> "asyncio.Future[Found]":
        future = super().find(keys)
        self._batches.asked(future)
        return future

    def find_shared(self, keys: TokenKeys) -> "asyncio.Future[Found]":
        future = super().find_shared(keys)
        self._batches.asked(future)
        return future

    def find_all(self, keys: Sequence[TokenKeys]) -> Awaitable[list[Found]]:
        found = super().find_all(keys)
        if self.waiting and isinstance(group := self.waiting[-1][1], Group):
            self._batches.asked(group)
        return found

    def _send_again(self, batch: Batch) -> None:
        self._batches.end(batch, ConnectionLost())
        super()._send_again(batch)

    def _fail(self, batch: Batch, error: NoVerdict) -> None:
        self._batches.end(batch, error)
        super()._fail(batch, error)


class TracedSource:
    """As :class:`Source`, with a span for every round trip that a recorded request waits for."""

    def __init__(self, source: Source, spans: Spans) -> None:
        self._source = source
        self._spans = spans

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    async def change(self, key: str, *command: Any) -> Any:
        with self._round_trip([command]):
            return await self._source.change(key, *command)

    async def change_together(self, key: str, commands: Sequence[Command]) -> Replies:
        with self._round_trip(commands):
            return await self._source.change_together(key, commands)

    def change_unconfirmed(self, key: str, *command: Any) -> Awaitable[Replies]:
        """It is sent now, whether or not anybody waits for it."""
        span = self._begin([command])
        done = asyncio.ensure_future(self._source.change_unconfirmed(key, *command))
        if span is not None:
            done.add_done_callback(functools.partial(_end, span))
        return done

    async def change_all(self, commands: Mapping[str, Command]) -> Replies:
        with self._round_trip(list(commands.values())):
            return await self._source.change_all(commands)

    async def read(self, key: str, commands: Sequence[Command]) -> Replies:
        with self._round_trip(commands):
            return await self._source.read(key, commands)

    async def values(self, keys: Sequence[str]) -> list[bytes | None]:
        with self._round_trip([("MGET",)]):
            return await self._source.values(keys)

    @contextlib.contextmanager
    def _round_trip(self, commands: Sequence[Command]) -> Iterator[None]:
        if (span := self._begin(commands)) is None:
            yield
            return
        try:
            yield
        except Exception as error:
            fail(span, type_of(error))
            raise
        finally:
            span.end()

    def _begin(self, commands: Sequence[Command]) -> Span | None:
        if (asker := recorded()) is None:
            return None
        name, *rest = commands[0]
        about: dict[str, Any] = {}
        if script := _SCRIPTS.get(rest[0] if rest else ""):
            about[_SCRIPT] = script
        if len(commands) > 1:
            about[_BATCH_SIZE] = len(commands)
        return self._spans.round_trip([asker], str(name), about)


def _end(span: Span, done: "asyncio.Future[Replies]") -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        fail(span, type_of(error))
    span.end()
