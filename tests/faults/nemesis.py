"""Faults of servers, instances and the network between them; every one is repaired again."""

import asyncio
import contextlib
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tests.faults import append_only
from tests.faults.campaign import RECOVERY_S, Campaign, Deed, Plan
from tests.faults.instances import Instance
from tests.rig.topologies import Cluster, Node, Replicated, Sentinels

Act = Callable[[Campaign, Deed], Awaitable[None]]


@dataclass(frozen=True)
class Deeds:
    """A kind of fault: what it does, in words, where it can happen, and whether it needs edges.

    Attributes:
        promotes: Whether a replica takes over: where all replicas confirm, nothing acknowledged is lost then.
        everywhere: Whether it happens to all servers, one after the other: each of them is one fault.
    """

    act: Act
    topologies: frozenset[str]
    loses: bool
    says: str
    edges: bool = False
    promotes: bool = False
    everywhere: bool = False

    def can_lose(self, plan: Plan) -> bool:
        """Whether acknowledged revocations may be lost by it."""
        return self.loses and not (self.promotes and plan.wait_replicas >= plan.replicas)


DEEDS: dict[str, Deeds] = {}
ALL = ("single", "replicated", "sentinel", "cluster")
WITH_REPLICAS = ("replicated", "sentinel", "cluster")


def deed(
    name: str,
    *topologies: str,
    loses: bool = False,
    edges: bool = False,
    promotes: bool = False,
    everywhere: bool = False,
) -> Callable[[Act], Act]:
    def enter(act: Act) -> Act:
        says = " ".join((act.__doc__ or "").split())
        DEEDS[name] = Deeds(act, frozenset(topologies), loses, says, edges, promotes, everywhere)
        return act

    return enter


def possible(topology: str, *, edges: bool = False) -> list[str]:
    """Those that can happen there, and those of edges where there are any."""
    return [
        name
        for name, deed_kind in DEEDS.items()
        if topology in deed_kind.topologies and (edges or not deed_kind.edges)
    ]


async def commit(run: Campaign, name: str) -> None:
    """Do one deed, and wait until the service has recovered from it."""
    kind = DEEDS[name]
    for node in list(run.topology.nodes) if kind.everywhere else [None]:
        async with run.fault(name, loses=kind.can_lose(run.plan), node=node) as done:
            await kind.act(run, done)


def _one_primary(run: Campaign) -> Node:
    topology = run.topology
    return run.rng.choice(topology.primaries()) if isinstance(topology, Cluster) else topology.primary


def _replicas(run: Campaign, primary: Node) -> list[Node]:
    topology = run.topology
    return topology.replicas_of(primary) if isinstance(topology, Cluster) else topology.replicas


async def pause(run: Campaign, least: float, most: float) -> None:
    await asyncio.sleep(run.rng.uniform(least, most))


async def healthy(run: Campaign) -> None:
    await asyncio.to_thread(run.topology.await_health)


def between(run: Campaign, some: list[str], others: list[str], state: str) -> None:
    for one in some:
        for other in others:
            run.network.between(one, other, state)
            run.network.between(other, one, state)


@deed("kill", *ALL)
async def kill(run: Campaign, _: Deed) -> None:
    """SIGKILL of a primary, which comes back at once with all that it had on disk."""
    node = _one_primary(run)
    node.kill()
    await pause(run, 0.0, 0.4)
    await asyncio.to_thread(run.topology.revive, node)
    await healthy(run)


@deed("hang", *ALL)
async def hang(run: Campaign, _: Deed) -> None:
    """SIGSTOP of a primary for less time than it takes to be replaced."""
    node = _one_primary(run)
    node.hang()
    await pause(run, 0.1, 1.0)
    node.resume()
    await healthy(run)


