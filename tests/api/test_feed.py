"""The feed, from the front door: what is acknowledged is in it, and what it says of itself is true."""

import asyncio
import contextlib
import json
import random
import re
import time

import aiohttp
import pytest

from revoker.api import consumers, feed_snapshot
from revoker.api import feed as feed_module
from revoker.auth import digest
from revoker.store.journal.snapshot import Snapshot
from revoker.store.keys import user_tag
from revoker.store.transfer import records
from revoker.store.transfer.importing import Importing
from tests.api.test_backchannel import CLIENT, logout_token
from tests.rig import feed, forge
from tests.rig.feed import Consumer, authorization, means_the_same
from tests.rig.service import HANGS_S, OTHER_ISSUER, SECRETS, settings_for
from tests.sessions.conftest import SESSIONS_ISSUER, deleted, log_in
from tests.sessions.conftest import sessions_section as sessions_section  # noqa: PLC0414  # a fixture

ISS = {"iss": forge.ISSUER}
SIDS = ["a", "b", "c"]


def journal(valkey, running):
    """The keys in the journal, in order, as they are in the store right now."""
    with valkey.client() as client:
        found = client.xrange(running.service.store.keys.journal)
    return [fields["k"] for _, fields in found]


async def done(running, path, body, status=200):
    answer = await running.post(path, body)
    assert answer.status == status, answer.body
    return answer


REVOCATIONS = [
    ("/revoke", {**ISS, "jti": "a"}, {"kind": "jti", **ISS, "jti": "a"}),
    ("/revoke", {**ISS, "jti": "ä" * 200}, {"kind": "jti", **ISS}),
    ("/revoke-user", {**ISS, "sub": "alice"}, {"kind": "user", "tag": user_tag(forge.ISSUER, "alice")}),
    (
        "/revoke-user",
        {**ISS, "sub": "carol", "except_sid": "s", "reason": "lost"},
        {"kind": "user", "except_sid": "s", "reason": "lost"},
    ),
    ("/revoke-session", {**ISS, "sid": "s"}, {"kind": "session", **ISS, "sid": "s"}),
    ("/revoke-client", {**ISS, "client_id": "web"}, {"kind": "client", **ISS, "client_id": "web"}),
    ("/revoke-issuer", ISS, {"kind": "issuer", **ISS}),
    ("/revoke-key", {**ISS, "kid": "main-1"}, {"kind": "key", **ISS, "kid": "main-1"}),
    ("/block-user", {**ISS, "sub": "bob"}, {"kind": "block", "tag": user_tag(forge.ISSUER, "bob")}),
    (
        "/unblock-user",
        {**ISS, "sub": "bob"},
        {"remove": {"kind": "block", "tag": user_tag(forge.ISSUER, "bob")}},
    ),
    (
        "/revoke-claim",
        {"iss": OTHER_ISSUER, "claim": "grant_id", "value": "g"},
        {"kind": "claim", "iss": OTHER_ISSUER, "claim": "grant_id", "value": "g"},
    ),
]


async def test_a_revocation_of_every_kind_is_journaled_before_it_is_acknowledged(revoker, valkey):
    begin = await feed.snapshot(revoker)
    async with feed.stream(revoker, begin.cursor) as stream:
        for path, body, expected in REVOCATIONS:
            earlier = len(journal(valkey, revoker))
            asked = int(time.time() * 1000)
            await done(revoker, path, body)
            assert len(journal(valkey, revoker)) > earlier
            while True:
                event = (await stream.until("change"))[-1]
                if event.data.get("kind") != "settings":  # the first revocation by a claim records that
                    break
            assert expected.items() <= event.data.items()
            if "kind" in expected:
                assert event.data["changed"] * 1000 >= asked - 5000
                assert event.data["kind"] == "key" or event.data["expires"] > event.data["changed"]
    consumer, now = Consumer(begin), Consumer(await feed.snapshot(revoker))
    await consumer.catch_up(revoker)
    assert means_the_same(consumer, now, ["s"])


