"""The data sets of a store: one at a single primary, one a slot in a cluster.

They are numbered: the one is 0, those of a cluster have the numbers of their slots.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from service.errors import StoreRefused, StoreUnavailable
from service.store.connection import Command, fence, reads_replies
from service.store.epoch import DataSet, Reading, decode
from service.store.keys import DataKeys, Tail
from service.store.servers import Servers

DAY_MS: Final = 86_400_000

Beside = Callable[[int, dict[bytes, bytes], list[bytes], int], None]
"""Given the number of a data set, its blocks, what was lifted in it, and the ``TIME`` (ms) of the reading."""


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

    async def settle(self, sets: Iterable[DataSet], *, since: int = 0, cause: str = "") -> None:
        """Settle data sets; as :meth:`service.store.epoch.DataSet.settle`."""

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

    def of(self, key: str) -> DataSet:  # noqa: ARG002  # every key is part of it
        return self.data

    def known(self) -> Iterable[DataSet]:
        return (self.data,) if self.data.known is not None else ()

    def numbered(self, part: int) -> DataSet:  # noqa: ARG002  # there is but one
        return self.data

    @reads_replies()
    async def look(self, beat: int, found: Beside) -> list[DataSet]:  # noqa: ARG002  # it is looked at each time
        known, ages = self.data.known, self.data.share_ages()
        commands: list[Command] = [("HGETALL", self._keys.blocks), ("ZRANGE", self._keys.lifted, 0, -1)]
        if ages:
            commands.append(("PEXPIRE", self.data.tail.share, DAY_MS))
        [blocks, lifted, *_], reading = await self._vouched(commands)
        if not self.data.confirms(known, reading.epoch, reading.seq, reading.share, reading.now):
            return [self.data]
        if ages:
            self.data.renewed()
        found(0, dict(zip(blocks[::2], blocks[1::2], strict=True)), lifted, reading.now)
        return []

    async def settle(self, sets: Iterable[DataSet], *, since: int = 0, cause: str = "") -> None:
        for data in sets:
            await data.settle(since=since, cause=cause)

    @reads_replies()
    async def value(self, key: str) -> bytes | None:
        known = self.data.known
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
        async with fence():
            replies = await self._servers.read(tail.epoch, [*commands, ("TIME",), ("MGET", *tail), ("ROLE",)])
        try:
            return replies[: len(commands)], decode(replies[len(commands) :])
        except StoreRefused:
            self._servers.hang_up()
            raise
