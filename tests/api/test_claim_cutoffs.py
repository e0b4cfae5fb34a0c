"""``/revoke-claim``: whatever has a value of a claim that the settings of its issuer call revocable."""

import time

import pytest

from tests.rig import forge
from tests.rig.forge import ABSENT
from tests.rig.service import OTHER_ISSUER

ISS = {"iss": forge.ISSUER}
TENANT = "https://example.com/tenant"
NAMES = ("grant_id", "email", TENANT, "roles")
REVOCABLE = {"claims": {"revocable": list(NAMES)}}


@pytest.fixture
async def revoker(start, valkey):
    return await start(valkey, main=REVOCABLE, other={"claims": {"revocable": ["grant_id"]}})


def claims(**changes):
    """Of a token that is a minute old, so that any cutoff made within that time covers it."""
    return forge.claims(now=time.time() - 60, **changes)


async def cut(revoker, claim, value, **body):
    answer = await revoker.post("/revoke-claim", {**ISS, "claim": claim, "value": value, **body})
    assert answer.status == 200, answer.body
    return answer.json


async def active(revoker, asked):
    """Whether a token is active, the same by its text and its claims, alone, in a batch and at a gateway."""
    header = {"kid": "other-1"} if asked["iss"] == OTHER_ISSUER else {}
    key = forge.rsa_key("other-1") if header else revoker.key
    token = forge.token(key, header, **{**dict.fromkeys(forge.claims(), ABSENT), **asked})
    forms = [{"token": token}, asked, forge.envelope(asked)]
    verdicts = [await revoker.active(form) for form in forms]
    batch = await revoker.post("/introspect/batch", {"tokens": forms}, caller="gateway")
    verdicts += [result["active"] for result in batch.json["results"]]
    headers = {"X-Revoker-Key": "gateway-secret", "Authorization": f"Bearer {token}"}
    async with revoker.http.get(revoker.url + "/forward-auth", headers=headers) as response:
        verdicts.append(response.status == 200)
    assert len(set(verdicts)) == 1, verdicts
    return verdicts[0]


