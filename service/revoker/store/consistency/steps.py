"""The steps by which a loss of data is settled: what they ask of the store, and of other processes.

A data set decides what is done, and in which order; who carries out its steps sends them. So the steps of
one data set can be sent by themselves, and those of many together
(:mod:`revoker.store.consistency.joint_settlement`), in the same order.
"""

import itertools
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import Any, Final, NamedTuple, TypeVar

from revoker.store.consistency.counts import Counts
from revoker.store.consistency.epoch import Watermark

POLL_S: Final = (0.02, 0.05, 0.1, 0.2)
"""Pauses between two looks at what other processes have done; the last one is repeated."""

VerifyWrittenBack = Callable[[bool], Awaitable[Watermark | None]]
"""Returns the data set's numbers if it holds everything that was written back, else None; the last time it is
called with True."""


class RepairProgress(NamedTuple):
    """How far a repair is.

    Attributes:
        now: Redis ``TIME`` (ms).
        contributions: By process, encoded.
        numbers: Of the data set at that moment.
    """

    now: int
    contributions: dict[str, bytes]
    numbers: Watermark


class Reads:
    """Reads the data set: :class:`revoker.store.consistency.epoch.Reading`."""


class SetsEpoch(NamedTuple):
    """As :meth:`revoker.store.scripts.Scripts.set_epoch`: whether it was set, and the numbers."""

    expected: bytes
    new_id: str
    latest: int
    finding: str
    cutoff: int | None
    counts: Counts | None = None


class WritesBack:
    """Writes back what this process knows: :data:`VerifyWrittenBack`, or None if there is nothing."""


class Verifies(NamedTuple):
    """Calls what :class:`WritesBack` gave."""

    verify: VerifyWrittenBack
    last: bool


class Contributes(NamedTuple):
    """Contributes to a repair if the epoch is as given: :class:`RepairProgress`.

    Attributes:
        share: To be set; None: without vouching.
    """

    epoch: bytes
    contribution: bytes
    share: int | None


class Pauses(NamedTuple):
    """Gives other processes time to do their part."""

    seconds: float


READS: Final = Reads()
WRITES_BACK: Final = WritesBack()

Step = Reads | SetsEpoch | WritesBack | Verifies | Contributes | Pauses

T = TypeVar("T")

Steps = Generator[Step, Any, T]
"""Is sent what each step gives; a step that fails raises in it."""


def polling_pauses() -> Iterator[float]:
    """The pauses between looks at what other processes have done, in seconds; they do not end."""
    return itertools.chain(POLL_S, itertools.repeat(POLL_S[-1]))
