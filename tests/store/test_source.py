"""A third kind of source: it answers from memory, and neither endpoints, rules nor the others know of it."""

import asyncio
import time

import pytest
from prometheus_client import CollectorRegistry

from revoker.api.verdicts import Verdicts
from revoker.auth import Caller
from revoker.metrics import Metrics
from revoker.models import Claims, Verdict
from revoker.store.cluster.source import ClusterSource
from revoker.store.consistency.epoch import Epoch, Reading
from revoker.store.consistency.losses import Losses
from revoker.store.keys import Keys
from revoker.store.recorded_issuers import encode, reconciled
from revoker.store.single import SinglePrimary
from revoker.store.source import Found, LastRead, Lookups, PartReplies, Source
from revoker.store.store import Store, source_of
from revoker.store.stored_values import parse_revocation_state
from revoker.store.wire.connection import Refused
from revoker.tokens.verifying import Verifier
from tests.store.conftest import ISSUERS, MAIN


class MemorySource:
    """A copy of the store's keys, as a replica at the edge would have it; it takes no changes."""

    beats_per_round = 1
    ahead = 0.0

    def __init__(self, values, context):
        self.lookups = self
        self._values = values
        self._clocks = context.clocks
        self._data_set = context.new_data_set(context.keys.tail(context.instance), 0, Losses(context.metrics))

    def _now(self):
        return int(self._clocks.now() * 1000)

    async def find(self, keys):
        return Found(parse_revocation_state([self._values.get(key) for key in keys], 0), self._now())

    find_shared = find

    async def find_all(self, keys):
        return await asyncio.gather(*map(self.find, keys))

    def last_read(self, _):
        return LastRead(self._now(), 0)

    async def touch(self):
        """Memory is always there."""

    def open(self):
        """Likewise."""

    async def close(self):
        await self._data_set.close()

    async def follow(self):
        return False

    def reconnect(self):
        """There is nothing to connect to."""

    def leave_all_but(self, _):
        """Likewise."""

    async def change(self, *_):
        raise Refused("READONLY")

    change_unconfirmed = change_all = change_together = change

    async def read(self, _, commands):
        now = self._now()
        time = [b"%d" % (now // 1000), b"%d" % (now % 1000 * 1000)]
        return [time if command == ("TIME",) else self._values.get(command[1]) for command in commands]

    read_trusted = read

    async def wait_for(self, *_):
        raise Refused("ERR nothing changes")

    async def values(self, keys):
        return [self._values.get(key) for key in keys]

    async def on_every_primary(self, _):
        return []

    async def locator_faults(self):
        return []

    async def primaries(self):
        return {}

    def server_of(self, _):
        return ""

    async def keep_confirming(self):
        """No replicas confirm anything."""

    def data_set_of(self, _):
        return self._data_set

    data_set_numbered = data_set_of

    def read_data_sets(self):
        return () if self._data_set.watermark is None else ((0, self._data_set),)

    async def look(self, _, on_data_set):
        before, reading = self._data_set.watermark, await self.reading(None)
        if self._data_set.adopt_first(reading) or self._data_set.confirms_reading(before, reading):
            on_data_set(0, None, [], reading.now)
            return []
        return [self._data_set]

    async def suspects(self):
        return []

    async def blocks_after(self, *_):
        return None

    async def settle(self, sets, **cause):
        for data in sets:
            await data.settle(**cause)

    async def trusted_value(self, key):
        return self._values.get(key), self._now()

    async def read_parts(self, commands):
        return [PartReplies(0, await self.read("", commands[0]), self._now())]

    async def readings(self):
        return [(0, self._data_set, await self.reading(None))]

    async def reading(self, _):
        return Reading(self._values[Keys("rv").epoch], 0, None, self._now())


def test_it_has_all_that_a_source_has():
    for protocol in (Source, Lookups):
        members = {name for name in vars(protocol) if not name.startswith("_")}
        assert members - {"lookups"} <= set(dir(MemorySource))


@pytest.fixture
def values():
    keys = Keys("rv")
    return {
        keys.epoch: Epoch("id", 0, 0, "new").text.encode(),
        keys.settings: encode(reconciled({}, ISSUERS.values(), 0)),
    }


@pytest.fixture
async def store(values):
    made = Store(
        url="memory:",
        prefix="rv",
        timeout=1,
        wait_replicas=0,
        policy="cutoff",
        issuers=ISSUERS,
        metrics=Metrics(CollectorRegistry()),
        now=time.time,
        make_source=lambda _, context: MemorySource(values, context),
    )
    made.open()
    yield made
    await made.close()


@pytest.fixture
def verdicts(store):
    metrics = Metrics(CollectorRegistry(), ["main"])
    verifier = Verifier([], metrics)
    return Verdicts(verifier=verifier, store=store, clock=time.time, metrics=metrics, allow_outage=False)


CALLER = Caller(
    name="gateway",
    digests=(),
    scopes=frozenset({"introspect"}),
    issuers=ISSUERS,
    default_issuer=None,
)


async def test_a_source_in_memory_serves_introspection(store, values, verdicts):
    await store.watch.beat()
    assert store.reached
    now = int(time.time())
    claims = Claims(iss=MAIN.iss, sub="alice", jti="1", iat=now - 10, exp=now + 60)
    assert (await verdicts.of_claims(claims, MAIN, CALLER)).verdict is Verdict.ACTIVE
    assert await verdicts.of_many([(claims, MAIN, None)]) == [Verdict.ACTIVE]

    values[store.keys.jti(MAIN, "1")] = b"%d" % (now * 1000)

    assert (await verdicts.of_claims(claims, MAIN, CALLER)).verdict is Verdict.TOKEN_REVOKED
    assert await verdicts.of_many([(claims, MAIN, None)]) == [Verdict.TOKEN_REVOKED]


@pytest.mark.parametrize(
    ("url", "source"),
    [
        ("redis://host:6379/0", SinglePrimary),
        ("unix:///run/valkey.sock", SinglePrimary),
        ("rediss+sentinel://one,two,three/main", SinglePrimary),
        ("redis+cluster://one,two", ClusterSource),
    ],
)
def test_the_url_names_the_source(url, source):
    assert source_of(url) is source
