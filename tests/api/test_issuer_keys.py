"""Key sets as providers publish them: names, defects, replaced keys, and keys that cannot be loaded."""

import asyncio
import base64
import json

import pytest

from revoker.app import KEYS_WAIT_S
from revoker.tokens.jwk import thumbprint
from revoker.tokens.key_fetching import COOL_DOWN_S
from tests.rig import forge
from tests.rig.forge import ABSENT
from tests.rig.service import OTHER_ISSUER

KEY = forge.rsa_key("main-1")
REPLACED = forge.SigningKey(forge.rsa_key("successor").private, "RS256", "main-1")
NEW_KEY = forge.rsa_key("main-2")
THIEF = forge.SigningKey(forge.rsa_key("thief").private, "RS256", "main-1")
ED25519, ED448 = forge.ed_key("ed25519"), forge.ed_key("ed448", "Ed448")


class Clock:
    """A monotonic clock that is moved by hand."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def fetching(start, valkey, idp, clock):
    """Start a service that fetches the keys of ``main`` from ``idp``."""

    async def begin(ready=True, **main):
        return await start(valkey, main={**idp.terms, **main}, monotonic=clock, ready=ready)

    return begin


async def verdicts(revoker, *tokens):
    answer = await revoker.post("/introspect/batch", {"tokens": [{"token": token} for token in tokens]})
    return [result["active"] for result in answer.json["results"]]


async def revoke(revoker, token):
    return (await revoker.post("/revoke", form={"token": token})).status


def named(event, events):
    return [line for line in events if line["event"] == event]


# Names of algorithms (RFC 9864)


@pytest.mark.parametrize("setting", ["EdDSA", "Ed25519", "Ed448"])
@pytest.mark.parametrize("published", ["EdDSA", "by curve", None, ABSENT])
async def test_an_edwards_curve_is_a_name_of_eddsa(fetching, idp, setting, published):
    keys = {"Ed25519": ED25519, "Ed448": ED448}
    idp.keys = forge.jwks(
        KEY, *(key.jwk(alg=curve if published == "by curve" else published) for curve, key in keys.items())
    )
    revoker = await fetching(algorithms=["RS256", setting])

    for curve, key in keys.items():
        for header in ("EdDSA", "Ed25519", "Ed448"):
            token = forge.token(key, {"alg": header}, jti=f"{curve}-{header}")
            expected = setting in ("EdDSA", curve) and header in ("EdDSA", curve)
            assert await revoker.active(token) is expected, (curve, header)
            nameless = forge.token(key, {"alg": header, "kid": ABSENT}, jti=f"{curve}-{header}")
            assert await revoker.active(nameless) is expected, (curve, header)


async def test_a_curve_that_is_not_allowed_makes_no_fetch(fetching, idp):
    idp.keys = forge.jwks(ED25519, ED448)
    revoker = await fetching(algorithms=["Ed25519"])
    fetches = idp.fetches

    for header in ({"alg": "Ed448"}, {"alg": "Ed448", "kid": "unknown"}, {"alg": "RS256", "kid": "unknown"}):
        assert not await revoker.active(forge.token(ED448, header))
        assert await revoke(revoker, forge.token(ED448, header)) == 200

    assert idp.fetches == fetches


# Defects of key sets


def padded(jwk):
    """The key as encoders write it that pad base64url."""
    return {
        name: value + "=" * (-len(value) % 4) if name in ("n", "e", "x", "y") else value
        for name, value in jwk.items()
    }


@pytest.mark.parametrize("key", [KEY, forge.ec_key("ec"), ED25519], ids=lambda key: key.alg)
async def test_null_is_absent_and_padding_is_tolerated_in_a_key(fetching, idp, events, key):
    plain = key.jwk(kid=None, alg=None, use=None, key_ops=None)
    assert padded(plain) != plain
    idp.keys = {"keys": [padded(plain)]}
    revoker = await fetching(algorithms=["RS256", "ES256", "EdDSA"])
    token = forge.token(key, {"kid": ABSENT})
    assert await revoker.active(token)

    kid = thumbprint({name: plain[name] for name in ("crv", "e", "kty", "n", "x", "y") if name in plain})
    revoked = await revoker.post("/revoke-key", {"iss": forge.ISSUER, "kid": kid})

    assert revoked.status == 200
    assert not await revoker.active(token)
    assert not named("issuer key skipped", events)


async def test_padding_in_a_token_is_malformed(fetching):
    revoker = await fetching()

    header, payload, signature = revoker.token().split(".")
    for text in (f"{header}=.{payload}.{signature}", f"{header}.{payload}.{signature}=="):
        assert not await revoker.active(text)


async def test_a_key_that_is_skipped_is_logged_once(fetching, idp, clock, events):
    standard_base64 = base64.b64encode(b"\xff" * 256).decode()
    bad = [KEY.jwk(kid="odd", n=standard_base64), forge.rsa_key("short", bits=1024).jwk(), 7]
    not_ours = [
        KEY.jwk(kid="enc", use="enc"), KEY.jwk(kid="oaep", alg="RSA-OAEP"), forge.ec_key("ec").jwk(),
        {"kty": "AKP", "kid": "later"},
    ]  # fmt: skip
    idp.keys = forge.jwks(*bad, *not_ours, KEY)
    revoker = await fetching()

    async def refetch():
        clock.now += COOL_DOWN_S
        fetches = idp.fetches
        assert not await revoker.active(forge.token(NEW_KEY))
        assert idp.fetches == fetches + 1

    def skipped(level):
        lines = named("issuer key skipped", events)
        assert {line["issuer"] for line in lines} == {"main"}
        return [(line["kid"], line["reason"]) for line in lines if line["log_level"] == level]

    warnings = [
        (None, "not an object"), ("odd", "n is not base64url"), ("short", "1024 bits long"),
    ]  # fmt: skip
    assert skipped("warning") == warnings
    assert [kid for kid, _ in skipped("debug")] == ["ec", "enc", "later", "oaep"]

    await refetch()
    assert len(named("issuer key skipped", events)) == 7

    idp.keys = forge.jwks(KEY.jwk(kid="odd", n=7), *bad[1:], *not_ours, KEY)
    await refetch()
    assert skipped("warning") == [*warnings, ("odd", "n is not a string")]


async def test_thousands_of_bad_keys_do_not_flood_the_log(fetching, idp, events):
    idp.keys = forge.jwks(*(KEY.jwk(kid=str(number), n=7) for number in range(2000)), KEY)
    revoker = await fetching()

    assert await revoker.active(revoker.token())
    assert len(named("issuer key skipped", events)) == 16


async def test_a_map_of_certificates_is_called_by_its_name(fetching, idp, events):
    idp.keys = {"main-1": "-----BEGIN CERTIFICATE-----\nMIIC\n-----END CERTIFICATE-----\n"}
    revoker = await fetching(ready=False)
    assert (await revoker.post("/introspect", {"token": revoker.token()})).status == 503

    message = "this is a map of PEM certificates; use the provider's JWK endpoint"
    (problem,) = (await problems(revoker)).values()
    assert message in problem
    assert any(message in line["fault"] for line in named("issuer keys not read", events))


async def test_a_set_without_a_usable_key_names_the_reasons(fetching, idp):
    idp.keys = forge.jwks(KEY.jwk(use="enc"), forge.ec_key("ec"))
    revoker = await fetching(ready=False)
    assert (await revoker.post("/introspect", {"token": revoker.token()})).status == 503

    (problem,) = (await problems(revoker)).values()
    assert "no usable key: fits no algorithm of the issuer, not for signatures" in problem


# A key that was replaced under the same kid


async def test_a_key_that_was_replaced_under_its_name_verifies_at_once(fetching, idp):
    revoker = await fetching()
    old = revoker.token()
    assert await revoker.active(old)
    idp.keys = forge.jwks(REPLACED)

    assert await revoker.active(forge.token(REPLACED, jti="new"))
    assert not await revoker.active(old)


async def test_a_batch_reads_the_keys_again_once(fetching, idp):
    revoker = await fetching()
    fetches, idp.keys = idp.fetches, forge.jwks(REPLACED)

    tokens = [forge.token(key, jti=f"{key.kid}-{n}") for n in range(3) for key in (REPLACED, THIEF)]
    assert await verdicts(revoker, *tokens) == [True, False] * 3
    assert idp.fetches == fetches + 1


async def test_a_token_of_a_key_that_was_replaced_is_revoked(fetching, idp):
    revoker = await fetching()
    idp.keys = forge.jwks(REPLACED)
    token = forge.token(REPLACED, jti="new")

    assert await revoke(revoker, token) == 200
    assert not await revoker.active(token)
    assert await revoker.active(forge.token(REPLACED, jti="another"))


async def test_a_key_that_was_replaced_in_a_file_is_read_at_once(start, valkey, tmp_path):
    revoker = await start(valkey)
    (tmp_path / "main.jwks").write_text(json.dumps(forge.jwks(REPLACED)))
    token = forge.token(REPLACED, jti="new")

    assert await revoke(revoker, token) == 200
    assert not await revoker.active(token)
    assert await revoker.active(forge.token(REPLACED, jti="another"))


async def test_forged_signatures_make_one_fetch_in_a_cool_down(fetching, idp, clock):
    revoker = await fetching()

    for _ in range(3):
        fetches = idp.fetches
        for number in range(5):
            forged = [forge.token(THIEF, jti=f"{number}-{n}") for n in range(10)]
            assert not any(await asyncio.gather(*map(revoker.active, forged)))
            assert not any(await verdicts(revoker, *forged))
        assert idp.fetches == fetches + 1
        clock.now += COOL_DOWN_S


async def test_honest_tokens_do_not_wait_while_forged_ones_do(fetching, idp):
    revoker = await fetching()
    idp.gate.clear()
    idp.fetched.clear()
    forged = [asyncio.create_task(revoker.active(forge.token(THIEF, jti=str(n)))) for n in range(20)]
    await idp.fetched.wait()

    for _ in range(20):
        assert await revoker.active(revoker.token())
        assert await revoke(revoker, revoker.token()) == 200
    assert not any(asked.done() for asked in forged)

    idp.gate.set()
    assert not any(await asyncio.gather(*forged))


async def test_forged_signatures_do_not_delay_the_fetch_for_a_new_name(fetching, idp):
    revoker = await fetching()
    assert not await revoker.active(forge.token(THIEF))
    fetches, idp.keys = idp.fetches, forge.jwks(KEY, NEW_KEY)

    assert await revoker.active(forge.token(NEW_KEY))
    assert not await revoker.active(forge.token(THIEF, jti="2"))
    assert idp.fetches == fetches + 1


async def test_a_key_that_was_replaced_can_be_used_to_revoke_once_the_cool_down_is_over(fetching, idp, clock):
    revoker = await fetching()
    genuine = forge.token(REPLACED, jti="new")
    assert await revoke(revoker, forge.token(THIEF)) == 200
    idp.keys = forge.jwks(REPLACED)

    clock.now += COOL_DOWN_S
    assert await revoke(revoker, genuine) == 200
    assert not await revoker.active(genuine)
    assert await revoker.active(forge.token(REPLACED, jti="another"))


async def test_forgeries_are_answered_alike_while_the_keys_cannot_be_read_again(fetching, idp):
    revoker = await fetching()
    idp.keys = {"keys": []}

    for _ in range(2):
        assert await revoke(revoker, forge.token(THIEF)) == 200
    assert await revoke(revoker, revoker.token()) == 200
    assert not await revoker.active(forge.token(THIEF, jti="2"))


# Readiness


async def problems(revoker, status=503):
    answer = await revoker.ask("GET", "/readyz")
    assert answer.status == status
    return {problem["problem"]: problem["detail"] for problem in answer.json["problems"]}


async def metric(revoker):
    text = (await revoker.ask("GET", "/metrics")).body.decode()
    return 'revoker_problem{problem="keys_never_loaded"} 1.0' in text


async def until_reached(revoker):
    while not revoker.service.store.reached:
        await asyncio.sleep(0.01)


async def test_an_issuer_without_keys_delays_readiness_for_ten_seconds(fetching, idp, clock, events):
    idp.keys = {"keys": []}
    revoker = await fetching(ready=False)
    await until_reached(revoker)
    main = revoker.token()
    other = forge.token(forge.rsa_key("other-1"), iss=OTHER_ISSUER)
    assert (await revoker.post("/introspect", {"token": main})).status == 503

    clock.now += KEYS_WAIT_S - 0.001
    assert list(await problems(revoker)) == ["keys_never_loaded"]
    assert not named("ready without issuer keys", events)

    clock.now += 0.001
    for _ in range(2):
        assert await problems(revoker, 200) == {
            "keys_never_loaded": "of issuer main: ValueError: no usable key: the set is empty"
        }
    assert (await revoker.ask("GET", "/readyz")).json["status"] == "degraded"
    assert await metric(revoker)
    (warning,) = named("ready without issuer keys", events)
    assert (warning["log_level"], warning["issuer"]) == ("warning", "main")
    assert warning["place"] in idp.terms["jwks_uri"] and "/" not in warning["place"]
    assert "the set is empty" in warning["fault"]

    assert await revoker.active(other)
    assert (await revoker.post("/introspect", {"token": main})).error == (503, "temporarily_unavailable")
    assert await revoke(revoker, main) == 503

    idp.keys = forge.jwks(KEY)
    clock.now += COOL_DOWN_S
    assert await revoker.active(main)
    assert await problems(revoker, 200) == {}
    assert not await metric(revoker)


async def test_a_provider_that_does_not_answer_delays_readiness_no_longer(fetching, idp, clock):
    idp.gate.clear()
    revoker = await fetching(ready=False)
    await until_reached(revoker)
    await idp.fetched.wait()
    assert await problems(revoker) == {"keys_never_loaded": "of issuer main: no answer yet"}

    clock.now += KEYS_WAIT_S

    assert list(await problems(revoker, 200)) == ["keys_never_loaded"]


async def test_without_its_store_a_service_is_not_ready_however_long_it_waits(start, own_valkey, clock):
    own_valkey.kill()
    revoker = await start(own_valkey, new=False, ready=False, monotonic=clock)
    clock.now += 10 * KEYS_WAIT_S

    assert (await revoker.ask("GET", "/readyz")).status == 503
