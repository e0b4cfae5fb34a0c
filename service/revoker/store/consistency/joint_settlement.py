"""Settles many data sets together: the same steps for each, and few writes for all of them.

A shard of a cluster that comes back empty is the loss of thousands of data sets.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from revoker.errors import NoVerdict, StoreUnavailable
from revoker.store.consistency.data_set import DataSet, Settlement
from revoker.store.consistency.steps import Pauses, SetsEpoch, Step, polling_pauses

CarryOut = Callable[[Sequence[tuple[DataSet, Step]]], Awaitable[Sequence[Any]]]
"""Carries out steps of one kind; returns what each gives, or its ``NoVerdict`` as a value."""

_SCOUTS: Final = 4
"""Of the data sets that wait for other processes, so many are looked at in each poll: what other processes
do, they do for all."""

_ALL_POLLED_S: Final = 1.0
"""After this time all of them are looked at, and again after twice the time, each time."""

_STEP_S: Final = 60.0
"""No step takes longer, whatever a process has to write back. How long data sets wait for their turn, or for
other processes, does not count."""


async def settle_jointly(
    settlements: Sequence[Settlement], carry_out: CarryOut, turns: asyncio.Semaphore
) -> None:
    """Settle data sets that have begun to be; each of them ends, whatever happens here.

    Args:
        settlements: What was begun.
        carry_out: Sends their steps.
        turns: Is held but for the time in which all of them wait for other processes.

    Raises:
        TimeoutError: a step hangs.
    """
    try:
        await _Joint(settlements, carry_out, turns).run()
    finally:
        for settlement in settlements:
            settlement.abandon()


class _Joint:
    """The steps that are next, of those data sets that are not settled."""

    def __init__(
        self, settlements: Sequence[Settlement], carry_out: CarryOut, turns: asyncio.Semaphore
    ) -> None:
        self._settlements: Final = settlements
        self._carry_out: Final = carry_out
        self._turns: Final = turns
        self._next: dict[Settlement, Step] = {}
        self._pauses = polling_pauses()
        self._all_due = 0.0
        self._all_polled_s = _ALL_POLLED_S

    async def run(self) -> None:
        async with self._turns:
            for settlement in self._settlements:
                self._advance(settlement, None)
            await self._send_all()
        self._all_due = asyncio.get_running_loop().time() + self._all_polled_s
        while self._next:
            await self._poll()
            async with self._turns:
                await self._send_all()

    async def _send_all(self) -> None:
        """Send all steps until none is left but to wait for other processes."""
        while active := [one for one, step in self._next.items() if not isinstance(step, Pauses)]:
            await self._send(active)

    def _advance(self, settlement: Settlement, given: Any) -> None:
        step = settlement.advance(given)
        if step is None:
            self._next.pop(settlement, None)
        else:
            self._next[settlement] = step

    async def _send(self, settlements: Iterable[Settlement]) -> None:
        by_kind: dict[type[Step], list[Settlement]] = {}
        for settlement in settlements:
            by_kind.setdefault(type(self._next[settlement]), []).append(settlement)
        for those in by_kind.values():
            given = await self._given(those)
            lost = [
                one
                for one, result in given.items()
                if isinstance(result, StoreUnavailable) and not isinstance(self._next[one], SetsEpoch)
            ]
            if lost:  # a late reply fails all; these steps may be repeated, and a SetsEpoch repeats itself
                given |= await self._given(lost)
            for settlement, result in given.items():
                self._advance(settlement, result)

    async def _given(self, settlements: Sequence[Settlement]) -> dict[Settlement, Any]:
        """Send the steps that are next; what each gives, or its ``NoVerdict``."""
        try:
            async with asyncio.timeout(_STEP_S):
                given = await self._carry_out([(one.data, self._next[one]) for one in settlements])
        except NoVerdict as error:
            return dict.fromkeys(settlements, error)
        return dict(zip(settlements, given, strict=True))

    async def _poll(self) -> None:
        """Wait for other processes, then look at some data sets; at all, if these have changed."""
        await asyncio.sleep(next(self._pauses))
        loop = asyncio.get_running_loop()
        waiting = list(self._next)
        if loop.time() < self._all_due:
            scouts, waiting = waiting[:_SCOUTS], waiting[_SCOUTS:]
            for scout in scouts:
                self._advance(scout, None)
            await self._send([scout for scout in scouts if scout in self._next])
            steps = [self._next.pop(scout, None) for scout in scouts]
            self._next |= {scout: step for scout, step in zip(scouts, steps, strict=True) if step is not None}
            if all(isinstance(step, Pauses) for step in steps):  # others are looked at the next time
                return
        else:
            self._all_polled_s *= 2
        self._all_due = loop.time() + self._all_polled_s
        for settlement in waiting:
            self._advance(settlement, None)
