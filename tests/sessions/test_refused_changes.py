"""Refuse, then change nothing: what is answered 503 can be repeated, and is never taken for theft."""

import asyncio
import contextlib
import itertools
import time

import pytest
import redis

from revoker.auth import digest
from revoker.errors import StoreUnavailable
from revoker.store import scripts
from revoker.store.keys import tag_and_start, user_tag
from revoker.store.sessions import Lifetimes
from revoker.store.wire.command_channel import Confirmation
from tests.rig import forge
from tests.rig.fault_proxy import FAULTS, FaultProxy
from tests.rig.probes import eventually
from tests.rig.servers import Valkey
from tests.rig.service import HANGS_S, OTHER_ISSUER
from tests.rig.sids import new_sid
from tests.rig.virtual_time import Clockwork
from tests.sessions.conftest import SESSIONS_ISSUER, deleted, log_in, revoke_user, sids, without_signing_key

UNAVAILABLE = (503, "temporarily_unavailable")
INVALID_GRANT = (400, "invalid_grant")
INVALID_REQUEST = (400, "invalid_request")
ACCESS_DENIED = (403, "access_denied")
CONFIRMED = {"wait_replicas": 1, "timeout": 5}


@pytest.fixture
def long_fresh(monkeypatch):
    """A primary gives verdicts although the machine stands still between two heartbeats."""
    monkeypatch.setattr(Confirmation, "FRESH_S", HANGS_S)


@pytest.fixture
async def relay(valkey):
    with valkey.client() as client:
        for text in scripts.TEXTS.values():
            client.script_load(text)
    made = FaultProxy(valkey)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def through(start, relay, sessions_section, long_fresh):
    """Starts services whose changes are confirmed, through the relay."""

    async def begin(**changes):
        redis_section = CONFIRMED | changes.pop("redis", {})
        section = sessions_section(**changes.pop("sessions", {}))
        return await start(relay, sessions=section, redis=redis_section, **changes)

    return begin


@pytest.fixture
def clockwork_with(valkey, tmp_path, sessions_section, monkeypatch, long_fresh):
    """Starts a service whose time can be put forward, by its [sessions]."""
    with contextlib.ExitStack() as stack:

        def begin(**section):
            relay = FaultProxy(valkey)
            made = Clockwork(
                valkey, tmp_path, through=relay, sessions=sessions_section(**section), redis=CONFIRMED
            )
            stack.callback(made.close)
            made.patch(monkeypatch)
            made.relay = relay
            return made

        yield begin


@pytest.fixture(params=[10, 0])
def clockwork(request, clockwork_with):
    return clockwork_with(refresh_grace=request.param, revocable=["grant_id"])


# Whatever the reason


@contextlib.contextmanager
def _no_signing_key(clockwork, browser):
    forget = clockwork.run(without_signing_key(clockwork.running, browser.access))
    yield
    clockwork.run(forget())


CHANGES = {
    "refresh": lambda browser: browser.refresh(),
    "begin": lambda browser: browser.running.post("/sessions", {"sub": "alice"}),
    "elevate": lambda browser: browser.elevate(acr="mfa"),
}
REASONS = {
    "the service's clock is ahead": lambda clockwork, _: clockwork.clocks_apart(40),
    "the service's clock is behind": lambda clockwork, _: clockwork.clocks_apart(-40),
    "nobody has accepted a loss of data": lambda clockwork, _: clockwork.refused_data(),
    "no key signs": _no_signing_key,
}


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_refused_changes_nothing_and_can_be_repeated(clockwork_with, change, reason, events):
    clockwork = clockwork_with(max_sessions_per_user=1)
    run, running = clockwork.run, clockwork.running
    browser = run(log_in(running))
    record = running.service.store.keys.session(tag_and_start(browser.sid)[0], browser.sid)
    before = run(running.service.store.values([record]))
    with REASONS[reason](clockwork, browser):
        for _ in range(2):
            assert run(CHANGES[change](browser)).error == UNAVAILABLE
            clockwork.pass_time(60)
    assert run(running.service.store.values([record])) == before
    assert run(sids(running)) == [browser.sid]
    assert run(browser.active())
    assert run(CHANGES[change](browser)).status in {200, 201}
    assert len(run(sids(running))) == 1
    assert run(browser.active()) == (change != "begin")
    assert "refresh_reused" not in {event["event"] for event in events}


