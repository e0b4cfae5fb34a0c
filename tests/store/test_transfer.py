"""Revocations out of one store and into another, on a real server."""

import contextlib
import dataclasses
import os
import random
import uuid

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from revoker.errors import InvalidRequest, StoreRefused, StoreUnavailable
from revoker.models import ClaimNames, Claims, Issuer
from revoker.rules import check_cutoffs, jti_expiry_ms
from revoker.store.keys import claim_segment, user_tag
from revoker.store.lookups import NO_KEYS
from revoker.store.transfer import importing as imports
from revoker.store.transfer import records
from revoker.store.transfer.exporting import Exporting
from revoker.store.transfer.importing import Importing
from tests.conftest import SLOW_MACHINE
from tests.rig.network import Network
from tests.rig.probes import eventually
from tests.rig.service import PATIENT_S
from tests.rig.sids import new_sid
from tests.rig.topologies import NO_FAILOVER, Cluster
from tests.store.conftest import MAIN, OTHER, SLOW_MS, TENANT, opened, store_on

OWN = Issuer(
    name="sessions",
    iss="https://sessions.example.com",
    own=True,
    claim_names=ClaimNames(revocable=("grant_id",)),
)
HOUR = 3_600_000


@pytest.fixture
async def two(valkey, prefix):
    """Two stores on one server, with an issuer whose sessions are kept here."""
    async with contextlib.AsyncExitStack() as stack:
        stores = []
        for name in (f"{prefix}-a", f"{prefix}-b"):
            store = store_on(valkey, name, issuers=(MAIN, OTHER, OWN))
            await store.init()
            stores.append(await stack.enter_async_context(opened(store)))
            await store.lookups.touch()
        yield stores


async def exported(store):
    steps = [step async for step in Exporting(store).steps()]
    assert not any(step.unreadable for step in steps)
    return [records.read(line[:-1]) for step in steps for line in step.lines]


async def imported(store, lines):
    importing = Importing(store)
    await importing.begin()
    await importing.store([importing.change(line) for line in lines])
    await importing.end()


def remembered(valkey, store):
    """All keys that revoke, without their prefix, with their values and ends."""
    found = {}
    with valkey.client() as client:
        for key in client.scan_iter(store.keys.all()):
            _, _, name = key.partition(":")
            if (
                name.partition(":")[0]
                not in {"seq", "writers", "instances", "epoch", "beat", "blocks", "latest", "journal"}
                and "sessions" not in name
            ):
                left = client.pexpiretime(key)
                found[name] = (client.get(key), left)
    return found


