import base64
import hashlib

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from revoker.models import ClaimNames, Claims, Issuer
from revoker.store.keys import Held, Keys, claim_segment, segment, tag_and_start, user_tag
from tests.rig.sids import new_sid

KEYS = Keys("rv")
MAIN = Issuer(name="main", iss="https://idp.example.com")
OWN = Issuer(name="own", iss="https://sessions.example.com", own=True)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=200)


@given(names, names)
@example("=" + "a" * 43, "b")
@example("a b", segment("a b"))
@example("x" * 129, segment("x" * 129))
@example("", segment(""))
@example("a\n", "a")
def test_two_values_never_share_a_segment(one, other):
    assume(one != other)
    assert segment(one) != segment(other)


@given(names)
def test_a_segment_is_short_and_safe(value):
    found = segment(value)
    assert len(found) <= 128
    assert all(item.isascii() and (item.isalnum() or item in "-._~:@/|+=") for item in found)


@pytest.mark.parametrize("plain", ["a", "A-._~:@/|+=", "x" * 128, "auth0|5f7c8e", "me@example.com"])
def test_what_is_short_and_safe_is_stored_as_it_is(plain):
    assert segment(plain) == plain


@pytest.mark.parametrize("odd", ["", "=a", "x" * 129, "a b", "a*", "é", "a\x00", "a{b}", "a\n"])
def test_anything_else_is_a_digest(odd):
    assert segment(odd).startswith("=")
    assert len(segment(odd)) == 44


@given(a=names, b=names, c=names)
def test_a_part_of_the_issuer_cannot_move_into_the_user(a, b, c):
    assert user_tag(a + b, c) != user_tag(a, b + c)
    assert user_tag(f"{len(a)}:{a}", b) != user_tag(a, b)


def test_the_tag_is_96_bits_and_stays_what_it_is():
    text = f"{len(MAIN.iss)}:{MAIN.iss}alice"
    assert bytes.fromhex(hashlib.sha256(text.encode()).hexdigest()[:24]) == _decoded(
        user_tag(MAIN.iss, "alice")
    )


def _decoded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@given(names, st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
def test_a_sid_carries_its_start_and_its_user(sub, start, random):
    tag = user_tag(OWN.iss, sub)
    sid = new_sid(start, tag, random)
    assert tag_and_start(sid) == (tag, start)


@pytest.mark.parametrize(
    "malformed",
    ["", "a", "A" * 37, "A" * 39, "A" * 37 + "B", "A" * 37 + "=", "A" * 37 + "+", "A" * 38 + "\n", "é" * 38],
)
def test_a_sid_that_is_not_formed_so_carries_nothing(malformed):
    assert tag_and_start(malformed) is None
    assert "{" not in KEYS.session_cutoff(OWN, malformed)


def test_no_two_things_share_a_key():
    sid = new_sid(1, user_tag(OWN.iss, "1"), bytes(10))
    issuers = (MAIN, OWN, Issuer(name="seq", iss="1"))
    keys = [KEYS.epoch, KEYS.seq, KEYS.blocks, KEYS.share("1"), KEYS.share("main"), Keys("rv-1").seq]
    for issuer in issuers:
        keys += [KEYS.issuer_cutoff(issuer), KEYS.revoked_keys(issuer)]
        for value in ("1", "main", "main:1", sid, ":", "a b"):
            keys += [KEYS.jti(issuer, value), KEYS.client_cutoff(issuer, value), KEYS.user_of(issuer, value)]
            keys += [KEYS.session_cutoff(issuer, value)]
            keys += [KEYS.claim_cutoff(issuer, claim, value) for claim in ("1", "main", "main:1", ":", "a b")]
    assert len(keys) == len(set(keys))


@given(names, names, names, names)
def test_what_is_read_for_a_token_is_what_revocations_write(jti, sub, sid, client):
    claims = Claims(jti=jti, sub=sub, sid=sid, azp=client)
    for issuer in (MAIN, OWN):
        assert KEYS.of_token(claims, issuer) == (
            KEYS.jti(issuer, jti),
            KEYS.user_of(issuer, sub),
            KEYS.session_cutoff(issuer, sid),
            KEYS.client_cutoff(issuer, client),
            KEYS.issuer_cutoff(issuer),
            KEYS.revoked_keys(issuer),
        )


@given(issuer=st.sampled_from(["a", "main"]), claims=st.lists(st.tuples(names, names), max_size=5))
@example(issuer="a", claims=[("x", "y:z"), ("x:y", "z"), ("=" + "a" * 43, "z"), ("x" * 65, "")])
def test_the_cutoffs_of_revocable_claims_follow_in_their_order_and_are_read_back(issuer, claims):
    names = ClaimNames(revocable=tuple(dict.fromkeys(claim for claim, _ in claims)))
    issuer = Issuer(name=issuer, iss="https://idp.example.com", claim_names=names)
    read = KEYS.of_token(Claims(jti="1", sub="alice", revocable=tuple(claims)), issuer)

    assert read[:6] == KEYS.of_token(Claims(jti="1", sub="alice"), issuer)
    assert read[6:] == tuple(KEYS.claim_cutoff(issuer, claim, value) for claim, value in claims)
    assert KEYS.of_client(issuer, "web", "A" * 16, tuple(claims))[6:] == read[6:]
    for key, (claim, value) in zip(read[6:], claims, strict=True):
        assert KEYS.held(key) == Held("claim-cutoff", issuer.name, segment(value), claim_segment(claim))
        assert KEYS.of_segment("claim-cutoff", issuer, f"{claim_segment(claim)}:{segment(value)}") == key
        assert len(key) < 256 and "{" not in key


@given(names, names, names, names)
@example("x", "y:z", "x:y", "z")
def test_two_claims_never_share_a_key(claim, value, other_claim, other_value):
    assume((claim, value) != (other_claim, other_value))
    assert KEYS.claim_cutoff(MAIN, claim, value) != KEYS.claim_cutoff(MAIN, other_claim, other_value)


def test_client_id_goes_before_azp():
    assert KEYS.of_token(Claims(client_id="a", azp="b"), MAIN)[3] == KEYS.client_cutoff(MAIN, "a")
    assert KEYS.of_token(Claims(azp="b"), MAIN)[3] == KEYS.client_cutoff(MAIN, "b")
