"""Whatever names an issuer gives its claims, every form of a question gets the same answer."""

import dataclasses
import json
import time

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from revoker.api.batch import _items, _read
from revoker.api.introspection import IntrospectReader, claims_of
from revoker.auth import Caller
from revoker.errors import InvalidRequest, InvalidToken
from revoker.models import ClaimNames, Issuer, Revocation, RevocationState, UserState, Verdict
from revoker.rules import judge
from revoker.store.keys import Keys
from revoker.tokens.claims import access_token_claims
from revoker.tokens.parsing import strict_json_object

NOW = int(time.time())
ISSUER = Issuer(name="main", iss="https://idp.example.com")
NAMES = ["jti", "uti", "sub", "oid", "sid", "session_id", "client_id", "azp", "cid", "tenant", "email"]

listed = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True).map(tuple)
mappings = st.builds(
    ClaimNames,
    jti=listed,
    sub=listed,
    sid=listed,
    client_id=listed,
    revocable=listed.map(lambda names: names[:2]),
)
texts = st.sampled_from(["", "a", "b", "c", "A"])
unreadable = st.sampled_from([None, True, {}, {"a": 1}, [{}]])
values = texts | st.integers(0, 3) | unreadable | st.lists(texts, max_size=2)
payloads = st.builds(
    lambda own, iat, exp, auth_time: {
        "iss": ISSUER.iss, "iat": NOW + iat, "exp": NOW + exp, "auth_time": auth_time, **own
    },
    st.dictionaries(st.sampled_from(NAMES), values),
    st.integers(-400, 4),
    st.integers(-60, 600),
    st.none() | st.just("2026-01-01T10:00:00Z") | st.integers(NOW - 500, NOW),
)  # fmt: skip
cutoffs = st.none() | st.integers(NOW - 300, NOW).map(lambda at: Revocation(at * 1000))


@st.composite
def stores(draw):
    """What a store holds, by key."""
    kinds = ["jti", "session-cutoff", "client-cutoff"]
    held = {
        f"rv:{kind}:main:{value}": Revocation(draw(st.integers(NOW - 300, NOW)) * 1000)
        for kind, value in draw(
            st.lists(st.tuples(st.sampled_from(kinds), st.sampled_from("abcA")), max_size=6)
        )
    }
    for sub in draw(st.lists(st.sampled_from("abcA"), max_size=2)):
        held[Keys("rv").user_of(ISSUER, sub)] = UserState(hard=draw(st.integers(NOW - 300, NOW)) * 1000)
    return held


def issuer_with(names):
    return dataclasses.replace(ISSUER, claim_names=names)


def verdict_of(claims, issuer, held):
    jti, user, session, client, *_ = Keys("rv").of_token(claims, issuer)
    state = RevocationState(
        jti=held.get(jti), user=held.get(user), session=held.get(session), client=held.get(client)
    )
    return judge(claims, issuer, state, None, store_now=NOW * 1000, own_now=NOW * 1000)


def by_token(payload, issuer, held):
    try:
        claims = access_token_claims(payload, "k", issuer)
    except InvalidToken:
        return False
    return verdict_of(claims, issuer, held) is Verdict.ACTIVE


def caller_of(issuer):
    return Caller(
        name="edge", digests=(), scopes=frozenset(), issuers={ISSUER.iss: issuer}, default_issuer=None
    )


def by_claims(body, issuer, held):
    raw = json.dumps(body).encode()
    try:
        asked, document = IntrospectReader([issuer]).read(raw)
        claims, found = claims_of(asked, caller_of(issuer), document)
    except InvalidRequest:
        return False
    assert found is issuer
    return verdict_of(claims, issuer, held) is Verdict.ACTIVE


@given(st.none() | mappings, payloads, stores())
def test_every_form_gives_the_same_verdict(names, payload, held):
    issuer = issuer_with(names)

    expected = by_token(payload, issuer, held)

    assert by_claims(payload, issuer, held) == expected
    assert by_claims({"claims": payload, "header": {"kid": "k"}}, issuer, held) == expected


@given(
    st.none() | mappings,
    payloads,
    stores(),
    st.dictionaries(st.sampled_from([*NAMES, "name", "roles", "acr", "nonce"]), unreadable, max_size=3),
)
def test_an_unreadable_claim_makes_no_token_active(names, payload, held, more):
    issuer = issuer_with(names)
    if by_token({**more, **payload}, issuer, held):
        assert by_token(payload, issuer, held)


@given(
    st.none() | mappings, payloads, stores(), st.dictionaries(st.text("xyz", min_size=1), values, max_size=3)
)
def test_an_unheard_of_claim_changes_nothing(names, payload, held, more):
    issuer = issuer_with(names)

    assert by_token({**more, **payload}, issuer, held) == by_token(payload, issuer, held)


