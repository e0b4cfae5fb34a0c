"""The scripts, on a stand-in and on a real server alike."""

import asyncio
import hashlib
import random

import pytest
from redis.exceptions import ResponseError

from revoker.errors import InvalidRequest, StoreUnavailable
from revoker.models import Claims, Revocation, RevocationState, Verdict
from revoker.rules import FOREVER_MS, check_cutoffs, cutoff_lifetime_ms, jti_expiry_ms
from revoker.store import scripts
from revoker.store.keys import user_tag
from revoker.store.stored_values import parse_revocation, parse_user_state, revoked_keys
from tests.store.conftest import MAIN, OTHER, SLOW_MS

DAY = 86_400_000


async def user(changes, sub="alice", issuer=MAIN):
    text = await changes.client.get(changes.keys.user_of(issuer, sub))
    return None if text is None else parse_user_state(text)


async def expiry(changes, key):
    """When it expires; where the server can't say that (Redis 6.2), a little later."""
    try:
        return await changes.client.pexpiretime(key)
    except ResponseError:
        return await changes.client.pttl(key) + await changes.now()


def revoke_user(changes, sub="alice", *, before=None, except_sid=None, reason=""):
    return changes.revocations.revoke_user(MAIN, sub, before=before, except_sid=except_sid, reason=reason)


async def test_a_jti_is_listed_until_nothing_accepts_its_token(changes):
    now = await changes.now()
    at = await changes.revocations.revoke_token(MAIN, "1", now / 1000 + 300)
    key = changes.keys.jti(MAIN, "1")
    assert now <= at <= await changes.now()
    assert parse_revocation(await changes.client.get(key)) == Revocation(at)
    assert await expiry(changes, key) == pytest.approx(jti_expiry_ms(MAIN, now / 1000 + 300), abs=SLOW_MS)


async def test_a_jti_without_exp_is_stored_as_long_as_any_token_can_live(changes):
    await changes.revocations.revoke_token(MAIN, "1", None)
    longest = (MAIN.max_token_lifetime + MAIN.clock_skew + MAIN.leeway + 60) * 1000
    expected = await changes.now() + longest
    assert await expiry(changes, changes.keys.jti(MAIN, "1")) == pytest.approx(expected, abs=SLOW_MS)


@pytest.mark.parametrize("lives", [(600, 300), (300, 600)])
async def test_revoking_a_jti_again_keeps_its_time_and_only_lengthens_its_life(changes, lives):
    now = await changes.now()
    first = await changes.revocations.revoke_token(MAIN, "1", now / 1000 + lives[0])
    assert await changes.revocations.revoke_token(MAIN, "1", now / 1000 + lives[1]) == first
    expected = jti_expiry_ms(MAIN, now / 1000 + 600)
    assert await expiry(changes, changes.keys.jti(MAIN, "1")) == pytest.approx(expected, abs=SLOW_MS)


async def test_the_jti_of_a_token_that_is_long_dead_is_not_stored_but_counted(changes):
    await changes.revocations.revoke_token(MAIN, "1", 1000)
    assert await changes.client.get(changes.keys.jti(MAIN, "1")) is None
    assert await changes.client.get(changes.keys.seq) == b"1"


async def test_every_change_is_counted_for_all_and_for_this_process_even_a_repeated_one(changes):
    for _ in range(3):
        await changes.revocations.revoke_token(MAIN, "1", None)
    await revoke_user(changes)
    await changes.revocations.unblock_user(MAIN, "alice")
    assert await changes.client.mget(changes.keys.seq, changes.keys.share("me")) == [b"5", b"5"]
    assert await changes.client.pttl(changes.keys.share("me")) == pytest.approx(DAY, abs=SLOW_MS)


async def test_a_cutoff_is_stored_until_its_date_and_the_horizon_have_passed(changes):
    now = await changes.now()
    for before in (None, now - 3_600_000):
        at = await changes.revocations.revoke_client(OTHER, f"of {before}", before=before, reason="")
        key = changes.keys.client_cutoff(OTHER, f"of {before}")
        expected = at + cutoff_lifetime_ms(OTHER)
        if expected <= now:
            assert await changes.client.get(key) is None
        else:
            assert await expiry(changes, key) == pytest.approx(expected, abs=SLOW_MS)


