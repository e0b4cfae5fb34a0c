"""A revocation while a thousand requests are under way, through each gateway.

Client, gateway, Revoker and backend are processes of their own, so that the requests are really
concurrent. All time-outs are raised: a machine that runs all of them at once is slow.
"""

import asyncio
import contextlib
import resource
import time

import aiohttp
import pytest

from tests.gateways import backend_process
from tests.gateways.conftest import until_asked
from tests.rig import forge
from tests.rig.gateways import USUAL_OPEN_FILES, open_files, patient, started
from tests.rig.processes import Process, init_store, write_configuration
from tests.rig.servers import free_port
from tests.rig.service import HANGS_S, SECRETS

CLIENTS = 1000
ROUNDS = 3


@pytest.fixture
def revoker(tmp_path, own_valkey):
    """Revoker's port, with a store that was declared new."""
    folder = tmp_path / "revoker"
    folder.mkdir()
    port = free_port()
    configuration = write_configuration(
        folder,
        own_valkey.url,
        timeout=30,
        server={"port": port, "drain_seconds": 0, "max_in_progress": 10000},
    )
    init_store(folder, configuration)
    with contextlib.ExitStack() as stack:
        with open_files(USUAL_OPEN_FILES):
            serving = stack.enter_context(
                Process(folder, "-m", "revoker", "serve", "--config", configuration)
            )
        serving.url()
        yield port


@pytest.fixture
def backend_port(tmp_path):
    port = free_port()
    with Process(tmp_path, backend_process.__file__, port):
        yield port


async def test_no_request_that_starts_after_the_revocation_gets_through(
    kind, revoker, backend_port, tmp_path
):
    """A thousand clients ask at once, and again; while all are under way, their user is logged out."""
    token = forge.token(forge.rsa_key("main-1"), sub="carol", jti="carol-1")
    under_way = most = 0
    half_answered, acknowledged = asyncio.Event(), asyncio.Event()
    acknowledged_at = float("inf")
    before, after = [], []

    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        http = await stack.enter_async_context(
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=HANGS_S), connector=aiohttp.TCPConnector(limit=0)
            )
        )
        key, ports = forge.rsa_key("main-1"), {"revoker": revoker, "backend": backend_port}
        gateway = started(
            kind, tmp_path / "gateway", http, key, **ports, changed=lambda text: patient(text, 60)
        )
        url = await stack.enter_async_context(gateway)
        await until_asked(http, url, token)

        async def ask():
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            began = time.monotonic()
            async with http.get(url + "/orders", headers={"Authorization": f"Bearer {token}"}) as answer:
                await answer.read()
            under_way -= 1
            (after if began > acknowledged_at else before).append(answer.status)
            if len(before) == CLIENTS // 2:
                half_answered.set()

        async def client():
            for _ in range(ROUNDS):
                await ask()
            await acknowledged.wait()
            await ask()

        async def revoke():
            nonlocal acknowledged_at
            await half_answered.wait()
            assert under_way > CLIENTS // 2
            async with http.post(
                f"http://127.0.0.1:{revoker}/revoke-user",
                json={"sub": "carol"},
                headers={"Authorization": aiohttp.encode_basic_auth("admin", SECRETS["admin"])},
            ) as answer:
                assert answer.status == 200
            acknowledged_at = time.monotonic()
            acknowledged.set()

        await asyncio.gather(revoke(), *(client() for _ in range(CLIENTS)))
    assert most == CLIENTS
    assert {200} <= set(before) <= {200, 401}
    assert len(after) >= CLIENTS
    assert set(after) == {401}
