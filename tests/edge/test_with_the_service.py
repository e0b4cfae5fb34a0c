"""An edge of a real service: what the service acknowledges holds at the edge, and is undone there, too."""

import functools
import json
import time

import pytest

from tests.edge.conftest import callers, claims, is_inactive, until
from tests.rig import forge
from tests.rig.edge import begin, edge_settings
from tests.rig.service import until_ready
from tests.rig.upstream import SECRET


@pytest.fixture
async def service(start, valkey):
    return await start(valkey, callers=callers())


@pytest.fixture
async def edge(service, tmp_path, clock):
    running = await begin(edge_settings(tmp_path, service.url), monotonic=clock)
    await until_ready(running)
    yield running
    await running.close()


async def test_what_is_revoked_at_the_service_is_inactive_at_the_edge(service, edge):
    iss = forge.ISSUER
    for path, body, token in [
        ("/revoke", {"jti": "j1"}, claims(jti="j1")),
        ("/revoke-user", {"sub": "bob"}, claims(sub="bob")),
        ("/revoke-session", {"sid": "s1"}, claims(sid="s1")),
        ("/revoke-client", {"client_id": "web"}, claims(client_id="web")),
        ("/block-user", {"sub": "carol"}, claims(sub="carol")),
    ]:
        assert await edge.active(token)
        answer = await service.post(path, {"iss": iss, **body})
        assert answer.status == 200, answer.body
        await until(functools.partial(is_inactive, edge, token), f"{path} arrives")
    assert (await service.post("/unblock-user", {"iss": iss, "sub": "carol"})).status == 200
    await until(lambda: edge.active(claims(sub="carol")), "the end of the block arrives")
    assert (await service.post("/revoke-key", {"iss": iss, "kid": "main-1"})).status == 200
    await until(lambda: is_inactive(edge, edge.token()), "the revoked key arrives")


async def test_a_poll_says_how_old_its_reading_is(start, valkey):
    """An edge compares the clocks by that: what is read before the request must not seem to be later."""
    began = time.monotonic()
    service = await start(valkey, callers=callers())
    headers = {"Authorization": f"Bearer {SECRET}"}
    async with service.http.get(service.url + "/feed/snapshot", headers=headers) as response:
        cursor = json.loads(await response.content.readline())["cursor"]
    path = f"{service.url}/feed?wait=0&cursor={cursor}"
    seen = 0
    while seen < 20:
        before = time.time() * 1000
        async with service.http.get(path, headers=headers) as response:
            events = await response.json()
        if not events:  # the journal has not been read yet
            continue
        seen, fresh = seen + 1, events[-1]
        assert fresh["event"] == "fresh"
        age, as_of = fresh["data"]["age"], fresh["data"]["as_of"]
        assert as_of + age >= before - 1  # the store is on this machine, and shows whole milliseconds
        assert age <= (time.monotonic() - began) * 1000 + 1


async def test_a_loss_of_data_reaches_the_edge(start, own_valkey, tmp_path):
    service = await start(own_valkey, callers=callers())
    edge = await begin(edge_settings(tmp_path, service.url, upstream={"max_staleness": 60.0}))
    try:
        await until_ready(edge)
        old = claims()
        assert await edge.active(old)
        with own_valkey.client() as client:
            client.flushall()
        await until(lambda: is_inactive(edge, old), "the loss arrives")
        await until(lambda: edge.active(claims(iat=int(time.time()))), "what is issued later is active")
        assert not await edge.active(old)
        assert edge.service.mirror.copy.loss > 0
    finally:
        await edge.close()
