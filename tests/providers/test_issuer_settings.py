"""The settings of ``[[issuers]]`` for tokens that do not look like RFC 9068, in every form of a question."""

import json
import time

import pytest

from tests.rig import forge
from tests.rig.forge import ABSENT

MAPPED = {
    "require_jti": True,
    "claims": {
        "jti": ["uti"],
        "sub": ["oid", "sub"],
        "sid": ["session_id", "sid"],
        "client_id": ["cid", "appid"],
        "scope": ["permissions"],
    },
}
ALIAS = "https://sts.example.com/"


def mapped_claims(**changes):
    """Claims of a token of an issuer with other names, and without the standard ones."""
    names = {"jti": ABSENT, "sid": ABSENT, "client_id": ABSENT, "scope": ABSENT}
    own = {
        "uti": "token-1",
        "oid": "object-1",
        "session_id": "s-1",
        "cid": "app-1",
        "permissions": ["a", "b"],
    }
    return forge.claims(**{**names, **own, **changes})


async def forms(revoker, claims, **header):
    """Whether a token is active: in the token form, both claims forms, a batch of them, and to a gateway."""
    token = forge.token(
        revoker.key, header, **{**forge.claims(), **dict.fromkeys(forge.claims(), ABSENT), **claims}
    )
    asked = [{"token": token}, claims, forge.envelope(claims)]
    verdicts = [await revoker.active(item) for item in asked]
    batch = await revoker.post("/introspect/batch", {"tokens": asked}, caller="gateway")
    verdicts += [result["active"] for result in batch.json["results"]]
    headers = {"X-Revoker-Key": "gateway-secret", "Authorization": f"Bearer {token}"}
    async with revoker.http.get(revoker.url + "/forward-auth", headers=headers) as response:
        verdicts.append(response.status == 200)
    for item in asked:
        verdicts.append((await revoker.post("/explain", item)).json["active"])
    return verdicts


async def active(revoker, claims, **header):
    """Whether a token is active, which must be the same in every form."""
    verdicts = await forms(revoker, claims, **header)
    assert len(set(verdicts)) == 1, verdicts
    return verdicts[0]


async def test_claims_are_read_by_the_names_that_the_issuer_gives_them(start, valkey):
    revoker = await start(valkey, main=MAPPED)
    claims = mapped_claims()

    assert await active(revoker, claims)

    token = forge.token(revoker.key, **{**dict.fromkeys(forge.claims(), ABSENT), **claims})
    answer = (await revoker.post("/introspect", {"token": token}, caller="gateway")).json
    assert {name: answer[name] for name in ("jti", "sub", "sid", "client_id", "scope")} == {
        "jti": "token-1", "sub": "object-1", "sid": "s-1", "client_id": "app-1", "scope": "a b",
    }  # fmt: skip
    headers = {"X-Revoker-Key": "gateway-secret", "Authorization": f"Bearer {token}"}
    async with revoker.http.get(revoker.url + "/forward-auth", headers=headers) as response:
        found = {
            name: response.headers[f"X-Auth-{name}"] for name in ("Subject", "Session", "Client", "Scope")
        }
    assert found == {"Subject": "object-1", "Session": "s-1", "Client": "app-1", "Scope": "a b"}


REVOCATIONS = {
    "token": ("/revoke", {"jti": "token-1"}),
    "user": ("/revoke-user", {"sub": "object-1"}),
    "session": ("/revoke-session", {"sid": "s-1"}),
    "client": ("/revoke-client", {"client_id": "app-1"}),
    "block": ("/block-user", {"sub": "object-1"}),
}


@pytest.mark.parametrize(("path", "body"), REVOCATIONS.values(), ids=REVOCATIONS.keys())
async def test_a_revocation_reaches_mapped_tokens_and_not_their_neighbours(start, valkey, path, body):
    revoker = await start(valkey, main=MAPPED)
    claims = mapped_claims(sub="user-9")
    neighbour = mapped_claims(uti="token-2", oid="object-2", session_id="s-2", cid="app-2", sub="object-1",
                              sid="s-1", appid="app-1", jti="token-1", client_id="app-1")  # fmt: skip

    assert (await revoker.post(path, {"iss": forge.ISSUER, **body})).status == 200

    assert not await active(revoker, claims)
    assert await active(revoker, neighbour)


