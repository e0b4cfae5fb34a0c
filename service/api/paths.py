"""Paths on which verdicts are asked for: by every gateway, all the time, and without changing anything."""

from typing import Final

INTROSPECT: Final = "/introspect"
BATCH: Final = "/introspect/batch"
FORWARD_AUTH: Final = "/forward-auth"

_BELOW: Final = (f"{FORWARD_AUTH}/", f"{FORWARD_AUTH}?")


def is_forward_auth(raw_path: str) -> bool:
    """Whether a request's path is ``/forward-auth`` or below it, whatever the query."""
    return raw_path == FORWARD_AUTH or raw_path.startswith(_BELOW)


def asks_for_verdicts(raw_path: str) -> bool:
    """Whether a request's path is one of these."""
    return raw_path in {INTROSPECT, BATCH} or is_forward_auth(raw_path)
