"""Settles the losses of slots: those of one primary together, since a shard that comes back empty loses all.

As soon as one slot has lost data, all slots of its primary are looked at.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final

import structlog

from revoker.errors import NoVerdict, StoreRefused
from revoker.store.cluster.slots import SLOTS_AT_ONCE, Slots
from revoker.store.cluster.topology import Node, Topology
from revoker.store.consistency.data_set import (
    BEING_SETTLED,
    SETTLE_WAIT_S,
    DataSet,
    Settlement,
    SuspectReading,
)
from revoker.store.consistency.epoch import Reading
from revoker.store.consistency.joint_settlement import settle_jointly
from revoker.store.consistency.steps import Reads, Step
from revoker.store.keys import slot_of
from revoker.store.source import ChangeMany, JointSteps
from revoker.store.wire.connection import reads_replies, retrieve_failure, understood
from revoker.store.wire.login import ServerAddress

_log = structlog.get_logger("store")

_SETTLED_AT_ONCE: Final = 64
"""Slots that are settled together: the server does nothing else while it runs a script for each."""

_TURNS: Final = 8
"""How many times as many slots are worked on at the same time: all must be answered within the time-out. The
others wait, so that nothing waits for long between its first step and its last."""

_LOOK_AROUND_S: Final = 1.0
"""Minimum between two looks at all slots of a primary that has lost data."""

_LOOK_AROUND_DELAY_S: Final = 0.1
"""What requests wait for is settled first."""

_APART_S: Final = 60.0
"""After a fault in settling slots together, each is settled by itself for this time."""


class SlotSettling:
    """Settles the data sets of slots."""

    def __init__(
        self, topology: Topology, slots: Slots, joint_steps: JointSteps, change_many: ChangeMany
    ) -> None:
        """``joint_steps`` carries out steps of many data sets, and sends changes with ``change_many``."""
        self._topology: Final = topology
        self._slots: Final = slots
        self._joint_steps: Final = joint_steps
        self._change_many: Final = change_many
        self._turns: Final = asyncio.Semaphore(_TURNS)
        self._apart_until = 0.0
        self._looked_around: dict[ServerAddress, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Cancel what is being settled together."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def settle(self, sets: Iterable[DataSet], *, since: int = 0, cause: str = "") -> None:
        """As :meth:`revoker.store.source.Source.settle`."""
        all_sets = dict.fromkeys(sets, None)
        settling = self._begin_to_settle(all_sets, since, cause)
        if not settling:
            return
        patience = SETTLE_WAIT_S
        if since:  # no request waits; what is late would be repeated as another loss, in all of them
            patience *= -(-len(all_sets) // SLOTS_AT_ONCE)
        done, late = await asyncio.wait(settling, timeout=patience)
        failure = next(filter(None, (settled.exception() for settled in done)), None)
        if failure is not None:
            raise failure
        if late:
            raise StoreRefused(BEING_SETTLED)

    def _begin_to_settle(
        self, sets: Mapping[DataSet, SuspectReading | None], since: int = 0, cause: str = ""
    ) -> "set[asyncio.Future[None]]":
        """Begin to settle data sets, those of one primary together; done when these have ended.

        Args:
            sets: With what was read of each, where that was just read.
            since: As :meth:`settle`.
            cause: Likewise.
        """
        if asyncio.get_running_loop().time() < self._apart_until:
            return {self._start(self._settle_apart(list(sets), since, cause))}
        settling: set[asyncio.Future[None]] = set()
        by_node: dict[Node | None, list[Settlement]] = {}
        for data, read in sets.items():
            settlement = data.begin_together(since, cause, read)
            if settlement is None:
                settling.add(data.begin_alone(since, cause))
            else:
                settling.add(settlement.ended)
                node = self._topology.node_of(slot_of(data.tail.epoch))
                by_node.setdefault(node, []).append(settlement)
        for settlements in by_node.values():
            for start in range(0, len(settlements), _SETTLED_AT_ONCE):
                self._start(self._settle_jointly(settlements[start : start + _SETTLED_AT_ONCE]))
        return settling

    async def _settle_jointly(self, settlements: Sequence[Settlement]) -> None:
        """Settle data sets together. A fault in that ends it, and each of them is settled by itself next."""
        try:
            await settle_jointly(settlements, self._carry_out_jointly, self._turns)
        except Exception:  # noqa: BLE001  # no data set may stay without verdicts because of it
            _log.exception("joint_settlement_failed", slots=len(settlements))
            self._apart_until = asyncio.get_running_loop().time() + _APART_S

    async def _settle_apart(self, sets: Sequence[DataSet], since: int, cause: str) -> None:
        """Settle each data set by itself; raises the first failure."""
        failures: list[BaseException] = []
        for start in range(0, len(sets), SLOTS_AT_ONCE):
            chunk = sets[start : start + SLOTS_AT_ONCE]
            done, late = await asyncio.wait(
                {data.begin_alone(since, cause) for data in chunk}, timeout=SETTLE_WAIT_S
            )
            failures += filter(None, (settled.exception() for settled in done))
            if late:
                failures.append(StoreRefused(BEING_SETTLED))
        if failures:
            raise failures[0]

    async def _carry_out_jointly(self, asked: Sequence[tuple[DataSet, Step]]) -> Sequence[Any]:
        """As :data:`revoker.store.consistency.joint_settlement.CarryOut`."""
        if isinstance(asked[0][1], Reads):
            return await self._readings_of([data for data, _ in asked])
        return await self._joint_steps(asked, self._change_many)

    async def _readings_of(self, sets: Sequence[DataSet]) -> list[Reading | NoVerdict]:
        """The numbers of several data sets; errors are values."""
        slots = [slot_of(data.tail.epoch) for data in sets]
        with understood():
            found = {one.slot: one.reading for one in await self._slots.read(slots, lambda _: ())}
        readings: list[Reading | NoVerdict] = []
        for slot, data in zip(slots, sets, strict=True):
            reading = found.get(slot)
            if reading is None:  # being moved
                try:
                    readings.append(await self._slots.reading(data.tail))
                except NoVerdict as error:
                    readings.append(error)
                continue
            readings.append(reading)
            if reading.epoch is None or reading.in_repair:
                self._look_around(slot)
        return readings

    def _look_around(self, slot: int) -> None:
        """Look soon at all slots of the primary of one that has lost data: the others may have, too."""
        node = self._topology.node_of(slot)
        if node is not None and self._may_look_around(node):
            self._start(self._settle_at(node))

    def _may_look_around(self, node: Node) -> bool:
        """Whether the last look at all slots of a primary is long ago; if so, this is one."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_around.get(node.address, -_LOOK_AROUND_S) < _LOOK_AROUND_S:
            return False
        self._looked_around[node.address] = now
        return True

    async def _settle_at(self, node: Node) -> None:
        await asyncio.sleep(_LOOK_AROUND_DELAY_S)
        try:
            async for found in self._suspects_at(node):  # all processes begin with the same slots
                repaired = {data for data, read in found.items() if read.reading.in_repair}
                by_urgency = sorted(found, key=lambda data: data not in repaired)  # others wait for these
                self._begin_to_settle({data: found[data] for data in by_urgency})
        except NoVerdict:
            self._looked_around.pop(node.address, None)  # the next reading looks again

    async def _suspects_at(self, node: Node) -> AsyncGenerator[dict[DataSet, SuspectReading], None]:
        """Those data sets of a primary that were ever read, and are below their watermark; some at a time."""
        slots = list(node.slots)
        for start in range(0, len(slots), SLOTS_AT_ONCE):
            yield await self._suspects_among(node, slots[start : start + SLOTS_AT_ONCE])

    @reads_replies()
    async def _suspects_among(self, node: Node, slots: Sequence[int]) -> dict[DataSet, SuspectReading]:
        return {
            data: SuspectReading(found.before, found.reading)
            for found in await self._slots.read_at(node, slots, lambda _: ())
            if (data := self._slots.data_set(found.slot)).watermark is not None
            and not data.confirms_reading(found.before, found.reading)
        }

    async def suspects(self) -> list[DataSet]:
        """As :meth:`revoker.store.source.Source.suspects`."""
        if not self._topology.nodes:
            await self._topology.learn()
        looks = (self._all_suspects_at(node) for node in self._topology.nodes if self._may_look_around(node))
        return [data for found in await asyncio.gather(*looks) for data in found]

    async def _all_suspects_at(self, node: Node) -> list[DataSet]:
        return [data async for found in self._suspects_at(node) for data in found]

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        retrieve_failure(task)
