"""What a process keeps of its own revocations, without a store."""

from prometheus_client import CollectorRegistry

from revoker.metrics import Metrics
from revoker.store.consistency.acknowledged import Acknowledged, Written


def test_what_is_remembered_is_bounded_in_bytes_too_and_the_oldest_goes_first():
    remembered = Acknowledged(Metrics(CollectorRegistry()), lambda _: 0, now=lambda: 0, limit_bytes=1_000_000)
    for number in range(200):
        except_sid = f"{number:05}" + "x" * 16_000
        remembered.note(Written("revoke_user", ("rv:{u}:user",), number, 10**15, except_sid=except_sid))

    entries = remembered.entries(0)
    assert sum(entry.size for entry in entries) <= 1_000_000
    assert [item.at for item in entries] == list(range(200 - len(entries), 200))
    assert len(entries) > 20