@deed("flush", *ALL, loses=True)
async def flush(run: Campaign, done: Deed) -> None:
    """FLUSHALL of a primary."""
    node = _one_primary(run)
    done.of_ended = await asyncio.to_thread(run.holds_of_ended, node)
    with node.client() as client:
        await asyncio.to_thread(client.flushall)
    done.promoted = time.monotonic()


@deed("empty", *ALL, loses=True)
async def empty(run: Campaign, done: Deed) -> None:
    """SIGKILL of a primary, which comes back at once with an empty disk."""
    node = _one_primary(run)
    done.of_ended = await asyncio.to_thread(run.holds_of_ended, node)
    node.kill()
    _lose(run, node)
    await asyncio.to_thread(run.topology.revive, node)
    await healthy(run)


def _lose(run: Campaign, node: Node) -> None:
    """All of its data, but not what it knows of its cluster."""
    shutil.rmtree(node.folder / "appendonlydir", ignore_errors=True)


@deed("snapshot", "single", "replicated", "sentinel", loses=True)
async def snapshot(run: Campaign, _: Deed) -> None:
    """A primary comes back with the data that it had a second ago.

    Not in a cluster, where an instance may last have read the numbers of a slot 16 s ago: until one that knew
    more has read the restored slot, it may say active (docs/reliability.md, "What can't be noticed at once").
    """
    node = _one_primary(run)
    copy = run.folder / "snapshot"
    shutil.rmtree(copy, ignore_errors=True)
    await asyncio.to_thread(shutil.copytree, node.folder / "appendonlydir", copy)
    await pause(run, 0.5, 1.5)
    node.kill()
    _lose(run, node)
    shutil.copytree(copy, node.folder / "appendonlydir")
    await asyncio.to_thread(run.topology.revive, node)
    await healthy(run)


@deed("cut-tail", "single", loses=True)
async def cut_tail(run: Campaign, done: Deed) -> None:
    """SIGKILL of a primary under ``appendfsync everysec``; the end of its file is gone, maybe half a command.

    Every instance had read what is lost.
    """
    async with run.clients.all_read({instance.name for instance in run.instances}, RECOVERY_S):
        await _cut_tail(run, done)


@deed("cut-tail-at-once", "single", loses=True)
async def cut_tail_at_once(run: Campaign, done: Deed) -> None:
    """As ``cut-tail``, at any moment: some instances may not have read what others had acknowledged."""
    await _cut_tail(run, done)


@deed("cut-tail-unread", "single", loses=True)
async def cut_tail_unread(run: Campaign, done: Deed) -> None:
    """As ``cut-tail``, and one instance had read nothing of what is lost; the others come back late."""
    node, behind = _one_primary(run), run.rng.choice(run.instances).name
    others = [instance.name for instance in run.instances if instance.name != behind]
    between(run, [behind], [node.name], "hold")
    await pause(run, 0.3, 0.8)
    _cut(run, node)
    run.network.heal()
    between(run, others, [node.name], "hold")
    await asyncio.to_thread(run.topology.revive, node)
    done.promoted = time.monotonic()
    await pause(run, 0.3, 0.8)
    run.network.heal()
    await healthy(run)


async def _cut_tail(run: Campaign, done: Deed) -> None:
    node = _one_primary(run)
    await _write_every_second(node)
    _cut(run, node)
    await asyncio.to_thread(run.topology.revive, node)
    done.promoted = time.monotonic()
    await healthy(run)


def _cut(run: Campaign, node: Node) -> None:
    """Kill a server, and cut off the end of its file, maybe within a command."""
    node.kill()
    file = append_only.latest_file(node.folder)
    starts = append_only.starts(file.read_bytes())
    place = starts[-run.rng.randint(1, min(40, len(starts) - 1))]
    append_only.cut(file, place + run.rng.choice([0, run.rng.randint(1, 20)]))


async def _write_every_second(node: Node) -> None:
    with node.client() as client:
        await asyncio.to_thread(client.config_set, "appendfsync", "everysec")


