"""What the store remembers of the issuers: bounds only widen, names and claims don't change by themselves."""

import asyncio
import contextlib
import dataclasses
import json

import msgspec
import pytest

from revoker.errors import StoreRefused
from revoker.models import ClaimNames, Issuer, LimitIncrease, OldMargin
from revoker.rules import cutoff_lifetime_ms, jti_expiry_ms, jti_lifetime_ms
from revoker.store import issuer_records
from revoker.store.recorded_issuers import (
    DELAY_MS,
    LIMITS,
    IdentifyingClaims,
    IssuerRecord,
    conflicts,
    encode,
    reconciled,
)
from tests.store.conftest import MAIN, OTHER, store_on

NOW = 1_763_769_600_000


def record(issuer, *increases, **bounds):
    own = {name: getattr(issuer, name) for name in LIMITS}
    return IssuerRecord(iss=issuer.iss, increases=increases, **{**own, **bounds})


def test_the_first_to_come_is_remembered():
    assert reconciled({}, [MAIN, OTHER], NOW) == {"main": record(MAIN), "other": record(OTHER)}


def test_others_are_left_as_they_are():
    assert reconciled({"other": record(OTHER)}, [MAIN], NOW)["other"] == record(OTHER)


@pytest.mark.parametrize("bound", LIMITS)
def test_a_bound_that_was_raised_is_noted_and_one_that_was_lowered_stays(bound):
    stood = {"main": record(MAIN)}
    before = getattr(MAIN, bound)
    wider = dataclasses.replace(MAIN, **{bound: before + 5})
    raised = reconciled(stood, [wider], NOW)
    assert raised["main"] == record(wider, LimitIncrease(bound, before, NOW + DELAY_MS))
    if bound == "clock_skew":  # a lower one makes the margin of cutoffs narrower, too
        return
    narrower = dataclasses.replace(MAIN, **{bound: before - 1})
    assert reconciled(stood, [narrower], NOW) == stood
    for later in (wider, MAIN, narrower):
        assert reconciled(raised, [later], NOW + 5000) == raised


def test_increases_add_up_until_nothing_from_before_them_can_be_active():
    first = reconciled({"main": record(MAIN)}, [dataclasses.replace(MAIN, leeway=40)], NOW)
    second = reconciled(first, [dataclasses.replace(MAIN, leeway=50)], NOW + 1000)["main"]
    assert [(item.old_value, item.until) for item in second.increases] == [
        (30, NOW + DELAY_MS),
        (40, NOW + 1000 + DELAY_MS),
    ]
    over = NOW + DELAY_MS + (86400 + 50 + 2 + 60) * 1000
    assert len(reconciled({"main": second}, [MAIN], over - 1)["main"].increases) == 2
    assert len(reconciled({"main": second}, [MAIN], over)["main"].increases) == 1


@pytest.mark.parametrize("change", [{"clock_skew": 10}, {"clock_skew": 60, "iat_backdated": 50}])
def test_what_was_issued_before_the_margin_of_cutoffs_was_lowered_keeps_the_wider_one(change):
    wide = dataclasses.replace(MAIN, clock_skew=60)
    narrow = dataclasses.replace(MAIN, **change)
    lowered = reconciled({"main": record(wide)}, [narrow], NOW)
    assert lowered["main"] == record(wide, margin=10, wider=(OldMargin(60, NOW + DELAY_MS),))
    assert reconciled(lowered, [narrow], NOW + 5000) == lowered
    again = reconciled(lowered, [wide], NOW + 5000)  # a process with the earlier settings
    assert again["main"] == record(wide)
    assert reconciled(again, [narrow], NOW + 6000)["main"].wider == (OldMargin(60, NOW + 6000 + DELAY_MS),)
    narrower = dataclasses.replace(MAIN, clock_skew=2)
    assert reconciled(lowered, [narrower], NOW + 7000)["main"].wider == (
        OldMargin(10, NOW + 7000 + DELAY_MS),
        OldMargin(60, NOW + DELAY_MS),
    )
    over = NOW + DELAY_MS + (86400 + 30 + 60 + 60) * 1000
    assert reconciled(lowered, [narrow], over)["main"].wider == ()


def test_another_name_and_another_address_are_conflicts_and_a_new_issuer_is_none():
    stood = {"main": record(MAIN)}
    renamed = dataclasses.replace(MAIN, name="idp")
    moved = dataclasses.replace(MAIN, iss="https://new.example.com")
    assert conflicts(stood, [MAIN, OTHER]) == {}
    assert conflicts(stood, [dataclasses.replace(moved, name="new")]) == {}
    assert "is called idp in the settings and main in the store" in conflicts(stood, [renamed])["idp"]
    assert conflicts(stood, [moved])["main"] == (
        f"the issuer named main is {MAIN.iss} in the store and {moved.iss} in the settings;"
        " give it another name"
    )
    swapped = [dataclasses.replace(MAIN, name="other"), dataclasses.replace(OTHER, name="main")]
    assert set(conflicts({**stood, "other": record(OTHER)}, swapped)) == {"main", "other"}