@pytest.mark.parametrize("target", ["/feed/snapshot", "/feed", "/feed?wait=5"])
async def test_head_asks_for_the_headers_alone(revoker, target):
    snapshot = await revoker.ask("GET", "/feed/snapshot", headers=authorization("edge"))
    cursor = json.loads(snapshot.body.splitlines()[0])["cursor"]
    params = {} if target == "/feed/snapshot" else {"cursor": cursor}

    for _ in range(2):  # on one connection, which a body would have left in disorder
        answer = await revoker.ask("HEAD", target, params=params, headers=authorization("edge"))
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["Cache-Control"] == "no-store"
    assert (await revoker.ask("HEAD", target, params=params)).status == 401


async def test_the_end_of_a_session_is_journaled_however_it_comes(start, valkey, sessions_section):
    keeper = await start(valkey, sessions=sessions_section(refresh_grace=0, max_sessions_per_user=2))
    consumer = Consumer(await feed.snapshot(keeper))
    ended = []
    browser = await log_in(keeper)
    assert (await deleted(keeper, browser.sid)).status == 204
    ended.append(browser.sid)
    browser = await log_in(keeper)
    used = browser.refresh_token
    await browser.go_on()
    await browser.go_on()
    assert (await browser.refresh(used)).status == 400  # a reuse
    ended.append(browser.sid)
    several = [await log_in(keeper) for _ in range(3)]
    ended.append(several[0].sid)  # displaced
    await done(keeper, "/revoke-session", {"iss": SESSIONS_ISSUER, "sid": several[1].sid})
    ended.append(several[1].sid)
    assert [key.rpartition(":")[2] for key in journal(valkey, keeper) if "session-cutoff" in key] == ended
    await consumer.catch_up(keeper)
    assert [name[2] for name in consumer.revoked if name[0] == "session"] == ended
    assert all(name[1] == SESSIONS_ISSUER for name in consumer.revoked if name[0] == "session")
    await done(keeper, "/revoke", {"token": several[2].refresh_token})
    await consumer.catch_up(keeper)
    assert ("session", SESSIONS_ISSUER, several[2].sid) in consumer.revoked


async def test_a_logout_token_is_journaled(start, valkey):
    revoker = await start(valkey, main={"backchannel_audience": CLIENT})
    consumer = Consumer(await feed.snapshot(revoker))
    for claims in ({"sid": "s"}, {"sub": "alice", "sid": forge.ABSENT}):
        form = {"logout_token": logout_token(**claims)}
        assert (await revoker.post("/backchannel-logout", form=form, caller=None)).status == 200
    await consumer.catch_up(revoker)
    assert {
        ("session", forge.ISSUER, "s"),
        ("user", user_tag(forge.ISSUER, "alice")),
    } <= consumer.revoked.keys()


async def test_what_operators_undo_and_import_is_journaled(revoker, valkey):
    consumer = Consumer(await feed.snapshot(revoker))
    store = revoker.service.store
    main, revocations = store.issuers[forge.ISSUER], store.revocations
    importing = Importing(store)
    await importing.begin()
    await importing.store(
        [
            importing.change(records.Jti(iss=forge.ISSUER, jti=jti, exp=int(time.time()) + 60))
            for jti in ("x", "y")
        ]
    )
    await done(revoker, "/revoke-user", {**ISS, "sub": "alice"})
    await done(revoker, "/block-user", {**ISS, "sub": "alice"})
    await done(revoker, "/revoke-client", {**ISS, "client_id": "web"})
    await done(revoker, "/revoke-key", {**ISS, "kid": "k"})
    await done(revoker, "/revoke-key", {**ISS, "kid": "other"})
    await consumer.catch_up(revoker)
    tag = user_tag(forge.ISSUER, "alice")
    expected = {
        ("jti", forge.ISSUER, "x"),
        ("jti", forge.ISSUER, "y"),
        ("user", tag),
        ("block", tag),
        ("client", forge.ISSUER, "web"),
        ("key", forge.ISSUER, "k"),
        ("key", forge.ISSUER, "other"),
    }
    assert consumer.revoked.keys() - {("settings", "")} == expected
    await revocations.lift_user(main, "alice")
    await revocations.lift(store.keys.client_cutoff(main, "web"))
    await revocations.forget_key(main, "k")
    await consumer.catch_up(revoker)
    gone = {("user", tag), ("client", forge.ISSUER, "web"), ("key", forge.ISSUER, "k")}
    assert consumer.revoked.keys() - {("settings", "")} == expected - gone
    assert means_the_same(consumer, Consumer(await feed.snapshot(revoker)), [])


