"""Cursors, and how much of the journal is kept; on a stand-in and on a real server."""

import asyncio
import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from revoker.elapsed_time import elapsed
from revoker.errors import InvalidRequest, NoVerdict
from revoker.store.journal.cursors import OTHER_FORMAT, Cursor, identity
from revoker.store.journal.tail import JournalTail, Reload, pause_after_changes
from revoker.store.keys import Keys
from revoker.store.scripts import TEXTS
from tests.rig.service import HANGS_S
from tests.store.conftest import MAIN, opened, store_on

numbers = st.integers(0, 2**64 - 1)


@given(st.binary(min_size=8, max_size=8), numbers, numbers)
def test_a_cursor_is_read_as_it_was_written(data_set, milliseconds, number):
    cursor = Cursor(data_set, f"{milliseconds}-{number}")
    assert Cursor.read(cursor.text) == cursor


@given(st.text() | st.text("ABab01-_=+/", max_size=40))
def test_any_other_text_is_refused_or_of_another_format(text):
    try:
        cursor = Cursor.read(text)
    except InvalidRequest:
        return
    assert cursor.data_set == OTHER_FORMAT or Cursor.read(cursor.text) == cursor


@given(st.sets(st.binary(max_size=40), min_size=1), st.binary(max_size=40))
def test_another_epoch_among_the_data_sets_is_another_identity(epochs, other):
    assert (identity(sorted(epochs)) == identity(sorted(epochs | {other}))) == (other in epochs)


@pytest.mark.parametrize(("entries", "keep_ms"), [(1000, 10**9), (10**6, -(10**9))])
def test_what_is_too_much_or_too_old_goes_and_the_last_thousand_stay(valkey, prefix, entries, keep_ms):
    keys = Keys(prefix)
    every = (keys.seq, keys.share("me"), keys.writers, keys.epoch, keys.journal)
    args = [text for number in range(200) for text in (f"key-{number}", "v", "", "")]
    with Redis.from_url(valkey.url) as client:
        for _ in range(15):
            client.eval(TEXTS["add_to_journal"], len(every), *every, *args, 0, 0, entries, keep_ms)
        assert 1000 <= client.xlen(keys.journal) <= 1400
        client.delete(keys.journal)


async def test_a_reader_that_is_far_behind_reads_on_from_the_store(valkey, prefix, monkeypatch):
    monkeypatch.setattr("revoker.store.journal.tail._PAGE", 7)
    monkeypatch.setattr("revoker.store.journal.tail._EVENTS_AT_ONCE", 7)
    monkeypatch.setattr("revoker.store.journal.tail._MAX_EVENTS", 20)
    made = store_on(valkey, prefix)
    await made.init()
    async with opened(made) as store, asyncio.timeout(HANGS_S):
        while not store.reached:
            await asyncio.sleep(0.02)
        tail = JournalTail(store)
        begin = cursor = (await tail.position()).cursor
        async with tail.followed():
            await tail.ready(HANGS_S)
            expected = [f"t{number}" for number in range(100)]
            for jti in expected:
                await store.revocations.revoke_token(MAIN, jti, None)
            found = []
            while len(found) < len(expected):
                events = await tail.after(cursor)
                found += events
                cursor = found[-1].cursor if found else begin
                if not events:
                    await tail.news()
            assert [event.stream.count(b"event: change") for event in found] == [1] * 100
            for jti, event in zip(expected, found, strict=True):
                assert b'"jti":"%b"' % jti.encode() in event.stream
            with pytest.raises(Reload, match="data_set"):
                await tail.after(Cursor(b"another.", cursor.entry))
            with pytest.raises(Reload, match="trimmed"):
                await tail.after(Cursor(cursor.data_set, "99999999999999-0"))
        await tail.close()


