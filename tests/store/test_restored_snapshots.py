"""A snapshot is restored that lacks the last revocations, and instances write before anybody has noticed."""

import asyncio
import contextlib
import functools

import pytest
import redis

from revoker.models import Issuer
from revoker.store.sessions import Lifetimes
from revoker.store.wire.connection import ConnectionLost
from tests.store.conftest import MAIN, opened, store_on

OWN = Issuer(name="main", iss=MAIN.iss, own=True)
LOST = ("1", "2", "3")


class Instance:
    """One of those that share a store, with all the ways in which it writes to it.

    Attributes:
        answered: How many scripts were answered since :meth:`hold`.
    """

    def __init__(self, store):
        self.store = store
        self.revocations = store.revocations
        self.sessions = store.sessions(OWN, Lifetimes(idle=600, absolute=3600, grace=0, most=1))
        self.sids = []
        self.answered = asyncio.Semaphore(0)

    async def prepare(self):
        """What some of the writes need."""
        for n in map(str, range(len(LOST))):
            sid = (await self.sessions.start(n, "web")).session.sid
            await self.sessions.refresh(sid, 1, ())
            await self.sessions.refresh(sid, 2, ())
            self.sids.append(sid)
        await self.sessions.start("displacing", "web")

    def hold(self, monkeypatch):
        """Let this instance settle nothing until the returned event says so."""
        settle, execute, released = (
            self.store.source.data_set.settle,
            self.store.scripts.execute,
            asyncio.Event(),
        )

        async def held(**why):
            await released.wait()
            await settle(**why)

        async def counted(*call):
            reply = await execute(*call)
            self.answered.release()
            return reply

        monkeypatch.setattr(self.store.source.data_set, "settle", held)
        monkeypatch.setattr(self.store.scripts, "execute", counted)
        return released

    async def says(self, jti):
        """Whether a token may be used."""
        key = self.store.keys.jti(MAIN, jti)
        found = await self.store.lookups.find((key, None, None, None, None, None))
        return found.state.jti is None and not found.state.loss


MARK = {"before": None, "reason": ""}
WRITES = {
    "revoke_token": lambda item, n: item.revocations.revoke_token(MAIN, f"new{n}", None),
    "revoke_user": lambda item, n: item.revocations.revoke_user(MAIN, n, except_sid=None, **MARK),
    "revoke_session": lambda item, n: item.revocations.revoke_session(MAIN, n, **MARK),
    "revoke_client": lambda item, n: item.revocations.revoke_client(MAIN, n, **MARK),
    "revoke_claim": lambda item, n: item.revocations.revoke_claim(MAIN, "grant_id", n, **MARK),
    "revoke_issuer": lambda item, _: item.revocations.revoke_issuer(MAIN, **MARK),
    "revoke_key": lambda item, n: item.revocations.revoke_key(MAIN, n, reason=""),
    "forget_key": lambda item, n: item.revocations.forget_key(MAIN, n),
    "block_user": lambda item, n: item.revocations.block_user(MAIN, n, until=None, reason=""),
    "unblock_user": lambda item, n: item.revocations.unblock_user(MAIN, n),
    "lift_user": lambda item, n: item.revocations.lift_user(MAIN, n),
    "lift": lambda item, n: item.revocations.lift(item.store.keys.client_cutoff(MAIN, n)),
    "end a session": lambda item, n: item.sessions.end(item.sids[int(n)]),
    "reuse a refresh token": lambda item, n: item.sessions.refresh(item.sids[int(n)], 1, ()),
    "displace a session": lambda item, _: item.sessions.start("displacing", "web"),
}


def import_tokens(item):
    entries = [item.store.keys.jti(MAIN, f"new{n}") for n in range(len(LOST))]
    return item.store.scripts.run("revoke_tokens", entries, [-100_000, ""] * len(entries))


async def seq_at(instance):
    [reading] = (await instance.store.readings()).values()
    return reading.seq


class Snapshot:
    """Of one key space, as it is now."""

    def __init__(self, client, prefix):
        self._client = client
        self._prefix = prefix
        self._remembered = {key: (client.dump(key), max(0, client.pttl(key))) for key in self._keys()}

    def _keys(self):
        return list(self._client.scan_iter(f"{self._prefix}:*"))

    def restore(self):
        with self._client.pipeline() as pipeline:
            pipeline.delete(*self._keys())
            for key, (value, left) in self._remembered.items():
                pipeline.restore(key, left, value)
            pipeline.execute()


@pytest.fixture
def keep(valkey, prefix):
    """Makes a snapshot."""
    with redis.Redis.from_url(valkey.url) as client:
        yield functools.partial(Snapshot, client, prefix)


@pytest.fixture
async def instances(valkey, prefix):
    """Three whose watches are still: they read only when they are asked."""
    stores = [store_on(valkey, prefix, timeout=30) for _ in range(3)]
    await stores[0].init()
    async with contextlib.AsyncExitStack() as stack:
        for item in stores:
            await stack.enter_async_context(opened(item, watched=False))
            await item.lookups.touch()
        yield [Instance(item) for item in stores]


@pytest.mark.parametrize("author", [True, False], ids=["its own", "another's"])
@pytest.mark.parametrize("write", [*WRITES, "import"])
async def test_writes_that_are_as_many_as_were_lost_hide_nothing(instances, keep, monkeypatch, write, author):
    first, other, third = instances
    writer = first if author else other
    await writer.prepare()
    snapshot = keep()
    await asyncio.gather(*(first.revocations.revoke_token(MAIN, jti, None) for jti in LOST))
    assert [await item.says(LOST[0]) for item in instances] == [False] * 3
    seq = await seq_at(first)
    released = writer.hold(monkeypatch)
    snapshot.restore()

    if write == "import":
        calls = [import_tokens(writer)]
    else:
        calls = [WRITES[write](writer, str(n)) for n in range(len(LOST))]
    writing = asyncio.gather(*calls)
    for _ in calls:
        await writer.answered.acquire()
    message = [await third.says(jti) for jti in LOST]
    released.set()
    await writing
    assert message == [False] * len(LOST)
    for item in instances:
        assert [await item.says(jti) for jti in LOST] == [False] * len(LOST)
    assert await seq_at(first) == seq, "what was made again is counted, once"


async def test_a_write_sent_again_is_compared_with_what_was_read_by_then(instances, keep, monkeypatch):
    """The first attempt is lost with its connection and with what others revoked meanwhile."""
    first, other, third = instances
    await other.revocations.revoke_token(MAIN, "0", None)
    snapshot = keep()
    execute, attempts = other.store.source.change_together, []

    async def broken(*command):
        attempts.append(command)
        if len(attempts) > 1:
            return await execute(*command)
        await first.revocations.revoke_token(MAIN, "1", None)
        assert [await item.says("1") for item in (other, third)] == [False, False]
        snapshot.restore()
        raise ConnectionLost

    monkeypatch.setattr(other.store.source, "change_together", broken)
    released = other.hold(monkeypatch)
    writing = asyncio.ensure_future(other.revocations.revoke_token(MAIN, "2", None))
    await other.answered.acquire()
    message = await third.says("1")
    released.set()
    await writing
    assert message is False
    assert [await third.says(jti) for jti in "012"] == [False] * 3
