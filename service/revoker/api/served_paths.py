"""What the table of paths says of each path: its handler, its port, and how it is reached and logged."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from revoker import errors
from revoker.api.error_responses import malformed_request, response_to
from revoker.api.prebuilt import Handler

ANY: Final = "*"
"""Every method."""


class Port(enum.Enum):
    """Where a path is served; where no ``ops_port`` is set, all are served on the main port."""

    MAIN = enum.auto()
    OPS = enum.auto()


class LoadShedding(enum.Enum):
    """Which requests of a path load shedding counts as in progress.

    A request whose body has not come yet is not counted, so that a slow sender uses up no part of the limit.
    """

    ALL = enum.auto()  # they have no body, or none that matters
    COMPLETE = enum.auto()  # those whose body came together with the head
    BY_HANDLER = enum.auto()  # the handler counts a request as soon as it has read the body


class Logged(enum.Enum):
    """Which responses leave a line in the log."""

    ALL = enum.auto()
    FAILURES = enum.auto()
    NOTHING = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedPath:
    """One path, with one method, that is served through aiohttp's router.

    Attributes:
        path: In the notation of the router, with variable parts in braces.
        logged: Which responses leave a line in the log.
    """

    path: str
    method: str = "POST"
    handle: Handler
    port: Port = Port.MAIN
    logged: Logged = Logged.ALL


@dataclass(frozen=True, slots=True, kw_only=True)
class FastPath(ServedPath):
    """A path that is served past aiohttp's router.

    A request with a query or with ``Expect`` goes through the router all the same, except in a subtree.

    Attributes:
        subtree: Whether everything below the path is served too, with any query; the method must be ``ANY``.
        load_shedding: Which requests are counted, so that too many are refused; None: all are admitted.
        read_only: Whether a request is cancelled once its client has gone.
        traced: Whether a request has an id in the log and in its response.
        begins_at_once: Whether a complete request needs no task until it waits for something: it changes no
            context variable before that, and uses nothing like ``asyncio.timeout``.
        seconds: Takes the duration of every request. Responses are not counted then, except failures (500).
        render_error: Makes the response to an error.
        malformed: Makes the response to bytes that name the path and are not a request.
    """

    subtree: bool = False
    load_shedding: LoadShedding | None = None
    read_only: bool = False
    traced: bool = True
    begins_at_once: bool = False
    seconds: Callable[[float], None] | None = None
    render_error: Callable[[errors.RevokerError], web.Response] = response_to
    malformed: Callable[[int], web.Response] = malformed_request

    def __post_init__(self) -> None:
        if self.subtree != (self.method == ANY):
            raise ValueError(f"{self.path}: a subtree, and nothing else, is served with any method")
        if self.begins_at_once and (self.traced or self.subtree or not self.read_only):
            raise ValueError(f"{self.path}: begins at once, and is not a plain read")

    def contains(self, target: str) -> bool:
        """Whether a request target in origin form is this path or below it."""
        return target == self.path or target.startswith((f"{self.path}/", f"{self.path}?"))
