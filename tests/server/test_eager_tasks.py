"""A coroutine begins at once, and only what is left of it becomes a task."""

import asyncio

import pytest

from revoker.server import eager_tasks


def start(coroutine):
    return eager_tasks.start(coroutine, asyncio.get_running_loop())


async def test_what_does_not_wait_is_done_at_once():
    done = []

    async def work():
        done.append(1)

    assert start(work()) is None
    assert done == [1]


async def test_an_error_before_the_first_wait_is_raised_at_once():
    async def work():
        raise LookupError

    with pytest.raises(LookupError):
        start(work())


async def test_the_rest_runs_as_a_task():
    first, second = (asyncio.get_running_loop().create_future() for _ in range(2))
    seen = []

    async def work():
        seen.append(await first)
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)
        async with asyncio.timeout(60):
            seen.append(await second)

    task = start(work())
    assert seen == []
    first.set_result(1)
    second.set_result(2)
    await task
    assert seen == [1, task, 2]


async def test_an_error_of_what_it_waits_for_is_raised_in_it():
    waits_for = asyncio.get_running_loop().create_future()

    async def work():
        with pytest.raises(LookupError):
            await waits_for
        raise KeyError

    task = start(work())
    waits_for.set_exception(LookupError())
    with pytest.raises(KeyError):
        await task


@pytest.mark.parametrize("turns", [0, 2])
async def test_it_is_cancelled_where_it_waits(turns):
    waits_for = asyncio.get_running_loop().create_future()
    cancelled = []

    async def work():
        try:
            await waits_for
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    task = start(work())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled == [1]


async def test_it_may_go_on_after_it_was_cancelled_before_its_first_turn():
    waits_for = asyncio.get_running_loop().create_future()

    async def work():
        with pytest.raises(asyncio.CancelledError):
            await waits_for
        asyncio.current_task().uncancel()
        await asyncio.sleep(0)
        return 1

    task = start(work())
    task.cancel()
    assert await task == 1


async def test_the_event_loop_gets_a_turn_where_it_asks_for_one():
    async def work():
        await asyncio.sleep(0)

    await start(work())


async def test_several_wait_for_the_same_and_a_task_does_too():
    shared = asyncio.get_running_loop().create_future()

    async def work():
        return await shared

    waiting = [start(work()), asyncio.create_task(work()), start(work())]
    await asyncio.sleep(0)
    shared.set_result(1)
    assert await asyncio.gather(*waiting) == [1, 1, 1]


async def test_what_it_waits_for_is_cancelled_with_it_before_its_first_turn():
    waits_for = asyncio.get_running_loop().create_future()

    async def work():
        await waits_for

    task = start(work())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert waits_for.cancelled()
