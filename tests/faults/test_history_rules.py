"""The checker on histories made by hand: it finds each violation, and nothing in what is allowed."""

import msgspec
import pytest

from tests.faults.history import (
    Absent,
    Cutoff,
    Fault,
    Introspected,
    Isolated,
    Revoked,
    Token,
    after_promotion,
    check,
    outage,
    read,
    surroundings,
    write,
)

TOKEN = Token("jti-1", "user-1", "sid-1", "client-1", 1000.0, 2000.0, "grant-1")
OTHER = Token("jti-2", "user-2", "sid-2", "client-2", 1000.0, 2000.0, "grant-2")


def introspected(start, end, *, active, token=TOKEN, status=200, instance="a"):
    return Introspected(start, end, instance, token, status, active)


def revoked(start, end, kind="jti", *, status=200, iat_after=None, instance="a"):
    return Revoked(start, end, instance, kind, getattr(TOKEN, kind), status, iat_after)


def rules(*history):
    return [violation.rule for violation in check(list(history))]


KINDS = [("jti", None), ("sub", 1001.0), ("sid", 1001.0), ("client_id", 1001.0), ("grant_id", 1001.0)]


@pytest.mark.parametrize(("kind", "iat_after"), KINDS)
def test_what_was_revoked_is_never_active_afterwards_at_any_instance(kind, iat_after):
    revocation = revoked(1, 2, kind, iat_after=iat_after)
    assert rules(revocation, introspected(2.1, 3, active=True, instance="b")) == ["revoked and active"]
    assert rules(introspected(2.1, 3, active=True, instance="b"), revocation) == ["revoked and active"]


@pytest.mark.parametrize(("kind", "iat_after"), KINDS)
def test_what_is_revoked_may_be_active_until_that_is_acknowledged(kind, iat_after):
    for active in (True, False):
        assert rules(revoked(1, 2, kind, iat_after=iat_after), introspected(1.9, 3, active=active)) == []
        for status in (503, None):
            unsure = revoked(1, 2, kind, status=status)
            assert rules(Absent("a", 1, 2), unsure, introspected(2.1, 3, active=active)) == []


@pytest.mark.parametrize(("kind", "iat_after"), KINDS)
def test_an_older_acknowledgement_counts_whatever_came_later(kind, iat_after):
    history = [
        revoked(1, 2, kind, iat_after=iat_after),
        revoked(3, 4, kind, status=503),
        revoked(5, 9, kind, iat_after=iat_after),
        introspected(6, 7, active=True),
    ]
    assert rules(*history) == ["revoked and active"]


def test_a_cutoff_says_itself_which_tokens_it_covers():
    early = revoked(1, 2, "sub", iat_after=999.0)
    assert rules(early, introspected(3, 4, active=True)) == []
    assert rules(early, introspected(3, 4, active=False)) == ["never revoked and not active"]


def test_what_nobody_revoked_is_active():
    assert rules(introspected(1, 2, active=False)) == ["never revoked and not active"]
    assert rules(revoked(3, 4), introspected(1, 2, active=False)) == ["never revoked and not active"]
    assert rules(revoked(1, 2), introspected(1, 2, active=False, token=OTHER)) == [
        "never revoked and not active"
    ]
    assert rules(introspected(1, 2, active=True)) == []


def test_a_loss_cuts_off_what_was_issued_before_it_and_from_then_on():
    ended = Absent("a writer", 10, 11, ended=10)  # so that the loss cannot be repaired
    assert rules(ended, Cutoff(5, 1000.0, "cutoff")) == ["a loss where nothing was lost"]
    assert rules(ended, Fault("hang", 4, 4, 4, None, False), Cutoff(5, 1000.0, "cutoff")) == [
        "a loss where nothing was lost"
    ]
    lost = Fault("flush", 13, 14, 15)
    covering, earlier = Cutoff(15, 1000.0, "cutoff"), Cutoff(15, 997.0, "cutoff")
    assert rules(ended, lost, covering, introspected(16, 17, active=False)) == []
    assert rules(ended, lost, covering, introspected(3, 4, active=False)) == ["never revoked and not active"]
    assert rules(ended, lost, earlier, introspected(16, 17, active=False)) == ["never revoked and not active"]
    assert rules(ended, lost, covering, revoked(1, 2), introspected(16, 17, active=True)) == [
        "revoked and active"
    ]


