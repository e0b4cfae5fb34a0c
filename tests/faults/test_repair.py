"""A loss that the running instances can prove to have put back logs nobody out; any other one does."""

import asyncio
import dataclasses
import time

import pytest

from revoker.store import instances
from tests.rig.probes import epoch_in, eventually, flush, has_problem, issued, metric, revoke, status_of
from tests.rig.service import HANGS_S

REPAIR = {"repair_seconds": 60}
"""Longer than any of these repairs takes on a busy machine."""


@pytest.fixture(autouse=True)
def pauses_do_not_end_processes(monkeypatch):
    """A process that stands still for seconds is not taken for ended."""
    monkeypatch.setattr(instances, "RUNNING_MS", 60_000)


async def two(start, valkey, **revocation):
    first = await start(valkey, revocation=revocation)
    prefix = first.service.store.keys.epoch.split(":")[0]
    second = await start(valkey, prefix=prefix, new=False, revocation=revocation)
    await seen_by_both(first, second)
    return first, second


async def seen_by_both(*revokers):
    names = {revoker.service.store.instance for revoker in revokers}
    for revoker in revokers:
        await eventually(lambda revoker=revoker: seen(revoker, names))


async def seen(revoker, names):
    await revoker.service.store.instances.enter()
    return names <= set(revoker.service.store.instances.running)


async def revoke_many(revoker, count=5):
    claims = [issued() for _ in range(count)]
    for one in claims:
        assert (await revoke(revoker, one)).status == 200
    return claims


async def verdicts_are_back(*revokers):
    for revoker in revokers:
        await eventually(lambda revoker=revoker: has_verdict(revoker))


async def has_verdict(revoker):
    return await status_of(revoker, issued()) == 200


async def test_a_flush_logs_nobody_out_while_every_writer_runs(start, own_valkey):
    revokers = await two(start, own_valkey, **REPAIR)
    gone = [claims for revoker in revokers for claims in await revoke_many(revoker)]
    bystander = issued()
    before = epoch_in(own_valkey, revokers[0])
    flush(own_valkey)
    await verdicts_are_back(*revokers)
    after = epoch_in(own_valkey, revokers[0])
    assert (after.finding, after.cutoff) == ("repaired", before.cutoff)
    for revoker in revokers:
        assert await revoker.active(bystander)
        for claims in gone:
            assert not await revoker.active(claims)
        assert await metric(revoker, "revoker_repaired_losses_total") == 1
        assert await metric(revoker, "revoker_data_losses_total") == 0
        assert not await has_problem(revoker, "data_lost")
    assert (await revoke(revokers[0], bystander)).status == 200
    assert not await revokers[1].active(bystander)


async def test_a_writer_that_no_longer_runs_cannot_vouch(start, own_valkey):
    first, second = await two(start, own_valkey, repair_seconds=1)
    [lost] = await revoke_many(first, 1)
    await second.service.store.watch.beat()
    await first.close()
    bystander = issued()
    flush(own_valkey)
    await verdicts_are_back(second)
    assert epoch_in(own_valkey, second).finding == "cutoff"
    assert not await second.active(lost)
    assert not await second.active(bystander), "who was issued before the loss"
    assert await metric(second, "revoker_data_losses_total") == 1


async def test_a_writer_that_ended_without_a_loss_of_its_own_is_not_waited_for(start, own_valkey):
    first, second = await two(start, own_valkey, **REPAIR)
    [gone] = await revoke_many(first, 1)
    await second.service.store.watch.beat()
    await first.close()
    await second.service.store.instances.enter()
    [other] = await revoke_many(second, 1)
    keys = second.service.store.keys
    tail = keys.tail(second.service.store.instance)
    with own_valkey.client() as client:  # as an older state has it: without the last revocation
        own = f" {second.service.store.instance} 1"
        client.set(tail.share, 0)
        client.set(tail.writers, client.get(tail.writers).replace(own, ""))
        client.decr(tail.seq)
        client.delete(*client.scan_iter(f"*:jti:main:{other['jti']}"))
    bystander = issued()
    await verdicts_are_back(second)
    assert epoch_in(own_valkey, second).finding == "repaired"
    assert not await second.active(gone)
    assert not await second.active(other)
    assert await second.active(bystander)


