"""Begin, list, elevate and end sessions: limits, timeouts, paging, and who may."""

import asyncio
import base64
import collections
import json
import time
import uuid

import pytest
import redis

from revoker.auth import digest
from revoker.store import watch
from revoker.store.keys import tag_and_start, user_tag
from revoker.store.sessions import Lifetimes
from tests.rig.virtual_time import Clockwork
from tests.sessions.conftest import (
    ADMIN,
    SESSIONS_AUDIENCE,
    SESSIONS_ISSUER,
    deleted,
    listed,
    log_in,
    revoke_user,
    sids,
)

INVALID_REQUEST = (400, "invalid_request")
INVALID_GRANT = (400, "invalid_grant")
ACCESS_DENIED = (403, "access_denied")

MANY = 10_000


async def many_sessions(running, sub="crowd", count=MANY):
    store = running.service._services.sessions.store
    for _ in range(0, count, 200):
        await _together([store.start(sub, "web", device="phone") for _ in range(200)])


async def _together(work):
    return await asyncio.gather(*work)


# Listing


async def test_a_user_sees_what_they_know_of_their_sessions(keeper):
    details = {"device": "phone", "ip": "2001:db8::1", "user_agent": "Browser/1", "amr": ["pwd"]}
    began = time.time()
    here = await log_in(keeper, client_id="spa", **details)
    there = await log_in(keeper)
    await here.go_on()
    page = (await listed(keeper, current=here.sid)).json
    by_sid = {session["sid"]: session for session in page["sessions"]}
    session = by_sid[here.sid]
    assert {name: session[name] for name in details} == details
    assert (session["client_id"], session["current"], page["next"]) == ("spa", True, None)
    assert began - 0.001 <= session["created"] <= session["last_used"] <= time.time() + 0.001
    assert session["expires"] == pytest.approx(session["last_used"] + 1209600)
    bare = by_sid[there.sid]
    assert (bare["device"], bare["ip"], bare["user_agent"], bare["amr"]) == (None, None, None, [])
    assert (bare["client_id"], bare["current"]) == ("admin", False)
    assert (await listed(keeper, "nobody")).json == {"sessions": [], "next": None}


async def test_ended_and_covered_sessions_are_not_listed(keeper):
    first, second, spared, ended, cut = [await log_in(keeper) for _ in range(5)]
    assert (await ended.end()).status == 204
    session_cutoff = {"sid": cut.sid, "iss": SESSIONS_ISSUER}
    await keeper.post("/revoke-session", session_cutoff)
    assert await sids(keeper) == [first.sid, second.sid, spared.sid]
    await revoke_user(keeper, except_sid=spared.sid)
    assert await sids(keeper) == [spared.sid]
    last = await log_in(keeper, client_id="spa")
    assert await sids(keeper) == [spared.sid, last.sid]
    await keeper.post("/revoke-client", {"client_id": "spa", "iss": SESSIONS_ISSUER})
    assert await sids(keeper) == [spared.sid]


async def test_a_cutoff_dated_before_a_session_began_leaves_it_alone_everywhere(keeper):
    browser = await log_in(keeper)
    past = {"before": int(time.time()) - 60, "iss": SESSIONS_ISSUER}
    assert (await keeper.post("/revoke-session", {"sid": browser.sid, **past})).status == 200
    await revoke_user(keeper, before=past["before"])
    assert await browser.active()
    assert await sids(keeper) == [browser.sid]
    assert (await browser.refresh()).status == 200
    assert (await browser.elevate(acr="mfa")).status == 200


async def test_ten_thousand_sessions_are_paged_without_gap_or_repetition(keeper):
    await many_sessions(keeper)
    found, cursor, pages = [], None, 0
    while True:
        query = {"limit": 1000} | ({"cursor": cursor} if cursor else {})
        page = (await listed(keeper, "crowd", **query)).json
        found += [session["sid"] for session in page["sessions"]]
        cursor, pages = page["next"], pages + 1
        if pages == 3:  # what is ended meanwhile disturbs nobody's place
            assert (await deleted(keeper, found[-1])).status == 204
        if cursor is None:
            break
        assert len(page["sessions"]) == 1000
    assert pages == 10
    assert len(found) == len(set(found)) == MANY
    assert found == sorted(found, key=tag_and_start)
    await revoke_user(keeper, "crowd", except_sid=found[7])
    assert await sids(keeper, "crowd") == [found[7]]


