"""``GET /revocations`` is read in small steps with pauses, so that it slows nothing else."""

import asyncio
import time

import pytest

from revoker.store import listed, listing, pace
from tests.rig import forge
from tests.rig.administration import everything, name_of, page, until_at_rest
from tests.rig.service import HANGS_S

TOKENS = 130
JOURNALED = 70
END = b"the end of the list"


@pytest.fixture
def valkey(own_valkey):
    """A server without keys of other tests: SCAN gives a key twice where the table changes its size."""
    return own_valkey


@pytest.fixture
async def filled(revoker, valkey):
    """A service with revoked tokens, of which the journal has the last."""
    prefix = revoker.service.store.keys.prefix
    with valkey.client() as client, client.pipeline(transaction=False) as pipeline:
        for number in range(TOKENS - JOURNALED):
            pipeline.set(f"{prefix}:jti:main:old{number}", int(time.time() * 1000), px=10**7)
        pipeline.execute()
    for number in range(JOURNALED):
        answer = await revoker.post("/revoke", {"iss": forge.ISSUER, "jti": f"new{number}"})
        assert answer.status == 200
    until_at_rest(valkey)
    return revoker


class Steps:
    """What the store is sent for lists, in order."""

    def __init__(self, valkey, prefix):
        self._client = valkey.client()
        self._monitor = self._client.monitor()
        self._prefix = prefix
        self._sent = []

    def __enter__(self):
        self._monitor.__enter__()
        return self

    def __exit__(self, *failure):
        self._monitor.__exit__(*failure)
        self._client.close()

    def read(self, valkey):
        """Every ``SCAN``, every read of the journal, and every ``MGET`` of values, with their times."""
        with valkey.client() as client:
            client.echo(END)
        while True:
            seen = self._monitor.next_command()
            words = seen["command"].split()
            if words[0].upper() == "ECHO":
                return self._sent
            name = words[0].upper()
            counts = name in {"SCAN", "XREVRANGE"} and int(words[-1]) > 1
            if counts or (name == "MGET" and f"{self._prefix}:jti:" in words[1]):
                self._sent.append((name, seen["time"], words[1:]))


@pytest.fixture
def steps(filled, valkey):
    with Steps(valkey, filled.service.store.keys.prefix) as watched:
        yield watched


async def test_no_step_reads_much(filled, steps, valkey):
    assert len(await everything(filled, limit=100)) == TOKENS
    sent = steps.read(valkey)
    read = [(len(words), words) for name, _, words in sent if name == "MGET"]
    assert sum(count for count, _ in read) >= 2 * TOKENS  # of each its value, and who made it
    assert max(count for count, _ in read) <= 2 * listing._READ_KEYS
    counts = [int(words[-1]) for name, _, words in sent if name != "MGET"]
    assert max(counts) <= max(listing._STEP_ENTRIES, listing._STEP_KEYS)


async def test_all_lists_together_take_one_step_and_then_pause(filled, steps, valkey, monkeypatch):
    pause = 0.02
    monkeypatch.setattr(pace, "PAUSE_S", pause)
    monkeypatch.setattr(pace, "PIECE_S", 0)  # each step ends one
    monkeypatch.setattr(listing, "PAGE_S", 0)
    first, *others = await asyncio.gather(*(page(filled) for _ in range(3)))
    assert first["revocations"]
    for other in others:
        assert list(map(name_of, other["revocations"])) == list(map(name_of, first["revocations"]))
    times = [at for _, at, _ in steps.read(valkey)]
    assert len(times) >= 6
    # a busy machine delays each of them: only the sum of the pauses is certain, and not to the last
    assert max(times) - min(times) > pause * (len(times) - 1) / 2


async def test_a_page_ends_at_what_it_has_no_room_for(filled, steps, valkey):
    for path, body in {
        "/block-user": {"sub": "ann"},
        "/revoke-user": {"sub": "ann"},
        "/revoke": {"jti": "last"},
    }.items():
        assert (await filled.post(path, {"iss": forge.ISSUER, **body})).status == 200
    steps.read(valkey).clear()
    first = await page(filled, limit=2)
    assert [item["jti"] for item in first["revocations"]] == ["last"]
    assert [name for name, _, _ in steps.read(valkey)].count("XREVRANGE") == 1
    following = await page(filled, first["next"], limit=2)
    assert {item["kind"] for item in following["revocations"]} == {"user", "block"}


async def test_a_page_without_time_has_one_step_and_the_next_page_goes_on(filled, monkeypatch):
    monkeypatch.setattr(listing, "PAGE_S", 0)
    first = await page(filled, limit=100)
    assert len(first["revocations"]) == listing._READ_KEYS
    found = await everything(filled, limit=100)
    assert len(found) == len({name_of(item) for item in found}) == TOKENS
    newest = [f"new{number}" for number in range(JOURNALED - 1, -1, -1)]
    assert [item["jti"] for item in found[:JOURNALED]] == newest


async def test_a_page_that_has_looked_at_many_keys_of_others_ends_and_the_next_goes_on(
    filled, valkey, monkeypatch
):
    monkeypatch.setattr(listing, "PAGE_KEYS", 100)
    with valkey.client() as client, client.pipeline(transaction=False) as pipeline:
        for number in range(2_000):
            pipeline.set(f"others:{number}", 1, ex=600)
        pipeline.execute()
    until_at_rest(valkey)
    sizes, cursor = [], None
    while cursor or not sizes:
        answer = await page(filled, cursor, limit=100)
        sizes.append(len(answer["revocations"]))
        cursor = answer["next"]
    assert sum(sizes) == TOKENS
    assert len(sizes) >= 8


async def test_a_list_that_is_given_up_holds_up_no_other(filled, monkeypatch):
    monkeypatch.setattr(pace, "PAUSE_S", 0)
    monkeypatch.setattr(pace, "PIECE_S", 0)
    lists, whole = listing.Listing(filled.service.store), listed.Selection(None, None, None)
    done, turns = False, 0
    while not done:
        given_up = asyncio.ensure_future(lists.page(whole, limit=100, cursor=None))
        for _ in range(turns):
            await asyncio.sleep(0)
        turns, done = turns + 1, given_up.done()
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
    async with asyncio.timeout(HANGS_S):
        assert (await lists.page(whole, limit=100, cursor=None)).listed
