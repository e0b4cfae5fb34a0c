"""How far this machine's clock is from the store's."""

import time
from collections.abc import Callable
from typing import Final

DEGRADED_S: Final = 5.0
NO_VERDICT_S: Final = 30.0
LATEST_MS: Final = 250
"""The latest time is noted so exactly: well within the margin with which sessions are compared."""


class Clocks:
    """Compares the service's clock with Redis ``TIME``.

    Attributes:
        now: The service's clock, in seconds UTC.
        ahead: How many seconds it was ahead of the store's at the last comparison; 0.0 where that
            lies within the round trip.
        latest: The latest time (ms) that any server of the store has shown, of those that counted; up to
            :data:`LATEST_MS` less.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.time,
        whole: "Clocks | None" = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``whole`` has the latest time of all servers, of which this compares one."""
        self.now: Final = now
        self.ahead = 0.0
        self.latest = 0
        self._whole = whole
        self._monotonic = monotonic
        self._store_ms: int | None = None
        self._received = 0.0

    @property
    def store_ms(self) -> int | None:
        """The store's time now (ms): its last reading, and what has passed since; None before the first.

        Of several servers that one's which was read last.
        """
        if self._store_ms is None:
            return None
        return self._store_ms + int((self._monotonic() - self._received) * 1000)

    def learn_latest(self, shown_ms: int) -> None:
        """Take over the latest time (ms) that another process has seen.

        One that no server can have shown whose readings count beside this store's clock changes nothing.
        """
        if self._store_ms is not None and shown_ms <= self._store_ms + 2 * NO_VERDICT_S * 1000:
            self.latest = max(self.latest, shown_ms)

    @property
    def apart(self) -> str | None:
        """Why no verdict can rest on the last comparison; None where one can."""
        if abs(self.ahead) > NO_VERDICT_S:
            return f"the clocks of the service and the store are {abs(self.ahead):.0f} seconds apart"
        return None

    def _note(self, store_ms: int) -> None:
        self._store_ms = store_ms
        self._received = self._monotonic()

    def compare(self, store_ms: int, sent: float, received: float) -> str | None:
        """Take in one reading; returns why no verdict can rest on it, None where one can.

        Args:
            store_ms: Redis ``TIME`` in ms.
            sent: The service's clock before the command left, s.
            received: The same when the reply had come.
        """
        self._note(store_ms)
        if self._whole is not None:
            self._whole._note(store_ms)  # noqa: SLF001  # of the same class
        store = store_ms / 1000
        if store < sent - 0.002:
            self.ahead = sent - store
        elif store > received:
            self.ahead = received - store
        else:
            self.ahead = 0.0
        if abs(self.ahead) > NO_VERDICT_S:
            return self.apart
        if store_ms > self.latest + LATEST_MS:
            self.latest = store_ms
            if self._whole is not None:
                self._whole.latest = max(self._whole.latest, store_ms)
        return None
