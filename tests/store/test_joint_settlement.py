"""Data sets that are settled together do not depend on each other."""

import asyncio
import types

import pytest
from prometheus_client import CollectorRegistry

from revoker.errors import StoreUnavailable
from revoker.metrics import Metrics
from revoker.store import instances
from revoker.store.consistency import joint_settlement
from revoker.store.consistency.data_set import DataSet, Settlement
from revoker.store.consistency.epoch import Reading, Watermark
from revoker.store.consistency.joint_settlement import settle_jointly
from revoker.store.consistency.losses import Losses
from revoker.store.consistency.repair import contributions_to
from revoker.store.consistency.steps import READS, Contributes, Pauses, Reads, RepairProgress, SetsEpoch
from revoker.store.instances import Instances
from revoker.store.keys import Keys
from tests.rig.service import HANGS_S

E1, E2 = b"e1 0 0 new", b"e2 5000 5000 cutoff"


async def not_alone(*_):
    pytest.fail("it is settled by itself")


class OfThree:
    """What a data set needs for its repair: this process and two others run."""

    seconds = 3.0

    def __init__(self):
        self.names = {"me", "first", "second"}
        self.instances = Instances(None, Keys("rv"), "me", looks=False)

    def running(self):
        return self.names

    def can_vouch(self):
        return True

    def announce(self, *, repairing):
        pass

    def heard(self, process):
        self.instances.heard(process)

    def advance(self, processes):
        return self.instances.heard_within(self.seconds, processes)


def made(*, settled_as=E1, repairs=None):
    """A data set that was read, and whose steps go nowhere by themselves."""
    data = DataSet(
        Keys("rv").tail("me"),
        policy="cutoff",
        losses=Losses(Metrics(CollectorRegistry()), grouped=True),
        read=not_alone,
        set_epoch=not_alone,
        write_back=not_alone,
        repairs=repairs,
    )
    assert data.adopt_first(Reading(settled_as, 10, 5, 1000))
    return data


def given(step):
    """What a store gives that another process has settled, and to which nothing is written back."""
    return Reading(E2, 0, None, 6000) if isinstance(step, Reads) else None


def first_contribution(settlement):
    """Take the steps of a loss up to that by which this process contributes to its repair."""
    step = settlement.advance(None)
    while not isinstance(step, Contributes):
        match step:
            case Reads():
                step = settlement.advance(Reading(None, 0, None, 6000))
            case SetsEpoch():
                epoch = f"{step.new_id} 6000 0 {step.finding}".encode()
                step = settlement.advance((True, Watermark(epoch, 0, 0)))
            case _:
                step = settlement.advance(None)
    return step


def contribution_in(step):
    [mine] = contributions_to(step.epoch.decode().split(" ")[0], {"me": step.contribution}).values()
    return mine


def heard_from(step, *others, at):
    """What a contribution gives at a time (ms), if these processes have contributed as well."""
    contributions = dict.fromkeys(("me", *others), step.contribution)
    return RepairProgress(at, contributions, Watermark(step.epoch, 10, 5))


async def test_who_ends_while_a_data_set_waits_for_its_turn_must_still_be_heard():
    repairs = OfThree()
    settlement = made(repairs=repairs).begin_together()
    repairs.names.remove("first")  # killed together with what it wrote
    step = first_contribution(settlement)
    settlement.abandon()
    assert set(contribution_in(step).running) == {"me", "first", "second"}


async def test_a_process_that_still_comes_to_other_data_sets_is_waited_for_and_one_that_does_not_is_not(
    monkeypatch,
):
    seconds = 100.0
    monkeypatch.setattr(instances, "time", types.SimpleNamespace(monotonic=lambda: seconds))
    repairs = OfThree()

    def in_repair():
        settlement = made(repairs=repairs).begin_together()
        return settlement, first_contribution(settlement)

    waiting, contribution = in_repair()
    for late in range(3):  # each time it has come to one more of the data sets, and not yet to this one
        seconds += 2
        other, elsewhere = in_repair()
        assert isinstance(other.advance(heard_from(elsewhere, "first", "second", at=6000)), SetsEpoch)
        other.abandon()
        given = heard_from(contribution, "first", at=9000 + 2000 * late)
        assert isinstance(waiting.advance(given), Pauses)
        contribution = waiting.advance(None)
    seconds += 3
    assert isinstance(waiting.advance(heard_from(contribution, "first", at=18_000)), Reads), "it is given up"
    waiting.abandon()


