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
from revoker.store.lookups import Found, LastRead, parse_revocation_state
from revoker.store.single import SinglePrimary
from revoker.store.store import Store, source_of
from revoker.tokens.verifying import Verifier
from tests.store.conftest import ISSUERS, MAIN


class MemorySource:
    """Lookups that a copy of the store's keys answers, as a replica at the edge would."""

    ahead = 0.0

    def __init__(self, values, context):
        self.lookups = self
        self._values = values
        self._clocks = context.clocks
        self.data_set_of = context.new_data_set

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


@pytest.fixture
def values():
    return {}


@pytest.fixture
def store(values):
    return Store(
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
