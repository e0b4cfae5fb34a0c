"""Claims of sessions kept here: what a login may give them, and what revokes by their values."""

import base64
import json
import time

import pytest

from tests.sessions.conftest import SESSIONS_ISSUER, listed, log_in, sids

INVALID_GRANT = (400, "invalid_grant")
INVALID_REQUEST = (400, "invalid_request")
TENANT = "https://example.com/tenant"
CLAIMS = {"grant_id": "g1", TENANT: [7, "t"], "plan": {"name": "é", "seats": [1, 2.5]}, "beta": True}


@pytest.fixture
async def keeper(start, valkey, sessions_section):
    return await start(valkey, sessions=sessions_section(revocable=["grant_id", TENANT, "email"]))


async def cut(running, claim="grant_id", value="g1", **body):
    body = {"iss": SESSIONS_ISSUER, "claim": claim, "value": value, **body}
    answer = await running.post("/revoke-claim", body)
    assert answer.status == 200, answer.body
    return answer.json


def payload_of(token):
    text = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


async def test_every_access_token_of_a_session_has_its_claims(keeper):
    browser = await log_in(keeper, claims=CLAIMS)
    first = payload_of(browser.access)
    await browser.go_on()
    second = payload_of(browser.access)
    third = payload_of((await browser.elevate(acr="mfa")).json["access_token"])
    fourth = payload_of((await browser.go_on()).json["access_token"])

    for payload in (first, second, third, fourth):
        assert {name: payload[name] for name in CLAIMS} == CLAIMS
        assert set(payload) - set(CLAIMS) <= {
            *("iss", "sub", "aud", "client_id", "iat", "exp", "jti", "sid", "auth_time", "acr"),
        }
    assert third["acr"] == "mfa"
    assert await browser.active()
    assert "plan" not in await browser.claims()


async def test_a_session_without_claims_is_as_it_was(keeper):
    for given in ({}, {"claims": {}}, {"claims": None}):
        browser = await log_in(keeper, **given)
        assert set(payload_of(browser.access)) == {
            *("iss", "sub", "aud", "client_id", "iat", "exp", "jti", "sid", "auth_time"),
        }
        await browser.go_on()
        assert await browser.active()


@pytest.mark.parametrize(
    ("claim", "given", "value"),
    [
        ("grant_id", "g1", "g1"),
        ("grant_id", 12, "12"),
        (TENANT, ["a", 7], 7),
        ("email", "Alice@example.com", "alice@EXAMPLE.com"),
    ],
)
async def test_a_claim_cutoff_reaches_all_that_a_session_gives(keeper, claim, given, value):
    hit = await log_in(keeper, "alice", claims={claim: given})
    spared = [
        await log_in(keeper, "alice", claims={claim: "another"}),
        await log_in(keeper, "alice"),
        await log_in(keeper, "bob", claims={"plan": given}),
    ]
    answer = await cut(keeper, claim, value)

    assert answer["iat_after"] == answer["cutoff"]
    assert not await hit.active()
    assert await sids(keeper, "alice") == [spared[0].sid, spared[1].sid]
    assert (await keeper.post("/introspect", {"token": hit.refresh_token})).json == {"active": False}
    assert (await hit.refresh()).error == INVALID_GRANT
    assert (await hit.elevate(acr="mfa")).error == (403, "access_denied")
    for browser in spared:
        assert await browser.active()
        assert (await keeper.post("/introspect", {"token": browser.refresh_token})).json["active"]
        await browser.go_on()
    assert await sids(keeper, "bob") == [spared[2].sid]


async def test_a_refused_refresh_consumes_nothing(keeper):
    """Once the cutoff is lifted, the same refresh token gives its successor."""
    browser = await log_in(keeper, claims=CLAIMS)
    await cut(keeper)
    for _ in range(3):
        assert (await browser.refresh()).error == INVALID_GRANT
    store = keeper.service.store
    await store.revocations.lift(store.keys.claim_cutoff(store.issuers[SESSIONS_ISSUER], "grant_id", "g1"))

    assert (await browser.refresh()).status == 200
    assert await browser.active()


async def test_a_session_is_compared_by_its_start(keeper):
    browser = await log_in(keeper, claims=CLAIMS)
    await cut(keeper, before=int(time.time()) - 60)

    assert await browser.active()
    await browser.go_on()
    assert await sids(keeper) == [browser.sid]


async def test_a_login_that_would_be_dead_at_once_is_put_off(keeper):
    await cut(keeper)

    assert (await keeper.post("/sessions", {"sub": "alice", "claims": CLAIMS})).error == (
        503,
        "temporarily_unavailable",
    )
    assert await sids(keeper) == []
    await log_in(keeper, claims={"grant_id": "g2"})