def test_an_issuer_of_sessions_whose_address_changed_needs_another_store():
    own = Issuer(name="sessions", iss="https://sessions.example.com", own=True)
    moved = dataclasses.replace(own, iss="https://new.example.com")
    assert conflicts({"sessions": record(own)}, [moved])["sessions"] == (
        f"the issuer named sessions is {own.iss} in the store and {moved.iss} in the settings;"
        " use another store or another redis.key_prefix"
    )


def named(issuer=MAIN, aliases=(), **names):
    """An issuer with other names of claims."""
    return dataclasses.replace(issuer, aliases=aliases, claim_names=ClaimNames(**names) if names else None)


def test_other_names_of_claims_are_conflicts_that_say_what_has_changed():
    stood = reconciled({}, [named(sub=("oid", "sub"), sid=())], NOW)
    assert conflicts(stood, [named(sub=("oid", "sub"), sid=())]) == {}
    reported = conflicts(stood, [MAIN])["main"]
    assert "sub was `oid`, `sub` and is `sub`; sid was nothing and is `sid`" in reported
    assert "`revoker store accept-mapping main`" in reported
    for names in ({"sub": ("sub", "oid")}, {"jti": ("uti",)}, {"client_id": ("azp",)}):
        assert set(conflicts({"main": record(MAIN)}, [named(**names)])) == {"main"}
    for names in ({"scope": ("permissions",)}, {"revocable": ("email",)}):
        assert conflicts({"main": record(MAIN)}, [named(**names)]) == {}


def test_a_revocable_claim_may_leave_the_settings_until_something_was_revoked_by_it():
    both = named(revocable=("email", "grant_id"))
    stood = reconciled({}, [both], NOW)
    assert conflicts(stood, [MAIN]) == {}
    used = {"main": record(MAIN, revoked_by={"email": NOW})}
    assert conflicts(used, [named(revocable=("grant_id", "email"))]) == {}
    assert "`email` was revoked by and is not in revocable" in conflicts(used, [MAIN])["main"]


def test_an_alias_belongs_to_its_issuer_for_good_and_an_issuer_does_not_become_an_alias():
    alias = OTHER.iss
    stood = reconciled({}, [named(aliases=(alias,))], NOW)
    assert conflicts(stood, [MAIN]) == {}
    assert reconciled(stood, [MAIN], NOW) == stood
    assert "is an alias of main in the store" in conflicts(stood, [MAIN, OTHER])["other"]
    separate = reconciled({}, [MAIN, OTHER], NOW)
    reported = conflicts(separate, [named(aliases=(alias,))])["main"]
    assert f"{alias} is an alias of main in the settings and is called other in the store" in reported
    changed_places = dataclasses.replace(MAIN, iss=alias, aliases=(MAIN.iss,))
    assert set(conflicts(stood, [changed_places])) == {"main"}


FIELDS_OF_0_1 = {"iss", *LIMITS, "raises"}


def test_a_process_of_0_1_reads_what_it_wrote_and_refuses_what_it_would_misread():
    widened = LimitIncrease("leeway", 1, 2)
    for stored, sound in (
        (record(MAIN, widened), True),
        (record(MAIN, aliases=("https://a.example.com",)), False),
        (record(MAIN, claims=IdentifyingClaims(sub=("oid",))), False),
        (record(MAIN, revoked_by={"email": 1}), False),
        (record(MAIN, changing=1), False),
    ):
        written = json.loads(encode({"main": stored}))["main"]
        assert set(written) <= FIELDS_OF_0_1 or not sound
        assert (written["iss"] == MAIN.iss) == sound  # 0.1 has nothing else to compare


def test_the_same_is_written_alike():
    records = {"main": record(MAIN, LimitIncrease("leeway", 1, 2)), "other": record(OTHER)}
    assert encode(records) == encode(dict(reversed(records.items())))
    assert msgspec.json.decode(encode(records), type=dict[str, IssuerRecord]) == records


def store_of(valkey, prefix, **changes):
    """A store with one issuer."""
    issuer = dataclasses.replace(MAIN, **changes)
    return store_on(valkey, prefix, issuers=[issuer]), issuer


async def test_nothing_is_revoked_before_the_store_was_read(valkey, prefix):
    made, issuer = store_of(valkey, prefix)
    async with contextlib.aclosing(made) as closing:
        closing.aclose = made.close
        with pytest.raises(StoreRefused, match="has not been read yet"):
            await made.revocations.revoke_token(issuer, "1", None)
        await made.issuer_records.adopt()
        assert await made.revocations.revoke_token(issuer, "1", None)