@given(mappings, payloads)
def test_a_mapped_token_is_read_as_one_with_the_standard_names(names, payload):
    """The mapping is nothing but a renaming, before the rules."""
    issuer = issuer_with(names)
    try:
        mapped = access_token_claims(payload, "k", issuer)
    except InvalidToken:
        return
    given_names = {"jti": mapped.jti, "sub": mapped.sub, "sid": mapped.sid, "client_id": mapped.client_id}
    dates = {name: payload[name] for name in ("iss", "iat", "exp", "auth_time")}
    renamed = {name: value for name, value in (given_names | dates).items() if value is not None}

    standard = access_token_claims(renamed, "k", ISSUER)

    assert standard == msgspec.structs.replace(mapped, revocable=())


usual_issuers = st.builds(
    lambda require_jti, **names: dataclasses.replace(
        ISSUER, claim_names=ClaimNames(**names), require_jti=require_jti
    ),
    require_jti=st.booleans(),
    jti=st.sampled_from([("jti",), ("uti", "jti"), ("jti", "uti")]),
    sub=st.sampled_from([("sub",), ("oid", "sub"), ("sub", "oid")]),
    sid=st.sampled_from([("sid",), ("session_id", "sid")]),
    client_id=st.sampled_from([("client_id", "azp"), ("azp", "cid"), ("cid",)]),
    revocable=st.sampled_from([(), ("tenant",), ("email", "name")]),
)
odd = st.sampled_from(
    ["José", "x" * 300, '"', "a b", ":x", "\ud800", 1e300, 10**20, [{"jti": "z"}], {"oid": "z"}]
)
usual_payloads = st.builds(
    lambda spoilt, more: {
        "iss": ISSUER.iss, "jti": "a", "sub": "b", "iat": NOW, "exp": NOW + 60, **spoilt, **more
    },
    st.dictionaries(st.sampled_from([*NAMES, "auth_time"]), values, max_size=2),
    st.just({}) | st.dictionaries(st.sampled_from(["name", "roles", "kid"]), odd, max_size=1),
)  # fmt: skip
ways_to_write = st.fixed_dictionaries({
    "separators": st.sampled_from([(",", ":"), (", ", ": "), (" ,", " :")]),
    "ensure_ascii": st.booleans(),
})  # fmt: skip


@st.composite
def bodies(draw, payload):
    """A payload as an issuer may write it, sometimes with a duplicate member, and a body that has it."""
    text = json.dumps(payload, **draw(ways_to_write))
    if draw(st.integers(0, 3)) == 0:
        text = f"{text[:-1]},{json.dumps(draw(st.sampled_from(NAMES)))}:{json.dumps(draw(values))}}}"
    written = text.encode("utf-8", "surrogatepass")
    return written, draw(
        st.sampled_from([written, b'{"claims":%b,"header":{"alg":"x","kid":"k"}}' % written])
    )


def facts(claims):
    """What verdicts depend on; a client is found under either of two attributes."""
    if claims is None:
        return None
    names = ("iss", "jti", "sub", "iat", "exp", "sid", "aud", "auth_time", "nbf", "revocable")
    return [*(getattr(claims, name) for name in names), claims.client_id or claims.azp]


KEYS = Keys("rv")
"""For all examples, so that what one of them puts into a cache is there for the next."""


def keys_of(claims, issuer):
    return None if claims is None else KEYS.of_token(claims, issuer)


NO_TEXT = json.dumps({"iss": ISSUER.iss, "jti": 0, "sub": "b", "iat": NOW, "exp": NOW + 60}).encode()


@given(usual_issuers, usual_payloads.flatmap(bodies), st.booleans())
@example(
    dataclasses.replace(ISSUER, claim_names=ClaimNames(jti=("jti", "uti")), require_jti=False),
    (NO_TEXT, NO_TEXT),
    False,
)
def test_a_body_is_read_as_the_payload_of_a_token(issuer, written, in_batch):
    """However it is written, and whichever of the ways to read it is taken."""
    payload, body = written
    reader = IntrospectReader([issuer])
    try:
        expected = access_token_claims(strict_json_object(payload), None, issuer)
    except (InvalidToken, ValueError):
        expected = None

    try:
        if in_batch:
            [item] = _items(b'{"tokens":[%b]}' % body, reader)
            asked, document = _read(item, reader) if isinstance(item, bytes) else item
        else:
            asked, document = reader.read(body)
        read, _ = claims_of(asked, caller_of(issuer), document)
    except InvalidRequest:
        read = None

    if read is not None:
        assert read.kid == (None if body is payload else "k")
    assert facts(read) == facts(expected)
    assert keys_of(read, issuer) == keys_of(expected, issuer)