@pytest.mark.parametrize(
    ("claim", "value", "hit", "spared"),
    [
        ("grant_id", "g1", "g1", "g2"),
        ("grant_id", 42, 42, 43),
        ("grant_id", 42, "42", "042"),
        ("grant_id", "42", 42, 42.5),
        ("grant_id", 42.0, 42, "42.0"),
        ("grant_id", 2**70, 2**70, 2**70 + 1),
        ("grant_id", "a b:c" * 99, "a b:c" * 99, "a b:c" * 98),
        ("email", "Alice@Example.com", "alice@EXAMPLE.com", "alice@example.org"),
        ("email", "STRASSE@example.com", "stra\u00dfe@example.com", "strase@example.com"),
        ("grant_id", "Alice@Example.com", "Alice@Example.com", "alice@example.com"),
        (TENANT, "t1", "t1", "t2"),
        ("roles", "admin", ["reader", "admin"], ["reader", "administrator"]),
        ("roles", "v16", [f"v{n}" for n in range(1, 17)], [f"w{n}" for n in range(1, 17)]),
        ("roles", 7, ["x", 7, {}, None, True], ["7.5", "x", [7]]),
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_a_cutoff_covers_what_has_the_value_and_nothing_else(revoker, claim, value, hit, spared):
    before = time.time() - 50
    covered, later = claims(iat=int(before), **{claim: hit}), claims(iat=int(before) + 4, **{claim: hit})
    assert await active(revoker, covered)

    answer = await cut(revoker, claim, value, before=before)

    assert answer["cutoff"] == pytest.approx(before, abs=0.001)
    assert answer["iat_after"] == pytest.approx(before + 2, abs=0.001)
    assert (answer["iss"], answer["claim"]) == (forge.ISSUER, claim)
    assert not await active(revoker, covered)
    assert await active(revoker, later)
    assert await active(revoker, claims(iat=int(before), **{claim: spared}))
    assert await active(revoker, claims(iat=int(before), **{claim: ABSENT}))
    for other in set(NAMES) - {claim}:
        assert await active(revoker, claims(iat=int(before), **{other: hit}))
    assert await active(revoker, claims(iat=int(before), iss=OTHER_ISSUER, **{claim: hit}))


@pytest.mark.parametrize(
    ("claim", "value", "text"),
    [("grant_id", 42.0, "42"), ("grant_id", "x", "x"), ("email", "A@B.example", "a@b.example")],
)
async def test_the_answer_has_the_value_as_it_is_compared(revoker, claim, value, text):
    assert (await cut(revoker, claim, value))["value"] == text


async def test_a_cutoff_never_moves_back_and_may_be_repeated(revoker):
    now = time.time()
    cutoffs = [(await cut(revoker, "grant_id", "g", before=now - ago))["cutoff"] for ago in (60, 600, 60)]

    assert cutoffs == pytest.approx([now - 60] * 3, abs=0.001)
    assert (await cut(revoker, "grant_id", "g"))["cutoff"] >= now - 0.01
    assert not await active(revoker, claims(grant_id="g"))


async def test_names_and_values_with_colons_never_collide(start, valkey):
    names = ["a", "a:b", "a:b:c", "b"]
    revoker = await start(valkey, main={"claims": {"revocable": names}})
    for cut_name in names:
        value = f"{cut_name}:x"
        await cut(revoker, cut_name, value)
        assert not await active(revoker, claims(**{cut_name: value}))
        for name in names:
            for text in {"x", "b:x", "c:x", "b:c:x", f"{name}:x"}:
                hit = names.index(name) <= names.index(cut_name) and text == f"{name}:x"
                assert await active(revoker, claims(**{name: text})) is not hit, (cut_name, name, text)


@pytest.mark.parametrize("claim", ["sub", "Grant_id", "client_id", "grant_id ", "x"])
async def test_a_claim_that_is_not_revocable_is_refused_with_those_that_are(revoker, valkey, claim):
    answer = await revoker.post("/revoke-claim", {**ISS, "claim": claim, "value": "v"})

    assert answer.error == (400, "invalid_request")
    assert ", ".join(NAMES) in answer.json["error_description"]
    with valkey.client() as client:
        assert not list(client.scan_iter(f"{revoker.service.store.keys.all()[:-1]}claim-cutoff:*"))


async def test_an_issuer_without_revocable_claims_says_so(start, valkey):
    revoker = await start(valkey)
    answer = await revoker.post("/revoke-claim", {**ISS, "claim": "grant_id", "value": "v"})

    assert answer.error == (400, "invalid_request")
    assert "none" in answer.json["error_description"]


@pytest.mark.parametrize(
    "value", ["", None, True, [], ["v"], {}, "x" * 16385, ABSENT], ids=lambda v: repr(v)[:9]
)
async def test_a_value_is_a_text_or_a_number(revoker, value):
    body = {**ISS, "claim": "grant_id", **({} if value is ABSENT else {"value": value})}

    assert (await revoker.post("/revoke-claim", body)).error == (400, "invalid_request")


@pytest.mark.parametrize("value", ["42", "nan", "inf", "1e999", "9" * 40])
async def test_a_value_in_a_form_is_a_text(revoker, value):
    answer = await revoker.post("/revoke-claim", form={**ISS, "claim": "grant_id", "value": value})

    assert answer.json["value"] == value
    assert not await active(revoker, claims(grant_id=value))


async def test_the_login_may_be_what_it_is_compared_with(start, valkey):
    now = int(time.time())
    by_login = {**REVOCABLE, "cutoff_claim": "auth_time", "max_session_lifetime": 7200}
    revoker = await start(valkey, main=by_login)
    await cut(revoker, "grant_id", "g", before=now - 500)

    assert not await active(revoker, claims(grant_id="g", auth_time=now - 1000))
    assert await active(revoker, claims(grant_id="g", auth_time=now - 400))
    assert not await active(revoker, claims(grant_id="g"))
    assert await active(revoker, claims(grant_id="h"))


async def test_support_staff_see_which_claim_and_value_decide(revoker):
    asked = claims(grant_id="g", roles=["a", "b", "a"], sid="s")
    first = await cut(revoker, "roles", "b", reason="left the team")
    second = await cut(revoker, "grant_id", "g")
    await cut(revoker, "grant_id", "other")
    for form in (asked, {"token": revoker.token(now=time.time() - 60, **{**asked, "jti": "1"})}):
        answer = (await revoker.post("/explain", form)).json
        assert (answer["active"], answer["reason"]) == (False, "claim_cutoff")
        assert answer["standing"] == [
            {"kind": "claim_cutoff", "since": second["cutoff"], "claim": "grant_id", "value": "g"},
            {
                "kind": "claim_cutoff",
                "since": first["cutoff"],
                "claim": "roles",
                "value": "b",
                "why": "left the team",
            },
        ]
    await revoker.post("/revoke-session", {**ISS, "sid": "s"})
    answer = (await revoker.post("/explain", asked)).json
    assert answer["reason"] == "session_cutoff"
    assert [item["kind"] for item in answer["standing"]] == ["session_cutoff", "claim_cutoff", "claim_cutoff"]
    assert (await revoker.post("/explain", claims(grant_id="h"))).json["standing"] == []


async def test_it_leaves_a_line_for_the_auditor_and_is_counted(revoker, events):
    await cut(revoker, "email", "Alice@example.com", reason="asked for")

    [line] = [event for event in events if event["event"] == "claim_revoked"]
    assert {name: line[name] for name in ("caller", "iss", "claim", "value", "reason")} == {
        "caller": "admin",
        "iss": forge.ISSUER,
        "claim": "email",
        "value": "alice@example.com",
        "reason": "asked for",
    }
    async with revoker.http.get(revoker.url + "/metrics") as response:
        assert 'revoker_revocations_total{kind="claim"} 1.0' in await response.text()


async def test_a_claim_with_too_many_values_to_revoke_is_never_active(revoker):
    asked = claims(roles=[f"v{n}" for n in range(17)])
    token = forge.token(revoker.key, **{**dict.fromkeys(forge.claims(), ABSENT), **asked})

    assert not await revoker.active(token)
    assert (await revoker.post("/introspect", asked)).error == (400, "invalid_request")


async def test_four_claims_of_sixteen_values_are_all_looked_up(start, valkey):
    names = ["a", "b", "c", "d"]
    revoker = await start(valkey, main={"claims": {"revocable": names}})
    asked = claims(**{name: [f"{name}{n}" for n in range(16)] for name in names})
    assert await active(revoker, asked)
    await cut(revoker, "d", "d15", before=time.time() - 3600)
    assert await active(revoker, asked)
    await cut(revoker, "d", "d15")
    assert not await active(revoker, asked)
