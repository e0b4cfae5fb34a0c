"""Acknowledged revocations whose keys vanish from a store that looks sound otherwise."""

import asyncio

import pytest

from tests.rig.forge import envelope
from tests.rig.network import Network
from tests.rig.probes import RestrictedUser, eventually, has_problem, issued, metric, revoke
from tests.rig.servers import Valkey
from tests.rig.service import OTHER_ISSUER
from tests.rig.topologies import NO_FAILOVER, Cluster


async def active_ones(revoker, tokens):
    answer = await revoker.post("/introspect/batch", {"tokens": tokens}, caller="gateway")
    if answer.status != 200:
        return None
    return sum(result["active"] for result in answer.json["results"])


async def none_is_active(revoker, tokens):
    return await active_ones(revoker, tokens) == 0


async def revoked_tokens(revoker, count):
    tokens = [issued() for _ in range(count)]
    for answer in await asyncio.gather(*(revoke(revoker, token) for token in tokens)):
        assert answer.status == 200
    return tokens


def keys_of(client, prefix, kind):
    return list(client.scan_iter(f"{prefix}:{kind}:*", 1000))


def prefix_of(revoker):
    return revoker.service.store.keys.all()[:-2]


async def test_evictions_that_the_server_does_not_report_are_a_loss(start, tmp_path):
    """A user who may see nothing of the server but its role, and a policy that evicts what expires first."""
    options = ("--maxmemory-policy", "volatile-ttl", "--maxmemory", "4mb", "--appendonly", "no")
    server = Valkey(tmp_path / "evicting", *options).start()
    try:
        revoker = await start(RestrictedUser(server, "+@all", "-@dangerous", "+role"))
        tokens = await revoked_tokens(revoker, 40)
        assert await has_problem(revoker, "unchecked")
        with server.client() as client:
            number = 0
            while keys_of(client, prefix_of(revoker), "jti"):
                with_later_expiry = client.pipeline(transaction=False)
                for _ in range(200):
                    with_later_expiry.set(f"other:{number}", "x" * 1000, ex=864_000)
                    number += 1
                with_later_expiry.execute()
            client.config_set("maxmemory", 0)
        await eventually(lambda: has_problem(revoker, "data_lost"))
        await eventually(lambda: none_is_active(revoker, tokens))
        with server.client() as client:
            assert len(keys_of(client, prefix_of(revoker), "jti")) == 40  # written back
    finally:
        server.kill()


async def beat(revoker):
    await revoker.service.store.watch.beat()


async def losses(revoker):
    return await metric(revoker, "revoker_data_losses_total")


async def test_a_revocation_that_somebody_deletes_is_a_loss_and_is_written_back(start, own_valkey):
    revoker = await start(own_valkey)
    [token] = await revoked_tokens(revoker, 1)
    ann = {"iss": token["iss"], "sub": "ann"}
    cutoff = (await revoker.post("/revoke-user", ann)).json["cutoff"]
    for pattern in ("jti:*", "{[^:]*}:user"):
        with own_valkey.client() as client:
            [key] = client.scan_iter(f"{prefix_of(revoker)}:{pattern}", 1000)
            client.delete(key)
            before = await losses(revoker)
            await beat(revoker)
            await eventually(lambda: has_problem(revoker, "data_lost"))
            assert client.exists(key)
            await beat(revoker)
            assert await losses(revoker) == before + 1
    assert not await revoker.active(token)
    assert not await revoker.active(issued(cutoff, sub="ann"))


async def test_a_cutoff_that_is_overwritten_by_an_earlier_one_is_a_loss(start, own_valkey):
    revoker = await start(own_valkey)
    answer = await revoker.post("/revoke-client", {"iss": issued()["iss"], "client_id": "web"})
    assert answer.status == 200
    with own_valkey.client() as client:
        [key] = keys_of(client, prefix_of(revoker), "client-cutoff")
        client.set(key, 1000, keepttl=True)
        await beat(revoker)
        assert await has_problem(revoker, "data_lost")
        assert int(client.get(key)) >= answer.json["cutoff"] * 1000 - 1


