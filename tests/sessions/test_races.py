"""Refreshes, revocations and logins at the same moment, a thousand times over, on a real Valkey."""

import asyncio
import itertools

import pytest

from revoker.models import Claims, Verdict
from revoker.rules import check_cutoffs
from revoker.store.keys import tag_and_start
from revoker.store.sessions import Lifetimes, Refreshed
from tests.sessions.conftest import SESSIONS_ISSUER, log_in

ROUNDS = 1000
AT_ONCE = 25
"""Rounds under way at the same time: their commands mix in the server."""


@pytest.fixture
async def service(start, valkey, sessions_section):
    """The sessions of a running service, without and with grace."""
    running = await start(valkey, sessions=sessions_section(), redis={"timeout": 10})
    return Desk(running)


class Desk:
    """Calls the store as the endpoints do."""

    def __init__(self, running):
        self.store = running.service.store
        self.issuer = running.service._services.sessions.issuer
        self.graceful = self._sessions(grace=600)
        self.strict = self._sessions(grace=0)

    def _sessions(self, grace):
        lifetimes = Lifetimes(idle=3600, absolute=7200, grace=grace, most=0)
        return self.store.sessions(self.issuer, lifetimes)

    async def revoke_user(self, sub):
        return await self.store.revocations.revoke_user(
            self.issuer, sub, before=None, except_sid=None, reason=""
        )

    async def lives(self, session):
        """Whether an access token of the session would be active."""
        claims = Claims(sub=session.sub, sid=session.sid, client_id=session.client_id)
        found = await self.store.lookups.find(self.store.keys.of_token(claims, self.issuer))
        start = tag_and_start(session.sid)[1]
        return check_cutoffs(claims, self.issuer, found.state, found.now, start) is Verdict.ACTIVE

    async def continuing(self, session, generations=range(1, 5)):
        """The generations of a session that are still heard; asking for one too old would end it."""
        heard = []
        for generation in generations:
            result = await self.graceful.refresh(session.sid, generation, ("never granted",))
            if str(result) == "scope":
                heard.append(generation)
        return heard


async def rounds(play):
    """Play ``ROUNDS`` rounds, so many at once."""
    numbers = iter(range(ROUNDS))

    async def one_after_the_other():
        for number in numbers:
            await play(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(one_after_the_other())


async def begin(sessions, number):
    return (await sessions.start(f"user-{number}", "web", scope="read")).session


async def test_twenty_refreshes_at_once_give_one_successor_within_the_grace(service):
    async def play(number):
        session = await begin(service.graceful, number)
        results = await asyncio.gather(*(service.graceful.refresh(session.sid, 1, ()) for _ in range(20)))
        assert all(isinstance(item, Refreshed) for item in results)
        assert {item.session.generation for item in results} == {2}
        assert sum(not item.repeated for item in results) == 1

    await rounds(play)


async def test_of_twenty_refreshes_at_once_one_wins_and_the_family_dies_without_grace(service):
    async def play(number):
        session = await begin(service.strict, number)
        results = await asyncio.gather(*(service.strict.refresh(session.sid, 1, ()) for _ in range(20)))
        assert sum(isinstance(item, Refreshed) for item in results) == 1
        assert sorted({str(item) for item in results if not isinstance(item, Refreshed)}) in (
            ["reused_previous"],
            ["reused_previous", "revoked"],
        )
        assert not await service.lives(session)
        assert await service.continuing(session) == []

    await rounds(play)


async def test_no_refresh_survives_a_revocation_of_its_user(service):
    async def play(number):
        session = await begin(service.graceful, number)
        refreshes = [service.graceful.refresh(session.sid, 1, ()) for _ in range(3)]
        work = [*refreshes, service.revoke_user(session.sub)]
        work[number % 4], work[3] = work[3], work[number % 4]
        await asyncio.gather(*work)
        assert not await service.lives(session)
        assert await service.continuing(session) == []

    await rounds(play)


async def test_no_refresh_survives_the_end_of_its_session(service):
    async def play(number):
        session = await begin(service.graceful, number)
        refreshes = [service.graceful.refresh(session.sid, 1, ()) for _ in range(3)]
        work = [*refreshes, service.graceful.end(session.sid)]
        work[number % 4], work[3] = work[3], work[number % 4]
        await asyncio.gather(*work)
        assert not await service.lives(session)
        assert await service.continuing(session) == []
        assert await service.graceful.reader.peek(session.sid) is None

    await rounds(play)


async def test_a_login_is_covered_by_a_revocation_of_its_user_or_later_than_it(service):
    async def play(number):
        before = await begin(service.graceful, number)
        work = [
            begin(service.graceful, number),
            service.revoke_user(before.sub),
            begin(service.graceful, number),
        ]
        work = [work[place] for place in ((0, 1, 2), (1, 0, 2), (2, 0, 1))[number % 3]]
        results = await asyncio.gather(*work)
        [cutoff] = [item for item in results if isinstance(item, int)]
        assert not await service.lives(before)
        logins = [item for item in results if not isinstance(item, int)]
        assert len({login.start for login in logins}) == 2
        for session in logins:
            assert await service.lives(session) == (session.start > cutoff)
        assert await service.lives(await begin(service.graceful, number))

    await rounds(play)


async def test_over_http_nothing_covered_is_active_after_a_race(keeper):
    roads = itertools.cycle(
        [
            lambda browser: keeper.post("/revoke-user", {"sub": browser.sub, "iss": SESSIONS_ISSUER}),
            lambda browser: keeper.post("/revoke", form={"token": browser.refresh_token}),
            lambda browser: browser.end(),
        ]
    )
    for number in range(48):
        browser = await log_in(keeper, f"user-{number}")
        browser.sub = f"user-{number}"
        end = next(roads)(browser)
        work = [browser.refresh(), browser.refresh(), end, browser.refresh()]
        work.insert(number % 4, work.pop(2))
        answers = await asyncio.gather(*work)
        given = [answer.json for answer in answers if answer.status == 200 and b"access_token" in answer.body]
        for tokens in given:
            assert not await keeper.active(tokens["access_token"])
            assert (await browser.refresh(tokens["refresh_token"])).error == (400, "invalid_grant")
        assert not await browser.active()
        assert (await browser.refresh()).error == (400, "invalid_grant")