def test_no_verdict_is_a_503_without_one():
    assert rules(introspected(1, 2, active=None, status=503)) == []
    for active in (True, False):
        assert rules(introspected(1, 2, active=active, status=503)) == [
            "a verdict and a status that do not agree"
        ]
    assert rules(introspected(1, 2, active=None)) == ["a verdict and a status that do not agree"]
    assert rules(introspected(1, 2, active=None, status=500)) == ["an answer that is neither 200 nor 503"]
    assert rules(revoked(1, 2, status=500)) == ["an answer that is neither 200 nor 503"]


def test_an_instance_that_runs_answers():
    unanswered = introspected(1, 2, active=None, status=None)
    assert rules(unanswered) == ["no answer"]
    assert rules(unanswered, Absent("a", 1.5, 3)) == []
    assert rules(unanswered, Absent("b", 1.5, 3)) == ["no answer"]
    assert rules(unanswered, Absent("a", 2.5, 3)) == ["no answer"]


def test_an_isolated_instance_acknowledges_nothing():
    assert rules(Isolated("a", 1, 4), revoked(2, 3)) == ["acknowledged while isolated"]
    assert rules(Isolated("a", 1, 4), revoked(2, 3, status=503)) == []
    assert rules(Isolated("a", 1, 4), revoked(2, 5)) == [], "it may have been healed by then"
    assert rules(Isolated("a", 1, 4), revoked(2, 3, instance="b")) == []


def test_an_outage_lasts_from_the_first_failure_of_an_instance_to_its_last():
    history = [
        introspected(0.0, 0.5, active=None, status=503),
        introspected(1.0, 1.5, active=None, status=503),
        introspected(1.6, 1.7, active=True),
        introspected(2.0, 2.5, active=None, status=503),
        introspected(1.9, 3.5, active=None, status=503, instance="b"),
        introspected(1.0, 9.0, active=None, status=None, instance="c"),
        Absent("c", 1, 9),
    ]
    assert outage(history, Introspected, 0.8, 9.0) == pytest.approx(1.6)
    assert outage(history, Introspected, 4.0, 9.0) == 0.0
    assert outage(history, Revoked, 0.0, 9.0) == 0.0


def test_an_instance_that_was_back_before_a_fault_counts_in_it():
    fault = Fault("writer-and-tail", 10.0, 12.0, 20.0, 11.0)
    refused = introspected(13.0, 14.0, active=None, status=503)
    assert after_promotion([fault, refused], fault) == pytest.approx(3.0)
    assert after_promotion([fault, refused, Absent("a", 5.0, 10.3)], fault) == pytest.approx(3.0)
    assert after_promotion([fault, refused, Absent("a", 10.5, 18.0)], fault) == 0.0


def test_where_data_loss_is_ignored_others_may_have_to_wait_for_the_refill():
    lost = Fault("flush", 3, 4, 5)

    def found(instance, start):
        history = [revoked(1, 2), lost, introspected(start, start + 0.1, active=True, instance=instance)]
        return [violation.rule for violation in check(history, put_back_s=2.0)]

    assert found("b", 4.5) == []
    assert found("a", 4.5) == ["revoked and active"]
    assert found("b", 2.5) == ["revoked and active"]
    assert found("b", 6.5) == ["revoked and active"]


def test_a_history_can_be_written_down(tmp_path):
    history = [revoked(1, 2, "sub", iat_after=1.5), introspected(3, 4, active=True), Cutoff(1, 2, "cutoff")]
    write(history, tmp_path / "history")
    assert read(tmp_path / "history") == history
    assert msgspec.json.encode(history[0]).startswith(b'{"type":"Revoked"')


def test_what_an_instance_found_just_before_it_was_killed_is_not_held_against_it():
    lost, inactive = Fault("flush", 1, 3, 9), introspected(1, 2, active=False)
    assert rules(lost, inactive, Absent("a", 2.5, 9, ended=2.5)) == []
    for another in (
        [lost, Absent("b", 2.5, 9, ended=2.5)],
        [lost, Absent("a", 4, 9, ended=4)],
        [lost, Absent("a", 2.5, 9)],
        [Fault("kill-instance", 1, 3, 9, loses=False), Absent("a", 2.5, 9, ended=2.5)],
        [Fault("flush", 3, 4, 9), Absent("a", 2.5, 9, ended=2.5)],
    ):
        assert rules(inactive, *another) == ["never revoked and not active"]


