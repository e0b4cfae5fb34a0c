"""The servers that keep the store, as scripts and the watch speak to them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import structlog

from revoker.errors import NoVerdict
from revoker.store.wire.addresses import PrimaryLocator
from revoker.store.wire.command_channel import CommandChannel, Confirmation
from revoker.store.wire.connection import Command, ConnectionLost, Refused, Replies, TooFewReplicas

_log = structlog.get_logger("store")


def retrieve(done: "asyncio.Future[Any]") -> None:
    """Take note of a failure that maybe nobody waits for."""
    if not done.cancelled():
        done.exception()


class Servers(Protocol):
    """Every method raises as :meth:`revoker.store.wire.command_channel.CommandChannel.execute` does."""

    def change(self, key: str, *command: Any) -> Awaitable[Any]:
        """Send a command that changes what lies in the slot of a key, to where it is confirmed."""

    def change_unconfirmed(self, key: str, *command: Any) -> "asyncio.Future[Replies]":
        """Send a command as :meth:`change`, without the replicas: for a change that may be lost again.

        A refusal stands in the reply as a value. Nobody has to wait for it.
        """

    async def change_all(self, commands: Mapping[str, Command]) -> Replies:
        """As :meth:`change`, many commands by their keys; refusals stand among the replies as values."""

    async def read(self, key: str, commands: Sequence[Command]) -> Replies:
        """Send commands, in one write, that read what lies in the slot of a key, from its primary."""

    async def each(self, commands: Sequence[Command]) -> list[tuple[Sequence[int], Replies]]:
        """Send commands to every primary.

        Returns:
            For each the numbers of the data sets that it keeps, and its replies, refusals as values.
        """

    async def values(self, keys: Sequence[str]) -> list[bytes | None]:
        """What stands under keys, wherever they lie."""

    def server_of(self, key: str) -> str:
        """The id of the server that is read for a key now; empty while there is none."""

    async def primaries(self) -> Mapping[str, CommandChannel]:
        """A line to each primary, by its id: another one whenever it has started anew."""

    def reconnect(self) -> None:
        """End the connections: they may lead elsewhere by now."""


class Primary:
    """One server that has everything, and maybe replicas.

    Attributes:
        confirmation: How its replicas confirm changes; None where they are not asked.
    """

    def __init__(self, address: PrimaryLocator, confirmation: Confirmation | None) -> None:
        self._reads: Final = CommandChannel(address.connect, timeout=address.timeout)
        self._changes: Final = (
            CommandChannel(address.connect, timeout=address.timeout, confirmation=confirmation)
            if confirmation
            else self._reads
        )
        self.confirmation: Final = confirmation
        self._address = address

    def change(self, key: str, *command: Any) -> Awaitable[Any]:  # noqa: ARG002  # it lies here, as all do
        return self._changes.execute(*command)

    def change_unconfirmed(
        self,
        key: str,  # noqa: ARG002  # likewise
        *command: Any,
    ) -> "asyncio.Future[Replies]":
        sent = self._reads.ask([command])
        sent.add_done_callback(retrieve)
        return sent

    async def change_all(self, commands: Mapping[str, Command]) -> Replies:
        return await self._changes.ask(list(commands.values()))

    async def read(self, key: str, commands: Sequence[Command]) -> Replies:  # noqa: ARG002
        return await self._reads.pipeline(commands)

    async def each(self, commands: Sequence[Command]) -> list[tuple[Sequence[int], Replies]]:
        return [((0,), await self._reads.ask(commands))]

    async def values(self, keys: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = await self._reads.execute("MGET", *keys)
        return found

    def server_of(self, key: str) -> str:  # noqa: ARG002
        return self._reads.server

    async def primaries(self) -> Mapping[str, CommandChannel]:
        await self._reads.execute("PING")
        return {self._reads.server: self._reads}

    def reconnect(self) -> None:
        self._reads.reconnect()
        self._changes.reconnect()

    async def close(self) -> None:
        """End the connections for good."""
        await self._reads.close()
        await self._changes.close()

    async def moved(self) -> bool:
        """Whether another server is the primary by now."""
        return await self._address.moved()

    async def beat(self, key_in: Callable[[int], str]) -> None:
        """Have changes confirmed again and again, to see the primary's replicas, until cancelled.

        Args:
            key_in: Gives a key to write in a data set.
        """
        assert self.confirmation is not None  # noqa: S101  # nobody beats where nothing is confirmed
        while True:
            try:
                await self._changes.execute(*Confirmation.heartbeat(key_in(0)))
            except Refused as error:
                _log.warning("beat_refused", code=error.code)
                self._changes.reconnect()
            except (TooFewReplicas, ConnectionLost, NoVerdict, TimeoutError):
                pass  # what follows of it, the lookups say
            await asyncio.sleep(Confirmation.BEAT_S)
