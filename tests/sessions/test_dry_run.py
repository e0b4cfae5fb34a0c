"""``dry_run``: it changes nothing, and says what then happens."""

import asyncio
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from revoker.api import dry_run
from revoker.store.session_reader import SessionReader
from tests.conftest import EXAMPLES
from tests.rig import forge
from tests.rig.reply_proxy import ReplyProxy
from tests.rig.service import HANGS_S
from tests.rig.virtual_time import Clockwork
from tests.sessions.conftest import SESSIONS_ISSUER, deleted, log_in, sids

CLIENTS = ("web", "app")
GRANTS = ("g1", "g2")
USERS = ("a", "b")

EVERY_ENDPOINT = [
    ("/revoke", {"iss": forge.ISSUER, "jti": "t"}),
    ("/revoke-user", {"sub": "alice"}),
    ("/revoke-session", {"sid": "s"}),
    ("/revoke-client", {"client_id": "web"}),
    ("/revoke-claim", {"claim": "grant_id", "value": "g1"}),
    ("/revoke-issuer", {}),
    ("/revoke-key", {"kid": "k"}),
    ("/block-user", {"sub": "alice"}),
    ("/unblock-user", {"sub": "alice"}),
]


def dump(client, prefix):
    """All that is stored, with its numbers and expiries; not which processes run."""
    keys = [
        key
        for key in sorted(client.scan_iter(f"{prefix}:*"))
        if "instances" not in key and "latest" not in key
    ]
    return {key: (client.dump(key), client.execute_command("PEXPIRETIME", key)) for key in keys}


def prefix_of(running):
    return running.service.store.keys.prefix


@pytest.mark.parametrize(("path", "body"), EVERY_ENDPOINT)
async def test_nothing_changes_not_even_the_number_of_revocations(
    start, valkey, sessions_section, path, body
):
    keeper = await start(valkey, sessions=sessions_section(revocable=["grant_id"]))
    body = {"iss": SESSIONS_ISSUER, **body}
    await log_in(keeper, client_id="web", claims={"grant_id": ["g1"]})
    for earlier in ("/block-user", "/revoke-user"):
        await keeper.post(earlier, {"iss": SESSIONS_ISSUER, "sub": "bob"})
    with valkey.client() as client:
        before = dump(client, prefix_of(keeper))
        assert len(before) > 5
        for again in (body, {**body, "reason": "why"}):
            answer = await keeper.post(path, {**again, "dry_run": True})
            assert answer.status == 200, answer.body
            assert answer.json["dry_run"]["sessions_exact"] is True
            assert answer.json["dry_run"]["changes"] is (path != "/unblock-user")
        assert dump(client, prefix_of(keeper)) == before
        refused = await keeper.post(path, {**body, "dry_run": "yes"})
        assert refused.error == (400, "invalid_request")
        assert dump(client, prefix_of(keeper)) == before


async def test_a_form_can_have_it_too(keeper):
    form = {"token": keeper.token(), "dry_run": "true"}
    answer = await keeper.post("/revoke", form=form)
    assert answer.json["dry_run"]["changes"] is True
    assert await keeper.active(form["token"])


async def test_the_end_of_a_session_by_its_path_refuses_it(keeper):
    browser = await log_in(keeper)
    answer = await keeper.ask(
        "DELETE", f"/sessions/{browser.sid}?dry_run=true", headers={"Authorization": "Bearer admin-secret"}
    )
    assert answer.error == (400, "invalid_request")
    assert await browser.active()
    assert (await deleted(keeper, browser.sid)).status == 204


@pytest.mark.parametrize("token", ["forged", "e30.e30.e30"])
async def test_what_is_no_token_has_no_effect(keeper, token):
    answer = await keeper.post("/revoke", {"token": token, "dry_run": True})
    nothing = {"changes": False, "sessions": 0, "sessions_exact": True, "covered_by": [], "standing": []}
    assert answer.json == {"dry_run": nothing}