async def fill(store):
    now = (await store.readings())[0].now
    revocations = store.revocations
    await revocations.revoke_token(MAIN, "plain", now / 1000 + 600)
    await revocations.revoke_token(MAIN, "no exp", None)
    await revocations.revoke_token(OTHER, "=hashed " + "x" * 200, now / 1000 + 60)
    await revocations.revoke_user(MAIN, "alice", before=None, except_sid=None, reason="stolen laptop")
    await revocations.revoke_user(OTHER, "Зоя", before=now - 5000, except_sid=None, reason="")
    await revocations.revoke_user(OTHER, "Зоя", before=now - 1000, except_sid="mine", reason="others")
    await revocations.block_user(MAIN, "bob", until=None, reason="fraud")
    await revocations.block_user(OTHER, "carol", until=now + HOUR, reason="")
    await revocations.revoke_session(MAIN, "s 1", before=now - 100, reason="two\nlines")
    own = new_sid(now - HOUR, user_tag(OWN.iss, "dave"), b"0123456789")
    await revocations.revoke_session(OWN, own, before=None, reason="")
    await revocations.revoke_client(MAIN, "web", before=None, reason="compromised")
    await revocations.revoke_claim(OTHER, "grant_id", "a:b", before=None, reason="")
    await revocations.revoke_claim(OTHER, TENANT, "x" * 200, before=now - 500, reason="contract ended")
    await revocations.revoke_issuer(OTHER, before=now - HOUR // 10, reason="")
    await revocations.revoke_key(MAIN, "k1", reason="leaked")
    await revocations.revoke_key(MAIN, "k2", reason="")


async def test_all_that_is_in_effect_arrives_in_another_store_and_nothing_else(two, valkey):
    source, target = two
    await fill(source)
    await imported(target, await exported(source))

    before, after = remembered(valkey, source), remembered(valkey, target)
    assert before.keys() == after.keys()
    for name, (value, till) in before.items():
        text, until = after[name]
        if name == "settings":
            assert "revoked_by" in text  # the import records which claims are in use
        elif name.endswith(":user"):
            found, expected = (msgspec.json.decode(item) for item in (text, value))
            found.pop("last", None), expected.pop("last", None)
            assert found == expected, name
        elif name.startswith("keys:"):
            assert msgspec.json.decode(text) == msgspec.json.decode(value)
        else:
            assert text == value, name
        assert until >= till or name.endswith(":user"), name
        if name.startswith("jti:"):
            assert until - till < SLOW_MS
    with valkey.client() as client:
        assert client.hgetall(target.keys.blocks) == client.hgetall(source.keys.blocks)


async def test_importing_again_changes_nothing_but_the_counts(two, valkey):
    source, target = two
    await fill(source)
    lines = await exported(source)
    await imported(target, lines)
    first = remembered(valkey, target)
    before = (await target.readings())[0]
    await imported(target, lines)

    assert remembered(valkey, target).keys() == first.keys()
    for name, (value, _) in remembered(valkey, target).items():
        assert value == first[name][0]
    assert ((await target.readings())[0]).seq == before.seq + len(lines)


async def test_a_loss_of_data_is_taken_along_as_cutoffs_of_the_issuers(two):
    source, target = two
    await source.declare_lost("cutoff")
    cutoff = (await source.epoch()).cutoff
    lines = await exported(source)

    assert {(line.iss, line.before) for line in lines} == {
        (item.iss, cutoff / 1000) for item in (MAIN, OTHER, OWN)
    }
    await imported(target, lines)
    for issuer in (MAIN, OTHER, OWN):
        claims = Claims(iss=issuer.iss, jti="j", sub="u", client_id="c")
        found = (await target.lookups.find(target.keys.of_token(claims, issuer))).state
        assert found.issuer.at == cutoff


async def test_what_is_of_an_issuer_that_is_configured_no_more_goes_by_its_name(two, monkeypatch):
    source, target = two
    await source.revocations.revoke_token(OTHER, "j", None)
    del source.issuers[OTHER.iss], target.issuers[OTHER.iss]
    [line] = await exported(source)

    assert (line.iss, line.jti) == ("other", "j")
    importing = Importing(target)
    await importing.begin()
    with pytest.raises(InvalidRequest, match="no issuer other"):
        importing.change(line)


async def test_a_claim_is_exported_by_its_name_and_imported_as_the_service_would_store_it(two, valkey):
    source, target = two
    await source.revocations.revoke_claim(OTHER, TENANT, "x" * 200, before=None, reason="")
    [line] = await exported(source)
    assert (line.iss, line.claim, line.claim_segment, line.value) == (OTHER.iss, TENANT, None, None)
    await imported(target, [line])
    await imported(target, [records.Claim(iss="other", claim="grant_id", value=value) for value in (7, "x")])
    with valkey.client() as client:
        for claim, value in ((TENANT, "x" * 200), ("grant_id", "7"), ("grant_id", "x")):
            assert client.exists(target.keys.claim_cutoff(OTHER, claim, value)), claim


async def test_a_claim_that_is_not_revocable_any_more_is_exported_and_refused_by_an_import(two):
    source, target = two
    await source.revocations.revoke_claim(OTHER, "a:b", "x", before=None, reason="")
    await source.revocations.revoke_claim(OTHER, "old", "x", before=None, reason="")
    lines = sorted(await exported(source), key=lambda line: line.claim or "")
    assert [(line.claim, line.claim_segment) for line in lines] == [
        (None, claim_segment("a:b")),
        ("old", None),
    ]
    importing = Importing(target)
    await importing.begin()
    for line in lines:
        with pytest.raises(InvalidRequest, match="not revocable at issuer other"):
            importing.change(line)


async def test_what_cannot_be_read_is_reported(two, valkey):
    source, _ = two
    with valkey.client() as client:
        bad = [source.keys.jti(MAIN, "j"), source.keys.user("a" * 16), source.keys.all()[:-1] + "what:x"]
        for key in bad:
            client.set(key, "nonsense")
        client.hset(source.keys.client_cutoff(MAIN, "c"), "a", "b")
        steps = [step async for step in Exporting(source).steps()]
        assert sorted(key for step in steps for key in step.unreadable) == sorted(
            [*bad, source.keys.client_cutoff(MAIN, "c")]
        )


@pytest.mark.parametrize("steps_before", [1, 2])
async def test_an_export_during_which_the_server_is_replaced_is_not_whole(own_valkey, prefix, steps_before):
    """Right after its first step, which has the loss of data, and after its last."""
    store = store_on(own_valkey, prefix)
    await store.init()
    async with opened(store, watched=False), contextlib.aclosing(Exporting(store).steps()) as steps:
        for _ in range(steps_before):
            await anext(steps)
        own_valkey.kill()
        own_valkey.start()
        await eventually(lambda: answers(store))
        with pytest.raises(StoreRefused, match="export again"):
            await anext(steps)


async def answers(store):
    try:
        return bool(await store.readings())
    except StoreUnavailable:
        return False


async def test_nothing_is_written_to_a_store_without_an_epoch(valkey, prefix):
    async with contextlib.aclosing(store_on(valkey, prefix)) as store:
        store.aclose = store.close
        with pytest.raises(StoreRefused, match="revoker store init"):
            await Importing(store).begin()


async def test_data_lost_while_importing_is_reported(two, valkey):
    _, target = two
    importing = Importing(target)
    await importing.begin()
    await importing.store([importing.change(records.Jti(iss=MAIN.iss, jti="1"))])
    with valkey.client() as client:
        client.delete(target.keys.epoch, target.keys.seq)
    with pytest.raises(StoreRefused, match="imported again"):
        await importing.store([importing.change(records.Jti(iss=MAIN.iss, jti="2"))])


async def test_what_replicas_do_not_confirm_is_not_stored(valkey, prefix, monkeypatch):
    monkeypatch.setattr(imports, "PAUSES_S", (0.01,))
    store = store_on(valkey, prefix)
    await store.init()
    await store.close()
    store = store_on(valkey, prefix, wait_replicas=1, timeout=2)
    try:
        importing = Importing(store)
        await importing.begin()
        with pytest.raises(StoreUnavailable, match="too few replicas"):
            await importing.store([importing.change(records.Jti(iss=MAIN.iss, jti="1"))])
    finally:
        await store.close()


async def test_a_time_that_is_yet_to_come_is_refused(two):
    importing = Importing(two[1])
    await importing.begin()
    importing.change(records.User(iss=MAIN.iss, sub="a", before=importing.now / 1000 + 4))
    with pytest.raises(InvalidRequest, match="5 seconds"):
        importing.change(records.User(iss=MAIN.iss, sub="a", before=importing.now / 1000 + 6))


async def test_what_is_in_effect_already_and_what_has_expired_is_counted_beforehand(two):
    source, target = two
    await fill(source)
    lines = await exported(source)
    importing = Importing(target)
    await importing.begin()
    changes = [importing.change(line) for line in lines]
    assert not any(await importing.in_effect(changes))
    await importing.store(changes)
    assert all(await importing.in_effect(changes))
    [later] = [importing.change(records.User(iss=MAIN.iss, sub="alice", before=importing.now / 1000))]
    assert await importing.in_effect([later]) == [False]
    assert importing.change(records.Jti(iss=MAIN.iss, jti="x", exp=1000)).expiry < importing.now


async def test_many_tokens_at_once_are_listed_as_one_by_one(changes):
    """The bulk script against the one that the service uses, with all that may stand before."""
    now = await changes.now()
    chance = random.Random(7)
    exps = [
        chance.choice([None, now / 1000 - 500, now / 1000 + chance.randrange(1, 5000)]) for _ in range(120)
    ]
    for n in chance.sample(range(120), 60):
        for kind in ("single", "bulk"):
            await changes.revocations.revoke_token(MAIN, f"{kind}{n}", now / 1000 + 300)
    for n, exp in enumerate(exps):
        await changes.revocations.revoke_token(MAIN, f"single{n}", exp)
    seq = int(await changes.client.get(changes.keys.seq))
    longest = (MAIN.max_token_lifetime + MAIN.clock_skew + MAIN.leeway + 60) * 1000
    args = [arg for exp in exps for arg in (-longest if exp is None else jti_expiry_ms(MAIN, exp), "")]
    entries = [changes.keys.jti(MAIN, f"bulk{n}") for n in range(120)]

    assert await changes.revocations._scripts.run("revoke_tokens", entries, args) == [120]

    assert int(await changes.client.get(changes.keys.seq)) == seq + 120
    for n in range(120):
        single, many = (changes.keys.jti(MAIN, f"{kind}{n}") for kind in ("single", "bulk"))
        values = await changes.client.mget(single, many)
        assert (values[0] is None) == (values[1] is None)
        if values[0] is not None:
            assert int(values[0]) == pytest.approx(int(values[1]), abs=30_000)
            ends = [await changes.client.pttl(key) for key in (single, many)]
            assert ends[0] == pytest.approx(ends[1], abs=30_000)


sids = st.sampled_from(["", "s1", "s2", "s3"])
calls = st.lists(st.tuples(st.integers(1, 12), sids), max_size=5)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, SLOW_MACHINE])
@given(here=calls, there=calls)
async def test_what_is_imported_adds_up_with_what_is_in_effect(two, here, there):
    """For any token it is as if all calls had been made in one store."""
    source, target = two
    sub = uuid.uuid4().hex
    base = (await source.readings())[0].now - 100_000

    async def call(store, times):
        for at, sid in times:
            await store.revocations.revoke_user(
                MAIN, sub, before=base + 1000 * at, except_sid=sid or None, reason=""
            )

    await call(source, here)
    await call(target, there)
    tag = user_tag(MAIN.iss, sub)
    await imported(target, [line for line in await exported(source) if line.tag == tag])
    for sid in ("", "s1", "s2", "s4"):
        claims = Claims(iss=MAIN.iss, jti="j", sub=sub, sid=sid or None, iat=0)
        state = (await target.lookups.find(target.keys.of_token(claims, MAIN))).state
        for at in range(14):
            covered = any(made >= at and (not spared or spared != sid) for made, spared in here + there)
            iat = (base + 1000 * at) / 1000 + MAIN.clock_skew
            token = Claims(iss=MAIN.iss, sub=sub, sid=sid or None, iat=iat)
            found = check_cutoffs(token, MAIN, state, base, None)
            assert covered <= (found != "active"), (sid, at)


