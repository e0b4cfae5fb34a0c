"""The consumers of the feed: those of this process, of which it keeps the others informed, and all."""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from revoker.errors import NoVerdict, TooManyRequests
from revoker.metrics import Metrics
from revoker.store.journal.cursors import Cursor
from revoker.store.journal.shared_consumers import LISTED_S, WRITTEN_AGAIN_S, ConsumerState, Everyone

MAX_CONSUMERS: Final = 1000
"""Of one caller, so that none can keep out those of others."""

_WRITE_PAUSE_S: Final = 0.05
_WRITE_PAUSE_OF_ONE_S: Final = 0.00005
"""Between two writes, at least, and for every consumer: what is confirmed meanwhile is written together."""

_EAGER_S: Final = 30.0
"""For how long every confirmation is written at once after somebody has waited for one."""

_IDLE_S: Final = 20.0
"""How often a process without consumers writes, so that what all have written does not expire."""

_LEAVE_S: Final = 0.25
"""How long a process that ends tries to write to a store that does not answer."""


class Shared(Protocol):
    """What processes know of each other's consumers."""

    async def write(self, states: Sequence[ConsumerState]) -> None:
        """Write all that this process has; raises ``StoreUnavailable``."""

    async def of_others(self) -> Everyone:
        """Those of the other processes; raises ``NoVerdict``."""


@dataclass(slots=True, kw_only=True)
class Consumer:
    """One consumer of this process; all streams and requests of a caller under one name are the same.

    Attributes:
        caller: Its name in the settings.
        name: As it calls itself; else the caller's.
        cursor: The last that it has confirmed, or else the last that was sent to it; None: neither.
        as_of: Everything acknowledged before it (ms by Redis) has been sent; 0: that is not known.
        confirmed: Whether it has confirmed the cursor.
        streams: How many it has open.
        polls: How many of its requests wait for events.
        seen: When it last asked or confirmed, in monotonic seconds.
        confirms: Whether it has ever confirmed, or has said that it will.
        listed_s: How long it is listed after it was last heard.
    """

    caller: str
    name: str
    cursor: Cursor | None = None
    as_of: int = 0
    confirmed: bool = False
    streams: int = 0
    polls: int = 0
    seen: float = 0.0
    confirms: bool = False
    listed_s: float = 0.0

    @property
    def is_connected(self) -> bool:
        """Whether it can be sent something right now."""
        return bool(self.streams or self.polls)

    def begin_at(self, cursor: Cursor) -> None:
        """Note where a stream begins; one that has confirmed more has gone back, and that no longer holds."""
        if self.confirmed and _is_before(cursor, self.cursor):
            self.confirmed, self.cursor = False, cursor

    def sent(self, cursor: Cursor, as_of: int) -> None:
        """Note what was sent; what it has confirmed says more."""
        if not self.confirmed:
            self.cursor = cursor
            self.as_of = max(self.as_of, as_of)

    @property
    def state(self) -> ConsumerState:
        """What others may know of it."""
        silent = 0.0 if self.polls else time.monotonic() - self.seen  # a poll lasts a minute at most
        return ConsumerState(
            self.caller,
            self.name,
            self.streams,
            "" if self.cursor is None else self.cursor.text,
            self.confirmed,
            self.as_of,
            self.confirms,
            int(silent * 1000),
            max(self.listed_s, LISTED_S),
        )


def _is_before(cursor: Cursor, other: Cursor | None) -> bool:
    """Whether a cursor is of the same data as another, and before it."""
    return other is not None and cursor.data_set == other.data_set and cursor.place < other.place