async def test_a_refresh_token_ends_its_session(keeper):
    browser = await log_in(keeper)
    answer = await keeper.post("/revoke", {"token": browser.refresh_token, "dry_run": True})
    assert answer.json["dry_run"]["sessions"] == 1
    assert await sids(keeper) == [browser.sid]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/revoke-user", {"sub": "alice", "before": 99_999_999_999}),
        ("/revoke-client", {"client_id": "web", "before": 99_999_999_999}),
        ("/block-user", {"sub": "alice", "until": 1}),
        ("/revoke", {"jti": "t", "exp": 99_999_999_999}),
        ("/revoke-user", {"sub": "alice", "iss": "https://nobody.example.com"}),
        ("/revoke-claim", {"claim": "other", "value": "v"}),
    ],
)
async def test_it_refuses_what_is_refused(keeper, path, body):
    body = {"iss": SESSIONS_ISSUER, **body}
    answers = [await keeper.post(path, {**body, **dry_run}) for dry_run in ({}, {"dry_run": True})]
    assert answers[0].error == answers[1].error == (400, "invalid_request")
    assert answers[0].json == answers[1].json


async def test_it_says_what_covers_all_of_it_already(keeper):
    async def covered_by(path, **body):
        answer = await keeper.post(path, {"iss": SESSIONS_ISSUER, **body, "dry_run": True})
        assert answer.status == 200, answer.body
        return answer.json["dry_run"]["covered_by"]

    browser = await log_in(keeper)
    assert await covered_by("/revoke-session", sid=browser.sid) == []
    made = (await keeper.post("/revoke-user", {"iss": SESSIONS_ISSUER, "sub": "alice"})).json["cutoff"]
    assert await covered_by("/revoke-session", sid=browser.sid) == ["user_cutoff"]
    assert await covered_by("/revoke-user", sub="alice", before=made - 1) == ["user_cutoff"]
    await keeper.post("/revoke-issuer", {"iss": SESSIONS_ISSUER, "reason": "leak"})
    earlier = {"before": made - 1}
    assert await covered_by("/revoke-user", sub="alice", **earlier) == ["user_cutoff", "issuer_cutoff"]
    assert await covered_by("/revoke-client", client_id="web", **earlier) == ["issuer_cutoff"]
    assert await covered_by("/revoke-issuer", **earlier) == ["issuer_cutoff"]
    assert await covered_by("/revoke", token=browser.access, iss=None) == ["user_cutoff"]
    await keeper.post("/block-user", {"iss": SESSIONS_ISSUER, "sub": "alice"})
    assert await covered_by("/block-user", sub="alice") == ["user_block"]
    answer = await keeper.post(
        "/revoke-user", {"iss": SESSIONS_ISSUER, "sub": "alice", "dry_run": True, **earlier}
    )
    standing = {item["kind"]: item for item in answer.json["dry_run"]["standing"]}
    assert standing["issuer_cutoff"]["why"] == "leak"
    assert standing["user_block"]["by"] == standing["user_cutoff"]["by"] == "admin"


def counted(answer):
    assert answer.status == 200, answer.body
    return answer.json["dry_run"]["sessions"], answer.json["dry_run"]["sessions_exact"]


SEARCHES = [
    ("/revoke-client", {"client_id": "web"}),
    ("/revoke-issuer", {}),
    ("/revoke-claim", {"claim": "grant_id", "value": "g1"}),
]


@pytest.fixture
def held_search(monkeypatch):
    """The first search waits: what says that it began, and what lets it go on."""
    began, goes_on = asyncio.Event(), asyncio.Event()
    all_sids = SessionReader.all_sids

    async def held(self, count):
        if not began.is_set():
            began.set()
            await goes_on.wait()
        async for found in all_sids(self, count):
            yield found

    monkeypatch.setattr(SessionReader, "all_sids", held)
    return began, goes_on


@pytest.fixture
async def claims_keeper(start, valkey, sessions_section):
    """A service that keeps sessions, which can be revoked by a claim."""
    return await start(valkey, sessions=sessions_section(revocable=["grant_id"]))


