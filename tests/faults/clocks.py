"""Clocks that a campaign sets while a process runs: a file has the seconds by which one is ahead."""

import functools
import time
from pathlib import Path

STORE = "FAULTS_STORE_CLOCK"
"""The environment variable with the path of the file for the store's clock, as the feed has it.

A server has no setting for its clock. So an instance of the service adds to what it reads for the feed.
"""

WALL = "FAULTS_WALL_CLOCK"
"""The same for the wall clock of an edge's machine."""


def put_ahead(path: Path, seconds: float) -> None:
    """Set a clock."""
    part = path.with_suffix(".part")
    part.write_text(repr(seconds))
    part.replace(path)


def _ahead(path: str) -> float:
    return float(Path(path).read_text())


def follow_store_clock(path: str) -> None:
    """Let the feed of this process have the store's clock by that file."""
    from revoker.store.journal import tail  # a process may have no need of it

    read = tail.redis_time_ms
    tail.redis_time_ms = lambda reply: read(reply) + int(_ahead(path) * 1000)


def follow_wall_clock(path: str) -> None:
    """Let an edge in this process have its wall clock by that file."""
    from revoker import edge  # a process may have no need of it

    edge.Edge = functools.partial(edge.Edge, clock=lambda: time.time() + _ahead(path))