@pytest.mark.parametrize("path", ["/sessions", "/users/crowd"])
async def test_a_long_page_is_read_in_slices(keeper, monkeypatch, path):
    """While one is made, nobody gets a verdict."""
    await many_sessions(keeper, count=400)
    reader = keeper.service._services.sessions.reader
    read, sizes = reader.of_user, []

    async def counted(*args, **options):
        page = await read(*args, **options)
        sizes.append(len(page.sessions))
        return page

    monkeypatch.setattr(reader, "of_user", counted)
    query = {"limit": 230, "iss": SESSIONS_ISSUER} | ({"sub": "crowd"} if path == "/sessions" else {})
    answer = await keeper.ask("GET", path, params=query, headers=ADMIN)
    first = answer.json["sessions"]
    assert sizes == [50, 50, 50, 50, 30]
    assert len(first) == len({session["sid"] for session in first}) == 230
    query["cursor"] = answer.json["next"]
    answer = await keeper.ask("GET", path, params=query, headers=ADMIN)
    assert sizes[5:] == [50, 50, 50, 20]
    assert len({session["sid"] for session in (*first, *answer.json["sessions"])}) == 400
    assert answer.json["next"] is None


async def test_small_pages_show_every_session_once(keeper):
    made = [(await log_in(keeper)).sid for _ in range(7)]
    for gone in made[1:3]:
        await deleted(keeper, gone)
    for limit in (1, 2, 5, 6):
        found, query = [], {}
        for _ in range(8):
            page = (await listed(keeper, limit=limit, **query)).json
            found += [session["sid"] for session in page["sessions"]]
            if page["next"] is None:
                break
            query = {"cursor": page["next"]}
        assert found == [made[0], *made[3:]]


def cursor_of(text):
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "cursor",
    [
        *("!!", "A", "é", "%00", "x" * 3000, cursor_of(":"), cursor_of("x:y")),
        *(cursor_of("١٢٣:y"), cursor_of("1e5:y"), cursor_of("9" * 5000 + ":y"), cursor_of("inf:y")),
        base64.urlsafe_b64encode(b"\xff\xfe:\xff").decode(),
    ],
)
async def test_a_cursor_that_was_never_given_out_is_refused(keeper, cursor):
    await log_in(keeper)
    assert (await listed(keeper, cursor=cursor)).error == INVALID_REQUEST


@pytest.mark.parametrize(
    "place", ["-1:", "0:", "-99999999999999999999:x", "99999999999999999:x", "1:\r\nFLUSHALL"]
)
async def test_a_cursor_that_was_made_up_shows_no_more_than_the_users_own(keeper, place):
    own = await log_in(keeper)
    await log_in(keeper, "bob")
    answer = await listed(keeper, cursor=cursor_of(place))
    assert answer.status in {200, 400}
    if answer.status == 200:
        assert {session["sid"] for session in answer.json["sessions"]} <= {own.sid}


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "1001"},
        {"limit": "x"},
        {"limit": ""},
        {"cursor": ""},
        {"limit": "-1"},
        {"sub": ""},
    ],
)
async def test_a_list_that_can_not_be_is_refused(keeper, query):
    assert (await listed(keeper, **query)).error == INVALID_REQUEST


async def test_a_list_has_the_sessions_of_revoker(keeper):
    await log_in(keeper)
    assert (await listed(keeper, iss=SESSIONS_ISSUER)).status == 200
    assert (await listed(keeper, iss="https://idp.example.com")).error == INVALID_REQUEST


# What it costs


