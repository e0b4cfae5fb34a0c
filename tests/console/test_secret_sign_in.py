"""The sign-in of the development setup: by the name and secret of a caller."""

import pytest
from aiohttp.test_utils import make_mocked_request

from revoker.auth import digest
from tests.console.test_pages import action
from tests.rig import forge
from tests.rig.service import OTHER_ISSUER, SECRETS, settings_for

SECRET_SIGN_IN = {"enabled": True, "secret_sign_in": True}
SESSION = "revoker-console"


@pytest.fixture
async def service(start, valkey):
    return await start(valkey, console=SECRET_SIGN_IN)


async def enter(person, name, secret=None):
    page = await person.open("/console/sign-in")
    return await person.send(page, "/console/sign-in", name=name, secret=secret or SECRETS[name])


async def test_the_administrator_signs_in_and_acts_as_one(service, people, events):
    admin = people(service)
    page = await enter(admin, "admin")
    assert "admin , admin" in page.words
    preview = await admin.open(action("revoke-user", sub="alice"))
    await admin.send(preview, "/console/act/revoke-user")
    [event] = [event for event in events if event["event"] == "user_revoked"]
    assert event["caller"] == "console:admin"


async def test_scopes_give_the_role_and_without_any_nobody_comes_in(service, people):
    person = people(service)
    assert (await enter(person, "one-issuer")).status == 200  # read and revoke
    assert (await person.open(action("revoke-user", sub="alice", iss=OTHER_ISSUER))).status == 200
    assert (await person.open(action("revoke-key", kid="k"))).status == 403
    for name in ("gateway", "bound", "edge"):
        other = people(service)
        assert (await enter(other, name)).status == 403
        assert other.cookie(SESSION) is None


async def test_the_limits_of_the_caller_are_those_of_its_session(service, people, events):
    person = people(service)
    home = await enter(person, "one-issuer")
    assert OTHER_ISSUER in home.words
    assert forge.ISSUER not in home.words
    here, there = action("revoke-user", sub="alice"), action("revoke-user", sub="alice", iss=OTHER_ISSUER)
    assert (await person.open(here)).status == 400
    preview = await person.open(there)
    await person.send(preview, "/console/act/revoke-user")
    assert [event["iss"] for event in events if event["event"] == "user_revoked"] == [OTHER_ISSUER]


async def test_the_rate_limit_and_the_audiences_of_the_caller_hold_too(start, valkey, people):
    scopes = ["read", "revoke"]
    limited = {"name": "limited", "secret_sha256": [digest("limited-secret")], "scopes": scopes}
    limited |= {"rate_limit": 5, "audiences": ["api://billing"]}
    service = await start(valkey, console=SECRET_SIGN_IN, callers=[limited])
    person = people(service)
    page = await person.open("/console/sign-in")
    await person.send(page, "/console/sign-in", name="limited", secret="limited-secret")
    visitor = await service.service._console._sessions.find(
        make_mocked_request("GET", "/console", headers={"Cookie": f"{SESSION}={person.cookie(SESSION)}"})
    )
    assert visitor.caller.audiences == {"api://billing"}
    assert 429 in [(await person.open("/console")).status for _ in range(20)]


@pytest.mark.parametrize("secret", ["wrong", "gateway-secret", " "])
async def test_a_wrong_secret_is_refused_and_not_logged(service, people, events, secret):
    person = people(service)
    page = await enter(person, "admin", secret)
    assert page.status in {400, 403}
    assert person.cookie(SESSION) is None
    assert "wrong" not in str([event for event in events if event["event"] != "console_sign_in_refused"])


async def test_wrong_secrets_are_limited(service, people):
    person = people(service)
    page = await person.open("/console/sign-in")
    statuses = [
        (await person.send(page, "/console/sign-in", name="admin", secret=f"guess {number}")).status
        for number in range(25)
    ]
    assert statuses[0] == 403
    assert statuses[-1] == 429


async def test_another_site_cannot_sign_somebody_in(service, people):
    person = people(service)
    page = await person.open("/console/sign-in")
    headers = {"Origin": "https://evil.example.com"}
    typed = {"name": "admin", "secret": SECRETS["admin"]}
    assert (await person.send(page, "/console/sign-in", headers=headers, **typed)).status == 403
    assert person.cookie(SESSION) is None


async def test_a_typed_reason_survives_this_sign_in_too(service, people):
    admin = people(service)
    await enter(admin, "admin")
    preview = await admin.open(action("revoke-user", sub="alice"))
    admin.forget(SESSION)
    page = await admin.send(preview, "/console/act/revoke-user", reason="laptop stolen")
    page = await admin.send(page, "/console/sign-in", name="admin", secret=SECRETS["admin"])
    assert page.form("/console/act/revoke-user").fields["reason"] == "laptop stolen"


@pytest.mark.parametrize(
    "callers",
    [
        [{"name": "admin", "secret_sha256": [digest("new")], "scopes": ["read", "revoke", "revoke-all"]}],
        [{"name": "admin", "secret_sha256": [digest("admin-secret")], "scopes": ["read"]}],
        [
            {
                "name": "root",
                "secret_sha256": [digest("admin-secret")],
                "scopes": ["read", "revoke", "revoke-all"],
            }
        ],
    ],
    ids=["another secret", "fewer scopes", "another name"],
)
async def test_a_caller_that_changes_is_signed_out(service, people, valkey, tmp_path, callers):
    admin = people(service)
    await enter(admin, "admin")
    service.service.reload(settings_for(valkey.url, tmp_path, callers=callers))
    assert (await admin.open("/console")).url.endswith("/console/sign-in")


async def test_without_a_provider_its_paths_lead_to_the_sign_in(service, people):
    person = people(service)
    for path in ("/console/sign-in/begin", f"/console/callback?code=a&state=b&iss={forge.ISSUER}"):
        assert (await person.open(path)).url.endswith("/console/sign-in")
