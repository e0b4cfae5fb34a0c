"""Decides whether a loss of data was repaired, so that nobody has to be logged out.

Every running process writes back all that it had acknowledged, then contributes to the repair. It says what
it last knew of the data set, and vouches for its own revocations if none of them can be missing any more.
The loss is repaired when all that any of them knew of is there, or is vouched for. docs/reliability.md has
the argument, and tests/store/test_repair_model.py explores it.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from revoker.store.consistency.counts import Counts, hold_all


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


encode: Final = msgspec.json.Encoder().encode
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