# Refreshing


@pytest.mark.parametrize("fault", FAULTS)
def test_a_refresh_that_is_answered_503_can_be_repeated_long_after_the_grace(clockwork, fault, events):
    run, relay = clockwork.run, clockwork.relay
    browser = run(log_in(clockwork.running))
    run(browser.go_on())
    spent = browser.refresh_token
    for _ in range(2):
        relay.arm(fault)
        assert run(browser.refresh()).error == UNAVAILABLE
        assert not relay.armed
        clockwork.pass_time(60)
    run(browser.go_on())
    assert browser.refresh_token != spent
    assert run(browser.active())
    successor = browser.refresh_token
    clockwork.pass_time(60)
    run(browser.go_on())
    assert browser.refresh_token != successor
    assert "refresh_reused" not in {event["event"] for event in events}


def test_a_refresh_whose_claims_cannot_be_judged_in_the_end_can_be_repeated(clockwork, monkeypatch, events):
    """The record is read late, so its claims are looked up once the token is used; that lookup fails."""
    run, relay = clockwork.run, clockwork.relay
    browser = run(log_in(clockwork.running, **BROWSER))

    async def not_yet(_):
        return None

    with monkeypatch.context() as late:
        late.setattr(clockwork.running.service._services.sessions.reader, "peek", not_yet)
        late.setattr(relay, "after_script", lambda: relay.arm("lookup_refused"))
        for _ in range(2):
            assert run(browser.refresh()).error == UNAVAILABLE
            assert not relay.armed
            clockwork.pass_time(60)
    spent = browser.refresh_token
    run(browser.go_on())
    assert run(browser.active())
    assert "refresh_reused" not in {event["event"] for event in events}
    clockwork.pass_time(60)
    assert run(browser.refresh(spent)).error == INVALID_GRANT


@pytest.mark.parametrize("fault", FAULTS)
def test_once_a_repeat_has_succeeded_its_token_is_spent(clockwork, fault):
    run, relay = clockwork.run, clockwork.relay
    browser = run(log_in(clockwork.running))
    spent = browser.refresh_token
    relay.arm(fault)
    assert run(browser.refresh()).error == UNAVAILABLE
    clockwork.pass_time(60)
    run(browser.go_on())
    clockwork.pass_time(60)
    assert run(browser.refresh(spent)).error == INVALID_GRANT
    assert not run(browser.active())


@pytest.mark.parametrize("fault", ["lost_after", "unconfirmed"])
def test_a_token_whose_use_is_not_confirmed_is_still_the_clients(clockwork, fault):
    run = clockwork.run
    browser = run(log_in(clockwork.running))
    clockwork.relay.arm(fault)
    assert run(browser.refresh()).error == UNAVAILABLE
    clockwork.pass_time(60)
    answer = run(clockwork.running.post("/introspect", {"token": browser.refresh_token}))
    assert answer.json["active"] is True
    spent = browser.refresh_token
    run(browser.go_on())
    assert run(clockwork.running.post("/introspect", {"token": spent})).json == {"active": False}


@pytest.mark.parametrize("fault", ["lost_after", "unconfirmed"])
async def test_another_instance_completes_a_refresh_that_was_not_confirmed(through, relay, fault, events):
    first = await through(prefix=f"two-{fault.replace('_', '')}", sessions={"refresh_grace": 0})
    second = await through(prefix=f"two-{fault.replace('_', '')}", sessions={"refresh_grace": 0}, new=False)
    browser = await log_in(first)
    spent = browser.refresh_token
    relay.arm(fault)
    assert (await browser.refresh()).error == UNAVAILABLE
    browser.running = second
    answers = [await browser.refresh()]
    assert answers[0].status == 200, answers[0].body
    browser.refresh_token = answers[0].json["refresh_token"]
    assert (await browser.go_on()).status == 200
    assert "refresh_reused" not in {event["event"] for event in events}
    assert (await browser.refresh(spent)).error == INVALID_GRANT


