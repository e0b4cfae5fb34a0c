"""What one look at the store costs the watch."""

import asyncio
import collections
import contextlib

import pytest

from revoker.store.keys import SLOTS
from tests.rig.network import Network
from tests.rig.probes import eventually
from tests.rig.topologies import NO_FAILOVER, Cluster
from tests.store.conftest import opened, store_on


@pytest.fixture
def cluster(tmp_path):
    """One primary with all slots."""
    with Network() as network:
        started = Cluster(network, tmp_path / "cluster", primaries=1, replicas=0, options=NO_FAILOVER)
        try:
            started.start()
            yield started
        finally:
            started.stop()


@contextlib.contextmanager
def counted_tasks():
    """Counts the tasks that are created in the block, by the name of their coroutine."""
    loop, made = asyncio.get_running_loop(), collections.Counter()

    def factory(loop, coroutine, **options):
        made[coroutine.__qualname__] += 1
        return asyncio.Task(coroutine, loop=loop, **options)

    loop.set_task_factory(factory)
    try:
        yield made
    finally:
        loop.set_task_factory(None)


async def test_slots_without_blocks_that_have_ended_cost_no_task(cluster, prefix):
    declaring = store_on(cluster, prefix)
    assert await declaring.init()
    await declaring.close()
    with counted_tasks() as made:
        async with opened(store_on(cluster, prefix)) as store:
            await eventually(lambda: _has_read(store))  # its first look is at all slots
            assert made.total() < SLOTS / 10, made.most_common(3)
            assert len(await store.readings()) == SLOTS


async def _has_read(store):
    return store.watch.reached
