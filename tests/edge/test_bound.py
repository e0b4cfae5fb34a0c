"""Behind a network that fails, nothing that was revoked is active at an edge beyond the bound."""

import time
from urllib.parse import urlsplit

import pytest

from tests.edge.conftest import callers, claims, until
from tests.rig import forge
from tests.rig.edge import begin, edge_settings
from tests.rig.relay import Relay
from tests.rig.service import until_ready

MAX_STALENESS_S = 2.0


@pytest.fixture
async def behind_relay(start, valkey, tmp_path):
    service = await start(valkey, callers=callers())
    relay = Relay(urlsplit(service.url).port)
    await relay.listener.open()
    url = f"http://127.0.0.1:{relay.listener.port}"
    edge = await begin(edge_settings(tmp_path, url, upstream={"max_staleness": MAX_STALENESS_S}))
    await until_ready(edge)
    yield service, relay, edge
    await edge.close()
    await relay.listener.close()


@pytest.mark.parametrize("fault", ["none", "held back", "late", "cut"])
async def test_no_revoked_token_is_active_beyond_the_bound(behind_relay, fault):
    service, relay, edge = behind_relay
    token = claims()

    async def is_active():
        answer = await edge.post("/introspect", token, caller="gateway")
        return answer.status == 200 and answer.json["active"]

    await until(is_active, "it answers")
    await relay.break_as(fault)
    answer = await service.post("/revoke", {"iss": forge.ISSUER, "jti": token["jti"]})
    acknowledged = time.monotonic()
    assert answer.status == 200
    seen = set()

    async def has_an_end():
        asked = time.monotonic()
        answer = await edge.post("/introspect", token, caller="gateway")
        state = answer.json["active"] if answer.status == 200 else "no verdict"
        seen.add(state)
        if state is True:
            assert asked < acknowledged + MAX_STALENESS_S
        return state is not True

    await until(has_an_end, "it is not active any more")
    if fault in {"held back", "cut"}:
        assert "no verdict" in seen
    await relay.repair()

    async def is_revoked():
        await has_an_end()
        return False in seen

    await until(is_revoked, "the revocation arrives")
