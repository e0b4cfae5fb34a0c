"""Batched lookups, watched from the side of the server and disturbed in every way."""

import asyncio
import contextlib
import time

import pytest

from revoker.errors import StoreRefused, StoreUnavailable
from revoker.models import Claims, Revocation
from revoker.store.lookups import BATCH, MAX_IN_FLIGHT
from tests.rig.servers import Valkey
from tests.rig.service import HANGS_S
from tests.store.conftest import MAIN, opened, store_on, until_no_lookup_is_under_way

NONE = (None,) * 6
IMPATIENT_S = 1.0


@contextlib.asynccontextmanager
async def done_by(seconds):
    """What the value is called with is done before so many seconds are over.

    The loop's timers say so, which go off in their order however late the machine lets them.
    """
    loop, late, asked = asyncio.get_running_loop(), [], []
    timer = loop.call_later(seconds, lambda: late.extend(item for item in asked if not item.done()))
    yield asked.append
    timer.cancel()
    assert not late


def calls(valkey, command="mget"):
    with valkey.client() as client:
        return client.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0)


def keys_of(store, jti, sub="alice"):
    return store.keys.of_token(Claims(jti=jti, sub=sub), MAIN)


@pytest.fixture
async def alone(own_valkey, prefix):
    """A store whose watch is still, on a server of its own: every command there is a lookup's."""
    async with still(store_on(own_valkey, prefix)) as made:
        yield made


@pytest.fixture
async def impatient(own_valkey, prefix):
    """The same, with a time-out that a test can wait for."""
    async with still(store_on(own_valkey, prefix, timeout=IMPATIENT_S)) as made:
        yield made


@contextlib.asynccontextmanager
async def still(made):
    await made.init()
    async with opened(made, watched=False):
        await until_no_lookup_is_under_way(made)
        yield made


async def test_all_that_ask_in_one_turn_leave_as_one_command_with_equal_keys_once(alone, own_valkey):
    before = calls(own_valkey)
    found = await asyncio.gather(*(alone.lookups.find(keys_of(alone, str(n % 7))) for n in range(100)))
    assert len(found) == 100
    assert calls(own_valkey) == before + 1
    with own_valkey.client() as client, client.monitor() as monitor:
        asking = asyncio.gather(*(alone.lookups.find(keys_of(alone, str(n % 7))) for n in range(100)))
        await asking
        message = await asyncio.to_thread(lambda: [monitor.next_command()["command"] for _ in range(3)])
    assert [item.split(" ")[0] for item in message] == ["TIME", "MGET", "ROLE"]
    asked = message[1].split(" ")[1:]
    assert len(asked) == len(set(asked)) == 7 + 1 + 2 + 4, "jtis, user, issuer and its keys, and the tail"


async def test_everyone_gets_their_own_answer(alone):
    for jti in ("1", "3"):
        await alone.revocations.revoke_token(MAIN, jti, None)
    found = await asyncio.gather(*(alone.lookups.find(keys_of(alone, str(n))) for n in range(5)))
    assert [item.state.jti is not None for item in found] == [False, True, False, True, False]
    together = await alone.lookups.find_all([keys_of(alone, str(n)) for n in range(5)])
    assert [item.state.jti is not None for item in together] == [False, True, False, True, False]
    assert await alone.lookups.find_all([]) == []


async def test_no_command_asks_for_more_than_a_bounded_number(alone, own_valkey):
    before = calls(own_valkey)
    count = 3 * BATCH + 1
    found = await alone.lookups.find_all([keys_of(alone, str(n)) for n in range(count)])
    assert len(found) == count
    assert calls(own_valkey) == before + 4


