"""``POST /token`` as RFC 6749 and RFC 9700 ask for it, row by row."""

import asyncio
import base64
import dataclasses
import itertools
import json
import re

import aiohttp
import pytest
import redis

from revoker.auth import digest
from revoker.errors import KeysUnavailable
from revoker.store.keys import tag_and_start
from tests.rig import forge
from tests.rig.certificates import Authority
from tests.sessions.conftest import ADMIN, SESSIONS_AUDIENCE, SESSIONS_ISSUER, Browser, listed, log_in, sids

row = pytest.mark.row

INVALID_GRANT = (400, "invalid_grant")
INVALID_REQUEST = (400, "invalid_request")


def basic(name, secret):
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()}


def form(browser, **members):
    return {"grant_type": "refresh_token", "refresh_token": browser.refresh_token, **members}


@pytest.fixture
async def strict(start, valkey, sessions_section):
    """A service without grace."""
    return await start(valkey, sessions=sessions_section(refresh_grace=0))


@pytest.fixture
async def two_clients(start, valkey, sessions_section):
    """Callers bound to the clients ``web`` and ``app``; ``web``'s secret has to be encoded."""
    callers = [
        {"name": "admin", "secret_sha256": [digest("admin-secret")], "scopes": ["sessions", "introspect"]},
        {"name": "gateway", "secret_sha256": [digest("gateway-secret")], "scopes": ["introspect"]},
        *(
            {"name": name, "secret_sha256": [digest(secret)], "scopes": ["sessions"], "client_id": client}
            for name, secret, client in (("web-app", "a+b%c:d é", "web"), ("app-app", "app-secret", "app"))
        ),
    ]
    return await start(valkey, sessions=sessions_section(), callers=callers)


WEB = basic("web-app", "a+b%c:d é")
APP = basic("app-app", "app-secret")


async def refreshed(running, browser, headers, **members):
    return await running.post("/token", form=form(browser, **members), caller=None, headers=headers)


@row("6749-01", "6749-07")
async def test_only_post_is_answered_and_nothing_is_read_from_the_query(keeper):
    browser = await log_in(keeper)
    assert (await keeper.ask("GET", "/token", params=form(browser))).status == 405
    for query in ("client_secret=x", f"refresh_token={browser.refresh_token}"):
        answer = await keeper.post(f"/token?{query}", form=form(browser), caller=None)
        assert answer.error == INVALID_REQUEST
    assert (await browser.refresh()).status == 200


@row("6749-01")
@pytest.mark.parametrize("media", ["text/plain", "multipart/form-data; boundary=x", "application/xml"])
async def test_a_body_that_is_neither_form_nor_json_is_refused(keeper, media):
    answer = await keeper.ask(
        "POST", "/token", data=b"grant_type=refresh_token", headers={"Content-Type": media}
    )
    assert answer.error == (415, "invalid_request")


async def test_json_is_read_like_a_form(keeper):
    browser = await log_in(keeper)
    assert (await keeper.post("/token", form(browser), caller=None)).status == 200


@row("6749-02")
@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"grant_type": None}, INVALID_REQUEST),
        ({"grant_type": ""}, INVALID_REQUEST),
        ({"grant_type": "password"}, (400, "unsupported_grant_type")),
        ({"grant_type": "foo"}, (400, "unsupported_grant_type")),
        ({"grant_type": "Refresh_Token"}, (400, "unsupported_grant_type")),
        ({"refresh_token": None}, INVALID_REQUEST),
        ({"refresh_token": ""}, INVALID_REQUEST),
    ],
)
async def test_a_grant_that_is_missing_or_unknown_has_its_own_error(keeper, asked, error):
    browser = await log_in(keeper)
    sent = {name: value for name, value in form(browser, **asked).items() if value is not None}
    assert (await keeper.post("/token", form=sent, caller=None)).error == error
    assert (await browser.refresh()).status == 200


