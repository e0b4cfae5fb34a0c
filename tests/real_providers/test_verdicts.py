"""Verdicts on the tokens of real identity providers."""

import asyncio
import collections
import tomllib

import jwt
import pytest

from revoker.cli import issuer_suggestion, pasted_token
from tests.real_providers.provider import MACHINE, WEB, claims_of, kid_of
from tests.rig.probes import eventually, within
from tests.rig.service import HANGS_S

LOADERS = 6
VERDICTS = 20
"""Of each loader, on tokens of either key."""


@pytest.fixture
async def log_in(provider, browse):
    """A login of a user in a browser of its own."""

    async def log_in(user):
        async with within(HANGS_S, f"a login of {user}"):
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


@pytest.mark.providers_with("names_tokens")
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

    await eventually(logged_in_again, what="a login after the cutoff")
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


@pytest.mark.providers_with("marks_kinds")
async def test_an_id_token_is_refused_as_what_it_is(revoker, log_in):
    login = await log_in("alice")
    assert WEB in claims_of(login.id_token)["aud"], "an audience that the service accepts"

    assert not await revoker.active(login.id_token)
    assert (await revoker.post("/explain", {"token": login.id_token})).json["why"] == "kind"
    assert await revoker.active(login.access_token)


@pytest.mark.providers_without("marks_kinds")
async def test_access_tokens_that_look_like_id_tokens_are_accepted_only_by_a_setting(
    provider, trust, revoker, log_in
):
    login = await log_in("alice")
    strict = await trust({**provider.table(), "accept_id_tokens": False})

    assert await revoker.active(login.access_token)
    assert await revoker.active(login.id_token), "nothing distinguishes it"
    for token in (login.access_token, login.id_token):
        assert not await strict.active(token)
        assert (await strict.post("/explain", {"token": token})).json["why"] == "kind"


@pytest.mark.providers_with("logs_out")
async def test_a_logout_at_the_provider_ends_the_login_here(provider, revoker, relay, log_in, http):
    login = await log_in("alice")
    bob = (await log_in("bob")).access_token
    machine = await provider.machine_token(http)
    await identity(revoker, login.access_token)
    assert relay.statuses == []

    async with within(HANGS_S, "a logout of alice"):
        await provider.logout(login)
    await relay.accepted()

    assert relay.statuses == [200]
    assert not await revoker.active(login.access_token)
    assert await revoker.active(bob)
    assert await revoker.active(machine)


async def test_the_settings_that_are_suggested_for_a_token_accept_it(provider, trust, log_in, revoker):
    token = (await log_in("alice")).access_token
    suggestion = issuer_suggestion.suggest(pasted_token.read_token(token), None)
    text = suggestion.toml()
    if not provider.marks_kinds:
        assert "# accept_id_tokens = true  # WARNING" in text
        text = text.replace("# accept_id_tokens", "accept_id_tokens")
    [table] = tomllib.loads(text)["issuers"]
    key_set = {"jwks_uri": provider.metadata["jwks_uri"], "jwks_insecure": True}

    suggested = await trust({**table, "name": "main", **key_set})

    assert table.get("profile") == provider.settings.get("profile")
    assert await identity(suggested, token) == await identity(revoker, token)


async def test_no_verdict_is_wrong_while_the_keys_are_rotated(provider, revoker, log_in, http):
    """Tokens that are as new as the key that signed them are introspected at once."""
    user = (await log_in("alice")).access_token
    verdicts = {}
    of_key = collections.defaultdict(lambda: [0] * LOADERS)

    async def load(number):
        while True:
            token = await provider.machine_token(http)
            answer = await revoker.post("/introspect", {"token": token}, caller="gateway")
            verdicts[token] = answer.status, answer.json.get("active")
            of_key[kid_of(token)][number] += 1

    def enough(without):
        """Whether there are enough on tokens of one key; some providers make keys at their own times."""

        async def enough():
            for loader in loaders:
                if loader.done():
                    loader.result()
            return any(min(counts) >= VERDICTS for kid, counts in of_key.items() if kid not in without)

        return enough

    loaders = [asyncio.create_task(load(number)) for number in range(LOADERS)]
    try:
        await eventually(enough(set()), what="verdicts on tokens of the old key")
        old = set(of_key)
        async with within(180, "a rotation of the keys"):
            await provider.rotate(http)
        await eventually(enough(old), what="verdicts on tokens of the new key")
    finally:
        for loader in loaders:
            loader.cancel()
        await asyncio.gather(*loaders, return_exceptions=True)

    expected = await genuine(provider, http, verdicts)
    wrong = {token: verdict for token, verdict in verdicts.items() if verdict != (200, expected[token])}
    assert not wrong, [(claims_of(token), verdict) for token, verdict in wrong.items()]
    assert all(expected.values()) or provider.confuses_keys
    assert await revoker.active(user)
    issued = [token for token in verdicts if expected[token]]
    assert await revoker.active(issued[0])

    await revoke(revoker, "/revoke-client", {"iss": provider.issuer, "client_id": MACHINE})

    assert [await revoker.active(issued[i]) for i in (0, -1)] == [False, False]
    assert await revoker.active(user)


async def genuine(provider, http, tokens):
    """Whether the key that a token names has signed it, judged apart from the service."""
    async with http.get(provider.metadata["jwks_uri"]) as response:
        keys = {key.key_id: key for key in jwt.PyJWKSet.from_dict(await response.json()).keys}

    def is_genuine(token):
        try:
            jwt.decode(token, keys[kid_of(token)], algorithms=["RS256"], options={"verify_aud": False})
        except jwt.InvalidSignatureError:
            return False
        return True

    return {token: is_genuine(token) for token in tokens}
