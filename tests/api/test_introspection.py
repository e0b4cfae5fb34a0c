"""``POST /introspect``: RFC 7662 to the letter, and the claims form."""

import json
import time

import pytest

from revoker.tokens.jwk import thumbprint
from tests.rig import forge
from tests.rig.forge import ABSENT
from tests.rig.service import OTHER_ISSUER, SECRETS

row = pytest.mark.row

INACTIVE = b'{"active":false}'
UNVARYING = ("Cache-Control", "Pragma", "Content-Type", "Content-Length")
REQUIRED = ("jti", "sub", "iat", "exp")


def form(**fields):
    return {"form": fields, "caller": "gateway"}


async def inactive(revoker, asked, caller="gateway"):
    """Whether the answer is exactly that of a token that is not active."""
    answer = await revoker.post(
        "/introspect", {"token": asked} if isinstance(asked, str) else asked, caller=caller
    )
    assert answer.status == 200, answer.body
    return answer.body == INACTIVE and answer.headers["Content-Type"] == "application/json"


# The token form


@row("7662-01", "7662-08", "7662-18", "9068-03", "HTTP-05")
@pytest.mark.parametrize("as_form", [True, False], ids=["form", "JSON"])
async def test_a_genuine_token_is_active(revoker, as_form):
    token = revoker.token()

    answer = await (
        revoker.post("/introspect", **form(token=token))
        if as_form
        else revoker.post("/introspect", {"token": token}, caller="gateway")
    )

    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Pragma"] == "no-cache"
    assert answer.json["active"] is True


@row("7662-01")
@pytest.mark.parametrize("fields", [{"other": "x"}, {"token": ""}], ids=["absent", "empty"])
async def test_a_form_without_a_token_is_malformed(revoker, fields):
    assert (await revoker.post("/introspect", **form(**fields))).error == (400, "invalid_request")


@row("7662-20")
async def test_a_body_without_fields_is_malformed(revoker):
    answer = await revoker.post(
        "/introspect", b"", caller="gateway", headers={"Content-Type": "application/x-www-form-urlencoded"}
    )

    assert answer.error == (400, "invalid_request")


@row("7662-02", "HTTP-01")
async def test_a_token_in_the_url_of_a_get_is_not_looked_at(revoker, events):
    token = revoker.token()

    answer = await revoker.ask("GET", f"/introspect?token={token}")

    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert token not in repr(events)


@row("7662-03")
@pytest.mark.parametrize("seen_before", [False, True])
async def test_parameters_in_the_url_of_a_post_are_refused_even_beside_a_sound_body(revoker, seen_before):
    token = revoker.token()
    if seen_before:
        assert await revoker.active(token)

    answer = await revoker.post(f"/introspect?token={token}", {"token": token}, caller="gateway")

    assert answer.error == (400, "invalid_request")


@row("7662-12")
@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "foo", ""])
async def test_a_hint_never_changes_the_answer(revoker, hint):
    answer = await revoker.post("/introspect", **form(token=revoker.token(), token_type_hint=hint))

    assert answer.json["active"] is True


@row("7662-22")
async def test_unknown_parameters_are_ignored(revoker):
    token = revoker.token()

    plain = await revoker.post("/introspect", **form(token=token))
    more = await revoker.post("/introspect", **form(token=token, foo="bar", resource="x"))

    assert plain.body == more.body


@row("7662-14")
async def test_the_answer_has_the_types_of_the_standard(revoker):
    now = time.time()
    token = revoker.token(
        iat=now,
        nbf=now - 0.5,
        exp=now + 60.5,
        auth_time=now,
        scope=ABSENT,
        scp=["a", "b"],
        aud=["x", forge.AUDIENCE],
    )

    answer = (await revoker.post("/introspect", {"token": token}, caller="gateway")).json

    assert all(type(answer[name]) is int for name in ("exp", "iat", "nbf", "auth_time"))
    assert answer["scope"] == "a b"
    assert answer["aud"] == ["x", forge.AUDIENCE]
    assert all(type(answer[name]) is str for name in ("jti", "iss", "sub", "client_id", "sid"))
    assert answer["token_type"] == "Bearer"


