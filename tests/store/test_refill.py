"""What was acknowledged is put back as it was: no weaker, no later, and gone when it was to go."""

import random

import fakeredis
import pytest
import structlog
from prometheus_client import CollectorRegistry

from revoker.errors import NoVerdict
from revoker.metrics import Metrics
from revoker.models import Claims, Issuer, Revocation
from revoker.rules import cutoff_lifetime_ms
from revoker.store.consistency.acknowledged import Acknowledged, Written
from revoker.store.keys import Keys, user_tag
from revoker.store.sessions import Lifetimes
from revoker.store.stored_values import parse_revocation, parse_user_state, revoked_keys
from tests.store.conftest import MAIN, OTHER, SLOW_MS, opened, store_on

SUBS = ("alice", "bob", "Zoë")
SIDS = ("a", "b", None)


def cutoffs(state):
    """What a user's record means: the cutoff for each session, and for all others."""
    return {sid: state.hard if sid == state.sid else max(state.hard, state.soft) for sid in SIDS}


async def states(changes):
    """All that stands, by key, with the time at which it goes."""
    found = {}
    now = await changes.now()
    async for key in changes.client.scan_iter(f"{changes.keys.epoch.split(':')[0]}:*"):
        name = key.decode().split(":", 1)[1]
        if name.startswith(("seq", "writers", "refills", "lifted", "blocks")):
            continue
        text, left = await changes.client.get(key), await changes.client.pttl(key)
        if name.endswith(":user"):
            message = parse_user_state(text)
            value = cutoffs(message), message.blocked
        else:
            value = revoked_keys(text) if name.startswith("keys") else parse_revocation(text)
        found[name] = value, (None if left == -1 else now + left)
    return found


async def revoke_at_random(changes, dice, now):
    revocations = changes.revocations
    before = dice.choice([None, *(now - dice.randint(0, 400_000) for _ in range(3))])
    reason, issuer = dice.choice(["", "stolen laptop"]), dice.choice([MAIN, OTHER])
    match dice.randint(0, 7):
        case 0:
            exp = dice.choice([None, now / 1000 + dice.randint(-400, 300)])
            await revocations.revoke_token(issuer, str(dice.randint(0, 5)), exp)
        case 1 | 2:
            sub, sid = dice.choice(SUBS), dice.choice(SIDS)
            await revocations.revoke_user(issuer, sub, before=before, except_sid=sid, reason=reason)
        case 3:
            await revocations.revoke_session(issuer, dice.choice("xy"), before=before, reason=reason)
        case 4:
            await revocations.revoke_client(issuer, dice.choice("xy"), before=before, reason=reason)
        case 5:
            await revocations.revoke_issuer(issuer, before=before, reason=reason)
        case 6:
            await revocations.revoke_claim(issuer, "a:b", dice.choice("xy"), before=before, reason=reason)
        case 7:
            await revocations.block_user(issuer, dice.choice(SUBS), until=now + 100_000, reason="")


async def lose(changes):
    keys = [key async for key in changes.client.scan_iter(f"{changes.keys.epoch.split(':')[0]}:*")]
    await changes.client.delete(*keys)


@pytest.mark.parametrize("seed", range(10))
async def test_all_that_one_process_wrote_is_in_effect_again_as_it_was(changes, seed):
    dice, now = random.Random(seed), await changes.now()
    await changes.revocations.revoke_key(MAIN, "stolen", reason="leaked")
    for _ in range(dice.randint(1, 40)):
        await revoke_at_random(changes, dice, now)
    stood = await states(changes)
    await lose(changes)
    for _ in range(2):
        assert await changes.refill.write_back(0) is not None
        in_effect = await states(changes)
        assert {key: value for key, (value, _) in in_effect.items()} == {
            key: value for key, (value, _) in stood.items()
        }
        for key, (value, till) in stood.items():
            blocked = isinstance(value, tuple) and value[1]
            if blocked:  # whose user is not known any more: kept as for the most patient issuer
                assert in_effect[key][1] > till - SLOW_MS
            else:
                assert in_effect[key][1] == (till and pytest.approx(till, abs=SLOW_MS)), key


