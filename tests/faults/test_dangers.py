"""What would lose revocations silently is said in ``/readyz`` and a metric; clocks apart give no verdict."""

import time

import pytest

from tests.faults.load import issued
from tests.faults.test_lost_data import becomes, metric, readiness, shows, status_of
from tests.servers import Valkey


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--maxmemory-policy", "allkeys-lru"), "eviction_policy"),
        (("--maxmemory-policy", "volatile-ttl"), "eviction_policy"),
        (("--appendonly", "no"), "no_persistence"),
    ],
)
async def test_a_server_that_would_lose_revocations_is_named(start, tmp_path, options, problem):
    server = Valkey(tmp_path / "risky", *options).start()
    try:
        revoker = await start(server)
        assert await readiness(revoker) == (200, {problem})
        assert await metric(revoker, f'revoker_problem{{problem="{problem}"}}') == 1
        assert await revoker.active(issued())
    finally:
        server.kill()


async def test_a_server_that_saves_snapshots_keeps_something_on_disk(start, tmp_path):
    server = Valkey(tmp_path / "saving", "--appendonly", "no", "--save", "60 1").start()
    try:
        assert await readiness(await start(server)) == (200, set())
    finally:
        server.kill()


@pytest.mark.parametrize("offset", [-10.0, 10.0])
async def test_clocks_more_than_five_seconds_apart_are_a_problem(start, valkey, offset):
    revoker = await start(valkey, clock=lambda: time.time() + offset)
    assert await revoker.active(issued())
    await becomes(lambda: shows(revoker, "clock_offset"))
    assert (await readiness(revoker))[0] == 200
    assert await metric(revoker, "revoker_store_clock_offset_seconds") == pytest.approx(offset, abs=3)


@pytest.mark.parametrize("offset", [-4.0, 4.0])
async def test_clocks_a_little_apart_are_no_problem(start, valkey, offset):
    revoker = await start(valkey, clock=lambda: time.time() + offset)
    assert await revoker.active(issued())
    await revoker.service.store.watch.beat()
    assert await readiness(revoker) == (200, set())


@pytest.mark.parametrize("offset", [-40.0, 40.0])
async def test_clocks_more_than_thirty_seconds_apart_give_no_verdict_until_they_agree(start, valkey, offset):
    apart = [0.0]
    revoker = await start(valkey, clock=lambda: time.time() + apart[0])
    claims = issued()
    assert await revoker.active(claims)
    apart[0] = offset
    assert await status_of(revoker, claims) == 503
    await becomes(lambda: shows(revoker, "clock_offset"))
    assert (await readiness(revoker))[0] == 200
    apart[0] = 0.0
    assert await revoker.active(claims)
