"""What an attacker tries against the console; each try fails, and changes nothing."""

import json
import time
import uuid
from urllib.parse import quote

import pytest

from tests.console.conftest import sign_in
from tests.console.test_pages import action, of_user
from tests.rig import forge
from tests.rig.openid import CLIENT
from tests.rig.service import OTHER_ISSUER
from tests.sessions.conftest import SESSIONS_ISSUER, sessions_section  # noqa: F401  # a fixture

ACT = "/console/act/revoke-user"
SESSION = "revoker-console"
SCRIPT = "<script>alert(1)</script>"
ATTRIBUTE = "\" autofocus onfocus=alert(1) x='"
EVIL = "https://evil.example.com"


def changed(events):
    return [one for one in events if one["event"] in {"user_revoked", "user_blocked", "client_revoked"}]


# Cross-site requests


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": EVIL},
        {"Origin": "null"},
        {"Origin": EVIL, "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ],
    ids=str,
)
async def test_a_form_of_another_site_does_nothing_even_with_a_right_token(signed_in, events, headers):
    admin = await signed_in("admin")
    preview = await admin.open(action("revoke-user", sub="alice"))
    page = await admin.send(preview, ACT, headers=headers)
    assert page.status == 403
    assert "from a page of another site" in page.words
    assert changed(events) == []


@pytest.mark.parametrize("form", [None, "", "x", "a" * 22 + ".0." + "0" * 64, "\x00"])
async def test_without_the_token_of_the_form_nothing_is_done_whatever_the_browser_says(
    signed_in, events, form
):
    admin = await signed_in("admin")
    data = {"iss": forge.ISSUER, "sub": "alice", **({} if form is None else {"form": form})}
    assert (await admin.ask("POST", ACT, data=data)).status == 403
    assert (await admin.ask("POST", ACT, data=data, headers={"Origin": ""})).status == 403
    assert changed(events) == []


async def test_nothing_is_changed_by_get_or_by_json(signed_in, events):
    admin = await signed_in("admin")
    preview = await admin.open(action("revoke-user", sub="alice"))
    fields = preview.form(ACT).fields
    assert (await admin.ask("GET", ACT, params=fields)).status == 200  # one more preview
    assert (await admin.ask("POST", ACT, json=fields)).status == 400
    assert changed(events) == []


async def test_a_cross_site_request_cannot_plant_a_typed_reason(service, signed_in, provider):
    admin = await signed_in("admin")
    admin.forget(SESSION)
    data = {"iss": forge.ISSUER, "sub": "alice", "reason": "planted", "form": "x"}
    page = await admin.ask("POST", ACT, data=data, headers={"Origin": EVIL})
    assert page.status == 403
    assert "planted" not in (await sign_in(admin, provider, "admin")).words


# What is stored by others


async def test_stored_script_is_only_text(consoles, provider, people, sessions_section):  # noqa: F811
    service = await consoles(sessions=sessions_section())
    login = {"sub": SCRIPT, "device": SCRIPT, "user_agent": ATTRIBUTE, "ip": "<b>::1</b>"}
    assert (await service.post("/sessions", login)).status == 201
    reason = f"{SCRIPT}{ATTRIBUTE}{{{{ 2 * 'zq' }}}}\u202egnp.exe"
    block = {"sub": SCRIPT, "iss": SESSIONS_ISSUER, "reason": reason}
    admin = people(service)
    provider.claims["name"] = SCRIPT
    await sign_in(admin, provider, "admin", name=f"{SCRIPT}\u202eniM")
    pages = [
        await admin.open(of_user(SCRIPT, iss=SESSIONS_ISSUER)),
        await admin.open(action("revoke-user", sub=SCRIPT, iss=SESSIONS_ISSUER)),
        await admin.open(action("revoke-client", client_id=ATTRIBUTE)),
    ]
    assert (await service.post("/revoke-user", block)).status == 200
    pages += [
        await admin.open(of_user(SCRIPT, iss=SESSIONS_ISSUER)),
        await admin.open("/console/changes"),
        await admin.open(f"/console/user?iss={SCRIPT}&sub=x"),
        await admin.open(f"/console/done/{SCRIPT.replace('/', '')}"),
    ]
    for page in pages:  # reading it has failed where there was a script, or an attribute that is one
        assert "<script>" not in page.text
        assert "\u202e" not in page.text
    assert SCRIPT in pages[0].words
    assert ATTRIBUTE in pages[0].words
    assert f"{SCRIPT}{ATTRIBUTE}{{{{ 2 * 'zq' }}}}\\u202egnp.exe" in pages[3].words
    assert "zqzq" not in pages[3].words


# Fixation, and what a cookie opens