@row("7662-15")
async def test_what_binds_and_delegates_a_token_passes_unchanged_and_private_claims_stay(revoker):
    more = {
        "cnf": {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"},
        "act": {"sub": "service-1", "act": {"sub": "service-2"}},
        "authorization_details": [{"type": "payment", "amount": {"value": "1.00"}}],
    }
    token = revoker.token(**more, email="user@example.com", preferred_username="alice")

    answer = (await revoker.post("/introspect", {"token": token}, caller="gateway")).json

    assert {name: answer[name] for name in more} == more
    assert (answer["token_type"], answer["username"]) == ("DPoP", "alice")
    assert "email" not in answer


NOT_ACTIVE = {
    "garbage": lambda r: "garbage",
    "dots": lambda r: "a.b.c",
    "expired": lambda r: r.token(iat=int(time.time()) - 300, exp=int(time.time()) - 31),
    "not yet valid": lambda r: r.token(nbf=int(time.time()) + 600),
    "issued in the future": lambda r: r.token(iat=int(time.time()) + 60),
    "issued next year": lambda r: r.token(now=time.time() + 366 * 86400),
    "lives too long": lambda r: r.token(lifetime=86401),
    "other issuer": lambda r: r.token(iss="https://evil.example.com"),
    "other audience": lambda r: r.token(aud="api://billing"),
    "other key": lambda r: forge.token(forge.rsa_key("thief")),
    "without iat": lambda r: r.token(iat=ABSENT),
    "without exp": lambda r: r.token(exp=ABSENT),
    "without jti": lambda r: r.token(jti=ABSENT),
    "without sub": lambda r: r.token(sub=ABSENT),
}


@row("7662-09", "7662-10", "7662-11", "7662-08", "RU-04", "JWT-18", "JWT-19", "JWT-20", "JWT-22", "JWT-10")
@pytest.mark.parametrize("make", NOT_ACTIVE.values(), ids=NOT_ACTIVE.keys())
async def test_whatever_makes_a_token_inactive_is_no_error_and_gives_no_reason(revoker, make):
    assert await inactive(revoker, make(revoker))


@row("7662-10")
async def test_answers_for_revoked_unknown_and_foreign_tokens_are_the_same_to_the_byte(revoker):
    revoked = revoker.token()
    await revoker.post("/revoke", {"token": revoked})

    answers = [
        await revoker.post("/introspect", **form(token=token))
        for token in (revoked, "unknown", revoker.token(aud="api://billing"))
    ]

    assert {answer.body for answer in answers} == {INACTIVE}
    assert len({tuple(answer.headers[name] for name in UNVARYING) for answer in answers}) == 1
    assert len({tuple(answer.headers) for answer in answers}) == 1


@row("7662-11", "ATK-08")
async def test_a_token_for_another_audience_of_the_caller_is_inactive_even_after_others_have_asked(revoker):
    token = revoker.token()

    assert await revoker.active(token, caller="gateway")
    assert await revoker.active(token, caller="orders-only")
    assert await inactive(revoker, token, caller="billing")
    assert await inactive(revoker, forge.claims(), caller="billing")


@row("7662-17", "ATK-08")
async def test_a_remembered_token_is_inactive_right_after_its_revocation(revoker):
    token = revoker.token()
    for _ in range(3):
        assert await revoker.active(token)

    await revoker.post("/revoke", {"token": token})

    assert await inactive(revoker, token)


@row("7662-17", "JWT-18")
async def test_a_remembered_token_is_inactive_once_its_life_and_the_leeway_are_over(start, valkey):
    ahead = 0.0
    revoker = await start(valkey, clock=lambda: time.time() + ahead)
    now = int(time.time())
    token = revoker.token(iat=now - 300, exp=now - 10)
    assert await revoker.active(token)

    ahead = 25.0

    assert await inactive(revoker, token)


# The claims form


@row("7662-08")
async def test_claims_are_answered_with_the_verdict_alone(revoker):
    claims = forge.claims()

    answer = await revoker.post(
        "/introspect", {**claims, "email": "a@b", "deep": {"er": [1]}}, caller="gateway"
    )

    assert answer.body == b'{"active":true}'


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize(
    "value", [ABSENT, None, [], {}, True], ids=["absent", "null", "list", "object", "true"]
)
async def test_claims_that_lack_what_is_required_are_malformed(revoker, name, value):
    claims = forge.claims(**{name: value})

    assert (await revoker.post("/introspect", claims, caller="gateway")).error == (400, "invalid_request")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iat", "1700000000"),
        ("jti", 1),
        ("sub", ""),
        ("jti", ""),
        ("aud", 1),
        ("aud", [1]),
        ("nbf", True),
        ("iss", ["https://idp.example.com"]),
    ],
)
async def test_claims_of_a_wrong_type_are_malformed(revoker, name, value):
    answer = await revoker.post("/introspect", forge.claims(**{name: value}), caller="gateway")

    assert answer.error == (400, "invalid_request")


