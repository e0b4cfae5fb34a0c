"""Behind a network that fails, nothing that was revoked is active at an edge beyond the bound."""

import asyncio
import contextlib
import time
from urllib.parse import urlsplit

import pytest

from tests.edge.conftest import callers, claims, until
from tests.rig import forge
from tests.rig.edge import begin, edge_settings
from tests.rig.listener import Listener
from tests.rig.service import until_ready

pytestmark = pytest.mark.timeout(240)

MAX_STALENESS_S = 2.0


class Relay:
    """Passes bytes on between an edge and its service, unless they are held back, late or cut off."""

    def __init__(self, port):
        self._port = port
        self._passes = asyncio.Event()
        self._passes.set()
        self.delay = 0.0
        self.listener = Listener(self._serve)

    async def _serve(self, reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(reader, back))
                group.create_task(self._pass_on(there, writer))
        except* (OSError, EOFError):
            pass
        finally:
            back.close()
            with contextlib.suppress(OSError):
                await back.wait_closed()

    async def _pass_on(self, reader, writer):
        while data := await reader.read(65536):
            if self.delay:
                await asyncio.sleep(self.delay)
            await self._passes.wait()
            writer.write(data)
            await writer.drain()
        raise EOFError

    async def break_as(self, fault):
        match fault:
            case "held back":
                self._passes.clear()
            case "late":
                self.delay = 1.0
            case "cut":
                await self.listener.close()

    async def repair(self):
        self.delay = 0.0
        self._passes.set()
        await self.listener.close()  # what was held back is dropped, as by a network
        await self.listener.open()


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
    await until(lambda: edge.active(token), "it answers")
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
