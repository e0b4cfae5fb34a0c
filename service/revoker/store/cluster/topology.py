"""A cluster: which primary keeps which slot, and how that is followed while it changes.

Slots move, one by one, from primary to primary; and primaries come, go and fail. Whoever is asked for a
slot that lies elsewhere says where (``MOVED``, and ``ASK`` while the slot is on its way); nothing of
the command was done then, so it is sent again. Replicas never answer for a slot.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import structlog

from revoker.errors import NoVerdict, StoreUnavailable
from revoker.store.keys import SLOTS, slot_of
from revoker.store.servers import retrieve
from revoker.store.wire.addresses import Login, ServerAddress, parse_info
from revoker.store.wire.command_channel import CommandChannel, Confirmation
from revoker.store.wire.connection import (
    Command,
    Connection,
    ConnectionLost,
    Refused,
    Replies,
    TooFewReplicas,
    reads_replies,
    understood,
)

_log = structlog.get_logger("store")

_ASKED: Final = 5
"""Nodes that are asked which primary keeps which slot; they tell each other, so few know what all do."""

_CHUNK: Final = 512
"""Commands in one write at most."""

_PAUSE_S: Final = 0.01
_LEARN_S: Final = 0.1
"""At most so often is the map of slots asked for."""


class Node:
    """One primary of the cluster.

    Attributes:
        slots: Those that it keeps.
    """

    def __init__(self, place: ServerAddress, access: Login, confirmation: Confirmation | None) -> None:
        self.place: Final = place
        self.timeout: Final = access.timeout
        self.confirmation: Final = confirmation
        self.reads: Final = CommandChannel(self.connect, timeout=access.timeout)
        self.changes: Final = (
            CommandChannel(self.connect, timeout=access.timeout, confirmation=confirmation)
            if confirmation
            else self.reads
        )
        self.slots: list[int] = []
        self._access = access

    async def connect(self, lost: Callable[[Connection], None]) -> Connection:
        return await self._access.connect(self.place, lost)

    @property
    def stale(self) -> bool:
        """Whether replicas must confirm what it stores, and it has not shown enough of them of late."""
        now = asyncio.get_running_loop().time()
        return self.confirmation is not None and self.confirmation.stale(self.reads.server, now)

    def reconnect(self) -> None:
        self.reads.reconnect()
        self.changes.reconnect()

    async def close(self) -> None:
        await self.reads.close()
        await self.changes.close()


class Cluster:
    """Knows the primaries of all slots; nothing connects before it is asked something.

    Attributes:
        nodes: The primaries that keep any slot, as far as known.
    """

    def __init__(
        self, seeds: Sequence[ServerAddress], access: Login, confirm: Callable[[], Confirmation | None]
    ) -> None:
        """Find the nodes from some of them.

        Args:
            seeds: Nodes that are asked first, primaries or not.
            access: How to be let in by any node.
            confirm: Makes what confirms the changes at one node.
        """
        self._seeds = {
            place: CommandChannel(_connect(place, access), timeout=access.timeout) for place in seeds
        }
        self._access = access
        self._confirm = confirm
        self._timeout = access.timeout
        self._by_place: dict[ServerAddress, Node] = {}
        self._by_slot: list[Node | None] = [None] * SLOTS
        self._unused: set[ServerAddress] = set()
        self._learning: asyncio.Task[None] | None = None
        self._learnt_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self.nodes: list[Node] = []

    def node_of(self, slot: int) -> Node | None:
        """The primary that keeps a slot, as far as known."""
        return self._by_slot[slot]

    async def change(self, key: str, *command: Any) -> Any:
        """As :meth:`revoker.store.servers.Servers.change`."""
        [reply] = await self._ask(slot_of(key), [command], changing=True)
        return reply

    async def change_all(self, commands: Mapping[str, Command]) -> Replies:
        """As :meth:`revoker.store.servers.Servers.change_all`."""
        by_node: dict[Node | None, list[str]] = {}
        for key in commands:
            by_node.setdefault(self._by_slot[slot_of(key)], []).append(key)
        replies: dict[str, Any] = {}
        for node, keys in by_node.items():
            for start in range(0, len(keys), _CHUNK):
                chunk = keys[start : start + _CHUNK]
                said = await node.changes.ask([commands[key] for key in chunk]) if node else []
                replies |= zip(chunk, said, strict=False)
        for key, command in commands.items():
            if isinstance(replies.get(key, Exception()), Exception):
                replies[key] = await self.change(key, *command)
        return [replies[key] for key in commands]

    async def read(self, key: str, commands: Sequence[Command]) -> Replies:
        """As :meth:`revoker.store.servers.Servers.read`."""
        return await self._ask(slot_of(key), commands, changing=False)

    def change_unconfirmed(self, key: str, *command: Any) -> "asyncio.Future[Replies]":
        """As :meth:`revoker.store.servers.Servers.change_unconfirmed`."""

        async def send() -> Replies:
            try:
                return await self._ask(slot_of(key), [command], changing=False)
            except Refused as error:
                return [error]

        sent: asyncio.Task[Any] = asyncio.get_running_loop().create_task(send())
        self._tasks.add(sent)
        sent.add_done_callback(self._tasks.discard)
        sent.add_done_callback(retrieve)
        return sent

    async def each(self, commands: Sequence[Command]) -> list[tuple[Sequence[int], Replies]]:
        """As :meth:`revoker.store.servers.Servers.each`."""
        if not self.nodes:
            await self.learn()
        nodes = self.nodes
        replies = await asyncio.gather(*(node.reads.ask(commands) for node in nodes))
        return [(node.slots, said) for node, said in zip(nodes, replies, strict=True)]

    async def values(self, keys: Sequence[str]) -> list[bytes | None]:
        """As :meth:`revoker.store.servers.Servers.values`."""
        replies = await asyncio.gather(*(self.read(key, [("GET", key)]) for key in keys))
        return [value for [value] in replies]

    def server_of(self, key: str) -> str:
        """As :meth:`revoker.store.servers.Servers.server_of`."""
        node = self._by_slot[slot_of(key)]
        return "" if node is None else node.reads.server

    async def primaries(self) -> Mapping[str, CommandChannel]:
        """As :meth:`revoker.store.servers.Servers.primaries`."""
        await self.each([("PING",)])
        return {node.reads.server: node.reads for node in self.nodes}

    def reconnect(self) -> None:
        """End the connections; those to nodes that stay are made again."""
        for node in self.nodes:
            node.reconnect()

    async def close(self) -> None:
        """End the connections for good."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for line in self._seeds.values():
            await line.close()
        for node in self._by_place.values():
            await node.close()

    async def moved(self) -> bool:
        """Learn where the slots lie now; lookups and changes follow by themselves."""
        await self.learn()
        return False

    async def learn(self) -> None:
        """Ask which primary keeps which slot; those who ask at the same time are answered together.

        Raises:
            StoreUnavailable: nobody could say.
        """
        if self._learning is None:
            self._learning = self._start(self._learn())
            self._learning.add_done_callback(self._has_learnt)
        await asyncio.shield(self._learning)

    def learn_soon(self) -> None:
        """As :meth:`learn`, beside whatever goes on, and not too often."""
        if self._learning is None and asyncio.get_running_loop().time() - self._learnt_at > _LEARN_S:
            self._learning = self._start(self._learn())
            self._learning.add_done_callback(self._has_learnt)

    async def beat(self, key_in: Callable[[int], str]) -> None:
        """As :meth:`revoker.store.servers.Primary.beat`, at every primary by a key in one of its slots."""
        while True:
            slots = [node.slots[0] for node in self.nodes if node.slots]
            await asyncio.gather(*(self._beat(key_in(slot)) for slot in slots))
            await asyncio.sleep(Confirmation.BEAT_S)

    async def _beat(self, key: str) -> None:
        with contextlib.suppress(Refused, TooFewReplicas, ConnectionLost, NoVerdict, TimeoutError):
            await self.change(key, *Confirmation.heartbeat(key))  # of a failure the lookups tell

    async def _ask(self, slot: int, commands: Sequence[Command], *, changing: bool) -> Replies:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        asking: Node | None = None
        while True:
            if (node := asking or self._by_slot[slot]) is None:
                await self.learn()
                if (node := self._by_slot[slot]) is None:
                    raise StoreUnavailable("no primary keeps this part of the store")
            replies = await self._at(node, commands, changing=changing, asking=asking is not None)
            asking = None
            refusal = next((reply for reply in replies if isinstance(reply, Exception)), None)
            if refusal is None:
                return replies
            error = Refused(str(refusal))
            match error.code:
                case "MOVED":
                    self._follow(slot, error)
                case "ASK":
                    asking = self._node(place_in(error, node.place))
                case "TRYAGAIN" if changing:
                    await asyncio.sleep(_PAUSE_S)
                case "TRYAGAIN":
                    raise error
                case _:
                    self.learn_soon()
                    raise error
            if loop.time() > deadline:
                raise error

    async def _at(self, node: Node, commands: Sequence[Command], *, changing: bool, asking: bool) -> Replies:
        line = node.changes if changing else node.reads
        try:
            if not asking:
                return await line.ask(commands)
            return (await line.ask([each for command in commands for each in (("ASKING",), command)]))[1::2]
        except TooFewReplicas as error:
            if asking:
                raise TooFewReplicas(str(error), error.replies[1::2]) from error
            raise
        except (ConnectionLost, StoreUnavailable, TimeoutError):
            self.learn_soon()
            raise

    def _follow(self, slot: int, error: Refused) -> None:
        said_by = self._by_slot[slot]
        self._by_slot[slot] = self._node(place_in(error, said_by.place if said_by else ServerAddress()))
        self.learn_soon()

    def _node(self, place: ServerAddress) -> Node:
        node = self._by_place.get(place)
        if node is None:
            node = self._by_place[place] = Node(place, self._access, self._confirm())
        return node

    async def _learn(self) -> None:
        lines = {**self._seeds, **{place: node.reads for place, node in self._by_place.items()}}
        asked = random.sample(list(lines), min(_ASKED, len(lines)))
        views = await self._views([(place, lines[place]) for place in asked])
        if not views:
            views = await self._views([each for each in lines.items() if each[0] not in asked])
        if not views:
            raise StoreUnavailable("no node of the cluster can be reached")
        _, kept = max(views, key=lambda view: view[0])
        await self._adopt(kept)

    async def _views(
        self, lines: Iterable[tuple[ServerAddress, CommandChannel]]
    ) -> list[tuple[tuple[bool, int], dict[ServerAddress, list[range]]]]:
        tasks = [asyncio.ensure_future(_view(place, line)) for place, line in lines]
        views = []
        try:
            for answer in asyncio.as_completed(tasks):
                try:
                    views.append(await answer)
                except (Refused, ConnectionLost, NoVerdict, TimeoutError):
                    continue
                if len(views) > len(tasks) // 2:
                    break
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return views

    async def _adopt(self, kept: dict[ServerAddress, list[range]]) -> None:
        by_slot: list[Node | None] = [None] * SLOTS
        nodes = []
        for place, ranges in kept.items():
            node = self._node(place)
            node.slots = [slot for each in ranges for slot in each]
            nodes.append(node)
            for slot in node.slots:
                by_slot[slot] = node
        if {node.place for node in nodes} != {node.place for node in self.nodes}:
            _log.info("cluster", primaries=len(nodes), unkept_slots=by_slot.count(None))
        self._by_slot, self.nodes = by_slot, nodes
        unused = self._by_place.keys() - kept.keys()
        for place in unused & self._unused:  # twice: MOVED may tell of one too new for this view
            await self._by_place.pop(place).close()
        self._unused = unused - self._unused

    def _has_learnt(self, task: asyncio.Task[None]) -> None:
        self._learning = None
        self._learnt_at = asyncio.get_running_loop().time()
        if not task.cancelled():
            task.exception()  # for whoever waits; it may be that nobody does

    def _start(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def place_in(error: Refused, asked: ServerAddress) -> ServerAddress:
    """Where a ``MOVED`` or ``ASK`` sends one; a node that does not know its own host leaves that out."""
    with understood():
        host, _, port = str(error).split(" ")[2].rpartition(":")
        return ServerAddress(host or asked.host, int(port))


def _connect(place: ServerAddress, access: Login) -> Callable[[Callable[[Connection], None]], Any]:
    return lambda lost: access.connect(place, lost)


@reads_replies()
async def _view(
    place: ServerAddress, line: CommandChannel
) -> tuple[tuple[bool, int], dict[ServerAddress, list[range]]]:
    """Whether a node is sound, the latest election that it knows of, and its map of primaries to slots."""
    told, slots = await line.pipeline([("CLUSTER", "INFO"), ("CLUSTER", "SLOTS")])
    fields = parse_info(told)
    kept: dict[ServerAddress, list[range]] = {}
    for first, last, (host, port, *_), *_ in slots:
        named = host.decode() if host else ""
        kept.setdefault(ServerAddress(named if named not in {"", "?"} else place.host, port), []).append(
            range(first, last + 1)
        )
    return (fields.get("cluster_state") == "ok", int(fields.get("cluster_current_epoch", 0))), kept