async def test_after_a_repaired_loss_cursors_end_and_what_is_written_back_is_journaled(valkey, prefix):
    """As after a failover to a replica that lacked the last moments."""
    made = store_on(valkey, prefix, repair_seconds=HANGS_S)
    await made.init()
    async with opened(made) as store, asyncio.timeout(HANGS_S):
        while not store.reached:
            await asyncio.sleep(0.02)
        tail, keys = JournalTail(store), store.keys
        looked_up = (keys.jti(MAIN, "lost"), None, None, None, None, keys.revoked_keys(MAIN))
        await store.revocations.revoke_token(MAIN, "before", None)
        begin = (await tail.position()).cursor
        numbers = keys.tail(store.instance)
        with valkey.client() as client:
            before = {key: client.get(key) for key in numbers}
            await store.revocations.revoke_token(MAIN, "lost", None)
            await store.revocations.revoke_key(MAIN, "k", reason="")
            lost = (await tail.position()).cursor
            with client.pipeline() as pipeline:
                pipeline.mset(before)
                pipeline.delete(keys.jti(MAIN, "lost"), keys.revoked_keys(MAIN))
                for entry, _ in client.xrange(keys.journal, f"({begin.entry}"):
                    pipeline.xdel(keys.journal, entry)
                pipeline.execute()
            while True:
                with contextlib.suppress(NoVerdict):
                    found = await store.lookups.find(looked_up)
                    break
            journaled = [fields["k"] for _, fields in client.xrange(keys.journal, f"({begin.entry}")]
        assert store.source.data_set_of(keys.journal).epoch.finding == "repaired"
        assert found.state.jti is not None
        assert "k" in found.state.keys
        assert {keys.jti(MAIN, "lost"), keys.revoked_keys(MAIN)} <= set(journaled)
        async with tail.followed():
            await tail.ready(HANGS_S)
            for cursor in (begin, lost):
                with pytest.raises(Reload, match="data_set"):
                    await tail.after(cursor)
        await tail.close()


@pytest.mark.parametrize(
    ("consumers", "pause_ms"), [(0, 3), (1, 3), (5, 3), (10, 6), (20, 12), (33, 19.8), (34, 20), (1000, 20)]
)
def test_changes_are_collected_for_longer_if_more_consumers_get_them(consumers, pause_ms):
    assert pause_after_changes(consumers) == pytest.approx(pause_ms / 1000)


@contextlib.asynccontextmanager
async def ahead(valkey, prefix):
    """A store, its journal followed, and a cursor that is behind what is in memory."""
    made = store_on(valkey, prefix)
    await made.init()
    async with opened(made) as store, asyncio.timeout(HANGS_S):
        while not store.reached:
            await asyncio.sleep(0.02)
        tail = JournalTail(store)
        behind = (await tail.position()).cursor
        for number in range(3):
            await store.revocations.revoke_token(MAIN, f"t{number}", None)
        async with tail.followed():
            await tail.ready(HANGS_S)
            yield store, tail, behind
        await tail.close()


async def test_the_pause_after_changes_is_that_of_all_who_follow(valkey, prefix, monkeypatch):
    async with ahead(valkey, prefix) as (store, tail, _), tail.followed(), tail.followed():
        asked, numbers = asyncio.Event(), []

        def pause(consumers):
            numbers.append(consumers)
            asked.set()
            return 0.001

        monkeypatch.setattr("revoker.store.journal.tail.pause_after_changes", pause)
        await store.revocations.revoke_token(MAIN, "another", None)
        await asked.wait()
        assert set(numbers) == {3}


async def test_a_cursor_of_no_entry_costs_no_page(valkey, prefix, monkeypatch):
    async with ahead(valkey, prefix) as (store, tail, behind):
        read, counts = store.source.read_trusted, []

        async def counted(key, commands):
            counts.extend(command[-1] for command in commands if command[2:3] == ("0-1",))
            return await read(key, commands)

        monkeypatch.setattr(store.source, "read_trusted", counted)
        with pytest.raises(Reload, match="trimmed"):
            await tail.after(Cursor(behind.data_set, "0-1"))
        assert counts == [1]