@row("6749-03", "6749-09")
async def test_a_client_that_can_authenticate_must(two_clients):
    browser = await log_in(two_clients, client_id="web")
    assert (await browser.refresh()).error == (401, "invalid_client")
    assert (await browser.refresh(client_id="web")).error == (401, "invalid_client")
    encoded = basic("web-app", "a%2Bb%25c%3Ad+%C3%A9")
    odd_scheme = {"Authorization": WEB["Authorization"].replace("Basic", "bAsIc")}
    for headers in (encoded, odd_scheme, WEB):
        answer = await refreshed(two_clients, browser, headers)
        assert answer.status == 200, answer.body


@row("6749-03", "6749-04")
@pytest.mark.parametrize(
    "header",
    [
        "Basic !!!",
        "Basic " + base64.b64encode(b"no colon").decode(),
        basic("web-app", "wrong")["Authorization"],
    ],
)
async def test_wrong_credentials_in_the_header_are_401_with_a_challenge(two_clients, header):
    browser = await log_in(two_clients, client_id="web")
    answer = await refreshed(two_clients, browser, {"Authorization": header})
    assert answer.error == (401, "invalid_client")
    assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")
    assert (await refreshed(two_clients, browser, WEB)).status == 200


@row("6749-03", "6749-09")
async def test_a_client_with_a_certificate_needs_no_secret(start, valkey, sessions_section, tmp_path):
    authority = Authority(tmp_path / "authority")
    callers = [
        {"name": "admin", "secret_sha256": [digest("admin-secret")], "scopes": ["sessions", "introspect"]},
        {"name": "web-app", "secret_sha256": [], "scopes": ["sessions"], "client_id": "web"},
        {"name": "app-app", "secret_sha256": [], "scopes": ["sessions"], "client_id": "app"},
    ]
    running = await start(
        valkey, server=authority.server_settings(), sessions=sessions_section(), callers=callers, ready=False
    )
    while not running.service.started():
        await asyncio.sleep(0.01)

    async def refresh(browser, name, headers=None, **members):
        async with aiohttp.ClientSession() as fresh:  # a connection of its own for each certificate
            sent = {"data": form(browser, **members), "headers": headers or {}}
            async with fresh.post(f"{running.url}/token", ssl=authority.client(name), **sent) as response:
                answer_body = await response.json()
                if response.status == 200:
                    browser.refresh_token = answer_body["refresh_token"]
                return response.status, answer_body.get("error")

    async def log_in_as(client):
        async with aiohttp.ClientSession() as fresh:
            body = {"json": {"sub": "alice", "client_id": client}, "headers": ADMIN}
            async with fresh.post(f"{running.url}/sessions", ssl=authority.client(None), **body) as response:
                return Browser(running, await response.json())

    bound, public = await log_in_as("web"), await log_in_as("public")
    assert await refresh(bound, None) == await refresh(bound, "stranger") == (401, "invalid_client")
    assert await refresh(bound, "app-app") == (400, "invalid_grant")
    assert await refresh(bound, "web-app", basic("admin", "wrong")) == (401, "invalid_client")
    assert await refresh(bound, "web-app", ADMIN) == (400, "invalid_grant")
    assert await refresh(bound, "web-app", client_id="other") == (400, "invalid_grant")
    assert await refresh(bound, "web-app") == (200, None)
    assert await refresh(bound, "web-app", client_id="web") == (200, None)
    assert await refresh(public, None) == await refresh(public, "stranger") == (200, None)
    assert await refresh(public, "web-app") == (400, "invalid_grant")


@row("6749-05", "6749-06")
async def test_credentials_in_the_body_work_alone_and_are_refused_beside_a_header(two_clients):
    browser = await log_in(two_clients, client_id="app")
    right = {"client_id": "app-app", "client_secret": "app-secret"}
    wrong = {**right, "client_secret": "other"}
    assert (await refreshed(two_clients, browser, {}, **wrong)).error == (401, "invalid_client")
    assert (await refreshed(two_clients, browser, APP, **right)).error == INVALID_REQUEST
    assert (await refreshed(two_clients, browser, {}, **right)).status == 200


