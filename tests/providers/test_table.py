"""What an operator can do with the tokens of every provider, in every form of a question.

The rows are in `tokens.py`; docs/providers/README.md shows the same table.
"""

import json
import time

import pytest

from tests.providers import tokens
from tests.providers.tokens import ACTIONS, PROVIDERS, dated, neighbour
from tests.rig import forge
from tests.rig.service import OTHER_ISSUER

CASES = [
    pytest.param(row, action, id=f"{row.name}-{action}")
    for row in PROVIDERS
    for action in ACTIONS
    if row.identity(action)
]
ROWS = [pytest.param(row, id=row.name) for row in PROVIDERS]

STANDARD_NAMES = {"token": "jti", "user": "sub", "session": "sid", "client": "client_id"}
REVOCATIONS = {
    "token": ("/revoke", "jti"),
    "user": ("/revoke-user", "sub"),
    "block": ("/block-user", "sub"),
    "session": ("/revoke-session", "sid"),
    "client": ("/revoke-client", "client_id"),
}


def key_of(row):
    alg = row.header["alg"]
    return forge.ec_key("main-1", alg) if alg.startswith("ES") else forge.rsa_key("main-1")


def signed(row, header, claims):
    key = key_of(row)
    return forge.forge(key, {**header, "kid": key.kid}, claims)


@pytest.fixture
def begin(start, valkey, tmp_path):
    """Start a service that knows the provider of a row, and another issuer as all callers expect it."""

    async def begin(row):
        issuers = [
            {**row.settings, "name": "main"},
            {"name": "other", "issuer": OTHER_ISSUER, "audiences": ["api"]},
        ]
        for issuer, key in zip(issuers, (key_of(row), forge.rsa_key("other-1")), strict=True):
            path = tmp_path / f"{issuer['name']}-keys.json"
            path.write_text(json.dumps(forge.jwks(key)))
            issuer["jwks_file"] = str(path)
        return await start(valkey, issuers=issuers)

    return begin


async def active(revoker, row, claims):
    """Whether a token is active: its text, its claims flat and in an envelope, and to a gateway."""
    text = signed(row, row.header, claims)
    header = {**row.header, "kid": "main-1"}
    verdicts = [await revoker.active(asked) for asked in (text, claims, {"claims": claims, "header": header})]
    credentials = {"X-Revoker-Key": "gateway-secret", "Authorization": f"Bearer {text}"}
    async with revoker.http.get(revoker.url + "/forward-auth", headers=credentials) as response:
        verdicts.append(response.status == 200)
    assert len(set(verdicts)) == 1, verdicts
    return verdicts[0]


async def perform(revoker, row, action, now):
    if action == "backchannel":
        text = signed(row, row.logout_header, dated(row.logout, now))
        answer = await revoker.post("/backchannel-logout", form={"logout_token": text}, caller=None)
    elif action == "claim":
        named = {"iss": row.settings["issuer"], "claim": row.claim[0], "value": row.value("claim")}
        answer = await revoker.post("/revoke-claim", named)
    else:
        path, name = REVOCATIONS[action]
        answer = await revoker.post(path, {"iss": row.settings["issuer"], name: row.value(action)})
    assert answer.status == 200, answer.body


@pytest.mark.parametrize(("row", "action"), CASES)
async def test_an_action_reaches_the_token_and_not_its_neighbour(begin, row, action):
    revoker, now = await begin(row), int(time.time())
    claims, beside = dated(row.payload, now), dated(neighbour(row, action), now)
    assert await active(revoker, row, claims)
    assert await active(revoker, row, beside)

    await perform(revoker, row, action, now)

    assert not await active(revoker, row, claims)
    assert await active(revoker, row, beside)


@pytest.mark.parametrize("row", ROWS)
async def test_what_identifies_a_token_is_printed_and_its_text_is_enough_to_revoke_it(begin, row):
    """What the table calls impossible has no value here, either."""
    revoker, now = await begin(row), int(time.time())
    claims, beside = dated(row.payload, now), dated(neighbour(row, "token"), now)
    text = signed(row, row.header, claims)

    answer = (await revoker.post("/introspect", {"token": text}, caller="gateway")).json

    assert answer["active"]
    assert answer["iss"] == claims["iss"]
    for action, name in STANDARD_NAMES.items():
        assert answer.get(name) == (row.value(action) if row.identity(action) else None), name

    answer = await revoker.post("/revoke", {"token": text})

    if row.identity("token"):
        assert answer.status == 200
        assert not await active(revoker, row, claims)
        assert await active(revoker, row, beside)
    else:
        assert answer.error == (400, "unsupported_token_type")
        assert await active(revoker, row, claims)


@pytest.mark.parametrize("row", ROWS)
def test_every_action_works_or_has_a_reason_why_not(row):
    for action in ACTIONS:
        assert bool(row.identity(action)) != (action in row.limits), action
    assert (row.logout is not None) == ("backchannel" not in row.limits)
    assert row.settings.get("backchannel_audience") or row.logout is None


def test_the_rows_have_names_of_their_own():
    assert len({row.name for row in PROVIDERS}) == len(PROVIDERS)


@pytest.mark.parametrize("row", ROWS)
def test_a_neighbour_differs_from_the_token_in_what_the_action_names(row):
    for action in ACTIONS:
        if names := row.identity(action):
            beside = neighbour(row, action)
            assert all(beside[name] != row.payload[name] for name in names)
            assert beside.keys() == row.payload.keys()


def test_a_date_is_an_offset_from_now_and_the_one_of_ad_fs_is_text():
    claims = {"iat": tokens.At(-5), "auth_time": tokens.IsoAt(-60), "sub": "a"}

    assert dated(claims, 60) == {"iat": 55, "auth_time": "1970-01-01T00:00:00.000Z", "sub": "a"}
