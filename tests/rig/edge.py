"""An edge in this process, on a free port of 127.0.0.1."""

import asyncio
import time
from pathlib import Path
from typing import Any

from revoker import edge
from revoker.config.edge import EdgeSettings, settle_edge
from revoker.elapsed_time import Clock
from revoker.store.mirror.follower import Sleep
from tests.rig.service import Running, serve, settings_for
from tests.rig.upstream import SECRET


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
    terms = {"url": list(urls), "secret_file": str(secret), "name": "edge-1", **(upstream or {})}
    return settle_edge({**values, "upstream": terms}, {})


async def begin(
    settings: EdgeSettings,
    *,
    clock: Clock = time.time,
    monotonic: Clock = time.monotonic,
    sleep: Sleep = asyncio.sleep,
) -> Running:
    """Start one; it need not be ready yet."""
    return await serve(edge.build(settings, clock=clock, monotonic=monotonic, sleep=sleep))  # type: ignore[arg-type]  # served likewise
