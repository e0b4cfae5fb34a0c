"""What is known of a cluster's slots, each of which is a data set of its own.

Slots are what a cluster moves between primaries. So the epoch, the numbers and the blocks of each lie in
it and move with it, and the loss of a shard is the loss of the slots that it kept: noticed in each, and
judged for each token by the slots in which its keys lie.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from revoker.errors import PrimaryStale, StoreRefused, StoreUnavailable
from revoker.metrics import Metrics
from revoker.store.cluster.topology import Cluster, Node
from revoker.store.consistency.data_sets import DAY_MS, Beside, BlocksPage, ReadBlocks
from revoker.store.consistency.epoch import DataSet, Epoch, Losses, Reading, Watermark, decode
from revoker.store.keys import SLOTS, Keys, Tail, slot_of
from revoker.store.wire.connection import Command, Refused, Replies, reads_replies, unavailable_on_failure

ROUND: Final = 16
"""Beats in which all slots are looked at once."""

_CHUNK: Final = 512
"""Slots that are read, or settled, together."""

_PRIMARY: Final = [b"master"]
"""What ``ROLE`` says of whoever answers for a slot: replicas never do."""


class LossesOfSlots(Losses):
    """Tells of lost data once for all slots in which it was found missing together."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__(metrics)
        self._lost: list[Epoch] = []
        self._adopted: list[Epoch] = []
        self._first: list[Epoch] = []
        self._told: dict[str, Any] = {}

    def lost(self, epoch: Epoch, **told: Any) -> None:
        self._lost.append(epoch)
        self._told = told

    def adopted(self, epoch: Epoch, *, first: bool) -> None:
        (self._first if first else self._adopted).append(epoch)

    def tell(self) -> None:
        """Tell of what came together since the last time."""
        if self._lost:
            super().lost(max(self._lost, key=_age), **self._told, slots=len(self._lost))
        for epochs, first in ((self._first, True), (self._adopted, False)):
            if epochs:
                super().adopted(max(epochs, key=_age), first=first)
            epochs.clear()
        self._lost.clear()


def _age(epoch: Epoch) -> int:
    return epoch.noticed


@dataclass(frozen=True, slots=True)
class Values:
    """What keys hold, when each was read (``TIME`` in ms), and the loss cutoff over all their slots."""

    of: dict[str, bytes | None]
    now: dict[str, int]
    loss: int


@dataclass(frozen=True, slots=True)
class _Slot:
    """What was read of one slot; ``known`` is what was known of it before."""

    slot: int
    known: Watermark | None
    beside: Replies
    reading: Reading