async def test_a_cursor_has_something_after_it_until_all_is_read_and_again_if_the_data_changes(
    valkey, prefix
):
    async with ahead(valkey, prefix) as (_, tail, behind):
        assert tail.has_after(behind)
        events = await tail.after(behind)
        end = events[-1].cursor
        assert not tail.has_after(end)
        assert await tail.after(end) == ()
        assert tail.has_after(Cursor(b"another.", end.entry))


async def test_who_waits_for_news_looks_at_other_things_while_the_store_hangs(valkey, prefix, monkeypatch):
    async with ahead(valkey, prefix) as (store, tail, _):
        hangs = asyncio.Event()

        async def hang(*_):
            hangs.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(store.source, "read_trusted", hang)
        await hangs.wait()
        for _ in range(3):
            await tail.news()


async def test_what_comes_from_another_process_that_is_ahead_is_waited_for(valkey, prefix, monkeypatch):
    async with ahead(valkey, prefix) as (store, tail, _):
        read, held, proceed = store.source.read_trusted, asyncio.Event(), asyncio.Event()

        async def hold(*args):
            held.set()
            await proceed.wait()
            return await read(*args)

        monkeypatch.setattr(store.source, "read_trusted", hold)
        await held.wait()
        await store.revocations.revoke_token(MAIN, "newer", None)
        other = JournalTail(store)
        monkeypatch.setattr(store.source, "read_trusted", read)
        newest = (await other.position()).cursor
        assert not tail.has_after(newest)
        assert tail.fresh_at(newest) is None
        await tail.come_to(newest, 0)  # it does not wait for longer than it is told to
        assert tail.fresh_at(newest) is None
        proceed.set()
        await tail.come_to(newest, HANGS_S)
        assert not tail.has_after(newest)
        assert tail.fresh_at(newest) is not None


async def test_not_more_than_two_consumers_that_are_behind_are_served_at_once(valkey, prefix, monkeypatch):
    async with ahead(valkey, prefix) as (store, tail, behind):
        read, waiting, proceed = store.source.read_trusted, [], asyncio.Semaphore(0)

        async def held(key, commands):
            if commands[-1][2] == behind.entry:
                waiting.append(commands)
                await proceed.acquire()
                waiting.pop()
            return await read(key, commands)

        monkeypatch.setattr(store.source, "read_trusted", held)
        consumers = [asyncio.create_task(tail.after(behind)) for _ in range(5)]
        while not all(task.done() for task in consumers):
            for _ in range(20):  # whoever may begin has begun then
                await asyncio.sleep(0)
            assert len(waiting) <= 2
            proceed.release()
            await asyncio.sleep(0.001)
        for task in consumers:
            assert [event.stream.count(b'"kind":"jti"') for event in await task] == [1, 1, 1]


async def test_a_reading_of_the_journal_before_a_pause_says_nothing(valkey, prefix):
    ahead = {"wall": 0.0, "elapsed": 0.0}
    made = store_on(valkey, prefix)
    await made.init()
    async with opened(made) as store, asyncio.timeout(HANGS_S):
        while not store.reached:
            await asyncio.sleep(0.02)
        tail = JournalTail(
            store,
            elapsed_time=lambda: elapsed() + ahead["elapsed"],
            wall=lambda: time.time() + ahead["wall"],
        )
        async with tail.followed():
            await tail.ready(HANGS_S)
            cursor = (await tail.position()).cursor

            async def is_fresh():
                while tail.fresh_at(cursor) is None:
                    await tail.news()

            for clock in ("wall", "elapsed"):
                await is_fresh()
                ahead[clock] += 3600
                if clock == "elapsed":
                    ahead["wall"] += 3600
                    assert tail.age_ms > 3600 * 1000
                assert tail.fresh_at(cursor) is None
            await is_fresh()
        await tail.close()
