"""What is known of all data sets of a store together, without going through thousands of slots."""

import collections
from typing import Final

from revoker.errors import StoreUnavailable


class Overview:
    """The epochs of all data sets, and which of them are not settled."""

    def __init__(self, data_sets: int) -> None:
        """``data_sets``: how many the store has."""
        self._expected: Final = data_sets
        self._epoch_of: dict[int, bytes] = {}
        self._counts: collections.Counter[bytes] = collections.Counter()
        self._unsettled: set[int] = set()
        self._distinct: tuple[bytes, ...] | None = None

    def note(self, part: int, epoch: bytes, *, settled: bool) -> None:
        """Take over what has changed of a data set.

        Args:
            part: Its number.
            epoch: As stored.
            settled: Whether verdicts may rest on it, as far as is known.
        """
        before = self._epoch_of.get(part)
        if before != epoch:
            self._epoch_of[part] = epoch
            self._counts[epoch] += 1
            if before is not None:
                self._counts[before] -= 1
            self._distinct = None
        if settled:
            self._unsettled.discard(part)
        else:
            self._unsettled.add(part)

    def epochs(self) -> tuple[bytes, ...]:
        """The different epochs of all data sets, in order; a loss of any of them changes it.

        Raises:
            StoreUnavailable: not all were read, or one has lost data and is not settled.
        """
        if self._unsettled:
            raise StoreUnavailable("the store has lost data, and that is not settled")
        if len(self._epoch_of) < self._expected:
            raise StoreUnavailable("the store has not been read yet")
        if self._distinct is None:
            self._counts = +self._counts
            self._distinct = tuple(sorted(self._counts))
        return self._distinct