@pytest.mark.parametrize("grace", [0, 1])
async def test_users_who_try_while_the_replica_is_away_are_not_logged_out(
    start, own_valkey, tmp_path, sessions_section, grace
):
    with own_valkey.client() as client:
        client.config_set("repl-diskless-sync-delay", 0)
    replica = Valkey(tmp_path / "replica", "--replicaof", "127.0.0.1", str(own_valkey.port)).start()
    try:
        running = await start(
            own_valkey, sessions=sessions_section(refresh_grace=grace), redis={"wait_replicas": 1}, new=False
        )
        browsers = [await _patient(lambda n=n: log_in(running, f"user-{n}")) for n in range(10)]
        replica.hang()
        for browser in browsers:
            assert (await browser.refresh()).error == UNAVAILABLE
        # By then the primary has not shown its replica for 2 s, which is longer than the grace.
        while b"shown enough replicas" not in (await browsers[0].refresh()).body:
            pass
        replica.resume()
        for browser in browsers:
            answer = await _patient_refresh(browser)
            assert answer.status == 200, answer.body
            browser.access, browser.refresh_token = answer.json["access_token"], answer.json["refresh_token"]
        assert all([await browser.active() for browser in browsers])
        for browser in browsers:
            assert (await _patient_refresh(browser)).status == 200
    finally:
        replica.kill()


async def _patient(work):
    async with asyncio.timeout(HANGS_S):
        while True:
            with contextlib.suppress(AssertionError):
                return await work()


async def _patient_refresh(browser):
    async with asyncio.timeout(HANGS_S):
        while (answer := await browser.refresh()).status == 503:
            pass
        return answer


@pytest.mark.parametrize("grace", [10, 0])
async def test_without_a_signing_key_nothing_is_used_up_started_or_elevated(
    start, valkey, sessions_section, grace
):
    section = sessions_section(refresh_grace=grace, max_sessions_per_user=1)
    running = await start(valkey, sessions=section)
    browser = await log_in(running)
    store = running.service.store
    record = store.keys.session(tag_and_start(browser.sid)[0], browser.sid)
    with redis.Redis(port=valkey.port) as client:
        before = client.get(record)
        forget = await without_signing_key(running, browser.access)
        assert (await browser.refresh()).error == UNAVAILABLE
        assert (await browser.elevate(acr="mfa")).error == UNAVAILABLE
        assert (await running.post("/sessions", {"sub": "alice"})).error == UNAVAILABLE
        assert client.get(record) == before
    assert await sids(running) == [browser.sid]
    await forget()
    assert (await browser.refresh()).status == 200
    assert await browser.active()


# Reuse


@pytest.mark.parametrize("fault", ["unconfirmed", None])
def test_a_reuse_is_audited_also_where_the_end_of_the_session_is_not_confirmed(clockwork, fault, events):
    run = clockwork.run
    browser = run(log_in(clockwork.running))
    first = browser.refresh_token
    run(browser.go_on())
    run(browser.go_on())
    clockwork.relay.arm(fault)
    answer = run(browser.refresh(first))
    assert answer.error == (UNAVAILABLE if fault else INVALID_GRANT)
    reuses = [event for event in events if event["event"] == "refresh_reused"]
    assert [(event["kind"], event["sid"]) for event in reuses] == [("reused_older", browser.sid)]
    metrics = run(clockwork.running.ask("GET", "/metrics", headers={})).body
    assert b'revoker_refreshes_total{outcome="reused_older"} 1.0' in metrics
    assert run(browser.refresh(first)).error == INVALID_GRANT
    assert not run(browser.active())


def test_a_refresh_whose_answer_is_lost_is_audited_since_it_may_have_been_a_reuse(clockwork, events):
    run = clockwork.run
    browser = run(log_in(clockwork.running))
    first = browser.refresh_token
    run(browser.go_on())
    run(browser.go_on())
    clockwork.relay.arm("lost_after")
    assert run(browser.refresh(first)).error == UNAVAILABLE
    unconfirmed = [event for event in events if event["event"] == "change_unconfirmed"]
    assert [(item["made"], item["sid"], item["generation"]) for item in unconfirmed] == [
        ("unknown", browser.sid, 1)
    ]
    assert first not in str(events)


