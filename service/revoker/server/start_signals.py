"""Signals that come while the service starts, before there is anything that could act on them.

SIGTERM and SIGINT end the process. SIGHUP is remembered, since the settings read by then may be out of date.
Imported before everything else: the imports alone take a good part of a second.
"""

import signal
import sys
from types import FrameType

_reload_requested = False


def install_handlers() -> None:
    """Handle signals so until others take over."""
    global _reload_requested  # noqa: PLW0603  # signals are the process's
    _reload_requested = False
    signal.signal(signal.SIGHUP, _remember)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)


def reload_was_requested() -> bool:
    """Whether SIGHUP has come since :func:`install_handlers`."""
    return _reload_requested


def _remember(_: int, __: FrameType | None) -> None:
    global _reload_requested  # noqa: PLW0603
    _reload_requested = True


def _end(_: int, __: FrameType | None) -> None:
    sys.exit(0)
