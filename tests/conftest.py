"""A real service on a real Valkey, for every test that asks for one."""

import contextlib
import os
import resource
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from revoker import app
from revoker.api import dry_run
from revoker.server.lifecycle import tls_context
from revoker.store import listing
from revoker.store.cluster import settling
from revoker.store.consistency import data_set
from tests.rig.servers import Valkey
from tests.rig.service import PATIENT_S, Running, Start, serve, settings_for, until_ready

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "50"))
"""Of each property. ``make fuzz`` tries more, and others in each run; ``make test`` always tries the same."""

SLOW_MACHINE = HealthCheck.too_slow
"""It judges the machine; a test that suppresses others suppresses it too."""

hypothesis_settings.register_profile(
    "fuzz",
    max_examples=EXAMPLES,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    deadline=None,
    print_blob=True,
    suppress_health_check=[SLOW_MACHINE],
)
hypothesis_settings.load_profile("fuzz")

# A busy machine would exceed these.
data_set.SETTLE_WAIT_S = PATIENT_S
settling.SETTLE_WAIT_S = PATIENT_S
listing.PAGE_S = PATIENT_S
dry_run.COUNTED_S = PATIENT_S

# Tests share a server, and the keys of others are scanned, too.
listing.PAGE_KEYS = 10_000_000
dry_run.COUNTED_KEYS = 10_000_000

# A thousand clients and the server are in one process.
_, _MOST_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (_MOST_FILES, _MOST_FILES))


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """One server for all tests that do it no harm."""
    server = Valkey(tmp_path_factory.mktemp("valkey")).start()
    yield server
    server.kill()


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A server for one test, to do with as it likes."""
    server = Valkey(tmp_path / "valkey").start()
    yield server
    server.kill()


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start services; all of them end with the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(
            valkey: Valkey,
            *,
            prefix: str | None = None,
            new: bool = True,
            clock: Callable[[], float] = time.time,
            monotonic: Callable[[], float] = time.monotonic,
            ready: bool = True,
            spans: Any = None,
            port: int = 0,
            **changes: Any,
        ) -> Running:
            redis = {
                "url": valkey.url,
                "key_prefix": prefix or f"t{uuid.uuid4().hex[:12]}",
                "timeout": PATIENT_S,
                **changes.pop("redis", {}),
            }
            settings = settings_for(valkey.url, tmp_path, redis=redis, **changes)
            service = app.Service(settings, clock=clock, monotonic=monotonic, spans=spans)
            if new:
                await service.store.init()
            running = await serve(service, tls_context(settings.server), port)
            stack.push_async_callback(running.close)
            if ready:
                await until_ready(running)
            return running

        yield begin


@pytest.fixture
async def revoker(start: Start, valkey: Valkey) -> Running:
    """A service with a key space of its own."""
    return await start(valkey)


@pytest.fixture
def events() -> Iterator[list[dict[str, Any]]]:
    """What is logged while the test runs."""
    with structlog.testing.capture_logs() as captured:
        yield captured
