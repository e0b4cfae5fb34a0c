"""What replicas must confirm, and a primary that does not show them any more."""

import asyncio
import contextlib
import types

import pytest

from revoker.errors import NoVerdict, PrimaryStale, StoreUnavailable
from revoker.store.wire.addresses import Naming
from revoker.store.wire.command_channel import Confirmation
from tests.rig.servers import Valkey
from tests.rig.service import HANGS_S
from tests.store.conftest import MAIN, opened, store_on

PLAIN = (None, None, None, None, None, None)

CONFIRMED_S = 1.0
"""For how long a change waits for replicas; what may be late on a busy machine is tried again."""


def test_a_server_is_fresh_for_two_seconds_after_it_had_enough_replicas():
    confirmation = Confirmation(2, fsync=False, timeout=0.25)
    assert confirmation.stale("a", 10.0)
    assert not confirmation.record(1, "a", 10.0)
    assert not confirmation.record(Exception("WAIT cannot be used"), "a", 10.0)
    assert confirmation.stale("a", 10.0)
    assert confirmation.record(2, "a", 10.0)
    assert not confirmation.stale("a", 12.0)
    assert confirmation.stale("a", 12.001)
    assert confirmation.stale("b", 10.0)


def naming(server, *, asked, since=0.0, others=1):
    return types.SimpleNamespace(naming=Naming(server, others, asked, since))


@pytest.mark.parametrize(
    ("locator", "trusted"),
    [
        (None, False),
        (types.SimpleNamespace(naming=None), False),
        (naming("new", asked=20.0, since=20.0), True),
        (naming("new", asked=17.9), False),
        (naming("old", asked=20.0), False),
        (naming("new", asked=20.0, others=2), False),
        (naming("new", asked=20.0, others=None), False),
    ],
    ids=[
        "no Sentinels",
        "no answer of theirs",
        "named after the failover",
        "named too long ago",
        "another one is named",
        "a server that need not confirm",
        "a Sentinel that does not say how many",
    ],
)
def test_a_new_primary_without_replicas_is_trusted_as_sentinels_say(locator, trusted):
    confirmation = Confirmation(1, fsync=False, timeout=0.25, locator=locator)
    assert confirmation.record(1, "old", 19.0)
    assert confirmation.trusts("new", 0, 20.0) is trusted


def test_a_primary_that_had_replicas_is_trusted_without_them_once_sentinels_have_had_time():
    for asked, trusted in ((11.9, False), (12.0, True)):
        confirmation = Confirmation(1, fsync=False, timeout=0.25, locator=naming("a", asked=asked))
        assert confirmation.record(1, "a", 10.0)
        assert confirmation.trusts("a", 1, 11.0)
        assert confirmation.trusts("a", 0, 13.0) is trusted


def test_a_process_that_has_just_started_trusts_a_primary_without_replicas_once_sentinels_have_had_time():
    for since, trusted in ((10.1, False), (10.0, True)):
        locator = naming("a", asked=12.0, since=since)
        assert Confirmation(1, fsync=False, timeout=0.25, locator=locator).trusts("a", 0, 13.0) is trusted


@pytest.mark.parametrize(("reply", "enough"), [([1, 1], True), ([0, 1], False), ([1, 0], False)])
def test_what_must_be_on_disk_must_be_on_the_primarys_too(reply, enough):
    confirmation = Confirmation(1, fsync=True, timeout=0.25)
    assert b"WAITAOF" in confirmation.command
    assert confirmation.record(reply, "a", 0.0) is enough


@pytest.fixture
def replica(own_valkey, tmp_path):
    with own_valkey.client() as client:
        client.config_set("repl-diskless-sync-delay", 0)
    server = Valkey(tmp_path / "replica", "--replicaof", "127.0.0.1", str(own_valkey.port))
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def confirmed(own_valkey, replica, prefix):
    store = store_on(own_valkey, prefix, wait_replicas=1, timeout=CONFIRMED_S)
    async with asyncio.timeout(HANGS_S):
        while True:  # the replica is not in step at once
            with contextlib.suppress(StoreUnavailable):
                await store.init()
                break
    async with opened(store):
        await answers(store)
        async with asyncio.timeout(HANGS_S):
            while not store.reached:
                await store.watch.beat()
        yield store


async def answers(store):
    async with asyncio.timeout(HANGS_S):
        while True:
            with contextlib.suppress(NoVerdict):
                return await store.lookups.find(PLAIN)
            await asyncio.sleep(0.02)


async def refuses(store):
    async with asyncio.timeout(HANGS_S):
        while True:
            with contextlib.suppress(PrimaryStale):
                await store.lookups.find(PLAIN)
                await asyncio.sleep(0.02)
                continue
            return


async def revoked(store):
    return await store.revocations.revoke_token(MAIN, "1", 4_000_000_000)


async def acknowledges(store):
    async with asyncio.timeout(HANGS_S):
        while True:  # a replica that has just come back writes its file anew, and may be late
            with contextlib.suppress(StoreUnavailable):
                return await revoked(store)


@pytest.mark.parametrize("fault", ["kill", "hang"])
async def test_without_its_replica_a_primary_confirms_nothing_and_is_not_believed(confirmed, replica, fault):
    await acknowledges(confirmed)
    getattr(replica, fault)()
    await refuses(confirmed)
    with pytest.raises(StoreUnavailable):
        await revoked(confirmed)
    async with asyncio.timeout(HANGS_S):
        while "stale_primary" not in confirmed.problems:
            await confirmed.watch.beat()
    replica.start() if fault == "kill" else replica.resume()
    await acknowledges(confirmed)
    await answers(confirmed)
    await confirmed.watch.beat()
    assert "stale_primary" not in confirmed.problems


async def test_a_number_of_replicas_that_does_not_fit_is_reported(own_valkey, replica, confirmed):
    assert not {"unconfirmed_replicas", "too_few_replicas"} & set(await confirmed.dangers())
    for confirm, problem in ((0, "unconfirmed_replicas"), (2, "too_few_replicas")):
        other = store_on(own_valkey, "other", wait_replicas=confirm)
        assert problem in await other.dangers()
        await other.close()


async def test_what_is_on_the_disk_of_all_is_confirmed(own_valkey, replica, prefix, confirmed):
    made = store_on(own_valkey, prefix, wait_replicas=1, wait_fsync=True, timeout=CONFIRMED_S)
    async with opened(made) as store:
        await answers(store)
        await acknowledges(store)
        with replica.client() as client:
            client.config_set("appendonly", "no")
        with pytest.raises(StoreUnavailable):
            await revoked(store)


async def test_a_disk_that_cannot_be_confirmed_is_reported(own_valkey, replica, prefix):
    with own_valkey.client() as client:
        client.config_set("appendonly", "no")
    made = store_on(own_valkey, prefix, wait_replicas=1, wait_fsync=True, timeout=CONFIRMED_S)
    async with opened(made, watched=False) as store:  # a watch would declare the loss of the missing epoch
        assert "WAITAOF" in (await store.dangers())["no_fsync"]
        with pytest.raises(StoreUnavailable, match="the store answered WAITAOF with ERR"):
            await store.init()
        await store.watch.beat()
        assert "no_fsync" in store.problems