async def revoke_at_random(running, dice):
    store = running.service.store
    main = store.issuers[forge.ISSUER]
    sub, before = dice.choice(["alice", "bob"]), dice.choice([None, time.time() - dice.randint(0, 600)])
    dated = {**ISS, "before": before} if before else ISS
    match dice.randint(0, 9):
        case 0 | 1:
            await done(running, "/revoke", {**ISS, "jti": str(dice.randint(0, 50))})
        case 2 | 3:
            await done(running, "/revoke-user", {**dated, "sub": sub})
        case 4 | 5:
            await done(running, "/revoke-user", {**dated, "sub": sub, "except_sid": dice.choice(SIDS)})
        case 6:
            await done(running, "/revoke-session", {**dated, "sid": dice.choice(SIDS)})
        case 7:
            await done(running, dice.choice(["/block-user", "/unblock-user"]), {**ISS, "sub": sub})
        case 8:
            await done(running, "/revoke-key", {**ISS, "kid": dice.choice("xyz")})
            await store.revocations.forget_key(main, dice.choice("xyz"))
        case 9:
            await store.revocations.lift_user(main, sub)


async def test_a_snapshot_and_all_later_changes_are_what_a_later_snapshot_says(start, valkey):
    """Also while others write, with the cursor moving between instances."""
    one = await start(valkey)
    prefix = one.service.store.keys.prefix
    other = await start(valkey, prefix=prefix, new=False)
    dice = random.Random(7)
    consumers = []

    async def write():
        for number in range(150):
            await revoke_at_random(dice.choice([one, other]), dice)
            if number % 50 == 0:
                consumers.append(Consumer(await feed.snapshot(one)))

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(write())
    last = Consumer(await feed.snapshot(other))
    assert len(consumers) == 9
    for consumer in consumers:
        for running in (one, other):
            await consumer.follow(running, 0)
        await consumer.catch_up(other)
        assert means_the_same(consumer, last, SIDS)


async def test_a_cursor_survives_a_restart(start, valkey):
    first = await start(valkey)
    consumer = Consumer(await feed.snapshot(first))
    await done(first, "/revoke", {**ISS, "jti": "a"})
    await consumer.catch_up(first)
    prefix = first.service.store.keys.prefix
    later = await start(valkey, prefix=prefix, new=False)
    await done(later, "/revoke", {**ISS, "jti": "b"})
    events = await consumer.follow(later, 60)
    assert [event.data["jti"] for event in events if event.kind == "change"] == ["b"]


async def test_a_cursor_whose_entry_is_gone_means_a_reload(start, own_valkey):
    revoker = await start(own_valkey)
    begin = await feed.snapshot(revoker)
    for jti in "abc":
        await done(revoker, "/revoke", {**ISS, "jti": jti})
    key = revoker.service.store.keys.journal
    with own_valkey.client() as client:
        last = client.xrevrange(key, count=1)[0][0]
        client.xtrim(key, minid=last, approximate=False)
    [reload] = await feed.poll(revoker, begin.cursor, 5)
    assert (reload.kind, reload.data) == ("reload", {"reason": "trimmed"})
    async with feed.stream(revoker, begin.cursor) as stream:
        assert [event.kind for event in await stream.rest()] == ["reload"]
    consumer = Consumer(await feed.snapshot(revoker))
    assert {("jti", forge.ISSUER, jti) for jti in "abc"} <= consumer.revoked.keys()
    with own_valkey.client() as client:  # as after a failover: the entry was on the former primary alone
        client.xdel(key, last)
    assert (await feed.poll(revoker, consumer.cursor, 5))[0].data == {"reason": "trimmed"}


async def test_a_loss_ends_every_cursor_and_nothing_is_fresh_until_it_is_settled(start, own_valkey):
    revoker = await start(own_valkey, revocation={"data_loss": "refuse", "repair_seconds": 0})
    consumer = Consumer(await feed.snapshot(revoker))
    await done(revoker, "/revoke", {**ISS, "jti": "a"})
    async with feed.stream(revoker, consumer.cursor) as stream:
        await stream.until("fresh")
        with own_valkey.client() as client:
            client.flushall()
        lost = asyncio.create_task(stream.rest())
        while "data_loss_refused" not in revoker.service.store.problems:
            await asyncio.sleep(0.02)
        settled_at = int(time.time() * 1000)
        headers = authorization("edge")
        assert (await revoker.ask("GET", "/feed/snapshot", headers=headers)).status == 503
        assert await revoker.service.store.accept() is not None
        events = await lost
    assert events[-1].kind == "reload"
    assert events[-1].data == {"reason": "data_set"}
    assert all(event.data["as_of"] < settled_at for event in events if event.kind == "fresh")
    assert (await feed.poll(revoker, consumer.cursor, 5))[0].kind == "reload"


