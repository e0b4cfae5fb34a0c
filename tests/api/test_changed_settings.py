"""Settings that changed from one start to the next un-revoke nothing."""

import time

import pytest

from revoker.store import issuer_records as issuers
from revoker.store import renaming
from tests.rig.probes import eventually, flush, issued, issued_after, metric, readiness, revoke, status_of


def prefix_of(revoker):
    return revoker.service.store.keys.epoch.split(":")[0]


async def test_a_raised_lifetime_admits_only_tokens_issued_after_the_raise(start, own_valkey, monkeypatch):
    monkeypatch.setattr(issuers, "DELAY_MS", 0)
    short = {"max_token_lifetime": 600, "data_loss": "ignore"}
    first = await start(own_valkey, revocation=short)
    long = issued(exp=time.time() + 3000)
    assert not await first.active(long)
    before = time.time() * 1000
    wider = {**short, "max_token_lifetime": 7200}
    second = await start(own_valkey, prefix=prefix_of(first), new=False, revocation=wider)
    assert not await second.active(long)
    assert await second.active(issued())
    later = {**issued_after(time.time() * 1000), "exp": time.time() + 3000}
    await eventually(lambda: second.active(later))
    third = await start(own_valkey, prefix=prefix_of(first), new=False, revocation=wider)
    for revoker in (second, third):
        assert not await revoker.active(long)
        assert await revoker.active(later)
        flush(own_valkey)
        await revoker.service.store.watch.beat()
        records = (await revoker.service.store.issuer_records.look())[1]
        [life, _] = records["main"].increases
        assert (life.limit, life.old_value) == ("max_token_lifetime", 600)
        assert before < life.until < later["iat"] * 1000


async def test_whoever_runs_on_with_the_old_settings_keeps_what_it_revokes_for_the_new(start, own_valkey):
    old = await start(own_valkey, revocation={"max_token_lifetime": 600})
    new = await start(own_valkey, prefix=prefix_of(old), new=False, revocation={"max_token_lifetime": 7200})
    await old.service.store.watch.beat()
    asked = {"iss": issued()["iss"], "sub": "alice"}
    assert (await old.post("/revoke-user", asked)).status == 200
    issuer = next(each for each in new.service._issuers.values() if each.name == "main")
    with own_valkey.client() as client:
        left = client.pttl(new.service.store.keys.user_of(issuer, "alice"))
    assert left == pytest.approx((7200 + 30 + 2 + 60) * 1000, abs=60_000)


async def test_a_renamed_issuer_is_not_served_until_it_is_renamed_in_the_store(
    start, own_valkey, monkeypatch
):
    monkeypatch.setattr(renaming, "_NOTICED_S", 0)
    old = await start(own_valkey)
    gone, sound = issued(), issued()
    assert (await revoke(old, gone)).status == 200
    new = await start(own_valkey, prefix=prefix_of(old), new=False, ready=False, main={"name": "idp"})
    await eventually(lambda: _in_conflict(new))
    assert "call it main, or `revoker export`" in new.service.conflicts()[0]
    assert not new.service.started()
    assert await status_of(new, sound) == 503
    assert (await revoke(new, sound)).status == 503
    assert await old.active(sound)

    assert await new.service.store.renaming("main", "idp").run(lambda _: None) == 1

    await eventually(lambda: _started(new))
    assert await new.active(sound)
    assert not await new.active(gone)
    await old.service.store.watch.beat()
    assert await status_of(old, gone) == 503
    assert (await revoke(old, sound)).status == 503
    assert "settings_conflict" in (await readiness(old))[1]
    assert await metric(old, 'revoker_problem{problem="settings_conflict"}') == 1


async def _in_conflict(revoker):
    return bool(revoker.service.conflicts())


async def _started(revoker):
    return revoker.service.started() and not revoker.service.conflicts()


async def test_a_name_that_was_another_issuers_is_not_served(start, own_valkey):
    old = await start(own_valkey)
    new = await start(
        own_valkey,
        prefix=prefix_of(old),
        new=False,
        ready=False,
        main={"issuer": "https://elsewhere.example.com"},
    )
    await eventually(lambda: _in_conflict(new))
    assert "https://elsewhere.example.com" in new.service.conflicts()[0]
    assert not new.service.started()


async def test_a_store_that_comes_late_is_looked_at_before_the_first_verdict(start, own_valkey):
    old = await start(own_valkey)
    own_valkey.kill()
    new = await start(own_valkey, prefix=prefix_of(old), new=False, ready=False, main={"name": "idp"})
    assert await status_of(new, issued()) == 503
    own_valkey.start()
    await eventually(lambda: _in_conflict(new))
    assert await status_of(new, issued()) == 503
