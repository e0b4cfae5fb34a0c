"""A cluster, in which every slot is a data set of its own.

Slots are what a cluster moves between primaries. So epoch, numbers and blocks are stored in every slot and
move with it. The loss of a shard is the loss of its slots: it is detected in each of them, and affects those
tokens that have keys there.
"""

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import structlog

from revoker.errors import NoVerdict, PrimaryStale, StoreRefused, StoreUnavailable
from revoker.store.cluster.lookups import ClusterLookups, Values
from revoker.store.cluster.topology import Node, Topology
from revoker.store.consistency.blocks import BlocksPage, BlocksReader
from revoker.store.consistency.data_set import (
    BEING_SETTLED,
    SETTLE_WAIT_S,
    DataSet,
    Settlement,
    SuspectReading,
)
from revoker.store.consistency.epoch import DAY_MS, Reading, Watermark, decode, reading_of
from revoker.store.consistency.joint_settlement import settle_jointly
from revoker.store.consistency.losses import Losses
from revoker.store.consistency.steps import Reads, Step
from revoker.store.keys import SLOTS, Tail, slot_of
from revoker.store.lookups import lookups_with, redis_time_ms
from revoker.store.source import OnDataSet, PartReplies, ServerSettings, SourceContext
from revoker.store.wire.command_channel import CommandChannel, Confirmation
from revoker.store.wire.connection import (
    FAILURES,
    Command,
    ConnectionLost,
    Refused,
    Replies,
    TooFewReplicas,
    answered_with,
    reads_replies,
    retrieve_failure,
    unavailable_on_failure,
    understood,
)
from revoker.store.wire.login import ServerAddress

_log = structlog.get_logger("store")

_SLOTS_AT_ONCE: Final = 512
"""Slots that are read together, and commands in one write."""

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

_REDIRECTIONS: Final = ("MOVED", "ASK", "TRYAGAIN")

_PRIMARY: Final = [b"master"]
"""The ``ROLE`` of a server that answers for a slot: replicas never do."""


class _SlotReading(NamedTuple):
    """What was read of one slot; ``before`` is its watermark when the command was sent."""

    slot: int
    before: Watermark | None
    replies: Replies
    reading: Reading


