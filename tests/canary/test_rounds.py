"""One round in a time of its own: which figure it gives, or why none."""

import asyncio
import itertools
import re
from pathlib import Path

import pytest

from revoker.canary.asking import Answer, Reply
from revoker.canary.rounds import (
    LAST_PAUSE_S,
    REASONS,
    Failure,
    Rounds,
    TokenMaker,
    answer_seconds,
    pauses,
)
from revoker.metrics import CANARY_FAILURES
from revoker.tokens.private_keys import SigningKey
from tests.rig import forge

ACCEPTED = Reply(Answer.ACCEPTED, "active")
REFUSED = Reply(Answer.REFUSED, "inactive")
NO_VERDICT = Reply(Answer.NO_VERDICT, "answered with status 503")
NONE = Reply(Answer.NONE, "no answer")
ROOT = Path(__file__).parent.parent.parent
NOW = 1_800_000_000
TIMEOUT_S = 10.0
ANSWER_S = answer_seconds(TIMEOUT_S)


class Time:
    """Passes only by pauses and by answers."""

    def __init__(self):
        self.at = 1000.0
        self.ends_of_pauses = []

    def now(self):
        return self.at

    async def sleep(self, seconds):
        end = self.at + seconds
        self.ends_of_pauses.append(end)
        while True:
            await asyncio.sleep(0)  # the others may pause, too
            if end == min(self.ends_of_pauses):
                break
        self.ends_of_pauses.remove(end)
        self.at = max(self.at, end)


class Place:
    """Gives one answer after another, and the last one for ever; each takes ``takes`` seconds.

    The token that is not revoked is accepted, or gets the answers ``control``.
    """

    def __init__(self, time, *replies, takes=0.0, address="", control=(ACCEPTED,)):
        self.time = time
        self.address = address
        self.replies = itertools.chain(replies, itertools.repeat(replies[-1]))
        self.control = itertools.chain(control, itertools.repeat(control[-1]))
        self.takes = takes
        self.asked = []
        self.controlled = []

    async def ask(self, token, seconds):
        if self.asked and token.jti != self.asked[0][1]:
            self.controlled.append(token.jti)
            return next(self.control)
        self.asked.append((self.time.at, token.jti))
        if seconds < self.takes:
            self.time.at += seconds
            return Reply(Answer.NONE, f"no answer within {seconds} s")
        self.time.at += self.takes
        return next(self.replies)


class Target:
    def __init__(self, name, *places, fault=None):
        self.name = name
        self._places = places
        self._fault = fault

    async def places(self, seconds):
        if self._fault is not None:
            raise self._fault
        return self._places


class Upstream:
    def __init__(self, time, problem="", takes=0.0):
        self.time = time
        self.problem = problem
        self.takes = takes
        self.revoked = []

    async def revoke(self, token, seconds):
        self.revoked.append(token.jti)
        self.time.at += self.takes
        return self.problem


def found(outcome):
    """The figure and the reasons of an outcome."""
    return outcome.seconds, [failure.reason for failure in outcome.failures]


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def make_maker():
    def make(timeout_s):
        return TokenMaker(
            SigningKey(forge.ec_key("canary-1").private),
            issuer="urn:canary",
            audience="api://canary",
            timeout_s=timeout_s,
            wall=lambda: float(NOW),
        )

    return make


@pytest.fixture
def make_token(make_maker):
    return make_maker(TIMEOUT_S).make


@pytest.fixture
def run(time, make_token):
    async def run(*targets, upstream=None):
        rounds = Rounds(
            targets,
            upstream or Upstream(time),
            make_token,
            timeout_s=TIMEOUT_S,
            now=time.now,
            sleep=time.sleep,
        )
        return await rounds.run()

    return run


async def test_the_figure_is_the_time_from_the_acknowledgement_to_the_refusal(time, run):
    place = Place(time, ACCEPTED, ACCEPTED, REFUSED, takes=0.5)
    (outcome,) = await run(Target("edge", place), upstream=Upstream(time, takes=2.0))
    assert (outcome.target, outcome.failures) == ("edge", ())
    assert outcome.seconds == pytest.approx(0.5 + 0.005 + 0.5)


async def test_a_refusal_counts_where_a_token_that_is_not_revoked_is_still_accepted(time, run):
    upstream = Upstream(time)
    place = Place(time, ACCEPTED, REFUSED)
    (outcome,) = await run(Target("gateway", place), upstream=upstream)
    assert found(outcome) == (0.0, [])
    (control,) = place.controlled
    assert [control] != upstream.revoked

    (outcome,) = await run(Target("gateway", Place(time, ACCEPTED, REFUSED, control=(REFUSED, ACCEPTED))))
    assert found(outcome) == (pytest.approx(0.005), []), "it refused all for a while"