async def test_a_cutoff_of_every_kind_only_moves_forward(changes):
    now = await changes.now()
    revocations, keys = changes.revocations, changes.keys
    for move, key in (
        (
            lambda at: revocations.revoke_session(MAIN, "s", before=at, reason="r"),
            keys.session_cutoff(MAIN, "s"),
        ),
        (
            lambda at: revocations.revoke_client(MAIN, "c", before=at, reason="r"),
            keys.client_cutoff(MAIN, "c"),
        ),
        (
            lambda at: revocations.revoke_claim(MAIN, "a:b", "c", before=at, reason="r"),
            keys.claim_cutoff(MAIN, "a:b", "c"),
        ),
        (lambda at: revocations.revoke_issuer(MAIN, before=at, reason="r"), keys.issuer_cutoff(MAIN)),
        (lambda at: revoke_user(changes, before=at), keys.user_of(MAIN, "alice")),
    ):
        assert await move(now - 500_000) == now - 500_000
        first = await expiry(changes, key)
        assert await move(now - 900_000) == now - 500_000
        assert await expiry(changes, key) == pytest.approx(first, abs=SLOW_MS)
        assert await move(now - 100_000) == now - 100_000
        assert await expiry(changes, key) == pytest.approx(first + 400_000, abs=SLOW_MS)
        assert await move(None) >= now
        if key != keys.user_of(MAIN, "alice"):
            assert parse_revocation(await changes.client.get(key)).reason == "r"


@pytest.mark.parametrize("ahead", [1000, 4900])
async def test_a_cutoff_a_little_ahead_is_taken_as_now(changes, ahead):
    before = await changes.now()
    assert before <= await revoke_user(changes, before=before + ahead) <= await changes.now()
    at = await changes.revocations.revoke_client(MAIN, "c", before=before + ahead, reason="")
    assert before <= at <= await changes.now()


async def test_a_cutoff_far_ahead_is_refused_and_changes_nothing(changes):
    ahead = await changes.now() + 60_000
    for call in (
        revoke_user(changes, before=ahead),
        changes.revocations.revoke_client(MAIN, "c", before=ahead, reason=""),
    ):
        with pytest.raises(InvalidRequest):
            await call
    assert await changes.client.mget(changes.keys.seq, changes.keys.client_cutoff(MAIN, "c")) == [None, None]


async def test_a_cutoff_made_now_is_never_before_what_is_in_effect(changes):
    in_effect = await changes.now() + 60_000
    key = changes.keys.user_of(MAIN, "alice")
    await changes.client.set(key, f'{{"hard":{in_effect},"last":{in_effect}}}', px=DAY)
    assert await revoke_user(changes) == in_effect
    await changes.client.set(changes.keys.client_cutoff(MAIN, "c"), str(in_effect), px=DAY)
    assert await changes.revocations.revoke_client(MAIN, "c", before=None, reason="") == in_effect


@pytest.mark.parametrize("seed", range(30))
async def test_excepted_sessions_are_the_sum_of_all_calls_ever_made(changes, seed):
    """A token of a session is covered by the latest of the calls that did not except it."""
    dice = random.Random(seed)
    base = await changes.now() - 100_000
    calls = []
    for _ in range(dice.randint(1, 9)):
        at, spared = base + dice.randint(0, 6) * 1000, dice.choice([None, "a", "b", "c"])
        in_effect = await revoke_user(changes, before=at, except_sid=spared)
        calls.append((at, spared))
        assert in_effect == max(at for at, _ in calls)
        state = RevocationState(user=await user(changes))
        for sid in ("a", "b", "c", "none"):
            covering = max((at for at, spared in calls if spared != sid), default=None)
            for login in range(base - 1000, base + 8000, 1000):
                claims = Claims(sub="alice", sid=sid, iat=login / 1000 + MAIN.clock_skew)
                verdict = check_cutoffs(claims, MAIN, state, base, None)
                expected = covering is not None and login <= covering
                assert (verdict is Verdict.USER_CUTOFF) is expected, (calls, sid, login)


