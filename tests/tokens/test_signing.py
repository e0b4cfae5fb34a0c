import dataclasses
import json
import os
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from revoker.errors import ConfigError, InvalidToken, KeysUnavailable
from revoker.tokens.jwk import UnusableKey, thumbprint
from revoker.tokens.keystore import AHEAD_S
from revoker.tokens.private_keys import SigningKey, key_in, read_key
from revoker.tokens.signing import SigningKeys
from tests.rig import forge
from tests.tokens.conftest import Clock, trusting

KEYS = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
PRIVATE_MEMBERS = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}


def pem(private, form=PrivateFormat.PKCS8, encryption=None):
    return private.private_bytes(Encoding.PEM, form, encryption or NoEncryption())


def jwk(key=None, **changes):
    return json.dumps((key or forge.ec_key("own")).private_jwk(**changes)).encode()


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "keys"
    made.mkdir()
    return made


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def signing_keys(folder, metrics, clock):
    """Make the source of the folder; its clock is at 1000, and it is not polled."""
    return lambda: SigningKeys("sessions", folder, metrics, clock=clock)


def put(folder, kid, *, now=None, **dates):
    """Write a key of this name with these dates, and return it."""
    key = forge.ec_key(kid)
    (folder / f"{kid}.jwk").write_bytes(jwk(key, **dates))
    return key


def kids(source, now=1000.0, revoked=()):
    return [entry["kid"] for entry in json.loads(source.jwks(now, revoked))["keys"]]


@pytest.mark.parametrize("alg", KEYS)
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_a_pem_file_signs_with_the_usual_algorithm_of_its_key(alg, form):
    if alg == "EdDSA" and form is PrivateFormat.TraditionalOpenSSL:
        form = PrivateFormat.PKCS8
    key = read_key(pem(KEYS[alg], form), 5.0)

    token = key.key.sign({"sub": "alice", "iat": 1})

    assert jwt.decode(token, KEYS[alg].public_key(), algorithms=[alg], options={"verify_iat": False}) == {
        "sub": "alice",
        "iat": 1,
    }
    assert jwt.get_unverified_header(token) == {"typ": "at+jwt", "alg": alg, "kid": key.key.kid}
    assert (key.signs_from, key.until) == (5.0, None)


def test_the_kid_of_a_pem_file_is_the_thumbprint_of_its_key():
    key = read_key(pem(KEYS["RS256"]), 0).key

    assert key.kid == thumbprint({name: key.public[name] for name in ("e", "kty", "n")})


@pytest.mark.parametrize(
    ("alg", "key"), [("PS256", forge.rsa_key("named")), ("RS512", forge.rsa_key("named"))]
)
def test_a_jwk_says_by_what_name_and_algorithm_it_signs(alg, key):
    made = read_key(jwk(key, alg=alg), 0).key

    token = made.sign({"sub": "alice"})

    assert jwt.get_unverified_header(token) == {"typ": "at+jwt", "alg": alg, "kid": "named"}
    assert jwt.decode(token, key.private.public_key(), algorithms=[alg]) == {"sub": "alice"}


def test_a_jwk_says_from_when_it_signs_and_until_when_it_is_published():
    key = read_key(jwk(nbf=50, exp=70.5), 5.0)

    assert (key.signs_from, key.until) == (50.0, 70.5)


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"{}",
        b"not a key",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        pem(rsa.generate_private_key(65537, 1024)),
        pem(KEYS["RS256"], encryption=BestAvailableEncryption(b"passphrase")),
        pem(ec.generate_private_key(ec.SECP256K1())),
        KEYS["ES256"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(forge.ec_key("own").jwk()).encode(),
        jwk(kid=""),
        jwk(kid=7),
        jwk(kid="two\nlines"),
        jwk(alg="RS256"),
        jwk(alg="none"),
        jwk(alg=["ES256"]),
        jwk(use="enc"),
        jwk(key_ops=["verify"]),
        jwk(nbf="soon"),
        jwk(nbf=True),
        jwk(exp=-1),
        jwk(d="AAAA="),
        jwk(kty="oct", k="c2VjcmV0"),
        jwk() + jwk(),
    ],
)
def test_a_file_that_is_no_sound_private_key_is_refused_without_quoting_it(contents):
    with pytest.raises(UnusableKey) as refused:
        read_key(contents, 0)

    assert "BEGIN" not in str(refused.value) and '"d"' not in str(refused.value)


def test_ed448_signs_too():
    private = ed448.Ed448PrivateKey.generate()

    assert jwt.decode(SigningKey(private).sign({"sub": "a"}), private.public_key(), algorithms=["EdDSA"]) == {
        "sub": "a"
    }


def test_a_folder_without_a_key_stops_the_start(folder, signing_keys):
    with pytest.raises(ConfigError, match="signing_keys_dir: holds no key to sign with"):
        signing_keys()