MAPPED = dataclasses.replace(ISSUER, claim_names=ClaimNames(jti=("uti",), sub=("oid",)))
MAPPED_CLAIMS = {"iss": ISSUER.iss, "uti": "a", "oid": "b", "iat": NOW, "exp": NOW + 60}


@pytest.mark.parametrize(
    ("beside", "is_refused"),
    [
        ({}, False),
        ({"uti": "x"}, False),
        ({"scope": "x"}, False),
        ({"scope": "é"}, False),
        ({"jti": "x"}, True),
        ({"jti": "x", "scope": "é"}, True),  # with an escape, the body is not compared with its re-encoding
        ({"jti": "x", "scope": 1e999}, True),  # nor with a number beyond any double
    ],
)
def test_beside_an_envelope_a_claim_is_refused_by_its_standard_name(beside, is_refused):
    body = json.dumps({"claims": MAPPED_CLAIMS, "header": {"kid": "k"}, **beside}, separators=(",", ":"))

    def read():
        asked, document = IntrospectReader([MAPPED]).read(body.encode())
        return claims_of(asked, caller_of(MAPPED), document)

    if is_refused:
        with pytest.raises(InvalidRequest):
            read()
    else:
        claims, issuer = read()
        assert (claims.jti, claims.sub, claims.kid, issuer) == ("a", "b", "k", MAPPED)


@pytest.mark.parametrize("own", [{}, {"oid": ["b"]}])
@pytest.mark.parametrize("wrapped", [False, True])
def test_to_a_caller_that_may_not_ask_about_an_issuer_its_claims_have_the_standard_names(own, wrapped):
    caller = dataclasses.replace(caller_of(MAPPED), issuers={})

    def read(claims):
        body = {"claims": claims, "header": {"kid": "k"}} if wrapped else claims
        asked, document = IntrospectReader([MAPPED]).read(json.dumps(body, separators=(",", ":")).encode())
        return claims_of(asked, caller, document)

    with pytest.raises(InvalidRequest):
        read(MAPPED_CLAIMS | own)
    claims, issuer = read(MAPPED_CLAIMS | own | {"jti": "x", "sub": "y"})
    assert (claims.jti, claims.sub, issuer) == ("x", "y", None)


def test_claims_with_an_issuers_own_names_are_read_in_one_pass():
    body = json.dumps(MAPPED_CLAIMS, separators=(",", ":")).encode()
    other = json.dumps({**MAPPED_CLAIMS, "oid": ["b"]}).encode()
    reader = IntrospectReader([MAPPED])

    assert reader.read(body)[0].named_by is MAPPED
    assert [asked.named_by for asked, _ in reader.read_batch(b'{"tokens":[%b,%b]}' % (body, body))] == [
        MAPPED
    ] * 2
    assert reader.read(other)[0].named_by is None
    assert reader.read_batch(b'{"tokens":[%b,%b]}' % (body, other)) is None


def test_claims_of_another_issuer_are_not_read_by_the_names_of_one_that_they_mention():
    body = json.dumps({**MAPPED_CLAIMS, "iss": "https://other.example.com", "aud": ISSUER.iss}).encode()
    reader = IntrospectReader([MAPPED])

    assert reader.read(body)[0].named_by is None
    assert reader.read_batch(b'{"tokens":[%b]}' % body) is None


def test_a_kid_among_claims_with_an_issuers_own_names_is_ignored():
    body = json.dumps({**MAPPED_CLAIMS, "kid": "device-7"}, separators=(",", ":")).encode()
    asked, document = IntrospectReader([MAPPED]).read(body)

    claims, _ = claims_of(asked, caller_of(MAPPED), document)

    assert (claims.jti, claims.kid) == ("a", None)


@pytest.mark.parametrize(
    "value",
    ["Alice@Example.com", "a b", "é", "", None, 7, 7.0, 7.5, 10**20, "x" * 256, "x" * 257, ["A", "b"]],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_revocable_value_has_one_key_however_it_is_read(value, wrapped):
    for revocable in (("email", "tenant"), ("tenant", "email"), ("email",)):
        names = ClaimNames(jti=("uti",), sub=("oid",), revocable=revocable)
        issuer = issuer_with(names)
        payload = {**MAPPED_CLAIMS, "email": value, "tenant": value}
        body = {"claims": payload, "header": {"kid": "k"}} if wrapped else payload
        raw = json.dumps(body, separators=(",", ":")).encode()
        asked, document = IntrospectReader([issuer]).read(raw)
        claims, _ = claims_of(asked, caller_of(issuer), document)

        assert keys_of(claims, issuer) == keys_of(access_token_claims(payload, None, issuer), issuer)
