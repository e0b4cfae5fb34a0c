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
        self._by_name: dict[tuple[str, str], Consumer] = {}
        self.draining = False
        self.checks = 0

    def listed(self) -> list[Consumer]:
        """All of them."""
        self._prune()
        return list(self._by_name.values())

    def seen(self, caller: str, name: str) -> Consumer:
        """The consumer that a request comes from.

        Raises:
            TooManyRequests: there are too many consumers.
        """
        self._prune()
        consumer = self._by_name.get((caller, name))
        if consumer is None:
            if len(self._by_name) >= MAX_CONSUMERS:
                raise TooManyRequests("too many consumers of the feed")
            consumer = self._by_name[caller, name] = Consumer(caller=caller, name=name)
        consumer.seen = time.monotonic()
        self._metrics.feed_consumers.set(len(self._by_name))
        asyncio.get_running_loop().call_later(POLLING_S + 1, self._prune)
        return consumer

    @contextmanager
    def streaming(self, consumer: Consumer) -> Iterator[None]:
        """List a consumer for as long as it has a stream."""
        consumer.streams += 1
        try:
            yield
        finally:
            consumer.streams -= 1
            if not consumer.streams:
                consumer.seen -= POLLING_S
            self._prune()

    def _prune(self) -> None:
        earliest = time.monotonic() - POLLING_S
        self._by_name = {
            key: consumer
            for key, consumer in self._by_name.items()
            if consumer.streams or consumer.seen > earliest
        }
        self._metrics.feed_consumers.set(len(self._by_name))