async def test_what_a_loss_cuts_off_is_in_the_snapshot(start, own_valkey):
    revoker = await start(own_valkey)
    consumer = Consumer(await feed.snapshot(revoker))
    await done(revoker, "/revoke", {**ISS, "jti": "a"})
    await consumer.catch_up(revoker)
    with own_valkey.client() as client:
        client.flushall()
    while "data_lost" not in revoker.service.store.problems:
        await asyncio.sleep(0.02)
    after = await feed.snapshot(revoker)
    [loss] = [line for line in after.lines if line["kind"] == "loss"]
    assert loss["before"] * 1000 == revoker.service.store.source.data_set.epoch.cutoff
    assert ("jti", forge.ISSUER, "a") in Consumer(after).revoked  # it was written back
    assert (await feed.poll(revoker, consumer.cursor, 5))[0].data == {"reason": "data_set"}


async def test_a_snapshot_without_its_last_line_is_what_a_loss_leaves(start, own_valkey, monkeypatch):
    revoker = await start(own_valkey)
    for jti in range(20):
        await done(revoker, "/revoke", {**ISS, "jti": str(jti)})
    from revoker.store.journal import snapshot as snapshots

    counted = snapshots.Snapshot._counted

    def lose(self, lines):
        if len(lines) > 1:
            with own_valkey.client() as client:
                client.flushall()
        return counted(self, lines)

    monkeypatch.setattr(snapshots.Snapshot, "_counted", lose)
    answer = await revoker.ask("GET", "/feed/snapshot", headers=authorization("edge"))
    assert answer.status == 200
    assert b'"end"' not in answer.body.splitlines()[-1]


async def test_one_reader_serves_all_consumers_and_none_reads_for_nobody(start, own_valkey):
    revoker = await start(own_valkey)
    cursor = (await feed.snapshot(revoker)).cursor

    def blocked():
        with own_valkey.client() as client:
            return sum(entry["cmd"] == "xread" for entry in client.client_list())

    assert blocked() == 0
    async with contextlib.AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(feed.stream(revoker, cursor, name=f"edge-{number}"))
            for number in range(20)
        ]
        for stream in streams:
            await stream.until("fresh")
        assert blocked() <= 1
        await done(revoker, "/revoke", {**ISS, "jti": "a"})
        for stream in streams:
            assert (await stream.until("change"))[-1].data["jti"] == "a"
        listed = (await revoker.ask("GET", "/feed/consumers", headers=authorization("admin"))).json
        assert {consumer["name"] for consumer in listed["consumers"]} == {f"edge-{n}" for n in range(20)}
        assert "revoker_feed_consumers 20.0" in (await revoker.ask("GET", "/metrics")).body.decode()


@pytest.mark.parametrize("store_hangs", [False, True])
async def test_streams_end_when_draining_begins(revoker, monkeypatch, store_hangs):
    cursor = (await feed.snapshot(revoker)).cursor
    async with feed.stream(revoker, cursor) as stream:
        await stream.until("fresh")
        if store_hangs:
            hangs = asyncio.Event()

            async def hang(*_):
                hangs.set()
                await asyncio.Event().wait()

            monkeypatch.setattr(revoker.service.store.source, "read_trusted", hang)
            await hangs.wait()
        revoker.service.drain()
        *_, last = await stream.rest()
    assert last.kind == "retry"
    assert 500 <= last.data <= 3000
    headers = authorization("edge")
    answer = await revoker.ask("GET", "/feed", params={"cursor": cursor}, headers=headers)
    assert answer.error == (503, "temporarily_unavailable")