class Slots:
    """All data sets of a cluster."""

    def __init__(
        self,
        cluster: Cluster,
        keys: Keys,
        instance: str,
        make: Callable[[Tail, int], DataSet],
        losses: LossesOfSlots,
    ) -> None:
        """Nothing is read before it is asked for.

        Args:
            cluster: Which keeps them.
            keys: Of the store.
            instance: Under which this process counts its shares.
            make: Makes the data set of a tail and slot, which tells of losses through ``losses``.
            losses: Told to tell with every look.
        """
        self._cluster = cluster
        self._keys = keys
        self._instance = instance
        self._make = make
        self._losses = losses
        self._sets: list[DataSet | None] = [None] * SLOTS
        self._blocks = ReadBlocks()

    def of(self, key: str) -> DataSet:
        return self.numbered(slot_of(key))

    def numbered(self, part: int) -> DataSet:
        found = self._sets[part]
        if found is None:
            found = self._sets[part] = self._make(self._keys.in_part(part).tail(self._instance), part)
        return found

    def known(self) -> Iterable[DataSet]:
        return [data for data in self._sets if data is not None and data.watermark is not None]

    @reads_replies()
    async def look(self, beat: int, found: Beside) -> list[DataSet]:
        part = SLOTS // ROUND
        slots = range(beat % ROUND * part, (beat % ROUND + 1) * part) if beat else range(SLOTS)

        def beside(slot: int) -> list[Command]:
            keys = self._keys.in_part(slot)
            return [self._blocks.command(keys.blocks), ("ZRANGE", keys.lifted, 0, -1)]

        self._losses.tell()
        suspects = []
        for each in await self._read_all(slots, beside):
            data, reading = self.numbered(each.slot), each.reading
            if data.adopt_first(reading) or data.confirms(
                each.known, reading.epoch, reading.seq, reading.share, reading.now
            ):
                blocks, lifted = each.beside
                found(each.slot, self._blocks.page(blocks), lifted, reading.now)
            else:
                suspects.append(data)
        await self._renew([data for slot in slots if (data := self.numbered(slot)).share_ages()])
        return suspects

    @reads_replies()
    async def blocks_after(self, part: int, cursor: bytes) -> tuple[BlocksPage, int] | None:
        data = self.numbered(part)
        known, command = data.watermark, self._blocks.command(self._keys.in_part(part).blocks, cursor)
        async with unavailable_on_failure():
            try:
                replies = await self._cluster.read(
                    data.tail.epoch, [("TIME",), command, ("MGET", *data.tail)]
                )
            except Refused:  # the slot is on its way: another round reads it
                return None
        stamp, reply, values = replies
        reading = decode([stamp, values, _PRIMARY])
        if not data.confirms(known, reading.epoch, reading.seq, reading.share, reading.now):
            return None
        return self._blocks.page(reply), reading.now

    async def settle(self, sets: Iterable[DataSet], *, since: int = 0, cause: str = "") -> None:
        sets = list(dict.fromkeys(sets))
        failure: BaseException | None = None
        for start in range(0, len(sets), _CHUNK):
            settling = (each.settle(since=since, cause=cause) for each in sets[start : start + _CHUNK])
            for result in await asyncio.gather(*settling, return_exceptions=True):
                failure = failure or (result if isinstance(result, BaseException) else None)
        if failure is not None:
            raise failure

    async def value(self, key: str) -> bytes | None:
        return (await self.values([key])).of[key]

    @reads_replies()
    async def values(self, keys: Sequence[str]) -> Values:
        """Read keys one by one, each where its slot is, even while that is on its way.

        Raises:
            StoreUnavailable: not in time, or no primary keeps some of them.
            StoreRefused: what is read may not be believed.
        """
        for _ in range(3):
            found = await self._values(keys)
            if isinstance(found, Values):
                return found
            await self.settle([found])
        raise StoreUnavailable("the store does not show what was settled")

    @reads_replies()
    async def readings(self) -> list[tuple[int, DataSet, Reading]]:
        found = await self._read_all(range(SLOTS), lambda _: [])
        for slot in set(range(SLOTS)) - {each.slot for each in found}:  # on its way meanwhile
            found.append(_Slot(slot, None, [], await self.read(self.numbered(slot).tail)))
        return [(each.slot, self.numbered(each.slot), each.reading) for each in found]

    @reads_replies()
    async def read(self, tail: Tail) -> Reading:
        stamp, values = await self._fetch(tail)
        return decode([stamp, values, _PRIMARY])

    async def close(self) -> None:
        await asyncio.gather(*(data.close() for data in self._sets if data is not None))

    async def _values(self, keys: Sequence[str]) -> Values | DataSet:
        """Values, or the data set that does not show what it must."""
        values: dict[str, bytes | None] = {}
        times: dict[str, int] = {}
        loss = 0
        by_slot: dict[int, list[str]] = {}
        for key in keys:
            by_slot.setdefault(slot_of(key), []).append(key)
        for slot, mine in by_slot.items():
            data = self.numbered(slot)
            known = data.watermark
            stamp, said = await self._fetch(mine)
            reading = await self.read(data.tail)  # after what it vouches for
            if not data.confirms(known, reading.epoch, reading.seq, reading.share, reading.now):
                return data
            if (why := data.refusal) is not None:
                raise StoreRefused(why)
            node = self._cluster.node_of(slot)
            if node is not None and node.stale:
                raise PrimaryStale
            values |= zip(mine, said, strict=True)
            times |= dict.fromkeys(mine, int(stamp[0]) * 1000 + int(stamp[1]) // 1000)
            loss = max(loss, data.baseline.loss)
        return Values(values, times, loss)

    async def _fetch(self, keys: Sequence[str]) -> tuple[list[bytes], list[bytes | None]]:
        """``TIME``, then what keys of one slot hold; one by one where they are not all in one place."""
        async with unavailable_on_failure():
            try:
                stamp, values = await self._cluster.read(keys[0], [("TIME",), ("MGET", *keys)])
            except Refused as error:
                if error.code != "TRYAGAIN":
                    raise
                answers = [await self._cluster.read(key, [("TIME",), ("GET", key)]) for key in keys]
                stamp, values = answers[0][0], [value for _, value in answers]
        return stamp, values

    async def _read_all(
        self, slots: Iterable[int], beside: Callable[[int], Sequence[Command]]
    ) -> list[_Slot]:
        """Read slots and what lies beside their numbers; those that are on their way are left out."""
        shares: dict[Node, list[int]] = {}
        for slot in slots:
            node = self._cluster.node_of(slot)
            if node is None:
                await self._cluster.learn()
                node = self._cluster.node_of(slot)
            if node is None:
                raise StoreUnavailable("no primary keeps some part of the store")
            shares.setdefault(node, []).append(slot)
        reads = (self._read_at(node, share, beside) for node, share in shares.items())
        results = await asyncio.gather(*reads, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                self._cluster.learn_soon()
                raise result
        return [each for result in results if isinstance(result, list) for each in result]

    async def _read_at(
        self, node: Node, slots: Sequence[int], beside: Callable[[int], Sequence[Command]]
    ) -> list[_Slot]:
        found = []
        for start in range(0, len(slots), _CHUNK):
            found += await self._read_chunk(node, slots[start : start + _CHUNK], beside)
        return found

    async def _read_chunk(
        self, node: Node, slots: Sequence[int], beside: Callable[[int], Sequence[Command]]
    ) -> list[_Slot]:
        known, commands, sizes = [], [], []
        for slot in slots:
            data, more = self.numbered(slot), beside(slot)
            known.append(data.watermark)
            sizes.append(len(more) + 1)
            commands += [*more, ("MGET", *data.tail)]
        async with unavailable_on_failure():
            stamp, *said = await node.reads.ask([("TIME",), *commands])
        if isinstance(stamp, Exception):
            raise StoreUnavailable(f"the store answered {str(stamp).split(' ')[0]}")
        found, place = [], 0
        for slot, before, size in zip(slots, known, sizes, strict=True):
            replies, place = said[place : place + size], place + size
            refusal = next((reply for reply in replies if isinstance(reply, Exception)), None)
            if self._blocks.refused(refusal):
                return await self._read_chunk(node, slots, beside)
            if refusal is not None:
                self._cluster.learn_soon()
            else:
                reading = decode([stamp, replies[-1], _PRIMARY])
                found.append(_Slot(slot, before, replies[:-1], reading))
        return found

    async def _renew(self, sets: Sequence[DataSet]) -> None:
        """Let the shares of data sets that were long not written to live on."""
        async with unavailable_on_failure():
            for data in sets:
                await self._cluster.change(data.tail.share, "PEXPIRE", data.tail.share, DAY_MS)
                data.share_refreshed()