def test_a_folder_whose_keys_are_all_retired_stops_the_start(folder, signing_keys):
    put(folder, "old", nbf=1, exp=5000)

    with pytest.raises(ConfigError, match="holds no key to sign with"):
        signing_keys()


def test_a_folder_that_is_not_there_stops_the_start(folder, signing_keys):
    folder.rmdir()

    with pytest.raises(ConfigError, match="holds no key to sign with"):
        signing_keys()


def test_the_newest_key_whose_time_has_come_signs(folder, signing_keys):
    put(folder, "a-newer", nbf=900)
    put(folder, "z-older", nbf=100)
    put(folder, "m-next", nbf=1100)
    source = signing_keys()

    assert source.signer(899, ()).kid == "z-older"
    assert source.signer(900, ()).kid == "a-newer"
    assert source.signer(1099.9, ()).kid == "a-newer"
    assert source.signer(1100, ()).kid == "m-next"


@pytest.mark.parametrize(
    ("name", "date"),
    [
        ("1970-01-01T0020Z.pem", 1200.0),
        ("1970-01-01T002005Z.pem", 1205.0),
        ("1970-01-01T002005Z-b.pem", 1205.0),
        ("1970-01-01T002005Z", 1205.0),
        ("first.pem", None),
        ("1970-01-01.pem", None),
        ("1970-13-01T0020Z.pem", None),
        ("1970-01-01T0020Zulu.pem", None),
        ("1970-01-01T00205Z.pem", None),
        ("b-1970-01-01T0020Z.pem", None),
    ],
)
def test_the_name_of_a_file_may_begin_with_the_date_from_which_its_key_signs(folder, name, date):
    (folder / name).write_bytes(pem(KEYS["EdDSA"]))
    os.utime(folder / name, (600, 600))

    assert key_in(folder / name).signs_from == date


def test_the_date_in_a_jwk_counts_and_not_that_in_the_name_of_its_file(folder):
    (folder / "1970-01-01T0020Z.jwk").write_bytes(jwk(nbf=500))

    assert key_in(folder / "1970-01-01T0020Z.jwk").signs_from == 500


def test_when_it_was_made_says_which_of_two_keys_of_one_date_is_newer(folder, signing_keys):
    put(folder, "b", nbf=500, iat=499.5)
    put(folder, "a", nbf=500, iat=499.75)
    put(folder, "c", nbf=500, iat="yesterday")

    assert kids(signing_keys()) == ["c", "b", "a"]
    assert signing_keys().signer(1000, ()).kid == "a"


async def test_a_pem_file_signs_from_the_date_in_its_name(folder, signing_keys, clock):
    put(folder, "jwk", nbf=500)
    source = signing_keys()
    (folder / "1970-01-01T0030Z.pem").write_bytes(pem(KEYS["EdDSA"]))
    await source.look_again()

    assert len(kids(source)) == 2
    for keys in (source, signing_keys()):
        assert keys.signer(1799.9, ()).kid == "jwk"
        assert keys.signer(1800, ()).alg == "EdDSA"


async def test_a_pem_file_that_is_put_there_is_published_before_it_signs_whatever_its_times(
    folder, signing_keys, clock
):
    (folder / "first.pem").write_bytes(pem(KEYS["ES256"]))
    source = signing_keys()
    assert source.signer(1000, ()).alg == "ES256"

    clock.now = 2000.0
    (folder / "second.pem").write_bytes(pem(KEYS["EdDSA"]))
    for written in (0, 1999, 2001, 9999):
        os.utime(folder / "second.pem", (written, written))
        await source.look_again()
        assert len(kids(source)) == 2
        assert source.signer(2000, ()).alg == source.signer(2000 + AHEAD_S - 0.1, ()).alg == "ES256"
    assert source.signer(2000 + AHEAD_S, ()).alg == "EdDSA"

    (folder / "first.pem").unlink()
    assert signing_keys().signer(2000, ()).alg == "EdDSA"


async def test_a_process_that_begins_signs_with_the_first_of_the_files_without_a_date(
    folder, signing_keys, clock
):
    (folder / "first.pem").write_bytes(pem(KEYS["ES256"]))
    (folder / "second.pem").write_bytes(pem(KEYS["EdDSA"]))
    os.utime(folder / "first.pem", (900, 900))
    source = signing_keys()

    assert source.signer(1000, ()).alg == source.signer(1000 + AHEAD_S - 0.1, ()).alg == "ES256"
    assert source.signer(1000 + AHEAD_S, ()).alg == "EdDSA"


