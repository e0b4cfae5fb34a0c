"""The hash of all blocks: read in pages, rid of what has ended, and the same at every instance."""

import asyncio
import contextlib

import pytest

from revoker.rules import FOREVER_MS
from revoker.store import scripts
from revoker.store.keys import user_tag
from revoker.store.stored_values import parse_user_state
from tests.rig.probes import RestrictedUser, eventually, readiness
from tests.rig.reply_proxy import Hold, ReplyProxy
from tests.rig.service import HANGS_S
from tests.store.conftest import MAIN, opened, store_on

MANY = 5000
"""Several pages."""


def store_blocks(server, key, until, count, named="tag"):
    with server.client() as client:
        for start in range(0, count, 1000):
            numbers = range(start, min(start + 1000, count))
            tags = [f"{named}{number:013}" for number in numbers]
            client.hset(key, mapping=dict.fromkeys(tags, until))
            if until == FOREVER_MS:  # else it has ended, and the user's record is gone
                users = {f"{key.rpartition(':')[0]}:{{{tag}}}:user": f'{{"blocked":{until}}}' for tag in tags}
                client.mset(users)


async def test_blocks_that_have_ended_leave_the_store_and_are_not_remembered(start, valkey, prefix):
    store_blocks(valkey, f"{prefix}:blocks", 1_000, MANY, "old")
    store_blocks(valkey, f"{prefix}:blocks", FOREVER_MS, 3, "new")
    revoker = await start(valkey, prefix=prefix)
    with valkey.client() as client:
        await eventually(lambda: holds(lambda: client.hlen(f"{prefix}:blocks") == 3))
    assert len(revoker.service.store.revocations.remembered.blocks) == 3
    assert await readiness(revoker) == (200, set())


async def test_many_running_blocks_are_read_in_pages_before_a_process_is_ready(start, valkey, prefix):
    store_blocks(valkey, f"{prefix}:blocks", FOREVER_MS, MANY)
    async with ReplyProxy.before(valkey.port) as proxy:
        revoker = await start(proxy, prefix=prefix)
        assert len(revoker.service.store.revocations.remembered.blocks) == MANY
        assert "HGETALL" not in proxy.seen
        assert proxy.seen.count("HSCAN") > 1


async def test_an_instance_learns_of_the_blocks_of_another_among_many(valkey, prefix):
    store_blocks(valkey, f"{prefix}:blocks", FOREVER_MS, MANY)
    first, second = store_on(valkey, prefix), store_on(valkey, prefix)
    await first.init()
    async with opened(first), opened(second):
        blocks = second.revocations.remembered.blocks
        await eventually(lambda: holds(lambda: len(blocks) == MANY))
        await first.revocations.block_user(MAIN, "ann", until=None, reason="")
        await eventually(lambda: holds(lambda: len(blocks) == MANY + 1))
        await first.revocations.unblock_user(MAIN, "ann")
        await eventually(lambda: holds(lambda: len(blocks) == MANY))


async def holds(condition):
    return condition()


async def test_a_server_that_refuses_hscan_is_read_at_once(start, valkey, own_valkey, prefix):
    store_blocks(own_valkey, f"{prefix}:blocks", FOREVER_MS, MANY)
    revoker = await start(RestrictedUser(own_valkey, "+@all", "-hscan"), prefix=prefix)
    assert len(revoker.service.store.revocations.remembered.blocks) == MANY


async def test_a_block_that_was_renewed_stays_when_what_has_ended_leaves(changes):
    now = await changes.now()
    blocks = changes.keys.blocks
    ends = {b"ended": now - 1, b"renewed": now + 60_000}
    await changes.client.hset(blocks, mapping=ends)
    await changes.revocations.trim_blocks(0, [*ends, b"unknown"])
    assert set(await changes.client.hgetall(blocks)) == {b"renewed"}


