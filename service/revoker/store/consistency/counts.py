"""How many revocations a data set holds: in all, and by each process that writes to it.

The counts tell what may be missing from a data set by whom it was written. ``seq`` alone does not: a
revocation that is lost and one that is made afterwards give the same number.
"""

import functools
from collections.abc import Collection, Mapping
from typing import NamedTuple


class Counts(NamedTuple):
    """The numbers of one reading.

    Attributes:
        seq: Revocations stored in all.
        writers: The list of writers, as stored: `` id count id count``. It has those that have not ended.
    """

    seq: int
    writers: bytes

    @property
    def of_others(self) -> int:
        """Revocations of processes that are not in the list of writers: they have ended, or list nothing."""
        return self.seq - sum(parse_writers(self.writers).values())


@functools.lru_cache(maxsize=256)
def parse_writers(text: bytes) -> Mapping[str, int]:
    """The counts by process; raises ``ValueError`` if the text is malformed."""
    words = text.decode().split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def hold_all(present: Counts, before: Counts, vouched: Collection[str] = ()) -> bool:
    """Whether a data set that has the present counts holds every revocation that it had before.

    A process that left the list has not lost its revocations: they are then among those of no process in the
    list.

    Args:
        present: Of the data set now.
        before: Of the same data set earlier, in one reading.
        vouched: Processes whose revocations are all there, whatever their counts.

    Raises:
        ValueError: a list is malformed.
    """
    if present.writers == before.writers and not vouched:
        return present.seq >= before.seq
    counts = parse_writers(present.writers)
    of_ended = 0
    for writer, count in parse_writers(before.writers).items():
        if writer in vouched:
            continue
        if writer not in counts:
            of_ended += count
        elif counts[writer] < count:
            return False
    return present.of_others >= before.of_others + of_ended
