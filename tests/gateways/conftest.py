"""Each real gateway, with the configuration of ``deploy/gateways``, before a real backend and Revoker."""

import asyncio
import contextlib
import dataclasses
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.gateways import streaming_backend
from tests.gateways.interruptible_link import InterruptibleLink
from tests.rig import forge
from tests.rig.gateways import KINDS, Kind, patient, started
from tests.rig.processes import Process, init_store, until, write_configuration
from tests.rig.servers import Valkey, free_port
from tests.rig.service import HANGS_S, SECRETS, Running, Start


@dataclasses.dataclass
class Front:
    """A gateway that runs; ``url`` is where users go."""

    kind: Kind
    url: str
    http: aiohttp.ClientSession
    revoker: Running
    store: Valkey
    link: InterruptibleLink

    async def get(self, token: str | None = None, path: str = "/orders", **options):
        """What a user gets: status, headers, and for 200 the headers that the backend saw."""
        headers = dict(options.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        method = options.pop("method", "GET")
        async with self.http.request(method, self.url + path, headers=headers, **options) as response:
            body = await response.read()
            seen = json.loads(body) if response.status == 200 and body else {}
            return response.status, response.headers.copy(), seen


async def _backend() -> TestServer:
    async def show(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response(
            {"path": request.path_qs, "headers": [[k.lower(), v] for k, v in request.headers.items()]}
        )

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", show)
    server = TestServer(application, host="127.0.0.1")
    await server.start_server(max_field_size=65536, max_line_size=65536)
    return server


@contextlib.asynccontextmanager
async def fronted(kind: Kind, revoker: Running, store: Valkey, folder: Path) -> AsyncIterator[Front]:
    """Start the gateway with its ports and its time-outs changed, and nothing else."""
    async with contextlib.AsyncExitStack() as stack:
        backend = await _backend()
        stack.push_async_callback(backend.close)
        link = InterruptibleLink(int(revoker.url.rsplit(":", 1)[1]))
        await link.open()
        stack.push_async_callback(link.close)
        http = await stack.enter_async_context(
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=HANGS_S), connector=aiohttp.TCPConnector(limit=0)
            )
        )
        url = await stack.enter_async_context(
            started(kind, folder, http, revoker.key, revoker=link.port, backend=backend.port, changed=patient)
        )
        front = Front(kind, url, http, revoker, store, link)
        await until_asked(http, url, revoker.token())
        yield front


async def until_asked(http: aiohttp.ClientSession, url: str, token: str) -> None:
    """Health checks may take a moment to find Revoker."""
    deadline = time.monotonic() + HANGS_S
    while True:
        async with http.get(url + "/orders", headers={"Authorization": f"Bearer {token}"}) as response:
            if response.status == 200:
                return
        assert time.monotonic() < deadline, response
        await asyncio.sleep(0.05)


@dataclasses.dataclass
class Site:
    """What is behind a gateway: Revoker and a backend, each a process of its own."""

    revoker_port: int
    backend_port: int
    grpc_port: int

    @property
    def backend(self) -> str:
        """Where the backend answers without a gateway."""
        return f"http://127.0.0.1:{self.backend_port}"

    async def revoke_user(self, sub: str) -> None:
        """Log a user out everywhere."""
        url = f"http://127.0.0.1:{self.revoker_port}/revoke-user"
        headers = {"Authorization": aiohttp.encode_basic_auth("admin", SECRETS["admin"])}
        async with aiohttp.request("POST", url, json={"sub": sub}, headers=headers) as response:
            assert response.status == 200, await response.text()


def user_token(**changes: object) -> str:
    """A token of the issuer whose keys the site's Revoker and its gateways read."""
    return forge.token(forge.rsa_key("main-1"), jti=str(uuid.uuid4()), **changes)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignore what the garbage collector finds of a test's own connections, often while a later test runs.

    Attackers and gateways end connections at any moment. Whether the other end was closed, too, says nothing
    about a gateway.
    """
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One Revoker and one backend for all gateways; a test that revokes has a user of its own."""
    folder = tmp_path_factory.mktemp("site")
    site = Site(free_port(), free_port(), free_port())
    configuration = write_configuration(folder, "", server={"port": site.revoker_port, "drain_seconds": 0})
    with contextlib.ExitStack() as stack:
        store = Valkey(folder / "valkey").start()
        stack.callback(store.kill)
        configuration.write_text(configuration.read_text().replace('url = ""', f'url = "{store.url}"'))
        init_store(folder, configuration)
        (folder / "backend").mkdir()
        ports = (site.backend_port, site.grpc_port)
        stack.enter_context(Process(folder / "backend", streaming_backend.__file__, *ports))
        revoker = stack.enter_context(Process(folder, "-m", "revoker", "serve", "--config", configuration))
        revoker.url()
        for port in ports:
            until(lambda port=port: _listens(port), "the start of the backend")
        yield site


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(params=KINDS)
def kind(request) -> Kind:
    return KINDS[request.param]


@pytest.fixture
async def front(kind: Kind, start: Start, own_valkey: Valkey, tmp_path: Path):
    """One gateway before one Revoker with a store of its own."""
    revoker = await start(own_valkey)
    async with fronted(kind, revoker, own_valkey, tmp_path / "gateway") as running:
        yield running
