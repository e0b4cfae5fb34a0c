"""What the journal costs a revocation, and how fast a revocation reaches consumers of the feed."""

import asyncio
import json
import random
import time
from dataclasses import dataclass
from typing import Any

import aiohttp

from bench.bench import Bench
from bench.material import ISSUER
from bench.report import Section, Target, figure, table
from bench.rounds import Subject, measure
from bench.servers import Server
from tests.rig.servers import Valkey

_CONNECTIONS = 16
_CONSUMERS = 20
_REVOCATIONS = 500
_APART_S = 0.02
"""At most, and by chance: changes that follow each other soon wait for a pause of the feed."""


@dataclass(frozen=True)
class _WithStore:
    """A service, and its store, whose CPU time counts as well."""

    server: Server
    store: Valkey

    def cpu_seconds(self) -> float:
        return self.server.process.cpu_seconds() + self.store.cpu_seconds()


def run(bench: Bench) -> Section:
    """Compares two services, each with a store of its own; one writes no journal."""
    workload = bench.material.revocations()
    subjects = []
    for name, module in (("without", "bench.unjournaled"), ("with", "revoker")):
        store = bench.servers.store()
        server = bench.servers.revoker(store, module=module)
        subjects.append(Subject(name, server.url, _WithStore(server, store), workload))
    results = measure(
        subjects, bench.load, rounds=bench.rounds, seconds=bench.seconds, connections=_CONNECTIONS
    )
    ratio, cpu = results.ratio("with", "without"), results.cpu_ratio("with", "without")
    late = asyncio.run(_propagation(bench, subjects[1].url))
    p50, p99 = late[len(late) // 2], late[len(late) * 99 // 100]
    rows = [
        (
            name,
            figure(results.rate(name), "{:,.0f}"),
            figure(results.p50(name), "{:.2f}", 1e-3),
            figure(results.p99(name), "{:.2f}", 1e-3),
            figure(results.cpu(name), "{:.0f}"),
        )
        for name in ("without", "with")
    ]
    text = (
        f"`POST /revoke` by {_CONNECTIONS} connections; CPU of service and store.\n\n"
        + table(("journal", "revocations/s", "p50 ms", "p99 ms", "µs CPU a revocation"), rows)
        + f"\n\nFrom the 200 to a consumer of the feed, {_CONSUMERS} consumers at one process, "
        f"{_REVOCATIONS} revocations one after the other, up to {_APART_S * 1e3:.0f} ms apart: "
        f"p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms."
    )
    targets = [
        Target(
            "revocations/s with journal ÷ without",
            "at least 0.95",
            figure(ratio, "{:.3f}"),
            ratio.median >= 0.95,
        ),
        Target(
            "CPU of a revocation with journal ÷ without",
            "at most 1.05",
            figure(cpu, "{:.3f}"),
            cpu.median <= 1.05,
        ),
        Target("from the 200 to a consumer, p50", "at most 10 ms", f"{p50 * 1e3:.1f} ms", p50 <= 0.01),
        Target("from the 200 to a consumer, p99", "at most 50 ms", f"{p99 * 1e3:.1f} ms", p99 <= 0.05),
    ]
    return Section("Journal and feed", text, targets)


async def _propagation(bench: Bench, url: str) -> list[float]:
    """How long after the 200 every revocation came to every consumer (s), in ascending order."""
    headers = {"Authorization": bench.material.authorization}
    came: list[dict[str, float]] = [{} for _ in range(_CONSUMERS)]
    all_came = asyncio.Event()

    async def follow(session: aiohttp.ClientSession, number: int, cursor: str) -> None:
        query = {"cursor": cursor, "name": f"bench-{number}"}
        async with session.get(f"{url}/feed", params=query) as stream:
            async for line in stream.content:
                if line.startswith(b'data: {"kind":"jti"'):
                    came[number][json.loads(line[6:])["jti"]] = time.perf_counter()
                    if all(len(found) == _REVOCATIONS for found in came):
                        all_came.set()

    timeout = aiohttp.ClientTimeout(total=None)
    connector = aiohttp.TCPConnector(limit=0)
    answered: dict[str, float] = {}
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session:
        cursor = await _cursor(session, url)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(follow(session, number, cursor)) for number in range(_CONSUMERS)]
            await asyncio.sleep(1)
            for number in range(_REVOCATIONS):
                body: dict[str, Any] = {"iss": ISSUER, "jti": f"late-{number}", "exp": int(time.time()) + 600}
                async with session.post(f"{url}/revoke", json=body) as answer:
                    assert answer.status == 200
                answered[body["jti"]] = time.perf_counter()
                await asyncio.sleep(random.uniform(0, _APART_S))
            async with asyncio.timeout(60):
                await all_came.wait()
            for task in tasks:
                task.cancel()
    return sorted(max(0.0, at - answered[jti]) for found in came for jti, at in found.items())


async def _cursor(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(f"{url}/feed/snapshot") as snapshot:
        return str(json.loads(await snapshot.content.readline())["cursor"])