@pytest.mark.parametrize(("path", "body"), SEARCHES)
async def test_the_store_is_searched_for_one_caller_at_a_time(claims_keeper, held_search, path, body):
    """Whoever asks meanwhile gets an answer without a search."""
    keeper, (began, goes_on) = claims_keeper, held_search
    body = {"iss": SESSIONS_ISSUER, **body, "dry_run": True}
    for number in range(3):
        await log_in(keeper, f"user{number}", client_id="web", claims={"grant_id": ["g1"]})
    async with asyncio.timeout(HANGS_S):
        first = asyncio.create_task(keeper.post(path, body))
        await began.wait()
        assert counted(await keeper.post(path, body)) == (0, False)
        user = {"iss": SESSIONS_ISSUER, "sub": "user1", "dry_run": True}
        assert counted(await keeper.post("/revoke-user", user)) == (1, True)
        goes_on.set()
        assert counted(await first) == (3, True)
        assert counted(await keeper.post(path, body)) == (3, True)


async def test_a_search_that_fails_is_not_the_last(valkey, start, sessions_section):
    body = {"iss": SESSIONS_ISSUER, "dry_run": True}
    async with ReplyProxy.before(valkey.port) as proxy:
        keeper = await start(proxy, sessions=sessions_section())
        await log_in(keeper)
        proxy.rules["SCAN"] = b"-ERR refused\r\n"
        assert (await keeper.post("/revoke-issuer", body)).status == 503
        del proxy.rules["SCAN"]
        assert counted(await keeper.post("/revoke-issuer", body)) == (1, True)
        await keeper.close()


async def test_a_search_that_ends_early_says_so(keeper, monkeypatch):
    monkeypatch.setattr(dry_run, "COUNTED_KEYS", 0)
    body = {"iss": SESSIONS_ISSUER, "dry_run": True}
    for _ in range(2):
        assert counted(await keeper.post("/revoke-issuer", body)) == (0, False)
    monkeypatch.undo()
    assert counted(await keeper.post("/revoke-issuer", body)) == (0, True)


async def test_more_sessions_of_a_user_than_are_read_at_once(keeper, held_search, monkeypatch):
    monkeypatch.setattr(dry_run, "_SLICE", 2)
    began, goes_on = held_search
    for _ in range(5):
        await log_in(keeper)
    body = {"iss": SESSIONS_ISSUER, "sub": "alice", "dry_run": True}
    for path in ("/revoke-user", "/block-user"):
        assert counted(await keeper.post(path, body)) == (5, True)
    async with asyncio.timeout(HANGS_S):
        search = asyncio.create_task(keeper.post("/revoke-issuer", {"iss": SESSIONS_ISSUER, "dry_run": True}))
        await began.wait()
        assert counted(await keeper.post("/revoke-user", body)) == (2, False)
        goes_on.set()
        assert counted(await search) == (5, True)


async def test_for_a_caller_of_one_client_the_store_is_not_searched(keeper, held_search):
    began, goes_on = held_search
    goes_on.set()
    browser = await log_in(keeper, client_id="web")
    body = {"iss": SESSIONS_ISSUER, "client_id": "web", "dry_run": True}
    assert counted(await keeper.post("/revoke-client", body, caller="bound")) == (0, False)
    elsewhere = {**body, "iss": forge.ISSUER}
    assert counted(await keeper.post("/revoke-client", elsewhere, caller="bound")) == (0, True)
    token = {"token": browser.refresh_token, "dry_run": True}
    assert counted(await keeper.post("/revoke", token, caller="bound")) == (1, True)
    assert not began.is_set()


async def test_it_is_audited_and_is_no_revocation(keeper, events):
    await keeper.post("/revoke-user", {"iss": SESSIONS_ISSUER, "sub": "alice", "dry_run": True})
    audited = [event for event in events if event.get("caller") == "admin"]
    assert [(event["event"], event["sub"]) for event in audited] == [("revocation_tried", "alice")]