async def test_a_block_that_has_ended_is_not_put_back_among_those_that_run(changes):
    tag = user_tag(MAIN.iss, "ann")
    ended = await changes.now() - 1
    await changes.client.hset(changes.keys.blocks, mapping={tag: ended})
    changes.revocations.remembered.block(tag, ended)
    await changes.refill.write_back(0)
    assert await changes.client.hgetall(changes.keys.blocks) == {}


async def test_what_this_process_changed_since_the_reading_began_is_newer_than_what_was_read(changes):
    revocations = changes.revocations
    remembered = revocations.remembered
    await revocations.block_user(MAIN, "ann", until=None, reason="")
    await revocations.block_user(MAIN, "bob", until=None, reason="")
    [ann, bob] = remembered.blocks
    before = remembered.changes
    await revocations.unblock_user(MAIN, "ann")
    await revocations.block_user(MAIN, "eve", until=None, reason="")
    [_, eve] = remembered.blocks
    remembered.take_blocks({0: {ann: FOREVER_MS, "zoe": FOREVER_MS}}, before)
    assert set(remembered.blocks) == {eve, "zoe"}
    remembered.take_blocks({0: {eve: FOREVER_MS, "zoe": FOREVER_MS, ann: FOREVER_MS}}, remembered.changes)
    assert set(remembered.blocks) == {ann, eve, "zoe"}
    assert bob not in remembered.blocks


@contextlib.asynccontextmanager
async def unblocking(valkey, prefix):
    """Two processes, of which the first ends a block in a data set that it does not know, and waits then.

    Gives the other process, a call that lets the first settle that data set, and the task that unblocks.
    """
    async with ReplyProxy.before(valkey.port) as proxy, contextlib.AsyncExitStack() as stack:
        first, other = store_on(proxy, prefix), store_on(valkey, prefix)
        await other.init()
        for store in (first, other):
            await stack.enter_async_context(opened(store, watched=False))
            await store.learn()
        await first.revocations.block_user(MAIN, "ann", until=None, reason="", by="admin")
        await other.declare_lost("ignore")
        settling = Hold()

        def hold(name):
            if name == "EVALSHA":
                proxy.holds["MGET"] = settling

        with valkey.client() as client:  # the reply to EVALSHA is that of the script
            for text in scripts.TEXTS.values():
                client.script_load(text)
        proxy.after = hold
        task = asyncio.create_task(first.revocations.unblock_user(MAIN, "ann"))
        stack.callback(settling.released.set)
        await asyncio.wait_for(settling.reached.wait(), HANGS_S)
        yield other, settling.released.set, task


async def is_blocked(store):
    [value] = await store.values([store.keys.user_of(MAIN, "ann")])
    return value is not None and parse_user_state(value).blocked == FOREVER_MS


@pytest.mark.parametrize("restored_before", [False, True])
async def test_a_block_made_while_a_loss_is_settled_is_not_undone(valkey, prefix, restored_before):
    async with unblocking(valkey, prefix) as (other, settle, unblocked):
        assert not await is_blocked(other)
        if restored_before:
            other.revocations.remembered.block(user_tag(MAIN.iss, "ann"), FOREVER_MS)
            await other.refill.write_back(0)
        await other.revocations.block_user(MAIN, "ann", until=None, reason="", by="admin")
        settle()
        await unblocked
        assert await is_blocked(other)


async def test_a_block_that_is_restored_while_a_loss_is_settled_is_undone(valkey, prefix):
    async with unblocking(valkey, prefix) as (other, settle, unblocked):
        settle()
        assert await unblocked == FOREVER_MS
        assert not await is_blocked(other)


async def test_a_block_is_undone_again_where_the_first_time_is_lost(valkey, prefix):
    async with unblocking(valkey, prefix) as (other, settle, unblocked):
        with valkey.client() as client:
            client.delete(*client.scan_iter(other.keys.all(), 1000))
        settle()
        assert await unblocked == FOREVER_MS
        assert not await is_blocked(other)
