"""DESIGN §1, bullet by bullet, against a model that says it in other words: fractions, sets and sums."""

from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from revoker import rules
from revoker.models import NO_REVOCATIONS, Claims, Issuer, Revocation, RevocationState, UserState, Verdict

NOW = 1_763_769_600_000
KID = "kid-1"


def seconds(us):
    """A NumericDate of whole µs as JSON brings it: an integer where it is whole, else a fraction."""
    return us // 1_000_000 if us % 1_000_000 == 0 else us / 1_000_000


def exact(at):
    """What the decimal text of a NumericDate says, to the µs."""
    return Fraction(round(Fraction(repr(at)) * 1_000_000), 1_000_000)


near = st.sampled_from([0, 1, -1, 999, -999, 1000, -1000, 500_000, 1_000_000, -1_000_000])
spans = st.sampled_from([0, 1, 2, 29, 30, 31, 60, 300, 3600, 86400, 604_800])
offsets = st.builds(
    lambda span, sign, jitter: sign * span * 1_000_000 + jitter, spans, st.sampled_from([1, -1]), near
)
times = st.one_of(offsets, st.integers(-200_000_000_000, 200_000_000_000)).map(
    lambda offset: seconds(NOW * 1000 + offset)
)
cutoffs = st.one_of(offsets, st.integers(-200_000_000_000, 200_000_000_000)).map(
    lambda offset: NOW + offset // 1000
)
marks = st.none() | cutoffs.map(Revocation)
clocks = st.integers(-30_000, 30_000).map(lambda offset: NOW + offset)
moments = st.tuples(clocks, clocks, cutoffs)
"""The store's time, the service's own, and the start of the session, in ms."""
sids = st.sampled_from(["a", "b", None])

issuers = st.builds(
    Issuer,
    name=st.just("main"),
    iss=st.just("https://idp"),
    own=st.booleans(),
    clock_skew=st.sampled_from([0, 2, 60]),
    leeway=st.sampled_from([0, 30]),
    max_token_lifetime=st.sampled_from([300, 86400]),
    cutoff_claim=st.sampled_from(["iat", "auth_time"]),
    max_session_lifetime=st.sampled_from([3600, 604_800]),
    require_jti=st.booleans(),
    revoked_kids=st.sampled_from([frozenset(), frozenset({"stolen"})]),
)
claims_of = st.builds(
    Claims,
    iss=st.just("https://idp"),
    jti=st.sampled_from(["1", None, ""]),
    sub=st.sampled_from(["alice", "alice", "alice", None, ""]),
    iat=times | st.none(),
    exp=times | st.none(),
    kid=st.sampled_from([KID, "stolen", None]),
    sid=sids,
    auth_time=times | st.none(),
    nbf=times | st.none(),
)
users = st.none() | st.builds(
    UserState,
    hard=st.just(0) | cutoffs,
    soft=st.just(0) | cutoffs,
    sid=st.sampled_from(["", "a", "b"]),
    blocked=st.just(0) | cutoffs,
)
states = st.builds(
    RevocationState,
    jti=marks,
    user=users,
    session=marks,
    client=marks,
    claims=st.lists(marks, max_size=3).map(tuple),
    issuer=marks,
    keys=st.sampled_from([{}, {KID: Revocation(1)}, {"other": Revocation(1)}]),
    loss=st.just(0) | cutoffs,
)
lively = st.builds(
    lambda issuer, iat, life, auth: (
        issuer,
        Claims(
            iss="https://idp", jti="1", sub="alice", iat=seconds(NOW * 1000 + iat), kid=KID, sid="a",
            exp=seconds(NOW * 1000 + iat + life),
            auth_time=None if auth is None else seconds(NOW * 1000 - auth),
        ),
    ),
    issuers,
    st.integers(-80_000_000_000, 60_000_000),
    st.integers(0, 86_400_000_000),
    st.none() | st.integers(0, 3_000_000_000),
)  # fmt: skip
"""An issuer and a token of it that may well be active."""


