"""Bounds that were raised: nothing outlives what revoked it, be that kept for the bounds before."""

import dataclasses

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from revoker import rules
from revoker.errors import StoreRefused
from revoker.models import (
    NO_REVOCATIONS,
    Claims,
    Issuer,
    LimitIncrease,
    OldLimits,
    OldMargin,
    Revocation,
    RevocationState,
    Verdict,
)

NOW = 1_763_769_600_000
BOUNDS = ("max_token_lifetime", "horizon", "leeway", "clock_skew")

steps = st.integers(0, 400_000)
sizes = {
    "max_token_lifetime": st.integers(60, 400_000),
    "horizon": st.integers(60, 900_000),
    "leeway": st.integers(0, 300),
    "clock_skew": st.integers(0, 300),
}


@st.composite
def issuers(draw):
    """An issuer with today's limits, the increases, and the limits of each time: ``(until, issuer)``."""
    kind = draw(st.sampled_from(["iat", "auth_time", "own"]))
    bounds = {name: draw(size) for name, size in sizes.items()}
    if kind == "iat":
        bounds["horizon"] = bounds["max_token_lifetime"]
    bounds["horizon"] = max(bounds["horizon"], bounds["max_token_lifetime"])
    now = Issuer(
        name="main",
        iss="https://idp",
        own=kind == "own",
        cutoff_claim="auth_time" if kind == "auth_time" else "iat",
        max_session_lifetime=bounds["horizon"] if kind == "auth_time" else 0,
        **bounds,
    )
    eras, increases, at = [], [], NOW
    for _ in range(draw(st.integers(1, 3))):
        at -= draw(st.integers(0, 400_000)) * 1000 + 1
        lowered = draw(st.sets(st.sampled_from(BOUNDS), min_size=1))
        for name in BOUNDS:
            if name not in lowered or (name == "horizon" and kind == "iat"):
                continue
            least = bounds["max_token_lifetime"] if name == "horizon" else 0
            before = draw(st.integers(least, bounds[name]))
            increases.append(LimitIncrease(name, before, at))
            bounds[name] = before
        if kind == "iat":
            bounds["horizon"] = bounds["max_token_lifetime"]
        eras.append((at, dataclasses.replace(now, **bounds)))
    return now, OldLimits(tuple(reversed(increases))), eras


@st.composite
def tokens(draw, issuer):
    iat = NOW // 1000 - draw(st.integers(-300, 1_200_000))
    life = draw(st.integers(1, issuer.max_token_lifetime))
    began = iat - draw(st.integers(0, issuer.horizon))
    claims = Claims(
        jti="1", sub="alice", iat=iat, exp=iat + life, auth_time=draw(st.sampled_from([began, None]))
    )
    return claims, began * 1000


def verdict(claims, issuer, old, now, start):
    return rules.judge(claims, issuer, NO_REVOCATIONS, old, store_now=now, own_now=now, session_start=start)


@st.composite
def tokens_about_to_end(draw, issuer, era, revoked, gone):
    """A token from before its revocation (ms) that may end about when that is gone (ms)."""
    first = (revoked - 1) // 1000 + draw(st.sampled_from([issuer.clock_skew, 0, -30]))
    latest = gone // 1000 - era.leeway - draw(st.integers(0, issuer.max_token_lifetime))
    refreshed = issuer.own or issuer.cutoff_claim == "auth_time"
    iat = draw(st.sampled_from([first, max(first, latest)])) if refreshed else first
    end = gone // 1000 - issuer.leeway + draw(st.integers(-5, 700))
    longest = draw(st.sampled_from([issuer, era]))
    exp = min(max(end, iat + 1), iat + longest.max_token_lifetime, first + longest.horizon)
    assume(exp > iat)
    return Claims(jti="1", sub="alice", iat=iat, exp=exp, auth_time=first), first * 1000


@given(st.data(), issuers())
def test_what_a_cutoff_made_under_earlier_bounds_covered_is_not_active_once_that_is_gone(
    data, issuer_and_eras
):
    issuer, old, eras = issuer_and_eras
    until, era = data.draw(st.sampled_from(eras))
    cutoff = until - data.draw(steps) * data.draw(st.sampled_from([0, 1000]))
    gone = cutoff + rules.cutoff_lifetime_ms(era)
    claims, start = data.draw(tokens_about_to_end(issuer, era, cutoff, gone))
    assume(rules.comparison_times(claims, issuer, start)[0] <= cutoff * 1000)
    assert verdict(claims, issuer, old, gone, start) is not Verdict.ACTIVE


@given(st.data(), issuers(), st.booleans())
def test_a_revoked_token_is_not_active_once_its_entry_is_gone(data, issuer_and_eras, has_exp):
    issuer, old, eras = issuer_and_eras
    until, era = data.draw(st.sampled_from(eras))
    revoked = until - data.draw(steps) * data.draw(st.sampled_from([0, 1000]))
    gone = revoked + rules.jti_lifetime_ms(era)
    claims, start = data.draw(tokens_about_to_end(issuer, era, revoked, gone))
    assume((claims.iat - issuer.clock_skew) * 1000 <= revoked)
    gone = rules.jti_expiry_ms(era, claims.exp) if has_exp else gone
    assert verdict(claims, issuer, old, gone, start) is not Verdict.ACTIVE