@pytest.mark.parametrize("value", ["2026-01-01T10:00:00Z", {}, [], True, None, 1e300], ids=repr)
@pytest.mark.parametrize("name", ["sid", "client_id", "azp", "auth_time", "acr", "scope", "nonce"])
async def test_an_optional_claim_that_cannot_be_read_is_absent_in_both_forms(revoker, name, value):
    if isinstance(value, str):
        value = value if name == "auth_time" else 7
    claims = forge.claims(**{name: value})
    token = forge.token(revoker.key, **claims)

    assert await revoker.active(claims)
    assert await revoker.active(forge.envelope(claims))
    assert await revoker.active(token)
    batch = await revoker.post(
        "/introspect/batch", {"tokens": [claims, forge.envelope(claims), {"token": token}]}, caller="gateway"
    )
    assert [result["active"] for result in batch.json["results"]] == [True, True, True]


async def test_a_null_jti_is_absent_in_both_forms(start, valkey):
    revoker = await start(valkey, main={"require_jti": False})
    claims = forge.claims(jti=None, nbf=None)

    assert await revoker.active(claims)
    assert await revoker.active(forge.token(revoker.key, **claims))


BAD = {
    "member twice": b'{"jti":"other",',
    "member twice, spelt in another way": b'{"j\\u0074i":"other",',
    "member of a cutoff twice": b'{"client_id":"other",',
    "bad UTF-8 in a member that is ignored": b'{"name":"\xff",',
    "UTF-8 of a surrogate": b'{"name":"\xed\xa0\x80",',
    "lone surrogate": b'{"sid2":1,"jti":"\\ud800",',
    "NaN": b'{"nbf":NaN,',
    "Infinity": b'{"nbf":-Infinity,',
    "number beyond all numbers": b'{"nbf":1e400,',
    "integer of 5000 digits": b'{"nbf":' + b"9" * 5000 + b",",
    "deep": b'{"x":' + b"[" * 20000 + b"]" * 20000 + b",",
    "two byte order marks": b'\xef\xbb\xbf\xef\xbb\xbf{"x":1,',
    "no object": b'[{"x":1,',
    "comment": b'{/**/"x":1,',
    "single quotes": b"{'x':1,",
}


@row("HTTP-07", "JWT-21")
@pytest.mark.parametrize("beginning", BAD.values(), ids=BAD.keys())
async def test_claims_that_two_readers_could_read_differently_are_malformed(revoker, beginning):
    body = beginning + json.dumps(forge.claims()).encode()[1:]

    answer = await revoker.post("/introspect", body, caller="gateway")

    assert answer.error == (400, "invalid_request")


async def test_claims_in_utf_16_are_malformed(revoker):
    body = json.dumps(forge.claims()).encode("utf-16")

    assert (await revoker.post("/introspect", body, caller="gateway")).error == (400, "invalid_request")


async def test_a_duplicate_token_is_not_looked_at(revoker):
    body = json.dumps({"token": revoker.token()})
    again = body[1:].replace("token", r"t\u006fken")

    for repeated in (f"{body[:-1]},{body[1:]}", f"{body[:-1]},{again}"):
        assert (await revoker.post("/introspect", repeated.encode(), caller="gateway")).error == (
            400,
            "invalid_request",
        )


async def test_members_of_nested_objects_are_not_taken_for_the_tokens_own(revoker):
    claims = forge.claims(act={"sub": "other", "jti": "other", "iat": 1}, name="Zoë")

    assert await revoker.active(claims)


@row("JWT-21")
@pytest.mark.parametrize("exponent", [53, 63, 64, 400, 1030])
@pytest.mark.parametrize("name", ["iat", "exp", "nbf"])
async def test_dates_far_beyond_any_date_are_inactive_and_break_nothing(revoker, name, exponent):
    claims = forge.claims(iat=time.time()) | {name: 2**exponent + 1}

    assert await inactive(revoker, claims)


@row("JWT-20", "JWT-21")
@pytest.mark.parametrize(
    "changes",
    [
        {"iat": -1},
        {"iat": 1e308},
        {"exp": 1e308},
        {"exp": -1e308},
        {"iat": -1e308},
        {"nbf": 1e308},
        {"exp": 0},
        {"iat": 0},
    ],
    ids=str,
)
async def test_claims_with_dates_that_no_token_bears_are_inactive(revoker, changes):
    assert await inactive(revoker, forge.claims(**changes))


# One form excludes the others

CLAIMS = ("iss", "jti", "sub", "iat", "exp", "sid", "client_id", "azp", "aud", "auth_time", "nbf")


