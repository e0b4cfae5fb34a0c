"""The store by itself: on a real server, and its scripts on a stand-in too."""

import contextlib
import time
import uuid

import fakeredis
import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from revoker.errors import NoVerdict
from revoker.metrics import Metrics
from revoker.models import ClaimNames, Issuer
from revoker.store.issuer_records import IssuerRecords
from revoker.store.keys import Keys
from revoker.store.refill import Refill
from revoker.store.revocations import Revocations
from revoker.store.scripts import Scripts
from revoker.store.store import Store
from revoker.store.wire.addresses import address_of
from revoker.store.wire.command_channel import CommandChannel
from revoker.store.wire.connection import Refused
from tests.rig.service import PATIENT_S

MAIN = Issuer(name="main", iss="https://idp.example.com")
TENANT = "https://example.com/tenant"
OTHER = Issuer(
    name="other",
    iss="https://other.example.com",
    claim_names=ClaimNames(revocable=("grant_id", TENANT)),
    max_token_lifetime=600,
    horizon=600,
)
ISSUERS = {issuer.iss: issuer for issuer in (MAIN, OTHER)}
SLOW_MS = 30_000
"""By so much two looks at a clock may be apart in one test; the lives of keys differ by far more."""
IMMORTAL = ("epoch", "seq", "writers", "blocks", "keys:main", "keys:other")
"""What never expires: also the blocks, which must be found again after a loss."""


def store_on(
    valkey,
    prefix,
    *,
    timeout=PATIENT_S,
    now=time.time,
    wait_replicas=0,
    wait_fsync=False,
    policy="cutoff",
    repair_seconds=0,
    issuers=(MAIN, OTHER),
    make_source=None,
):
    return Store(
        url=valkey.url,
        prefix=prefix,
        timeout=timeout,
        wait_replicas=wait_replicas,
        wait_fsync=wait_fsync,
        policy=policy,
        repair_seconds=repair_seconds,
        issuers={issuer.iss: issuer for issuer in issuers},
        metrics=Metrics(CollectorRegistry()),
        now=now,
        make_source=make_source,
    )


@contextlib.asynccontextmanager
async def opened(store, *, watched=True):
    """Without its watch a store reads only what it is asked."""
    store.open() if watched else store.source.open()
    try:
        with contextlib.suppress(NoVerdict):
            await store.issuer_records.reconcile()  # before it, nothing of an issuer is revoked
        yield store
    finally:
        await store.close()


async def until_no_lookup_is_under_way(store):
    """Wait for the probe of the new connection, too.

    It is sent again when the data set is settled, so a lookup that was made after it may be answered first.
    """
    lookups = store.lookups
    await lookups.touch()
    while lookups.in_flight or lookups._again or lookups._unsettled:
        await lookups.touch()


@pytest.fixture
def prefix():
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def store(valkey, prefix):
    """A store that runs, on the server that all share."""
    made = store_on(valkey, prefix)
    await made.init()
    async with opened(made):
        await made.lookups.touch()
        yield made


class Changes:
    """Revocations with the client they write by; both servers behave alike or the tests fail."""

    def __init__(self, client, revocations, refill, *, keys, metrics, scripts):
        self.client = client
        self.revocations = revocations
        self.refill = refill
        self.keys = keys
        self.metrics = metrics
        self.scripts = scripts

    async def now(self):
        whole, micros = await self.client.time()
        return whole * 1000 + micros // 1000


class Unknown:
    """What is known of a data set before its first reading: nothing."""

    watermark = None

    def __init__(self, tail):
        self.tail = tail

    def record_write(self, *_):
        return True


class FakeSource:
    """A source whose server is a fake."""

    def __init__(self, client):
        self._client = client

    async def change(self, _, *command):
        try:
            return await self._client.execute_command(*command)
        except NoScriptError as error:
            raise Refused("NOSCRIPT") from error

    async def change_together(self, key, commands):
        return [await self.change(key, *command) for command in commands]

    async def read(self, _, commands):
        replies = [await self._client.execute_command(*command) for command in commands]
        # the client decodes TIME
        return [[b"%d" % part for part in reply] if isinstance(reply, tuple) else reply for reply in replies]


class ChannelSource:
    """A source that is one channel."""

    def __init__(self, channel):
        self._channel = channel

    async def change(self, _, *command):
        return await self._channel.execute(*command)

    async def change_together(self, _, commands):
        return await self._channel.pipeline(commands)

    async def read(self, _, commands):
        return await self._channel.pipeline(commands)


@pytest.fixture(params=["fakeredis", "valkey"])
async def changes(request, valkey, prefix):
    """Every key left behind must be due to expire, but for :data:`IMMORTAL`."""
    fake = request.param == "fakeredis"
    client = fakeredis.FakeAsyncRedis() if fake else Redis.from_url(valkey.url)
    keys, metrics = Keys(prefix), Metrics(CollectorRegistry())
    channel = CommandChannel(address_of(valkey.url, timeout=PATIENT_S).connect, timeout=PATIENT_S)
    source = FakeSource(client) if fake else ChannelSource(channel)
    scripts = Scripts(
        source,
        metrics,
        lambda _: Unknown(keys.tail("me")),
    )
    records = IssuerRecords(source, scripts, keys, ISSUERS.values())
    await records.adopt()  # before it, nothing of an issuer is revoked
    revocations = Revocations(scripts, keys, ISSUERS, records, metrics)
    refill = Refill(scripts, keys, ISSUERS, revocations, metrics)
    yield Changes(client, revocations, refill, keys=keys, metrics=metrics, scripts=scripts)
    await channel.close()
    immortal = {key.decode() async for key in client.scan_iter(f"{prefix}:*") if await client.ttl(key) == -1}
    await client.aclose()
    assert immortal <= {f"{prefix}:{name}" for name in IMMORTAL}
