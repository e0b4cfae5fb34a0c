"""Tokens that must be accepted, and what is made of them."""

import asyncio
import dataclasses
import json

import pytest

from revoker.errors import InvalidToken, KeysUnavailable
from revoker.models import Claims
from revoker.tokens.jwk import VerifyingKey
from revoker.tokens.key_files import JwksFile
from tests.rig.forge import (
    ABSENT,
    AUDIENCE,
    ISSUER,
    claims,
    ec_key,
    ed_key,
    forge,
    header_of,
    hmac_key,
    rsa_key,
    token,
)
from tests.tokens.conftest import trusting

KEY = rsa_key()
THIEF = rsa_key("thief")
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


async def test_a_verified_token_says_what_its_payload_says(verifier_of):
    verifier = await verifier_of(KEY)
    verified = await verifier.verify(
        token(KEY, now=1000, jti="j", auth_time=900.5, nbf=990, azp="spa", acr="mfa", cnf={"jkt": "t"})
    )

    assert verified.claims == Claims(
        iss=ISSUER, jti="j", sub="user-1", iat=1000, exp=1300, kid="rsa-1", sid="session-1", client_id="web",
        azp="spa", aud=AUDIENCE, auth_time=900.5, nbf=990,
    )  # fmt: skip
    assert verified.issuer.name == "main"
    assert (verified.scope, verified.acr, verified.cnf) == ("orders:read orders:write", "mfa", {"jkt": "t"})
    assert verified.key.live


async def test_the_answer_has_the_members_of_rfc_7662_and_no_other_claims(verifier_of):
    verifier = await verifier_of(KEY)
    claims = {
        "now": 1000, "jti": "j", "auth_time": 900.5, "nbf": 990.9, "acr": "mfa", "amr": ["pwd"],
        "cnf": {"jkt": "t"}, "act": {"sub": "a"}, "authorization_details": [{"type": "x"}],
    }  # fmt: skip
    private = {"preferred_username": "jane", "email": "jane@example.com", "roles": ["r"], "active": False}

    verified = await verifier.verify(token(KEY, **claims, **private))

    assert json.loads(verified.answer) == {
        "active": True, "scope": "orders:read orders:write", "client_id": "web", "username": "jane",
        "token_type": "DPoP", "exp": 1300, "iat": 1000, "nbf": 990, "sub": "user-1", "aud": AUDIENCE,
        "iss": ISSUER, "jti": "j", "sid": "session-1", "auth_time": 900, "acr": "mfa", "amr": ["pwd"],
        "cnf": {"jkt": "t"}, "act": {"sub": "a"}, "authorization_details": [{"type": "x"}],
    }  # fmt: skip


async def test_the_answer_leaves_out_what_the_token_does_not_say_in_earnest(verifier_of):
    verifier = await verifier_of(KEY, require_jti=False)
    claims = {"iss": ISSUER, "sub": "u", "aud": [AUDIENCE, "x"], "azp": "spa", "preferred_username": 7}
    bare = forge(KEY, header_of(KEY), claims)

    assert json.loads((await verifier.verify(bare)).answer) == {
        "active": True, "iss": ISSUER, "sub": "u", "aud": [AUDIENCE, "x"], "client_id": "spa",
        "token_type": "Bearer",
    }  # fmt: skip


@pytest.mark.parametrize(
    "key",
    [*(rsa_key(alg, alg) for alg in ALGORITHMS if alg[0] in "RP"),
     *(ec_key(alg, alg) for alg in ("ES256", "ES384", "ES512")),
     ed_key("Ed25519"), ed_key("Ed448", "Ed448")],
    ids=lambda key: key.kid,
)  # fmt: skip
async def test_every_algorithm_verifies_its_tokens(verifier_of, key):
    verifier = await verifier_of(key, algorithms=ALGORITHMS)

    assert (await verifier.verify(token(key))).claims.kid == key.kid


