"""The consumers of the feed that all processes have, and how far these have come.

Every process writes its own to one hash in the store, and reads those of the others. Nothing that a verdict
rests on is in it. After a loss every process writes again within :data:`WRITTEN_AGAIN_S`.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from revoker.errors import InvalidRequest
from revoker.store.journal.cursors import Cursor
from revoker.store.lookups import redis_time_ms
from revoker.store.store import Store
from revoker.store.wire.connection import understood

WRITTEN_AGAIN_S: Final = 2.0
"""What has not changed is written again after this time."""

LISTED_S: Final = 10.0
"""How long a consumer without a stream is listed after it was last heard, and all of a process likewise."""


class ConsumerState(msgspec.Struct, frozen=True, array_like=True):
    """One consumer of one process.

    Attributes:
        caller: Its name in the settings.
        name: As it calls itself.
        streams: How many are open.
        cursor: The last that it has confirmed, or else the last that was sent to it.
        confirmed: Whether it has confirmed the cursor.
        as_of: Everything acknowledged before it (ms by Redis) has been sent; 0: that is not known.
    """

    caller: str
    name: str
    streams: int
    cursor: str
    confirmed: bool
    as_of: int

    @property
    def at(self) -> Cursor | None:
        """Its cursor; None if there is none."""
        try:
            return Cursor.read(self.cursor)
        except InvalidRequest:
            return None


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(list[ConsumerState]).decode


class SharedConsumers:
    """Writes those of this process, and reads those of the others."""

    def __init__(self, store: Store) -> None:
        self._store: Final = store
        self._key: Final = store.keys.consumers
        self._own: Final = store.instance.encode()

    async def write(self, states: Sequence[ConsumerState]) -> None:
        """Write all that this process has; raises ``StoreUnavailable``."""
        text = _encode(states) if states else b""
        with understood():
            await self._store.scripts.call_unconfirmed("note_consumers", [self._key], (self._own, text))

    async def of_others(self) -> list[ConsumerState]:
        """What the other processes have written within :data:`LISTED_S`.

        Raises:
            NoVerdict: the store can't be read.
        """
        fields, stamp = await self._store.source.read_trusted(self._key, [("HGETALL", self._key), ("TIME",)])
        with understood():
            now = redis_time_ms(stamp)
            written = dict(zip(fields[::2], fields[1::2], strict=True))
            return [
                state
                for process, text in written.items()
                if process not in {self._own, b""}
                for state in _states(text, now)
            ]


def _states(text: bytes, now: int) -> list[ConsumerState]:
    """What one process has written, as of now (ms by Redis)."""
    at, _, states = text.partition(b" ")
    if now - int(at) > LISTED_S * 1000:  # that process has ended, or hangs
        return []
    try:
        return _decode(states)
    except msgspec.MsgspecError:  # of another version
        return []
