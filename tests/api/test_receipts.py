"""``wait_edges``: a revocation that says how many edges have it, from the front door."""

import asyncio
import contextlib
import functools
import json
import re
from urllib.parse import urlsplit

import pytest

from revoker.api import consumers as consumers_of_process
from revoker.api import receipts
from revoker.auth import digest
from revoker.errors import StoreUnavailable
from revoker.store.journal import shared_consumers
from revoker.store.journal.cursors import Cursor
from revoker.store.journal.shared_consumers import SETTLED_S
from tests.api.test_feed import REVOCATIONS
from tests.edge.conftest import callers as callers_of_edges
from tests.edge.conftest import claims, until
from tests.rig import edge as edges
from tests.rig import feed, forge
from tests.rig.feed import authorization
from tests.rig.service import HANGS_S, SECRETS, until_ready
from tests.sessions.conftest import log_in
from tests.sessions.conftest import sessions_section as sessions_section  # noqa: PLC0414  # a fixture

ISS = {"iss": forge.ISSUER}
SOON = {"wait_seconds": 0.05}
LONG = {"wait_seconds": 30}


async def revoke(running, body=None, *, path="/revoke-user", **more):
    """The edges in the answer to a revocation."""
    answer = await running.post(path, {**ISS, **(body or {"sub": "alice"}), **more})
    assert answer.status == 200, answer.body
    return answer.json["edges"]


async def confirm(running, cursor, name, caller="edge"):
    answer = await running.post("/feed/confirm", {"cursor": cursor, "name": name}, caller=caller)
    assert answer.status == 204


async def end_of_journal(running):
    return (await feed.snapshot(running)).cursor


async def consumers(running):
    answer = await running.ask("GET", "/feed/consumers", headers=authorization("admin"))
    assert answer.status == 200, answer.body
    return answer.json["consumers"]


async def lists_a_confirmed_stream(running):
    [listed] = await consumers(running)
    return (listed["name"], listed["streams"], listed["confirmed"]) == ("north", 1, True)


async def outcomes(running):
    text = (await running.ask("GET", "/metrics")).body.decode()
    found = re.findall(r'^revoker_waited_for_edges_total{outcome="(\w+)"} (\S+)$', text, re.MULTILINE)
    return {outcome: float(count) for outcome, count in found}


@contextlib.asynccontextmanager
async def following(running, name, *, confirms_at=None, caller="edge"):
    """A consumer with a stream, which confirms every change at some instance; None: it confirms nothing."""
    cursor = (await feed.snapshot(running, caller)).cursor
    async with feed.stream(running, cursor, caller, name=name, confirms="true") as stream:
        await stream.until("fresh")

        async def follow():
            async for event in stream.events():
                if event.kind in {"change", "confirm"} and confirms_at is not None:
                    await confirm(confirms_at, event.id, name, caller)

        task = asyncio.create_task(follow())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """What processes have written counts as complete at once; otherwise every test would wait for that.

    Nobody is left out for a silence that is the machine's.
    """
    monkeypatch.setattr(shared_consumers, "SETTLED_S", 0)
    for module in (consumers_of_process, shared_consumers):
        monkeypatch.setattr(module, "LISTED_S", 60.0)


@pytest.fixture
def endless(monkeypatch):
    """Every wait is longer than the test."""
    wait = receipts.Receipts._wait

    def wait_on(self, call, wanted, _, *, asks):
        return wait(self, call, wanted, 100 * HANGS_S, asks=asks)

    monkeypatch.setattr(receipts.Receipts, "_wait", wait_on)