@deed("writer-and-tail", "single", loses=True)
async def writer_and_tail(run: Campaign, done: Deed) -> None:
    """SIGKILL of an instance, and of the primary, whose file ends before the last that the instance wrote."""
    node, writer = _one_primary(run), run.rng.choice(run.instances)
    others = {instance.name for instance in run.instances} - {writer.name}
    await _write_every_second(node)
    with run.absent(writer):
        # what no other process has read would be lost without a sign
        async with run.clients.all_read(others, RECOVERY_S):
            acknowledged = run.clients.last_acknowledged(writer.name, "jti")
            writer.kill()
            node.kill()
            file = append_only.latest_file(node.folder)
            place = append_only.start_of(file.read_bytes(), acknowledged.encode())
            append_only.cut(file, place + run.rng.choice([0, run.rng.randint(1, 20)]))
            await asyncio.to_thread(run.topology.revive, node)
        done.promoted = time.monotonic()
        await healthy(run)
        await run.clients.gives_verdicts(others, time.monotonic(), RECOVERY_S)
        await asyncio.to_thread(writer.start)


@deed("rolling-restart", "sentinel", "cluster", everywhere=True)
async def rolling_restart(run: Campaign, done: Deed) -> None:
    """SIGTERM of every server, one after the other; each is back and in sync before the next one ends."""
    node = done.node
    assert node is not None
    was_primary = await asyncio.to_thread(lambda: node.primary)
    await asyncio.to_thread(node.end)
    await asyncio.to_thread(run.topology.revive, node)
    if was_primary:
        done.promoted = time.monotonic()
    await healthy(run)


@deed("cut-off", *ALL)
async def cut_off(run: Campaign, _: Deed) -> None:
    """Nothing passes between a primary and the instances for a while."""
    names = [instance.name for instance in run.instances]
    between(run, names, [_one_primary(run).name], "hold")
    await pause(run, 0.3, 1.2)
    run.network.heal()


@deed("cut-off-one", *ALL)
async def cut_off_one(run: Campaign, _: Deed) -> None:
    """Nothing passes between a primary and one instance for a while, one way or both."""
    instance, node = run.rng.choice(run.instances).name, _one_primary(run).name
    for pair in run.rng.choice(
        [((instance, node),), ((node, instance),), ((instance, node), (node, instance))]
    ):
        run.network.between(*pair, "hold")
    await pause(run, 0.3, 1.2)
    run.network.heal()


@deed("reset", *ALL)
async def reset(run: Campaign, _: Deed) -> None:
    """Every connection to the primary ends by an RST, and so do new ones for a moment."""
    run.network.between("*", _one_primary(run).name, "reset")
    await pause(run, 0.0, 0.2)
    run.network.heal()


@deed("slow", *ALL)
async def slow(run: Campaign, _: Deed) -> None:
    """All that instances and a primary send each other is late, up to beyond the time-out."""
    late, node = run.rng.uniform(0.02, 0.3), _one_primary(run).name
    for instance in run.instances:
        run.network.between(instance.name, node, delay=late)
        run.network.between(node, instance.name, delay=late)
    await pause(run, 0.5, 1.5)
    run.network.heal()


@deed("kill-instance", *ALL)
async def kill_instance(run: Campaign, _: Deed) -> None:
    """SIGKILL of an instance of the service, which is started again."""
    instance = run.rng.choice(run.instances)
    with run.absent(instance):
        instance.kill()
        await pause(run, 0.0, 0.5)
        await asyncio.to_thread(instance.start)


@deed("hang-instance", *ALL)
async def hang_instance(run: Campaign, _: Deed) -> None:
    """SIGSTOP of an instance of the service for a while."""
    instance = run.rng.choice(run.instances)
    with run.absent(instance):
        instance.send_signal(signal.SIGSTOP)
        await pause(run, 0.2, 1.5)
        instance.send_signal(signal.SIGCONT)


