"""A set of revoked tokens that takes 24 bytes for one, and 8 MiB for all of them.

Users choose what is in their tokens, and whoever may revoke chooses what is in here. So places are found by
a hash that nobody outside can compute: Python's own, whose key is random in every process, over a text
that begins with a random secret.
"""

import secrets
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Final

SEGMENTS: Final = 1024
"""Every segment is a sorted list. An insertion moves what follows it in its segment, and a removal of what
has expired looks at one segment: both take well below a millisecond for ten million tokens."""

_MARKS: Final = 8192
"""Classes of hashes. For every segment and class, one byte says whether the segment may have a hash of the
class. Nearly all tokens that are asked for are not revoked. Beside a million that are, this byte alone shows
that for nine of ten. A search would read ten places that are far apart in memory."""

_ALL_MARKS: Final = SEGMENTS * _MARKS
_CLASS: Final = _ALL_MARKS - 1
_SEGMENT_SHIFT: Final = _MARKS.bit_length() - 1


class RevokedTokens:
    """Keys of revoked tokens (:meth:`revoker.store.keys.Keys.jti`) and when their entries expire.

    A key is represented by 128 bits of its hash: a million entries cover another key by chance with a
    probability of 3e-33.

    Attributes:
        count: How many there are.
    """

    __slots__ = ("_first_secret", "_marks", "_second_secret", "_segments", "count")

    def __init__(self) -> None:
        self._first_secret = secrets.token_hex(8)
        self._second_secret = secrets.token_hex(8)
        self._segments = [(array("q"), array("q"), array("q")) for _ in range(SEGMENTS)]
        self._marks = bytearray(_ALL_MARKS)
        self.count = 0

    def __contains__(self, key: str) -> bool:
        first = hash(self._first_secret + key)
        return bool(self._marks[first & _CLASS]) and self._has(first, key)

    def which_of(self, keys: Iterable[str | None]) -> list[bool]:
        """For every key whether it is in; None is not. Written out, because a batch asks for hundreds."""
        secret, marks = self._first_secret, self._marks
        found = []
        for key in keys:
            if key is None:
                found.append(False)
                continue
            first = hash(secret + key)
            found.append(bool(marks[first & _CLASS]) and self._has(first, key))
        return found

    def _has(self, first: int, key: str) -> bool:
        """Whether a key is in whose first hash this is."""
        hashes, second_hashes, _ = self._segments[(first & _CLASS) >> _SEGMENT_SHIFT]
        place = bisect_left(hashes, first)
        while place < len(hashes) and hashes[place] == first:
            if second_hashes[place] == hash(self._second_secret + key):
                return True
            place += 1
        return False

    def add(self, key: str, expiry: int) -> None:
        """Add a key, or extend its stay; ``expiry`` in ms."""
        first, second = hash(self._first_secret + key), hash(self._second_secret + key)
        hashes, second_hashes, expiries = self._segments[(first & _CLASS) >> _SEGMENT_SHIFT]
        place = bisect_left(hashes, first)
        found = place
        while found < len(hashes) and hashes[found] == first:
            if second_hashes[found] == second:
                expiries[found] = max(expiries[found], expiry)
                return
            found += 1
        hashes.insert(place, first)
        second_hashes.insert(place, second)
        expiries.insert(place, expiry)
        self._marks[first & _CLASS] = 1
        self.count += 1

    def remove_expired(self, now: int) -> Iterator[None]:
        """Remove what has expired by ``now`` (ms), one segment at each step."""
        for index, (hashes, second_hashes, expiries) in enumerate(self._segments):
            left = [place for place, expiry in enumerate(expiries) if expiry > now]
            if len(left) < len(expiries):
                self.count -= len(expiries) - len(left)
                left_hashes = array("q", [hashes[place] for place in left])
                self._mark_again(index, left_hashes)
                self._segments[index] = (
                    left_hashes,
                    array("q", [second_hashes[place] for place in left]),
                    array("q", [expiries[place] for place in left]),
                )
            yield

    def _mark_again(self, index: int, hashes: Iterable[int]) -> None:
        """Mark what a segment has, and nothing else."""
        self._marks[index * _MARKS : (index + 1) * _MARKS] = bytes(_MARKS)
        for first in hashes:
            self._marks[first & _CLASS] = 1
