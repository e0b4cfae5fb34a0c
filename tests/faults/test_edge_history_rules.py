"""The checker of edges on histories made by hand: it finds each violation, and nothing in what is allowed."""

import pytest

from tests.faults.edge_history import (
    Blocked,
    EdgeAbsent,
    EdgeAnswer,
    Loss,
    StoreClock,
    StoreTimes,
    Unblocked,
    check_edges,
)
from tests.faults.history import Cutoff, Fault, Revoked, Token

AHEAD = 1_000_000.0
"""Seconds by which the store's clock is ahead of that of the histories."""

TOKEN = Token("jti-1", "user-1", "sid-1", "client-1", 1000.0, 2000.0, "grant-1")
CLOCKS = [StoreClock(0.0, AHEAD), StoreClock(100.0, AHEAD)]


def ms(at, ahead=AHEAD):
    return round((at + ahead) * 1000)


def answer(start, end, *, as_of=None, active=True, status=200, edge="edge", asks=False):
    """One that is as of its start, unless another time is given."""
    as_of = ms(start if as_of is None else as_of)
    return EdgeAnswer(start, end, edge, TOKEN, status, active, as_of, asks)


def revoked(start, end, status=200):
    return Revoked(start, end, "a", "jti", TOKEN.jti, status)


def rules(*edges, history=(), clocks=CLOCKS):
    found = check_edges(list(history), [*clocks, *edges], max_staleness=2.0)
    return [violation.rule for violation in found]


def test_what_was_revoked_may_be_active_for_max_staleness_by_an_older_knowledge():
    history = [revoked(10, 11)]
    assert rules(answer(12.9, 13.5, as_of=10.95), history=history) == []
    assert rules(answer(13.1, 13.5, as_of=11.0), history=history) == [
        "older than max_staleness",
        "revoked, and active beyond max_staleness",
    ]
    assert rules(answer(13.1, 13.5, as_of=11.0, asks=True), history=history) == [
        "revoked, and active beyond max_staleness"
    ]


def test_as_of_a_later_time_nothing_is_active_that_was_revoked():
    history = [revoked(10, 11)]
    assert rules(answer(11.5, 12, as_of=11.2), history=history) == ["revoked, and active as of later"]
    assert rules(answer(11.5, 12, as_of=10.9), history=history) == []
    assert rules(answer(11.5, 12, as_of=11.2), history=[revoked(10, 11, status=503)]) == []
    assert rules(answer(11.5, 12, as_of=11.2, active=False), history=history) == []


def test_an_answer_says_truthfully_how_old_it_is():
    assert rules(answer(10, 11, as_of=7.9)) == ["older than max_staleness"]
    assert rules(answer(10, 11, as_of=8.1)) == []
    assert rules(answer(10, 11, as_of=7.9, asks=True)) == []
    assert rules(answer(10, 11, as_of=11.1)) == ["as of a time that the store's clock had not displayed yet"]
    silent = EdgeAnswer(10, 11, "edge", TOKEN, 200, True)
    assert rules(silent) == ["a verdict that does not say as of when"]


def test_no_verdict_is_a_503_without_one():
    assert rules(answer(1, 2, status=503, active=None)) == []
    assert rules(answer(1, 2, status=503)) == ["an edge's verdict and status that do not agree"]
    assert rules(answer(1, 2, active=None)) == ["an edge's verdict and status that do not agree"]
    assert rules(answer(1, 2, status=500, active=None)) == ["an edge's answer that is neither 200 nor 503"]


def test_an_edge_that_runs_answers():
    unanswered = answer(1, 2, status=None, active=None)
    assert rules(unanswered) == ["no answer of an edge"]
    assert rules(unanswered, EdgeAbsent("edge", 1.5, 3)) == []
    assert rules(unanswered, EdgeAbsent("another", 1.5, 3)) == ["no answer of an edge"]
    assert rules(unanswered, EdgeAbsent("edge", 2.5, 3)) == ["no answer of an edge"]


def test_what_nobody_revoked_is_active_unless_a_loss_covers_it():
    inactive = answer(10, 11, active=False)
    assert rules(inactive) == ["never revoked, and not active at an edge"]
    assert rules(inactive, history=[revoked(10.5, 10.7, status=None)]) == []
    assert rules(inactive, history=[revoked(11.5, 11.7)]) == ["never revoked, and not active at an edge"]
    assert rules(inactive, Loss(1000.0)) == []
    assert rules(inactive, Loss(990.0)) == ["never revoked, and not active at an edge"]
    assert rules(inactive, history=[Cutoff(10.5, 1000.0, "cutoff")]) == []
    assert rules(inactive, history=[Cutoff(23, 1000.0, "cutoff")], clocks=[*CLOCKS, Loss(1000.0)]) == [
        "never revoked, and not active at an edge"
    ]


def test_a_block_holds_from_its_acknowledgement_to_the_attempt_to_end_it():
    blocked = Blocked(10, 11, "user-1", 200)
    assert rules(blocked, answer(11.5, 12, as_of=11.2)) == ["revoked, and active as of later"]
    assert rules(blocked, answer(11.5, 12, as_of=10.5)) == []
    assert rules(blocked, Unblocked(11.8, 13, "user-1", None), answer(11.5, 12, as_of=11.2)) == []
    assert rules(Blocked(10, 11, "user-1", 503), answer(11.5, 12, as_of=11.2)) == []


def test_after_the_acknowledged_end_of_a_block_as_of_later_the_user_is_active():
    block = Blocked(10, 11, "user-1", 200), Unblocked(12, 13, "user-1", 200)
    assert rules(*block, answer(14, 15, as_of=13.5, active=False)) == [
        "unblocked, and not active as of later"
    ]
    assert rules(*block, answer(14, 15, as_of=12.9, active=False)) == []
    unsure = Blocked(10, 11, "user-1", 200), Unblocked(12, 13, "user-1", 503)
    assert rules(*unsure, answer(14, 15, as_of=13.5, active=False)) == []
    for lost in Fault("flush", 12.5, 12.6, 13), Fault("snapshot", 9, 13.2, 13.4):
        assert rules(*block, answer(14, 15, as_of=13.5, active=False), history=[lost]) == []
    for harmless in Fault("flush", 9, 9.1, 9.5), Fault("kill", 12.5, 12.6, 13, loses=False):
        assert rules(*block, answer(14, 15, as_of=13.5, active=False), history=[harmless])
    assert rules(Blocked(15.5, 16, "user-1", 200), answer(14, 15, active=False)) == [
        "never revoked, and not active at an edge"
    ]


def test_of_all_times_at_which_the_clock_can_have_displayed_one_the_best_counts():
    stepped = [StoreClock(0, 0), StoreClock(10, 0), StoreClock(11, 30), StoreClock(20, 30)]
    stepped += [StoreClock(21, 0), StoreClock(100, 0)]
    times = StoreTimes(stepped)
    assert times.earliest(5_000) == 5
    assert times.latest(5_000) == pytest.approx(5.001)
    assert times.earliest(45_000) == 15
    assert times.latest(45_000) == pytest.approx(45.001)
    assert (times.earliest(500_000), times.latest(500_000)) == (None, None)
    assert times.earliest(25_000) == 10, "while it was set it had any time between"
    history = [revoked(16, 17)]
    after = answer(46, 47, as_of=45.9 - AHEAD)
    assert rules(after, history=history, clocks=stepped) == ["revoked, and active beyond max_staleness"]


def test_the_clock_must_have_been_compared():
    with pytest.raises(ValueError, match="at the beginning and at the end"):
        rules(clocks=[StoreClock(0, 0)])
