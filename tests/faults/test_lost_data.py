"""The store comes back with less than it had: nothing that was revoked is ever active again."""

import asyncio
import shutil
import time

import pytest

from tests.faults.checked_load import CheckedLoad
from tests.rig import forge
from tests.rig.forge import envelope
from tests.rig.probes import (
    answers,
    epoch_in,
    eventually,
    flush,
    has_problem,
    issued,
    issued_after,
    metric,
    readiness,
    revoke,
    status_of,
)
from tests.rig.servers import Valkey
from tests.rig.service import HANGS_S, OTHER_ISSUER


async def revoked(revoker):
    claims = issued()
    assert (await revoke(revoker, claims)).status == 200
    return claims


@pytest.fixture(params=["flushed", "empty disk", "old snapshot", "snapshot of a snapshot"])
def lose(request, own_valkey, tmp_path):
    """Ways to lose what was revoked between ``keep`` and the loss; both are called in the test."""

    class Loss:
        def keep(self):
            if "snapshot" in request.param:
                own_valkey.kill()
                shutil.copytree(own_valkey.folder, tmp_path / "snapshot")
                own_valkey.start()

        def happen(self):
            if request.param == "flushed":
                flush(own_valkey)
                return
            own_valkey.kill()
            own_valkey.lose_disk()
            if "snapshot" in request.param:
                shutil.copytree(tmp_path / "snapshot", own_valkey.folder, dirs_exist_ok=True)
            own_valkey.start()
            if request.param == "snapshot of a snapshot":
                own_valkey.kill()
                own_valkey.start()

    return Loss()


async def test_nothing_revoked_comes_back_and_new_logins_work(start, own_valkey, lose):
    revoker = await start(own_valkey)
    await revoked(revoker)
    lose.keep()
    async with CheckedLoad(revoker, forgets=True) as load:
        lose.happen()
        await load.recovers()
        await load.sees(introspected=200, times=50)
    cutoff = epoch_in(own_valkey, revoker).cutoff
    assert epoch_in(own_valkey, revoker).finding == "cutoff"
    for claims in load.revoked:
        assert not await revoker.active(claims)
    assert not await revoker.active(issued((cutoff - 1000) / 1000))
    later = issued_after(cutoff)
    await eventually(lambda: revoker.active(later))
    await eventually(lambda: has_problem(revoker, "data_lost"))
    assert await metric(revoker, "revoker_data_losses_total") == 1
    assert await metric(revoker, 'revoker_problem{problem="data_lost"}') == 1


async def test_a_refusing_service_gives_no_verdict_until_the_loss_is_accepted(start, own_valkey):
    revoker = await start(own_valkey, revocation={"data_loss": "refuse"})
    lost, fresh = await revoked(revoker), issued()
    flush(own_valkey)
    for _ in range(3):
        assert await status_of(revoker, lost) == 503
        assert await status_of(revoker, fresh) == 503
    later = await revoked(revoker)
    await eventually(lambda: has_problem(revoker, "data_loss_refused"))
    assert (await readiness(revoker))[0] == 200
    assert epoch_in(own_valkey, revoker).finding == "refused"
    restarted = await start(
        own_valkey, prefix=revoker.service.store.keys.epoch.split(":")[0], new=False, ready=False
    )
    assert await status_of(restarted, fresh) == 503

    assert await revoker.service.store.accept() is not None

    assert await revoker.active(fresh)
    assert await restarted.active(fresh)
    assert not await revoker.active(later)
    assert not await revoker.active(lost), "the instance that revoked it has put it back"


async def test_a_second_loss_while_refusing_is_refused_too_and_lifts_nothing(start, own_valkey):
    revoker = await start(own_valkey, revocation={"data_loss": "refuse"})
    prefix = revoker.service.store.keys.epoch.split(":")[0]
    flush(own_valkey)
    assert await status_of(revoker, issued()) == 503
    lenient = await start(own_valkey, prefix=prefix, new=False, ready=False)
    assert await status_of(lenient, issued()) == 503
    flush(own_valkey)
    assert await status_of(lenient, issued()) == 503
    assert await status_of(revoker, issued()) == 503
    assert epoch_in(own_valkey, revoker).finding == "refused"


async def test_an_ignoring_service_goes_on_and_says_what_it_has_lost(start, own_valkey, events):
    revoker = await start(own_valkey, revocation={"data_loss": "ignore"})
    lost, fresh = await revoked(revoker), issued()
    flush(own_valkey)
    assert await revoker.active(fresh)
    assert not await revoker.active(lost), "the instance that revoked it has put it back"
    assert not await revoker.active(await revoked(revoker))
    await eventually(lambda: has_problem(revoker, "data_lost"))
    assert await metric(revoker, "revoker_data_losses_total") == 1
    assert [event["policy"] for event in events if event["event"] == "data_lost"] == ["ignore"]