class ClusterSource:
    """As :class:`revoker.store.source.Source`; nothing connects before it is asked or opened."""

    beats_per_round: Final = 16

    def __init__(self, servers: ServerSettings, context: SourceContext) -> None:
        self._topology: Final = Topology(servers)
        self._keys = context.keys
        self._instance = context.instance
        self._waits_for_replicas: Final = servers.wait_replicas > 0
        self._new_data_set = context.new_data_set
        self._joint_steps = context.joint_steps
        self._turns = asyncio.Semaphore(_TURNS)
        self._apart_until = 0.0
        self._looked_around: dict[ServerAddress, float] = {}
        self._losses = Losses(context.metrics, grouped=True)
        self._sets: list[DataSet | None] = [None] * SLOTS
        self._blocks = BlocksReader()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.lookups: Final = ClusterLookups(
            self._topology, self, context.metrics, context.clocks, lookups_with(context.spans)
        )

    def open(self) -> None:
        self._topology.learn_soon()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(data.close() for data in self._sets if data is not None))
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
            for start in range(0, len(keys), _SLOTS_AT_ONCE):
                chunk = keys[start : start + _SLOTS_AT_ONCE]
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
        if not data.confirms_reading(before, decode([stamp, values, _PRIMARY])):
            await data.settle()
            raise StoreUnavailable("the store has lost data")
        node = self._topology.node_of(slot_of(key))
        if node is not None and node.stale:
            raise PrimaryStale
        self.lookups.last_read((None, key))  # raises if no verdict may rest on what was read
        return replies

    async def wait_for(self, key: str, *command: Any) -> Any:
        node = self._topology.node_of(slot_of(key))
        if node is None:
            await self._topology.learn()
            node = self._topology.node_of(slot_of(key))
        if node is None:
            raise StoreUnavailable("no primary keeps the journal")
        return await node.waits.execute(*command)

    async def values(self, keys: Sequence[str]) -> list[bytes | None]:
        replies = await asyncio.gather(*(self.read(key, [("GET", key)]) for key in keys))
        return [value for [value] in replies]

    async def on_every_primary(self, commands: Sequence[Command]) -> list[tuple[Sequence[int], Replies]]:
        if not self._topology.nodes:
            await self._topology.learn()
        nodes = self._topology.nodes
        replies = await asyncio.gather(*(node.reads.ask(commands) for node in nodes))
        return [(node.slots, answers) for node, answers in zip(nodes, replies, strict=True)]

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

    def data_set_numbered(self, part: int) -> DataSet:
        data = self._sets[part]
        if data is None:
            tail = self._keys.in_part(part).tail(self._instance)
            confirmed = functools.partial(self._confirmed_since, part) if self._waits_for_replicas else None
            data = self._sets[part] = self._new_data_set(tail, part, self._losses, confirmed)
        return data

    def _confirmed_since(self, slot: int, server: str, time: float) -> bool:
        node = self._topology.node_of(slot)
        return (
            node is not None
            and node.confirmation is not None
            and node.confirmation.confirmed_since(server, time)
        )

    def read_data_sets(self) -> Iterable[tuple[int, DataSet]]:
        return [
            (slot, data)
            for slot, data in enumerate(self._sets)
            if data is not None and data.watermark is not None
        ]

    @reads_replies()
    async def look(self, beat: int, on_data_set: OnDataSet) -> list[DataSet]:
        part = SLOTS // self.beats_per_round
        turn = beat % self.beats_per_round
        slots = range(turn * part, (turn + 1) * part) if beat else range(SLOTS)

        def blocks_and_lifted(slot: int) -> list[Command]:
            keys = self._keys.in_part(slot)
            return [self._blocks.command(keys.blocks), ("ZRANGE", keys.lifted, 0, -1)]

        self._losses.report()
        suspects = []
        for found in await self._read_slots(slots, blocks_and_lifted):
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
        reading = decode([stamp, values, _PRIMARY])
        if not data.confirms_reading(before, reading):
            return None
        return self._blocks.page(reply), reading.now

    async def settle(self, sets: Iterable[DataSet], *, since: int = 0, cause: str = "") -> None:
        all_sets = dict.fromkeys(sets, None)
        settling = self._begin_to_settle(all_sets, since, cause)
        if not settling:
            return
        patience = SETTLE_WAIT_S
        if since:  # no request waits; what is late would be repeated as another loss, in all of them
            patience *= -(-len(all_sets) // _SLOTS_AT_ONCE)
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
            async with asyncio.timeout(max(settlement.data.patience for settlement in settlements)):
                await settle_jointly(settlements, self._carry_out_jointly, self._turns)
        except Exception:  # noqa: BLE001  # no data set may stay without verdicts because of it
            _log.exception("joint_settlement_failed", slots=len(settlements))
            self._apart_until = asyncio.get_running_loop().time() + _APART_S

    async def _settle_apart(self, sets: Sequence[DataSet], since: int, cause: str) -> None:
        """Settle each data set by itself; raises the first failure."""
        failures: list[BaseException] = []
        for start in range(0, len(sets), _SLOTS_AT_ONCE):
            chunk = sets[start : start + _SLOTS_AT_ONCE]
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
        return await self._joint_steps(asked, self.change_many)

    async def _readings_of(self, sets: Sequence[DataSet]) -> list[Reading | NoVerdict]:
        """As :meth:`reading`, of several data sets; returns errors as values."""
        slots = [slot_of(data.tail.epoch) for data in sets]
        with understood():
            found = {one.slot: one.reading for one in await self._read_slots(slots, lambda _: ())}
        readings: list[Reading | NoVerdict] = []
        for slot, data in zip(slots, sets, strict=True):
            reading = found.get(slot)
            if reading is None:  # being moved
                try:
                    readings.append(await self.reading(data.tail))
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
            found = await self._suspects_at(node)
            repaired = {data for data, read in found.items() if read.reading.in_repair}
            by_urgency = sorted(found, key=lambda data: data not in repaired)  # others wait for these
            self._begin_to_settle({data: found[data] for data in by_urgency})
        except NoVerdict:
            self._looked_around.pop(node.address, None)  # the next reading looks again

    @reads_replies()
    async def _suspects_at(self, node: Node) -> dict[DataSet, SuspectReading]:
        """Those data sets of a primary that were ever read, and are below their watermark."""
        return {
            data: SuspectReading(found.before, found.reading)
            for found in await self._read_at(node, list(node.slots), lambda _: ())
            if (data := self.data_set_numbered(found.slot)).watermark is not None
            and not data.confirms_reading(found.before, found.reading)
        }

    async def suspects(self) -> list[DataSet]:
        if not self._topology.nodes:
            await self._topology.learn()
        looks = (self._suspects_at(node) for node in self._topology.nodes if self._may_look_around(node))
        return [data for found in await asyncio.gather(*looks) for data in found]

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

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
            for found in await self._read_slots(commands, lambda slot: commands[slot])
            if self.data_set_numbered(found.slot).confirms_reading(found.before, found.reading)
        ]

    @reads_replies()
    async def readings(self) -> list[tuple[int, DataSet, Reading]]:
        found = await self._read_slots(range(SLOTS), lambda _: [])
        readings = {slot.slot: slot.reading for slot in found}
        for slot in set(range(SLOTS)) - readings.keys():  # being moved meanwhile
            readings[slot] = await self.reading(self.data_set_numbered(slot).tail)
        return [(slot, self.data_set_numbered(slot), reading) for slot, reading in readings.items()]

    @reads_replies()
    async def reading(self, tail: Tail) -> Reading:
        stamp, values = await self._time_and_values(tail)
        return decode([stamp, values, _PRIMARY])

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
            stamp, found = await self._time_and_values(slot_keys)
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

    async def _time_and_values(self, keys: Sequence[str]) -> tuple[list[bytes], list[bytes | None]]:
        """``TIME``, then the values of keys of one slot; read one by one if they are not all in one place."""
        async with unavailable_on_failure():
            try:
                stamp, values = await self.read(keys[0], [("TIME",), ("MGET", *keys)])
            except Refused as error:
                if error.code != "TRYAGAIN":
                    raise
                answers = [await self.read(key, [("TIME",), ("GET", key)]) for key in keys]
                stamp, values = answers[0][0], [value for _, value in answers]
        return stamp, values

    async def _read_slots(
        self, slots: Iterable[int], more: Callable[[int], Sequence[Command]]
    ) -> list[_SlotReading]:
        """Read the numbers of slots, after more commands on each; slots that are being moved are left out."""
        by_node: dict[Node, list[int]] = {}
        for slot in slots:
            node = self._topology.node_of(slot)
            if node is None:
                await self._topology.learn()
                node = self._topology.node_of(slot)
            if node is None:
                raise StoreUnavailable("no primary keeps some part of the store")
            by_node.setdefault(node, []).append(slot)
        reads = (self._read_at(node, node_slots, more) for node, node_slots in by_node.items())
        results = await asyncio.gather(*reads, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                self._topology.learn_soon()
                raise result
        return [found for result in results if isinstance(result, list) for found in result]

    async def _read_at(
        self, node: Node, slots: Sequence[int], more: Callable[[int], Sequence[Command]]
    ) -> list[_SlotReading]:
        found = []
        for start in range(0, len(slots), _SLOTS_AT_ONCE):
            found += await self._read_chunk(node, slots[start : start + _SLOTS_AT_ONCE], more)
        return found

    async def _read_chunk(
        self, node: Node, slots: Sequence[int], more: Callable[[int], Sequence[Command]]
    ) -> list[_SlotReading]:
        watermarks, commands, sizes = [], [], []
        for slot in slots:
            data, own = self.data_set_numbered(slot), more(slot)
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
                    found.append(_SlotReading(slot, before, replies[:-1], reading))
                elif self._blocks.refused(refusal):
                    return await self._read_chunk(node, slots, more)
                else:
                    self._topology.learn_soon()
        return found

    async def _refresh_shares(self, sets: Sequence[DataSet]) -> None:
        """Extend the expiry of shares that were not written to for long."""
        async with unavailable_on_failure():
            for data in sets:
                await self.change(data.tail.share, "PEXPIRE", data.tail.share, DAY_MS)
                data.share_refreshed()


def _chunks(numbers: Sequence[int], sizes: Sequence[int]) -> Iterable[list[int]]:
    """Numbers in chunks whose sizes are :data:`_SLOTS_AT_ONCE` in sum, or little more."""
    chunk: list[int] = []
    total = 0
    for number, size in zip(numbers, sizes, strict=True):
        chunk.append(number)
        total += size
        if total >= _SLOTS_AT_ONCE:
            yield chunk
            chunk, total = [], 0
    if chunk:
        yield chunk
