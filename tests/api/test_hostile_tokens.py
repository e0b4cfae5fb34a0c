"""One token of every hostile class, over HTTP; tests/tokens has them in depth."""

import json
import time

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.rig import forge
from tests.rig.forge import ABSENT, base64url, claims, compact, header_of, mac
from tests.rig.service import OTHER_ISSUER

row = pytest.mark.row

KEY = forge.rsa_key("main-1")
OTHER = forge.rsa_key("other-1")
PEM = KEY.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def raw(payload):
    return forge.forge(KEY, header_of(KEY), payload)


def with_header(**header):
    return forge.token(KEY, header)


def doubled(name, value):
    return raw((json.dumps(claims())[:-1] + f',"{name}":{value}}}').encode())


def cut_signature():
    return forge.token(KEY).rpartition(".")[0] + "."


HOSTILE = {
    "JWT-01 JSON serialization": lambda: json.dumps({"payload": "e30", "signatures": []}),
    "JWT-01 padding": lambda: forge.token(KEY) + "==",
    "JWT-02 other text for the same bytes": lambda: forge.token(KEY)[:-1] + "-",
    "JWT-03 header is a list": lambda: forge.forge(KEY, b"[]", claims()),
    "JWT-03 payload is a string": lambda: raw(b'"x"'),
    "JWT-03 UTF-16": lambda: raw(json.dumps(claims()).encode("utf-16")),
    "JWT-04 sub twice": lambda: doubled("sub", '"root"'),
    "JWT-05 NaN": lambda: doubled("x", "NaN"),
    "JWT-06 alg none": lambda: compact({"alg": "none", "typ": "at+jwt"}, claims(), lambda _: b""),
    "JWT-06 alg nOnE": lambda: compact({"alg": "nOnE"}, claims(), lambda _: b"x"),
    "JWT-07 public key as a secret": lambda: compact({"alg": "HS256", "kid": "main-1"}, claims(), mac(PEM)),
    "JWT-07 other algorithm": lambda: forge.forge(KEY, header_of(KEY, alg="PS256"), claims(), alg="PS256"),
    "JWT-09 no signature": cut_signature,
    "JWT-10 key of another issuer": lambda: forge.token(OTHER, iss=forge.ISSUER),
    "JWT-10 issuer with a slash": lambda: forge.token(KEY, iss=forge.ISSUER + "/"),
    "JWT-11 kid is a path": lambda: with_header(kid="../../../dev/null"),
    "JWT-11 kid is a list": lambda: with_header(kid=["main-1"]),
    "JWT-12 key in the header": lambda: forge.token(
        OTHER, {"jwk": OTHER.jwk(), "jku": "http://127.0.0.1:9/"}
    ),
    "JWT-13 unknown kid": lambda: with_header(kid="nobody"),
    "JWT-14 crit": lambda: with_header(crit=["exp"]),
    "JWT-14 crit empty": lambda: with_header(crit=[]),
    "JWT-15 b64 false": lambda: with_header(b64=False, crit=["b64"]),
    "JWT-16 JWE": lambda: ".".join(
        [base64url(b'{"alg":"dir","enc":"A128GCM","zip":"DEF"}'), "", "a", "b", "c"]
    ),
    "JWT-17 too long": lambda: forge.token(KEY, x="x" * 16_384),
    "JWT-17 too deep": lambda: raw(b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}"),
    "JWT-17 digits": lambda: doubled("x", "9" * 5000),
    "JWT-18 exp is a string": lambda: forge.token(KEY, exp=str(int(time.time()) + 60)),
    "JWT-18 exp is true": lambda: forge.token(KEY, exp=True),
    "JWT-18 expired": lambda: forge.token(KEY, iat=int(time.time()) - 99, exp=int(time.time()) - 40),
    "JWT-19 nbf ahead": lambda: forge.token(KEY, nbf=int(time.time()) + 60),
    "JWT-20 iat is negative": lambda: forge.token(KEY, iat=-1),
    "JWT-20 iat after exp": lambda: forge.token(KEY, iat=int(time.time()), exp=int(time.time()) - 1),
    "JWT-21 exp beyond all dates": lambda: forge.token(KEY, exp=2**63),
    "JWT-22 aud is a prefix": lambda: forge.token(KEY, aud=forge.AUDIENCE + "0"),
    "JWT-22 aud is nested": lambda: forge.token(KEY, aud=[[forge.AUDIENCE]]),
    "JWT-22 aud is absent": lambda: forge.token(KEY, aud=ABSENT),
    "JWT-23 jti is a number": lambda: forge.token(KEY, jti=1),
    "JWT-23 sub is empty": lambda: forge.token(KEY, sub=""),
    "JWT-24 lone surrogate": lambda: doubled("jti2", '"\\ud800"'),
    "KIND-01 ID token": lambda: forge.token(KEY, {"typ": "JWT"}, nonce="n", at_hash="h"),
    "KIND-01 refresh token": lambda: forge.token(KEY, {"typ": "JWT"}, typ="Refresh"),
    "KIND-01 logout token": lambda: with_header(typ="logout+jwt"),
    "KIND-01 security event": lambda: forge.token(KEY, events={"https://e": {}}),
    "KIND-01 introspection answer": lambda: with_header(typ="token-introspection+jwt"),
    "KIND-01 DPoP proof": lambda: with_header(typ="dpop+jwt"),
    "KIND-01 status list": lambda: with_header(typ="statuslist+jwt"),
    "KIND-01 client assertion": lambda: with_header(typ="client-authentication+jwt"),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_token_is_inactive_costs_little_and_revokes_nothing(revoker, make, events):
    token = make()
    began = time.process_time()

    answers = [
        await revoker.post("/introspect", {"token": token}),
        await revoker.post("/introspect", form={"token": token}),
        await revoker.post("/introspect/batch", {"tokens": [{"token": token}]}),
    ]

    assert time.process_time() - began < 5, "s of the processor, whoever else uses it"
    assert [answer.json for answer in answers] == [
        {"active": False},
        {"active": False},
        {"results": [{"active": False}]},
    ]
    assert not [event for event in events if event["log_level"] == "error"]


@row("JWT-12", "JWT-25", "JWT-26", "JWT-18", "JWT-22")
@pytest.mark.parametrize(
    ("header", "changes"),
    [
        ({"jku": "http://127.0.0.1:9/", "jwk": OTHER.jwk(), "x5u": "http://127.0.0.1:9/"}, {}),
        ({"typ": "AT+JWT"}, {}),
        ({"typ": "application/at+jwt"}, {}),
        ({"typ": "JWT"}, {}),
        ({"typ": ABSENT}, {}),
        ({}, {"unknown": {"deep": [1, None]}}),
        ({}, {"exp": int(time.time()) + 7200.5}),
        ({}, {"aud": ["x", forge.AUDIENCE]}),
    ],
    ids=[
        "addresses of keys",
        "typ in capitals",
        "typ in full",
        "typ JWT",
        "no typ",
        "claims",
        "fraction",
        "audiences",
    ],
)
async def test_a_sound_token_that_looks_odd_is_active(revoker, header, changes):
    assert await revoker.active(forge.token(KEY, header, **changes))


@row("9068-01", "9068-02")
async def test_an_issuer_may_be_held_to_rfc_9068(start, valkey):
    revoker = await start(valkey, main={"require_typ": "at+jwt"})
    assert await revoker.active(forge.token(KEY))
    assert await revoker.active(forge.token(KEY, {"typ": "application/AT+JWT"}))

    for name in ("iss", "exp", "aud", "sub", "client_id", "iat", "jti"):
        assert not await revoker.active(forge.token(KEY, **{name: ABSENT})), name
    for typ in ("JWT", "id_token+jwt", ABSENT):
        assert not await revoker.active(forge.token(KEY, {"typ": typ}))


@row("JWT-10", "ATK-07")
async def test_the_keys_of_an_issuer_are_its_own(revoker):
    assert await revoker.active(forge.token(OTHER, iss=OTHER_ISSUER))
    assert not await revoker.active(forge.token(KEY, iss=OTHER_ISSUER))


@row("ATK-01", "JWT-02")
async def test_a_twin_of_a_revoked_token_is_revoked_with_it(start, valkey, tmp_path):
    key = forge.ec_key("ec")
    path = tmp_path / "ec.jwks"
    path.write_text(json.dumps(forge.jwks(key)))
    revoker = await start(valkey, main={"jwks_file": str(path), "algorithms": ["ES256"]})
    token = forge.token(key, jti="twin")
    head, _, signature = token.rpartition(".")
    raw_signature = forge.parts(token)[2]
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    other_s = order - int.from_bytes(raw_signature[32:])
    twin = f"{head}.{base64url(raw_signature[:32] + other_s.to_bytes(32))}"
    assert await revoker.active(token)
    assert await revoker.active(twin), "the same token to ECDSA"

    await revoker.post("/revoke", form={"token": token})

    assert not await revoker.active(twin)
    assert signature not in twin


@row("ATK-05")
async def test_logging_a_user_out_everywhere_takes_one_key_however_many_tokens_there_are(revoker, valkey):
    tokens = [forge.claims(sub="busy", jti=str(number), sid=str(number)) for number in range(300)]
    batch = {"tokens": tokens}
    assert (await revoker.post("/introspect/batch", batch)).json == {"results": [{"active": True}] * 300}
    prefix = revoker.service._settings.redis.key_prefix
    with valkey.client() as client:
        before = set(client.scan_iter(f"{prefix}:*"))
        await revoker.post("/revoke-user", {"iss": forge.ISSUER, "sub": "busy"})
        made = set(client.scan_iter(f"{prefix}:*")) - before

    of_user = {key.partition("}:")[2] for key in made if key.endswith(":user")}
    assert of_user == {"user", "audit:user"}, "what verdicts read, and who did it"
    assert all(key.endswith((":user", ":writers", ":journal")) or ":seq" in key for key in made)
    assert (await revoker.post("/introspect/batch", batch)).json == {"results": [{"active": False}] * 300}


@row("ATK-04")
async def test_a_store_that_is_full_refuses_to_say_that_it_has_revoked(start, own_valkey):
    revoker = await start(own_valkey)
    token, revoked = revoker.token(), revoker.token()
    assert (await revoker.post("/revoke", {"token": revoked})).status == 200
    with own_valkey.client() as client:
        client.config_set("maxmemory", "1mb")

    assert (await revoker.post("/revoke", {"token": token})).error == (503, "temporarily_unavailable")
    assert await revoker.active(token)
    assert not await revoker.active(revoked)


@row("ATK-11")
@pytest.mark.parametrize("step", [-3600, 3600])
async def test_a_clock_that_jumps_gives_no_verdicts_rather_than_wrong_ones(start, valkey, step):
    ahead = 0.0
    revoker = await start(valkey, clock=lambda: time.time() + ahead)
    revoked, fresh = revoker.token(), revoker.token()
    await revoker.post("/revoke", {"token": revoked})

    ahead = step

    for token in (revoked, fresh):
        assert (await revoker.post("/introspect", {"token": token})).error == (503, "temporarily_unavailable")
    ahead = 0.0
    assert not await revoker.active(revoked)
    assert await revoker.active(fresh)
