"""An edge that follows a scripted upstream."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from revoker.auth import digest
from revoker.store.mirror.follower import Sleep
from tests.rig import forge
from tests.rig.edge import MovedClock, begin, edge_settings
from tests.rig.service import HANGS_S, SECRETS, Running, until_ready
from tests.rig.upstream import SECRET, Upstream, upstream


@pytest.fixture
async def feed() -> AsyncIterator[Upstream]:
    async with upstream() as opened:
        yield opened


@pytest.fixture
async def another_feed() -> AsyncIterator[Upstream]:
    async with upstream() as opened:
        yield opened


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
async def start_edge(tmp_path: Path, clock: MovedClock) -> AsyncIterator[Callable[..., Any]]:
    """Starts edges, and waits until they are ready, unless ``ready`` is False."""
    running: list[Running] = []

    async def start_one(
        *feeds: Upstream, ready: bool = True, sleep: Sleep = asyncio.sleep, **changes: Any
    ) -> Running:
        settings = edge_settings(tmp_path, *(one.url for one in feeds), **changes)
        running.append(await begin(settings, monotonic=clock, sleep=sleep))
        if ready:
            await until_ready(running[-1])
        return running[-1]

    yield start_one
    for one in running:
        await one.close()


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + HANGS_S
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


def claims(**changes: Any) -> dict[str, Any]:
    """Of a token that nobody has revoked."""
    now = int(time.time())
    made = {"iss": forge.ISSUER, "sub": "alice", "jti": uuid.uuid4().hex, "iat": now - 60, "exp": now + 600}
    return {**made, **changes}


async def is_inactive(edge: Running, token: dict[str, Any]) -> bool:
    return not await edge.active(token)


async def is_ready(edge: Running) -> bool:
    return (await edge.ask("GET", "/readyz")).status == 200


def callers() -> list[dict[str, Any]]:
    """Of a service: those of tests, and the edge."""
    return [
        {"name": name, "scopes": scopes, "secret_sha256": [digest(secret)]}
        for name, scopes, secret in (
            ("gateway", ["introspect"], SECRETS["gateway"]),
            ("admin", ["introspect", "revoke", "revoke-all"], SECRETS["admin"]),
            ("edge", ["feed", "introspect"], SECRET),
        )
    ]
