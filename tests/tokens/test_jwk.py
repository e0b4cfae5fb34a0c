"""Which keys are usable, and for what."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from revoker.tokens.jwk import PUBLIC_KEY_ALGORITHMS, UnusableKey, public_key, shared_secret, thumbprint
from revoker.tokens.key_sets import read_key_set
from tests.rig.forge import ABSENT, base64url, ec_key, ed_key, jwks, rsa_key

KEY = rsa_key()
EVERY = PUBLIC_KEY_ALGORITHMS | {"HS256", "HS384", "HS512", "none"}
MODULUS = base64.urlsafe_b64decode(KEY.jwk()["n"] + "==")
OFF_CURVE = ec_key().jwk()["x"]

UNUSABLE = {
    "no object": None,
    "a list": [],
    "a string": "key",
    "empty": {},
    "no kty": KEY.jwk(kty=ABSENT),
    "unknown kty": KEY.jwk(kty="XYZ"),
    "kty in lower case": KEY.jwk(kty="rsa"),
    "kty of the wrong type": KEY.jwk(kty=["RSA"]),
    "JWKS-04 for encryption": KEY.jwk(use="enc"),
    "use of the wrong type": KEY.jwk(use=["sig"]),
    "for signing only": KEY.jwk(key_ops=["sign"]),
    "for deriving": KEY.jwk(key_ops=["deriveKey"]),
    "no operation": KEY.jwk(key_ops=[]),
    "operations of the wrong type": KEY.jwk(key_ops="verify"),
    "kid a number": KEY.jwk(kid=1),
    "kid a list": KEY.jwk(kid=["rsa-1"]),
    "JWKS-02 private RSA": KEY.private_jwk(),
    "private EC": ec_key().private_jwk(),
    "private OKP": ed_key().private_jwk(),
    "symmetric": {"kty": "oct", "k": base64url(b"s" * 64), "kid": "x", "alg": "HS256"},
    "symmetric in an RSA key": KEY.jwk(k=base64url(b"s" * 64)),
    "JWT-08 RSA of 1024 bits": rsa_key("small", bits=1024).jwk(),
    "RSA of 2047 bits": KEY.jwk(n=base64url(bytes([MODULUS[0] & 0x7F | 0x40]) + MODULUS[1:])),
    "RSA of 8200 bits": KEY.jwk(n=base64url(b"\xff" * 1025)),
    "RSA of 400 kB": KEY.jwk(n=base64url(b"\xff" * 400_000)),
    "exponent 1": KEY.jwk(e="AQ"),
    "exponent even": KEY.jwk(e="AA"),
    "exponent missing": KEY.jwk(e=ABSENT),
    "exponent a number": KEY.jwk(e=65537),
    "modulus empty": KEY.jwk(n=""),
    "modulus with padding inside": KEY.jwk(n="AA==" + KEY.jwk()["n"]),
    "modulus of padding alone": KEY.jwk(n="=="),
    "modulus with junk": KEY.jwk(n="!" + KEY.jwk()["n"]),
    "modulus not ASCII": KEY.jwk(n="é" + KEY.jwk()["n"]),
    "unknown curve": ec_key().jwk(crv="P-224"),
    "curve of the wrong type": ec_key().jwk(crv={}),
    "no curve": ec_key().jwk(crv=ABSENT),
    "secp256k1": ec_key().jwk(crv="secp256k1", alg="ES256K"),
    "curve of another kty": ec_key().jwk(crv="Ed25519"),
    "point not on the curve": ec_key().jwk(y=OFF_CURVE),
    "point of another curve": ec_key("p384", "ES384").jwk(crv="P-256", alg="ES256"),
    "point too short": ec_key().jwk(x=base64url(b"1" * 31)),
    "Ed25519 too short": ed_key().jwk(x=base64url(b"1" * 31)),
    "X25519": ed_key().jwk(crv="X25519"),
    "alg of another kind": KEY.jwk(alg="ES256"),
    "alg of another curve": ec_key().jwk(alg="ES384"),
    "alg unknown": KEY.jwk(alg="RS1"),
    "alg symmetric": KEY.jwk(alg="HS256"),
    "alg none": KEY.jwk(alg="none"),
    "alg for encryption": KEY.jwk(alg="RSA-OAEP"),
    "alg of the other Edwards curve": ed_key().jwk(alg="Ed448"),
    "kty null": KEY.jwk(kty=None),
    "modulus null": KEY.jwk(n=None),
    "alg a list": KEY.jwk(alg=["RS256"]),
}


@pytest.mark.parametrize("entry", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_an_entry_that_is_unfit_is_unusable(entry):
    with pytest.raises(UnusableKey):
        public_key(entry, EVERY)


def test_jwks_04_unusable_entries_are_skipped_and_the_others_used():
    document = json.dumps(jwks(*UNUSABLE.values(), KEY, *UNUSABLE.values(), ec_key())).encode()

    keys, _ = read_key_set(document, EVERY)

    assert [key.id for key in keys] == ["rsa-1", "ec-1"]


NO_SETS = {
    "nothing": b"",
    "HTML": b"<!doctype html>",
    "array": b"[]",
    "no keys": b'{"key": []}',
    "keys an object": b'{"keys": {}}',
    "keys null": b'{"keys": null}',
    "keys twice": b'{"keys": [], "keys": []}',
    "not UTF-8": b'{"keys": ["\xff"]}',
    "deep": b'{"keys": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("document", NO_SETS.values(), ids=NO_SETS.keys())
def test_what_is_no_key_set_is_refused_as_a_whole(document):
    with pytest.raises(ValueError):
        read_key_set(document, EVERY)


FITTING = {
    "RSA": (KEY.jwk(alg=ABSENT), {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    "RSA with alg": (KEY.jwk(alg="PS384"), {"PS384"}),
    "RSA without use": (KEY.jwk(use=ABSENT), {"RS256"}),
    "RSA with operations": (KEY.jwk(key_ops=["verify"]), {"RS256"}),
    "RSA with a stray crv": (KEY.jwk(crv="P-256"), {"RS256"}),
    "P-256": (ec_key().jwk(alg=ABSENT), {"ES256"}),
    "P-384": (ec_key("p384", "ES384").jwk(alg=ABSENT), {"ES384"}),
    "P-521": (ec_key("p521", "ES512").jwk(alg=ABSENT), {"ES512"}),
    "Ed25519": (ed_key().jwk(alg=ABSENT), {"EdDSA", "Ed25519"}),
    "Ed25519 by the name of its curve": (ed_key().jwk(alg="Ed25519"), {"EdDSA", "Ed25519"}),
    "Ed448": (ed_key("ed448", "Ed448").jwk(alg=ABSENT), {"EdDSA", "Ed448"}),
    "use null": (KEY.jwk(use=None), {"RS256"}),
    "kid null": (KEY.jwk(kid=None), {"RS256"}),
    "operations null": (KEY.jwk(key_ops=None), {"RS256"}),
    "alg null": (ec_key().jwk(alg=None), {"ES256"}),
    "modulus with padding": (KEY.jwk(n=base64.urlsafe_b64encode(MODULUS).decode()), {"RS256"}),
}


@pytest.mark.parametrize(("entry", "algorithms"), FITTING.values(), ids=FITTING.keys())
def test_a_key_is_bound_to_the_algorithms_that_fit_it(entry, algorithms):
    assert public_key(entry, EVERY).algorithms == algorithms


def test_a_key_is_bound_to_the_algorithms_of_its_issuer():
    assert public_key(KEY.jwk(alg=ABSENT), {"PS256", "ES256"}).algorithms == {"PS256"}
    with pytest.raises(UnusableKey, match="algorithm"):
        public_key(KEY.jwk(), {"PS256", "ES256"})


def test_a_key_refuses_an_algorithm_that_is_not_its_own_though_the_signature_be_good():
    key = public_key(KEY.jwk(), EVERY)

    assert key.verifies("RS256", b"message", KEY.sign(b"message"))
    assert not key.verifies("RS512", b"message", KEY.sign(b"message", "RS512"))


def test_a_key_without_name_is_called_by_its_thumbprint():
    named, nameless = public_key(KEY.jwk(), EVERY), public_key(KEY.jwk(kid=ABSENT), EVERY)

    assert (named.id, named.kid) == ("rsa-1", "rsa-1")
    assert nameless.kid is None
    assert nameless.id == thumbprint({name: KEY.jwk()[name] for name in ("e", "kty", "n")})


def test_the_thumbprint_is_that_of_rfc_7638():
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjB"
        "ZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8"
        "KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_"
        "xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )

    assert (
        thumbprint({"n": modulus, "kty": "RSA", "e": "AQAB"}) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    )


@pytest.mark.parametrize(("alg", "least"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_jwt_08_a_secret_is_at_least_as_long_as_the_mac(alg, least):
    assert shared_secret(b"s" * least, [alg]).algorithms == {alg}
    with pytest.raises(UnusableKey, match=f"{least - 1} bytes long; {alg} needs {least}"):
        shared_secret(b"s" * (least - 1), [alg])


def test_jwt_08_a_secret_suffices_for_every_allowed_algorithm():
    with pytest.raises(UnusableKey, match="HS512 needs 64"):
        shared_secret(b"s" * 63, ["HS512", "HS256"])


@pytest.mark.parametrize(
    "text",
    [
        KEY.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        KEY.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        KEY.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        json.dumps(KEY.jwk()).encode(),
    ],
    ids=["PEM", "DER", "OpenSSH", "JWK"],
)
def test_jwt_07_the_text_of_a_public_key_is_refused_as_a_secret(text):
    with pytest.raises(UnusableKey, match="another kind"):
        shared_secret(text, ["HS256"])
