"""Follows the journal: one reader for all consumers of a process, while there are any."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from revoker.elapsed_time import Clock, PauseWatch, elapsed
from revoker.errors import NoVerdict, ReplyNotUnderstood, StoreUnavailable
from revoker.store.journal.cursors import OTHER_FORMAT, Cursor, identity
from revoker.store.journal.entries import CONFIRM, Entry, LineMaker, entry_of
from revoker.store.source import WAIT_S
from revoker.store.store import Store
from revoker.store.stored_values import redis_time_ms
from revoker.store.wire.connection import (
    FAILURES,
    Refused,
    public_message,
    unavailable_on_failure,
    understood,
)

_log = structlog.get_logger("store")

FRESH_S: Final = 1.0
"""A reading of the store that is older says nothing of the present."""

_PAGE: Final = 100
"""Entries in one reading; while they are encoded, this process gives no verdicts."""

_EVENTS_AT_ONCE: Final = 1000
"""Events that one consumer gets from memory at a time."""

_READERS_BEHIND: Final = 2
"""Consumers for which older entries are read at the same time."""

_MAX_EVENTS: Final = 4096
_MAX_EVENT_BYTES: Final = 4 * 1024 * 1024
"""What is kept in memory for consumers that are a little behind; older entries are read from the store."""

_PACE_S: Final = 0.003
_PACE_OF_ONE_S: Final = 0.0006
_MAX_PACE_S: Final = 0.02
"""Pause between two readings that find changes: at least, for every consumer, and at most.

