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


def test_a_long_excepted_session_takes_room_once_and_differs_from_others():
    remembered = Acknowledged(Metrics(CollectorRegistry()), lambda _: 0, now=lambda: 0, limit_bytes=1_000_000)
    except_sids = [f"{number:05}" + "x" * 16_000 for number in range(50)]
    for at, except_sid in enumerate(except_sids * 2):
        remembered.note(Written("revoke_user", ("rv:{u}:user",), at, 10**15, except_sid=except_sid))

    entries = remembered.entries(0)
    assert [(entry.at, entry.except_sid) for entry in entries] == list(enumerate(except_sids, 50))
    assert max(len(entry.identity) for entry in entries) < 100