async def test_a_cluster_takes_all_of_it_and_gives_all_of_it_back(two, prefix, tmp_path):
    source, _ = two
    await fill(source)
    many = [records.Jti(iss=MAIN.iss, jti=f"{n}") for n in range(2000)]
    await imported(source, many)
    lines = await exported(source)
    with Network() as network:
        network.assign_process(os.getpid(), "service")
        cluster = Cluster(network, tmp_path, replicas=0, options=NO_FAILOVER)
        cluster.start()
        try:
            store = store_on(cluster, prefix, timeout=PATIENT_S, issuers=(MAIN, OTHER, OWN))
            await store.init()
            await imported(store, lines)
            back = await exported(store)
            importing = Importing(store)
            await importing.begin()
            assert all(await importing.in_effect([importing.change(line) for line in lines]))
            await store.close()
        finally:
            cluster.stop()
    assert names(back) == names(lines)
    assert {line.jti for line in many} <= {line.jti for line in back if isinstance(line, records.Jti)}


def names(lines):
    """What lines say but for the ends of lives, which get longer by the time that reading takes."""
    return {
        msgspec.structs.replace(line, exp=None) if isinstance(line, records.Jti) else line for line in lines
    }


async def test_an_imported_session_that_a_faster_server_dated_is_covered(two):
    _, into = two
    ahead = (await into.lookups.find(NO_KEYS)).now + 20_000
    sid = new_sid(ahead, user_tag(OWN.iss, "alice"), bytes(10))
    await imported(into, [records.Session(iss="sessions", sid=sid)])
    cutoff = into.keys.session_cutoff(OWN, sid)
    [text] = await into.values([cutoff])
    assert int(text) >= ahead


