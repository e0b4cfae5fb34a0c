"""The store goes away and comes back with all it had: 503 meanwhile, and never a wrong verdict."""

import asyncio

from tests.faults.checked_load import CheckedLoad
from tests.rig import forge
from tests.rig.probes import issued
from tests.rig.servers import Valkey, free_port


async def test_a_store_that_is_killed_under_load_and_started_again_costs_no_verdict(start, own_valkey):
    revoker = await start(own_valkey)
    async with CheckedLoad(revoker) as load:
        for _ in range(2):
            own_valkey.kill()
            await load.sees(introspected=503, revocations=503)
            own_valkey.start()
            await load.recovers()


async def test_a_store_that_hangs_is_answered_503_in_time_and_used_again_once_it_goes_on(start, own_valkey):
    revoker = await start(own_valkey, redis={"timeout": 1})
    async with CheckedLoad(revoker) as load:
        own_valkey.hang()
        await load.sees(introspected=503, revocations=503)
        own_valkey.resume()
        await load.recovers()


async def test_a_service_that_starts_before_its_store_is_not_ready_and_becomes_so(start, tmp_path):
    late = Valkey(tmp_path / "late", port=free_port())
    revoker = await start(late, new=False, ready=False)
    async with revoker.http.get(revoker.url + "/readyz") as response:
        assert response.status == 503
        assert (await response.json())["status"] == "starting"
    assert (await revoker.post("/introspect", issued())).status == 503
    assert (await revoker.post("/revoke", {"jti": "1", "iss": issued()["iss"]})).status == 503
    try:
        late.start()
        async with CheckedLoad(
            revoker, forgets=True
        ) as load:  # an empty store has lost its data, for all we know
            await load.recovers()
    finally:
        late.kill()


async def test_a_full_store_takes_no_revocation_and_keeps_those_it_has(start, own_valkey):
    revoker = await start(own_valkey)
    revoked, fresh, refused = issued(), issued(), issued()
    assert (await revoker.post("/revoke", {"iss": revoked["iss"], "jti": revoked["jti"]})).status == 200
    with own_valkey.client() as client:
        client.config_set("maxmemory", 1)
        answer = await revoker.post("/revoke", {"iss": refused["iss"], "jti": refused["jti"]})
        assert answer.status == 503
        assert answer.headers["Retry-After"]
        assert (await revoker.post("/revoke-user", {"iss": fresh["iss"], "sub": fresh["sub"]})).status == 503
        assert (await revoker.post("/block-user", {"iss": fresh["iss"], "sub": fresh["sub"]})).status == 503
        key = {"iss": fresh["iss"], "kid": "main-1"}
        assert (await revoker.post("/revoke-key", key)).status == 503
        assert not await revoker.active(revoked)
        assert await revoker.active(fresh)
        client.config_set("maxmemory", 0)
    assert await revoker.active(refused)
    assert (await revoker.post("/revoke", {"iss": refused["iss"], "jti": refused["jti"]})).status == 200
    assert not await revoker.active(refused)


async def test_the_number_of_changes_at_once_is_not_bounded_by_connections(start, own_valkey):
    revoker = await start(own_valkey)
    all_claims = [issued() for _ in range(300)]
    answers = await asyncio.gather(
        *(revoker.post("/revoke", {"iss": c["iss"], "jti": c["jti"]}) for c in all_claims)
    )
    assert {answer.status for answer in answers} == {200}


async def test_while_the_store_is_down_changes_and_lookups_fail_at_once(start, own_valkey):
    """Each would otherwise wait for a time-out, and one of them for longer than the test may take."""
    revoker = await start(own_valkey, redis={"timeout": 30})
    own_valkey.kill()
    for _ in range(20):
        assert (await revoker.post("/revoke", {"token": revoker.token()})).status == 503
        assert (await revoker.post("/revoke-user", {"sub": "alice", "iss": forge.ISSUER})).status == 503
        assert (await revoker.post("/introspect", {"token": revoker.token()})).status == 503
