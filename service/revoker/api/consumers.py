"""The consumers of the feed that this process has: open streams, and those that poll."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from revoker.errors import TooManyRequests
from revoker.metrics import Metrics

MAX_CONSUMERS: Final = 1000
"""Of one caller, so that none can keep out those of others."""

POLLING_S: Final = 60.0
"""How long after its last request a consumer that polls is listed."""


@dataclass(slots=True, kw_only=True)
class Consumer:
    """One consumer; all streams and requests of a caller under one name are the same.

    Attributes:
        caller: Its name in the settings.
        name: As it calls itself; else the caller's.
        cursor: The last that it has confirmed, or else the last that was sent to it.
        as_of: Everything acknowledged before it (ms by Redis) has been sent; 0: that is not known.
        confirmed: Whether it has confirmed the cursor.
        streams: How many it has open.
        seen: When it last asked or confirmed, in monotonic seconds.
    """

    caller: str
    name: str
    cursor: str = ""
    as_of: int = 0
    confirmed: bool = False
    streams: int = 0
    seen: float = 0.0

    def sent(self, cursor: str, as_of: int) -> None:
        """Note what was sent; what it has confirmed says more."""
        if not self.confirmed:
            self.cursor = cursor
            self.as_of = max(self.as_of, as_of)

    def confirm(self, cursor: str, as_of: int | None) -> None:
        """Note that it has taken over everything up to a cursor."""
        self.confirmed, self.cursor = True, cursor
        if as_of is not None:
            self.as_of = max(self.as_of, as_of)


class Consumers:
    """All consumers of one process.

    Attributes:
        draining: Set when no stream may continue.
        checks: Grows whenever every stream must check its caller again.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._of: dict[str, dict[str, Consumer]] = {}
        """By caller and name; those of a caller in the order in which they last asked."""
        self._timer: asyncio.TimerHandle | None = None
        self.draining = False
        self.checks = 0

    def listed(self) -> list[Consumer]:
        """All of them."""
        self._prune()
        return [consumer for consumers in self._of.values() for consumer in consumers.values()]

    def seen(self, caller: str, name: str) -> Consumer:
        """The consumer that a request comes from; the caller's one that has been silent for longest may go.

        Raises:
            TooManyRequests: the caller has too many, all with streams.
        """
        consumers = self._of.get(caller, {})
        consumer = consumers.get(name)
        if consumer is None:
            if len(consumers) >= MAX_CONSUMERS:
                silent = next((one for one in consumers.values() if not one.streams), None)
                if silent is None:
                    raise TooManyRequests("too many consumers of the feed")
                del consumers[silent.name]
            consumer = Consumer(caller=caller, name=name)
        consumer.seen = time.monotonic()
        self._list(consumer)
        return consumer

    @contextmanager
    def streaming(self, consumer: Consumer) -> Iterator[None]:
        """List a consumer for as long as it has a stream."""
        consumer.streams += 1
        self._list(consumer)  # it may have gone while the request waited
        try:
            yield
        finally:
            consumer.streams -= 1
            if not consumer.streams:
                consumer.seen -= POLLING_S
            self._prune()

    def _list(self, consumer: Consumer) -> None:
        consumers = self._of.setdefault(consumer.caller, {})
        consumers.pop(consumer.name, None)
        consumers[consumer.name] = consumer
        self._count()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(POLLING_S, self._prune_in_time)

    def _prune_in_time(self) -> None:
        self._timer = None
        self._prune()
        if self._of:
            self._timer = asyncio.get_running_loop().call_later(POLLING_S, self._prune_in_time)

    def _prune(self) -> None:
        earliest = time.monotonic() - POLLING_S
        for caller, consumers in list(self._of.items()):
            for consumer in list(consumers.values()):
                if not consumer.streams and consumer.seen <= earliest:
                    del consumers[consumer.name]
            if not consumers:
                del self._of[caller]
        self._count()

    def _count(self) -> None:
        self._metrics.feed_consumers.set(sum(map(len, self._of.values())))