@pytest.mark.parametrize("seed", range(10))
async def test_what_was_lost_of_it_is_in_effect_again_as_it_was(changes, seed):
    dice, now = random.Random(seed), await changes.now()
    for _ in range(40):
        await revoke_at_random(changes, dice, now)
    stood = await states(changes)
    lost = [name for name in sorted(stood) if dice.random() < 0.5]
    prefix = changes.keys.epoch.split(":")[0]
    await changes.client.delete(*(f"{prefix}:{name}" for name in lost))
    await changes.refill.write_back(0)
    in_effect = await states(changes)
    assert {key: value for key, (value, _) in in_effect.items()} == {
        key: value for key, (value, _) in stood.items()
    }


def restored(changes):
    return changes.metrics.registry.get_sample_value("revoker_refilled_revocations_total")


async def test_only_what_the_store_lacks_is_written(changes):
    revocations, keys = changes.revocations, changes.keys
    for number in range(600):
        await revocations.revoke_token(MAIN, str(number), None)
    await revocations.revoke_client(MAIN, "web", before=None, reason="")
    await revocations.revoke_user(MAIN, "alice", before=None, except_sid="a", reason="")
    await changes.refill.write_back(0)
    assert restored(changes) == 0
    await changes.client.delete(keys.jti(MAIN, "3"), keys.jti(MAIN, "599"), keys.user_of(MAIN, "alice"))
    in_effect = await changes.refill.write_back(0)
    assert restored(changes) == 3
    assert await in_effect(True) is not None
    assert (
        await changes.client.exists(keys.jti(MAIN, "3"), keys.jti(MAIN, "599"), keys.user_of(MAIN, "alice"))
        == 3
    )


EARLIER, LATER = "{now:.0f}", '{{"hard":{now:.0f}}}'
"""Values of keys, with a time."""


@pytest.mark.parametrize(
    ("own", "value", "seconds", "outcome"),
    [
        ("client", EARLIER, -5, "written"),
        ("client", EARLIER + " lost phone", -5, "written"),
        ("client", EARLIER + " lost phone", 5, "held"),
        ("client", LATER, 5, "written"),
        ("client", "no number", 0, "written"),
        ("token", EARLIER, -5, "held"),
        ("token", LATER, 5, "written"),
        ("user", LATER, 5, "held"),
        ("user", LATER, -5, "written"),
        ("user", '{{"soft":{now:.0f},"sid":"s"}}', 5, "written"),
        ("user", EARLIER, 5, "refused"),
        ("user", "no number", 0, "refused"),
        ("user but a session", LATER, 5, "held"),
        ("user but a session", '{{"soft":{now:.0f},"sid":"s"}}', 5, "held"),
        ("user but a session", '{{"soft":{now:.0f},"sid":"other"}}', 5, "written"),
        ("user but a session", '{{"soft":{now:.0f},"sid":"s"}}', -5, "written"),
    ],
)
async def test_what_is_stored_is_believed_only_if_it_says_no_less(changes, own, value, seconds, outcome):
    revocations, keys, now = changes.revocations, changes.keys, await changes.now()
    match own:
        case "client":
            await revocations.revoke_client(MAIN, "web", before=None, reason="")
            key = keys.client_cutoff(MAIN, "web")
        case "token":
            await revocations.revoke_token(MAIN, "1", None)
            key = keys.jti(MAIN, "1")
        case _:
            sid = "s" if own.endswith("session") else None
            await revocations.revoke_user(MAIN, "alice", before=None, except_sid=sid, reason="")
            key = keys.user_of(MAIN, "alice")
    left = await changes.client.pttl(key)
    await changes.client.set(key, value.format(now=now + seconds * 1000), px=left + 10_000)
    if outcome == "refused":  # no script writes beside what can't be read, and no lookup is answered
        fake = isinstance(changes.client, fakeredis.FakeAsyncRedis)  # it raises what its parser raises
        with pytest.raises(Exception if fake else NoVerdict):
            await changes.refill.write_back(0)
    else:
        assert await changes.refill.write_back(0) is not None
        assert restored(changes) == (outcome == "written")