class Consumers:
    """All consumers of one process.

    Attributes:
        draining: Set when no stream may continue.
        checks: Grows whenever every stream must check its caller again.
    """

    def __init__(self, metrics: Metrics, shared: Shared) -> None:
        self._metrics = metrics
        self._shared: Final = shared
        self._of: dict[str, dict[str, Consumer]] = {}
        """By caller and name; those of a caller in the order in which they last asked."""
        self._changed: Final = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._closed = False
        self._eager_until = 0.0
        self.draining = False
        self.checks = 0

    async def everywhere(self) -> Everyone:
        """Those of all processes; one that several have is there several times.

        Raises:
            NoVerdict: the store can't be read.
        """
        self._ensure_writing()
        others = await self._shared.of_others()
        return Everyone([*self._states(), *others.states], others.complete)

    def somebody_waits(self) -> None:
        """Write at once what consumers confirm from now on, and for a while."""
        self._eager_until = time.monotonic() + _EAGER_S
        self._changed.set()

    def seen(self, caller: str, name: str) -> Consumer:
        """The consumer that a request comes from; the caller's one that has been silent for longest may go.

        Raises:
            TooManyRequests: the caller has too many, all connected.
        """
        consumers = self._of.get(caller, {})
        consumer = consumers.get(name)
        is_new = consumer is None
        if consumer is None:
            if len(consumers) >= MAX_CONSUMERS:
                silent = next((one for one in consumers.values() if not one.is_connected), None)
                if silent is None:
                    raise TooManyRequests("too many consumers of the feed")
                del consumers[silent.name]
            consumer = Consumer(caller=caller, name=name)
        self._list(consumer)
        if is_new:
            self._write_now()
        return consumer

    async def announce(self, consumer: Consumer) -> None:
        """Note that a consumer will confirm what it takes over; all processes know it before it is answered.

        So who waits for all waits for it, too, before it gives its first verdict.
        """
        if not consumer.confirms:
            consumer.confirms = True
            with contextlib.suppress(NoVerdict):  # it is written again
                await self._shared.write(self._states())

    def confirmed(
        self, consumer: Consumer, cursor: Cursor, as_of: int | None = None, listed_s: float = 0.0
    ) -> None:
        """Note that a consumer has taken over everything up to a cursor.

        Args:
            consumer: Of this process.
            cursor: Up to which it has everything.
            as_of: Of the last reading that it knows of (ms by Redis).
            listed_s: How long it may give verdicts by that after it was last heard.
        """
        if not consumer.confirms:
            consumer.confirms = True
            self._write_now()
        is_overtaken = consumer.confirmed and _is_before(cursor, consumer.cursor)
        if not is_overtaken:
            consumer.confirmed, consumer.cursor = True, cursor
        if as_of is not None:
            consumer.as_of = max(consumer.as_of, as_of)
        consumer.listed_s = listed_s or consumer.listed_s
        self._write_soon()

    @contextmanager
    def streaming(self, consumer: Consumer) -> Iterator[None]:
        """List a consumer for as long as it has a stream."""
        consumer.streams += 1
        self._list(consumer)  # it may have gone while the request waited
        try:
            yield
        finally:
            consumer.streams -= 1
            if not consumer.confirms:  # the end of a stream is no sign of life of an edge
                self._list(consumer)

    @contextmanager
    def polling(self, consumer: Consumer) -> Iterator[None]:
        """List a consumer for as long as a request of it waits."""
        consumer.polls += 1
        try:
            yield
        finally:
            consumer.polls -= 1
            self._list(consumer)

    async def close(self) -> None:
        """Leave word of those that this process had: they may give verdicts still."""
        self._closed = True
        if self._writing is None:
            return
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)
        with contextlib.suppress(NoVerdict, TimeoutError):  # the others notice it all the same, later
            async with asyncio.timeout(_LEAVE_S):
                await self._shared.write([msgspec.structs.replace(one, streams=0) for one in self._states()])

    def _list(self, consumer: Consumer) -> None:
        consumer.seen = time.monotonic()
        consumers = self._of.setdefault(consumer.caller, {})
        consumers.pop(consumer.name, None)
        consumers[consumer.name] = consumer
        self._count()
        self._write_soon()

    def _states(self) -> list[ConsumerState]:
        self._prune()
        return [consumer.state for consumers in self._of.values() for consumer in consumers.values()]

    def _prune(self) -> None:
        now = time.monotonic()
        for caller, consumers in list(self._of.items()):
            for consumer in list(consumers.values()):
                if not consumer.is_connected and now - consumer.seen > max(consumer.listed_s, LISTED_S):
                    del consumers[consumer.name]
            if not consumers:
                del self._of[caller]
        self._count()

    def _count(self) -> None:
        self._metrics.feed_consumers.set(sum(map(len, self._of.values())))

    def _write_soon(self) -> None:
        """Write what is of interest to those who wait, if any do."""
        if time.monotonic() < self._eager_until:
            self._changed.set()
        self._ensure_writing()

    def _write_now(self) -> None:
        """Write what nobody must miss who waits for all."""
        self._changed.set()
        self._ensure_writing()

    def _ensure_writing(self) -> None:
        if (self._writing is None or self._writing.done()) and not self._closed:
            self._writing = asyncio.get_running_loop().create_task(self._write_repeatedly())

    async def _write_repeatedly(self) -> None:
        """Write what this process has; at once what must not wait, with pauses in between."""
        while True:
            self._changed.clear()
            states = self._states()
            with contextlib.suppress(NoVerdict):  # it is written again
                await self._shared.write(states)
            await asyncio.sleep(max(_WRITE_PAUSE_S, len(states) * _WRITE_PAUSE_OF_ONE_S))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WRITTEN_AGAIN_S if states else _IDLE_S):
                    await self._changed.wait()
