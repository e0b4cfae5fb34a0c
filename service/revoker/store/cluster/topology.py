"""The topology of a cluster: which primary has which slot, and how commands follow slots that move.

A node that is asked for a slot of another one redirects (``MOVED``, or ``ASK`` while the slot is being
moved). It has carried out nothing of the command, so that is sent again. Replicas never answer for a slot.
"""

import asyncio
import collections
import functools
import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import structlog

from revoker.errors import NoVerdict, StoreUnavailable
from revoker.store.keys import SLOTS
from revoker.store.source import WAIT_S, ServerSettings
from revoker.store.wire.addresses import login_of, parse_server_list
from revoker.store.wire.command_channel import CommandChannel, Confirmation
from revoker.store.wire.connection import (
    Command,
    Connection,
    ConnectionLost,
    Refused,
    Replies,
    TooFewReplicas,
    parse_info,
    public_message,
    reads_replies,
    retrieve_failure,
    understood,
)
from revoker.store.wire.login import Login, ServerAddress

_log = structlog.get_logger("store")

_NODES_ASKED: Final = 5
"""Nodes that are asked for the map of slots; they share it by gossip, so that a few are enough."""

_TRYAGAIN_PAUSE_S: Final = 0.01
_LEARN_INTERVAL_S: Final = 0.1
"""Minimum between two requests for the map of slots."""


class Node:
    """One primary of the cluster.

    Attributes:
        slots: Those that it has.
    """

    def __init__(self, address: ServerAddress, login: Login, confirmation: Confirmation | None) -> None:
        self.address: Final = address
        self.timeout: Final = login.timeout
        self.confirmation: Final = confirmation
        self.reads: Final = CommandChannel(self.connect, timeout=login.timeout)
        self.changes: Final = (
            CommandChannel(self.connect, timeout=login.timeout, confirmation=confirmation)
            if confirmation
            else self.reads
        )
        self.waits: Final = CommandChannel(self.connect, timeout=WAIT_S + login.timeout)
        self.slots: list[int] = []
        self._login = login

    async def connect(self, lost: Callable[[Connection], None]) -> Connection:
        return await self._login.connect(self.address, lost)

    @property
    def stale(self) -> bool:
        """Whether replicas must confirm its writes, and it had none confirmed lately."""
        now = asyncio.get_running_loop().time()
        return self.confirmation is not None and self.confirmation.stale(self.reads.server, now)

    def reconnect(self) -> None:
        self.reads.reconnect()
        self.changes.reconnect()
        self.waits.reconnect()

    async def close(self) -> None:
        await self.reads.close()
        await self.changes.close()
        await self.waits.close()


