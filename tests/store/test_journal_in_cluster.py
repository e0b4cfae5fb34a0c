"""The journal of a real cluster: one for all slots, written before a change is acknowledged."""

import asyncio
import time
import uuid

import pytest

from revoker.errors import NoVerdict, StoreRefused, Unconfirmed
from revoker.store.journal.cursors import Cursor
from revoker.store.journal.snapshot import Snapshot
from revoker.store.journal.tail import JournalTail, Reload
from revoker.store.keys import slot_of, user_tag
from tests.api.test_receipts import LONG, following, revoke
from tests.rig.feed import complete
from tests.rig.service import HANGS_S, PATIENT_S
from tests.store.conftest import MAIN, OTHER, TENANT, opened, store_on
from tests.store.test_cluster import cluster


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(scope="module")
def declared(nodes):
    """A key space for all tests: 16,384 data sets take their time."""
    prefix = f"t{uuid.uuid4().hex[:12]}"

    async def declare():
        made = store_on(nodes, prefix, timeout=PATIENT_S)
        assert await made.init()
        await made.close()

    asyncio.run(declare())
    return prefix


@pytest.fixture
async def store(nodes, declared):
    async with opened(store_on(nodes, declared, timeout=PATIENT_S)) as made:
        async with asyncio.timeout(HANGS_S):
            while not made.reached:
                await asyncio.sleep(0.02)
        yield made


@pytest.fixture
async def tail(store):
    made = JournalTail(store)
    yield made
    await made.close()


async def after(tail, cursor):
    """All events after a cursor, once everything acknowledged before now is among them."""
    end = await tail.position()
    found = []
    async with tail.followed(), asyncio.timeout(HANGS_S):
        await tail.ready(HANGS_S)
        while True:
            found += await tail.after(cursor)
            cursor = found[-1].cursor if found else cursor
            fresh = tail.fresh_at(cursor)
            if fresh is not None and fresh.as_of >= end.as_of:
                return found
            await tail.news()


async def end_of(tail, cursor):
    """Wait until a cursor can't be served any more; returns why."""
    async with tail.followed(), asyncio.timeout(HANGS_S):
        while True:
            try:
                await tail.after(cursor)
            except Reload as reload:
                return reload.reason
            except NoVerdict:
                pass  # while it is being settled
            await tail.news()


async def whole(store, tail):
    snapshot = await Snapshot.begin(store, tail)
    parts = [part async for part in snapshot.steps(tail)]
    return complete(b"".join([snapshot.head, *parts, snapshot.end]))


async def test_a_change_in_any_slot_is_in_the_one_journal_when_it_is_acknowledged(store, tail):
    begin = (await tail.position()).cursor
    revocations, now = store.revocations, time.time()
    jtis = [uuid.uuid4().hex for _ in range(30)]
    assert len({slot_of(store.keys.jti(MAIN, jti)) for jti in jtis}) > 20
    for jti in jtis:
        await revocations.revoke_token(MAIN, jti, now + 600)
        last = ("XREVRANGE", store.keys.journal, "+", "-", "COUNT", 1)
        [[[_, fields]]] = await store.source.read(store.keys.journal, [last])
        assert jti.encode() in fields[1]
    await revocations.revoke_user(MAIN, "alice", before=None, except_sid="s", reason="")
    await revocations.block_user(MAIN, "alice", until=None, reason="")
    await revocations.revoke_key(OTHER, "k", reason="")
    events = await after(tail, begin)
    text = b"".join(event.stream for event in events)
    assert all(jti.encode() in text for jti in jtis)
    assert text.count(b'"kind":"block"') == 1
    assert text.count(b'"kid":"k"') == 1
    await revocations.unblock_user(MAIN, "alice")
    await revocations.lift_user(MAIN, "alice")
    await revocations.forget_key(OTHER, "k")
    text = b"".join(event.stream for event in await after(tail, events[-1].cursor))
    tag = user_tag(MAIN.iss, "alice").encode()
    assert b'{"remove":{"kind":"block","tag":"%b"}}' % tag in text
    assert b'{"remove":{"kind":"user","tag":"%b"}}' % tag in text
    assert b'{"remove":{"kind":"key","iss":"%b","kid":"k"}}' % OTHER.iss.encode() in text
    lines = (await whole(store, tail)).lines
    assert {line["jti"] for line in lines if line["kind"] == "jti"} >= set(jtis)
    assert not [line for line in lines if line["kind"] == "key" or line.get("tag") == tag.decode()]


async def test_what_is_written_back_is_journaled_again_although_it_was_stored(store):
    """It may be stored and not journaled, since these are two slots."""
    jti = uuid.uuid4().hex
    await store.revocations.revoke_token(MAIN, jti, time.time() + 600)
    latest = ("XREVRANGE", store.keys.journal, "+", "-", "COUNT", 1)
    [[[first, _]]] = await store.source.read(store.keys.journal, [latest])
    await store.refill.write_back(store.keys.part(store.keys.jti(MAIN, jti)))
    [[[again, fields]]] = await store.source.read(store.keys.journal, [latest])
    assert again > first
    assert jti.encode() in fields[1]