async def test_a_pem_file_that_comes_too_late_for_its_date_is_published_before_it_signs(
    folder, signing_keys, clock
):
    (folder / "first.pem").write_bytes(pem(KEYS["ES256"]))
    source = signing_keys()
    (folder / "1970-01-01T0001Z.pem").write_bytes(pem(KEYS["EdDSA"]))
    await source.look_again()

    assert source.signer(1000 + AHEAD_S - 0.1, ()).alg == "ES256"
    assert source.signer(1000 + AHEAD_S, ()).alg == "EdDSA"
    assert signing_keys().signer(1000, ()).alg == "EdDSA"


async def test_while_the_folder_is_spoilt_a_key_without_a_date_goes_on_signing(folder, signing_keys):
    (folder / "first.pem").write_bytes(pem(KEYS["ES256"]))
    source = signing_keys()
    (folder / "first.pem").write_bytes(b"half a k")
    assert not await source.look_again()

    assert source.signer(1000, ()).alg == "ES256"


def test_of_two_keys_of_the_same_time_every_instance_takes_the_same(folder, signing_keys):
    for kid in ("b", "c", "a"):
        put(folder, kid, nbf=500)

    assert signing_keys().signer(1000, ()).kid == "c"


def test_a_retired_key_signs_nothing_and_is_published_until_its_end(folder, signing_keys, clock):
    put(folder, "first", nbf=100)
    put(folder, "retired", nbf=200, exp=1500)
    source = signing_keys()

    assert source.signer(1000, ()).kid == "first"
    assert kids(source, now=1499.9) == ["first", "retired"]
    assert kids(source, now=1500) == ["first"]


def test_a_key_that_will_sign_is_published_beforehand(folder, signing_keys):
    put(folder, "first", nbf=100)
    put(folder, "next", nbf=1600)

    assert kids(signing_keys()) == ["first", "next"]


def test_a_revoked_key_signs_nothing_and_is_not_published(folder, signing_keys):
    put(folder, "first", nbf=100)
    put(folder, "second", nbf=200)
    source = signing_keys()

    assert source.signer(1000, {"second"}).kid == "first"
    assert kids(source, revoked={"second"}) == ["first"]


def test_where_the_only_key_is_revoked_the_next_takes_over_before_its_time(folder, signing_keys):
    put(folder, "first", nbf=100)
    put(folder, "next", nbf=1600)
    put(folder, "one-after", nbf=1700)
    source = signing_keys()

    assert source.signer(1000, {"first"}).kid == "next"
    with pytest.raises(KeysUnavailable):
        source.signer(1000, {"first", "next", "one-after"})


def test_only_public_halves_are_published(folder, signing_keys):
    put(folder, "own", nbf=100)
    (folder / "rsa.pem").write_bytes(pem(KEYS["RS256"]))
    (folder / "ed.pem").write_bytes(pem(KEYS["EdDSA"]))

    published = json.loads(signing_keys().jwks(time.time(), ()))["keys"]

    assert len(published) == 3
    for entry in published:
        assert not PRIVATE_MEMBERS & entry.keys()
        assert (
            entry["use"] == "sig" and entry["kid"] and entry["alg"] and entry["kty"] in ("RSA", "EC", "OKP")
        )
        jwt.PyJWK(entry)


async def test_own_tokens_are_verified_by_the_folder_they_are_signed_from(folder, signing_keys, metrics):
    put(folder, "own", nbf=100)
    source = signing_keys()
    verifier = trusting(source, metrics, own=True)

    verified = await verifier.verify(source.signer(1000, ()).sign(forge.claims(sub="alice")))

    assert (verified.claims.sub, verified.claims.kid) == ("alice", "own")


async def test_a_key_verifies_only_the_algorithm_that_it_signs_with(folder, signing_keys, metrics):
    key = forge.rsa_key("own")
    (folder / "own.jwk").write_bytes(jwk(key, alg="PS256"))
    verifier = trusting(signing_keys(), metrics, own=True)

    await verifier.verify(forge.token(dataclasses.replace(key, alg="PS256")))
    with pytest.raises(InvalidToken):
        await verifier.verify(forge.token(key))


async def test_tokens_of_a_key_die_with_its_end(folder, signing_keys, metrics, clock):
    old = put(folder, "old", nbf=100, exp=1500)
    put(folder, "new", nbf=200)
    source = signing_keys()
    verifier = trusting(source, metrics, own=True)
    token = forge.token(old)
    await verifier.verify(token)

    clock.now = 1500.0
    await source.look_again()

    assert verifier.cached(token) is None
    with pytest.raises(InvalidToken):
        await verifier.verify(token)


async def test_a_key_that_is_put_there_is_used_without_a_restart(folder, signing_keys, metrics):
    put(folder, "first", nbf=100)
    source = signing_keys()
    verifier = trusting(source, metrics, own=True)
    held = await verifier.verify(forge.token(forge.ec_key("first")))

    second = put(folder, "second", nbf=200)
    await verifier.verify(forge.token(second))

    assert source.signer(1000, ()).kid == "second"
    assert held.key.live


