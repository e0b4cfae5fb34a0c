"""What the watch learns before anything is revoked, and what one look at the store costs it."""

import asyncio
import collections
import contextlib

import pytest

from revoker.errors import StoreRefused
from revoker.models import Issuer
from revoker.store.keys import SLOTS, user_tag
from tests.rig.network import Network
from tests.rig.probes import eventually
from tests.rig.reply_proxy import ReplyProxy
from tests.rig.topologies import NO_FAILOVER, Cluster
from tests.store.conftest import MAIN, opened, store_on


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


OWN = Issuer(name="sessions", iss="https://sessions.example.com", own=True)


@pytest.fixture
async def proxy(valkey):
    async with ReplyProxy.before(valkey.port) as made:
        yield made


async def now_of(store):
    return (await store.readings())[0].now


async def test_nothing_is_revoked_before_the_latest_time_of_the_store_is_read(valkey, proxy, prefix):
    """The watch fails after it has read the issuers: what it needs for a revocation it must have by then."""
    declaring = store_on(valkey, prefix, issuers=[OWN])
    assert await declaring.init()
    latest = await now_of(declaring) + 20_000
    with valkey.client() as client:
        client.set(declaring.keys.latest, latest, px=60_000)
    await declaring.close()
    proxy.rules["INFO STATS"] = b"no reply of Redis\r\n"  # ends the connection
    store = store_on(proxy, prefix, issuers=[OWN])
    cutoffs = []

    async def revoked():
        try:
            cutoffs.append(await store.revocations.revoke_issuer(OWN, before=None, reason=""))
        except StoreRefused:
            return False
        return True

    store.open()
    try:
        await eventually(revoked)
    finally:
        await store.close()
    assert cutoffs[0] >= latest


async def test_a_shared_time_that_no_server_can_have_had_is_replaced(valkey, prefix):
    store = store_on(valkey, prefix, issuers=[OWN])
    await store.init()
    async with opened(store, watched=False):
        with valkey.client() as client:
            for text in ("soon", "1" * 5000, str(10**15)):
                client.set(store.keys.latest, text)
                await store.watch.beat()
                await eventually(lambda client=client: is_shared(store, client))
                assert client.pttl(store.keys.latest) > 0


async def is_shared(store, client):
    text = client.get(store.keys.latest)
    return text.isdigit() and int(text) <= await now_of(store)


async def test_a_shared_time_only_grows(valkey, prefix):
    store = store_on(valkey, prefix, issuers=[OWN])
    await store.init()
    async with opened(store, watched=False):
        now = await now_of(store)
        shared = []
        with valkey.client() as client:
            for latest in (now, now - 1, now + 20_000, now + 10_000):
                await store.revocations.share_latest_time(latest)
                shared.append(int(client.get(store.keys.latest)))
    assert shared == [now, now, now + 20_000, now + 20_000]


async def test_a_revocation_that_vanishes_again_and_again_is_one_loss(valkey, prefix):
    """Otherwise the cutoff of the loss would move once a second, and nobody could stay logged in."""
    store = store_on(valkey, prefix)
    await store.init()
    async with opened(store, watched=False):
        await store.watch.beat()
        await store.revocations.revoke_token(MAIN, "gone", None)
        key, epochs = store.keys.jti(MAIN, "gone"), [(await store.epoch()).id]
        with valkey.client() as client:
            for _ in range(3):
                assert client.delete(key) == 1  # a loss writes it back
                await store.watch.beat()
                epochs.append((await store.epoch()).id)
                client.set(key, 1)
            await store.watch.beat()  # sees it again
            client.delete(key)
            await store.watch.beat()
            epochs.append((await store.epoch()).id)
    assert epochs[0] != epochs[1] == epochs[2] == epochs[3] != epochs[4]


async def test_who_starts_while_the_store_is_in_repair_knows_all_blocks_before_it_is_ready(valkey, prefix):
    async with opened(store_on(valkey, prefix), watched=False) as store:
        await store.watch.beat()
        await store.revocations.block_user(MAIN, "alice", until=None, reason="")
    with valkey.client() as client:
        client.set(f"{prefix}:epoch", "another 5000 0 repairing")
    async with opened(store_on(valkey, prefix), watched=False) as late:
        await late.watch.beat()
        assert late.watch.reached
        assert list(late.revocations.remembered.blocks) == [user_tag(MAIN.iss, "alice")]
