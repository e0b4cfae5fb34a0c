"""Tasks that begin at once, as those of Python 3.12 can (``eager_start``)."""

import asyncio
from collections.abc import Coroutine
from typing import Any


def start(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None] | None:
    """Run a coroutine until it waits, and the rest as a task; None: it did not wait.

    Until then it has the context of the caller, and no current task: it must change no context variable, and
    use nothing like ``asyncio.timeout``.
    """
    try:
        waits_for = coroutine.send(None)
    except StopIteration:
        return None
    if waits_for is not None:
        waits_for._asyncio_future_blocking = False  # noqa: SLF001  # others may wait for it before the task does
    return loop.create_task(_Rest(coroutine, waits_for))


class _Rest(Coroutine[Any, Any, None]):
    """A coroutine that has begun: it first waits for what it has asked for already."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for
        self._has_waited = False

    def send(self, value: Any) -> Any:
        if self._has_waited:
            return self._coroutine.send(value)
        self._has_waited = True
        if self._waits_for is not None:
            self._waits_for._asyncio_future_blocking = True  # noqa: SLF001  # as a future says to its task
        return self._waits_for

    def throw(self, *error: Any) -> Any:
        if not self._has_waited and self._waits_for is not None:
            self._waits_for.cancel()  # as a task does that is cancelled
        self._has_waited = True
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Any:
        raise TypeError("only a task runs it")
