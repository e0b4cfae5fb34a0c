"""Edges under churn for as long as one likes.

    python -m bench.soak --minutes 20 --edges 20 --entries 1000000

Edges follow a service with so many revoked tokens. Tokens are revoked at a steady rate, and expire after a
minute, so that as many come as go. For each revocation one edge is asked until the token is inactive there.
Prints how much memory the processes have, how long a revocation takes from its 200 to an edge, and how old
the knowledge of answers was. Ends with status 1 if memory has grown.
"""

import argparse
import asyncio
import base64
import itertools
import random
import re
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from bench.material import CALLER, ISSUER, Material
from bench.servers import Server, Servers
from bench.store_size import fill
from tests.rig.cpu import Cores

_LIFETIME_S = 60
_GROWTH = 1.05
"""By which factor memory may be larger in the last third than in the one before."""

_LONGEST_S = 30.0
"""A revocation that has not arrived by then is lost."""


@dataclass
class Interval:
    """What was seen between two looks at the memory."""

    arrivals: list[float] = field(default_factory=list)
    oldest_s: float = 0.0
    without_verdict: int = 0


@dataclass(frozen=True)
class Look:
    """Resident memory, in bytes."""

    service: int
    edges: list[int]


class Soak:
    """Revokes and asks; the attribute ``interval`` is that which has begun last."""

    def __init__(self, http: aiohttp.ClientSession, material: Material, service: Server) -> None:
        self._http = http
        self._service = service
        pair = base64.b64encode(f"{CALLER}:{material.secret}".encode()).decode()
        self._headers = {"Authorization": f"Basic {pair}"}
        self.interval = Interval()

    async def churn(self, edges: list[Server], rate: float) -> None:
        """Revoke at this rate, and follow each revocation to the edges in turn."""
        async with asyncio.TaskGroup() as group:
            for edge in itertools.cycle(edges):
                group.create_task(self._revoke(edge))
                await asyncio.sleep(random.expovariate(rate))

    async def _revoke(self, edge: Server) -> None:
        now = time.time()
        body = {"iss": ISSUER, "jti": str(uuid.uuid4()), "exp": now + _LIFETIME_S}
        claims = {**body, "sub": "alice", "iat": now - 1}
        async with self._http.post(
            f"{self._service.url}/revoke", json=body, headers=self._headers
        ) as response:
            if response.status != 200:
                self.interval.without_verdict += 1
                return
        acknowledged = time.perf_counter()
        while await self._is_active(edge, claims):
            if time.perf_counter() - acknowledged > _LONGEST_S:
                raise TimeoutError(f"{claims['jti']} is active still at {edge.url}")
            await asyncio.sleep(0.001)
        self.interval.arrivals.append(time.perf_counter() - acknowledged)

    async def _is_active(self, edge: Server, claims: Mapping[str, object]) -> bool:
        async with self._http.post(f"{edge.url}/introspect", json=claims, headers=self._headers) as response:
            age = time.time() - int(response.headers.get("Revoker-As-Of", 0)) / 1000
            if response.status != 200:
                self.interval.without_verdict += 1
                return True
            self.interval.oldest_s = max(self.interval.oldest_s, age)
            return bool((await response.json())["active"])


def _resident(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def _measure(
    options: argparse.Namespace, material: Material, service: Server, edges: list[Server]
) -> list[Look]:
    looks = []
    every_s = options.minutes * 60 / options.looks
    timeout = aiohttp.ClientTimeout(total=_LONGEST_S)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as http:
        soak = Soak(http, material, service)
        churning = asyncio.create_task(soak.churn(edges, options.rate))
        everything: list[float] = []
        try:
            for number in range(1, options.looks + 1):
                await asyncio.wait([churning], timeout=every_s)
                if churning.done():
                    await churning
                interval, soak.interval = soak.interval, Interval()
                looks.append(Look(_resident(service), [_resident(edge) for edge in edges]))
                everything += interval.arrivals
                _print(number * every_s / 60, looks[-1], interval)
        finally:
            churning.cancel()
            await asyncio.gather(churning, return_exceptions=True)
    print(
        f"{len(everything):,} revocations; from the 200 to an edge: p50 {_ms(everything, 0.5)}, "
        f"p99 {_ms(everything, 0.99)}, longest {_ms(everything, 1)}"
    )
    return looks


def _ms(values: list[float], share: float) -> str:
    return f"{_percentile(values, share) * 1000:.1f} ms" if values else "-"


def _print(minutes: float, look: Look, interval: Interval) -> None:
    mib = [resident / 2**20 for resident in look.edges]
    print(
        f"{minutes:6.1f} min  service {look.service / 2**20:6.1f} MiB  "
        f"edges {min(mib):6.1f} to {max(mib):6.1f} MiB  "
        f"revocations {len(interval.arrivals):6,}  p50 {_ms(interval.arrivals, 0.5):>9}  "
        f"p99 {_ms(interval.arrivals, 0.99):>9}  oldest answer {interval.oldest_s:5.2f} s  "
        f"503 {interval.without_verdict}",
        flush=True,
    )


def _grown(looks: list[Look]) -> list[str]:
    """What has more memory in the last third of the time than in the second."""
    third = len(looks) // 3
    before, after = looks[third : 2 * third], looks[2 * third :]
    pairs = {"the service": ([look.service for look in before], [look.service for look in after])}
    for number in range(len(looks[0].edges)):
        pairs[f"edge {number}"] = (
            [look.edges[number] for look in before],
            [look.edges[number] for look in after],
        )
    return [
        f"{name}: {statistics.median(early) / 2**20:.1f} → {statistics.median(late) / 2**20:.1f} MiB"
        for name, (early, late) in pairs.items()
        if statistics.median(late) > _GROWTH * statistics.median(early)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--edges", type=int, default=20)
    parser.add_argument("--entries", type=int, default=1_000_000, help="revoked tokens that stay")
    parser.add_argument("--rate", type=float, default=20, help="revocations a second")
    parser.add_argument("--looks", type=int, default=24, help="at the memory")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        cores = Cores.of_this_machine()
        everywhere = cores.server | cores.others
        material = Material(folder)
        servers = Servers(stack, folder, Cores(everywhere, everywhere), material)
        store = servers.store()
        service = servers.revoker(store)
        began = time.monotonic()
        asyncio.run(_revoke_first(material, service))
        fill(store, options.entries)
        edges = [servers.edge(service, name=f"edge-{number}") for number in range(options.edges)]
        print(
            f"{options.entries:,} entries; {options.edges} edges ready {time.monotonic() - began:.0f} s later"
        )
        grown = _grown(asyncio.run(_measure(options, material, service, edges)))
        print("\n".join(["memory has grown:", *grown]) if grown else "memory is flat", flush=True)
        for edge in edges:  # so that all of them drain at the same time
            edge.process.send_signal()
    return 1 if grown else 0


async def _revoke_first(material: Material, service: Server) -> None:
    """So that the others can be compared with one of the service's own."""
    pair = base64.b64encode(f"{CALLER}:{material.secret}".encode()).decode()
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Basic {pair}"}) as http,
        http.post(f"{service.url}/revoke", json={"iss": ISSUER, "jti": str(uuid.uuid4())}) as response,
    ):
        assert response.status == 200, await response.text()


if __name__ == "__main__":
    sys.exit(main())