async def everywhere(revoker, asked):
    """The answers of all that take a token in either form: errors, or whether it is active."""
    alone = [await revoker.post(path, asked) for path in ("/introspect", "/explain")]
    batch = (await revoker.post("/introspect/batch", {"tokens": [asked, forge.claims()]})).json["results"]
    assert batch[1] == {"active": True}
    return {answer.json.get("error", answer.json.get("active")) for answer in alone} | {
        batch[0].get("error", batch[0].get("active"))
    }


async def test_a_good_token_beside_the_claims_of_a_revoked_one_gives_no_verdict(revoker):
    revoked, good = forge.claims(jti="gone"), revoker.token(sub="mallory")
    await revoker.post("/revoke", {"iss": forge.ISSUER, "jti": "gone"})
    assert await everywhere(revoker, revoked) == {False}

    assert await everywhere(revoker, {**revoked, "token": good}) == {"invalid_request"}
    assert await everywhere(revoker, {"token": good, **forge.envelope(revoked)}) == {"invalid_request"}
    assert await everywhere(revoker, forge.envelope({**revoked, "token": good})) == {False}


@pytest.mark.parametrize("name", CLAIMS)
async def test_a_token_is_alone(revoker, name):
    value = forge.claims(azp="a", auth_time=1, nbf=1)[name]

    assert await everywhere(revoker, {"token": revoker.token(), name: value}) == {"invalid_request"}
    for path in ("/introspect", "/explain"):
        answer = await revoker.post(path, form={"token": revoker.token(), name: str(value)})
        if name == "client_id":  # a credential where it is in a form
            assert answer.json["active"] is True
        else:
            assert answer.error == (400, "invalid_request")


@row("7662-01")
async def test_what_clients_of_rfc_7662_send_beside_a_token_is_ignored(revoker):
    more = {"token_type_hint": "access_token", "resource": "https://api.example.com", "kid": "other"}
    caller = {"client_id": "admin", "client_secret": SECRETS["admin"]}

    for path in ("/introspect", "/explain"):
        for sent in (
            {"body": {"token": revoker.token(), **more}},
            {"form": {"token": revoker.token(), **more}},
            {"form": {"token": revoker.token(), **more, **caller}, "caller": None},
        ):
            assert (await revoker.post(path, **sent)).json["active"] is True, (path, sent)


async def test_the_name_of_a_caller_is_no_claim_of_the_token_that_it_asks_about(revoker):
    caller = {"client_id": "admin", "client_secret": SECRETS["admin"]}
    claims = {name: str(forge.claims()[name]) for name in ("iss", "jti", "sub", "iat", "exp")}
    await revoker.post("/revoke-client", {"iss": forge.ISSUER, "client_id": "admin"})

    answer = await revoker.post("/explain", form={**claims, **caller}, caller=None)

    assert answer.json["active"] is True


async def test_the_envelope_is_judged_like_the_claims_in_it(revoker):
    good, foreign = forge.claims(), forge.claims(iss="https://nobody.example.com")
    expired, revoked = forge.claims(now=1_000_000), forge.claims(jti="gone")
    await revoker.post("/revoke", {"iss": forge.ISSUER, "jti": "gone"})

    answer = await revoker.post(
        "/introspect", forge.envelope({**good, "act": {"sub": "x"}}), caller="gateway"
    )
    assert answer.body == b'{"active":true}'
    for claims in (foreign, expired, revoked):
        assert await everywhere(revoker, forge.envelope(claims)) == {False}


@pytest.mark.parametrize(
    "asked",
    [
        {"claims": forge.claims()},
        {"header": {"kid": "main-1"}},
        {"claims": {}, "header": {"kid": "main-1"}},
        {"claims": None, "header": {"kid": "main-1"}},
        {"claims": [], "header": {"kid": "main-1"}},
        {"claims": "e30", "header": {"kid": "main-1"}},
        *({"claims": forge.claims(), "header": header} for header in (None, "x", [], {}, {"alg": "RS256"})),
        *({"claims": forge.claims(), "header": {"kid": kid}} for kid in (None, "", 7, ["main-1"])),
        *({**forge.envelope(forge.claims()), name: forge.claims()[name]} for name in ("jti", "iss", "exp")),
        {**forge.claims(), "header": {"kid": "main-1"}},
        {**forge.claims(), "claims": forge.claims()},
        {**forge.envelope(forge.claims()), "sid": {}},
        {**forge.envelope(forge.claims()), "auth_time": "yesterday"},
        forge.envelope({**forge.claims(), "iat": "1700000000"}),
        forge.envelope({**forge.claims(), "sub": None}),
    ],
)
async def test_half_an_envelope_and_one_with_claims_beside_it_are_malformed(revoker, asked):
    assert await everywhere(revoker, asked) == {"invalid_request"}


