"""A single primary, found by its address or by Sentinels: all of the store is one data set."""

import asyncio
import itertools
import operator
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, Final

import structlog

from revoker.errors import NoVerdict, PrimaryStale, StoreRefused, StoreUnavailable
from revoker.store.consistency.blocks import BlocksPage, BlocksReader
from revoker.store.consistency.data_set import DataSet
from revoker.store.consistency.epoch import DAY_MS, Reading, decode
from revoker.store.consistency.losses import Losses
from revoker.store.keys import Tail, TokenKeys
from revoker.store.lookups import TIME, Batch, BatchedLookups, CheckServer, Group, deliver, lookups_with
from revoker.store.source import WAIT_S, Found, OnDataSet, PartReplies, ServerSettings, SourceContext
from revoker.store.stored_values import checked_values, parse_revocation_state, redis_time_ms
from revoker.store.wire.addresses import address_of
from revoker.store.wire.command_channel import CommandChannel, Confirmation
from revoker.store.wire.connection import (
    Command,
    ConnectionLost,
    Refused,
    Replies,
    TooFewReplicas,
    answered_with,
    pack,
    reads_replies,
    replicas_in,
    retrieve_failure,
    role_in,
    unavailable_on_failure,
    understood,
)

_log = structlog.get_logger("store")

_KEYS_OF_REQUEST: Final = operator.itemgetter(0)

_BLOCKS_SHARE: Final = 0.1
"""The part of the time that reading blocks may take; if there are many, they are read less often."""


