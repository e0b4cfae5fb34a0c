"""Faults of edges, of the network between them and the service, and of what they follow."""

import asyncio
import contextlib
import signal

from redis.exceptions import MovedError

from tests.faults import clocks
from tests.faults.campaign import Campaign, Deed
from tests.faults.nemesis import ALL, between, deed, healthy, pause
from tests.rig.topologies import Cluster

JOURNAL = "rv:journal"
"""In a cluster it is in one slot: one primary has it."""


def _instances(run: Campaign) -> list[str]:
    return [instance.name for instance in run.instances]


@deed("kill-edge", *ALL, edges=True)
async def kill_edge(run: Campaign, _: Deed) -> None:
    """SIGKILL of an edge, which is started again."""
    edge = run.rng.choice(run.edges)
    with run.edge_absent(edge):
        edge.kill()
        await pause(run, 0.0, 0.5)
        await asyncio.to_thread(edge.start)


@deed("hang-edge", *ALL, edges=True)
async def hang_edge(run: Campaign, _: Deed) -> None:
    """SIGSTOP of an edge, also for longer than it may be behind."""
    edge = run.rng.choice(run.edges)
    with run.edge_absent(edge):
        edge.send_signal(signal.SIGSTOP)
        await pause(run, 0.2, 4.0)
        edge.send_signal(signal.SIGCONT)


@deed("slow-consumer", *ALL, edges=True)
async def slow_consumer(run: Campaign, _: Deed) -> None:
    """An edge that has a tenth of its time: SIGSTOP and SIGCONT in turn."""
    edge = run.rng.choice(run.edges)
    with run.edge_absent(edge):
        for _again in range(run.rng.randint(4, 10)):
            edge.send_signal(signal.SIGSTOP)
            await asyncio.sleep(0.27)
            edge.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.03)


@deed("cut-edge", *ALL, edges=True)
async def cut_edge(run: Campaign, _: Deed) -> None:
    """Nothing passes between an edge and the instances for a while, one way or both; it all arrives later."""
    edge = run.rng.choice(run.edges).name
    for pair in run.rng.choice([((edge, "*"),), (("*", edge),), ((edge, "*"), ("*", edge))]):
        for instance in _instances(run):
            run.network.between(*[instance if end == "*" else end for end in pair], "hold")
    await pause(run, 0.5, 4.0)
    run.network.heal()


@deed("cut-edge-one", *ALL, edges=True)
async def cut_edge_one(run: Campaign, _: Deed) -> None:
    """Nothing passes between an edge and one instance for a while: it turns to another."""
    between(run, [run.rng.choice(run.edges).name], [run.rng.choice(_instances(run))], "hold")
    await pause(run, 0.5, 4.0)
    run.network.heal()


@deed("reset-edge", *ALL, edges=True)
async def reset_edge(run: Campaign, _: Deed) -> None:
    """Every connection of an edge to the instances ends by an RST, and so do new ones for a moment."""
    between(run, [run.rng.choice(run.edges).name], _instances(run), "reset")
    await pause(run, 0.0, 0.5)
    run.network.heal()


@deed("slow-edge", *ALL, edges=True)
async def slow_edge(run: Campaign, _: Deed) -> None:
    """All that edges and instances send each other is late, up to later than an edge may be behind."""
    there, back = run.rng.uniform(0.0, 0.5), run.rng.choice([0.1, 0.7, 2.5])
    for edge in run.edges:
        for instance in _instances(run):
            run.network.between(edge.name, instance, delay=there)
            run.network.between(instance, edge.name, delay=back)
    await pause(run, 1.0, 5.0)
    run.network.heal()


@deed("slow-and-blind", *ALL, edges=True)
async def slow_and_blind(run: Campaign, done: Deed) -> None:
    """As ``slow-edge``, and nothing passes between one instance and the store meanwhile."""
    nodes = [node.name for node in run.topology.nodes]
    between(run, [run.rng.choice(_instances(run))], nodes, "hold")
    await slow_edge(run, done)
    await healthy(run)


@deed("trim", *ALL, edges=True)
async def trim(run: Campaign, _: Deed) -> None:
    """The journal loses all of its entries, so that no cursor can be served."""
    topology = run.topology
    nodes = topology.primaries() if isinstance(topology, Cluster) else [topology.primary]
    for node in nodes:
        with node.client() as client, contextlib.suppress(MovedError):  # another node has its slot
            await asyncio.to_thread(client.delete, JOURNAL)


@deed("step-store-clock", *ALL, edges=True)
async def step_store_clock(run: Campaign, _: Deed) -> None:
    """The store's clock, as the feed has it, is set forward, and later set right again."""
    ahead = run.rng.choice([0.4, 3.0, 25.0])
    run.set_store_clock(0.0, ahead)
    await pause(run, 0.2, 5.0)
    run.set_store_clock(ahead, 0.0)


@deed("step-edge-clock", *ALL, edges=True)
async def step_edge_clock(run: Campaign, _: Deed) -> None:
    """The wall clock of an edge's machine is set forward or back, and later set right again."""
    edge = run.rng.choice(run.edges)
    clocks.put_ahead(edge.wall, run.rng.choice([-600.0, -1.5, 0.5, 1.5, 600.0]))
    await pause(run, 0.2, 3.0)
    clocks.put_ahead(edge.wall, 0.0)