async def shared_ahead(store, valkey):
    """A time that a process has shared while a server was the primary whose clock is 20 s faster."""
    ahead = (await store.readings())[0].now + 20_000
    with valkey.client() as client:
        client.set(store.keys.latest, ahead, px=300_000)
    return ahead


@contextlib.asynccontextmanager
async def command_on(valkey, store):
    """The store as a command has it: nothing monitors it."""
    made = store_on(valkey, store.keys.prefix, issuers=(MAIN, OTHER, OWN))
    try:
        await made.issuer_records.adopt()
        yield made
    finally:
        await made.close()


@pytest.mark.parametrize(
    "line",
    [
        records.Client(iss="sessions", client_id="web"),
        records.Claim(iss="sessions", claim="grant_id", value="g1"),
        records.Issuer(iss="sessions"),
    ],
    ids=records.kind,
)
async def test_an_imported_cutoff_covers_the_sessions_that_a_faster_server_dated(two, valkey, line):
    _, into = two
    ahead = await shared_ahead(into, valkey)
    async with command_on(valkey, into) as command:
        importing = Importing(command)
        await importing.begin()
        change = importing.change(line)
        await importing.store([change])
        [text] = await command.values([change.keys[0]])
    assert int(text) >= ahead


async def test_a_cutoff_of_another_issuer_is_imported_by_the_time_of_the_present_server(two, valkey):
    _, into = two
    ahead = await shared_ahead(into, valkey)
    async with command_on(valkey, into) as command:
        await imported(command, [records.Issuer(iss="main")])
        [text] = await command.values([command.keys.issuer_cutoff(MAIN)])
    assert int(text) < ahead


async def test_a_cutoff_for_a_changed_mapping_covers_the_sessions_that_a_faster_server_dated(two, valkey):
    _, into = two
    by_tenant = dataclasses.replace(OWN, claim_names=ClaimNames(revocable=("tenant",)))
    await into.issuer_records.record_claim(OWN, "grant_id")
    ahead = await shared_ahead(into, valkey)
    async with command_on(valkey, into) as command:
        _, cutoff = await command.accept_mapping(by_tenant, keep=False)
    assert cutoff >= ahead


async def test_a_declared_loss_covers_the_sessions_that_a_faster_server_dated(two, valkey):
    _, into = two
    ahead = await shared_ahead(into, valkey)
    async with command_on(valkey, into) as command:
        epoch = await command.declare_lost("cutoff")
    assert epoch.cutoff >= ahead