def commands(valkey):
    with redis.Redis(port=valkey.port, decode_responses=True) as client:
        stats = client.info("commandstats")
    looked_at = ("mget", "time", "role", "info", "config|get", "ping", "hgetall", "select")
    return {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()
            if name.removeprefix("cmdstat_") not in looked_at}  # fmt: skip


@pytest.fixture
def watched_once(monkeypatch):
    """A service looks at its store when it starts, and no more: what that costs is not counted."""
    monkeypatch.setattr(watch, "BEAT_S", 3600)


@pytest.mark.row("ATK-05")
@pytest.mark.usefixtures("watched_once")
async def test_with_ten_thousand_sessions_the_server_does_no_more_than_with_one(
    start, own_valkey, sessions_section
):
    running = await start(own_valkey, sessions=sessions_section(), redis={"timeout": 10})
    await many_sessions(running)
    spent = {}
    for sub in ("scripts are loaded", "alone", "crowd"):
        browser = await log_in(running, sub)
        tries = []
        for _ in range(3):  # what the process does now and then is not in all of them
            before = commands(own_valkey)
            await browser.go_on()
            await revoke_user(running, sub, except_sid=browser.sid)
            await browser.go_on()
            tries.append(collections.Counter(commands(own_valkey)) - collections.Counter(before))
        spent[sub] = tries[0] & tries[1] & tries[2]
    assert spent["crowd"] == spent["alone"]
    assert spent["alone"]["evalsha"] <= 3


@pytest.mark.usefixtures("watched_once")
async def test_a_refresh_is_one_round_trip(start, own_valkey, sessions_section):
    running = await start(own_valkey, sessions=sessions_section())
    browser = await log_in(running)
    await browser.go_on()
    before = commands(own_valkey)
    for _ in range(5):
        await browser.go_on()
    after = commands(own_valkey)
    assert after["evalsha"] - before["evalsha"] == 5
    assert after.get("eval", 0) == before.get("eval", 0)


# Limits and time


async def test_beyond_the_limit_the_oldest_session_ends(start, valkey, sessions_section):
    running = await start(valkey, sessions=sessions_section(max_sessions_per_user=2))
    first, second, third = [await log_in(running) for _ in range(3)]
    other = await log_in(running, "bob")
    assert not await first.active()
    assert (await first.refresh()).error == INVALID_GRANT
    assert await sids(running) == [second.sid, third.sid]
    assert [await item.active() for item in (second, third, other)] == [True] * 3


async def test_sessions_that_a_cutoff_covers_take_nobodys_place(start, valkey, sessions_section):
    running = await start(valkey, sessions=sessions_section(max_sessions_per_user=2))
    here, there = await log_in(running), await log_in(running)
    await revoke_user(running, except_sid=here.sid)
    second = await log_in(running)
    assert await sids(running) == [here.sid, second.sid]
    await running.post("/revoke-session", {"sid": second.sid, "iss": SESSIONS_ISSUER})
    third = await log_in(running)
    assert await sids(running) == [here.sid, third.sid]
    assert not await there.active()


async def test_a_login_that_would_be_dead_is_put_off_and_displaces_nothing(start, valkey, sessions_section):
    running = await start(valkey, sessions=sessions_section(max_sessions_per_user=1))
    old = await log_in(running, client_id="old")
    await running.post("/revoke-client", {"client_id": "spa", "iss": SESSIONS_ISSUER})
    answer = await running.post("/sessions", {"sub": "alice", "client_id": "spa"})
    assert answer.error == (503, "temporarily_unavailable")
    assert await old.active()
    assert await sids(running) == [old.sid]


@pytest.fixture
def clockwork(valkey, tmp_path, sessions_section, monkeypatch):
    section = sessions_section(
        access_token_lifetime=600, idle_timeout=1000, absolute_timeout=2500, refresh_grace=60
    )
    made = Clockwork(valkey, tmp_path, sessions=section)
    made.patch(monkeypatch)
    yield made
    made.close()


