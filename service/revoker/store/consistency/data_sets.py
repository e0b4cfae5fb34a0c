"""The data sets of a store: one at a single primary, one a slot in a cluster.

They are numbered: the one is 0, those of a cluster have the numbers of their slots.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from revoker.errors import StoreRefused, StoreUnavailable
from revoker.store.consistency.epoch import DataSet, Reading, decode
from revoker.store.keys import DataKeys, Tail
from revoker.store.servers import Servers
from revoker.store.wire.connection import Command, reads_replies, unavailable_on_failure, understood

DAY_MS: Final = 86_400_000

_PAGE: Final = 4000
"""Blocks that are read in one command, roughly: more would keep the server and this process from the rest."""

_SHARE: Final = 0.1
"""The part of the time that reading blocks takes at most; where they are many they are read less often."""


class BlocksPage(NamedTuple):
    """Some of the blocks of a data set: until when (ms), by the user's tag.

    Attributes:
        cursor: Where the next page begins; ``b"0"`` after the last one.
    """

    cursor: bytes
    until: dict[bytes, bytes]

    @property
    def last(self) -> bool:
        return self.cursor == b"0"


class ReadBlocks:
    """Reads blocks page by page; all of them at once where the server allows its user no ``HSCAN``."""

    def __init__(self) -> None:
        self._by_pages = True

    def command(self, key: str, cursor: bytes = b"0") -> Command:
        return ("HSCAN", key, cursor, "COUNT", _PAGE) if self._by_pages else ("HGETALL", key)

    def page(self, reply: Any) -> BlocksPage:
        """A reply to :meth:`command`; raises ``ReplyNotUnderstood``."""
        with understood():
            cursor, fields = reply if self._by_pages else (b"0", reply)
            return BlocksPage(cursor, dict(zip(fields[::2], fields[1::2], strict=True)))

    def refused(self, error: Exception | None) -> bool:
        """Whether an error refuses the pages; from then on all is read at once."""
        refuses = self._by_pages and str(error).startswith("NOPERM") and "hscan" in str(error).lower()
        self._by_pages = self._by_pages and not refuses
        return refuses


Beside = Callable[[int, BlocksPage | None, list[bytes], int], None]
"""Given the number of a data set, the first page of its blocks (None: they were read a moment ago), what was
lifted in it, and the ``TIME`` (ms) of the reading."""


class DataSets(Protocol):
    """Methods that read raise ``StoreUnavailable``, and ``StoreRefused`` where no primary answers."""

    def of(self, key: str) -> DataSet:
        """The data set of which a key is part."""

    def known(self) -> Iterable[DataSet]:
        """Those that were ever read."""

    def numbered(self, part: int) -> DataSet:
        """One of them."""

    async def look(self, beat: int, found: Beside) -> list[DataSet]:
        """Read epochs and numbers: of all at beat 0, then of so many that all have their turn.

        Args:
            beat: Whose turn it is.
            found: Told what lies beside those of each data set that shows what it must.

        Returns:
            The data sets that don't show what they must, to be settled.
        """

    async def blocks_after(self, part: int, cursor: bytes) -> tuple[BlocksPage, int] | None:
        """The next page of blocks, and ``TIME`` (ms); None where the data set doesn't show what it must."""

    async def settle(self, sets: Iterable[DataSet], *, since: int = 0, cause: str = "") -> None:
        """Settle data sets; as :meth:`revoker.store.consistency.epoch.DataSet.settle`."""

    async def value(self, key: str) -> bytes | None:
        """What a key holds, where its data set shows what it must."""

    async def readings(self) -> list[tuple[int, DataSet, Reading]]:
        """All data sets with their numbers, as they are now, whatever is known of them."""

    async def read(self, tail: Tail) -> Reading:
        """One data set as it is now."""

    async def close(self) -> None:
        """Settle nothing more."""


class Whole:
    """All of a store as the one data set that it is at a single primary."""

    def __init__(self, servers: Servers, keys: DataKeys, make: Callable[[], DataSet]) -> None:
        self._servers = servers
        self._keys = keys
        self.data: Final = make()
        self._blocks = ReadBlocks()
        self._blocks_due = self._blocks_begun = 0.0

    def of(self, key: str) -> DataSet:  # noqa: ARG002  # every key is part of it
        return self.data

    def known(self) -> Iterable[DataSet]:
        return (self.data,) if self.data.watermark is not None else ()

    def numbered(self, part: int) -> DataSet:  # noqa: ARG002  # there is but one
        return self.data

    @reads_replies()
    async def look(self, beat: int, found: Beside) -> list[DataSet]:  # it is looked at each time
        known, ages = self.data.watermark, self.data.share_ages()
        loop = asyncio.get_running_loop()
        due = loop.time() >= self._blocks_due
        commands: list[Command] = [("ZRANGE", self._keys.lifted, 0, -1)]
        if due:
            self._blocks_begun = loop.time()
            commands.append(self._blocks.command(self._keys.blocks))
        if ages:
            commands.append(("PEXPIRE", self.data.tail.share, DAY_MS))
        try:
            [lifted, *rest], reading = await self._vouched(commands)
        except StoreUnavailable as error:
            if self._blocks.refused(error.__cause__ if isinstance(error.__cause__, Exception) else None):
                return await self.look(beat, found)
            raise
        if not self.data.confirms(known, reading.epoch, reading.seq, reading.share, reading.now):
            return [self.data]
        if ages:
            self.data.share_refreshed()
        found(0, self._blocks.page(rest[0]) if due else None, lifted, reading.now)
        return []

    async def blocks_after(self, part: int, cursor: bytes) -> tuple[BlocksPage, int] | None:  # noqa: ARG002
        known = self.data.watermark
        [reply], reading = await self._vouched([self._blocks.command(self._keys.blocks, cursor)])
        if not self.data.confirms(known, reading.epoch, reading.seq, reading.share, reading.now):
            return None
        page = self._blocks.page(reply)
        if page.last:
            now = asyncio.get_running_loop().time()
            self._blocks_due = now + (now - self._blocks_begun) * (1 / _SHARE - 1)
        return page, reading.now

    async def settle(self, sets: Iterable[DataSet], *, since: int = 0, cause: str = "") -> None:
        for data in sets:
            await data.settle(since=since, cause=cause)

    @reads_replies()
    async def value(self, key: str) -> bytes | None:
        known = self.data.watermark
        [value], reading = await self._vouched([("GET", key)])
        if not self.data.confirms(known, reading.epoch, reading.seq, reading.share, reading.now):
            raise StoreUnavailable("the store has lost data")
        return value  # type: ignore[no-any-return]

    async def readings(self) -> list[tuple[int, DataSet, Reading]]:
        return [(0, self.data, await self.read(self.data.tail))]

    async def read(self, tail: Tail) -> Reading:  # noqa: ARG002  # there is but one
        _, reading = await self._vouched([])
        return reading

    async def close(self) -> None:
        await self.data.close()

    async def _vouched(self, commands: Sequence[Command]) -> tuple[list[Any], Reading]:
        """What commands read, and the data set as it was right after them."""
        tail = self.data.tail
        async with unavailable_on_failure():
            replies = await self._servers.read(tail.epoch, [*commands, ("TIME",), ("MGET", *tail), ("ROLE",)])
        try:
            return replies[: len(commands)], decode(replies[len(commands) :])
        except StoreRefused:
            self._servers.reconnect()
            raise
