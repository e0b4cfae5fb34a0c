"""A set of revoked tokens that takes 24 bytes for one, and 8 MiB for all of them.

Users choose what is in their tokens, and whoever may revoke chooses what is in here. So places are found by
a hash that nobody outside can compute: Python's own, whose key is random in every process, over a text
that begins with a random secret.
"""

import secrets
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Final

SEGMENTS: Final = 1024
"""Every segment is a sorted list. An insertion moves what follows it in its segment, and a removal of what
has expired looks at one segment: both take well below a millisecond for ten million tokens."""

_MARKS: Final = 8192
"""Classes of hashes. For every segment and class, one byte says which hashes of the class the segment may
have: a bit for each value of three other bits of the hash. Nearly all tokens that are asked for are not
revoked. Beside a million that are, this byte alone shows that for 98 of 100. A search would read ten places
that are far apart in memory."""

_BIT_SHIFT: Final = 40
_BITS: Final = tuple(1 << bit for bit in range(8))

_ALL_MARKS: Final = SEGMENTS * _MARKS
_CLASS: Final = _ALL_MARKS - 1
_SEGMENT_SHIFT: Final = _MARKS.bit_length() - 1


_Segment = tuple["array[int]", "array[int]", "array[int]"]
"""First hashes in ascending order, and the second hash and the expiry (ms) of each."""


def _membership(
    first_secret: str, second_secret: str, marks: bytearray, segments: list[_Segment]
) -> Callable[[str], bool]:
    """A function that looks for a key.

    No method: an edge calls it for every request, and every attribute is one more place in memory that is in
    no cache by then.
    """
    all_classes, bit_shift, bits = _CLASS, _BIT_SHIFT, _BITS

    def has(key: str) -> bool:
        first = hash(first_secret + key)
        mark = marks[first & all_classes]
        if not mark or not mark & bits[first >> bit_shift & 7]:
            return False
        hashes, second_hashes, _ = segments[(first & all_classes) >> _SEGMENT_SHIFT]
        place = bisect_left(hashes, first)
        while place < len(hashes) and hashes[place] == first:
            if second_hashes[place] == hash(second_secret + key):
                return True
            place += 1
        return False

    return has


class RevokedTokens:
    """Keys of revoked tokens (:meth:`revoker.store.keys.Keys.jti`) and when their entries expire.

    A key is represented by 128 bits of its hash: a million entries cover another key by chance with a
    probability of 3e-33.

    Attributes:
        count: How many there are.
        has: Whether a key is in.
    """

    __slots__ = ("_first_secret", "_marks", "_second_secret", "_segments", "count", "has")

    def __init__(self) -> None:
        self._first_secret = secrets.token_hex(8)
        self._second_secret = secrets.token_hex(8)
        self._segments = [(array("q"), array("q"), array("q")) for _ in range(SEGMENTS)]
        self._marks = bytearray(_ALL_MARKS)
        self.has: Final = _membership(self._first_secret, self._second_secret, self._marks, self._segments)
        self.count = 0

    def which_of(self, keys: Iterable[str | None]) -> list[bool]:
        """For every key whether it is in; None is not. Written out, because a batch asks for hundreds."""
        secret, marks, has = self._first_secret, self._marks, self.has
        found = []
        for key in keys:
            if key is None:
                found.append(False)
                continue
            found.append(bool(marks[hash(secret + key) & _CLASS]) and has(key))
        return found

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
        self._mark(first)
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
            self._mark(first)

    def _mark(self, first: int) -> None:
        self._marks[first & _CLASS] |= _BITS[first >> _BIT_SHIFT & 7]
