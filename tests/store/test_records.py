"""Lines of an export or import: what is written is read, and nothing else is."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from revoker.errors import InvalidRequest
from revoker.store.keys import segment
from revoker.store.transfer import records

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)
dates = st.integers(0, records.LATEST_S) | st.integers(0, 2**41).map(lambda ms: ms / 1000)
reasons = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=512)
segments = texts.map(lambda text: segment("=" + text))
tags = st.text("abcXYZ019-_", min_size=16, max_size=16)


def optional(values):
    return st.none() | values


def named(member):
    return st.fixed_dictionaries({member: texts}) | st.fixed_dictionaries({"segment": segments})


nothing = st.just({})
makers = st.just({}) | st.fixed_dictionaries({"by": texts, "made": st.none() | dates})


def built(made, named=nothing, **members):
    members = st.fixed_dictionaries(members)
    return st.tuples(named, members).map(lambda both: made(**both[0], **both[1]))


def revoked(made, named=nothing, **members):
    """A line of a revocation, which may say who made it."""
    return st.tuples(named, makers, st.fixed_dictionaries(members)).map(
        lambda parts: made(**parts[0], **parts[1], **parts[2])
    )


users = st.fixed_dictionaries({"iss": texts, "sub": texts}) | st.fixed_dictionaries({"tag": tags})
claims = st.builds(
    lambda claim, value: claim | value,
    st.fixed_dictionaries({"claim": texts}) | st.fixed_dictionaries({"claim_segment": segments}),
    st.fixed_dictionaries({"value": texts | st.integers(-(2**63), 2**63)}) | named("value"),
)
cutoffs = {"iss": texts, "before": optional(dates), "reason": reasons}
lines = st.one_of(
    revoked(records.Jti, named("jti"), iss=texts, exp=optional(dates), at=optional(dates), reason=reasons),
    revoked(records.User, users, before=optional(dates), except_sid=optional(texts), reason=reasons),
    revoked(records.Session, named("sid"), **cutoffs),
    revoked(records.Client, named("client_id"), **cutoffs),
    revoked(records.Claim, claims, **cutoffs),
    revoked(records.Issuer, **cutoffs),
    revoked(records.Block, users, until=optional(dates), reason=reasons),
    revoked(records.Key, iss=texts, kid=texts, at=optional(dates), reason=reasons),
    built(records.End, lines=st.integers(0, 2**40)),
    built(
        records.Place,
        servers=st.lists(texts).map(tuple),
        at=st.integers(0, 99),
        cursor=texts,
        lines=st.integers(0, 2**40),
    ),
)


@given(lines)
def test_what_is_written_is_read(line):
    written = records.write(line)
    assert written.endswith(b"\n") and written.count(b"\n") == 1
    assert records.read(written) == line
    assert records.read(json.dumps(json.loads(written), indent=1).encode()) == line


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_what_is_no_line_is_refused_and_does_no_harm(line):
    with pytest.raises(InvalidRequest):
        records.read(line)


names = (
    *("kind", "iss", "jti", "sub", "sid", "claim", "claim_segment", "value", "segment", "tag", "exp", "at"),
    *("before", "until", "reason", "client_id", "kid", "foo"),
)
members = st.sampled_from(names)
kinds = st.sampled_from(records.KINDS)
numbers = st.integers() | st.floats()
values = st.none() | st.booleans() | numbers | kinds | st.text() | st.lists(st.integers(), max_size=2)


@given(st.lists(st.tuples(members, values), max_size=8), kinds)
def test_any_object_is_understood_whole_or_refused(pairs, kind):
    pairs = [("kind", kind), *pairs]
    text = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs) + "}"
    try:
        read = records.read(text.encode())
    except InvalidRequest:
        return
    assert len(dict(pairs)) == len(pairs)
    assert msgspec.to_builtins(read) == {name: value for name, value in pairs if value is not None}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"kind":"jti","iss":"x"}', "a jti is named by `jti`"),
        (
            '{"kind":"jti","iss":"x","jti":"a","segment":"=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"}',
            "named by",
        ),
        ('{"kind":"jti","iss":"x","segment":"a"}', "matching"),
        ('{"kind":"jti","iss":"x","jti":"a","exp":1795320291316}', "99999999999"),
        ('{"kind":"jti","iss":"x","jti":"a","exp":"1795320291"}', "int | float"),
        ('{"kind":"jti","iss":"x","jti":"a","exp":true}', "int | float"),
        ('{"kind":"jti","iss":"x","jti":""}', "length"),
        ('{"kind":"jti","iss":"x","jti":"a","jti":"b"}', "twice"),
        ('{"kind":"jti","iss":"x","jti":"a","\\u006ati":"b"}', "twice"),
        ('{"kind":"jti","iss":"x","jti":"\\ud800"}', "truncated"),
        ('{"kind":"claim","iss":"x","claim":"a"}', "a claim is named by `claim` and `value`"),
        ('{"kind":"claim","iss":"x","value":1}', "a claim is named by `claim` and `value`"),
        ('{"kind":"claim","iss":"x","claim":"a","value":true}', "int | float | str"),
        ('{"kind":"user","iss":"x","sub":"a","exp":1}', "unknown field `exp`"),
        ('{"kind":"user","sub":"a"}', "named by `iss` and `sub`"),
        ('{"kind":"user","iss":"x","tag":"abcdefghijklmnop"}', "named by"),
        ('{"kind":"token","jti":"a"}', "token"),
        ('{"iss":"x","jti":"a"}', "kind"),
        ('[{"kind":"jti"}]', "array"),
        ('{"kind":"jti","iss":"x","jti":"a"} {}', "trailing"),
        ('{"kind":"export","format":2,"at":1}', "format 2"),
    ],
)
def test_what_is_wrong_with_a_bad_line_is_reported(line, problem):
    with pytest.raises(InvalidRequest, match=problem.replace("|", "\\|")):
        records.read(line.encode())