A write to a stream costs more than the change in it. So up to 33 consumers have 1,700 writes a second
together, and more have 50 each.
"""

_RETRY_S: Final = 0.1
_POLL_S: Final = 0.02
"""Pause between two readings where the server does not let a command block."""

_HEARTBEAT_S: Final = 0.5
"""How often who waits for news looks at other things, whatever the store does."""

_LINGER_S: Final = 60.0
"""How long the reader continues after the last consumer has left: one that polls comes back."""


def pause_after_changes(consumers: int) -> float:
    """For how many seconds changes are collected before so many consumers are sent them.

    A change that comes alone is sent at once: the pause follows it.
    """
    return min(max(_PACE_S, consumers * _PACE_OF_ONE_S), _MAX_PACE_S)


class Reload(Exception):
    """A cursor can't be served; its consumer must start from a snapshot.

    Attributes:
        reason: One of :data:`revoker.metrics.FEED_RELOADS`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason: Final = reason


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the journal, encoded once for all consumers.

    Attributes:
        cursor: Of the entry.
        previous: The id of the entry before it.
        stream: Its server-sent events; empty if there is nothing to say.
        items: The same as elements of a JSON array, separated by commas.
        asks: Whether consumers are asked to confirm.
    """

    cursor: Cursor
    previous: str
    stream: bytes
    items: bytes
    asks: bool = False


@dataclass(frozen=True, slots=True)
class Fresh:
    """Everything that was acknowledged before ``as_of`` (ms by Redis) is in the journal up to ``cursor``."""

    cursor: Cursor
    as_of: int

    @property
    def data(self) -> bytes:
        return b'{"as_of":%d,"cursor":"%b"}' % (self.as_of, self.cursor.text.encode())


class JournalTail:
    """The latest entries of the journal."""

    def __init__(
        self,
        store: Store,
        *,
        asked: Callable[[], None] = lambda: None,
        elapsed_time: Clock = elapsed,
        wall: Clock = time.time,
    ) -> None:
        """Nothing is read before :meth:`followed`.

        Args:
            store: Whose journal is followed.
            asked: Called when consumers are asked to confirm.
            elapsed_time: For the age of a reading.
            wall: Shows pauses of it.
        """
        self._asked: Final = asked
        self._elapsed: Final = elapsed_time
        self._pauses: Final = PauseWatch(wall, elapsed_time)
        self._store: Final = store
        self._key: Final = store.keys.journal
        self._lines: Final = LineMaker(store.keys, store.issuers)
        self._identity: tuple[tuple[bytes, ...], str, bytes] | None = None
        self._followers = 0
        self._reader: asyncio.Task[None] | None = None
        self._stop: asyncio.TimerHandle | None = None
        self._heartbeat: asyncio.TimerHandle | None = None
        self._news: Final = asyncio.Event()
        self._at: Cursor | None = None
        self._fresh: tuple[Fresh, float] | None = None
        self._failure: NoVerdict = StoreUnavailable("the journal has not been read yet")
        self._events: list[Event] = []
        self._bytes = 0
        self._after: dict[str, int] = {}
        self._dropped = 0
        self._may_block = True
        self._turns: Final = asyncio.Semaphore(_READERS_BEHIND)

    @contextlib.asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Keep reading meanwhile."""
        self._followers += 1
        if self._stop is not None:
            self._stop.cancel()
            self._stop = None
        if self._reader is None:
            self._reader = asyncio.get_running_loop().create_task(self._read_on())
            self._beat()
        try:
            yield
        finally:
            self._followers -= 1
            if not self._followers:
                self._stop = asyncio.get_running_loop().call_later(_LINGER_S, self._cancel)

    async def close(self) -> None:
        """Stop reading."""
        if self._stop is not None:
            self._stop.cancel()
        if (reader := self._reader) is not None:
            self._cancel()
            await asyncio.gather(reader, return_exceptions=True)

    def _cancel(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        self._reader, self._fresh = None, None
        self._forget()

    def _beat(self) -> None:
        self.wake()
        self._heartbeat = asyncio.get_running_loop().call_later(_HEARTBEAT_S, self._beat)

    async def position(self) -> Fresh:
        """The end of the journal; a new one begins with an entry that says nothing.

        Raises:
            NoVerdict: what is stored must not be trusted.
        """
        for _ in range(3):
            await self._connect()
            data_set = self.identity()
            stamp, found = await self._store.source.read_trusted(
                self._key, [("TIME",), ("XREVRANGE", self._key, "+", "-", "COUNT", 1)]
            )
            if data_set != self.identity():
                continue
            with understood():
                as_of = redis_time_ms(stamp)
                if found:
                    return Fresh(Cursor(data_set, found[0][0].decode()), as_of)
            async with unavailable_on_failure():
                await self._store.scripts.add_to_journal(("", "", "", ""))
        raise StoreUnavailable("the journal can't be begun")

    async def ask_to_confirm(self) -> None:
        """Have all consumers asked to confirm how far they have come.

        Raises:
            NoVerdict: perhaps they are not asked.
        """
        async with unavailable_on_failure():
            await self._store.scripts.add_to_journal(("", "", "", CONFIRM))

    def identity(self) -> bytes:
        """Identifies the data of the store; raises ``NoVerdict`` unless verdicts may rest on all of it.

        In a cluster the server of the journal is part of it. Another one, or one that has restarted, may lack
        the last entries, while all that they are about is in its own slots: no data set has lost anything.
        """
        if not self._store.reached:
            raise StoreUnavailable("the store has not been read yet")
        epochs, server = self._store.overview.epochs(), ""
        if self._store.keys.clustered:
            server = self._store.source.server_of(self._key)
            if not server:
                raise StoreUnavailable("the server of the journal can't be reached")
        if self._identity is None or self._identity[:2] != (epochs, server):
            self._identity = epochs, server, identity(epochs, server)
        return self._identity[2]

    async def _connect(self) -> None:
        """Connect to the server of the journal, which :meth:`identity` needs in a cluster."""
        if self._store.keys.clustered and not self._store.source.server_of(self._key):
            async with unavailable_on_failure():
                await self._store.source.read(self._key, [("XLEN", self._key)])

    async def ready(self, seconds: float) -> None:
        """Wait until the journal is read; raises ``NoVerdict`` where it is not in time."""
        try:
            async with asyncio.timeout(seconds):
                while self._at is None:
                    await self.news()
        except TimeoutError:
            raise self._failure from None

    async def after(self, cursor: Cursor) -> Sequence[Event]:
        """Entries after a cursor, from memory or from the store; none: there are none yet.

        Raises:
            Reload: the cursor can't be served.
            NoVerdict: the store can't be read.
        """
        if cursor.data_set == OTHER_FORMAT:
            raise Reload("format")
        if self._at is None:
            raise self._failure
        if cursor.data_set != self._at.data_set:
            raise Reload("data_set")
        if cursor.entry == self._at.entry:
            return ()
        number = self._after.get(cursor.entry)
        if number is not None:
            first = number - self._dropped
            return self._events[first : first + _EVENTS_AT_ONCE]
        async with self._turns:
            await self._check(cursor)
            _, events = await self._entries_after(cursor)
            await asyncio.sleep(_PACE_S)  # other requests have their turn, too
        return events

    async def _check(self, cursor: Cursor) -> None:
        """Raise ``Reload`` where there is no entry at a cursor: that must cost little."""
        if not await self.existing([cursor]):
            raise Reload("trimmed")

    async def existing(self, cursors: Iterable[Cursor]) -> set[Cursor]:
        """Those cursors of the present data at which there is an entry; raises ``NoVerdict``."""
        asked = list(cursors)
        if not asked:
            return set()
        entries = await self._store.source.read_trusted(
            self._key, [("XRANGE", self._key, one.entry, one.entry, "COUNT", 1) for one in asked]
        )
        return {cursor for cursor, found in zip(asked, entries, strict=True) if found}

    def fresh_at(self, cursor: Cursor) -> Fresh | None:
        """Up to when a consumer at a cursor has everything; None unless that was read just now."""
        if self._fresh is None or self._fresh[0].cursor != cursor:
            return None
        if self._elapsed() - self._fresh[1] >= FRESH_S or self._pauses.noticed:
            return None
        return self._fresh[0]

    @property
    def age_ms(self) -> int:
        """How long ago the latest reading was begun, at most."""
        began = self._fresh[1] if self._fresh is not None else 0.0
        return math.ceil((self._elapsed() - began) * 1000)

    def has_after(self, cursor: Cursor) -> bool:
        """Whether :meth:`after` has something to say of a cursor: not if that is ahead of what was read."""
        if self._at is None or cursor == self._at:
            return False
        return cursor.data_set != self._at.data_set or cursor.place < self._at.place

    async def come_to(self, cursor: Cursor, seconds: float) -> None:
        """Wait until what was read is not behind a cursor, which may come from another process."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._is_behind(cursor):
                    await self.news()

    def _is_behind(self, cursor: Cursor) -> bool:
        at = self._at
        return at is not None and at.data_set == cursor.data_set and at.place < cursor.place

    async def news(self) -> None:
        """Wait for the next reading, or for :meth:`wake`: for half a second at most."""
        await self._news.wait()

    def wake(self) -> None:
        """End every wait for :meth:`news`."""
        self._news.set()
        self._news.clear()

    async def _read_on(self) -> None:
        while True:
            pause = 0.0
            try:
                found = await self._read()
                if found == 0:
                    pause = await self._wait()
                elif found < _PAGE:
                    pause = pause_after_changes(self._followers)
            except NoVerdict as error:
                self._failure, pause = error, _RETRY_S
            except Exception:  # noqa: BLE001  # all consumers depend on this task
                _log.exception("journal_not_read")
                self._failure, pause = ReplyNotUnderstood(), _RETRY_S
            if pause:
                await asyncio.sleep(pause)

    async def _wait(self) -> float:
        """Wait for an entry, as long as a reading remains fresh; returns a further pause."""
        assert self._at is not None  # noqa: S101  # it was read just now
        if not self._may_block:
            return _POLL_S
        block = ("BLOCK", int(WAIT_S * 1000), "STREAMS", self._key, self._at.entry)
        try:
            await self._store.source.wait_for(self._key, "XREAD", "COUNT", 1, *block)
        except Refused as error:
            if error.code == "UNBLOCKED":  # the server is becoming a replica
                return _RETRY_S
            _log.warning("journal_is_polled", error=public_message(error))
            self._may_block = error.code in {"MOVED", "ASK", "LOADING", "MASTERDOWN", "CLUSTERDOWN"}
            return _RETRY_S
        except (*FAILURES, NoVerdict):
            return _RETRY_S
        return 0.0

    async def _read(self) -> int:
        """Read once; returns how many entries were found, or _PAGE to read again at once."""
        await self._connect()
        data_set = self.identity()
        if self._at is None or self._at.data_set != data_set:
            await self._begin()
            return _PAGE
        try:
            if self._pauses.noticed:  # what was read before is older than it seems
                self._fresh = None
            self._pauses.begin()
            began = self._elapsed()
            as_of, events = await self._entries_after(self._at)
        except Reload:  # it was trimmed, or is not there after a failover
            await self._begin()
            return _PAGE
        if data_set != self.identity():
            return _PAGE
        self._add(events)
        if any(event.asks for event in events):
            self._asked()
        if len(events) < _PAGE:
            self._fresh = Fresh(self._at, as_of), began
        self.wake()
        return len(events)

    async def _begin(self) -> None:
        position = await self.position()
        self._forget()
        self._at = position.cursor
        self._after[self._at.entry] = self._dropped
        self.wake()

    def _forget(self) -> None:
        self._dropped += len(self._events)
        self._events, self._bytes = [], 0
        self._after.clear()
        self._at = self._fresh = None

    def _add(self, events: Sequence[Event]) -> None:
        for event in events:
            self._events.append(event)
            self._bytes += len(event.stream) + len(event.items)
            self._at = event.cursor
            self._after[event.cursor.entry] = self._dropped + len(self._events)
        if len(self._events) > _MAX_EVENTS or self._bytes > _MAX_EVENT_BYTES:
            half = (len(self._events) + 1) // 2
            for event in self._events[:half]:
                del self._after[event.previous]
                self._bytes -= len(event.stream) + len(event.items)
            del self._events[:half]
            self._dropped += half

    async def _entries_after(self, cursor: Cursor) -> tuple[int, list[Event]]:
        """A page of entries, and Redis ``TIME`` (ms) before it was read.

        The entry at the cursor must be there still: otherwise entries after it may have been trimmed, or a
        failover has taken it away, and the ids that follow may be lower ones.

        Raises:
            Reload: it is not.
        """
        stamp, found = await self._store.source.read_trusted(
            self._key,
            [("TIME",), ("XRANGE", self._key, cursor.entry, "+", "COUNT", _PAGE + 1)],
        )
        with understood():
            as_of = redis_time_ms(stamp)
            if not found or found[0][0].decode() != cursor.entry:
                raise Reload("trimmed")
            entries = [entry_of(reply) for reply in found[1:]]
        events, previous = [], cursor
        for entry in entries:
            event = await self._event(previous, entry, as_of)
            events.append(event)
            previous = event.cursor
        return as_of, events

    async def _event(self, previous: Cursor, entry: Entry, now: int) -> Event:
        if entry.undone == CONFIRM:
            cursor = Cursor(previous.data_set, entry.id)
            text = cursor.text.encode()
            return Event(
                cursor,
                previous.entry,
                b"id: %b\nevent: confirm\ndata: {}\n\n" % text,
                b'{"event":"confirm","id":"%b","data":{}}' % text,
                asks=True,
            )
        lines = []
        if entry.undone:
            removal = self._lines.removal(entry)
            lines += [] if removal is None else [removal, *await self._present(entry)]
        elif entry.value:
            lines = self._lines.of(entry.key, entry.value, entry.expires, now=now, changed=entry.at)
        cursor = Cursor(previous.data_set, entry.id)
        ids = [previous.text.encode()] * (len(lines) - 1) + [cursor.text.encode()]
        numbered = list(zip(ids, lines, strict=False))
        return Event(
            cursor,
            previous.entry,
            b"".join([b"id: %b\nevent: change\ndata: %b\n\n" % pair for pair in numbered]),
            b",".join([b'{"event":"change","id":"%b","data":%b}' % pair for pair in numbered]),
        )

    async def _present(self, entry: Entry) -> list[bytes]:
        """Lines of what a key still holds after something of it was undone.

        They follow the removal, which may remove a newer revocation from the copy of a consumer: in a cluster
        another slot may have journaled that before.
        """
        reading: list[tuple[Any, ...]] = [("GET", entry.key), ("PTTL", entry.key), ("TIME",)]
        value, ttl, stamp = await self._store.source.read_trusted(entry.key, reading)
        with understood():
            now = redis_time_ms(stamp)
        if value is None:
            return []
        expires = None if ttl < 0 else now + ttl
        return self._lines.of(entry.key, value, expires, now=now, changed=entry.at)