async def test_several_batches_are_under_way_at_once(alone, own_valkey):
    own_valkey.hang()
    asked = []
    for n in range(5):
        asked.append(alone.lookups.find(keys_of(alone, str(n))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert len(alone.lookups.in_flight) == 5
    own_valkey.resume()
    assert len(await asyncio.gather(*asked)) == 5


async def test_beyond_what_may_be_under_way_lookups_wait_and_are_answered(alone, own_valkey):
    lookups, keys = alone.lookups, [keys_of(alone, "1")] * BATCH
    own_valkey.hang()
    asked = asyncio.gather(*(lookups.find_all(keys) for _ in range(MAX_IN_FLIGHT + 8)))
    await asyncio.sleep(0)
    assert len(lookups.in_flight) == MAX_IN_FLIGHT
    assert len(lookups.waiting) == 8 * BATCH
    own_valkey.resume()
    found = await asked
    assert list(map(len, found)) == [BATCH] * (MAX_IN_FLIGHT + 8)


async def test_a_cancelled_lookup_harms_no_other(alone):
    await alone.revocations.revoke_token(MAIN, "1", None)
    asked = [alone.lookups.find(keys_of(alone, str(n))) for n in range(3)]
    groups = [asyncio.ensure_future(alone.lookups.find_all([keys_of(alone, "1")] * 2)) for _ in range(2)]
    asked[0].cancel()
    groups[0].cancel()
    found = await asyncio.gather(*asked[1:])
    assert [item.state.jti is not None for item in found] == [True, False]
    assert len(await groups[1]) == 2
    await asyncio.sleep(0)
    assert asked[0].cancelled()


async def test_what_cannot_be_read_fails_those_that_asked_for_it_alone(alone, own_valkey):
    with own_valkey.client() as client:
        client.set(alone.keys.jti(MAIN, "bad"), "not a time")
        client.set(alone.keys.user_of(MAIN, "bad"), "{")
    asked = [keys_of(alone, "1"), keys_of(alone, "bad"), keys_of(alone, "2", sub="bad"), keys_of(alone, "3")]
    found = await asyncio.gather(*map(alone.lookups.find, asked), return_exceptions=True)
    assert [isinstance(item, StoreRefused) for item in found] == [False, True, True, False]
    assert all(item.state.jti is None for item in (found[0], found[3]))


@pytest.mark.parametrize("name", ["seq", "share"])
async def test_numbers_that_cannot_be_read_give_no_verdict(alone, own_valkey, name):
    key = {"seq": alone.keys.seq, "share": alone.source.data_set.tail.share}[name]
    with own_valkey.client() as client:
        client.set(key, "many")
        with pytest.raises(StoreRefused):
            await asyncio.wait_for(alone.lookups.find(keys_of(alone, "1")), HANGS_S)
        client.delete(key)
    assert (await asyncio.wait_for(alone.lookups.find(keys_of(alone, "1")), HANGS_S)).state.jti is None


async def test_a_lookup_fails_at_its_deadline_and_the_next_one_after_the_hang_succeeds(impatient, own_valkey):
    own_valkey.hang()
    loop = asyncio.get_running_loop()
    async with done_by(2 * IMPATIENT_S) as watch:
        began = loop.time()
        asked = impatient.lookups.find(keys_of(impatient, "1"))
        watch(asked)
        with pytest.raises(StoreUnavailable):
            await asked
        assert loop.time() - began >= IMPATIENT_S - 0.01
    own_valkey.resume()
    await eventually(impatient)


async def eventually(store):
    deadline = time.monotonic() + HANGS_S
    while True:
        try:
            return await store.lookups.find(keys_of(store, "1"))
        except (StoreUnavailable, StoreRefused):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)


async def test_a_lookup_whose_loss_cannot_be_settled_in_time_fails_at_its_deadline(
    impatient, own_valkey, monkeypatch
):
    set_epoch, released = impatient.scripts.set_epoch, asyncio.Event()

    async def held(*args):
        await released.wait()
        return await set_epoch(*args)

    monkeypatch.setattr(impatient.scripts, "set_epoch", held)
    with own_valkey.client() as client:
        client.flushall()
    async with done_by(2 * IMPATIENT_S) as watch:
        asked = impatient.lookups.find(keys_of(impatient, "1"))
        watch(asked)
        with pytest.raises(StoreRefused):
            await asked
    released.set()
    assert (await eventually(impatient)).state.loss > 0


async def test_a_store_that_is_reached_again_is_read_before_anybody_asks(alone, own_valkey):
    own_valkey.kill()
    own_valkey.lose_disk()
    own_valkey.start()
    async with asyncio.timeout(HANGS_S):
        while alone.source.data_set.epoch.finding != "cutoff":
            await asyncio.sleep(0.01)


async def test_a_broken_connection_is_made_again_and_the_lookup_sent_once_more(alone, own_valkey):
    for _ in range(5):
        with own_valkey.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)
        assert (await alone.lookups.find(keys_of(alone, "1"))).state.jti is None


async def test_a_server_that_is_down_fails_at_once_and_is_found_again(alone, own_valkey):
    own_valkey.kill()
    with pytest.raises(StoreUnavailable):
        await alone.lookups.find(keys_of(alone, "1"))
    own_valkey.start()
    assert (await eventually(alone)).state.jti is None


