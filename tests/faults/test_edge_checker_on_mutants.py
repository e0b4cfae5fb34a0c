"""The checker finds edges and feeds that are broken on purpose, and nothing where nothing is broken.

Edge and service are in this process, and everything happens at a chosen moment, so every mutant is found
every time. In campaigns (``python -m tests.faults --edges 2 --mutant …``) they are found by chance.
"""

import asyncio
import contextlib
import time
import uuid

import pytest

from revoker.errors import StoreRefused
from revoker.store.journal.snapshot import Snapshot
from tests.edge.conftest import callers
from tests.faults.campaign import port_of
from tests.faults.clients import LIFETIME_S, claims
from tests.faults.edge_clients import AS_OF
from tests.faults.edge_history import Blocked, EdgeAnswer, StoreClock, Unblocked, check_edges
from tests.faults.edge_mutants import MUTANTS
from tests.faults.history import Revoked, Token
from tests.rig import forge
from tests.rig.edge import begin, edge_settings
from tests.rig.relay import Relay
from tests.rig.service import HANGS_S, until_ready

MAX_STALENESS_S = 2.0


class Watched:
    """A service, an edge of it, and the history of what both have answered."""

    def __init__(self, service):
        self.service = service
        self.edge = None
        self.history, self.edges = [], []
        self._tokens = 0
        self.compare_clocks()

    def compare_clocks(self):
        now = time.monotonic()
        self.edges.append(StoreClock(now, time.time() - now))

    def token(self):
        self._tokens += 1
        names = [f"{name}-{self._tokens}" for name in ("jti", "user", "sid", "client")]
        return Token(*names, time.time() - 60, time.time() + LIFETIME_S)

    async def revoke(self, token, service=None):
        start = time.monotonic()
        answer = await (service or self.service).post("/revoke", {"iss": forge.ISSUER, "jti": token.jti})
        assert answer.status == 200, answer.body
        self.history.append(Revoked(start, time.monotonic(), "a", "jti", token.jti, 200))

    async def change_block(self, path, token, kind):
        start = time.monotonic()
        answer = await self.service.post(path, {"iss": forge.ISSUER, "sub": token.sub})
        assert answer.status == 200, answer.body
        self.edges.append(kind(start, time.monotonic(), token.sub, 200))

    async def ask(self, token):
        start = time.monotonic()
        answer = await self.edge.post("/introspect", claims(token), caller="gateway")
        as_of = answer.headers.get(AS_OF)
        record = EdgeAnswer(
            start,
            time.monotonic(),
            "edge",
            token,
            answer.status,
            answer.json.get("active"),
            int(as_of) if as_of else None,
        )
        self.edges.append(record)
        return record

    def rules(self):
        """Those that were broken until now."""
        self.compare_clocks()
        found = check_edges(self.history, self.edges, max_staleness=MAX_STALENESS_S)
        return {violation.rule for violation in found}

    async def ask_until(self, token, enough, rule=None):
        """Ask for a token until this rule was broken; or, without one, until an answer is enough."""
        deadline = time.monotonic() + HANGS_S
        while True:
            answer = await self.ask(token)
            rules = self.rules()
            if rule in rules:
                return
            assert rule is not None or not rules, answer
            if rule is None and enough(answer):
                return
            assert time.monotonic() < deadline, answer
            await asyncio.sleep(0.02)


@pytest.fixture
def prefix():
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def watched(start, valkey, prefix):
    return Watched(await start(valkey, callers=callers(), prefix=prefix))


@pytest.fixture
async def follow(tmp_path, watched):
    """Starts the edge of a service at a port."""
    async with contextlib.AsyncExitStack() as stack:

        async def start_edge(port, *, ready=True):
            url = f"http://127.0.0.1:{port}"
            edge = await begin(edge_settings(tmp_path, url, upstream={"max_staleness": MAX_STALENESS_S}))
            stack.push_async_callback(edge.close)
            watched.edge = edge
            if ready:
                await until_ready(edge)

        yield start_edge


@pytest.fixture(params=[True, False], ids=["broken", "right"])
def broken(request):
    return request.param


