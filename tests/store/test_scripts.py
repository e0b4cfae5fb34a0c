"""The Lua scripts decide as :mod:`revoker.rules` says, for generated states and to the millisecond.

Each script runs on the stand-in's Lua and on a real server, with a fixed time in place of the server's.
"""

import collections
import time

import fakeredis
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from revoker import rules
from revoker.models import Revocation, UserState
from revoker.store.consistency.counts import Counts, hold_all, parse_writers
from revoker.store.keys import Keys, tag_and_start
from revoker.store.scripts import TEXTS
from revoker.store.session_records import read_session
from revoker.store.stored_values import parse_revocation, parse_user_state
from tests.conftest import EXAMPLES
from tests.rig.sids import new_sid

NOW = (int(time.time()) + 3600) * 1000 + 500
"""Later than the servers' clocks, so that no key expires while a test runs."""
IDLE, LIFE, GRACE, KEEP = 20_000, 60_000, 5_000, 100_000
TAG = "a" * 16
KEYS = Keys("scripts")
USER, INDEX, CUTOFF = KEYS.user(TAG), KEYS.sessions(TAG), "scripts:client-cutoff:main:web"
TAIL = (KEYS.seq, KEYS.share("me"), KEYS.writers, KEYS.epoch)
RECORD_REST = b'0 8 [[],"1"]["alice","web","read write",[],"","",""]'

offsets = st.sampled_from([-1, 0, 1, -2000, 2000]) | st.integers(-80_000, 80_000)
instants = offsets.map(lambda offset: NOW + offset)
past = st.integers(0, 80_000).map(lambda ago: NOW - ago)


@pytest.fixture(scope="module", params=["fakeredis", "valkey"])
def server(request, valkey):
    client = fakeredis.FakeRedis() if request.param == "fakeredis" else Redis.from_url(valkey.url)
    yield client
    client.close()