@deed("cut-replicas", *WITH_REPLICAS)
async def cut_replicas(run: Campaign, _: Deed) -> None:
    """Nothing passes between a primary and its replicas: with ``wait_replicas`` nothing is acknowledged."""
    node = _one_primary(run)
    between(run, [node.name], [replica.name for replica in _replicas(run, node)], "hold")
    whole = run.plan.wait_replicas > 0 and run.plan.topology != "cluster"
    if whole:
        with run.isolated(*run.instances):
            await pause(run, 0.5, 1.2)
    else:
        await pause(run, 0.5, 1.2)
    run.network.heal()
    await healthy(run)


@deed("lag", *WITH_REPLICAS)
async def lag(run: Campaign, _: Deed) -> None:
    """What a primary sends to its replicas is late."""
    node = _one_primary(run)
    for replica in _replicas(run, node):
        run.network.between(node.name, replica.name, delay=run.rng.uniform(0.02, 0.1))
    await pause(run, 1.0, 2.0)
    run.network.heal()


@deed("failover", *WITH_REPLICAS, loses=True, promotes=True)
async def failover(run: Campaign, done: Deed) -> None:
    """SIGKILL of a primary while its replicas lag, or are in step; one of them takes its place."""
    first = _one_primary(run)
    await _strike(run, first)
    await asyncio.to_thread(run.topology.replace, first)
    done.promoted = time.monotonic()
    await asyncio.to_thread(run.topology.revive, first)
    await healthy(run)


@deed("blackout", *WITH_REPLICAS, loses=True, promotes=True)
async def blackout(run: Campaign, done: Deed) -> None:
    """SIGKILL of a primary while its replicas lag, or are in step, and of every instance; all come back."""
    first = _one_primary(run)
    with contextlib.ExitStack() as stack:
        for instance in run.instances:
            stack.enter_context(run.absent(instance))
        await _strike(run, first, also=run.instances)
        await asyncio.to_thread(run.topology.replace, first)
        done.promoted = time.monotonic()
        for instance in run.instances:
            await asyncio.to_thread(instance.start)
    await asyncio.to_thread(run.topology.revive, first)
    await healthy(run)


async def _strike(run: Campaign, primary: Node, *, also: Sequence[Instance] = ()) -> None:
    """Kill a primary, so that what was on its way to the replicas is lost, and instances with it."""
    names = [replica.name for replica in _replicas(run, primary)]
    if run.rng.random() < 0.8:
        between(run, [primary.name], names, "hold")
        await pause(run, 0.05, 0.3)
    primary.kill()
    for server in also:
        server.kill()
    between(run, [primary.name], names, "reset")
    run.network.heal()


@deed("empty-replica", "replicated", loses=True)
async def empty_replica(run: Campaign, done: Deed) -> None:
    """A replica that has lost its disk, and is cut off from its primary, takes its place."""
    topology = run.topology
    assert isinstance(topology, Replicated)
    first, replica = topology.primary, run.rng.choice(topology.replicas)
    done.of_ended = await asyncio.to_thread(run.holds_of_ended, first)
    between(run, [first.name], [replica.name], "reset")
    replica.kill()
    _lose(run, replica)
    await asyncio.to_thread(run.topology.revive, replica)
    await pause(run, 0.1, 0.5)
    first.kill()
    topology.promote(replica)
    done.promoted = time.monotonic()
    run.network.heal()
    await asyncio.to_thread(topology.revive, first)
    await healthy(run)


@deed("depose", "sentinel", "cluster", loses=True, promotes=True)
async def depose(run: Campaign, done: Deed) -> None:
    """SIGSTOP of a primary until a replica has taken its place; then it goes on, and knows of nothing."""
    first = _one_primary(run)
    first.hang()
    await asyncio.to_thread(run.topology.replace, first)
    done.promoted = time.monotonic()
    first.resume()
    await healthy(run)