async def test_what_would_expire_too_early_is_written_again(changes):
    await changes.revocations.revoke_token(MAIN, "1", None)
    key = changes.keys.jti(MAIN, "1")
    left = await changes.client.pttl(key)
    await changes.client.pexpire(key, left // 2)
    await changes.refill.write_back(0)
    assert await changes.client.pttl(key) == pytest.approx(left, abs=SLOW_MS)
    assert restored(changes) == 1


async def test_what_was_looked_for_in_another_data_set_proves_nothing(changes):
    await changes.revocations.revoke_token(MAIN, "1", None)
    in_effect = await changes.refill.write_back(0)
    [(process, mark)] = (await changes.client.hgetall(changes.keys.refills)).items()
    refill, done, at = mark.split()
    assert done == b"1", "looking is marked as a write"
    await changes.client.hset(changes.keys.refills, process, b"%b 0 %b" % (refill, at))
    assert await in_effect(True) is None


async def test_what_is_in_effect_already_is_not_weakened(changes):
    now, revocations = await changes.now(), changes.revocations
    for at in (now - 50_000, None):
        await revocations.revoke_client(MAIN, "web", before=at, reason="")
        await revocations.revoke_user(MAIN, "alice", before=at, except_sid="a", reason="")
    await lose(changes)
    later = now + 1000
    client, user = changes.keys.client_cutoff(MAIN, "web"), changes.keys.user_of(MAIN, "alice")
    await changes.client.set(client, f"{later + 60_000} later", px=10_000_000)
    await changes.client.set(user, f'{{"hard":{later},"last":{later}}}', px=10_000_000)
    await changes.refill.write_back(0)
    assert parse_revocation(await changes.client.get(client)).at == later + 60_000
    assert cutoffs(parse_user_state(await changes.client.get(user)))["a"] == later


async def test_a_store_whose_clock_is_behind_gets_the_times_that_were_acknowledged(changes):
    ahead = await changes.now() + 60_000
    note = changes.revocations.acknowledged.note
    user = changes.keys.user_of(MAIN, "alice")
    keep = cutoff_lifetime_ms(MAIN)
    note(Written("revoke_user", (user, user[:-4] + "sessions"), ahead, ahead + keep))
    note(Written("move_cutoff", (changes.keys.issuer_cutoff(MAIN),), ahead, ahead + keep, "all"))
    await changes.refill.write_back(0)
    assert parse_user_state(await changes.client.get(user)).hard == ahead
    assert parse_revocation(await changes.client.get(changes.keys.issuer_cutoff(MAIN))) == Revocation(
        ahead, "all"
    )


def test_of_several_data_sets_every_one_gets_its_own():
    remembered = Acknowledged(Metrics(CollectorRegistry()), int, now=int, limit=3)
    for key in ("1", "2", "1", "3", "4"):
        remembered.note(written(key))
    assert {part: [item.keys[0] for item in remembered.entries(part)] for part in range(5)} == {
        0: [], 1: ["1"], 2: [], 3: ["3"], 4: ["4"],
    }  # fmt: skip


async def test_a_mark_says_whether_all_went_into_one_data_set(changes):
    await changes.revocations.revoke_token(MAIN, "1", None)
    in_effect = await changes.refill.write_back(0)
    assert await changes.refill.refilling(0) == 1
    printed = await in_effect(True)
    assert (printed.seq, printed.share, printed.epoch) == (1, 1, b""), "what is put back is not counted"
    assert await changes.refill.refilling(0) == 0
    in_effect = await changes.refill.write_back(0)
    await lose(changes)
    assert await in_effect(True) is None


async def test_a_mark_of_fewer_writes_is_of_another_data_set(changes):
    await changes.revocations.revoke_token(MAIN, "1", None)
    in_effect = await changes.refill.write_back(0)
    [(process, mark)] = (await changes.client.hgetall(changes.keys.refills)).items()
    refill, _, at = mark.split()
    await changes.client.hset(changes.keys.refills, process, b"%b 0 %b" % (refill, at))
    assert await in_effect(True) is None


@pytest.mark.parametrize("call", [1, 2])
async def test_what_was_not_completed_is_never_verified(changes, monkeypatch, call):
    """A mark that was gone for a moment may be there again: the server has changed twice."""
    for number in range(300):
        await changes.revocations.revoke_token(MAIN, str(number), None)
    await lose(changes)
    together, calls = changes.scripts.execute_together, []

    async def without_mark(batch):
        calls.append(len(batch))
        if len(calls) != call:
            return await together(batch)
        marks = await changes.client.hgetall(changes.keys.refills)
        await changes.client.delete(changes.keys.refills)
        replies = await together(batch)
        await changes.client.hset(changes.keys.refills, mapping=marks)
        await changes.client.expire(changes.keys.refills, 100)
        return replies

    monkeypatch.setattr(changes.scripts, "execute_together", without_mark)
    in_effect = await changes.refill.write_back(0)
    assert calls == [2, 257][:call]
    assert await in_effect(True) is None


async def test_nothing_is_looked_for_where_a_mark_is_of_fewer_writes(changes):
    keys, now = changes.keys, await changes.now()
    entry = (0, now + 60_000, "")
    for marked, found in ((0, [1, 1]), (1, [1, 1]), (3, [0]), (2, [1, 1])):
        if not marked:
            await changes.scripts.execute("refill", [keys.refills], ("begin", "me", "id", 0, 0))
        asked = [keys.refills, keys.jti(MAIN, "1")]
        assert await changes.scripts.execute("find_absent", asked, ("me", "id", marked, *entry)) == found
    assert await changes.scripts.execute("find_absent", asked, ("me", "other", 0, *entry)) == [0]


async def test_a_mark_that_was_left_behind_counts_no_more_after_half_a_minute(changes):
    now = await changes.now()
    await changes.client.hset(changes.keys.refills, "gone", f"id {now - 30_001}")
    await changes.client.hset(changes.keys.refills, "working", f"id {now - 20_000}")
    await changes.client.expire(changes.keys.refills, 100)
    assert await changes.refill.refilling(0) == 1


async def test_what_was_lifted_here_is_not_put_back(changes):
    revocations = changes.revocations
    await revocations.revoke_client(MAIN, "web", before=None, reason="")
    for sid in SIDS:
        await revocations.revoke_user(MAIN, "alice", before=None, except_sid=sid, reason="")
    await revocations.revoke_user(MAIN, "bob", before=None, except_sid=None, reason="")
    await revocations.lift(changes.keys.client_cutoff(MAIN, "web"))
    await revocations.lift_user(MAIN, "alice")
    await lose(changes)
    await changes.refill.write_back(0)
    assert set(await states(changes)) == {f"{{{user_tag(MAIN.iss, 'bob')}}}:user"}


async def test_every_process_hears_of_a_lift_and_of_what_was_revoked_since(store, valkey, prefix):
    revocations, other = store.revocations, store_on(valkey, prefix)
    key = store.keys.client_cutoff(MAIN, "web")
    await revocations.revoke_client(MAIN, "web", before=None, reason="")
    await revocations.revoke_client(MAIN, "app", before=None, reason="")
    assert await other.revocations.lift(key)
    await store.watch.beat()
    assert {item.keys[0] for item in revocations.acknowledged.entries(0)} == {
        store.keys.client_cutoff(MAIN, "app")
    }
    await revocations.revoke_client(MAIN, "web", before=None, reason="again")
    await store.watch.beat()
    assert len(revocations.acknowledged) == 2
    await other.close()


async def test_the_ends_of_sessions_are_put_back_whatever_ended_them(valkey, prefix):
    made = store_on(valkey, prefix)
    await made.init()
    own = Issuer(name="main", iss=MAIN.iss, own=True)
    sessions = made.sessions(own, Lifetimes(idle=600, absolute=3600, grace=0, most=2))
    async with opened(made):
        reused = (await sessions.start("alice", "web")).session.sid
        await sessions.refresh(reused, 1, ())
        await sessions.refresh(reused, 1, ())
        displaced, ended, last = [(await sessions.start("alice", "web")).session.sid for _ in range(3)]
        await sessions.end(ended)
        with valkey.client() as client:
            remembered = {
                key: client.get(key)
                for key in client.scan_iter(f"{prefix}:*")
                if ":session:" in key and key.endswith((last,))
            }
            client.delete(*client.scan_iter(f"{prefix}:*"))
            for key, text in remembered.items():
                client.set(key, text, px=100_000)
        for sid in (reused, displaced, ended, last):
            claims = Claims(iss=own.iss, jti="1", sub="alice", sid=sid)
            found = await made.lookups.find(made.keys.of_token(claims, own))
            assert (found.state.session is not None) is (sid != last), sid


def written(key, at=1000, until=100_000, **more):
    return Written("revoke_token", (key,), at, until, **more)


def test_the_oldest_go_first_once_there_is_no_room_and_that_is_reported():
    metrics = Metrics(CollectorRegistry())
    remembered = Acknowledged(metrics, Keys("rv").part, now=int, limit=3)
    with structlog.testing.capture_logs() as reported:
        for name in "abcde":
            remembered.note(written(name))
    assert [item.keys[0] for item in remembered.entries(0)] == ["c", "d", "e"]
    assert metrics.registry.get_sample_value("revoker_forgotten_revocations_total") == 2
    assert metrics.registry.get_sample_value("revoker_remembered_revocations") == 3
    assert [item["event"] for item in reported] == ["revocations_forgotten"]


def test_what_has_expired_makes_room_before_anything_else_goes():
    metrics = Metrics(CollectorRegistry())
    remembered = Acknowledged(metrics, Keys("rv").part, now=lambda: 200_000, limit=3)
    for name, until in (("a", 500_000), ("b", 100_000), ("c", 500_000)):
        remembered.note(written(name, until=until))
    remembered.note(written("d", at=200_000, until=500_000))
    assert [item.keys[0] for item in remembered.entries(0)] == ["a", "c", "d"]
    assert metrics.registry.get_sample_value("revoker_forgotten_revocations_total") == 0


def test_of_two_for_the_same_thing_the_later_is_remembered_with_the_longer_life():
    remembered = Acknowledged(Metrics(CollectorRegistry()), Keys("rv").part, now=int)
    remembered.note(written("a", at=2000, until=9000, reason="first", seq=1))
    remembered.note(written("a", at=1000, until=9500, reason="second", seq=2))
    remembered.note(written("a", at=1000, until=9000, except_sid="s"))
    assert remembered.entries(0) == [
        written("a", at=2000, until=9500, reason="first", seq=2),
        written("a", at=1000, until=9000, except_sid="s"),
    ]


def test_a_lift_takes_back_what_was_acknowledged_before_it():
    remembered = Acknowledged(Metrics(CollectorRegistry()), Keys("rv").part, now=int)
    remembered.note(written("a", seq=4))
    remembered.note(written("a", except_sid="s", seq=6))
    remembered.note(written("b", seq=4))
    remembered.forget([(3, "a"), (5, "a"), (2, "b")])
    assert [(item.keys[0], item.except_sid) for item in remembered.entries(0)] == [("a", "s"), ("b", "")]
    remembered.forget([])
