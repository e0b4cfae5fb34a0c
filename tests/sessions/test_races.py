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
async def kept(start, valkey, sessions_section):
    """The sessions of a running service, without and with grace."""
    running = await start(valkey, sessions=sessions_section(), redis={"timeout": 10})
    return Desk(running)


class Desk:
    """Calls the store as the endpoints do."""

    def __init__(self, running):
        self.store = running.service.store
        self.issuer = running.service._parts.sessions.issuer
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
            said = await self.graceful.refresh(session.sid, generation, ("never granted",))
            if str(said) == "scope":
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


async def begun(sessions, number):
    return (await sessions.start(f"user-{number}", "web", scope="read")).session


async def test_twenty_refreshes_at_once_give_one_successor_within_the_grace(kept):
    async def play(number):
        session = await begun(kept.graceful, number)
        said = await asyncio.gather(*(kept.graceful.refresh(session.sid, 1, ()) for _ in range(20)))
        assert all(isinstance(each, Refreshed) for each in said)
        assert {each.session.generation for each in said} == {2}
        assert sum(not each.repeated for each in said) == 1

    await rounds(play)


async def test_of_twenty_refreshes_at_once_one_wins_and_the_family_dies_without_grace(kept):
    async def play(number):
        session = await begun(kept.strict, number)
        said = await asyncio.gather(*(kept.strict.refresh(session.sid, 1, ()) for _ in range(20)))
        assert sum(isinstance(each, Refreshed) for each in said) == 1
        assert sorted({str(each) for each in said if not isinstance(each, Refreshed)}) in (
            ["reused_previous"],
            ["reused_previous", "revoked"],
        )
        assert not await kept.lives(session)
        assert await kept.continuing(session) == []

    await rounds(play)


async def test_no_refresh_survives_a_revocation_of_its_user(kept):
    async def play(number):
        session = await begun(kept.graceful, number)
        refreshes = [kept.graceful.refresh(session.sid, 1, ()) for _ in range(3)]
        work = [*refreshes, kept.revoke_user(session.sub)]
        work[number % 4], work[3] = work[3], work[number % 4]
        await asyncio.gather(*work)
        assert not await kept.lives(session)
        assert await kept.continuing(session) == []

    await rounds(play)


async def test_no_refresh_survives_the_end_of_its_session(kept):
    async def play(number):
        session = await begun(kept.graceful, number)
        refreshes = [kept.graceful.refresh(session.sid, 1, ()) for _ in range(3)]
        work = [*refreshes, kept.graceful.end(session.sid)]
        work[number % 4], work[3] = work[3], work[number % 4]
        await asyncio.gather(*work)
        assert not await kept.lives(session)
        assert await kept.continuing(session) == []
        assert await kept.graceful.peek(session.sid) is None

    await rounds(play)


async def test_a_login_is_covered_by_a_revocation_of_its_user_or_later_than_it(kept):
    async def play(number):
        before = await begun(kept.graceful, number)
        work = [begun(kept.graceful, number), kept.revoke_user(before.sub), begun(kept.graceful, number)]
        work = [work[place] for place in ((0, 1, 2), (1, 0, 2), (2, 0, 1))[number % 3]]
        said = await asyncio.gather(*work)
        [cutoff] = [each for each in said if isinstance(each, int)]
        assert not await kept.lives(before)
        logins = [each for each in said if not isinstance(each, int)]
        assert len({each.start for each in logins}) == 2
        for session in logins:
            assert await kept.lives(session) == (session.start > cutoff)
        assert await kept.lives(await begun(kept.graceful, number))

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
        given = [each.json for each in answers if each.status == 200 and b"access_token" in each.body]
        for told in given:
            assert not await keeper.active(told["access_token"])
            assert (await browser.refresh(told["refresh_token"])).error == (400, "invalid_grant")
        assert not await browser.active()
        assert (await browser.refresh()).error == (400, "invalid_grant")