async def test_a_refresh_of_a_session_that_cannot_be_read_uses_up_nothing(keeper, valkey):
    browser = await log_in(keeper)
    key = keeper.service.store.keys.session(tag_and_start(browser.sid)[0], browser.sid)
    with valkey.client() as client:
        readable, left = client.get(key), client.pttl(key)
        client.set(key, readable + "]", px=left)
        assert (await browser.refresh()).error == UNAVAILABLE
        assert client.exists(f"{key}:1")  # the token may be used again, whenever that is
        client.set(key, client.get(key)[:-1], px=left)
    assert (await browser.refresh()).status == 200


# Beginning


async def test_a_login_whose_confirmation_is_not_understood_begins_nothing(through, relay):
    running = await through(sessions={"max_sessions_per_user": 1})
    first = await log_in(running)
    relay.arm("garbled")
    async with asyncio.timeout(HANGS_S):
        while relay.armed:  # a primary whose last confirmation is 2 s old gives 503 before any script runs
            assert (await running.post("/sessions", {"sub": "alice"})).error == UNAVAILABLE
    index = running.service.store.keys.sessions(user_tag(SESSIONS_ISSUER, "alice"))
    with relay.client() as client:
        async with asyncio.timeout(HANGS_S):
            while set(client.zrange(index, 0, -1)) != {"", first.sid}:
                await asyncio.sleep(0.05)

    async def first_is_active():
        answer = await running.post("/introspect", {"token": first.access}, caller="gateway")
        return answer.status == 200 and answer.json["active"]

    await eventually(first_is_active)  # once the connection that the reply ended has been confirmed again


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_login_that_is_answered_503_begins_nothing_and_displaces_nobody(through, relay, fault):
    running = await through(sessions={"max_sessions_per_user": 2})
    first, second = await log_in(running), await log_in(running)
    for _ in range(2):
        relay.arm(fault)
        assert (await running.post("/sessions", {"sub": "alice"})).error == UNAVAILABLE
        assert await sids(running) == [first.sid, second.sid]
        assert await first.active()
    third = await log_in(running)
    assert await sids(running) == [second.sid, third.sid]
    assert [await browser.active() for browser in (first, second, third)] == [False, True, True]
    store = running.service.store
    index = store.keys.sessions(user_tag(SESSIONS_ISSUER, "alice"))
    with relay.client() as client:
        assert set(client.zrange(index, 0, -1)) == {"", second.sid, third.sid}
        records = list(
            client.scan_iter(match=f"{store.keys.session('*', '*')}".replace("{*}", "{????????????????}"))
        )
    assert {record.rpartition(":")[2] for record in records} == {second.sid, third.sid}


async def test_a_login_that_the_server_carries_out_late_begins_nothing(start, valkey, sessions_section):
    running = await start(valkey, sessions=sessions_section())
    store = running.service.store
    sessions = store.sessions(store.issuers[SESSIONS_ISSUER], _lifetimes())
    long_ago = int(time.time() * 1000) - 60_000
    with pytest.raises(StoreUnavailable, match="too long"):
        await sessions.start("alice", "web", now=long_ago)
    assert await sids(running) == []


def _lifetimes():
    return Lifetimes(idle=600, absolute=3600, grace=10, most=0)


async def test_older_sessions_whose_end_is_not_confirmed_do_not_refuse_the_new_one(through, relay):
    running = await through(sessions={"max_sessions_per_user": 1})
    old = await log_in(running)
    first_script = itertools.count()

    def arm_for_the_second():
        if not next(first_script):
            relay.arm("unconfirmed")

    relay.after_script = arm_for_the_second
    new = await log_in(running)
    relay.after_script = None
    assert await sids(running) == [new.sid]
    assert not await old.active()
    assert await new.active()


# What stands without confirmation