async def test_a_session_that_was_planted_before_a_sign_in_is_not_used(service, provider, people):
    attacker, victim = people(service), people(service)
    await sign_in(attacker, provider, "viewer")
    planted = attacker.cookie(SESSION)
    victim.http.cookie_jar.update_cookies({SESSION: planted}, response_url=_url(service))
    page = await sign_in(victim, provider, "admin")
    assert page.status == 200
    assert victim.cookie(SESSION) != planted
    seen = await attacker.open("/console")
    assert seen.url.endswith("/console/sign-in")  # the planted one has ended


async def test_a_name_that_the_service_did_not_make_opens_nothing(service, people, provider):
    victim = people(service)
    made_up = "A" * 43
    victim.http.cookie_jar.update_cookies({SESSION: made_up}, response_url=_url(service))
    assert (await victim.open("/console")).url.endswith("/console/sign-in")
    await sign_in(victim, provider, "admin")
    other = people(service)
    assert (await other.open("/console", headers={"Cookie": f"{SESSION}={made_up}"})).url.endswith("/sign-in")


def _url(service):
    from yarl import URL

    return URL(service.url)


# Redirects


@pytest.mark.parametrize(
    "target",
    [
        f"/console/sign-in/begin?next={EVIL}",
        "/console/sign-in/begin?next=//evil.example.com",
        f"/console/sign-in?target={EVIL}",
        f"/console/user?iss={EVIL}&sub=//evil.example.com",
        "/console/act/%2F%2Fevil.example.com",
        "/console/act/..%5C..%5Cevil.example.com",
    ],
)
async def test_a_sign_in_ends_at_a_page_of_the_console_whatever_was_asked_for(
    service, provider, people, target
):
    person = people(service)
    await person.open(target, follow=False)
    provider.claims = {"sub": "a", "realm_access": {"roles": ["revoker-admin"]}}
    page = await person.open("/console/sign-in/begin", follow=False)
    answer = await person.open(page.headers["Location"], follow=False)
    entered = await person.open(answer.headers["Location"] + f"&next={EVIL}&target={EVIL}", follow=False)
    assert entered.status == 303
    assert entered.headers["Location"].startswith("/console")
    assert (await person.open(entered.headers["Location"])).url.startswith(service.url)


@pytest.mark.parametrize(
    "target",
    [
        EVIL,
        "//evil.example.com",
        "/\\evil.example.com",
        "/console.evil.example.com",
        "/console/../introspect",
        "/console/sign-in/begin",
        "/console/callback?error=x",
        "/console/user?a=\r\nSet-Cookie:x=1",
        "%zz",
        "\udcff",
    ],
)
async def test_a_planted_cookie_leads_nowhere_but_to_a_page(service, provider, people, target):
    person = people(service)
    planted = {"revoker-target": quote(target.encode("utf-8", "surrogateescape"), safe="")}
    person.http.cookie_jar.update_cookies(planted, response_url=_url(service))
    page = await sign_in(person, provider, "viewer")
    assert page.status == 200
    assert page.url == f"{service.url}/console"


# Who gets a role


@pytest.mark.parametrize(
    "claims",
    [
        {"roles": ["revoker-admin"]},
        {"roles": ["revoker-admin"], "realm_access": None},
        {"realm_access": {"groups": ["revoker-admin"]}},
        {"realm_access": ["revoker-admin"]},
        {"realm_access": '{"roles": ["revoker-admin"]}'},
        {"realm_access": {"roles": {"revoker-admin": True}}},
        {"realm_access": {"roles": [["revoker-admin"], "Revoker-Admin", "revoker-admin "]}},
        {"realm_access.roles": ["revoker-admin"]},
        {"name": "revoker-admin", "resource_access": {"other": {"roles": ["revoker-admin"]}}},
    ],
    ids=str,
)
async def test_no_claim_but_the_configured_one_gives_a_role(service, provider, people, claims):
    person = people(service)
    page = await sign_in(person, provider, None, **{"realm_access": {"roles": []}, **claims})
    assert page.status == 403
    assert person.cookie(SESSION) is None


async def test_nothing_beside_the_id_token_gives_a_role(service, provider, people):
    provider.answer = {
        "realm_access": {"roles": ["revoker-admin"]},
        "roles": ["revoker-admin"],
        "scope": "admin",
    }
    person = people(service)
    assert (await sign_in(person, provider, None)).status == 403
    provider.answer["userinfo"] = {"realm_access": {"roles": ["revoker-admin"]}}
    assert (await sign_in(person, provider, "viewer")).status == 200
    assert (await person.open(action("revoke-user", sub="alice"))).status == 403


