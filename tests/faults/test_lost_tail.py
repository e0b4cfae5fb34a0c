"""A server comes back without the last moments: who had not read them waits for who acknowledged them."""

import contextlib
import os
import types

import pytest

from revoker.store import instances, store
from revoker.store.consistency import data_set
from tests.faults import append_only
from tests.faults.test_repair import seen_by_both
from tests.rig.network import Network
from tests.rig.probes import epoch_in, eventually, issued, revoke
from tests.rig.service import PATIENT_S

PATIENT = {"repair_seconds": 60}
"""Longer than any of them needs on a busy machine; an event says whether somebody was given up."""

GIVEN_UP = "server_not_checked_by_all"


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Requests that wait for another process are answered. One that stands still has not ended."""
    monkeypatch.setattr(data_set, "SETTLE_WAIT_S", 0.1)
    monkeypatch.setattr(instances, "RUNNING_MS", 60_000)


@pytest.fixture
def leaves_patiently(monkeypatch):
    """A process that ends says so, however slow the store is."""
    monkeypatch.setattr(store, "_LEAVE_S", PATIENT_S)


@pytest.fixture
def ways(own_valkey):
    """Two ways to one server, ``a`` and ``b``, each of which can be held."""
    with Network() as network:
        yield Ways(network, own_valkey)


class Ways:
    def __init__(self, network, server):
        self._network = network
        network.assign_process(os.getpid(), "instances")
        self.urls = {
            name: types.SimpleNamespace(url=f"redis://127.0.0.1:{network.relay(server.port, party=name)}/0")
            for name in "ab"
        }

    def hold(self, name):
        self._network.between("*", name, "hold")

    def release(self, name):
        self._network.between("*", name, "pass")


async def two(start, ways, **revocation):
    first = await start(ways.urls["a"], revocation=revocation)
    prefix = first.service.store.keys.epoch.split(":")[0]
    second = await start(ways.urls["b"], prefix=prefix, new=False, revocation=revocation)
    await seen_by_both(first, second)
    return first, second


async def revoked(revoker):
    claims = issued()

    async def stored():
        return (await revoke(revoker, claims)).status == 200

    await eventually(stored)
    return claims


def cut_before(valkey, claims):
    """The server ends, and its file before a revocation."""
    valkey.kill()
    file = append_only.latest_file(valkey.folder)
    append_only.cut(file, append_only.start_of(file.read_bytes(), claims["jti"].encode()))


async def asked(revoker, claims):
    return await revoker.post("/introspect", claims, caller="gateway")


async def active(revoker, claims):
    """The verdict, once there is one."""
    answers = []

    async def answered():
        answers.append(await asked(revoker, claims))
        return answers[-1].status == 200

    await eventually(answered)
    return answers[-1].json["active"]


async def test_what_another_process_acknowledged_at_last_is_not_active_before_that_has_looked(
    start, own_valkey, ways
):
    first, second = await two(start, ways, **PATIENT)
    bystander = issued()
    ways.hold("a")
    gone = await revoked(second)
    cut_before(own_valkey, gone)
    ways.hold("b")
    own_valkey.start()
    ways.release("a")

    async def looked():
        answer = await asked(first, gone)
        return answer.status == 200 or "new server" in answer.json["error_description"]

    await eventually(looked)
    for _ in range(3):
        assert (await asked(first, gone)).status == 503
    ways.release("b")
    for revoker in (first, second):
        assert not await active(revoker, gone)
        assert await active(revoker, bystander)
    assert epoch_in(own_valkey, first).finding == "repaired"


@pytest.mark.usefixtures("leaves_patiently")
async def test_a_process_that_starts_after_the_loss_waits_for_those_that_run(start, own_valkey, ways):
    first, second = await two(start, ways, **PATIENT)
    prefix = first.service.store.keys.epoch.split(":")[0]
    await first.close()
    await second.service.store.instances.enter()  # it learns that this one has left
    gone = await revoked(second)
    cut_before(own_valkey, gone)
    ways.hold("b")
    own_valkey.start()
    third = await start(ways.urls["a"], prefix=prefix, new=False, ready=False, revocation=PATIENT)
    for _ in range(3):
        assert (await asked(third, gone)).status == 503
    ways.release("b")
    assert not await active(third, gone)


@pytest.mark.usefixtures("leaves_patiently")
async def test_a_process_that_has_ended_is_not_waited_for(start, own_valkey, ways, events):
    first, second = await two(start, ways, **PATIENT)
    gone = await revoked(second)
    await second.close()
    await first.service.store.instances.enter()
    own_valkey.kill()
    own_valkey.start()
    assert not await active(first, gone)
    assert GIVEN_UP not in {event["event"] for event in events}


async def test_a_process_that_was_killed_is_waited_for_in_vain_and_for_repair_seconds(
    start, own_valkey, ways, events
):
    first, second = await two(start, ways, repair_seconds=1)
    bystander = issued()
    ways.hold("b")  # it says nothing more, and has not left
    with contextlib.suppress(Exception):
        await second.close()
    own_valkey.kill()
    own_valkey.start()
    assert await active(first, bystander), "nothing was lost"
    [event] = [event for event in events if event["event"] == GIVEN_UP]
    assert event["missing"] == [second.service.store.instance]
