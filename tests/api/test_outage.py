"""``store_outage = "allow"``: while the store is away, everything holds that needs no store."""

import time

import pytest

from tests.rig import forge
from tests.sessions.conftest import SESSIONS_ISSUER, log_in
from tests.sessions.conftest import sessions_section as sessions_section  # noqa: PLC0414  # a fixture

ALLOW = {"store_outage": "allow"}
ISS = {"iss": forge.ISSUER}


async def forward_auth(revoker, token, require=None):
    headers = {"X-Revoker-Key": "gateway-secret", "Authorization": f"Bearer {token}"}
    if require is not None:
        headers["X-Revoker-Require"] = require
    async with revoker.http.get(revoker.url + "/forward-auth", headers=headers) as response:
        return response.status, response.headers.get("WWW-Authenticate", "")


async def verdicts(revoker, claims):
    """Of one token in either form, alone and in a batch, and of a gateway's question."""
    token = forge.token(revoker.key, **claims)
    asked = [{"token": token}, forge.envelope(forge.claims(**claims))]
    alone = [await revoker.post("/introspect", token, caller="gateway") for token in asked]
    batch = await revoker.post("/introspect/batch", {"tokens": asked}, caller="gateway")
    found = {answer.json["active"] for answer in alone} | {item["active"] for item in batch.json["results"]}
    return found | {(await forward_auth(revoker, token))[0] == 200}


@pytest.mark.parametrize("offset", [-29, 0, 29])
async def test_the_demands_of_a_route_hold_while_the_store_is_away(start, own_valkey, offset):
    revoker = await start(own_valkey, revocation=ALLOW, clock=lambda: time.time() + offset)
    now = int(time.time())
    claims = {"acr": "mfa", "scope": "a", "iat": now - 3100, "exp": now + 400}
    fresh = forge.token(revoker.key, auth_time=now - 60, **claims)
    old = forge.token(revoker.key, auth_time=now - 3000, **claims)
    undated = forge.token(revoker.key, **claims)
    own_valkey.kill()

    assert (await forward_auth(revoker, fresh, 'scope="a"; acr=mfa; max_age=300'))[0] == 200
    assert (await forward_auth(revoker, old, "max_age=3600"))[0] == 200
    for token in (old, undated):
        status, challenge = await forward_auth(revoker, token, "max_age=300")
        assert (status, "insufficient_user_authentication" in challenge) == (401, True)
    assert (await forward_auth(revoker, fresh, "acr=phr"))[0] == 401
    assert (await forward_auth(revoker, fresh, 'scope="a b"'))[0] == 403


async def test_a_login_grows_old_by_the_services_clock_while_the_store_is_away(start, own_valkey):
    ahead = 0.0
    revoker = await start(own_valkey, revocation=ALLOW, clock=lambda: time.time() + ahead)
    now = int(time.time())
    token = revoker.token(auth_time=now - 100, iat=now - 100, exp=now + 5000)
    own_valkey.kill()
    assert (await forward_auth(revoker, token, "max_age=300"))[0] == 200

    ahead = 3000.0

    assert (await forward_auth(revoker, token, "max_age=300"))[0] == 401
    assert (await forward_auth(revoker, token))[0] == 200


async def test_a_bound_that_was_raised_holds_for_older_tokens_while_the_store_is_away(start, own_valkey):
    before = {"max_token_lifetime": 600}
    first = await start(own_valkey, prefix="raised", revocation=ALLOW | before)
    await first.close()
    revoker = await start(
        own_valkey, prefix="raised", new=False, revocation=ALLOW | {"max_token_lifetime": 86_400}
    )
    now = int(time.time())
    short, long = {"iat": now - 5, "exp": now + 500}, {"iat": now - 5, "exp": now + 5000}
    assert await verdicts(revoker, short) == {True}
    assert await verdicts(revoker, long) == {False}
    own_valkey.kill()

    assert await verdicts(revoker, short) == {True}
    assert await verdicts(revoker, long) == {False}