def objections(claims, issuer, state, moments):
    """All that DESIGN §1 has against a token; nothing: it is active."""
    found = set()
    store_now, own_now, start = moments
    store, own = Fraction(store_now, 1000), Fraction(own_now, 1000)
    if not claims.sub or claims.iat is None or claims.exp is None or (issuer.require_jti and not claims.jti):
        return {Verdict.INCOMPLETE}
    iat, exp = exact(claims.iat), exact(claims.exp)
    if iat < 0 or exp < iat:
        return {Verdict.INCOMPLETE}
    auth_time = None if claims.auth_time is None else exact(claims.auth_time)
    by_login = issuer.cutoff_claim == "auth_time"
    found |= {Verdict.LIVES_TOO_LONG} if exp - iat > issuer.max_token_lifetime else set()
    found |= {Verdict.ISSUED_IN_FUTURE} if iat > store + issuer.clock_skew else set()
    found |= {Verdict.EXPIRED} if not all(exp > now - issuer.leeway for now in (store, own)) else set()
    if claims.nbf is not None and any(exact(claims.nbf) > now + issuer.leeway for now in (store, own)):
        found.add(Verdict.NOT_YET_VALID)
    if by_login and auth_time is not None:
        found |= {Verdict.LIVES_TOO_LONG} if exp - auth_time > issuer.max_session_lifetime else set()
        found |= {Verdict.ISSUED_IN_FUTURE} if auth_time > store + issuer.clock_skew else set()
    gone = issuer.revoked_kids | set(state.keys)
    if gone and claims.kid not in {KID, "stolen"} - gone:
        found.add(Verdict.KEY_REVOKED)
    found |= {Verdict.TOKEN_REVOKED} if state.jti is not None else set()

    def covered(cutoff_ms, margin):
        cutoff = Fraction(cutoff_ms, 1000)
        if issuer.own:  # what another server may have dated counts as begun now where it lies ahead
            return Fraction(min(start, store_now) if margin else start, 1000) - margin <= cutoff
        dates = [iat]
        if by_login and auth_time is not None:
            dates.append(auth_time)
        return any(date - issuer.clock_skew <= cutoff for date in dates)

    nameless = by_login and auth_time is None and not issuer.own
    user = state.user
    if user is not None:
        found |= {Verdict.USER_BLOCKED} if user.blocked > store_now else set()
        for cutoff, spared in ((user.hard, None), (user.soft, user.sid or None)):
            if cutoff and (spared is None or claims.sid != spared) and (nameless or covered(cutoff, 0)):
                found.add(Verdict.USER_CUTOFF)
    for mark, verdict, margin in (
        (state.session, Verdict.SESSION_CUTOFF, 0),
        (state.client, Verdict.CLIENT_CUTOFF, 2),
        *((mark, Verdict.CLAIM_CUTOFF, 2) for mark in state.claims),
    ):
        if mark is not None and (nameless or covered(mark.at, margin)):
            found.add(verdict)
    if state.issuer is not None and covered(state.issuer.at, 2):
        found.add(Verdict.ISSUER_CUTOFF)
    if state.loss and covered(state.loss, 2):
        found.add(Verdict.DATA_LOSS)
    return found


def objected(claims, issuer, state, moments):
    return objections(claims, issuer, state, moments) or {Verdict.ACTIVE}


def judged(claims, issuer, state, moments):
    store_now, own_now, start = moments
    return rules.judge(claims, issuer, state, None, store_now=store_now, own_now=own_now, session_start=start)


def verdict(claims, issuer, state=NO_REVOCATIONS, *, now=NOW, own_now=None, start=NOW - 60_000):
    own_now = now if own_now is None else own_now
    return rules.judge(claims, issuer, state, None, store_now=now, own_now=own_now, session_start=start)


def cut(of, at):
    """A cutoff as the state has it."""
    if of == "user":
        return UserState(hard=at)
    return {"loss": at, "claims": (None, Revocation(at))}.get(of, Revocation(at))


@given(claims_of, issuers, states, moments)
def test_a_verdict_is_one_of_the_objections_and_active_means_there_is_none(claims, issuer, state, moments):
    assert judged(claims, issuer, state, moments) in objected(claims, issuer, state, moments)


@given(lively, states, moments)
def test_tokens_that_keep_the_bounds_are_judged_by_all_that_stands(lively, state, moments):
    issuer, claims = lively
    assert judged(claims, issuer, state, moments) in objected(claims, issuer, state, moments)


@given(
    lively, states, st.sampled_from(["jti", "user", "session", "client", "claims", "issuer", "keys", "loss"])
)
def test_nothing_that_stands_ever_makes_a_token_active(lively, state, left_out):
    issuer, claims = lively
    without = {name: getattr(state, name) for name in RevocationState.__slots__ if name != left_out}
    if verdict(claims, issuer, state) is Verdict.ACTIVE:
        assert verdict(claims, issuer, RevocationState(**without)) is Verdict.ACTIVE