async def test_two_that_start_at_once_agree(valkey, prefix):
    made = [store_of(valkey, prefix, leeway=30 + wider) for wider in (0, 10, 0, 20)]
    await asyncio.gather(*(store.issuer_records.reconcile() for store, _ in made))
    for store, _ in made:
        await store.issuer_records.reconcile()
    (_, records, _), *_ = [await store.issuer_records.look() for store, _ in made]
    assert records["main"].leeway == 50
    for store, issuer in made:
        assert store.issuer_records.widest(issuer).leeway == 50
        old = store.issuer_records.old_limits.get("main")  # none if the one with the widest came first
        assert (old.increases if old else ()) == records["main"].increases
        await store.close()


async def test_a_process_that_runs_keeps_what_it_revokes_for_the_wider_bounds_of_a_newer_one(valkey, prefix):
    old, issuer = store_of(valkey, prefix)
    await old.issuer_records.reconcile()
    assert not old.issuer_records.old_limits
    new, wider = store_of(
        valkey, prefix, leeway=90, max_token_lifetime=172_800, horizon=172_800, clock_skew=4
    )
    await new.issuer_records.reconcile()
    await old.issuer_records.reconcile()
    widest = old.issuer_records.widest(issuer)
    assert cutoff_lifetime_ms(widest) == cutoff_lifetime_ms(wider) == (172_800 + 90 + 4 + 60) * 1000
    assert jti_lifetime_ms(widest) == jti_lifetime_ms(wider)
    assert jti_expiry_ms(widest, 1000) == jti_expiry_ms(wider, 1000)
    assert old.revocations.cutoff_lifetime(issuer) == cutoff_lifetime_ms(wider)
    await old.close()
    await new.close()


async def test_what_was_lost_is_written_anew_with_the_increases(valkey, prefix):
    first, _ = store_of(valkey, prefix)
    await first.issuer_records.reconcile()
    second, _ = store_of(valkey, prefix, leeway=40)
    await second.issuer_records.reconcile()
    increases = second.issuer_records.old_limits["main"].increases
    with valkey.client() as client:
        client.delete(second.keys.settings)
    await second.issuer_records.reconcile()
    _, records, _ = await second.issuer_records.look()
    assert records["main"].increases == increases
    assert [item.old_value for item in increases] == [30]
    await first.close()
    await second.close()


async def test_what_cannot_be_read_is_no_licence(valkey, prefix):
    made, _ = store_of(valkey, prefix)
    for text in ("not JSON", '{"main": {"iss": 1}}', "[]"):
        with valkey.client() as client:
            client.set(made.keys.settings, text)
        with pytest.raises(StoreRefused):
            await made.issuer_records.reconcile()
    await made.close()


async def test_nothing_is_revoked_of_an_issuer_in_conflict(valkey, prefix):
    made, issuer = store_of(valkey, prefix)
    await made.issuer_records.reconcile()
    renamed, other = store_of(valkey, prefix, name="idp")
    await renamed.issuer_records.reconcile()
    assert set(renamed.issuer_records.conflicts) == {"idp"}
    for call in (
        renamed.revocations.revoke_token(other, "1", None),
        renamed.revocations.revoke_client(other, "web", before=None, reason=""),
        renamed.revocations.revoke_key(other, "kid", reason=""),
    ):
        with pytest.raises(StoreRefused, match="is called idp in the settings and main in the store"):
            await call
    assert await made.revocations.revoke_token(issuer, "1", None)
    await made.close()
    await renamed.close()


BY_OID = {"claim_names": ClaimNames(sub=("oid",))}


async def applied(store, issuer):
    await store.issuer_records.reconcile()
    return await status(store, issuer)


async def status(store, issuer):
    """What a revocation gets."""
    try:
        return bool(await store.revocations.revoke_client(issuer, "web", before=None, reason=""))
    except StoreRefused as error:
        return str(error)


async def test_whoever_has_other_names_than_were_accepted_revokes_nothing(valkey, prefix, monkeypatch):
    monkeypatch.setattr(issuer_records, "NOTICE_MS", 0)
    old, issuer = store_of(valkey, prefix)
    new, renamed = store_of(valkey, prefix, **BY_OID)
    assert await applied(old, issuer) is True
    assert "sub was `sub` and is `oid`" in await applied(new, renamed)
    seen = []

    async def cut_off():
        seen.append(await applied(old, issuer))

    assert await new.issuer_records.accept(renamed, cut_off) == ["sub was `sub` and is `oid`"]
    assert "are being changed" in seen[0]
    assert await applied(new, renamed) is True
    assert "sub was `oid` and is `sub`" in await applied(old, issuer)
    assert await new.issuer_records.accept(renamed, cut_off) == []
    await old.close()
    await new.close()


