"""Whatever is sent or configured: each parser reads it, or refuses it with its own error and nothing else."""

import base64
import functools
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from revoker.api import bodies, introspection
from revoker.api.batch import _items
from revoker.api.bodies import form_fields, refuse_ambiguous
from revoker.api.requirements import parse_requirements
from revoker.auth import Caller, Callers, Credentials, digest
from revoker.config.callers import CallerSettings
from revoker.config.issuers import IssuerSettings
from revoker.config.redis import RedisSettings
from revoker.config.revocation import RevocationSettings
from revoker.config.schema import Settings, load, settle
from revoker.config.server import ServerSettings
from revoker.config.sessions import SessionSettings
from revoker.errors import ConfigError, InvalidClient, InvalidRequest, InvalidToken
from revoker.models import Claims, Issuer
from revoker.tokens.logout_tokens import EVENT, OLDEST_S, LogoutToken, logout_token
from revoker.tokens.verifying import GenuineToken
from tests.conftest import SLOW_MACHINE

# Forms

names = st.text(min_size=1, max_size=8)
encoders = st.sampled_from([quote_plus, quote, functools.partial(quote, safe="")])


@given(st.dictionaries(names, st.text(max_size=20), max_size=8), encoders)
def test_a_form_is_read_as_it_was_meant(fields, encode):
    text = "&".join(f"{encode(name)}={encode(value)}" for name, value in fields.items())
    assert form_fields(text.encode()) == {name: value for name, value in fields.items() if value}


@given(st.binary(max_size=60) | st.text("ab=&;%+0F2 \0é", max_size=40).map(str.encode))
def test_any_bytes_are_a_form_or_refused(raw):
    try:
        fields = form_fields(raw)
    except InvalidRequest:
        return
    assert all(fields.values())
    assert raw.isascii()


# JSON

members = st.sampled_from(
    ["token", "iss", "jti", "sub", "iat", "exp", "sid", "aud", "x", "", "é", 'a"', "a:"]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(['":', '{"token":', "\\", "token", '"token":"x"'])
)
spaces = st.sampled_from(["", "", "", " ", "\t", "\n", "\r"])


@st.composite
def documents(draw, depth=2):
    """The text of an object: members may stand twice, in any way that JSON can write them."""
    written = []
    for name in draw(st.lists(members, max_size=5)):
        text = json.dumps(name, ensure_ascii=draw(st.booleans()))
        if name and draw(st.integers(0, 4)) == 0:
            text = '"' + "".join(f"\\u{ord(letter):04x}" for letter in name) + '"'
        inner = draw(st.integers(0, 4)) == 0 and depth
        value = draw(documents(depth - 1)) if inner else json.dumps(draw(scalars))
        written.append(draw(spaces) + text + draw(spaces) + ":" + draw(spaces) + value + draw(spaces))
    return "{" + ",".join(written) + "}"


class TwiceError(Exception):
    pass


def once(pairs):
    if len(dict(pairs)) < len(pairs):
        raise TwiceError
    return dict(pairs)


def strictly(text):
    """The document, None if it has a duplicate member anywhere."""
    try:
        return json.loads(text, object_pairs_hook=once)
    except TwiceError:
        return None


@given(documents())
@example('{"jti":"a","jti" :"b"}')
@example('{"iat":1e15,"jti":"aaaaa","jti":"b"}')  # as long as what is written again
@example('{"jti":"a","jti":"\\u0022:"}')  # which is written again as a quotation mark
@example('{"x":"\\"token\\":","token":"a"}')
@example('{"x":{"token":"a"},"token":"b"}')
def test_a_body_is_read_as_every_reader_reads_it_or_refused(text):
    raw = text.encode()
    try:
        asked = introspection.read_introspect(raw)
        refuse_ambiguous(raw, asked)
    except InvalidRequest:
        return
    read = strictly(text)
    assert read is not None
    for name in ("token", "iss"):
        assert getattr(asked, name) == read.get(name)
    for name in ("jti", "sub"):  # an empty one is refused later, by the names that the issuer has for it
        assert getattr(asked, name) in ({read.get(name)} if isinstance(read.get(name), str | None) else {""})
    sid = read.get("sid")
    assert asked.sid == (sid if isinstance(sid, str) else None)


@given(st.lists(documents(depth=1), max_size=4))
def test_no_item_of_a_batch_is_read_otherwise_than_alone(texts):
    raw = ('{"tokens":[' + ",".join(texts) + "]}").encode()
    try:
        items = _items(raw, introspection.IntrospectReader([]))
    except InvalidRequest:
        assert strictly(raw) is None
        return
    assert len(items) == len(texts)
    for item, text in zip(items, texts, strict=True):
        if isinstance(item, bytes):
            assert json.loads(item, object_pairs_hook=list) == json.loads(text, object_pairs_hook=list)
        else:
            asked, document = item
            assert bodies.members_of(document) == strictly(text)
            assert asked == introspection.read_introspect(text.encode())


@given(st.binary(max_size=60) | st.text('{}[]",:0e-\\tn ', max_size=40).map(str.encode))
def test_any_bytes_are_json_or_refused(raw):
    try:
        introspection.read_introspect(raw)
        bodies.refuse_duplicates(raw)
    except InvalidRequest:
        return
    assert isinstance(strictly(raw), dict)