@pytest.mark.parametrize(("alg", "size"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
async def test_a_shared_secret_verifies_its_tokens(hmac_verifier, alg, size):
    verifier = await hmac_verifier(b"s" * size + b"\n", [alg])

    assert await verifier.verify(token(hmac_key(b"s" * size, alg)))
    assert await verifier.verify(token(hmac_key(b"s" * size, alg, kid="whatever")))
    with pytest.raises(InvalidToken, match="signature"):
        await verifier.verify(token(hmac_key(b"s" * (size - 1) + b"t", alg)))


@pytest.mark.parametrize("aud", [AUDIENCE, [AUDIENCE], ["x", AUDIENCE], [AUDIENCE, AUDIENCE]], ids=repr)
async def test_jwt_22_one_audience_of_ours_suffices(verifier_of, aud):
    verifier = await verifier_of(KEY, audiences=("api://billing", AUDIENCE))

    assert (await verifier.verify(token(KEY, aud=aud))).claims.aud == aud


@pytest.mark.parametrize("required", ["at+jwt", "application/AT+JWT"])
@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+Jwt"])
async def test_jwt_25_a_media_type_has_no_case_and_no_need_of_its_prefix(verifier_of, typ, required):
    verifier = await verifier_of(KEY, require_typ=required)

    assert await verifier.verify(token(KEY, {"typ": typ}))


@pytest.mark.parametrize("typ", [ABSENT, "JWT", "jwt", "application/jwt", "at+jwt"], ids=repr)
async def test_d_08_an_ordinary_typ_will_do_where_none_is_required(verifier_of, typ):
    verifier = await verifier_of(KEY)

    assert await verifier.verify(token(KEY, {"typ": typ}))


async def test_a_required_typ_other_than_at_jwt_asks_for_no_claims_of_rfc_9068(verifier_of):
    verifier = await verifier_of(KEY, require_typ="JWT")

    assert await verifier.verify(token(KEY, {"typ": "JWT"}, client_id=ABSENT))
    with pytest.raises(InvalidToken, match="required typ"):
        await verifier.verify(token(KEY, {"typ": "at+jwt"}))


async def test_jwt_26_unknown_claims_and_header_members_are_ignored(verifier_of):
    verifier = await verifier_of(KEY)
    plain = await verifier.verify(token(KEY, jti="j", now=1))

    strange = await verifier.verify(
        token(KEY, {"x": [1, {"y": None}]}, jti="j", now=1, x=[{"y": 1.5}], z=None)
    )

    assert strange.claims == plain.claims and strange.answer == plain.answer


@pytest.mark.parametrize(
    "jti",
    ["ключ", "\U0001f511", "\0", "a:b:{c}", "j" * 9000, "\u202e", "\u00e9", "e\u0301", " ", "\ufeff"],
    ids=repr,
)
async def test_jwt_24_any_text_may_be_the_name_of_a_token(verifier_of, jti):
    verifier = await verifier_of(KEY)
    escaped = token(KEY, jti=jti)
    plain = forge(KEY, header_of(KEY), json.dumps(claims(jti=jti), ensure_ascii=False).encode())

    for text in (escaped, plain):
        verified = await verifier.verify(text)
        assert verified.claims.jti == json.loads(verified.answer)["jti"] == jti
        assert (await verifier.verify_origin(text)).claims.jti == jti


@pytest.mark.parametrize("iat", [1_500_000_000.5, 1_500_000_000, 1.5e9, 0, -1], ids=repr)
async def test_jwt_18_a_date_may_have_a_fraction(verifier_of, iat):
    verifier = await verifier_of(KEY)

    assert (await verifier.verify(token(KEY, iat=iat, exp=1_500_000_300.25))).claims.iat == iat


async def test_times_are_not_judged_here(verifier_of):
    verifier = await verifier_of(KEY)

    assert await verifier.verify(token(KEY, now=1))
    assert await verifier.verify(token(KEY, now=10**11))
    assert (await verifier.verify(token(KEY, iat=ABSENT, exp=ABSENT))).claims.exp is None


async def test_a_token_needs_no_jti_where_the_issuer_writes_none(verifier_of):
    verifier = await verifier_of(KEY, require_jti=False)

    assert (await verifier.verify(token(KEY, jti=ABSENT))).claims.jti is None
    with pytest.raises(InvalidToken, match="jti"):
        await verifier.verify(token(KEY, jti=""))


@pytest.mark.parametrize(
    ("claims", "scope"),
    [
        ({"scope": "a b"}, "a b"),
        ({"scope": ""}, ""),
        ({"scope": ABSENT}, ""),
        ({"scope": ABSENT, "scp": "a b"}, "a b"),
        ({"scope": ABSENT, "scp": ["a", "b"]}, "a b"),
        ({"scope": ABSENT, "scp": []}, ""),
        ({"scope": "a", "scp": ["b"]}, "a"),
    ],
    ids=repr,
)
async def test_the_scope_is_found_wherever_issuers_put_it(verifier_of, claims, scope):
    verifier = await verifier_of(KEY)
    verified = await verifier.verify(token(KEY, **claims))

    assert verified.scope == scope
    assert json.loads(verified.answer).get("scope", "") == scope


@pytest.mark.parametrize(
    ("typ", "more"),
    [
        ("at+jwt", {"nonce": "n"}),
        ("JWT", {"nonce": "n", "typ": "Bearer"}),
        ("JWT", {"nonce": "n", "typ": "DPoP"}),
        ("JWT", {"at_hash": "h", "token_use": "access"}),
        ("JWT", {"typ": 1, "token_use": ["id"]}),
    ],
    ids=repr,
)
async def test_an_access_token_may_look_a_little_like_an_id_token(verifier_of, typ, more):
    verifier = await verifier_of(KEY)

    assert await verifier.verify(token(KEY, {"typ": typ}, **more))


async def test_the_key_of_a_token_is_the_one_that_verified_it_whatever_its_header_says(verifier_of):
    nameless = rsa_key(None)
    verifier = await verifier_of(nameless, KEY)

    claimed = await verifier.verify(token(nameless, {"kid": "innocent"}))
    unnamed = await verifier.verify(token(nameless))
    named = await verifier.verify(token(KEY, {"kid": ABSENT}))

    assert claimed.claims.kid == unnamed.claims.kid == claimed.key.id
    assert len(claimed.claims.kid) == 43
    assert named.claims.kid == KEY.kid
    origin = await verifier.verify_origin(token(nameless, {"kid": "innocent"}))
    assert origin.claims.kid == claimed.key.id


async def test_a_nameless_token_is_tried_with_every_key_of_its_issuer(verifier_of):
    crowd = [ec_key(f"crowd-{number}") for number in range(40)]
    verifier = await verifier_of(*crowd, algorithms=["ES256"])

    for number in (0, 15, 16, 17, 39):
        nameless = token(crowd[number], {"kid": ABSENT})
        assert (await verifier.verify(nameless)).claims.kid == f"crowd-{number}"
        assert (await verifier.verify_origin(nameless)).claims.kid == f"crowd-{number}"
    for verify in (verifier.verify, verifier.verify_origin):
        with pytest.raises(InvalidToken, match="signature"):
            await verify(token(ec_key("stranger"), {"kid": ABSENT}))


async def test_many_keys_of_one_name_all_verify(verifier_of):
    crowd = [dataclasses.replace(ec_key(f"crowd-{number}"), kid="crowd") for number in range(40)]
    verifier = await verifier_of(*crowd, algorithms=["ES256"])

    assert await verifier.verify(token(crowd[39]))
    for verify in (verifier.verify, verifier.verify_origin):
        with pytest.raises(InvalidToken, match="signature"):
            await verify(token(ec_key("stranger"), {"kid": "crowd"}))


async def test_others_have_their_turn_while_many_keys_are_tried(verifier_of):
    crowd = [ec_key(f"crowd-{number}") for number in range(40)]
    verifier = await verifier_of(*crowd, algorithms=["ES256"])
    order = []

    async def ask(name, text):
        await verifier.verify(text)
        order.append(name)

    nameless = token(crowd[39], {"kid": ABSENT})
    await asyncio.gather(ask("nameless", nameless), ask("named", token(crowd[0])))

    assert order == ["named", "nameless"]


async def test_all_who_ask_about_one_nameless_token_get_the_same_answer(verifier_of):
    crowd = [ec_key(f"crowd-{number}") for number in range(40)]
    verifier = await verifier_of(*crowd, algorithms=["ES256"])
    text = token(crowd[39], {"kid": ABSENT})

    verified = await asyncio.gather(*(verifier.verify(text) for _ in range(5)))

    assert {result.claims.kid for result in verified} == {"crowd-39"}


async def test_keys_for_another_algorithm_do_not_count_among_those_that_are_tried(verifier_of):
    crowd = [KEY.jwk(kid=f"crowd-{number}") for number in range(16)]
    verifier = await verifier_of(*crowd, ec_key(), algorithms=["RS256", "ES256"])

    assert await verifier.verify(token(ec_key(), {"kid": ABSENT}))


async def test_two_keys_of_one_name_both_verify(verifier_of):
    one, other = rsa_key("twin"), ec_key("twin")
    verifier = await verifier_of(one, other, one, algorithms=["RS256", "ES256"])

    assert (await verifier.verify(token(one))).claims.kid == "twin"
    assert (await verifier.verify(token(other))).claims.kid == "twin"


async def test_no_keys_at_all_is_no_verdict(tmp_path, metrics):
    verifier = trusting(JwksFile("main", tmp_path / "missing", ["RS256"], metrics), metrics)

    for verify in (verifier.verify, verifier.verify_origin):
        with pytest.raises(KeysUnavailable):
            await verify(token(KEY))
        with pytest.raises(InvalidToken, match="not trusted"):
            await verify(token(KEY, iss="https://elsewhere.example.com"))


async def test_the_origin_of_any_genuine_token_is_certain(verifier_of):
    verifier = await verifier_of(KEY, require_typ="at+jwt")
    logout = token(
        KEY, {"typ": "logout+jwt"}, aud="rp", exp="never", iat=None, sid=7, sub="", jti=ABSENT, events={}
    )
    genuine = await verifier.verify_origin(logout)

    assert genuine.claims == Claims(iss=ISSUER, aud="rp", kid="rsa-1", client_id="web")
    assert (genuine.typ, genuine.payload["events"], genuine.issuer.name) == ("logout+jwt", {}, "main")


@pytest.mark.parametrize(
    "hostile",
    [token(THIEF, {"kid": KEY.kid}), token(THIEF, {"kid": ABSENT}), token(KEY, {"alg": "none"}), "x"],
)
async def test_a_forged_token_has_no_origin(verifier_of, hostile):
    verifier = await verifier_of(KEY)

    with pytest.raises(InvalidToken):
        await verifier.verify_origin(hostile)


async def test_the_origin_of_a_token_whose_kid_is_in_no_key_set_is_unknown(verifier_of):
    verifier = await verifier_of(KEY)

    for _ in range(2):
        with pytest.raises(KeysUnavailable):
            await verifier.verify_origin(token(THIEF))


async def test_tokens_that_come_together_are_judged_separately(verifier_of):
    verifier = await verifier_of(KEY)
    bad = [
        token(THIEF, {"kid": KEY.kid}),
        token(KEY, aud="another"),
        token(KEY, iss="https://elsewhere.example.com"),
        token(THIEF),
        "x",
    ]
    texts = [token(KEY, jti=str(place)) if place % 4 else bad[place % 5] for place in range(60)]

    found = await asyncio.gather(*map(verifier.verify, texts), return_exceptions=True)

    for place, outcome in enumerate(found):
        if place % 4:
            assert outcome.claims.jti == str(place)
        else:
            assert isinstance(outcome, InvalidToken)


async def test_who_is_gone_takes_no_verdict_from_others_who_ask_for_the_same_token(verifier_of):
    verifier, text = await verifier_of(KEY), token(KEY)
    gone, *others = (asyncio.ensure_future(verifier.verify(text)) for _ in range(4))
    await asyncio.sleep(0)  # all of them wait now
    gone.cancel()

    found = await asyncio.gather(*others)

    assert gone.cancelled()
    assert found[0].claims.jti and all(result is found[0] for result in found)


async def test_a_fault_reaches_only_who_asked_for_the_token_that_shows_it(verifier_of, monkeypatch):
    verifier, good, odd = await verifier_of(KEY), token(KEY, jti="good"), token(KEY, jti="odd")
    verifies = VerifyingKey.verifies

    def faulty(self, alg, signing_input, signature):
        if odd.startswith(signing_input.decode()):
            raise RuntimeError("a fault")
        return verifies(self, alg, signing_input, signature)

    monkeypatch.setattr(VerifyingKey, "verifies", faulty)

    found = await asyncio.gather(verifier.verify(odd), verifier.verify(good), return_exceptions=True)

    assert isinstance(found[0], RuntimeError) and found[1].claims.jti == "good"