class Topology:
    """The primaries of all slots; nothing connects before something is asked.

    Attributes:
        nodes: The primaries that have any slot, as last learnt.
    """

    def __init__(self, servers: ServerSettings) -> None:
        addresses, options = parse_server_list(servers.url)
        self._servers = servers
        self._login = login_of(
            options, timeout=servers.timeout, password_file=servers.password_file, clustered=True
        )
        self._seeds = {address: self._seed(address) for address in addresses}
        self._timeout = servers.timeout
        self._by_address: dict[ServerAddress, Node] = {}
        self._by_slot: list[Node | None] = [None] * SLOTS
        self._unused: set[ServerAddress] = set()
        self._learning: asyncio.Task[None] | None = None
        self._learnt_at = 0.0
        self._failures: list[Exception] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.nodes: list[Node] = []

    def _seed(self, address: ServerAddress) -> CommandChannel:
        return CommandChannel(functools.partial(self._login.connect, address), timeout=self._servers.timeout)

    def node_of(self, slot: int) -> Node | None:
        """The primary that has a slot, as last learnt."""
        return self._by_slot[slot]

    async def primary_of(self, slot: int) -> Node:
        """As :meth:`node_of`, after asking who has it where that was not learnt.

        Raises:
            StoreUnavailable: no primary has it, or no node answered.
        """
        if (node := self._by_slot[slot]) is None:
            await self.learn()
            if (node := self._by_slot[slot]) is None:
                raise StoreUnavailable("no primary keeps this part of the store")
        return node

    async def close(self) -> None:
        """Close the connections for good."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel in self._seeds.values():
            await channel.close()
        for node in self._by_address.values():
            await node.close()

    async def renew(self) -> None:
        """As :meth:`revoker.store.wire.login.Login.renew`."""
        await self._login.renew()

    async def learn(self) -> None:
        """Ask which primary has which slot; concurrent calls share one request.

        Raises:
            StoreUnavailable: no node answered.
        """
        if self._learning is None:
            self._learning = self._start(self._learn())
            self._learning.add_done_callback(self._has_learnt)
        await asyncio.shield(self._learning)

    def learn_soon(self) -> None:
        """As :meth:`learn`, in the background, and not too often."""
        if self._learning is None and asyncio.get_running_loop().time() - self._learnt_at > _LEARN_INTERVAL_S:
            self._learning = self._start(self._learn())
            self._learning.add_done_callback(self._has_learnt)

    async def send(self, slot: int, commands: Sequence[Command], *, changing: bool) -> Replies:
        """Send commands, in one write, to the primary of a slot, following redirections.

        Args:
            slot: Of all keys of the commands.
            commands: To send.
            changing: Whether replicas must confirm them where that is required.

        Raises:
            Refused: the first error among the replies. Else as :meth:`CommandChannel.execute`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        asking: Node | None = None
        while True:
            node = asking or self._by_slot[slot] or await self.primary_of(slot)
            replies = await self._send_to(node, commands, changing=changing, asking=asking is not None)
            asking = None
            refusal = next((reply for reply in replies if isinstance(reply, Exception)), None)
            if refusal is None:
                return replies
            error = Refused(str(refusal))
            match error.code:
                case "MOVED":
                    self._follow(slot, error)
                case "ASK":
                    asking = self._node(_redirected_to(error, node.address))
                case "TRYAGAIN" if changing:
                    await asyncio.sleep(_TRYAGAIN_PAUSE_S)
                case "TRYAGAIN":
                    raise error
                case _:
                    self.learn_soon()
                    raise error
            if loop.time() > deadline:
                raise error

    async def _send_to(
        self, node: Node, commands: Sequence[Command], *, changing: bool, asking: bool
    ) -> Replies:
        channel = node.changes if changing else node.reads
        try:
            if not asking:
                return await channel.ask(commands)
            with_asking = [part for command in commands for part in (("ASKING",), command)]
            return (await channel.ask(with_asking))[1::2]
        except TooFewReplicas as error:
            if asking:
                raise TooFewReplicas(str(error), error.replies[1::2]) from error
            raise
        except (ConnectionLost, StoreUnavailable, TimeoutError):
            self.learn_soon()
            raise

    def _follow(self, slot: int, error: Refused) -> None:
        node = self._by_slot[slot]
        self._by_slot[slot] = self._node(_redirected_to(error, node.address if node else ServerAddress()))
        self.learn_soon()

    def _node(self, address: ServerAddress) -> Node:
        node = self._by_address.get(address)
        if node is None:
            node = self._by_address[address] = Node(address, self._login, self._servers.confirmation())
        return node

    async def _learn(self) -> None:
        channels = {**self._seeds, **{address: node.reads for address, node in self._by_address.items()}}
        self._failures.clear()
        asked = random.sample(list(channels), min(_NODES_ASKED, len(channels)))
        views = await self._views([(address, channels[address]) for address in asked])
        if not views:
            others = channels.keys() - asked
            views = await self._views([(address, channels[address]) for address in others])
        if not views:
            raise StoreUnavailable(self._why_unread())
        _, slots_of = max(views, key=lambda view: view[0])
        await self._adopt(slots_of)

    async def _views(
        self, channels: Iterable[tuple[ServerAddress, CommandChannel]]
    ) -> list[tuple[tuple[bool, int], dict[ServerAddress, list[range]]]]:
        tasks = [asyncio.ensure_future(_view(address, channel)) for address, channel in channels]
        views = []
        try:
            for answer in asyncio.as_completed(tasks):
                try:
                    views.append(await answer)
                except (Refused, ConnectionLost, NoVerdict, TimeoutError) as error:
                    self._failures.append(error)
                    continue
                if len(views) > len(tasks) // 2:
                    break
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return views

    def _why_unread(self) -> str:
        """Why no node says which primary has which slot; the reason that most nodes have."""
        reasons = collections.Counter(
            "cluster support disabled" if "cluster support disabled" in str(error) else public_message(error)
            for error in self._failures
        )
        [(reason, count)] = reasons.most_common(1)
        if reason == "cluster support disabled":
            return "the server is not part of a cluster: redis.url must begin with redis:// (TLS: rediss://)"
        if reason == "the store can't be reached":
            return "no node of the cluster can be reached"
        return f"no node of the cluster can be used ({count} of {reasons.total()}: {reason})"

    @reads_replies()
    async def _adopt(self, slots_of: dict[ServerAddress, list[range]]) -> None:
        by_slot: list[Node | None] = [None] * SLOTS
        nodes = []
        for address, ranges in slots_of.items():
            node = self._node(address)
            node.slots = list(itertools.chain.from_iterable(ranges))
            nodes.append(node)
            for slot in node.slots:
                by_slot[slot] = node
        if {node.address for node in nodes} != {node.address for node in self.nodes}:
            _log.info("cluster", primaries=len(nodes), unkept_slots=by_slot.count(None))
        self._by_slot, self.nodes = by_slot, nodes
        unused = self._by_address.keys() - slots_of.keys()
        for address in unused & self._unused:  # unused twice: MOVED may name one that is too new for this map
            await self._by_address.pop(address).close()
        self._unused = unused - self._unused

    def _has_learnt(self, task: asyncio.Task[None]) -> None:
        self._learning = None
        self._learnt_at = asyncio.get_running_loop().time()
        retrieve_failure(task)

    def _start(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _redirected_to(error: Refused, asked: ServerAddress) -> ServerAddress:
    """The address in ``MOVED`` or ``ASK``; its host is empty if the node does not know its own."""
    with understood():
        host, _, port = str(error).split(" ")[2].rpartition(":")
        return ServerAddress(host or asked.host, int(port))


@reads_replies()
async def _view(
    address: ServerAddress, channel: CommandChannel
) -> tuple[tuple[bool, int], dict[ServerAddress, list[range]]]:
    """Whether a node's cluster state is ok, its latest election epoch, and its map of primaries to slots."""
    cluster_info, slots = await channel.pipeline([("CLUSTER", "INFO"), ("CLUSTER", "SLOTS")])
    fields = parse_info(cluster_info)
    slots_of: dict[ServerAddress, list[range]] = {}
    for first, last, (host, port, *_), *_ in slots:
        name = host.decode() if host else ""
        primary = ServerAddress(name if name not in {"", "?"} else address.host, port)
        slots_of.setdefault(primary, []).append(range(first, last + 1))
    return (fields.get("cluster_state") == "ok", int(fields.get("cluster_current_epoch", 0))), slots_of
