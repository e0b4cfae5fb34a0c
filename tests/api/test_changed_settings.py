"""Settings that changed from one start to the next un-revoke nothing."""

import json
import time

import pytest

from revoker.store import recorded_issuers as issuers
from tests.rig import forge
from tests.rig.probes import (
    eventually,
    flush,
    has_problem,
    issued,
    issued_after,
    metric,
    revoke,
    status_of,
)
from tests.rig.service import OTHER_ISSUER


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


@pytest.mark.parametrize("change", [{"clock_skew": 2}, {"iat_backdated": 120}])
async def test_a_smaller_margin_of_cutoffs_leaves_what_they_covered_revoked(start, own_valkey, change):
    wide, now = {"clock_skew": 120}, time.time()
    first = await start(own_valkey, main=wide)
    logout = {"iss": forge.ISSUER, "sub": "alice", "before": now - 300}
    assert (await first.post("/revoke-user", logout)).status == 200
    gone, later = issued(now - 200, sub="alice"), issued(now - 170, sub="alice")
    second = await start(own_valkey, prefix=prefix_of(first), new=False, main={**wide, **change})
    for revoker in (first, second):
        assert not await revoker.active(gone)
        assert await revoker.active(later)


async def test_whoever_runs_on_with_the_old_settings_keeps_what_it_revokes_for_the_new(start, own_valkey):
    old = await start(own_valkey, revocation={"max_token_lifetime": 600})
    new = await start(own_valkey, prefix=prefix_of(old), new=False, revocation={"max_token_lifetime": 7200})
    await old.service.store.watch.beat()
    asked = {"iss": issued()["iss"], "sub": "alice"}
    assert (await old.post("/revoke-user", asked)).status == 200
    issuer = next(issuer for issuer in new.service._issuers.values() if issuer.name == "main")
    with own_valkey.client() as client:
        left = client.pttl(new.service.store.keys.user_of(issuer, "alice"))
    assert left == pytest.approx((7200 + 30 + 2 + 60) * 1000, abs=60_000)


async def test_a_renamed_issuer_is_not_served(start, own_valkey):
    old = await start(own_valkey)
    sound = issued()
    new = await start(own_valkey, prefix=prefix_of(old), new=False, ready=False, main={"name": "idp"})
    await eventually(lambda: _in_conflict(new))
    assert "is called idp in the settings and main in the store" in new.service.conflicts()[0]
    assert not new.service.started()
    assert await status_of(new, sound) == 503
    assert (await revoke(new, sound)).status == 503
    assert await old.active(sound)


async def test_a_running_instance_stops_serving_an_issuer_that_the_store_knows_by_another_name(
    start, own_valkey
):
    running = await start(own_valkey)
    sound = issued()
    with own_valkey.client() as client:
        key = running.service.store.keys.settings
        records = json.loads(client.get(key))
        client.set(key, json.dumps({"idp": records.pop("main"), **records}))

    await eventually(lambda: has_problem(running, "settings_conflict"))
    assert await status_of(running, sound) == 503
    assert (await revoke(running, sound)).status == 503
    assert await metric(running, 'revoker_problem{problem="settings_conflict"}') == 1


async def _in_conflict(revoker):
    return bool(revoker.service.conflicts())


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


async def test_an_issuer_of_its_own_does_not_become_an_alias_of_another(start, own_valkey):
    old = await start(own_valkey)
    gone = issued(iss=OTHER_ISSUER)
    assert (await revoke(old, gone)).status == 200
    joined = {"main": {"issuer_aliases": [OTHER_ISSUER]}, "other": {"issuer": "https://new.example.com"}}
    new = await start(own_valkey, prefix=prefix_of(old), new=False, ready=False, **joined)

    await eventually(lambda: _in_conflict(new))
    assert (
        f"{OTHER_ISSUER} is an alias of main in the settings and is called other"
        in new.service.conflicts()[0]
    )
    assert not new.service.started()
    assert await status_of(new, gone) == 503


async def test_an_alias_does_not_become_an_issuer_of_its_own(start, own_valkey):
    alias = "https://sts.example.com"
    old = await start(own_valkey, main={"issuer_aliases": [alias]})
    gone = issued(iss=alias)
    assert (await old.post("/revoke-user", {"iss": forge.ISSUER, "sub": gone["sub"]})).status == 200
    assert not await old.active(gone)

    without = await start(own_valkey, prefix=prefix_of(old), new=False)
    assert not await without.active(gone)
    separate = {"other": {"issuer": alias}}
    new = await start(own_valkey, prefix=prefix_of(old), new=False, ready=False, **separate)
    await eventually(lambda: _in_conflict(new))
    assert not new.service.started()
    assert await status_of(new, gone) == 503
    assert not await old.active(gone)
