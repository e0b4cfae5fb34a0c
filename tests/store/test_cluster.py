"""The store in a real cluster of three primaries."""

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import json
import os
import time
import uuid

import pytest

from revoker.errors import NoVerdict, StoreRefused, StoreUnavailable
from revoker.models import Claims
from revoker.rules import FOREVER_MS
from revoker.store import instances
from revoker.store.cluster import settling
from revoker.store.cluster.source import ClusterSource
from revoker.store.consistency.epoch import Epoch
from revoker.store.console_records import ConsoleRecords
from revoker.store.keys import SLOTS, slot_of, slot_tags, user_tag
from revoker.store.wire.connection import Refused, TooFewReplicas
from tests.rig import forge
from tests.rig.administration import everything, name_of, view_user
from tests.rig.network import Network
from tests.rig.probes import eventually, issued
from tests.rig.service import HANGS_S, OTHER_ISSUER, PATIENT_S
from tests.rig.topologies import NO_FAILOVER, Cluster
from tests.sessions.conftest import SESSIONS_ISSUER, log_in, sids
from tests.sessions.conftest import sessions_section as sessions_section  # noqa: PLC0414  # a fixture
from tests.store.conftest import MAIN, opened, store_on

SHARE = SLOTS // 3

TIMEOUT_S = 30.0
"""The longest that the settings allow: all 16,384 slots are read and written at once."""


@pytest.fixture(autouse=True)
def pauses_do_not_end_processes(monkeypatch):
    """A process that stands still for seconds is not taken for ended."""
    monkeypatch.setattr(instances, "RUNNING_MS", 60_000)


@contextlib.contextmanager
def cluster(folder, *options):
    with Network() as network:
        network.assign_process(os.getpid(), "service")
        started = Cluster(network, folder, replicas=0, options=(*NO_FAILOVER, *options))
        try:
            started.start()
            yield started
        finally:
            started.stop()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """For tests that do no harm: slots come back, and nothing is lost."""
    with cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(scope="module")
def spare(tmp_path_factory):
    """For tests with a key space of their own, and after which others expect none of their data."""
    with cluster(tmp_path_factory.mktemp("spare")) as started:
        yield started


@contextlib.asynccontextmanager
async def earlier(nodes, prefix, **changes):
    """A store that has read all its data sets."""
    async with opened(store_on(nodes, prefix, timeout=TIMEOUT_S, **changes)) as store:
        for _ in range(20):
            await store.watch.beat()
            if store.watch.reached:
                break
        assert store.watch.reached, store.problems
        yield store


async def declare(nodes, prefix):
    """Declare a store new."""
    made = store_on(nodes, prefix, timeout=TIMEOUT_S)
    try:
        assert await made.init()
    finally:
        await made.close()


@pytest.fixture(scope="module")
def declared(nodes):
    """A key space that all share that do it no harm: 16,384 data sets take their time."""
    prefix = f"t{uuid.uuid4().hex[:12]}"

    asyncio.run(declare(nodes, prefix))
    return prefix


@pytest.fixture
async def shared(nodes, declared):
    async with earlier(nodes, declared) as made:
        yield made


@pytest.fixture
async def store(spare, prefix):
    """A store of one's own."""
    await declare(spare, prefix)
    async with earlier(spare, prefix) as made:
        yield made