class SinglePrimary:
    """As :class:`revoker.store.source.Source`; nothing connects before it is asked or opened.

    Attributes:
        data_set: The only one.
    """

    beats_per_round: Final = 1

    def __init__(self, servers: ServerSettings, context: SourceContext) -> None:
        primary = address_of(
            servers.url,
            timeout=servers.timeout,
            password_file=servers.password_file,
            sentinels=servers.sentinels,
        )
        confirmation = servers.confirmation(primary)
        self._primary = primary
        self._confirmation: Final = confirmation
        self._keys = context.keys
        self._instance = context.instance
        self._reads: Final = CommandChannel(
            primary.connect, timeout=primary.timeout, connected=self._look_at_server
        )
        self._changes: Final = (
            CommandChannel(primary.connect, timeout=primary.timeout, confirmation=confirmation)
            if confirmation
            else self._reads
        )
        self._waits: Final = CommandChannel(primary.connect, timeout=WAIT_S + primary.timeout)
        self.data_set: Final = context.new_data_set(
            context.keys.tail(context.instance),
            0,
            Losses(context.metrics),
            confirmation.confirmed_since if confirmation else None,
        )
        self.lookups: Final[BatchedLookups] = lookups_with(context.spans)(
            primary,
            DataSetReader(self.data_set),
            metrics=context.metrics,
            clocks=context.clocks,
            confirmation=confirmation,
            probe=True,
        )
        self._blocks = BlocksReader()
        self._blocks_due = self._blocks_read_since = 0.0

    def open(self) -> None:
        self.lookups.open()

    async def close(self) -> None:
        await self.data_set.close()
        await self.lookups.close()
        await self._reads.close()
        await self._changes.close()
        await self._waits.close()

    async def follow(self) -> bool:
        await self._primary.renew()
        return await self._primary.moved()

    def reconnect(self) -> None:
        self._reads.reconnect()
        self._changes.reconnect()
        self._waits.reconnect()

    def leave_all_but(self, server: str) -> None:
        for channel in (self._reads, self._changes):
            if channel.server not in {"", server}:
                channel.reconnect()

    def _look_at_server(self) -> None:
        self.data_set.look_at_new_server(self._reads.server)

    def change(self, key: str, *command: Any) -> Awaitable[Any]:  # noqa: ARG002  # every key is at this primary
        return self._changes.execute(*command)

    async def change_together(self, key: str, commands: Sequence[Command]) -> Replies:  # noqa: ARG002
        return await self._changes.pipeline(commands)

    def change_unconfirmed(self, key: str, *command: Any) -> "asyncio.Future[Replies]":  # noqa: ARG002
        sent = self._reads.ask([command])
        sent.add_done_callback(retrieve_failure)
        return sent

    async def change_all(self, commands: Mapping[str, Command]) -> Replies:
        return await self._changes.ask(list(commands.values()))

    async def read(self, key: str, commands: Sequence[Command]) -> Replies:  # noqa: ARG002
        return await self._reads.pipeline(commands)

    @reads_replies()
    async def read_trusted(self, key: str, commands: Sequence[Command]) -> Replies:
        before = self.data_set.watermark
        replies, reading = await self._read_with_numbers(commands, trusted=True)
        if not self.data_set.confirms_reading(before, reading):
            await self.data_set.settle()
            raise StoreUnavailable("the store has lost data")
        self.lookups.last_read((None, key))  # raises if no verdict may rest on what was read
        return replies

    async def wait_for(self, key: str, *command: Any) -> Any:  # noqa: ARG002
        return await self._waits.execute(*command)

    @reads_replies()
    async def values(self, keys: Sequence[str]) -> list[bytes | None]:
        return checked_values(await self._reads.execute("MGET", *keys), len(keys))

    async def on_every_primary(self, commands: Sequence[Command]) -> list[tuple[Sequence[int], Replies]]:
        return [((0,), await self._reads.ask(commands))]

    async def locator_faults(self) -> list[str]:
        return await self._primary.faults()

    async def primaries(self) -> Mapping[str, CommandChannel]:
        await self._reads.execute("PING")  # a server that has restarted meanwhile has another id by then
        return {self._reads.server: self._reads}

    def server_of(self, key: str) -> str:  # noqa: ARG002
        return self._reads.server

    async def keep_confirming(self) -> None:
        await asyncio.gather(self._keep_beating(), self._keep_asking())

    async def _keep_asking(self) -> None:
        """Ask Sentinels for the primary while that has no write confirmed."""
        loop = asyncio.get_running_loop()
        while self._confirmation is not None:
            await asyncio.sleep(Confirmation.BEAT_S)
            if not self._confirmation.is_late(self._changes.server, loop.time()):
                continue
            if await self._primary.moved():
                self._leave_primary()

    def _leave_primary(self) -> None:
        """Replace all connections: they lead to a server that is not the primary any more."""
        _log.warning("primary_moved")
        self.lookups.reconnect()
        self.reconnect()

    async def _keep_beating(self) -> None:
        while True:
            try:
                await self._changes.execute(*Confirmation.heartbeat(self._keys.beat(self._instance)))
            except Refused as error:
                _log.warning("beat_refused", code=error.code)
                self._changes.reconnect()
            except (TooFewReplicas, ConnectionLost, NoVerdict, TimeoutError):
                pass  # lookups report what follows from it
            await asyncio.sleep(Confirmation.BEAT_S)

    def data_set_of(self, key: str) -> DataSet:  # noqa: ARG002
        return self.data_set

    def data_set_numbered(self, part: int) -> DataSet:  # noqa: ARG002
        return self.data_set

    def read_data_sets(self) -> Iterable[tuple[int, DataSet]]:
        return ((0, self.data_set),) if self.data_set.watermark is not None else ()

    @reads_replies()
    async def look(self, beat: int, on_data_set: OnDataSet) -> list[DataSet]:
        before, refresh_share = self.data_set.watermark, self.data_set.share_ages()
        loop = asyncio.get_running_loop()
        blocks_due = loop.time() >= self._blocks_due
        commands: list[Command] = [("ZRANGE", self._keys.lifted, 0, -1)]
        if blocks_due:
            self._blocks_read_since = loop.time()
            commands.append(self._blocks.command(self._keys.blocks))
        if refresh_share:
            commands.append(("PEXPIRE", self.data_set.tail.share, DAY_MS))
        try:
            [lifted, *rest], reading = await self._read_with_numbers(commands)
        except StoreUnavailable as error:
            if self._blocks.refused(error.__cause__ if isinstance(error.__cause__, Exception) else None):
                return await self.look(beat, on_data_set)
            raise
        if not self.data_set.confirms_reading(before, reading):
            return [self.data_set]
        if refresh_share:
            self.data_set.share_refreshed()
        on_data_set(0, self._blocks.page(rest[0]) if blocks_due else None, lifted, reading.now)
        return []

    async def suspects(self) -> list[DataSet]:
        return []  # every beat looks at the only one

    async def blocks_after(self, part: int, cursor: bytes) -> tuple[BlocksPage, int] | None:  # noqa: ARG002
        before = self.data_set.watermark
        [reply], reading = await self._read_with_numbers([self._blocks.command(self._keys.blocks, cursor)])
        if not self.data_set.confirms_reading(before, reading):
            return None
        page = self._blocks.page(reply)
        if page.last:
            now = asyncio.get_running_loop().time()
            self._blocks_due = now + (now - self._blocks_read_since) * (1 / _BLOCKS_SHARE - 1)
        return page, reading.now

    async def settle(self, sets: Iterable[DataSet], *, since: int = 0, cause: str = "") -> None:
        for data in sets:
            await data.settle(since=since, cause=cause)

    @reads_replies()
    async def trusted_value(self, key: str) -> tuple[bytes | None, int]:
        before = self.data_set.watermark
        [value], reading = await self._read_with_numbers([("GET", key)])
        if not self.data_set.confirms_reading(before, reading):
            raise StoreUnavailable("the store has lost data")
        return value, reading.now

    async def read_parts(self, commands: Mapping[int, Sequence[Command]]) -> list[PartReplies]:
        before = self.data_set.watermark
        replies, reading = await self._read_with_numbers(commands[0])
        if not self.data_set.confirms_reading(before, reading):
            return []
        return [PartReplies(0, replies, reading.now)]

    async def readings(self) -> list[tuple[int, DataSet, Reading]]:
        return [(0, self.data_set, await self.reading(self.data_set.tail))]

    async def reading(self, tail: Tail) -> Reading:  # noqa: ARG002
        _, reading = await self._read_with_numbers([])
        return reading

    async def _read_with_numbers(
        self, commands: Sequence[Command], *, trusted: bool = False
    ) -> tuple[list[Any], Reading]:
        """The replies to commands, and the data set as it was right after them.

        ``trusted``: raise ``PrimaryStale`` where the server may not be the primary any more.
        """
        tail = self.data_set.tail
        async with unavailable_on_failure():
            if not self._reads.server:  # it must be known which one answers
                await self._reads.execute("PING")
            server = self._reads.server
            replies = await self._reads.pipeline([*commands, ("TIME",), ("MGET", *tail)], with_role=True)
        if self._reads.server != server:  # not known by which of them
            server = ""
        with understood():
            replies[-1] = role = role_in(replies[-1])
            if trusted and self._confirmation is not None:
                now = asyncio.get_running_loop().time()
                if not self._confirmation.trusts(server, replicas_in(role), now):
                    raise PrimaryStale
        try:
            return replies[: len(commands)], decode(replies[len(commands) :], server)
        except StoreRefused:
            self.reconnect()
            raise


