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
    async with shared:
        for item in range(items):
            done.append((name, item))
            await shared.give_way()


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


async def test_turns_do_not_overlap_even_where_they_pause(monkeypatch):
    monkeypatch.setattr(pace, "PIECE_S", 0)
    shared, done = pace.Pace(), []
    await asyncio.gather(*(work(shared, done, name) for name in "abc"))
    assert done == [(name, item) for name in "abc" for item in range(3)]


async def test_a_turn_that_fails_lets_the_next_one_begin():
    shared, done = pace.Pace(), []
    with pytest.raises(RuntimeError):
        async with shared:
            raise RuntimeError
    async with asyncio.timeout(60):
        await work(shared, done, "next")
    assert len(done) == 3