async def test_a_change_that_is_not_confirmed_is_audited_and_a_repeat_completes_it(through, relay, events):
    running = await through()
    requests = {
        "/revoke-user": {"sub": "alice", "iss": SESSIONS_ISSUER, "reason": "lost phone"},
        "/revoke-client": {"client_id": "web", "iss": forge.ISSUER},
        "/revoke-claim": {"claim": "grant_id", "value": "g-1", "iss": OTHER_ISSUER},
        "/block-user": {"sub": "bob", "iss": forge.ISSUER},
        "/unblock-user": {"sub": "bob", "iss": forge.ISSUER},
        "/revoke": {"token": running.token(jti="that-one", sub="carol")},
    }
    for path, body in requests.items():
        relay.arm("unconfirmed")
        assert (await running.post(path, body)).error == UNAVAILABLE
        assert (await running.post(path, body)).status == 200
    browser = await log_in(running)
    relay.arm("unconfirmed")
    assert (await deleted(running, browser.sid)).error == UNAVAILABLE
    assert (await deleted(running, browser.sid)).status == 204
    assert not await browser.active()
    lines = [event for event in events if event["event"] == "change_unconfirmed"]
    assert [event["endpoint"] for event in lines] == [*requests, "/sessions/{sid}"]
    assert {event["made"] for event in lines} == {"not confirmed"}
    assert (lines[0]["sub"], lines[0]["reason"], lines[0]["caller"]) == ("alice", "lost phone", "admin")
    assert (lines[2]["claim"], lines[2]["value"]) == ("grant_id", "g-1")
    assert (lines[5]["jti"], lines[5]["sub"]) == ("that-one", "carol")
    assert lines[6]["sid"] == browser.sid
    assert requests["/revoke"]["token"] not in str(events)


@pytest.mark.parametrize(
    ("path", "body"),
    [("/block-user", {"sub": "bob", "iss": forge.ISSUER}), ("/revoke", {"jti": "x", "iss": forge.ISSUER})],
)
async def test_a_change_is_audited_where_the_server_goes_away_right_after_it(
    through, relay, events, path, body
):
    running = await through()

    async def go_away():  # not awaited as a coroutine: it ends the connection on which this runs
        await asyncio.wait({asyncio.create_task(relay.close())})

    relay.arm("lost_after", go_away)
    assert (await running.post(path, body)).error == UNAVAILABLE
    unconfirmed = [event for event in events if event["event"] == "change_unconfirmed"]
    assert [(item["endpoint"], item["made"]) for item in unconfirmed] == [(path, "unknown")]


# A faster server's sessions


ROADS = {
    "/revoke-client": {"client_id": "spa"},
    "/revoke-claim": {"claim": "grant_id", "value": "g"},
    "/revoke-issuer": {},
}
"""What revokes many sessions at once, and what each names."""

BROWSER = {"client_id": "spa", "claims": {"grant_id": "g"}}


@pytest.mark.parametrize(("road", "named"), ROADS.items(), ids=ROADS)
def test_a_session_dated_by_a_faster_server_is_covered_by_a_cutoff_made_since(clockwork, road, named):
    run, running = clockwork.run, clockwork.running
    clockwork.pass_time(25)
    browser = run(log_in(running, **BROWSER))
    clockwork.pass_time(-25)  # as after a failover to a server that is slower by so much
    run(browser.go_on())  # nobody is locked out
    assert run(browser.active())
    assert run(running.post(road, {"iss": SESSIONS_ISSUER, **named})).status == 200
    for _ in range(3):
        assert not run(browser.active())
        assert run(browser.refresh()).error == INVALID_GRANT
        assert run(browser.elevate(acr="mfa")).error == ACCESS_DENIED
        assert run(sids(running)) == []
        clockwork.pass_time(20)


def test_a_login_dated_by_a_faster_server_is_recent(clockwork):
    run, running = clockwork.run, clockwork.running
    clockwork.pass_time(25)
    browser = run(log_in(running))
    clockwork.pass_time(-25)
    run(browser.go_on())

    async def status():
        headers = {
            "X-Revoker-Key": "gateway-secret",
            "X-Revoker-Require": "max_age=60",
            "Authorization": f"Bearer {browser.access}",
        }
        async with running.http.get(f"{running.url}/forward-auth", headers=headers) as response:
            return response.status

    assert run(status()) == 200
    clockwork.pass_time(100)
    assert run(status()) == 401


def test_an_instance_that_never_saw_the_faster_server_covers_its_sessions_too(clockwork):
    run, running = clockwork.run, clockwork.running
    ahead = int(clockwork.now() * 1000) + 20_000
    tag = user_tag(SESSIONS_ISSUER, "alice")
    keys = running.service.store.keys
    with clockwork.relay.client() as client:
        client.zadd(keys.sessions(tag), {"": -ahead})
    browser = run(log_in(running, client_id="spa"))
    assert tag_and_start(browser.sid)[1] > ahead
    assert run(browser.active())
    assert run(running.post("/revoke-client", {"client_id": "spa", "iss": SESSIONS_ISSUER})).status == 200
    assert not run(browser.active())
    assert run(browser.refresh()).error == INVALID_GRANT
    assert run(sids(running)) == []