@pytest.mark.row("9700-07")
def test_a_session_ends_when_idle_and_at_its_end_however_often_it_is_used(clockwork):
    run, running = clockwork.run, clockwork.running
    used, idle = run(log_in(running, "used")), run(log_in(running, "idle"))
    for _ in range(3):
        clockwork.pass_time(800)
        assert run(used.refresh()).status == 200
        run(used.go_on())
    assert run(idle.refresh()).error == INVALID_GRANT
    assert run(sids(running, "idle")) == []
    assert run(idle.elevate(acr="mfa")).error == ACCESS_DENIED
    assert run(running.post("/introspect", {"token": idle.refresh_token})).json == {"active": False}
    answer = run(used.go_on())
    assert answer.json["expires_in"] <= 100  # at 2400 of 2500 s: no token outlives its session
    [session] = run(listed(running, "used")).json["sessions"]
    assert session["expires"] == pytest.approx(session["created"] + 2500)
    clockwork.pass_time(200)
    assert run(used.refresh()).error == INVALID_GRANT
    assert run(sids(running, "used")) == []


def test_the_grace_begins_with_the_first_use_and_is_not_renewed(clockwork):
    run = clockwork.run
    browser = run(log_in(clockwork.running))
    first = browser.refresh_token
    run(browser.go_on())
    clockwork.pass_time(36)
    assert run(browser.refresh(first)).json["refresh_token"] == browser.refresh_token
    clockwork.pass_time(36)
    assert run(browser.refresh(first)).error == INVALID_GRANT
    assert not run(browser.active())


async def test_settings_that_shorten_sessions_hold_for_those_started_before(start, valkey, sessions_section):
    """Their cutoffs are kept for the shorter time: they must not outlive these."""
    running = await start(valkey, sessions=sessions_section())
    browser = await log_in(running)
    services = running.service._services.sessions
    short = running.service.store.sessions(
        services.issuer, Lifetimes(idle=600, absolute=600, grace=10, most=0)
    )
    tag, start_ms = tag_and_start(browser.sid)
    key = running.service.store.keys.session(tag, browser.sid)
    with redis.Redis(port=valkey.port) as client:
        numbers = client.get(key).split(b" ", 5)
    assert int(numbers[3]) == 7776000 * 1000
    assert (await short.reader.peek(browser.sid)).ends == start_ms + 600_000
    assert (await short.refresh(browser.sid, 1, ())).session.ends == start_ms + 600_000
    with redis.Redis(port=valkey.port) as client:
        assert 0 < client.pexpiretime(key) <= start_ms + 600_000


async def test_a_store_whose_clock_fell_back_dates_logins_and_cutoffs_after_earlier_ones(keeper, valkey):
    """As after a failover to a server whose clock is a minute behind."""
    tag = user_tag(SESSIONS_ISSUER, "alice")
    ahead = int(time.time() * 1000) + 60_000
    with redis.Redis(port=valkey.port) as client:
        client.set(keeper.service.store.keys.user(tag), json.dumps({"hard": ahead, "last": ahead}))
    browser = await log_in(keeper)
    assert tag_and_start(browser.sid)[1] > ahead
    assert await browser.active()
    again = await log_in(keeper)
    assert tag_and_start(again.sid)[1] > tag_and_start(browser.sid)[1]
    await again.go_on()
    assert await again.active()
    cutoff_answer = await revoke_user(keeper)
    assert cutoff_answer["cutoff"] * 1000 >= tag_and_start(again.sid)[1]
    assert not await browser.active()
    assert not await again.active()
    assert (await again.refresh()).error == INVALID_GRANT
    assert await (await log_in(keeper)).active()


async def test_the_end_of_a_session_that_began_ahead_of_the_clock_covers_it(keeper, valkey):
    tag = user_tag(SESSIONS_ISSUER, "alice")
    ahead = int(time.time() * 1000) + 60_000
    with redis.Redis(port=valkey.port) as client:
        client.set(keeper.service.store.keys.user(tag), json.dumps({"last": ahead}))
    for road in ("end", "/revoke", "/revoke-session"):
        browser = await log_in(keeper)
        if road == "end":
            await browser.end()
        elif road == "/revoke":
            await keeper.post(road, form={"token": browser.refresh_token})
        else:
            await keeper.post(road, {"sid": browser.sid, "iss": SESSIONS_ISSUER})
        assert not await browser.active(), road
        assert (await browser.refresh()).error == INVALID_GRANT


