"""An LRU cache of verified tokens.

A valid signature stays valid while its key is live, so it need not be verified again. Verdicts, revocations
and times are not cached: whoever takes an entry checks ``exp`` and asks the store each time. Only verified
tokens are cached, so that nobody but an issuer can fill it.

It is bounded in entries and in bytes: a token may have 16 KiB, and its claims take several times that. The
lookup key is the whole token, since a digest of it would take longer than all else here.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from revoker.tokens.jwk import VerifyingKey

CACHE_BYTES: Final = 64 * 1024 * 1024
"""Within the memory limit of the chart."""


class Verified(Protocol):
    """An entry; ``key`` is the key that verified it."""

    @property
    def key(self) -> VerifyingKey: ...


Entry = TypeVar("Entry", bound=Verified)


def _length(token: str, _: object) -> int:
    return len(token)


class TokenCache(Generic[Entry]):
    """Holds at most ``size`` entries and ``max_bytes`` bytes; evicts the least recently used."""

    def __init__(
        self,
        size: int,
        *,
        max_bytes: int = CACHE_BYTES,
        bytes_of: Callable[[str, Entry], int] = _length,
    ) -> None:
        """``bytes_of`` returns the size of an entry, the same value each time."""
        self._size = size
        self._max_bytes = max_bytes
        self._bytes_of = bytes_of
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, token: str) -> Entry | None:
        """The entry of the token, unless its key is no longer live."""
        entry = self._entries.get(token)
        if entry is None:
            return None
        if not entry.key.live:
            self._remove(token)
            return None
        self._entries.move_to_end(token)
        return entry

    def put(self, token: str, entry: Entry) -> None:
        if token in self._entries:
            self._remove(token)
        self._entries[token] = entry
        self.bytes += self._bytes_of(token, entry)
        while len(self._entries) > self._size or self.bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))

    def _remove(self, token: str) -> None:
        self.bytes -= self._bytes_of(token, self._entries.pop(token))