@pytest.fixture
def break_as(monkeypatch, broken):
    """Applies a mutant where something is to be broken; then returns the rule that must be found broken."""

    def apply(mutant, rule):
        if broken:
            MUTANTS[mutant](monkeypatch.setattr)
        return rule if broken else None

    return apply


async def until_active(watched, token):
    await watched.ask_until(token, lambda answer: answer.active)


@pytest.fixture
async def store(valkey):
    """A relay to it."""
    relay = Relay(valkey.port)
    await relay.listener.open()
    yield relay
    await relay.listener.close()


@pytest.fixture
async def behind_relay(start, valkey, prefix, store, watched):  # the data set exists
    """Another instance of the service, which reaches the store through the relay."""
    url = f"redis://127.0.0.1:{store.listener.port}/0"
    return await start(valkey, callers=callers(), prefix=prefix, new=False, redis={"url": url})


async def test_fresh_by_a_timer(store, behind_relay, follow, watched, break_as):
    """The instance that the edge follows does not reach the store, at which another one revokes."""
    expected = break_as("fresh-by-timer", "revoked, and active as of later")
    await follow(port_of(behind_relay.url))
    token = watched.token()
    await until_active(watched, token)
    await store.break_as("held back")
    await watched.revoke(token)
    await watched.ask_until(token, lambda answer: answer.status == 503, expected)
    await store.repair()


async def test_a_cursor_that_is_read_after_the_snapshot(monkeypatch, watched, follow, break_as):
    """Something is revoked when everything has been read."""
    reached, released = asyncio.Event(), asyncio.Event()
    steps = Snapshot.steps

    async def wait_at_the_end(self, tail):
        async for lines in steps(self, tail):
            yield lines
        reached.set()
        await released.wait()

    monkeypatch.setattr(Snapshot, "steps", wait_at_the_end)
    expected = break_as("cursor-after-snapshot", "revoked, and active as of later")
    token = watched.token()
    await follow(port_of(watched.service.url), ready=False)
    await reached.wait()
    await watched.revoke(token)
    released.set()
    await until_ready(watched.edge)
    await watched.ask_until(token, lambda answer: answer.active is False, expected)


async def test_removals_that_are_dropped(watched, follow, break_as):
    expected = break_as("drops-removals", "unblocked, and not active as of later")
    await follow(port_of(watched.service.url))
    token = watched.token()
    await until_active(watched, token)
    await watched.change_block("/block-user", token, Blocked)
    await watched.ask_until(token, lambda answer: answer.active is False)
    await watched.change_block("/unblock-user", token, Unblocked)
    await watched.ask_until(token, lambda answer: answer.active, expected)


async def test_a_snapshot_that_breaks_off(monkeypatch, watched, follow, break_as):
    """The service gives up the first snapshot after a part of it."""
    steps, given_up = Snapshot.steps, []

    async def give_up_once(self, tail):
        async with contextlib.aclosing(steps(self, tail)) as parts:
            yield await anext(parts)
            if not given_up:
                given_up.append(True)
                raise StoreRefused("a server of the store was replaced")
            async for lines in parts:
                yield lines

    monkeypatch.setattr(Snapshot, "steps", give_up_once)
    expected = break_as("accepts-half-snapshots", "revoked, and active as of later")
    token = watched.token()
    await watched.revoke(token)
    await follow(port_of(watched.service.url))
    assert given_up
    await watched.ask_until(token, lambda answer: answer.active is False, expected)


async def test_staleness_by_the_edges_own_clock(watched, follow, break_as):
    """Everything that the service sends is under way for longer than the edge may be behind."""
    expected = break_as("trusts-own-clock", "older than max_staleness")
    network = Relay(port_of(watched.service.url))
    await network.listener.open()
    try:
        await follow(network.listener.port)
        token = watched.token()
        await until_active(watched, token)
        network.delay, late = MAX_STALENESS_S + 0.2, int(time.time() * 1000)
        await watched.ask_until(token, lambda answer: (answer.as_of or 0) > late, expected)
    finally:
        await watched.edge.close()
        await network.listener.close()