async def test_a_caller_that_lost_its_secret_or_scope_loses_its_stream(start, valkey, tmp_path):
    revoker = await start(valkey)
    cursor = (await feed.snapshot(revoker)).cursor
    unchanged = {"name": "other-edge", "secret_sha256": [digest(SECRETS["edge"])], "scopes": ["feed"]}
    for callers in (
        [{"name": "edge", "secret_sha256": [digest("another")], "scopes": ["feed"]}, unchanged],
        [{"name": "edge", "secret_sha256": [digest(SECRETS["edge"])], "scopes": ["introspect"]}],
    ):
        revoker.service.reload(settings_for(valkey.url, tmp_path))
        async with feed.stream(revoker, cursor) as stream:
            await stream.until("fresh")
            revoker.service.reload(settings_for(valkey.url, tmp_path))  # it has lost nothing
            await stream.until("fresh")
            revoker.service.reload(settings_for(valkey.url, tmp_path, callers=callers))
            assert all(event.kind == "fresh" for event in await stream.rest())


async def dropped(revoker):
    text = (await revoker.ask("GET", "/metrics")).body.decode()
    return float(re.search(r"^revoker_feed_dropped_consumers_total (\S+)$", text, re.MULTILINE)[1])


@pytest.mark.parametrize("size", [4_000, 200_000])
async def test_a_consumer_that_does_not_read_is_dropped(revoker, valkey, monkeypatch, size):
    monkeypatch.setattr(feed_module, "SLOW_S", 0.2)
    cursor = (await feed.snapshot(revoker)).cursor
    user = revoker.service.store.keys.user(user_tag(forge.ISSUER, "alice"))
    long = {"k": user, "v": json.dumps({"hard": 1, "reason": "x" * size}), "x": "", "u": ""}
    async with feed.stream(revoker, cursor) as stream:
        await stream.until("fresh")
        stream.response.connection.transport.pause_reading()
        with valkey.client() as client:
            while await dropped(revoker) == 0:  # until the buffers of both sides are full
                client.xadd(revoker.service.store.keys.journal, long)
    [listed] = (await revoker.ask("GET", "/feed/consumers", headers=authorization("admin"))).json["consumers"]
    assert listed["streams"] == 0


async def test_who_reads_a_snapshot_too_slowly_loses_its_turn(revoker, monkeypatch):
    async def without_end(*_):
        while True:
            yield b"x" * 65536

    async def read(_):
        async with revoker.http.get(
            revoker.url + "/feed/snapshot", headers=authorization("edge")
        ) as response:
            async for _ in response.content.iter_any():
                pass

    with monkeypatch.context() as patched:
        patched.setattr(feed_snapshot, "GRACE_S", 0.2)
        patched.setattr(feed_snapshot, "MIN_BYTES_PER_S", 10**15)  # nobody is so fast
        patched.setattr(Snapshot, "steps", without_end)
        async with asyncio.timeout(HANGS_S):
            ended = await asyncio.gather(*map(read, range(3)), return_exceptions=True)
    assert [type(error) for error in ended] == [aiohttp.ClientPayloadError] * 3
    assert (await feed.snapshot(revoker)).lines


async def test_a_consumer_takes_over_the_turn_of_a_snapshot_that_it_has_left_behind(revoker, monkeypatch):
    steps, endless = Snapshot.steps, ["one", "two"]

    async def some(self, tail):
        if endless:
            endless.pop()
            while True:
                yield b"x" * 65536
        async for lines in steps(self, tail):
            yield lines

    monkeypatch.setattr(Snapshot, "steps", some)
    monkeypatch.setattr(feed_snapshot, "GRACE_S", HANGS_S)
    asked = {"url": revoker.url + "/feed/snapshot", "headers": authorization("edge")}
    async with asyncio.timeout(HANGS_S), contextlib.AsyncExitStack() as stack:
        north, south = [
            await stack.enter_async_context(revoker.http.get(**asked, params={"name": name}))
            for name in ("north", "south")
        ]
        async with revoker.http.get(**asked, params={"name": "north"}) as again:
            assert feed.complete(await again.read()).lines
        with pytest.raises(aiohttp.ClientPayloadError):
            await north.read()
        for _ in range(1000):
            await south.content.readany()