# Credentials


def callers(secret, name="edge"):
    caller = Caller(name=name, digests=(digest(secret),), scopes=frozenset(), issuers={}, default_issuer=None)
    return Callers([caller], monotonic=lambda: 0.0)


def basic(name, secret):
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


secrets = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(secrets)
def test_a_secret_is_right_however_a_client_writes_it(secret):
    for header in (basic("edge", secret), basic("edge", quote_plus(secret))):
        assert callers(secret).authenticate(Credentials(header)).name == "edge"
    form = Credentials(client_id="edge", client_secret=secret)
    assert callers(secret).authenticate(form).name == "edge"


schemes = st.sampled_from(["", "Basic", "basic ", "Basic ", "Bearer ", "Basic  ", "Digest "])


@given(st.builds("{}{}".format, schemes, st.text(max_size=40) | st.binary(max_size=30).map(base64.b64encode)))
def test_any_header_is_a_wrong_credential(header):
    with pytest.raises(InvalidClient):
        callers("right").authenticate(Credentials(header, peer="192.0.2.1"))


# What a route demands

words = st.text(st.characters(exclude_characters='"\\ ', min_codepoint=0x21, max_codepoint=0x7E), min_size=1)
demands = st.one_of(
    st.lists(words, min_size=1, max_size=3).map(lambda values: ("scope", " ".join(values))),
    st.lists(words, min_size=1, max_size=3).map(lambda values: ("acr", " ".join(values))),
    st.integers(0, 10**9 - 1).map(lambda age: ("max_age", str(age))),
)


@given(st.lists(demands, min_size=1, max_size=5), st.sampled_from([";", ",", "; ", " , "]))
def test_demands_are_understood_together_or_one_by_one(pairs, separator):
    written = [f'{name}="{value}"' for name, value in pairs]
    together, apart = parse_requirements((separator.join(written),)), parse_requirements(tuple(written))
    assert together == apart
    assert together is not None
    assert set(together.scopes) == {
        word for name, value in pairs if name == "scope" for word in value.split()
    }
    ages = [int(value) for name, value in pairs if name == "max_age"]
    assert together.max_age == min(ages, default=None)


@given(st.lists(st.text(max_size=30) | st.text('scope=acr"max_ag; ,1', max_size=30), max_size=3))
def test_any_demand_is_understood_or_not(headers):
    parse_requirements(tuple(headers))


# Logout tokens

values = st.recursive(
    scalars | st.sampled_from(["api://x", 1000, 1000.5, "logout+jwt"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([EVENT, "x"]), inner, max_size=2)
    ),
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "events": st.just({EVENT: {}}) | values,
            "aud": st.just("api://x") | values,
            "iat": st.just(1000) | values,
            "exp": st.just(1100) | values,
            "jti": st.just("a") | values,
            "sub": values,
            "sid": values,
            "nonce": values,
        },
    ),
    st.sampled_from([None, "logout+jwt", "JWT", ""]),
)
def test_any_claims_are_a_logout_token_or_refused(payload, typ):
    issuer = Issuer(name="main", iss="https://idp.example.com")
    genuine = GenuineToken(claims=Claims(), issuer=issuer, typ=typ, payload=payload)
    try:
        read = logout_token(genuine, "api://x")
    except InvalidToken:
        return
    expires = min(payload["exp"] + issuer.leeway, payload["iat"] + OLDEST_S)
    assert read == LogoutToken(
        payload["jti"], payload["iat"], expires, payload.get("sub"), payload.get("sid")
    )
    assert "nonce" not in payload
    assert read.sub or read.sid


# Settings

KINDS = (ServerSettings, RedisSettings, RevocationSettings, IssuerSettings, CallerSettings, SessionSettings)
sections = st.sampled_from([*Settings.model_fields, "x"])
settings_names = st.sampled_from(sorted({name for kind in KINDS for name in kind.model_fields}))
CANARY = "canary-7d1f"
plain = st.recursive(
    st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([CANARY, f"redis://:{CANARY}@h:1/0", f"redis+sentinel://u:{CANARY}@h/x", "rediss://h"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(settings_names, inner, max_size=3),
)


def problems_of(read, *given_settings):
    try:
        read(*given_settings)
    except ConfigError as error:
        return error.problems
    return []


@given(
    st.dictionaries(sections, st.dictionaries(settings_names, plain, max_size=4) | plain, max_size=4),
    st.dictionaries(
        st.builds("REVOKER_{}__{}".format, sections, settings_names).map(str.upper),
        st.sampled_from(["", "1", "[", '["a"]', CANARY, "true", "-1", "nan"]),
        max_size=2,
    ),
)
def test_any_settings_are_taken_or_refused_in_lines_without_their_values(given_values, environ):
    for line in problems_of(settle, given_values, environ):
        assert CANARY not in line
        assert "\n" not in line


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, SLOW_MACHINE])
@given(st.binary(max_size=80) | st.text('[]="server.port\n0#', max_size=60).map(str.encode))
def test_any_file_is_toml_or_refused(tmp_path, raw):
    file = tmp_path / "revoker.toml"
    file.write_bytes(raw)
    problems_of(load, file, {})