# Who may, and what is asked


async def test_a_blocked_user_neither_logs_in_nor_refreshes_until_unblocked(keeper):
    browser = await log_in(keeper)
    user = {"sub": "alice", "iss": SESSIONS_ISSUER}
    await keeper.post("/block-user", user)
    assert (await keeper.post("/sessions", {"sub": "alice"})).error == ACCESS_DENIED
    assert (await browser.refresh()).error == INVALID_GRANT
    assert (await browser.elevate(acr="mfa")).error == ACCESS_DENIED
    assert not await browser.active()
    assert await (await log_in(keeper, "bob")).active()
    await keeper.post("/unblock-user", user)
    assert await browser.active()
    assert (await browser.refresh()).status == 200


async def test_elevation_keeps_the_start_and_what_is_not_named(keeper):
    browser = await log_in(keeper, amr=["pwd"], acr="basic", scope="a")
    await revoke_user(keeper, before=int(time.time()) - 5)
    answer = await browser.elevate(acr="mfa")
    browser.access = answer.json["access_token"]
    assert "refresh_token" not in answer.json
    claims = await browser.claims()
    assert (claims["acr"], claims["amr"], claims["scope"]) == ("mfa", ["pwd"], "a")
    await browser.elevate(amr=["pwd", "otp"])
    await browser.go_on()
    claims = await browser.claims()
    assert (claims["acr"], claims["amr"]) == ("mfa", ["pwd", "otp"])
    await revoke_user(keeper)
    assert not await browser.active()
    assert (await browser.elevate(acr="mfa")).error == ACCESS_DENIED


async def test_what_is_no_session_can_be_ended_and_not_elevated(keeper):
    for sid in ("x", "A" * 38, str(uuid.uuid4()), "%00", "%F0%9F%98%80", "..%2f"):
        assert (await deleted(keeper, sid)).status == 204
        assert (await keeper.post(f"/sessions/{sid}/elevate", {"acr": "mfa"})).error == ACCESS_DENIED
    browser = await log_in(keeper)
    assert (await browser.elevate()).error == INVALID_REQUEST
    assert (await browser.end()).status == 204
    assert (await browser.end()).status == 204


async def test_a_caller_bound_to_a_client_sees_and_ends_its_own_sessions_only(
    start, valkey, sessions_section
):
    callers = [
        {"name": "admin", "secret_sha256": [digest("admin-secret")], "scopes": ["sessions", "introspect"]},
        {"name": "gateway", "secret_sha256": [digest("gateway-secret")], "scopes": ["introspect"]},
        {"name": "spa", "secret_sha256": [digest("spa-secret")], "scopes": ["sessions"], "client_id": "spa"},
    ]
    running = await start(valkey, sessions=sessions_section(), callers=callers)
    spa = {"Authorization": "Bearer spa-secret"}
    own, other = await log_in(running, client_id="spa"), await log_in(running, client_id="other")
    began = await running.post("/sessions", {"sub": "alice"}, caller=None, headers=spa)
    assert began.status == 201
    theirs = {session["sid"] for session in (await listed(running, headers=spa)).json["sessions"]}
    assert theirs == {own.sid, began.json["sid"]}
    foreign = {"sub": "alice", "client_id": "other"}
    assert (await running.post("/sessions", foreign, caller=None, headers=spa)).error == ACCESS_DENIED
    assert (await deleted(running, other.sid, spa)).error == ACCESS_DENIED
    elevation = f"/sessions/{other.sid}/elevate"
    assert (await running.post(elevation, {"acr": "mfa"}, caller=None, headers=spa)).error == ACCESS_DENIED
    assert await other.active()
    assert (await deleted(running, own.sid, spa)).status == 204
    assert not await own.active()