async def test_what_a_consumer_confirms_is_listed(revoker):
    cursor = (await feed.snapshot(revoker)).cursor
    body = {"cursor": cursor, "as_of": int(time.time() * 1000), "name": "north"}
    assert (await revoker.post("/feed/confirm", body, caller="edge")).status == 204
    await feed.poll(revoker, cursor, 0, name="south")
    listed = (await revoker.ask("GET", "/feed/consumers", headers=authorization("admin"))).json["consumers"]
    north, south = sorted(listed, key=lambda consumer: consumer["name"])
    assert (north["name"], north["cursor"], north["confirmed"], north["as_of"]) == (
        "north", cursor, True, body["as_of"],
    )  # fmt: skip
    assert north["lag"] >= 0
    assert (south["name"], south["cursor"], south["confirmed"]) == ("south", cursor, True)


async def test_polling_gets_past_entries_that_say_nothing(revoker, valkey):
    cursor = (await feed.snapshot(revoker)).cursor
    with valkey.client() as client:
        for _ in range(150):
            client.xadd(revoker.service.store.keys.journal, dict.fromkeys("kvxu", ""))
    async with asyncio.timeout(HANGS_S):
        while not (events := await feed.poll(revoker, cursor, 0)):
            pass
    assert [event.kind for event in events] == ["fresh"]
    assert events[0].data["cursor"] != cursor


async def test_no_caller_keeps_out_the_consumers_of_another(start, valkey, monkeypatch):
    monkeypatch.setattr(consumers, "MAX_CONSUMERS", 3)
    callers = [
        {"name": name, "secret_sha256": [digest(SECRETS[name])], "scopes": scopes}
        for name, scopes in (("edge", ["feed"]), ("gateway", ["feed"]), ("admin", ["revoke"]))
    ]
    revoker = await start(valkey, callers=callers)
    cursor = (await feed.snapshot(revoker)).cursor

    async def listed():
        answer = await revoker.ask("GET", "/feed/consumers", headers=authorization("admin"))
        return {(consumer["caller"], consumer["name"]) for consumer in answer.json["consumers"]}

    async with feed.stream(revoker, cursor, name="streaming") as stream:
        await stream.until("fresh")
        for name in ("a", "b", "a", "c", "d", "a"):
            body = {"cursor": cursor, "name": name}
            assert (await revoker.post("/feed/confirm", body, caller="edge")).status == 204
        assert await listed() == {("edge", "streaming"), ("edge", "d"), ("edge", "a")}
        answer = await revoker.post("/feed/confirm", {"cursor": cursor, "name": "a"}, caller="gateway")
        assert answer.status == 204
        assert ("gateway", "a") in await listed()
        async with (
            feed.stream(revoker, cursor, name="second") as second,
            feed.stream(revoker, cursor, name="third") as third,
        ):
            await second.until("fresh")
            await third.until("fresh")
            answer = await revoker.post("/feed/confirm", {"cursor": cursor, "name": "a"}, caller="edge")
            assert answer.error == (429, "slow_down")
            assert (await revoker.post("/feed/confirm", {"cursor": cursor}, caller="gateway")).status == 204


async def test_polling_waits_for_a_change(revoker):
    cursor = (await feed.snapshot(revoker)).cursor
    waiting = asyncio.create_task(feed.poll(revoker, cursor, 60))
    while not (await revoker.ask("GET", "/feed/consumers", headers=authorization("admin"))).json["consumers"]:
        await asyncio.sleep(0.01)
    await done(revoker, "/revoke", {**ISS, "jti": "a"})
    assert (await waiting)[0].data["jti"] == "a"


@pytest.mark.parametrize("path", ["/feed", "/feed/snapshot"])
async def test_only_callers_with_the_scope_are_fed(revoker, path):
    params = {"cursor": (await feed.snapshot(revoker)).cursor} if path == "/feed" else None
    answer = await revoker.ask("GET", path, params=params, headers=authorization("admin"))
    assert answer.error == (403, "insufficient_scope")
    assert (await revoker.ask("GET", path, params=params)).error == (401, "invalid_client")


@pytest.mark.parametrize(
    "query",
    ["", "cursor=", "cursor=%2B", "cursor=a", "cursor=AQ", "wait=1", "cursor=AQ&cursor=AQ", "cursor=é"],
)
async def test_a_query_that_names_no_place_is_refused(revoker, query):
    answer = await revoker.ask("GET", f"/feed?{query}", headers=authorization("edge"))
    assert answer.error == (400, "invalid_request")


async def test_a_cursor_of_another_format_means_a_reload(revoker):
    [reload] = await feed.poll(revoker, "Ag", 5)
    assert (reload.kind, reload.data) == ("reload", {"reason": "format"})