async def test_explain_says_which_claim_of_a_session_decides(keeper):
    browser = await log_in(keeper, claims=CLAIMS)
    cutoff = (await cut(keeper, TENANT, "t", reason="contract ended"))["cutoff"]

    answer = (await keeper.post("/explain", {"token": browser.access})).json
    assert (answer["active"], answer["reason"]) == (False, "claim_cutoff")
    assert answer["standing"] == [
        {"kind": "claim_cutoff", "since": cutoff, "claim": TENANT, "value": "t", "why": "contract ended"}
    ]


RESERVED = (
    "iss", "sub", "aud", "exp", "iat", "nbf", "jti", "sid", "client_id", "azp", "auth_time", "scope", "acr",
    "amr", "cnf", "act", "events", "token_use", "typ", "nonce", "at_hash",
)  # fmt: skip


@pytest.mark.parametrize("name", RESERVED)
async def test_a_claim_of_the_service_is_not_the_callers_to_set(keeper, name):
    answer = await keeper.post("/sessions", {"sub": "alice", "claims": {"plan": "x", name: "x"}})

    assert answer.error == INVALID_REQUEST
    assert name in answer.json["error_description"]
    assert await sids(keeper) == []


@pytest.mark.parametrize(
    "claims",
    [
        "x",
        [],
        7,
        {"plan": "x" * 1015},
        {"plan": "é" * 508},
        {"grant_id": list(range(17))},
        {"grant_id": {"a": 1}},
        {"grant_id": True},
        {"grant_id": ""},
        {"grant_id": None},
        {"grant_id": ["a", []]},
        {"plan": 10**1000},
        {"plan": json.loads("[" * 40 + "]" * 40)},
    ],
    ids=lambda claims: repr(claims)[:24],
)
async def test_claims_that_no_token_may_have_are_refused_and_nothing_begins(keeper, claims):
    answer = await keeper.post("/sessions", {"sub": "alice", "claims": claims})

    assert answer.error == INVALID_REQUEST
    assert await sids(keeper) == []


@pytest.mark.parametrize(
    "claims",
    [{"plan": "x" * 1013}, {"plan": "é" * 506}, {"plan": 10**30}, {"": None}, {"grant_id": list(range(16))}],
    ids=lambda claims: repr(claims)[:24],
)
async def test_claims_at_the_limit_are_accepted_and_come_back_the_same(keeper, claims):
    browser = await log_in(keeper, claims=claims)
    await browser.go_on()

    assert {name: payload_of(browser.access)[name] for name in claims} == claims
    assert await browser.active()


async def test_a_form_has_no_claims(keeper):
    answer = await keeper.post("/sessions", form={"sub": "alice", "claims": '{"plan":"x"}'})

    assert answer.error == INVALID_REQUEST


async def test_a_claim_that_is_revocable_later_counts_for_older_sessions(start, valkey, sessions_section):
    first = await start(valkey, prefix="claims-later", sessions=sessions_section())
    many = [f"r{n}" for n in range(20)]
    browser = await log_in(first, claims={"roles": many, "plan": "x"})
    later = sessions_section(revocable=["roles"])
    second = await start(valkey, prefix="claims-later", new=False, sessions=later)
    browser.running = second
    assert not await browser.active(), "too many values to look up"
    await browser.go_on()
    await cut(second, "roles", "r19")

    assert (await browser.refresh()).error == INVALID_GRANT
    assert (await listed(second)).json["sessions"] == []
    assert (await second.post("/introspect", {"token": browser.refresh_token})).json == {"active": False}


async def test_a_refresh_token_of_an_ended_session_is_refused(keeper):
    browser = await log_in(keeper, claims=CLAIMS)
    await browser.end()

    assert (await browser.refresh()).error == INVALID_GRANT


async def test_a_record_that_is_read_too_late_does_not_escape_the_cutoffs_of_its_claims(keeper, monkeypatch):
    """As after a failover, while the connection for reading still leads to the old primary."""
    hit, spared = await log_in(keeper, claims=CLAIMS), await log_in(keeper, claims={"grant_id": "g2"})
    await cut(keeper)

    async def not_yet(_):
        return None

    monkeypatch.setattr(keeper.service._services.sessions.reader, "peek", not_yet)
    assert (await hit.refresh()).error == INVALID_GRANT
    assert (await spared.refresh()).status == 200


async def test_sessions_of_one_page_are_judged_by_their_own_claims(keeper):
    browsers = [await log_in(keeper, claims={"grant_id": f"g{n % 3}"}) for n in range(9)]
    await cut(keeper, value="g1")

    assert await sids(keeper) == [browser.sid for n, browser in enumerate(browsers) if n % 3 != 1]