@row("6749-08")
async def test_a_parameter_twice_is_refused_an_empty_one_absent_an_unknown_one_ignored(keeper):
    browser = await log_in(keeper, scope="a b")
    twice = f"grant_type=refresh_token&refresh_token={browser.refresh_token}&scope=a&scope=b"
    answer = await keeper.ask(
        "POST", "/token", data=twice, headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert answer.error == INVALID_REQUEST
    assert (await browser.go_on(scope="", client_id="", frobnicate="1")).json["scope"] == "a b"


@row("6749-09", "9700-04")
async def test_another_client_gets_nothing_and_can_burn_nothing(two_clients):
    browser = await log_in(two_clients, client_id="web")
    spent = browser.refresh_token
    browser.refresh_token = (await refreshed(two_clients, browser, WEB)).json["refresh_token"]
    browser.refresh_token = (await refreshed(two_clients, browser, WEB)).json["refresh_token"]
    public = await log_in(two_clients, client_id="public")

    for token in (spent, browser.refresh_token):
        theirs = {"grant_type": "refresh_token", "refresh_token": token}
        assert (
            await two_clients.post("/token", form=theirs, caller=None, headers=APP)
        ).error == INVALID_GRANT
    assert (await refreshed(two_clients, browser, ADMIN)).error == INVALID_GRANT
    assert (await refreshed(two_clients, public, WEB)).error == INVALID_GRANT
    for named in ("web", "other"):
        assert (await public.refresh(client_id=named)).error == INVALID_GRANT
        assert (await refreshed(two_clients, public, ADMIN, client_id=named)).error == INVALID_GRANT
    assert (await refreshed(two_clients, browser, WEB)).status == 200
    assert (await public.refresh(client_id="public")).status == 200


@row("6749-10", "9700-09")
async def test_scope_is_narrowed_for_one_token_and_never_widened(keeper):
    browser = await log_in(keeper, scope="read write delete")
    first = browser.refresh_token
    for wider in (
        "read admin",
        "admin",
        "READ",
        "read  write",
        " read",
        "read\twrite",
        "réad",
        '"',
        "x" * 40000,
    ):
        assert (await browser.refresh(scope=wider)).error == (400, "invalid_scope"), wider
    narrow = await browser.go_on(scope="write read write")
    assert narrow.json["scope"] == "write read"
    assert (await browser.claims())["scope"] == "write read"
    assert browser.refresh_token != first
    again = await browser.go_on()
    assert again.json["scope"] == "read write delete"
    assert (await browser.claims())["scope"] == "read write delete"


@row("6749-10", "ATK-12")
async def test_a_refused_request_changes_nothing_in_the_store(keeper, valkey):
    browser, plain = await log_in(keeper, scope="a"), await log_in(keeper, "bob")
    before = _dumped(valkey, keeper)
    assert (await browser.refresh(scope="b")).status == 400
    assert (await plain.refresh(scope="a")).error == (400, "invalid_scope")
    assert (await browser.refresh(client_id="other")).status == 400
    assert (await browser.refresh(browser.refresh_token[:-4] + "AAAA")).status == 400
    assert (await keeper.post("/token", form={"grant_type": "refresh_token"}, caller=None)).status == 400
    assert (
        await keeper.post("/token", form=form(browser), caller=None, headers=basic("admin", "x"))
    ).status == 401
    assert _dumped(valkey, keeper) == before


_RENEWED = (b":latest", b":instances")


def _dumped(valkey, running):
    """All of the service's keys as they are, but for those that it renews from time to time by itself."""
    prefix = running.service.store.keys.epoch.partition(":")[0]
    with redis.Redis(port=valkey.port) as client:
        keys = [
            key
            for key in client.scan_iter(match=f"{prefix}:*")
            if not any(part in key for part in (b":seq", b":beat:")) and not key.endswith(_RENEWED)
        ]
        return {key: (client.pexpiretime(key), client.dump(key)) for key in keys}


@row("6749-11", "9700-11")
async def test_the_answer_says_what_it_gives(keeper):
    browser = await log_in(keeper, scope="a")
    answer = await browser.go_on()
    tokens = answer.json
    assert answer.headers["Content-Type"].startswith("application/json")
    assert set(tokens) == {"sid", "access_token", "token_type", "expires_in", "refresh_token", "scope"}
    assert tokens["token_type"] == "Bearer"
    assert tokens["expires_in"] == 900
    assert type(tokens["expires_in"]) is int
    claims = await browser.claims()
    assert claims["aud"] == SESSIONS_AUDIENCE
    assert claims["iss"] == SESSIONS_ISSUER
    assert claims["sid"] == browser.sid == tokens["sid"]


@row("6749-12", "6749-13")
async def test_answers_are_not_cached_and_errors_are_plain_ascii(keeper):
    browser = await log_in(keeper)
    nasty = 'x"\r\n\\é\x00'
    answers = [
        await browser.go_on(),
        await browser.refresh(scope=nasty),
        await browser.refresh(nasty),
        await browser.refresh(client_id=nasty),
        await keeper.post("/token", form={"grant_type": nasty}, caller=None),
        await keeper.post("/token", {"grant_type": ["refresh_token"]}, caller=None),
        await keeper.post(
            "/token", b'{"grant_type": "refresh_token", "refresh_token": "\\ud800"}', caller=None
        ),
    ]
    for answer in answers:
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Pragma"] == "no-cache"
    for answer in answers[1:]:
        assert answer.status == 400, answer.body


@row("6749-14")
async def test_refresh_tokens_cannot_be_guessed(keeper):
    make = keeper.service._services.sessions.refresh_tokens.make
    browser = await log_in(keeper, client_id="web")
    made = [make(browser.sid, generation, "web") for generation in range(1, 10_001)]
    assert made[0] == browser.refresh_token
    assert len(set(made)) == len(made)
    assert all(re.fullmatch(r"[\x20-\x7e]+", token) for token in made)
    # A MAC of 256 bits: each of them is set in about half of the tokens.
    macs = [_decoded(token)[32:64] for token in made]
    for bit in range(256):
        ones = sum(mac[bit // 8] >> bit % 8 & 1 for mac in macs)
        assert 4600 < ones < 5400, bit


def _decoded(token):
    text = token.removeprefix("rvr_")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@row("6749-15")
async def test_unknown_revoked_used_and_ended_get_the_same_answer(strict):
    unknown = await log_in(strict)
    revoked, spent, ended, gone = [await log_in(strict, f"user-{n}") for n in range(4)]
    first = spent.refresh_token
    await spent.go_on()
    await ended.end()
    await strict.post("/revoke-user", {"sub": "user-0", "iss": SESSIONS_ISSUER})
    place = tag_and_start(gone.sid)
    keys = strict.service.store.keys
    record = keys.session(place[0], gone.sid)
    await strict.service.store.source.change(record, "DEL", record)
    flipped = unknown.refresh_token[:-1] + ("A" if unknown.refresh_token[-1] != "A" else "B")
    answers = [
        await unknown.refresh(flipped),
        await unknown.refresh("rvr_nonsense"),
        await unknown.refresh(unknown.access),
        await revoked.refresh(),
        await spent.refresh(first),
        await ended.refresh(),
        await gone.refresh(),
    ]
    assert {answer.error for answer in answers} == {INVALID_GRANT}
    assert len({answer.body for answer in answers}) == 1


@row("9700-01", "9700-02")
async def test_every_use_gives_a_new_token_and_reuse_ends_the_family(strict):
    browser = await log_in(strict)
    other = await log_in(strict)
    first = browser.refresh_token
    await browser.go_on()
    assert browser.refresh_token != first
    assert await browser.active()
    assert (await browser.refresh(first)).error == INVALID_GRANT
    assert (await browser.refresh()).error == INVALID_GRANT
    assert not await browser.active()
    assert await sids(strict) == [other.sid]
    assert (await other.refresh()).status == 200


@row("9700-02")
async def test_reuse_is_counted_and_audited_by_kind(keeper, events):
    for uses, kind in ((2, "reused_previous"), (3, "reused_older")):
        browser = await log_in(keeper)
        first = browser.refresh_token
        for _ in range(2):
            await browser.go_on()
        if uses == 2:  # the window of the second closes with the use of the third
            store = keeper.service.store
            sessions = store.sessions(keeper.service._services.sessions.issuer, _without_grace(keeper))
            assert (await sessions.refresh(browser.sid, 2, ())).value == kind
            continue
        assert (await browser.refresh(first)).error == INVALID_GRANT
        reuses = [event for event in events if event["event"] == "refresh_reused"]
        assert [(item["kind"], item["sid"], item["log_level"]) for item in reuses] == [
            (kind, browser.sid, "warning")
        ]
        assert first not in json.dumps(events, default=str)
    async with keeper.http.get(keeper.url + "/metrics") as response:
        assert 'revoker_refreshes_total{outcome="reused_older"} 1.0' in await response.text()


def _without_grace(running):
    return dataclasses.replace(running.service._services.sessions.store._lives, grace=0)


@row("9700-03")
async def test_the_first_of_fifty_tokens_still_ends_the_family_after_a_restart(
    start, own_valkey, sessions_section
):
    section = sessions_section()
    running = await start(own_valkey, prefix="family", sessions=section)
    browser = await log_in(running)
    first = browser.refresh_token
    for _ in range(50):
        await browser.go_on()
    own_valkey.kill()
    own_valkey.start()
    browser.running = await start(own_valkey, prefix="family", new=False, sessions=section)
    assert await browser.active()
    assert (await browser.refresh(first)).error == INVALID_GRANT
    assert (await browser.refresh()).error == INVALID_GRANT
    assert not await browser.active()


@row("9700-05")
async def test_of_fifty_at_once_one_wins_and_the_family_dies_where_there_is_no_grace(strict):
    browser = await log_in(strict)
    answers = await asyncio.gather(*(browser.refresh() for _ in range(50)))
    won = [answer.json for answer in answers if answer.status == 200]
    assert len(won) == 1
    assert {answer.error for answer in answers if answer.status != 200} == {INVALID_GRANT}
    assert not await strict.active(won[0]["access_token"])
    assert (await browser.refresh(won[0]["refresh_token"])).error == INVALID_GRANT


@row("9700-05")
async def test_of_fifty_at_once_all_get_the_same_successor_within_the_grace(keeper):
    browser = await log_in(keeper)
    answers = await asyncio.gather(*(browser.refresh() for _ in range(50)))
    assert {answer.status for answer in answers} == {200}
    [successor] = {answer.json["refresh_token"] for answer in answers}
    assert (await browser.refresh(successor)).status == 200


@row("9700-06")
@pytest.mark.parametrize("grace", [10, 0])
async def test_a_failure_after_the_use_leaves_one_line_or_none(
    start, valkey, sessions_section, monkeypatch, grace
):
    running = await start(valkey, sessions=sessions_section(refresh_grace=grace))
    browser = await log_in(running)
    with monkeypatch.context() as broken:

        def fail(*_):
            raise KeysUnavailable("there is no key to sign with")

        broken.setattr(running.service._services.sessions.signing_keys, "signer", fail)
        assert (await browser.refresh()).error == (503, "temporarily_unavailable")
    assert (await browser.refresh()).status == 200
    assert await sids(running) == [browser.sid]


@row("9700-08")
async def test_a_logout_of_the_user_reaches_the_refresh_token(keeper):
    for road in ("/revoke-user", "/revoke-session", "/revoke-client", "/block-user"):
        browser = await log_in(keeper, road[1:], client_id=road[1:])
        names = {"/revoke-session": {"sid": browser.sid}, "/revoke-client": {"client_id": road[1:]}}
        answer = await keeper.post(road, {"iss": SESSIONS_ISSUER, **names.get(road, {"sub": road[1:]})})
        assert answer.status == 200, answer.body
        assert (await browser.refresh(scope="more")).error == INVALID_GRANT
        assert (await browser.refresh()).error == INVALID_GRANT
        assert not await browser.active()
        if road != "/block-user":
            assert (await listed(keeper, road[1:])).json["sessions"] == []
        introspected = await keeper.post("/introspect", {"token": browser.refresh_token})
        assert introspected.json == {"active": False}


@row("9700-09", "9700-11")
async def test_a_token_is_for_the_audience_of_its_login_whatever_a_refresh_asks(
    start, valkey, sessions_section
):
    audiences = [SESSIONS_AUDIENCE, "api://billing"]
    running = await start(valkey, sessions=sessions_section(audiences=audiences))
    narrow = await log_in(running, aud="api://billing")
    assert (await narrow.claims())["aud"] == "api://billing"
    await narrow.go_on(resource="api://orders", audience="api://orders")
    assert (await narrow.claims())["aud"] == "api://billing"
    wide = await log_in(running)
    assert (await wide.claims())["aud"] == audiences
    for foreign in ("api://other", ["api://billing", "api://other"]):
        answer = await running.post("/sessions", {"sub": "alice", "aud": foreign})
        assert answer.error == INVALID_REQUEST


@row("9700-10")
async def test_a_bit_flipped_anywhere_is_refused_and_does_no_harm(keeper):
    browser = await log_in(keeper)
    spent = browser.refresh_token
    await browser.go_on()
    await browser.go_on()
    raw = _decoded(spent)
    for place in range(0, len(raw) * 8, 3):
        flipped = bytearray(raw)
        flipped[place // 8] ^= 1 << place % 8
        token = "rvr_" + base64.urlsafe_b64encode(flipped).rstrip(b"=").decode()
        assert (await browser.refresh(token)).error == INVALID_GRANT
    for token in (spent + "A", spent + "=", spent[:-1], spent.upper(), " " + spent, spent + "\n"):
        assert (await browser.refresh(token)).error == INVALID_GRANT, token
    assert await browser.active()
    assert (await browser.refresh()).status == 200


@row("9700-12")
async def test_what_a_stranger_says_of_its_address_is_not_believed(two_clients, events):
    browser = await log_in(two_clients, client_id="web")
    spoofed = {"X-Forwarded-For": "203.0.113.7", "Forwarded": "for=203.0.113.7", "Client-Cert": ":bm8=:"}
    assert (await refreshed(two_clients, browser, {**spoofed, "X-SSL-Client-CN": "web-app"})).status == 401
    for n in itertools.count():
        headers = {**spoofed, "X-Forwarded-For": f"203.0.113.{n % 256}", **basic("web-app", f"wrong-{n}")}
        if (answer := await refreshed(two_clients, browser, headers)).status == 429:
            break
        assert answer.status == 401
    assert "203.0.113" not in json.dumps(events, default=str)
    assert (await refreshed(two_clients, browser, WEB)).status == 200


@row("POP-01", "POP-02")
@pytest.mark.parametrize(
    ("cnf", "token_type"),
    [
        ({"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}, "DPoP"),
        ({"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}, "Bearer"),
        ({"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I", "new": {"a": [1, None]}}, "DPoP"),
    ],
)
async def test_what_a_token_is_bound_to_comes_back_whole(keeper, cnf, token_type):
    token = forge.token(keeper.key, jti="bound", cnf=cnf)
    introspected = (await keeper.post("/introspect", {"token": token})).json
    assert introspected["active"] is True
    assert introspected["cnf"] == cnf
    assert introspected["token_type"] == token_type
