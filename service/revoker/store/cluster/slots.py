"""The data sets of the slots of a cluster, and what is read of one or many of them."""

import asyncio
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from revoker.errors import StoreUnavailable
from revoker.store.cluster.topology import Node, Topology
from revoker.store.consistency.blocks import BlocksReader
from revoker.store.consistency.data_set import DataSet
from revoker.store.consistency.epoch import Reading, Watermark, decode, reading_of
from revoker.store.consistency.losses import Losses
from revoker.store.keys import SLOTS, Tail, slot_of
from revoker.store.source import SourceContext
from revoker.store.stored_values import redis_time_ms
from revoker.store.wire.connection import (
    Command,
    Refused,
    Replies,
    answered_with,
    reads_replies,
    unavailable_on_failure,
    understood,
)

SLOTS_AT_ONCE: Final = 512
"""Slots that are read together, and commands in one write."""

PRIMARY_ROLE: Final = [b"master"]
"""The ``ROLE`` of a server that answers for a slot: replicas never do."""


class SlotReading(NamedTuple):
    """What was read of one slot; ``before`` is its watermark when the command was sent."""

    slot: int
    before: Watermark | None
    replies: Replies
    reading: Reading


class Slots:
    """The data sets of the slots.

    Attributes:
        losses: Where they report their losses.
    """

    def __init__(
        self, topology: Topology, context: SourceContext, blocks: BlocksReader, *, waits_for_replicas: bool
    ) -> None:
        """Nothing is read.

        Args:
            topology: Which primary has which slot.
            context: Of the source.
            blocks: Whose commands may be among those that are read with the slots.
            waits_for_replicas: Whether replicas must confirm writes.
        """
        self._topology: Final = topology
        self._keys: Final = context.keys
        self._instance: Final = context.instance
        self._new_data_set: Final = context.new_data_set
        self._waits_for_replicas: Final = waits_for_replicas
        self._blocks: Final = blocks
        self._sets: list[DataSet | None] = [None] * SLOTS
        self.losses: Final = Losses(context.metrics, grouped=True)

    async def close(self) -> None:
        """Cancel what is being settled."""
        await asyncio.gather(*(data.close() for data in self._sets if data is not None))

    def data_set(self, slot: int) -> DataSet:
        """The data set of a slot."""
        data = self._sets[slot]
        if data is None:
            tail = self._keys.in_part(slot).tail(self._instance)
            confirmed = functools.partial(self._confirmed_since, slot) if self._waits_for_replicas else None
            data = self._sets[slot] = self._new_data_set(tail, slot, self.losses, confirmed)
        return data

    def _confirmed_since(self, slot: int, server: str, time: float) -> bool:
        node = self._topology.node_of(slot)
        return (
            node is not None
            and node.confirmation is not None
            and node.confirmation.confirmed_since(server, time)
        )

    def read_data_sets(self) -> Iterable[tuple[int, DataSet]]:
        """Those that were ever read, with their slots."""
        return [
            (slot, data)
            for slot, data in enumerate(self._sets)
            if data is not None and data.watermark is not None
        ]

    @reads_replies()
    async def reading(self, tail: Tail) -> Reading:
        """The numbers of the slot of a tail, even while that is being moved."""
        stamp, values = await self.time_and_values(tail)
        return decode([stamp, values, PRIMARY_ROLE])

    async def time_and_values(self, keys: Sequence[str]) -> tuple[list[bytes], list[bytes | None]]:
        """``TIME``, then the values of keys of one slot; read one by one if they are not all in one place."""
        slot = slot_of(keys[0])
        async with unavailable_on_failure():
            try:
                stamp, values = await self._topology.send(slot, [("TIME",), ("MGET", *keys)], changing=False)
            except Refused as error:
                if error.code != "TRYAGAIN":
                    raise
                singly = [[("TIME",), ("GET", key)] for key in keys]
                answers = [await self._topology.send(slot, read, changing=False) for read in singly]
                stamp, values = answers[0][0], [value for _, value in answers]
        return stamp, values

    async def read(self, slots: Iterable[int], more: Callable[[int], Sequence[Command]]) -> list[SlotReading]:
        """Read the numbers of slots, after more commands on each; slots that are being moved are left out."""
        by_node: dict[Node, list[int]] = {}
        for slot in slots:
            node = self._topology.node_of(slot) or await self._topology.primary_of(slot)
            by_node.setdefault(node, []).append(slot)
        reads = (self.read_at(node, node_slots, more) for node, node_slots in by_node.items())
        results = await asyncio.gather(*reads, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                self._topology.learn_soon()
                raise result
        return [found for result in results if isinstance(result, list) for found in result]

    async def read_at(
        self, node: Node, slots: Sequence[int], more: Callable[[int], Sequence[Command]]
    ) -> list[SlotReading]:
        """As :meth:`read`, of slots of one primary."""
        found = []
        for start in range(0, len(slots), SLOTS_AT_ONCE):
            found += await self._read_chunk(node, slots[start : start + SLOTS_AT_ONCE], more)
        return found

    async def _read_chunk(
        self, node: Node, slots: Sequence[int], more: Callable[[int], Sequence[Command]]
    ) -> list[SlotReading]:
        watermarks, commands, sizes = [], [], []
        for slot in slots:
            data, own = self.data_set(slot), more(slot)
            watermarks.append(data.watermark)
            sizes.append(len(own) + 1)
            commands += [*own, ("MGET", *data.tail)]
        async with unavailable_on_failure():
            stamp, *answers = await node.reads.ask([("TIME",), *commands])
        if isinstance(stamp, Exception):
            raise StoreUnavailable(answered_with(stamp, "TIME"))
        found, start, server = [], 0, node.reads.server
        with understood():  # once for all slots: it takes as long as to decode one
            now = redis_time_ms(stamp)
            for slot, before, size in zip(slots, watermarks, sizes, strict=True):
                replies, start = answers[start : start + size], start + size
                refusal = next((reply for reply in replies if isinstance(reply, Exception)), None)
                if refusal is None:
                    reading = reading_of(replies[-1], now, server)
                    found.append(SlotReading(slot, before, replies[:-1], reading))
                elif self._blocks.refused(refusal):
                    return await self._read_chunk(node, slots, more)
                else:
                    self._topology.learn_soon()
        return found