async def test_revoked_signing_keys_that_somebody_deletes_are_written_back(start, own_valkey, events):
    first = await start(own_valkey)
    second = await start(own_valkey, prefix=prefix_of(first), new=False)
    for kid in ("stolen", "lost"):
        assert (await first.post("/revoke-key", {"iss": OTHER_ISSUER, "kid": kid})).status == 200
    await beat(second)
    with own_valkey.client() as client:
        assert client.delete(f"{prefix_of(first)}:keys:other")
    for revoker in (second, first):
        await beat(revoker)
    assert await active_ones(first, [envelope(issued(iss=OTHER_ISSUER), "stolen")]) == 0
    assert await losses(first) == 0
    [event, *_] = [event for event in events if event["event"] == "revoked_keys_restored"]
    assert (event["issuer"], event["kids"]) == ("other", ["lost", "stolen"])


async def test_a_signing_key_that_an_operator_forgets_stays_forgotten(start, own_valkey, events):
    first = await start(own_valkey)
    second = await start(own_valkey, prefix=prefix_of(first), new=False)
    assert (await first.post("/revoke-key", {"iss": OTHER_ISSUER, "kid": "found"})).status == 200
    await beat(second)
    store = first.service.store
    issuer = next(issuer for issuer in store.issuers.values() if issuer.name == "other")
    assert await store.revocations.forget_key(issuer, "found")
    for revoker in (second, first):
        await beat(revoker)
    assert await active_ones(first, [envelope(issued(iss=OTHER_ISSUER), "found")]) == 1
    assert second.service.store.revocations.remembered.keys["other"] == {}
    assert "revoked_keys_restored" not in {event["event"] for event in events}


async def test_what_an_operator_lifts_is_no_loss(start, own_valkey):
    revoker = await start(own_valkey)
    other = await start(own_valkey, prefix=prefix_of(revoker), new=False)
    main = revoker.service.store.issuers[issued()["iss"]]
    for lift in ("client", "user"):
        body = {"iss": main.iss, "client_id": "web"} if lift == "client" else {"iss": main.iss, "sub": "ann"}
        assert (await revoker.post(f"/revoke-{lift}", body)).status == 200
        of_other = other.service.store.revocations
        if lift == "client":
            await of_other.lift(other.service.store.keys.client_cutoff(main, "web"))
        else:
            await of_other.lift_user(main, "ann")
        await beat(revoker)
        await beat(revoker)
    assert not await has_problem(revoker, "data_lost")
    assert await revoker.active(issued(client_id="web", sub="ann"))


async def test_an_unblocked_user_and_an_ended_session_are_no_loss(start, own_valkey):
    revoker = await start(own_valkey)
    ann = {"iss": issued()["iss"], "sub": "ann"}
    for path in ("/revoke-user", "/block-user", "/unblock-user"):
        assert (await revoker.post(path, ann)).status == 200
        await beat(revoker)
    assert not await has_problem(revoker, "data_lost")


async def test_a_block_whose_record_vanishes_is_a_loss_and_is_written_back(start, own_valkey):
    """Verdicts read the user's record, which expires some day; a policy of volatile keys evicts only that."""
    revoker = await start(own_valkey)
    other = await start(own_valkey, prefix=prefix_of(revoker), new=False)
    ann = {"iss": issued()["iss"], "sub": "ann"}
    assert (await revoker.post("/block-user", ann)).status == 200
    store = other.service.store
    await beat(other)  # which learns of the block
    with own_valkey.client() as client:
        assert client.delete(store.keys.user_of(store.issuers[ann["iss"]], "ann")) == 1
        await beat(other)
        assert await has_problem(other, "data_lost")
    assert not await other.active(issued(sub="ann"))
    assert (await revoker.post("/unblock-user", ann)).status == 200


@pytest.fixture
def cluster(tmp_path):
    with Network() as network:
        started = Cluster(network, tmp_path / "cluster", primaries=2, replicas=0, options=NO_FAILOVER)
        try:
            started.start()
            yield started
        finally:
            started.stop()


async def test_a_revocation_that_vanishes_from_a_cluster_is_a_loss_of_its_slot(start, cluster):
    revoker = await start(cluster)
    gone, there = await revoked_tokens(revoker, 2)
    store = revoker.service.store
    key = store.keys.jti(store.issuers[gone["iss"]], gone["jti"])
    assert await store.source.read(key, [("UNLINK", key)]) == [1]
    await beat(revoker)
    assert await has_problem(revoker, "data_lost")
    assert await store.values([key]) != [None]
    assert await none_is_active(revoker, [gone, there])
    lost = [data for _, data in store.source.read_data_sets() if data.epoch.finding == "cutoff"]
    assert len(lost) == 1
