"""``GET /revocations`` with cursors that a caller made up: none reads more than a page may read."""

import base64
import hashlib

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from revoker.store import listing
from tests.conftest import EXAMPLES
from tests.rig.administration import page, view
from tests.rig.virtual_time import Clockwork

NEWEST = 200
ENTRIES = 1_500
MOST_ENTRIES = 2 * NEWEST + listing._STEP_FOUND
PAGE_KEYS = 500
MOST_KEYS = PAGE_KEYS + listing._STEP_KEYS
INT64 = 2**63 - 1
UINT64 = 2**64 - 1


def fields_of(cursor):
    return msgspec.msgpack.decode(base64.urlsafe_b64decode(cursor + "==")[4:])


def forged(fields):
    """A cursor, as any caller can make it."""
    raw = msgspec.msgpack.encode(fields)
    return base64.urlsafe_b64encode(hashlib.blake2b(raw, digest_size=4).digest() + raw).rstrip(b"=").decode()


class Forger:
    """Sends cursors, and sees in the server's log what is read for them."""

    def __init__(self, works, valkey):
        self._works = works
        self._client = valkey.client()
        keys = works.running.service.store.keys
        with self._client.pipeline(transaction=False) as pipeline:
            for number in range(ENTRIES):
                key = f"{keys.prefix}:jti:main:t{number}"
                pipeline.xadd(keys.journal, {"k": key, "v": "1000", "x": 0, "u": ""})
                pipeline.set(key, 1000, px=10**8)
            pipeline.execute()
        self._client.config_set("slowlog-max-len", 10**5)
        self._client.config_set("slowlog-log-slower-than", 0)
        first = self.genuine(None)
        self.early, self.late = fields_of(first), fields_of(first)
        while not self.late[5]:
            self.late = fields_of(self.genuine(forged(self.late)))
        self.last = self.early[2]

    def genuine(self, cursor):
        return self._works.run(page(self._works.running, cursor))["next"]

    def send(self, fields):
        """The status, and the ``COUNT`` of all commands, of entries and of keys."""
        self._client.slowlog_reset()
        answer = self._works.run(view(self._works.running, "/revocations", cursor=forged(fields)))
        commands = [entry["command"].split() for entry in self._client.slowlog_get(10**5)]
        counts = {
            name: [int(command[-1]) for command in commands if command[0].upper() == name]
            for name in (b"XREVRANGE", b"SCAN")
        }
        return answer.status, counts[b"XREVRANGE"], counts[b"SCAN"]

    def close(self):
        self._client.close()
        self._works.close()


@pytest.fixture
def forger(own_valkey, tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "NEWEST_FIRST", NEWEST)
    monkeypatch.setattr(listing, "PAGE_KEYS", PAGE_KEYS)
    made = Forger(Clockwork(own_valkey, tmp_path), own_valkey)
    yield made
    made.close()


around = st.sampled_from(
    [-1, 0, 1, 9, NEWEST - 1, NEWEST, NEWEST + 1, 1_999, 2_000, 2_001, 10**9, INT64, INT64 + 1, UINT64]
)
numbers = st.one_of(around, st.integers(0, UINT64))
entry_ids = st.one_of(
    st.tuples(st.sampled_from(["top", "middle"]), st.sampled_from([-1, 0, 1])),
    st.tuples(numbers, numbers),
)
changes = st.fixed_dictionaries(
    {},
    optional={
        2: entry_ids,
        3: entry_ids,
        4: numbers,
        5: st.booleans(),
        6: numbers,
        7: numbers,
        8: numbers,
        9: numbers,
        10: st.sampled_from([b"", b"\x00" * 8, b"\xff" * 8, b"\xff" * 9, "text"]),
    },
)


@settings(max_examples=max(60, EXAMPLES), suppress_health_check=list(HealthCheck))
@given(late=st.booleans(), changed=changes)
@example(late=True, changed={8: 10**9})
@example(late=True, changed={8: 2_001})
@example(late=True, changed={3: (0, 1)})
@example(late=True, changed={3: (0, 1), 4: NEWEST})
@example(late=True, changed={3: (0, 1), 4: INT64})
@example(late=False, changed={3: (0, 1), 4: NEWEST - 1})
@example(late=False, changed={4: UINT64})
@example(late=False, changed={2: (INT64, INT64), 3: (0, 1)})
@example(late=False, changed={2: (1, 0), 3: (0, 1), 4: NEWEST - 1})  # nothing is left from there on
@example(late=True, changed={2: (1, 0), 3: (0, 1), 4: NEWEST})
@example(late=False, changed={2: (1, 0), 3: (0, 0), 4: 0})
@example(late=False, changed={2: (1, 0), 3: (0, 0), 4: NEWEST - 1})
@example(late=False, changed={2: (0, 0), 3: (0, 0), 4: 1})
@example(late=True, changed={2: (0, 0), 3: (0, 0), 4: 1})
def test_no_cursor_reads_more_than_a_page_may(forger, late, changed):
    fields = list(forger.late if late else forger.early)
    for at, value in changed.items():
        fields[at] = value
        if at in {2, 3} and isinstance(value[0], str):
            ms, number = forger.last if value[0] == "top" else forger.early[3]
            fields[at] = (ms, max(0, number + value[1]))
    status, entries, keys = forger.send(fields)
    assert status in {200, 400}
    assert max(entries, default=0) <= listing._STEP_ENTRIES
    assert sum(entries) <= MOST_ENTRIES
    assert max(keys, default=0) <= listing._STEP_KEYS
    assert sum(keys) <= MOST_KEYS


@pytest.mark.parametrize(
    "changed",
    [
        {8: 2_001},
        {8: -1},
        {4: NEWEST + 1},
        {4: -1},
        {2: (INT64, 0)},
        {2: (INT64, 0), 3: (0, 1)},
        {3: (0, 1)},  # far below what its number of entries reaches
        {3: (INT64, 0)},
        {6: 1},
        {10: b"\xff" * 9},
    ],
)
def test_what_no_page_ends_with_is_refused(forger, changed):
    fields = list(forger.late)
    assert forger.send(fields)[0] == 200
    for at, value in changed.items():
        fields[at] = value
    assert forger.send(fields)[0] == 400
