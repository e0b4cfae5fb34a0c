"""The cache of verified tokens: text of a token → what its signature vouches for.

A signature that was good stays good, so it need not be checked again while its key stands. Nothing
else is remembered: no verdict, no revocation, no time. Who takes an entry looks at ``exp`` and asks
the store, every time. And only what was verified is kept, so that nobody but an issuer can fill it.

Room is bounded in entries and in bytes: a token may have 16 KiB, and what it says takes several times that.

An entry ends when room is needed and it was not used for longest, or when the key that verified it
has left its set; the latter is looked at on every reading. Entries are found by the token's whole
text, compared character by character: to digest it first would take longer than all else here.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from revoker.tokens.jwk import VerifyingKey

CACHE_BYTES: Final = 64 * 1024 * 1024
"""Room for all entries of a cache; within the memory limit of the chart."""


class Vouched(Protocol):
    """What can be kept: anything that a key vouches for."""

    @property
    def key(self) -> VerifyingKey:
        """The key that verified it."""


Entry = TypeVar("Entry", bound=Vouched)


def _length(token: str, _: object) -> int:
    return len(token)


class TokenCache(Generic[Entry]):
    """At most ``size`` entries and ``most_bytes`` bytes, the most recently used."""

    def __init__(
        self,
        size: int,
        *,
        most_bytes: int = CACHE_BYTES,
        bytes_of: Callable[[str, Entry], int] = _length,
    ) -> None:
        """Keep nothing yet; ``bytes_of`` says how much room an entry takes, the same each time."""
        self._size = size
        self._most_bytes = most_bytes
        self._bytes_of = bytes_of
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, token: str) -> Entry | None:
        """What was kept for this very text, if the key that verified it is still live."""
        entry = self._entries.get(token)
        if entry is None:
            return None
        if not entry.key.live:
            self._forget(token)
            return None
        self._entries.move_to_end(token)
        return entry

    def put(self, token: str, entry: Entry) -> None:
        """Keep what a token was verified to say, at the cost of the one not used for longest."""
        if token in self._entries:
            self._forget(token)
        self._entries[token] = entry
        self.bytes += self._bytes_of(token, entry)
        while len(self._entries) > self._size or self.bytes > self._most_bytes:
            self._forget(next(iter(self._entries)))

    def _forget(self, token: str) -> None:
        self.bytes -= self._bytes_of(token, self._entries.pop(token))