async def test_a_minted_token_with_a_sid_of_no_session_is_inactive_while_the_store_is_away(
    start, own_valkey, sessions_section
):
    revoker = await start(own_valkey, revocation=ALLOW, sessions=sessions_section())
    browser = await log_in(revoker)
    claims = forge.claims(iss=SESSIONS_ISSUER, sub="alice", sid=browser.sid)
    own_valkey.kill()

    assert await revoker.active(browser.access)
    assert await revoker.active(claims)
    for wrong in ({"sid": "session-1"}, {"sid": forge.ABSENT}, {"sub": "bob"}):
        malformed = {name: value for name, value in (claims | wrong).items() if value is not forge.ABSENT}
        assert not await revoker.active(malformed)
        batch = await revoker.post("/introspect/batch", {"tokens": [malformed]}, caller="gateway")
        assert batch.json == {"results": [{"active": False}]}


async def test_remembered_blocks_and_revoked_keys_hold_while_the_store_is_away(start, own_valkey):
    ahead = 29.0
    revoker = await start(own_valkey, revocation=ALLOW, clock=lambda: time.time() + ahead)
    await revoker.post("/block-user", {**ISS, "sub": "mallory", "until": int(time.time()) + 25})
    await revoker.post("/revoke-key", {**ISS, "kid": "stolen"})
    own_valkey.kill()

    assert await verdicts(revoker, {"sub": "alice"}) == {True}
    assert await verdicts(revoker, {"sub": "mallory"}) == {False}, "by the store's time the block goes on"
    assert not await revoker.active(forge.envelope(forge.claims(), "stolen"))
    assert not await revoker.active(forge.claims())


async def test_what_a_loss_of_data_logged_out_stays_so_while_the_store_is_away(start, own_valkey):
    revoker = await start(own_valkey, revocation=ALLOW)
    old = {"iat": int(time.time()) - 100}
    assert await verdicts(revoker, old) == {True}
    with own_valkey.client() as client:
        client.flushall()
    assert await verdicts(revoker, old) == {False}
    own_valkey.kill()

    assert await verdicts(revoker, old) == {False}


async def test_a_loss_that_nobody_has_accepted_gives_no_verdict_while_the_store_is_away(start, own_valkey):
    revoker = await start(own_valkey, revocation=ALLOW | {"data_loss": "refuse"})
    with own_valkey.client() as client:
        client.flushall()
    no_verdict = (503, "temporarily_unavailable")
    assert (await revoker.post("/introspect", forge.claims())).error == no_verdict
    own_valkey.kill()

    assert (await revoker.post("/introspect", forge.claims())).error == no_verdict


async def test_clocks_that_were_too_far_apart_give_no_verdict_when_the_store_goes_away(start, own_valkey):
    ahead = 0.0
    revoker = await start(own_valkey, revocation=ALLOW, clock=lambda: time.time() + ahead)
    ahead = 40.0
    no_verdict = (503, "temporarily_unavailable")
    assert (await revoker.post("/introspect", forge.claims())).error == no_verdict
    own_valkey.kill()

    assert (await revoker.post("/introspect", forge.claims())).error == no_verdict


async def test_a_process_that_starts_during_an_outage_judges_by_its_settings_and_clock(start, own_valkey):
    own_valkey.kill()
    revoker = await start(
        own_valkey, new=False, ready=False, revocation=ALLOW, main={"revoked_kids": ["stolen"]}
    )
    now = int(time.time())

    assert await revoker.active(forge.envelope(forge.claims(), "main-1"))
    assert not await revoker.active(forge.envelope(forge.claims(), "stolen"))
    for dates in ({"iat": now + 60, "exp": now + 90}, {"iat": now - 90, "exp": now - 60}):
        assert not await revoker.active(forge.envelope(forge.claims(**dates), "main-1"))
    assert (await forward_auth(revoker, revoker.token(auth_time=now - 3000), "max_age=300"))[0] == 401
