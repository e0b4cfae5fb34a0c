"""``python -m bench.through_gateways``: what a question costs in each gateway, and how many are lost.

Prints two tables. Needs the gateways (``make .venv/.gateways``; nginx and HAProxy from Debian) and ``wrk``.
"""

import argparse
import asyncio
import contextlib
import random
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench.report import figure, table
from bench.rounds import Spread
from revoker.server.lifecycle import KEEPALIVE_SECONDS
from tests.rig import forge
from tests.rig.gateways import KINDS, divided, patient, started
from tests.rig.processes import REPOSITORY, Process, init_store, write_configuration
from tests.rig.servers import Valkey, free_port

_KEY = "main-1"
_QUESTION, _NO_QUESTION = "/orders", "/public/1"

_FACTOR = 30
"""By which times are divided, so that thousands of idle connections end within minutes."""

_HAPROXY_FACTOR = 1
"""HAProxy's client closes idle connections by a rule of its own, which no setting changes."""


@dataclass(frozen=True)
class Site:
    """Ports of what is behind the gateways."""

    revoker: int
    backend: int


@contextlib.asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    """Revoker with a store of its own, and a backend that answers at once and closes no connection."""
    found = Site(free_port(), free_port())
    with contextlib.ExitStack() as stack:
        store = Valkey(folder / "valkey").start()
        stack.callback(store.kill)
        for name in ("revoker", "backend"):
            (folder / name).mkdir()
        settings = {"port": found.revoker, "drain_seconds": 0}
        configuration = write_configuration(folder / "revoker", store.url, server=settings)
        init_store(folder / "revoker", configuration)
        serve = ("-m", "revoker", "serve", "--config", configuration)
        stack.enter_context(Process(folder / "revoker", *serve)).url()
        program = REPOSITORY / "tests" / "gateways" / "backend_process.py"
        stack.enter_context(Process(folder / "backend", program, found.backend))
        yield found


async def until_asked(http: aiohttp.ClientSession, url: str, token: str) -> None:
    """Return once the gateway has found Revoker and the backend."""
    headers = {"Authorization": f"Bearer {token}"}
    async with asyncio.timeout(60):
        while True:
            async with http.get(url + _QUESTION, headers=headers) as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.05)


