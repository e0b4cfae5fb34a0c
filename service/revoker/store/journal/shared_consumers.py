"""The consumers of the feed of all processes, and how far they have come.

Every process writes its own consumers to one hash in the store, and reads those of the others. No verdict
depends on it, and after a loss every process writes its own again within :data:`WRITTEN_AGAIN_S`.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from revoker.errors import InvalidRequest
from revoker.store.journal.cursors import Cursor
from revoker.store.store import Store
from revoker.store.stored_values import redis_time_ms
from revoker.store.wire.connection import understood

WRITTEN_AGAIN_S: Final = 2.0
"""How often a process writes its consumers; new ones are written at once."""

SETTLED_S: Final[float] = 1.5 * WRITTEN_AGAIN_S
"""All processes have written to the hash once it is as old as that."""

LISTED_S: Final = 10.0
"""How long a consumer without a stream is listed after it was last heard, if it does not ask for more."""

MAX_LISTED_S: Final = 3600
"""The most that it can ask for."""


class ConsumerState(msgspec.Struct, frozen=True, array_like=True):
    """One consumer of one process.

    Attributes:
        caller: Its name in the settings.
        name: As it calls itself.
        streams: How many are open.
        cursor: The last that it has confirmed, or else the last that was sent to it.
        confirmed: Whether it has confirmed the cursor.
        as_of: Everything acknowledged before it (ms by Redis) has been sent; 0: that is not known.
        confirms: Whether it has ever confirmed, or has said that it will.
        silent_ms: How long ago it was last heard.
        listed_s: For how long it is listed after that.
    """

    caller: str
    name: str
    streams: int
    cursor: str
    confirmed: bool
    as_of: int
    confirms: bool
    silent_ms: int
    listed_s: float

    @property
    def heard(self) -> bool:
        """Whether it was heard within the time for which it is listed, and may give verdicts still."""
        return self.silent_ms <= self.listed_s * 1000

    @property
    def counts(self) -> bool:
        """Whether a revocation waits for it, if it waits for all."""
        return self.confirms and self.heard

    @property
    def at(self) -> Cursor | None:
        """Its cursor; None if there is none."""
        try:
            return Cursor.read(self.cursor)
        except InvalidRequest:
            return None


class Everyone(NamedTuple):
    """The consumers of processes.

    Attributes:
        complete: Whether every process has written its own; there may be more if not.
    """

    states: list[ConsumerState]
    complete: bool


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(list[ConsumerState]).decode


_STORED_MS: Final = 60_000
"""How long what a process has written is there, at least."""


class SharedConsumers:
    """Writes those of this process, and reads those of the others."""

    def __init__(self, store: Store) -> None:
        self._store: Final = store
        self._key: Final = store.keys.consumers
        self._own: Final = store.instance.encode()

    async def write(self, states: Sequence[ConsumerState]) -> None:
        """Write all that this process has; raises ``StoreUnavailable``."""
        text = _encode(states) if states else b""
        listed = max((int(state.listed_s * 1000) - state.silent_ms for state in states), default=0)
        with understood():
            await self._store.scripts.call_unconfirmed(
                "note_consumers", [self._key], (self._own, text, max(listed, _STORED_MS))
            )

    async def of_others(self) -> Everyone:
        """Those of the other processes that are connected, or were heard lately.

        Raises:
            NoVerdict: the store can't be read.
        """
        fields, stamp = await self._store.source.read_trusted(self._key, [("HGETALL", self._key), ("TIME",)])
        with understood():
            now = redis_time_ms(stamp)
            written = dict(zip(fields[::2], fields[1::2], strict=True))
            about_all = written.pop(b"", None)
            written.pop(self._own, None)
            states = [state for text in written.values() for state in _states(text, now)]
            if about_all is not None:
                return Everyone(states, now - int(about_all.split()[1]) >= SETTLED_S * 1000)
        await self.write(())  # so that its age becomes known
        return Everyone(states, SETTLED_S == 0)


def _states(text: bytes, now: int) -> list[ConsumerState]:
    """What one process has written, as of now (ms by Redis)."""
    try:
        at, _, states = text.split(b" ", 2)
        age = max(0, now - int(at))
        found = _decode(states)
    except (msgspec.MsgspecError, ValueError):  # of another version
        return []
    ended = age > LISTED_S * 1000  # that process has, or it hangs
    aged = [
        msgspec.structs.replace(state, silent_ms=state.silent_ms + age, streams=0 if ended else state.streams)
        for state in found
    ]
    return [state for state in aged if state.streams or state.heard]