async def test_revoking_a_mapped_token_by_its_text_reaches_its_other_forms(start, valkey):
    revoker = await start(valkey, main=MAPPED)
    claims = mapped_claims()
    token = forge.token(revoker.key, **{**dict.fromkeys(forge.claims(), ABSENT), **claims})

    assert (await revoker.post("/revoke", {"token": token})).status == 200

    assert not await active(revoker, claims)


@pytest.mark.parametrize("unreadable", [{}, [], 7, True, None, ""], ids=repr)
async def test_the_first_name_that_can_be_read_is_used(start, valkey, unreadable):
    revoker = await start(valkey, main=MAPPED)
    claims = mapped_claims(session_id=unreadable, sid="s-old", cid=unreadable, appid="app-old")

    assert await active(revoker, claims)
    await revoker.post("/revoke-session", {"iss": forge.ISSUER, "sid": "s-old"})
    assert not await active(revoker, claims)
    other = mapped_claims(session_id="s-3", cid=unreadable, appid="app-old")
    assert await active(revoker, other)
    await revoker.post("/revoke-client", {"iss": forge.ISSUER, "client_id": "app-old"})
    assert not await active(revoker, other)


@pytest.mark.parametrize("name", ["uti", "oid"])
@pytest.mark.parametrize("value", [7, {}, ["x"]], ids=repr)
async def test_an_identity_that_is_no_text_is_refused_in_both_forms(start, valkey, name, value):
    revoker = await start(valkey, main=MAPPED)
    claims = mapped_claims(**{name: value})
    token = forge.token(revoker.key, **{**dict.fromkeys(forge.claims(), ABSENT), **claims})

    assert not await revoker.active(token)
    for asked in (claims, forge.envelope(claims)):
        assert (await revoker.post("/introspect", asked, caller="gateway")).error == (400, "invalid_request")
    batch = await revoker.post("/introspect/batch", {"tokens": [claims, mapped_claims()]}, caller="gateway")
    assert batch.json["results"] == [{"error": "invalid_request"}, {"active": True}]


async def test_a_machine_token_is_identified_by_its_client(start, valkey):
    revoker = await start(valkey, main={"claims": {"sub": ["sub", "client_id"]}})

    for sub in (ABSENT, "", None):
        claims = forge.claims(sub=sub, client_id=f"machine-{sub}")
        assert await active(revoker, claims)
        await revoker.post("/revoke-user", {"iss": forge.ISSUER, "sub": f"machine-{sub}"})
        assert not await active(revoker, claims)


async def test_a_revocation_under_one_name_of_the_issuer_holds_under_all(start, valkey):
    revoker = await start(valkey, main={"issuer_aliases": [ALIAS]})
    first, second = forge.claims(), forge.claims(iss=ALIAS)
    assert await active(revoker, first)
    assert await active(revoker, second)
    answer = await revoker.post(
        "/introspect", {"token": forge.token(revoker.key, **second)}, caller="gateway"
    )
    assert answer.json["iss"] == ALIAS

    await revoker.post("/revoke-user", {"iss": ALIAS, "sub": "user-1"})

    assert not await active(revoker, first)
    assert not await active(revoker, second)


async def test_an_alias_is_one_issuer_to_its_callers(start, valkey):
    """A caller that may use one issuer may leave it out, whatever its aliases are."""
    revoker = await start(valkey, other={"issuer_aliases": [ALIAS]})

    answer = await revoker.post("/revoke-user", {"sub": "user-1"}, caller="one-issuer")

    assert answer.status == 200
    by_alias = await revoker.post("/revoke-user", {"iss": ALIAS, "sub": "user-1"}, caller="one-issuer")
    assert by_alias.status == 200


