"""Moments at which lost data could slip through: between a write and its answer, a reading and its use."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from revoker.errors import StoreUnavailable
from revoker.metrics import Metrics
from revoker.models import Claims
from revoker.rules import FOREVER_MS
from revoker.store.consistency import data_set, steps
from revoker.store.consistency.data_set import DataSet
from revoker.store.consistency.epoch import Epoch, Reading, Watermark
from revoker.store.consistency.losses import Losses
from revoker.store.consistency.repair import Contribution, _encode
from revoker.store.consistency.steps import RepairProgress
from revoker.store.keys import Keys
from tests.rig.service import HANGS_S
from tests.store.conftest import MAIN, opened, store_on, until_no_lookup_is_under_way

E1 = b"e1 0 0 new"


class Server:
    """What a data set is read from and written to; ``done`` says in which order."""

    def __init__(self, reading):
        self.reading = reading
        self.done = []

    async def read(self):
        return self.reading

    async def set_epoch(self, stood, new_id, latest, finding, cutoff, counts=None):  # noqa: PLR0917
        self.done.append("set_epoch")
        noticed = max(self.reading.now, latest)
        text = f"{new_id} {noticed} {noticed if cutoff is None else cutoff} {finding}".encode()
        self.reading = Reading(text, self.reading.seq, self.reading.share, self.reading.now)
        return True, Watermark(text, self.reading.seq, self.reading.share or 0)

    async def write_back(self):
        self.done.append("write_back")
        return self.in_effect

    async def in_effect(self, _):
        reading = self.reading
        return Watermark(reading.epoch, reading.seq, reading.share or 0)


def confirms(data, before, *numbers):
    *numbers, now = numbers
    return data.confirms(before, *numbers, b"", now, "server")


async def read_data_set(policy="cutoff", *, seq=10, share=5, now=1000):
    server = Server(Reading(E1, seq, share, now))
    data = DataSet(
        Keys("rv").tail("me"),
        policy=policy,
        losses=Losses(Metrics(CollectorRegistry())),
        read=server.read,
        set_epoch=server.set_epoch,
        write_back=server.write_back,
    )
    await data.settle()
    server.done.clear()
    return data, server


@pytest.mark.parametrize(
    "found", [None, b"other 0 0 new", b"other 5000 5000 cutoff", b"not an epoch", b"e2 5000 0 accepted"]
)
async def test_blocks_and_keys_are_back_before_anybody_can_see_that_the_loss_is_settled(found):
    data, server = await read_data_set()
    server.reading = Reading(found, 10, 5, 2000)
    await data.settle()
    assert server.done[0] == "write_back"


async def test_an_answer_is_adopted_and_an_older_snapshot_is_not():
    for noticed, answer in ((1000, True), (5000, True), (999, False)):
        data, server = await read_data_set()
        server.reading = Reading(b"other %d %d cutoff" % (noticed, noticed), 1, None, 6000)
        await data.settle()
        assert ("set_epoch" not in server.done) is answer
        assert data.epoch.cutoff == (noticed if answer else 6000)


async def test_a_clock_that_went_back_makes_no_snapshot_an_answer():
    data, server = await read_data_set(now=50_000)
    assert confirms(data, data.watermark, E1, b"10", b"5", 20_000)
    server.reading = Reading(b"other 30000 30000 cutoff", 10, 5, 20_500)
    await data.settle()
    assert data.epoch.cutoff >= 50_000


@pytest.mark.parametrize(
    ("epoch", "seq", "share", "confirmed"),
    [
        (E1, b"10", b"5", True),
        (E1, b"11", b"6", True),
        (E1, b"9", b"5", False),
        (E1, b"99", b"4", False),
        (E1, b"99", None, False),
        (E1, None, b"5", False),
        (None, b"10", b"5", False),
        (b"e2 0 0 new", b"10", b"5", False),
    ],
)
async def test_a_reading_counts_only_if_it_has_all_that_was_seen(epoch, seq, share, confirmed):
    data, _ = await read_data_set()
    assert confirms(data, data.watermark, epoch, seq, share, 1001) is confirmed


async def test_a_reading_is_compared_with_the_watermark_of_when_it_was_sent():
    data, _ = await read_data_set()
    before = data.watermark
    assert data.record_write(before, Watermark(E1, 11, 6))
    assert confirms(data, before, E1, b"10", b"5", 1001)
    assert not confirms(data, data.watermark, E1, b"10", b"5", 1001)


@pytest.mark.parametrize(("seq", "share"), [(10, 6), (99, 5), (99, 1)])
async def test_a_write_that_does_not_raise_the_numbers_shows_a_loss_that_no_later_write_hides(seq, share):
    data, server = await read_data_set()
    for more in range(20):
        data.record_write(data.watermark, Watermark(E1, seq + more, share + more))
    server.reading = Reading(E1, seq + 19, share + 19, 1100)
    await data.settle()
    assert data.epoch.finding == "cutoff"


async def test_writes_whose_answers_come_out_of_order_are_no_loss():
    data, _ = await read_data_set()
    before = data.watermark
    for more in (3, 1, 2):
        assert data.record_write(before, Watermark(E1, 10 + more, 5 + more))
    assert data.watermark == Watermark(E1, 13, 8)


async def test_a_share_that_has_expired_while_this_process_slept_is_no_loss():
    data, server = await read_data_set()
    assert data.record_write(data.watermark, Watermark(E1, 11, 6))
    server.reading = Reading(E1, 11, None, 1000 + 90_000_000)
    await data.settle()
    assert data.epoch == Epoch.parse(E1)


@pytest.mark.parametrize("policy", ["cutoff", "ignore", "refuse"])
async def test_a_refusal_is_in_effect_until_it_is_accepted_whatever_is_lost_meanwhile(policy):
    data, server = await read_data_set(policy)
    server.reading = Reading(b"r 2000 0 refused", 10, 5, 2000)
    await data.settle()
    server.reading = Reading(None, 0, None, 3000)
    await data.settle()
    assert data.refusal is not None
    server.reading = Reading(b"a 4000 0 accepted", 0, None, 4000)
    await data.settle()
    assert data.refusal is None


@pytest.fixture
async def unwatched(valkey, prefix):
    """A store whose watch does not write anything back, which would hide what is tested."""
    made = store_on(valkey, prefix)
    await made.init()
    async with opened(made, watched=False):
        await until_no_lookup_is_under_way(made)
        yield made


async def test_a_block_whose_answer_came_after_the_loss_is_made_again(unwatched, valkey, monkeypatch):
    store = unwatched
    execute, answered = store.source.change_together, []

    async def losing(*command):
        reply = await execute(*command)
        if not answered:
            answered.append(reply)
            with valkey.client() as client:
                client.delete(*client.scan_iter(f"{store.keys.epoch.split(':')[0]}:*"))
            await store.source.data_set.settle()
        return reply

    monkeypatch.setattr(store.source, "change_together", losing)
    assert await store.revocations.block_user(MAIN, "alice", until=None, reason="") == FOREVER_MS
    found = await store.lookups.find(store.keys.of_token(Claims(sub="alice", jti="1"), MAIN))
    assert found.state.user.blocked == FOREVER_MS
    assert len(answered) == 1


async def test_what_was_read_before_a_block_does_not_make_this_process_forget_it(unwatched, monkeypatch):
    store = unwatched
    confirms_reading = store.source.data_set.confirms_reading
    blocked = []

    def late(*reading):  # lookups, which may probe a new connection meanwhile, do not call it
        if not blocked:
            blocked.append("tag")
            store.revocations.remembered.block("tag", FOREVER_MS)
        return confirms_reading(*reading)

    monkeypatch.setattr(store.source.data_set, "confirms_reading", late)
    assert await store.watch.look(0) == []
    assert store.revocations.remembered.blocks == {"tag": FOREVER_MS}
    assert await store.watch.look(1) == []
    assert store.revocations.remembered.blocks == {}


class Replicas:
    """What replicas have confirmed: writes to a server that were sent by a time."""

    def __init__(self):
        self.server, self.confirmed = "server", -1.0

    def since(self, server, time):
        return server == self.server and self.confirmed > time

    def confirm(self):
        self.confirmed = asyncio.get_running_loop().time() + 1


async def with_replicas():
    _, server = await read_data_set()
    replicas = Replicas()
    waiting = DataSet(
        Keys("rv").tail("me"),
        policy="cutoff",
        losses=Losses(Metrics(CollectorRegistry())),
        read=server.read,
        set_epoch=server.set_epoch,
        write_back=server.write_back,
        confirmed=replicas.since,
    )
    waiting.adopt_first(server.reading)
    return waiting, replicas


async def test_a_promoted_replica_that_lacks_what_was_never_confirmed_has_lost_nothing():
    data, _ = await with_replicas()
    for seq in (b"12", b"13"):
        assert confirms(data, data.watermark, E1, seq, b"5", 1001)
    assert confirms(data, data.watermark, E1, b"10", b"5", 1002)


async def test_what_replicas_have_confirmed_is_expected_of_every_reading():
    data, replicas = await with_replicas()
    assert confirms(data, data.watermark, E1, b"12", b"5", 1001)
    replicas.confirm()
    assert confirms(data, data.watermark, E1, b"13", b"5", 1002)
    assert not confirms(data, data.watermark, E1, b"11", b"5", 1003)
    assert confirms(data, data.watermark, E1, b"12", b"5", 1003), "the last reading was not confirmed"


async def test_what_another_server_has_confirmed_says_nothing_of_this_reading():
    data, replicas = await with_replicas()
    replicas.server = "another"
    assert confirms(data, data.watermark, E1, b"12", b"5", 1001)
    replicas.confirm()
    assert confirms(data, data.watermark, E1, b"13", b"5", 1002)
    assert confirms(data, data.watermark, E1, b"10", b"5", 1003)


async def test_a_revocation_of_this_process_that_was_acknowledged_is_expected_at_once():
    data, _ = await with_replicas()
    assert data.record_write(data.watermark, Watermark(E1, 12, 6, b" me 6"))
    assert not confirms(data, data.watermark, E1, b"11", b"5", 1002)


async def test_a_lost_revocation_of_another_process_is_noticed_although_there_are_new_ones():
    data, _ = await read_data_set()
    read = data.confirms(data.watermark, E1, b"20", b"5", b" me 5 other 5", 1001, "server")
    assert read
    hidden = data.confirms(data.watermark, E1, b"21", b"5", b" me 5 other 4 third 2", 1002, "server")
    assert not hidden


class Absent:
    """Another process that never looks at the new server.

    Attributes:
        looks: When the server answers each look, and how long that takes; None: it does not answer.
        now: The time.
    """

    seconds = 3

    def __init__(self, *looks):
        self.looks = list(looks)
        self.now = 0.0

    def leave_all_but(self, server):
        assert server == "new"

    async def not_at(self, _):
        self.now, answered = self.looks.pop(0)
        if not answered:
            raise StoreUnavailable("it stalls")
        return {"other"}

    def time(self):
        return self.now


@pytest.mark.parametrize(
    "looks",
    [
        [(0.0, False), (3.1, True), (3.3, True), (6.2, False), (6.3, True), (6.7, True)],
        [(0.0, True), (3.0, False), (3.1, True), (3.3, True), (6.0, False), (6.3, True)],
        [(0.0, True), (0.2, True), (3.1, True), (3.3, True)],
    ],
    ids=["never reached", "reached at first", "one answer takes long"],
)
async def test_a_process_is_given_up_only_for_the_time_in_which_it_could_look(looks, monkeypatch):
    monkeypatch.setattr(data_set, "SETTLE_WAIT_S", HANGS_S)
    monkeypatch.setattr(steps, "POLL_S", (0.001,))
    enough = [looks[-1][0] + 0.4 * step for step in range(1, 10)]
    others = Absent(*looks, *((at, True) for at in enough))
    server = Server(Reading(E1, 10, 5, 1000, server="new"))
    data = DataSet(
        Keys("rv").tail("me"),
        policy="cutoff",
        losses=Losses(Metrics(CollectorRegistry())),
        read=server.read,
        set_epoch=server.set_epoch,
        write_back=server.write_back,
        others=others,
        clock=others.time,
    )
    data.adopt_first(server.reading)
    for _ in [look for look in looks if not look[1]]:
        with pytest.raises(StoreUnavailable):
            await data.settle()
        assert data.is_new("new")
    await data.settle()
    assert not data.is_new("new")
    assert len(others.looks) < len(enough), "it was given up before it could look"
    assert others.looks, "it was waited for in vain for longer than is configured"


class LossAtNewServer(Server):
    """A new server that has lost data, and two other processes, as this one sees them; in a time of its own.

    Attributes:
        now: The time (s).
        takes: How long each look at what the others do takes (s); after the repair it is prompt.
        given_up_at: When the loss was not repaired.
        contributor: A process that takes part in the repair; from ``looks_at`` on it says that it has looked.
    """

    seconds = 3

    def __init__(self, *, takes=0.1, contributor="", looks_at=0.0):
        super().__init__(Reading(E1, 10, 5, 1000, server="new"))
        self.now, self.takes, self.given_up_at = 1.0, takes, None
        self.contributor, self._looks_at = contributor, looks_at

    async def set_epoch(self, *epoch):
        done = await super().set_epoch(*epoch)
        self.reading = self.reading._replace(now=int(self.now * 1000), server="new")
        if self.reading.epoch.endswith(b"cutoff"):
            self.given_up_at, self.takes = self.now, 0.1
        return done

    async def write_back(self):
        return None

    def announce(self, *, repairing):
        pass

    def running(self):
        return {"me", "killed"}

    def can_vouch(self):
        return True

    def heard(self, process):
        pass

    def advance(self, processes):
        return False

    async def contribute(self, epoch, contribution, _):
        self.now += self.takes
        given = {"me": contribution}
        if self.contributor:
            given[self.contributor] = _encode(Contribution(Epoch.parse(epoch).id, vouches=True))
        return RepairProgress(int(self.now * 1000), given, Watermark(epoch, 0, 0))

    def leave_all_but(self, server):
        assert server == "new"

    async def not_at(self, _):
        self.now += self.takes
        return {"killed"} | ({self.contributor} - {""} if self.now < self._looks_at else set())

    def time(self):
        return self.now


async def trusted_after(server, monkeypatch):
    """The time that it takes to settle the loss, and until the new server is trusted."""
    monkeypatch.setattr(data_set, "SETTLE_WAIT_S", HANGS_S)
    monkeypatch.setattr(steps, "POLL_S", (0.001,))
    data = DataSet(
        Keys("rv").tail("me"),
        policy="cutoff",
        losses=Losses(Metrics(CollectorRegistry())),
        read=server.read,
        set_epoch=server.set_epoch,
        write_back=server.write_back,
        repairs=server,
        others=server,
        clock=server.time,
    )
    data.adopt_first(server.reading)
    began = server.now
    server.reading = Reading(E1, 0, 0, int(began * 1000), server="new")
    await data.settle()
    assert data.epoch.finding == "cutoff"
    assert not data.is_new("new")
    return server.now - began


async def test_who_was_not_heard_in_a_repair_is_not_waited_for_once_more(monkeypatch):
    server = LossAtNewServer()
    assert server.seconds < await trusted_after(server, monkeypatch) < server.seconds + 1


async def test_who_takes_part_in_a_repair_has_all_the_time_after_it_to_say_that_it_has_looked(monkeypatch):
    server = LossAtNewServer(contributor="slow", looks_at=6.5)
    await trusted_after(server, monkeypatch)
    assert server.given_up_at < 5
    assert server.now >= 6.5
    never = LossAtNewServer(contributor="slow", looks_at=float("inf"))
    await trusted_after(never, monkeypatch)
    assert never.seconds <= never.now - never.given_up_at < never.seconds + 1


async def test_time_of_a_repair_in_which_the_server_was_slow_does_not_count(monkeypatch):
    server = LossAtNewServer(takes=0.6)
    assert await trusted_after(server, monkeypatch) > 2 * server.seconds


class LosesReplies(Server):
    """Carries out what it is asked; so many replies to a change of its epoch do not arrive, from the nth on.

    It is a data set for which this process can vouch, too, and nobody else writes to it.
    """

    seconds = 3

    def __init__(self, *, first, lost):
        super().__init__(Reading(E1, 10, 5, 1000))
        self._lost = range(first, first + lost)
        self._asked = 0

    async def set_epoch(self, expected, *epoch):
        number, self._asked = self._asked, self._asked + 1
        done = (self.reading.epoch or b"") == expected
        if done:
            await super().set_epoch(expected, *epoch)
        if number in self._lost:
            raise StoreUnavailable("no reply")
        return done, await self.in_effect(True)

    async def contribute(self, epoch, contribution, _):
        self.reading = self.reading._replace(seq=10, share=5)
        numbers = await self.in_effect(False)
        return RepairProgress(self.reading.now, {"me": contribution}, numbers)

    def announce(self, *, repairing):
        pass

    def running(self):
        return {"me"}

    def can_vouch(self):
        return True

    def heard(self, process):
        pass

    def advance(self, processes):
        return False


@pytest.mark.parametrize("lost", [0, 1, 2])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("repairs", [False, True])
async def test_a_loss_and_its_outcome_are_logged_once_and_whole_although_a_reply_is_lost(
    first, lost, repairs, monkeypatch, events
):
    monkeypatch.setattr(data_set, "SETTLE_WAIT_S", HANGS_S)
    server = LosesReplies(first=first, lost=lost)
    data = DataSet(
        Keys("rv").tail("me"),
        policy="cutoff",
        losses=Losses(Metrics(CollectorRegistry())),
        read=server.read,
        set_epoch=server.set_epoch,
        write_back=server.write_back,
        repairs=server if repairs else None,
    )
    data.adopt_first(server.reading)
    events.clear()
    server.reading = Reading(None, 0, None, 2000)
    if lost == 2 and (repairs or first == 0):
        with pytest.raises(StoreUnavailable):
            await data.settle()
    await data.settle()
    assert data.epoch.finding == ("repaired" if repairs else "cutoff")
    found = [event["event"] for event in events]
    if repairs:
        assert found == ["data_loss_repairing", "data_loss_repaired", "epoch_adopted"]
    else:
        assert found == ["data_lost", "epoch_adopted"]
        assert events[0]["missing"] == "the store has no epoch"
        assert events[0]["epoch"] == data.epoch.id
