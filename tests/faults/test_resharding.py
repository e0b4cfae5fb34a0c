"""A cluster grows and shrinks under load: nothing revoked is ever active, nothing is taken for lost."""

import asyncio
import contextlib
import os
import uuid

import pytest

from revoker.store.keys import slot_of
from tests.faults.checked_load import CheckedLoad
from tests.rig import forge
from tests.rig.network import Network
from tests.rig.probes import issued, metric, readiness
from tests.rig.service import HANGS_S, PATIENT_S
from tests.rig.topologies import NO_FAILOVER, Cluster, until
from tests.store.conftest import store_on

SLOTS = 60
"""Moved key by key: they hold what was revoked already, and what is asked for."""


@pytest.fixture
def begin(tmp_path):
    with contextlib.ExitStack() as stack:

        def begin(**options):
            network = stack.enter_context(Network())
            network.assign_process(os.getpid(), "service")
            cluster = Cluster(network, tmp_path / "cluster", **options)
            stack.callback(cluster.stop)
            cluster.start()
            return cluster

        yield begin


class Busy:
    """A service under load on a cluster that changes."""

    def __init__(self, revoker, load):
        self.load = load
        self._revoker = revoker
        self._store = revoker.service.store
        self._main = self._store.issuers[forge.ISSUER]

    def slots(self, ranges):
        """Those of some ranges in which a token lies that is asked for all the time, or its user."""
        claims = [*self.load.revoked, *self.load.untouched]
        used = {slot_of(self._store.keys.user_of(self._main, claims[0]["sub"])), *map(self._slot, claims)}
        return sorted(slot for slot in used if any(first <= slot <= last for first, last in ranges))

    async def does(self, act, *args, slots=()):
        """Something that takes a thread its time, beside the load and revocations in some slots.

        Each of them is repeated until it is acknowledged, and its token asked for right after.
        """
        revoking = asyncio.ensure_future(self._revoke(slots)) if slots else None
        await asyncio.to_thread(act, *args)
        await self.load.recovers()
        if revoking is not None:
            self._over = True
            await revoking

    async def _revoke(self, slots):
        acknowledged, self._over = 0, False
        wanted = set(slots)
        while not self._over or acknowledged < 2:  # a move may take less time than one of them
            claims = issued(
                jti=next(
                    jti for jti in iter(lambda: uuid.uuid4().hex, "") if self._slot({"jti": jti}) in wanted
                )
            )
            body = {name: claims[name] for name in ("iss", "jti", "exp")}
            while (status := (await self._revoker.post("/revoke", body)).status) != 200:
                assert status == 503
            self.load.revoked.append(claims)
            acknowledged += 1

    def _slot(self, claims):
        return slot_of(self._store.keys.jti(self._main, claims["jti"]))


@contextlib.asynccontextmanager
async def busy(start, cluster, **redis):
    prefix = f"t{uuid.uuid4().hex[:12]}"
    declaring = store_on(cluster, prefix, timeout=PATIENT_S)
    assert await declaring.init()
    await declaring.close()
    revoker = await start(cluster, prefix=prefix, new=False, redis={"timeout": 2, **redis})
    epochs = await epochs_of(revoker)
    async with CheckedLoad(revoker) as load:
        await load.sees(revocations=200, times=100)
        yield Busy(revoker, load)
        print(load.introspected, load.revocations)
    for claims in load.revoked:
        assert not await verdict(revoker, claims)
    assert await epochs_of(revoker) == epochs
    assert await metric(revoker, "revoker_data_losses_total") == 0
    assert "data_lost" not in (await readiness(revoker))[1]


async def verdict(revoker, claims):
    """It may take a moment until nobody asks the one that has left."""
    async with asyncio.timeout(HANGS_S):
        while (answer := await revoker.post("/introspect", claims, caller="gateway")).status != 200:
            assert answer.status == 503
    return answer.json["active"]


async def epochs_of(revoker):
    return {part: reading.epoch for part, reading in (await revoker.service.store.readings()).items()}


async def test_a_primary_joins_and_leaves_again_with_slots_moved_key_by_key(start, begin):
    cluster = begin(replicas=0, options=NO_FAILOVER)
    async with busy(start, cluster) as service:
        first, second, _ = cluster.nodes
        fresh = await asyncio.to_thread(cluster.join)
        slots = service.slots(cluster.slots_of(first))[:SLOTS]
        for source, target in ((first, fresh), (fresh, second)):
            await service.does(cluster.move_slots, source, target, slots, slots=slots)
        assert not cluster.slots_of(fresh)
        await service.does(cluster.leave, fresh)


async def test_a_primary_joins_and_another_leaves_with_ranges_of_slots_moved_at_once(start, begin):
    cluster = begin(replicas=0, options=(*NO_FAILOVER, "--cluster-allow-replica-migration", "yes"))
    async with busy(start, cluster) as service:
        first, second, third = cluster.nodes
        fresh = await asyncio.to_thread(cluster.join)
        for source in second, third, first:
            [(begins, ends)] = cluster.slots_of(source)
            moved = [(begins, ends if source is first else (begins + ends) // 2)]
            await service.does(cluster.migrate_slots, source, fresh, moved, slots=service.slots(moved))
        await service.does(until, lambda: not first.primary, "a primary without slots follows another")
        await service.does(cluster.leave, first)
