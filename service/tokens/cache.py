"""The cache of verified tokens: text of a token → what its signature vouches for.

A signature that was good stays good, so it need not be checked again while its key stands. Nothing
else is remembered: no verdict, no revocation, no time. Who takes an entry looks at ``exp`` and asks
the store, every time. And only what was verified is kept, so that nobody but an issuer can fill it.

An entry ends when room is needed and it was not used for longest, or when the key that verified it
has left its set; the latter is looked at on every reading. Entries are found by the token's whole
text, compared character by character: to digest it first would take longer than all else here.
"""

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

from service.tokens.jwk import VerifyingKey


class Vouched(Protocol):
    """What can be kept: anything that a key vouches for."""

    @property
    def key(self) -> VerifyingKey:
        """The key that verified it."""


Entry = TypeVar("Entry", bound=Vouched)


class TokenCache(Generic[Entry]):
    """At most ``size`` entries, the most recently used."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, token: str) -> Entry | None:
        """What was kept for this very text, if the key that verified it is still live."""
        entry = self._entries.get(token)
        if entry is None:
            return None
        if not entry.key.live:
            del self._entries[token]
            return None
        self._entries.move_to_end(token)
        return entry

    def put(self, token: str, entry: Entry) -> None:
        """Keep what a token was verified to say, at the cost of the one not used for longest."""
        self._entries[token] = entry
        self._entries.move_to_end(token)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)
