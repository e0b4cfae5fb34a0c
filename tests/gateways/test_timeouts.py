"""Time-outs of the gateways: for silence alone, and never longer than Revoker keeps an idle connection.

A test's copy of a configuration has all times beyond Revoker's answer divided: what would take minutes takes
seconds. Defaults that are not in a configuration can't be divided; the configurations name them for that.
"""

import asyncio
import contextlib
import re

import aiohttp
import pytest

from revoker.server.lifecycle import KEEPALIVE_SECONDS
from tests.gateways.conftest import until_asked, user_token
from tests.gateways.raw_http import answer, bearer, status_of
from tests.rig import forge
from tests.rig.gateways import CONFIGURATIONS, KINDS, divided, patient, started
from tests.rig.listener import Listener
from tests.rig.service import HANGS_S

FACTOR = 30

BEYOND_S = 90 / FACTOR
"""Longer than the total time-outs that gateways have by default or in examples: 15, 30 and 60 s."""


def quick(kind):
    """How the configuration of a gateway is shortened."""
    return lambda text: patient(divided(kind, text, FACTOR), 30)


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=HANGS_S)) as client:
        yield client


async def test_nothing_that_is_in_use_or_only_pauses_is_cut(kind, site, tmp_path, http):
    """A stream of events, an upload and a silent WebSocket outlast every total time-out."""
    ports = {"revoker": site.revoker_port, "backend": site.backend_port}
    key = forge.rsa_key("main-1")
    async with started(kind, tmp_path / "gateway", http, key, **ports, changed=quick(kind)) as url:
        await until_asked(http, url, user_token())
        headers = {"Authorization": f"Bearer {user_token()}"}
        over = asyncio.Event()
        asyncio.get_running_loop().call_later(BEYOND_S, over.set)

        async def listen(path):
            async with http.get(f"{url}{path}/events", headers=headers) as response:
                assert await response.content.readuntil(b"\n\n") == b": opened\n\n"
                opened.release()
                await over.wait()
                async with http.post(f"{site.backend}/publish", data="late"):
                    assert b"late" in await response.content.readuntil(b"\n\n")

        async def upload(path):
            async def body():
                yield b"begin"
                opened.release()
                await over.wait()
                yield b"end"

            async with http.post(url + path, data=body(), headers=headers) as response:
                assert (await response.json())["length"] == 8

        async def converse(path):
            async with http.ws_connect(url + path, headers=headers) as socket:
                opened.release()
                await over.wait()
                await socket.send_str("late")
                assert await socket.receive_str() == "late"

        opened = asyncio.Semaphore(0)
        async with asyncio.TaskGroup() as group:
            for path in ("/orders", "/public-news/1", "/public/1"):
                for use in (listen, upload, converse):
                    group.create_task(use(path))


class PatientRevoker(Listener):
    """Answers every request and closes no connection; says when the other side has."""

    def __init__(self):
        super().__init__(self._answer)
        self.closed = asyncio.Event()

    async def _answer(self, reader, writer):
        asked = False
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                asked = asked or b"/forward-auth" in head
                writer.write(answer(200, body=b"", keep_alive=True))
                await writer.drain()
        if asked:
            self.closed.set()


async def test_a_gateway_closes_idle_connections_to_revoker_before_revoker_does(kind, tmp_path, http):
    """Otherwise a question may meet a connection that Revoker is about to close, and fail."""
    async with contextlib.AsyncExitStack() as stack:
        revoker = PatientRevoker()
        await revoker.open()
        stack.push_async_callback(revoker.close)
        ports = {"revoker": revoker.port, "backend": revoker.port}
        key = forge.rsa_key("main-1")
        gateway = started(kind, tmp_path / "gateway", http, key, **ports, changed=quick(kind))
        url = await stack.enter_async_context(gateway)
        await until_asked(http, url, user_token())
        assert await status_of(url, "/public-news/1", [bearer(user_token())]) == 200
        async with asyncio.timeout(KEEPALIVE_SECONDS):  # undivided: a default of an hour is not waited for
            await revoker.closed.wait()


EXPLICIT = {
    "nginx": {
        "nginx.conf": ["keepalive_timeout 60s;", "client_body_timeout 300s;", "send_timeout 300s;"],
        "backend-headers.conf": ["proxy_send_timeout 300s;", "proxy_read_timeout 300s;"],
    },
    "envoy": {"envoy.yaml": ["stream_idle_timeout: 300s", "idle_timeout: 60s"]},
    "envoy-jwt": {"envoy-jwt.yaml": ["stream_idle_timeout: 300s", "idle_timeout: 60s"]},
    "traefik": {
        "traefik.yaml": ["{readTimeout: 0s, writeTimeout: 0s, idleTimeout: 75s}"],
        "routes.yaml": ["idleConnTimeout: 60s"],
    },
    "caddy": {"Caddyfile": ["read_body 0\n", "write 0\n", "keepalive 60s"]},
    "haproxy": {"haproxy.cfg": ["timeout client 300s", "timeout server 300s", "timeout tunnel 300s"]},
}


@pytest.mark.parametrize("name", KINDS)
def test_a_time_that_would_have_a_default_is_named(name):
    """The tests above see only what is in a configuration."""
    for file, settings in EXPLICIT[name].items():
        text = (CONFIGURATIONS / KINDS[name].folder / file).read_text()
        for setting in settings:
            assert setting in text, (file, setting)


@pytest.mark.parametrize("file", ["envoy.yaml", "envoy-jwt.yaml"])
def test_no_route_to_a_backend_has_a_total_time_out(file):
    text = (CONFIGURATIONS / "envoy" / file).read_text()
    routes = re.findall(r"route: \{cluster: backend[^}]*\}", text)
    assert len(routes) >= 4
    assert set(routes) == {"route: {cluster: backend, timeout: 0s}"}