@given(st.data(), issuers(), steps)
def test_what_was_issued_after_the_last_raise_is_judged_by_the_present_bounds_alone(
    data, issuer_and_eras, ago
):
    issuer, old, eras = issuer_and_eras
    claims, start = data.draw(tokens(issuer))
    last = max(until for until, _ in eras) + issuer.clock_skew * 1000
    assume(min(claims.iat, claims.auth_time or claims.iat) * 1000 > last and start - 2000 > last)
    now = NOW + ago
    assert verdict(claims, issuer, old, now, start) is verdict(claims, issuer, None, now, start)


@given(st.data(), issuers(), steps)
def test_a_raise_makes_nothing_active_and_refuses_nothing_that_was_active_before_it(
    data, issuer_and_eras, ago
):
    issuer, old, eras = issuer_and_eras
    claims, start = data.draw(tokens(issuer))
    now = NOW + ago
    found = verdict(claims, issuer, old, now, start)
    if found is Verdict.ACTIVE:
        assert verdict(claims, issuer, None, now, start) is Verdict.ACTIVE
    elif all(
        verdict(claims, era, None, now, start) is Verdict.ACTIVE
        and era.clock_skew == issuer.clock_skew
        and claims.exp - start // 1000 <= era.horizon
        for _, era in [*eras, (0, issuer)]
    ):
        raise AssertionError(found)


def test_without_old_limits_a_token_is_active_and_in_a_conflict_it_has_no_verdict():
    issuer = Issuer(name="main", iss="https://idp")
    claims = Claims(jti="1", sub="alice", iat=NOW // 1000, exp=NOW // 1000 + 60)
    assert verdict(claims, issuer, None, NOW, None) is Verdict.ACTIVE
    with pytest.raises(StoreRefused, match="renamed"):
        verdict(claims, issuer, OldLimits(conflict="renamed"), NOW, None)


@pytest.mark.parametrize(
    ("raised", "before", "iat", "exp", "active"),
    [
        ("max_token_lifetime", 300, -100, 200, True),
        ("max_token_lifetime", 300, -100, 201, False),
        ("max_token_lifetime", 300, 3, 600, True),
        ("max_token_lifetime", 300, 2, 600, False),
        ("leeway", 10, -100, -9, True),
        ("leeway", 10, -100, -10, False),
        ("clock_skew", 2, -100, -30, False),
        ("clock_skew", 1, -100, -28, True),
        ("clock_skew", 1, -100, -29, False),
    ],
)
def test_the_boundaries(raised, before, iat, exp, active):
    """All times in seconds from the raise, which is the present but for tokens issued after it."""
    old = OldLimits((LimitIncrease(raised, before, NOW),))
    issuer = Issuer(name="main", iss="https://idp")
    now = NOW // 1000
    claims = Claims(jti="1", sub="alice", iat=now + iat, exp=now + exp)
    verdict_now = verdict(claims, issuer, old, NOW + max(iat, 0) * 1000, None)
    assert (verdict_now is Verdict.ACTIVE) is active


@pytest.mark.parametrize(
    ("limit", "claims", "start"),
    [
        ("max_token_lifetime", {"iat": -50, "exp": 500}, -50),
        ("horizon", {"iat": -10, "exp": 500}, -50),
    ],
)
def test_a_second_increase_refuses_nothing_that_was_issued_under_the_first(limit, claims, start):
    """If increases of one limit were merged, the lowest old value would log these users out."""
    issuer = Issuer(name="main", iss="https://idp", own=True, **{limit: 86_400})
    claims = Claims(jti="1", sub="alice", **{name: NOW // 1000 + at for name, at in claims.items()})
    first = LimitIncrease(limit, 300, NOW - 100_000)
    second = LimitIncrease(limit, 3600, NOW)
    for increases in ((first,), (first, second)):
        active = verdict(claims, issuer, OldLimits(increases), NOW, NOW + start * 1000)
        assert active is Verdict.ACTIVE
    merged = OldLimits((LimitIncrease(limit, 300, NOW),))
    assert verdict(claims, issuer, merged, NOW, NOW + start * 1000) is Verdict.LIVES_TOO_LONG


@pytest.mark.parametrize("of", ["iat", "auth_time"])
def test_a_lowered_margin_applies_to_what_is_issued_later(of):
    issuer = Issuer(name="main", iss="https://idp", clock_skew=2, cutoff_claim=of, max_session_lifetime=86400)
    old = OldLimits(margins=(OldMargin(60, NOW),))

    def active(login, cutoff):
        """Whether a token of a login so many seconds after the change, and the cutoff, is active."""
        at = NOW // 1000 + login
        claims = Claims(jti="1", sub="alice", iat=at + (5 if of == "auth_time" else 0), auth_time=at)
        claims = msgspec.structs.replace(claims, exp=at + 600)
        state = RevocationState(client=Revocation(at * 1000 - cutoff * 1000, ""))
        now = (at + 10) * 1000
        verdict = rules.judge(claims, issuer, state, old, store_now=now, own_now=now)
        return verdict is Verdict.ACTIVE

    assert not active(login=-10, cutoff=60), "the earlier margin covers it"
    assert active(login=-10, cutoff=61)
    assert not active(login=2, cutoff=3), "it may have been dated ahead"
    assert active(login=3, cutoff=3)
    assert not active(login=3, cutoff=2)