@pytest.mark.parametrize(("road", "named"), ROADS.items(), ids=ROADS)
def test_an_instance_that_starts_after_the_failover_covers_the_faster_servers_sessions_for_good(
    clockwork, tmp_path, sessions_section, road, named
):
    run, first = clockwork.run, clockwork.running
    clockwork.pass_time(25)
    browser = run(log_in(first, **BROWSER))
    assert run(browser.active())
    start_ms = tag_and_start(browser.sid)[1]
    run(_shared_from(clockwork, start_ms))
    clockwork.pass_time(-25)
    late = clockwork.start_another(tmp_path, sessions=sessions_section(revocable=["grant_id"]))
    assert run(late.post(road, {"iss": SESSIONS_ISSUER, **named})).status == 200
    for _ in range(3):
        assert not run(browser.active())
        assert run(browser.refresh()).error == INVALID_GRANT
        clockwork.pass_time(20)


@pytest.mark.parametrize("text", ["soon", str(10**15)])
def test_a_shared_time_that_no_server_can_have_had_dates_nothing(clockwork, tmp_path, sessions_section, text):
    run = clockwork.run
    key = clockwork.running.service.store.keys.latest
    with clockwork.relay.client() as client:
        client.set(key, text, px=60_000)
    late = clockwork.start_another(tmp_path, sessions=sessions_section())
    answer = run(late.post("/revoke-issuer", {"iss": SESSIONS_ISSUER}))
    assert answer.json["cutoff"] < clockwork.now() + 2


async def _shared_from(clockwork, ms):
    """Wait until a running instance has shared a time that is no earlier than ``ms`` less a second."""
    key = clockwork.running.service.store.keys.latest
    with clockwork.relay.client() as client:
        async with asyncio.timeout(HANGS_S):
            while int(client.get(key) or 0) < ms - 1000:
                await asyncio.sleep(0.05)


# What a caller sends is no time


async def test_a_forged_sid_that_begins_in_centuries_ends_and_displaces_nothing(keeper, valkey):
    acknowledged = keeper.service.store.revocations.acknowledged
    browser = await log_in(keeper)
    tag, _ = tag_and_start(browser.sid)
    await keeper.post("/revoke", {"jti": "noted", "iss": forge.ISSUER})
    far = int((time.time() + 300 * 365 * 86400) * 1000)
    forged = new_sid(far, tag, bytes(10))
    before = len(acknowledged)
    assert (await deleted(keeper, forged)).status == 204
    assert len(acknowledged) == before
    answer = await keeper.post("/revoke-session", {"sid": forged, "iss": SESSIONS_ISSUER})
    assert answer.status == 200
    assert answer.json["cutoff"] < time.time() + 180
    assert max(entry.at for entry in acknowledged.entries(0)) < (time.time() + 180) * 1000
    assert await browser.active()


async def test_a_token_whose_session_begins_in_centuries_is_not_active(keeper):
    tag = user_tag(SESSIONS_ISSUER, "alice")
    now = int(time.time())
    claims = {"iss": SESSIONS_ISSUER, "jti": "x", "sub": "alice", "iat": now, "exp": now + 60}
    near, far = (new_sid((now + ahead) * 1000, tag, bytes(10)) for ahead in (-5, 400))
    assert await keeper.active({**claims, "sid": near}, caller="admin")
    assert not await keeper.active({**claims, "sid": far}, caller="admin")


# Which issuer is meant


@pytest.fixture
async def two_kinds(start, valkey, sessions_section):
    """Sessions kept here beside one other issuer, which is meant where none is named."""
    return await start(valkey, sessions=sessions_section(), callers=_callers())


def _callers():
    scopes = ["introspect", "revoke", "sessions"]
    return [
        {"name": "admin", "secret_sha256": [digest("admin-secret")], "scopes": scopes,
         "issuers": ["main", "sessions"]},
        {"name": "gateway", "secret_sha256": [digest("gateway-secret")], "scopes": scopes},
        {"name": "one-issuer", "secret_sha256": [digest("one-issuer-secret")], "scopes": scopes,
         "issuers": ["main"]},
    ]  # fmt: skip


