"""Verdicts on the tokens of real identity providers."""

import asyncio
import collections

import pytest

from tests.real_providers.provider import MACHINE, WEB, claims_of, kid_of
from tests.rig.probes import eventually, within

LOADERS = 6
VERDICTS = 40
"""Of each loader, on tokens of either key."""


@pytest.fixture
async def log_in(provider, browse):
    """A login of a user in a browser of its own."""

    async def log_in(user):
        async with within(120, f"a login of {user}"):
            return await provider.login(browse(), user)

    return log_in


async def identity(revoker, token):
    """What the service says of an active token: `iss`, `sub`, `client_id` and so on."""
    answer = (await revoker.post("/introspect", {"token": token}, caller="gateway")).json
    assert answer["active"], (await revoker.post("/explain", {"token": token})).json
    return answer


async def revoke(revoker, path, body):
    answer = await revoker.post(path, body)
    assert answer.status == 200, answer.body


async def test_one_token_is_revoked_and_those_beside_it_are_active(provider, revoker, log_in, http):
    token, beside = [(await log_in("alice")).access_token for _ in range(2)]
    machine = await provider.machine_token(http)
    other_machine = await provider.machine_token(http)
    for active in (token, beside, machine, other_machine):
        await identity(revoker, active)

    await revoke(revoker, "/revoke", {"token": token})
    await revoke(revoker, "/revoke", {"token": machine})

    assert not await revoker.active(token)
    assert not await revoker.active(machine)
    assert await revoker.active(beside)
    assert await revoker.active(other_machine)


async def test_log_out_everywhere_ends_the_logins_of_one_user_until_the_next(provider, revoker, log_in, http):
    tokens = [(await log_in("alice")).access_token for _ in range(2)]
    bob = (await log_in("bob")).access_token
    machine = await provider.machine_token(http)
    found = await identity(revoker, tokens[0])

    await revoke(revoker, "/revoke-user", {"iss": found["iss"], "sub": found["sub"]})

    assert [await revoker.active(token) for token in tokens] == [False, False]
    assert await revoker.active(bob)
    assert await revoker.active(machine)

    async def logged_in_again():
        return await revoker.active((await log_in("alice")).access_token)

    await eventually(logged_in_again, 60)
    assert [await revoker.active(token) for token in tokens] == [False, False]


async def test_a_machine_is_logged_out_everywhere_and_users_are_not(provider, revoker, log_in, http):
    machine = await provider.machine_token(http)
    alice = (await log_in("alice")).access_token
    found = await identity(revoker, machine)

    await revoke(revoker, "/revoke-user", {"iss": found["iss"], "sub": found["sub"]})

    assert not await revoker.active(machine)
    assert await revoker.active(alice)


@pytest.mark.parametrize("client", [WEB, MACHINE])
async def test_a_client_is_revoked_and_the_other_is_active(provider, revoker, log_in, http, client):
    tokens = {
        WEB: (await log_in("alice")).access_token,
        MACHINE: await provider.machine_token(http),
    }
    for name, token in tokens.items():
        found = await identity(revoker, token)
        assert found["client_id"] == name

    await revoke(revoker, "/revoke-client", {"iss": found["iss"], "client_id": client})

    verdicts = {name: await revoker.active(token) for name, token in tokens.items()}
    assert verdicts == {name: name != client for name in tokens}


@pytest.mark.providers_with("names_sessions")
async def test_one_login_is_ended_and_the_other_of_the_user_is_active(revoker, log_in):
    token, beside = [(await log_in("alice")).access_token for _ in range(2)]
    found = await identity(revoker, token)

    await revoke(revoker, "/revoke-session", {"iss": found["iss"], "sid": found["sid"]})

    assert not await revoker.active(token)
    assert await revoker.active(beside)


async def test_an_id_token_is_refused_as_what_it_is(revoker, log_in):
    login = await log_in("alice")
    assert WEB in claims_of(login.id_token)["aud"], "an audience that the service accepts"

    assert not await revoker.active(login.id_token)
    assert (await revoker.post("/explain", {"token": login.id_token})).json["why"] == "kind"
    assert await revoker.active(login.access_token)


@pytest.mark.providers_with("logs_out")
async def test_a_logout_at_the_provider_ends_the_login_here(provider, revoker, relay, log_in, http):
    login = await log_in("alice")
    bob = (await log_in("bob")).access_token
    machine = await provider.machine_token(http)
    await identity(revoker, login.access_token)
    assert relay.statuses == []

    async with within(120, "a logout of alice"):
        await provider.logout(login)
    await relay.answered()

    assert relay.statuses == [200]
    assert not await revoker.active(login.access_token)
    assert await revoker.active(bob)
    assert await revoker.active(machine)


async def test_no_verdict_is_wrong_while_the_keys_are_rotated(provider, revoker, log_in, http):
    """Tokens that are as new as the key that signed them are introspected at once."""
    user = (await log_in("alice")).access_token
    before = kid_of(await provider.machine_token(http))
    verdicts = collections.Counter()
    introspected = {"old key": [0] * LOADERS, "new key": [0] * LOADERS}
    last = {}

    async def load(number):
        while True:
            token = await provider.machine_token(http)
            answer = await revoker.post("/introspect", {"token": token}, caller="gateway")
            key = "old key" if kid_of(token) == before else "new key"
            verdicts[key, answer.status, answer.json.get("active")] += 1
            introspected[key][number] += 1
            last[key] = token

    def reached(key):
        async def reached():
            for loader in loaders:
                if loader.done():
                    loader.result()
            return min(introspected[key]) >= VERDICTS

        return reached

    loaders = [asyncio.create_task(load(number)) for number in range(LOADERS)]
    try:
        await eventually(reached("old key"), 90, "verdicts on tokens of the old key")
        async with within(60, "a rotation of the keys"):
            await provider.rotate(http)
        await eventually(reached("new key"), 90, "verdicts on tokens of the new key")
    finally:
        for loader in loaders:
            loader.cancel()
        await asyncio.gather(*loaders, return_exceptions=True)

    assert {verdict[1:] for verdict in verdicts} == {(200, True)}, verdicts
    assert await revoker.active(user)
    assert await revoker.active(last["old key"])

    await revoke(revoker, "/revoke-client", {"iss": provider.issuer, "client_id": MACHINE})

    assert [await revoker.active(token) for token in last.values()] == [False, False]
    assert await revoker.active(user)