@pytest.mark.parametrize(
    ("control", "reason"), [(REFUSED, "refuses_all"), (NO_VERDICT, "no_verdict"), (NONE, "unreachable")]
)
async def test_who_refuses_every_token_shows_no_revocation(time, run, control, reason):
    place = Place(time, ACCEPTED, REFUSED, control=(control,))
    (outcome,) = await run(Target("gateway", place))
    assert found(outcome) == (None, [reason])
    assert "to a token that is not revoked" in outcome.failures[0].problem
    assert len(place.asked) > 10, "it is asked again"


async def test_who_refuses_every_token_and_then_accepts_the_revoked_one_is_late(time, run):
    place = Place(time, ACCEPTED, REFUSED, ACCEPTED, control=(REFUSED,))
    (outcome,) = await run(Target("gateway", place))
    assert found(outcome) == (None, ["late"])


async def test_one_token_is_made_for_all_targets_and_revoked_after_all_were_asked(time, run):
    first, second = Place(time, ACCEPTED, REFUSED), Place(time, ACCEPTED, REFUSED)
    upstream = Upstream(time)
    await run(Target("a", first), Target("b", second), upstream=upstream)
    (jti,) = upstream.revoked
    assert jti.startswith("canary-")
    assert {asked for _, asked in first.asked + second.asked} == {jti}


def test_pauses_grow_from_five_milliseconds_to_a_quarter_of_a_second():
    first = list(itertools.islice(pauses(), 10))
    assert first[:4] == [0.005, 0.01, 0.02, 0.04]
    assert first[-1] == LAST_PAUSE_S == 0.25


async def test_a_target_that_never_refuses_is_late_and_is_asked_until_the_end(time, run):
    place = Place(time, ACCEPTED)
    (outcome,) = await run(Target("edge", place))
    assert found(outcome) == (None, ["late"])
    assert time.at == pytest.approx(1000 + TIMEOUT_S)
    assert place.asked[-1][0] >= 1000 + TIMEOUT_S - LAST_PAUSE_S


async def test_an_answer_that_the_end_of_the_round_cuts_off_does_not_hide_that_a_target_is_late(time, run):
    place = Place(time, ACCEPTED, takes=ANSWER_S - 0.1)
    (outcome,) = await run(Target("edge", place))
    assert found(outcome) == (None, ["late"])


async def test_no_verdict_after_the_revocation_is_no_refusal(time, run):
    (outcome,) = await run(Target("edge", Place(time, ACCEPTED, NO_VERDICT, NO_VERDICT, REFUSED)))
    assert outcome.seconds == pytest.approx(0.005 + 0.01)
    (outcome,) = await run(Target("edge", Place(time, ACCEPTED, NO_VERDICT)))
    assert found(outcome) == (None, ["no_verdict"])


async def test_a_target_that_ends_after_the_revocation_is_unreachable(time, run):
    (outcome,) = await run(Target("edge", Place(time, ACCEPTED, ACCEPTED, NONE)))
    assert found(outcome) == (None, ["unreachable"])


async def test_a_target_that_does_not_answer_is_unreachable(time, run):
    (outcome,) = await run(Target("edge", Place(time, ACCEPTED, takes=ANSWER_S + 1)))
    assert found(outcome) == (None, ["unreachable"])


@pytest.mark.parametrize(
    ("before", "reason"), [(REFUSED, "not_accepted"), (NO_VERDICT, "no_verdict"), (NONE, "unreachable")]
)
async def test_without_an_acceptance_before_there_is_no_figure_and_others_have_theirs(
    time, run, before, reason
):
    broken, sound = Place(time, before, REFUSED), Place(time, ACCEPTED, REFUSED)
    outcomes = await run(Target("broken", broken), Target("sound", sound))
    assert [found(outcome)[1] for outcome in outcomes] == [[reason], []]
    assert "before the revocation" in outcomes[0].failures[0].problem
    assert len(broken.asked) == 1


async def test_nothing_is_revoked_where_no_target_accepts_the_token(time, run):
    upstream = Upstream(time)
    await run(Target("a", Place(time, REFUSED)), upstream=upstream)
    assert upstream.revoked == []


