"""How far this machine's clock is from the store's."""

import time
from collections.abc import Callable
from typing import Final

DEGRADED_S: Final = 5.0
NO_VERDICT_S: Final = 30.0
LATEST_MS: Final = 250
"""Resolution of the latest time: well within the margin with which sessions are compared."""

LATEST_AHEAD_MS: Final = int(2 * NO_VERDICT_S * 1000)
"""The clocks of two servers whose readings count are no further apart."""


def shared_time(text: bytes | None) -> int:
    """The time (ms) in the value that the processes share; 0 where it has none."""
    return int(text) if text and text.isdigit() and len(text) <= 20 else 0


class Clocks:
    """Compares the service's clock with Redis ``TIME``.

    Attributes:
        now: The service's clock, in seconds UTC.
        ahead: Seconds by which it was ahead of the store's at the last comparison; 0.0 if the difference
            is within the round trip.
        latest: The latest time (ms) in any reading that counted, of any server; up to :data:`LATEST_MS` less.
    """

    def __init__(self, now: Callable[[], float], overall: "Clocks | None" = None) -> None:
        """``overall`` collects the latest time of all servers, if this compares one of several."""
        self.now: Final = now
        self.ahead = 0.0
        self.latest = 0
        self._overall = overall
        self._store_ms: int | None = None
        self._received = 0.0

    @property
    def store_ms(self) -> int | None:
        """The store's time now (ms), by the last reading and what has passed since; None before the first.

        Of several servers, that of the one that was read last.
        """
        if self._store_ms is None:
            return None
        return self._store_ms + int((time.monotonic() - self._received) * 1000)

    def learn_latest(self, latest_ms: int, store_ms: int) -> bool:
        """Take over the latest time (ms) that another process has seen, read at this time of the store (ms).

        Returns:
            False if it is ignored, because it is more than :data:`LATEST_AHEAD_MS` ahead.
        """
        if latest_ms > store_ms + LATEST_AHEAD_MS:
            return False
        self.latest = max(self.latest, latest_ms)
        return True

    @property
    def apart(self) -> str | None:
        """Why no verdict can rest on the last comparison; None if one can."""
        if abs(self.ahead) > NO_VERDICT_S:
            return f"the clocks of the service and the store are {abs(self.ahead):.0f} seconds apart"
        return None

    def _note(self, store_ms: int) -> None:
        self._store_ms = store_ms
        self._received = time.monotonic()

    def compare(self, store_ms: int, sent: float, received: float) -> str | None:
        """Compare one reading; returns why no verdict can rest on it, None if one can.

        Args:
            store_ms: Redis ``TIME`` in ms.
            sent: The service's clock when the command was sent, in seconds.
            received: The same when the reply came.
        """
        self._note(store_ms)
        if self._overall is not None:
            self._overall._note(store_ms)  # noqa: SLF001  # of the same class
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
            if self._overall is not None:
                self._overall.latest = max(self._overall.latest, store_ms)
        return None