@pytest.mark.parametrize("aud", [ABSENT, [], None], ids=repr)
async def test_without_an_audience_the_client_decides(start, valkey, aud):
    revoker = await start(valkey, main={"client_ids": ["web"]})
    token = revoker.token(aud=aud)

    assert await revoker.active(token)
    assert await revoker.active(revoker.token(aud=aud, client_id=ABSENT, azp="web"))
    for other in (
        revoker.token(aud=aud, client_id="spa"),
        revoker.token(aud=aud, client_id=ABSENT),
        revoker.token(aud="api://billing"),
        revoker.token(aud=[""]),
        revoker.token(aud=""),
    ):
        assert not await revoker.active(other)
    assert (await revoker.post("/explain", {"token": revoker.token(aud=aud, client_id="spa")})).json[
        "why"
    ] == "audience"


async def test_an_issuer_without_audiences_accepts_its_clients_alone(start, valkey):
    revoker = await start(valkey, main={"audiences": [], "client_ids": ["web"]})

    assert await revoker.active(revoker.token(aud=ABSENT))
    assert not await revoker.active(revoker.token())


ID_TOKENS = [
    {"nonce": "n", "scope": ABSENT},
    {"at_hash": "h"},
    {"c_hash": "h"},
    {"typ": "ID"},
    {"token_use": "id"},
]


@pytest.mark.parametrize("more", ID_TOKENS, ids=repr)
async def test_id_tokens_are_accepted_where_the_settings_say_so(start, valkey, more):
    strict = await start(valkey)
    lenient = await start(valkey, main={"accept_id_tokens": True})

    token = forge.token(strict.key, {"typ": "JWT"}, **more)

    assert not await strict.active(token)
    assert (await strict.post("/explain", {"token": token})).json["why"] == "kind"
    assert await lenient.active(token)


@pytest.mark.parametrize("more", [{"events": {}}, {"typ": "Refresh"}, {"token_use": "refresh"}], ids=repr)
async def test_other_kinds_than_id_tokens_stay_refused(start, valkey, more):
    revoker = await start(valkey, main={"accept_id_tokens": True})

    assert not await revoker.active(forge.token(revoker.key, {"typ": "JWT"}, **more))


async def test_a_login_after_the_cutoff_is_active_although_its_date_lies_before(start, valkey):
    now = time.time()
    revoker = await start(valkey, main={"iat_backdated": 300})
    cutoff = (await revoker.post("/revoke-user", {"iss": forge.ISSUER, "sub": "user-1"})).json

    assert cutoff["iat_after"] == pytest.approx(cutoff["cutoff"] + 2 - 300)
    assert await active(revoker, forge.claims(now=int(cutoff["iat_after"]) + 1))
    assert not await active(revoker, forge.claims(now=int(cutoff["iat_after"])))
    assert not await active(revoker, forge.claims(now=now - 1000, lifetime=3600))


async def test_every_issuer_has_its_own_longest_lifetime(start, valkey):
    revoker = await start(
        valkey, main={"max_token_lifetime": 30 * 86400}, revocation={"max_token_lifetime": 3600}
    )
    month = forge.claims(lifetime=30 * 86400)

    assert await active(revoker, month)
    assert not await active(revoker, forge.claims(lifetime=30 * 86400 + 1))
    await revoker.post("/revoke", {"iss": forge.ISSUER, "jti": month["jti"], "exp": month["exp"]})
    assert not await active(revoker, month)
    too_far = {"iss": "https://other.example.com", "jti": "x", "exp": month["exp"]}
    assert (await revoker.post("/revoke", too_far)).error == (400, "invalid_request")


async def test_a_token_beside_claims_stays_refused_where_claims_have_other_names(start, valkey):
    revoker = await start(valkey, main=MAPPED)

    asked = {**mapped_claims(), "token": revoker.token()}

    assert (await revoker.post("/introspect", asked, caller="gateway")).error == (400, "invalid_request")


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")], ids=["compact", "spaced"])
@pytest.mark.parametrize("name", ["uti", "session_id", "name", "inner"])
@pytest.mark.parametrize("form", [dict, forge.envelope])
async def test_a_repeated_member_is_refused_where_claims_have_other_names(
    start, valkey, separators, name, form
):
    comma, colon = separators
    revoker = await start(valkey, main=MAPPED)
    claims = mapped_claims(name="x", outer={"inner": 1})
    whole = json.dumps(form(claims), separators=separators)
    twice = whole.replace(f'"{name}"', f'"{name}"{colon}"other"{comma}"{name}"')

    answer = await revoker.post("/introspect", twice.encode(), caller="gateway")
    assert answer.error == (400, "invalid_request")
    batch = f'{{"tokens":[{twice},{whole}]}}'.encode()
    answer = await revoker.post("/introspect/batch", batch, caller="gateway")
    assert answer.json["results"] == [{"error": "invalid_request"}, {"active": True}]