async def test_a_session_of_revoker_is_not_taken_for_one_of_the_other_issuer(two_kinds):
    browser = await log_in(two_kinds)
    ambiguous = {
        "/revoke-session": {"sid": browser.sid},
        "/revoke-user": {"sub": "alice", "except_sid": browser.sid},
    }
    for path, body in ambiguous.items():
        assert (await two_kinds.post(path, body)).error == INVALID_REQUEST
        assert await browser.active()
        answer = await two_kinds.post(path, {**body, "iss": forge.ISSUER})
        assert (answer.status, answer.json["iss"]) == (200, forge.ISSUER)
        assert await browser.active()
        if path == "/revoke-session":  # this caller has nothing to do with the sessions kept here
            answer = await two_kinds.post(path, body, caller="one-issuer")
            assert (answer.status, answer.json["iss"]) == (200, forge.ISSUER)
    for path, body in (("/revoke-session", {"sid": "other"}), ("/revoke-user", {"sub": "alice"})):
        answer = await two_kinds.post(path, body)
        assert (answer.status, answer.json["iss"]) == (200, forge.ISSUER)
    cutoff = await revoke_user(two_kinds, except_sid=browser.sid)
    assert cutoff["iss"] == SESSIONS_ISSUER
    assert await browser.active()
    answer = await two_kinds.post("/revoke-session", {"sid": browser.sid, "iss": SESSIONS_ISSUER})
    assert (answer.status, answer.json["iss"]) == (200, SESSIONS_ISSUER)
    assert not await browser.active()


# What takes something back is carried out once


async def test_a_block_made_while_an_unblocking_is_repeated_stays(through, relay, start, valkey):
    running = await through(prefix="unblock")
    other = await start(valkey, prefix="unblock", new=False)
    user = {"sub": "alice", "iss": forge.ISSUER}
    token = running.token(sub="alice")
    await running.post("/block-user", user)

    async def block_again():
        assert (await other.post("/block-user", user)).status == 200

    relay.arm("lost_after", block_again)
    assert (await running.post("/unblock-user", user)).status == 200
    assert not relay.armed
    assert not await running.active(token)
    assert (await running.post("/unblock-user", user)).status == 200
    assert await running.active(token)


async def test_a_cutoff_made_while_a_lift_is_repeated_stays(through, relay, start, valkey):
    running = await through(prefix="lift")
    other = await start(valkey, prefix="lift", new=False)
    revocations = running.service.store.revocations
    issuer = running.service.store.issuers[forge.ISSUER]
    client, user = {"client_id": "web", "iss": forge.ISSUER}, {"sub": "alice", "iss": forge.ISSUER}
    key = running.service.store.keys.client_cutoff(issuer, "web")
    token = running.token(sub="alice", client_id="web")
    for path, body, lift in (
        ("/revoke-client", client, lambda: revocations.lift(key)),
        ("/revoke-user", user, lambda: revocations.lift_user(issuer, "alice")),
    ):
        first = (await running.post(path, body)).json["cutoff"]

        async def cut_again(path=path, body=body):
            assert (await other.post(path, body)).status == 200

        relay.arm("lost_after", cut_again)
        assert await lift() == round(first * 1000)
        assert not await running.active(token)
        assert await lift() > round(first * 1000)
        assert await running.active(token)


async def test_a_key_revoked_while_its_forgetting_is_repeated_stays_revoked(through, relay, start, valkey):
    running = await through(prefix="forget")
    other = await start(valkey, prefix="forget", new=False)
    revocations = running.service.store.revocations
    issuer = running.service.store.issuers[forge.ISSUER]
    body = {"kid": "main-1", "iss": forge.ISSUER}
    await running.post("/revoke-key", body)

    async def revoke_again():
        assert (await other.post("/revoke-key", body)).status == 200

    relay.arm("lost_after", revoke_again)
    assert await revocations.forget_key(issuer, "main-1")
    assert not await running.active(running.token())
    assert await revocations.forget_key(issuer, "main-1")
    assert await running.active(running.token())
