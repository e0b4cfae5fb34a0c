"""Whatever is sent, only InvalidToken leaves, and what verifies is what the issuer signed."""

import asyncio
import contextlib
import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from revoker.errors import InvalidToken, KeysUnavailable
from revoker.metrics import Metrics
from revoker.tokens.jwk import PUBLIC_KEY_ALGORITHMS, UnusableKey, header_algorithms, public_key
from revoker.tokens.key_files import JwksFile
from revoker.tokens.key_sets import read_key_set
from revoker.tokens.parsing import base64url_decoded, parse_token, strict_json_object
from revoker.tokens.verifying import VerifiedToken
from tests.rig.forge import (
    AUDIENCE,
    ISSUER,
    base64url,
    claims,
    compact,
    ec_key,
    ed_key,
    forge,
    header_of,
    jwks,
    rsa_key,
    token,
)
from tests.tokens.conftest import trusting

RSA, EC, EDWARDS = rsa_key(), ec_key(), ed_key()
GOOD = [token(key, now=1000) for key in (RSA, EC, EDWARDS)]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from([ISSUER, AUDIENCE, "RS256", "at+jwt", "rsa-1", "JWT", 2**64, -1, 1e308, 10**40])
)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)
registered_claims = st.sampled_from([
    "iss", "sub", "aud", "exp", "iat", "nbf", "auth_time", "jti", "sid", "client_id", "azp", "scope", "scp",
    "acr", "amr", "cnf", "act", "typ", "token_use", "events", "nonce", "preferred_username",
])  # fmt: skip
registered_members = st.sampled_from(
    ["alg", "kid", "typ", "cty", "crit", "b64", "zip", "jku", "jwk", "x5c", "enc"]
)
members_of_keys = st.sampled_from(
    ["kty", "crv", "n", "e", "x", "y", "kid", "alg", "use", "key_ops", "d", "k"]
)


@pytest.fixture(scope="module")
def verifier(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "jwks.json"
    path.write_text(json.dumps(jwks(RSA, EC, EDWARDS)))
    metrics = Metrics(CollectorRegistry(), ["main"])
    return trusting(JwksFile("main", path, ["RS256", "ES256", "EdDSA"], metrics), metrics, cache_size=1)


def judged(verifier, text) -> VerifiedToken | None:
    """What verify says, None where it refuses; both ways of verifying agree on forgeries."""
    verified = None
    try:
        verified = asyncio.run(verifier.verify(text))
        assert json.loads(verified.answer)["active"] is True
    except InvalidToken:
        pass
    try:
        assert asyncio.run(verifier.verify_origin(text)).claims.iss == ISSUER
    except (InvalidToken, KeysUnavailable):  # the latter where the token's kid is in no key set
        assert verified is None
    return verified


@given(text=st.text(st.characters() | st.sampled_from("eyJ.-_=")))
@example(text="\ud800")
@example(text="e30.e30.")
def test_any_text_is_refused(verifier, text):
    assert judged(verifier, text) is None


@given(members=st.tuples(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=300)))
def test_any_bytes_in_the_form_of_a_token_are_refused(verifier, members):
    assert judged(verifier, ".".join(map(base64url, members))) is None


@given(header=st.dictionaries(registered_members, documents) | documents, payload=documents)
def test_any_json_is_refused_without_its_signature(verifier, header, payload):
    unsigned = compact(_json(header), _json(payload), lambda _: b"s" * 256)

    assert judged(verifier, unsigned) is None


@given(
    header=st.dictionaries(registered_members, documents, max_size=3),
    payload=st.dictionaries(registered_claims, documents),
)
def test_whatever_the_issuer_signs_is_verified_or_refused(verifier, header, payload):
    signed = forge(RSA, _json(header_of(RSA) | header), _json(claims() | payload))

    verified = judged(verifier, signed)

    if verified is not None:
        read = verified.claims
        assert read.sub and read.jti and isinstance(read.sub, str) and isinstance(read.jti, str)
        assert AUDIENCE in ([read.aud] if isinstance(read.aud, str) else read.aud)
        for date in (read.iat, read.exp, read.nbf, read.auth_time):
            assert date is None or (type(date) in {int, float} and math.isfinite(date))
        answer = json.loads(verified.answer)
        for name in ("sub", "jti", "aud", "iss", "sid"):
            assert answer.get(name) == getattr(read, name)


@given(data=st.data(), good=st.sampled_from(GOOD))
def test_a_token_that_was_changed_in_any_way_verifies_no_longer(verifier, data, good):
    changed = data.draw(changes(good))
    assert judged(verifier, good) is not None

    assert (judged(verifier, changed) is not None) == (changed == good)


@st.composite
def changes(draw, text):
    """The text with some of its characters replaced, removed, added, swapped or doubled."""
    for _ in range(draw(st.integers(1, 3))):
        at, to = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        put = draw(
            st.sampled_from(
                ["", ".", "=", "A", "_", text[at:to] * 2, text[at:to][::-1], text[at:to].swapcase()]
            )
            | st.text(st.sampled_from("ABCDwxyz0189-_.=+/ \n"), max_size=4)
        )
        text = text[:at] + put + (text[to:] if draw(st.booleans()) else text[at + len(put) :])
    return text


@given(data=st.binary())
def test_base64url_is_decoded_only_from_the_one_text_that_encodes_it(data):
    assert base64url_decoded(base64url(data)) == data


@given(text=st.text(st.sampled_from("ABCDwxyz0189-_"), max_size=12) | st.text(max_size=12))
def test_every_text_that_decodes_is_what_its_bytes_encode_to(text):
    try:
        decoded = base64url_decoded(text)
    except ValueError:
        return
    assert base64url(decoded) == text


@given(value=st.dictionaries(st.text(), documents), compact=st.booleans(), plain=st.booleans())
def test_strict_json_reads_what_json_can_say(value, compact, plain):
    separators = (",", ":") if compact else None
    text = json.dumps(value, separators=separators, ensure_ascii=not plain).encode(errors="surrogatepass")
    try:
        read = strict_json_object(text)
    except ValueError:
        assert not _is_plain(value)
        return
    assert _is_plain(value) and read == value


def _is_plain(value) -> bool:
    """Whether JSON as everybody reads it can say it, in numbers of a bearable length."""
    if isinstance(value, dict):
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    return not isinstance(value, int | float) or (math.isfinite(value) and len(json.dumps(value)) <= 32)


@given(text=st.text())
def test_parsing_raises_nothing_but_invalid_token(text):
    with pytest.raises(InvalidToken):
        parse_token(text)


@given(
    entry=documents
    | st.builds(
        lambda key, change: key.jwk() | change,
        st.sampled_from([RSA, EC, EDWARDS]),
        st.dictionaries(members_of_keys, documents, max_size=2),
    )
)
def test_any_entry_of_a_key_set_is_usable_or_not(entry):
    with contextlib.suppress(UnusableKey):
        assert public_key(entry, PUBLIC_KEY_ALGORITHMS).algorithms <= header_algorithms(PUBLIC_KEY_ALGORITHMS)


@given(document=st.binary() | documents.map(lambda document: json.dumps(document).encode()))
def test_any_document_is_a_key_set_or_a_value_error(document):
    with contextlib.suppress(ValueError):
        read_key_set(document, PUBLIC_KEY_ALGORITHMS)


def _json(document) -> bytes:
    return json.dumps(document).encode()