@pytest.mark.parametrize(
    ("part", "twice"),
    [
        ('"jti":', '"jti":"other","jti":'),
        ('"jti":', '"\\u006ati":"other","jti":'),
        ('"kid":', '"kid":"other","kid":'),
        ('"kid":', '"\\u006bid":"other","kid":'),
        ('"header":', '"header":{"kid":"other"},"header":'),
        ('"header":', '"claims":{},"header":'),
        ('"kid":', '"jwk":{"x":1,"x":2},"kid":'),
    ],
)
async def test_a_duplicate_member_in_an_envelope_is_malformed(revoker, part, twice):
    whole = json.dumps(forge.envelope(forge.claims()), separators=(",", ":"))
    assert whole.count(part) == 1
    sent = whole.replace(part, twice)

    for path in ("/introspect", "/explain"):
        assert (await revoker.post(path, sent.encode())).error == (400, "invalid_request")
    batch = f'{{"tokens":[{whole},{sent}]}}'.encode()
    results = (await revoker.post("/introspect/batch", batch)).json["results"]
    assert results == [{"active": True}, {"error": "invalid_request"}]


# Whose token is meant


async def test_the_issuer_may_be_left_out_only_where_one_is_meant(revoker):
    claims = forge.claims(iss=ABSENT)

    assert (await revoker.post("/introspect", claims, caller="gateway")).error == (400, "invalid_request")
    assert await revoker.active(claims, caller="one-issuer")


async def test_a_left_out_issuer_means_the_one_that_the_caller_may_use(revoker):
    claims = forge.claims(iss=ABSENT, jti="left-out")

    await revoker.post("/revoke", {"iss": OTHER_ISSUER, "jti": "left-out"})

    assert await inactive(revoker, claims, caller="one-issuer")
    assert await revoker.active(forge.claims(jti="left-out"))


async def test_a_caller_bound_to_an_issuer_sees_no_other(revoker):
    main, other = revoker.token(), forge.token(forge.rsa_key("other-1"), iss=OTHER_ISSUER)

    assert await revoker.active(other, caller="one-issuer")
    assert await inactive(revoker, main, caller="one-issuer")
    assert await inactive(revoker, forge.claims(), caller="one-issuer")


async def test_claims_of_an_unknown_issuer_are_inactive(revoker):
    assert await inactive(revoker, forge.claims(iss="https://nobody.example.com"))


async def test_the_audience_of_claims_is_the_gateways_business_unless_it_is_bound_to_some(revoker):
    claims = forge.claims(aud="api://elsewhere")

    assert await revoker.active(claims, caller="gateway")
    assert await inactive(revoker, claims, caller="orders-only")
    assert await inactive(revoker, forge.claims(aud=ABSENT), caller="orders-only")
    assert await revoker.active(forge.claims(aud=["x", forge.AUDIENCE]), caller="orders-only")


async def test_a_thief_of_a_key_without_a_name_gains_nothing_by_any_kid(start, valkey, idp):
    """Such a key verifies tokens whatever their ``kid`` is, at gateways too."""
    stolen = forge.rsa_key("main-1")
    entry = {name: value for name, value in forge.jwks(stolen)["keys"][0].items() if name != "kid"}
    idp.keys = {"keys": [entry]}
    revoker = await start(valkey, main=idp.terms)
    claims = forge.claims()
    envelopes = [forge.envelope(claims, kid) for kid in ("main-1", "device-7")]
    for envelope in envelopes:
        assert await everywhere(revoker, envelope) == {True}

    kid = thumbprint({name: entry[name] for name in ("e", "kty", "n")})
    assert (await revoker.post("/revoke-key", {"iss": forge.ISSUER, "kid": kid})).status == 200

    for envelope in envelopes:
        assert await inactive(revoker, envelope)
        assert (await revoker.post("/explain", envelope)).json["reason"] == "key_revoked"
    batch = await revoker.post("/introspect/batch", {"tokens": envelopes})
    assert batch.json["results"] == [{"active": False}] * 2


async def test_a_revoked_key_without_a_name_ends_no_other_issuers_tokens(start, valkey, idp):
    stolen = forge.rsa_key("main-1")
    entry = {name: value for name, value in forge.jwks(stolen)["keys"][0].items() if name != "kid"}
    idp.keys = {"keys": [entry]}
    revoker = await start(valkey, main=idp.terms)
    kid = thumbprint({name: entry[name] for name in ("e", "kty", "n")})

    await revoker.post("/revoke-key", {"iss": OTHER_ISSUER, "kid": kid})

    assert await everywhere(revoker, forge.envelope(forge.claims(), "device-7")) == {True}
