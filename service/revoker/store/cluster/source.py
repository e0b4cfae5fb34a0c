"""A cluster, in which every slot is a data set of its own.

Slots are what a cluster moves between primaries. So epoch, numbers and blocks are stored in every slot and
move with it. The loss of a shard is the loss of its slots: it is detected in each of them, and affects those
tokens that have keys there.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from revoker.errors import NoVerdict, PrimaryStale, StoreRefused, StoreUnavailable
from revoker.store.cluster.lookups import ClusterLookups, Values
from revoker.store.cluster.settling import SlotSettling
from revoker.store.cluster.slots import PRIMARY_ROLE, SLOTS_AT_ONCE, Slots
from revoker.store.cluster.topology import Node, Topology
from revoker.store.consistency.blocks import BlocksPage, BlocksReader
from revoker.store.consistency.data_set import DataSet
from revoker.store.consistency.epoch import DAY_MS, Reading, decode
from revoker.store.keys import SLOTS, slot_of
from revoker.store.lookups import lookups_with
from revoker.store.source import OnDataSet, PartReplies, ServerSettings, SourceContext
from revoker.store.stored_values import checked_values, redis_time_ms
from revoker.store.wire.command_channel import CommandChannel, Confirmation
from revoker.store.wire.connection import (
    FAILURES,
    Command,
    ConnectionLost,
    Refused,
    Replies,
    TooFewReplicas,
    reads_replies,
    retrieve_failure,
    unavailable_on_failure,
)

_REDIRECTIONS: Final = ("MOVED", "ASK", "TRYAGAIN")


class ClusterSource:
    """As :class:`revoker.store.source.Source`; nothing connects before it is asked or opened."""

    beats_per_round: Final = 16

    def __init__(self, servers: ServerSettings, context: SourceContext) -> None:
        self._topology: Final = Topology(servers)
        self._keys = context.keys
        self._instance = context.instance
        self._blocks = BlocksReader()
        self._slots: Final = Slots(
            self._topology, context, self._blocks, waits_for_replicas=servers.wait_replicas > 0
        )
        self._settling: Final = SlotSettling(
            self._topology, self._slots, context.joint_steps, self.change_many
        )
        self._tasks: set[asyncio.Task[Any]] = set()
        self.data_set_numbered: Final = self._slots.data_set
        self.read_data_sets: Final = self._slots.read_data_sets
        self.reading: Final = self._slots.reading
        self.settle: Final = self._settling.settle
        self.suspects: Final = self._settling.suspects
        self.lookups: Final = ClusterLookups(
            self._topology, self, context.metrics, context.clocks, lookups_with(context.spans)
        )

    def open(self) -> None:
        self._topology.learn_soon()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._settling.close()
        await self._slots.close()
        await self.lookups.close()
        await self._topology.close()

    async def follow(self) -> bool:
        await self._topology.renew()
        await self._topology.learn()
        return False  # lookups and commands follow the topology

    def reconnect(self) -> None:
        for node in self._topology.nodes:
            node.reconnect()

    def leave_all_but(self, server: str) -> None:
        """Nothing: slots move between servers."""

    async def change(self, key: str, *command: Any) -> Any:
        [reply] = await self.change_together(key, [command])
        return reply

    async def change_together(self, key: str, commands: Sequence[Command]) -> Replies:
        return await self._topology.send(slot_of(key), commands, changing=True)

    def change_unconfirmed(self, key: str, *command: Any) -> "asyncio.Task[Replies]":
        async def send() -> Replies:
            try:
                return await self._topology.send(slot_of(key), [command], changing=False)
            except Refused as error:
                return [error]

        task = asyncio.get_running_loop().create_task(send())
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        retrieve_failure(task)

    async def change_all(self, commands: Mapping[str, Command]) -> Replies:
        by_node: dict[Node | None, list[str]] = {}
        for key in commands:
            by_node.setdefault(self._topology.node_of(slot_of(key)), []).append(key)
        replies: dict[str, Any] = {}
        for node, keys in by_node.items():
            for start in range(0, len(keys), SLOTS_AT_ONCE):
                chunk = keys[start : start + SLOTS_AT_ONCE]
                answers = await node.changes.ask([commands[key] for key in chunk]) if node else []
                replies |= zip(chunk, answers, strict=False)
        for key, command in commands.items():
            if isinstance(replies.get(key, Exception()), Exception):
                replies[key] = await self.change(key, *command)
        return [replies[key] for key in commands]

    async def change_many(
        self, batches: Sequence[tuple[str, Sequence[Command]]]
    ) -> list[Replies | Exception]:
        """As :data:`revoker.store.source.ChangeMany`."""
        by_node: dict[Node | None, list[int]] = {}
        for number, (key, _) in enumerate(batches):
            by_node.setdefault(self._topology.node_of(slot_of(key)), []).append(number)
        results: list[Replies | Exception] = [Refused("MOVED")] * len(batches)
        for node, numbers in by_node.items():
            if node is None:
                continue
            for chunk in _chunks(numbers, [len(batches[number][1]) for number in numbers]):
                # by itself: an error of one slot must not hide that the others are not confirmed
                asked = (node.changes.ask(batches[number][1]) for number in chunk)
                for number, answer in zip(
                    chunk, await asyncio.gather(*asked, return_exceptions=True), strict=True
                ):
                    results[number] = self._changed(answer)
        redirected = [
            number
            for number, result in enumerate(results)
            if isinstance(result, Refused) and result.code in _REDIRECTIONS
        ]
        followed = (self.change_together(*batches[number]) for number in redirected)
        for number, answer in zip(
            redirected, await asyncio.gather(*followed, return_exceptions=True), strict=True
        ):
            results[number] = self._changed(answer)
        return results

    def _changed(self, answer: Replies | BaseException) -> Replies | Exception:
        """What one slot's part of :meth:`change_many` gives."""
        if isinstance(answer, BaseException):
            if not isinstance(answer, (*FAILURES, NoVerdict)):
                raise answer
            self._topology.learn_soon()
            return answer
        refusal = next((reply for reply in answer if isinstance(reply, Exception)), None)
        return answer if refusal is None else Refused(str(refusal))

    async def read(self, key: str, commands: Sequence[Command]) -> Replies:
        return await self._topology.send(slot_of(key), commands, changing=False)

    @reads_replies()
    async def read_trusted(self, key: str, commands: Sequence[Command]) -> Replies:
        data = self.data_set_of(key)
        before = data.watermark
        async with unavailable_on_failure():
            *replies, stamp, values = await self.read(key, [*commands, ("TIME",), ("MGET", *data.tail)])
        if not data.confirms_reading(before, decode([stamp, values, PRIMARY_ROLE])):
            await data.settle()
            raise StoreUnavailable("the store has lost data")
        node = self._topology.node_of(slot_of(key))
        if node is not None and node.stale:
            raise PrimaryStale
        self.lookups.last_read((None, key))  # raises if no verdict may rest on what was read
        return replies

    async def wait_for(self, key: str, *command: Any) -> Any:
        node = await self._topology.primary_of(slot_of(key))
        return await node.waits.execute(*command)

    @reads_replies()
    async def values(self, keys: Sequence[str]) -> list[bytes | None]:
        replies = await asyncio.gather(*(self.read(key, [("GET", key)]) for key in keys))
        return checked_values([value for [value] in replies], len(keys))

    async def on_every_primary(self, commands: Sequence[Command]) -> list[tuple[Sequence[int], Replies]]:
        if not self._topology.nodes:
            await self._topology.learn()
        nodes = self._topology.nodes
        replies = await asyncio.gather(*(node.reads.ask(commands) for node in nodes))
        return [(node.slots, answers) for node, answers in zip(nodes, replies, strict=True)]

    async def locator_faults(self) -> list[str]:
        return []  # any node of the cluster names them

    async def primaries(self) -> Mapping[str, CommandChannel]:
        await self.on_every_primary([("PING",)])
        return {node.reads.server: node.reads for node in self._topology.nodes}

    def server_of(self, key: str) -> str:
        node = self._topology.node_of(slot_of(key))
        return "" if node is None else node.reads.server

    async def keep_confirming(self) -> None:
        while True:
            slots = [node.slots[0] for node in self._topology.nodes if node.slots]
            await asyncio.gather(*(self._confirm_heartbeat(slot) for slot in slots))
            await asyncio.sleep(Confirmation.BEAT_S)

    async def _confirm_heartbeat(self, slot: int) -> None:
        key = self._keys.in_part(slot).beat(self._instance)
        with contextlib.suppress(Refused, TooFewReplicas, ConnectionLost, NoVerdict, TimeoutError):
            await self.change(key, *Confirmation.heartbeat(key))  # lookups report what follows from a failure

    def data_set_of(self, key: str) -> DataSet:
        return self.data_set_numbered(slot_of(key))

    @reads_replies()
    async def look(self, beat: int, on_data_set: OnDataSet) -> list[DataSet]:
        part = SLOTS // self.beats_per_round
        turn = beat % self.beats_per_round
        slots = range(turn * part, (turn + 1) * part) if beat else range(SLOTS)

        def blocks_and_lifted(slot: int) -> list[Command]:
            keys = self._keys.in_part(slot)
            return [self._blocks.command(keys.blocks), ("ZRANGE", keys.lifted, 0, -1)]

        self._slots.losses.report()
        suspects = []
        for found in await self._slots.read(slots, blocks_and_lifted):
            data, reading = self.data_set_numbered(found.slot), found.reading
            if data.adopt_first(reading) or data.confirms_reading(found.before, reading):
                blocks, lifted = found.replies
                on_data_set(found.slot, self._blocks.page(blocks), lifted, reading.now)
            else:
                suspects.append(data)
        await self._refresh_shares(
            [data for slot in slots if (data := self.data_set_numbered(slot)).share_ages()]
        )
        return suspects

    @reads_replies()
    async def blocks_after(self, part: int, cursor: bytes) -> tuple[BlocksPage, int] | None:
        data = self.data_set_numbered(part)
        before, command = data.watermark, self._blocks.command(self._keys.in_part(part).blocks, cursor)
        async with unavailable_on_failure():
            try:
                replies = await self.read(data.tail.epoch, [("TIME",), command, ("MGET", *data.tail)])
            except Refused:  # the slot is being moved: another round reads it
                return None
        stamp, reply, values = replies
        reading = decode([stamp, values, PRIMARY_ROLE])
        if not data.confirms_reading(before, reading):
            return None
        return self._blocks.page(reply), reading.now

    async def trusted_value(self, key: str) -> tuple[bytes | None, int]:
        values = await self.trusted_values([key])
        return values.of[key], values.now[key]

    @reads_replies()
    async def trusted_values(self, keys: Sequence[str]) -> Values:
        """Read keys one by one, each where its slot is, even while that is being moved.

        Raises:
            StoreUnavailable: not in time, or no primary has some of them.
            StoreRefused: what is read must not be trusted.
        """
        for _ in range(3):
            found = await self._values_or_suspect(keys)
            if isinstance(found, Values):
                return found
            await self.settle([found])
        raise StoreUnavailable("the store does not show what was settled")

    async def read_parts(self, commands: Mapping[int, Sequence[Command]]) -> list[PartReplies]:
        return [
            PartReplies(found.slot, found.replies, found.reading.now)
            for found in await self._slots.read(commands, lambda slot: commands[slot])
            if self.data_set_numbered(found.slot).confirms_reading(found.before, found.reading)
        ]

    @reads_replies()
    async def readings(self) -> list[tuple[int, DataSet, Reading]]:
        found = await self._slots.read(range(SLOTS), lambda _: [])
        readings = {slot.slot: slot.reading for slot in found}
        for slot in set(range(SLOTS)) - readings.keys():  # being moved meanwhile
            readings[slot] = await self.reading(self.data_set_numbered(slot).tail)
        return [(slot, self.data_set_numbered(slot), reading) for slot, reading in readings.items()]

    async def _values_or_suspect(self, keys: Sequence[str]) -> Values | DataSet:
        """Values, or the first data set that is below its watermark."""
        values: dict[str, bytes | None] = {}
        times: dict[str, int] = {}
        loss = 0
        by_slot: dict[int, list[str]] = {}
        for key in keys:
            by_slot.setdefault(slot_of(key), []).append(key)
        for slot, slot_keys in by_slot.items():
            data = self.data_set_numbered(slot)
            before = data.watermark
            stamp, found = await self._slots.time_and_values(slot_keys)
            reading = await self.reading(data.tail)  # after the values that it vouches for
            if not data.confirms_reading(before, reading):
                return data
            if data.refusal is not None:
                raise StoreRefused(data.refusal)
            node = self._topology.node_of(slot)
            if node is not None and node.stale:
                raise PrimaryStale
            values |= zip(slot_keys, found, strict=True)
            times |= dict.fromkeys(slot_keys, redis_time_ms(stamp))
            loss = max(loss, data.baseline.loss)
        return Values(values, times, loss)

    async def _refresh_shares(self, sets: Sequence[DataSet]) -> None:
        """Extend the expiry of shares that were not written to for long."""
        async with unavailable_on_failure():
            for data in sets:
                await self.change(data.tail.share, "PEXPIRE", data.tail.share, DAY_MS)
                data.share_refreshed()


def _chunks(numbers: Sequence[int], sizes: Sequence[int]) -> Iterable[list[int]]:
    """Numbers in chunks whose sizes are :data:`SLOTS_AT_ONCE` in sum, or little more."""
    chunk: list[int] = []
    total = 0
    for number, size in zip(numbers, sizes, strict=True):
        chunk.append(number)
        total += size
        if total >= SLOTS_AT_ONCE:
            yield chunk
            chunk, total = [], 0
    if chunk:
        yield chunk