async def test_neither_a_late_removal_nor_a_failed_write_leaves_the_journal_wrong(
    nodes, store, tail, monkeypatch
):
    """The user's slot has the order of changes; the journal may have another."""
    revocations = store.revocations
    await revocations.revoke_user(MAIN, "bob", before=None, except_sid=None, reason="first")
    begin = (await tail.position()).cursor
    await revocations.revoke_user(MAIN, "bob", before=None, except_sid=None, reason="second")
    await store.scripts.add_to_journal((store.keys.user_of(MAIN, "bob"), "", "", "cutoff"))
    lines = b"".join(event.stream for event in await after(tail, begin))
    removal = lines.index(b'{"remove":{"kind":"user"')
    assert b'"reason":"second"' in lines[removal:]

    source, target = nodes.nodes[:2]
    slot = next(first for first, _ in nodes.slots_of(source))
    with source.client() as client:
        client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", nodes.id_of(target))
        with pytest.raises(StoreRefused, match="being moved"):
            await whole(store, tail)
        client.execute_command("CLUSTER", "SETSLOT", slot, "STABLE")

    change = store.source.change_together

    async def fail(key, commands):
        if key == store.keys.journal:
            raise TimeoutError("the store did not answer in time")
        return await change(key, commands)

    monkeypatch.setattr(store.source, "change_together", fail)
    with pytest.raises(Unconfirmed) as unconfirmed:
        await revocations.revoke_session(MAIN, "s", before=None, reason="")
    assert unconfirmed.value.reply is not None  # the change itself is made
    monkeypatch.undo()
    await revocations.revoke_session(MAIN, "s", before=None, reason="")
    assert b'"sid":"s"' in b"".join(event.stream for event in await after(tail, begin))

    key = store.keys.jti(MAIN, "lost")
    place = store.keys.beside(key)
    await revocations.revoke_token(MAIN, "lost", time.time() + 600)
    begin = (await tail.position()).cursor
    assert await after(tail, begin) == []
    for lost in (key, place.epoch, place.seq, place.writers, place.share(store.instance)):
        await store.source.change(lost, "DEL", lost)
    await store.lookups.find((key, None, None, None, None, None))  # notices it, and settles it
    assert await end_of(tail, begin) == "data_set"
    snapshot = await whole(store, tail)
    [loss] = [line for line in snapshot.lines if line["kind"] == "loss"]
    assert loss["slots"] == [[slot_of(key), slot_of(key)]]
    assert Cursor.read(snapshot.cursor).data_set != begin.data_set


async def test_another_server_of_the_journal_ends_all_cursors(nodes, store, tail):
    """It may lack entries about other slots, whose data sets have lost nothing: as after a failover."""
    slot = slot_of(store.keys.journal)
    source = next(
        node for node in nodes.nodes if any(first <= slot <= last for first, last in nodes.slots_of(node))
    )
    target = next(node for node in nodes.nodes if node is not source)
    await store.revocations.revoke_token(MAIN, "before", time.time() + 600)
    begin, epochs = (await tail.position()).cursor, store.overview.epochs()
    assert await after(tail, begin) == []
    await tail.close()
    jti = uuid.uuid4().hex
    await store.revocations.revoke_token(MAIN, jti, time.time() + 600)
    with source.client() as client:
        client.xtrim(store.keys.journal, minid=begin.entry)
        [(entry, _)] = client.xrevrange(store.keys.journal, count=1)
        assert entry != begin.entry
        assert client.xdel(store.keys.journal, entry)
    moving = asyncio.get_running_loop().run_in_executor
    await moving(None, nodes.move_slots, source, target, [slot])
    try:
        assert await end_of(tail, begin) == "data_set"
        snapshot = await whole(store, tail)
        assert jti in {line.get("jti") for line in snapshot.lines}
        assert store.overview.epochs() == epochs
    finally:
        await tail.close()
        await moving(None, nodes.move_slots, target, source, [slot])


async def test_edges_confirm_what_is_in_any_slot(nodes, declared, start):
    """``wait_edges``: journal and confirmations have one slot, and the revocations have others."""
    terms = {"claims": {"revocable": ["grant_id", TENANT]}, "max_token_lifetime": 600}
    revoker = await start(nodes, prefix=declared, new=False, other=terms)
    keys = revoker.service.store.keys
    assert slot_of(keys.consumers) == slot_of(keys.journal)
    async with following(revoker, "north", confirms_at=revoker):
        for number in range(5):
            body = {"sub": f"user-{number}"}
            assert await revoke(revoker, body, wait_edges=True, **LONG) == {"reached": 1, "connected": 1}
        own, source = revoker.service.store.instance, revoker.service.store.source
        async with asyncio.timeout(HANGS_S):
            while await source.read(keys.consumers, [("HGET", keys.consumers, own)]) == [None]:
                await asyncio.sleep(0.01)