async def test_a_key_whose_file_is_removed_verifies_nothing_more(folder, signing_keys, metrics):
    put(folder, "first", nbf=100)
    second = put(folder, "second", nbf=200)
    source = signing_keys()
    verifier = trusting(source, metrics, own=True)
    held = await verifier.verify(forge.token(second))

    (folder / "second.jwk").unlink()
    await source.look_again()

    assert not held.key.live
    assert source.signer(1000, ()).kid == "first"


async def test_a_key_that_is_retired_while_running_signs_nothing_more(folder, signing_keys):
    put(folder, "first", nbf=100)
    put(folder, "second", nbf=200)
    source = signing_keys()
    before = source.signer(1000, ())

    put(folder, "second", nbf=200, exp=2000)
    await source.look_again()

    assert before.kid == "second"
    assert source.signer(1000, ()).kid == "first"


async def test_a_file_that_is_no_key_is_skipped_and_reported_once(folder, signing_keys, events):
    put(folder, "first", nbf=100)
    source = signing_keys()
    (folder / "README").write_text("the keys of production")
    (folder / ".hidden").write_text("not looked at")
    (folder / "sub").mkdir()

    await source.look_again()
    await source.look_again()

    assert [event["file"] for event in events if event["event"] == "signing key skipped"] == ["README"]
    assert source.ready and not source.stale
    assert source.signer(1000, ()).kid == "first"


async def test_while_the_folder_holds_no_usable_key_the_last_good_ones_stand(folder, signing_keys):
    put(folder, "first", nbf=100)
    source = signing_keys()

    (folder / "first.jwk").write_text("half a k")
    for _ in range(2):
        assert not await source.look_again()
        assert source.ready and source.stale
        assert source.signer(1000, ()).kid == "first"

    put(folder, "second", nbf=200)
    assert await source.look_again()
    assert not source.stale
    assert kids(source) == ["second"]


async def test_while_the_folder_is_gone_the_last_good_keys_stand(folder, signing_keys):
    put(folder, "first", nbf=100)
    source = signing_keys()

    folder.rename(folder.with_name("elsewhere"))
    assert not await source.look_again()
    assert source.signer(1000, ()).kid == "first"

    folder.with_name("elsewhere").rename(folder)
    assert await source.look_again()


async def test_two_files_of_one_name_never_take_turns(folder, signing_keys, events):
    old = put(folder, "shared", nbf=100)
    (folder / "a-newer.jwk").write_bytes(jwk(forge.ed_key("shared"), nbf=200))
    source = signing_keys()
    await source.look_again()

    assert kids(source) == ["shared"]
    assert source.signer(1000, ()).alg == old.alg
    assert [event["kid"] for event in events if event["event"] == "signing key skipped"] == ["shared"]


def test_of_a_key_and_its_retired_copy_the_retired_one_counts(folder, signing_keys):
    put(folder, "first", nbf=100)
    put(folder, "twice", nbf=200)
    (folder / "z-copy.jwk").write_bytes(jwk(forge.ec_key("twice"), nbf=200, exp=3000))

    assert signing_keys().signer(1000, ()).kid == "first"


async def test_the_folder_is_polled(folder, metrics, clock):
    from tests.tokens.conftest import Naps

    put(folder, "first", nbf=100)
    naps = Naps()
    source = SigningKeys("sessions", folder, metrics, clock=clock, sleep=naps)
    await source.start()
    await naps.wait_for(1)

    put(folder, "second", nbf=200)
    await naps.end()

    assert source.signer(1000, ()).kid == "second"
    assert naps.durations[0] <= 1.0
    await source.close()


def test_a_signing_key_shows_nothing_of_its_private_half(folder):
    key = read_key(jwk(), 0)

    assert forge.ec_key("own").private_jwk()["d"] not in repr(key) + repr(key.key)


@pytest.mark.parametrize(("alg", "curve"), [("Ed25519", "Ed25519"), ("Ed448", "Ed448"), ("EdDSA", "Ed448")])
async def test_a_jwk_may_name_its_curve_as_its_alg_and_signs_as_eddsa(tmp_path, metrics, alg, curve):
    (tmp_path / "own.jwk").write_bytes(jwk(forge.ed_key("own", curve), alg=alg))
    keys = SigningKeys("main", tmp_path, metrics)
    key = keys.signer(time.time(), ())
    text = key.sign(forge.claims())

    assert jwt.get_unverified_header(text)["alg"] == "EdDSA"
    assert [entry["alg"] for entry in json.loads(keys.jwks(time.time(), ()))["keys"]] == ["EdDSA"]
    assert await trusting(keys, metrics).verify(text)
    with pytest.raises(UnusableKey, match="fit"):
        read_key(jwk(forge.ed_key("own", "Ed25519"), alg="Ed448"))
