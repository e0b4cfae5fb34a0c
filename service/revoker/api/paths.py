"""Paths on which verdicts are asked for: by every gateway, all the time, and without changing anything."""

import re
from typing import Final

INTROSPECT: Final = "/introspect"
BATCH: Final = "/introspect/batch"
FORWARD_AUTH: Final = "/forward-auth"

_BELOW: Final = (f"{FORWARD_AUTH}/", f"{FORWARD_AUTH}?")


_AUTHORITY: Final = re.compile(r"(?i)https?://[^/?#]*").match


def is_forward_auth(raw_path: str) -> bool:
    """Whether a request's path is ``/forward-auth`` or below it, whatever the query.

    Args:
        raw_path: The request target: a path, or a whole URL (RFC 9112 §3.2.2).
    """
    if not raw_path.startswith("/") and (authority := _AUTHORITY(raw_path)):
        raw_path = raw_path[authority.end() :]
    return raw_path == FORWARD_AUTH or raw_path.startswith(_BELOW)


def asks_for_verdicts(raw_path: str) -> bool:
    """Whether a request's path is one of these."""
    return raw_path in {INTROSPECT, BATCH} or is_forward_auth(raw_path)