def jti_at(store, node):
    """A jti whose entry the node keeps; they are numbered in the order of their slots."""
    return next(
        jti
        for jti in (uuid.uuid4().hex for _ in itertools.count())
        if min(slot_of(store.keys.jti(MAIN, jti)) // SHARE, 2) == node
    )


def exp():
    return int(time.time()) + 600


async def listed(store, jti):
    found = await store.lookups.find((store.keys.jti(MAIN, jti), None, None, None, None, None))
    return found.state.jti is not None


def test_every_slot_has_a_tag_that_lies_there():
    assert [slot_of(f"rv:{{{tag}}}:epoch") for tag in slot_tags()] == list(range(SLOTS))


@pytest.mark.parametrize(
    ("key", "slot"),
    [("123456789", 12739), ("{123456789}:x", 12739), ("a{}b", slot_of("a{}b")), ("a{123456789}{x}", 12739)],
)
def test_a_key_lies_where_the_server_says(nodes, key, slot):
    with nodes.nodes[0].client() as client:
        assert client.execute_command("CLUSTER", "KEYSLOT", key) == slot_of(key) == slot


NOW = {"before": None, "reason": ""}


async def test_what_was_revoked_is_found_wherever_it_lies(shared):
    revocations, keys = shared.revocations, shared.keys
    revocable = tuple(("grant_id", f"g{n}") for n in range(20))
    claims = Claims(iss=MAIN.iss, jti="1", sub="alice", sid="s", client_id="web", revocable=revocable)
    found = await shared.lookups.find(keys.of_token(claims, MAIN))
    assert (found.state.jti, found.state.user, found.state.session, found.state.loss) == (
        None, None, None, 0,
    )  # fmt: skip
    jti = await revocations.revoke_token(MAIN, "1", exp())
    user = await revocations.revoke_user(MAIN, "alice", before=None, except_sid=None, reason="left")
    session = await revocations.revoke_session(MAIN, "s", before=None, reason="")
    client = await revocations.revoke_client(MAIN, "web", before=None, reason="")
    grants = {n: await revocations.revoke_claim(MAIN, "grant_id", f"g{n}", **NOW) for n in range(0, 20, 3)}
    issuer = await revocations.revoke_issuer(MAIN, before=None, reason="")
    key = await revocations.revoke_key(MAIN, "k1", reason="leaked")
    await revocations.block_user(MAIN, "alice", until=None, reason="")
    for state in (
        (await shared.lookups.find(keys.of_token(claims, MAIN))).state,
        (await shared.lookups.find_all([keys.of_token(claims, MAIN)] * 3))[2].state,
    ):
        assert (state.jti.at, state.user.hard, state.session.at) == (jti, user, session)
        assert (state.client.at, state.issuer.at, state.keys["k1"].at) == (client, issuer, key)
        assert (state.user.blocked, state.user.reason) == (FOREVER_MS, "left")
        assert {n: mark.at for n, mark in enumerate(state.claims) if mark} == grants
        assert len(state.claims) == 20
    without = Claims(iss=MAIN.iss, jti="2", sub="bob", revocable=(("grant_id", "g1"), ("grant_id", "g2")))
    assert (await shared.lookups.find(keys.of_token(without, MAIN))).state.claims == ()


async def test_the_time_of_the_users_primary_advances_without_it(shared):
    keys = shared.keys.of_token(Claims(iss=MAIN.iss, jti="1", sub="alice", sid="s"), MAIN)
    first = await shared.lookups.find(keys)

    went_on = shared.lookups.last_read(keys)
    second = await shared.lookups.find(keys)

    assert went_on.loss == 0
    assert first.now <= went_on.now + 1
    assert went_on.now <= second.now + 1


async def test_a_claim_cutoff_covers_its_tokens_in_whatever_slots_they_are(start, spare):
    """Through the API: the cutoff has a slot of its own, and so has nearly everything else of a token."""
    revoker = await start(spare, main={"claims": {"revocable": ["grant_id", "tenant"]}})
    tokens = [issued(sub=f"user-{number}", grant_id=f"g{number % 2}") for number in range(20)]
    cut = {"iss": tokens[0]["iss"], "claim": "grant_id", "value": "g0"}
    assert (await revoker.post("/revoke-claim", cut)).status == 200
    for token in tokens:
        assert await revoker.active(token) is (token["grant_id"] == "g1")
    batch = await revoker.post("/introspect/batch", {"tokens": tokens}, caller="gateway")
    assert [result["active"] for result in batch.json["results"]] == [False, True] * 10


async def test_a_cluster_has_a_time_once_a_primary_was_read(shared):
    before = int(time.time() * 1000)
    await shared.lookups.find(shared.keys.of_token(Claims(sub="ann", jti="any"), MAIN))
    assert before - 1000 <= shared.clocks.store_ms <= int(time.time() * 1000) + 1000


async def test_the_records_of_the_console_are_in_all_slots(shared):
    """Each is alone in its slot, and found, taken once, and removed there."""
    records, claims = ConsoleRecords(shared), Claims(sub="agent")
    names = [uuid.uuid4().hex for _ in range(20)]
    places = {min(slot_of(shared.keys.console("form", name)) // SHARE, 2) for name in names}
    assert len(places) > 1
    for name in names:
        assert await records.write_first("form", name, claims, 60_000)
        assert not await records.write_first("form", name, claims, 60_000)
        records.prolong("form", name, 90_000)
        assert await records.read("form", name, Claims) == claims
        assert await records.remove("form", name)
        assert not await records.remove("form", name)
        assert await records.read("form", name, Claims) is None


async def test_another_instance_finds_it_and_knows_blocks_and_keys(shared, nodes, declared):
    jtis = [uuid.uuid4().hex for _ in range(50)]
    await asyncio.gather(*(shared.revocations.revoke_token(MAIN, jti, exp()) for jti in jtis))
    await shared.revocations.block_user(MAIN, "bob", until=None, reason="")
    await shared.revocations.revoke_key(MAIN, "k9", reason="")
    async with earlier(nodes, declared) as other:
        assert all(await asyncio.gather(*(listed(other, jti) for jti in jtis)))
        bob = user_tag(MAIN.iss, "bob")
        assert other.revocations.remembered.blocks[bob] == FOREVER_MS
        assert "k9" in other.revocations.remembered.keys["main"]
        await shared.revocations.unblock_user(MAIN, "bob")
        async with asyncio.timeout(HANGS_S):
            while bob in other.revocations.remembered.blocks:
                await other.watch.beat()


async def test_slots_that_move_are_not_taken_for_a_loss(shared, nodes):
    jtis = [jti_at(shared, 0) for _ in range(20)]
    await asyncio.gather(*(shared.revocations.revoke_token(MAIN, jti, exp()) for jti in jtis))
    slots = sorted({slot_of(shared.keys.jti(MAIN, jti)) for jti in jtis})
    source, target, _ = nodes.nodes
    loop = asyncio.get_running_loop()
    asked = 0
    for there, here in ((source, target), (target, source)):
        moves = loop.run_in_executor(None, nodes.move_slots, there, here, slots)
        while not moves.done():
            assert all(await asyncio.gather(*(listed(shared, jti) for jti in jtis)))
            asked += 1
        await moves
        await shared.watch.beat()
        assert all(await asyncio.gather(*(listed(shared, jti) for jti in jtis)))
    assert asked
    assert "data_lost" not in shared.problems
    await shared.revocations.revoke_token(MAIN, jtis[0], exp())


async def test_only_what_lies_at_a_primary_that_is_down_has_no_verdict(shared, nodes):
    away, here = jti_at(shared, 2), jti_at(shared, 1)
    nodes.nodes[2].hang()
    try:
        found = await asyncio.gather(listed(shared, away), listed(shared, here), return_exceptions=True)
    finally:
        nodes.nodes[2].resume()
        nodes.await_health()
    assert isinstance(found[0], StoreUnavailable)
    assert found[1] is False
    await _answers(shared, away)


async def _answers(store, jti):
    async with asyncio.timeout(HANGS_S):
        while True:
            with contextlib.suppress(NoVerdict):
                return await listed(store, jti)
            await asyncio.sleep(0.05)


async def _settled(store):
    """Every slot, which takes longer than a request waits for it."""
    async with asyncio.timeout(HANGS_S):
        while True:
            with contextlib.suppress(NoVerdict):
                return await store.learn()


@pytest.mark.parametrize("gone", ["nothing", "entry", "numbers", "all"])
async def test_a_slot_on_its_way_is_read_key_by_key(store, spare, gone):
    jti = jti_at(store, 0)
    await store.revocations.revoke_token(MAIN, jti, exp())
    entry = store.keys.jti(MAIN, jti)
    tail = store.keys.beside(entry).tail(store.instance)
    moved = {"nothing": [], "entry": [entry], "numbers": [tail.seq, tail.share], "all": [entry, *tail]}[gone]
    source, target, _ = spare.nodes
    slot = slot_of(entry)
    with source.client() as here, target.client() as there:
        there.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", spare.id_of(source))
        here.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", spare.id_of(target))
        if moved:
            here.execute_command("MIGRATE", "127.0.0.1", target.public, "", 0, 5000, "KEYS", *moved)
        try:
            assert await listed(store, jti)
            assert not await listed(store, jti_at(store, 1))
            unknown = next(
                item for item in map(str, itertools.count()) if slot_of(store.keys.jti(MAIN, item)) == slot
            )
            assert not await listed(store, unknown)
            assert "data_lost" not in store.problems
        finally:
            if moved:
                here.execute_command("CLUSTER", "SETSLOT", slot, "STABLE")
                there.execute_command("CLUSTER", "SETSLOT", slot, "STABLE")
                for key in moved:
                    there.execute_command("ASKING")
                    with contextlib.suppress(Exception):
                        there.execute_command("DEL", key)
                here.flushall()
            else:
                here.execute_command("CLUSTER", "SETSLOT", slot, "STABLE")
                there.execute_command("CLUSTER", "SETSLOT", slot, "STABLE")


async def test_the_loss_of_one_shard_covers_what_lay_there_and_nothing_else(store, spare):
    lost, entries, untouched = jti_at(store, 0), jti_at(store, 1), jti_at(store, 2)
    for jti in (lost, entries):
        await store.revocations.revoke_token(MAIN, jti, exp())
    store.revocations.acknowledged.forget([(1 << 60, store.keys.jti(MAIN, lost))])  # or it were put back
    with spare.nodes[0].client() as client:
        client.flushall()
    found = await asyncio.gather(
        *(
            store.lookups.find((store.keys.jti(MAIN, jti), None, None, None, None, None))
            for jti in (lost, entries, untouched)
        )
    )
    assert [item.state.loss > 0 for item in found] == [True, False, False]
    assert [item.state.jti is not None for item in found] == [False, True, False]
    await store.watch.beat()
    assert "data_lost" in store.problems


async def test_in_a_slot_writes_that_are_as_many_as_were_lost_hide_nothing(store, spare, prefix, monkeypatch):
    user = store.keys.user_of(MAIN, "alice")
    numbers = store.keys.beside(user).tail(store.instance)
    long_ago = int(time.time() * 1000) - 60_000
    data, released = store.source.data_set_of(user), asyncio.Event()
    call, answered = store.scripts.call, asyncio.Semaphore(0)

    def write():
        return store.revocations.revoke_user(MAIN, "alice", before=long_ago, except_sid=None, reason="")

    def held(settle):
        async def settle_once_released(*sets, **why):
            await released.wait()
            await settle(*sets, **why)

        return settle_once_released

    async def counted(*script, **options):
        reply = await call(*script, **options)
        answered.release()
        return reply

    async with earlier(spare, prefix) as third:
        await write()
        with spare.nodes[min(slot_of(user) // SHARE, 2)].client() as client:
            entries = {key: client.get(key) for key in (user, *numbers)}
            await asyncio.gather(write(), write())
            await store.revocations.revoke_user(MAIN, "alice", before=None, except_sid=None, reason="")
            keys = (None, user, None, None, None, None)
            assert (await third.lookups.find(keys)).state.user.hard > long_ago
            for settling in (data, store.source):
                monkeypatch.setattr(settling, "settle", held(settling.settle))
            monkeypatch.setattr(store.scripts, "call", counted)
            client.mset(entries)
        writing = asyncio.gather(*(write() for _ in range(3)))
        for _ in range(3):
            await answered.acquire()
        found = await third.lookups.find(keys)
        released.set()
        await writing
        assert found.state.loss


async def test_what_this_process_revoked_is_put_back_into_its_slot(spare, prefix):
    await declare(spare, prefix)
    async with earlier(spare, prefix, policy="ignore") as store:
        jtis = [jti_at(store, 1) for _ in range(10)]
        await asyncio.gather(*(store.revocations.revoke_token(MAIN, jti, exp()) for jti in jtis))
        await store.revocations.block_user(MAIN, "eve", until=None, reason="")
        for node in spare.nodes:
            with node.client() as client:
                client.flushall()
        assert all([await _answers(store, jti) for jti in jtis])
        blocked = store.keys.of_token(Claims(jti="x", sub="eve"), MAIN)
        await _settled(store)
        assert (await store.lookups.find(blocked)).state.user.blocked == FOREVER_MS


@contextlib.asynccontextmanager
async def two_that_repair(spare, prefix, **of_first):
    """Two instances that know of each other, and revocations of each at the second primary."""
    await declare(spare, prefix)
    patient = {"repair_seconds": HANGS_S}
    async with (
        earlier(spare, prefix, **patient, **of_first) as first,
        earlier(spare, prefix, **patient) as second,
    ):
        revoked = []
        for store in (first, second):
            jtis = [jti_at(store, 1) for _ in range(10)]
            await asyncio.gather(*(store.revocations.revoke_token(MAIN, jti, exp()) for jti in jtis))
            revoked += jtis
        for store in (first, second, first):
            await store.instances.enter()
        assert second.instance in first.instances.running
        yield first, second, revoked


async def test_a_process_says_that_it_runs_while_a_shard_is_down(tmp_path):
    """It may know of revocations in the other shards, for the repair of which it must be waited for."""
    with cluster(tmp_path, "--cluster-require-full-coverage", "no") as nodes:
        prefix = f"t{uuid.uuid4().hex[:12]}"
        await declare(nodes, prefix)
        async with earlier(nodes, prefix) as first, earlier(nodes, prefix, repair_seconds=1) as second:
            home = _shard(slot_of(first.keys.instances))
            await eventually(lambda: _reads_elsewhere(second.watch, home))
            nodes.nodes[_shards_to_read(second.watch).pop()].kill()
            await eventually(lambda: _fails(second.watch))
            for _ in range(3):
                await first.instances.enter()
                entered = first.instances._entered_at[second.instance]
                await eventually(lambda entered=entered: _entered_later(first, second, entered))


async def test_a_process_takes_part_in_a_repair_while_another_shard_is_down(tmp_path):
    """Otherwise the repair would wait for it in vain, and users be logged out."""
    with cluster(tmp_path, "--cluster-require-full-coverage", "no") as nodes:
        prefix = f"t{uuid.uuid4().hex[:12]}"
        await declare(nodes, prefix)
        patient = {"repair_seconds": HANGS_S}
        async with earlier(nodes, prefix, **patient) as first, earlier(nodes, prefix, **patient) as second:
            home = _shard(slot_of(first.keys.instances))
            jti = jti_at(first, home)
            numbers = first.source.data_set_of(first.keys.jti(MAIN, jti)).tail
            with nodes.nodes[home].client() as client:
                before = {key: value for key in numbers if (value := client.get(key)) is not None}
                await first.revocations.revoke_token(MAIN, jti, exp())
                for store in (first, second, first):
                    await store.instances.enter()
                # nothing is written back without the journal
                [other, *_] = {0, 1, 2} - {home, _shard(slot_of(first.keys.journal))}
                await eventually(lambda: _reads_only(second.watch, other))
                nodes.nodes[other].kill()
                await eventually(lambda: _fails(second.watch))
                client.delete(first.keys.jti(MAIN, jti), *numbers)
                client.mset(before)
            assert await _answers(first, jti)
            assert first.source.data_set_of(numbers.epoch).epoch.finding == "repaired"


def _shard(slot):
    return min(slot // SHARE, 2)


def _shards_to_read(watch):
    """Those that have the slots of this beat and of the next ones."""
    part = SLOTS // ClusterSource.beats_per_round
    first = [(watch._beats + beat) % ClusterSource.beats_per_round * part for beat in range(3)]
    return {_shard(slot) for start in first for slot in (start, start + part - 1)}


async def _reads_elsewhere(watch, home):
    shards = _shards_to_read(watch)
    return len(shards) == 1 and home not in shards


async def _reads_only(watch, shard):
    return _shards_to_read(watch) == {shard}


async def _fails(watch):
    return "store_unreachable" in watch.problems


async def _entered_later(store, other, time):
    await store.instances.enter()
    return store.instances._entered_at[other.instance] > time


REPAIRED_S = 600
"""Half a minute where nothing else runs: each of 5,461 slots takes several commands of each instance."""


async def all_repaired(store):
    """Whether a store has repaired all data sets of the second primary."""
    with contextlib.suppress(NoVerdict):
        await listed(store, jti_at(store, 1))
    sets = [store.source.data_set_numbered(slot) for slot in range(SHARE, 2 * SHARE)]
    findings = {data.epoch.finding for data in sets}
    assert findings <= {"new", "repaired"}
    return findings == {"repaired"}


async def test_an_emptied_primary_is_repaired_by_those_that_wrote_to_it(spare, prefix):
    async with two_that_repair(spare, prefix) as (first, second, revoked):
        with spare.nodes[1].client() as client:
            client.flushall()
        for store in (first, second):
            await eventually(lambda store=store: all_repaired(store), within=REPAIRED_S)
        for store in (first, second):
            assert all([await _answers(store, jti) and await listed(store, jti) for jti in revoked])
            assert not store.problems.keys() & {"data_lost", "data_loss_refused"}


async def test_a_fault_in_settling_slots_together_leaves_none_without_verdicts(spare, prefix):
    async def broken(*_):
        broke.append(True)
        raise RuntimeError

    def with_fault(servers, context):
        return ClusterSource(servers, dataclasses.replace(context, joint_steps=broken))

    broke = []
    async with two_that_repair(spare, prefix, make_source=with_fault) as (first, second, revoked):
        with spare.nodes[1].client() as client:
            client.flushall()
        for store in (first, second):
            await eventually(lambda store=store: all_repaired(store), within=REPAIRED_S)
        assert broke
        assert all([await listed(first, jti) for jti in revoked])


async def test_an_error_of_one_slot_does_not_hide_that_others_are_not_confirmed(nodes, prefix):
    async with opened(store_on(nodes, prefix, wait_replicas=1, timeout=2), watched=False) as store:
        [written, failed] = (store.keys.in_part(slot).tail("me").epoch for slot in (0, 1))
        batches = [(written, [("SET", written, 1, "PX", 1000)]), (failed, [("SET", failed)])]
        outcome = await store.source.change_many(batches)
        assert list(map(type, outcome)) == [TooFewReplicas, Refused]


async def test_slots_that_have_moved_are_followed_together(shared, monkeypatch):
    async def change_together(*_):
        async with asyncio.timeout(HANGS_S):
            await both.wait()
        return [b"OK"]

    both = asyncio.Barrier(2)
    monkeypatch.setattr(shared.source, "change_together", change_together)
    monkeypatch.setattr(shared.source._topology, "node_of", lambda _: None)
    batches = [(shared.keys.in_part(slot).tail("me").epoch, [("PING",)]) for slot in (0, 1)]
    assert await shared.source.change_many(batches) == [[b"OK"], [b"OK"]]


async def test_evictions_at_a_primary_of_thousands_of_slots_are_one_loss(store, monkeypatch):
    """What takes longer than a request may wait would be noticed as another loss by the next beat."""
    monkeypatch.setattr(settling, "SETTLE_WAIT_S", PATIENT_S / 100)
    monkeypatch.setattr(settling, "SLOTS_AT_ONCE", 1)
    sets = [store.source.data_set_numbered(slot) for slot in range(1000)]
    [(stamp, *_)] = await store.source.read(sets[0].tail.epoch, [("TIME",)])
    since = int(stamp) * 1000
    await store.source.settle(sets, since=since, cause="the server has evicted keys")
    assert {data.epoch.finding for data in sets} == {"cutoff"}
    assert min(data.epoch.cutoff for data in sets) >= since


async def test_slots_that_are_settled_apart_and_are_late_are_not_taken_for_settled(store, monkeypatch):
    monkeypatch.setattr(settling, "SETTLE_WAIT_S", 0.001)
    data = store.source.data_set_numbered(0)
    monkeypatch.setattr(data, "begin_alone", lambda *_: asyncio.get_running_loop().create_future())
    with pytest.raises(StoreRefused, match="being put back"):
        await store.source._settling._settle_apart([data], 0, "")


async def test_a_declaration_that_broke_off_is_completed_and_none_is_repeated(spare, prefix):
    store = store_on(spare, prefix, timeout=TIMEOUT_S)
    try:
        assert await store.epoch() is None
        assert await store.init()
        first = await store.epoch()
        assert first.finding == "new"
        assert not await store.init()
        tail = store.keys.in_part(5).tail("nobody")
        await store.source.change(tail.epoch, "DEL", tail.epoch)
        assert await store.epoch() is None
        assert await store.init()
        await store.source.change(tail.epoch, "DEL", tail.epoch)
        other = store.keys.in_part(9).tail("nobody")
        await store.source.change(other.seq, "INCR", other.seq)
        assert not await store.init()  # it is in use: that is a loss
    finally:
        await store.close()


async def test_a_loss_that_is_declared_counts_in_every_slot(store):
    assert (await store.declare_lost("refuse")).finding == "refused"
    assert {Epoch.parse(item.epoch).finding for item in (await store.readings()).values()} == {"refused"}
    with pytest.raises(StoreRefused):
        await listed(store, "x")


async def test_a_cluster_is_listed_page_by_page_and_predicts_what_happens(
    start, nodes, declared, sessions_section
):
    keeper = await start(nodes, prefix=declared, new=False, sessions=sessions_section())
    run = uuid.uuid4().hex
    source = keeper.service.store.source
    for number in range(60):  # of which the journal knows nothing
        key = f"{declared}:jti:main:old{number}-{run}"
        await source.change(key, "SET", key, 1000, "PX", 10**6)
    for number in range(20):
        await keeper.post("/revoke", {"iss": forge.ISSUER, "jti": f"new{number}-{run}"})
    browsers = [await log_in(keeper, f"user{number}-{run}", client_id=run) for number in range(4)]
    for number in range(4):
        body = {"iss": SESSIONS_ISSUER, "sub": f"user{number}-{run}", "reason": "why"}
        tried = await keeper.post("/revoke-user", {**body, "dry_run": True})
        assert tried.json["dry_run"]["sessions"] == 1
        if number < 3:
            assert (await keeper.post("/revoke-user", body)).status == 200
            assert await sids(keeper, body["sub"]) == []
    await keeper.post("/revoke-session", {"iss": SESSIONS_ISSUER, "sid": browsers[3].sid})
    await keeper.post("/revoke-client", {"iss": OTHER_ISSUER, "client_id": run})
    await keeper.post("/block-user", {"iss": forge.ISSUER, "sub": f"a/{run}", "reason": "fraud"})
    for limit in (7, 500):
        listed = await everything(keeper, limit=limit)
        assert len(listed) == len({name_of(item) for item in listed})
        assert [item["kind"] for item in listed[:6]] == ["block", "client", "session", "user", "user", "user"]
        assert all(item["by"] == "admin" for item in listed[:6])
        newest = [f"new{number}-{run}" for number in range(19, -1, -1)]
        assert [item["jti"] for item in listed[6:26]] == newest
        assert sum(item.get("jti", "").endswith(run) for item in listed[26:]) == 60
    # another test of this cluster may have cut off the issuer
    viewed = (await view_user(keeper, f"a/{run}", iss=forge.ISSUER)).json
    blocks = [item for item in viewed["standing"] if item["kind"] == "user_block"]
    assert [(item["why"], item["by"]) for item in blocks] == [("fraud", "admin")]


async def test_every_change_of_a_named_caller_is_made_in_one_slot(start, nodes, declared, sessions_section):
    """Who made it is stored beside it: a script that touches another slot fails half-done."""
    keeper = await start(nodes, prefix=declared, new=False, sessions=sessions_section())
    store, run = keeper.service.store, uuid.uuid4().hex
    issuer = store.issuers[OTHER_ISSUER]
    names = [f"{n}-{run}" for n in range(4)] + [f"{n} {{x}} {run}" for n in range(4)]
    members = {
        "/revoke": "jti",
        "/revoke-user": "sub",
        "/block-user": "sub",
        "/revoke-session": "sid",
        "/revoke-client": "client_id",
        "/revoke-key": "kid",
    }

    async def change(path, iss=OTHER_ISSUER, **body):
        answer = await keeper.post(path, {"iss": iss, **body})
        assert answer.status == 200, (path, body, answer.body)

    async def made():
        return [
            item for item in await everything(keeper, iss=OTHER_ISSUER, limit=50) if run in json.dumps(item)
        ]

    for name in names:
        for path, member in members.items():
            for _ in range(2):
                await change(path, **{member: name, "reason": run})
        await change("/revoke-claim", claim="grant_id", value=name, reason=run)
    await change("/revoke-issuer", reason=run)
    for path in ("/revoke-session", "/revoke-user"):
        browser = await log_in(keeper, run)
        body = {"sid": browser.sid} if path == "/revoke-session" else {"sub": run}
        await change(path, SESSIONS_ISSUER, **body)
    found = await made()
    kinds = collections.Counter(item["kind"] for item in found)
    assert kinds.pop("issuer") == 1
    assert kinds == dict.fromkeys(("jti", "user", "block", "session", "client", "key", "claim"), len(names))
    assert {item["by"] for item in found} == {"admin"}

    for name in names:
        assert await store.revocations.forget_key(issuer, name)
        assert not await store.revocations.forget_key(issuer, name)
        await change("/unblock-user", sub=name)
        assert await store.revocations.lift_user(issuer, name)
        for cutoff in (
            store.keys.session_cutoff(issuer, name),
            store.keys.client_cutoff(issuer, name),
            store.keys.claim_cutoff(issuer, "grant_id", name),
        ):
            assert await store.revocations.lift(cutoff)
    assert await store.revocations.lift(store.keys.issuer_cutoff(issuer))
    assert {item["kind"] for item in await made()} == {"jti"}
    assert "data_lost" not in store.problems