async def test_a_process_that_has_forgotten_a_revocation_does_not_vouch(start, own_valkey):
    [only] = [await start(own_valkey, revocation={"repair_seconds": 1})]
    await seen_by_both(only)
    only.service.store.revocations.acknowledged._limit = 2
    await revoke_many(only, 3)
    flush(own_valkey)
    await verdicts_are_back(only)
    assert epoch_in(own_valkey, only).finding == "cutoff"


async def test_a_running_process_that_is_not_heard_is_waited_for(start, own_valkey):
    first, second = await two(start, own_valkey, repair_seconds=1)
    await second.service.store.close()  # it says nothing more, and has not left
    with own_valkey.client() as client:
        client.hset(
            first.service.store.keys.instances,
            second.service.store.instance,
            f"{int(time.time() * 1000) + 60_000} - ",
        )
    await first.service.store.instances.enter()
    flush(own_valkey)
    await verdicts_are_back(first)
    assert epoch_in(own_valkey, first).finding == "cutoff"


async def test_a_process_that_the_store_has_forgotten_is_still_waited_for(start, own_valkey):
    first, second = await two(start, own_valkey, **REPAIR)
    flush(own_valkey)
    await first.service.store.instances.enter()  # reads the store after the loss, before that is found
    assert second.service.store.instance in first.service.store.instances.running
    [gone] = await revoke_many(second, 1)  # in a store that was repaired with both
    await verdicts_are_back(first, second)
    assert epoch_in(own_valkey, first).finding == "repaired"
    assert not await first.active(gone)
    await second.close()
    await first.service.store.instances.enter()
    assert second.service.store.instance not in first.service.store.instances.running


async def test_what_was_revoked_in_a_repair_is_acknowledged_afterwards_and_holds(start, own_valkey):
    revokers = await two(start, own_valkey, **REPAIR)
    await revoke_many(revokers[0])
    flush(own_valkey)
    claims = [issued() for _ in range(10)]
    async with asyncio.timeout(HANGS_S):
        answers = await asyncio.gather(
            *(revoke(revokers[number % 2], one) for number, one in enumerate(claims))
        )
    assert epoch_in(own_valkey, revokers[0]).finding == "repaired"
    for one, answer in zip(claims, answers, strict=True):
        if answer.status == 200:
            assert not await revokers[0].active(one)
            assert not await revokers[1].active(one)


async def test_the_cutoff_of_an_earlier_loss_stays_although_one_process_has_not_heard_of_it(
    start, own_valkey
):
    first, second = await two(start, own_valkey, **REPAIR)
    old = issued()
    assert await first.service.store.declare_lost("cutoff") is not None
    for revoker in (first, second):
        await eventually(lambda revoker=revoker: is_cut_off(revoker, old))
    cutoff = epoch_in(own_valkey, first).cutoff
    behind = first.service.store.source.data_set
    behind.epoch = dataclasses.replace(behind.epoch, cutoff=0)
    flush(own_valkey)
    await has_verdict(first)  # it starts the repair
    await verdicts_are_back(first, second)
    assert (epoch_in(own_valkey, first).finding, epoch_in(own_valkey, first).cutoff) == ("repaired", cutoff)
    assert await is_cut_off(first, old)
    assert await is_cut_off(second, old)


async def is_cut_off(revoker, claims):
    answer = await revoker.post("/introspect", claims, caller="gateway")
    return answer.status == 200 and answer.json == {"active": False}


@pytest.mark.parametrize("policy", ["refuse", "ignore"])
async def test_a_loss_that_was_repaired_is_none_for_any_policy(start, own_valkey, policy):
    [only] = [await start(own_valkey, revocation=REPAIR | {"data_loss": policy})]
    await seen_by_both(only)
    [gone] = await revoke_many(only, 1)
    flush(own_valkey)
    await verdicts_are_back(only)
    assert epoch_in(own_valkey, only).finding == "repaired"
    assert not await only.active(gone)


async def test_an_unrepaired_loss_that_nobody_has_accepted_is_not_repaired_later(start, own_valkey):
    only = await start(own_valkey, revocation={"repair_seconds": 1, "data_loss": "refuse"})
    await seen_by_both(only)
    await only.service.store.declare_lost("refuse")
    await eventually(lambda: has_problem(only, "data_loss_refused"))
    flush(own_valkey)
    assert await status_of(only, issued()) == 503
    assert epoch_in(own_valkey, only).finding == "refused"