async def test_a_block_never_gets_shorter_and_ends_when_it_is_lifted(changes):
    now = await changes.now()

    def block(until):
        return changes.revocations.block_user(MAIN, "alice", until=until, reason="why")

    tag = user_tag(MAIN.iss, "alice")
    assert await block(now + 60_000) == now + 60_000
    assert await block(now + 30_000) == now + 60_000
    assert await block(None) == FOREVER_MS
    assert await block(now + 30_000) == FOREVER_MS
    assert (await user(changes)).blocked == FOREVER_MS
    assert (await user(changes)).block_reason == "why"
    assert await changes.client.hgetall(changes.keys.blocks) == {tag.encode(): b"%d" % FOREVER_MS}
    assert changes.revocations.remembered.blocks == {tag: FOREVER_MS}
    assert await changes.revocations.unblock_user(MAIN, "alice") == FOREVER_MS
    assert await user(changes) is None
    assert await changes.client.hgetall(changes.keys.blocks) == {}
    assert changes.revocations.remembered.blocks == {}
    assert await changes.revocations.unblock_user(MAIN, "alice") == 0


@pytest.mark.parametrize("late_ms", [0, 1, 500])
async def test_lifting_a_block_leaves_the_cutoff_and_its_life(changes, monkeypatch, late_ms):
    """Within a script some servers' ``TIME`` goes on, and the lives of keys do not."""
    text = scripts.TEXTS["unblock_user"].replace(b"return t[1]", b"return %d + t[1]" % late_ms)
    monkeypatch.setitem(scripts.TEXTS, "unblock_user", text)
    monkeypatch.setitem(scripts.DIGESTS, "unblock_user", hashlib.sha1(text).hexdigest())
    at = await revoke_user(changes)
    await changes.revocations.block_user(MAIN, "alice", until=None, reason="")
    await changes.revocations.unblock_user(MAIN, "alice")
    assert (await user(changes)).hard == at
    entries = at + cutoff_lifetime_ms(MAIN)
    assert await expiry(changes, changes.keys.user_of(MAIN, "alice")) == pytest.approx(entries, abs=SLOW_MS)


async def test_a_block_outlives_a_shorter_cutoff_and_the_other_way_round(changes):
    now = await changes.now()
    await changes.revocations.block_user(MAIN, "alice", until=now + 10 * DAY, reason="")
    await revoke_user(changes)
    key = changes.keys.user_of(MAIN, "alice")
    assert await expiry(changes, key) >= now + 10 * DAY
    await changes.revocations.block_user(MAIN, "bob", until=now + 1000, reason="")
    await revoke_user(changes, "bob")
    assert await expiry(changes, changes.keys.user_of(MAIN, "bob")) >= now + cutoff_lifetime_ms(MAIN)


async def test_lifting_a_cutoff_leaves_the_block(changes):
    await changes.revocations.block_user(MAIN, "alice", until=None, reason="")
    at = await revoke_user(changes, except_sid="s")
    assert await changes.revocations.lift_user(MAIN, "alice") == at
    left = await user(changes)
    assert (left.hard, left.soft, left.sid, left.blocked) == (0, 0, "", FOREVER_MS)
    assert await changes.revocations.lift_user(MAIN, "alice") == 0


async def test_lifting_the_cutoff_of_a_client_takes_it_away(changes):
    key = changes.keys.client_cutoff(MAIN, "c")
    at = await changes.revocations.revoke_client(MAIN, "c", before=None, reason="why it was")
    assert await changes.revocations.lift(key) == at
    assert await changes.client.get(key) is None
    assert await changes.revocations.lift(key) == 0