@given(lively, st.integers(0, 2_000), st.sampled_from(["user", "session", "client", "claims", "issuer"]))
@example(
    (Issuer(name="main", iss="i"), Claims(jti="1", sub="a", iat=NOW / 1000 + 2, exp=NOW // 1000 + 9)),
    0,
    "user",
)
def test_whatever_was_ever_active_is_covered_by_a_cutoff_made_from_then_on(lively, later_ms, of):
    issuer, claims = lively
    assume(verdict(claims, issuer, start=NOW) is Verdict.ACTIVE)
    cutoff = NOW + later_ms
    state = RevocationState(**{of: cut(of, cutoff)})
    assert verdict(claims, issuer, state, now=cutoff, start=NOW) is not Verdict.ACTIVE


@given(lively, st.integers(0, 90_000_000))
def test_a_revoked_jti_is_kept_as_long_as_its_token_could_be_active(lively, later_ms):
    issuer, claims = lively
    for now in (NOW + later_ms, rules.jti_expiry_ms(issuer, claims.exp)):
        if now >= rules.jti_expiry_ms(issuer, claims.exp):
            assert verdict(claims, issuer, now=now) is not Verdict.ACTIVE
    assert rules.jti_expiry_ms(issuer, claims.exp) - exact(claims.exp) * 1000 >= (issuer.leeway + 60) * 1000


@given(lively)
def test_a_jti_without_a_known_exp_is_kept_as_if_the_token_lived_longest(lively):
    issuer, claims = lively
    assume(verdict(claims, issuer) is Verdict.ACTIVE)
    assert rules.earliest_active_ms(issuer, claims.exp) <= NOW


@given(lively, st.integers(0, 100_000_000))
def test_a_cutoff_is_kept_as_long_as_anything_that_it_covers_could_be_active(lively, age_ms):
    issuer, claims = lively
    assume(issuer.cutoff_claim == "iat" or claims.auth_time is not None)
    assume(not issuer.own)
    longest = max(issuer.max_token_lifetime, issuer.max_session_lifetime)
    issuer = Issuer(
        **{
            **{name: getattr(issuer, name) for name in Issuer.__slots__},
            "horizon": longest if issuer.cutoff_claim == "auth_time" else issuer.max_token_lifetime,
        }
    )
    cutoff = NOW - age_ms
    gone_at = cutoff + rules.cutoff_lifetime_ms(issuer)
    covering = RevocationState(user=UserState(hard=cutoff))
    if verdict(claims, issuer, now=gone_at) is Verdict.ACTIVE:
        assert verdict(claims, issuer, covering, now=gone_at) is Verdict.ACTIVE
    assert gone_at - cutoff >= (issuer.horizon + issuer.clock_skew + issuer.leeway + 60) * 1000


MAIN = Issuer(name="main", iss="https://idp")
OWN = Issuer(name="sessions", iss="https://own", own=True)


def token(iat=NOW / 1000 - 10, life=300, **changes):
    return Claims(**{"jti": "1", "sub": "alice", "iat": iat, "exp": iat + life, "sid": "a", **changes})


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        (token(iat=NOW // 1000 + 2), Verdict.ACTIVE),
        (token(iat=(NOW + 2001) / 1000), Verdict.ISSUED_IN_FUTURE),
        (token(iat=(NOW * 1000 + 2_000_001) / 1e6), Verdict.ISSUED_IN_FUTURE),
        (token(iat=NOW // 1000 - 60, life=30), Verdict.EXPIRED),
        (token(iat=NOW // 1000 - 60, life=31), Verdict.ACTIVE),
        (token(iat=NOW // 1000, life=86400), Verdict.ACTIVE),
        (token(iat=NOW // 1000, life=86400.000001), Verdict.LIVES_TOO_LONG),
        (token(nbf=NOW // 1000 + 30), Verdict.ACTIVE),
        (token(nbf=NOW / 1000 + 30.001), Verdict.NOT_YET_VALID),
        (token(iat=-1), Verdict.INCOMPLETE),
        (token(exp=10**400), Verdict.LIVES_TOO_LONG),
        (token(iat=1.5, exp=10**400), Verdict.LIVES_TOO_LONG),
        (token(iat=10**400, exp=10**400), Verdict.ISSUED_IN_FUTURE),
        (token(iat=1e300, exp=1e305), Verdict.ISSUED_IN_FUTURE),
        (token(nbf=1e305), Verdict.NOT_YET_VALID),
        (token(nbf=-1e305), Verdict.ACTIVE),
    ],
)
def test_the_bounds_hold_to_the_microsecond_and_for_any_number(claims, expected):
    assert verdict(claims, MAIN) is expected


@pytest.mark.parametrize(
    ("store", "own", "expected"),
    [(0, 0, Verdict.ACTIVE), (30_000, 0, Verdict.EXPIRED), (0, 30_000, Verdict.EXPIRED)],
)
def test_exp_is_judged_by_the_later_clock(store, own, expected):
    claims = token(iat=NOW // 1000 - 60, life=60)
    assert verdict(claims, MAIN, now=NOW + store, own_now=NOW + own) is expected


@pytest.mark.parametrize("offset", [-30_000, 30_000])
def test_iat_is_judged_by_the_store_alone(offset):
    assert verdict(token(iat=NOW // 1000 + 2), MAIN, own_now=NOW + offset) is Verdict.ACTIVE
    assert verdict(token(iat=NOW // 1000 + 3), MAIN, own_now=NOW + offset) is Verdict.ISSUED_IN_FUTURE


@pytest.mark.parametrize(
    ("ms", "expected"), [(-1, Verdict.ACTIVE), (0, Verdict.USER_CUTOFF), (1, Verdict.USER_CUTOFF)]
)
def test_a_cutoff_covers_an_iat_to_the_millisecond(ms, expected):
    issued = NOW - 100_000
    state = RevocationState(user=UserState(hard=issued - 2000 + ms))
    assert verdict(token(iat=issued / 1000), MAIN, state) is expected


def test_a_whole_second_iat_in_the_second_of_the_cutoff_counts_as_before():
    state = RevocationState(user=UserState(hard=NOW + 999))
    assert verdict(token(iat=NOW // 1000), MAIN, state, now=NOW + 999) is Verdict.USER_CUTOFF


@pytest.mark.parametrize(
    ("of", "margin"),
    [("user", 0), ("session", 0), ("client", 2000), ("claims", 2000), ("issuer", 2000), ("loss", 2000)],
)
def test_sessions_kept_here_are_covered_by_their_start(of, margin):
    def under(cutoff):
        state = RevocationState(**{of: cut(of, cutoff)})
        return verdict(token(iat=NOW // 1000), OWN, state, start=NOW - 50_000)

    assert under(NOW - 50_000 - margin) is not Verdict.ACTIVE
    assert under(NOW - 50_001 - margin) is Verdict.ACTIVE


def test_a_token_without_auth_time_is_before_every_cutoff_but_those_of_issuer_and_loss():
    issuer = Issuer(name="m", iss="i", cutoff_claim="auth_time", max_session_lifetime=86400)
    for of in ("session", "client", "claims"):
        assert verdict(token(), issuer, RevocationState(**{of: cut(of, 1)})) is not Verdict.ACTIVE
    assert verdict(token(), issuer, RevocationState(user=UserState(hard=1))) is Verdict.USER_CUTOFF
    assert verdict(token(), issuer, RevocationState(user=UserState(soft=1, sid="b"))) is Verdict.USER_CUTOFF
    assert verdict(token(), issuer, RevocationState(user=UserState(soft=1, sid="a"))) is Verdict.ACTIVE
    assert verdict(token(), issuer, RevocationState(issuer=Revocation(1), loss=1)) is Verdict.ACTIVE
    assert verdict(token(), issuer, RevocationState(issuer=Revocation(NOW))) is Verdict.ISSUER_CUTOFF
    assert verdict(token(), issuer, RevocationState(loss=NOW)) is Verdict.DATA_LOSS


def test_a_block_ends_to_the_millisecond():
    for ms, expected in ((1, Verdict.USER_BLOCKED), (0, Verdict.ACTIVE)):
        state = RevocationState(user=UserState(blocked=NOW + ms))
        assert verdict(token(iat=NOW // 1000 + 1), MAIN, state) is expected


@pytest.mark.parametrize("kid", [None, "stolen"])
def test_a_revoked_key_takes_along_what_does_not_name_another(kid):
    configured = Issuer(name="m", iss="i", revoked_kids=frozenset({"stolen"}))
    stored = RevocationState(keys={"stolen": Revocation(1)})
    assert verdict(token(kid=kid), configured) is Verdict.KEY_REVOKED
    assert verdict(token(kid=kid), MAIN, stored) is Verdict.KEY_REVOKED
    assert verdict(token(kid="good"), configured, stored) is Verdict.ACTIVE
    assert verdict(token(kid=kid), MAIN) is Verdict.ACTIVE


@pytest.mark.parametrize(
    ("store", "own", "expected"),
    [(0, 0, Verdict.ACTIVE), (-1, 0, Verdict.NOT_YET_VALID), (0, -1, Verdict.NOT_YET_VALID)],
)
def test_nbf_is_judged_by_the_earlier_clock(store, own, expected):
    claims = token(nbf=NOW // 1000 + 30)
    assert verdict(claims, MAIN, now=NOW + store, own_now=NOW + own) is expected


@pytest.mark.parametrize(
    ("auth_time", "expected"),
    [
        (NOW // 1000 + 2, Verdict.ACTIVE),
        (NOW // 1000 + 3, Verdict.ISSUED_IN_FUTURE),
        (NOW // 1000 + 300 - 3600, Verdict.ACTIVE),
        (NOW // 1000 + 299 - 3600, Verdict.LIVES_TOO_LONG),
    ],
)
def test_a_login_is_neither_in_the_future_nor_longer_ago_than_a_session_lasts(auth_time, expected):
    issuer = Issuer(name="m", iss="i", cutoff_claim="auth_time", max_session_lifetime=3600)
    assert verdict(token(iat=NOW // 1000, auth_time=auth_time), issuer) is expected
    if expected is not Verdict.ACTIVE:
        assert verdict(token(iat=NOW // 1000, auth_time=auth_time), MAIN) is Verdict.ACTIVE


def test_an_excepted_session_is_spared_by_the_soft_cutoff_alone():
    for state, sid, expected in (
        (UserState(soft=NOW, sid="a"), "a", Verdict.ACTIVE),
        (UserState(soft=NOW, sid="a"), "b", Verdict.USER_CUTOFF),
        (UserState(soft=NOW, sid="a"), None, Verdict.USER_CUTOFF),
        (UserState(hard=NOW, soft=NOW, sid="a"), "a", Verdict.USER_CUTOFF),
        (UserState(soft=NOW), "", Verdict.USER_CUTOFF),
    ):
        assert verdict(token(sid=sid), MAIN, RevocationState(user=state)) is expected


def test_the_longest_token_of_the_fastest_clock_ends_no_later_than_a_jti_without_exp_is_kept():
    claims = token(iat=NOW // 1000 + MAIN.clock_skew, life=MAIN.max_token_lifetime)
    assert verdict(claims, MAIN) is Verdict.ACTIVE
    assert rules.earliest_active_ms(MAIN, claims.exp) <= NOW


@pytest.mark.parametrize("jti", [None, ""])
def test_a_token_without_jti_is_active_only_where_the_issuer_needs_none(jti):
    assert verdict(token(jti=jti), MAIN) is Verdict.INCOMPLETE
    assert verdict(token(jti=jti), Issuer(name="m", iss="i", require_jti=False)) is Verdict.ACTIVE


def test_the_login_counts_where_it_is_earlier_than_the_token():
    issuer = Issuer(name="m", iss="i", cutoff_claim="auth_time", max_session_lifetime=86400)
    claims = token(auth_time=NOW // 1000 - 1000)
    for state in (
        RevocationState(user=UserState(hard=NOW - 900_000)),
        RevocationState(issuer=Revocation(NOW - 900_000)),
    ):
        assert verdict(claims, issuer, state) is not Verdict.ACTIVE
        assert verdict(claims, MAIN, state) is Verdict.ACTIVE


@given(states, st.integers(NOW - 10_000, NOW + 10_000))
def test_a_session_is_cut_off_where_its_tokens_are_by_a_cutoff_that_sessions_share(state, start):
    shared = RevocationState(client=state.client, claims=state.claims, issuer=state.issuer, loss=state.loss)
    judged = rules.check_cutoffs(token(), OWN, shared, NOW, start)
    assert rules.session_is_cut_off(start, state, store_now=NOW) == (judged is not Verdict.ACTIVE)