async def test_the_names_of_claims_are_the_same_under_every_name_of_the_issuer(start, valkey):
    revoker = await start(valkey, main={**MAPPED, "issuer_aliases": [ALIAS]})
    claims = mapped_claims(iss=ALIAS)

    assert await active(revoker, claims)
    await revoker.post("/revoke-user", {"iss": forge.ISSUER, "sub": "object-1"})
    assert not await active(revoker, claims)


async def test_a_jti_that_is_no_text_is_refused_even_if_it_is_not_needed(start, valkey):
    revoker = await start(
        valkey, main={"require_jti": False, "claims": {"jti": ["jti", "uti"], "revocable": ["tenant"]}}
    )

    for separators in ((",", ":"), (", ", ": ")):
        body = json.dumps(forge.claims(jti=7), separators=separators).encode()
        assert (await revoker.post("/introspect", body, caller="gateway")).error == (400, "invalid_request")
        batch = await revoker.post("/introspect/batch", b'{"tokens":[%b]}' % body, caller="gateway")
        assert batch.json["results"] == [{"error": "invalid_request"}]


@pytest.mark.parametrize("times", [1, 200])
async def test_one_batch_may_ask_about_issuers_with_and_without_other_names(start, valkey, times):
    """It is read at once, or item by item if it is long."""
    revoker = await start(valkey, main=MAPPED)
    other = forge.claims(iss="https://other.example.com", sub="object-1")
    await revoker.post("/revoke-user", {"iss": forge.ISSUER, "sub": "object-1"})
    asked = [other, mapped_claims(), mapped_claims(oid="object-2"), forge.envelope(mapped_claims())]

    answer = await revoker.post("/introspect/batch", {"tokens": asked * times}, caller="gateway")

    assert [result["active"] for result in answer.json["results"]] == [True, False, True, False] * times


WHY = {
    "malformed": lambda key: "no.token.at all",
    "issuer": lambda key: forge.token(key, iss="https://unheard-of.example.com"),
    "signature": lambda key: forge.token(forge.rsa_key("main-1", bits=3072)),
    "key": lambda key: forge.token(forge.rsa_key("unheard-of")),
    "kind": lambda key: forge.token(key, {"typ": "logout+jwt"}),
    "audience": lambda key: forge.token(key, aud="api://billing"),
    "sub": lambda key: forge.token(key, sub=ABSENT),
    "jti": lambda key: forge.token(key, jti=ABSENT),
    "exp": lambda key: forge.token(key, exp="soon"),
    "cnf": lambda key: forge.token(key, cnf="x"),
}


@pytest.mark.parametrize(("why", "make"), WHY.items(), ids=WHY.keys())
async def test_explain_names_the_test_that_an_invalid_token_failed(revoker, events, why, make):
    answer = await revoker.post("/explain", {"token": make(revoker.key)})

    assert answer.json == {"active": False, "reason": "invalid", "why": why, "standing": []}
    [line] = [event for event in events if event["event"] == "token_explained"]
    assert line["why"] == why


async def test_a_forged_signature_under_no_key_id_is_called_that(revoker):
    forged = forge.token(forge.rsa_key("stranger"), {"kid": ABSENT})

    answer = await revoker.post("/explain", {"token": forged})

    assert (answer.json["reason"], answer.json["why"]) == ("invalid", "signature")


async def test_explain_gives_no_such_reason_for_other_tokens(revoker):
    assert "why" not in (await revoker.post("/explain", {"token": revoker.token()})).json
    assert "why" not in (await revoker.post("/explain", {"token": revoker.token(exp=1, iat=1)})).json