async def test_a_second_loss_is_noticed_like_the_first(start, own_valkey):
    revoker = await start(own_valkey)
    await revoked(revoker)
    flush(own_valkey)
    assert not await revoker.active(issued(time.time() - 60))
    first = epoch_in(own_valkey, revoker).cutoff
    between = issued_after(first)
    await eventually(lambda: revoker.active(between))
    assert (await revoke(revoker, between)).status == 200
    other = issued_after(first)
    flush(own_valkey)
    assert not await revoker.active(between)
    second = epoch_in(own_valkey, revoker).cutoff
    assert second > first
    assert await revoker.active(other) is (other["iat"] * 1000 - 2000 > second)


async def test_a_second_loss_back_to_the_first_data_set_keeps_the_later_cutoff(start, own_valkey, tmp_path):
    revoker = await start(own_valkey)
    before = await revoked(revoker)
    own_valkey.kill()
    shutil.copytree(own_valkey.folder, tmp_path / "snapshot")
    own_valkey.start()
    lost = await revoked_at_last(revoker)
    flush(own_valkey)
    assert not await revoker.active(lost)
    first = epoch_in(own_valkey, revoker)
    own_valkey.kill()
    own_valkey.lose_disk()
    shutil.copytree(tmp_path / "snapshot", own_valkey.folder, dirs_exist_ok=True)
    own_valkey.start()
    await eventually(lambda: answers(revoker))
    assert not await revoker.active(lost)
    assert not await revoker.active(before)
    second = epoch_in(own_valkey, revoker)
    assert second.id != first.id
    assert second.cutoff >= first.cutoff


async def revoked_at_last(revoker):
    claims = issued()

    async def stored():
        return (await revoke(revoker, claims)).status == 200

    await eventually(stored)
    return claims


async def test_two_instances_that_notice_at_different_times_settle_on_one_epoch(start, own_valkey):
    first = await start(own_valkey)
    prefix = first.service.store.keys.epoch.split(":")[0]
    second = await start(own_valkey, prefix=prefix, new=False)
    claims = await revoked(first)
    for rest in ((first, second), (second, first)):
        flush(own_valkey)
        assert not await rest[0].active(claims)
        found = epoch_in(own_valkey, first)
        assert not await rest[1].active(claims)
        for _ in range(3):
            await first.service.store.watch.beat()
            await second.service.store.watch.beat()
        assert epoch_in(own_valkey, first) == found
        for revoker in (first, second):
            used = await metric(revoker, "revoker_store_epoch_timestamp_seconds")
            assert used == pytest.approx(found.noticed / 1000, abs=5e-4)


async def test_many_requests_at_two_instances_at_once_find_one_loss(start, own_valkey, events):
    first = await start(own_valkey)
    prefix = first.service.store.keys.epoch.split(":")[0]
    second = await start(own_valkey, prefix=prefix, new=False)
    claims = await revoked(first)
    flush(own_valkey)
    verdicts = await asyncio.gather(
        *(revoker.active(claims) for revoker in (first, second) for _ in range(50))
    )
    assert not any(verdicts)
    assert len([event for event in events if event["event"] == "data_lost"]) == 1


async def test_blocks_and_revoked_keys_are_back_before_the_first_verdict(start, own_valkey):
    revoker = await start(own_valkey)
    user, key = {"iss": forge.ISSUER, "sub": "mallory"}, {"iss": OTHER_ISSUER, "kid": "stolen"}
    assert (await revoker.post("/block-user", user)).status == 200
    assert (await revoker.post("/revoke-key", key)).status == 200
    flush(own_valkey)
    assert not await revoker.active(issued(time.time() - 60))
    cutoff = epoch_in(own_valkey, revoker).cutoff
    await eventually(lambda: revoker.active(issued_after(cutoff)))
    assert not await revoker.active(issued_after(cutoff, sub="mallory"))
    assert not await revoker.active(envelope(issued_after(cutoff, iss=OTHER_ISSUER), "stolen"))
    assert await revoker.active(envelope(issued_after(cutoff, iss=OTHER_ISSUER), "other"))
    assert (await revoker.post("/unblock-user", user)).status == 200
    assert await revoker.active(issued_after(cutoff, sub="mallory"))


async def test_every_instance_remembers_the_blocks_of_the_others(start, own_valkey):
    first = await start(own_valkey)
    prefix = first.service.store.keys.epoch.split(":")[0]
    second = await start(own_valkey, prefix=prefix, new=False)
    assert (await first.post("/block-user", {"iss": forge.ISSUER, "sub": "mallory"})).status == 200
    await second.service.store.watch.beat()
    await first.close()
    flush(own_valkey)
    assert not await second.active(issued(time.time() - 60))
    cutoff = epoch_in(own_valkey, second).cutoff
    await eventually(lambda: second.active(issued_after(cutoff)))
    assert not await second.active(issued_after(cutoff, sub="mallory"))


