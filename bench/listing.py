"""How long a page of ``GET /revocations`` takes, and what paging costs others: ``python -m bench.listing``.

Service and client share one process, so that the client's time counts as well.
"""

import argparse
import asyncio
import resource
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from revoker import app
from tests.rig import forge
from tests.rig.administration import view
from tests.rig.servers import Valkey
from tests.rig.service import Running, serve, settings_for, until_ready

_CHUNK = 10_000
_JOURNALED = 2_000
_LIFETIME_MS = 86_400_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--revocations", type=int, default=1_000_000)
    parser.add_argument("--pages", type=int, default=1_000, help="of each list, at most")
    terms = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Valkey(Path(folder) / "valkey").start()
        try:
            asyncio.run(_measure(store, Path(folder), terms.revocations, terms.pages))
        finally:
            store.kill()


async def _measure(store: Valkey, folder: Path, revocations: int, pages: int) -> None:
    redis = {"url": store.url, "key_prefix": "rv", "timeout": 10.0}
    service = app.build(settings_for(store.url, folder, redis=redis, other={}))
    await service.store.init()
    running = await serve(service)
    try:
        await until_ready(running)
        _fill(store, revocations - _JOURNALED)
        for number in range(_JOURNALED):
            await running.post("/revoke", {"iss": forge.ISSUER, "jti": f"new{number}"})
        print(f"{revocations:,} revocations, of which the journal has {_JOURNALED:,}; ms")
        print(f"{'list':28}{'pages':>8}{'listed':>10}{'p50':>8}{'p99':>8}{'max':>8}{'CPU':>8}{'RSS MB':>8}")
        for query in (
            {},
            {"kind": "jti", "limit": 500},
            {"kind": "user"},
            {"iss": forge.ISSUER, "limit": 10},
        ):
            await _page(running, pages, query)
        alone = await _introspect(running, asyncio.create_task(asyncio.sleep(10)))
        paged = await _introspect(running, asyncio.create_task(_page(running, pages, {"limit": 100})))
        print(f"introspection p99, nobody pages: {alone:.2f} ms; while somebody pages: {paged:.2f} ms")
    finally:
        await running.close()


def _fill(store: Valkey, count: int) -> None:
    now = int(time.time() * 1000)
    with store.client() as client:
        for start in range(0, count, _CHUNK):
            with client.pipeline(transaction=False) as pipeline:
                for _ in range(min(_CHUNK, count - start)):
                    pipeline.set(f"rv:jti:main:{uuid.uuid4()}", now, px=_LIFETIME_MS)
                pipeline.execute()


async def _page(running: Running, most: int, query: dict[str, Any]) -> None:
    cursor, listed, cpu = None, 0, time.process_time()
    took: list[float] = []
    while len(took) < most:
        began = time.perf_counter()
        answer = await view(running, "/revocations", cursor=cursor, **query)
        took.append((time.perf_counter() - began) * 1000)
        listed += len(answer.json["revocations"])
        cursor = answer.json["next"]
        if cursor is None:
            break
    took.sort()
    cpu = (time.process_time() - cpu) * 1000 / len(took)
    p50, p99 = took[len(took) // 2], took[len(took) * 99 // 100]
    print(
        f"{query!s:28.28}{len(took):8}{listed:10,}{p50:8.1f}{p99:8.1f}{took[-1]:8.1f}{cpu:8.1f}{_rss_mb():8.0f}"
    )


def _rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


async def _introspect(running: Running, meanwhile: "asyncio.Task[None]") -> float:
    """The p99 (ms) of introspections one after the other, until something else is done."""
    took = []
    body = {"token": running.token()}
    while not meanwhile.done():
        began = time.perf_counter()
        await running.post("/introspect", body, caller="gateway")
        took.append((time.perf_counter() - began) * 1000)
    await meanwhile
    took.sort()
    return took[len(took) * 99 // 100]


if __name__ == "__main__":
    main()
