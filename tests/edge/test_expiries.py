"""An entry leaves an edge when it has left the store, and not before."""

import pytest

from revoker.store.keys import Keys
from revoker.store.mirror.copy import Copy
from revoker.store.mirror.feed_lines import decode_line
from revoker.store.mirror.mirror import Mirror
from tests.store.conftest import ISSUERS, MAIN

DAY_S = 86_400
CUT_OFF_AT_S = 1_700_000_000


def copy_with(line):
    copy = Copy(Keys("edge"), ISSUERS)
    copy.add(decode_line(line), 0)
    return copy


def sweep(copy, at_s):
    for _ in copy.remove_expired(at_s * 1000):
        pass


@pytest.mark.parametrize(
    "named",
    [
        '"kind":"user","sub":"alice"',
        '"kind":"session","sid":"s1"',
        '"kind":"client","client_id":"web"',
        '"kind":"issuer"',
    ],
)
def test_a_cutoff_stays_as_long_as_the_store_has_it(named):
    """The service may have a longer horizon than the edge."""
    expires = CUT_OFF_AT_S + 30 * DAY_S
    copy = copy_with(f'{{{named},"iss":"{MAIN.iss}","before":{CUT_OFF_AT_S},"expires":{expires}}}')
    sweep(copy, expires - 1)
    assert copy.others == 1
    sweep(copy, expires)
    assert copy.others == 0


def test_the_latest_expiry_counts():
    copy = Copy(Keys("edge"), ISSUERS)
    for days in (10, 30, 20):
        line = f'{{"kind":"issuer","iss":"{MAIN.iss}","before":{CUT_OFF_AT_S},"expires":%d}}'
        copy.add(decode_line(line % (CUT_OFF_AT_S + days * DAY_S)), 0)
    sweep(copy, CUT_OFF_AT_S + 29 * DAY_S)
    assert copy.others == 1


def test_a_cutoff_that_was_lifted_leaves_no_expiry():
    named = f'{{"kind":"issuer","iss":"{MAIN.iss}","before":{CUT_OFF_AT_S}'
    copy = copy_with(f'{named},"expires":{CUT_OFF_AT_S + 30 * DAY_S}}}')
    copy.remove(decode_line(named + "}"))
    copy.add(decode_line(named + "}"), 0)
    sweep(copy, CUT_OFF_AT_S + 10 * DAY_S)
    assert copy.others == 0


def test_a_cutoff_stays_for_the_edges_own_horizon_as_well():
    expires = CUT_OFF_AT_S + 60
    line = f'{{"kind":"issuer","iss":"{MAIN.iss}","before":{CUT_OFF_AT_S},"expires":{expires}}}'
    copy = copy_with(line)
    sweep(copy, expires)
    assert copy.others == 1


async def test_a_revoked_token_is_left_out_only_by_a_time_that_is_certain():
    """The store's clock may have been set back while the edge was without it."""
    now_s = float(CUT_OFF_AT_S)
    mirror = Mirror(Keys("edge"), ISSUERS, max_staleness=5, monotonic=lambda: now_s, wall=lambda: now_s)
    mirror.install(Copy(mirror.keys, ISSUERS), CUT_OFF_AT_S * 1000)
    mirror.sample(CUT_OFF_AT_S * 1000, now_s * 1000)
    mirror.confirm(CUT_OFF_AT_S * 1000)
    line = (
        f'{{"kind":"jti","iss":"{MAIN.iss}","jti":"%s","at":1000,"exp":{CUT_OFF_AT_S - DAY_S},"expires":%d}}'
    )
    expires = CUT_OFF_AT_S - 60
    assert mirror.fresh
    mirror.add(decode_line(line % ("expired", expires)))
    assert mirror.copy.tokens == 0
    now_s += 6
    mirror.add(decode_line(line % ("uncertain", expires)))
    assert mirror.copy.tokens == 1
    sweep(mirror.copy, expires)
    assert mirror.copy.tokens == 0
