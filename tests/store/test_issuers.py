"""What the store remembers of the issuers: bounds only widen, names don't change by themselves."""

import asyncio
import contextlib
import dataclasses

import msgspec
import pytest

from revoker.errors import StoreRefused
from revoker.models import Issuer, LimitIncrease
from revoker.rules import cutoff_lifetime_ms, jti_expiry_ms, jti_lifetime_ms
from revoker.store.issuer_records import (
    DELAY_MS,
    LIMITS,
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
    narrower = dataclasses.replace(MAIN, **{bound: before - 1})
    assert reconciled(stood, [narrower], NOW) == stood
    for later in (wider, MAIN, narrower):
        assert reconciled(raised, [later], NOW + 5000) == raised


def test_increases_add_up_until_nothing_from_before_them_can_be_active():
    first = reconciled({"main": record(MAIN)}, [dataclasses.replace(MAIN, leeway=40)], NOW)
    second = reconciled(first, [dataclasses.replace(MAIN, leeway=50)], NOW + 1000)["main"]
    assert [(each.old_value, each.until) for each in second.increases] == [
        (30, NOW + DELAY_MS),
        (40, NOW + 1000 + DELAY_MS),
    ]
    over = NOW + DELAY_MS + (86400 + 50 + 2 + 60) * 1000
    assert len(reconciled({"main": second}, [MAIN], over - 1)["main"].increases) == 2
    assert len(reconciled({"main": second}, [MAIN], over)["main"].increases) == 1


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
        assert store.issuer_records.old_limits["main"].increases == records["main"].increases
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
    assert [each.old_value for each in increases] == [30]
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
