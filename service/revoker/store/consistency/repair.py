"""Repairs a loss of data, so that nobody has to be logged out.

Every running process writes back all that it had acknowledged, then contributes to the repair. It says what
it last knew of the data set, and vouches for its own revocations if none of them can be missing any more.
The loss is repaired when all that any of them knew of is there, or is vouched for. docs/reliability.md has
the argument, and tests/store/test_repair_model.py explores it.
"""

import asyncio
import enum
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple, Protocol

import msgspec

from revoker.store.consistency.counts import Counts, hold_all
from revoker.store.consistency.epoch import REPAIRED, REPAIRING, Epoch, Watermark, new_id
from revoker.store.consistency.epoch_changes import EpochChanges
from revoker.store.consistency.losses import Losses
from revoker.store.consistency.steps import (
    Contributes,
    Pauses,
    RepairProgress,
    SetsEpoch,
    Steps,
    polling_pauses,
)


class Contribution(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one process contributes to a repair.

    Attributes:
        repair: The id of the epoch of the repair.
        vouches: Whether every revocation that the process has acknowledged is in the data set.
        seq: What it knew of the data set: ``seq``; -1 if it had not read it before the loss.
        writers: The list of writers in the same reading.
        running: The processes that were running when it last looked.
        cutoff: Of the last loss that it knows of (ms; 0: none). It stays in force.
    """

    repair: str
    vouches: bool
    seq: int = -1
    writers: str = ""
    running: tuple[str, ...] = ()
    cutoff: int = 0

    @property
    def counts(self) -> Counts | None:
        """What the process knew; None: nothing."""
        return None if self.seq < 0 else Counts(self.seq, self.writers.encode())


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Contribution).decode


def contributions_to(repair: str, fields: Mapping[str, bytes]) -> dict[str, Contribution]:
    """The contributions to one repair by process; raises ``ValueError`` if one is malformed."""
    contributions = {process: _decode(text) for process, text in fields.items()}
    return {process: given for process, given in contributions.items() if given.repair == repair}


def is_proven(present: Counts, contributions: Mapping[str, Contribution]) -> bool:
    """Whether the data set holds all that any of the processes knew of."""
    vouched = {process for process, given in contributions.items() if given.vouches}
    baselines = [given.counts for given in contributions.values() if given.counts is not None]
    return bool(baselines) and all(hold_all(present, baseline, vouched) for baseline in baselines)


def not_heard(contributions: Mapping[str, Contribution]) -> set[str]:
    """The processes that have not contributed although one of them knows them to be running."""
    expected = {process for given in contributions.values() for process in given.running}
    return expected - contributions.keys()


def shortfall(present: Counts, contributions: Mapping[str, Contribution]) -> str:
    """Why a loss is not repaired, for the log."""
    if missing := not_heard(contributions):
        return f"not heard from: {', '.join(sorted(missing))}"
    vouched = {process for process, given in contributions.items() if given.vouches}
    for process, given in contributions.items():
        if given.counts is not None and not hold_all(present, given.counts, vouched):
            return (
                f"{process} knew of {given.seq}{given.writers!r}, the store has {present.seq}"
                f"{present.writers.decode()!r}, vouched by: {', '.join(sorted(vouched)) or 'nobody'}"
            )
    return "no process knew the data set"


class RepairContext(Protocol):
    """What the repair of a data set needs of the store and of this process."""

    @property
    def seconds(self) -> float:
        """How long a repair may take."""

    def announce(self, *, repairing: bool) -> None:
        """Let the other processes look at the data set soon."""

    def running(self) -> Collection[str]:
        """The processes that run, as far as this one knows."""

    def can_vouch(self) -> bool:
        """Whether this process can write back every revocation that it has acknowledged here."""

    def heard(self, process: str) -> None:
        """Another process has contributed to a repair of the data set."""

    def advance(self, processes: Collection[str]) -> bool:
        """Whether all of some processes were last heard, of any data set, within the time for a repair."""

    async def contribute(self, epoch: bytes, contribution: bytes, share: int | None) -> RepairProgress:
        """Contribute if the epoch is as given, and set the share; None: without vouching.

        Raises:
            StoreUnavailable: it may or may not be stored; repeating it is safe.
        """


class Repaired(NamedTuple):
    """A data set that was repaired: its epoch, and its numbers at that moment."""

    epoch: Epoch
    numbers: Watermark


class NotRepaired(enum.Enum):
    """How else a repair ends."""

    REPLACED = enum.auto()
    """The data set is another one by now."""

    NOT_PROVEN = enum.auto()
    """Not all that some process knew of was there in time."""


class Repair:
    """What this process does for the repairs of one data set.

    Attributes:
        context: As in the constructor.
    """

    def __init__(self, context: RepairContext, losses: Losses, changes: EpochChanges) -> None:
        """``losses``: where repairs are reported; ``changes``: of the epoch of the data set."""
        self.context: Final = context
        self._losses: Final = losses
        self._changes: Final = changes
        self._ran_before: frozenset[str] = frozenset()

    def note_running(self) -> None:
        """Note who runs now: one that ends before the repair does must be heard of, too."""
        self._ran_before = frozenset(self.context.running())

    def begin(self, expected: bytes, latest: int, cutoff: int, missing: str) -> Steps[tuple[bool, Epoch]]:
        """Set an epoch that stops all verdicts and revocations.

        Args:
            expected: The epoch as read.
            latest: The latest time that was read of the store (ms).
            cutoff: The latest one in force (ms; 0: none).
            missing: What was found missing, for the log.

        Returns:
            Whether it was set, and the epoch of the data set.
        """
        begins = SetsEpoch(expected, new_id(), latest, REPAIRING, cutoff)
        done, numbers = yield from self._changes.set(begins, lambda _: self._losses.repair_started(missing))
        return done, Epoch.parse(numbers.epoch)

    def take_part(self, repair: Epoch, seen: Watermark | None, cutoff: int) -> Steps[Repaired | NotRepaired]:
        """Contribute to a repair until it has ended, after everything was written back.

        Args:
            repair: The epoch of the repair; or of one that ended without this process.
            seen: What this process has seen of the data set; None: nothing.
            cutoff: Of the last loss that it knows of (ms; 0: none).
        """
        vouches = seen is not None and self.context.can_vouch()
        contribution = _encode(
            Contribution(
                repair.id,
                vouches,
                -1 if seen is None else seen.seq,
                "" if seen is None else seen.writers.decode(),
                tuple(self._ran_before.union(self.context.running())),
                cutoff,
            )
        )
        share = seen.share if seen is not None and vouches else None
        give_up = asyncio.get_running_loop().time() + self.context.seconds
        contributed, heard = False, set[str]()
        self.context.announce(repairing=True)
        pauses = polling_pauses()
        try:
            while True:
                progress: RepairProgress = yield Contributes(repair.text.encode(), contribution, share)
                numbers = progress.numbers
                if numbers.epoch != repair.text.encode():
                    ended = Epoch.parse(numbers.epoch)
                    if not contributed or (ended.id, ended.finding) != (repair.id, REPAIRED):
                        return NotRepaired.REPLACED
                    repair = ended
                contributed = True
                contributions = contributions_to(repair.id, progress.contributions)
                for process in contributions.keys() - heard:
                    self.context.heard(process)
                heard |= contributions.keys()
                proven, missing = is_proven(numbers.counts, contributions), not_heard(contributions)
                latest_cutoff = max(repair.cutoff, *(given.cutoff for given in contributions.values()))
                if repair.finding == REPAIRED:
                    if proven and latest_cutoff == repair.cutoff:
                        return Repaired(repair, numbers)
                    # this process knew of more: repair that, too
                    cause = "a repair has left out what this process knows"
                    yield from self.begin(numbers.epoch, progress.now, latest_cutoff, cause)
                    return NotRepaired.REPLACED
                if proven and not missing:
                    ends = SetsEpoch(
                        numbers.epoch, repair.id, progress.now, REPAIRED, latest_cutoff, numbers.counts
                    )
                    done, found = yield from self._changes.set(ends, self._losses.repaired)
                    if done:
                        return Repaired(Epoch.parse(found.epoch), found)
                    if found.epoch != numbers.epoch:  # most often because another process has ended it
                        continue
                late = progress.now >= repair.noticed + self.context.seconds * 1000
                late = late or asyncio.get_running_loop().time() >= give_up
                # a process that repairs thousands of data sets comes to each of them
                if late and not (missing and self.context.advance(missing)):
                    self._losses.not_repaired(shortfall(numbers.counts, contributions))
                    return NotRepaired.NOT_PROVEN
                yield Pauses(next(pauses))
        finally:
            self.context.announce(repairing=False)