async def test_an_empty_store_at_start_counts_as_lost(start, own_valkey, events):
    revoker = await start(own_valkey, new=False)
    assert not await revoker.active(issued(time.time() - 60))
    cutoff = epoch_in(own_valkey, revoker).cutoff
    await eventually(lambda: revoker.active(issued_after(cutoff)))
    event = next(event for event in events if event["event"] == "data_lost")
    assert "revoker store init" in event["hint"]


async def test_a_store_declared_new_has_lost_nothing_and_is_declared_so_once(start, own_valkey):
    revoker = await start(own_valkey)
    assert await revoker.active(issued())
    assert await readiness(revoker) == (200, set())
    assert not await revoker.service.store.init()


async def test_a_loss_that_an_operator_declares_is_a_loss(start, own_valkey):
    revoker = await start(own_valkey)
    old = issued()
    assert await revoker.active(old)
    declared = await revoker.service.store.declare_lost("cutoff")
    assert declared is not None
    assert not await revoker.active(old)
    await eventually(lambda: revoker.active(issued_after(declared.cutoff)))
    declared = await revoker.service.store.declare_lost("refuse")
    assert declared is not None
    assert await status_of(revoker, old) == 503
    assert await revoker.service.store.accept() is not None
    assert not await revoker.active(old), "accepting lifts no cutoff"


class Failover:
    """A primary with a replica that lagged, and others that wrote to the replica."""

    def __init__(self, primary, folder):
        self.primary = primary
        self.replica = Valkey(folder / "replica", "--replicaof", "127.0.0.1", str(primary.port)).start()

    def detach(self):
        with self.replica.client() as client, self.primary.client() as primary:
            deadline = time.monotonic() + HANGS_S
            while (
                client.info("replication")["master_link_status"] != "up" or client.dbsize() < primary.dbsize()
            ):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            client.replicaof("NO", "ONE")

    def demote(self):
        """The replica's data takes the primary's place; the primary itself is a replica until promoted."""
        with self.primary.client() as client:
            client.replicaof("127.0.0.1", str(self.replica.port))
            deadline = time.monotonic() + HANGS_S
            while client.info("replication")["master_link_status"] != "up":
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def promote(self):
        with self.primary.client() as client:
            client.replicaof("NO", "ONE")


@pytest.fixture
def failover(own_valkey, tmp_path):
    made = Failover(own_valkey, tmp_path)
    yield made
    made.replica.kill()


async def test_a_lagging_replica_that_others_wrote_to_is_noticed(start, own_valkey, failover):
    revoker = await start(own_valkey)
    prefix = revoker.service.store.keys.epoch.split(":")[0]
    await revoked(revoker)
    failover.detach()
    lost = await revoked(revoker)
    others = await start(failover.replica, prefix=prefix, new=False)
    for _ in range(5):
        await revoked(others)
    failover.demote()
    assert await status_of(revoker, lost) == 503
    assert (await revoke(revoker, issued())).status == 503
    await eventually(lambda: has_problem(revoker, "store_not_primary"))
    assert await metric(revoker, 'revoker_problem{problem="store_not_primary"}') == 1
    failover.promote()
    await eventually(lambda: answers(revoker))
    assert not await revoker.active(lost)
    assert epoch_in(own_valkey, revoker).finding == "cutoff"


async def test_writing_to_a_lagging_replica_first_hides_nothing(start, own_valkey, failover):
    revoker = await start(own_valkey)
    await revoked(revoker)
    failover.detach()
    lost = await revoked(revoker)
    failover.demote()
    failover.promote()
    for _ in range(3):
        await revoked_at_last(revoker)
    await eventually(lambda: answers(revoker))
    assert not await revoker.active(lost)


async def test_evictions_are_a_loss(start, own_valkey):
    revoker = await start(own_valkey)
    lost = await revoked(revoker)
    await revoker.service.store.watch.beat()
    with own_valkey.client() as client:
        client.config_set("maxmemory-policy", "allkeys-random")
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 100_000)
        for place in range(1000):
            client.set(f"filler:{place}", "x" * 1000)
        assert client.info("stats")["evicted_keys"] > 0
        client.config_set("maxmemory", 0)
    await revoker.service.store.watch.beat()
    assert not await revoker.active(lost)
    assert epoch_in(own_valkey, revoker).finding == "cutoff"
    assert await has_problem(revoker, "evicted_keys")
    found = epoch_in(own_valkey, revoker)
    await revoker.service.store.watch.beat()
    assert epoch_in(own_valkey, revoker) == found
