"""Edges: in this process on a free port of 127.0.0.1, and as a process of their own."""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from revoker import edge as edges
from revoker.auth import digest
from revoker.config.edge import EdgeSettings, settle_edge
from revoker.elapsed_time import Clock
from revoker.store.mirror.follower import Sleep
from tests.rig import forge
from tests.rig.probes import eventually
from tests.rig.processes import Process, until
from tests.rig.servers import free_port
from tests.rig.service import SECRETS, Running, serve, settings_for
from tests.rig.upstream import SECRET

CONFIGURATION = """
[server]
port = {port}
workers = {workers}
drain_seconds = 0
unix_socket = "{unix_socket}"

[upstream]
url = "{url}"
secret_file = "feed.secret"
max_staleness = {max_staleness}

[[issuers]]
name = "main"
issuer = "{issuer}"
audiences = ["{audience}"]
jwks_file = "main.jwks"

[[callers]]
name = "gateway"
secret_sha256 = ["{digest}"]
scopes = ["introspect"]
"""


MAX_STALENESS_S = 60
"""An edge of a test knows enough for so long, since the machine may stand still."""

STALE_S = MAX_STALENESS_S + 1


class MovedClock:
    """The monotonic clock of an edge, which a test can put forward by seconds."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def edge_settings(
    folder: Path, *urls: str, upstream: dict[str, Any] | None = None, **changes: Any
) -> EdgeSettings:
    """Those of :func:`tests.rig.service.settings_for`, for an edge of these upstreams."""
    secret = folder / "feed.secret"
    secret.write_text(SECRET + "\n")
    values = settings_for("redis://unused:6379", folder, **changes).model_dump(
        include={"server", "issuers", "callers"}, exclude_unset=True
    )
    terms = {
        "url": list(urls),
        "secret_file": str(secret),
        "name": "edge-1",
        "max_staleness": MAX_STALENESS_S,
        **(upstream or {}),
    }
    return settle_edge({**values, "upstream": terms}, {})


async def begin(
    settings: EdgeSettings,
    *,
    clock: Clock = time.time,
    monotonic: Clock = time.monotonic,
    sleep: Sleep = asyncio.sleep,
) -> Running:
    """Start one; it need not be ready yet."""
    return await serve(edges.Edge(settings, clock=clock, monotonic=monotonic, sleep=sleep))  # type: ignore[arg-type]  # served likewise


def write_configuration(
    folder: Path,
    url: str = "http://127.0.0.1:1",
    *,
    workers: int = 1,
    port: int = 8080,
    max_staleness: float = 5,
    more: str = "",
) -> Path:
    """A configuration file for an edge of an upstream, with the secret, and the keys of ``main``."""
    (folder / "feed.secret").write_text(SECRET)
    (folder / "main.jwks").write_text(json.dumps(forge.jwks(forge.rsa_key("main-1"))))
    text = CONFIGURATION.format(
        url=url,
        max_staleness=max_staleness,
        workers=workers,
        port=port,
        unix_socket="" if workers > 1 else "edge.sock",
        issuer=forge.ISSUER,
        audience=forge.AUDIENCE,
        digest=digest(SECRETS["gateway"]),
    )
    file = folder / "edge.toml"
    file.write_text(text + more)
    return file


@contextlib.asynccontextmanager
async def edge_process(
    folder: Path, url: str, *, workers: int = 1, max_staleness: float = 5
) -> AsyncIterator[tuple[Running, Process]]:
    """``revoker edge`` as a process that is ready; it ends with the ``with`` block.

    Args:
        folder: For its configuration and its output.
        url: Of its upstream.
        workers: How many processes answer.
        max_staleness: In seconds.
    """
    port = free_port()
    file = write_configuration(folder, url, workers=workers, port=port, max_staleness=max_staleness)
    async with aiohttp.ClientSession() as http:
        edge = Running(None, f"http://127.0.0.1:{port}", http, forge.rsa_key("main-1"), http.close)  # type: ignore[arg-type]  # it is in the process
        with Process(folder, "-m", "revoker", "edge", "--config", file.name) as process:

            async def ready() -> bool:
                assert process.process.poll() is None, process.output()
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(f"{edge.url}/readyz") as response:
                        return response.status == 200
                return False

            await eventually(ready, what="the edge is ready")
            yield edge, process


def stand_still(process: Process) -> None:
    """Stop a process by SIGSTOP, until it gets SIGCONT."""
    process.send_signal(signal.SIGSTOP)
    state = Path(f"/proc/{process.pid}/stat")
    until(lambda: state.read_text().rpartition(") ")[2].startswith("T"), "the stop of the process")
