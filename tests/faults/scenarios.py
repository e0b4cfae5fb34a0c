"""Orders of events that rarely occur by chance, and in which a broken proof of a repair loses revocations.

No requests are made but those of the scenario.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from revoker.store.instances import RUNNING_MS
from revoker.store.keys import slot_of
from revoker.store.scripts import DIGESTS
from tests.faults import append_only, history
from tests.faults.campaign import RECOVERY_S, Campaign, store_key
from tests.faults.history import Fault, Introspected, Token, Violation
from tests.faults.nemesis import between, healthy
from tests.rig.reply_proxy import Hold, ReplyProxy
from tests.rig.topologies import Cluster, Node

Scenario = Callable[[Campaign], Awaitable[None]]

INSTANCES = "rv:instances"
"""The list of running processes."""

_TRIES = 4
"""Of an introspection while a loss is being repaired; each waits for half a second."""


async def play(run: Campaign, scenario: Scenario) -> list[Violation]:
    """Carry out a scenario; returns violations."""
    async with run.clients:
        await scenario(run)
    run.note_cutoffs()
    return history.check(run.history)


async def vouched_before_written_back(run: Campaign) -> None:
    """The store is flushed, and what an instance is to write back is late. Another one only has read it."""
    node, clients = run.topology.nodes[0], run.clients
    async with ReplyProxy.before(node.port) as proxy:
        run.topology.lead_to(proxy.port)
        token = await _revoked(run, "a")
        await _verdict(run, "b", token)
        hold = proxy.holds[f"EVALSHA {DIGESTS['refill'].upper()}"] = Hold()
        async with _loss(run):
            with node.client() as client:
                client.flushall()
            async with asyncio.timeout(RECOVERY_S):
                await hold.reached.wait()
            for _ in range(_TRIES):
                await clients.introspect("b", token)
            hold.released.set()
            await _verdict(run, "a", token)
            await _verdict(run, "b", token)


async def counted_in_a_loss(run: Campaign) -> None:
    """A revocation is lost. Before its writer notices, it makes another in that slot; the reply is late."""
    node, lost, later, elsewhere = _tokens_of_one_server(run)
    await _revoked(run, "a", lost)
    await _verdict(run, "b", lost)
    async with _loss(run):
        between(run, ["a", "b"], [node.name], "hold")
        await _restart_without(run, node, lost)
        run.network.heal()
        await _revoked(run, "a", elsewhere)  # it is connected again
        await _verdict(run, "b", elsewhere)
        run.network.between(node.name, "a", "hold")
        revoking = asyncio.create_task(run.clients.revoke("a", later, "jti"))
        await _until(lambda: _has(node, later))
        await run.clients.introspect("b", lost)
        run.network.heal()
        await revoking
        await _verdict(run, "a", lost)
        await _verdict(run, "b", lost)


async def replaced_in_the_total(run: Campaign) -> None:
    """A revocation of a process that has ended is lost, and another process makes one in that slot.

    The third process, which knew of the lost one, finds as many as before.
    """
    node, lost, later, elsewhere = _tokens_of_one_server(run)
    writer = run.instances[2]
    between(run, ["b"], [node.name], "hold")
    with run.absent(writer):
        async with _loss(run):
            await _revoked(run, "c", lost)
            await _verdict(run, "a", lost)
            await asyncio.to_thread(writer.end)
            await _until(lambda: _departure_is_read(run))
            between(run, ["a"], [node.name], "hold")
            await _restart_without(run, node, lost)
            between(run, ["b"], [node.name], "pass")
            await _verdict(run, "b", elsewhere)
            await _revoked(run, "b", later)
            run.network.heal()
            await _verdict(run, "a", lost)
            await _verdict(run, "b", lost)


@contextlib.asynccontextmanager
async def _loss(run: Campaign) -> AsyncIterator[None]:
    """Record a fault by which something acknowledged is lost."""
    start = time.monotonic()
    yield
    end = time.monotonic()
    run.history.append(Fault("scenario", start, end, end))


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(RECOVERY_S):
        while not await condition():
            await asyncio.sleep(0.01)


async def _revoked(run: Campaign, instance: str, token: Token | None = None) -> Token:
    """A token that an instance has revoked."""
    token = token or run.clients.fresh_token()
    await _until(lambda: run.clients.revoke(instance, token, "jti"))
    return token


async def _verdict(run: Campaign, instance: str, token: Token) -> None:
    """Introspect a token until there is a verdict."""

    async def given() -> bool:
        await run.clients.introspect(instance, token)
        last = run.history[-1]
        return isinstance(last, Introspected) and last.status == 200

    await _until(given)


async def _departure_is_read(run: Campaign) -> bool:
    """Whether the other processes have entered themselves since one has left: then they read that, too.

    Where the store was too slow for the one that left to say so, they take it for ended after a time.
    """
    with _owner(run, INSTANCES).client() as client:
        entries = [entry.split(" ", 2) for entry in client.hgetall(INSTANCES).values()]
    present = [int(at) for at, _, parts in entries if parts != "left"]
    departures = [int(at) for at, _, parts in entries if parts == "left"]
    if departures:
        return min(present) > max(departures)
    return max(present) - min(present) > RUNNING_MS + 2000


async def _has(node: Node, token: Token) -> bool:
    with node.client() as client:
        return bool(client.exists(store_key("jti", token.jti)))


async def _restart_without(run: Campaign, node: Node, token: Token) -> None:
    """SIGKILL of a server, which comes back without the revocation of a token and all that it did later."""
    node.kill()
    file = append_only.latest_file(node.folder)
    append_only.cut(file, append_only.start_of(file.read_bytes(), store_key("jti", token.jti).encode()))
    await asyncio.to_thread(run.topology.revive, node)
    await healthy(run)


def _slots(run: Campaign) -> dict[int, Node]:
    """Who has each slot."""
    topology = run.topology
    assert isinstance(topology, Cluster)
    return {
        slot: node
        for node in topology.primaries()
        for first, last in topology.slots_of(node)
        for slot in range(first, last + 1)
    }


def _owner(run: Campaign, key: str) -> Node:
    return _slots(run)[slot_of(key)]


def _tokens_of_one_server(run: Campaign) -> tuple[Node, Token, Token, Token]:
    """A server without the list of running processes, two tokens of one of its slots, one of another."""
    slots = _slots(run)
    listing = slots[slot_of(INSTANCES)]
    found: dict[int, Token] = {}
    while True:
        token = run.clients.fresh_token()
        slot = slot_of(store_key("jti", token.jti))
        if slots[slot] is listing:
            continue
        others = [other for other in found if slots[other] is slots[slot] and other != slot]
        if slot in found and others:
            return slots[slot], found[slot], token, found[others[0]]
        found[slot] = token