def wrk_rate(url: str, token: str, connections: int, seconds: int) -> float:
    """Requests a second.

    Raises:
        RuntimeError: one of the answers was not 2xx.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-H", f"Authorization: Bearer {token}", url]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        raise RuntimeError(f"{url}: {output}")
    found = re.search(r"Requests/sec:\s+([\d.]+)", output)
    assert found is not None, output
    return float(found[1])


async def costs(folder: Path, names: Sequence[str], *, rounds: int, seconds: int, connections: int) -> str:
    """Requests with a question, and without one, in interleaved runs."""
    token = forge.token(forge.rsa_key(_KEY), lifetime=3600)
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    async with contextlib.AsyncExitStack() as stack:
        behind = await stack.enter_async_context(site(folder))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        urls = {}
        for name in names:
            gateway = started(
                KINDS[name],
                folder / name,
                http,
                forge.rsa_key(_KEY),
                revoker=behind.revoker,
                backend=behind.backend,
                changed=patient,
            )
            urls[name] = await stack.enter_async_context(gateway)
            await until_asked(http, urls[name], token)
            wrk_rate(urls[name] + _QUESTION, token, connections, 1)
        for number in range(1, rounds + 1):
            for name, url in urls.items():
                alone, asking = (
                    wrk_rate(url + path, token, connections, seconds) for path in (_NO_QUESTION, _QUESTION)
                )
                samples[name].append((alone, asking))
                print(f"round {number}  {name:10} {alone:9,.0f}/s alone {asking:9,.0f}/s asking", flush=True)
    rows = [
        (
            name,
            figure(Spread.of([alone for alone, _ in pairs]), "{:,.0f}"),
            figure(Spread.of([asking for _, asking in pairs]), "{:,.0f}"),
            figure(Spread.of([asking / alone for alone, asking in pairs]), "{:.2f}"),
        )
        for name, pairs in samples.items()
    ]
    return table(("gateway", "requests/s without a question", "with forward-auth", "ratio"), rows)


class IdleCloser:
    """Forwards connections, and closes those that are idle for as long as Revoker would wait, divided."""

    def __init__(self, target: int, idle: float) -> None:
        self._target = target
        self._idle = idle
        self.closed = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ahead_reader, ahead_writer = await asyncio.open_connection("127.0.0.1", self._target)
        last = time.monotonic()

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            nonlocal last
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    last = time.monotonic()
                    sink.write(data)
            sink.close()

        async def watch() -> None:
            while (left := last + self._idle - time.monotonic()) > 0:  # noqa: ASYNC110  # time is waited for
                await asyncio.sleep(left)
            if not writer.is_closing():
                self.closed += 1
            writer.close()
            ahead_writer.close()

        watching = asyncio.create_task(watch())
        with contextlib.suppress(asyncio.CancelledError):  # at the end, where connections are still open
            await asyncio.gather(pump(reader, ahead_writer), pump(ahead_reader, writer))
        watching.cancel()


async def lost(
    folder: Path, behind: Site, name: str, *, requests: int, changed: Callable[[str], str] = str
) -> tuple[Counter[int], int, int]:
    """How many requests were not answered with 200, how many there were, and what Revoker closed first."""
    kind = KINDS[name.partition(" ")[0]]
    factor, bursts = (_HAPROXY_FACTOR, 5) if kind.name == "haproxy" else (_FACTOR, 40)
    idle = KEEPALIVE_SECONDS / factor
    relay = IdleCloser(behind.revoker, idle)
    token = forge.token(forge.rsa_key(_KEY), lifetime=3600)
    headers = {"Authorization": f"Bearer {token}"}
    failed: Counter[int] = Counter()

    def shorter(text: str) -> str:
        return patient(divided(kind, changed(text), factor))

    async with contextlib.AsyncExitStack() as stack:
        server = await asyncio.start_server(relay.serve, "127.0.0.1", 0, backlog=1024)
        stack.callback(server.close)
        port = server.sockets[0].getsockname()[1]
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        gateway = started(
            kind,
            folder / name,
            http,
            forge.rsa_key(_KEY),
            revoker=port,
            backend=behind.backend,
            changed=shorter,
        )
        url = await stack.enter_async_context(gateway)
        await until_asked(http, url, token)

        async def ask() -> int:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(url + _QUESTION, headers=headers) as response:
                    return response.status
            return 0

        for _ in range(bursts):
            statuses = await asyncio.gather(*(ask() for _ in range(requests // bursts)))
            failed.update(status for status in statuses if status != 200)
            await asyncio.sleep(idle * random.uniform(0.93, 1.0))  # since its answer is older than this
    return failed, requests // bursts * bursts, relay.closed


def without_idle_time(text: str) -> str:
    """Envoy's default: an hour."""
    return text.replace("common_http_protocol_options: {idle_timeout: 60s}", "")


async def losses(folder: Path, names: Sequence[str], *, requests: int) -> str:
    """One gateway after the other: what delays this process would look like a loss."""
    subjects: list[tuple[str, Callable[[str], str]]] = [(name, str) for name in names]
    if "envoy" in names:
        subjects.append(("envoy without idle_timeout", without_idle_time))
    async with site(folder) as behind:
        found = []
        for name, changed in subjects:
            found.append(await lost(folder, behind, name, requests=requests, changed=changed))
            print(name, *found[-1], flush=True)
    rows = [
        (name, f"{failed.total()} of {asked:,}", ", ".join(map(str, failed)) or "none", str(closed))
        for (name, _), (failed, asked, closed) in zip(subjects, found, strict=True)
    ]
    return table(
        ("gateway", "not answered with 200", "their statuses", "connections that Revoker closed first"), rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.through_gateways", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--seconds", type=int, default=3, help="duration of a run (default 3)")
    parser.add_argument("--connections", type=int, default=32, help="of the load (default 32)")
    parser.add_argument("--requests", type=int, default=2000, help="that may be lost (default 2000)")
    parser.add_argument("--parts", default="cost,loss", help="one or both (default cost,loss)")
    parser.add_argument("--gateways", default=",".join(KINDS), help="some of them (default all)")
    options = parser.parse_args()
    names = options.gateways.split(",")
    for part in options.parts.split(","):
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            if part == "cost":
                measured = costs(
                    Path(folder),
                    names,
                    rounds=options.rounds,
                    seconds=options.seconds,
                    connections=options.connections,
                )
            else:
                measured = losses(Path(folder), names, requests=options.requests)
            print(f"\n{asyncio.run(measured)}\n", flush=True)


if __name__ == "__main__":
    main()