async def test_a_revocation_that_is_not_acknowledged_gives_no_figure(time, run):
    place = Place(time, ACCEPTED, REFUSED)
    (outcome,) = await run(Target("a", place), upstream=Upstream(time, problem="answered with status 503"))
    assert found(outcome) == (None, ["not_revoked"])
    assert "status 503" in outcome.failures[0].problem
    assert len(place.asked) == 1


async def test_of_several_addresses_the_last_to_refuse_counts(time, run):
    quick, slow = Place(time, ACCEPTED, REFUSED), Place(time, ACCEPTED, ACCEPTED, ACCEPTED, REFUSED)
    (outcome,) = await run(Target("edges", quick, slow))
    assert outcome.seconds == pytest.approx(0.005 + 0.01)
    assert outcome.failures == ()


@pytest.mark.parametrize("gone", [[NONE], [ACCEPTED, NONE]], ids=["from the start", "after the check"])
@pytest.mark.parametrize("gone_is_first", [True, False])
async def test_an_address_that_is_gone_hides_no_late_one(time, run, gone, gone_is_first):
    places = [Place(time, *gone, address="10.0.0.1"), Place(time, ACCEPTED, address="10.0.0.2")]
    (outcome,) = await run(Target("edges", *(places if gone_is_first else reversed(places))))
    assert found(outcome) == (None, ["late", "unreachable"])
    assert [failure.problem.partition(":")[0] for failure in outcome.failures] == ["10.0.0.2", "10.0.0.1"]


async def test_one_bad_address_takes_no_figure_from_the_others(time, run):
    def sound():
        return [Place(time, ACCEPTED, REFUSED, address=f"10.0.1.{number}") for number in range(49)]

    dead, late = Place(time, NONE, address="10.0.0.1"), Place(time, ACCEPTED, address="10.0.0.2")
    slow = Place(time, ACCEPTED, ACCEPTED, REFUSED, address="10.0.0.3")
    (outcome,) = await run(Target("edges", dead, *sound(), slow))
    assert found(outcome) == (pytest.approx(0.005), ["unreachable"])
    assert len(dead.asked) == 1
    (outcome,) = await run(Target("edges", *sound(), late))
    assert found(outcome) == (0.0, ["late"])


async def test_every_reason_is_reported_once_and_the_gravest_first(time, run):
    def edges():
        answers = [NONE, NO_VERDICT, NONE, REFUSED, ACCEPTED, NONE]
        places = [Place(time, reply, address=f"10.0.0.{number}") for number, reply in enumerate(answers)]
        return Target("edges", *places)

    (outcome,) = await run(edges())
    assert found(outcome) == (None, ["late", "not_accepted", "no_verdict", "unreachable"])
    assert outcome.failures[-1].problem == (
        "10.0.0.0: before the revocation: no answer (as 2 other addresses)"
    )
    (outcome,) = await run(edges(), upstream=Upstream(time, problem="no answer"))
    assert found(outcome)[1] == ["not_revoked", "not_accepted", "no_verdict", "unreachable"]


def test_every_reason_has_a_counter():
    assert sorted(REASONS) == sorted(CANARY_FAILURES)


async def test_a_host_without_an_address_is_unreachable(run):
    (outcome,) = await run(Target("edges", fault=OSError("Name or service not known")))
    assert outcome.failures == (Failure("unreachable", "Name or service not known"),)
    (outcome,) = await run(Target("edges", fault=TimeoutError()))
    assert outcome.failures == (Failure("unreachable", "no address was found in time"),)


def test_a_token_is_marked(make_token):
    token, another = make_token(), make_token()
    payload = forge.json.loads(forge.parts(token.text)[1])
    assert payload["sub"] == payload["client_id"] == "revoker-canary"
    assert (payload["iss"], payload["aud"]) == ("urn:canary", "api://canary")
    assert payload["jti"] == token.jti != another.jti
    assert payload["exp"] == token.exp


@pytest.mark.parametrize(("timeout_s", "lifetime"), [(1.0, 73), (TIMEOUT_S, 84), (60.0, 200)])
def test_a_token_outlives_its_round_by_a_minute_and_lives_as_long_as_documented(
    make_maker, timeout_s, lifetime
):
    token = make_maker(timeout_s).make()
    assert token.exp - NOW == lifetime >= 4 * answer_seconds(timeout_s) + timeout_s + 60
    (longest,) = re.findall(r"and (\d+) s at most", (ROOT / "docs/canary.md").read_text())
    assert lifetime <= int(longest)


def test_an_answer_may_take_three_seconds_or_a_third_of_the_round():
    assert [answer_seconds(timeout) for timeout in (1.0, 9.0, 60.0)] == [3.0, 3.0, 20.0]
