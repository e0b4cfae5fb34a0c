"""Which processes are running, and which data sets they repair at the moment.

Every process enters itself in the store once a second. A repair waits for those that were running shortly
before: they may know of revocations that no other process knows of.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Collection, Iterable
from typing import Final

from revoker.errors import NoVerdict
from revoker.store.keys import Keys
from revoker.store.scripts import Scripts
from revoker.store.wire.connection import understood

RUNNING_MS: Final = 5000
"""A process that has not entered itself within this time has ended, or knows nothing that others do not."""

RETIRED_MS: Final = 60_000
"""A process that has not entered itself within this time writes no more."""

_LEFT: Final = "left"

_ANNOUNCE_DELAY_S: Final = 0.02
"""Repairs that begin together, as those of all slots of a shard, are announced together."""


class Instances:
    """The running processes, as this one last read."""

    def __init__(self, scripts: Scripts, keys: Keys, instance: str) -> None:
        """Nothing is read before :meth:`enter`."""
        self._scripts = scripts
        self._keys = keys
        self._instance: Final = instance
        self._repairing: set[int] = set()
        self._announcing: asyncio.Task[None] | None = None
        self._seen: dict[str, float] = {}
        self._entered_at: dict[str, int] = {}
        self._absent_since: dict[str, int] = {}
        self._now = 0

    @property
    def running(self) -> Collection[str]:
        """The processes that were seen within :data:`RUNNING_MS`, but for those that have left.

        One that is no longer in the store counts, too: the store may have lost that.
        """
        earliest = time.monotonic() - RUNNING_MS / 1000
        return [instance for instance, seen in self._seen.items() if seen > earliest]

    async def enter(self) -> set[int]:
        """Enter this process; raises ``NoVerdict``.

        Returns:
            The numbers of the data sets that others repair.
        """
        args = (self._instance, _text(self._repairing))
        with understood():
            now, fields = await self._scripts.call_unconfirmed("enter_instance", [self._keys.instances], args)
            entries = {
                instance.decode(): text.decode().partition(" ")[::2]
                for instance, text in zip(fields[::2], fields[1::2], strict=True)
            }
            self._now = int(now)
            entered_at = {instance: int(at) for instance, (at, _) in entries.items()}
            left = {instance for instance, (_, parts) in entries.items() if parts == _LEFT}
            others = [parts for name, (_, parts) in entries.items() if name not in {self._instance, *left}]
            repaired = {part for text in others for part in _parts(text)}
        self._note(entered_at, left)
        return repaired

    def _note(self, entered_at: dict[str, int], left: set[str]) -> None:
        """Note which processes have entered themselves since the last time, and which have left."""
        present = time.monotonic()
        for instance, at in entered_at.items():
            if at != self._entered_at.get(instance) and self._now - at < RUNNING_MS:
                self._seen[instance] = present
        self._seen = {
            instance: seen
            for instance, seen in self._seen.items()
            if instance not in left and present - seen < RUNNING_MS / 1000
        }
        self._entered_at = entered_at

    async def leave(self) -> None:
        """This process ends; raises ``NoVerdict``."""
        if self._announcing is not None:
            self._announcing.cancel()
        if self._now:
            args = (self._instance, _LEFT)
            await self._scripts.call_unconfirmed("enter_instance", [self._keys.instances], args)

    def announce(self, part: int, *, repairing: bool) -> None:
        """Tell the others soon that this process repairs a data set, by its number, or no longer does."""
        if not repairing:
            self._repairing.discard(part)
            return
        self._repairing.add(part)
        if self._announcing is None or self._announcing.done():
            self._announcing = asyncio.get_running_loop().create_task(self._announce())

    def retired(self, writers: Iterable[str]) -> set[str]:
        """Those of some processes that have ended for good: not seen for :data:`RETIRED_MS`."""
        gone = set()
        for writer in writers:
            if writer == self._instance:
                continue
            if self._now - self._entered_at.get(writer, 0) < RETIRED_MS:
                self._absent_since.pop(writer, None)
            elif self._now - self._absent_since.setdefault(writer, self._now) >= RETIRED_MS:
                gone.add(writer)
                del self._absent_since[writer]
        return gone

    async def _announce(self) -> None:
        await asyncio.sleep(_ANNOUNCE_DELAY_S)
        with contextlib.suppress(NoVerdict):  # the next beat of the watch does it
            await self.enter()


def _text(parts: Iterable[int]) -> str:
    """Numbers as ranges: ``0-5460 7000``."""
    numbers = sorted(parts)
    ranges = []
    for _, group in itertools.groupby(enumerate(numbers), lambda item: item[1] - item[0]):
        members = [number for _, number in group]
        ranges.append(f"{members[0]}-{members[-1]}" if len(members) > 1 else f"{members[0]}")
    return " ".join(ranges)


def _parts(text: str) -> Iterable[int]:
    """The numbers in the text of :func:`_text`; raises ``ValueError`` if it is malformed."""
    for limits in text.split():
        first, _, last = limits.partition("-")
        yield from range(int(first), int(last or first) + 1)