def run(server, name, keys, *args, earlier=(0, 0)):
    """Run a script at :data:`NOW`; what it returns, less what every writer must know of the data set."""
    text = TEXTS[name]
    assert text.count(b"redis.call('TIME')") == 1
    text = text.replace(b"redis.call('TIME')", b"{%d, %d}" % (NOW // 1000, NOW % 1000 * 1000))
    reply = server.eval(text, len(keys) + len(TAIL), *keys, *TAIL, *args, *earlier)
    while isinstance(reply[-1], list):  # also what is to be journaled
        reply = reply[:-1]
    return reply


def argument(value):
    """Of a script that takes '' for none."""
    return "" if value is None else value


def clear(server):
    for key in server.scan_iter("scripts:*"):
        server.delete(key)


def put_user(server, user):
    server.set(USER, msgspec.json.encode(user), px=10_000_000)


def stored_user(server):
    text = server.get(USER)
    return UserState() if text is None else parse_user_state(text)


def stored_cutoff(server, key):
    text = server.get(key)
    return None if text is None else parse_revocation(text)


@st.composite
def users(draw, sids):
    hard, soft = (draw(st.just(0) | st.just(0) | instants) for _ in range(2))
    return UserState(
        hard=hard,
        soft=soft,
        sid=draw(sids) if soft else "",
        blocked=draw(st.sampled_from([0, 0, NOW - 1, NOW, NOW + 1, NOW + 2000])),
        last=max(hard, soft, draw(st.just(0) | instants)),
    )


@st.composite
def sessions(draw, start, generation):
    """A record as the scripts have written it, in text and as it is read; None where there is none."""
    if draw(st.integers(0, 9)) == 0:
        return None
    given = draw(st.sampled_from([NOW - GRACE, NOW - GRACE + 1]) | instants)
    used = draw(st.sampled_from([NOW - IDLE, NOW - IDLE + 1]) | instants)
    given, used = max(given, start), max(used, start)
    ends = draw(st.sampled_from([NOW, NOW + 1, start + LIFE, start + LIFE + 1000]) | instants)
    ends = max(ends, start + 1)
    text = b"%d %d %d %d %s" % (generation, given - start, used - start, ends - start, RECORD_REST)
    return text, given


def expected_now(session):
    return NOW if session is None else max(NOW, session.used)


generations_of_two = st.sampled_from([(2, 2), (2, 1), (3, 1), (2, 3)]) | st.tuples(
    st.integers(1, 4), st.integers(1, 4)
)
"""The current generation of a session, and that of a token."""

starts = st.sampled_from([NOW - LIFE, NOW - LIFE + 1, NOW - 1000]) | past


@settings(max_examples=4 * EXAMPLES)
@given(st.data(), starts, generations_of_two, st.booleans())
def test_a_refresh_decides_as_the_rules_do(server, data, start, generations, unconfirmed):
    clear(server)
    current, generation = generations
    sid = new_sid(start, TAG, bytes(10))
    user, cutoff = UserState(), None
    if data.draw(st.booleans()):
        user = data.draw(users(st.sampled_from([sid, "another"])))
        cutoff = data.draw(st.none() | st.sampled_from([None, start - 1, start, start + 1]) | instants)
    record = data.draw(sessions(start, current))
    keys = KEYS.of_refresh(TAG, sid, generation)
    session = None
    put_user(server, user)
    if record is not None:
        server.set(keys[0], record[0], px=10_000_000)
        session = read_session(sid, start, record[0])
    if cutoff is not None:
        server.set(keys[1], f"{cutoff} why", px=10_000_000)
    if unconfirmed:
        server.set(keys[4], "", px=10_000_000)
    server.zadd(INDEX, {sid: start + LIFE})

    reply = run(server, "refresh_session", keys, sid, start, generation, IDLE, LIFE, GRACE, KEEP)

    own = None if cutoff is None else Revocation(cutoff)
    limits = {"now": NOW, "idle_ms": IDLE, "life_ms": LIFE}
    expected = rules.session_refusal(sid, start, session, user, own, **limits)
    now = expected_now(session)
    if expected is None:
        expected = rules.refresh_outcome(
            generation, current, issued_ms_ago=now - record[1], grace_ms=GRACE, unconfirmed=unconfirmed
        )
    assert reply[0].decode() == expected
    if expected in {"rotated", "completed"}:
        after = read_session(sid, start, server.get(keys[0]))
        assert reply[1:] == [b"%d" % NOW, server.get(keys[0])]
        assert (after.generation, after.used) == (generation + 1, now)
        assert after.ends == min(session.ends, start + LIFE)
        assert server.pexpiretime(keys[0]) == rules.session_end(after, idle_ms=IDLE, life_ms=LIFE)
        assert server.exists(keys[4])
    elif expected == "reused":
        assert reply[1] == current - generation
        assert int(reply[2]) == parse_revocation(server.get(keys[1])).at == max(NOW, start)
        assert not server.exists(keys[0])
        assert server.zscore(INDEX, sid) is None
    else:
        assert server.get(keys[0]) == (None if record is None else record[0])
        assert stored_cutoff(server, keys[1]) == (None if cutoff is None else Revocation(cutoff, "why"))


@given(st.data(), starts)
def test_a_session_is_elevated_where_the_rules_allow_its_use(server, data, start):
    clear(server)
    sid = new_sid(start, TAG, bytes(10))
    user = data.draw(users(st.sampled_from([sid, "another"])))
    cutoff = data.draw(st.none() | st.sampled_from([None, start - 1, start, start + 1]) | instants)
    record = data.draw(sessions(start, 1))
    keys = (*KEYS.of_refresh(TAG, sid, 1)[:2], USER)
    put_user(server, user)
    if cutoff is not None:
        server.set(keys[1], cutoff, px=10_000_000)
    session = None
    if record is not None:
        server.set(keys[0], record[0], px=10_000_000)
        session = read_session(sid, start, record[0])
    reply = run(server, "elevate_session", keys, sid, start, IDLE, LIFE, '[["otp"],"2"]')
    limits = {"now": NOW, "idle_ms": IDLE, "life_ms": LIFE}
    own = None if cutoff is None else Revocation(cutoff)
    expected = rules.session_refusal(sid, start, session, user, own, **limits)
    assert reply[0].decode() == (expected or "elevated")
    if expected is None:
        after = read_session(sid, start, server.get(keys[0]))
        assert (after.acr, after.auth_time) == ("2", expected_now(session) // 1000)
        assert after.sub == session.sub


@given(
    users(st.just("another")),
    st.just(0) | instants,
    st.sampled_from([None, NOW - 1, NOW, NOW + 1]),
)
def test_a_session_starts_when_the_rules_say(server, user, latest_start, until):
    clear(server)
    put_user(server, user)
    if latest_start:
        server.zadd(INDEX, {"": -latest_start, "earlier": NOW + LIFE})
    args = (KEYS.of_user(TAG), TAG, "r" * 13 + "A", '[[],"1"]', '["alice"]', IDLE, LIFE, 0)
    reply = run(server, "start_session", (USER, INDEX), *args, "" if until is None else until)
    if user.blocked > NOW:
        assert reply == [b"blocked"]
    elif until is not None and until < NOW:
        assert reply == [b"late"]
    else:
        sid, _, start, present = reply
        assert int(start) == rules.session_start_time(NOW, user, latest_start)
        assert int(present) == NOW
        assert tag_and_start(sid.decode()) == (TAG, int(start))
        assert not rules.session_is_revoked(int(start), sid.decode(), user, None)
        assert server.zscore(INDEX, "") == -int(start)


requests = st.none() | st.sampled_from([NOW + 5000, NOW + 5001, NOW + 1, NOW]) | instants
dated_requests = st.tuples(requests, st.sampled_from([5000, 5000, None])).filter(any)
"""The requested time, and how far ahead it may be: None where a cutoff is restored, whose time is given."""


@given(st.data(), users(st.sampled_from(["a", "b"])), st.sampled_from(["", "a", "b"]), dated_requests)
def test_a_users_cutoff_is_dated_and_merged_as_the_rules_say(server, data, user, excepted, request):
    clear(server)
    put_user(server, user)
    requested, max_ahead = request
    latest_start = data.draw(st.just(0) | instants)
    expires = data.draw(st.sampled_from([None, NOW, NOW + 1]))
    if latest_start:
        server.zadd(INDEX, {"": -latest_start})
    args = (argument(requested), KEEP, "why", argument(max_ahead), excepted, argument(expires))
    reply = run(server, "revoke_user", (USER, INDEX), *args)
    earliest = max(user.last, latest_start)
    expected = rules.cutoff_time(requested, NOW, max_ahead=max_ahead, earliest=earliest, expires=expires)
    if isinstance(expected, str):
        assert reply == [expected.encode()]
        assert stored_user(server) == user
        return
    after = stored_user(server)
    assert [int(value) for value in reply] == [max(after.hard, after.soft), expected]
    assert rules.includes_user_cutoff(after, expected, excepted)
    assert after.last == max(user.last, after.hard, after.soft)
    for sid in ("a", "b", "c"):
        for start in {at + ms for at in (user.hard, user.soft, expected) for ms in (0, 1)}:
            before = rules.session_is_revoked(start, sid, user, None)
            revoked = rules.session_is_revoked(start, sid, after, None)
            covered = start <= expected and sid != excepted
            assert revoked or not (before or covered)
            if rules.includes_user_cutoff(user, expected, excepted):
                assert revoked == before
            if revoked and not (before or covered):  # excepted by the earlier cutoff, which excepts no more
                assert sid == user.sid != excepted
                assert start <= user.soft <= expected


@given(
    st.none() | instants,
    dated_requests,
    st.tuples(st.just(0) | instants, st.sampled_from([0, 1, 120_000])),
    st.sampled_from([None, NOW, NOW + 1]),
)
def test_a_cutoff_is_dated_as_the_rules_say_and_never_moves_back(server, stored, request, later, expires):
    clear(server)
    requested, max_ahead = request
    earliest, ahead = later
    if stored is not None:
        server.set(CUTOFF, f"{stored} first", px=100_000)
    args = (argument(requested), KEEP, "second", argument(max_ahead), earliest, ahead, argument(expires))
    reply = run(server, "move_cutoff", (CUTOFF,), *args)
    date = rules.cutoff_time(
        requested, NOW, max_ahead=max_ahead, earliest=earliest, earliest_ahead=ahead, expires=expires
    )
    remembered = None if stored is None else Revocation(stored, "first")
    if isinstance(date, str):
        assert reply == [date.encode()]
        assert stored_cutoff(server, CUTOFF) == remembered
        return
    state = remembered if rules.includes_cutoff(remembered, date) else Revocation(date, "second")
    assert [int(value) for value in reply] == [state.at, date]
    if state.at + KEEP > NOW:
        assert stored_cutoff(server, CUTOFF) == state
        assert server.pexpiretime(CUTOFF) >= state.at + KEEP


@given(st.sampled_from([0, 1, -1]) | offsets, st.none() | st.sampled_from([-1, 0, 1]) | offsets)
def test_a_session_ends_at_the_present_unless_it_never_started(server, from_limit, cutoff_after):
    clear(server)
    start = NOW + rules.START_AHEAD_MS + from_limit
    sid = new_sid(start, TAG, bytes(10))
    record, cutoff = KEYS.of_refresh(TAG, sid, 1)[:2]
    server.set(record, b"1 0 0 1 " + RECORD_REST, px=10_000_000)
    stored = None
    if cutoff_after is not None:
        stored = Revocation(start + cutoff_after, "first")
        server.set(cutoff, f"{stored.at} first", px=10_000_000)
    reply = run(server, "end_session", (record, cutoff, INDEX), sid, start, KEEP, rules.START_AHEAD_MS)
    if rules.begins_too_far_ahead(start, NOW):
        assert reply == [b"ahead"]
        assert server.exists(record)
        return
    expected = stored if rules.covers(stored, start * 1000) else Revocation(max(NOW, start))
    assert int(reply[0]) == expected.at
    assert stored_cutoff(server, cutoff) == expected
    assert not server.exists(record)
    assert server.pexpiretime(cutoff) >= max(NOW, expected.at) + KEEP


@given(st.data(), st.lists(past, min_size=1, max_size=5, unique=True), st.integers(1, 4))
def test_the_oldest_sessions_beyond_the_limit_end_and_revoked_ones_do_not_count(server, data, starts, limit):
    clear(server)
    sids = {new_sid(start, TAG, bytes(10)): start for start in starts}
    user = data.draw(users(st.sampled_from([*sids])))
    put_user(server, user)
    live = []
    for sid, start in sids.items():
        record, cutoff_key = KEYS.of_refresh(TAG, sid, 1)[:2]
        server.zadd(INDEX, {sid: start + LIFE, "": -max(starts)})
        cutoff = data.draw(st.none() | st.sampled_from([start - 1, start]))
        if cutoff is not None:
            server.set(cutoff_key, cutoff, px=10_000_000)
        if data.draw(st.integers(0, 3)):
            server.set(record, b"1 0 0 1 " + RECORD_REST, px=10_000_000)
            if not rules.session_is_revoked(start, sid, user, None if cutoff is None else Revocation(cutoff)):
                live.append(sid)
    _, ended, present = run(server, "trim_sessions", (USER, INDEX), KEYS.of_user(TAG), limit, KEEP)
    assert int(present) == NOW
    live.sort(key=sids.get)
    expected = live[: max(0, len(live) - limit)] if len(sids) > limit else []
    assert [sid.decode() for sid in ended[::2]] == expected
    assert set(map(int, ended[1::2])) <= {NOW}
    for sid in expected:
        assert rules.covers(stored_cutoff(server, KEYS.of_refresh(TAG, sid, 1)[1]), sids[sid] * 1000)


@pytest.mark.parametrize("generation", [1, 2, 3, 4])
@pytest.mark.parametrize("ago", [GRACE - 1, GRACE])
@pytest.mark.parametrize("unconfirmed", [False, True])
def test_the_boundaries_of_a_refresh_are_those_of_the_rules(server, generation, ago, unconfirmed):
    clear(server)
    start = NOW - 10_000
    sid = new_sid(start, TAG, bytes(10))
    keys = KEYS.of_refresh(TAG, sid, generation)
    used = NOW - ago - start
    server.set(keys[0], b"3 %d %d %d %s" % (used, used, LIFE, RECORD_REST), px=10_000_000)
    if unconfirmed:
        server.set(keys[4], "", px=10_000_000)
    reply = run(server, "refresh_session", keys, sid, start, generation, IDLE, LIFE, GRACE, KEEP)
    assert reply[0].decode() == rules.refresh_outcome(
        generation, 3, issued_ms_ago=ago, grace_ms=GRACE, unconfirmed=unconfirmed
    )


@given(
    st.lists(st.sampled_from(["read", "write", "rea", "read write", ""]), min_size=1, max_size=3, unique=True)
)
def test_a_refresh_for_a_scope_that_was_not_granted_uses_nothing(server, scopes):
    clear(server)
    start = NOW - 10_000
    sid = new_sid(start, TAG, bytes(10))
    keys = KEYS.of_refresh(TAG, sid, 3)
    record = b"3 0 0 %d %s" % (LIFE, RECORD_REST)
    server.set(keys[0], record, px=10_000_000)
    reply = run(server, "refresh_session", keys, sid, start, 3, IDLE, LIFE, GRACE, KEEP, *scopes)
    if set(scopes) <= {"read", "write"}:
        assert reply[0] == b"rotated"
    else:
        assert reply == [b"scope"]
        assert server.get(keys[0]) == record
        assert not server.exists(keys[4])


@given(st.tuples(*[st.integers(0, 3)] * 4), st.booleans())
def test_a_change_by_a_writer_who_knew_more_or_in_a_repair_is_not_counted(server, numbers, repairing):
    seq, share, seq_before, share_before = numbers
    clear(server)
    server.set(KEYS.seq, seq + share)
    server.set(KEYS.share("me"), share)
    server.set(KEYS.writers, f" me {share} other {seq}")
    server.set(KEYS.epoch, "id 0 0 " + ("repairing" if repairing else "new"))
    run(server, "revoke_user", (USER, INDEX), "", KEEP, "", 5000, "", earlier=(seq_before, share_before))
    counted = seq + share >= seq_before and share >= share_before and not repairing
    assert int(server.get(KEYS.seq)) == seq + share + counted
    assert int(server.get(KEYS.share("me"))) == share + counted
    assert server.get(KEYS.writers).decode() == f" me {share + counted} other {seq}"
    assert stored_user(server).hard == NOW


@given(st.lists(st.sampled_from(["me", "you", "them"]), min_size=1))
def test_the_list_of_writers_counts_the_revocations_of_every_one(server, writers):
    clear(server)
    for writer in writers:
        keys = (USER, INDEX, KEYS.seq, KEYS.share(writer), KEYS.writers, KEYS.epoch)
        server.eval(TEXTS["revoke_user"], len(keys), *keys, "", KEEP, "", 5000, "", "", 0, 0)
    counts = Counts(int(server.get(KEYS.seq)), server.get(KEYS.writers))
    assert parse_writers(counts.writers) == collections.Counter(writers)
    assert counts.of_others == 0


def test_a_share_that_has_expired_goes_on_from_the_list(server):
    clear(server)
    for _ in range(3):
        run(server, "revoke_user", (USER, INDEX), "", KEEP, "", 5000, "")
    before = Counts(int(server.get(KEYS.seq)), server.get(KEYS.writers))
    server.delete(KEYS.share("me"))
    run(server, "revoke_user", (USER, INDEX), "", KEEP, "", 5000, "")
    after = Counts(int(server.get(KEYS.seq)), server.get(KEYS.writers))
    assert (after.seq, parse_writers(after.writers)) == (4, {"me": 4})
    assert int(server.get(KEYS.share("me"))) == 4
    assert hold_all(after, before)


def test_a_writer_that_left_the_list_and_writes_again_takes_nothing_from_the_others(server):
    clear(server)
    for _ in range(3):
        run(server, "revoke_user", (USER, INDEX), "", KEEP, "", 5000, "")
    before = Counts(int(server.get(KEYS.seq)), server.get(KEYS.writers))
    run(server, "retire_writers", (), "me", 3)
    retired = Counts(int(server.get(KEYS.seq)), server.get(KEYS.writers))
    assert (retired.of_others, parse_writers(retired.writers)) == (3, {})
    assert hold_all(retired, before)
    run(server, "revoke_user", (USER, INDEX), "", KEEP, "", 5000, "")
    again = Counts(int(server.get(KEYS.seq)), server.get(KEYS.writers))
    assert (again.of_others, parse_writers(again.writers)) == (3, {"me": 4})
    assert hold_all(again, retired)
    assert hold_all(again, before)


@given(st.none() | st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.booleans())
def test_who_vouches_has_its_whole_share_again(server, vouched, share, of_others, other_epoch):
    clear(server)
    server.set(KEYS.epoch, "id 0 0 repairing")
    server.set(KEYS.seq, share + of_others)
    server.set(KEYS.share("me"), share)
    server.set(KEYS.writers, f" me {share}")
    epoch = "other 0 0 repairing" if other_epoch else "id 0 0 repairing"
    same, _, fields, numbers = server.eval(
        TEXTS["vouch"], 5, KEYS.repair, *TAIL, epoch, "me", "text", argument(vouched), 0, 0
    )
    expected = share if other_epoch else max(share, vouched or 0)
    counts = Counts(int(numbers[0]), numbers[2])
    assert (int(numbers[1]), counts.of_others) == (expected, of_others)
    assert parse_writers(counts.writers) == {"me": expected}
    assert (same, fields) == ((0, []) if other_epoch else (1, [b"me", b"text"]))


@given(
    st.none() | st.sampled_from([59_999, 60_000, 60_001, 10**15]) | st.integers(-70_000, 70_000),
    offsets,
)
def test_the_latest_time_only_grows_unless_no_server_can_have_had_it(server, shared, offset):
    clear(server)
    latest = NOW + offset
    if shared is not None:
        shared = shared if shared > 10**14 else NOW + shared
        server.set(KEYS.latest, shared)
    [reply] = run(server, "share_latest_time", (KEYS.latest,), latest, 60_000, 100_000)
    believed = shared is not None and shared <= NOW + 60_000
    assert int(reply) == int(server.get(KEYS.latest)) == (max(shared, latest) if believed else latest)
