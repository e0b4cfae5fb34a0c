"""Redis ``TIME`` judges the dates of requests: a service whose clock is wrong answers like any other."""

import asyncio
import itertools
import time
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from revoker import app
from tests.api.test_backchannel import PATH, issuers, logout_token
from tests.rig import forge
from tests.rig.service import serve, settings_for, until_ready
from tests.sessions.conftest import SESSIONS_ISSUER
from tests.sessions.conftest import sessions_section as sessions_section  # noqa: PLC0414  # a fixture

ISS = {"iss": forge.ISSUER}
LIFE = 86_400 + 2
"""The longest life of a token, and the issuer's skew."""

REVOCABLE = {"claims": {"revocable": ["grant_id"]}}

MARGIN = 10
"""Seconds between a date and the limit that it is judged by: so long a request may take."""


def near(*limits, width=60):
    """Seconds from now on either side of some limits, never close to one."""
    return st.one_of(
        st.integers(limit - width, limit - MARGIN) | st.integers(limit + MARGIN, limit + width)
        for limit in limits
    )


class Pair:
    """Two services with a store each: one keeps good time, the other is ``ahead`` seconds ahead."""

    def __init__(self, valkey, folder, sessions):
        self.ahead = 0.0
        self.loop = asyncio.new_event_loop()
        clocks = (time.time, lambda: time.time() + self.ahead)
        self._running = [
            self.run(
                self._begin(valkey, folder, clock, issuers=issuers(folder, **REVOCABLE), sessions=sessions)
            )
            for clock in clocks
        ]

    async def _begin(self, valkey, folder, clock, **changes):
        redis = {"url": valkey.url, "key_prefix": f"t{uuid.uuid4().hex[:12]}", "timeout": 5}
        service = app.Service(settings_for(valkey.url, folder, redis=redis, **changes), clock=clock)
        await service.store.init()
        running = await serve(service)
        await until_ready(running)
        return running

    def run(self, work):
        return self.loop.run_until_complete(work)

    def ask(self, *requests):
        """What each of the services answers to the same requests, one after the other."""

        async def answers(running):
            return [await running.post(path, **request) for path, request in requests]

        return [self.run(answers(running)) for running in self._running]

    def close(self):
        for running in self._running:
            self.run(running.close())
        self.loop.close()


@pytest.fixture
def pair(valkey, tmp_path, sessions_section):
    pair = Pair(valkey, tmp_path, sessions_section())
    yield pair
    pair.close()


numbers = itertools.count()
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
"""All examples of a test ask the same services, each about a user of its own."""
offsets = st.floats(-29, 29)


def problem_of(answer):
    """A refusal and its words; of a success what it says beside the present."""
    if answer.status != 200:
        return answer.status, answer.json
    members = answer.json if answer.body else {}
    return 200, {name: value for name, value in members.items() if name != "standing"}


@st.composite
def requests(draw):
    """A revocation that is dated, and then whether an old and a fresh token of the user are active."""
    now, user = int(time.time()), f"user-{next(numbers)}"
    of_user = {"sub": user, "sid": f"sid-{user}", "client_id": f"client-{user}", "grant_id": f"grant-{user}"}
    old = forge.claims(iat=now - 7200, exp=now + 7200, jti=f"old-{user}", **of_user)
    path = draw(
        st.sampled_from(
            [
                "/revoke",
                "/block-user",
                "/revoke-user",
                "/revoke-session",
                "/revoke-client",
                "/revoke-claim",
                PATH,
            ]
        )
    )
    match path:
        case "/revoke":
            dated = {"json": {**ISS, "jti": old["jti"], "exp": now + draw(near(LIFE, 0))}}
        case "/block-user":
            dated = {"json": {**ISS, "sub": user, "until": now + draw(near(0))}}
        case "/revoke-user" | "/revoke-session" | "/revoke-client":
            name = {"/revoke-user": "sub", "/revoke-session": "sid", "/revoke-client": "client_id"}[path]
            at = draw(st.integers(-8000, -MARGIN) | near(5).filter(lambda at: at > 0))
            dated = {"json": {**ISS, name: of_user[name], "before": now + at}}
        case "/revoke-claim":
            at = draw(st.integers(-8000, -MARGIN) | near(5).filter(lambda at: at > 0))
            of_claim = {"claim": "grant_id", "value": of_user["grant_id"]}
            dated = {"json": {**ISS, **of_claim, "before": now + at}}
        case _:
            iat, exp = draw(near(0, 2, -86_400)), draw(near(-30))
            sid = draw(st.sampled_from([of_user["sid"], forge.ABSENT]))
            dated = {"form": {"logout_token": logout_token(iat=now + iat, exp=now + exp, sub=user, sid=sid)}}
    body = {"body": dated["json"]} if "json" in dated else {**dated, "caller": None}
    asked = [("/introspect", {"body": old}), ("/explain", {"body": old})]
    return [(path, body), *asked]


@shared
@given(ahead=offsets, asked=requests())
def test_a_clock_that_is_wrong_by_29_seconds_changes_no_answer_to_a_date(pair, ahead, asked):
    pair.ahead = ahead

    right, wrong = pair.ask(*asked)

    assert list(map(problem_of, wrong)) == list(map(problem_of, right))


@shared
@given(ahead=offsets, until=near(0))
def test_a_login_of_a_blocked_user_is_refused_until_the_store_says_that_the_block_is_over(pair, ahead, until):
    pair.ahead, name = ahead, f"blocked-{next(numbers)}"
    block = {"iss": SESSIONS_ISSUER, "sub": name, "until": int(time.time()) + until}

    right, wrong = pair.ask(("/block-user", {"body": block}), ("/sessions", {"body": {"sub": name}}))

    assert [answer.status for answer in wrong] == [answer.status for answer in right]
    assert [answer.status for answer in right] == ([200, 403] if until > 0 else [400, 201])