async def test_who_was_heard_of_no_data_set_is_waited_for_no_longer_because_another_one_is():
    repairs = OfThree()
    repairs.heard("first")
    settlement = made(repairs=repairs).begin_together()
    contribution = first_contribution(settlement)
    assert isinstance(settlement.advance(heard_from(contribution, at=8999)), Pauses)
    contribution = settlement.advance(None)
    assert isinstance(settlement.advance(heard_from(contribution, at=9000)), Reads)
    settlement.abandon()


async def test_one_that_cannot_be_settled_stops_no_other():
    sets = [made() for _ in range(3)]

    async def carry_out(asked):
        return [StoreUnavailable("not this one") if data is sets[1] else given(step) for data, step in asked]

    settlements = [data.begin_together() for data in sets]
    await settle_jointly(settlements, carry_out, asyncio.Semaphore(1))
    assert [data.epoch.finding for data in sets] == ["cutoff", "new", "cutoff"]
    with pytest.raises(StoreUnavailable, match="not this one"):
        settlements[1].ended.result()


async def test_a_step_that_got_no_reply_is_sent_once_more_and_for_the_others_it_is_not():
    sets, sent = [made() for _ in range(3)], []

    async def carry_out(asked):
        sent.append([sets.index(data) for data, _ in asked])
        fails = {1: 1, 2: HANGS_S}  # so often
        return [
            StoreUnavailable("no reply")
            if sum(of.count(number) for of in sent) <= fails.get(number, 0)
            else given(step)
            for number, (_, step) in zip(sent[-1], asked, strict=True)
        ]

    await settle_jointly([data.begin_together() for data in sets], carry_out, asyncio.Semaphore(1))
    assert sent[:2] == [[0, 1, 2], [1, 2]]
    assert [data.epoch.finding for data in sets] == ["cutoff", "cutoff", "new"]


@pytest.mark.parametrize("fault", [RuntimeError, asyncio.CancelledError])
async def test_all_have_ended_where_settling_them_together_failed(fault):
    sets = [made() for _ in range(3)]
    settlements = [data.begin_together() for data in sets]
    assert sets[0].begin_together() is None

    async def carry_out(_):
        raise fault

    with pytest.raises(fault):
        await settle_jointly(settlements, carry_out, asyncio.Semaphore(1))
    for data, settlement in zip(sets, settlements, strict=True):
        assert isinstance(settlement.ended.exception(), StoreUnavailable)
        assert data.begin_together() is not None


async def test_a_step_that_hangs_ends_them_all(monkeypatch):
    monkeypatch.setattr(joint_settlement, "_STEP_S", 0.01)
    settlements = [made().begin_together() for _ in range(3)]

    async def carry_out(_):
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await settle_jointly(settlements, carry_out, asyncio.Semaphore(1))
    assert all(isinstance(one.ended.exception(), StoreUnavailable) for one in settlements)


async def test_the_time_until_their_turn_is_not_taken_from_their_steps(monkeypatch):
    monkeypatch.setattr(joint_settlement, "_STEP_S", 0.01)
    sets, turns = [made() for _ in range(3)], asyncio.Semaphore(1)

    async def carry_out(asked):
        return [given(step) for _, step in asked]

    async with turns:  # others are settled first, for longer than a step may take
        settling = asyncio.create_task(
            settle_jointly([data.begin_together() for data in sets], carry_out, turns)
        )
        await asyncio.sleep(0.03)
    await settling
    assert [data.epoch.finding for data in sets] == ["cutoff"] * 3


async def test_a_loss_is_settled_after_all_that_began_before():
    """An eviction that is noticed meanwhile is another loss."""
    data = made()
    settlement = data.begin_together()
    assert data.begin_alone() is settlement.ended
    later = data.begin_alone(5500, "keys were evicted")
    await asyncio.sleep(0)
    assert data.begin_together() is None

    async def carry_out(asked):
        return [given(step) for _, step in asked]

    await settle_jointly([settlement], carry_out, asyncio.Semaphore(1))
    assert data.epoch.finding == "cutoff"
    assert not later.done()
    await data.close()


async def test_some_of_those_that_wait_for_others_are_looked_at_and_all_once_these_have_changed(monkeypatch):
    monkeypatch.setattr(joint_settlement, "_ALL_POLLED_S", HANGS_S)

    def waiting(polls):
        for _ in range(polls):
            yield READS
            yield Pauses(HANGS_S)

    settlements = [Settlement(made(), waiting(3 if number else 1), lambda _: None) for number in range(40)]
    sent = []

    async def carry_out(asked):
        sent.append(len(asked))
        return [None] * len(asked)

    await settle_jointly(settlements, carry_out, asyncio.Semaphore(1))
    assert sent[:3] == [40, 3, 36], "the first of four scouts has ended"
    assert sum(sent) == 1 + 3 * 39
    assert all(settlement.ended.done() for settlement in settlements)