def test_a_violation_is_reported_with_what_surrounds_it():
    active = introspected(3, 4, active=True)
    revocation = revoked(1, 2)
    fault = Fault("kill", 0.0, 1.0, 1.0)
    history = [revocation, active, fault, introspected(3, 4, active=True, token=OTHER)]
    violations = check(history)
    assert [violation.rule for violation in violations] == ["revoked and active"]
    assert surroundings(history, violations) == [revocation, active, fault]
    assert surroundings(history, []) == [fault]


def test_a_log_out_is_allowed_only_after_a_writer_has_ended_or_was_apart():
    fault = Fault("flush", 1.0, 2.0, 3.0)
    cutoff = Cutoff(2.0, 1500.0, "cutoff")
    assert rules(fault, cutoff) == ["logged out although every writer ran"]
    assert rules(fault, cutoff, Absent("a", 0.5, 1.0)) == []
    assert rules(fault, cutoff, Fault("minority", 1.0, 2.0, 3.0)) == []
    assert rules(fault, Cutoff(2.0, 1500.0, "repaired")) == []


FLUSH = Fault("flush", 21.0, 22.0, 23.0)
CUTOFF = Cutoff(22.5, 1500.0, "cutoff")


@pytest.mark.parametrize(
    "earlier",
    [
        Absent("a", 5.0, 7.0),
        Absent("a", 5.0, 7.0, ended=5.1),
        Fault("minority", 5.0, 6.0, 7.0),
        Fault("empty", 5.0, 6.0, 7.0, of_ended=True),
    ],
    ids=["hung", "killed", "apart", "lost what nobody could write back"],
)
def test_what_happened_in_an_earlier_fault_excuses_no_log_out(earlier):
    assert rules(FLUSH, CUTOFF, earlier) == ["logged out although every writer ran"]


def test_what_happened_after_a_log_out_does_not_excuse_it():
    for later in Absent("a", 22.6, 23.0, ended=22.7), Fault("cut-off-one", 22.6, 23.0, 24.0, loses=False):
        assert rules(FLUSH, CUTOFF, later) == ["logged out although every writer ran"]


@pytest.mark.parametrize(
    "meanwhile",
    [
        Absent("a", 20.0, 21.5),
        Absent("a", 22.0, 24.0, ended=22.1),
        Absent("a", 15.0, 16.0, ended=15.1),
        Fault("cut-off-one", 22.0, 22.4, 24.0, loses=False),
    ],
    ids=["hung", "killed", "killed so recently that others wait for it", "apart"],
)
def test_who_was_missing_while_the_loss_was_repaired_excuses_a_log_out(meanwhile):
    assert rules(FLUSH, CUTOFF, meanwhile) == []


def test_the_loss_of_what_an_ended_process_had_revoked_excuses_a_log_out():
    assert rules(msgspec.structs.replace(FLUSH, of_ended=True), CUTOFF) == []


def test_only_a_fault_by_which_something_acknowledged_can_be_lost_excuses_a_log_out():
    killed = Absent("a", 21.0, 22.0, ended=21.0)
    harmless = Fault("blackout", 21.0, 22.0, 23.0, loses=False)
    assert rules(Fault("flush", 1.0, 2.0, 3.0), harmless, CUTOFF, killed) == ["a loss where nothing was lost"]


def test_a_loss_is_declared_before_verdicts_are_back():
    killed, late = Absent("a", 20.0, 25.0, ended=21.0), Cutoff(24.0, 1500.0, "cutoff")
    assert rules(FLUSH, late, killed) == ["a loss where nothing was lost"]
    assert rules(FLUSH, msgspec.structs.replace(late, declared=22.5), killed) == [], "another one hears of it"


def test_in_a_cluster_a_loss_may_be_declared_later():
    late = Cutoff(60.0, 1500.0, "cutoff")

    def found(*history, seconds=48.0):
        return [violation.rule for violation in check([FLUSH, late, *history], found_late_s=seconds)]

    assert found() == ["logged out although every writer ran"]
    assert found(Absent("a", 50.0, 52.0, ended=50.5)) == []
    assert found(Absent("a", 61.0, 62.0, ended=61.0)) == ["logged out although every writer ran"]
    assert found(Absent("a", 50.0, 52.0, ended=50.5), seconds=30.0) == ["a loss where nothing was lost"]