@contextlib.contextmanager
def demoted(valkey, folder):
    """The server as a replica of another one: a client of it, and the other."""
    primary = Valkey(folder / "primary").start()
    try:
        with valkey.client() as client:
            client.replicaof("127.0.0.1", str(primary.port))
            yield client, primary
    finally:
        primary.kill()


async def test_a_replica_gives_no_verdict(alone, own_valkey, tmp_path):
    with demoted(own_valkey, tmp_path) as (client, primary):
        with pytest.raises((StoreRefused, StoreUnavailable)):
            await alone.lookups.find(keys_of(alone, "1"))
        client.config_set("replica-serve-stale-data", "no")
        primary.kill()
        deadline = time.monotonic() + HANGS_S
        while client.info("replication")["master_link_status"] == "up":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        with pytest.raises((StoreRefused, StoreUnavailable)):
            await alone.lookups.find(keys_of(alone, "1"))
        client.replicaof("NO", "ONE")
        await eventually(alone)


async def test_nobody_connects_to_a_replica_again_and_again(alone, own_valkey, tmp_path):
    with demoted(own_valkey, tmp_path) as (client, _):
        with pytest.raises((StoreRefused, StoreUnavailable)):
            await alone.lookups.find(keys_of(alone, "1"))
        before, began = client.info("stats")["total_connections_received"], time.monotonic()
        await asyncio.sleep(0.5)
        made = client.info("stats")["total_connections_received"] - before
        assert made < 40 * (time.monotonic() - began)


async def test_a_server_that_still_loads_gives_no_verdict(alone, own_valkey):
    await alone.revocations.revoke_token(MAIN, "1", None)
    with own_valkey.client() as client:
        for n in range(1000):
            client.set(f"filler:{n}", "x" * 100)
        client.bgrewriteaof()
        while client.info("persistence")["aof_rewrite_in_progress"]:
            await asyncio.sleep(0.01)
    own_valkey.kill()
    slowly = ("--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024")
    own_valkey.options = (*own_valkey.options, *slowly)
    starting = asyncio.ensure_future(asyncio.to_thread(own_valkey.start))
    message = ""
    while message != "the store answered LOADING":
        with pytest.raises(StoreUnavailable) as refused:
            await alone.lookups.find(keys_of(alone, "1"))
        message = str(refused.value)
        await asyncio.sleep(0.01)
    with own_valkey.client() as client:
        client.config_set("key-load-delay", 0)
    await starting
    assert (await eventually(alone)).state.jti is not None


async def test_a_revocation_answered_by_one_instance_is_seen_by_the_next_lookup_of_another(
    valkey, store, prefix
):
    other = store_on(valkey, prefix)
    async with opened(other):
        await other.lookups.touch()

        async def seen(n):
            at = await store.revocations.revoke_token(MAIN, f"{n}", None)
            return (await other.lookups.find(keys_of(other, f"{n}"))).state.jti == Revocation(at)

        missed = 0
        for start in range(0, 10_000, 50):
            missed += (await asyncio.gather(*map(seen, range(start, start + 50)))).count(False)
        assert missed == 0


async def test_closing_fails_what_is_under_way(own_valkey, prefix):
    store = store_on(own_valkey, prefix)
    await store.init()
    store.open()
    await store.lookups.touch()
    own_valkey.hang()
    asked = store.lookups.find(keys_of(store, "1"))
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(asked, HANGS_S)


async def test_who_asks_the_same_in_one_turn_shares_the_answer_and_none_asks_what_was_asked_before(
    alone, own_valkey
):
    asked = keys_of(alone, "1")
    before = calls(own_valkey)
    first, second = alone.lookups.find_shared(asked), alone.lookups.find_shared(asked)
    assert second is first
    assert alone.lookups.find_shared(keys_of(alone, "2")) is not first
    await asyncio.sleep(0)  # the batch leaves
    third = alone.lookups.find_shared(asked)
    assert third is not first, "it was read before this one asked"
    await alone.revocations.revoke_token(MAIN, "1", None)
    assert (await first).state.jti is None
    assert (await alone.lookups.find_shared(asked)).state.jti is not None
    await third
    assert calls(own_valkey) == before + 3


async def test_a_failure_is_not_shared_with_who_asks_after_it(alone, own_valkey):
    asked = keys_of(alone, "1")
    own_valkey.kill()
    with pytest.raises(StoreUnavailable):
        await alone.lookups.find_shared(asked)
    failed = alone.lookups.find_shared(asked)
    own_valkey.start()
    assert (await eventually(alone)).state.jti is None
    assert (await alone.lookups.find_shared(asked)).state.jti is None
    with pytest.raises(StoreUnavailable):
        await failed
