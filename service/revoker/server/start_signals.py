"""Signals that come while the service starts, before there is anything that could act on them.

SIGTERM and SIGINT end the process in order. SIGHUP is remembered, since what was read of the settings by
then may be out of date. Imported before all else: the imports alone take a good part of a second.
"""

import signal
import sys
from types import FrameType

_reload_asked = False


def hold() -> None:
    """Act so on signals until other handlers are set."""
    global _reload_asked  # noqa: PLW0603  # signals are the process's
    _reload_asked = False
    signal.signal(signal.SIGHUP, _remember)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)


def reload_was_asked() -> bool:
    """Whether SIGHUP came since :func:`hold`."""
    return _reload_asked


def _remember(_: int, __: FrameType | None) -> None:
    global _reload_asked  # noqa: PLW0603
    _reload_asked = True


def _end(_: int, __: FrameType | None) -> None:
    sys.exit(0)