@deed("minority", "sentinel", "cluster", loses=True, promotes=True)
async def minority(run: Campaign, done: Deed) -> None:
    """A primary, one instance and one Sentinel are cut off from all others, who promote a replica."""
    await _divided(run, done, replicas_too=True)


@deed("half-minority", "sentinel", "cluster", loses=True, promotes=True)
async def half_minority(run: Campaign, done: Deed) -> None:
    """As ``minority``, but the primary and its replicas can still talk to each other."""
    await _divided(run, done, replicas_too=False)


async def _divided(run: Campaign, done: Deed, *, replicas_too: bool) -> None:
    topology, first, alone = run.topology, _one_primary(run), run.rng.choice(run.instances)
    sentinels = topology.sentinels if isinstance(topology, Sentinels) else []
    here = [
        first.name,
        alone.name,
        *[server.name for server in run.rng.sample(sentinels, min(1, len(sentinels)))],
    ]
    parties = [server.name for server in (*topology.nodes, *sentinels, *run.instances)]
    between(run, here, [name for name in parties if name not in here], "hold")
    if not replicas_too:
        between(run, [first.name], [replica.name for replica in _replicas(run, first)], "pass")
    await asyncio.sleep(0.3)  # what was under way before may still be acknowledged
    with run.isolated(*([alone] if replicas_too and run.plan.wait_replicas else [])):
        await asyncio.to_thread(topology.replace, first)
        done.promoted = time.monotonic()
        await pause(run, 1.0, 4.0)
    run.network.heal()
    await healthy(run)


@deed("reshard", "cluster")
async def reshard(run: Campaign, _: Deed) -> None:
    """Some slots move from one primary to another, with all their keys."""
    topology = run.topology
    assert isinstance(topology, Cluster)
    source, target = run.rng.sample(topology.primaries(), 2)
    slots = [
        slot
        for first, *last in topology.seen_by(source)[source.public]["slots"]
        for slot in range(int(first), int((last or [first])[0]) + 1)
    ]
    begin = run.rng.randrange(len(slots))
    await asyncio.to_thread(topology.move_slots, source, target, slots[begin : begin + 40])
    await healthy(run)


@deed("hand-over", *WITH_REPLICAS)
async def hand_over(run: Campaign, done: Deed) -> None:
    """A planned failover: ``FAILOVER``, ``SENTINEL FAILOVER`` or ``CLUSTER FAILOVER``."""
    await asyncio.to_thread(run.topology.fail_over, _one_primary(run))
    done.promoted = time.monotonic()
    await healthy(run)


@deed("hand-over-coordinated", "sentinel")
async def hand_over_coordinated(run: Campaign, done: Deed) -> None:
    """``SENTINEL FAILOVER main COORDINATED`` (from Valkey 9.0 on): the primary itself becomes a replica."""
    topology = run.topology
    assert isinstance(topology, Sentinels)
    await asyncio.to_thread(topology.fail_over, topology.primary, "COORDINATED")
    done.promoted = time.monotonic()
    await healthy(run)


@deed("grow", "cluster")
async def grow(run: Campaign, _: Deed) -> None:
    """A primary with its replicas joins, takes over much of what two others keep, and later leaves again."""
    topology = run.topology
    assert isinstance(topology, Cluster)
    givers = run.rng.sample(topology.primaries(), 2)
    fresh = await asyncio.to_thread(topology.join)
    replicas = [await asyncio.to_thread(topology.join, fresh) for _ in range(run.plan.replicas)]
    for giver in givers:
        ranges = topology.slots_of(giver)
        first, last = max(ranges, key=lambda limits: limits[1] - limits[0])
        await asyncio.to_thread(topology.migrate_slots, giver, fresh, [(first, (first + last) // 2)])
    await pause(run, 0.2, 1.0)
    await asyncio.to_thread(topology.migrate_slots, fresh, givers[0], topology.slots_of(fresh))
    await healthy(run)
    for node in (*replicas, fresh):
        await asyncio.to_thread(topology.leave, node)
    await healthy(run)
