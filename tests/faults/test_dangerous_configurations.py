"""What would lose revocations silently is said in ``/readyz`` and a metric; clocks apart give no verdict."""

import time

import pytest

from tests.rig.probes import RestrictedUser, eventually, has_problem, issued, metric, readiness, status_of
from tests.rig.servers import Valkey


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


async def problems_of(revoker):
    async with revoker.http.get(revoker.url + "/readyz") as response:
        return {problem["problem"]: problem["detail"] for problem in (await response.json())["problems"]}


async def test_checks_that_the_server_refuses_are_a_problem_and_count_as_no_check(start, tmp_path):
    server = Valkey(tmp_path / "risky", "--maxmemory-policy", "volatile-ttl").start()
    try:
        revoker = await start(RestrictedUser(server, "+@all", "-@dangerous", "+role"))
        problems = await problems_of(revoker)
        assert set(problems) == {"unchecked"}
        for unseen in ("maxmemory-policy", "evicted keys", "append-only file", "snapshots"):
            assert unseen in problems["unchecked"]
        assert "replicas" not in problems["unchecked"]  # ROLE tells of them
        assert "INFO memory" in problems["unchecked"]
        assert "NOPERM User app has no permissions to run the 'info' command" in problems["unchecked"]
        assert await metric(revoker, 'revoker_problem{problem="unchecked"}') == 1
        assert await revoker.service.store.dangers() == problems  # what `revoker store check` shows
        assert await revoker.active(issued())
    finally:
        server.kill()


async def test_where_info_is_refused_the_configuration_is_read(start, own_valkey):
    revoker = await start(RestrictedUser(own_valkey, "+@all", "-info"))
    problems = await problems_of(revoker)
    assert set(problems) == {"unchecked"}
    assert "evicted keys" in problems["unchecked"]
    for seen in ("maxmemory-policy", "append-only", "snapshots", "replicas"):
        assert seen not in problems["unchecked"].partition(";")[0]


async def test_a_danger_that_only_the_configuration_shows_is_named(start, tmp_path):
    server = Valkey(tmp_path / "risky", "--maxmemory-policy", "allkeys-lru", "--appendonly", "no").start()
    try:
        revoker = await start(RestrictedUser(server, "+@all", "-info"))
        assert (await readiness(revoker))[1] == {"unchecked", "eviction_policy", "no_persistence"}
    finally:
        server.kill()


async def test_sections_of_info_that_are_allowed_are_enough(start, own_valkey):
    sections = ("server", "memory", "persistence", "stats", "replication")
    rights = [f"+info|{section}" for section in sections]
    revoker = await start(RestrictedUser(own_valkey, "+@all", "-info", "-config", *rights))
    assert await readiness(revoker) == (200, set())


async def test_snapshots_that_can_not_be_seen_do_not_pass_for_persistence(start, tmp_path):
    server = Valkey(tmp_path / "unseen", "--appendonly", "no").start()
    try:
        revoker = await start(RestrictedUser(server, "+@all", "-config"))
        problems = await problems_of(revoker)
        assert set(problems) == {"unchecked"}
        assert problems["unchecked"].startswith("the server does not say whether it saves snapshots;")
    finally:
        server.kill()


async def test_keys_evicted_while_nobody_could_see_it_are_a_loss_once_it_is_seen(start, own_valkey):
    revoker = await start(RestrictedUser(own_valkey, "+@all"))
    await revoker.service.store.watch.beat()
    with own_valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "app", "-info")
        await revoker.service.store.watch.beat()
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.set("junk", "x" * 1_000_000)
        client.config_set("maxmemory", 1)
        await eventually(lambda: evicted(client))
        client.config_set("maxmemory", 0)
        client.execute_command("ACL", "SETUSER", "app", "+info")
    await revoker.service.store.watch.beat()
    await eventually(lambda: has_problem(revoker, "data_lost"))


async def evicted(client):
    client.get("junk")
    return client.info("stats")["evicted_keys"] > 0


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
    await eventually(lambda: has_problem(revoker, "clock_offset"))
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
    await eventually(lambda: has_problem(revoker, "clock_offset"))
    assert (await readiness(revoker))[0] == 200
    apart[0] = 0.0
    assert await revoker.active(claims)