@pytest.fixture
def works(valkey, tmp_path, sessions_section):
    made = Clockwork(valkey, tmp_path, sessions=sessions_section(revocable=["grant_id"]))
    yield made
    made.close()


revocations = st.one_of(
    st.tuples(st.just("/revoke-user"), st.fixed_dictionaries({"sub": st.sampled_from(USERS)})),
    st.tuples(
        st.just("/revoke-user"),
        st.fixed_dictionaries({"sub": st.sampled_from(USERS), "except": st.integers(0, 3)}),
    ),
    st.tuples(st.just("/revoke-session"), st.fixed_dictionaries({"session": st.integers(0, 3)})),
    st.tuples(st.just("/revoke-client"), st.fixed_dictionaries({"client_id": st.sampled_from(CLIENTS)})),
    st.tuples(
        st.just("/revoke-claim"),
        st.fixed_dictionaries({"claim": st.just("grant_id"), "value": st.sampled_from(GRANTS)}),
    ),
    st.tuples(st.just("/block-user"), st.fixed_dictionaries({"sub": st.sampled_from(USERS)})),
)
logins = st.tuples(
    st.sampled_from(USERS), st.sampled_from(CLIENTS), st.lists(st.sampled_from(GRANTS), unique=True)
)
ago = st.sampled_from([None, 0, 0.05, 1, 60])


@settings(max_examples=max(25, EXAMPLES // 2), suppress_health_check=list(HealthCheck))
@given(
    logged_in=st.lists(logins, min_size=1, max_size=4),
    earlier=st.lists(st.tuples(revocations, ago), max_size=3),
    asked=revocations,
    asked_ago=ago,
)
def test_its_prediction_is_what_happens(works, logged_in, earlier, asked, asked_ago):
    works.run(predicts(works.running, logged_in, earlier, asked, asked_ago))


async def predicts(running, logged_in, earlier, asked, asked_ago):
    run = uuid.uuid4().hex  # the store still has what earlier runs revoked
    started = [
        await log_in(
            running,
            f"{user}-{run}",
            client_id=f"{client}-{run}",
            claims={"grant_id": [g + run for g in grants]},
        )
        for user, client, grants in logged_in
    ]

    def body_of(members, seconds_ago):
        body = {"iss": SESSIONS_ISSUER, "reason": "why"}
        for name, value in members.items():
            match name:
                case "sub" | "client_id":
                    body[name] = f"{value}-{run}"
                case "value":
                    body[name] = f"{value}{run}"
                case "session":
                    body["sid"] = started[value % len(started)].sid
                case "except":
                    body["except_sid"] = started[value % len(started)].sid
                case _:
                    body[name] = value
        now = running.service.store.clocks.latest / 1000
        return body if seconds_ago is None else {**body, "before": round(now - seconds_ago, 3)}

    async def live():
        return {sid for user in USERS for sid in await sids(running, f"{user}-{run}")}

    for (path, members), seconds_ago in earlier:
        body = body_of(members, seconds_ago)
        body.pop("before" if path == "/block-user" else "", None)
        answer = await running.post(path, body)
        assert answer.status == 200, answer.body
    path, members = asked
    body = body_of(members, asked_ago)
    if path == "/block-user":
        body.pop("before", None)
    before = await live()
    tried = await running.post(path, {**body, "dry_run": True})
    assert tried.status == 200, tried.body
    assert await live() == before
    done = await running.post(path, body)
    assert done.status == 200, done.body
    after = await live()
    effect = tried.json["dry_run"]
    assert effect["sessions_exact"] is True
    if path == "/block-user":
        assert {**done.json, "dry_run": effect} == tried.json
        return
    assert effect["sessions"] == len(before - after)
    if "before" in body:
        assert done.json["cutoff"] == tried.json["cutoff"]
    else:
        assert tried.json["cutoff"] <= done.json["cutoff"] <= tried.json["cutoff"] + 120
    if not effect["changes"] and "before" in body:
        assert before == after
    if effect["covered_by"]:
        assert before == after