async def test_a_key_is_revoked_once_and_for_good_until_it_is_forgotten(changes):
    first = await changes.revocations.revoke_key(MAIN, "k", reason="stolen")
    assert await changes.revocations.revoke_key(MAIN, "k", reason="again") == first
    await changes.revocations.revoke_key(MAIN, "1", reason="")
    key = changes.keys.revoked_keys(MAIN)
    assert revoked_keys(await changes.client.get(key))["k"] == Revocation(first, "stolen")
    assert set(changes.revocations.remembered.keys["main"]) == {"k", "1"}
    assert await changes.revocations.forget_key(MAIN, "k")
    assert not await changes.revocations.forget_key(MAIN, "k")
    assert set(revoked_keys(await changes.client.get(key))) == {"1"}
    assert await changes.revocations.forget_key(MAIN, "1")
    assert await changes.client.get(key) is None


async def test_what_is_remembered_is_written_back_whole(changes):
    await changes.revocations.block_user(MAIN, "alice", until=None, reason="")
    at = await changes.revocations.revoke_key(OTHER, "k", reason="stolen")
    for key in (changes.keys.user_of(MAIN, "alice"), changes.keys.blocks, changes.keys.revoked_keys(OTHER)):
        await changes.client.delete(key)
    await changes.refill.write_back(0)
    assert (await user(changes)).blocked == FOREVER_MS
    assert await changes.client.hlen(changes.keys.blocks) == 1
    found = revoked_keys(await changes.client.get(changes.keys.revoked_keys(OTHER)))
    assert found == {"k": Revocation(at, "stolen")}


async def test_a_record_that_cannot_be_read_stops_the_change(store, valkey):
    """On a real server alone: the stand-in's cjson fails in a way of its own."""
    with valkey.client() as client:
        client.set(store.keys.user_of(MAIN, "alice"), "no JSON", px=DAY)
        with pytest.raises(StoreUnavailable):
            await store.revocations.revoke_user(MAIN, "alice", before=None, except_sid=None, reason="")
        assert client.get(store.keys.seq) is None


async def test_a_hundred_calls_at_once_equal_their_sum(store):
    """On a real server, where they do come at once."""
    base = int(store.clocks.now() * 1000) - 100_000
    calls = [(base + place, ("a", "b", None)[place % 3]) for place in range(100)]
    random.Random(1).shuffle(calls)
    await asyncio.gather(
        *(
            store.revocations.revoke_user(MAIN, "alice", before=at, except_sid=spared, reason="")
            for at, spared in calls
        )
    )
    found = await store.lookups.find(store.keys.of_token(Claims(sub="alice", jti="1"), MAIN))
    for sid in ("a", "b", "c"):
        covering = max(at for at, spared in calls if spared != sid)
        for login, expected in ((covering, Verdict.USER_CUTOFF), (covering + 1, Verdict.ACTIVE)):
            claims = Claims(sub="alice", sid=sid, iat=login / 1000 + MAIN.clock_skew)
            assert check_cutoffs(claims, MAIN, found.state, base, None) is expected
    assert store.source.data_set.watermark.share == 100


async def test_requests_that_take_something_back_are_noted_separately_for_a_minute(changes):
    revocations, client = changes.revocations, changes.client
    for sub in ("ann", "bob"):
        await revocations.unblock_user(MAIN, sub)
    await revocations.forget_key(MAIN, "some-key")
    lifted = changes.keys.lifted
    assert await client.exists(lifted) == 0  # every process reads all of it once a second
    noted = [key async for key in client.scan_iter(f"{lifted}:*")]
    assert len(noted) == 3
    assert all([0 < await client.pttl(key) <= 60_000 for key in noted])


async def test_what_was_lifted_is_noted_for_an_hour(changes):
    await changes.revocations.revoke_user(MAIN, "ann", before=None, except_sid=None, reason="")
    lifted, now = changes.keys.lifted, await changes.now()
    await changes.client.zadd(lifted, {"1 long ago": now - 3_600_001})
    await changes.revocations.lift_user(MAIN, "ann")
    assert await changes.client.zcard(lifted) == 1
    assert 3_600_000 - SLOW_MS < await changes.client.pttl(lifted) <= 3_600_000