class DataSetReader:
    """Reads batches whose keys are all in one data set: every key once."""

    def __init__(self, data: DataSet) -> None:
        self._data = data

    def pack(self, batch: Batch, role: bytes) -> tuple[bytes, int]:
        keys = batch.keys
        if not keys:
            keys |= dict.fromkeys(itertools.chain.from_iterable(map(_KEYS_OF_REQUEST, batch.requests)))
            keys.pop(None, None)
        batch.before = self._data.watermark
        return TIME + pack([("MGET", *keys, *self._data.tail)]) + role, 3

    def answer(self, batch: Batch, replies: Replies, check_server: CheckServer) -> Batch | None:
        stamp, values, role = replies
        if isinstance(stamp, Exception) or isinstance(values, Exception):
            raise _unanswered(stamp, values)
        now = redis_time_ms(stamp)
        if len(values) != len(batch.keys) + 4:  # a missing value would pass for a token that is not revoked
            # as `understood` takes it: the batch fails, and the connection ends
            raise LookupError("the reply to MGET has another number of values")
        data = self._data
        try:
            check_server(batch, now, role)
        except PrimaryStale:
            if data.is_new(batch.server):  # it is looked at meanwhile, since other processes wait for that
                return batch
            raise
        epoch, seq, share, writers = values[-4:]
        if not data.confirms(batch.before, epoch, seq, share, writers, now, batch.server):
            return batch
        if data.refusal is not None:
            raise StoreRefused(data.refusal)
        del values[-4:]
        if values.count(None) == len(values):
            nothing = Found(data.baseline, now)
            for _, result, index in batch.requests:
                # not deliver(): nearly every lookup would pay for the call
                if isinstance(result, Group):
                    result.put(index, nothing)  # type: ignore[arg-type]  # requests of a group have an index
                elif not result.done():
                    result.set_result(nothing)
            return None
        value_of: dict[str | None, bytes | None] = dict(zip(batch.keys, values, strict=True))
        value_of[None] = None
        for request in batch.requests:
            keys, result, _ = request
            if not result.done():
                try:
                    found = Found(
                        parse_revocation_state([value_of[key] for key in keys], data.baseline.loss), now
                    )
                except StoreRefused as error:
                    result.set_exception(error)
                else:
                    deliver(request, found)
        return None

    async def settle(self, batches: Sequence[Batch]) -> None:  # noqa: ARG002  # all are of one data set
        await self._data.settle()

    def last_loss(self, keys: TokenKeys) -> int:  # noqa: ARG002  # likewise
        if self._data.refusal is not None:
            raise StoreRefused(self._data.refusal)
        return self._data.baseline.loss


def _unanswered(stamp: Any, values: Any) -> StoreUnavailable:
    """The error for replies to ``TIME`` and ``MGET`` of which at least one is an error."""
    if isinstance(stamp, Exception):
        return StoreUnavailable(answered_with(stamp, "TIME"))
    return StoreUnavailable(answered_with(values, "MGET"))