async def test_sessions_need_their_scope(keeper):
    browser = await log_in(keeper)
    gateway = {"Authorization": "Bearer gateway-secret"}
    answers = [
        await keeper.post("/sessions", {"sub": "alice"}, caller="gateway"),
        await listed(keeper, headers=gateway),
        await deleted(keeper, browser.sid, gateway),
        await keeper.post(f"/sessions/{browser.sid}/elevate", {"acr": "mfa"}, caller="gateway"),
    ]
    assert {answer.error for answer in answers} == {(403, "insufficient_scope")}
    assert (await keeper.post("/sessions", {"sub": "alice"}, caller=None)).error == (401, "invalid_client")
    assert await browser.active()


@pytest.mark.parametrize(
    "login",
    [
        {},
        {"sub": ""},
        {"sub": 1},
        {"sub": "x" * 1025},
        {"sub": "a", "scope": "a  b"},
        {"sub": "a", "scope": 'a"b'},
        {"sub": "a", "scope": "x" * 2049},
        {"sub": "a", "client_id": "é"},
        {"sub": "a", "client_id": ""},
        {"sub": "a", "aud": []},
        {"sub": "a", "aud": ""},
        {"sub": "a", "amr": "pwd"},
        {"sub": "a", "amr": ["x"] * 17},
        {"sub": "a", "user_agent": "x" * 1025},
        {"sub": "a", "ip": "x" * 65},
    ],
)
async def test_a_login_that_is_malformed_is_refused(keeper, login):
    assert (await keeper.post("/sessions", login)).error == INVALID_REQUEST


async def test_a_login_with_half_a_character_is_refused(keeper):
    for name in ("sub", "device", "acr", "client_id"):
        body = json.dumps({"sub": "a", name: "\ud800"}).encode()
        assert (await keeper.post("/sessions", body)).error == INVALID_REQUEST


async def test_anything_a_person_is_called_survives(keeper):
    for sub in ("Zoë \u202e\n\x00 🦊", "x" * 1024, "*", "{a}", "=", "a:b", '"', "\\"):
        browser = await log_in(
            keeper, sub, device="d \n\x00 🦊 1 2 3", user_agent="1 2 3 4 5 6 7 [", amr=["a b", "é"]
        )
        await browser.go_on()
        claims = await browser.claims()
        assert (claims["sub"], claims["amr"], claims["aud"]) == (sub, ["a b", "é"], SESSIONS_AUDIENCE)
        [entry] = (await listed(keeper, sub)).json["sessions"]
        assert (entry["device"], entry["user_agent"]) == ("d \n\x00 🦊 1 2 3", "1 2 3 4 5 6 7 [")
        assert (await browser.elevate(amr=["é" * 10], acr="ä")).status == 200
        browser.access = (await browser.refresh()).json["access_token"]
        assert (await browser.claims())["acr"] == "ä"
        assert (await deleted(keeper, browser.sid, ADMIN)).status == 204


# Memory


async def test_a_session_costs_at_most_700_bytes(start, own_valkey, sessions_section):
    running = await start(own_valkey, sessions=sessions_section(), redis={"timeout": 10})
    store = running.service._services.sessions.store
    with own_valkey.client() as client:
        before = client.info("memory")["used_memory"]
        for _ in range(100):
            await _together(
                [
                    store.start(
                        str(uuid.uuid4()), "web", scope="read", amr=("pwd",),
                        device="d" * 32, ip="i" * 39, user_agent="u" * 120,
                    )
                    for _ in range(200)
                ]
            )  # fmt: skip
        after = client.info("memory")["used_memory"]
    assert 300 < (after - before) / 20_000 <= 700


@pytest.mark.parametrize("space", ["\n", "\u00a0", "\u2003", "\x1f", "\x0b", "\t", "  "])
async def test_a_space_alone_separates_the_values_of_a_sessions_scope(keeper, space):
    for scope in (f"a{space}b", f"a{space}"):
        assert (await keeper.post("/sessions", {"sub": "alice", "scope": scope})).status == 400
    browser = await log_in(keeper, scope="a b")

    answer = await browser.refresh(scope=f"a{space}b")

    assert answer.error == (400, "invalid_scope")