@pytest.fixture
async def operators(valkey, prefix, monkeypatch):
    """Two stores with their issuer, which name ``sub`` otherwise than the store has recorded."""
    monkeypatch.setattr(issuer_records, "NOTICE_MS", 0)
    first, _ = store_of(valkey, prefix)
    await first.issuer_records.reconcile()
    names = BY_OID, {"claim_names": ClaimNames(sub=("upn",))}
    made = [store_of(valkey, prefix, **other) for other in names]
    yield made
    for store in (first, *(store for store, _ in made)):
        await store.close()


async def test_two_operators_at_once_end_with_the_names_of_one(operators):
    (by_oid, with_oid), (by_upn, with_upn) = operators
    cutoffs = []

    async def accept(store, issuer):
        async def cut_off():
            cutoffs.append(await store.revocations.revoke_issuer(issuer, before=None, reason=""))

        return await store.issuer_records.accept(issuer, cut_off)

    changes = await asyncio.gather(accept(by_oid, with_oid), accept(by_upn, with_upn))
    assert all(changes)
    assert len(cutoffs) >= 2
    accepted = [await applied(by_oid, with_oid), await applied(by_upn, with_upn)]
    assert accepted.count(True) == 1


async def test_a_change_in_between_by_another_operator_is_cut_off_once_more(operators):
    (by_oid, with_oid), (by_upn, with_upn) = operators
    calls = []

    async def nothing():
        pass

    async def interrupted():
        calls.append(await status(by_oid, with_oid))
        if len(calls) == 1:
            await by_upn.issuer_records.accept(with_upn, nothing)

    changes = await by_oid.issuer_records.accept(with_oid, interrupted)
    assert changes == ["sub was `upn` and is `oid`"]
    assert calls == [True, True]
    assert await applied(by_oid, with_oid) is True


async def test_the_first_revocation_by_a_claim_stops_whoever_does_not_look_it_up(valkey, prefix, monkeypatch):
    monkeypatch.setattr(issuer_records, "NOTICE_MS", 200)
    old, issuer = store_of(valkey, prefix)
    new, wider = store_of(valkey, prefix, claim_names=ClaimNames(revocable=("email",)))
    assert await applied(new, wider) is True
    assert await applied(old, issuer) is True
    await new.issuer_records.record_claim(wider, "email")
    _, records, now = await new.issuer_records.look()
    assert records["main"].revoked_by["email"] + 200 <= now
    assert "`email` was revoked by and is not in revocable" in await applied(old, issuer)
    assert await applied(new, wider) is True
    before = await new.issuer_records.look()
    await new.issuer_records.record_claim(wider, "email")
    assert (await new.issuer_records.look())[:2] == before[:2]
    with pytest.raises(StoreRefused):
        await old.issuer_records.record_claim(issuer, "grant_id")
    await old.close()
    await new.close()


async def test_in_conflict_over_one_issuer_the_limits_of_the_others_are_still_taken_over(valkey, prefix):
    old = store_on(valkey, prefix)
    await old.issuer_records.reconcile()
    wider = store_on(valkey, prefix)
    wider.issuer_records._issuers[:] = [dataclasses.replace(OTHER, max_token_lifetime=7200, horizon=7200)]
    await wider.issuer_records.reconcile()
    with valkey.client() as client:
        records = json.loads(client.get(old.keys.settings))
        records["main"]["changing"] = 1
        client.set(old.keys.settings, json.dumps(records))
    await old.issuer_records.reconcile()
    assert set(old.issuer_records.conflicts) == {"main"}
    assert old.issuer_records.widest(OTHER).horizon == 7200
    assert len(old.issuer_records.old_limits["other"].increases) == 2
    await old.close()
    await wider.close()


async def test_after_a_loss_whoever_was_in_conflict_does_not_write_its_own_names(valkey, prefix, monkeypatch):
    monkeypatch.setattr(issuer_records, "NOTICE_MS", 0)
    old, issuer = store_of(valkey, prefix)
    new, renamed = store_of(valkey, prefix, **BY_OID)
    await old.issuer_records.reconcile()

    async def nothing():
        pass

    await new.issuer_records.accept(renamed, nothing)
    for store in (new, old):
        await store.issuer_records.reconcile()
    with valkey.client() as client:
        client.delete(old.keys.settings)
    await old.issuer_records.reconcile()
    assert "sub was `oid` and is `sub`" in old.issuer_records.conflicts["main"]
    assert await applied(new, renamed) is True
    assert "sub was `oid`" in await applied(old, issuer)
    await old.close()
    await new.close()
