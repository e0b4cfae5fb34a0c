"""The consumers of the feed: those of this process, of which it keeps the others informed, and all."""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from revoker.errors import NoVerdict, TooManyRequests
from revoker.metrics import Metrics
from revoker.store.journal.shared_consumers import LISTED_S, WRITTEN_AGAIN_S, ConsumerState

MAX_CONSUMERS: Final = 1000
"""Of one caller, so that none can keep out those of others."""

_WRITE_PAUSE_S: Final = 0.05
_WRITE_PAUSE_OF_ONE_S: Final = 0.00005
"""Between two writes, at least, and for every consumer: what is confirmed meanwhile is written together."""

_LEAVE_S: Final = 0.25
"""How long a process that ends tries to remove its consumers from a store that does not answer."""


class Shared(Protocol):
    """What processes know of each other's consumers."""

    async def write(self, states: Sequence[ConsumerState]) -> None:
        """Write all that this process has; raises ``StoreUnavailable``."""

    async def of_others(self) -> list[ConsumerState]:
        """Those of the other processes; raises ``NoVerdict``."""


@dataclass(slots=True, kw_only=True)
class Consumer:
    """One consumer of this process; all streams and requests of a caller under one name are the same.

    Attributes:
        caller: Its name in the settings.
        name: As it calls itself; else the caller's.
        cursor: The last that it has confirmed, or else the last that was sent to it.
        as_of: Everything acknowledged before it (ms by Redis) has been sent; 0: that is not known.
        confirmed: Whether it has confirmed the cursor.
        streams: How many it has open.
        polls: How many of its requests wait for events.
        seen: When it last asked or confirmed, in monotonic seconds.
    """

    caller: str
    name: str
    cursor: str = ""
    as_of: int = 0
    confirmed: bool = False
    streams: int = 0
    polls: int = 0
    seen: float = 0.0

    @property
    def is_connected(self) -> bool:
        """Whether it can be sent something right now."""
        return bool(self.streams or self.polls)

    def sent(self, cursor: str, as_of: int) -> None:
        """Note what was sent; what it has confirmed says more."""
        if not self.confirmed:
            self.cursor = cursor
            self.as_of = max(self.as_of, as_of)

    @property
    def state(self) -> ConsumerState:
        """What others may know of it."""
        return ConsumerState(self.caller, self.name, self.streams, self.cursor, self.confirmed, self.as_of)


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
        self.draining = False
        self.checks = 0

    async def everywhere(self) -> list[ConsumerState]:
        """Those of all processes; one that several have is there several times.

        Raises:
            NoVerdict: the store can't be read.
        """
        others = await self._shared.of_others()
        return [*self._states(), *others]

    def seen(self, caller: str, name: str) -> Consumer:
        """The consumer that a request comes from; the caller's one that has been silent for longest may go.

        Raises:
            TooManyRequests: the caller has too many, all connected.
        """
        consumers = self._of.get(caller, {})
        consumer = consumers.get(name)
        if consumer is None:
            if len(consumers) >= MAX_CONSUMERS:
                silent = next((one for one in consumers.values() if not one.is_connected), None)
                if silent is None:
                    raise TooManyRequests("too many consumers of the feed")
                del consumers[silent.name]
            consumer = Consumer(caller=caller, name=name)
        self._list(consumer)
        return consumer

    def confirmed(self, consumer: Consumer, cursor: str, as_of: int | None = None) -> None:
        """Note that a consumer has taken over everything up to a cursor."""
        consumer.confirmed, consumer.cursor = True, cursor
        if as_of is not None:
            consumer.as_of = max(consumer.as_of, as_of)
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
        """Say that this process has none any more."""
        self._closed = True
        if self._writing is None:
            return
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)
        with contextlib.suppress(NoVerdict, TimeoutError):  # the others notice it all the same, later
            async with asyncio.timeout(_LEAVE_S):
                await self._shared.write(())

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
        earliest = time.monotonic() - LISTED_S
        for caller, consumers in list(self._of.items()):
            for consumer in list(consumers.values()):
                if not consumer.is_connected and consumer.seen < earliest:
                    del consumers[consumer.name]
            if not consumers:
                del self._of[caller]
        self._count()

    def _count(self) -> None:
        self._metrics.feed_consumers.set(sum(map(len, self._of.values())))

    def _write_soon(self) -> None:
        self._changed.set()
        if self._closed:
            return
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write_on())

    async def _write_on(self) -> None:
        """Write what this process has until it has none; at once what has changed, with pauses in between."""
        while True:
            self._changed.clear()
            states = self._states()
            with contextlib.suppress(NoVerdict):  # it is written again
                await self._shared.write(states)
            if not states and not self._changed.is_set():
                return
            await asyncio.sleep(max(_WRITE_PAUSE_S, len(states) * _WRITE_PAUSE_OF_ONE_S))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WRITTEN_AGAIN_S):
                    await self._changed.wait()
