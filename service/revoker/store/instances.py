"""Which processes are running, which server they have looked at, and which data sets they repair.

Every process enters itself in the store once a second. A repair waits for those that were running shortly
before: they may know of revocations that no other process knows of. So does the first verdict at a server.
"""

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import Collection, Iterable
from typing import Final

from revoker.errors import NoVerdict, StoreUnavailable
from revoker.store.keys import Keys, segment
from revoker.store.scripts import Scripts
from revoker.store.wire.connection import Refused, understood

RUNNING_MS: Final = 5000
"""A process that has not entered itself within this time has ended, or knows nothing that others do not."""

RETIRED_MS: Final = 60_000
"""A process that has not entered itself within this time writes no more."""

_LEFT: Final = "left"

_NO_SERVER: Final = "-"
"""Of a process that has not looked at any server yet."""

_NOT_ASKED: Final = "off"
"""Of a process that never says what it looks at, so nobody waits for it: it may be configured otherwise."""

_ANNOUNCE_DELAY_S: Final = 0.02
"""Repairs that begin together, as those of all slots of a shard, are announced together."""


class Instances:
    """The running processes, as this one last read."""

    def __init__(self, scripts: Scripts, keys: Keys, instance: str, *, looks: bool) -> None:
        """Nothing is read before :meth:`enter`; ``looks``: whether it calls :meth:`not_at` at new servers."""
        self._scripts = scripts
        self._keys = keys
        self._instance: Final = instance
        self._repairing: set[int] = set()
        self._announcing: asyncio.Task[None] | None = None
        self._seen: dict[str, float] = {}
        self._heard: dict[str, float] = {}
        self._entered_at: dict[str, int] = {}
        self._absent_since: dict[str, int] = {}
        self._now = 0
        self._server = _NO_SERVER if looks else _NOT_ASKED
        self._looked_at: dict[str, str] = {}
        self._awaited: set[str] = set()
        self._awaited_at = 0.0

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
        args = (self._instance, f"{self._server} {_text(self._repairing)}")
        with understood():
            now, fields = await self._scripts.call_unconfirmed("enter_instance", [self._keys.instances], args)
            entries = {
                instance.decode(): text.decode().split(" ", 2)
                for instance, text in zip(fields[::2], fields[1::2], strict=True)
            }
            self._now = int(now)
            entered_at = {instance: int(at) for instance, (at, _, _) in entries.items()}
            left = {instance for instance, (_, _, parts) in entries.items() if parts == _LEFT}
            others = [parts for name, (_, _, parts) in entries.items() if name not in {self._instance, *left}]
            repaired = {part for text in others for part in _parts(text)}
        self._note(entered_at, left)
        self._looked_at = {instance: server for instance, (_, server, _) in entries.items()}
        self._awaited -= left
        return repaired

    async def not_at(self, server: str) -> Collection[str]:
        """Enter this process as one that has found all that it knew at a server; returns who has not.

        Those are the processes that were running when this one last looked, before it came to this server,
        and those that the server has as running.

        Raises:
            StoreUnavailable: the server did not answer. One that takes no writes says nothing of others.
        """
        name, present = segment(server), time.monotonic()
        if name != self._server:
            if present - self._awaited_at > RUNNING_MS / 1000:
                self._awaited.clear()  # they were given up
            self._awaited |= self._seen.keys()
            self._server = name
        self._awaited_at = present
        try:
            await self.enter()
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, Refused):
                raise
        else:
            recent = {one for one, at in self._entered_at.items() if self._now - at < RUNNING_MS}
            self._awaited |= recent & self._seen.keys()
        self._awaited -= {one for one, at in self._looked_at.items() if at in {name, _NOT_ASKED}} | {
            self._instance
        }
        return set(self._awaited)

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
            args = (self._instance, f"{self._server} {_LEFT}")
            await self._scripts.call_unconfirmed("enter_instance", [self._keys.instances], args)

    def announce(self, part: int, *, repairing: bool) -> None:
        """Tell the others soon that this process repairs a data set, by its number, or no longer does."""
        if not repairing:
            self._repairing.discard(part)
            return
        self._repairing.add(part)
        if self._announcing is None or self._announcing.done():
            self._announcing = asyncio.get_running_loop().create_task(self._announce())

    def heard(self, instance: str) -> None:
        """Another process has contributed to the repair of a data set."""
        self._heard[instance] = time.monotonic()

    def heard_within(self, seconds: float, instances: Iterable[str]) -> bool:
        """Whether all of some processes have contributed to the repair of any data set within this time."""
        earliest = time.monotonic() - seconds
        return all(self._heard.get(instance, -math.inf) > earliest for instance in instances)

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