def _forged(provider, **changes):
    """An answer of the token endpoint with another ID token, made for the nonce of the last request."""
    provider.claims = {"sub": "a", "realm_access": {"roles": ["revoker-admin"]}}

    def make():
        return provider.id_token(**{"nonce": provider.asked[-1]["nonce"], **changes})

    return make


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": EVIL},
        {"aud": "another-client"},
        {"aud": [CLIENT, "another-client"]},
        {"aud": None},
        {"azp": "another-client"},
        {"nonce": None},
        {"nonce": "another"},
        {"nonce": ["a"]},
        {"exp": 1},
        {"exp": None},
        {"iat": 1},
        {"iat": 9_000_000_000, "exp": 9_000_001_000},
        {"sub": None},
        {"sub": "x" * 256},
        {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}},
    ],
    ids=str,
)
async def test_an_id_token_that_is_not_of_this_sign_in_is_refused(service, provider, people, changes):
    await _refused(service, provider, people, _forged(provider, **changes))


@pytest.mark.parametrize("key", ["other-1", "unheard-of"])
async def test_an_id_token_signed_by_somebody_else_is_refused(service, provider, people, key):
    provider.key = forge.rsa_key(key)
    await _refused(service, provider, people, _forged(provider), 503)  # the key may come yet


async def test_an_administrator_of_another_configured_issuer_is_nobody_here(service, provider, people):
    provider.key = forge.rsa_key("other-1")
    await _refused(service, provider, people, _forged(provider, iss=OTHER_ISSUER))


async def test_an_id_token_without_a_signature_is_refused(service, provider, people):
    make = _forged(provider)

    def unsigned():
        _, payload, _ = make().split(".")
        return f"{forge.base64url(json.dumps({'alg': 'none'}).encode())}.{payload}."

    await _refused(service, provider, people, unsigned)


async def _refused(service, provider, people, make, status=403):
    person = people(service)
    page = await person.open("/console/sign-in/begin", follow=False)
    answer = await person.open(page.headers["Location"], follow=False)
    provider.answer = {"id_token": make()}
    page = await person.open(answer.headers["Location"])
    assert page.status == status, page.words
    assert person.cookie(SESSION) is None


# Answers of the provider


async def test_an_answer_is_good_for_the_browser_that_asked_and_once(service, provider, people):
    provider.claims = {"sub": "a", "realm_access": {"roles": ["revoker-admin"]}}
    attacker, victim = people(service), people(service)
    page = await attacker.open("/console/sign-in/begin", follow=False)
    answer = await attacker.open(page.headers["Location"], follow=False)
    back = answer.headers["Location"]
    await victim.open("/console/sign-in/begin", follow=False)
    assert (await victim.open(back)).status == 403  # a victim would be signed in as the attacker
    assert victim.cookie(SESSION) is None
    old = f"revoker-sign-in={attacker.cookie('revoker-sign-in')}"
    assert (await attacker.open(back)).status == 200
    for headers in ({}, {"Cookie": old}):
        again = await people(service).open(back, headers=headers)
        assert again.status == 403
        assert "not started in this browser" in again.words
    assert len(provider.exchanged) == 1


async def test_an_answer_of_another_provider_is_refused(service, provider, people):
    person = people(service)
    page = await person.open("/console/sign-in/begin", follow=False)
    answer = await person.open(page.headers["Location"], follow=False)
    page = await person.open(answer.headers["Location"] + f"&iss={EVIL}")
    assert page.status == 403
    assert provider.exchanged == []


# Logout by the provider


async def test_the_back_channel_logout_of_an_administrator_ends_the_session_at_once(
    consoles, provider, people
):
    service = await consoles(main={"backchannel_audience": CLIENT})
    admin = people(service)
    await sign_in(admin, provider, "admin")
    preview = await admin.open(action("revoke-user", sub="alice"))
    token = forge.forge(
        provider.key,
        {"alg": provider.key.alg, "kid": provider.key.kid, "typ": "logout+jwt"},
        {
            "iss": forge.ISSUER,
            "aud": CLIENT,
            "iat": int(time.time()),
            "exp": int(time.time()) + 60,
            "jti": str(uuid.uuid4()),
            "sid": "provider-session-1",
            "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
        },
    )
    form = {"logout_token": token}
    assert (await service.post("/backchannel-logout", form=form, caller=None)).status == 200
    sent = await admin.send(preview, ACT)
    assert sent.url.endswith("/console/sign-in")
    assert await service.active(service.token(sub="alice"))


async def test_a_form_in_flight_is_not_carried_out_for_an_administrator_who_was_logged_out(
    service, signed_in, events
):
    admin = await signed_in("admin")
    preview = await admin.open(action("revoke-client", client_id="web"))
    await service.post("/revoke-user", {"sub": "admin-1", "iss": forge.ISSUER})
    page = await admin.send(preview, "/console/act/revoke-client", confirm="web")
    assert page.url.endswith("/console/sign-in")
    assert [one for one in events if one["event"] == "client_revoked"] == []
