"""Long reads take short pieces of the event loop."""

import asyncio
import itertools
import math

import pytest

from revoker.store import pace


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(pace, "PAUSE_S", 0)


async def work(shared, done, name, items=3):
    async with shared.turn() as turn:
        for item in range(items):
            done.append((name, item))
            await turn.give_way()


async def others(done):
    while True:
        done.append("another request")
        await asyncio.sleep(0)


async def test_other_requests_run_between_two_pieces(monkeypatch):
    monkeypatch.setattr(pace, "PIECE_S", 0)
    shared, done = pace.Pace(), []
    other = asyncio.ensure_future(others(done))
    await work(shared, done, "list")
    other.cancel()
    places = [done.index(("list", item)) for item in range(3)]
    assert all("another request" in done[first:after] for first, after in itertools.pairwise(places))


async def test_a_piece_that_is_not_long_is_not_cut(monkeypatch):
    monkeypatch.setattr(pace, "PIECE_S", math.inf)
    shared, done = pace.Pace(), []
    other = asyncio.ensure_future(others(done))
    await work(shared, done, "list")
    other.cancel()
    assert done[:3] == [("list", item) for item in range(3)]


@pytest.mark.parametrize("piece", [0, math.inf])
async def test_who_gives_way_waits_behind_the_others(monkeypatch, piece):
    monkeypatch.setattr(pace, "PIECE_S", piece)
    shared, done = pace.Pace(), []
    async with shared.turn():
        waiting = [asyncio.ensure_future(work(shared, done, name)) for name in "abc"]
        for _ in range(20):
            await asyncio.sleep(0)
        assert done == []
    await asyncio.gather(*waiting)
    in_turn = [(name, item) for item in range(3) for name in "abc"]
    assert done == (sorted(in_turn) if piece else in_turn)


async def test_a_turn_that_fails_lets_the_next_one_begin():
    shared, done = pace.Pace(), []
    with pytest.raises(RuntimeError):
        async with shared.turn():
            raise RuntimeError
    async with asyncio.timeout(60):
        await work(shared, done, "next")
    assert len(done) == 3


@pytest.mark.parametrize("turns", range(12))
async def test_a_turn_that_is_given_up_at_any_moment_takes_nothing_from_the_others(monkeypatch, turns):
    monkeypatch.setattr(pace, "PIECE_S", 0)
    shared, done = pace.Pace(), []
    given_up, other = (asyncio.ensure_future(work(shared, done, name)) for name in "ab")
    for _ in range(turns):
        await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    async with asyncio.timeout(60):
        await other
        await work(shared, done, "next")
    assert [item for name, item in done if name != "a"] == [0, 1, 2] * 2


class Clock:
    """Goes on only while a turn works."""

    def __init__(self):
        self.now = 1

    def __call__(self):
        return self.now


async def begins_at_once(shared):
    """Whether nobody has a turn and there is no pause."""

    async def begin():
        async with shared.turn():
            pass

    beginning = asyncio.ensure_future(begin())
    await asyncio.sleep(0)
    at_once = beginning.done()
    await beginning
    return at_once


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(pace, "PIECE_S", 10)
    monkeypatch.setattr(pace, "PAUSE_S", 0.01)
    return Clock()


async def test_short_turns_share_a_pause(clock):
    shared, at_once = pace.Pace(clock), []
    for _ in range(6):
        async with shared.turn():
            clock.now += 4
        at_once.append(await begins_at_once(shared))
    assert at_once == [True, True, False] * 2


async def test_what_a_turn_waits_for_is_no_part_of_its_pieces(clock):
    shared = pace.Pace(clock)
    async with shared.turn() as turn:
        clock.now += 100
        turn.begin_piece()
        clock.now += 4
    assert await begins_at_once(shared)


async def test_others_are_served_between_a_long_turn_and_what_follows_it(clock):
    shared, order = pace.Pace(clock), []
    async with shared.turn():
        clock.now += 10
        asyncio.get_running_loop().call_soon(order.append, "another request")
    order.append("the answer")
    assert order == ["another request", "the answer"]
