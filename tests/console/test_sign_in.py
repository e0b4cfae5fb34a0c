"""Signing in by OpenID Connect, and how long that lasts."""

import asyncio
import time
import uuid
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from revoker.console.roles import Role
from revoker.console.sessions import SignedIn
from revoker.models import Claims
from tests.console.conftest import sign_in
from tests.console.person import path_of
from tests.console.test_pages import action, of_user
from tests.rig import forge
from tests.rig.openid import CLIENT
from tests.rig.service import HANGS_S, OTHER_ISSUER

SESSION = "revoker-console"


async def test_somebody_who_asks_for_a_page_signs_in_and_gets_it(service, provider, people):
    person = people(service)
    page = await person.open(of_user("alice"))
    assert page.url.endswith("/console/sign-in")
    assert "Sign in at idp.example.com" in page.words
    page = await sign_in(person, provider, "viewer")
    assert parse_qs(urlsplit(page.url).query) == {"iss": [forge.ISSUER], "sub": ["alice"]}
    assert "The viewer" in page.words
    [asked], [exchanged] = provider.asked, provider.exchanged
    assert asked["response_type"] == "code"
    assert asked["code_challenge_method"] == "S256"
    assert asked["redirect_uri"] == f"{service.url}/console/callback"
    assert set(asked["scope"].split()) == {"openid", "profile"}
    assert len(asked["state"]) == len(asked["nonce"]) == 43
    assert exchanged["client_id"] == CLIENT
    assert "client_secret" not in exchanged


async def test_a_client_secret_is_sent_to_the_token_endpoint_only(consoles, provider, people, tmp_path):
    (tmp_path / "secret").write_text("s3cret\n")
    service = await consoles(console={"client_secret_file": str(tmp_path / "secret")})
    person = people(service)
    await sign_in(person, provider, "viewer")
    assert "s3cret" not in str(provider.asked)
    assert "client_secret" not in provider.exchanged[0]  # it is in the header
    (tmp_path / "secret").unlink()
    page = await sign_in(people(service), provider, "viewer")
    assert page.status == 503
    assert "client_secret_file cannot be read" in page.words


async def test_signing_out_ends_the_session_and_needs_its_form(service, signed_in):
    viewer = await signed_in("viewer")
    home = await viewer.open("/console")
    forged = await viewer.ask("POST", "/console/sign-out", data={"form": "x"})
    assert forged.status == 403
    assert (await viewer.open("/console")).url.endswith("/console")
    name = viewer.cookie(SESSION)
    page = await viewer.send(home, "/console/sign-out")
    assert page.url.endswith("/console/sign-in")
    assert viewer.cookie(SESSION) is None
    again = await viewer.open("/console", headers={"Cookie": f"{SESSION}={name}"})
    assert again.url.endswith("/console/sign-in")


async def test_nobody_without_a_role_comes_in(service, provider, people, events):
    person = people(service)
    page = await sign_in(person, provider, None)
    assert page.status == 403
    assert "gives you no role here" in page.words
    assert person.cookie(SESSION) is None
    [refused] = [event for event in events if event["event"] == "console_sign_in_refused"]
    assert refused["why"] == "no role"


async def test_sign_ins_are_in_the_audit_log(signed_in, events):
    await signed_in("admin")
    [event] = [event for event in events if event["event"] == "console_signed_in"]
    assert (event["caller"], event["role"], event["sid"]) == (
        "console:admin-1",
        "admin",
        "provider-session-1",
    )


@pytest.mark.parametrize(
    "end",
    [
        ("/revoke-user", {"sub": "support-1", "iss": forge.ISSUER}),
        ("/block-user", {"sub": "support-1", "iss": forge.ISSUER}),
        ("/revoke-session", {"sid": "provider-session-1", "iss": forge.ISSUER}),
        ("/revoke-client", {"client_id": CLIENT, "iss": forge.ISSUER}),
        ("/revoke-issuer", {"iss": forge.ISSUER}),
        ("/revoke-key", {"kid": "main-1", "iss": forge.ISSUER}),
    ],
    ids=lambda end: end[0],
)
async def test_what_logs_out_a_user_ends_their_session_of_the_console_at_once(service, signed_in, end):
    support = await signed_in("support")
    preview = await support.open(action("revoke-user", sub="alice"))
    path, body = end
    assert (await service.post(path, body)).status == 200
    sent = await support.send(preview, "/console/act/revoke-user")
    assert sent.url.endswith("/console/sign-in")
    assert await service.active(service.token(sub="alice")) or path in {
        "/revoke-issuer",
        "/revoke-key",
    }
    assert (await support.open("/console")).url.endswith("/console/sign-in")


async def test_a_blocked_administrator_cannot_sign_in_again(service, provider, people):
    await service.post("/block-user", {"sub": "admin-1", "iss": forge.ISSUER})
    page = await sign_in(people(service), provider, "admin")
    assert page.status == 403
    assert "you are blocked" in page.words


