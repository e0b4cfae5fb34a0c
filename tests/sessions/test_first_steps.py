"""Log in, refresh, list, end."""

import pytest

from tests.rig.service import SECRETS
from tests.sessions.conftest import log_in


async def test_a_session_gives_tokens_until_it_is_ended(keeper):
    browser = await log_in(keeper, device="phone", scope="a b")
    assert await browser.active()
    first = browser.refresh_token
    await browser.go_on()
    assert await browser.active()
    assert first != browser.refresh_token

    async with keeper.http.get(
        keeper.url + "/sessions?sub=alice", headers={"Authorization": "Bearer admin-secret"}
    ) as response:
        listed = await response.json()
        assert [session["sid"] for session in listed["sessions"]] == [browser.sid], listed

    async with keeper.http.delete(
        keeper.url + f"/sessions/{browser.sid}", headers={"Authorization": "Bearer admin-secret"}
    ) as response:
        assert response.status == 204
    assert not await browser.active()
    assert (await browser.refresh()).json["error"] == "invalid_grant"


async def test_a_secret_in_json_is_checked_as_one_in_a_form_is(keeper):
    browser = await log_in(keeper)
    body = {"grant_type": "refresh_token", "refresh_token": browser.refresh_token, "client_id": "admin"}

    wrong = await keeper.post("/token", {**body, "client_secret": "wrong"}, caller=None)
    assert wrong.error == (401, "invalid_client")
    good = {**body, "client_secret": SECRETS["admin"]}
    assert (await keeper.post("/token", good, caller="admin")).error == (400, "invalid_request")
    assert (await keeper.post("/token", good, caller=None)).status == 200  # nothing was used up before


async def test_log_out_everywhere_ends_sessions_and_a_new_login_works_at_once(keeper):
    browser = await log_in(keeper)
    answer = await keeper.post("/revoke-user", {"sub": "alice", "iss": "https://sessions.example.com"})
    assert answer.status == 200
    again = await log_in(keeper)

    assert not await browser.active()
    assert (await browser.refresh()).status == 400
    assert await again.active()


async def test_reuse_ends_the_session_and_no_other(keeper):
    thief, other = await log_in(keeper), await log_in(keeper)
    stolen = thief.refresh_token
    await thief.go_on()
    same = await thief.refresh(stolen)
    assert same.json["refresh_token"] == thief.refresh_token
    await thief.go_on()

    assert (await thief.refresh(stolen)).json["error"] == "invalid_grant"
    assert not await thief.active()
    assert (await thief.refresh()).status == 400
    assert await other.active()


async def test_a_second_factor_changes_the_token_and_not_the_start(keeper):
    browser = await log_in(keeper, amr=["pwd"])
    answer = await keeper.post(f"/sessions/{browser.sid}/elevate", {"amr": ["pwd", "otp"], "acr": "mfa"})
    assert answer.status == 200, answer.body
    introspected = await keeper.post("/introspect", {"token": answer.json["access_token"]})
    assert introspected.json["acr"] == "mfa"


@pytest.mark.row("7662-13")
async def test_a_refresh_token_is_introspected_without_being_used(keeper):
    browser = await log_in(keeper, scope="a")
    introspected = await keeper.post("/introspect", {"token": browser.refresh_token})
    assert introspected.json["active"] is True
    assert "token_type" not in introspected.json
    spent = browser.refresh_token
    await browser.go_on()
    assert (await keeper.post("/introspect", {"token": spent})).json == {"active": False}
    gateway = await keeper.post("/introspect", {"token": browser.refresh_token}, caller="gateway")
    assert gateway.json == {"active": False}


async def test_revoking_a_refresh_token_ends_its_session_and_access_tokens(keeper):
    browser, other = await log_in(keeper), await log_in(keeper)
    answer = await keeper.post("/revoke", form={"token": browser.refresh_token})
    assert (answer.status, answer.body) == (200, b"")
    assert not await browser.active()
    assert (await browser.refresh()).json["error"] == "invalid_grant"
    assert await other.active()
