"""Sessions on a store whose data set may not be believed, or lies in the slots of a cluster."""

import uuid

import pytest

from revoker.auth import digest
from revoker.store.keys import tag_and_start
from tests.sessions.conftest import deleted, listed, log_in, sids
from tests.store.test_cluster import cluster

UNAVAILABLE = (503, "temporarily_unavailable")


@pytest.fixture
async def on_cluster(start, tmp_path, sessions_section):
    with cluster(tmp_path / "cluster") as nodes:
        running = await start(nodes, prefix=f"t{uuid.uuid4().hex[:12]}", sessions=sessions_section())
        yield running


async def test_nothing_is_changed_in_a_slot_whose_loss_of_data_nobody_has_accepted(on_cluster):
    browser, other = await log_in(on_cluster), await log_in(on_cluster, "bob")
    store = on_cluster.service.store
    tag, start = tag_and_start(browser.sid)
    key = store.keys.beside(store.keys.user(tag)).epoch
    lost = f"0123456789abcdef {start + 60_000} 0 "
    record = store.keys.session(tag, browser.sid)
    before = await store.values([record])
    await change(store, key, lost + "refused")
    assert (await browser.refresh()).error == UNAVAILABLE
    assert (await browser.elevate(acr="mfa")).error == UNAVAILABLE
    assert (await on_cluster.post("/sessions", {"sub": "alice"})).error == UNAVAILABLE
    assert (await listed(on_cluster)).error == UNAVAILABLE
    assert await store.values([record]) == before
    assert (await other.refresh()).status == 200
    await change(store, key, lost + "accepted")
    await browser.go_on()
    assert await sids(on_cluster) == [browser.sid]


async def test_a_session_in_a_slot_that_has_lost_data_gives_no_token(on_cluster):
    browser = await log_in(on_cluster)
    store = on_cluster.service.store
    tag, start = tag_and_start(browser.sid)
    key = store.keys.beside(store.keys.user(tag)).epoch
    await change(store, key, f"0123456789abcdef {start + 60_000} {start + 60_000} cutoff")
    assert not await browser.active()
    assert (await browser.refresh()).status == 400
    assert (await listed(on_cluster)).json["sessions"] == []


async def test_a_refresh_token_of_lost_data_that_nobody_has_accepted_is_not_called_inactive(
    start, own_valkey, sessions_section
):
    running = await start(own_valkey, sessions=sessions_section(), revocation={"data_loss": "refuse"})
    browser = await log_in(running)
    with own_valkey.client() as client:
        client.flushall()
    for token in (browser.access, browser.refresh_token):
        assert (await running.post("/introspect", {"token": token})).error == UNAVAILABLE


async def test_a_session_whose_record_is_lost_is_ended_for_a_caller_that_is_bound_to_a_client(
    start, valkey, sessions_section
):
    scopes = ["introspect", "sessions"]
    callers = [
        {"name": name, "secret_sha256": [digest(f"{name}-secret")], "scopes": scopes, **bound}
        for name, bound in (("admin", {}), ("gateway", {}), ("bound", {"client_id": "web"}))
    ]
    running = await start(valkey, sessions=sessions_section(), callers=callers)
    browser = await log_in(running, caller="bound")
    keys = running.service.store.keys
    with valkey.client() as client:
        assert client.delete(keys.session(tag_and_start(browser.sid)[0], browser.sid))
    assert await browser.active()
    answer = await deleted(running, browser.sid, {"Authorization": "Bearer bound-secret"})
    assert answer.status == 204
    assert not await browser.active()


async def change(store, key, value):
    lines = await store.primaries()
    for line in lines.values():
        [reply] = await line.ask([("SET", key, value)])
        if reply == b"OK":
            return
    raise AssertionError("no primary keeps the key")
