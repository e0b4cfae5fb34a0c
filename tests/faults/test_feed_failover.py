"""The feed over a failover that Sentinels carry out: the cursor holds, and nothing is missing."""

import asyncio
import os

import pytest

from tests.rig import feed, forge
from tests.rig.feed import Consumer
from tests.rig.network import Network
from tests.rig.service import HANGS_S
from tests.rig.topologies import Sentinels


@pytest.fixture
def sentinels(tmp_path):
    with Network() as network:
        network.assign_process(os.getpid(), "service")
        started = Sentinels(network, tmp_path / "servers", replicas=1)
        try:
            started.start()
            yield started
        finally:
            started.stop()


async def revoked(running, jti):
    """Revoke a token, however often that must be repeated."""
    body = {"iss": forge.ISSUER, "jti": jti}
    async with asyncio.timeout(HANGS_S):
        while (await running.post("/revoke", body)).status != 200:
            await asyncio.sleep(0.05)


async def test_a_cursor_survives_the_death_of_the_primary(start, sentinels):
    revoker = await start(sentinels, redis={"wait_replicas": 1}, revocation={"repair_seconds": 60})
    consumer = Consumer(await feed.snapshot(revoker))
    for number in range(20):
        await revoked(revoker, f"before-{number}")
    await consumer.follow(revoker, 5)
    async with feed.stream(revoker, consumer.cursor) as stream:
        consumer.take(await stream.until("fresh"))
        old = sentinels.primary
        await asyncio.to_thread(old.kill)
        await asyncio.to_thread(sentinels.replace, old)
        await asyncio.to_thread(sentinels.revive, old)  # it confirms revocations again
        for number in range(20):
            await revoked(revoker, f"after-{number}")
        expected = {("jti", forge.ISSUER, f"{when}-{n}") for when in ("before", "after") for n in range(20)}
        while not expected <= consumer.revoked.keys():
            consumer.take(await stream.until("change"))
    await consumer.catch_up(revoker)