@pytest.fixture
async def start_edge(tmp_path):
    """Starts edges of services whose callers are those of edges."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(service, name="edge-1"):
            settings = edges.edge_settings(
                tmp_path, service.url, upstream={"name": name}, other={"claims": {"revocable": ["grant_id"]}}
            )
            running = await edges.begin(settings)
            stack.push_async_callback(running.close)
            await until_ready(running)
            return running

        yield begin


async def test_what_an_edge_has_confirmed_is_in_effect_there(start, valkey, start_edge):
    service = await start(valkey, callers=callers_of_edges())
    edge = await start_edge(service)
    token = claims()
    assert await edge.active(token)
    assert await revoke(service, {"jti": token["jti"]}, path="/revoke", wait_edges=True, **LONG) == {
        "reached": 1, "connected": 1,
    }  # fmt: skip
    assert not await edge.active(token)


async def test_every_endpoint_that_revokes_waits(start, valkey, start_edge):
    service = await start(valkey, callers=callers_of_edges())
    await start_edge(service)
    for path, body, _ in REVOCATIONS:
        answer = await service.post(path, {**body, "wait_edges": True, **LONG})
        assert answer.status == 200, answer.body
        assert answer.json.pop("edges") == {"reached": 1, "connected": 1}, path
        without = await service.post(path, body)
        assert set(answer.json) - {"edges"} == set(without.json if without.body else {})


async def test_the_edge_may_be_at_another_instance(start, valkey, start_edge):
    one = await start(valkey, callers=callers_of_edges())
    prefix = one.service.store.keys.prefix
    other = await start(valkey, prefix=prefix, new=False, callers=callers_of_edges())
    near, far = await start_edge(one, "near"), await start_edge(other, "far")
    for number in range(20):
        token = claims(sub=f"user-{number}")
        assert await revoke(one, {"sub": token["sub"]}, wait_edges=2, **LONG) == {
            "reached": 2, "connected": 2,
        }  # fmt: skip
        assert not await near.active(token)
        assert not await far.active(token)


async def test_an_edge_may_confirm_at_another_instance_than_it_follows(start, valkey):
    one = await start(valkey)
    instances = [one] + [
        await start(valkey, prefix=one.service.store.keys.prefix, new=False) for _ in range(2)
    ]
    async with following(instances[1], "north", confirms_at=instances[2]):
        for running in instances:
            assert await revoke(running, wait_edges=True, **LONG) == {"reached": 1, "connected": 1}
            await until(functools.partial(lists_a_confirmed_stream, running), "it is listed as one")


async def test_without_edges_there_is_nothing_to_wait_for(revoker):
    assert await revoke(revoker, wait_edges=True, **LONG) == {"reached": 0, "connected": 0}
    assert await revoke(revoker, wait_edges=0, **LONG) == {"reached": 0, "connected": 0}
    assert await outcomes(revoker) == {"reached": 2, "late": 0}


async def test_a_time_out_is_an_answer_and_the_revocation_holds(revoker):
    token = claims()
    async with following(revoker, "silent"):
        found = await revoke(revoker, {"sub": token["sub"]}, wait_edges=True, **SOON)
        assert found == {"reached": 0, "connected": 1}
    assert not await revoker.active(token)
    assert await outcomes(revoker) == {"reached": 0, "late": 1}


async def test_more_edges_than_there_are_may_still_come(revoker):
    async with following(revoker, "north", confirms_at=revoker):
        assert await revoke(revoker, wait_edges=1, **LONG) == {"reached": 1, "connected": 1}
        found = await revoke(revoker, wait_edges=2, **SOON)
        assert found["reached"] < 2
        assert found["connected"] == 1
        waiting = asyncio.create_task(revoke(revoker, {"sub": "bob"}, wait_edges=2, **LONG))
        await until(lambda: revoker.service._services.receipts._waiting, "it waits")
        async with following(revoker, "south", confirms_at=revoker):
            await confirm(revoker, await end_of_journal(revoker), "south")
            assert await waiting == {"reached": 2, "connected": 2}


async def test_a_consumer_confirms_by_polling_from_a_cursor(revoker):
    cursor = await end_of_journal(revoker)
    await feed.poll(revoker, cursor, name="north")
    waiting = asyncio.create_task(revoke(revoker, wait_edges=True, **LONG))
    [event, *_] = await feed.poll(revoker, cursor, 30, name="north")
    assert event.kind == "change"
    await feed.poll(revoker, event.id, name="north")
    assert await waiting == {"reached": 1, "connected": 1}


async def test_consumers_are_asked_to_confirm_only_what_is_waited_for(revoker):
    cursor = await end_of_journal(revoker)
    async with feed.stream(revoker, cursor, confirms="true") as stream:
        await stream.until("fresh")
        assert (await revoker.post("/revoke-user", {**ISS, "sub": "bob"})).status == 200
        waiting = asyncio.create_task(revoke(revoker, wait_edges=True, **LONG))
        events = [event for event in await stream.until("confirm") if event.kind != "fresh"]
        assert [event.kind for event in events] == ["change", "change", "confirm"]
        polled = await feed.poll(revoker, cursor, name="another")
        assert [event.kind for event in polled[:3]] == ["change", "change", "confirm"]
        assert polled[2].id == events[2].id
        await confirm(revoker, events[2].id, "edge")
        await confirm(revoker, events[2].id, "another")
        assert await waiting == {"reached": 2, "connected": 2}


async def test_an_earlier_cursor_does_not_count(revoker):
    cursor = await end_of_journal(revoker)
    await confirm(revoker, cursor, "north")
    assert await revoke(revoker, wait_edges=True, **SOON) == {"reached": 0, "connected": 1}


async def test_a_forged_cursor_does_not_count(revoker):
    """Neither one beyond the end of the journal, nor one of other data."""
    cursor = Cursor.read(await end_of_journal(revoker))
    latest = f"{2**64 - 1}-{2**64 - 1}"
    for forged in (Cursor(cursor.data_set, latest), Cursor(b"x" * 8, latest)):
        await confirm(revoker, forged.text, "north")
        assert await revoke(revoker, wait_edges=True, **SOON) == {"reached": 0, "connected": 1}
    answer = await revoker.post("/feed/confirm", {"cursor": "AULV", "name": "north"}, caller="edge")
    assert answer.error == (400, "invalid_request")


async def test_nobody_confirms_for_another(start, valkey):
    scopes = {"edge": ["feed"], "gateway": ["feed"], "admin": ["introspect", "revoke"]}
    callers = [
        {"name": name, "secret_sha256": [digest(SECRETS[name])], "scopes": scope}
        for name, scope in scopes.items()
    ]
    revoker = await start(valkey, callers=callers)
    async with (
        following(revoker, "north"),
        following(revoker, "north", confirms_at=revoker, caller="gateway"),
    ):
        assert await revoke(revoker, wait_edges=1, **LONG) == {"reached": 1, "connected": 2}
        assert (await revoke(revoker, wait_edges=2, **SOON))["reached"] < 2
        listed = [(one["caller"], one["name"], one["confirmed"]) for one in await consumers(revoker)]
        assert listed == [("edge", "north", False), ("gateway", "north", True)]


@pytest.mark.parametrize(
    "members",
    [
        {"wait_edges": -1},
        {"wait_edges": 100_001},
        {"wait_edges": 10**30},
        {"wait_edges": 1.5},
        {"wait_edges": "2"},
        {"wait_edges": "true"},
        {"wait_edges": None},
        {"wait_edges": [1]},
        {"wait_edges": True, "wait_seconds": -1},
        {"wait_edges": True, "wait_seconds": 31},
        {"wait_edges": True, "wait_seconds": "2"},
        {"wait_edges": True, "wait_seconds": True},
        {"wait_edges": True, "wait_seconds": None},
    ],
)
async def test_what_is_no_number_of_edges_revokes_nothing(revoker, members):
    for path, body, _ in REVOCATIONS:
        assert (await revoker.post(path, {**body, **members})).error == (400, "invalid_request")
    assert await revoker.active(claims())


async def test_forms_wait_too(revoker):
    for wait in ("true", "0", "1"):
        form = {"sub": "alice", "iss": forge.ISSUER, "wait_edges": wait, "wait_seconds": "0.05"}
        answer = await revoker.post("/revoke-user", form=form)
        assert answer.json["edges"] == {"reached": 0, "connected": 0}
    for wait in ("-1", "many", "1.5"):
        answer = await revoker.post("/revoke-user", form={**form, "wait_edges": wait})
        assert answer.error == (400, "invalid_request")


async def test_who_does_not_ask_does_not_wait(revoker):
    async with following(revoker, "silent"):
        for members in ({}, {"wait_edges": False, **LONG}, {"wait_edges": True, "dry_run": True, **LONG}):
            for path, body, _ in REVOCATIONS[:-1]:  # the first by a claim takes seconds
                answer = await revoker.post(path, {**body, **members})
                assert answer.status == 200
                assert "edges" not in (answer.json if answer.body else {})
    assert await outcomes(revoker) == {"reached": 0, "late": 0}


async def test_a_token_that_is_not_genuine_is_answered_alike(revoker):
    async with following(revoker, "north", confirms_at=revoker):
        for token in (revoker.token(), "forged", revoker.token(exp=1)):
            body = {"token": token, "wait_edges": True, **SOON}
            answer = await revoker.post("/revoke", body)
            assert set(answer.json) == {"edges"}
            assert answer.json["edges"]["connected"] == 1


async def test_the_end_of_a_session_by_its_refresh_token_waits(start, valkey, sessions_section):
    keeper = await start(valkey, sessions=sessions_section())
    async with following(keeper, "north", confirms_at=keeper):
        browser = await log_in(keeper)
        body = {"token": browser.refresh_token, "wait_edges": True, **LONG}
        answer = await keeper.post("/revoke", body)
        assert answer.json == {"edges": {"reached": 1, "connected": 1}}
        browser = await log_in(keeper)
        path = f"/sessions/{browser.sid}?wait_edges=true"
        answer = await keeper.ask("DELETE", path, headers=authorization("admin"))
        assert answer.error == (400, "invalid_request")
        assert (await browser.go_on()).status == 200


async def test_draining_ends_what_waits(revoker, endless):
    async with following(revoker, "silent"):
        waiting = asyncio.create_task(revoke(revoker, wait_edges=True, **LONG))
        await until(lambda: revoker.service._services.receipts._waiting, "it waits")
        revoker.service.drain()
        assert await waiting == {"reached": 0, "connected": 1}


async def test_who_has_gone_is_not_waited_for_and_takes_no_place_of_verdicts(start, valkey, endless):
    revoker = await start(valkey, server={"max_in_progress": 1})
    waiting = revoker.service._services.receipts._waiting
    body = {**ISS, "sub": "alice", "wait_edges": True, **LONG}
    async with following(revoker, "silent"):
        address = urlsplit(revoker.url)
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        raw = json.dumps(body).encode()
        head = f"Host: x\r\nAuthorization: Bearer {SECRETS['admin']}\r\nContent-Type: application/json\r\n"
        writer.write(f"POST /revoke-user HTTP/1.1\r\n{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        await until(lambda: waiting, "it waits")
        assert await revoker.active(claims(sub="bob"))
        writer.close()
        await until(lambda: not waiting, "it has ended")
        assert await outcomes(revoker) == {"reached": 0, "late": 1}
    assert not await revoker.active(claims(sub="alice"))


async def test_one_caller_has_so_many_waiting_and_no_more(start, valkey, monkeypatch):
    monkeypatch.setattr(receipts, "MAX_WAITING", 1)
    revoker = await start(valkey)
    async with following(revoker, "silent"):
        first = asyncio.create_task(revoke(revoker, wait_edges=True, **LONG))
        await until(lambda: revoker.service._services.receipts._waiting, "it waits")
        assert await revoke(revoker, wait_edges=True, **LONG) == {"reached": 0, "connected": 1}
        assert not first.done()
        revoker.service.drain()
        await first


async def test_without_the_store_nobody_knows_how_many_edges_there_are(start, own_valkey, monkeypatch):
    revoker = await start(own_valkey, redis={"timeout": 2})
    service = revoker.service._services

    async def fail():
        raise StoreUnavailable("gone")

    monkeypatch.setattr(service.consumers._shared, "of_others", fail)
    assert await revoke(revoker, wait_edges=True, **SOON) == {"reached": 0, "connected": None}
    answer = await revoker.ask("GET", "/feed/consumers", headers=authorization("admin"))
    assert answer.error == (503, "temporarily_unavailable")


async def test_what_processes_say_of_their_consumers_may_be_lost(start, own_valkey):
    one = await start(own_valkey)
    other = await start(own_valkey, prefix=one.service.store.keys.prefix, new=False)
    async with following(other, "north", confirms_at=other):
        assert await revoke(one, wait_edges=1, **LONG) == {"reached": 1, "connected": 1}
        with own_valkey.client() as client:
            assert client.delete(one.service.store.keys.consumers) == 1
        assert await revoke(one, wait_edges=1, **LONG) == {"reached": 1, "connected": 1}
    assert await one.active(claims(sub="bob"))
    assert await other.active(claims(sub="bob"))


async def test_what_processes_say_is_removed(start, own_valkey):
    one = await start(own_valkey)
    keys = one.service.store.keys
    other = await start(own_valkey, prefix=keys.prefix, new=False)
    cursor = await end_of_journal(one)
    async with following(one, "near", confirms_at=one):  # so that it writes on and on
        await confirm(other, cursor, "far")
        with own_valkey.client() as client:
            instance = other.service.store.instance
            await until(lambda: client.hget(keys.consumers, instance), "it is written")
            assert 0 < client.pttl(keys.consumers) <= 60_000
            ghost = f'[["edge","ghost",1,"{cursor}",true,0,true,0,10]]'
            client.hset(keys.consumers, "ended", f"1 60000 {ghost}")
            client.hset(keys.consumers, "unreadable", f"{2**50} 60000 {{}}")
            client.hset(keys.consumers, "of another version", "{}")
            assert {listed["name"] for listed in await consumers(one)} == {"near", "far"}
            client.hset(keys.consumers, "", "1 1")  # long ago somebody looked for those that have ended
            await until(lambda: not client.hexists(keys.consumers, "ended"), "it is removed")
            assert client.hlen(keys.consumers) > 1


async def test_who_confirmed_to_a_process_that_has_ended_is_waited_for(start, valkey, monkeypatch):
    """An edge gives verdicts still while it looks for another process."""
    one = await start(valkey)
    other = await start(valkey, prefix=one.service.store.keys.prefix, new=False)
    async with following(other, "north", confirms_at=other):
        assert await revoke(one, wait_edges=True, **LONG) == {"reached": 1, "connected": 1}
    with monkeypatch.context() as patient:
        patient.setattr(consumers_of_process, "_LEAVE_S", HANGS_S)
        await other.close()
    assert await revoke(one, wait_edges=True, **SOON) == {"reached": 0, "connected": 1}
    await confirm(one, await end_of_journal(one), "north")
    assert await revoke(one, {"sub": "bob"}, wait_edges=1, **SOON) == {"reached": 0, "connected": 1}
    await confirm(one, await end_of_journal(one), "north")
    [listed] = await consumers(one)
    assert (listed["name"], listed["streams"]) == ("north", 0)


async def test_after_a_loss_nobody_is_missed(start, own_valkey, monkeypatch):
    monkeypatch.setattr(shared_consumers, "SETTLED_S", SETTLED_S)
    one = await start(own_valkey)
    other = await start(own_valkey, prefix=one.service.store.keys.prefix, new=False)
    async with following(other, "north", confirms_at=other):
        assert await revoke(one, wait_edges=True, **LONG) == {"reached": 1, "connected": 1}
        other.service._services.consumers._eager_until = 0.0
        with own_valkey.client() as client:
            client.delete(one.service.store.keys.consumers)
        assert await revoke(one, wait_edges=True, wait_seconds=0) == {"reached": 0, "connected": None}
        assert await revoke(one, wait_edges=True, **LONG) == {"reached": 1, "connected": 1}


async def test_who_gives_verdicts_for_longer_is_waited_for_longer(start, valkey, monkeypatch):
    for module in (consumers_of_process, shared_consumers):
        monkeypatch.setattr(module, "LISTED_S", 0.3)
    one = await start(valkey)
    other = await start(valkey, prefix=one.service.store.keys.prefix, new=False)
    cursor = await end_of_journal(one)
    for name, more in (("brief", {}), ("long", {"max_staleness": 3600})):
        for running in (one, other):
            body = {"cursor": cursor, "name": f"{name}-{running.service.store.instance}", **more}
            assert (await running.post("/feed/confirm", body, caller="edge")).status == 204

    async def only_the_long():
        return await revoke(one, wait_edges=True, wait_seconds=0) == {"reached": 0, "connected": 2}

    await until(only_the_long, "the others are left out")
    too_long = {"cursor": cursor, "max_staleness": 3601}
    assert (await one.post("/feed/confirm", too_long, caller="edge")).error == (400, "invalid_request")


async def test_a_stream_alone_is_no_sign_of_an_edge(revoker, monkeypatch):
    """Neither of one that is dead, nor of a subscriber that never confirms."""
    monkeypatch.setattr(consumers_of_process, "LISTED_S", 0.3)
    cursor = await end_of_journal(revoker)
    async with feed.stream(revoker, cursor, name="subscriber"), following(revoker, "dead"):
        await confirm(revoker, cursor, "dead")

        async def nobody_is_waited_for():
            return await revoke(revoker, wait_edges=True, wait_seconds=0) == {"reached": 0, "connected": 0}

        await until(nobody_is_waited_for, "the dead is left out")
        listed = {one["name"]: (one["streams"], one["confirms"]) for one in await consumers(revoker)}
        assert listed == {"dead": (1, False), "subscriber": (1, False)}


async def test_who_does_not_wait_asks_nobody(start, valkey, monkeypatch):
    monkeypatch.setattr(receipts, "MAX_WAITING", 1)
    revoker = await start(valkey)
    async with following(revoker, "silent"):
        cursor = await end_of_journal(revoker)
        await revoke(revoker, wait_edges=0, **LONG)
        await revoke(revoker, wait_edges=True, wait_seconds=0)
        await revoke(revoker, {"token": "forged"}, path="/revoke", wait_edges=True, **SOON)
        assert "confirm" not in [event.kind for event in await feed.poll(revoker, cursor, name="reader")]
        asked = [asyncio.create_task(revoke(revoker, wait_edges=True, **SOON)) for _ in range(20)]
        await asyncio.gather(*asked)
        kinds = [event.kind for event in await feed.poll(revoker, cursor, name="reader")]
        assert kinds.count("confirm") <= 1  # the others are beyond the limit


async def test_a_caller_of_one_client_may_not_wait(start, valkey):
    callers = [
        {
            "name": "admin",
            "secret_sha256": [digest(SECRETS["admin"])],
            "scopes": ["revoke"],
            "client_id": "app",
        },
        {"name": "edge", "secret_sha256": [digest(SECRETS["edge"])], "scopes": ["feed"]},
    ]
    revoker = await start(valkey, callers=callers)
    for token in ("forged", revoker.token()):
        answer = await revoker.post("/revoke", {"token": token, "wait_edges": 0})
        assert answer.error == (403, "access_denied")


async def test_confirmations_take_nothing_from_the_rest_of_the_rate_limit(start, valkey):
    callers = [
        {"name": "edge", "secret_sha256": [digest(SECRETS["edge"])], "scopes": ["feed"], "rate_limit": 0.001},
        {"name": "admin", "secret_sha256": [digest(SECRETS["admin"])], "scopes": ["revoke"]},
    ]
    revoker = await start(valkey, callers=callers)
    body = {"cursor": Cursor(b"x" * 8, "1-1").text}
    assert (await revoker.post("/feed/confirm", body, caller="edge")).status == 204
    assert (await revoker.post("/feed/confirm", body, caller="edge")).status == 429
    assert (await end_of_journal(revoker)) is not None


async def test_a_confirmation_that_is_overtaken_lowers_nothing(revoker):
    early = await end_of_journal(revoker)
    await revoker.post("/revoke-user", {**ISS, "sub": "alice"})
    late = await end_of_journal(revoker)
    for cursor in (late, early):
        await confirm(revoker, cursor, "north")
    assert (await consumers(revoker))[0]["cursor"] == late
    async with feed.stream(revoker, early, name="north"):  # it has gone back
        [listed] = await consumers(revoker)
        assert (listed["cursor"], listed["confirmed"]) == (early, False) or not listed["confirmed"]
    await confirm(revoker, Cursor(b"x" * 8, "1-1").text, "north")
    assert (await consumers(revoker))[0]["cursor"] == Cursor(b"x" * 8, "1-1").text


async def test_after_a_loss_what_edges_have_loaded_counts(start, own_valkey, start_edge):
    service = await start(own_valkey, callers=callers_of_edges())
    edge = await start_edge(service)
    assert await revoke(service, wait_edges=True, **LONG) == {"reached": 1, "connected": 1}
    with own_valkey.client() as client:
        client.flushall()
    await until(lambda: edge.service.mirror.copy.loss, "the loss has reached the edge")
    assert await revoke(service, wait_edges=1, **LONG) == {"reached": 1, "connected": 1}


async def test_who_has_been_silent_for_long_is_not_waited_for(start, valkey, monkeypatch):
    for module in (consumers_of_process, shared_consumers):
        monkeypatch.setattr(module, "LISTED_S", 0.3)
    one = await start(valkey)
    other = await start(valkey, prefix=one.service.store.keys.prefix, new=False)
    cursor = await end_of_journal(one)
    await confirm(one, cursor, "near")
    await confirm(other, cursor, "far")

    async def nobody_is_waited_for():
        return await revoke(one, wait_edges=True, wait_seconds=0) == {"reached": 0, "connected": 0}

    await until(nobody_is_waited_for, "both are left out")
