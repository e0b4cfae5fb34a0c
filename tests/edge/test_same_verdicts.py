"""Whatever was revoked and undone, in whatever order: an edge judges as the service does."""

import asyncio
import itertools
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from revoker import app
from revoker.auth import digest
from tests.edge.conftest import until
from tests.rig import forge
from tests.rig.edge import begin, edge_settings
from tests.rig.service import OTHER_ISSUER, PATIENT_S, SECRETS, serve, settings_for, until_ready
from tests.rig.upstream import SECRET

ISSUERS = (forge.ISSUER, OTHER_ISSUER)
AGES_S = (900, 300, 100, 30)
"""How long ago tokens were issued; cutoffs are between these times."""

befores = st.sampled_from([None, *(age - 10 for age in AGES_S)])
subs, sids = st.sampled_from("ab"), st.sampled_from("st")
issuers = st.sampled_from(ISSUERS)

changes = st.one_of(
    st.tuples(st.just("token"), issuers, st.sampled_from("123"), st.booleans()),
    st.tuples(st.just("user"), issuers, subs, befores, st.none() | sids),
    st.tuples(st.just("session"), issuers, sids, befores),
    st.tuples(st.just("client"), issuers, st.sampled_from("wx"), befores),
    st.tuples(st.just("claim"), st.just(OTHER_ISSUER), st.sampled_from("gh"), befores),
    st.tuples(st.just("block"), issuers, subs, st.booleans()),
    st.tuples(st.just("unblock"), issuers, subs),
    st.tuples(st.just("lift user"), issuers, subs),
    st.tuples(st.just("lift session"), issuers, sids),
    st.tuples(st.just("lift client"), issuers, st.sampled_from("wx")),
)


class Pair:
    """A service and its edge, in an event loop of their own."""

    def __init__(self, valkey, folder):
        self.loop = asyncio.new_event_loop()
        self._examples = itertools.count()
        self.loop.run_until_complete(self._begin(valkey, folder))

    async def _begin(self, valkey, folder):
        callers = [
            {"name": name, "scopes": scopes, "secret_sha256": [digest(secret)]}
            for name, scopes, secret in (
                ("gateway", ["introspect"], SECRETS["gateway"]),
                ("edge", ["feed", "introspect"], SECRET),
            )
        ]
        redis = {"url": valkey.url, "key_prefix": "same", "timeout": PATIENT_S}
        service = app.Service(settings_for(valkey.url, folder, redis=redis, callers=callers))
        await service.store.init()
        self.service = await serve(service)
        await until_ready(self.service)
        self.edge = await begin(edge_settings(folder, self.service.url))
        await until_ready(self.edge)
        self.store, self.issuers = service.store, service.store.issuers
        await self.store.issuer_records.record_claim(self.issuers[OTHER_ISSUER], "grant_id")

    def close(self):
        for running in (self.edge, self.service):
            self.loop.run_until_complete(running.close())
        self.loop.close()

    async def compare(self, made):
        """Make changes about names of this example alone, and compare all tokens with these names."""
        mark = f"-{next(self._examples)}"
        for change in made:
            await self._make(mark, *change)
        now = int(time.time() * 1000)
        mirror = self.edge.service.mirror
        await until(lambda: mirror.as_of > now, "the edge has everything")
        tokens = list(self._tokens(mark))
        answers = [
            (await running.post("/introspect/batch", {"tokens": tokens}, caller="gateway")).json["results"]
            for running in (self.service, self.edge)
        ]
        for token, of_service, of_edge in zip(tokens, *answers, strict=True):
            assert of_service == of_edge, (token, of_service, of_edge)

    async def _make(self, mark, what, iss, name, *terms):
        issuer, name, now = self.issuers[iss], name + mark, int(time.time() * 1000)
        revocations, keys = self.store.revocations, self.store.keys
        before = now - terms[0] * 1000 if terms and type(terms[0]) is int else None
        dated = {"before": before, "reason": ""}
        match what:
            case "token":
                await revocations.revoke_token(issuer, name, now // 1000 + 600 if terms[0] else None)
            case "user":
                sid = terms[1] and terms[1] + mark
                await revocations.revoke_user(issuer, name, except_sid=sid, **dated)
            case "session":
                await revocations.revoke_session(issuer, name, **dated)
            case "client":
                await revocations.revoke_client(issuer, name, **dated)
            case "claim":
                await revocations.revoke_claim(issuer, "grant_id", name, **dated)
            case "block":
                until_ms = now + 600_000 if terms[0] else None
                await revocations.block_user(issuer, name, until=until_ms, reason="")
            case "unblock":
                await revocations.unblock_user(issuer, name)
            case "lift user":
                await revocations.lift_user(issuer, name)
            case "lift session":
                await revocations.lift(keys.session_cutoff(issuer, name))
            case "lift client":
                await revocations.lift(keys.client_cutoff(issuer, name))

    @staticmethod
    def _tokens(mark):
        now = int(time.time())
        for iss, sub, sid, client, age in itertools.product(ISSUERS, "ab", "st", "wx", AGES_S):
            yield {
                "iss": iss,
                "sub": sub + mark,
                "sid": sid + mark,
                "client_id": client + mark,
                "jti": "123"[age % 3] + mark,
                "iat": now - age,
                "exp": now + 600,
                "grant_id": ("g" if sub == "a" else "h") + mark,
            }


@pytest.fixture(scope="module")
def pair(valkey, tmp_path_factory):
    made = Pair(valkey, tmp_path_factory.mktemp("pair"))
    yield made
    made.close()


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(made=st.lists(changes, min_size=1, max_size=8))
def test_an_edge_judges_as_the_service_does(pair, made):
    pair.loop.run_until_complete(pair.compare(made))