async def test_what_concerns_others_ends_nobody_elses_session(service, signed_in):
    support = await signed_in("support")
    await service.post("/revoke-user", {"sub": "alice", "iss": forge.ISSUER})
    await service.post("/revoke-user", {"sub": "support-1", "iss": OTHER_ISSUER})
    await service.post("/revoke-session", {"sid": "another", "iss": forge.ISSUER})
    assert (await support.open("/console")).url.endswith("/console")


async def test_a_session_ends_at_its_absolute_limit_however_much_it_is_used(service, people):
    records = service.service._console._sessions._records
    now = int(time.time() * 1000)
    claims = Claims(iss=forge.ISSUER, sub="old", iat=now // 1000)
    for age, ends in ((8 * 3600 - 60, "/console"), (8 * 3600 + 1, "/console/sign-in")):
        signed_in = SignedIn(
            sub="old",
            name="old",
            role=Role.VIEWER,
            claims=claims,
            secret="",
            form_key="k",
            began=now - age * 1000,
        )
        name = f"{age}".rjust(43, "a")
        await records.write("session", name, signed_in, 60_000)
        page = await people(service).open("/console", headers={"Cookie": f"{SESSION}={name}"})
        assert page.url.endswith(ends)


async def test_all_that_the_store_has_of_the_console_expires_and_opens_nothing(service, valkey, signed_in):
    support = await signed_in("support")
    await support.open(of_user("alice"))
    preview = await support.open(action("revoke-user", sub="alice"))
    await support.send(preview, "/console/act/revoke-user")
    prefix = service.service.store.keys.console("form", "x").partition(":")[0]
    with valkey.client() as client:
        found = {key: client.pttl(key) for key in client.scan_iter(f"{prefix}:console:*")}
        text = str({key: client.get(key) for key in found})
        revoked = int(client.get(f"{prefix}:seq") or 0)
    kinds = {key.split(":")[2]: left for key, left in found.items()}
    assert 0 < kinds["session"] <= 900_000
    assert 0 < kinds["form"] <= 8 * 3600 * 1000
    name = support.cookie(SESSION)
    assert name not in text + str(list(found))
    assert revoked == 1  # the one revocation
    assert [service.service.store.keys.held(key) for key in found] == [None] * len(found)  # for exports


async def test_cookies_are_bound_to_the_host_and_secure(consoles, provider, people):
    service = await consoles(console={"url": "https://console.example.com"})
    person = people(service)
    page = await person.open("/console/sign-in/begin", follow=False)
    asked = parse_qs(urlsplit(page.headers["Location"]).query)
    assert asked["redirect_uri"] == ["https://console.example.com/console/callback"]
    [cookie] = page.headers.getall("Set-Cookie")
    assert cookie.startswith("__Host-revoker-sign-in=")
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
    name = cookie.split(";")[0]
    provider.claims["realm_access"] = {"roles": ["revoker-admin"]}
    answer = await person.open(page.headers["Location"], follow=False)
    back = answer.headers["Location"].replace("https://console.example.com", service.url)
    entered = await person.open(back, follow=False, headers={"Cookie": name})
    assert entered.headers["Location"] == "/console"
    session = next(one for one in entered.headers.getall("Set-Cookie") if "revoker-console" in one)
    assert session.startswith("__Host-revoker-console=")
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= set(session.split("; "))


async def test_the_provider_that_does_not_answer_or_refuses(service, provider, people):
    person = people(service)
    provider.refusal = "access_denied"
    page = await sign_in(person, provider, "admin")
    assert page.status == 403
    assert "refused the sign-in: access_denied" in page.words
    provider.refusal = "<script>alert(1)</script>"
    page = await sign_in(person, provider, "admin")
    assert "refused the sign-in." in page.words
    assert "alert" not in page.words
    provider.refusal = ""
    service.service._console._provider._settings = service.service._settings.console.model_copy(
        update={"token_endpoint": "http://127.0.0.1:9/token"}
    )
    page = await sign_in(person, provider, "admin")
    assert page.status == 503
    assert "did not answer" in page.words


async def test_sign_ins_from_one_address_are_limited(service, people):
    person = people(service)
    statuses = []
    while 429 not in statuses:  # more than 20 where they take long: one more is allowed each second
        statuses.append((await person.open("/console/sign-in/begin", follow=False)).status)
    assert set(statuses) == {303, 429}
    assert len(statuses) > 20


async def test_nobody_keeps_others_from_signing_in_by_opening_pages(service, provider, people, valkey):
    somebody = people(service)
    for number in range(30):
        page = await somebody.open(of_user(str(number)))
        assert page.url.endswith("/console/sign-in")
        page = await somebody.ask("POST", "/console/token", data={"token": str(number)})
        assert page.url.endswith("/console/sign-in")
    prefix = service.service.store.keys.console("form", "x").partition(":")[0]
    with valkey.client() as client:
        assert list(client.scan_iter(f"{prefix}:console:*")) == []
    assert (await sign_in(people(service), provider, "admin")).status == 200


async def test_of_sign_ins_in_two_tabs_both_succeed(service, provider, people):
    person = people(service)
    provider.claims = {"sub": "support-1", "realm_access": {"roles": ["revoker-support"]}}
    asked = []
    for page in (of_user("alice"), of_user("bob")):
        await person.open(page)
        redirect = await person.open("/console/sign-in/begin", follow=False)
        asked.append((redirect.headers["Location"], page))
    for location, page in asked:
        assert unquote(path_of((await person.open(location)).url)) == unquote(page)


async def test_answers_without_a_sign_in_are_not_in_the_audit_log(service, people, events):
    person = people(service)
    for path in ("/console/callback", "/console/callback?x=1", f"/console/callback?code=x&state={'a' * 43}"):
        assert (await person.open(path)).status == 403
        await person.open("/console/sign-in/begin", follow=False)
    assert [event for event in events if event["event"] == "console_sign_in_refused"] == []


# A session outlives its ID token, and no cutoff that covers it expires before it ends


async def _session(service, person, *, iat, began=None, **claims):
    """Let somebody have redirect a session with an ID token of a time; returns the page that they get."""
    signed_in = SignedIn(
        sub="agent-1",
        name="agent-1",
        role=Role.ADMIN,
        claims=Claims(iss=forge.ISSUER, sub="agent-1", iat=iat, **claims),
        secret="",
        form_key="k",
        began=int((began or iat) * 1000),
    )
    name = uuid.uuid4().hex.rjust(43, "a")
    await service.service._console._sessions._records.write("session", name, signed_in, 60_000)
    return lambda: person.open("/console", headers={"Cookie": f"{SESSION}={name}"})


SHORT_TOKENS = {"max_token_lifetime": 300, "leeway": 0}


async def test_a_cutoff_lasts_as_long_as_the_sessions_that_it_ends(consoles, people):
    service = await consoles(revocation=SHORT_TOKENS)
    now = int(time.time())
    look = await _session(service, people(service), iat=now - 3600)
    assert (await look()).url.endswith("/console")
    body = {"sub": "agent-1", "iss": forge.ISSUER, "before": now - 1800}  # no token is as old as that
    assert (await service.post("/revoke-user", body)).status == 200
    assert (await look()).url.endswith("/console/sign-in")


@pytest.mark.parametrize("claim", ["iat", "auth_time"])
async def test_no_session_lasts_longer_than_the_cutoffs_that_cover_it(consoles, people, claim):
    issuers = {"cutoff_claim": "auth_time", "max_session_lifetime": 300} if claim == "auth_time" else {}
    service = await consoles(revocation=SHORT_TOKENS, main=issuers)
    now = int(time.time())
    for age, ends in ((28800 - 60, "/console"), (28800 + 1, "/console/sign-in")):
        dates = {"iat": now - age} if claim == "iat" else {"iat": now - 60, "auth_time": now - age}
        look = await _session(service, people(service), began=now - 60, **dates)
        assert (await look()).url.endswith(ends)


async def test_who_signed_in_before_cutoffs_were_stored_for_longer_is_signed_out(
    consoles, start, valkey, people
):
    without = await start(valkey, revocation=SHORT_TOKENS)
    service = await consoles(prefix=without.service.store.keys.prefix, new=False, revocation=SHORT_TOKENS)
    now = int(time.time())
    for age, ends in ((100, "/console"), (400, "/console/sign-in")):
        look = await _session(service, people(service), iat=now - age)
        assert (await look()).url.endswith(ends)


async def test_a_block_ends_a_session_from_which_no_request_came_meanwhile(service, people):
    look = await _session(service, people(service), iat=int(time.time()) - 60)
    body = {"sub": "agent-1", "iss": forge.ISSUER}
    async with asyncio.timeout(HANGS_S):
        while (await service.post("/block-user", {**body, "until": time.time() + 5})).status != 200:
            pass  # it had ended before it was made
        while not await service.active(service.token(sub="agent-1")):
            await asyncio.sleep(0.02)
    assert (await look()).url.endswith("/console/sign-in")


# Dates ahead


async def test_an_id_token_dated_ahead_lets_nobody_in_whom_a_logout_would_not_end(service, provider, people):
    person = people(service)
    page = await sign_in(person, provider, "admin", iat=int(time.time()) + 25)
    assert page.status == 403
    assert "ahead of the store's clock" in page.words
    assert person.cookie(SESSION) is None


async def test_a_session_dated_ahead_is_judged_at_every_request(service, people):
    look = await _session(service, people(service), iat=int(time.time()) + 25, began=time.time())
    assert (await look()).url.endswith("/console/sign-in")


# A clock that is wrong


@pytest.mark.parametrize(
    ("off", "dates", "status"),
    [
        (29, {"iat": -575}, 200),
        (-29, {"iat": -619}, 403),
        (29, {"exp": 10}, 200),
        (-29, {"exp": -45}, 403),
    ],
    ids=["ahead: made for it", "behind: made before", "ahead: runs", "behind: has expired"],
)
async def test_the_stores_time_judges_the_dates_of_an_id_token(
    consoles, provider, people, *, off, dates, status
):
    service = await consoles(clock=lambda: time.time() + off)
    claims = {name: int(time.time()) + seconds for name, seconds in dates.items()}
    assert (await sign_in(people(service), provider, "viewer", **claims)).status == status
